//! How much may be on its way: what the path holds, as far as its use has shown that.
//!
//! A sender keeps what is not acknowledged, so that a wide window is memory. It begins with [`FIRST_UNACKED`] and doubles whenever it,
//! and not the path, set the pace, as the streams' windows do (`mux/flow.rs`); with nothing on its way for a while it begins anew.

use std::time::{Duration, Instant};

/// Bytes sent and not acknowledged, at most: a path of 300 ms on which TCP's usual greatest window of 6 MiB is always full, with the
/// acknowledgements that come a quarter of the first window late, and as much again in the kernel's send buffer. About what the
/// streams may hold at the other side.
pub const MAX_UNACKED: usize = 16 << 20;

/// The same for a session of which nothing is known yet: what a path of 100 Mbit/s and 300 ms holds.
pub const FIRST_UNACKED: usize = 4 << 20;

/// The most that a peer may have on its way of whose bytes the first `received` came: its window doubled no sooner than it was
/// acknowledged, so that it is never more than the first and all that came.
pub(super) fn most(received: u64) -> u64 {
    (FIRST_UNACKED as u64).saturating_add(received).min(MAX_UNACKED as u64)
}

/// A sender's window.
#[derive(Debug)]
pub(super) struct Window {
    size: usize,
    /// Of the present window's worth, bytes acknowledged.
    acknowledged: u64,
    /// When that began.
    since: Option<Instant>,
    /// It was all used meanwhile.
    was_full: bool,
}

impl Window {
    pub(super) fn new() -> Self {
        Self { size: FIRST_UNACKED, acknowledged: 0, since: None, was_full: false }
    }

    /// Whether fresh bytes may go where `on_the_way` are not acknowledged.
    pub(super) fn is_open(&self, on_the_way: usize) -> bool {
        on_the_way < self.size
    }

    /// Bytes were sent; now so many are not acknowledged.
    pub(super) fn sent(&mut self, on_the_way: usize) {
        self.was_full |= !self.is_open(on_the_way);
    }

    /// `count` bytes were acknowledged; `round_trip`: the path's own, if it is known.
    pub(super) fn acknowledged(&mut self, count: u64, now: Instant, round_trip: Option<Duration>) {
        self.acknowledged += count;
        if self.acknowledged < self.size as u64 {
            return;
        }
        self.acknowledged = 0;
        let took = self.since.replace(now).map(|since| now.saturating_duration_since(since));
        let quick = took.zip(round_trip).is_some_and(|(took, round_trip)| took < 2 * round_trip);
        if std::mem::take(&mut self.was_full) && quick {
            self.size = (2 * self.size).min(MAX_UNACKED);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUND_TRIP: Duration = Duration::from_millis(300);

    /// A window after so many of its worths, each of which takes this long.
    fn after(worths: usize, took: Duration, full: bool, round_trip: Option<Duration>) -> usize {
        let mut now = crate::session::tests::any_instant();
        let mut window = Window::new();
        for _ in 0..worths {
            if full {
                window.sent(window.size);
            }
            now += took;
            window.acknowledged(window.size as u64 - 1, now, round_trip);
            window.acknowledged(1, now, round_trip);
        }
        window.size
    }

    #[test]
    fn it_doubles_where_it_sets_the_pace() {
        let quick = ROUND_TRIP + Duration::from_millis(100);
        let sizes = [1, 2, 3, 9].map(|worths| after(worths, quick, true, Some(ROUND_TRIP)));
        assert_eq!(sizes, [FIRST_UNACKED, 2 * FIRST_UNACKED, 4 * FIRST_UNACKED, MAX_UNACKED]);
    }

    #[test]
    fn it_stays_where_the_path_does() {
        let (quick, slow) = (ROUND_TRIP, 2 * ROUND_TRIP);
        assert_eq!(after(9, slow, true, Some(ROUND_TRIP)), FIRST_UNACKED);
        assert_eq!(after(9, quick, false, Some(ROUND_TRIP)), FIRST_UNACKED);
        assert_eq!(after(9, quick, true, None), FIRST_UNACKED);
    }

    #[test]
    fn an_honest_sender_is_never_beyond_what_a_receiver_allows() {
        let (mut window, mut now, mut received) = (Window::new(), crate::session::tests::any_instant(), 0);
        for _ in 0..100 {
            assert!(window.size as u64 <= most(received), "{received}");
            window.sent(window.size);
            now += Duration::from_millis(1);
            received += 1 << 20;
            window.acknowledged(1 << 20, now, Some(ROUND_TRIP));
        }
        assert_eq!(window.size, MAX_UNACKED);
    }
}
