//! 4. Lengths after the handshake: a server's own tickets and SETTINGS, which an imitation gets wrong.

use anyhow::{Context, Result};

use crate::capture::{Capture, Connection, Record, Way};
use crate::detector::{About, Detector, Figure, Threshold, Verdict, usual_role};
use crate::load::Load;
use crate::stage::Field;
use crate::stats::chi_squared;
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
                   long answer is compared as a distribution. Of a connection whose hello does not offer h2, a websocket's, \
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
                    what: "how they are cut (chi-squared)",
                    value: "flagged below p 0.001".into(),
                    source: ours,
                },
            ],
            gate: true,
        }
    }

    fn examine(&self, field: &Field) -> Result<Vec<Verdict>> {
        let pages =
            || field.captures.iter().filter(|capture| matches!(capture.load, Load::Page | Load::Talk));
        let mut verdicts = Vec::new();
        for capture in pages().filter(|capture| capture.transport != Kind::Obfs4) {
            let direct = pages().find(|plain| {
                plain.transport == Kind::Plain
                    && plain.server == capture.server
                    && plain.round_trip_ms == capture.round_trip_ms
            });
            let direct = direct.context("the decoy was not visited directly")?;
            verdicts.push(judge(capture, direct)?);
        }
        Ok(verdicts)
    }
}

fn judge(capture: &Capture, direct: &Capture) -> Result<Verdict> {
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
    // The negative control: one half of the direct visits against the other.
    let (even, odd): (Vec<_>, Vec<_>) =
        cuts(&theirs).into_iter().enumerate().partition(|(number, _)| number % 2 == 0);
    let p = if itself {
        let half = |half: Vec<(usize, Vec<usize>)>| half.into_iter().map(|(_, cut)| cut).collect::<Vec<_>>();
        chi_squared(&half(even), &half(odd))?
    } else {
        chi_squared(&cuts(&ours), &cuts(&theirs))?
    };
    let figure = |name: &str, value: f64| Figure { name: name.to_owned(), value };
    let shown = |seen: &[Seen]| seen.first().map_or_else(String::new, |one| format!("{:?}", one.after));
    Ok(Verdict {
        what: capture.title(),
        role: usual_role(capture.transport, Kind::Tunnel),
        flagged: flights + contents > 0 || p < CHANCE,
        figures: vec![
            figure("strange flights", flights as f64),
            figure("strange contents", contents as f64),
            figure("p of the cuts", p),
            figure("connections", ours.len() as f64),
            figure("direct visits", theirs.len() as f64),
        ],
        note: format!("first: {}, direct: {}", shown(&ours), shown(&theirs)),
    })
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
