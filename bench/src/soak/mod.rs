//! Streams without end through a bridge: of random lengths, with random ends and pauses, while sessions come and go and carriers are cut
//! or freeze. Every byte is checked, every stream has to end, and the programs' memory and descriptors are watched.
//!
//! 1. nginx, `qnet-bridge run` and three `qnet proxy` are started, each of the latter behind a [`Censor`]. One proxy lasts, the other
//!    two are ended and replaced every few seconds.
//! 2. Streams go through any of them, some at once: what each does is drawn from its number (`plan`), and both ends do their
//!    part of it and check the other's (`ends`).
//! 3. Meanwhile the censor resets all connections now and then, and lets others freeze after some megabytes.
//! 4. When all have ended the lasting proxy's and the bridge's descriptors must be as many as before (`watch`).

mod ends;
mod plan;
mod watch;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use qnet_tests::support::censor::{Censor, Manner};
use qnet_tests::support::decoy::{self, Decoy, Server};
use qnet_tests::support::process::{Running, free_address};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::sleep;

use self::ends::Outcome;
use self::plan::Draw;
pub use self::watch::{Programs, Sample};
use crate::peers::Qnet;

/// The decoy's idle limit: longer than a session rests here.
const DECOY_IDLE: Duration = Duration::from_secs(600);

/// Proxies that come and go.
const PASSING: usize = 2;

/// How long one of them is there, seconds, from and to.
const STAY: (u64, u64) = (4, 12);

/// Between two cuts of all carriers, seconds, from and to: a session may make six carriers a minute.
const CUT: (u64, u64) = (12, 36);

/// Bytes down after which a carrier freezes, from and to.
const FREEZE: (u64, u64) = (30 << 20, 400 << 20);

/// How long everything rests before descriptors are counted for the first time: what is made once is there, buffers are freed.
const SETTLE: Duration = Duration::from_secs(8);

/// How often the programs are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// How long an application waits before it asks a proxy again that is not there.
const AGAIN: Duration = Duration::from_millis(20);

/// How much is done.
#[derive(Clone, Copy, Debug)]
pub struct Amount {
    /// Streams in all.
    pub streams: u64,
    /// They are fewer if this is over before.
    pub time: Duration,
    /// Streams at once.
    pub at_once: usize,
    /// How long nothing happens before it is looked what is left.
    pub rest: Duration,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Report {
    /// Streams that ended.
    pub streams: u64,
    /// Those that went as planned, to their end.
    pub whole: u64,
    /// Those that one side broke off, as planned.
    pub broken: u64,
    /// Those that ended before their time because their proxy did.
    pub ended_with_proxy: u64,
    /// Those that ended before their time with an error, though their session lasted.
    pub lost: u64,
    /// Those whose end came early and looked like the end of all, at either side, though their session lasted.
    pub silent: u64,
    /// Those with a wrong byte at either side.
    pub corrupt: u64,
    /// Those that did not end within `ends::LIMIT` at either side.
    pub stuck: u64,
    /// Numbers of the first streams that went wrong: what they are can be drawn again.
    pub wrong: Vec<u64>,
    /// Payload bytes planned, of the streams that ended.
    pub bytes: u64,
    /// Proxies that came and went.
    pub sessions: u64,
    /// Connections that were cut, and that froze.
    pub cut: u64,
    /// See `cut`.
    pub frozen: u64,
    /// Carriers in all.
    pub carriers: u64,
    /// How long it took.
    pub took: Duration,
    /// The programs each second.
    pub samples: Vec<Sample>,
    /// Before any stream but the first, and after the last.
    pub rest: [Sample; 2],
}

impl Report {
    /// What is wrong, in words; nothing where all is well. Memory is left to `watch::creeps`: a short run says nothing of it.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        for (count, what) in [
            (self.corrupt, "streams with a wrong byte"),
            (self.stuck, "streams that did not end"),
            (self.lost, "streams of a session that lasted were lost"),
            (self.silent, "streams of a session that lasted ended early and silently"),
        ] {
            if count > 0 {
                faults.push(format!("{count} {what} (numbers {:?})", self.wrong));
            }
        }
        let [before, after] = self.rest;
        for (name, before, after) in [
            ("client", before.descriptors[0], after.descriptors[0]),
            ("bridge", before.descriptors[1], after.descriptors[1]),
        ] {
            if after > before {
                faults.push(format!("{name}: {before} descriptors before, {after} after"));
            }
        }
        faults
    }

    /// Memory that grew, in words.
    #[must_use]
    pub fn creeping(&self) -> Vec<String> {
        ["client", "bridge"]
            .iter()
            .enumerate()
            .filter_map(|(side, name)| {
                let memory: Vec<u64> = self.samples.iter().map(|sample| sample.resident[side]).collect();
                watch::creeps(&memory).map(|grew| format!("{name}: {grew}"))
            })
            .collect()
    }
}

