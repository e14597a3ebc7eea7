//! 4. Lengths after the handshake: a server's own tickets and SETTINGS, which an imitation gets wrong.

use anyhow::{Context, Result};

use crate::capture::{Capture, Connection, Way};
use crate::detector::{About, Detector, Figure, Threshold, Verdict, usual_role};
use crate::load::Load;
use crate::stage::Field;
use crate::stats::chi_squared;
use crate::transport::Kind;

const SOURCE: &str = "ban6cat6/aparecium, which tells ShadowTLS and REALITY from the site they imitate by the messages after the handshake";

/// A page's first answer in full is longer than any ticket or SETTINGS.
const ANSWER: usize = 1_000;

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
                   the first long answer, as bytes of content, must be among what the decoy was seen to send to Chromium directly. How \
                   the latter is cut into records is compared as a distribution.",
            thresholds: vec![
                Threshold {
                    what: "the server's flight",
                    value: "flagged if not among the decoy's own".into(),
                    source: SOURCE,
                },
                Threshold {
                    what: "tickets, SETTINGS and the answer's head",
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
                .any(|(other, their)| (!itself || other != *number) && part(one) == part(their))
        };
        ours.iter().enumerate().filter(differs).count()
    };
    let (flights, contents) =
        (strange(|seen| Part::Flight(seen.flight.clone())), strange(|seen| Part::Content(seen.content())));
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

#[derive(PartialEq)]
enum Part {
    Flight(Vec<usize>),
    Content(usize),
}

/// What a server sent before its first long answer.
struct Seen {
    /// Lengths of protected records until the client's Finished.
    flight: Vec<usize>,
    /// Lengths of those from then on.
    after: Vec<usize>,
}

impl Seen {
    fn content(&self) -> usize {
        self.after.iter().map(|length| length.saturating_sub(PROTECTION)).sum()
    }
}

/// `None` for a connection that was never used for a page.
fn seen(connection: &Connection) -> Option<Seen> {
    let finished = connection.data(Way::Up).next()?.at;
    let flight = connection.data(Way::Down).filter(|record| record.at <= finished);
    let after: Vec<usize> = connection
        .data(Way::Down)
        .filter(|record| record.at > finished)
        .map(|record| record.length)
        .collect();
    let answer = after.iter().position(|length| *length >= ANSWER)?;
    let after = after.get(..answer).unwrap_or_default().to_vec();
    Some(Seen { flight: flight.map(|record| record.length).collect(), after })
}
