//! Many streams in one session.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use qnet_transport::Stream;
use qnet_transport::client::{Dialer, Tunnel};
use qnet_wire::bridge_line::BridgeLine;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::figures::jain;

/// Streams that are being opened at once: a page's connections, and fewer than the bridge holds until they are taken.
const AT_ONCE: usize = 64;

/// How long a stream may take to answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// Until all streams are under way.
const START: Duration = Duration::from_secs(1);

/// One read.
const PIECE: usize = 16 * 1024;

/// A session and its streams.
pub(super) struct Many {
    tunnel: Tunnel,
    streams: Vec<Stream>,
}

impl Many {
    /// A fresh session; one stream has come and gone.
    pub(super) async fn begin(dialer: &Dialer, line: &BridgeLine) -> Result<Self> {
        let tunnel = dialer.dial(line).await?;
        tunnel.established().await.map_err(|why| anyhow!("the session ended: {why}"))?;
        drop(working(tunnel.open()?).await?);
        Ok(Self { tunnel, streams: Vec::new() })
    }

    /// Opens so many streams more, some at a time; each answers.
    pub(super) async fn open(&mut self, count: usize) -> Result<Value> {
        let begun = Instant::now();
        let mut refused = None;
        while self.streams.len() < count && refused.is_none() {
            let mut now = JoinSet::new();
            for _ in 0..AT_ONCE.min(count - self.streams.len()) {
                match self.tunnel.open() {
                    Ok(stream) => drop(now.spawn(working(stream))),
                    // What a session has room for is one of the things to be found out.
                    Err(error) => refused = Some(error.to_string()),
                }
            }
            while let Some(made) = now.join_next().await {
                self.streams.push(made??);
            }
        }
        Ok(json!({
            "open": self.streams.len(),
            "seconds": begun.elapsed().as_secs_f64(),
            "refused": refused,
        }))
    }

    /// Has all streams carry as much down as they can; they are gone then.
    #[expect(clippy::cast_precision_loss, reason = "bytes of a run are far below 2^52")]
    pub(super) async fn flow(&mut self, span: Duration) -> Result<Value> {
        let counters: Vec<_> = self.streams.iter().map(|_| Arc::new(AtomicU64::new(0))).collect();
        let mut readers = JoinSet::new();
        for (mut stream, counter) in self.streams.drain(..).zip(&counters) {
            let counter = Arc::clone(counter);
            readers.spawn(async move {
                stream.write_all(b"d").await?;
                let mut piece = vec![0; PIECE];
                loop {
                    let read = stream.read(&mut piece).await?;
                    ensure!(read > 0, "a stream ended");
                    counter.fetch_add(read as u64, Ordering::Relaxed);
                }
            });
        }
        let now = || counters.iter().map(|counter| counter.load(Ordering::Relaxed)).collect::<Vec<_>>();
        sleep(START).await;
        let (before, begun) = (now(), Instant::now());
        sleep(span).await;
        let (after, seconds) = (now(), begun.elapsed().as_secs_f64());
        // None ends by itself: one that did says why.
        if let Some(ended) = readers.try_join_next() {
            let outcome: Result<()> = ended?;
            outcome.context("while streams flowed")?;
        }
        readers.shutdown().await;
        let shares: Vec<f64> =
            before.iter().zip(after).map(|(before, after)| (after - before) as f64 / 1e6 / seconds).collect();
        let moved = shares.iter().filter(|share| **share > 0.0).count();
        Ok(json!({ "megabytes_a_second": shares.iter().sum::<f64>(), "jain": jain(&shares), "moved": moved }))
    }
}

/// A stream that answers.
async fn working(mut stream: Stream) -> Result<Stream> {
    let exchange = async {
        stream.write_all(b"cp").await?;
        stream.read_u8().await
    };
    let answer = timeout(PATIENCE, exchange).await.context("a stream did not answer in time")??;
    ensure!(answer == b'p', "a stream gave another byte");
    Ok(stream)
}
