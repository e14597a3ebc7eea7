//! What `qnet-bridge run` does once it listens: it serves streams, heeds signals, and ends without tearing anything that can go on.

use std::{net::TcpListener, os::unix::net::UnixStream, sync::Arc};

use anyhow::{Context as _, Result};
use qnet_transport::bridge::{Holding, Incoming};
use tokio::{
    net::UnixStream as Channel,
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
    task::JoinSet,
    time::sleep,
};

use crate::{
    exit::Exit,
    handover::{self, Program, Successor, Taken},
    listeners::Listeners,
    metrics::Metrics,
    numbers::Tally,
    run::Run,
    settings::Plan,
    systemd,
};

/// A bridge that listens.
pub(crate) struct Service<'a, F> {
    pub(crate) listeners: Listeners,
    pub(crate) exit: Arc<Exit>,
    pub(crate) plan: Plan,
    pub(crate) invocation: &'a Run,
    /// Reads again what the plan names: the site, who is invited.
    pub(crate) read_again: &'a F,
    pub(crate) signals: Signals,
    /// What succeeds this process.
    pub(crate) program: Program,
    /// The sockets that are handed over.
    pub(crate) sockets: Vec<TcpListener>,
    /// To the processes that were there before, the oldest first: handed over as well.
    pub(crate) older: Vec<UnixStream>,
    /// What only one process may do: it tells numbers, hears older processes' last words and renews the certificate.
    pub(crate) alone: (Option<Metrics>, JoinSet<()>),
    pub(crate) tally: Arc<Tally>,
}

/// Why no more connections are taken.
enum Stop {
    Told,
    /// This process takes them.
    Succeeded(Successor),
}

