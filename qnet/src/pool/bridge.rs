//! One bridge: a tunnel to it, made anew when it ends, and what is known of it.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use qnet_transport::client::{Dialer, Tunnel};
use qnet_wire::bridge_line::BridgeLine;
use qnet_wire::error::Retry;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::{Instant, sleep, timeout};

use super::probe::{self, Probe, UpError};

/// The pause after the first failed dial; each further one doubles it.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause between dials nobody waits for.
const LONGEST_PAUSE: Duration = Duration::from_secs(5 * 60);
/// The longest pause while somebody waits.
const WANTED_PAUSE: Duration = Duration::from_secs(5);
/// The pause where nothing but a change can help, such as a certificate that is not believed; the change may be a login to the
/// network's own gate.
const HOPELESS_PAUSE: Duration = Duration::from_secs(30);
/// How often a dial that takes long is spoken of.
const STILL: Duration = Duration::from_secs(10);
/// How old a round trip may be before a stream's coming is taken for an occasion to measure it again. Without streams nothing
/// is sent.
const MEASURED_LONG_AGO: Duration = Duration::from_secs(5 * 60);
/// A tunnel that lasted so long was a good one, and its end no failure.
const LASTING: Duration = Duration::from_secs(30);
/// How long a tunnel that seems silent may take to show that it is not. Its session needs a moment where it has to replace a
/// connection.
const DOUBT_LIMIT: Duration = Duration::from_secs(4);
/// How long a session without a connection may rest before it is replaced at its next use: bridges forget those after
/// 2 minutes without a stream, and to be told so would cost a page load more.
const RESTED: Duration = Duration::from_secs(100);

/// A bridge and its tunnel.
pub(crate) struct Bridge {
    /// Its place among those the user gave, from 1: what it is called, for its address and names are not to be shown.
    pub(crate) number: usize,
    /// Its lines, at least one, all with its key.
    pub(crate) lines: Vec<BridgeLine>,
    phase: watch::Sender<Phase>,
    /// Somebody wants a tunnel now.
    wanted: Notify,
    /// The tunnel there is to be replaced.
    replace: Notify,
    /// The tunnel there seems silent.
    doubted: Notify,
    /// The tunnel there may be measured again.
    due: Notify,
    use_of: Mutex<Use>,
}

struct Use {
    streams: usize,
    last: Instant,
}

/// What there is of a tunnel.
#[derive(Clone)]
pub(crate) enum Phase {
    /// Others are connected to; it waits for one of them to fail.
    Standby,
    Dialling,
    Up(Arc<Up>),
    Failed(Arc<str>),
}

/// A tunnel that was probed from end to end.
pub(crate) struct Up {
    pub(crate) tunnel: Tunnel,
    pub(crate) since: Instant,
    state: Mutex<Proved>,
    silent: AtomicBool,
}

/// What was found last.
#[derive(Clone, Copy)]
pub(crate) struct Proved {
    /// When an answer came.
    pub(crate) at: Instant,
    /// How long a probe's answer took.
    pub(crate) round_trip: Duration,
    measured: Instant,
}

impl Up {
    pub(crate) fn proved(&self) -> Proved {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it is in doubt.
    pub(crate) fn silent(&self) -> bool {
        self.silent.load(Ordering::Relaxed)
    }

    /// An answer came; a probe's took as long as this.
    fn prove(&self, round_trip: Option<Duration>) {
        let mut proved = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        proved.at = Instant::now();
        if let Some(round_trip) = round_trip {
            (proved.round_trip, proved.measured) = (round_trip, proved.at);
        }
        self.silent.store(false, Ordering::Relaxed);
    }
}

/// Why a tunnel's time is over.
enum End {
    /// Somebody wants another.
    Wanted,
    /// It ended, or leads nowhere.
    Lost(String),
}

/// Takes back a notice that nobody has heard.
async fn forget(notify: &Notify) {
    tokio::select! {
        biased;
        () = notify.notified() => {}
        () = std::future::ready(()) => {}
    }
}

impl Bridge {
    pub(crate) fn new(number: usize, lines: Vec<BridgeLine>) -> Self {
        Self {
            number,
            lines,
            phase: watch::Sender::new(Phase::Standby),
            wanted: Notify::new(),
            replace: Notify::new(),
            doubted: Notify::new(),
            due: Notify::new(),
            use_of: Mutex::new(Use { streams: 0, last: Instant::now() }),
        }
    }

