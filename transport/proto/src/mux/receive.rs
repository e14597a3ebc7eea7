//! The receiving half: what the peer's frames do.

use super::stream::{Ending, Place, State, Stream};
use super::{MAX_PEER_ENTRIES, MAX_STREAMS, Mux, Violation, code, wake_reader};
use crate::frame::Frame;

/// Frames that bring nothing (an empty STREAM frame of an open stream, any WINDOW_UPDATE, a CLOSE of what is
/// closed or nobody has accepted yet) which a peer may send before any data. Races and windows kept small by slow readers stay far below.
pub(super) const PATIENCE: u32 = 4_096;

/// What a data frame in either direction, or a stream that the user opens or accepts, adds to the peer's allowance. A reader that takes a
/// frame bit by bit causes an update of each window at most every 4,096 bytes and at its end.
pub(super) const NEWS: u32 = 4;

/// One more for each of these.
const BYTES_OF_NEWS: usize = 1_024;

impl Mux {
    /// Takes in one of the peer's frames: STREAM, WINDOW_UPDATE or CLOSE.
    ///
    /// Frames of a stream that we ended while they were on their way are legal and do nothing; their data counts
    /// against the connection's window and is given back at once.
    ///
    /// # Errors
    /// A [`Violation`] ends the tunnel. Other frames are not this type's: [`Violation::Misplaced`].
    pub fn on_frame(&mut self, frame: &Frame<'_>) -> Result<(), Violation> {
        match *frame {
            Frame::Stream { id, data } => self.on_stream(id, data),
            Frame::WindowUpdate { id: 0, increment } => self.on_connection_update(increment),
            Frame::WindowUpdate { id, increment } => self.on_stream_update(id, increment),
            Frame::Close { id, code: code::END } => self.on_end(id),
            Frame::Close { id, code } => self.on_abort(id, code),
            _ => Err(Violation::Misplaced),
        }
    }

    fn on_stream(&mut self, id: u64, data: &[u8]) -> Result<(), Violation> {
        let length = data.len() as u64;
        self.granted.covers(length)?;
        let opens = self.role.peer().opens(id) && id >= self.next_theirs;
        if opens {
            self.on_opening(id)?;
        }
        match self.streams.get_mut(&id) {
            Some(stream) => {
                let keep = take_data(stream, id, data.len())?;
                self.granted.arrived(length, self.clock);
                stream.granted.arrived(length, self.clock);
                if keep {
                    stream.incoming.push(data, &mut self.pool);
                    self.queued_in += data.len();
                    if !data.is_empty() {
                        wake_reader(stream, id, &mut self.wakes);
                    }
                } else {
                    self.granted.consumed(length);
                }
            }
            None => {
                self.was_opened(id)?;
                self.granted.arrived(length, self.clock);
                self.granted.consumed(length);
            }
        }
        if data.is_empty() && !opens {
            self.lose_patience()?;
        } else if self.streams.contains_key(&id) {
            self.be_patient_for(data.len());
        }
        self.settle_grants(true);
        Ok(())
    }

    /// The peer opens a stream: an entry for it, or a refusal.
    fn on_opening(&mut self, id: u64) -> Result<(), Violation> {
        if self.open_theirs + self.refused.len() >= MAX_STREAMS {
            return Err(Violation::TooManyStreams);
        }
        self.next_theirs = id + 2;
        if self.entries_theirs >= MAX_PEER_ENTRIES {
            self.refused.insert(id);
            return Ok(());
        }
        let stream = self.fresh(false);
        self.streams.insert(id, stream);
        self.open_theirs += 1;
        self.entries_theirs += 1;
        self.incoming.push_back(id);
        Ok(())
    }

    /// A frame came for a stream without an entry: it was opened once and is closed, or the peer invents it.
    fn was_opened(&self, id: u64) -> Result<(), Violation> {
        let bound = if self.role.opens(id) {
            self.announced
        } else if self.role.peer().opens(id) {
            self.next_theirs
        } else {
            0
        };
        if id < bound { Ok(()) } else { Err(Violation::NeverOpened(id)) }
    }

    fn on_connection_update(&mut self, increment: u64) -> Result<(), Violation> {
        self.lose_patience()?;
        self.credit.add(increment)?;
        while let Some(id) = self.blocked.pop() {
            if let Some(stream) = self.streams.get_mut(&id) {
                stream.place = Place::Ready;
                self.turns.push(id, &stream.share);
            }
        }
        Ok(())
    }

    fn on_stream_update(&mut self, id: u64, increment: u64) -> Result<(), Violation> {
        self.lose_patience()?;
        match self.streams.get_mut(&id) {
            Some(stream) if stream.announced => {
                stream.credit.add(increment)?;
                if stream.place == Place::Blocked {
                    // What it has outstanding fell, and with that what holds it back.
                    stream.place = Place::Out;
                    self.blocked.remove(id);
                }
                self.settle_turn(id);
                Ok(())
            }
            Some(_) => Err(Violation::NeverOpened(id)),
            None => {
                self.was_opened(id)?;
                if increment == 0 { Err(Violation::EmptyIncrement) } else { Ok(()) }
            }
        }
    }

