//! What the programs keep in memory of connections that rest, and of closed ones: resident pages, not allocations, which
//! tests/tests/memory.rs counts.

use std::time::Duration;

use anyhow::{Result, ensure};
use qnet_bench::plugin::Kind;
use qnet_bench::{load, measure};
use qnet_tests::support::decoy::{Decoy, Options, Server};
use qnet_tests::support::isolate::isolated;
use qnet_tests::support::pt::qnet_pt;

/// Connections at once.
const CONNECTIONS: usize = 100;

/// Longer than all this takes.
const DECOY_IDLE: Duration = Duration::from_secs(600);

/// Most that each figure may be, KiB a connection. Around 15 at rest and 2 after the close were measured.
const LIMITS: [(&str, f64); 4] = [
    ("an idle connection, client (KiB)", 64.0),
    ("an idle connection, bridge (KiB)", 32.0),
    ("kept after its close, client (KiB)", 5.0),
    ("kept after its close, bridge (KiB)", 5.0),
];

#[test]
fn memory_is_given_back() -> Result<()> {
    isolated("memory_is_given_back", || {
        let decoy = Decoy::start(Server::Nginx, Options { idle: DECOY_IDLE, ..Options::default() })?;
        let figures = measure::idle(&Kind::qnet(qnet_pt()?, &decoy), load::start()?, CONNECTIONS)?;
        for (name, limit) in LIMITS {
            let value = figures.iter().find(|(figure, _)| *figure == name).map(|(_, value)| *value);
            ensure!(value.is_some_and(|value| value <= limit), "{name}: {value:?}, more than {limit}");
        }
        Ok(())
    })
}
