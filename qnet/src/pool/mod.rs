//! The bridges together: streams go by the fastest one that answers, and by the next where it does not.
//!
//! 1. Up to three bridges are connected to at the start and probed from end to end, which also gives their round trips; others
//!    wait for one of these to fail. Each connection loads a page, and shows whoever watches one bridge more.
//! 2. A stream is asked for at the best. Where no answer has come after a second or so, it is asked for at the next too, and
//!    the first to connect has it. Nothing of the application's was sent before an answer, so nothing is sent twice.
//! 3. A tunnel that kept a stream waiting is looked at: it answers a probe or is replaced. Meanwhile others go first.
//! 4. Where all fail, the request waits for whichever bridge is back first.

mod bridge;
mod probe;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use qnet_transport::Stream;
use qnet_transport::client::Dialer;
use qnet_wire::bridge_line::BridgeLine;
use qnet_wire::target::{Answer, Request};
use tokio::sync::{Semaphore, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep_until, timeout_at};

pub(crate) use bridge::{Bridge, Phase};
pub(crate) use probe::Probe;

/// How long a request may take in all: a bridge may have to be dialled, and applications give up after a minute.
const OPEN_LIMIT: Duration = Duration::from_secs(45);
/// How long the best bridge has for itself, at least and at most: three of its round trips. With a second bridge that is
/// connected the answer is there within 3 s of a bridge's loss.
const LEAST_HEAD_START: Duration = Duration::from_millis(800);
const MOST_HEAD_START: Duration = Duration::from_millis(1_500);
/// Bridges that are connected to at once.
const CONNECTED: usize = 3;
/// Between rounds over all bridges, where the failure of each came at once.
const ROUND_PAUSE: Duration = Duration::from_millis(100);

/// The bridges of one proxy.
pub(crate) struct Pool {
    dialer: Dialer,
    probe: watch::Sender<Probe>,
    bridges: Mutex<Vec<Kept>>,
    news: watch::Sender<()>,
    slots: Arc<Semaphore>,
}

struct Kept {
    bridge: Arc<Bridge>,
    task: AbortHandle,
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A stream, and which bridge it goes by.
pub(crate) struct Opened {
    pub(crate) stream: Stream,
    _use: Using,
}

/// Counts a stream at its bridge until it is dropped.
struct Using(Arc<Bridge>);

impl Using {
    fn new(bridge: Arc<Bridge>) -> Self {
        bridge.used(true);
        Self(bridge)
    }
}

impl Drop for Using {
    fn drop(&mut self) {
        self.0.used(false);
    }
}

/// Why there is no stream.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OpenError {
    /// The far end's word; another bridge would say the same, or none is left.
    #[error("{0}")]
    Refused(Answer),
    /// No bridge answered.
    #[error("no bridge could be reached: {0}")]
    NoBridge(Arc<str>),
}

/// Whether a session's carriers may go by either line: those of one bridge, for the same client.
fn same_way(one: &BridgeLine, other: &BridgeLine) -> bool {
    one.key == other.key && one.invitation == other.invitation
}

impl Pool {
    /// Connects to all bridges.
    pub(crate) fn start(dialer: Dialer, lines: &[BridgeLine], probe: Probe) -> Arc<Self> {
        let pool = Arc::new(Self {
            dialer,
            probe: watch::Sender::new(probe),
            bridges: Mutex::default(),
            news: watch::Sender::new(()),
            slots: Arc::new(Semaphore::new(CONNECTED)),
        });
        pool.change(lines);
        pool
    }

    /// Other bridges from now on; those that stay keep their tunnels. Streams by those that go end when they end.
    pub(crate) fn change(&self, lines: &[BridgeLine]) {
        let mut groups: Vec<Vec<BridgeLine>> = Vec::new();
        for line in lines {
            match groups.iter_mut().find(|group| group.first().is_some_and(|first| same_way(first, line))) {
                Some(group) => group.push(line.clone()),
                None => groups.push(vec![line.clone()]),
            }
        }
        let mut bridges = self.bridges.lock().unwrap_or_else(PoisonError::into_inner);
        let mut before = std::mem::take(&mut *bridges);
        for (index, lines) in groups.into_iter().enumerate() {
            let number = index + 1;
            let same = |kept: &Kept| kept.bridge.number == number && kept.bridge.lines == lines;
            let kept = match before.iter().position(same) {
                Some(place) => before.swap_remove(place),
                None => self.keep(Bridge::new(number, lines)),
            };
            bridges.push(kept);
        }
        drop(bridges);
        self.news.send_replace(());
    }

    fn keep(&self, bridge: Bridge) -> Kept {
        let bridge = Arc::new(bridge);
        let (dialer, probe) = (self.dialer.clone(), self.probe.subscribe());
        let keeping = Arc::clone(&bridge).keep(dialer, probe, self.news.clone(), Arc::clone(&self.slots));
        Kept { bridge, task: tokio::spawn(keeping).abort_handle() }
    }

    /// Ends all sessions, whoever else holds the pool, and returns when their bridges have been told: they would keep them for half
    /// an hour, with the connections that their streams lead to.
    pub(crate) async fn end(&self) {
        // Nobody makes them anew first.
        let kept = std::mem::take(&mut *self.bridges.lock().unwrap_or_else(PoisonError::into_inner));
        // At once: a bridge that takes nothing any more does not keep the others from hearing.
        let mut ending = JoinSet::new();
        for bridge in kept.into_iter().map(|kept| Arc::clone(&kept.bridge)) {
            if let Phase::Up(up) = bridge.phase() {
                ending.spawn(async move { up.tunnel.end().await });
            }
        }
        while ending.join_next().await.is_some() {}
    }

