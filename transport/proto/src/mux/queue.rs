//! Byte queues made of equal segments, and the spare segments they share.
//!
//! A queue's memory is what it holds, rounded up to segments; frames leave no trace in it, so a peer's tiny frames
//! cost no more than its bytes. Emptied segments go to the [`Pool`], so that steady traffic allocates nothing.

use std::collections::VecDeque;

/// Bytes a segment. Small, since a stream with one byte waiting holds a whole one (1,024 such streams: 4 MiB);
/// large enough that a full frame is copied in four or five pieces.
pub(crate) const SEGMENT: usize = 4_096;

/// Spare segments kept until nothing has moved for a while, 2.5 MiB: what streams that can send hold together, and half a
/// megabyte that comes before readers have their turn. There are never more than were in use at once.
pub(super) const SPARE: usize = 640;

/// Places in a ring's index (8 bytes each) that are kept when it empties; beyond, the index is given back. Bursts of 64 streams then
/// allocate nothing. A queue's keeps as many as its pool keeps segments.
const KEPT_PLACES: usize = 64;

type Segment = Box<[u8; SEGMENT]>;

/// Spare segments.
#[derive(Debug)]
pub(crate) struct Pool {
    spare: Vec<Segment>,
    /// Segments that queues hold.
    lent: usize,
    /// Spare ones kept at most.
    keep: usize,
}

impl Default for Pool {
    fn default() -> Self {
        Self::keeping(SPARE)
    }
}

impl Pool {
    /// A pool that keeps this many spare segments until [`Pool::trim`].
    pub(crate) fn keeping(keep: usize) -> Self {
        Self { spare: Vec::new(), lent: 0, keep }
    }

    fn get(&mut self) -> Segment {
        self.lent += 1;
        self.spare.pop().unwrap_or_else(|| Box::new([0; SEGMENT]))
    }

    fn put(&mut self, segment: Segment) {
        self.lent -= 1;
        if self.spare.len() < self.keep {
            self.spare.push(segment);
        }
    }

    /// Gives back every spare segment.
    pub(crate) fn trim(&mut self) {
        self.spare = Vec::new();
    }

    /// Bytes allocated, lent and spare.
    pub(crate) fn allocated(&self) -> usize {
        (self.lent + self.spare.len()) * SEGMENT
    }
}

/// A first-in, first-out queue of bytes.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    segments: VecDeque<Segment>,
    /// Where the first byte is in the first segment, below [`SEGMENT`].
    start: usize,
    len: usize,
}

impl Queue {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) fn push(&mut self, mut data: &[u8], pool: &mut Pool) {
        while !data.is_empty() {
            let end = self.start + self.len;
            let (index, offset) = (end / SEGMENT, end % SEGMENT);
            if index == self.segments.len() {
                self.segments.push_back(pool.get());
            }
            let (now, later) = data.split_at(data.len().min(SEGMENT - offset));
            self.segments[index][offset..offset + now.len()].copy_from_slice(now);
            self.len += now.len();
            data = later;
        }
    }

    /// Moves up to `buf.len()` bytes to `buf`'s beginning and returns how many.
    pub(super) fn read(&mut self, buf: &mut [u8], pool: &mut Pool) -> usize {
        let mut done = 0;
        while done < buf.len() {
            let piece = self.front(buf.len() - done);
            if piece.is_empty() {
                break;
            }
            let length = piece.len();
            buf[done..done + length].copy_from_slice(piece);
            done += length;
            self.advance(length, pool);
        }
        done
    }

    /// Appends `count` bytes, or all there are, to `out`.
    pub(super) fn take(&mut self, mut count: usize, out: &mut Vec<u8>, pool: &mut Pool) {
        while count > 0 && !self.is_empty() {
            let piece = self.front(count);
            let length = piece.len();
            out.extend_from_slice(piece);
            count -= length;
            self.advance(length, pool);
        }
    }

    /// Appends `count` bytes from `offset` on to `out`, or as many as there are, and keeps them.
    pub(crate) fn copy(&self, offset: usize, count: usize, out: &mut Vec<u8>) {
        let (mut at, end) = (self.start + offset, self.start + self.len.min(offset.saturating_add(count)));
        while at < end {
            let (index, from) = (at / SEGMENT, at % SEGMENT);
            let to = SEGMENT.min(from + (end - at));
            out.extend_from_slice(&self.segments[index][from..to]);
            at += to - from;
        }
    }

    /// Drops the first `count` bytes, or all there are.
    pub(crate) fn discard(&mut self, count: usize, pool: &mut Pool) {
        let mut left = count;
        while left > 0 && !self.is_empty() {
            let length = self.front(left).len();
            self.advance(length, pool);
            left -= length;
        }
    }

    /// Drops everything and returns how many bytes that was.
    pub(super) fn clear(&mut self, pool: &mut Pool) -> usize {
        let dropped = self.len;
        while let Some(segment) = self.segments.pop_front() {
            pool.put(segment);
        }
        (self.start, self.len) = (0, 0);
        give_back(&mut self.segments, pool.keep);
        dropped
    }

    /// Gives back an index that nothing is in.
    pub(super) fn trim(&mut self) {
        give_back(&mut self.segments, 0);
    }

    /// The longest run of bytes in one piece, at most `limit`.
    fn front(&self, limit: usize) -> &[u8] {
        let length = limit.min(self.len).min(SEGMENT - self.start);
        self.segments.front().map_or(&[], |segment| &segment[self.start..self.start + length])
    }

    /// Drops `count` bytes of the first segment.
    fn advance(&mut self, count: usize, pool: &mut Pool) {
        self.start += count;
        self.len -= count;
        if self.len == 0 {
            self.clear(pool);
        } else if self.start == SEGMENT {
            self.start = 0;
            if let Some(segment) = self.segments.pop_front() {
                pool.put(segment);
            }
        }
    }
}

