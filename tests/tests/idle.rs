//! What a tunnel shows while a stream is open and nobody says anything.
#![forbid(unsafe_code)]
#![allow(clippy::disallowed_methods, reason = "a test owns its clock, and blocks only threads of its own")]

use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use qnet_proto::shape::profile::{Idle, Quantiles};
use qnet_tests::support::attack::stage::SHORT;
use qnet_tests::support::attack::visit::PATH;
use qnet_tests::support::decoy::{Decoy, Options, Server};
use qnet_tests::support::flow::{Flow, Record};
use qnet_tests::support::isolate::isolated;
use qnet_tests::support::link::{Link, Trace};
use qnet_tests::support::tunnel::{echo_bridge, runtime};
use qnet_transport::client::{Dialer, DialerConfig};
use qnet_transport::tls::Roots;
use qnet_transport::{Profile, Shape, Stream};
use qnet_wire::bridge_line::BridgeLine;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Runtime;

/// What is said before it becomes quiet, bytes; the bridge says the same.
const SAID: usize = 3_000;
/// After what was said: acknowledgements, and what is to follow a load's end.
const SETTLES: Duration = Duration::from_millis(1_500);
/// By how much a busy machine may be late.
const NEAR: Duration = Duration::from_millis(1_500);

/// A decoy, a bridge before it, and who dials it.
struct Scene {
    decoy: Decoy,
    runtime: Runtime,
    line: BridgeLine,
    dialer: Dialer,
}

impl Scene {
    fn new(server: Server, idle: Duration, profile: &str) -> Result<Self> {
        let decoy = Decoy::start(server, Options { idle, head: idle, ..Options::default() })?;
        let runtime = runtime()?;
        let (_, line) = runtime.block_on(echo_bridge(&decoy))?;
        let line = BridgeLine { profile: Some(profile.parse()?), ..line };
        let roots = Roots::with(Some(&decoy.certificates().ca), None)?;
        // A visit to the decoy itself loads nothing more, and no other carrier takes an ended one's place.
        let config =
            DialerConfig { path: PATH.to_owned(), profile: Profile::single(), ..DialerConfig::new(roots) };
        Ok(Self { decoy, runtime, line, dialer: Dialer::new(config) })
    }

    /// A tunnel over `link` in which something was said and a stream is open.
    fn quiet(&self, link: SocketAddr) -> Result<Stream> {
        let line = BridgeLine { address: link, ..self.line.clone() };
        let stream = self.runtime.block_on(async {
            let mut stream = self.dialer.dial(&line).await?.open()?;
            stream.write_all(&[7; SAID]).await?;
            stream.read_exact(&mut [0; SAID]).await?;
            anyhow::Ok(stream)
        })?;
        thread::sleep(SETTLES);
        Ok(stream)
    }
}

/// The records of a direction from this number on.
fn since(flow: &Flow, number: usize) -> &[Record] {
    flow.records().get(number..).unwrap_or_default()
}

/// When the last of what was said came.
fn said(spoken: &Trace) -> Result<Duration> {
    spoken.up.last().max(spoken.down.last()).context("nothing was said")
}

/// What a connection's server says at its end, and after how long a silence of both, where `spoken` is what was said before.
fn ending(trace: &Trace, spoken: &Trace) -> Result<(Vec<(u8, usize)>, Duration)> {
    let quiet = said(spoken)?;
    let end = since(&trace.down, spoken.down.records().len());
    let first =
        end.first().map(|record| record.at).or(trace.down.end().map(|(_, at)| at)).context("no end")?;
    Ok((end.iter().map(|record| (record.kind, record.length)).collect(), first.saturating_sub(quiet)))
}

/// A connection that is over.
fn over(trace: &Trace) -> bool {
    trace.down.end().is_some()
}

/// `web` covers no silence: between the last payload and the close the wire shows what it shows of a page that is loaded, in both
/// directions, and as long.
fn says_nothing(server: Server) -> Result<()> {
    let idle = Duration::from_secs(6);
    let scene = Scene::new(server, idle, "web")?;
    let [tunnel, visit] =
        [scene.line.address, scene.decoy.address()].map(|to| Link::start(to, Duration::ZERO));
    let (tunnel, visit) = (tunnel?, visit?);
    let stream = scene.quiet(tunnel.address())?;
    let spoken = tunnel.traces().pop().context("no tunnel")?;
    // The same client, and nobody there but the decoy.
    let line = BridgeLine { address: visit.address(), ..scene.line.clone() };
    ensure!(scene.runtime.block_on(scene.dialer.dial(&line)).is_err(), "the decoy is a bridge");
    let loaded = visit.traces().pop().context("no visit")?;
    let limit = 4 * idle;
    let (tunnel, visit) =
        (tunnel.wait("the tunnel's end", 0, limit, over)?, visit.wait("the visit's end", 0, limit, over)?);
    drop(stream);
    let (ours, theirs) = (ending(&tunnel, &spoken)?, ending(&visit, &loaded)?);
    ensure!(ours.0 == theirs.0, "{ours:?}, and a visit {theirs:?}");
    ensure!(ours.0.iter().all(|(_, length)| *length < SHORT), "{ours:?}");
    ensure!(ours.1.abs_diff(theirs.1) < NEAR, "{ours:?}, and a visit {theirs:?}");
    let late = since(&tunnel.up, spoken.up.records().len());
    let ended = tunnel.down.end().context("no end")?.1;
    ensure!(late.iter().all(|record| record.at + NEAR > ended), "up before the end: {late:?}");
    let visitors = since(&visit.up, loaded.up.records().len());
    ensure!(late.len() <= visitors.len(), "up: {late:?}, and a visitor {visitors:?}");
    Ok(())
}

