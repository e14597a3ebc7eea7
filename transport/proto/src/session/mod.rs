//! What outlives carriers (docs/protocol.md, section 16), without I/O: the streams' frames are one sequence of bytes each way, whose
//! positions and acknowledgements let a carrier stall, be cut or be replaced.
//!
//! # Call contract
//!
//! - One session is shared by its users and the cores of its carriers, behind a lock. Users use [`Session::streams`].
//! - The first carrier calls [`Session::establish`]. A further one asks by [`Session::join`] and is accepted by
//!   [`Session::joined`] on the client; [`Session::admit`] does both on the bridge. When its connection ends, [`Session::lost`].
//! - While a carrier has room and [`Session::wants_to_send`], it takes [`Session::pack`]; what arrives goes into
//!   [`Session::on_frame`]. A [`Violation`] has ended the session.
//! - [`Session::on_timer`] when [`Session::deadline`] has passed. On a client, [`Session::need`] after each call: whether somebody
//!   should make a carrier; who begins to says so by [`Session::dialled`].
//! - When [`Session::ended`], nothing goes on; what streams had received may still be read.
//!
//! # Memory
//!
//! Besides the streams' own: [`MAX_UNACKED`] sent and not acknowledged, as much received too early, one frame.

mod carriers;
mod inbound;
mod log;
mod need;
mod pace;
mod profile;
mod shaping;
mod table;
mod window;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

pub use self::carriers::{CarrierNumber, CarrierState, JoinError, Mode, Statics};
use self::carriers::{Carriers, Secret};
use self::inbound::Inbound;
use self::log::Log;
pub use self::pace::Need;
use self::pace::Pace;
pub use self::profile::Profile;
pub(crate) use self::shaping::Queue;
pub use self::table::{Sessions, SharedSessions, lock_sessions};
use self::window::Window;
pub use self::window::{FIRST_UNACKED, MAX_UNACKED};
use crate::Ended;
pub use crate::frame::Join;
use crate::frame::{self, Frame};
use crate::mux::{Mux, Role, Violation};
use crate::noise::Established;
use crate::shape::{Counters, Shape};

/// Carriers that carry a session at once, at most: as many as browsers once opened to a site of many files.
pub const MAX_STRIPES: u8 = 4;

/// Bytes after which a side acknowledges at once. Chrome grants credit for a download as seldom; each acknowledgement costs both
/// sides a record and a system call.
const ACK_BYTES: u64 = FIRST_UNACKED as u64 / 4;
/// How long the bridge waits for data of its own that an acknowledgement can ride with.
const BRIDGE_ACK_DELAY: Duration = Duration::from_millis(20);
/// How long the client waits: Chrome sends little upward in a download, and the bridge can wait. Afterwards the bridge need not
/// keep a quiet session's last bytes.
const CLIENT_ACK_DELAY: Duration = Duration::from_secs(1);

/// A session, shared by its users and its carriers.
pub type SharedSession = Arc<Mutex<Session>>;

/// Locks a session. A poisoned lock is taken all the same: no call leaves a session half changed.
pub fn lock(session: &SharedSession) -> MutexGuard<'_, Session> {
    session.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a session is known by. Worthless without the session's secret; still nothing for logs.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SessionId(pub [u8; frame::SESSION_ID_LEN]);

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionId")
    }
}

/// What was received and what of it the peer knows.
#[derive(Debug, Default)]
struct Acks {
    /// The position last told.
    told: u64,
    /// When to tell by a record of its own.
    at: Option<Instant>,
    due: bool,
}

/// One session, of either role. The module's documentation has the call contract.
pub struct Session {
    role: Role,
    profile: Profile,
    streams: Mux,
    secret: Option<Secret>,
    carriers: Carriers,
    log: Log,
    window: Window,
    /// What goes out next: below the log's end a repetition.
    next_send: u64,
    /// The last segment said that more follows.
    said_more: bool,
    /// The end of the furthest segment that came.
    furthest: u64,
    inbound: Inbound,
    acks: Acks,
    pace: Pace,
    finishing: bool,
    ended: Option<Ended>,
    end_to_send: bool,
    shaped: Counters,
    /// Somebody was told that the bridge follows another shape.
    other_shape: bool,
}

