//! Credit: how much each side may send (docs/protocol.md, section 11).

use std::time::{Duration, Instant};

use super::{Role, Violation};

/// Chrome's stream window.
pub(super) const STREAM_DOWN: u64 = 6_291_456;
/// Chrome's connection window: HTTP/2's 65,535 and the increment Chrome sends at once.
pub(super) const CONNECTION_DOWN: u64 = 15_663_105 + 65_535;
/// What the bridge grants from the start, a web server's order of size.
pub(super) const STREAM_UP: u64 = 262_144;
/// The same for the connection.
pub(super) const CONNECTION_UP: u64 = 1_048_576;

/// What a stream's window grows to at most. Half of it may wait to be granted, and the other half is what TCP's own usual greatest
/// window of 6 MiB lets the path hold.
pub(super) const STREAM_LIMIT: u64 = 2 * STREAM_DOWN;
/// What the connection's grows to: no side holds more than Chrome would.
pub(super) const CONNECTION_LIMIT: u64 = CONNECTION_DOWN;

/// The most credit a peer may grant us in all. HTTP/2's limit (RFC 9113, section 6.9.1): nothing needs more, and
/// sums stay far from overflow.
pub(super) const MAX_CREDIT: u64 = (1 << 31) - 1;

/// Below this, credit held back is not worth a frame of its own while more can be read at once (a reader that takes
/// single bytes would cause an update for each).
const WORTH_A_FRAME: u64 = 4_096;

// How the sender divides the connection's window among streams whose readers may stop at any time, after dynamic
// thresholds (Choudhury and Hahne 1998). A stream's share is measured by what it has outstanding: sent, and not granted
// anew. Three steps, so that one stream can use its whole window, a few that stand still leave the others a fair pace,
// and any number leave them a way.

/// The last part of the connection's window, 1/16, that no stream gets by [`WIDE_SHARE`].
const RESERVE: u64 = 16;
/// The last part of the reserve, 1/64 of the window, in helpings of [`LAST_HELPING`] only.
const LAST_RESERVE: u64 = 64;
/// What any stream may have outstanding, 1/131072 of the window (8 bytes up, 120 down): 2,048 streams, both
/// sides' most, take the last reserve and no more.
const LAST_HELPING: u64 = LAST_RESERVE * 2_048;
/// Outstanding to what is left above the reserve, at most 16 to 1: the least power of two that never slows a lone
/// stream, whose window is outstanding while the receiver withholds half of the connection's.
const WIDE_SHARE: u64 = 16;
/// Outstanding to what is left above the last reserve, at most 1 to 4: each stream that stands still takes a fifth
/// of what the one before left.
const NARROW_SHARE: u64 = 4;

/// The windows of one direction at the start: stream, connection.
pub(super) fn initial(receiver: Role) -> (u64, u64) {
    match receiver {
        Role::Client => (STREAM_DOWN, CONNECTION_DOWN),
        Role::Bridge => (STREAM_UP, CONNECTION_UP),
    }
}

/// The time and the path's round trip, as last told.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    pub(super) now: Instant,
    pub(super) round_trip: Duration,
}

/// What we granted a peer, for a stream or for the connection.
///
/// `size` = `credit` (may still come) + bytes queued here + `withheld` (read, not granted anew).
#[derive(Debug)]
pub(super) struct Granted {
    size: u64,
    credit: u64,
    withheld: u64,
    /// When the present stretch of `size` began to be used; none before any data.
    since: Option<Instant>,
    /// Bytes that could still come without the first grant that the peer may not have got; none where it showed that it has.
    unheard: Option<u64>,
}

