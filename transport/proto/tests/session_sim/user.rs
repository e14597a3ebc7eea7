//! A user at one end: streams with bytes that tell their place.

use std::collections::BTreeMap;

use qnet_proto::mux::{Mux, Read, StreamId};
use rand_chacha::ChaCha8Rng;
use rand_core::Rng;

/// Up to this, and not itself.
pub(crate) fn below(rng: &mut ChaCha8Rng, limit: u64) -> u64 {
    rng.next_u64() % limit.max(1)
}

/// The byte at a place of a stream, as this side writes it.
fn byte_at(id: StreamId, side: usize, place: usize) -> u8 {
    ((place * 31 + id.get() as usize * 7 + side * 101) % 251) as u8
}

/// One end of a stream.
#[derive(Debug, Default)]
pub(crate) struct End {
    /// What will be written in all, and was.
    total: usize,
    pub(crate) written: usize,
    finished: bool,
    pub(crate) read: usize,
    pub(crate) got_end: bool,
    /// A read or a write failed: somebody cancelled.
    pub(crate) failed: bool,
    released: bool,
}

impl End {
    fn is_done(&self) -> bool {
        self.released || self.failed || (self.got_end && self.finished)
    }
}

/// A side's streams.
#[derive(Debug)]
pub(crate) struct User {
    side: usize,
    pub(crate) ends: BTreeMap<StreamId, End>,
    /// Streams still to be opened.
    pub(crate) to_open: u64,
    /// Bytes of each stream.
    most: u64,
    pub(crate) cancelled: Vec<StreamId>,
}

impl User {
    pub(crate) fn new(side: usize, to_open: u64, most: u64) -> Self {
        Self { side, ends: BTreeMap::new(), to_open, most, cancelled: Vec::new() }
    }

    /// Nothing left to do.
    pub(crate) fn is_done(&self) -> bool {
        self.to_open == 0 && self.ends.values().all(End::is_done)
    }

    fn enter(&mut self, id: StreamId, rng: &mut ChaCha8Rng) {
        let total = if below(rng, 4) == 0 { 0 } else { below(rng, self.most) as usize };
        self.ends.insert(id, End { total, ..End::default() });
    }

    /// Does some of what it wants. Calm: all that can be done at once, and nothing rash.
    pub(crate) fn act(&mut self, mux: &mut Mux, rng: &mut ChaCha8Rng, calm: bool) {
        while mux.take_wake().is_some() {}
        while let Some(id) = mux.accept() {
            self.enter(id, rng);
        }
        if self.to_open > 0 && (calm || below(rng, 4) == 0) {
            self.to_open -= 1;
            let id = mux.open().expect("few streams");
            self.enter(id, rng);
        }
        let ids: Vec<StreamId> = self.ends.keys().copied().collect();
        for id in ids {
            if calm || below(rng, 3) > 0 {
                self.read(id, mux);
                self.write(id, mux, rng);
            }
            if !calm && below(rng, 400) == 0 {
                mux.cancel(id, qnet_proto::mux::code::CANCELLED);
                self.cancelled.push(id);
            }
            let Some(end) = self.ends.get_mut(&id) else { continue };
            if end.is_done() && !end.released {
                end.released = true;
                mux.release(id);
            }
        }
    }

    fn read(&mut self, id: StreamId, mux: &mut Mux) {
        let Some(end) = self.ends.get_mut(&id).filter(|end| !end.is_done()) else { return };
        let mut buffer = [0; 5_000];
        loop {
            match mux.read(id, &mut buffer) {
                Ok(Read::Data(count)) => {
                    let right = buffer.iter().take(count).enumerate();
                    for (at, byte) in right {
                        assert_eq!(*byte, byte_at(id, 1 - self.side, end.read + at), "stream {id}");
                    }
                    end.read += count;
                }
                Ok(Read::Empty) => return,
                Ok(Read::End) => {
                    end.got_end = true;
                    return;
                }
                Err(_) => {
                    end.failed = true;
                    return;
                }
            }
        }
    }

    fn write(&mut self, id: StreamId, mux: &mut Mux, rng: &mut ChaCha8Rng) {
        let Some(end) = self.ends.get_mut(&id).filter(|end| !end.is_done() && !end.finished) else { return };
        let count = (end.total - end.written).min(1 + below(rng, 20_000) as usize);
        let data: Vec<u8> = (end.written..end.written + count).map(|at| byte_at(id, self.side, at)).collect();
        match mux.write(id, &data) {
            Ok(taken) => end.written += taken,
            Err(_) => end.failed = true,
        }
        if end.written == end.total && !end.failed {
            mux.finish(id);
            end.finished = true;
        }
    }
}
