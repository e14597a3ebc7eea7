//! One round of measurements of one transport.

use std::net::{SocketAddr, TcpStream};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};

use crate::load::{self, Direction};
use crate::pair::{Contender, Pair};

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub struct Amount {
    /// Payload in each direction, in bytes.
    pub bytes: u64,
    /// Idle connections at once.
    pub connections: usize,
}

/// The figures of throughput: upward and downward.
pub const SPEEDS: [&str; 2] = ["up: one stream (MB/s)", "down: one stream (MB/s)"];

/// A figure's name, with its unit, and its value.
pub type Figure = (&'static str, f64);

/// Carried before a transfer is timed: windows have opened and buffers have grown.
const WARM_UP: u64 = 16_000_000;

/// Connections opened and closed before idle ones are counted: what every process allocates once is there.
const WARM_UP_CONNECTIONS: usize = 4;

/// Connections that are being made at once.
const AT_ONCE: usize = 8;

/// How long handshakes' leftovers have to be freed before memory is read.
const SETTLE: Duration = Duration::from_secs(5);

/// All figures of one round, each time in the same order.
///
/// # Errors
/// A plugin does not start, ends, or does not carry what it was given.
pub fn round(kind: &dyn Contender, far: SocketAddr, amount: Amount) -> Result<Vec<Figure>> {
    let mut figures = transfers(kind, far, amount.bytes)?;
    figures.extend(idle(kind, far, amount.connections)?);
    Ok(figures)
}

#[expect(clippy::cast_precision_loss, reason = "bytes of a run are far below 2^52")]
fn transfers(kind: &dyn Contender, far: SocketAddr, bytes: u64) -> Result<Vec<Figure>> {
    let pair = kind.start(far)?;
    let mut figures = Vec::new();
    for (direction, [client, bridge, both, speed]) in [
        (
            Direction::Up,
            ["up: CPU, client (s/GB)", "up: CPU, bridge (s/GB)", "up: CPU, both (s/GB)", SPEEDS[0]],
        ),
        (
            Direction::Down,
            ["down: CPU, client (s/GB)", "down: CPU, bridge (s/GB)", "down: CPU, both (s/GB)", SPEEDS[1]],
        ),
    ] {
        load::transfer(pair.connect()?, direction, WARM_UP)?;
        let stream = pair.connect()?;
        let (before, start) = (pair.cpu()?, Instant::now());
        load::transfer(stream, direction, bytes)?;
        let (wall, after) = (start.elapsed().as_secs_f64(), pair.cpu()?);
        let gigabytes = bytes as f64 / 1e9;
        let [client_used, bridge_used] = [0, 1].map(|side: usize| (after[side] - before[side]) / gigabytes);
        figures.extend([
            (client, client_used),
            (bridge, bridge_used),
            (both, client_used + bridge_used),
            (speed, bytes as f64 / 1e6 / wall),
        ]);
    }
    Ok(figures)
}

/// What connections take while they rest, and what is left of them: fresh processes, so that memory which transfers left
/// behind cannot hide it.
///
/// # Errors
/// As for [`round`].
pub fn idle(kind: &dyn Contender, far: SocketAddr, connections: usize) -> Result<Vec<Figure>> {
    let pair = kind.start(far)?;
    drop(open(&pair, WARM_UP_CONNECTIONS)?);
    thread::sleep(SETTLE);
    let empty = pair.resident()?;
    let (streams, connect_times) = open(&pair, connections)?.into_iter().unzip::<_, _, Vec<_>, Vec<_>>();
    thread::sleep(SETTLE);
    let held = pair.resident()?;
    ensure!(streams.iter().all(alive), "an idle connection was closed");
    drop(streams);
    thread::sleep(SETTLE);
    let closed = pair.resident()?;
    let [client, bridge] = [0, 1].map(|side: usize| kilobytes_each(empty[side], held[side], connections));
    let [client_kept, bridge_kept] =
        [0, 1].map(|side: usize| kilobytes_each(empty[side], closed[side], connections));
    Ok(vec![
        ("an idle connection, client (KiB)", client),
        ("an idle connection, bridge (KiB)", bridge),
        ("kept after its close, client (KiB)", client_kept),
        ("kept after its close, bridge (KiB)", bridge_kept),
        ("time to connect (ms)", median_milliseconds(connect_times)),
    ])
}

/// Opens working connections, a few at a time.
fn open(pair: &Pair, count: usize) -> Result<Vec<(TcpStream, Duration)>> {
    let opened = Mutex::new(Vec::with_capacity(count));
    thread::scope(|scope| {
        let workers: Vec<_> = (0..AT_ONCE.min(count))
            .map(|worker| {
                let share = (worker..count).step_by(AT_ONCE.min(count)).len();
                let opened = &opened;
                scope.spawn(move || (0..share).try_for_each(|_| open_one(pair, opened)))
            })
            .collect();
        workers.into_iter().try_for_each(|worker| worker.join().map_err(|_| anyhow!("a worker panicked"))?)
    })?;
    opened.into_inner().map_err(|_| anyhow!("a worker panicked"))
}

fn open_one(pair: &Pair, opened: &Mutex<Vec<(TcpStream, Duration)>>) -> Result<()> {
    let start = Instant::now();
    let mut stream = pair.connect()?;
    load::hold(&mut stream)?;
    let opened = opened.lock();
    opened.map_err(|_| anyhow!("a worker panicked"))?.push((stream, start.elapsed()));
    Ok(())
}

/// Whether an idle connection is still there: nothing to read, and no end.
fn alive(stream: &TcpStream) -> bool {
    let quiet = |error: std::io::Error| error.kind() == std::io::ErrorKind::WouldBlock;
    stream.set_nonblocking(true).is_ok() && stream.peek(&mut [0]).is_err_and(quiet)
}

#[expect(clippy::cast_precision_loss, reason = "memory of a run is far below 2^52 bytes")]
fn kilobytes_each(before: u64, after: u64, connections: usize) -> f64 {
    (after as f64 - before as f64) / 1_024.0 / connections as f64
}

fn median_milliseconds(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times.get(times.len() / 2).map_or(0.0, |time| time.as_secs_f64() * 1e3)
}
