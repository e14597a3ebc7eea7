//! A ladder of twenty connections and a few streams, with real processes: that all are there, are counted, and that what breaks is
//! told.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use qnet_bench::scale::lab::{self, Lab};
use qnet_bench::scale::ladder::{self, Climb, Load};
use qnet_bench::scale::streams;
use qnet_tests::support::isolate::isolated;
use qnet_tests::support::pt::built;

/// Connections at the end.
const CONNECTIONS: usize = 20;

/// A stream's limit in one session (docs/protocol.md, section 9).
const MOST_STREAMS: u64 = 1_024;

fn start() -> Result<Lab> {
    ensure!(lab::prepare()? >= 1_024);
    built("qnet-bridge")?;
    let own = Path::new(env!("CARGO_BIN_EXE_qnet-bench"));
    Lab::start(own.parent().context("a program has a folder")?)
}

fn climb(to: &[usize], load: Load) -> Climb {
    Climb {
        to: to.to_vec(),
        brief: false,
        descriptors: 20_000,
        load,
        minute: false,
        limit: Duration::from_secs(600),
    }
}

#[test]
fn connections_are_there_and_echo() -> Result<()> {
    isolated("connections_are_there_and_echo", || {
        let mut lab = start()?;
        let load = Load { rate: 100, bytes: 1_024, seconds: 2 };
        let ladder = ladder::climb(&mut lab, &climb(&[5, CONNECTIONS], load))?;
        ensure!(ladder.failures.is_empty(), "{:?}", ladder.failures);
        let [few, all] = ladder.steps.as_slice() else { anyhow::bail!("{} steps", ladder.steps.len()) };
        ensure!((few.connections, few.added, all.connections, all.added) == (5, 5, CONNECTIONS, 15));
        for step in [few, all] {
            // Each connection's last message may be due at the very end.
            ensure!((180..=220).contains(&step.echo.count), "{:?}", step.echo);
            ensure!(step.echo.p50 > 0.0 && step.echo.p99 >= step.echo.p50 && step.without_carrier == 0);
            ensure!(step.set_up.bridge > 0.0 && step.set_up.client > 0.0 && step.set_up.decoy > 0.0);
        }
        // To client, decoy and echo.
        let more = all.held[0].descriptors - few.held[0].descriptors;
        ensure!(more == 3 * all.added, "{more} descriptors for {} connections", all.added);
        Ok(())
    })
}

/// Client and decoy have addresses of their own to meet at; the bridge has not, towards its decoy and what is behind it.
#[test]
fn a_bridge_serves_more_connections_than_an_address_has_ports() -> Result<()> {
    isolated("a_bridge_serves_more_connections_than_an_address_has_ports", || {
        let mut lab = start()?;
        fs::write("/proc/sys/net/ipv4/ip_local_port_range", "50000 50011")?;
        let load = Load { rate: 100, bytes: 100, seconds: 1 };
        let ladder = ladder::climb(&mut lab, &climb(&[2 * CONNECTIONS], load))?;
        ensure!(ladder.failures.is_empty(), "{:?} {:?}", ladder.failures, ladder.warnings);
        Ok(())
    })
}

#[test]
fn brief_streams_echo_and_go() -> Result<()> {
    isolated("brief_streams_echo_and_go", || {
        let mut lab = start()?;
        let load = Load { rate: 50, bytes: 1_024, seconds: 2 };
        let ladder = ladder::climb(&mut lab, &Climb { brief: true, ..climb(&[5, 10], load) })?;
        ensure!(ladder.failures.is_empty(), "{:?}", ladder.failures);
        let [few, all] = ladder.steps.as_slice() else { anyhow::bail!("{} steps", ladder.steps.len()) };
        ensure!((90..=110).contains(&all.echo.count), "{:?}", all.echo);
        let more = all.held[0].descriptors - few.held[0].descriptors;
        ensure!(more == 2 * all.added, "{more} descriptors for {} connections", all.added);
        Ok(())
    })
}

#[test]
fn streams_are_there_as_far_as_a_session_has_room() -> Result<()> {
    isolated("streams_are_there_as_far_as_a_session_has_room", || {
        let mut lab = start()?;
        let all = streams::streams(&mut lab, &[1, 20, 2_000])?;
        let [one, some, many] = all.as_slice() else { anyhow::bail!("{} steps", all.len()) };
        ensure!((one.open, some.open) == (1, 20) && one.refused.is_none() && some.refused.is_none());
        ensure!(many.open == MOST_STREAMS && many.refused.is_some(), "{many:?}");
        ensure!(some.moved == 20 && some.jain > 0.5 && some.megabytes_a_second > 0.1, "{some:?}");
        Ok(())
    })
}

#[test]
fn a_bridge_that_is_gone_is_a_failure() -> Result<()> {
    isolated("a_bridge_that_is_gone_is_a_failure", || {
        let mut lab = start()?;
        let load = Load { rate: 20, bytes: 100, seconds: 1 };
        let before = ladder::climb(&mut lab, &climb(&[2], load))?;
        ensure!(before.failures.is_empty(), "{:?}", before.failures);
        lab.stop_bridge()?;
        let command = serde_json::json!({ "do": "open", "count": 3, "at_once": 3 });
        let said = lab.tell(&command)?;
        let failures = said["failures"].as_object().context("failures")?;
        let failed: u64 = failures.values().filter_map(serde_json::Value::as_u64).sum();
        ensure!(failed >= 3, "{said}");
        Ok(())
    })
}
