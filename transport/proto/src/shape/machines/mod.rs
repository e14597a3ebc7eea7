//! Machines that decide when padding goes and what is held back, made from a profile's tables.
//!
//! Two kinds: [`Maybenot`] runs maybenot's framework with the published defences of [`defences`], [`Winding`] a schedule of send
//! slots that repeats. Both draw from a seed, keep time by what they are told, and rest when nobody has sent data for a
//! while: what one end pads never wakes the other.

mod defences;
mod maybenot;
mod winding;

use std::time::Duration;

use serde::Deserialize;

pub(super) use self::maybenot::Maybenot;
pub use self::maybenot::MaybenotTable;
pub(super) use self::winding::Winding;
pub use self::winding::WindingTable;
use super::profile::{MAX_RECORD, ProfileError, Quantiles};

/// What is due within this is due now: the driver's timer counts milliseconds.
const TICK: Duration = Duration::from_millis(1);
/// The longest a schedule may hold a record, and the longest gap between two of its slots: half of what a browser's user
/// calls at once (RAIL, 100 ms to an answer), as both directions may hold.
const MOST_HELD: Duration = Duration::from_millis(50);
/// Bytes that are bulk when they wait: records in slots are as long as can be then, or an upload in slots of requests' lengths
/// would not end.
const BULK: usize = 32 * 1024;
/// How long nobody sends data before a page load is over: longer than the round trips of most paths and what a page's
/// scripts take between requests; short enough that padding ends soon after the load does.
const QUIET_MS: std::ops::RangeInclusive<u32> = 500..=10_000;
/// The inner type byte and the AEAD tag.
const OVERHEAD: usize = 17;
/// The shortest record with data: a SEGMENT and a STREAM frame with a few bytes.
const LEAST_RECORD: u32 = 57;

/// Lengths of records, of padding and of data in slots: from what may hold a SEGMENT and a STREAM frame to the longest.
fn check_lengths(lengths: &Quantiles) -> Result<(), ProfileError> {
    lengths.check("lengths", MAX_RECORD)?;
    if lengths.least() < LEAST_RECORD {
        return Err(ProfileError::Contradiction("records would be too short for frames"));
    }
    Ok(())
}

fn check_quiet(quiet_ms: u32) -> Result<(), ProfileError> {
    if QUIET_MS.contains(&quiet_ms) {
        return Ok(());
    }
    Err(ProfileError::Contradiction("`quiet_ms` may be 500 to 10,000"))
}

/// A range that a figure is drawn from, both ends within it.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(transparent)]
struct Span<T>([T; 2]);

impl<T: Copy + PartialOrd + Into<u64>> Span<T> {
    fn low(&self) -> u64 {
        self.0[0].into()
    }

    fn high(&self) -> u64 {
        self.0[1].into()
    }

    fn within(&self, least: T, most: T) -> bool {
        least <= self.0[0] && self.0[0] <= self.0[1] && self.0[1] <= most
    }
}

#[cfg(test)]
mod tests;
