//! 4. Lengths after the handshake: a server's own tickets and SETTINGS, which an imitation gets wrong.

use anyhow::Result;

use crate::capture::{Capture, Connection, Record, Way};
use crate::detector::{About, Detector, Figure, Role, Threshold, Verdict, usual_role};
use crate::load::Load;
use crate::stage::Field;
use crate::stats::{least_permutation, permutation};
use crate::transport::Kind;

const SOURCE: &str = "ban6cat6/aparecium, which tells ShadowTLS and REALITY from the site they imitate by the messages after the handshake";

/// A page's first answer in full is longer than any ticket or SETTINGS.
const ANSWER: usize = 1_000;

/// A request, its head compressed, is longer than what a browser says besides: acknowledgements, windows, pings. A record's length.
const REQUEST: usize = 50;

/// A frame without payload (RFC 9113, section 4.1), bytes: an acknowledgement of SETTINGS may go before an answer or after it.
const EMPTY_FRAME: usize = 9;

/// The protocol's name where a hello offers it (RFC 7301, section 3.1).
const H2_OFFERED: &[u8] = b"\x02h2";

/// A record's content type and tag (RFC 8446, section 5.2), bytes: they count again when a record is cut in two.
const PROTECTION: usize = 17;

/// Below this the two ways of cutting are not one server's.
const CHANCE: f64 = 1e-3;

/// Connections of the control for the cuts, by the transport and directly: what the full choice has of each at least.
const MADE_UP: [usize; 2] = [6, 12];

/// The detector.
#[derive(Debug)]
pub struct AfterHandshake;

impl Detector for AfterHandshake {
    fn about(&self) -> About {
        let ours = "set here before the first measurement";
        About {
            number: 4,
            name: "lengths after the handshake",
            source: SOURCE,
            rule: "What the server sends under protection up to the client's Finished, record by record, and what it sends from then until \
                   the client asks for more after the first long answer, as bytes of content, must be among what the decoy was seen to \
                   send to Chromium directly; an empty frame more or less counts as equal. How that is cut into records before the \
                   long answer is compared as a distribution, by a permutation test, where there are as many connections as it takes: the \
                   quick choice has too few. Of a connection whose hello does not offer h2, a websocket's, \
                   the server's first turn is looked at.",
            thresholds: vec![
                Threshold {
                    what: "the server's flight",
                    value: "flagged if not among the decoy's own".into(),
                    source: SOURCE,
                },
                Threshold {
                    what: "tickets, SETTINGS and the first answer",
                    value: "flagged if their bytes are not among the decoy's own".into(),
                    source: SOURCE,
                },
                Threshold {
                    what: "how they are cut (a permutation test over connections)",
                    value: format!(
                        "flagged below p {CHANCE}; not compared where the samples are so small that p cannot be"
                    ),
                    source: ours,
                },
            ],
            gate: true,
        }
    }

    fn examine(&self, field: &Field) -> Result<Vec<Verdict>> {
        let pages =
            || field.captures.iter().filter(|capture| matches!(capture.load, Load::Page | Load::Talk));
        let mut verdicts = vec![cuts_control()];
        for capture in pages().filter(|capture| capture.transport != Kind::Obfs4) {
            let direct = pages().find(|plain| {
                plain.transport == Kind::Plain
                    && plain.server == capture.server
                    && plain.round_trip_ms == capture.round_trip_ms
            });
            verdicts.push(match direct {
                Some(direct) => judge(capture, direct),
                None => Verdict::none(capture.title(), "the decoy was not visited directly"),
            });
        }
        Ok(verdicts)
    }
}

fn judge(capture: &Capture, direct: &Capture) -> Verdict {
    let theirs: Vec<Seen> = direct.connections.iter().filter_map(seen).collect();
    let ours: Vec<Seen> = capture.connections.iter().filter_map(seen).collect();
    let itself = capture.transport == Kind::Plain;
    let strange = |part: fn(&Seen) -> Part| {
        let differs = |(number, one): &(usize, &Seen)| {
            // A connection is not its own witness.
            !theirs
                .iter()
                .enumerate()
                .any(|(other, their)| (!itself || other != *number) && part(one).like(&part(their)))
        };
        ours.iter().enumerate().filter(differs).count()
    };
    let (flights, contents) =
        (strange(|seen| Part::Flight(seen.flight.clone())), strange(|seen| Part::Content(seen.content)));
    let cuts = |seen: &[Seen]| seen.iter().map(|one| one.after.clone()).collect::<Vec<_>>();
    let p = if itself {
        // The negative control: one half of the direct visits against the other.
        let half = |which| cuts(&theirs).into_iter().skip(which).step_by(2).collect::<Vec<_>>();
        cut_alike(&half(0), &half(1))
    } else {
        cut_alike(&cuts(&ours), &cuts(&theirs))
    };
    let figure = |name: &str, value: f64| Figure { name: name.to_owned(), value };
    let shown = |seen: &[Seen]| seen.first().map_or_else(String::new, |one| format!("{:?}", one.after));
    let compared = if p.is_some() { "" } else { "; too few to compare how they are cut" };
    let mut figures = vec![
        figure("strange flights", flights as f64),
        figure("strange contents", contents as f64),
        figure("connections", ours.len() as f64),
        figure("direct visits", theirs.len() as f64),
    ];
    figures.extend(p.map(|p| figure("p of the cuts", p)));
    Verdict {
        what: capture.title(),
        role: usual_role(capture.transport, Kind::Tunnel),
        flagged: flights + contents > 0 || p.is_some_and(|p| p < CHANCE),
        figures,
        note: format!("first: {}, direct: {}{compared}", shown(&ours), shown(&theirs)),
    }
}

