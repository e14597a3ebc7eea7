//! Probes: what a censor may send to an address to learn whether a bridge or a plain web site is behind it.
//!
//! A probe is data. It is played against an address ([`play()`]), which gives an [`Observation`]: what came back, how
//! the connection ended, and when. Two observations are compared modulo what is random ([`compare()`]): the content of
//! records that are ciphertext, and times within a tolerance. [`differences`] plays a probe against a bridge and its
//! decoy, and again where they differ, since a loaded machine is late at times and some servers do not cut the same answer
//! into the same records twice: a probe tells them apart if most of what the bridge shows is none of what the decoy shows.

pub mod catalogue;
mod compare;
pub mod hello;
mod play;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::Result;

use super::flow::End;
use super::link::Rule;
pub use compare::{Tolerance, compare};
pub use play::play;

/// How many probes are played at once; most of the time each of them waits.
const AT_ONCE: usize = 32;

/// How often a probe is played that showed a difference at first.
const TRIES: usize = 6;

/// One way to test an address.
#[derive(Clone)]
pub struct Probe {
    /// What is done, in words.
    pub name: String,
    /// How.
    pub driver: Driver,
}

impl std::fmt::Debug for Probe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Probe").field(&self.name).finish()
    }
}

/// What drives a probe.
#[derive(Clone)]
pub enum Driver {
    /// Bytes and pauses. The connection stays open afterwards until the far side ends it.
    Script(Vec<Step>),
    /// A real client, with a censor's wire between it and the address.
    Client(Client, Vec<Rule>),
}

/// A client that is given the address to dial and how long the probe lasts, and returns when it is done.
///
/// This is where the product's own client, or one changed to misbehave, is hooked in.
pub type Client = Arc<dyn Fn(SocketAddr, Duration) + Send + Sync>;

/// A step of a script.
#[derive(Clone, Debug)]
pub enum Step {
    /// All of it in one write.
    Send(Vec<u8>),
    /// So many bytes a write, with a pause after each.
    Drip(Vec<u8>, usize, Duration),
    /// Nothing for a while.
    Wait(Duration),
    /// No more will be sent; still listening.
    HalfClose,
}

impl Probe {
    /// A probe of bytes.
    #[must_use]
    pub fn script(name: impl Into<String>, steps: Vec<Step>) -> Self {
        Self { name: name.into(), driver: Driver::Script(steps) }
    }

    /// A probe by a client whose records are treated by rules.
    #[must_use]
    pub fn client(name: impl Into<String>, client: Client, rules: Vec<Rule>) -> Self {
        Self { name: name.into(), driver: Driver::Client(client, rules) }
    }
}

/// What came back from a probed address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observation {
    /// The TLS records that came.
    pub records: Vec<Seen>,
    /// What came that is not TLS.
    pub plain: Vec<u8>,
    /// How it ended; `None` if it was open when the time was up.
    pub end: Option<End>,
    /// When it ended.
    pub ended_at: Option<Duration>,
    /// When the first byte came.
    pub first_at: Option<Duration>,
    /// When the last byte came.
    pub last_at: Option<Duration>,
    /// After the far side's end in order: whether it answers more bytes with a reset. `None` where this was not tried.
    pub then_resets: Option<bool>,
}

/// A record as an observer sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Content type.
    pub kind: u8,
    /// The header's version.
    pub version: u16,
    /// The header's length field.
    pub length: usize,
    /// Whether all of it came.
    pub whole: bool,
    /// Level and description of an alert in the clear.
    pub alert: Option<(u8, u8)>,
}

impl std::fmt::Display for Observation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for seen in &self.records {
            write!(f, "{}:{}{}", seen.kind, seen.length, if seen.whole { "" } else { " (in part)" })?;
            match seen.alert {
                Some((level, description)) => write!(f, " (alert {level}/{description}) ")?,
                None => write!(f, " ")?,
            }
        }
        if !self.plain.is_empty() {
            write!(f, "{:?} ", String::from_utf8_lossy(&self.plain))?;
        }
        let times = (self.first_at, self.last_at, self.ended_at);
        write!(
            f,
            "then {:?}; first byte, last byte, end at {times:?}; resets: {:?}",
            self.end, self.then_resets
        )
    }
}

