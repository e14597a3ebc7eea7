//! What a session is to the shapers of its carriers.

use std::time::Instant;

use super::{CarrierNumber, CarrierState, Session};
use crate::shape::Counters;

/// What waits for a carrier.
pub(crate) struct Queue {
    /// Bytes of the streams' frames.
    pub(crate) data: usize,
    /// There is what may not wait for a shape: an acknowledgement, END.
    pub(crate) urgent: bool,
    /// There is something besides data.
    pub(crate) other: bool,
}

impl Session {
    /// What this carrier could take, by whether it may wait.
    pub(crate) fn queue(&self, number: CarrierNumber) -> Queue {
        if self.ended.is_some() || self.carriers.state_of(number) != CarrierState::Active {
            let urgent = self.wants_to_send(number);
            return Queue { data: 0, urgent, other: urgent };
        }
        let repeats = usize::try_from(self.log.end() - self.next_send).unwrap_or(usize::MAX);
        let streams = self.window.is_open(self.log.len()) && self.streams.wants_to_send();
        let fresh = if streams { self.streams.unsent() } else { 0 };
        let other = self.acks.due || streams || self.owes_word();
        Queue { data: repeats + fresh, urgent: self.acks.due, other }
    }

    /// Appends what is no data: an acknowledgement that is due, END, or, where no data is queued, whatever there is.
    pub(crate) fn pack_control(
        &mut self,
        number: CarrierNumber,
        room: usize,
        out: &mut Vec<u8>,
        now: Instant,
    ) {
        let queue = self.queue(number);
        if queue.data == 0 {
            self.pack(number, room, out, now);
        } else if queue.urgent {
            self.pack_ack(out.len() + room, out);
        }
    }

    /// A carrier's shaper did this.
    pub(crate) fn shaped(&mut self, counters: &Counters) {
        self.shaped.add(counters);
    }

    /// What the shapers of its carriers did on this side so far.
    #[must_use]
    pub fn shaping(&self) -> Counters {
        self.shaped
    }

    /// Client: the bridge follows another shape than was asked for. Whether that is news.
    pub(crate) fn other_shape(&mut self) -> bool {
        !std::mem::replace(&mut self.other_shape, true)
    }
}
