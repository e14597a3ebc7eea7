//! Drives a sans-I/O carrier over its sockets: one task a carrier owns it and them. Carriers of one session and its users meet
//! in `Shared`.

use std::{
    future::poll_fn,
    io::{self, Read as _},
    net::Shutdown,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use qnet_proto::{
    Ended,
    carrier::{Carrier, Close, Event, Side},
    session::SharedSession,
};
use tokio::{
    io::Interest,
    net::TcpStream,
    sync::{oneshot, watch},
};

use crate::{
    elsewhere::{Link, Moved},
    session::Shared,
    stream::Stream,
    timer::Timer,
};

/// Rounds of reading and writing before the task lets others run.
const ROUNDS: usize = 16;

/// What Linux takes for a segment's end; elsewhere each write is one as long as the path keeps up (TCP_NODELAY).
#[cfg(target_os = "linux")]
const END_OF_RECORD: i32 = libc::MSG_EOR;
#[cfg(not(target_os = "linux"))]
const END_OF_RECORD: i32 = 0;

/// How far a carrier has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Progress {
    Begun,
    Proved,
    Up,
    Over(Ended),
}

/// What becomes of a carrier that somebody waited for. Dropping the sender closes the connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fate {
    /// It carries its session.
    Keep,
    /// It goes on without a user, as a page left open, until it ends by itself.
    LeaveOpen,
}

/// What the driver does with what only one role has: hellos to judge, streams the peer opened, sessions to find.
pub(crate) trait Host: Send {
    /// Whether the budget permits opening a hello of this client.
    fn allow(&mut self) -> bool;
    /// What users share of the session that the carrier carries; `established`: for good.
    fn shared(&mut self, session: &SharedSession, established: bool) -> Arc<Shared>;
    /// A stream the peer opened; dropped if nobody takes it.
    fn stream(&mut self, stream: Stream);
    /// A connection to a process that may have the session, and was not asked yet.
    fn link(&mut self) -> Option<Link> {
        None
    }
}

/// The clock of this floor; below it time comes in as an argument.
pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// The task that owns a carrier and its sockets.
pub(crate) struct Driver<H> {
    core: Box<dyn Carrier + Send>,
    /// The session as its users see it, and this task's number there.
    shared: Option<(Arc<Shared>, u64)>,
    progress: watch::Sender<Progress>,
    fate: Option<oneshot::Receiver<Fate>>,
    /// None where the carrier's own connection is in another process.
    peer: Option<Socket>,
    decoy: Option<Socket>,
    link: Option<Link>,
    host: H,
    timer: Timer,
    wakers: Vec<Waker>,
    /// The carrier came, went or changed its session: the others should look.
    changed: bool,
}

/// A socket with what was already done to it.
pub(crate) struct Socket {
    tcp: Arc<TcpStream>,
    read_ended: bool,
    /// It is gone: nothing is written any more.
    reset: bool,
    /// Completes when a reset follows the far end's FIN, which nothing else tells of while there is nothing to write.
    watch: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl From<TcpStream> for Socket {
    fn from(tcp: TcpStream) -> Self {
        Self { tcp: Arc::new(tcp), read_ended: false, reset: false, watch: None }
    }
}

impl<H: Host> Driver<H> {
    pub(crate) fn new(
        core: Box<dyn Carrier + Send>,
        peer: TcpStream,
        decoy: Option<TcpStream>,
        host: H,
    ) -> Self {
        let (peer, decoy) = (Some(peer.into()), decoy.map(Into::into));
        Self { peer, decoy, ..Self::linked(core, None, host) }
    }

    /// A core that has a connection to another process and no other.
    pub(crate) fn linked(core: Box<dyn Carrier + Send>, link: Option<Link>, host: H) -> Self {
        Self {
            core,
            shared: None,
            progress: watch::Sender::new(Progress::Begun),
            fate: None,
            peer: None,
            decoy: None,
            link,
            host,
            timer: Timer::default(),
            wakers: Vec::new(),
            changed: false,
        }
    }

    /// How far it has come, and who decides what becomes of it.
    pub(crate) fn watched(&mut self) -> (watch::Receiver<Progress>, oneshot::Sender<Fate>) {
        let (sender, receiver) = oneshot::channel();
        self.fate = Some(receiver);
        (self.progress.subscribe(), sender)
    }

    /// Runs until the carrier is finished.
    pub(crate) async fn run(mut self) {
        self.find_session(false);
        poll_fn(|cx| self.poll(cx)).await;
        self.leave_session();
    }

