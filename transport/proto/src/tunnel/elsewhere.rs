//! A bridge's tunnel whose session is in another process: its end of the connection between the two ([`Side::Link`]).
//!
//! [`Side::Link`]: crate::carrier::Side::Link

use std::time::Instant;

use super::{Handshake, Place, Tunnel};
use crate::carrier::Close;
use crate::elsewhere::{Away, News};
use crate::frame::{Frame, Join};

impl Tunnel {
    /// This carrier asks to carry a session that another process may have.
    pub(super) fn look_elsewhere(&mut self, join: &Join) {
        self.place = Place::Outside;
        if let Some(Handshake { hash, statics }) = &self.handshake {
            self.away = Some(Box::new(Away::new(*hash, statics.client, self.round_trip, join.clone())));
        }
    }

    /// Whether a connection to another process is wanted; told once.
    pub(crate) fn link_wanted(&mut self) -> bool {
        self.away.as_mut().is_some_and(|away| away.take_wanted())
    }

    /// Whether there is one now. Where there is none, nobody has the session.
    pub(crate) fn linked(&mut self, there: bool, now: Instant) {
        if there {
            if let Some(away) = &mut self.away {
                away.linked(now);
            }
        } else {
            self.refuse();
        }
    }

    /// Nobody has the session for which was looked elsewhere. False: it was not looked for.
    pub(super) fn refuse(&mut self) -> bool {
        let looked = self.away.take().is_some();
        if looked {
            Frame::Refused.encode(&mut self.control);
        }
        looked
    }

    /// Whether the connection should be read.
    pub(crate) fn link_wants(&self) -> bool {
        self.away.as_ref().is_some_and(|away| away.wants())
    }

    /// Room for what is read.
    pub(crate) fn link_space(&mut self) -> &mut [u8] {
        self.away.as_mut().map_or(&mut [], |away| away.space())
    }

    /// So many bytes were read.
    pub(crate) fn link_filled(&mut self, n: usize) {
        if let Some(away) = &mut self.away
            && let News::Joined(answer) = away.filled(n)
        {
            Frame::Join(answer).encode(&mut self.control);
        }
    }

    /// The connection has ended.
    pub(crate) fn link_ended(&mut self) {
        if let Some(away) = &mut self.away {
            away.broken_off();
        }
    }

    /// Bytes to write.
    pub(crate) fn link_pending(&self) -> &[u8] {
        self.away.as_ref().map_or(&[], |away| away.pending())
    }

    /// So many were written.
    pub(crate) fn link_wrote(&mut self, n: usize) {
        if let Some(away) = &mut self.away {
            away.wrote(n);
        }
    }

    /// How the connection should end now, if so.
    pub(crate) fn link_shutdown(&mut self) -> Option<Close> {
        self.away.as_mut().map_or(Some(Close::Fin), |away| away.shutdown())
    }

    /// Whether the client sends faster than the other process takes it.
    pub(crate) fn is_clogged(&self) -> bool {
        self.away.as_ref().is_some_and(|away| away.is_clogged())
    }

    /// Whether this carrier carries a session, here or elsewhere.
    pub(crate) fn carries(&self) -> bool {
        self.is_inside() || self.away.as_ref().is_some_and(|away| away.is_carrying())
    }
}
