//! How fast a TCP sender fills a long path, as a state machine: time comes in.
//!
//! A connection through a relay on loopback knows no distance: each half is TCP over a path of microseconds. So the relay does what
//! the sender's TCP would do on a path of this length: slow start (RFC 5681, section 3.1, from RFC 6928's first window), congestion
//! avoidance, half the window after a loss, and a receiver's window that ends it all. It is the same for whatever is inside.

use std::time::{Duration, Instant};

/// A segment's payload, bytes: Ethernet's less IPv4's and TCP's headers (RFC 9293, section 3.7.1).
pub(super) const SEGMENT: usize = 1_460;

/// Ten segments (RFC 6928).
const FIRST_WINDOW: usize = 10 * SEGMENT;

/// Two segments: what a window is halved to at least (RFC 5681, section 3.1).
const LEAST_WINDOW: usize = 2 * SEGMENT;

/// What a receiver's window grows to at most where nobody changed Linux's `tcp_rmem`, bytes.
const RECEIVER_WINDOW: usize = 6 << 20;

/// How late a sender with a rate may be and still make up for it: it sleeps no finer on a busy machine.
const LATE: Duration = Duration::from_millis(20);

/// What a path does.
#[derive(Clone, Copy, Debug)]
pub struct Path {
    /// There and back.
    pub round_trip: Duration,
    /// Bytes a second in each direction; `None`: as the windows allow.
    pub rate: Option<u64>,
    /// Segments lost, of 1,000. The path stands still for a round trip then, and the window is halved. Further losses before that is
    /// over are the same event, as with selective acknowledgements (RFC 6675).
    pub lost: u32,
    /// What the losses are drawn by.
    pub seed: u64,
}

/// One direction's sender.
#[derive(Debug)]
pub(super) struct Sender {
    path: Path,
    window: usize,
    /// Below it the window doubles in a round trip.
    threshold: usize,
    on_the_way: usize,
    /// When the next byte may leave.
    next: Instant,
    /// Nothing arrives before.
    stands_until: Instant,
    state: u64,
    /// Bytes of the segment that is not full.
    part: usize,
}

impl Sender {
    /// The connection's own handshake takes a round trip.
    pub(super) fn new(path: Path, now: Instant) -> Self {
        Self {
            path,
            window: FIRST_WINDOW,
            threshold: usize::MAX,
            on_the_way: 0,
            next: now + path.round_trip,
            stands_until: now,
            state: path.seed,
            part: 0,
        }
    }

    /// Bytes that may leave now, and when to ask again if none may; without a time: once something is acknowledged.
    pub(super) fn room(&self, now: Instant) -> Result<usize, Option<Instant>> {
        if self.next > now {
            return Err(Some(self.next));
        }
        match self.window.saturating_sub(self.on_the_way) {
            0 => Err(None),
            room => Ok(room),
        }
    }

    /// `count` bytes leave; returns when they arrive.
    pub(super) fn sends(&mut self, count: usize, now: Instant) -> Instant {
        self.on_the_way += count;
        if let Some(rate) = self.path.rate {
            let from = self.next.max(now.checked_sub(LATE).unwrap_or(now));
            self.next = from + Duration::from_nanos(count as u64 * 1_000_000_000 / rate.max(1));
        }
        let arrives = now + self.path.round_trip / 2;
        self.part += count;
        while self.part >= SEGMENT {
            self.part -= SEGMENT;
            if self.is_lost() && arrives >= self.stands_until {
                self.stands_until = arrives + self.path.round_trip;
                self.threshold = (self.window / 2).max(LEAST_WINDOW);
                self.window = self.threshold;
            }
        }
        arrives.max(self.stands_until)
    }

    /// `count` bytes were acknowledged.
    pub(super) fn acknowledged(&mut self, count: usize) {
        self.on_the_way -= count.min(self.on_the_way);
        let more = if self.window < self.threshold { count } else { SEGMENT * count / self.window };
        self.window = (self.window + more).min(RECEIVER_WINDOW);
    }

    /// xorshift64* (Vigna 2016): repeatable, and no more is asked of it.
    fn is_lost(&mut self) -> bool {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        let drawn = self.state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 32;
        drawn * 1_000 < u64::from(self.path.lost) << 32
    }
}

#[cfg(test)]
mod tests {
    use super::{FIRST_WINDOW, Path, RECEIVER_WINDOW, SEGMENT, Sender};
    use std::time::{Duration, Instant};

    const TRIP: Duration = Duration::from_millis(100);

    fn path(rate: Option<u64>, lost: u32) -> Path {
        Path { round_trip: TRIP, rate, lost, seed: 7 }
    }

    /// Bytes that leave in this many round trips, all of which are acknowledged a round trip after.
    fn carried(path: Path, trips: u32) -> (usize, usize) {
        let begin = Instant::now();
        let mut sender = Sender::new(path, begin);
        let (mut now, mut sent) = (begin + TRIP, 0);
        let mut acknowledged: std::collections::VecDeque<(Instant, usize)> = [].into();
        while now < begin + TRIP * (trips + 1) {
            while acknowledged.front().is_some_and(|(at, _)| *at <= now) {
                sender.acknowledged(acknowledged.pop_front().unwrap().1);
            }
            while let Ok(room) = sender.room(now) {
                let count = room.min(4 * SEGMENT);
                acknowledged.push_back((sender.sends(count, now) + TRIP / 2, count));
                sent += count;
            }
            now += Duration::from_micros(500);
        }
        (sent, sender.window)
    }

    #[test]
    fn a_window_doubles_until_the_receiver_has_no_more() {
        let (sent, _) = carried(path(None, 0), 3);
        assert!((FIRST_WINDOW * 6..=FIRST_WINDOW * 7).contains(&sent), "{sent}");
        let (_, window) = carried(path(None, 0), 20);
        assert_eq!(window, RECEIVER_WINDOW);
    }

    #[test]
    fn a_rate_is_kept() {
        let bytes = |trips| carried(path(Some(12_500_000), 0), trips).0;
        let each = (bytes(40) - bytes(30)) / 10;
        assert!((1_200_000..1_300_000).contains(&each), "{each}");
    }

    #[test]
    fn losses_cost_what_tcp_loses() {
        // 1.22 segments a round trip by the root of the share lost (Mathis et al. 1997), less what standing still takes.
        let (sent, _) = carried(path(None, 10), 2_000);
        let segments = sent / SEGMENT / 2_000;
        assert!((5..=14).contains(&segments), "{segments}");
    }
}
