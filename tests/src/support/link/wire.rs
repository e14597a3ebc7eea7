//! One connection's loop.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::SockRef;

use super::rules::{Cutter, Item};
use super::{Behaviour, Connection, Shared, Trace, Way, lock};
use crate::support::flow::End;

/// What is read at once, bytes.
const PIECE: usize = 65_536;

/// How much may wait in one direction before no more is read, bytes: more than a long, fast path holds.
const MAX_WAITING: usize = 16 << 20;

/// How soon a connection notices that a gate has opened or that its link is gone.
const LOOK: Duration = Duration::from_millis(5);

/// How long the target may take to accept.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// Carries one connection until both directions have ended, one ends abruptly, or the link is dropped.
pub(super) fn run(client: &TcpStream, behaviour: &Behaviour, connection: &Connection, shared: &Shared) {
    let Ok(target) = TcpStream::connect_timeout(&behaviour.target, CONNECT_LIMIT) else {
        reset(client);
        return;
    };
    let ends = client.peer_addr().and_then(|client| Ok([client, target.local_addr()?]));
    lock(&connection.trace).ends = ends.ok();
    for side in [client, &target] {
        if side.set_nonblocking(true).and_then(|()| side.set_nodelay(true)).is_err() {
            return;
        }
    }
    let never = AtomicBool::new(false);
    let mut up = Half::new(Way::Up, client, &target, behaviour, &never);
    let mut down = Half::new(Way::Down, &target, client, behaviour, &shared.full);
    while !(shared.closed.load(Ordering::Relaxed) || up.done && down.done) {
        for injected in std::mem::take(&mut *lock(&connection.injected)) {
            let half = if injected.way == Way::Up { &mut up } else { &mut down };
            half.inject(injected.bytes, injected.end);
        }
        up.read(&connection.trace);
        down.read(&connection.trace);
        for way in [Way::Up, Way::Down] {
            let (half, other) = if way == Way::Up { (&mut up, &mut down) } else { (&mut down, &mut up) };
            match half.write() {
                Written::All => {}
                Written::Gone => {
                    half.stop();
                    other.gone(&connection.trace);
                }
                Written::Reset => {
                    lock(&connection.trace).both_ended(Instant::now());
                    reset(client);
                    reset(&target);
                    return;
                }
            }
        }
        wait(&up, &down);
    }
}

/// Makes the socket's closing abrupt.
fn reset(stream: &TcpStream) {
    SockRef::from(stream).set_linger(Some(Duration::ZERO)).ok();
}

/// What writing came to.
enum Written {
    /// All that was due, or all that the socket takes.
    All,
    /// The far side takes no more.
    Gone,
    /// The connection ends abruptly.
    Reset,
}

/// One direction.
struct Half<'a> {
    way: Way,
    from: &'a TcpStream,
    to: &'a TcpStream,
    delay: Duration,
    cutter: Cutter,
    /// What has left the cutter, with the time from which it may arrive.
    queue: VecDeque<(Instant, Item)>,
    waiting: usize,
    /// While it is set nothing is read.
    full: &'a AtomicBool,
    /// A piece that the socket took in part only.
    rest: Vec<u8>,
    paused: Option<Instant>,
    read_ended: bool,
    done: bool,
}

impl<'a> Half<'a> {
    fn new(
        way: Way,
        from: &'a TcpStream,
        to: &'a TcpStream,
        behaviour: &Behaviour,
        full: &'a AtomicBool,
    ) -> Self {
        Self {
            way,
            from,
            to,
            delay: behaviour.delay,
            cutter: Cutter::new(way, &behaviour.rules, Instant::now()),
            queue: VecDeque::new(),
            waiting: 0,
            full,
            rest: Vec::new(),
            paused: None,
            read_ended: false,
            done: false,
        }
    }

    fn reads(&self) -> bool {
        !self.read_ended && self.waiting < MAX_WAITING && !self.full.load(Ordering::Relaxed)
    }

