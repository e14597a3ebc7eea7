//! One carrier's HTX: records under their keys, the carrier's own frames, and its place in a session. Both roles use it.

mod agreement;
mod elsewhere;
mod packing;

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use rand_core::Rng;

use crate::{
    Ended,
    elsewhere::Away,
    frame::{Frame, frames},
    mux::{Role, Violation},
    noise::{self, Established},
    record::{Cipher, DirectionSecret, KeyClock, RecordOpener, RecordSealer},
    session::{
        CarrierNumber, CarrierState, Join, Mode, SharedSession, SharedSessions, Statics, lock, lock_sessions,
    },
    shape::{Beat, Shape, Shaper},
    sizes::{Lengths, control_length},
};

/// Inner type of a record that holds frames (docs/protocol.md, section 6).
pub(crate) const FRAMES: u8 = 23;
/// Inner type of a record that holds a piece of a Noise message.
pub(crate) const NOISE: u8 = 22;
/// Inner type of a record that holds a TLS alert.
pub(crate) const ALERT: u8 = 21;
/// PINGs owed at once. A peer that asks more often than it reads gets the newest answered.
const MAX_PONGS: usize = 8;
/// The inner type byte and the tag.
const OVERHEAD: usize = 17;
/// Bytes of a KEY_UPDATE frame, kept free at the end of a record where one is due.
const KEY_UPDATE_LEN: usize = 4;
/// Bytes of a SHAPE frame.
const SHAPE_LEN: usize = 7;
/// Bytes of a PING frame.
const PONG_LEN: usize = 13;
/// Sealed bytes waiting for the socket above which no more are sealed: enough for a few full records, little enough that
/// what a broken tunnel still sends looks like a server's socket buffer.
pub(crate) const BACKLOG: usize = 64 * 1024;

/// Record layer of one carrier, and the session it carries.
pub(crate) struct Tunnel {
    session: SharedSession,
    /// In place of the session, where another process has it.
    away: Option<Box<Away>>,
    shaper: Shaper,
    seed: [u8; 32],
    agreement: agreement::Agreement,
    place: Place,
    /// Streams that the session had when a record was last packed.
    begun: u64,
    /// What a JOIN is bound to, from message 3 on.
    handshake: Option<Handshake>,
    /// Encoded frames of the carrier's own that wait: JOIN, REFUSED, CLOSE.
    control: Vec<u8>,
    pub(crate) sealer: RecordSealer,
    pub(crate) opener: RecordOpener,
    cipher: Cipher,
    send_secret: Option<DirectionSecret>,
    receive_secret: Option<DirectionSecret>,
    clock: Option<KeyClock>,
    /// The path's round trip, by which windows grow.
    round_trip: Option<Duration>,
    /// The next record's keys are Noise's: a KEY_UPDATE must go first.
    switch_due: bool,
    pongs: VecDeque<[u8; 8]>,
    max_content: usize,
    /// Where records end, in the buffer that was sealed into last, that are to end a segment.
    cuts: Vec<usize>,
    /// The socket takes no more for now: what is due waits for it, not for time.
    blocked: bool,
}

/// What this carrier is to its session.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Not in it, not yet or no more.
    Outside,
    /// The client has asked to join under this number.
    Asked(CarrierNumber),
    /// It carries the session.
    Inside(CarrierNumber),
}

/// What a finished inner handshake leaves for a JOIN.
struct Handshake {
    hash: [u8; 32],
    statics: Statics,
}

/// A frame that is not the tunnel's own business.
pub(crate) enum Meant {
    /// Dealt with.
    Done,
    /// The peer has ended the session.
    Over,
    /// Keys changed; the record must end here.
    KeysChanged,
    /// The carrier's CLOSE with its code.
    Carrier(u8),
    /// For the role to judge: DECOY, HANDOVER, JOIN and its refusal, SHAPE.
    Role,
}

