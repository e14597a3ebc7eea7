//! The sending half: what goes into the next record.

use super::flow::{CONNECTION_LIMIT, STREAM_LIMIT};
use super::stream::{Ending, Place, State};
use super::{Mux, code, wake_writer};
use crate::frame::{self, Frame};

/// Data of fewer bytes is not squeezed into what other frames left of a record.
const SLIVER: usize = 64;

/// How a stream's turn went on.
enum Step {
    /// Something was packed and the turn is not over.
    More,
    /// The next thing does not fit the room.
    Full,
    /// The stream goes to this place.
    Leave(Place),
}

impl Mux {
    /// Appends frames of at most `room` bytes in all to `out` and returns how many bytes that were: control frames
    /// first, then data, by turns. 20 bytes of room let every control frame through.
    pub fn pack(&mut self, room: usize, out: &mut Vec<u8>) -> usize {
        let start = out.len();
        let end = start.saturating_add(room);
        if self.pack_control(end, out) {
            self.pack_data(start, end, out);
        }
        out.len() - start
    }

    /// Whether [`pack`](Self::pack) has anything to pack, given room. It may be true once more when credit ran
    /// out; a `pack` that returns 0 with 20 bytes of room or more sets that right.
    #[must_use]
    pub fn wants_to_send(&self) -> bool {
        self.connection_update_due
            || !self.control.is_empty()
            || !self.refused.is_empty()
            || !self.turns.is_empty()
    }

    /// False: something did not fit.
    fn pack_control(&mut self, end: usize, out: &mut Vec<u8>) -> bool {
        if self.connection_update_due && !self.pack_connection_update(end, out) {
            return false;
        }
        while let Some(&id) = self.refused.first() {
            if !put(&Frame::Close { id, code: code::REFUSED }, end, out) {
                return false;
            }
            self.refused.pop_first();
        }
        while let Some(id) = self.control.front() {
            if !self.pack_stream_control(id, end, out) {
                return false;
            }
            self.control.pop();
            if let Some(stream) = self.streams.get_mut(&id) {
                stream.in_control = false;
            }
            self.forget_if_over(id);
        }
        true
    }

    fn pack_connection_update(&mut self, end: usize, out: &mut Vec<u8>) -> bool {
        if end - out.len() < MAX_UPDATE {
            return false;
        }
        let increment = self.granted.grant(self.clock, CONNECTION_LIMIT);
        self.connection_update_due = false;
        self.pressed = self.granted.pressed();
        put(&Frame::WindowUpdate { id: 0, increment }, end, out)
    }

    fn pack_stream_control(&mut self, id: u64, end: usize, out: &mut Vec<u8>) -> bool {
        let Some(stream) = self.streams.get_mut(&id) else { return true };
        let update = std::mem::take(&mut stream.update_due);
        if let State::Cancelling(code) = stream.state {
            if !put(&Frame::Close { id, code }, end, out) {
                return false;
            }
            self.set_state(id, State::Ended(Ending::Ours));
        } else if update && !stream.discards() && stream.granted.withheld() > 0 {
            if end - out.len() < MAX_UPDATE {
                stream.update_due = true;
                return false;
            }
            let increment = stream.granted.grant(self.clock, STREAM_LIMIT);
            let wide = (2 * stream.granted.size()).min(CONNECTION_LIMIT);
            if wide > self.granted.size() {
                // A stream cannot use a window that the connection's is not well above.
                self.granted.raise(wide);
                self.connection_update_due = true;
            }
            return put(&Frame::WindowUpdate { id, increment }, end, out);
        }
        true
    }

    fn pack_data(&mut self, start: usize, end: usize, out: &mut Vec<u8>) {
        let now = self.clock.map(|clock| clock.now);
        while let Some(id) = self.turns.front(now) {
            match self.pack_turn(id, start, end, out) {
                Step::More => {}
                Step::Full => break,
                Step::Leave(place) => {
                    self.turns.pop();
                    if let Some(stream) = self.streams.get_mut(&id) {
                        stream.place = place;
                        match place {
                            Place::Ready => self.turns.push(id, &stream.share),
                            Place::Blocked => self.blocked.push(id),
                            Place::Out => {}
                        }
                    }
                    self.forget_if_over(id);
                }
            }
        }
        // A CLOSE that ends a released stream, or an update that widens the connection, may have come up.
        if out.len() < end && !self.control.is_empty() {
            self.pack_control(end, out);
        }
    }