impl Session {
    /// A session without a carrier. Its streams can be opened and written already.
    #[must_use]
    pub fn new(role: Role, profile: Profile, now: Instant) -> Self {
        Self {
            role,
            streams: Mux::new(role),
            secret: None,
            carriers: Carriers::new(now),
            log: Log::new(),
            window: Window::new(),
            next_send: 0,
            said_more: false,
            furthest: 0,
            inbound: Inbound::default(),
            acks: Acks::default(),
            pace: Pace::new(&profile, now),
            profile,
            finishing: false,
            ended: None,
            end_to_send: false,
            shaped: Counters::default(),
            other_shape: false,
        }
    }

    /// What it is known by, once it is established.
    #[must_use]
    pub fn id(&self) -> Option<SessionId> {
        self.secret.as_ref().map(Secret::id)
    }

    /// What its carriers' traffic looks like.
    #[must_use]
    pub fn shape(&self) -> Shape {
        self.profile.shape
    }

    /// Its streams.
    pub fn streams(&mut self) -> &mut Mux {
        &mut self.streams
    }

    /// Why it is over, if it is.
    #[must_use]
    pub fn ended(&self) -> Option<Ended> {
        self.ended
    }

    /// Ends it here, without a word to the peer.
    pub fn fail(&mut self, why: Ended) {
        self.ended.get_or_insert(why);
    }

    /// Ends it here and now: the peer is told, and what it has not got it does not get.
    pub fn cut(&mut self) {
        if self.ended.is_none() {
            self.end_to_send = self.carriers.any_active();
            self.ended = Some(Ended::Closed);
        }
    }

    /// The static key its client has shown, once it is established.
    #[must_use]
    pub fn client(&self) -> Option<[u8; 32]> {
        self.secret.as_ref().map(Secret::client)
    }

    /// The user is done: when all that was written has arrived the peer is told, and the session is over.
    pub fn finish(&mut self) {
        self.finishing = true;
        self.settle_end();
    }

    /// Whether nothing is left to say, and what follows from that.
    fn settle_end(&mut self) {
        let left = self.streams.wants_to_send() || self.streams.unsent() > 0 || !self.log.is_empty();
        if !self.finishing || self.ended.is_some() || left {
            return;
        }
        self.end_to_send = self.carriers.any_active();
        self.ended = Some(Ended::Closed);
    }

    // --- carriers -----------------------------------------------------------------------------------------------

    /// The first carrier's inner handshake is complete. Its number is 0.
    pub fn establish(&mut self, established: &Established, statics: Statics, now: Instant) -> CarrierNumber {
        let secret = Secret::derive(&established.up, &established.down, statics);
        let number = self.carriers.first(secret.limits(0, &self.profile), now);
        self.secret = Some(secret);
        // Early data went with it.
        self.carriers.sent(number, self.next_send);
        self.pace.progress(now);
        number
    }

    /// Client: a further carrier, whose inner handshake is complete, asks to join.
    pub fn join(&mut self, handshake_hash: &[u8; 32], mode: Mode, now: Instant) -> (CarrierNumber, Join) {
        let number = self.carriers.ask(mode, self.inbound.next(), now);
        (number, self.statement(Role::Client, number, mode, handshake_hash))
    }

    fn statement(&self, role: Role, number: CarrierNumber, mode: Mode, handshake_hash: &[u8; 32]) -> Join {
        let mut join = Join {
            mode: mode.to_wire(),
            id: self.id().map_or([0; frame::SESSION_ID_LEN], |id| id.0),
            carrier: u64::from(number.0),
            next: self.inbound.next(),
            mac: [0; 32],
        };
        if let Some(secret) = &self.secret {
            join.mac = secret.mac(role, &join, handshake_hash);
        }
        join
    }

