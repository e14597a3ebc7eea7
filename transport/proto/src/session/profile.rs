//! How a session behaves, as data.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::shape::Shape;

/// How a session treats its carriers and acknowledges. All of it is one side's own business: nothing here has to agree with
/// the peer's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    /// How long a carrier is used before another takes its place, drawn anew for each. nginx ends a connection after an hour.
    pub age: RangeInclusive<Duration>,
    /// How many bytes of both directions a carrier carries before another takes its place, drawn anew for each.
    pub volume: RangeInclusive<u64>,
    /// New carriers at once: a page that is opened in a few tabs.
    pub burst: u32,
    /// New carriers a minute in the long run; 0: none but the first, with which the session ends. A hello of ours never resumes a TLS session, as a browser's often does, so they
    /// must be few.
    pub per_minute: u32,
    /// How long after its last carrier a session with open streams and nothing to send looks what the bridge has for it;
    /// doubled each time nothing was there. `None`: only when there is something to send.
    pub poll: Option<Duration>,
    /// The longest of these pauses.
    pub poll_most: Duration,
    /// How long new carriers may fail before a session that needs one is given up. Whoever uses it should learn that the bridge
    /// is gone, and may know another; a change of network or a short outage is over sooner.
    pub give_up: Duration,
    /// What carriers' traffic looks like.
    pub shape: Shape,
    /// Carriers used at once, 1 to [`MAX_STRIPES`](super::MAX_STRIPES): more than one for throughput where packets get lost.
    pub stripes: u8,
}

impl Profile {
    /// One carrier, and the session ends with it.
    #[must_use]
    pub fn single() -> Self {
        Self { burst: 1, per_minute: 0, ..Self::default() }
    }
}

impl Default for Profile {
    fn default() -> Self {
        Self {
            age: Duration::from_secs(10 * 60)..=Duration::from_secs(40 * 60),
            volume: 64 << 20..=256 << 20,
            burst: 6,
            per_minute: 6,
            poll: Some(Duration::from_secs(60)),
            poll_most: Duration::from_secs(15 * 60),
            give_up: Duration::from_secs(2 * 60),
            shape: Shape::default(),
            stripes: 1,
        }
    }
}
