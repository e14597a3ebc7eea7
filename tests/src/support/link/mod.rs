//! A wire in user space, in the censor's hands: it delays, holds, cuts and changes what passes, by TLS record.
//!
//! ```text
//! client ──▶ Link::address() ─[ rules, delay ]─▶ target
//!        ◀──                 ─[ rules, delay ]◀──
//! ```
//!
//! A connection without a rule is passed on as it comes, partial records included. A record that a rule may concern is
//! kept until it is whole. Each connection has one thread and one loop, so that what a rule does is done in order.

mod rules;
mod wire;

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::flow::{End, Flow};
use super::process::wait_for;
use super::sniff::{Segment, Sniffer};
pub use rules::{Act, Editor, Gate, Rule, Which};

/// A direction of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From the one who dialled.
    Up,
    /// To the one who dialled.
    Down,
}

/// How long a tap may lag behind the wire.
const LAG: Duration = Duration::from_secs(2);

/// How much older than its acceptance a connection's first segment may be.
const WAITED: Duration = Duration::from_secs(5);

/// What was seen of one connection: what came into the wire, before any rule.
#[derive(Clone, Debug)]
pub struct Trace {
    begun: Instant,
    /// The client's address, and the wire's own on the way to the target.
    ends: Option<[SocketAddr; 2]>,
    /// Of a watched link: what the client sent the wire and what the target sent it, segment by segment, by time.
    pub segments: Vec<(Way, Segment)>,
    /// What the client sent.
    pub up: Flow,
    /// What the target sent.
    pub down: Flow,
}

impl Trace {
    /// Nothing seen yet, of a connection that began then.
    #[must_use]
    pub fn new(started: Instant) -> Self {
        let (up, down) = (Flow::new(started), Flow::new(started));
        Self { begun: started, ends: None, segments: Vec::new(), up, down }
    }

    /// When the connection began.
    #[must_use]
    pub fn begun(&self) -> Instant {
        self.begun
    }

    /// With its segments among these; `None` if they are not all there.
    fn with(mut self, segments: &[Segment], link: SocketAddr) -> Option<Self> {
        let Some([client, wire]) = self.ends else { return (self.up.total() == 0).then_some(self) };
        self.segments = segments
            .iter()
            .filter_map(|segment| {
                if (segment.from, segment.to) == (client, link) {
                    Some((Way::Up, *segment))
                } else {
                    (segment.to == wire).then_some((Way::Down, *segment))
                }
            })
            .collect();
        let whole = [(Way::Up, &self.up), (Way::Down, &self.down)].into_iter().all(|(way, flow)| {
            let segments = self.segments.iter().filter(|(of, _)| *of == way).map(|(_, segment)| segment);
            covered(segments) >= flow.total()
        });
        whole.then_some(self)
    }

    /// One direction.
    #[must_use]
    pub fn flow(&self, way: Way) -> &Flow {
        match way {
            Way::Up => &self.up,
            Way::Down => &self.down,
        }
    }

    /// The wire was cut, or one side no longer takes what the other sends.
    fn both_ended(&mut self, now: Instant) {
        self.up.ended(End::Rst, now);
        self.down.ended(End::Rst, now);
    }

    fn flow_mut(&mut self, way: Way) -> &mut Flow {
        match way {
            Way::Up => &mut self.up,
            Way::Down => &mut self.down,
        }
    }
}

/// How a link behaves.
#[derive(Clone, Debug)]
struct Behaviour {
    target: SocketAddr,
    delay: Duration,
    rules: Vec<Rule>,
}

/// What the link, its connections and its owner share.
#[derive(Debug)]
struct Shared {
    behaviour: Mutex<Behaviour>,
    connections: Mutex<Vec<Arc<Connection>>>,
    /// Nothing more is taken from the target.
    full: AtomicBool,
    closed: AtomicBool,
}

/// What a connection's thread and the link's owner share.
#[derive(Debug)]
struct Connection {
    trace: Mutex<Trace>,
    injected: Mutex<Vec<Injected>>,
}

/// What the owner puts on the wire himself.
#[derive(Debug)]
struct Injected {
    way: Way,
    bytes: Vec<u8>,
    end: Option<End>,
}

/// A listening wire. Its connections end when it is dropped.
#[derive(Debug)]
pub struct Link {
    address: SocketAddr,
    shared: Arc<Shared>,
    sniffer: Option<Sniffer>,
}