    /// Bridge: a carrier asks to join, with the client's static key of its own handshake. The answer.
    ///
    /// # Errors
    ///
    /// It may not; nothing has changed then.
    pub fn admit(
        &mut self,
        join: &Join,
        handshake_hash: &[u8; 32],
        client: &[u8; 32],
        now: Instant,
    ) -> Result<(CarrierNumber, Join), JoinError> {
        let secret = self.secret.as_ref().ok_or(JoinError::Unknown)?;
        secret.check(Role::Client, join, handshake_hash, Some(client))?;
        if self.ended.is_some() {
            return Err(JoinError::Unknown);
        }
        let mode = Mode::from_wire(join.mode).ok_or(JoinError::Unknown)?;
        let number = CarrierNumber(u32::try_from(join.carrier).map_err(|_| JoinError::Number)?);
        self.check_next(join.next)?;
        self.carriers.admit(number, mode, now)?;
        self.resume(number, join.next, mode, self.inbound.next(), now);
        Ok((number, self.statement(Role::Bridge, number, mode, handshake_hash)))
    }

    /// Client: the bridge's answer.
    ///
    /// # Errors
    ///
    /// It is none.
    pub fn joined(
        &mut self,
        answer: &Join,
        handshake_hash: &[u8; 32],
        now: Instant,
    ) -> Result<(), JoinError> {
        let secret = self.secret.as_ref().ok_or(JoinError::Unknown)?;
        secret.check(Role::Bridge, answer, handshake_hash, None)?;
        let number = CarrierNumber(u32::try_from(answer.carrier).map_err(|_| JoinError::Number)?);
        let (mode, told) = self.carriers.asked(number).ok_or(JoinError::Number)?;
        if mode.to_wire() != answer.mode {
            return Err(JoinError::Unknown);
        }
        let limits = secret.limits(number.0, &self.profile);
        self.check_next(answer.next)?;
        self.carriers.accepted(number, mode, limits, now);
        self.resume(number, answer.next, mode, told, now);
        Ok(())
    }

    /// Whether the authentic peer may expect this position. Less than was acknowledged over another carrier meanwhile is no
    /// news; more than was sent is a lie that ends the session.
    fn check_next(&mut self, next: u64) -> Result<(), JoinError> {
        if next <= self.log.end() {
            return Ok(());
        }
        self.fail(Ended::Violation);
        Err(JoinError::Unknown)
    }

    /// A carrier has joined: what the peer has not got goes out again, unless older carriers still bring it. The peer was
    /// told that `told` is expected; more may have come meanwhile.
    fn resume(&mut self, number: CarrierNumber, next: u64, mode: Mode, told: u64, now: Instant) {
        self.log.acknowledge(next);
        self.acks = Acks { told, at: None, due: self.inbound.next() > told };
        let again = match mode {
            Mode::Replace => {
                self.carriers.retire_all_but(number);
                true
            }
            Mode::Gently => false,
            Mode::Striped(count) => self.carriers.keep_newest(count),
        };
        if again {
            self.send_again();
        }
        self.next_send = self.next_send.max(self.log.start());
        self.pace.replaced(now);
        self.settle_end();
    }

    fn send_again(&mut self) {
        self.next_send = self.log.start();
        self.pace.forget_sample();
    }

    /// Carriers are gone that had bytes up to here.
    fn send_again_if_lost(&mut self, sent_until: u64) {
        if sent_until > self.log.start() {
            self.send_again();
        }
    }

    /// Client: the bridge does not know the session.
    pub fn refused(&mut self, _now: Instant) {
        self.fail(Ended::Forgotten);
    }

    /// A carrier's connection has ended, or its inner handshake or JOIN came to nothing.
    pub fn lost(&mut self, number: CarrierNumber, now: Instant) {
        let sent_until = self.carriers.remove(number, now);
        self.send_again_if_lost(sent_until);
        if self.carriers.any_active() {
            // An acknowledgement may have been lost with it.
            self.acks.due |= self.acks.told > 0;
        } else if self.role == Role::Client && self.profile.per_minute == 0 {
            self.fail(Ended::Unreachable);
        }
        self.settle_end();
    }

    /// A carrier will end soon.
    pub fn going_away(&mut self, number: CarrierNumber, _now: Instant) {
        self.carriers.going_away(number);
    }

    /// What a carrier is to the session.
    #[must_use]
    pub fn state_of(&self, number: CarrierNumber) -> CarrierState {
        self.carriers.state_of(number)
    }

