//! Two muxes joined by a pipe that neither loses nor reorders.

mod fairness;
mod hostile;
mod model;
mod use_of;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::stream::{Place, State};
use super::{Mux, Read, Role, StreamError, StreamId, flow};
use crate::frame::{Frame, frames};

/// A whole record's content.
const RECORD: usize = 16_384;

/// Both ends and what is between them. Side 0 is the client.
struct Pair {
    ends: [Mux; 2],
    /// Records on their way from each side.
    pipes: [VecDeque<Vec<u8>>; 2],
    now: Instant,
}

impl Pair {
    #[expect(clippy::disallowed_methods, reason = "any instant will do; only differences count")]
    fn new() -> Self {
        Self {
            ends: [Mux::new(Role::Client), Mux::new(Role::Bridge)],
            pipes: Default::default(),
            now: Instant::now(),
        }
    }

    /// One record from `side` into its pipe; returns its size.
    fn pack(&mut self, side: usize, room: usize) -> usize {
        let mut out = Vec::new();
        let size = self.ends[side].pack(room, &mut out);
        assert_eq!(size, out.len());
        assert!(size <= room);
        if size > 0 {
            self.pipes[side].push_back(out);
        } else if room >= 20 {
            assert!(!self.ends[side].wants_to_send(), "wants to send, packs nothing");
        }
        check(&self.ends[side]);
        size
    }

    /// The oldest record from `side` reaches the other end. False: there is none.
    fn deliver(&mut self, side: usize) -> bool {
        let Some(record) = self.pipes[side].pop_front() else { return false };
        for frame in frames(&record) {
            let frame = frame.expect("well formed");
            self.ends[1 - side].on_frame(&frame).expect("an honest peer");
        }
        check(&self.ends[1 - side]);
        true
    }

    /// Moves everything there is, both ways. Returns whether anything moved.
    fn settle(&mut self) -> bool {
        let mut moved = false;
        while (0..2).any(|side| {
            let packed = self.pack(side, RECORD) > 0;
            self.deliver(side) || packed
        }) {
            moved = true;
        }
        self.check_credit();
        moved
    }

    fn pass_time(&mut self, time: Duration, round_trip: Duration) {
        self.now += time;
        for end in &mut self.ends {
            end.tick(self.now, round_trip);
        }
    }

    /// With nothing on the way, both ends agree about every window.
    fn check_credit(&self) {
        for side in 0..2 {
            let (sender, receiver) = (&self.ends[side], &self.ends[1 - side]);
            assert_eq!(sender.credit.left(), receiver.granted.left(), "connection");
            for (id, stream) in &sender.streams {
                if let Some(other) = receiver.streams.get(id)
                    && stream.announced
                    && other.state.can_receive()
                {
                    assert_eq!(stream.credit.left(), other.granted.left(), "stream {id}");
                }
            }
        }
    }

    /// Opens a stream on `side` and accepts it on the other.
    fn open(&mut self, side: usize) -> StreamId {
        let id = self.ends[side].open().unwrap();
        self.settle();
        assert_eq!(self.ends[1 - side].accept(), Some(id));
        id
    }
}

/// What must hold of a mux at any time.
fn check(mux: &Mux) {
    let (mut queued_in, mut queued_out, mut open, mut theirs) = (0, 0, [0, 0], 0);
    let (mut ready, mut blocked, mut control) = (0, 0, 0);
    for (&id, stream) in &mux.streams {
        queued_in += stream.incoming.len();
        queued_out += stream.outgoing.len();
        theirs += usize::from(!stream.ours);
        open[usize::from(stream.ours)] += usize::from(!stream.state.is_over());
        ready += usize::from(stream.place == Place::Ready);
        blocked += usize::from(stream.place == Place::Blocked);
        control += usize::from(stream.in_control);
        assert_eq!(stream.ours, mux.role.opens(id));
        if !stream.discards() {
            assert_eq!(stream.granted.queued(), stream.incoming.len() as u64);
        }
        if stream.released {
            assert!(stream.incoming.is_empty() && !stream.state.is_over());
        }
        assert!(!matches!(stream.state, State::Cancelling(_)) || stream.in_control);
        assert!(stream.place != Place::Out || !stream.can_go(), "stream {id} has been forgotten: {stream:?}");
    }
    assert_eq!((queued_in, queued_out), (mux.queued_in, mux.queued_out));
    assert_eq!(open, [mux.open_theirs, mux.open_ours]);
    assert_eq!(theirs, mux.entries_theirs);
    assert_eq!((ready, blocked, control), (mux.turns.len(), mux.blocked.len(), mux.control.len()));
    assert_eq!(mux.granted.queued(), queued_in as u64);
    assert!(queued_in as u64 <= mux.granted.size());
    let queues = 2 * mux.streams.len();
    assert!(mux.allocated() <= mux.buffered() + (2 * queues + super::queue::SPARE) * super::SEGMENT);
}

/// Nothing at all is left of any stream.
fn check_gone(mux: &mut Mux) {
    check(mux);
    assert!(mux.streams.is_empty() && mux.refused.is_empty() && mux.incoming.is_empty());
    assert!(mux.turns.is_empty() && mux.blocked.is_empty() && mux.control.is_empty());
    assert_eq!(mux.take_wake(), None);
    assert_eq!((mux.open_streams(), mux.buffered()), (0, 0));
    mux.trim();
    assert_eq!(mux.allocated(), 0);
}

/// The byte at `offset` of what `side` sends on stream `id`.
fn byte(side: usize, id: StreamId, offset: usize) -> u8 {
    let mixed = (offset as u64 ^ id.get().rotate_left(40) ^ ((side as u64) << 60))
        .wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed.to_be_bytes()[2]
}

fn bytes(side: usize, id: StreamId, offset: usize, count: usize) -> Vec<u8> {
    (offset..offset + count).map(|offset| byte(side, id, offset)).collect()
}

/// A small generator for choices that need not shrink (splitmix64).
struct Choices(u64);

impl Choices {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % bound as u64).unwrap()
    }
}