impl Granted {
    pub(super) fn new(size: u64) -> Self {
        Self { size, credit: size, withheld: 0, since: None, unheard: None }
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Bytes that may still come.
    #[cfg(test)]
    pub(super) fn left(&self) -> u64 {
        self.credit
    }

    /// Bytes that must be queued, by the other numbers.
    #[cfg(test)]
    pub(super) fn queued(&self) -> u64 {
        self.size - self.credit - self.withheld
    }

    /// Whether the peer seems to wait for credit: it used all, or exactly what it had before a grant.
    pub(super) fn starves(&self) -> bool {
        self.credit == 0 || self.unheard == Some(0)
    }

    pub(super) fn withheld(&self) -> u64 {
        self.withheld
    }

    /// Whether `count` bytes may arrive.
    pub(super) fn covers(&self, count: u64) -> Result<(), Violation> {
        if count <= self.credit { Ok(()) } else { Err(Violation::BeyondCredit) }
    }

    /// `count` bytes arrived that [`covers`](Self::covers) allowed.
    pub(super) fn arrived(&mut self, count: u64, clock: Option<Clock>) {
        self.credit = self.credit.saturating_sub(count);
        self.unheard = self.unheard.and_then(|left| left.checked_sub(count));
        if self.since.is_none() {
            self.since = clock.map(|clock| clock.now);
        }
    }

    /// `count` of the bytes that arrived left our memory.
    pub(super) fn consumed(&mut self, count: u64) {
        self.withheld += count;
    }

    /// Whether the connection's withheld credit has to be granted now: when it is more than what is left. With all
    /// read that is Chrome's point, half the window; with streams that stand still it comes sooner, or the window
    /// could be spent with nobody left to read.
    pub(super) fn connection_due(&self, drained: bool) -> bool {
        self.withheld > self.credit && (drained || self.credit == 0 || self.withheld >= WORTH_A_FRAME)
    }

    /// Whether little is left, which only streams that stand still can bring about.
    pub(super) fn pressed(&self) -> bool {
        self.credit < self.size / 4
    }

    /// Whether a stream's withheld credit has to be granted now: at half its window, as Chrome does. While the
    /// connection is pressed at once, since the peer then counts what it sent against the little that is left.
    pub(super) fn stream_due(&self, pressed: bool, drained: bool) -> bool {
        self.withheld > self.size / 2
            || (pressed && self.withheld > 0 && (drained || self.withheld >= WORTH_A_FRAME))
    }

    /// Grants what was withheld and returns the increment. The window doubles, up to `limit`, if this one lasted
    /// less than two round trips: then it, and not the path, sets the pace.
    pub(super) fn grant(&mut self, clock: Option<Clock>, limit: u64) -> u64 {
        let mut increment = std::mem::take(&mut self.withheld);
        if let (Some(clock), Some(since)) = (clock, self.since) {
            // `increment` of `size` took this long; all of it would have taken size / increment times as long.
            let took = clock.now.saturating_duration_since(since).as_nanos();
            let two_trips = clock.round_trip.as_nanos() * 2;
            if took * u128::from(self.size) < two_trips * u128::from(increment) {
                increment += self.grow(self.size.saturating_mul(2).min(limit));
            }
        }
        self.since = clock.map(|clock| clock.now);
        self.unheard.get_or_insert(self.credit);
        self.credit += increment;
        increment
    }

    /// Raises the size to `size`; the difference is to be granted by the caller.
    fn grow(&mut self, size: u64) -> u64 {
        let more = size.saturating_sub(self.size);
        self.size += more;
        more
    }

    /// Raises the size to `size` and leaves the difference among what is withheld.
    pub(super) fn raise(&mut self, size: u64) {
        self.withheld += self.grow(size);
    }
}

/// What a peer granted us.
#[derive(Debug)]
pub(super) struct Credit {
    left: u64,
    /// The most that was ever left, our estimate of the window's size.
    peak: u64,
}

impl Credit {
    pub(super) fn new(size: u64) -> Self {
        Self { left: size, peak: size }
    }

    pub(super) fn left(&self) -> u64 {
        self.left
    }

    pub(super) fn add(&mut self, increment: u64) -> Result<(), Violation> {
        match self.left.checked_add(increment) {
            _ if increment == 0 => Err(Violation::EmptyIncrement),
            Some(sum) if sum <= MAX_CREDIT => {
                self.left = sum;
                self.peak = self.peak.max(sum);
                Ok(())
            }
            _ => Err(Violation::WindowTooLarge),
        }
    }

    pub(super) fn spend(&mut self, count: u64) {
        self.left = self.left.saturating_sub(count);
    }

    /// How much a stream with credit `self` may send on a connection with credit `connection`.
    pub(super) fn allowance(&self, connection: &Self) -> u64 {
        let outstanding = self.peak - self.left;
        let above = |part: u64| connection.left.saturating_sub(connection.peak / part);
        // The most n with outstanding + n <= WIDE_SHARE * (above - n), and the like.
        let wide = (WIDE_SHARE * above(RESERVE)).saturating_sub(outstanding) / (WIDE_SHARE + 1);
        let narrow = above(LAST_RESERVE).saturating_sub(NARROW_SHARE * outstanding) / (NARROW_SHARE + 1);
        let last = (connection.peak / LAST_HELPING).saturating_sub(outstanding).min(connection.left);
        wide.max(narrow).max(last).min(self.left)
    }
}

#[cfg(test)]
mod tests {
    use super::{CONNECTION_DOWN, CONNECTION_UP, Credit, Granted, STREAM_DOWN, STREAM_UP};

    #[test]
    fn who_used_what_it_had_before_a_grant_starves() {
        let mut granted = Granted::new(100);
        assert!(!granted.starves());
        granted.arrived(60, None);
        granted.consumed(60);
        granted.grant(None, 100);
        assert!(!granted.starves());
        granted.arrived(40, None);
        assert!(granted.starves(), "no more than before the grant");
        granted.arrived(1, None);
        assert!(!granted.starves(), "it heard of the grant");
        granted.arrived(59, None);
        assert!(granted.starves(), "nothing is left");
    }

    /// A receiver may withhold half of the connection's window; a lone stream still uses all of its own.
    #[test]
    fn a_lone_stream_is_not_slowed() {
        for (stream, connection) in [(STREAM_DOWN, CONNECTION_DOWN), (STREAM_UP, CONNECTION_UP)] {
            let (mut stream, mut connection) = (Credit::new(stream), Credit::new(connection));
            connection.spend(connection.left() / 2);
            while stream.left() > 0 {
                let count = stream.allowance(&connection).min(16_384);
                assert!(count > 0, "{} of the stream's window left", stream.left());
                stream.spend(count);
                connection.spend(count);
            }
        }
    }

    /// However many streams take what they can and never give back, another finds something.
    #[test]
    fn something_is_left_for_the_last_of_all_streams() {
        for (size, connection) in [(STREAM_DOWN, CONNECTION_DOWN), (STREAM_UP, CONNECTION_UP)] {
            let mut connection = Credit::new(connection);
            for n in 0..2_048 {
                let mut stream = Credit::new(size);
                assert!(stream.allowance(&connection) >= 8, "stream {n}");
                loop {
                    let count = stream.allowance(&connection);
                    if count == 0 {
                        break;
                    }
                    stream.spend(count);
                    connection.spend(count);
                }
            }
        }
    }
}