    pub(crate) fn phase(&self) -> Phase {
        self.phase.borrow().clone()
    }

    /// Its tunnel, once there is one.
    ///
    /// # Errors
    /// Why there is none.
    pub(crate) async fn up(&self) -> Result<Arc<Up>, Arc<str>> {
        self.refresh_if_rested();
        let mut phases = self.phase.subscribe();
        loop {
            match &*phases.borrow_and_update() {
                Phase::Up(up) => return Ok(Arc::clone(up)),
                Phase::Failed(why) => {
                    self.wanted.notify_one();
                    return Err(Arc::clone(why));
                }
                Phase::Standby => return Err("it is on standby".into()),
                Phase::Dialling => {}
            }
            // The sender is this bridge's own.
            let _ = phases.changed().await;
        }
    }

    /// Waits until `up` is not its tunnel any more.
    pub(crate) async fn over(&self, up: &Arc<Up>) {
        let here = |phase: &Phase| matches!(phase, Phase::Up(other) if Arc::ptr_eq(other, up));
        let _ = self.phase.subscribe().wait_for(|phase| !here(phase)).await;
    }

    /// An answer came over `up`.
    pub(crate) fn answered(&self, up: &Up) {
        up.prove(None);
        if up.proved().measured.elapsed() > MEASURED_LONG_AGO {
            self.due.notify_one();
        }
    }

    /// Has a look whether its tunnel still leads somewhere.
    pub(crate) fn doubt(&self) {
        self.doubted.notify_one();
    }

    /// Makes a new tunnel now.
    pub(crate) fn redial(&self) {
        self.replace.notify_one();
        self.wanted.notify_one();
    }

    /// A stream begins (`true`) or ends.
    pub(crate) fn used(&self, begins: bool) {
        let mut use_of = self.use_of.lock().unwrap_or_else(PoisonError::into_inner);
        use_of.last = Instant::now();
        use_of.streams = if begins { use_of.streams + 1 } else { use_of.streams.saturating_sub(1) };
    }

    fn refresh_if_rested(&self) {
        let use_of = self.use_of.lock().unwrap_or_else(PoisonError::into_inner);
        let (idle, last) = (use_of.streams == 0, use_of.last);
        drop(use_of);
        let mut replaced = false;
        self.phase.send_if_modified(|phase| {
            let Phase::Up(up) = phase else { return false };
            replaced = idle && !up.tunnel.is_carried() && last.max(up.proved().at).elapsed() > RESTED;
            if replaced {
                *phase = Phase::Dialling;
            }
            replaced
        });
        if replaced {
            self.replace.notify_one();
        }
    }

