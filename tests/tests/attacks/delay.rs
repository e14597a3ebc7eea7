//! The censor only delays: what he holds, he lets go later.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use qnet_tests::support::decoy::{Options, Server};
use qnet_tests::support::isolate::isolated;
use qnet_tests::support::link::{Act, Rule, Trace, Way, Which};

use crate::knocks::knock;
use crate::stage::{SOON, Stage, seen};
use crate::visit::{all, visit};

/// A decoy's limit of idleness in the scan: as small as lighttpd's can be.
const IDLE: Duration = Duration::from_secs(1);
/// Tries with each decoy and distance.
const TRIES: u32 = 60;
/// Tries at once.
const WIDTH: usize = 30;
/// Shorter than any answer (docs/protocol.md, section 4).
const SHORT: usize = 64;
/// A proof is no shorter (docs/protocol.md, section 5).
const PROOF: usize = 80;

/// One try: the knock is held so long, and what is seen on both sides of the bridge.
struct Try {
    held: Duration,
    proved: bool,
    why: String,
    front: Trace,
    back: Trace,
}

fn held_for(stage: &Stage, number: usize, held: Duration) -> Result<Try> {
    let rule = Rule::new(Way::Up, Which::Nth(number), Act::Delay(held));
    let visit = visit(stage, stage.bridge, vec![rule])?;
    let (proved, why) = (visit.outcome.is_ok(), visit.why());
    let front = visit.trace()?;
    // The two wires know the connection by the decoy's random numbers.
    let hello = |trace: &Trace| trace.down.raw().get(..100).map(<[u8]>::to_vec);
    let (wanted, all) = (hello(&front), stage.back.traces());
    let back = all.into_iter().find(|trace| hello(trace) == wanted).context("not seen behind the bridge")?;
    Ok(Try { held, proved, why, front, back })
}

impl Try {
    /// Either the decoy's own records and nothing else, or a proof that follows an answer of the decoy's, which does not
    /// close.
    fn check(&self, number: usize) -> Result<()> {
        let (front, back) = (seen(&self.front.down, 0), seen(&self.back.down, 0));
        if self.proved {
            let extra = front
                .records
                .iter()
                .zip(&back.records)
                .position(|(here, there)| here != there)
                .unwrap_or(back.records.len());
            let proof = self.front.down.records().get(extra).context("no proof")?;
            ensure!(proof.length >= PROOF, "{:?}: a proof in {front:?}", self.held);
            let asked = self.back.up.records().get(number).context("no knock at the decoy")?.at;
            let mut answer = self.back.down.records().iter().take(extra).skip_while(|record| record.at < asked);
            ensure!(
                answer.clone().next().is_some() && answer.all(|record| record.length >= SHORT),
                "{:?}: {front:?}, and the decoy: {back:?}",
                self.held
            );
            let closing = |at: Duration| self.back.down.end().is_some_and(|(_, end)| end < at + IDLE / 4);
            ensure!(!closing(proof.at), "{:?}: a proof beside the decoy's end: {front:?} {back:?}", self.held);
        } else {
            ensure!(
                front.records == back.records,
                "{:?}, {}: {front:?}, and the decoy: {back:?}",
                self.held,
                self.why
            );
            ensure!(front.end.is_some() && back.end.is_some(), "{:?}: {front:?} {back:?}", self.held);
        }
        Ok(())
    }
}

/// Holds an honest knock so that it arrives around the decoy's idle close, finer the nearer to it.
fn scan(server: Server, round_trip: Duration) -> Result<()> {
    let stage = Stage::with_delay(server, Options { idle: IDLE, head: IDLE, ..Options::default() }, round_trip / 2)?;
    let (number, _) = knock(&stage)?;
    // When the decoy ends a connection whose knock never comes, since the knock was due.
    let gone = Rule::new(Way::Up, Which::Nth(number), Act::Delay(SOON));
    let idled = visit(&stage, stage.bridge, vec![gone])?.trace()?;
    let knocked = idled.up.records().get(number).context("no knock")?.at;
    let closing: Vec<_> = idled.down.records().iter().filter(|record| record.at >= knocked).collect();
    let close = closing.first().context("the decoy says nothing at its end")?.at.saturating_sub(knocked);
    ensure!(close < 3 * IDLE, "the decoy ended it after {close:?}");
    ensure!(closing.iter().all(|record| record.length < SHORT), "{closing:?}");
    let tries: Vec<Duration> = (0..TRIES)
        .map(|n| {
            let place = f64::from(n) / f64::from(TRIES - 1);
            Duration::from_secs_f64(match server {
                // It looks at its connections once a second.
                Server::Lighttpd => IDLE.as_secs_f64() * (0.8 + 1.4 * place),
                // Dense in the middle.
                _ => close.as_secs_f64() + (2.0 * place - 1.0) * (2.0 * place - 1.0).abs() * 0.25,
            })
        })
        .collect();
    let proofs = std::sync::atomic::AtomicU32::new(0);
    all(WIDTH, &tries, |held| {
        let tried = held_for(&stage, number, *held)?;
        proofs.fetch_add(u32::from(tried.proved), std::sync::atomic::Ordering::Relaxed);
        tried.check(number)
    })?;
    let proofs = proofs.into_inner();
    ensure!(proofs > 0 && proofs < TRIES, "{proofs} proofs: the scan does not meet the close at {close:?}");
    Ok(())
}

#[test]
fn a_held_knock_draws_no_proof_at_nginxs_end() -> Result<()> {
    isolated("delay::a_held_knock_draws_no_proof_at_nginxs_end", || {
        [0, 10, 40].into_iter().try_for_each(|ms| scan(Server::Nginx, Duration::from_millis(ms)))
    })
}

#[test]
fn a_held_knock_draws_no_proof_at_lighttpds_end() -> Result<()> {
    isolated("delay::a_held_knock_draws_no_proof_at_lighttpds_end", || {
        [0, 40].into_iter().try_for_each(|ms| scan(Server::Lighttpd, Duration::from_millis(ms)))
    })
}
