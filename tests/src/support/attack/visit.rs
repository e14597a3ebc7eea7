//! A client's whole connection under a censor's rules, to compare what it shows before a bridge and before the decoy itself.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::flow::{End, Flow};
use crate::support::link::{Link, Rule, Trace};
use anyhow::{Context, Result, bail};
use qnet_transport::client::{DialError, Tunnel};
use qnet_wire::bridge_line::BridgeLine;

use super::stage::{Content, SOON, Seen, Stage, seen};

/// A page without anything to load but the icon: its load is short, and the same each time.
pub const PATH: &str = "/menu.js";
/// How long nothing may come until all has come.
const QUIET: Duration = Duration::from_millis(250);
/// How long an end that is due is waited for.
const PATIENCE: Duration = Duration::from_millis(1_500);
/// How often two visits are compared at most.
pub const TRIES: usize = 5;
/// What Chrome says to a fatal alert: a GOAWAY with a reason.
pub const GOODBYE: usize = 64;

/// What became of it.
pub struct Visit {
    /// A tunnel, or why there is none.
    pub outcome: Result<Tunnel, DialError>,
    /// The wire it went over.
    pub link: Link,
}

/// Dials `target` as if it were the bridge, under these rules.
///
/// # Errors
/// No port can be had.
pub fn visit(stage: &Stage, target: SocketAddr, rules: Vec<Rule>) -> Result<Visit> {
    visit_with(stage, target, rules, |line| line)
}

/// The same with a changed bridge line.
///
/// # Errors
/// As for [`visit`].
pub fn visit_with(
    stage: &Stage,
    target: SocketAddr,
    rules: Vec<Rule>,
    change: impl FnOnce(BridgeLine) -> BridgeLine,
) -> Result<Visit> {
    let link = Link::start(target, stage.distance)?;
    link.set_rules(rules);
    let (dialer, line) = (stage.dialer(PATH)?, change(stage.line(link.address())?));
    let outcome = stage.block_on(dialer.dial(&line));
    Ok(Visit { outcome, link })
}

impl Visit {
    /// What the wire showed, when nothing more comes or all has ended.
    ///
    /// # Errors
    /// Nobody connected.
    pub fn trace(&self) -> Result<Trace> {
        settled(&self.link, 0)
    }

    /// Why there is no tunnel, in words.
    #[must_use]
    pub fn why(&self) -> String {
        self.outcome.as_ref().err().map_or_else(|| "a tunnel".to_owned(), ToString::to_string)
    }
}

/// A connection's trace when nothing more comes.
///
/// # Errors
/// There is no such connection.
pub fn settled(link: &Link, number: usize) -> Result<Trace> {
    let look = || -> Result<Trace> { link.traces().into_iter().nth(number).context("no such connection") };
    let (mut known, mut since) = ((0, 0, false), Instant::now());
    let started = Instant::now();
    loop {
        let trace = look()?;
        let ended = trace.up.end().is_some() && trace.down.end().is_some();
        let now = (trace.up.total(), trace.down.total(), ended);
        if now != known {
            (known, since) = (now, Instant::now());
        }
        let patience = if ended { QUIET } else { PATIENCE };
        if since.elapsed() > patience || started.elapsed() > SOON {
            return Ok(trace);
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// The same connection made with the bridge and with its decoy must end the same way, and look the same to its end. A
/// server's own timing shows in what it says: what is seen at the bridge must be among what is seen at the decoy, in up to
/// [`TRIES`] tries each.
///
/// # Errors
/// They do not; or a visit cannot be made.
pub fn same(stage: &Stage, what: &str, rules: &[Rule]) -> Result<()> {
    let (mut here, mut there) = (Vec::new(), Vec::new());
    for _ in 0..TRIES {
        let (bridge, decoy) = thread::scope(|scope| {
            let bridge = scope.spawn(|| Shown::of(stage, stage.bridge, rules));
            let decoy = scope.spawn(|| Shown::of(stage, stage.decoy.address(), rules));
            (bridge.join(), decoy.join())
        });
        here.push(bridge.ok().context("panicked")??);
        there.push(decoy.ok().context("panicked")??);
        if here.iter().any(|shown| there.contains(shown)) {
            return Ok(());
        }
    }
    bail!("{what}: {here:?} at the bridge, {there:?} at the decoy")
}

/// What a censor can tell of a visit, and the client's user.
#[derive(Debug, PartialEq, Eq)]
pub struct Shown {
    why: String,
    up: Content,
    down: Content,
}

impl Shown {
    /// Of a visit to `target` under these rules.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn of(stage: &Stage, target: SocketAddr, rules: &[Rule]) -> Result<Self> {
        let visit = visit(stage, target, rules.to_vec())?;
        let trace = visit.trace()?;
        // Hellos differ in length, as Chrome's do.
        let mut up = seen(&trace.up, 1);
        up.end = up.ended();
        // Whether the client still says goodbye depends on how fast a reset follows the decoy's alert.
        if up.records.last() == Some(&(23, GOODBYE)) {
            up.records.pop();
        }
        Ok(Self { why: visit.why(), up: up.content(), down: seen(&trace.down, 0).content() })
    }
}

/// Runs cases at once, as many as `width`; the first failure is the outcome.
///
/// # Errors
/// A case's.
pub fn all<T: Sync>(width: usize, cases: &[T], run: impl Fn(&T) -> Result<()> + Sync) -> Result<()> {
    let next = std::sync::atomic::AtomicUsize::new(0);
    let outcomes = thread::scope(|scope| {
        let workers: Vec<_> = (0..width)
            .map(|_| {
                scope.spawn(|| {
                    while let Some(case) = cases.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed))
                    {
                        run(case)?;
                    }
                    Ok(())
                })
            })
            .collect();
        workers.into_iter().map(|worker| worker.join().ok().context("panicked")?).collect::<Result<Vec<()>>>()
    });
    outcomes.map(|_| ())
}

/// A record that opens under nobody's key.
#[must_use]
pub fn made_up(length: u8) -> Vec<u8> {
    let mut record = vec![23, 3, 3, 0, length];
    record.extend((0..length).map(|n| n.wrapping_mul(167).wrapping_add(13)));
    record
}

/// Says these pieces to `target`, each when the answer to the one before it is whole, and shows what came.
///
/// # Errors
/// Nobody listens there.
pub fn say(target: SocketAddr, pieces: &[Vec<u8>], then: Option<End>) -> Result<Seen> {
    let mut tcp = TcpStream::connect(target)?;
    tcp.set_nodelay(true)?;
    let mut flow = Flow::new(Instant::now());
    for piece in pieces {
        if tcp.write_all(piece).is_err() {
            break;
        }
        read(&mut tcp, &mut flow, QUIET * 2)?;
    }
    if then == Some(End::Fin) {
        tcp.shutdown(std::net::Shutdown::Write).ok();
    }
    read(&mut tcp, &mut flow, PATIENCE)?;
    Ok(seen(&flow, 0))
}

/// Reads until nothing has come for so long, or to the end.
fn read(tcp: &mut TcpStream, flow: &mut Flow, patience: Duration) -> Result<()> {
    tcp.set_read_timeout(Some(patience))?;
    let mut piece = [0; 16_384];
    while flow.end().is_none() {
        match tcp.read(&mut piece) {
            Ok(0) => flow.ended(End::Fin, Instant::now()),
            Ok(n) => flow.push(piece.get(..n).unwrap_or_default(), Instant::now()),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => break,
            Err(_) => flow.ended(End::Rst, Instant::now()),
        }
    }
    Ok(())
}