/// What all tasks share.
struct Shared {
    amount: Amount,
    begun: Instant,
    next: AtomicU64,
    over: AtomicBool,
    /// Where each proxy listens, the lasting one first; none while it is away. With how many were there before it.
    entrances: Mutex<Vec<Option<(SocketAddr, u64)>>>,
    report: Mutex<Report>,
}

impl Shared {
    fn report(&self) -> MutexGuard<'_, Report> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn entrance(&self, place: usize) -> Option<(SocketAddr, u64)> {
        let entrances = self.entrances.lock().unwrap_or_else(PoisonError::into_inner);
        entrances.get(place).copied().flatten()
    }

    fn enter(&self, place: usize, entrance: Option<(SocketAddr, u64)>) {
        let mut entrances = self.entrances.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = entrances.get_mut(place) {
            *known = entrance;
        }
    }

    /// A number for the next stream, while there is to be one.
    fn number(&self) -> Option<u64> {
        if self.begun.elapsed() >= self.amount.time || self.over.load(Ordering::Relaxed) {
            return None;
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        (number < self.amount.streams).then_some(number)
    }
}

/// Runs it with these two programs, `qnet` and `qnet-bridge`; `tell` hears of each sample.
///
/// # Errors
/// A program does not start, or ends. What streams suffer is in the report.
pub fn run(
    programs: [std::path::PathBuf; 2],
    amount: Amount,
    tell: impl Fn(&Sample) + Send + Sync,
) -> Result<Report> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let options = decoy::Options { idle: DECOY_IDLE, ..decoy::Options::default() };
    let decoy = Decoy::start(Server::Nginx, options)?;
    let qnet = Qnet::by(programs, &decoy);
    runtime.block_on(soak(&qnet, amount, tell))
}

async fn soak(qnet: &Qnet, amount: Amount, tell: impl Fn(&Sample)) -> Result<Report> {
    let far = TcpListener::bind("127.0.0.1:0").await?;
    let target = far.local_addr()?;
    let shared = Arc::new(Shared {
        amount,
        begun: Instant::now(),
        next: AtomicU64::new(0),
        over: AtomicBool::new(false),
        entrances: Mutex::new(vec![None; 1 + PASSING]),
        report: Mutex::default(),
    });
    let folder = tempfile::tempdir()?;
    let bridge = qnet.bridge_in(folder.path())?;
    let censor = Censor::start(bridge.address, Manner::default()).await?;
    let line = bridge.line_by(censor.address());
    let lasting = proxy(qnet, folder.path(), &line, target, (0, 0))?;
    let watched = Programs { client: lasting.0.pid(), bridge: bridge.program.pid() };
    shared.enter(0, Some((lasting.1, 0)));
    tokio::spawn(serve(far, Arc::clone(&shared)));
    // The session is there, and all that is made once.
    one(&shared, 0, u64::MAX).await;
    *shared.report() = Report::default();
    sleep(SETTLE).await;
    let before = watched.look(0)?;
    let mut tasks = JoinSet::new();
    for _ in 0..amount.at_once {
        tasks.spawn(streams(Arc::clone(&shared)));
    }
    let disturbed = disturb(&censor, &shared);
    let coming = async {
        tokio::try_join!(
            come_and_go(qnet, folder.path(), &line, target, 1, &shared),
            come_and_go(qnet, folder.path(), &line, target, 2, &shared),
        )
    };
    let watching = watch(&watched, &shared, tell);
    let ended = async {
        while let Some(done) = tasks.join_next().await {
            done.map_err(|_| anyhow!("a stream's task panicked"))?;
        }
        shared.over.store(true, Ordering::Relaxed);
        anyhow::Ok(())
    };
    let (cuts, _, (), ()) = tokio::try_join!(disturbed, coming, watching, ended)?;
    let took = shared.begun.elapsed();
    sleep(amount.rest).await;
    let mut report = std::mem::take(&mut *shared.report());
    report.rest = [before, watched.look(report.streams)?];
    (report.took, report.cut) = (took, cuts);
    (report.frozen, report.carriers) = (censor.frozen() as u64, censor.opened() as u64);
    Ok(report)
}

/// One after the other, until there are enough.
async fn streams(shared: Arc<Shared>) {
    while let Some(number) = shared.number() {
        let place = usize::try_from(Draw::new(number).below(1 + PASSING as u64)).unwrap_or(0);
        one(&shared, place, number).await;
    }
}