    fn read(&mut self, trace: &Mutex<Trace>) {
        let mut piece = vec![0; PIECE];
        while self.reads() {
            let outcome = self.from.read(&mut piece);
            let now = Instant::now();
            let ended = match outcome {
                Ok(0) => End::Fin,
                Ok(n) => {
                    let bytes = piece.get(..n).unwrap_or_default();
                    lock(trace).flow_mut(self.way).push(bytes, now);
                    self.cutter.push(bytes, now);
                    self.collect(now);
                    continue;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => End::Rst,
            };
            lock(trace).flow_mut(self.way).ended(ended, now);
            self.read_ended = true;
            self.cutter.end(ended);
            self.collect(now);
        }
    }

    fn inject(&mut self, bytes: Vec<u8>, end: Option<End>) {
        let due = Instant::now() + self.delay;
        self.waiting += bytes.len();
        self.queue.push_back((due, Item::Bytes(bytes)));
        self.queue.extend(end.map(|end| (due, Item::End(end))));
    }

    fn collect(&mut self, now: Instant) {
        while let Some(item) = self.cutter.next() {
            if let Item::Bytes(bytes) = &item {
                self.waiting += bytes.len();
            }
            self.queue.push_back((now + self.delay, item));
        }
    }

    /// Nothing more is carried.
    fn stop(&mut self) {
        (self.done, self.read_ended) = (true, true);
        self.queue.clear();
        self.rest.clear();
    }

    /// The side this direction comes from takes nothing more: what it said before still arrives, and then the end.
    fn gone(&mut self, trace: &Mutex<Trace>) {
        self.read(trace);
        let now = Instant::now();
        lock(trace).flow_mut(self.way).ended(End::Rst, now);
        self.read_ended = true;
        self.queue.push_back((now + self.delay, Item::End(End::Rst)));
        self.done = false;
    }

    /// Sends what is due.
    fn write(&mut self) -> Written {
        loop {
            if !self.flush() {
                return Written::Gone;
            }
            if !self.rest.is_empty() || self.done || self.due().is_none_or(|due| due > Instant::now()) {
                return Written::All;
            }
            let Some((_, item)) = self.queue.pop_front() else { return Written::All };
            match item {
                Item::Bytes(bytes) => self.rest = bytes,
                Item::Pause(time) => self.paused = Some(Instant::now() + time),
                Item::Wait(gate) if gate.is_open() => {}
                Item::Wait(gate) => {
                    self.queue.push_front((Instant::now() + LOOK, Item::Wait(gate)));
                    return Written::All;
                }
                Item::End(End::Rst) => return Written::Reset,
                Item::End(End::Fin) => {
                    let reset = self.queue.iter().position(|(_, item)| matches!(item, Item::End(End::Rst)));
                    let reset = reset.and_then(|place| self.queue.remove(place));
                    self.stop();
                    self.to.shutdown(Shutdown::Write).ok();
                    self.done = reset.is_none();
                    self.queue.extend(reset);
                    return Written::All;
                }
            }
        }
    }

    /// Writes the rest of a piece; false where the far side is gone.
    fn flush(&mut self) -> bool {
        while !self.rest.is_empty() {
            match self.to.write(&self.rest) {
                Ok(n) => {
                    self.rest.drain(..n);
                    self.waiting -= n.min(self.waiting);
                }
                Err(error) => return error.kind() == ErrorKind::WouldBlock,
            }
        }
        true
    }

    /// When the next item may go.
    fn due(&self) -> Option<Instant> {
        let due = self.queue.front()?.0;
        Some(self.paused.map_or(due, |paused| due.max(paused)))
    }
}

/// Sleeps until a socket is ready or something is due.
fn wait(up: &Half<'_>, down: &Half<'_>) {
    let now = Instant::now();
    let mut limit = LOOK * 10;
    let mut fds = Vec::with_capacity(4);
    for half in [up, down] {
        if half.reads() {
            fds.push(PollFd::new(half.from, PollFlags::IN));
        }
        if !half.rest.is_empty() {
            fds.push(PollFd::new(half.to, PollFlags::OUT));
        } else if let Some(due) = half.due() {
            limit = limit.min(due.saturating_duration_since(now));
        }
    }
    let limit = Timespec { tv_sec: 0, tv_nsec: i64::from(limit.subsec_nanos()) };
    poll(&mut fds, Some(&limit)).ok();
}