    /// The sockets go on without users, or end.
    fn leave_session(&mut self) {
        if let Some((shared, number)) = self.shared.take() {
            tracing::debug!("a carrier ends; shaping in its session so far: {}", shared.session().shaping());
            shared.leave(number);
            shared.wake_all();
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // Enlisted before looking: what is written from here on wakes this task.
        if let Some((shared, number)) = &self.shared {
            shared.register(*number, cx.waker());
        }
        self.poll_fate(cx);
        self.core.flush(now());
        let mut rounds = 0;
        let finished = loop {
            let mut moved = self.step(Side::Peer, cx);
            moved |= self.step(Side::Decoy, cx);
            moved |= self.step(Side::Link, cx);
            moved |= self.events(cx);
            moved |= self.poll_timer(cx);
            rounds += 1;
            let finished = self.core.finished();
            if finished || !moved || rounds == ROUNDS {
                if moved && !finished {
                    cx.waker().wake_by_ref();
                }
                break finished;
            }
        };
        self.tell();
        if !finished {
            return Poll::Pending;
        }
        self.set_progress(Progress::Over(Ended::PeerClosed));
        Poll::Ready(())
    }

    fn poll_fate(&mut self, cx: &mut Context<'_>) {
        let Some(fate) = &mut self.fate else { return };
        let Poll::Ready(decided) = Pin::new(fate).poll(cx) else { return };
        self.fate = None;
        match decided {
            Ok(Fate::Keep) => {}
            Ok(Fate::LeaveOpen) => self.core.leave(now()),
            Err(_) => self.core.close(now()),
        }
    }

    /// Wakes whom this carrier's work brought something.
    fn tell(&mut self) {
        let Some((shared, _)) = &self.shared else { return };
        shared.collect(std::mem::take(&mut self.changed), &mut self.wakers);
        for waker in self.wakers.drain(..) {
            waker.wake();
        }
    }

    /// Takes part in the session that the carrier carries now.
    fn find_session(&mut self, established: bool) {
        let Some(session) = self.core.session() else { return };
        let found = self.host.shared(session, established);
        self.changed = true;
        if let Some((shared, number)) = &self.shared {
            if Arc::ptr_eq(shared, &found) {
                return;
            }
            shared.leave(*number);
        }
        let number = found.enter();
        self.shared = Some((found, number));
    }

    /// Writes, ends and reads one side as far as it goes without waiting.
    fn step(&mut self, side: Side, cx: &mut Context<'_>) -> bool {
        let core = &mut *self.core;
        let socket = match side {
            Side::Peer => &mut self.peer,
            Side::Decoy => &mut self.decoy,
            Side::Link => return self.step_link(cx),
        };
        let Some(socket) = socket else { return false };
        let result = socket
            .write(side, core, cx)
            .and_then(|wrote| Ok(wrote | socket.end(side, core)?))
            // Before reading: a FIN just read goes on to the other side before the reset that follows it.
            .and_then(|moved| socket.watch(cx).map(|()| moved))
            .and_then(|moved| Ok(moved | socket.read(side, core, cx)?));
        result.unwrap_or_else(|_| {
            if socket.reset {
                return false;
            }
            // What came before a reset that only a write noticed was said all the same: a decoy's alert, as a rule.
            socket.drain(side, core);
            (socket.reset, socket.read_ended, socket.watch) = (true, true, None);
            core.ended(side, Close::Reset, now());
            true
        })
    }

    fn step_link(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(link) = &mut self.link else { return false };
        match link.step(&mut *self.core, cx) {
            Moved::Nothing => false,
            Moved::Something => true,
            Moved::Over => {
                self.link = None;
                true
            }
        }
    }

    fn events(&mut self, cx: &mut Context<'_>) -> bool {
        let mut moved = false;
        while let Some(event) = self.core.poll_event() {
            moved = true;
            match event {
                Event::Hello => self.core.judge(self.host.allow()),
                Event::Proved => {
                    self.join_users(false, cx);
                    self.set_progress(Progress::Proved);
                }
                Event::Up => {
                    self.join_users(true, cx);
                    self.set_progress(Progress::Up);
                }
                Event::Elsewhere => {
                    self.link = self.host.link();
                    self.core.linked(self.link.is_some(), now());
                }
                Event::GoingAway => self.changed = true,
                Event::OtherShape(shape) => {
                    let name = &shape.profile().name;
                    tracing::info!(
                        "the bridge does not know the traffic profile that was asked for; both follow {name}"
                    );
                }
                Event::Ended(why) => {
                    self.set_progress(Progress::Over(why));
                    self.leave_session();
                }
            }
        }
        while let Some(stream) = self.shared.as_ref().and_then(|(shared, _)| shared.accept()) {
            moved = true;
            self.host.stream(stream);
        }
        moved
    }

    fn join_users(&mut self, established: bool, cx: &mut Context<'_>) {
        self.find_session(established);
        if let Some((shared, number)) = &self.shared {
            shared.register(*number, cx.waker());
        }
        self.core.flush(now());
    }

    fn set_progress(&self, to: Progress) {
        self.progress.send_if_modified(|known| {
            let news = !matches!(known, Progress::Over(_)) && *known != to;
            if news {
                *known = to;
            }
            news
        });
    }

    fn poll_timer(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(deadline) = self.core.deadline() else {
            self.timer.clear();
            return false;
        };
        if self.timer.poll(deadline, self.core.is_exact(), cx).is_pending() {
            return false;
        }
        self.core.on_timer(now());
        true
    }
}

/// Ends our direction of a socket.
pub(crate) fn end(tcp: &TcpStream, how: Close) -> io::Result<()> {
    let socket = socket2::SockRef::from(tcp);
    match how {
        Close::Fin => {
            // The far end may have reset it meanwhile; then there is nothing left to end.
            let _ = socket.shutdown(Shutdown::Write);
            Ok(())
        }
        // The RST goes out when the socket is dropped.
        Close::Reset => socket.set_linger(Some(Duration::ZERO)),
    }
}

impl Socket {
    fn write(&mut self, side: Side, core: &mut dyn Carrier, cx: &mut Context<'_>) -> io::Result<bool> {
        let mut moved = false;
        while !self.reset && !core.pending(side).is_empty() {
            if self.tcp.poll_write_ready(cx)?.is_pending() {
                break;
            }
            match self.send(core.pending(side), core.ends_segment(side)) {
                Ok(n) => {
                    core.wrote(side, n, now());
                    moved = true;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(moved)
    }

    /// Writes what fits; `alone`: as segments that nothing later is joined to.
    fn send(&self, bytes: &[u8], alone: bool) -> io::Result<usize> {
        if !alone {
            return self.tcp.try_write(bytes);
        }
        // The kernel appends to what it has not sent yet, unless that is marked as a record's end
        // (`tcp_skb_can_collapse_to`, Linux 4.7).
        let socket = socket2::SockRef::from(&*self.tcp);
        self.tcp.try_io(Interest::WRITABLE, || socket.send_with_flags(bytes, END_OF_RECORD))
    }

    /// An error if the far end, which sends nothing more, takes nothing more either.
    fn watch(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if !self.read_ended || self.reset {
            return Ok(());
        }
        let tcp = &self.tcp;
        let watch = self.watch.get_or_insert_with(|| {
            let tcp = Arc::clone(tcp);
            Box::pin(async move {
                tcp.ready(Interest::ERROR).await.ok();
            })
        });
        match watch.as_mut().poll(cx) {
            Poll::Pending => Ok(()),
            Poll::Ready(()) => Err(io::ErrorKind::ConnectionReset.into()),
        }
    }

    fn end(&mut self, side: Side, core: &mut dyn Carrier) -> io::Result<bool> {
        match core.shutdown(side) {
            None => Ok(false),
            Some(how) => end(&self.tcp, how).map(|()| true),
        }
    }

    /// Takes what the kernel still holds, whether or not tokio has heard of it yet.
    fn drain(&self, side: Side, core: &mut dyn Carrier) {
        while core.wants(side) {
            match (&*socket2::SockRef::from(&*self.tcp)).read(core.space(side)) {
                Ok(n) if n > 0 => core.filled(side, n, now()),
                _ => return,
            }
        }
    }

    fn read(&mut self, side: Side, core: &mut dyn Carrier, cx: &mut Context<'_>) -> io::Result<bool> {
        if self.read_ended || !core.wants(side) || self.tcp.poll_read_ready(cx)?.is_pending() {
            return Ok(false);
        }
        match self.tcp.try_read(core.space(side)) {
            Ok(0) => {
                self.read_ended = true;
                core.ended(side, Close::Fin, now());
                Ok(true)
            }
            Ok(n) => {
                core.filled(side, n, now());
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(true),
            Err(error) => Err(error),
        }
    }
}
