//! Drives a sans-I/O carrier over its sockets: one task a carrier owns them; the user's handles share the core behind a lock that is
//! never held across a wait.

use std::{
    collections::HashMap,
    future::poll_fn,
    io::{self, Read as _},
    net::Shutdown,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use qnet_proto::{
    Ended,
    carrier::{Carrier, Close, Event, Side},
    mux::{StreamId, Wake},
};
use tokio::{io::Interest, net::TcpStream, time::Sleep};

use crate::stream::Stream;

/// Rounds of reading and writing before the task lets others run.
const ROUNDS: usize = 16;

/// How far a carrier has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Progress {
    Begun,
    Proved,
    Up,
    Over(Ended),
}

#[derive(Default)]
struct StreamWakers {
    read: Option<Waker>,
    write: Option<Waker>,
}

/// What the driver's task and the user's handles share.
pub(crate) struct Shared {
    inner: Mutex<Inner>,
}

pub(crate) struct Inner {
    pub(crate) core: Box<dyn Carrier + Send>,
    pub(crate) progress: Progress,
    pub(crate) going_away: bool,
    /// Tunnel and stream handles of the user.
    handles: usize,
    /// The carrier goes on without its user.
    left_open: bool,
    driver: Option<Waker>,
    streams: HashMap<StreamId, StreamWakers>,
    watchers: Vec<Waker>,
}

impl Shared {
    pub(crate) fn new(core: Box<dyn Carrier + Send>) -> Arc<Self> {
        let inner = Inner {
            core,
            progress: Progress::Begun,
            going_away: false,
            handles: 0,
            left_open: false,
            driver: None,
            streams: HashMap::new(),
            watchers: Vec::new(),
        };
        Arc::new(Self { inner: Mutex::new(inner) })
    }

    /// A poisoned lock is taken all the same: the core never leaves itself half changed over a panic of the user's.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `done` says so.
    pub(crate) async fn until<T>(&self, mut done: impl FnMut(&mut Inner) -> Option<T>) -> T {
        poll_fn(|cx| {
            let mut inner = self.lock();
            if let Some(value) = done(&mut inner) {
                return Poll::Ready(value);
            }
            if !inner.watchers.iter().any(|waker| waker.will_wake(cx.waker())) {
                inner.watchers.push(cx.waker().clone());
            }
            Poll::Pending
        })
        .await
    }

    pub(crate) fn add_handle(&self) {
        self.lock().count_handle();
    }

    /// The carrier goes on when its user is gone, as a page left open, until it ends by itself.
    pub(crate) fn leave_open(&self) {
        let mut inner = self.lock();
        inner.left_open = true;
        inner.core.leave(now());
        inner.wake_driver();
    }

    /// The user dropped a handle; with the last one a client's carrier closes.
    pub(crate) fn drop_handle(&self, close_with_last: bool) {
        let mut inner = self.lock();
        inner.handles -= 1;
        if inner.handles == 0 && close_with_last && !inner.left_open {
            inner.core.close(now());
        }
        inner.wake_driver();
    }
}

impl Inner {
    /// The core has something to do that only the driver's task can do.
    pub(crate) fn wake_driver(&mut self) {
        if let Some(waker) = self.driver.take() {
            waker.wake();
        }
    }

    pub(crate) fn count_handle(&mut self) {
        self.handles += 1;
    }

    pub(crate) fn uncount_handle(&mut self) {
        self.handles -= 1;
    }

    pub(crate) fn wait_readable(&mut self, id: StreamId, cx: &Context<'_>) {
        self.streams.entry(id).or_default().read = Some(cx.waker().clone());
    }

    pub(crate) fn wait_writable(&mut self, id: StreamId, cx: &Context<'_>) {
        self.streams.entry(id).or_default().write = Some(cx.waker().clone());
    }

    pub(crate) fn forget(&mut self, id: StreamId) {
        self.streams.remove(&id);
    }

    /// Collects who must be woken, to be woken after the lock is gone. When the tunnel is over that is everybody: its streams
    /// have no news of their own then.
    fn wakes(&mut self, wakers: &mut Vec<Waker>) {
        if let Progress::Over(_) = self.progress {
            // Nobody waits for what will not come any more.
            for stream in self.streams.values_mut() {
                wakers.extend(stream.read.take());
                wakers.extend(stream.write.take());
            }
            return;
        }
        let Some(mux) = self.core.streams() else { return };
        while let Some((id, wake)) = mux.take_wake() {
            if let Some(stream) = self.streams.get_mut(&id) {
                let slot = match wake {
                    Wake::Readable => &mut stream.read,
                    Wake::Writable => &mut stream.write,
                };
                wakers.extend(slot.take());
            }
        }
    }
}

/// What the driver does with what only the bridge has: hellos to judge, streams the client opened.
pub(crate) trait Host: Send {
    /// Whether the budget permits opening a hello of this client.
    fn allow(&mut self) -> bool;
    /// A stream the peer opened; `None` back if nobody takes it.
    fn stream(&mut self, stream: Stream) -> Result<(), Stream>;
}

/// The clock of this floor; below it time comes in as an argument.
pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// The task that owns the sockets.
pub(crate) struct Driver<H> {
    pub(crate) shared: Arc<Shared>,
    pub(crate) peer: Socket,
    pub(crate) decoy: Option<Socket>,
    pub(crate) host: H,
    timer: Option<Pin<Box<Sleep>>>,
    wakers: Vec<Waker>,
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
    pub(crate) fn new(shared: Arc<Shared>, peer: TcpStream, decoy: Option<TcpStream>, host: H) -> Self {
        Self {
            shared,
            peer: peer.into(),
            decoy: decoy.map(Into::into),
            host,
            timer: None,
            wakers: Vec::new(),
        }
    }

