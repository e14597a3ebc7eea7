//! A real Tor over a pluggable transport: Debian's tor as authorities, exits, bridge and client.
#![allow(clippy::disallowed_methods, reason = "a test owns its clock")]

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use qnet_tests::support::decoy::{Decoy, Options, Server};
use qnet_tests::support::isolate::isolated;
use qnet_tests::support::local_http::{FileServer, download};
use qnet_tests::support::process::{signal, wait_for};
use qnet_tests::support::pt::Pt;
use qnet_tests::support::tor::{Network, Tor};
use rustix::process::Signal;

/// What is downloaded, bytes.
const FILE: usize = 10_000_000;

#[test]
fn a_download_through_obfs4_survives_a_crash_of_the_transport() -> Result<()> {
    isolated("a_download_through_obfs4_survives_a_crash_of_the_transport", || everything(&Pt::obfs4()))
}

#[test]
fn a_download_through_qnet_survives_a_crash_of_the_transport() -> Result<()> {
    isolated("a_download_through_qnet_survives_a_crash_of_the_transport", || {
        let decoy = Decoy::start(Server::Nginx, Options::default())?;
        everything(&Pt::qnet(&decoy)?)
    })
}

/// Bootstraps and downloads with and without the Extended ORPort, and kills either side's transport under load.
fn everything(pt: &Pt) -> Result<()> {
    let started = Instant::now();
    let file = FileServer::start(FILE)?;
    let network = Network::start(file.address().port())?;
    for extended in [true, false] {
        let bridge = network.bridge(pt, extended)?;
        let client = network.client(pt, &bridge.line)?;
        report(started, &format!("bootstrapped, ExtORPort {extended}"))?;
        download(client.socks, &file, |_| Ok(()))?;
        report(started, "downloaded")?;
        if extended {
            for victim in [&client.tor, &bridge.tor] {
                kill_under_load(victim, client.socks, &file)?;
                report(started, "recovered from a crash")?;
            }
        }
    }
    network.stop()
}

fn kill_under_load(victim: &Tor, socks: std::net::SocketAddr, file: &FileServer) -> Result<()> {
    let mut killed = None;
    let outcome = download(socks, file, |bytes| {
        if killed.is_none() && bytes > FILE / 10 {
            let pid = victim.transport()?.context("the transport runs")?;
            signal(pid, Signal::KILL)?;
            killed = Some(pid);
        }
        Ok(())
    });
    anyhow::ensure!(outcome.is_err(), "the download was over before the kill could be felt");
    let killed = killed.context("the transport was killed")?;
    wait_for("the transport's relaunch", Duration::from_secs(30), || {
        Ok(victim.transport()?.filter(|pid| *pid != killed))
    })?;
    wait_for("a download after the crash", Duration::from_secs(90), || {
        Ok(download(socks, file, |_| Ok(())).ok())
    })
}

/// Shown with `--nocapture`, and when the test fails.
fn report(started: Instant, what: &str) -> Result<()> {
    use std::io::Write;
    Ok(writeln!(std::io::stdout(), "{:5.1} s: {what}", started.elapsed().as_secs_f64())?)
}
