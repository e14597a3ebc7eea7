//! An honest knock that is held on its way until the decoy's end is due.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use qnet_proto::Ended;
use qnet_transport::client::DialError;

use super::stage::{SHORT, SOON, Stage, seen};
use super::visit::{settled, visit};
use crate::support::decoy::Server;
use crate::support::flow::Flow;
use crate::support::link::{Act, Rule, Trace, Way, Which};

/// A proof is no shorter (docs/protocol.md, section 5).
const PROOF: usize = 80;
/// What comes within this part of the idle limit before the end is beside it: an answer makes the limit begin anew.
const BESIDE: u32 = 4;

/// The number of the record with the knock among those up, and its bytes.
///
/// # Errors
/// The decoy proves itself to be a bridge, or is not there.
pub fn knock(stage: &Stage) -> Result<(usize, Vec<u8>)> {
    let visit = visit(stage, stage.decoy.address(), Vec::new())?;
    ensure!(matches!(visit.outcome, Err(DialError::Tunnel(Ended::NoProof))), "{}", visit.why());
    let up = settled(&visit.link, 0)?.up;
    let last = up.records().last().context("no records")?;
    Ok((up.records().len() - 1, up.record_bytes(last).to_vec()))
}

/// When the decoy ends a connection whose knock, record `number`, never comes, since it was due; its idle limit is `idle`.
///
/// # Errors
/// It ends it much later, or with something else than closing records.
pub fn closing(stage: &Stage, number: usize, idle: Duration) -> Result<Duration> {
    let gone = Rule::new(Way::Up, Which::Nth(number), Act::Delay(SOON));
    let idled = visit(stage, stage.bridge, vec![gone])?.trace()?;
    let knocked = idled.up.records().get(number).context("no knock")?.at;
    let closing: Vec<_> = idled.down.records().iter().filter(|record| record.at >= knocked).collect();
    // Some servers end without a word.
    let first = closing.first().map(|record| record.at).or(idled.down.end().map(|(_, at)| at));
    let close = first.context("the decoy does not end")?.saturating_sub(knocked);
    ensure!(close < 3 * idle, "the decoy ended it after {close:?}");
    ensure!(closing.iter().all(|record| record.length < SHORT), "{closing:?}");
    Ok(close)
}

/// For how long to hold the knock, so many times: around the decoy's close, finer the nearer to it.
#[must_use]
pub fn places(server: Server, close: Duration, idle: Duration, tries: u32) -> Vec<Duration> {
    let place = |n: u32| f64::from(n) / f64::from(tries.saturating_sub(1).max(1));
    let held = |place: f64| match server {
        // It looks at its connections once a second.
        Server::Lighttpd => idle.as_secs_f64() * (0.8 + 1.4 * place),
        // Dense in the middle.
        _ => close.as_secs_f64() + (2.0 * place - 1.0) * (2.0 * place - 1.0).abs() * 0.25,
    };
    (0..tries).map(|n| Duration::from_secs_f64(held(place(n)))).collect()
}

/// Whether a direction shows a record as long as an answer beside its end, and what it shows in all: what a censor without
/// any knowledge of the far side can see. A server says nothing long when it closes an idle connection.
#[must_use]
pub fn answers_at_end(down: &Flow, idle: Duration) -> bool {
    let Some((_, end)) = down.end() else { return false };
    down.records().iter().any(|record| record.length >= SHORT && record.at + idle / BESIDE > end)
}

/// The same honest knock to whoever is at `target`, held for so long; gives what the wire showed, and whether there was a tunnel.
///
/// # Errors
/// Nobody is there.
pub fn held(stage: &Stage, target: SocketAddr, number: usize, time: Duration) -> Result<(Trace, bool)> {
    let visit = visit(stage, target, vec![Rule::new(Way::Up, Which::Nth(number), Act::Delay(time))])?;
    Ok((visit.trace()?, visit.outcome.is_ok()))
}

/// One try, and what is seen on both sides of the bridge.
pub struct Try {
    /// Whether a tunnel came about.
    pub proved: bool,
    /// Why none did, in words.
    pub why: String,
    /// Before the bridge.
    pub front: Trace,
    /// Behind it.
    pub back: Trace,
}

impl Try {
    /// Dials the bridge under this rule.
    ///
    /// # Errors
    /// It cannot be dialled, or is not seen on both wires.
    pub fn new(stage: &Stage, rule: Rule) -> Result<Self> {
        let visit = visit(stage, stage.bridge, vec![rule])?;
        let front = visit.trace()?;
        // The two wires know the connection by the decoy's random numbers.
        let hello = |trace: &Trace| trace.down.raw().get(..100).map(<[u8]>::to_vec);
        let (wanted, all) = (hello(&front), stage.back.traces());
        let back =
            all.into_iter().find(|trace| hello(trace) == wanted).context("not seen behind the bridge")?;
        Ok(Self { proved: visit.outcome.is_ok(), why: visit.why(), front, back })
    }

    /// Either the decoy's own records and nothing else, or a proof that follows an answer of the decoy's, which does not
    /// close: the decoy's idle limit is `idle`, and its record `number` from us the knock.
    ///
    /// # Errors
    /// Neither.
    pub fn check(&self, number: usize, idle: Duration) -> Result<()> {
        let (front, back) = (seen(&self.front.down, 0), seen(&self.back.down, 0));
        if self.proved {
            let extra = front
                .records
                .iter()
                .zip(&back.records)
                .position(|(here, there)| here != there)
                .unwrap_or(back.records.len());
            let proof = self.front.down.records().get(extra).context("no proof")?;
            ensure!(proof.length >= PROOF, "a proof in {front:?}");
            let asked = self.back.up.records().get(number).context("no knock at the decoy")?.at;
            let mut answer =
                self.back.down.records().iter().take(extra).skip_while(|record| record.at < asked);
            ensure!(
                answer.clone().next().is_some() && answer.all(|record| record.length >= SHORT),
                "{front:?}, and the decoy: {back:?}"
            );
            let closing =
                |at: Duration| self.back.down.end().is_some_and(|(_, end)| end < at + idle / BESIDE);
            ensure!(!closing(proof.at), "a proof beside the decoy's end: {front:?} {back:?}");
        } else {
            ensure!(front.records == back.records, "{}: {front:?}, and the decoy: {back:?}", self.why);
            ensure!(front.end.is_some() && back.end.is_some(), "{front:?} {back:?}");
        }
        Ok(())
    }
}
