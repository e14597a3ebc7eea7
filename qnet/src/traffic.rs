//! What is counted for the status page: bytes, streams, and bytes a second over the last minutes.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::MissedTickBehavior;

/// Seconds that are kept.
const KEPT: usize = 120;

/// What moved so far.
#[derive(Default)]
pub(crate) struct Traffic {
    up: AtomicU64,
    down: AtomicU64,
    opened: AtomicU64,
    failed: AtomicU64,
    ended: AtomicU64,
    seconds: Mutex<VecDeque<(u64, u64)>>,
}

/// A stream that is counted as open until this is dropped.
pub(crate) struct Counted(Arc<Traffic>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.ended.fetch_add(1, Ordering::Relaxed);
    }
}

/// All of it at one time.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Totals {
    /// Bytes.
    pub(crate) up: u64,
    /// Bytes.
    pub(crate) down: u64,
    /// Streams that are open.
    pub(crate) open: u64,
    /// Streams so far.
    pub(crate) opened: u64,
    /// Streams that could not be opened.
    pub(crate) failed: u64,
    /// Bytes up and down in each of the last seconds, oldest first.
    pub(crate) seconds: Vec<(u64, u64)>,
}

impl Traffic {
    pub(crate) fn moved(&self, up: u64, down: u64) {
        self.up.fetch_add(up, Ordering::Relaxed);
        self.down.fetch_add(down, Ordering::Relaxed);
    }

    pub(crate) fn opened(self: &Arc<Self>) -> Counted {
        self.opened.fetch_add(1, Ordering::Relaxed);
        Counted(Arc::clone(self))
    }

    pub(crate) fn failed(&self) {
        self.failed.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn totals(&self) -> Totals {
        // Before `opened`, so that what ends meanwhile does not make less than none.
        let ended = self.ended.load(Ordering::Relaxed);
        let opened = self.opened.load(Ordering::Relaxed);
        Totals {
            up: self.up.load(Ordering::Relaxed),
            down: self.down.load(Ordering::Relaxed),
            open: opened.saturating_sub(ended),
            opened,
            failed: self.failed.load(Ordering::Relaxed),
            seconds: self.seconds.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect(),
        }
    }

    /// Notes each second what moved in it.
    pub(crate) async fn sample(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(Duration::from_secs(1));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut before = (0, 0);
        loop {
            ticks.tick().await;
            let now = (self.up.load(Ordering::Relaxed), self.down.load(Ordering::Relaxed));
            let mut seconds = self.seconds.lock().unwrap_or_else(PoisonError::into_inner);
            if seconds.len() >= KEPT {
                seconds.pop_front();
            }
            seconds.push_back((now.0 - before.0, now.1 - before.1));
            before = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_last_seconds_are_kept() {
        let traffic = Arc::new(Traffic::default());
        let sampling = tokio::spawn(Arc::clone(&traffic).sample());
        for second in 0..200 {
            traffic.moved(second, 2 * second);
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        let totals = traffic.totals();
        assert_eq!((totals.up, totals.down), (19_900, 39_800));
        assert_eq!(totals.seconds.len(), KEPT);
        assert!(totals.seconds.windows(2).all(|pair| pair[1] == (pair[0].0 + 1, pair[0].1 + 2)));
        sampling.abort();
    }

    #[test]
    fn a_stream_is_open_while_it_is_held() {
        let traffic = Arc::new(Traffic::default());
        let (one, two) = (traffic.opened(), traffic.opened());
        drop(one);
        assert_eq!((traffic.totals().open, traffic.totals().opened), (1, 2));
        drop(two);
        assert_eq!(traffic.totals().open, 0);
    }
}
