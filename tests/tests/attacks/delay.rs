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

/// One try, and what is seen on both sides of the bridge.
struct Try {
    proved: bool,
    why: String,
    front: Trace,
    back: Trace,
}

impl Try {
    fn new(stage: &Stage, rule: Rule) -> Result<Self> {
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
            ensure!(proof.length >= PROOF, "a proof in {front:?}");
            let asked = self.back.up.records().get(number).context("no knock at the decoy")?.at;
            let mut answer =
                self.back.down.records().iter().take(extra).skip_while(|record| record.at < asked);
            ensure!(
                answer.clone().next().is_some() && answer.all(|record| record.length >= SHORT),
                "{front:?}, and the decoy: {back:?}"
            );
            let closing = |at: Duration| self.back.down.end().is_some_and(|(_, end)| end < at + IDLE / 4);
            ensure!(!closing(proof.at), "a proof beside the decoy's end: {front:?} {back:?}");
        } else {
            ensure!(front.records == back.records, "{}: {front:?}, and the decoy: {back:?}", self.why);
            ensure!(front.end.is_some() && back.end.is_some(), "{front:?} {back:?}");
        }
        Ok(())
    }
}

/// Holds an honest knock so that it arrives around the decoy's idle close, finer the nearer to it.
fn scan(server: Server, round_trip: Duration) -> Result<()> {
    let stage =
        Stage::with_delay(server, Options { idle: IDLE, head: IDLE, ..Options::default() }, round_trip / 2)?;
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
        let tried = Try::new(&stage, Rule::new(Way::Up, Which::Nth(number), Act::Delay(*held)))?;
        proofs.fetch_add(u32::from(tried.proved), std::sync::atomic::Ordering::Relaxed);
        tried.check(number).with_context(|| format!("held for {held:?}"))
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

/// After the proof the client's records are held in turn until the decoy has closed: its closing records come as they are.
#[test]
fn a_held_inner_handshake_shows_the_decoys_own_end() -> Result<()> {
    isolated("delay::a_held_inner_handshake_shows_the_decoys_own_end", || {
        let stage = Stage::new(Server::Nginx, Options { idle: IDLE, head: IDLE, ..Options::default() })?;
        let (number, _) = knock(&stage)?;
        let held: Vec<usize> = (number + 1..number + 9).collect();
        all(held.len(), &held, |&place| {
            let rule = Rule::new(Way::Up, Which::Nth(place), Act::Delay(4 * IDLE));
            let tried = Try::new(&stage, rule)?;
            ensure!(tried.proved, "record {place}: {}", tried.why);
            let (front, back) = (seen(&tried.front.down, 0), seen(&tried.back.down, 0));
            let closing = back.records.iter().rev().take_while(|(_, length)| *length < SHORT).count();
            let last = |records: &[(u8, usize)]| records.iter().rev().take(2).copied().collect::<Vec<_>>();
            ensure!(closing >= 2, "record {place}: {back:?}");
            ensure!(
                last(&front.records) == last(&back.records) && front.end == back.end,
                "record {place}: {front:?}, and the decoy: {back:?}"
            );
            // A browser whose server went away only closes.
            let ended = tried.front.down.end().context("no end")?.1;
            let late = tried.front.up.records().iter().filter(|record| record.at > ended).count();
            ensure!(
                late == 0 && tried.front.up.end().is_some(),
                "record {place}: {:?}",
                seen(&tried.front.up, 0)
            );
            Ok(())
        })
    })
}
