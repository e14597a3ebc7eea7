use std::time::{Duration, Instant};

/// How long one key is used: what a stolen key opens is bounded by time too.
pub const KEY_TIME: Duration = Duration::from_secs(10 * 60);
/// How many bytes one key seals: well inside AES-GCM's confidentiality limit of 2^24.5 full records (RFC 8446,
/// section 5.5), as WireGuard and SSH do by habit.
pub const KEY_BYTES: u64 = 8 << 30;
/// How many records one key seals: below that same limit.
pub const KEY_RECORDS: u64 = 1 << 24;

/// Counts what one sending key has done, and says when it has done enough (`docs/protocol.md`, section 8).
///
/// A key is changed with the next data that is sent, never on a timer: ask [`KeyClock::due`] when there is some.
#[derive(Debug, Clone)]
pub struct KeyClock {
    since: Instant,
    bytes: u64,
    records: u64,
}

impl KeyClock {
    /// A key that is used from `now` on.
    pub fn new(now: Instant) -> Self {
        Self { since: now, bytes: 0, records: 0 }
    }

    /// Notes one record of `bytes` bytes on the wire.
    pub fn count(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
        self.records = self.records.saturating_add(1);
    }

    /// Whether the next data should take a new key along.
    pub fn due(&self, now: Instant) -> bool {
        self.bytes >= KEY_BYTES
            || self.records >= KEY_RECORDS
            || now.saturating_duration_since(self.since) >= KEY_TIME
    }

    /// The key was changed at `now`.
    pub fn restart(&mut self, now: Instant) {
        *self = Self::new(now);
    }
}
