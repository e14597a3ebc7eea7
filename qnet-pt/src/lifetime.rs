//! When the process ends: SIGTERM and SIGINT, the end of standard input where the parent says that it means
//! something, and the parent's death.

use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// How long open connections may go on after the first request to end. Arti kills after five seconds.
const GRACE: Duration = Duration::from_secs(3);
/// How often the parent is looked for. C tor gives its client transports no end of input to wait for, and a
/// signal on the parent's death would come when the parent's *thread* ends, which is nothing in Arti.
const PARENT_CHECK: Duration = Duration::from_secs(2);

/// Tells connections and listeners that the end has come, and knows when they are gone.
#[derive(Clone)]
pub(crate) struct Lifetime {
    ending: watch::Receiver<bool>,
    /// Held by everything that has to finish.
    alive: mpsc::Sender<()>,
}

/// The owner's side of a [`Lifetime`].
pub(crate) struct Ender {
    ending: watch::Sender<bool>,
    alive: mpsc::Sender<()>,
    gone: mpsc::Receiver<()>,
}

impl Lifetime {
    /// Waits until no new connections are wanted.
    pub(crate) async fn ending(&self) {
        let mut ending = self.ending.clone();
        // An error means that the owner is gone: that is the end too.
        let _ = ending.wait_for(|ending| *ending).await;
    }

    /// A token for one connection: while it lives, an ending process waits for it.
    pub(crate) fn token(&self) -> mpsc::Sender<()> {
        self.alive.clone()
    }
}

impl Ender {
    pub(crate) fn new() -> (Self, Lifetime) {
        let (ending, observed) = watch::channel(false);
        let (alive, gone) = mpsc::channel(1);
        let lifetime = Lifetime { ending: observed, alive: alive.clone() };
        (Self { ending, alive, gone }, lifetime)
    }

    /// Waits for a reason to end, stops listeners, and gives connections a short time; a second reason ends at
    /// once. `lifetime` must have been moved to those who use it.
    pub(crate) async fn run(self, mut reasons: Reasons) {
        let reason = reasons.next().await;
        tracing::debug!("ending: {reason}");
        let Self { ending, alive, mut gone } = self;
        drop(alive);
        ending.send_replace(true);
        tokio::select! {
            _ = gone.recv() => {}
            _ = reasons.next() => {}
            () = tokio::time::sleep(GRACE) => {}
        }
    }
}

/// What may end the process.
pub(crate) struct Reasons {
    signals: Signals,
    stdin: Option<mpsc::Receiver<()>>,
    parent: Parent,
}

impl Reasons {
    /// Begins to watch.
    ///
    /// # Errors
    /// The system gives no signal handlers or no thread.
    pub(crate) fn watch(stdin: bool) -> std::io::Result<Self> {
        let stdin = if stdin { Some(stdin_end()?) } else { None };
        Ok(Self { signals: Signals::watch()?, stdin, parent: Parent::now() })
    }

    async fn next(&mut self) -> &'static str {
        let stdin = async {
            match self.stdin.as_mut() {
                Some(stdin) => stdin.recv().await,
                None => std::future::pending().await,
            }
        };
        let reason = tokio::select! {
            name = self.signals.next() => name,
            _ = stdin => "end of standard input",
            () = self.parent.died() => "the parent died",
        };
        // Its channel stays closed: it is one reason, not one after the other.
        if reason == "end of standard input" {
            self.stdin = None;
        }
        reason
    }
}

/// A thread of its own reads standard input: reads there cannot be cancelled, and must not keep the runtime alive.
fn stdin_end() -> std::io::Result<mpsc::Receiver<()>> {
    let (sender, receiver) = mpsc::channel(1);
    std::thread::Builder::new().name("stdin".to_owned()).spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        drop(sender);
    })?;
    Ok(receiver)
}

#[cfg(unix)]
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn watch() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        // Tor reloads on SIGHUP, and a terminal sends it to both: caught, it does not end a transport in use.
        drop(signal(SignalKind::hangup())?);
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn watch() -> std::io::Result<Self> {
        Ok(Self)
    }

    async fn next(&mut self) -> &'static str {
        let _ = tokio::signal::ctrl_c().await;
        "interrupt"
    }
}

/// The process that started this one.
struct Parent {
    #[cfg(unix)]
    id: u32,
    dead: bool,
}

impl Parent {
    fn now() -> Self {
        Self {
            #[cfg(unix)]
            id: std::os::unix::process::parent_id(),
            dead: false,
        }
    }

    /// Waits until it is gone, once.
    async fn died(&mut self) {
        loop {
            tokio::time::sleep(PARENT_CHECK).await;
            if !self.dead && self.is_gone() {
                self.dead = true;
                return;
            }
        }
    }

    /// An orphan has another parent.
    #[cfg(unix)]
    fn is_gone(&self) -> bool {
        std::os::unix::process::parent_id() != self.id
    }

    #[cfg(not(unix))]
    fn is_gone(&self) -> bool {
        false
    }
}
