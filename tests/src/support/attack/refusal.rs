//! What is changed, dropped, doubled, swapped or injected in a tunnel, and how that is refused: by the bridge, and by the decoy alone.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::stage::{ALERT, Payload, SOON, Seen, Stage, copy, seen, until};
use super::visit::{made_up, settled, visit};
use crate::support::flow::{End, Flow, Record};
use crate::support::link::{Act, Editor, Gate, Link, Rule, Trace, Way, Which};

/// Payload that flows before the censor begins.
pub const BEFORE: u64 = 300_000;

/// By how much the same may come sooner or later: twice the time after which the wire looks for what is injected. (Measured: 4 to
/// 70 ms from there to the alert, at bridge and decoy alike, and then less than a millisecond or two to the end.)
const NEAR: Duration = Duration::from_millis(100);

/// What the censor does to one record.
#[derive(Clone)]
pub enum Deed {
    /// A rule of the wire's.
    Act(Act),
    /// A copy of an earlier record arrives before it.
    Old,
}

/// What a censor may do to a record of which he knows nothing, with names.
#[must_use]
pub fn deeds() -> Vec<(String, Deed)> {
    let flips: [(isize, u8); 12] =
        [(0, 0), (0, 5), (1, 0), (2, 1), (3, 0), (3, 6), (4, 0), (5, 3), (9, 7), (40, 0), (-16, 0), (-1, 7)];
    let garbage: Vec<u8> = (0..100u8).map(|n| n.wrapping_mul(37) ^ 0x5a).collect();
    let acts = [
        ("dropped", Act::Drop),
        ("doubled", Act::Double),
        ("swapped", Act::Swap),
        ("garbage injected", Act::InjectBefore(garbage)),
        ("a made-up record injected", Act::InjectAfter(made_up(80))),
        ("an alert injected", Act::InjectBefore(vec![21, 3, 3, 0, 2, 2, 40])),
        ("a sealed alert made up", Act::InjectBefore(made_up(19))),
        ("an empty record injected", Act::InjectBefore(vec![23, 3, 3, 0, 0])),
        ("a change of cipher spec injected", Act::InjectBefore(vec![20, 3, 3, 0, 1, 1])),
    ];
    let flips = flips
        .map(|(byte, bit)| (format!("bit {bit} of byte {byte} flipped"), Deed::Act(Act::Flip { byte, bit })));
    flips
        .into_iter()
        .chain(acts.map(|(name, act)| (name.to_owned(), Deed::Act(act))))
        .chain([("an old record again".to_owned(), Deed::Old)])
        .collect()
}

impl Deed {
    /// The rules that do it to the first record after `armed` opens.
    #[must_use]
    pub fn rules(&self, way: Way, armed: &Gate) -> Vec<Rule> {
        let once = Which::Once(armed.clone());
        match self {
            Self::Act(act) => vec![Rule::new(way, once, act.clone())],
            Self::Old => {
                let old: Arc<Mutex<Vec<u8>>> = Arc::default();
                let (keep, kept) = (Arc::clone(&old), old);
                let remember = Editor::new(move |record| {
                    *keep.lock().unwrap_or_else(PoisonError::into_inner) = record.clone();
                });
                let repeat = Editor::new(move |record| {
                    let old = kept.lock().unwrap_or_else(PoisonError::into_inner).clone();
                    record.splice(..0, old);
                });
                // In this order: at the record in question the copy is taken from the one before it.
                vec![
                    Rule::new(way, once, Act::Edit(repeat)),
                    Rule::new(way, Which::From(8), Act::Edit(remember)),
                ]
            }
        }
    }
}

/// A tunnel over a wire of its own, with data in one direction, and what is done to it once data flows; and since when.
///
/// # Errors
/// There is no tunnel, or it does not end.
pub fn run(stage: &Stage, way: Way, deed: &Deed) -> Result<(Trace, Payload, Instant)> {
    let link = Link::start(stage.bridge, stage.distance)?;
    let (armed, touched) = (Gate::new(), Arc::new(Mutex::new(None)));
    let noted = Arc::clone(&touched);
    // On a long path there may be nothing to do it to for a round trip.
    let note = Editor::new(move |_| {
        noted.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(Instant::now);
    });
    link.set_rules(
        [deed.rules(way, &armed), vec![Rule::new(way, Which::Once(armed.clone()), Act::Edit(note))]].concat(),
    );
    let tunnel = stage.tunnel_over(&link)?;
    let payload = match way {
        Way::Up => stage.upload(&tunnel)?,
        Way::Down => stage.download(&tunnel)?,
    };
    until("data in the tunnel", SOON, || copy(&payload).right > BEFORE)?;
    armed.open();
    // The bridge keeps the session, and its end of the stream with it; the client's session has no other connection.
    until("the session to end", SOON, || !tunnel.is_open())?;
    if way == Way::Down {
        until("the stream to break", SOON, || copy(&payload).broken || copy(&payload).ended)?;
    }
    let trace = settled(&link, 0)?;
    let begun = touched.lock().unwrap_or_else(PoisonError::into_inner).context("no record to do it to")?;
    Ok((trace, copy(&payload), begun))
}

