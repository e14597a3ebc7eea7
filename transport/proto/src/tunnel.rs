//! One carrier's HTX: records under their keys, frames, and the streams above them. Both roles use it.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use rand_core::Rng;

use crate::{
    frame::Frame,
    mux::{Mux, Role, Violation},
    noise::{self, Established},
    record::{Cipher, DirectionSecret, KeyClock, RecordOpener, RecordSealer},
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
/// Bytes of a KEY_UPDATE frame, kept free at the end of each record.
const KEY_UPDATE_LEN: usize = 4;
/// Sealed bytes waiting for the socket above which no more are sealed: enough for a few full records, little enough that
/// what a broken tunnel still sends looks like a server's socket buffer.
pub(crate) const BACKLOG: usize = 64 * 1024;

/// Record layer and streams of one carrier.
pub(crate) struct Tunnel {
    pub(crate) mux: Mux,
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
}

/// A frame that is not the tunnel's own business.
pub(crate) enum Meant {
    /// Dealt with.
    Done,
    /// Keys changed; the record must end here.
    KeysChanged,
    /// The carrier's CLOSE with its code.
    Carrier(u8),
    /// For the role to judge: DECOY, HANDOVER.
    Role,
}

impl Tunnel {
    /// Begins under the handshake keys.
    pub(crate) fn new(role: Role, sealer: RecordSealer, opener: RecordOpener, max_content: usize) -> Self {
        Self {
            mux: Mux::new(role),
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
        }
    }

    /// Noise is done. The client sends under the new keys from its next record on and receives under them after a
    /// KEY_UPDATE; the bridge the other way round.
    pub(crate) fn establish(&mut self, role: Role, established: Established, now: Instant) {
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
        for (content, length) in lengths.cut(framed.len(), rng) {
            let (piece, after) = rest.split_at(content);
            rest = after;
            let start = self.sealer.begin(out);
            out.extend_from_slice(piece);
            self.sealer.finish(out, start, NOISE, Some(length));
        }
    }

    /// Seals one record with this frame alone, to the wanted length where it fits.
    pub(crate) fn seal_frame(&mut self, frame: &Frame<'_>, length: Option<usize>, out: &mut Vec<u8>) {
        let start = self.sealer.begin(out);
        frame.encode(out);
        self.sealer.finish(out, start, FRAMES, length);
    }

    /// Seals an alert as a record of type 21, 19 bytes long.
    pub(crate) fn seal_alert(&mut self, alert: [u8; 2], out: &mut Vec<u8>) {
        let start = self.sealer.begin(out);
        out.extend_from_slice(&alert);
        self.sealer.finish(out, start, ALERT, None);
    }

    /// Whether [`Tunnel::pack`] would seal something.
    pub(crate) fn wants_to_send(&self) -> bool {
        !self.pongs.is_empty() || self.mux.wants_to_send()
    }

    /// Seals what streams and control have to send until `backlog` sealed bytes wait. True if it sealed anything.
    pub(crate) fn pack(&mut self, out: &mut Vec<u8>, already: usize, now: Instant) -> bool {
        let mut waiting = already;
        let mut sealed = false;
        while waiting < BACKLOG && self.wants_to_send() {
            if self.switch_due {
                self.seal_key_update(out, now);
                self.switch_due = false;
            }
            let before = out.len();
            if !self.pack_one(out, now) {
                break;
            }
            waiting += out.len() - before;
            sealed = true;
        }
        sealed
    }

    fn pack_one(&mut self, out: &mut Vec<u8>, now: Instant) -> bool {
        let start = self.sealer.begin(out);
        let content = out.len();
        while let Some(data) = self.pongs.pop_front() {
            Frame::Ping { answer: true, data }.encode(out);
        }
        let room = self.max_content.saturating_sub(out.len() - content + KEY_UPDATE_LEN);
        self.mux.pack(room, out);
        let len = out.len() - content;
        if len == 0 {
            out.truncate(start);
            return false;
        }
        let update = self.clock.as_ref().is_some_and(|clock| clock.due(now));
        if update {
            Frame::KeyUpdate.encode(out);
        }
        let length = control_length(out.len() - content);
        self.sealer.finish(out, start, FRAMES, length);
        if let Some(clock) = &mut self.clock {
            clock.count(len);
        }
        if update {
            self.advance_send_keys(now);
        }
        true
    }

    fn seal_key_update(&mut self, out: &mut Vec<u8>, now: Instant) {
        self.seal_frame(&Frame::KeyUpdate, control_length(KEY_UPDATE_LEN), out);
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
    pub(crate) fn on_frame(&mut self, frame: &Frame<'_>, first_keys: bool) -> Result<Meant, Violation> {
        match *frame {
            Frame::Padding => Ok(Meant::Done),
            Frame::Stream { .. } | Frame::WindowUpdate { .. } | Frame::Close { .. } => {
                self.mux.on_frame(frame)?;
                Ok(if let Frame::Close { id: 0, code } = *frame { Meant::Carrier(code) } else { Meant::Done })
            }
            Frame::Ping { answer: false, data } => {
                if self.pongs.len() == MAX_PONGS {
                    self.pongs.pop_front();
                }
                self.pongs.push_back(data);
                Ok(Meant::Done)
            }
            Frame::Ping { answer: true, .. } => Ok(Meant::Done),
            Frame::KeyUpdate => self.on_key_update(first_keys),
            Frame::Decoy(_) | Frame::Handover(_) => Ok(Meant::Role),
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
    }

    /// Tells the streams the time: before frames are taken in or packed.
    pub(crate) fn tick(&mut self, now: Instant) {
        if let Some(round_trip) = self.round_trip {
            self.mux.tick(now, round_trip);
        }
    }

    /// See [`Tunnel::limit_content`].
    pub(crate) fn max_content(&self) -> usize {
        self.max_content
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
