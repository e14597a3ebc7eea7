//! The answer to the hello: JA4S of what comes back from a bridge, to a client of its own, against the decoy's.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use qnet_tests::ja4::ja4s;
use qnet_tests::support::decoy::{Decoy, NAME, Options, Server};
use qnet_tests::support::front::{self, Front};
use qnet_tests::support::link::Link;
use qnet_tests::support::process::free_address;
use qnet_tests::support::tap::Tap;
use qnet_tests::support::tunnel::{dialer_with, echo_bridge, runtime};
use qnet_wire::bridge_line::BridgeLine;

use crate::detector::{Figure, Role, Verdict};
use crate::stage::suitable;

/// Answers taken of each.
const ANSWERS: usize = 8;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) fn verdicts(server: Server) -> Result<Vec<Verdict>> {
    let runtime = runtime()?;
    let decoy = suitable(server, Options::default())?;
    let (bridge, line) = runtime.block_on(echo_bridge(&decoy))?;
    // Another TLS stack than the decoy's: rustls answers as BoringSSL does.
    let front = Front::start(front::Server::Haproxy, front::Options::new("/socket", free_address()?))?;
    let [http2, http1] = front.in_the_clear();
    let boringssl = Tap::start(decoy.certificates(), http2, http1)?;
    let other = match server {
        Server::Rustls => ("OpenSSL's server", Role::Positive, front.address()),
        _ => ("BoringSSL's server", Role::Positive, boringssl.address()),
    };
    let of = |address| answers(&runtime, &line, &decoy, address);
    let model = of(decoy.address())?;
    let judged =
        [other, ("the decoy again", Role::Negative, decoy.address()), ("QNet", Role::Subject, bridge)];
    judged
        .into_iter()
        .map(|(what, role, address)| {
            let found = of(address)?;
            Ok(Verdict {
                what: format!("JA4S: {what}, {server:?}"),
                role,
                flagged: !found.is_subset(&model),
                figures: vec![
                    Figure::new("answers", ANSWERS as f64),
                    Figure::new("kinds", found.len() as f64),
                ],
                note: found.into_iter().collect::<Vec<_>>().join(", "),
            })
        })
        .collect()
}

/// What QNet's client is answered where it is led to.
fn answers(
    runtime: &tokio::runtime::Runtime,
    line: &BridgeLine,
    decoy: &Decoy,
    address: SocketAddr,
) -> Result<BTreeSet<String>> {
    (0..ANSWERS)
        .map(|_| {
            let link = Link::start(address, Duration::ZERO)?;
            let line: BridgeLine = BridgeLine { address: link.address(), ..line.clone() };
            let dialer = dialer_with(&decoy.certificates().ca)?;
            let dial = runtime.spawn(async move { dialer.dial(&line).await.map(drop) });
            let trace = link.wait(NAME, 0, PATIENCE, |trace| {
                trace.down.records().first().is_some_and(|record| record.present == record.length)
            });
            dial.abort();
            let down = trace?.down;
            let hello = down.records().first().context("a record")?;
            ja4s(down.record_bytes(hello)).context("no ServerHello")
        })
        .collect()
}
