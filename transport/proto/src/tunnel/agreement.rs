//! What both sides' traffic is to look like (docs/protocol.md, section 15): the client asks, the bridge says what it follows.

use super::Tunnel;
use crate::frame::Frame;
use crate::mux::Role;
use crate::session::lock;
use crate::shape::{Shape, Shaper};

/// Where the agreement stands on this carrier.
#[derive(Default)]
pub(super) struct Agreement {
    /// The peer's word is in.
    settled: bool,
    /// Bridge: what is still to be said to the client, with the first data.
    pub(super) owed: Option<Shape>,
    /// Client: what the bridge follows instead of what was asked for, not yet told.
    other: Option<Shape>,
}

impl Tunnel {
    /// Client: what the session asks for.
    pub(crate) fn shape(&self) -> Frame<'static> {
        frame(lock(&self.session).shape())
    }

    /// Bridge: the client asks for this profile. What is not known is `web`. False: it has asked before.
    pub(crate) fn follow(&mut self, profile: u8, version: u16) -> bool {
        let shape = Shape::numbered(profile, version).unwrap_or_default();
        self.change(shape, Role::Bridge);
        self.agreement.owed = Some(shape);
        !std::mem::replace(&mut self.agreement.settled, true)
    }

    /// Client: what the bridge follows. A profile that nobody knows is followed by nobody: then it is `web`. False: it has said
    /// so before.
    pub(crate) fn answered(&mut self, profile: u8, version: u16) -> bool {
        let shape = Shape::numbered(profile, version).unwrap_or_default();
        let mut session = lock(&self.session);
        if shape != session.shape() {
            self.agreement.other = session.other_shape().then_some(shape);
            drop(session);
            self.change(shape, Role::Client);
        }
        !std::mem::replace(&mut self.agreement.settled, true)
    }

    /// Client: what the bridge follows instead of what was asked for, to be told once.
    pub(crate) fn take_other_shape(&mut self) -> Option<Shape> {
        self.agreement.other.take()
    }

    fn change(&mut self, shape: Shape, role: Role) {
        self.shaper = Shaper::new(shape, role, self.seed);
        if let Some(round_trip) = self.round_trip {
            self.shaper.set_round_trip(round_trip);
        }
    }
}

/// What says so.
pub(super) fn frame(shape: Shape) -> Frame<'static> {
    let profile = shape.profile();
    Frame::Shape { profile: profile.number, version: profile.version }
}
