//! Many streams at once, and short ones one after the other.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::load;
use crate::measure::Figure;
use crate::pair::{Contender, Pair};
use crate::scale::figures::jain;

/// Streams at once.
const STREAMS: usize = 64;

/// Until all of them are under way.
const START: Duration = Duration::from_secs(1);

/// How long they are watched.
const SPAN: Duration = Duration::from_secs(2);

/// Connections made one after the other by fresh processes, each by itself.
const SET_UPS: usize = 20;

/// The same where one is already there.
const FURTHER: usize = 500;

/// Before any are counted.
const WARM_UP: usize = 5;

/// All figures of one round, each time in the same order.
///
/// # Errors
/// A program does not start, ends, or does not carry what it was given.
pub fn round(contender: &dyn Contender, far: SocketAddr) -> Result<Vec<Figure>> {
    let pair = contender.start(far)?;
    let mut figures = many(&pair)?;
    drop(pair);
    let pair = contender.start(far)?;
    let Each { wall, cpu: [client, bridge] } = short(&pair, SET_UPS)?;
    figures.extend([
        ("first echoed byte of a connection alone (ms)", wall * 1e3),
        ("its CPU, client (ms)", client * 1e3),
        ("its CPU, bridge (ms)", bridge * 1e3),
    ]);
    // Held, so that a session which streams share is there.
    let mut held = pair.connect()?;
    load::hold(&mut held)?;
    let Each { wall, cpu: [client, bridge] } = short(&pair, FURTHER)?;
    figures.extend([
        ("first echoed byte beside another (µs)", wall * 1e6),
        ("its CPU, both (µs)", (client + bridge) * 1e6),
    ]);
    Ok(figures)
}

/// Seconds a connection: on the clock, and of client's and bridge's processors.
struct Each {
    wall: f64,
    cpu: [f64; 2],
}

/// Connections that are opened, get one byte and are closed, one after the other.
fn short(pair: &Pair, count: usize) -> Result<Each> {
    let one = || load::hold(&mut pair.connect()?);
    (0..WARM_UP).try_for_each(|_| one())?;
    let (before, start) = (pair.cpu()?, Instant::now());
    (0..count).try_for_each(|_| one())?;
    #[expect(clippy::cast_precision_loss, reason = "hundreds")]
    let count = count as f64;
    let (wall, after) = (start.elapsed().as_secs_f64(), pair.cpu()?);
    Ok(Each { wall: wall / count, cpu: [0, 1].map(|side: usize| (after[side] - before[side]) / count) })
}

/// Streams that all carry as much down as they can: how much together, and how evenly, between two moments.
#[expect(clippy::cast_precision_loss, reason = "bytes of a run are far below 2^52")]
fn many(pair: &Pair) -> Result<Vec<Figure>> {
    let counters: Vec<AtomicU64> = (0..STREAMS).map(|_| AtomicU64::new(0)).collect();
    let streams = (0..STREAMS).map(|_| pair.connect()).collect::<Result<Vec<_>>>()?;
    let handles = streams.iter().map(TcpStream::try_clone).collect::<io::Result<Vec<_>>>()?;
    let (shares, used) = thread::scope(|scope| {
        for (stream, counter) in streams.into_iter().zip(&counters) {
            // It ends with an error: by us, or before; one that ended before has a share that shows it.
            scope.spawn(move || load::receive(stream, u64::MAX, counter));
        }
        let now = || counters.iter().map(|counter| counter.load(Ordering::Relaxed)).collect::<Vec<_>>();
        thread::sleep(START);
        let (before, cpu, begun) = (now(), pair.cpu(), Instant::now());
        thread::sleep(SPAN);
        let (after, cpu_after, span) = (now(), pair.cpu(), begun.elapsed().as_secs_f64());
        // The scope waits for those that read.
        handles.iter().for_each(|stream| drop(stream.shutdown(Shutdown::Both)));
        let shares: Vec<f64> =
            before.iter().zip(after).map(|(before, after)| (after - before) as f64 / 1e6 / span).collect();
        let used = cpu_after?.iter().sum::<f64>() - cpu?.iter().sum::<f64>();
        anyhow::Ok((shares, used / span))
    })?;
    let together: f64 = shares.iter().sum();
    Ok(vec![
        ("64 streams down: CPU, both (s/GB)", used * 1e3 / together),
        ("64 streams down, together (MB/s)", together),
        ("64 streams down, Jain's index", jain(&shares)),
    ])
}
