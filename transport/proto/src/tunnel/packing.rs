//! What a carrier sends next, and how it is sealed.

use std::time::Instant;

use super::{BACKLOG, FRAMES, KEY_UPDATE_LEN, OVERHEAD, PONG_LEN, Place, SHAPE_LEN, Tunnel, agreement};
use crate::frame::Frame;
use crate::session::lock;
use crate::shape::Step;
use crate::sizes::control_length;

/// What [`Tunnel::pack`] does next.
enum Next {
    /// A record with at most so much content, what may not wait first.
    Record(usize),
    /// A record of what may not wait alone.
    Control,
    /// A record of padding, this long.
    Padding(usize),
    Nothing,
}

impl Tunnel {
    /// Seals what session and carrier have to send, as far as the shape lets it go, until `backlog` sealed bytes wait. True if it
    /// sealed anything.
    pub(crate) fn pack(&mut self, out: &mut Vec<u8>, already: usize, now: Instant) -> bool {
        let begin = out.len();
        loop {
            let before = out.len();
            self.blocked = already + before - begin >= BACKLOG;
            if self.blocked {
                break;
            }
            let next = self.next(now);
            if self.switch_due && !matches!(next, Next::Nothing) {
                self.seal_key_update(out, now);
                self.switch_due = false;
            }
            match next {
                Next::Record(room) => self.pack_one(Some(room), out, now),
                Next::Control => self.pack_one(None, out, now),
                Next::Padding(length) => self.pack_padding(length, out),
                Next::Nothing => {}
            }
            if out.len() == before {
                break;
            }
            if self.shaper.alone() {
                self.cuts.push(out.len());
            }
        }
        lock(&self.session).shaped(&self.shaper.take_counters());
        out.len() > begin
    }

    /// Where, in the buffer that was sealed into last, records end that are to end a segment too. To be asked before that buffer
    /// changes.
    pub(crate) fn cuts(&mut self) -> impl Iterator<Item = usize> {
        self.cuts.drain(..)
    }

    /// What is to be sent next.
    fn next(&mut self, now: Instant) -> Next {
        let own = self.control.len() + self.pongs.len() * PONG_LEN;
        let room = self.max_content.saturating_sub(own + self.key_update_len(now));
        let (queue, (begun, open)) = match (&self.away, self.place) {
            (Some(away), _) if away.is_carrying() => (away.queue(), away.streams()),
            (Some(away), _) if away.wants_to_send() => return Next::Control,
            (None, Place::Inside(number)) => {
                let mut session = lock(&self.session);
                let streams = session.streams();
                let streams = (streams.begun(), streams.open_streams() > 0);
                (session.queue(number), streams)
            }
            _ => return if own > 0 { Next::Control } else { Next::Nothing },
        };
        if std::mem::replace(&mut self.begun, begun) < begun {
            self.shaper.opened(now);
        }
        self.shaper.streams(open);
        match self.shaper.next(queue.data, room, self.max_content + OVERHEAD, now) {
            Step::Send { content } => Next::Record(content),
            Step::Pad(length) => Next::Padding(length),
            Step::Hold if own > 0 || queue.urgent => Next::Control,
            Step::Rest if own > 0 || queue.urgent || queue.other => Next::Control,
            Step::Hold | Step::Rest => Next::Nothing,
        }
    }

    /// Room that the next record keeps for a KEY_UPDATE: none where none is due, so that a full record is full.
    fn key_update_len(&self, now: Instant) -> usize {
        if self.clock.as_ref().is_some_and(|clock| clock.due(now)) { KEY_UPDATE_LEN } else { 0 }
    }

    fn pack_padding(&mut self, length: usize, out: &mut Vec<u8>) {
        self.seal_frames(&[Frame::Padding], Some(length), out);
        if let Some(clock) = &mut self.clock {
            clock.count(length);
        }
    }

    /// Seals what may not wait and, in at most `room` bytes, data; none: what the session has besides data.
    fn pack_one(&mut self, room: Option<usize>, out: &mut Vec<u8>, now: Instant) {
        let start = self.sealer.begin(out);
        let content = out.len();
        out.append(&mut self.control);
        while let Some(data) = self.pongs.pop_front() {
            Frame::Ping { answer: true, data }.encode(out);
        }
        let mut last = true;
        let update_len = self.key_update_len(now);
        let reserved = if self.agreement.owed.is_some() { SHAPE_LEN } else { 0 };
        if let Some(away) = &mut self.away {
            let control = self.max_content.saturating_sub(out.len() - content + update_len);
            away.pack(room.map_or(control, |room| room.saturating_sub(reserved)), room.is_some(), out);
            last = !away.wants_to_send();
        } else if let Place::Inside(number) = self.place {
            let mut session = lock(&self.session);
            if let Some(room) = room {
                session.pack(number, room.saturating_sub(reserved), out, now);
            } else {
                let room = self.max_content.saturating_sub(out.len() - content + update_len);
                session.pack_control(number, room, out, now);
            }
            last = !session.wants_to_send(number);
        }
        let len = out.len() - content;
        if len == 0 {
            out.truncate(start);
            return;
        }
        // With data, which hides it: a record of control has a length of its own.
        if room.is_some()
            && control_length(len).is_none()
            && let Some(shape) = self.agreement.owed.take()
        {
            agreement::frame(shape).encode(out);
        }
        let update = update_len > 0;
        if update {
            Frame::KeyUpdate.encode(out);
        }
        let whole = out.len() - content;
        let length = if room.is_some() {
            self.shaper.length(whole, self.max_content + OVERHEAD, last, now)
        } else {
            let length = control_length(whole);
            self.shaper.control(length.unwrap_or(whole + OVERHEAD));
            length
        };
        self.sealer.finish(out, start, FRAMES, length);
        if let Some(clock) = &mut self.clock {
            clock.count(len);
        }
        if update {
            self.advance_send_keys(now);
        }
    }
}