/// How somebody refuses what he cannot read.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// The records from the alert on.
    pub records: Vec<(u8, usize)>,
    /// How the direction ended.
    pub end: Option<End>,
    /// From the first of it to the alert.
    pub alert_after: Option<Duration>,
    /// From there to the end.
    pub end_after: Option<Duration>,
}

impl Refusal {
    /// What `down` shows of it after `begun`.
    #[must_use]
    pub fn of(down: &Flow, begun: Instant) -> Self {
        let since = begun.saturating_duration_since(down.started());
        let is_alert = |record: &&Record| record.at >= since && (record.kind, record.length) == (23, ALERT);
        let number = down.records().iter().position(|record| is_alert(&record));
        let alert = number.and_then(|number| down.records().get(number)).map(|record| record.at);
        let Seen { records, end } = seen(down, number.unwrap_or(down.records().len()));
        Self {
            records,
            end,
            alert_after: alert.map(|at| at.saturating_sub(since)),
            end_after: alert.zip(down.end()).map(|(alert, (_, at))| at.saturating_sub(alert)),
        }
    }

    /// Whether an observer cannot tell the two apart but for how they end.
    #[must_use]
    pub fn same_words(&self, other: &Self) -> bool {
        let near = |a: Option<Duration>, b: Option<Duration>| match (a, b) {
            (Some(a), Some(b)) => a.abs_diff(b) <= NEAR,
            (a, b) => a == b,
        };
        self.records == other.records
            && near(self.alert_after, other.alert_after)
            && near(self.end_after, other.end_after)
    }

    /// Nor by how they end.
    #[must_use]
    pub fn same(&self, other: &Self) -> bool {
        self.same_words(other) && self.end == other.end
    }
}

/// What arrives without sense, alone or with much behind it: then a server closes before it has read all, which makes an RST of
/// its FIN.
#[must_use]
pub fn with_more(bytes: &[u8], more: bool) -> Vec<u8> {
    if more { [bytes, &made_up(90).repeat(500)].concat() } else { bytes.to_vec() }
}

/// How the decoy, which is reached at `target`, refuses `bytes` on a connection whose page is loaded.
///
/// # Errors
/// It cannot be reached.
pub fn refused_by(stage: &Stage, target: SocketAddr, bytes: Vec<u8>) -> Result<Refusal> {
    let visit = visit(stage, target, Vec::new())?;
    visit.trace()?;
    refused(&visit.link, bytes)
}

/// How they are refused on a tunnel in which nothing goes on.
///
/// # Errors
/// There is no tunnel.
pub fn refused_by_bridge(stage: &Stage, bytes: Vec<u8>) -> Result<Refusal> {
    let link = Link::start(stage.bridge, stage.distance)?;
    let tunnel = stage.tunnel_over(&link)?;
    settled(&link, 0)?;
    let refusal = refused(&link, bytes);
    drop(tunnel);
    refusal
}

fn refused(link: &Link, bytes: Vec<u8>) -> Result<Refusal> {
    let begun = Instant::now();
    link.inject(0, Way::Up, bytes, None);
    Ok(Refusal::of(&settled(link, 0)?.down, begun))
}

/// What makes no sense to anybody on a connection where nothing goes on, alone and with more behind it.
#[must_use]
pub fn nonsense() -> Vec<(String, Vec<u8>)> {
    let garbage: Vec<u8> = (0..100u8).map(|n| n.wrapping_mul(37) ^ 0x5a).collect();
    let nonsense = [
        ("a made-up record", made_up(80)),
        ("a made-up alert", made_up(19)),
        ("garbage", garbage),
        ("an alert in clear", vec![21, 3, 3, 0, 2, 2, 40]),
        ("an empty record", vec![23, 3, 3, 0, 0]),
    ];
    nonsense
        .iter()
        .flat_map(|(name, bytes)| [false, true].map(|more| (name, with_more(bytes, more), more)))
        .map(|(name, bytes, more)| {
            (if more { format!("{name} and more") } else { (*name).to_owned() }, bytes)
        })
        .collect()
}

/// What the decoy, which is reached at `target`, says to the same when its page is loaded and records without sense follow.
///
/// # Errors
/// It cannot be reached.
pub fn objection(stage: &Stage, target: SocketAddr, deed: &Deed) -> Result<Refusal> {
    let mut bytes = made_up(200);
    match deed {
        Deed::Act(Act::Flip { byte, bit }) if *byte < 5 && *byte >= 0 => {
            if let Some(byte) = bytes.get_mut(byte.unsigned_abs()) {
                *byte ^= 1 << bit;
            }
        }
        Deed::Act(Act::InjectBefore(first)) => bytes = [first.clone(), bytes].concat(),
        Deed::Act(_) | Deed::Old => {}
    }
    refused_by(stage, target, with_more(&bytes, true))
}
