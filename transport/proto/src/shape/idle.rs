//! Cover while nobody asks for anything: page-like exchanges at drawn pauses, as long as a stream is open, within a budget an hour.
//!
//! The client begins each: a record of padding as long as a request. The bridge answers one such record with padding as long as an
//! answer. Neither answers an answer, so that two ends cannot keep each other awake.

use std::time::{Duration, Instant};

use rand_chacha::ChaCha8Rng;

use super::bursts::LEAST_DATA;
use super::profile;
use crate::mux::Role;
use crate::sizes::below;

/// The budget's period.
const HOUR: Duration = Duration::from_secs(3_600);
/// A pause that a profile gives in seconds ends anywhere within the second after it, milliseconds.
const SECOND_MS: usize = 1_000;
/// A record of padding that is as long as a request at least is one; shorter ones are control.
const LEAST_REQUEST: usize = 57;

/// Where a carrier's cover stands.
#[derive(Debug)]
pub(super) struct Idle {
    data: &'static profile::Idle,
    role: Role,
    /// A stream is open.
    open: bool,
    /// Client: when to ask next, if nothing happens before.
    next: Option<Instant>,
    /// Bridge: what is left of an answer.
    answer: usize,
    /// When the present hour began, and what was spent in it.
    hour: Option<Instant>,
    spent: usize,
}

impl Idle {
    pub(super) fn new(data: &'static profile::Idle, role: Role) -> Self {
        Self { data, role, open: false, next: None, answer: 0, hour: None, spent: 0 }
    }

    /// Whether a stream is open; without one there is nobody to cover.
    pub(super) fn open(&mut self, open: bool) {
        self.open = open;
        if !open {
            self.next = None;
        }
    }

    /// Data went or came: the pause begins anew.
    pub(super) fn disturbed(&mut self) {
        self.next = None;
    }

    /// A record came: this long, with so much in it.
    pub(super) fn heard(&mut self, length: usize, content: usize, rng: &mut ChaCha8Rng) {
        if content >= LEAST_DATA {
            self.disturbed();
        } else if length >= LEAST_REQUEST && self.role == Role::Bridge && self.answer == 0 {
            self.answer = self.data.answers.draw(rng);
        }
    }

    /// The record of padding that is due now that nothing else is.
    pub(super) fn due(&mut self, longest: usize, now: Instant, rng: &mut ChaCha8Rng) -> Option<usize> {
        if self.hour.is_none_or(|since| now.saturating_duration_since(since) >= HOUR) {
            (self.hour, self.spent) = (Some(now), 0);
        }
        let wanted = match self.role {
            Role::Bridge => std::mem::take(&mut self.answer),
            Role::Client => self.ask(now, rng),
        };
        let length = wanted.min(longest);
        if wanted == 0 || self.spent + length > self.data.per_hour as usize {
            return None;
        }
        // What is left of an answer is no record of its own where it is shorter than any.
        self.answer = Some(wanted - length).filter(|left| *left >= LEAST_REQUEST).unwrap_or(0);
        self.spent += length;
        Some(length)
    }

    /// The length of the request that is due, nought where none is.
    fn ask(&mut self, now: Instant, rng: &mut ChaCha8Rng) -> usize {
        if !self.open {
            return 0;
        }
        // A request at whole seconds after the one before would be a clock's.
        let within = below(rng, SECOND_MS) as u64;
        let pause = Duration::from_secs(self.data.pauses_s.draw(rng) as u64) + Duration::from_millis(within);
        let at = *self.next.get_or_insert(now + pause);
        if at > now {
            return 0;
        }
        self.next = Some(now + pause);
        self.data.asks.draw(rng)
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.next
    }
}
