//! What was sent and is not yet acknowledged.

use crate::mux::{Pool, Queue};

/// Spare segments kept until nothing has moved for a while: what acknowledgements free where the path is short. There are never more
/// than were in use at once.
const SPARE: usize = super::FIRST_UNACKED / crate::mux::SEGMENT;

/// The session's bytes from the acknowledged position on.
#[derive(Debug)]
pub(super) struct Log {
    bytes: Queue,
    pool: Pool,
    start: u64,
}

impl Log {
    pub(super) fn new() -> Self {
        Self { bytes: Queue::default(), pool: Pool::keeping(SPARE), start: 0 }
    }

    /// The first position that is not acknowledged.
    pub(super) fn start(&self) -> u64 {
        self.start
    }

    /// The position after the last byte.
    pub(super) fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.bytes.push(bytes, &mut self.pool);
    }

    /// Drops what lies below `position`, which is at most [`Log::end`]. False if it was dropped before.
    pub(super) fn acknowledge(&mut self, position: u64) -> bool {
        let Some(count) = position.checked_sub(self.start).filter(|count| *count > 0) else { return false };
        self.bytes.discard(usize::try_from(count).unwrap_or(usize::MAX), &mut self.pool);
        self.start = position;
        true
    }

    /// Appends the bytes from `position` on to `out`, at most `limit`, and returns how many.
    pub(super) fn copy(&self, position: u64, limit: usize, out: &mut Vec<u8>) -> usize {
        let offset = usize::try_from(position.saturating_sub(self.start)).unwrap_or(usize::MAX);
        let count = self.bytes.len().saturating_sub(offset).min(limit);
        self.bytes.copy(offset, count, out);
        count
    }

    pub(super) fn allocated(&self) -> usize {
        self.pool.allocated()
    }

    pub(super) fn trim(&mut self) {
        self.pool.trim();
        if self.is_empty() {
            self.bytes = Queue::default();
        }
    }
}