async fn one(shared: &Shared, place: usize, number: u64) {
    let (stream, place, generation) = loop {
        // The lasting one is always there.
        let (place, (address, generation)) = match shared.entrance(place) {
            Some(entrance) => (place, entrance),
            None => match shared.entrance(0) {
                Some(entrance) => (0, entrance),
                None => return,
            },
        };
        match TcpStream::connect(address).await {
            Ok(stream) => break (stream, place, generation),
            Err(_) => sleep(AGAIN).await,
        }
    };
    stream.set_nodelay(true).ok();
    let outcome = ends::client(stream, number).await;
    let gone = place > 0 && shared.entrance(place).is_none_or(|(_, now)| now != generation);
    let plan = plan::Plan::of(number);
    let mut report = shared.report();
    report.streams += 1;
    report.bytes += plan.up + plan.down;
    match outcome {
        Outcome::Whole => report.whole += 1,
        Outcome::Broken => report.broken += 1,
        Outcome::Lost { .. } if gone => report.ended_with_proxy += 1,
        Outcome::Lost { silently: true } => report.silent += 1,
        Outcome::Lost { silently: false } => report.lost += 1,
        Outcome::Corrupt => report.corrupt += 1,
        Outcome::Stuck => report.stuck += 1,
    }
    let wrong = matches!(outcome, Outcome::Corrupt | Outcome::Stuck)
        || matches!(outcome, Outcome::Lost { .. } if !gone);
    if wrong && report.wrong.len() < 20 {
        report.wrong.push(number);
    }
}

/// The far end of all streams. What it finds lost it resets, and the client counts it.
async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((stream, _)) = listener.accept().await {
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            let outcome = ends::far(stream).await;
            let mut report = shared.report();
            match outcome {
                Some(Outcome::Corrupt) => report.corrupt += 1,
                Some(Outcome::Stuck) => report.stuck += 1,
                _ => {}
            }
        });
    }
}

fn proxy(
    qnet: &Qnet,
    folder: &std::path::Path,
    line: &str,
    far: SocketAddr,
    (place, generation): (usize, u64),
) -> Result<(Running, SocketAddr)> {
    let near = free_address()?;
    let name = format!("proxy-{place}-{generation}");
    let running = qnet.proxy_in(folder, &name, line, near, far)?;
    Ok((running, near))
}

/// A proxy that is ended and replaced, again and again.
async fn come_and_go(
    qnet: &Qnet,
    folder: &std::path::Path,
    line: &str,
    far: SocketAddr,
    place: usize,
    shared: &Shared,
) -> Result<()> {
    let mut draw = Draw::new(place as u64);
    for generation in 1.. {
        // It is started, and ended, by calls that block.
        let (mut running, near) =
            tokio::task::block_in_place(|| proxy(qnet, folder, line, far, (place, generation)))?;
        shared.enter(place, Some((near, generation)));
        pause(&mut draw, STAY, shared).await;
        shared.enter(place, None);
        tokio::task::block_in_place(|| running.stop())?;
        shared.report().sessions += 1;
        if shared.over.load(Ordering::Relaxed) {
            break;
        }
    }
    Ok(())
}

/// Cuts and freezes carriers; returns how many were cut.
async fn disturb(censor: &Censor, shared: &Shared) -> Result<u64> {
    let (mut draw, mut cuts) = (Draw::new(99), 0);
    loop {
        let freeze_after = Some(FREEZE.0 + draw.below(FREEZE.1 - FREEZE.0));
        censor.set_manner(Manner { freeze_after, ..Manner::default() });
        pause(&mut draw, CUT, shared).await;
        if shared.over.load(Ordering::Relaxed) {
            return Ok(cuts);
        }
        cuts += censor.cut() as u64;
    }
}

/// Some seconds, or until all is over.
async fn pause(draw: &mut Draw, (from, to): (u64, u64), shared: &Shared) {
    let until = Instant::now() + Duration::from_millis(from * 1_000 + draw.below((to - from) * 1_000));
    while Instant::now() < until && !shared.over.load(Ordering::Relaxed) {
        sleep(Duration::from_millis(100)).await;
    }
}

async fn watch(programs: &Programs, shared: &Shared, tell: impl Fn(&Sample)) -> Result<()> {
    while !shared.over.load(Ordering::Relaxed) {
        sleep(LOOK).await;
        let streams = shared.report().streams;
        let sample = programs.look(streams).context("a program has ended")?;
        tell(&sample);
        shared.report().samples.push(sample);
    }
    Ok(())
}