    /// CLOSE with code 0: the end of the peer's direction.
    fn on_end(&mut self, id: u64) -> Result<(), Violation> {
        let Some(stream) = self.streams.get_mut(&id) else {
            self.was_opened(id)?;
            return self.lose_patience();
        };
        let state = match stream.state {
            _ if !stream.announced => return Err(Violation::NeverOpened(id)),
            State::Open => State::GotEnd,
            State::SentEnd => State::Done,
            State::Cancelling(_) | State::Ended(Ending::Ours) => return self.lose_patience(),
            State::GotEnd | State::Done | State::Ended(Ending::Theirs { .. }) => {
                return Err(Violation::AfterClose(id));
            }
        };
        self.set_state(id, state);
        if let Some(stream) = self.streams.get_mut(&id) {
            wake_reader(stream, id, &mut self.wakes);
        }
        self.forget_if_over(id);
        Ok(())
    }

    /// CLOSE with another code: the end of both directions.
    fn on_abort(&mut self, id: u64, code: u8) -> Result<(), Violation> {
        let Some(stream) = self.streams.get_mut(&id) else {
            self.was_opened(id)?;
            self.refused.remove(&id);
            return self.lose_patience();
        };
        let before_use = !stream.accepted;
        let state = match stream.state {
            _ if !stream.announced => return Err(Violation::NeverOpened(id)),
            State::Open | State::SentEnd => State::Ended(Ending::Theirs { code, whole: false }),
            State::GotEnd => State::Ended(Ending::Theirs { code, whole: true }),
            State::Cancelling(_) => State::Ended(Ending::Ours),
            State::Done | State::Ended(Ending::Ours) => return self.lose_patience(),
            State::Ended(Ending::Theirs { .. }) => return Err(Violation::AfterClose(id)),
        };
        self.drop_outgoing(id);
        self.set_state(id, state);
        if !state.is_whole() {
            self.drop_incoming(id);
            if before_use {
                self.lose_patience()?;
            }
        }
        self.settle_turn(id);
        self.wake_both(id);
        self.forget_if_over(id);
        Ok(())
    }

    /// `count` bytes of a stream left our memory: by a read, or dropped.
    pub(super) fn consumed(&mut self, id: u64, count: usize) {
        self.granted.consumed(count as u64);
        let mut drained = true;
        if let Some(stream) = self.streams.get_mut(&id) {
            drained = stream.incoming.is_empty();
            stream.granted.consumed(count as u64);
            let due = !stream.discards() && stream.granted.stream_due(self.granted.pressed(), drained);
            if due {
                self.update_stream(id);
            }
        }
        self.settle_grants(drained);
    }

    /// Decides on the connection's grant after its window changed. When it begins to run short, what was
    /// withheld from streams is granted too: see `Granted::stream_due`.
    fn settle_grants(&mut self, drained: bool) {
        self.connection_update_due |= self.granted.connection_due(drained);
        let pressed = self.granted.pressed();
        if pressed && !self.pressed {
            let withheld = |stream: &Stream| !stream.discards() && stream.granted.withheld() > 0;
            let due: Vec<u64> =
                self.streams.iter().filter(|(_, stream)| withheld(stream)).map(|(&id, _)| id).collect();
            for id in due {
                self.update_stream(id);
            }
        }
        self.pressed = pressed;
    }

    fn update_stream(&mut self, id: u64) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.update_due = true;
            if !stream.in_control {
                stream.in_control = true;
                self.control.push(id);
            }
        }
    }

    fn lose_patience(&mut self) -> Result<(), Violation> {
        self.patience = self.patience.checked_sub(1).ok_or(Violation::Flood)?;
        Ok(())
    }

    pub(super) fn be_patient(&mut self, more: u32) {
        self.patience = self.patience.saturating_add(more).min(PATIENCE);
    }

    /// A data frame was sent or taken in.
    pub(super) fn be_patient_for(&mut self, bytes: usize) {
        if bytes > 0 {
            self.be_patient(NEWS.saturating_add(u32::try_from(bytes / BYTES_OF_NEWS).unwrap_or(u32::MAX)));
        }
    }
}

/// Whether data that arrived is to be kept for the user; if it may have been sent at all.
fn take_data(stream: &Stream, id: u64, length: usize) -> Result<bool, Violation> {
    match stream.state {
        _ if !stream.announced => return Err(Violation::NeverOpened(id)),
        State::GotEnd | State::Done | State::Ended(Ending::Theirs { .. }) => {
            return Err(Violation::AfterClose(id));
        }
        State::Open | State::SentEnd | State::Cancelling(_) | State::Ended(Ending::Ours) => {}
    }
    stream.granted.covers(length as u64)?;
    Ok(!stream.discards())
}