    /// One step of a stream's turn: a STREAM frame, or the end.
    fn pack_turn(&mut self, id: u64, start: usize, end: usize, out: &mut Vec<u8>) -> Step {
        let alone = self.turns.len() == 1;
        let Some(stream) = self.streams.get_mut(&id) else { return Step::Leave(Place::Out) };
        if !stream.has_output() {
            return Step::Leave(Place::Out);
        }
        if stream.announced && stream.outgoing.is_empty() {
            return self.pack_end(id, end, out);
        }
        let credit = stream.credit.allowance(&self.credit);
        let allowed = stream.outgoing.len().min(usize::try_from(credit).unwrap_or(usize::MAX));
        if stream.announced && allowed == 0 {
            let place = if stream.credit.left() == 0 { Place::Out } else { Place::Blocked };
            return Step::Leave(place);
        }
        let wanted = if alone { allowed } else { allowed.min(self.turns.budget(&stream.share)) };
        let Some(space) = (end - out.len()).checked_sub(frame::stream_overhead(id)) else {
            return Step::Full;
        };
        let length = wanted.min(space);
        let squeezed = length < wanted && (length == 0 || (length < SLIVER && out.len() > start));
        if squeezed {
            return Step::Full;
        }
        frame::put_stream_prefix(id, length, out);
        stream.outgoing.take(length, out, &mut self.pool);
        self.turns.spend(&mut stream.share, length);
        stream.credit.spend(length as u64);
        self.credit.spend(length as u64);
        self.queued_out -= length;
        if !stream.announced {
            stream.announced = true;
            self.announced = id + 2;
        }
        self.be_patient_for(length);
        self.after_turn(id)
    }

    fn after_turn(&mut self, id: u64) -> Step {
        let room_again = self.send_limit() / 2;
        let Some(stream) = self.streams.get_mut(&id) else { return Step::Leave(Place::Out) };
        if stream.outgoing.len() <= room_again {
            wake_writer(stream, id, &mut self.wakes);
        }
        if !stream.has_output() {
            Step::Leave(Place::Out)
        } else if self.turns.budget(&stream.share) == 0 && !stream.outgoing.is_empty() {
            Step::Leave(Place::Ready)
        } else {
            Step::More
        }
    }

    fn pack_end(&mut self, id: u64, end: usize, out: &mut Vec<u8>) -> Step {
        let Some(stream) = self.streams.get_mut(&id) else { return Step::Leave(Place::Out) };
        if !put(&Frame::Close { id, code: code::END }, end, out) {
            return Step::Full;
        }
        let state = match stream.state {
            // Nobody is left to read: the other direction ends too. What we sent stays whole, since its end went first.
            State::Open if stream.released => State::Cancelling(code::CANCELLED),
            State::Open => State::SentEnd,
            _ => State::Done,
        };
        self.set_state(id, state);
        if let Some(stream) = self.streams.get_mut(&id) {
            wake_writer(stream, id, &mut self.wakes);
        }
        Step::Leave(Place::Out)
    }

    /// Puts a stream among those that have a turn, or takes it out, after its queue, state or credit changed.
    pub(super) fn settle_turn(&mut self, id: u64) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        match (stream.place, stream.can_go()) {
            (Place::Out, true) => {
                stream.place = Place::Ready;
                self.turns.push(id, &stream.share);
            }
            (Place::Ready, false) => {
                stream.place = Place::Out;
                self.turns.remove(id);
            }
            (Place::Blocked, false) => {
                stream.place = Place::Out;
                self.blocked.remove(id);
            }
            _ => {}
        }
    }
}

/// The longest WINDOW_UPDATE: header and two varints.
const MAX_UPDATE: usize = frame::HEADER_LEN + 8 + 8;

/// Appends a frame if it ends by `end`.
fn put(frame: &Frame<'_>, end: usize, out: &mut Vec<u8>) -> bool {
    let fits = out.len() + frame.encoded_len() <= end;
    if fits {
        frame.encode(out);
    }
    fits
}
