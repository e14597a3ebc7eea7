//! A long path as a relay on loopback, by [`Sender`]'s rules.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use nix::sys::socket::{setsockopt, sockopt::RcvBuf};

use super::sender::{Path, SEGMENT, Sender};

/// Read at once: at 100 Mbit/s some milliseconds' worth.
const PIECE: usize = 32 * 1024;

/// The relay's own receive buffers, bytes: Linux would let them grow to what the path holds, and what lies in them is neither sent nor
/// in the sender's hands.
const BUFFER: usize = 256 * 1024;

/// A listening end of the path; what connects goes to the target. Connections end by themselves.
pub(super) struct Link {
    address: SocketAddr,
    closed: Arc<AtomicBool>,
    opened: Arc<AtomicU64>,
}

impl Link {
    /// # Errors
    /// No port can be had.
    pub(super) fn start(target: SocketAddr, path: Path) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        setsockopt(&listener, RcvBuf, &BUFFER)?;
        let (address, closed) = (listener.local_addr()?, Arc::new(AtomicBool::new(false)));
        let opened = Arc::new(AtomicU64::new(0));
        let (over, counter) = (Arc::clone(&closed), Arc::clone(&opened));
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if over.load(Ordering::Relaxed) {
                    return;
                }
                counter.fetch_add(1, Ordering::Relaxed);
                // Who connected sees it end.
                thread::spawn(move || pass(&client, target, path));
            }
        });
        Ok(Self { address, closed, opened })
    }

    /// Counts the connections through it.
    pub(super) fn opened(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.opened)
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.closed.store(true, Ordering::Relaxed);
        // Wakes the listener.
        drop(TcpStream::connect(self.address));
    }
}

fn pass(client: &TcpStream, target: SocketAddr, path: Path) -> Result<()> {
    let server = TcpStream::connect(target)?;
    setsockopt(&server, RcvBuf, &BUFFER)?;
    for side in [client, &server] {
        side.set_nodelay(true)?;
    }
    let down = Path { seed: path.seed.wrapping_mul(31).wrapping_add(1), ..path };
    thread::scope(|scope| {
        scope.spawn(|| direction(client, &server, path));
        direction(&server, client, down);
    });
    Ok(())
}

/// What both threads of a direction share.
struct Half {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    sender: Sender,
    /// With the time of arrival; an empty piece is the end.
    queue: VecDeque<(Instant, Vec<u8>)>,
    /// Acknowledgements on their way back.
    acknowledged: VecDeque<(Instant, usize)>,
    /// The receiver takes no more.
    gone: bool,
}

impl Half {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until something changes or it is then.
    fn wait<'a>(&self, state: MutexGuard<'a, State>, until: Option<Instant>) -> MutexGuard<'a, State> {
        match until {
            None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            Some(at) => {
                let time = at.saturating_duration_since(Instant::now()).max(Duration::from_micros(50));
                self.changed.wait_timeout(state, time).unwrap_or_else(PoisonError::into_inner).0
            }
        }
    }

    /// How many bytes may leave, once any may; none where the receiver is gone.
    fn room(&self) -> Option<usize> {
        let mut state = self.state();
        loop {
            let now = Instant::now();
            while let Some((_, count)) = state.acknowledged.front().copied().filter(|(at, _)| *at <= now) {
                state.acknowledged.pop_front();
                state.sender.acknowledged(count);
            }
            if state.gone {
                return None;
            }
            let next = match state.sender.room(now) {
                // Not the last few bytes of a window: TCP sends whole segments.
                Ok(room) if room >= SEGMENT => return Some(room),
                Ok(_) | Err(None) => state.acknowledged.front().map(|(at, _)| *at),
                Err(at) => at,
            };
            state = self.wait(state, next);
        }
    }
}

/// Carries one direction to its end, and passes that on.
fn direction(from: &TcpStream, to: &TcpStream, path: Path) {
    let half = Half {
        state: Mutex::new(State {
            sender: Sender::new(path, Instant::now()),
            queue: VecDeque::new(),
            acknowledged: VecDeque::new(),
            gone: false,
        }),
        changed: Condvar::new(),
    };
    thread::scope(|scope| {
        scope.spawn(|| deliver(&half, to, path.round_trip / 2));
        take(&half, from);
    });
}

fn take(half: &Half, mut from: &TcpStream) {
    let mut piece = vec![0; PIECE];
    while let Some(room) = half.room() {
        let count = from.read(piece.get_mut(..room.min(PIECE)).unwrap_or_default()).unwrap_or(0);
        let mut state = half.state();
        let due = state.sender.sends(count, Instant::now());
        state.queue.push_back((due, piece.get(..count).unwrap_or_default().to_vec()));
        drop(state);
        half.changed.notify_all();
        if count == 0 {
            return;
        }
    }
    // The end goes back as far as it can.
    drop(from.shutdown(Shutdown::Read));
}

fn deliver(half: &Half, mut to: &TcpStream, delay: Duration) {
    loop {
        let mut state = half.state();
        let (due, bytes) = loop {
            match state.queue.pop_front() {
                Some(piece) => break piece,
                None => state = half.wait(state, None),
            }
        };
        drop(state);
        thread::sleep(due.saturating_duration_since(Instant::now()));
        if bytes.is_empty() {
            // It may be gone already.
            drop(to.shutdown(Shutdown::Write));
            return;
        }
        let written = to.write_all(&bytes).is_ok();
        let mut state = half.state();
        state.acknowledged.push_back((Instant::now() + delay, bytes.len()));
        state.gone = !written;
        drop(state);
        half.changed.notify_all();
        if !written {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Link, Path};
    use crate::load::{self, Direction};
    use std::net::TcpStream;
    use std::time::{Duration, Instant};

    #[test]
    fn bytes_arrive_whole_and_late() {
        let far = load::start().unwrap();
        let round_trip = Duration::from_millis(40);
        let path = Path { round_trip, rate: Some(50_000_000), lost: 10, seed: 3 };
        let link = Link::start(far, path).unwrap();
        let connect = || TcpStream::connect(link.address()).unwrap();
        let begin = Instant::now();
        load::hold(&mut connect()).unwrap();
        // The handshake, and there and back.
        assert!(begin.elapsed() >= 2 * round_trip, "{:?}", begin.elapsed());
        for direction in [Direction::Up, Direction::Down] {
            load::transfer(connect(), direction, 300_001).unwrap();
        }
    }
}