    /// Since when no carrier carries it, if none does.
    #[must_use]
    pub fn is_detached(&self) -> Option<Instant> {
        self.carriers.detached()
    }

    /// The round trip of a carrier's path, as its set-up showed it.
    pub fn set_round_trip(&mut self, _number: CarrierNumber, round_trip: Duration) {
        self.pace.set_round_trip(round_trip);
    }

    // --- traffic ------------------------------------------------------------------------------------------------

    /// Client, before it is established: a SEGMENT for message 1, of at most `room` bytes.
    pub fn pack_early(&mut self, room: usize, out: &mut Vec<u8>) -> usize {
        let before = out.len();
        if self.secret.is_none() {
            self.pack_segment(room, out);
        }
        out.len() - before
    }

    /// Bridge, before it is established: a frame of message 1.
    ///
    /// # Errors
    ///
    /// It is no SEGMENT, or not at the beginning.
    pub fn on_early(&mut self, frame: &Frame<'_>, now: Instant) -> Result<(), Violation> {
        match *frame {
            Frame::Segment { position, bytes, .. }
                if self.secret.is_none() && position == self.inbound.next() =>
            {
                self.inbound.take(position, bytes, &mut self.streams)?;
                self.owe_ack(now);
                Ok(())
            }
            _ => Err(Violation::Misplaced),
        }
    }

    /// Whether [`pack`](Self::pack) has something for this carrier.
    #[must_use]
    pub fn wants_to_send(&self, number: CarrierNumber) -> bool {
        if self.carriers.state_of(number) != CarrierState::Active {
            return false;
        }
        if self.ended.is_some() {
            return self.end_to_send;
        }
        let repeats = self.next_send < self.log.end();
        let fresh = self.window.is_open(self.log.len()) && self.streams.wants_to_send();
        self.acks.due || repeats || fresh || self.owes_word()
    }

    /// The last segment said that more follows, and nothing does.
    fn owes_word(&self) -> bool {
        self.said_more && self.next_send == self.log.end() && !self.streams.wants_to_send()
    }

    /// Appends frames of at most `room` bytes in all to `out` and returns how many bytes that were.
    pub fn pack(&mut self, number: CarrierNumber, room: usize, out: &mut Vec<u8>, now: Instant) -> usize {
        let before = out.len();
        if self.wants_to_send(number) {
            if self.ended.is_some() {
                self.end_to_send = false;
                Frame::End.encode(out);
                return out.len() - before;
            }
            let (waited, sent) = (self.waits(), self.log.end());
            let end = before + room;
            self.pack_ack(end, out);
            self.pack_segment(end.saturating_sub(out.len()), out);
            let packed = out.len() - before;
            self.carriers.carried(number, packed, now);
            self.carriers.sent(number, self.next_send);
            // The client acknowledges when it is quiet: that says nothing about the path.
            if self.log.end() > sent && self.role == Role::Client {
                self.pace.sent(self.log.end(), now);
            }
            if !waited {
                self.pace.waits(now);
            }
            self.settle_end();
        }
        out.len() - before
    }

    fn pack_ack(&mut self, end: usize, out: &mut Vec<u8>) {
        let ack = Frame::Ack { position: self.inbound.next() };
        if (self.acks.due || self.acks.told < self.inbound.next()) && out.len() + ack.encoded_len() <= end {
            ack.encode(out);
            self.acks = Acks { told: self.inbound.next(), at: None, due: false };
        }
    }

    fn pack_segment(&mut self, room: usize, out: &mut Vec<u8>) {
        let Some(room) = room.checked_sub(frame::segment_overhead(self.next_send)) else { return };
        let start = out.len();
        frame::put_segment_prefix(self.next_send, out);
        let content = out.len();
        if self.next_send < self.log.end() {
            self.log.copy(self.next_send, room, out);
        } else if self.window.is_open(self.log.len()) {
            self.streams.pack(room, out);
            if let Some(fresh) = out.get(content..) {
                self.log.push(fresh);
                self.window.sent(self.log.len());
            }
        }
        let length = out.len() - content;
        if length == 0 && !self.owes_word() {
            out.truncate(start);
            return;
        }
        self.next_send += length as u64;
        self.said_more = self.next_send < self.log.end() || self.streams.wants_to_send();
        frame::finish_segment(start, self.said_more, out);
    }

