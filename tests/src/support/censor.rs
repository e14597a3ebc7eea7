//! Somebody on the path who cuts connections, lets them freeze, or only delays them.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

/// Bytes read at once.
const CHUNK: usize = 16 * 1024;
/// Chunks on their way in one direction: 4 MiB, what a path of 300 ms at 100 Mbit/s holds.
const ON_THE_WAY: usize = 256;

/// What a sender may have on its way at first, bytes: ten segments (RFC 6928).
const FIRST_WINDOW: usize = 14_600;

/// How fast a long path takes bytes. Each half of a connection through here is TCP over loopback, which knows no distance; over a
/// real path a sender begins slowly.
struct SlowStart {
    round_trip: Duration,
    window: usize,
    left: usize,
    round_ends: Instant,
}

impl SlowStart {
    fn new(delay: Duration) -> Self {
        let now = Instant::now();
        Self { round_trip: 2 * delay, window: FIRST_WINDOW, left: FIRST_WINDOW, round_ends: now + 2 * delay }
    }

    /// When the next `count` bytes leave the sender. Each full round doubles the window, as without loss (RFC 5681).
    fn leaves(&mut self, count: usize) -> Instant {
        let now = Instant::now();
        let mut count = count;
        if now >= self.round_ends {
            self.next_round(now);
        }
        while count > self.left {
            count -= self.left;
            self.window = self.window.saturating_mul(2);
            self.next_round(self.round_ends);
        }
        self.left -= count;
        now.max(self.round_ends - self.round_trip)
    }

    fn next_round(&mut self, begins: Instant) {
        self.left = self.window;
        self.round_ends = begins + self.round_trip;
    }
}

/// What is done to the connections that begin from now on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Manner {
    /// Every byte comes this much later, in each direction, and TCP begins slowly.
    pub delay: Duration,
    /// After this many bytes down nothing passes any more, either way, and nobody is told.
    pub freeze_after: Option<u64>,
    /// Only as many connections freeze, the next ones; `None`: all.
    pub freeze_most: Option<usize>,
}

#[derive(Default)]
struct State {
    manner: Mutex<Manner>,
    /// The connections that are there, by number; each with what cuts it.
    connections: Mutex<HashMap<usize, oneshot::Sender<()>>>,
    opened: AtomicUsize,
    frozen: AtomicUsize,
    target: Mutex<Option<SocketAddr>>,
    down: Mutex<Vec<Arc<AtomicU64>>>,
}

/// A listening wire whose owner does to it what censors do.
pub struct Censor {
    address: SocketAddr,
    state: Arc<State>,
}

impl Censor {
    /// Passes connections on to `target`.
    ///
    /// # Errors
    /// No port can be had.
    pub async fn start(target: SocketAddr, manner: Manner) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let state = Arc::new(State { manner: Mutex::new(manner), ..State::default() });
        let common = Arc::clone(&state);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let common = Arc::clone(&common);
                let target = common.target.lock().unwrap_or_else(PoisonError::into_inner).unwrap_or(target);
                tokio::spawn(async move { common.pass(client, target).await });
            }
        });
        Ok(Self { address, state })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Resets all connections; returns how many there were.
    #[must_use]
    pub fn cut(&self) -> usize {
        let mut connections = self.state.connections.lock().unwrap_or_else(PoisonError::into_inner);
        connections.drain().filter_map(|(_, cut)| cut.send(()).ok()).count()
    }

    /// Connections so far.
    #[must_use]
    pub fn opened(&self) -> usize {
        self.state.opened.load(Ordering::Relaxed)
    }

    /// Connections that froze so far.
    #[must_use]
    pub fn frozen(&self) -> usize {
        self.state.frozen.load(Ordering::Relaxed)
    }

    /// Connections that are there.
    #[must_use]
    pub fn alive(&self) -> usize {
        self.state.connections.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Bytes down on each connection so far.
    #[must_use]
    pub fn down(&self) -> Vec<u64> {
        let down = self.state.down.lock().unwrap_or_else(PoisonError::into_inner);
        down.iter().map(|bytes| bytes.load(Ordering::Relaxed)).collect()
    }

    /// Leads the connections that begin from now on elsewhere.
    pub fn set_target(&self, target: SocketAddr) {
        *self.state.target.lock().unwrap_or_else(PoisonError::into_inner) = Some(target);
    }

    /// Does other things to the connections that begin from now on.
    pub fn set_manner(&self, manner: Manner) {
        *self.state.manner.lock().unwrap_or_else(PoisonError::into_inner) = manner;
    }
}

