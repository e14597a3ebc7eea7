//! Whose turn it is to send. Who has something to say says the first [`EARLY`] bytes of it at once, so that they do not wait
//! behind others' bulk; with more it waits in a row for the next round, in which each has a turn, and says nothing early until
//! that round has begun. After [`MOST_AHEAD`] that went ahead one that waits has its turn, so that streams which come and go
//! without end do not stop those that stay. Turns grow while rounds are over soon: where the path is fast, readers and writers have to do with 32 KiB
//! at a time, and where it is slow, nobody waits long for the next 4.
//!
//! Deficit round robin (Shreedhar and Varghese 1996), with what sends little ahead of what sends much as in RFC 8290, section 4.2.

use std::time::{Duration, Instant};

use super::queue::Ring;

/// Data bytes of a turn at first and at least. A quarter of a record: the frames' overhead stays at a fifth of a percent.
const LEAST_TURN: usize = 4_096;
/// The same at most: two records.
const MOST_TURN: usize = 8 * LEAST_TURN;

/// A round that is over sooner makes turns twice as long.
const SOON: Duration = Duration::from_millis(10);
/// A round that takes longer makes them half as long.
const LATE: Duration = Duration::from_millis(50);

/// Bytes that a stream may send in a round before its turn: a request, an interactive program's answer, a page's beginning.
const EARLY: usize = LEAST_TURN;

/// Streams that go ahead, one after the other, of one that waits.
const MOST_AHEAD: usize = 16;

/// What a stream has sent in the round in which it sent last.
#[derive(Debug, Default)]
pub(super) struct Share {
    round: u64,
    used: usize,
}

/// The streams that have something to send.
#[derive(Debug)]
pub(super) struct Turns {
    /// Those that have sent less than [`EARLY`] in the present round, in the order in which they came.
    early: Ring,
    /// The others.
    waiting: Ring,
    round: u64,
    /// Of those that wait, the first so many belong to the present round.
    left: usize,
    /// How many went ahead since one that waits had its turn.
    ahead: usize,
    /// When that began, if the time is known.
    begun: Option<Instant>,
    /// Bytes of a turn.
    turn: usize,
}

impl Default for Turns {
    fn default() -> Self {
        Self {
            early: Ring::default(),
            waiting: Ring::default(),
            round: 0,
            left: 0,
            ahead: 0,
            begun: None,
            turn: LEAST_TURN,
        }
    }
}

impl Turns {
    /// A stream has something to send. Streams that never sent anything are served in the order in which they come.
    pub(super) fn push(&mut self, id: u64, share: &Share) {
        if self.sent(share) < EARLY {
            self.early.push(id);
        } else {
            self.waiting.push(id);
        }
    }

    /// Whose turn it is, at the time last told.
    pub(super) fn front(&mut self, now: Option<Instant>) -> Option<u64> {
        if self.goes_ahead() {
            return self.early.front();
        }
        if self.waiting.is_empty() {
            // What passes until there is something again is no round.
            self.begun = None;
        } else if self.left == 0 {
            self.begin_round(now);
        }
        self.waiting.front()
    }

    fn begin_round(&mut self, now: Option<Instant>) {
        if let (Some(begun), Some(now)) = (self.begun, now) {
            let took = now.saturating_duration_since(begun);
            if took < SOON {
                self.turn = (self.turn * 2).min(MOST_TURN);
            } else if took > LATE {
                self.turn = (self.turn / 2).max(LEAST_TURN);
            }
        }
        self.begun = now;
        self.round += 1;
        self.left = self.waiting.len();
    }

    /// Whether the next is one that says something early.
    fn goes_ahead(&self) -> bool {
        !self.early.is_empty() && (self.ahead < MOST_AHEAD || self.waiting.is_empty())
    }

    /// The turn of whom [`front`](Self::front) named is over.
    pub(super) fn pop(&mut self) {
        if self.goes_ahead() {
            self.early.pop();
            self.ahead += 1;
        } else if self.waiting.pop().is_some() {
            self.left -= 1;
            self.ahead = 0;
        }
    }

    /// Takes a stream out, wherever it stands.
    pub(super) fn remove(&mut self, id: u64) {
        if self.early.remove(id).is_none()
            && let Some(at) = self.waiting.remove(id)
            && at < self.left
        {
            self.left -= 1;
        }
    }

    /// Gives back memory that nothing is in.
    pub(super) fn trim(&mut self) {
        self.early.trim();
        self.waiting.trim();
    }

    pub(super) fn len(&self) -> usize {
        self.early.len() + self.waiting.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.early.is_empty() && self.waiting.is_empty()
    }

    /// Bytes that the stream whose turn it is may still send in it.
    pub(super) fn budget(&self, share: &Share) -> usize {
        let whole = if self.goes_ahead() { EARLY } else { self.turn };
        whole.saturating_sub(self.sent(share))
    }

    /// Bytes that a stream has sent in this round.
    fn sent(&self, share: &Share) -> usize {
        if share.round == self.round { share.used } else { 0 }
    }

    /// A stream has sent so many bytes.
    pub(super) fn spend(&self, share: &mut Share, bytes: usize) {
        if share.round != self.round {
            *share = Share { round: self.round, used: 0 };
        }
        share.used += bytes;
    }
}