/// The chance that these connections and those are cut by one server; `None` where they are so few that it could never be below
/// [`CHANCE`].
fn cut_alike(ours: &[Vec<usize>], theirs: &[Vec<usize>]) -> Option<f64> {
    let whole = |cuts: &[Vec<usize>]| cuts.iter().map(|cut| vec![cut.clone()]).collect::<Vec<_>>();
    let enough = least_permutation(ours.len(), theirs.len()) < CHANCE;
    enough.then(|| permutation(&whole(ours), &whole(theirs)))
}

/// The cuts' own positive control: two tickets in one record where the decoy mostly sends one in each, the bytes being the same.
fn cuts_control() -> Verdict {
    let [one, other] = MADE_UP;
    let apart =
        |number: usize| if number.is_multiple_of(4) { vec![274, 274 + 62] } else { vec![274, 274, 62] };
    let theirs: Vec<_> = (0..other).map(apart).collect();
    let p = cut_alike(&vec![vec![274 + 274 - PROTECTION, 62]; one], &theirs);
    Verdict {
        what: "tickets in one record, made up".into(),
        role: Role::Positive,
        flagged: p.is_some_and(|p| p < CHANCE),
        figures: p.map(|p| Figure::new("p of the cuts", p)).into_iter().collect(),
        note: String::new(),
    }
}

enum Part {
    Flight(Vec<usize>),
    Content(usize),
}

impl Part {
    fn like(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Flight(one), Self::Flight(other)) => one == other,
            (Self::Content(one), Self::Content(other)) => [0, EMPTY_FRAME].contains(&one.abs_diff(*other)),
            _ => false,
        }
    }
}

/// What a server sent until the client asked for more.
struct Seen {
    /// Lengths of protected records until the client's Finished.
    flight: Vec<usize>,
    /// Lengths of those from then on that come before the first long answer; without h2 all of the first turn's.
    after: Vec<usize>,
    /// Bytes of content from the client's Finished until it asks for more.
    content: usize,
}

/// `None` for a connection that was never used for a page or a websocket.
fn seen(connection: &Connection) -> Option<Seen> {
    let finished = connection.data(Way::Up).next()?.at;
    let flight = connection.data(Way::Down).filter(|record| record.at <= finished);
    let down: Vec<&Record> = connection.data(Way::Down).filter(|record| record.at > finished).collect();
    let h2 = connection.first.windows(H2_OFFERED.len()).any(|offer| offer == H2_OFFERED);
    let answer = if h2 { down.iter().position(|record| record.length >= ANSWER)? } else { 0 };
    let (answered, asks) = (down.get(answer)?.at, if h2 { REQUEST } else { 0 });
    let next = connection.data(Way::Up).find(|record| record.at > answered && record.length >= asks);
    let turn = |record: &&&Record| next.is_none_or(|next| record.at < next.at);
    let content = down.iter().filter(turn).map(|record| record.length.saturating_sub(PROTECTION)).sum();
    let after = if h2 { down.get(..answer)? } else { &down };
    Some(Seen {
        flight: flight.map(|record| record.length).collect(),
        after: after.iter().filter(turn).map(|record| record.length).collect(),
        content,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stage::{DIRECT, Plan};

    #[test]
    fn another_cut_is_found_where_there_are_enough_connections() {
        let [apart, joined] = [vec![274, 274, 62], vec![531, 62]];
        let some = |cut: &Vec<usize>, count: usize| vec![cut.clone(); count];
        assert_eq!(cut_alike(&some(&joined, 4), &some(&apart, 8)), None, "one in 495 is no 0.001");
        assert!(cut_alike(&some(&joined, 6), &some(&apart, 12)).unwrap() < CHANCE);
        assert!(cut_alike(&some(&apart, 6), &some(&apart, 12)).unwrap() > 0.9);
        // A server that does now this, now that.
        let both = |count: usize| [some(&joined, count), some(&apart, 2 * count)].concat();
        assert!(cut_alike(&both(3), &both(6)).unwrap() > 0.9);
        assert!(cut_alike(&some(&joined, 7), &both(5)).unwrap() > CHANCE, "a third does");
        assert!(cuts_control().holds());
    }

    #[test]
    fn the_full_choice_has_enough_for_both_controls() {
        let pages = usize::try_from(Plan::full().pages).unwrap();
        let direct = usize::try_from(DIRECT).unwrap() * pages;
        assert!(pages >= MADE_UP[0] && direct >= MADE_UP[1]);
        // The negative control divides the direct visits.
        assert!(
            least_permutation(pages, direct) < CHANCE && least_permutation(direct / 2, direct / 2) < CHANCE
        );
    }
}
