//! Page loads: how long the bridge's first answers are, how many of them, and how long a browser takes to ask again.

use std::time::{Duration, Instant};

use rand_chacha::ChaCha8Rng;

use super::profile;
use crate::mux::Role;

/// Where a carrier stands in the page load it looks like.
#[derive(Debug)]
pub(super) struct Web {
    data: &'static profile::Web,
    role: Role,
    /// Answers still to be lengthened.
    answers: u16,
    /// The client's bursts that are still to be held for a pause.
    gaps: u16,
    /// Until when the present one is.
    until: Option<Instant>,
    /// What may be held in all, and what was.
    most: Duration,
    used: Duration,
}

impl Web {
    /// Each side draws what it shapes itself; the other need not know it.
    pub(super) fn new(data: &'static profile::Web, role: Role, rng: &mut ChaCha8Rng) -> Self {
        let (answers, gaps) = match role {
            Role::Client => (0, data.first_gaps.draw_count(rng)),
            Role::Bridge => (data.first_answers.draw_count(rng), 0),
        };
        Self { data, role, answers, gaps, until: None, most: Duration::ZERO, used: Duration::ZERO }
    }

    /// One round trip may be spent in pauses, and no more.
    pub(super) fn set_round_trip(&mut self, round_trip: Duration) {
        self.most = round_trip;
    }

    pub(super) fn opened(&mut self, rng: &mut ChaCha8Rng) {
        if self.role == Role::Bridge {
            self.answers = self.answers.max(self.data.stream_answers.draw_count(rng));
        }
    }

    /// A burst begins; only the bridge's are answers. The length it is to reach.
    pub(super) fn begin_burst(&mut self, rng: &mut ChaCha8Rng) -> usize {
        if self.answers == 0 {
            return 0;
        }
        self.answers -= 1;
        self.data.answers.draw(rng)
    }

    /// Data waits to begin a burst; the peer was heard last at `heard`.
    pub(super) fn pause(&mut self, heard: Option<Instant>, now: Instant, rng: &mut ChaCha8Rng) {
        let Some(gaps) = self.gaps.checked_sub(1) else { return };
        self.gaps = gaps;
        let pause = Duration::from_millis(self.data.gaps_ms.draw(rng) as u64);
        let until = heard.unwrap_or(now) + pause;
        let held = until.saturating_duration_since(now).min(self.most.saturating_sub(self.used));
        self.used += held;
        self.until = Some(now + held);
    }

    /// Answers and pauses that are still to come.
    #[cfg(test)]
    pub(super) fn left(&self) -> (u16, u16) {
        (self.answers, self.gaps)
    }

    pub(super) fn held_until(&self) -> Option<Instant> {
        self.until
    }
}