impl Tunnel {
    /// Begins under the handshake keys.
    pub(crate) fn new(
        session: SharedSession,
        sealer: RecordSealer,
        opener: RecordOpener,
        max_content: usize,
        shape: (Role, [u8; 32]),
    ) -> Self {
        let (role, seed) = shape;
        // A bridge is told what its client asks for.
        let asked = if role == Role::Client { lock(&session).shape() } else { Shape::default() };
        Self {
            session,
            away: None,
            shaper: Shaper::new(asked, role, seed),
            seed,
            agreement: agreement::Agreement::default(),
            place: Place::Outside,
            begun: 0,
            handshake: None,
            control: Vec::new(),
            sealer,
            opener,
            cipher: Cipher::ChaCha20Poly1305,
            send_secret: None,
            receive_secret: None,
            clock: None,
            round_trip: None,
            switch_due: false,
            pongs: VecDeque::new(),
            max_content,
            cuts: Vec::new(),
            blocked: false,
        }
    }

    /// The session.
    pub(crate) fn session(&self) -> &SharedSession {
        &self.session
    }

    /// Noise is done. The client sends under the new keys from its next record on and receives under them after a
    /// KEY_UPDATE; the bridge the other way round. `statics`: both sides' static keys.
    pub(crate) fn establish(&mut self, role: Role, established: Established, statics: Statics, now: Instant) {
        self.handshake = Some(Handshake { hash: established.handshake_hash, statics });
        let mut session = lock(&self.session);
        if session.id().is_none() {
            self.place = Place::Inside(session.establish(&established, statics, now));
        }
        drop(session);
        self.cipher = established.cipher;
        self.clock = Some(KeyClock::new(now));
        match role {
            Role::Client => {
                rekey_sealer(&mut self.sealer, self.cipher, &established.up);
                self.send_secret = Some(established.up);
                self.receive_secret = Some(established.down);
            }
            Role::Bridge => {
                rekey_opener(&mut self.opener, self.cipher, &established.up);
                self.receive_secret = Some(established.up);
                self.send_secret = Some(established.down);
                self.switch_due = true;
            }
        }
    }

    /// Client, after [`Tunnel::establish`]: the frame that asks to carry a session which is older than this carrier.
    pub(crate) fn ask_to_join(&mut self, mode: Mode, now: Instant) -> Option<Join> {
        let handshake = self.handshake.as_ref().filter(|_| self.place == Place::Outside)?;
        let (number, join) = lock(&self.session).join(&handshake.hash, mode, now);
        self.place = Place::Asked(number);
        Some(join)
    }

    /// Client: the bridge's answer to the JOIN. False: it is none.
    pub(crate) fn joined(&mut self, answer: &Join, now: Instant) -> bool {
        let (Place::Asked(number), Some(handshake)) = (self.place, &self.handshake) else { return false };
        let joined = lock(&self.session).joined(answer, &handshake.hash, now).is_ok();
        if joined {
            self.place = Place::Inside(number);
            self.tell_round_trip();
        }
        joined
    }

    /// Client: the bridge does not know the session.
    pub(crate) fn refused(&mut self, now: Instant) -> bool {
        let asked = matches!(self.place, Place::Asked(_));
        if asked {
            self.place = Place::Outside;
            lock(&self.session).refused(now);
        }
        asked
    }

    /// Bridge: enters the client's new session in the table, or puts this carrier into the one it asks for. Whether it carries
    /// one now; the client is told.
    pub(crate) fn begin(&mut self, sessions: &SharedSessions, asked: Option<&Join>, now: Instant) -> bool {
        let mut sessions = lock_sessions(sessions);
        match asked {
            Some(join) => match sessions.get(&join.id) {
                None if sessions.elsewhere() => {
                    self.look_elsewhere(join);
                    false
                }
                session => self.admit(session, join, now),
            },
            None => {
                sessions.insert(&self.session);
                true
            }
        }
    }

