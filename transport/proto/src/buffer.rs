//! The two byte queues at a core's edge: what a socket gave and is not yet understood, and what a socket is still to take.

use std::collections::VecDeque;

use zeroize::Zeroize;

/// Room offered for the first reads: one full record.
const FIRST_SIZE: usize = 17 * 1024;
/// Room once a read has filled what was offered: four full records, so that one system call carries several; given back when idle.
const READ_SIZE: usize = 64 * 1024;

/// Bytes from a socket, in order, kept until the core has consumed them.
#[derive(Default)]
pub(crate) struct Inbox {
    buf: Vec<u8>,
    start: usize,
    end: usize,
    /// A read took all the room there was: there is more to come.
    busy: bool,
}

impl Inbox {
    /// Room for the next read, never empty. What is unread moves to the front only when less than half is free.
    pub(crate) fn space(&mut self) -> &mut [u8] {
        let wanted = if self.busy { READ_SIZE } else { FIRST_SIZE };
        if self.buf.len() < wanted {
            self.buf.resize(wanted, 0);
        }
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.buf.len() - self.end < self.buf.len() / 2 {
            self.buf.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        if self.end == self.buf.len() {
            self.buf.resize(self.end + READ_SIZE, 0);
        }
        &mut self.buf[self.end..]
    }

    /// Notes that the first `n` bytes of [`Inbox::space`] were filled.
    pub(crate) fn filled(&mut self, n: usize) {
        self.end = (self.end + n).min(self.buf.len());
        self.busy |= self.end == self.buf.len();
    }

    /// Appends bytes that came by another way than [`Inbox::space`].
    pub(crate) fn extend(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let space = self.space();
            let n = space.len().min(bytes.len());
            space[..n].copy_from_slice(&bytes[..n]);
            self.filled(n);
            bytes = &bytes[n..];
        }
    }

    pub(crate) fn data(&self) -> &[u8] {
        &self.buf[self.start..self.end]
    }

    pub(crate) fn data_mut(&mut self) -> &mut [u8] {
        &mut self.buf[self.start..self.end]
    }

    pub(crate) fn consume(&mut self, n: usize) {
        self.start = self.start.saturating_add(n).min(self.end);
    }

    pub(crate) fn len(&self) -> usize {
        self.end - self.start
    }

    /// Bytes allocated.
    pub(crate) fn allocated(&self) -> usize {
        self.buf.capacity()
    }

    /// Gives the memory back if nothing is held.
    pub(crate) fn shrink(&mut self) {
        if self.start == self.end {
            *self = Self::default();
        }
    }
}

/// Bytes for a socket, in order.
#[derive(Default)]
pub(crate) struct Outbox {
    buf: Vec<u8>,
    start: usize,
    /// Where writes are to end, in `buf`, in order; all after `start`.
    cuts: VecDeque<usize>,
}

impl Outbox {
    /// What is to be written next: up to the next cut.
    pub(crate) fn pending(&self) -> &[u8] {
        &self.buf[self.start..self.cuts.front().copied().unwrap_or(self.buf.len())]
    }

    /// Whether what is pending ends at a cut.
    pub(crate) fn is_cut(&self) -> bool {
        !self.cuts.is_empty()
    }

    /// Writes are to end here: positions in the [tail](Self::tail) as it is now, in order, beyond earlier cuts.
    pub(crate) fn cut(&mut self, at: impl Iterator<Item = usize>) {
        self.cuts.extend(at.filter(|at| (self.start + 1..=self.buf.len()).contains(at)));
    }

    pub(crate) fn len(&self) -> usize {
        self.buf.len() - self.start
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn wrote(&mut self, n: usize) {
        self.start = (self.start + n).min(self.buf.len());
        while self.cuts.front().is_some_and(|at| *at <= self.start) {
            self.cuts.pop_front();
        }
        if self.start == self.buf.len() {
            self.buf.clear();
            self.start = 0;
        }
    }

    pub(crate) fn extend(&mut self, bytes: &[u8]) {
        self.tail().extend_from_slice(bytes);
    }

    /// The vector to append to. What is pending moves to the front first when that frees at least half of it.
    pub(crate) fn tail(&mut self) -> &mut Vec<u8> {
        if self.start > self.buf.len() / 2 {
            self.buf.copy_within(self.start.., 0);
            let left = self.buf.len() - self.start;
            self.buf.truncate(left);
            for at in &mut self.cuts {
                *at -= self.start;
            }
            self.start = 0;
        }
        &mut self.buf
    }

    /// Bytes allocated.
    pub(crate) fn allocated(&self) -> usize {
        self.buf.capacity()
    }

    /// Gives the memory back if nothing is held.
    pub(crate) fn shrink(&mut self) {
        if self.is_empty() {
            *self = Self::default();
        }
    }
}

/// A scratch vector for opened records: plaintext, so it is wiped before its memory goes back.
#[derive(Default)]
pub(crate) struct Scratch(pub(crate) Vec<u8>);

impl Scratch {
    pub(crate) fn shrink(&mut self) {
        self.0.zeroize();
        self.0 = Vec::new();
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inbox_keeps_order_over_many_small_reads() {
        let mut inbox = Inbox::default();
        let mut expected = Vec::new();
        for round in 0..2_000u32 {
            let chunk: Vec<u8> = (0..97u32).map(|i| (round * 97 + i).to_le_bytes()[0]).collect();
            inbox.extend(&chunk);
            expected.extend_from_slice(&chunk);
            let take = (round as usize * 31) % (inbox.len() + 1);
            assert_eq!(&inbox.data()[..take], &expected[..take]);
            inbox.consume(take);
            expected.drain(..take);
        }
        assert_eq!(inbox.data(), expected);
    }

    #[test]
    fn an_inbox_grows_when_it_must_and_shrinks_when_empty() {
        let mut inbox = Inbox::default();
        inbox.extend(&vec![7; READ_SIZE * 3]);
        assert_eq!(inbox.len(), READ_SIZE * 3);
        inbox.shrink();
        assert_eq!(inbox.len(), READ_SIZE * 3);
        inbox.consume(READ_SIZE * 3);
        inbox.shrink();
        assert_eq!(inbox.buf.capacity(), 0);
    }

    #[test]
    fn an_outbox_gives_no_more_than_up_to_a_cut() {
        let mut outbox = Outbox::default();
        outbox.extend(b"one");
        outbox.wrote(2);
        outbox.tail().extend_from_slice(b"twothree");
        // `tail` moved what was left to the front: the positions are those of now.
        let at = [1, 4, 9].map(|at| at + outbox.start);
        outbox.cut(at.into_iter());
        let mut writes = Vec::new();
        while !outbox.is_empty() {
            assert_eq!(outbox.is_cut(), writes.len() < 3);
            writes.push(outbox.pending().to_vec());
            let n = outbox.pending().len();
            outbox.wrote(n);
            if writes.len() == 2 {
                outbox.extend(b"!");
            }
        }
        assert_eq!(writes, [&b"e"[..], b"two", b"three", b"!"]);
    }

    #[test]
    fn an_outbox_gives_every_byte_once() {
        let mut outbox = Outbox::default();
        let mut written = Vec::new();
        for i in 0..500u32 {
            outbox.extend(&i.to_be_bytes());
            let n = outbox.len().min(3);
            written.extend_from_slice(&outbox.pending()[..n]);
            outbox.wrote(n);
        }
        written.extend_from_slice(outbox.pending());
        let expected: Vec<u8> = (0..500u32).flat_map(u32::to_be_bytes).collect();
        assert_eq!(written, expected);
    }
}
