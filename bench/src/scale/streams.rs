//! One session with more and more streams, and writes of other sizes.

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::figures::each;
use super::lab::{Lab, settle};
use super::ladder::{number, whole};
use crate::load;
use crate::pair::Contender;

/// How long streams flow.
const FLOW: Duration = Duration::from_secs(3);

/// How much is written in pieces of each size: some seconds' worth.
const WRITES: [(usize, u64); 5] =
    [(64, 16_000_000), (256, 64_000_000), (1_024, 128_000_000), (4_096, 256_000_000), (16_384, 256_000_000)];

/// A session with so many streams.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Streams {
    /// Wanted.
    pub wanted: usize,
    /// Open, each having answered.
    pub open: u64,
    /// Why there are not more, where there are fewer than were wanted.
    pub refused: Option<String>,
    /// Bytes more of resident memory for each: bridge and load.
    pub each: [f64; 2],
    /// Microseconds of processor for each: bridge and load.
    pub opening_us: [f64; 2],
    /// All together, downward.
    pub megabytes_a_second: f64,
    /// How evenly.
    pub jain: f64,
    /// Streams that got something in that time.
    pub moved: u64,
}

/// All of them, one session after the other.
///
/// # Errors
/// A stream or a process ends.
pub fn streams(lab: &mut Lab, counts: &[usize]) -> Result<Vec<Streams>> {
    counts.iter().map(|&wanted| one(lab, wanted)).collect()
}

fn one(lab: &mut Lab, wanted: usize) -> Result<Streams> {
    writeln!(io::stderr(), "bench: {wanted} streams")?;
    lab.tell(&json!({ "do": "session" }))?;
    settle();
    let (empty, before) = (lab.held()?, lab.used()?);
    let opened = lab.tell(&json!({ "do": "streams", "count": wanted }))?;
    let after = lab.used()?;
    settle();
    let held = lab.held()?;
    let open = whole(&opened, "open")?;
    let flow = lab.tell(&json!({ "do": "flow", "milliseconds": u64::try_from(FLOW.as_millis())? }))?;
    lab.tell(&json!({ "do": "leave" }))?;
    let count = usize::try_from(open)?;
    #[expect(clippy::cast_precision_loss, reason = "thousands")]
    let streams = count.max(1) as f64;
    Ok(Streams {
        wanted,
        open,
        refused: opened.get("refused").and_then(|why| why.as_str()).map(str::to_owned),
        each: [0, 1].map(|side: usize| each(empty[side].resident, held[side].resident, count)),
        opening_us: [after.bridge - before.bridge, after.client - before.client]
            .map(|used| used * 1e6 / streams),
        megabytes_a_second: number(&flow, "megabytes_a_second")?,
        jain: number(&flow, "jain")?,
        moved: whole(&flow, "moved")?,
    })
}

/// One stream, written to in pieces of one size.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Writes {
    /// Who carried it.
    pub name: String,
    /// Bytes of a piece.
    pub bytes: usize,
    /// Of all rounds the middle one.
    pub megabytes_a_second: f64,
    /// Processor seconds a gigabyte of client and bridge together: of all rounds the middle one.
    pub cpu: f64,
}

/// Those who take part in turns, each size so many times.
///
/// # Errors
/// A program does not start, ends, or does not carry what it was given.
pub fn writes(contenders: &[&dyn Contender], far: SocketAddr, rounds: usize) -> Result<Vec<Writes>> {
    let mut all = Vec::new();
    for (bytes, amount) in WRITES {
        writeln!(io::stderr(), "bench: writes of {bytes} bytes")?;
        let mut measured: Vec<Vec<[f64; 2]>> = contenders.iter().map(|_| Vec::new()).collect();
        for _ in 0..rounds {
            for (contender, measured) in contenders.iter().zip(&mut measured) {
                measured.push(written(*contender, far, bytes, amount)?);
            }
        }
        for (contender, measured) in contenders.iter().zip(measured) {
            let median = |which: usize| {
                let mut values: Vec<f64> = measured.iter().map(|round| round[which]).collect();
                values.sort_unstable_by(f64::total_cmp);
                values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
            };
            let name = contender.name().to_owned();
            all.push(Writes { name, bytes, megabytes_a_second: median(0), cpu: median(1) });
        }
    }
    Ok(all)
}

/// Megabytes a second, and seconds a gigabyte.
#[expect(clippy::cast_precision_loss, reason = "bytes of a run are far below 2^52")]
fn written(contender: &dyn Contender, far: SocketAddr, piece: usize, amount: u64) -> Result<[f64; 2]> {
    let pair = contender.start(far)?;
    load::write(pair.connect()?, amount / 8, piece)?;
    let stream = pair.connect()?;
    let (before, begun) = (pair.cpu()?, Instant::now());
    load::write(stream, amount, piece)?;
    let (seconds, after) = (begun.elapsed().as_secs_f64(), pair.cpu()?);
    let used: f64 = after.iter().sum::<f64>() - before.iter().sum::<f64>();
    Ok([amount as f64 / 1e6 / seconds, used * 1e9 / amount as f64])
}