impl<F: Fn(&Plan)> Service<'_, F> {
    /// Serves until told to end, and then until the streams have ended or their time is over; or until another process has taken
    /// over, and then until the connections have.
    pub(crate) async fn run(mut self) {
        // Held by every stream.
        let (alive, gone) = mpsc::channel::<()>(1);
        let stop = self.serve(&alive).await;
        self.listeners.stop_listening().await;
        self.sockets.clear();
        let Stop::Succeeded(Successor { pid, channel }) = stop else {
            drop(alive);
            return self.drain(gone).await;
        };
        self.alone = (None, JoinSet::new());
        systemd::main_process(pid);
        let channel = Arc::new(channel);
        let mut held = JoinSet::new();
        held.spawn(answer(Arc::clone(&channel), self.listeners.first.holding(), Arc::clone(&self.tally)));
        let tally = Arc::clone(&self.tally);
        let done = self.go_on(pid, &alive).await;
        drop(alive);
        if !done {
            self.drain(gone).await;
        }
        handover::say(&*channel, &tally.own().encode());
    }

    fn take(&self, incoming: Incoming, alive: &mpsc::Sender<()>) {
        let (exit, alive) = (Arc::clone(&self.exit), alive.clone());
        tokio::spawn(async move {
            exit.serve(incoming).await;
            drop(alive);
        });
    }

    async fn serve(&mut self, alive: &mpsc::Sender<()>) -> Stop {
        let mut successors = JoinSet::new();
        loop {
            tokio::select! {
                incoming = self.listeners.accept() => match incoming {
                    Some(incoming) => self.take(incoming, alive),
                    None => return Stop::Told,
                },
                _ = self.signals.hangup.recv() => self.read_again(),
                _ = self.signals.upgrade.recv() => self.begin_upgrade(&mut successors),
                Some(done) = successors.join_next() => match done.context("a bug").flatten() {
                    Ok(successor) => return Stop::Succeeded(successor),
                    Err(error) => tracing::error!("no upgrade, and this process goes on: {error:#}"),
                },
                () = self.signals.end.recv() => return Stop::Told,
            }
        }
    }

    fn begin_upgrade(&self, successors: &mut JoinSet<Result<Successor>>) {
        if !successors.is_empty() {
            tracing::info!("a new process is being started already");
            return;
        }
        let sockets: std::io::Result<_> = self.sockets.iter().map(TcpListener::try_clone).collect();
        let older: std::io::Result<_> = self.older.iter().map(UnixStream::try_clone).collect();
        match sockets.and_then(|sockets| Ok((sockets, older?))) {
            Ok((sockets, older)) => {
                tracing::info!("starting the process that takes over");
                successors.spawn(self.program.clone().succeed(sockets, older));
            }
            Err(error) => tracing::error!("no upgrade, and this process goes on: {error}"),
        }
    }

    /// Lets the connections that are there go on, clients' and visitors', and the sessions, whose next connections come by way of the
    /// successor: whether they came to their end.
    async fn go_on(&mut self, pid: u32, alive: &mpsc::Sender<()>) -> bool {
        tracing::info!(
            "process {pid} takes the connections from now on; those that are here may go on for {} s",
            self.plan.upgrade_drain.as_secs()
        );
        let counter = self.listeners.counter();
        let drained = counter.drained();
        let limit = sleep(self.plan.upgrade_drain);
        tokio::pin!(drained, limit);
        loop {
            tokio::select! {
                Some(incoming) = self.listeners.accept() => self.take(incoming, alive),
                _ = self.signals.hangup.recv() => self.read_again(),
                _ = self.signals.upgrade.recv() => tracing::info!("process {pid} has taken over already"),
                () = &mut drained => return true,
                () = &mut limit => return true,
                () = self.signals.end.recv() => return false,
            }
        }
    }

    /// Lets streams go on for a while, and takes no new ones.
    async fn drain(mut self, mut gone: mpsc::Receiver<()>) {
        tracing::info!(
            "ending: no new connections are taken; {} streams may go on for {} s (a second signal ends them)",
            self.exit.clients.streams(),
            self.plan.drain.as_secs()
        );
        tokio::select! {
            // New streams are dropped, so that their clients turn to another bridge.
            () = async { while let Some(incoming) = self.listeners.accept().await { drop(incoming) } } => {}
            _ = gone.recv() => {}
            () = self.signals.end.recv() => {}
            () = sleep(self.plan.drain) => {}
        }
    }

    fn read_again(&mut self) {
        self.reload();
        (self.read_again)(&self.plan);
    }

    /// Takes the file's destination, limits and drains; the rest needs a restart.
    fn reload(&mut self) {
        let new = match self.invocation.plan() {
            Ok(new) => new,
            Err(error) => {
                tracing::error!("the settings stay as they are: {error:#}");
                return;
            }
        };
        self.exit.set(new.destination.clone(), new.limits.clone());
        let Plan { destination, limits, drain, upgrade_drain, .. } = new.clone();
        self.plan = Plan { destination, limits, drain, upgrade_drain, ..self.plan.clone() };
        if self.plan == new {
            tracing::info!("the settings were read again");
        } else {
            tracing::warn!(
                "the settings were read again, but listen, proxy-protocol, state, url, invited, metrics and which site answers strangers stay \
                 until a restart"
            );
        }
    }
}

/// Serves what the successor hands over.
async fn answer(channel: Arc<Channel>, holding: Holding, tally: Arc<Tally>) {
    while let Some(taken) = handover::taken(&channel).await {
        match taken {
            Taken::Carrier(link) => {
                let holding = holding.clone();
                tokio::spawn(async move { holding.serve(link).await });
            }
            Taken::Question(socket) => handover::say(&socket, &tally.own().encode()),
        }
    }
}

/// The signals that a bridge heeds.
pub(crate) struct Signals {
    hangup: Signal,
    upgrade: Signal,
    pub(crate) end: End,
}

/// Those that end it.
pub(crate) struct End {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// To be called early: until then, each ends the process.
    pub(crate) fn watch() -> Result<Self> {
        let on = |kind| signal(kind).context("the system gives no signal handlers");
        let end = End { terminate: on(SignalKind::terminate())?, interrupt: on(SignalKind::interrupt())? };
        Ok(Self { hangup: on(SignalKind::hangup())?, upgrade: on(SignalKind::user_defined2())?, end })
    }
}

impl End {
    pub(crate) async fn recv(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