    /// Bridge: the client has ended the session.
    pub(crate) fn forget(&self, sessions: &SharedSessions) {
        // In a statement of its own: a session is not locked while the table is waited for.
        let id = lock(&self.session).id();
        if let Some(id) = id {
            lock_sessions(sessions).remove(id);
        }
    }

    /// Bridge: the client may not use the bridge any more: its session ends at once.
    pub(crate) fn cut(&mut self, sessions: &SharedSessions) {
        if self.refuse() {
            return;
        }
        lock(&self.session).cut();
        self.forget(sessions);
    }

    /// Bridge: this carrier asks to carry `session`, if there is one, instead of a session of its own. Answers it.
    fn admit(&mut self, session: Option<SharedSession>, join: &Join, now: Instant) -> bool {
        self.place = Place::Outside;
        let admitted = session.zip(self.handshake.as_ref()).and_then(|(session, handshake)| {
            let admitted =
                lock(&session).admit(join, &handshake.hash, &handshake.statics.client, now).ok()?;
            self.session = session;
            Some(admitted)
        });
        let Some((number, answer)) = admitted else {
            Frame::Refused.encode(&mut self.control);
            return false;
        };
        self.place = Place::Inside(number);
        self.tell_round_trip();
        Frame::Join(answer).encode(&mut self.control);
        true
    }

    /// A record of frames came: this long, with so much in it.
    pub(crate) fn heard(&mut self, length: usize, content: usize, now: Instant) {
        self.shaper.heard(length, content, now);
    }

    /// Whether this carrier carries the session.
    pub(crate) fn is_inside(&self) -> bool {
        matches!(self.place, Place::Inside(_))
    }

    /// Whether the session goes on without this carrier, or is over and has said so: it may close.
    pub(crate) fn is_done(&self) -> bool {
        if let Some(away) = &self.away {
            return away.is_done() && self.control.is_empty();
        }
        let Place::Inside(number) = self.place else { return false };
        let session = lock(&self.session);
        let said = self.control.is_empty() && !session.wants_to_send(number);
        session.state_of(number) == CarrierState::Retired || session.ended().is_some() && said
    }

    /// The carrier is over, for this reason: the session goes on without it, or ends if it never began.
    pub(crate) fn leave(&mut self, why: Ended, now: Instant) {
        if let Some(away) = &mut self.away {
            away.leave();
        }
        let mut session = lock(&self.session);
        match std::mem::replace(&mut self.place, Place::Outside) {
            Place::Inside(number) | Place::Asked(number) => session.lost(number, now),
            Place::Outside if session.id().is_none() => session.fail(why),
            Place::Outside => {}
        }
    }

    /// The peer or the decoy has announced the carrier's end.
    pub(crate) fn going_away(&mut self, now: Instant) {
        if let Place::Inside(number) = self.place {
            lock(&self.session).going_away(number, now);
        }
    }

    /// Announces the carrier's end to the peer.
    pub(crate) fn announce_end(&mut self) {
        Frame::Close { id: 0, code: 0 }.encode(&mut self.control);
    }

