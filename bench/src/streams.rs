//! Many streams at once, and short ones one after the other.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Barrier, OnceLock};
use std::thread;
use std::time::Instant;

use anyhow::{Result, anyhow};

use crate::load;
use crate::measure::Figure;
use crate::pair::{Contender, Pair};

/// Streams at once.
const STREAMS: usize = 64;

/// Connections made one after the other by fresh processes, each by itself.
const SET_UPS: usize = 20;

/// The same where one is already there.
const FURTHER: usize = 500;

/// Before any are counted.
const WARM_UP: usize = 5;

/// All figures of one round, each time in the same order; `bytes` go down in all streams together.
///
/// # Errors
/// A program does not start, ends, or does not carry what it was given.
pub fn round(contender: &dyn Contender, far: SocketAddr, bytes: u64) -> Result<Vec<Figure>> {
    let pair = contender.start(far)?;
    let mut figures = many(&pair, bytes)?;
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

/// Streams that all carry the same amount down: together, and how evenly until the first has its own.
#[expect(clippy::cast_precision_loss, reason = "bytes of a run are far below 2^52")]
fn many(pair: &Pair, bytes: u64) -> Result<Vec<Figure>> {
    let share = bytes / STREAMS as u64;
    let counters: Vec<AtomicU64> = (0..STREAMS).map(|_| AtomicU64::new(0)).collect();
    let first = OnceLock::new();
    let streams = (0..STREAMS).map(|_| pair.connect()).collect::<Result<Vec<_>>>()?;
    let together = Barrier::new(STREAMS + 1);
    let started = thread::scope(|scope| {
        let workers: Vec<_> = streams
            .into_iter()
            .zip(&counters)
            .map(|(stream, counter)| {
                let (counters, first, together) = (&counters, &first, &together);
                scope.spawn(move || {
                    together.wait();
                    load::receive(stream, share, counter)?;
                    first.get_or_init(|| counters.iter().map(|counter| counter.load(Ordering::Relaxed)).collect());
                    anyhow::Ok(())
                })
            })
            .collect();
        together.wait();
        let started = Instant::now();
        workers.into_iter().try_for_each(|worker| worker.join().map_err(|_| anyhow!("a worker panicked"))?)?;
        anyhow::Ok(started)
    })?;
    let wall = started.elapsed().as_secs_f64();
    let first: &Vec<u64> = first.get().ok_or_else(|| anyhow!("no stream ended"))?;
    let shares: Vec<f64> = first.iter().map(|bytes| *bytes as f64).collect();
    Ok(vec![
        ("64 streams down, together (MB/s)", (share * STREAMS as u64) as f64 / 1e6 / wall),
        ("64 streams down, Jain's index", jain(&shares)),
    ])
}

/// How evenly something is shared, from one over their number to one (Jain, Chiu and Hawe, DEC-TR-301, 1984).
fn jain(shares: &[f64]) -> f64 {
    let sum: f64 = shares.iter().sum();
    let squares: f64 = shares.iter().map(|share| share * share).sum();
    #[expect(clippy::cast_precision_loss, reason = "dozens")]
    let count = shares.len() as f64;
    sum * sum / (count * squares)
}

#[cfg(test)]
mod tests {
    use super::jain;

    #[test]
    fn an_even_share_is_one_and_a_lone_one_its_part() {
        assert!((jain(&[3.0; 64]) - 1.0).abs() < 1e-9);
        assert!((jain(&[5.0, 0.0, 0.0, 0.0]) - 0.25).abs() < 1e-9);
    }
}
