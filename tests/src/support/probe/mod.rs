//! Probes: what a censor may send to an address to learn whether a bridge or a plain web site is behind it.
//!
//! A probe is data. It is played against an address ([`play()`]), which gives an [`Observation`]: what came back, how
//! the connection ended, and when. Two observations are compared modulo what is random ([`compare()`]): the content of
//! records that are ciphertext, and times within a tolerance. [`differences`] plays each probe against the bridge and, at the
//! same time, twice against its decoy behind a plain wire, and judges twice. The wire is there because a bridge is one more program
//! on the way: on a loaded machine each waits for its turn, and without it a bridge that does nothing but pass on would be
//! the late one of three.
//!
//! - One by one: a probe that shows a difference is played again, fewer at once. A time that differs must differ by more than the tolerance, and by
//!   more than the decoy's own plays do from each other then. It tells the two apart if what the bridge shows is, all but once of six times
//!   and all but twice of twelve, nothing that the decoy shows in any of its plays.
//! - All together (`pool`): over the first plays of all probes, the bridge may not be the odd one of three more often than chance
//!   allows. This finds what shows only now and then.
//!
//! # How sure this is
//!
//! Measured on 2026-11-21 with the decoy in the bridge's place, so that there was nothing to find: 109 runs of 390 probes (nginx 29, Apache
//! 30, lighttpd 18 and 15, Caddy 17), five servers at once on two cores, which is far more load than the tests make.
//!
//! - One by one: outside Caddy 316 plays were repeated, 221 showed something strange, none more than 3 times of 6 (5 are needed). Two of
//!   Caddy's runs found a page load strange 4 times: its tasks race where many answers go out at once, and such probes are
//!   left out there.
//! - Together: of 436 verdicts the least likely by chance had a likelihood of 0.016 (it takes 2e-6); the side under test was the odd
//!   one in at most 15 of 390 probes (it takes 20 as well).
//!
//! The positive controls are tests: tells that show in a third of the connections (100 ms more, one record more, RST for FIN, an end a
//! second late) are found in 160 probes.

pub mod catalogue;
mod compare;
pub mod hello;
mod inside;
mod play;
mod pool;
pub mod web;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::Result;

use super::flow::End;
use super::link::{Link, Rule};
use super::visitor::Visitor;
pub use compare::{Feature, Tolerance, compare};
pub use play::play;
use pool::Round;

/// How many probes are played at once; most of the time each of them waits.
const AT_ONCE: usize = 32;

/// How often a probe is played that showed a difference at first, and in how many of these plays the bridge must show what the decoy never
/// does; then, if it did, up to how often, and in how many of all. Chance showed three of six at most outside Caddy and, where Caddy's
/// tasks race, five once: twice as many of the decoy's plays show more of what it does by itself, and a tell that is there is found
/// as surely.
const TRIES: [(usize, usize); 2] = [(6, 5), (12, 10)];

/// How many probes are played again at once: what they are played again for is mostly a time, and so few hardly load a machine.
const AGAIN_AT_ONCE: usize = 6;

/// Rounds begin this far from each other: where dozens begin together, whoever is served last answers tenths of a second later.
const APART: Duration = Duration::from_millis(30);

/// A time that differs counts where it differs by more than so many times what two plays of the decoy at once differ by, in the
/// median of the rounds: on a quiet machine that is a millisecond, and the tolerance decides.
const SPREADS: u32 = 3;

/// An address, asked for before each play.
pub type Address<'a> = &'a (dyn Fn() -> SocketAddr + Sync);

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
    /// The same inside TLS, which this visitor begins. What comes back is looked at in the clear.
    Inside(Visitor, Vec<Step>),
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

    /// A probe of what is said inside TLS.
    #[must_use]
    pub fn inside(name: impl Into<String>, visitor: Visitor, steps: Vec<Step>) -> Self {
        Self { name: name.into(), driver: Driver::Inside(visitor, steps) }
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
    /// What came that is not TLS, or was inside it where the probe looks there; then the only record is a `close_notify`.
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

/// What told the two addresses apart.
#[derive(Clone, Debug)]
pub struct Difference {
    /// The probe's name.
    pub probe: String,
    /// How often, in words.
    pub times: String,
    /// What differed in one of these, from the most like of the decoy's.
    pub what: Vec<String>,
    /// What the decoy gave.
    pub decoy: Observation,
    /// What the bridge gave.
    pub bridge: Observation,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{} ({}): {}", self.probe, self.times, self.what.join("; "))?;
        writeln!(f, "  decoy:  {}", self.decoy)?;
        writeln!(f, "  bridge: {}", self.bridge)
    }
}

