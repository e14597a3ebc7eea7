//! The bridge's two sockets, and bytes that go from one to the other as they are.

use crate::{
    buffer::{Inbox, Outbox},
    carrier::Close,
};

/// One end of a socket.
#[derive(Default)]
pub(super) struct End {
    pub(super) inbox: Inbox,
    pub(super) outbox: Outbox,
    /// It sends nothing more.
    pub(super) ended: bool,
    /// What we have to do to our direction.
    pub(super) close: Option<Close>,
    /// What was done to it.
    pub(super) closed: Option<Close>,
}

/// Moves everything on as it is.
pub(super) fn pass(from: &mut Inbox, to: &mut Outbox) {
    pass_some(from, to, from.len());
}

pub(super) fn pass_some(from: &mut Inbox, to: &mut Outbox, n: usize) {
    to.extend(&from.data()[..n]);
    from.consume(n);
}