    /// Takes in one of the peer's frames: SEGMENT, ACK or END.
    ///
    /// # Errors
    ///
    /// The peer broke the protocol, and the session is over.
    pub fn on_frame(
        &mut self,
        number: CarrierNumber,
        frame: &Frame<'_>,
        now: Instant,
    ) -> Result<(), Violation> {
        if self.ended.is_some() || self.carriers.state_of(number) == CarrierState::Retired {
            return Ok(());
        }
        let result = match *frame {
            Frame::Segment { more, position, bytes } => self.on_segment(number, more, position, bytes, now),
            Frame::Ack { position } => self.on_ack(position, now),
            Frame::End => {
                self.fail(Ended::PeerClosed);
                Ok(())
            }
            _ => Err(Violation::Misplaced),
        };
        if result.is_err() {
            self.fail(Ended::Violation);
        }
        result
    }

    fn on_segment(
        &mut self,
        number: CarrierNumber,
        more: bool,
        position: u64,
        bytes: &[u8],
        now: Instant,
    ) -> Result<(), Violation> {
        let before = self.inbound.next();
        self.inbound.take(position, bytes, &mut self.streams)?;
        self.carriers.carried(number, bytes.len(), now);
        self.carriers.heard(number, position);
        self.carriers.settle(self.inbound.next(), self.log.start());
        self.pace.heard(now);
        let end = position.saturating_add(bytes.len() as u64);
        if end >= self.furthest {
            self.furthest = end;
            self.pace.expects(more);
        }
        if self.inbound.next() > before {
            self.pace.progress(now);
        }
        // A repetition is answered too: the peer has not heard of it.
        if !bytes.is_empty() && position <= before {
            self.owe_ack(now);
        }
        Ok(())
    }

    fn owe_ack(&mut self, now: Instant) {
        let delay = match self.role {
            Role::Client => CLIENT_ACK_DELAY,
            Role::Bridge => BRIDGE_ACK_DELAY,
        };
        self.acks.due |= self.inbound.next() - self.acks.told >= ACK_BYTES;
        if self.acks.at.is_none() || self.role == Role::Client {
            // The client waits for quiet, the bridge no longer than that from the first byte.
            self.acks.at = Some(now + delay);
        }
    }

    fn on_ack(&mut self, position: u64, now: Instant) -> Result<(), Violation> {
        if position > self.log.end() {
            return Err(Violation::NeverSent);
        }
        self.pace.heard(now);
        let fresh = position.saturating_sub(self.log.start());
        if self.log.acknowledge(position) {
            self.window.acknowledged(fresh, now, self.pace.least_round_trip());
            self.next_send = self.next_send.max(position);
            self.pace.acknowledged(position, now);
            self.carriers.settle(self.inbound.next(), self.log.start());
            self.settle_end();
        }
        Ok(())
    }

    /// Tells the streams the time: before frames are taken in or packed.
    pub fn tick(&mut self, now: Instant) {
        if let Some(round_trip) = self.pace.round_trip() {
            self.streams.tick(now, round_trip);
        }
    }

    /// Bytes allocated for what is on its way.
    #[must_use]
    pub fn held(&self) -> usize {
        self.streams.allocated() + self.log.allocated() + self.inbound.allocated()
    }

    /// Gives spare memory back.
    pub fn trim(&mut self) {
        self.streams.trim();
        self.log.trim();
        if self.log.is_empty() {
            self.window = Window::new();
        }
    }
}

/// Neither secrets nor ids.
impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("role", &self.role)
            .field("ended", &self.ended)
            .field("finishing", &self.finishing)
            .field("acknowledged", &self.log.start())
            .field("next_send", &self.next_send)
            .field("sent", &self.log.end())
            .field("received", &self.inbound.next())
            .field("acks", &self.acks)
            .field("carriers", &self.carriers)
            .field("pace", &self.pace)
            .field("unsent", &self.streams.unsent())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