    /// Runs until the carrier is finished.
    pub(crate) async fn run(mut self) {
        poll_fn(|cx| self.poll(cx)).await;
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let shared = Arc::clone(&self.shared);
        let mut inner = shared.lock();
        inner.driver = None;
        inner.core.flush(now());
        let mut rounds = 0;
        loop {
            let mut moved = self.step(Side::Peer, &mut inner, cx);
            moved |= self.step(Side::Decoy, &mut inner, cx);
            moved |= self.events(&mut inner, &shared);
            moved |= self.poll_timer(&mut inner, cx);
            if inner.core.finished() {
                inner.progress = over(inner.progress, Ended::PeerClosed);
                self.collect(&mut inner);
                drop(inner);
                self.wake_all();
                return Poll::Ready(());
            }
            rounds += 1;
            if !moved || rounds == ROUNDS {
                if moved {
                    cx.waker().wake_by_ref();
                }
                break;
            }
        }
        inner.driver = Some(cx.waker().clone());
        self.collect(&mut inner);
        drop(inner);
        self.wake_all();
        Poll::Pending
    }

    fn collect(&mut self, inner: &mut Inner) {
        inner.wakes(&mut self.wakers);
        self.wakers.append(&mut inner.watchers);
    }

    fn wake_all(&mut self) {
        for waker in self.wakers.drain(..) {
            waker.wake();
        }
    }

    /// Writes, ends and reads one side as far as it goes without waiting.
    fn step(&mut self, side: Side, inner: &mut Inner, cx: &mut Context<'_>) -> bool {
        let socket = match side {
            Side::Peer => &mut self.peer,
            Side::Decoy => match &mut self.decoy {
                Some(socket) => socket,
                None => return false,
            },
        };
        let result = socket
            .write(side, inner, cx)
            .and_then(|wrote| Ok(wrote | socket.end(side, inner)?))
            // Before reading: a FIN just read goes on to the other side before the reset that follows it.
            .and_then(|moved| socket.watch(cx).map(|()| moved))
            .and_then(|moved| Ok(moved | socket.read(side, inner, cx)?));
        result.unwrap_or_else(|_| {
            if socket.reset {
                return false;
            }
            // What came before a reset that only a write noticed was said all the same: a decoy's alert, as a rule.
            socket.drain(side, inner);
            (socket.reset, socket.read_ended, socket.watch) = (true, true, None);
            inner.core.ended(side, Close::Reset, now());
            true
        })
    }

    fn events(&mut self, inner: &mut Inner, shared: &Arc<Shared>) -> bool {
        let mut moved = false;
        while let Some(event) = inner.core.poll_event() {
            moved = true;
            match event {
                Event::Hello => inner.core.judge(self.host.allow()),
                Event::Proved => inner.progress = Progress::Proved,
                Event::Up => inner.progress = Progress::Up,
                Event::GoingAway => inner.going_away = true,
                Event::Ended(why) => inner.progress = over(inner.progress, why),
            }
        }
        while let Some(id) = inner.core.streams().and_then(qnet_proto::mux::Mux::accept) {
            moved = true;
            inner.count_handle();
            let stream = Stream::new(Arc::clone(shared), id, false);
            if let Err(stream) = self.host.stream(stream) {
                // Dropping it needs the lock that is held here.
                stream.refuse(inner);
            }
        }
        moved
    }

    fn poll_timer(&mut self, inner: &mut Inner, cx: &mut Context<'_>) -> bool {
        let Some(deadline) = inner.core.deadline() else {
            self.timer = None;
            return false;
        };
        let at = tokio::time::Instant::from_std(deadline);
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
        if timer.deadline() != at {
            timer.as_mut().reset(at);
        }
        if timer.as_mut().poll(cx).is_pending() {
            return false;
        }
        inner.core.on_timer(now());
        true
    }
}

fn over(progress: Progress, why: Ended) -> Progress {
    if let Progress::Over(_) = progress { progress } else { Progress::Over(why) }
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
    fn write(&mut self, side: Side, inner: &mut Inner, cx: &mut Context<'_>) -> io::Result<bool> {
        let mut moved = false;
        while !self.reset && !inner.core.pending(side).is_empty() {
            if self.tcp.poll_write_ready(cx)?.is_pending() {
                break;
            }
            match self.tcp.try_write(inner.core.pending(side)) {
                Ok(n) => {
                    inner.core.wrote(side, n, now());
                    moved = true;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(moved)
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

    fn end(&mut self, side: Side, inner: &mut Inner) -> io::Result<bool> {
        match inner.core.shutdown(side) {
            None => Ok(false),
            Some(how) => end(&self.tcp, how).map(|()| true),
        }
    }

    /// Takes what the kernel still holds, whether or not tokio has heard of it yet.
    fn drain(&self, side: Side, inner: &mut Inner) {
        while inner.core.wants(side) {
            match (&*socket2::SockRef::from(&*self.tcp)).read(inner.core.space(side)) {
                Ok(n) if n > 0 => inner.core.filled(side, n, now()),
                _ => return,
            }
        }
    }

    fn read(&mut self, side: Side, inner: &mut Inner, cx: &mut Context<'_>) -> io::Result<bool> {
        if self.read_ended || !inner.core.wants(side) || self.tcp.poll_read_ready(cx)?.is_pending() {
            return Ok(false);
        }
        match self.tcp.try_read(inner.core.space(side)) {
            Ok(0) => {
                self.read_ended = true;
                inner.core.ended(side, Close::Fin, now());
                Ok(true)
            }
            Ok(n) => {
                inner.core.filled(side, n, now());
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(true),
            Err(error) => Err(error),
        }
    }
}