    /// When [`Tunnel::on_timer`] has something to do.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let shaper = if self.blocked { None } else { self.shaper.deadline() };
        if let Some(away) = &self.away {
            return [away.deadline(), shaper.filter(|_| away.is_carrying())].into_iter().flatten().min();
        }
        if !self.is_inside() {
            return None;
        }
        [lock(&self.session).deadline(), shaper].into_iter().flatten().min()
    }

    /// Time has passed for the session.
    pub(crate) fn on_timer(&mut self, now: Instant) {
        if let Some(away) = &mut self.away {
            away.on_timer(now);
        }
        if self.is_inside() {
            lock(&self.session).on_timer(now);
        }
    }

    /// Early data for message 1, at most `room` bytes.
    pub(crate) fn pack_early(&mut self, room: usize, out: &mut Vec<u8>) {
        lock(&self.session).pack_early(room, out);
    }

    /// Takes the early data of message 1: at most one segment, the first.
    ///
    /// # Errors
    ///
    /// It is anything else.
    pub(crate) fn take_early(&mut self, early: &[u8], now: Instant) -> Result<(), Violation> {
        let mut session = lock(&self.session);
        for frame in frames(early) {
            let frame = frame.map_err(|_| Violation::Misplaced)?;
            session.on_early(&frame, now)?;
        }
        Ok(())
    }

    /// Seals a Noise message as records of type 22 with the lengths of this direction's page load.
    pub(crate) fn seal_noise(
        &mut self,
        message: &[u8],
        lengths: &Lengths,
        rng: &mut impl Rng,
        out: &mut Vec<u8>,
    ) {
        let framed = noise::framed(message);
        let mut rest = framed.as_slice();
        while !rest.is_empty() {
            let length = self.shaper.fit(lengths.piece(rng));
            let (piece, after) = rest.split_at(rest.len().min(length - OVERHEAD));
            rest = after;
            let start = self.sealer.begin(out);
            out.extend_from_slice(piece);
            self.sealer.finish(out, start, NOISE, Some(length));
            self.went(length, out);
        }
    }

    /// A record went that is the carrier's own and not the session's.
    fn went(&mut self, length: usize, out: &[u8]) {
        self.shaper.control(length);
        if self.shaper.alone() {
            self.cuts.push(out.len());
        }
    }

    /// Seals one record with these frames alone, which is the client's last before data: of about `length`.
    pub(crate) fn seal_last(&mut self, frames: &[Frame<'_>], length: usize, out: &mut Vec<u8>) {
        let length = self.shaper.fit(length);
        self.seal_frames(frames, Some(length), out);
        self.went(length, out);
    }

    /// Seals one record with these frames alone, to the wanted length where they fit.
    pub(crate) fn seal_frames(&mut self, frames: &[Frame<'_>], length: Option<usize>, out: &mut Vec<u8>) {
        let start = self.sealer.begin(out);
        for frame in frames {
            frame.encode(out);
        }
        self.sealer.finish(out, start, FRAMES, length);
    }

    /// Seals an alert as a record of type 21, 19 bytes long.
    pub(crate) fn seal_alert(&mut self, alert: [u8; 2], out: &mut Vec<u8>) {
        let start = self.sealer.begin(out);
        out.extend_from_slice(&alert);
        self.sealer.finish(out, start, ALERT, None);
    }

    fn seal_key_update(&mut self, out: &mut Vec<u8>, now: Instant) {
        self.seal_frames(&[Frame::KeyUpdate], control_length(KEY_UPDATE_LEN), out);
        if let Some(secret) = &self.send_secret {
            rekey_sealer(&mut self.sealer, self.cipher, secret);
        }
        self.clock = Some(KeyClock::new(now));
    }

    fn advance_send_keys(&mut self, now: Instant) {
        if let Some(secret) = self.send_secret.take() {
            let next = secret.next();
            rekey_sealer(&mut self.sealer, self.cipher, &next);
            self.send_secret = Some(next);
            self.clock = Some(KeyClock::new(now));
        }
    }

    /// Takes a frame of an opened record.
    ///
    /// # Errors
    ///
    /// The peer broke the protocol.
    pub(crate) fn on_frame(
        &mut self,
        frame: &Frame<'_>,
        first_keys: bool,
        now: Instant,
    ) -> Result<Meant, Violation> {
        match *frame {
            Frame::Padding => Ok(Meant::Done),
            Frame::Close { id: 0, code } => Ok(Meant::Carrier(code)),
            // Streams' own frames come inside segments.
            Frame::Stream { .. } | Frame::WindowUpdate { .. } | Frame::Close { .. } => {
                Err(Violation::Misplaced)
            }
            Frame::Segment { .. } | Frame::Ack { .. } | Frame::End => match (&mut self.away, self.place) {
                (Some(away), _) => away.on_frame(frame).map(|()| Meant::Done),
                (None, Place::Inside(number)) => {
                    lock(&self.session).on_frame(number, frame, now)?;
                    Ok(if *frame == Frame::End { Meant::Over } else { Meant::Done })
                }
                _ => Err(Violation::Misplaced),
            },
            Frame::Ping { answer: false, data } => {
                if self.pongs.len() == MAX_PONGS {
                    self.pongs.pop_front();
                }
                self.pongs.push_back(data);
                Ok(Meant::Done)
            }
            Frame::Ping { answer: true, .. } => Ok(Meant::Done),
            Frame::KeyUpdate => self.on_key_update(first_keys),
            Frame::Decoy(_) | Frame::Handover(_) | Frame::Join(_) | Frame::Refused | Frame::Shape { .. } => {
                Ok(Meant::Role)
            }
        }
    }

    /// `first`: this KEY_UPDATE leads from the handshake keys to Noise's own, not to a next secret.
    fn on_key_update(&mut self, first: bool) -> Result<Meant, Violation> {
        let secret = self.receive_secret.take().ok_or(Violation::Misplaced)?;
        let current = if first { secret } else { secret.next() };
        rekey_opener(&mut self.opener, self.cipher, &current);
        self.receive_secret = Some(current);
        Ok(Meant::KeysChanged)
    }

    /// The path's round trip, once known.
    pub(crate) fn set_round_trip(&mut self, round_trip: Duration) {
        self.round_trip = Some(round_trip);
        self.shaper.set_round_trip(round_trip);
        self.tell_round_trip();
    }

    fn tell_round_trip(&mut self) {
        if let (Some(round_trip), Place::Inside(number)) = (self.round_trip, self.place) {
            lock(&self.session).set_round_trip(number, round_trip);
        }
    }

    /// Tells the streams the time: before frames are taken in or packed.
    pub(crate) fn tick(&mut self, now: Instant) {
        lock(&self.session).tick(now);
    }

    /// Bytes allocated for the session's queues.
    pub(crate) fn held(&self) -> usize {
        lock(&self.session).held() + self.away.as_ref().map_or(0, |away| away.held())
    }

    /// Gives spare memory back.
    pub(crate) fn trim(&mut self) {
        self.shaper.rest();
        self.control.shrink_to_fit();
        self.pongs.shrink_to_fit();
        self.cuts.shrink_to_fit();
        if let Some(away) = &mut self.away {
            away.trim();
        }
        lock(&self.session).trim();
    }

    /// Whether the peer seems to wait for leave to send more.
    pub(crate) fn peer_starves(&self) -> bool {
        self.away.is_none() && lock(&self.session).streams().peer_starves()
    }

    /// Whether data waits to be sent.
    pub(crate) fn has_unsent(&self) -> bool {
        match &self.away {
            Some(away) => away.queue().data > 0,
            None => lock(&self.session).streams().unsent() > 0,
        }
    }

    /// See [`Tunnel::limit_content`].
    pub(crate) fn max_content(&self) -> usize {
        self.max_content
    }

    /// What stands between the full records of a long answer.
    pub(crate) fn follow_beat(&mut self, beat: Option<Beat>) {
        self.shaper.follow(beat);
    }

    /// The largest content of a record we send.
    pub(crate) fn limit_content(&mut self, max_content: usize) {
        self.max_content = max_content;
    }
}

fn rekey_sealer(sealer: &mut RecordSealer, cipher: Cipher, secret: &DirectionSecret) {
    let keys = secret.keys();
    sealer.rekey(cipher, &keys.key, keys.iv);
}

fn rekey_opener(opener: &mut RecordOpener, cipher: Cipher, secret: &DirectionSecret) {
    let keys = secret.keys();
    opener.rekey(cipher, &keys.key, keys.iv);
}

#[cfg(test)]
mod tests;
