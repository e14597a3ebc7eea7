//! The censor only delays: what he holds, he lets go later.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use qnet_tests::support::attack::held::{Try, closing, knock, places};
use qnet_tests::support::attack::stage::{SHORT, Stage, seen};
use qnet_tests::support::attack::visit::all;
use qnet_tests::support::decoy::{Options, Server};
use qnet_tests::support::isolate::isolated;
use qnet_tests::support::link::{Act, Rule, Way, Which};

/// A decoy's limit of idleness in the scan: as small as lighttpd's can be.
const IDLE: Duration = Duration::from_secs(1);
/// Tries with each decoy and distance.
const TRIES: u32 = 60;
/// Tries at once.
const WIDTH: usize = 30;
/// Holds an honest knock so that it arrives around the decoy's idle close, finer the nearer to it.
fn scan(server: Server, round_trip: Duration) -> Result<()> {
    let stage =
        Stage::with_delay(server, Options { idle: IDLE, head: IDLE, ..Options::default() }, round_trip / 2)?;
    let (number, _) = knock(&stage)?;
    let close = closing(&stage, number, IDLE)?;
    let tries = places(server, close, IDLE, TRIES);
    let proofs = std::sync::atomic::AtomicU32::new(0);
    all(WIDTH, &tries, |held| {
        let tried = Try::new(&stage, Rule::new(Way::Up, Which::Nth(number), Act::Delay(*held)))?;
        proofs.fetch_add(u32::from(tried.proved), std::sync::atomic::Ordering::Relaxed);
        tried.check(number, IDLE).with_context(|| format!("held for {held:?}"))
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
