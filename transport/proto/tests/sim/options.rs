//! How a simulated world is.

use std::sync::Arc;
use std::time::Duration;

use qnet_proto::admission::Admission;
use qnet_proto::bridge::{BridgeConfig, DecoyFacts};
use qnet_proto::knock::Field;
use qnet_proto::session::Profile;
use qnet_proto::shape::Shape;
use qnet_wire::key::IdentityKey;

use crate::decoy::Manner;
use crate::hellos;
use crate::user::Plan;

/// How a world is.
pub(crate) struct Options {
    pub(crate) seed: u64,
    pub(crate) manner: Manner,
    /// Segments are at most this long.
    pub(crate) cut: usize,
    /// One way, between client and bridge.
    pub(crate) delay: Duration,
    /// On top, at most.
    pub(crate) jitter: Duration,
    pub(crate) hello: usize,
    pub(crate) field: Field,
    pub(crate) early: bool,
    pub(crate) invitation: Option<IdentityKey>,
    pub(crate) admission: Admission,
    pub(crate) bridge: IdentityKey,
    pub(crate) allowed: bool,
    pub(crate) facts: DecoyFacts,
    pub(crate) plans: Vec<Plan>,
    pub(crate) knocked: Option<Arc<BridgeConfig>>,
    /// Bytes the client sent after its Finished and before the load.
    pub(crate) sent_before: usize,
    /// The profile that both sides follow.
    pub(crate) shape: Shape,
}

impl Options {
    /// How both sides treat the session.
    pub(crate) fn profile(&self) -> Profile {
        Profile { shape: self.shape, ..Profile::default() }
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            seed: 1,
            manner: Manner::default(),
            cut: 20_000,
            delay: Duration::from_millis(20),
            jitter: Duration::ZERO,
            hello: 0,
            field: Field::Padding,
            early: false,
            invitation: None,
            admission: Admission::Open,
            bridge: hellos::identity(),
            allowed: true,
            facts: DecoyFacts::default(),
            plans: vec![Plan { up: 5_000, down: 5_000 }],
            knocked: None,
            sent_before: 0,
            shape: Shape::default(),
        }
    }
}