#[test]
fn a_quiet_tunnel_ends_as_a_page_before_nginx() -> Result<()> {
    isolated("a_quiet_tunnel_ends_as_a_page_before_nginx", || says_nothing(Server::Nginx))
}

#[test]
fn a_quiet_tunnel_ends_as_a_page_before_lighttpd() -> Result<()> {
    isolated("a_quiet_tunnel_ends_as_a_page_before_lighttpd", || says_nothing(Server::Lighttpd))
}

/// Tunnels in which nobody says anything, and for how long.
const TUNNELS: usize = 24;
const WATCHED: Duration = Duration::from_secs(45);
/// How soon an answer follows what asks for it, on a busy machine.
const SOON: Duration = Duration::from_secs(1);
/// A pause this near to a whole second is one: 1 in 20 by chance.
const WHOLE: Duration = Duration::from_millis(50);

/// `web-idle` covers silence with exchanges as its file has them, not by the clock, and spends no more than it says, on the wire.
#[test]
fn cover_keeps_its_pauses_lengths_and_budget_on_the_wire() -> Result<()> {
    isolated("cover_keeps_its_pauses_lengths_and_budget_on_the_wire", || {
        let scene = Scene::new(Server::Nginx, Duration::from_secs(600), "web-idle")?;
        let profile = Shape::named("web-idle").context("no such profile")?.profile();
        let cover = profile.idle.as_ref().context("it covers nothing")?;
        let mut quiet = Vec::new();
        for _ in 0..TUNNELS {
            let link = Link::start(scene.line.address, Duration::ZERO)?;
            let stream = scene.quiet(link.address())?;
            let spoken = link.traces().pop().context("no tunnel")?;
            quiet.push((link, stream, spoken));
        }
        thread::sleep(WATCHED);
        let mut all = Cover::default();
        for (link, _stream, spoken) in &quiet {
            let trace = link.traces().pop().context("no tunnel")?;
            ensure!(!over(&trace), "a tunnel ended");
            all.add(&trace, spoken, cover)?;
        }
        let Cover { asks, pauses, whole, spent, time } = all;
        ensure!(asks > TUNNELS / 4, "{asks} exchanges");
        ensure!(pauses > 0 && whole * 2 < pauses, "{whole} of {pauses} pauses are whole seconds");
        let most = f64::from(cover.per_hour) * time.as_secs_f64() / 3_600.0;
        ensure!(spent.iter().all(|bytes| (*bytes as f64) < most), "{spent:?} bytes in {time:?}");
        Ok(())
    })
}

/// What cover came to.
#[derive(Default)]
struct Cover {
    asks: usize,
    /// Pauses between two exchanges, and those of whole seconds.
    pauses: usize,
    whole: usize,
    /// Bytes up and down.
    spent: [usize; 2],
    /// How long all of it took.
    time: Duration,
}

impl Cover {
    /// One tunnel's, of which this was there before it was quiet.
    fn add(&mut self, trace: &Trace, spoken: &Trace, cover: &Idle) -> Result<()> {
        let asks = since(&trace.up, spoken.up.records().len());
        let answers = since(&trace.down, spoken.down.records().len());
        let lengths = |quantiles: &Quantiles| quantiles.least() as usize..=quantiles.greatest() as usize;
        let mut answered = 0;
        for pair in asks.windows(2) {
            let [one, next] = pair else { continue };
            let pause = next.at.saturating_sub(one.at);
            let least = Duration::from_secs(cover.pauses_s.least().into()).saturating_sub(WHOLE);
            ensure!(pause >= least, "a pause of {pause:?}");
            // The wire takes records in when it finds them: a little late each.
            let past = (pause + WHOLE / 2).subsec_millis();
            self.pauses += 1;
            self.whole += usize::from(u128::from(past) < WHOLE.as_millis());
        }
        for ask in asks {
            ensure!(lengths(&cover.asks).contains(&ask.length), "a record of {} bytes up", ask.length);
            let answer = answers.iter().filter(|record| record.at >= ask.at && record.at < ask.at + SOON);
            let bytes: usize = answer.clone().map(|record| record.length).sum();
            // What is left of an answer and shorter than any request is not sent.
            let near = bytes..=bytes + cover.asks.least() as usize;
            ensure!(lengths(&cover.answers).start() <= near.end(), "{bytes} bytes answer");
            ensure!(bytes <= *lengths(&cover.answers).end(), "{bytes} bytes answer");
            answered += answer.count();
            self.spent[0] += ask.length;
            self.spent[1] += bytes;
        }
        ensure!(answered == answers.len(), "{} records down, {answered} of them answers", answers.len());
        self.asks += asks.len();
        self.time += trace.begun().elapsed().saturating_sub(said(spoken)?);
        Ok(())
    }
}