    /// Probes otherwise from now on.
    pub(crate) fn probe_by(&self, probe: Probe) {
        self.probe.send_replace(probe);
    }

    /// Makes new tunnels to all bridges.
    pub(crate) fn redial(&self) {
        self.bridges().iter().for_each(|bridge| bridge.redial());
    }

    /// The bridges in the user's order.
    pub(crate) fn bridges(&self) -> Vec<Arc<Bridge>> {
        let bridges = self.bridges.lock().unwrap_or_else(PoisonError::into_inner);
        bridges.iter().map(|kept| Arc::clone(&kept.bridge)).collect()
    }

    /// Hears of every change of any bridge.
    pub(crate) fn news(&self) -> watch::Receiver<()> {
        self.news.subscribe()
    }

    /// Opens a stream and asks for `request` on it; for nothing where the far end is one fixed server.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub(crate) async fn open(&self, request: Option<&Request>) -> Result<Opened, OpenError> {
        let until = Instant::now() + OPEN_LIMIT;
        let mut last = OpenError::NoBridge("none answered in time".into());
        loop {
            let mut news = self.news();
            match timeout_at(until, self.round(request)).await {
                Err(_) => return Err(last),
                Ok(Err(error @ OpenError::NoBridge(_))) => last = error,
                Ok(done) => return done,
            }
            sleep_until(until.min(Instant::now() + ROUND_PAUSE)).await;
            if timeout_at(until, news.changed()).await.is_err() {
                return Err(last);
            }
        }
    }

    /// Asks at one bridge after the other, without waiting for the earlier ones for long.
    async fn round(&self, request: Option<&Request>) -> Result<Opened, OpenError> {
        let mut order = self.ranked();
        let mut attempts: JoinSet<Result<Opened, OpenError>> = JoinSet::new();
        let mut worst = OpenError::NoBridge("there is no bridge".into());
        let mut next_at = Instant::now();
        loop {
            if attempts.is_empty() {
                next_at = Instant::now();
            }
            tokio::select! {
                biased;
                Some(done) = attempts.join_next() => match done {
                    Ok(Ok(opened)) => return Ok(opened),
                    Ok(Err(error)) if error.is_final() => return Err(error),
                    Ok(Err(error)) => {
                        worst = worse(worst, error);
                        next_at = Instant::now();
                    }
                    // A task that panicked has no answer.
                    Err(_) => next_at = Instant::now(),
                },
                () = sleep_until(next_at), if !order.is_empty() => {
                    if let Some(bridge) = order.pop_front() {
                        let head_start = head_start(&bridge);
                        next_at = Instant::now() + head_start;
                        attempts.spawn(attempt(bridge, request.cloned(), head_start));
                    }
                }
                else => return Err(worst),
            }
        }
    }

    /// The bridges, best first.
    fn ranked(&self) -> VecDeque<Arc<Bridge>> {
        let mut bridges = self.bridges();
        bridges.sort_by_key(|bridge| match bridge.phase() {
            Phase::Up(up) if !up.silent() => (0, up.proved().round_trip),
            Phase::Up(up) => (1, up.proved().round_trip),
            Phase::Dialling => (2, Duration::ZERO),
            Phase::Failed(_) => (3, Duration::ZERO),
            Phase::Standby => (4, Duration::ZERO),
        });
        bridges.into()
    }
}

impl OpenError {
    /// Whether another bridge would say the same: what is wrong is the target. A policy, a lack and a limit are one bridge's.
    fn is_final(&self) -> bool {
        match self {
            Self::Refused(answer) => {
                matches!(answer, Answer::HostUnreachable | Answer::Refused | Answer::TimedOut)
            }
            Self::NoBridge(_) => false,
        }
    }
}

/// A bridge's word goes before a bridge's silence.
fn worse(before: OpenError, new: OpenError) -> OpenError {
    match (&before, &new) {
        (OpenError::Refused(_), OpenError::NoBridge(_)) => before,
        _ => new,
    }
}

fn head_start(bridge: &Bridge) -> Duration {
    match bridge.phase() {
        Phase::Up(up) => (3 * up.proved().round_trip).clamp(LEAST_HEAD_START, MOST_HEAD_START),
        Phase::Dialling | Phase::Failed(_) | Phase::Standby => MOST_HEAD_START,
    }
}

/// One try at one bridge. `patience`: after so long without an answer its tunnel is looked at.
async fn attempt(
    bridge: Arc<Bridge>,
    request: Option<Request>,
    patience: Duration,
) -> Result<Opened, OpenError> {
    let up = bridge.up().await.map_err(OpenError::NoBridge)?;
    let using = Using::new(Arc::clone(&bridge));
    let failed = |error: &dyn std::fmt::Display| OpenError::NoBridge(format!("{bridge}: {error}").into());
    let mut stream = up.tunnel.open().map_err(|error| failed(&error))?;
    let Some(request) = request else { return Ok(Opened { stream, _use: using }) };
    let asking = async {
        let doubt_at = Instant::now() + patience;
        let mut asking = std::pin::pin!(probe::ask(&mut stream, &request));
        match timeout_at(doubt_at, &mut asking).await {
            Ok(answer) => answer,
            Err(_) => {
                bridge.doubt();
                asking.await
            }
        }
    };
    let answer = tokio::select! {
        answer = asking => answer.map_err(|error| failed(&error))?,
        () = bridge.over(&up) => return Err(failed(&"its tunnel was replaced")),
    };
    bridge.answered(&up);
    match answer {
        Answer::Connected => Ok(Opened { stream, _use: using }),
        refused => Err(OpenError::Refused(refused)),
    }
}
