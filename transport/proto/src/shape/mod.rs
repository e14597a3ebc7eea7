//! The shape of what one side of a carrier sends, without I/O: a machine that is told of records and says how long they are to
//! be, and what padding is to follow.
//!
//! # Call contract
//!
//! - [`Shaper::heard`] for each record of the peer's, [`Shaper::opened`] for each stream that is opened.
//! - [`Shaper::room`] before a record is filled: how much should go into it.
//! - [`Shaper::length`] for each record with data, before it is sealed: its length.
//! - When nothing more is to be sent, [`Shaper::padding`] until it says `None`: a record of padding of that length.
//!
//! What it adds in all never exceeds the profile's allowance and share; what is sent is never held back.

mod models;
mod profile;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

pub use self::profile::{NONE, Profile, Shape, WEB};
use crate::mux::Role;
use crate::sizes::below;

/// The inner type byte and the AEAD tag.
const OVERHEAD: usize = 17;
/// Fewer bytes are credit and acknowledgements: neither an answer nor a question.
const LEAST_DATA: usize = 64;
/// Bytes that are worth cutting in two: more than a cell of Tor's in its TLS record.
const LEAST_TO_CUT: usize = 540;
/// Lengths are kept this much farther from a model than its limit: what an observer counts differs by headers.
const MARGIN: f64 = 1.2;
/// By how much a burst grows before it is looked at again, bytes.
const STEP: usize = 300;
/// Beyond this length no model reaches.
const MOST_TO_CLEAR: usize = 16_000;
/// The shortest record that is worth sending as padding.
const LEAST_PADDING: usize = 120;

/// The machine of one direction of one carrier.
#[derive(Debug)]
pub struct Shaper {
    profile: &'static Profile,
    role: Role,
    rng: ChaCha8Rng,
    /// Answers still to be lengthened.
    answers: u32,
    /// The present burst's length so far, and the length it is to reach.
    burst: usize,
    target: usize,
    /// The last bursts: the peer's, ours, the peer's present one.
    window: [usize; 4],
    /// The peer has spoken since our last record: the next begins a burst.
    turn: bool,
    carried: u64,
    added: u64,
}

impl Shaper {
    /// A machine that has sent nothing.
    #[must_use]
    pub fn new(shape: Shape, role: Role, seed: [u8; 32]) -> Self {
        let profile = shape.profile();
        Self {
            profile,
            role,
            rng: ChaCha8Rng::from_seed(seed),
            answers: u32::from(profile.first_answers),
            burst: 0,
            target: 0,
            window: [0; 4],
            turn: true,
            carried: 0,
            added: 0,
        }
    }

    /// The peer sent a record of this length; `content`: its bytes without padding.
    pub fn heard(&mut self, length: usize, content: usize) {
        if !self.turn && content >= LEAST_DATA {
            self.turn = true;
            let [_, _, asked, _] = self.window;
            self.window = [asked, self.burst, 0, 0];
        }
        self.window[2] += length;
    }

    /// A stream was opened.
    pub fn opened(&mut self) {
        self.answers = self.answers.max(u32::from(self.profile.stream_answers));
    }

    /// Bytes added so far.
    #[must_use]
    pub fn added(&self) -> u64 {
        self.added
    }

    /// Bytes that may still be added.
    fn left(&self) -> usize {
        let share = self.carried / 1_000 * u64::from(self.profile.per_mille);
        let allowed = u64::from(self.profile.allowance) + share;
        usize::try_from(allowed.saturating_sub(self.added)).unwrap_or(usize::MAX)
    }

    /// The length for a record with `content` bytes of data, at most `longest`; `last`: nothing is to follow at once. `None`:
    /// its own.
    pub fn length(&mut self, content: usize, longest: usize, last: bool) -> Option<usize> {
        let own = content + OVERHEAD;
        if self.turn && content >= LEAST_DATA {
            self.turn = false;
            self.begin_burst();
        }
        self.carried += own as u64;
        self.burst += own;
        // A burst that is still to grow ends in padding anyway.
        if !last || own >= longest || self.burst < self.target {
            return None;
        }
        let most = usize::from(self.profile.tail).min(longest - own).min(self.left());
        let extra = below(&mut self.rng, most + 1);
        self.added += extra as u64;
        self.burst += extra;
        (extra > 0).then_some(own + extra)
    }

    /// How much of `queued` bytes should go into the next record, which has `room`. Where nothing may be added any more, the end
    /// of a burst is cut in two instead, anywhere, so that its records tell nothing of cells either.
    pub fn room(&mut self, queued: usize, room: usize) -> usize {
        if self.profile.tail == 0
            || queued >= room
            || queued < LEAST_TO_CUT
            || self.left() >= usize::from(self.profile.tail)
        {
            return room;
        }
        queued / 4 + below(&mut self.rng, queued / 2)
    }

    /// Only the bridge's bursts are answers.
    fn begin_burst(&mut self) {
        (self.burst, self.target) = (0, 0);
        if self.role == Role::Bridge && self.answers > 0 {
            self.answers -= 1;
            self.target = self.draw_answer();
        }
    }

    fn draw_answer(&mut self) -> usize {
        let (low, high) = (f64::from(*self.profile.answer.start()), f64::from(*self.profile.answer.end()));
        let part = f64::from(self.rng.next_u32()) / f64::from(u32::MAX);
        let drawn = low * (high / low).powf(part);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between two u32")]
        let drawn = drawn as usize;
        drawn
    }

    /// A burst that would complete what looks like a TLS handshake grows until it does not.
    fn keep_clear(&mut self) {
        let [asked, answered, asks, _] = self.window;
        let near = |burst: usize| {
            #[expect(clippy::cast_precision_loss, reason = "lengths of a few kilobytes")]
            let window = [asked, answered, asks, burst].map(|length| length as f64);
            models::matches(window, MARGIN)
        };
        let mut wanted = self.burst.max(self.target);
        while self.role == Role::Bridge && wanted < MOST_TO_CLEAR && near(wanted) {
            wanted += STEP + below(&mut self.rng, STEP);
        }
        if wanted > self.burst {
            self.target = wanted;
        }
    }

    /// The length of the next record of padding, at most `longest`, if the burst is still to grow.
    pub fn padding(&mut self, longest: usize) -> Option<usize> {
        if !self.turn && self.profile.allowance > 0 {
            self.keep_clear();
        }
        let missing = self.target.saturating_sub(self.burst);
        let length = missing.max(LEAST_PADDING).min(longest).min(self.left());
        if self.turn || missing == 0 || length < LEAST_PADDING {
            self.target = 0;
            return None;
        }
        self.added += length as u64;
        self.burst += length;
        Some(length)
    }
}

#[cfg(test)]
mod tests;
