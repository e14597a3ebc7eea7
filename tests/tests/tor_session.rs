//! A real Tor whose connection to its bridge is cut again and again, or left alone until nothing is left of it but the session.
#![allow(clippy::disallowed_methods, reason = "a test owns its clock")]

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use qnet_tests::support::censor::{Censor, Manner};
use qnet_tests::support::decoy::{Decoy, Options, Server};
use qnet_tests::support::isolate::isolated;
use qnet_tests::support::local_http::{FileServer, download};
use qnet_tests::support::process::{free_address, signal};
use qnet_tests::support::pt::Pt;
use qnet_tests::support::tor::{Client, Network, at_address};
use qnet_tests::support::tunnel::runtime;
use rustix::process::Signal;

/// What is downloaded while the connection is cut, bytes.
const FILE: usize = 50_000_000;
/// Between two cuts.
const CUT_EVERY: Duration = Duration::from_secs(2);
/// Cuts at most: beyond its budget of page loads a client comes once in ten seconds, and a slow machine would not see the end.
const MOST_CUTS: usize = 12;

/// What tor says about its OR connections from now on: one line for each that changes.
fn or_connections(control: SocketAddr) -> Result<Receiver<String>> {
    let mut tcp = TcpStream::connect(control)?;
    tcp.write_all(b"AUTHENTICATE\r\nSETEVENTS ORCONN\r\n")?;
    let mut lines = BufReader::new(tcp).lines();
    for _ in 0..2 {
        let answer = lines.next().context("the control port closed")??;
        ensure!(answer.starts_with("250"), "tor says {answer}");
    }
    let (sender, receiver) = channel();
    thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    Ok(receiver)
}

/// A private network, a client behind a censor, and what the client's tor says of its OR connections.
struct Stage {
    network: Network,
    client: Client,
    censor: Censor,
    file: FileServer,
    connections: Receiver<String>,
    // Ended last.
    _bridge: qnet_tests::support::tor::Bridge,
    _runtime: tokio::runtime::Runtime,
    _decoy: Decoy,
}

impl Stage {
    fn new(idle: Duration, torrc: &str) -> Result<Self> {
        let decoy = Decoy::start(Server::Nginx, Options { idle, ..Options::default() })?;
        let pt = Pt::qnet(&decoy)?;
        let file = FileServer::start(FILE)?;
        let network = Network::start(file.address().port())?;
        let bridge = network.bridge(&pt, true)?;
        let runtime = runtime()?;
        let manner = Manner { delay: Duration::from_millis(20), ..Manner::default() };
        let censor = runtime.block_on(Censor::start(bridge.listen, manner))?;
        let control = free_address()?;
        let line = at_address(&bridge.line, censor.address())?;
        let client = network.client_with(&pt, &line, &format!("ControlPort {control}\n{torrc}"))?;
        let connections = or_connections(control)?;
        Ok(Self {
            network,
            client,
            censor,
            file,
            connections,
            _bridge: bridge,
            _runtime: runtime,
            _decoy: decoy,
        })
    }

    /// No OR connection came or went since the last look.
    fn unnoticed(&self) -> Result<()> {
        let news: Vec<String> = self.connections.try_iter().collect();
        ensure!(news.is_empty(), "tor noticed: {news:?}");
        Ok(())
    }
}

#[test]
fn tor_does_not_notice_that_its_connection_is_cut() -> Result<()> {
    isolated("tor_does_not_notice_that_its_connection_is_cut", || {
        let stage = Stage::new(Duration::from_secs(75), "")?;
        // Whether anything passes or not: who waited for bytes would cut a connection that was long in coming at its first.
        let (done, ended) = channel::<()>();
        let cuts = thread::scope(|scope| {
            let censor = &stage.censor;
            let cutter = scope.spawn(move || {
                let mut cuts = 0;
                while cuts < MOST_CUTS && ended.recv_timeout(CUT_EVERY) == Err(RecvTimeoutError::Timeout) {
                    cuts += censor.cut();
                }
                cuts
            });
            let mut done = Some(done);
            let downloaded = download(stage.client.socks, &stage.file, |total| {
                // Each cut is to be followed by another connection, so that the last leaves something to come.
                if total > FILE / 10 * 9 {
                    done = None;
                }
                Ok(())
            });
            drop(done);
            let cuts = cutter.join().ok().context("the censor panicked")?;
            downloaded.map(|()| cuts)
        })?;
        ensure!(cuts >= 2, "{cuts} cuts only: the download was over too soon");
        ensure!(stage.censor.opened() > cuts, "{} connections, {cuts} cuts", stage.censor.opened());
        stage.unnoticed()?;
        stage.network.stop()
    })
}

/// A minute, or as many as `QNET_IDLE_MINUTES` says, with a decoy that ends idle connections after five seconds.
#[test]
fn an_or_connection_outlives_its_carriers() -> Result<()> {
    isolated("an_or_connection_outlives_its_carriers", || {
        let minutes =
            std::env::var("QNET_IDLE_MINUTES").ok().and_then(|minutes| minutes.parse().ok()).unwrap_or(1);
        let stage = Stage::new(Duration::from_secs(5), "ConnectionPadding 0\nKeepalivePeriod 7200\n")?;
        download(stage.client.socks, &stage.file, |_| Ok(()))?;
        stage.unnoticed()?;
        // As a laptop that sleeps: tor itself would fetch a consensus of this network's every few seconds.
        signal(stage.client.tor.pid(), Signal::STOP)?;
        thread::sleep(Duration::from_secs(60 * minutes));
        let alive = stage.censor.alive();
        signal(stage.client.tor.pid(), Signal::CONT)?;
        ensure!(alive == 0, "{alive} connections are still there");
        download(stage.client.socks, &stage.file, |_| Ok(()))?;
        stage.unnoticed()?;
        stage.network.stop()
    })
}
