//! What decides when padding goes and when data waits, apart from the shaper that asks it.
//!
//! Lengths are those of docs/protocol.md: the value of a record's length field, its inner type byte and tag included.

use std::time::Instant;

use super::machines::{Maybenot, Winding};
use super::profile::{Plan, Profile};
use crate::mux::Role;

/// What happens on a carrier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// There is more to send than before.
    Queued,
    /// A record with data went out.
    DataSent {
        /// Its length.
        bytes: usize,
    },
    /// A record with nothing but padding went out.
    PaddingSent {
        /// Its length.
        bytes: usize,
    },
    /// A record with data came.
    DataHeard {
        /// Its length.
        bytes: usize,
    },
    /// A record with nothing but padding came.
    PaddingHeard {
        /// Its length.
        bytes: usize,
    },
    /// A stream was opened, by either side.
    Opened,
}

/// When padding goes and what is held back: what maybenot's framework and a winding schedule are to the shaper.
pub(crate) trait Machine: std::fmt::Debug + Send {
    fn on(&mut self, event: Event, now: Instant);
    /// Padding that is due at `now`, bytes of the record on the wire; asked until there is none.
    fn padding(&mut self, now: Instant) -> Option<usize>;
    /// Data may go no sooner than this; `None`: at once.
    fn held_until(&self, now: Instant) -> Option<Instant>;
    /// At most so many bytes in the next data record, and its length on the wire, where the schedule fixes them.
    fn data_record(&mut self, queued: usize, now: Instant) -> Option<usize>;
    fn deadline(&self) -> Option<Instant>;
    /// Slots of a schedule that were reached late since this was last asked.
    fn take_late(&mut self) -> u64 {
        0
    }
}

/// The machine that a profile asks for, if any; `seed` makes its draws.
pub(super) fn build(profile: &'static Profile, role: Role, seed: [u8; 32]) -> Option<Box<dyn Machine>> {
    match &profile.plan {
        Plan::None | Plan::Web(_) => None,
        Plan::Maybenot(table) => Some(Box::new(Maybenot::new(table, role, seed))),
        Plan::Winding(table) => Some(Box::new(Winding::new(table, role, seed))),
    }
}