/// An ordered set of stream ids that wait for something. Whoever adds keeps a flag, so that none is in twice.
#[derive(Debug, Default)]
pub(super) struct Ring(VecDeque<u64>);

impl Ring {
    pub(super) fn push(&mut self, id: u64) {
        self.0.push_back(id);
    }

    pub(super) fn pop(&mut self) -> Option<u64> {
        let id = self.0.pop_front();
        give_back(&mut self.0, KEPT_PLACES);
        id
    }

    pub(super) fn front(&self) -> Option<u64> {
        self.0.front().copied()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Gives back the places, if nothing is in them.
    pub(super) fn trim(&mut self) {
        give_back(&mut self.0, 0);
    }

    /// Takes an id out and says where it was. Linear, at most a few thousand: only when a stream ends before its turn.
    pub(super) fn remove(&mut self, id: u64) -> Option<usize> {
        let at = self.0.iter().position(|&other| other == id)?;
        self.0.remove(at);
        give_back(&mut self.0, KEPT_PLACES);
        Some(at)
    }
}

/// Frees an index, if it is empty and has more places than these.
fn give_back<T>(index: &mut VecDeque<T>, places: usize) {
    if index.is_empty() && index.capacity() > places {
        *index = VecDeque::new();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::{Pool, Queue, SEGMENT, SPARE};

    proptest! {
        #[test]
        fn bytes_come_out_as_they_went_in(
            steps in prop::collection::vec((0..3 * SEGMENT, 0..3 * SEGMENT, any::<bool>()), 1..40),
        ) {
            let (mut pool, mut queue, mut model) = (Pool::default(), Queue::default(), VecDeque::new());
            let (mut next, mut most) = (0u32, 0);
            for (push, pull, take) in steps {
                let data: Vec<u8> = (0..push)
                    .map(|_| {
                        next = next.wrapping_mul(69_069).wrapping_add(1);
                        next.to_be_bytes()[0]
                    })
                    .collect();
                queue.push(&data, &mut pool);
                most = most.max(queue.segments.len());
                model.extend(data);
                let wanted: Vec<u8> = model.drain(..pull.min(model.len())).collect();
                let mut got = vec![0; pull];
                if take {
                    got.clear();
                    queue.take(pull, &mut got, &mut pool);
                } else {
                    let count = queue.read(&mut got, &mut pool);
                    got.truncate(count);
                }
                prop_assert_eq!(got, wanted);
                prop_assert_eq!(queue.len(), model.len());
                let held = queue.segments.len();
                prop_assert_eq!(held, pool.lent);
                prop_assert!(held <= queue.len().div_ceil(SEGMENT) + 1);
                prop_assert!(pool.spare.len() <= SPARE && pool.spare.len() + held <= most);
            }
            let left = queue.len();
            prop_assert_eq!(queue.clear(&mut pool), left);
            pool.trim();
            prop_assert_eq!(pool.allocated(), 0);
        }
    }

    #[test]
    fn an_empty_queue_holds_nothing_and_steady_traffic_allocates_nothing() {
        let (mut pool, mut queue) = (Pool::default(), Queue::default());
        let mut buf = [0; 16_384];
        queue.push(&vec![7; 6 << 20], &mut pool);
        while queue.read(&mut buf, &mut pool) > 0 {}
        assert!(queue.segments.capacity() <= SPARE);
        assert_eq!(pool.allocated(), SPARE * SEGMENT);
        let spare: Vec<*const u8> = pool.spare.iter().map(|segment| segment.as_ptr()).collect();
        for _ in 0..1_000 {
            queue.push(&buf, &mut pool);
            assert!(queue.segments.iter().all(|segment| spare.contains(&segment.as_ptr())));
            assert_eq!(queue.read(&mut buf, &mut pool), buf.len());
        }
    }
}