impl State {
    async fn pass(&self, client: TcpStream, target: SocketAddr) {
        let Ok(server) = TcpStream::connect(target).await else { return };
        let number = self.opened.fetch_add(1, Ordering::Relaxed);
        let manner = *self.manner.lock().unwrap_or_else(PoisonError::into_inner);
        let (sender, cut) = oneshot::channel();
        self.connections.lock().unwrap_or_else(PoisonError::into_inner).insert(number, sender);
        let bytes = Arc::new(AtomicU64::new(0));
        self.down.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&bytes));
        for socket in [&client, &server] {
            socket.set_nodelay(true).ok();
        }
        // Whoever drops them resets, unless an end was passed on before.
        let sockets = [&client, &server].map(|socket| socket2::SockRef::from(socket).try_clone());
        let freezes = manner
            .freeze_after
            .filter(|_| manner.freeze_most.is_none_or(|most| self.frozen.load(Ordering::Relaxed) < most));
        let frozen = Freeze { bytes, after: freezes, count: &self.frozen };
        let ((client_read, client_write), (server_read, server_write)) =
            (client.into_split(), server.into_split());
        let both = async {
            tokio::join!(
                pump(client_read, server_write, manner.delay, &frozen, false),
                pump(server_read, client_write, manner.delay, &frozen, true),
            )
        };
        tokio::select! {
            _ = both => {}
            _ = cut => {
                for socket in sockets.into_iter().flatten() {
                    socket.set_linger(Some(Duration::ZERO)).ok();
                }
            }
        }
        self.connections.lock().unwrap_or_else(PoisonError::into_inner).remove(&number);
    }
}

struct Freeze<'a> {
    bytes: Arc<AtomicU64>,
    after: Option<u64>,
    count: &'a AtomicUsize,
}

impl Freeze<'_> {
    /// Whether nothing passes any more, after `count` bytes more down.
    fn passed(&self, count: usize) -> bool {
        let before = self.bytes.fetch_add(count as u64, Ordering::Relaxed);
        let Some(after) = self.after else { return false };
        if before < after && before + count as u64 >= after {
            self.count.fetch_add(1, Ordering::Relaxed);
        }
        before + count as u64 >= after
    }
}

/// One direction, until its end has been passed on.
async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    delay: Duration,
    freeze: &Freeze<'_>,
    down: bool,
) {
    let mut start = SlowStart::new(delay);
    let (sender, mut receiver) = mpsc::channel::<(Instant, Vec<u8>)>(ON_THE_WAY);
    let read = async move {
        loop {
            let mut chunk = vec![0; CHUNK];
            let count = from.read(&mut chunk).await.unwrap_or(0);
            if freeze.passed(if down { count } else { 0 }) {
                // Frozen: what comes is not even read.
                std::future::pending::<()>().await;
            }
            chunk.truncate(count);
            let due = if delay.is_zero() { Instant::now() } else { start.leaves(count) + delay };
            if sender.send((due, chunk)).await.is_err() || count == 0 {
                return;
            }
        }
    };
    let write = async move {
        while let Some((due, chunk)) = receiver.recv().await {
            sleep_until(due).await;
            if chunk.is_empty() {
                to.shutdown().await.ok();
            } else if to.write_all(&chunk).await.is_err() {
                return;
            }
        }
    };
    tokio::join!(read, write);
}