/// Plays every probe against the bridge and against its decoy; gives what tells them apart.
///
/// # Errors
/// An address cannot be connected to at all.
pub fn differences(
    probes: &[Probe],
    bridge: Address<'_>,
    decoy: SocketAddr,
    limit: Duration,
    tolerance: Tolerance,
) -> Result<Vec<Difference>> {
    let wires = [Link::start(decoy, Duration::ZERO)?, Link::start(decoy, Duration::ZERO)?];
    let decoys = wires.each_ref().map(Link::address);
    let scene = Scene { bridge, decoys, limit, tolerance, begin: Mutex::new(()) };
    let rounds = at_once(AT_ONCE, probes, |probe| Ok((probe, scene.round(probe)?)))?;
    let again: Vec<(&Probe, &Round)> = rounds
        .iter()
        .filter(|(_, round)| !scene.strange(std::slice::from_ref(round)).is_empty())
        .map(|(probe, round)| (*probe, round))
        .collect();
    let found = at_once(AGAIN_AT_ONCE, &again, |(probe, first)| scene.examine(probe, first))?;
    let rounds: Vec<Round> = rounds.into_iter().map(|(_, round)| round).collect();
    Ok(found.into_iter().flatten().chain(pool::judge(&rounds, tolerance)).collect())
}

/// Does `work` to all of them, so many at once.
fn at_once<'a, T: Sync, U: Send>(
    width: usize,
    all: &'a [T],
    work: impl Fn(&'a T) -> Result<U> + Sync,
) -> Result<Vec<U>> {
    let (queue, done) = (Mutex::new(all.iter()), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        let workers: Vec<_> = (0..width.min(all.len()))
            .map(|_| {
                scope.spawn(|| -> Result<()> {
                    while let Some(one) = next(&queue) {
                        let outcome = work(one)?;
                        lock(&done).push(outcome);
                    }
                    Ok(())
                })
            })
            .collect();
        workers
            .into_iter()
            .try_for_each(|worker| worker.join().unwrap_or_else(|_| anyhow::bail!("a player panicked")))
    })?;
    Ok(done.into_inner().unwrap_or_else(PoisonError::into_inner))
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn next<'a, T>(queue: &Mutex<std::slice::Iter<'a, T>>) -> Option<&'a T> {
    lock(queue).next()
}

/// Whom the probes test.
struct Scene<'a> {
    bridge: Address<'a>,
    /// The decoy, behind a wire for each play of a round.
    decoys: [SocketAddr; 2],
    limit: Duration,
    tolerance: Tolerance,
    /// Held by the round that begins.
    begin: Mutex<()>,
}

impl Scene<'_> {
    /// What tells the two apart by this probe alone, if anything does: it is played again as long as that can still come out.
    fn examine(&self, probe: &Probe, first: &Round) -> Result<Option<Difference>> {
        let mut rounds = vec![first.clone()];
        for (tries, most) in TRIES {
            // More of the decoy's can only make less of the bridge's strange.
            while rounds.len() < tries && self.strange(&rounds).len() + tries - rounds.len() >= most {
                rounds.push(self.round(probe)?);
            }
            if self.strange(&rounds).len() < most {
                return Ok(None);
            }
        }
        let strange = self.strange(&rounds);
        let difference = strange.first().map(|found| Difference {
            probe: probe.name.clone(),
            times: format!("{} times of {}", strange.len(), rounds.len()),
            what: found.2.clone(),
            decoy: found.0.clone(),
            bridge: found.1.clone(),
        });
        Ok(difference)
    }

    /// All three at once: what a server does by its own clock it then does to all of them.
    fn round(&self, probe: &Probe) -> Result<Round> {
        let ([one, other], bridge) = (self.decoys, (self.bridge)());
        let [one, other, bridge] = thread::scope(|scope| {
            let begin = lock(&self.begin);
            let players =
                [one, other, bridge].map(|address| scope.spawn(move || play(probe, address, self.limit)));
            thread::sleep(APART);
            drop(begin);
            players.map(|player| player.join().unwrap_or_else(|_| anyhow::bail!("a player panicked")))
        });
        Ok(Round { probe: probe.name.clone(), decoy: [one?, other?], bridge: bridge? })
    }

    /// The bridge's observations that are none of the decoy's, each with the one of the decoy's it is most like, and by what it
    /// differs from that.
    fn strange<'r>(&self, rounds: &'r [Round]) -> Vec<(&'r Observation, &'r Observation, Vec<String>)> {
        let wide = Feature::ALL.map(|feature| (feature, self.tolerance.widened(feature, rounds)));
        let compare = |decoy: &_, bridge: &_| -> Vec<String> {
            wide.iter().flat_map(|(feature, tolerance)| feature.compare(decoy, bridge, *tolerance)).collect()
        };
        let bridges = rounds.iter().map(|round| &round.bridge);
        bridges
            .filter_map(|bridge| {
                let decoys = rounds.iter().flat_map(|round| &round.decoy);
                let compared = decoys.map(|decoy| (decoy, bridge, compare(decoy, bridge)));
                compared.min_by_key(|(_, _, what)| what.len()).filter(|(_, _, what)| !what.is_empty())
            })
            .collect()
    }
}
