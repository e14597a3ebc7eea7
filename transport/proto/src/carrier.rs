//! What a shell sees of either core: one contract for the client's carrier and the bridge's.

use std::time::Instant;

use crate::session::SharedSession;
use crate::shape::Shape;

/// A socket of a carrier.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Side {
    /// The connection between client and bridge; the client has no other.
    Peer,
    /// The bridge's connection to the decoy.
    Decoy,
    /// Between two processes of a bridge, of which one has the carrier and the other its session. There is none before
    /// [`Event::Elsewhere`]. It is done with when either end of it is.
    Link,
}

/// How a direction of a socket ended, or is to be ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Close {
    /// In order: FIN.
    Fin,
    /// Aborted: RST.
    Reset,
}

/// What a core has to say besides bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// Bridge: a whole ClientHello that may hold a token has gone on. The shell writes what is pending, then calls
    /// [`Carrier::judge`].
    Hello,
    /// Client: the bridge has proved itself; data written from here on may go as early data where that is on.
    Proved,
    /// The inner handshake is complete and the carrier carries [`Carrier::session`], on a bridge perhaps another than before.
    Up,
    /// Bridge: the client asks for a session that is not known here, and there are other processes that may have it. The shell
    /// calls [`Carrier::linked`].
    Elsewhere,
    /// The carrier will end soon.
    GoingAway,
    /// Client: the bridge does not know the profile that the session asks for; both follow this one. Told once a session.
    OtherShape(Shape),
    /// This carrier carries nothing any more. The sockets may go on for a while, as a browser's or a visitor's.
    Ended(crate::Ended),
}

/// One carrier, of either role, without I/O.
///
/// # Contract
///
/// 1. While a side [`Carrier::wants`] it, read into [`Carrier::space`] and call [`Carrier::filled`]. At the end of a side, call
///    [`Carrier::ended`] once, and again if a reset follows the FIN.
/// 2. After every call that takes `&mut self`: take [`Carrier::poll_event`] until `None`, write [`Carrier::pending`] of each
///    side and report it with [`Carrier::wrote`]; when nothing is pending, end the side as [`Carrier::shutdown`] says.
/// 3. Call [`Carrier::on_timer`] when [`Carrier::deadline`] has passed.
/// 4. After anybody used the session's streams, and when another of its carriers came or went, call [`Carrier::flush`] of
///    each carrier.
///
/// The session is shared behind a lock that every call here may take: never call with it held.
/// 5. When [`Carrier::finished`], drop both sockets and the core.
///
/// `now` never goes back. No call blocks, and none panics whatever the bytes.
pub trait Carrier {
    /// Whether `side` should be read now.
    fn wants(&self, side: Side) -> bool;
    /// Room for bytes read from `side`; asked for only when there is something to read, since it takes memory.
    fn space(&mut self, side: Side) -> &mut [u8];
    /// The first `n` bytes of the room were filled.
    fn filled(&mut self, side: Side, n: usize, now: Instant);
    /// `side` ended, after its last byte.
    fn ended(&mut self, side: Side, how: Close, now: Instant);
    /// Bytes to write to `side`.
    fn pending(&self, side: Side) -> &[u8];
    /// Whether what is pending ends where a segment should end too: the system should not join what is written next to it.
    fn ends_segment(&self, _side: Side) -> bool {
        false
    }
    /// The first `n` pending bytes were written.
    fn wrote(&mut self, side: Side, n: usize, now: Instant);
    /// How to end our direction of `side` now; given once, a FIN only when nothing is pending. A reset may follow it.
    fn shutdown(&mut self, side: Side) -> Option<Close>;
    /// When to call [`Carrier::on_timer`], if nothing happens before.
    fn deadline(&self) -> Option<Instant>;
    /// Whether a tenth of a millisecond counts there: a client that loads a page pauses as shortly as the browser does.
    fn is_exact(&self) -> bool {
        false
    }
    /// Time has passed.
    fn on_timer(&mut self, now: Instant);
    /// The next event.
    fn poll_event(&mut self) -> Option<Event>;
    /// The session: a client's from the start, a bridge's from the proof on.
    fn session(&self) -> Option<&SharedSession>;
    /// The streams were used: seal what they have to send.
    fn flush(&mut self, now: Instant);
    /// Opens the token of the hello that [`Event::Hello`] told of; `allowed`: whether the budget for openings permits it. Without
    /// it the connection is a visitor's. A client has nothing to judge.
    fn judge(&mut self, allowed: bool);
    /// The answer to [`Event::Elsewhere`], which comes again where the session is not there either: whether there is a connection to
    /// a process that was not asked yet, as [`Side::Link`] from here on.
    fn linked(&mut self, _there: bool, _now: Instant) {}
    /// The user is done with the tunnel: end the carrier as a browser would.
    fn close(&mut self, now: Instant);
    /// The user waits no longer for a tunnel: there will be none, and a client goes on as a browser whose page is loaded.
    fn leave(&mut self, now: Instant);
    /// Nothing more will happen.
    fn finished(&self) -> bool;
}