/// A probe that told the two addresses apart, and by what.
#[derive(Clone, Debug)]
pub struct Difference {
    /// The probe's name.
    pub probe: String,
    /// In how many of its tries what the bridge gave was nothing the decoy ever gave.
    pub times: usize,
    /// What differed in one of these, from the most like of the decoy's.
    pub what: Vec<String>,
    /// What the decoy gave.
    pub decoy: Observation,
    /// What the bridge gave.
    pub bridge: Observation,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{} ({} times of {TRIES}): {}", self.probe, self.times, self.what.join("; "))?;
        writeln!(f, "  decoy:  {}", self.decoy)?;
        writeln!(f, "  bridge: {}", self.bridge)
    }
}

/// Plays every probe against the bridge and against its decoy; gives those that told them apart.
///
/// # Errors
/// An address cannot be connected to at all.
pub fn differences(
    probes: &[Probe],
    bridge: SocketAddr,
    decoy: SocketAddr,
    limit: Duration,
    tolerance: Tolerance,
) -> Result<Vec<Difference>> {
    let (queue, found) = (Mutex::new(probes.iter()), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        let workers: Vec<_> = (0..AT_ONCE.min(probes.len()))
            .map(|_| {
                scope.spawn(|| -> Result<()> {
                    while let Some(probe) = next(&queue) {
                        if let Some(difference) = examine(probe, bridge, decoy, limit, tolerance)? {
                            found.lock().unwrap_or_else(PoisonError::into_inner).push(difference);
                        }
                    }
                    Ok(())
                })
            })
            .collect();
        workers
            .into_iter()
            .try_for_each(|worker| worker.join().unwrap_or_else(|_| anyhow::bail!("a player panicked")))
    })?;
    Ok(found.into_inner().unwrap_or_else(PoisonError::into_inner))
}

fn next<'a>(queue: &Mutex<std::slice::Iter<'a, Probe>>) -> Option<&'a Probe> {
    queue.lock().unwrap_or_else(PoisonError::into_inner).next()
}

fn examine(
    probe: &Probe,
    bridge: SocketAddr,
    decoy: SocketAddr,
    limit: Duration,
    tolerance: Tolerance,
) -> Result<Option<Difference>> {
    let (mut theirs, mut ours) = (Vec::new(), Vec::new());
    for number in 0..TRIES {
        // A bridge takes its time: every second try the decoy is seen over a path that does, too.
        let spaced = number % 2 == 1;
        let (direct, through) = thread::scope(|scope| {
            let direct = scope.spawn(move || play(probe, decoy, limit, spaced));
            let through = play(probe, bridge, limit, false);
            let direct = direct.join().unwrap_or_else(|_| anyhow::bail!("a player panicked"));
            anyhow::Ok((direct?, through?))
        })?;
        theirs.push(direct);
        ours.push(through);
        if theirs.len() == 1 && strange(&theirs, &ours, tolerance).is_empty() {
            return Ok(None);
        }
    }
    let tolerance = Tolerance { recut: matches!(probe.driver, Driver::Client(..)), ..tolerance };
    let strange = strange(&theirs, &ours, tolerance);
    let Some((decoy, bridge, what)) = strange.first() else { return Ok(None) };
    Ok((strange.len() * 2 > TRIES).then(|| Difference {
        probe: probe.name.clone(),
        times: strange.len(),
        what: what.clone(),
        decoy: (*decoy).clone(),
        bridge: (*bridge).clone(),
    }))
}

/// The bridge's observations that are none of the decoy's, each with the one of the decoy's it is most like, and by what it
/// differs from that.
fn strange<'a>(
    theirs: &'a [Observation],
    ours: &'a [Observation],
    tolerance: Tolerance,
) -> Vec<(&'a Observation, &'a Observation, Vec<String>)> {
    ours.iter()
        .filter_map(|bridge| {
            let compared = theirs.iter().map(|decoy| (decoy, bridge, compare(decoy, bridge, tolerance)));
            compared.min_by_key(|(_, _, what)| what.len()).filter(|(_, _, what)| !what.is_empty())
        })
        .collect()
}
