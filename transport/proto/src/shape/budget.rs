//! What a carrier's shape may cost, in bytes and in time.

use std::time::{Duration, Instant};

use super::profile::Bounds;

/// Nothing waits longer than this for a shape's sake, whatever a profile says: people notice a quarter of a second, and no
/// timer of a protocol inside is as short.
pub const MAX_HOLD: Duration = Duration::from_millis(250);

/// The share of the allowance, one part of so many, that only what must be added may take.
const RESERVED: usize = 4;

/// What was spent of a profile's bounds.
#[derive(Debug)]
pub(super) struct Budget {
    bounds: Bounds,
    carried: u64,
    added: u64,
    held: Duration,
    began: Option<Instant>,
}

impl Budget {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self { bounds, carried: 0, added: 0, held: Duration::ZERO, began: None }
    }

    pub(super) fn began(&mut self, now: Instant) {
        self.began.get_or_insert(now);
    }

    /// A record of data had to go anyway, with so many bytes.
    pub(super) fn carried(&mut self, bytes: usize) {
        self.carried += bytes as u64;
    }

    /// Bytes that may still be added.
    pub(super) fn left(&self) -> usize {
        let share = self.carried / 1_000 * u64::from(self.bounds.per_mille);
        let allowed = u64::from(self.bounds.allowance) + share;
        usize::try_from(allowed.saturating_sub(self.added)).unwrap_or(usize::MAX)
    }

    /// The same but for what is kept for bursts that have to be cleared of the models.
    pub(super) fn spare(&self) -> usize {
        self.left().saturating_sub(self.bounds.allowance as usize / RESERVED)
    }

    pub(super) fn add(&mut self, bytes: usize) {
        self.added += bytes as u64;
    }

    /// How long the next record may be held from now on.
    pub(super) fn hold(&self, now: Instant) -> Duration {
        let Bounds { hold_ms, held_ms, held_per_mille, .. } = self.bounds;
        let elapsed = self.began.map_or(Duration::ZERO, |began| now.saturating_duration_since(began));
        let share = elapsed / 1_000 * u32::from(held_per_mille);
        let left = (Duration::from_millis(u64::from(held_ms)) + share).saturating_sub(self.held);
        left.min(Duration::from_millis(u64::from(hold_ms))).min(MAX_HOLD)
    }

    pub(super) fn held(&mut self, time: Duration) {
        self.held += time;
    }

    #[cfg(test)]
    pub(super) fn spent(&self) -> (u64, u64) {
        (self.carried, self.added)
    }
}