    /// Keeps a tunnel to it, for ever; `news` hears of every change. A slot is held from a dial's beginning to the end of the
    /// tunnel it made, or to its failure.
    pub(crate) async fn keep(
        self: Arc<Self>,
        dialer: Dialer,
        probe: watch::Receiver<Probe>,
        news: watch::Sender<()>,
        slots: Arc<Semaphore>,
    ) {
        let set = |phase| {
            self.phase.send_replace(phase);
            news.send_replace(());
        };
        let mut pause = FIRST_PAUSE;
        let mut slot = None;
        loop {
            if slot.is_none() {
                // The semaphore is never closed.
                slot = slots.acquire().await.ok();
            }
            let began = Instant::now();
            set(Phase::Dialling);
            tracing::info!("{self}: connecting: loading its site's page, and waiting for its proof");
            let (why, least, wait) = match self.dial_aloud(&dialer, &probe).await {
                Ok(up) => {
                    let up = Arc::new(up);
                    let (took, round_trip) =
                        (began.elapsed().as_millis(), up.proved().round_trip.as_millis());
                    tracing::info!("{self}: connected after {took} ms; it answers within {round_trip} ms");
                    // A wish for another that came while there was none is fulfilled.
                    forget(&self.replace).await;
                    set(Phase::Up(Arc::clone(&up)));
                    let end = self.watch(&up, &probe, &news).await;
                    let lasted = up.since.elapsed() > LASTING;
                    match end {
                        End::Wanted => {
                            set(Phase::Dialling);
                            sleep(FIRST_PAUSE.saturating_sub(began.elapsed())).await;
                            continue;
                        }
                        End::Lost(why) => {
                            let wait = if lasted { Duration::ZERO } else { pause };
                            (why, wait.min(WANTED_PAUSE), wait)
                        }
                    }
                }
                Err(error) => {
                    let (least, wait) = match error.retry() {
                        Retry::Never => (HOPELESS_PAUSE, LONGEST_PAUSE),
                        Retry::Now | Retry::Later => (pause.min(WANTED_PAUSE), pause),
                    };
                    (error.to_string(), least, wait)
                }
            };
            if wait.is_zero() {
                tracing::warn!("{self}: {why}");
                pause = FIRST_PAUSE;
                continue;
            }
            tracing::warn!("{self}: {why}; the next try is in {} s, or when it is needed", wait.as_secs());
            pause = (2 * pause).min(LONGEST_PAUSE);
            set(Phase::Failed(why.into()));
            slot = None;
            sleep(least).await;
            let _ = timeout(wait.saturating_sub(least), self.wanted.notified()).await;
        }
    }

    /// Dials, and says so where it takes long.
    async fn dial_aloud(&self, dialer: &Dialer, probe: &watch::Receiver<Probe>) -> Result<Up, UpError> {
        let began = Instant::now();
        // Boxed: what it needs while it runs would otherwise stay here for as long as the bridge does.
        let mut dial = Box::pin(self.dial(dialer, probe));
        loop {
            match timeout(STILL, &mut dial).await {
                Ok(done) => return done,
                Err(_) => tracing::info!("{self}: still connecting after {} s", began.elapsed().as_secs()),
            }
        }
    }

    async fn dial(&self, dialer: &Dialer, probe: &watch::Receiver<Probe>) -> Result<Up, UpError> {
        let began = Instant::now();
        let tunnel = dialer.dial_any(&self.lines).await?;
        let probe = probe.borrow().clone();
        let found = probe::first(&tunnel, &probe, &self.lines).await?;
        let now = Instant::now();
        let round_trip = found.unwrap_or(now - began);
        let state = Mutex::new(Proved { at: now, round_trip, measured: now });
        Ok(Up { tunnel, since: now, state, silent: AtomicBool::new(false) })
    }

    /// Waits for the end of a tunnel's time.
    async fn watch(&self, up: &Up, probe: &watch::Receiver<Probe>, news: &watch::Sender<()>) -> End {
        loop {
            let doubted = tokio::select! {
                why = up.tunnel.closed() => return End::Lost(format!("its tunnel ended: {why}")),
                () = self.replace.notified() => return End::Wanted,
                () = self.doubted.notified() => true,
                () = self.due.notified() => false,
            };
            up.silent.store(doubted, Ordering::Relaxed);
            news.send_replace(());
            let probe = probe.borrow().clone();
            match timeout(DOUBT_LIMIT, probe::measure(&up.tunnel, &probe, &self.lines)).await {
                Ok(Ok(round_trip)) => up.prove(round_trip),
                Ok(Err(error)) => return End::Lost(error.to_string()),
                Err(_) => {
                    return End::Lost(format!("nothing comes back any more ({} s)", DOUBT_LIMIT.as_secs()));
                }
            }
            news.send_replace(());
        }
    }
}

impl fmt::Display for Bridge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bridge {}", self.number)
    }
}