impl Link {
    /// Passes connections on to `target`, every byte `delay` later (in each direction, so a round trip takes twice that).
    ///
    /// # Errors
    /// No port can be had.
    pub fn start(target: SocketAddr, delay: Duration) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            behaviour: Mutex::new(Behaviour { target, delay, rules: Vec::new() }),
            connections: Mutex::new(Vec::new()),
            full: AtomicBool::new(false),
            closed: AtomicBool::new(false),
        });
        let theirs = Arc::clone(&shared);
        thread::spawn(move || accept(&listener, &theirs));
        Ok(Self { address, shared, sniffer: None })
    }

    /// The same, with a tap on what client and target send: [`Trace::segments`].
    ///
    /// # Errors
    /// No port can be had, or the kernel gives no packet socket.
    pub fn watched(target: SocketAddr, delay: Duration) -> Result<Self> {
        let mut link = Self::start(target, delay)?;
        link.sniffer = Some(Sniffer::start([link.address, target])?);
        Ok(link)
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What is done to the connections that begin from now on. Each has the rules to itself.
    pub fn set_rules(&self, rules: Vec<Rule>) {
        lock(&self.shared.behaviour).rules = rules;
    }

    /// Where the connections that begin from now on lead.
    pub fn set_target(&self, target: SocketAddr) {
        lock(&self.shared.behaviour).target = target;
    }

    /// Whether nothing more is taken of what targets send, so that their sockets fill: that of connections that are there, too.
    pub fn set_full(&self, full: bool) {
        self.shared.full.store(full, Ordering::Relaxed);
    }

    /// The delay of the connections that begin from now on.
    pub fn set_delay(&self, delay: Duration) {
        lock(&self.shared.behaviour).delay = delay;
    }

    /// What was seen so far, a connection each, oldest first.
    #[must_use]
    pub fn traces(&self) -> Vec<Trace> {
        self.traces_from(0)
    }

    /// The same without the first so many.
    fn traces_from(&self, first: usize) -> Vec<Trace> {
        let connections = lock(&self.shared.connections);
        connections.iter().skip(first).map(|connection| lock(&connection.trace).clone()).collect()
    }

    /// How many connections there were so far.
    #[must_use]
    pub fn connections(&self) -> usize {
        lock(&self.shared.connections).len()
    }

    /// Bytes that the wire took in so far, of all connections and both directions.
    #[must_use]
    pub fn passed(&self) -> usize {
        self.passed_from(0, |trace| trace.up.total() + trace.down.total())
    }

    /// Bytes that clients sent so far, in all connections but the first so many.
    #[must_use]
    pub fn sent_from(&self, first: usize) -> usize {
        self.passed_from(first, |trace| trace.up.total())
    }

    fn passed_from(&self, first: usize, total: fn(&Trace) -> usize) -> usize {
        let connections = lock(&self.shared.connections);
        connections.iter().skip(first).map(|connection| total(&lock(&connection.trace))).sum()
    }

    /// What [`Self::traces`] gives but for the first so many, of a watched link and with all segments of what the wire took in.
    ///
    /// # Errors
    /// The tap missed some.
    pub fn watched_traces(&self, first: usize) -> Result<Vec<Trace>> {
        let sniffer = self.sniffer.as_ref().context("nobody watches this link")?;
        let traces = self.traces_from(first);
        let Some(begun) = traces.iter().map(Trace::begun).min() else { return Ok(traces) };
        let since = begun.checked_sub(WAITED).unwrap_or(begun);
        wait_for("the tap has all that the wire took in", LAG, || {
            let segments = sniffer.segments(since);
            let whole: Option<Vec<Trace>> =
                traces.iter().map(|trace| trace.clone().with(&segments, self.address)).collect();
            Ok(whole)
        })
    }

    /// Puts bytes on connection `number`'s wire, behind what is under way in that direction, and then ends the direction
    /// (the connection, if abruptly) where `end` says so. Meant for a direction that is silent: a record that is
    /// passing may be split. Nothing happens if there is no such connection any more.
    pub fn inject(&self, number: usize, way: Way, bytes: Vec<u8>, end: Option<End>) {
        if let Some(connection) = lock(&self.shared.connections).get(number) {
            lock(&connection.injected).push(Injected { way, bytes, end });
        }
    }

    /// Waits until connection `number` (the first is 0) looks as wanted.
    ///
    /// # Errors
    /// `limit` has passed; `what` names the condition.
    pub fn wait(
        &self,
        what: &str,
        number: usize,
        limit: Duration,
        wanted: impl Fn(&Trace) -> bool,
    ) -> Result<Trace> {
        wait_for(what, limit, || {
            let connection = lock(&self.shared.connections).get(number).map(Arc::clone);
            Ok(connection.map(|connection| lock(&connection.trace).clone()).filter(|trace| wanted(trace)))
        })
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::Relaxed);
        // Wakes the listener, so that its port is free again.
        TcpStream::connect(self.address).ok();
    }
}

/// How many bytes a direction's segments hold from the first on, up to where one is missing. Two processors may hand theirs to
/// the tap in another order than they had.
fn covered<'a>(segments: impl Iterator<Item = &'a Segment>) -> usize {
    let mut places: Vec<(usize, usize)> = Vec::new();
    let mut opening = None;
    for segment in segments {
        let opening = *opening.get_or_insert(segment.sequence.wrapping_add(1));
        let begin = segment.sequence.wrapping_sub(opening) as usize;
        places.extend((segment.payload > 0).then_some((begin, begin + segment.payload)));
    }
    places.sort_unstable();
    places.into_iter().fold(0, |end, (begin, next)| if begin <= end { end.max(next) } else { end })
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for client in listener.incoming().flatten() {
        if shared.closed.load(Ordering::Relaxed) {
            return;
        }
        let (behaviour, shared) = (lock(&shared.behaviour).clone(), Arc::clone(shared));
        let trace = Mutex::new(Trace::new(Instant::now()));
        let connection = Arc::new(Connection { trace, injected: Mutex::default() });
        lock(&shared.connections).push(Arc::clone(&connection));
        thread::spawn(move || wire::run(&client, &behaviour, &connection, &shared));
    }
}

/// A test that panicked leaves what it held as good as it was.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
