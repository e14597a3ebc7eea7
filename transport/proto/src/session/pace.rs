//! Time: when a carrier counts as stalled, when to look for news, how many carriers may be made.

use std::time::{Duration, Instant};

use thiserror::Error;

use super::Profile;

/// Taken for the round trip until one is known.
const UNKNOWN_ROUND_TRIP: Duration = Duration::from_millis(300);
/// Round trips without progress that are nothing strange.
const PATIENCE_ROUND_TRIPS: u32 = 2;
/// Added to them: TCP repeats a lost segment 200 ms after the round trip at the earliest (RFC 6298, as Linux has it).
const PATIENCE: Duration = Duration::from_millis(300);
/// The least and the most patience.
const LEAST_PATIENCE: Duration = Duration::from_millis(500);
/// See [`LEAST_PATIENCE`].
const MOST_PATIENCE: Duration = Duration::from_secs(10);
/// More patience where anything authentic still arrives.
const HEARD_FACTOR: u32 = 4;
/// Replacements in vain after which patience is not doubled again: then it is minutes.
const MOST_DOUBLINGS: u32 = 5;
/// A new round trip's share of the smoothed one, one in this many (RFC 6298).
const SMOOTHING: u32 = 8;

/// A carrier that something came over this shortly before its end was in use: no server's idle limit is as short.
const IN_USE: Duration = Duration::from_millis(1_500);

/// Why a carrier is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Need {
    /// None carries, and there is something to send.
    #[error("there is none, and something to send")]
    Use,
    /// None carries; the bridge may have something.
    #[error("there is none, and the bridge may have something")]
    Look,
    /// What was sent is not acknowledged, or what was announced does not come.
    #[error("the old one stands still")]
    Stalled,
    /// One has been used for long enough.
    #[error("the old one has lived long enough")]
    Age,
    /// One has carried enough.
    #[error("the old one has carried enough")]
    Volume,
    /// One will end soon.
    #[error("the old one will end soon")]
    GoingAway,
    /// Fewer carry than the profile wants.
    #[error("another is to share the work")]
    Stripe,
}

#[derive(Debug)]
pub(super) struct Pace {
    /// The last acknowledgement that advanced, session bytes that were new, or the last time when nothing was waited for.
    progress: Instant,
    /// The last frame of the session's, whatever it brought.
    heard: Instant,
    /// The peer said that more follows.
    expecting: bool,
    /// Stalled carriers replaced since the last progress.
    in_vain: u32,
    smoothed: Option<Duration>,
    /// The shortest on the present path, which no queue of our own has made longer.
    least: Option<Duration>,
    /// A position and when it was first sent; none while bytes are repeated (Karn's rule).
    sample: Option<(u64, Instant)>,
    looked: Instant,
    poll: Option<Duration>,
    first_poll: Option<Duration>,
    most_poll: Duration,
    tokens: Tokens,
}

/// A token bucket of carriers.
#[derive(Debug)]
struct Tokens {
    left: f64,
    at: Instant,
    burst: f64,
    /// A second.
    rate: f64,
}

impl Tokens {
    fn at(&self, now: Instant) -> f64 {
        let gained = now.saturating_duration_since(self.at).as_secs_f64() * self.rate;
        (self.left + gained).min(self.burst)
    }

    fn take(&mut self, now: Instant) {
        (self.left, self.at) = ((self.at(now) - 1.0).max(0.0), now.max(self.at));
    }

    /// When one is there.
    fn next(&self) -> Instant {
        let missing = (1.0 - self.left).max(0.0) / self.rate.max(1e-3);
        self.at + Duration::from_secs_f64(missing)
    }
}

impl Pace {
    pub(super) fn new(profile: &Profile, now: Instant) -> Self {
        let burst = f64::from(profile.burst.max(1));
        Self {
            progress: now,
            heard: now,
            expecting: false,
            in_vain: 0,
            smoothed: None,
            least: None,
            sample: None,
            looked: now,
            poll: profile.poll,
            first_poll: profile.poll,
            most_poll: profile.poll_most,
            tokens: Tokens { left: burst, at: now, burst, rate: f64::from(profile.per_minute) / 60.0 },
        }
    }

    pub(super) fn set_round_trip(&mut self, round_trip: Duration) {
        (self.smoothed, self.least) = (Some(round_trip), Some(round_trip));
    }

    pub(super) fn least_round_trip(&self) -> Option<Duration> {
        self.least
    }

    pub(super) fn round_trip(&self) -> Option<Duration> {
        self.smoothed
    }

    pub(super) fn heard(&mut self, now: Instant) {
        self.heard = now;
    }

    pub(super) fn progress(&mut self, now: Instant) {
        self.progress = now;
        self.in_vain = 0;
        self.poll = self.first_poll;
    }

    pub(super) fn expects(&mut self, more: bool) {
        self.expecting = more;
    }

    pub(super) fn expecting(&self) -> bool {
        self.expecting
    }

    /// The wait for something begins.
    pub(super) fn waits(&mut self, now: Instant) {
        self.progress = self.progress.max(now);
    }

    /// Fresh bytes up to `end` were sent.
    pub(super) fn sent(&mut self, end: u64, now: Instant) {
        self.sample.get_or_insert((end, now));
    }

    /// Bytes go out again: their acknowledgement says nothing about the round trip.
    pub(super) fn forget_sample(&mut self) {
        self.sample = None;
    }

    pub(super) fn acknowledged(&mut self, position: u64, now: Instant) {
        self.progress(now);
        if let Some((wanted, since)) = self.sample
            && position >= wanted
        {
            self.sample = None;
            let measured = now.saturating_duration_since(since);
            let known = self.smoothed.unwrap_or(measured);
            self.least = Some(self.least.map_or(measured, |least| least.min(measured)));
            self.smoothed = Some((known * (SMOOTHING - 1) + measured) / SMOOTHING);
        }
    }

    /// Another carrier has the session now: the wait begins anew.
    pub(super) fn replaced(&mut self, now: Instant) {
        (self.progress, self.heard, self.expecting) = (now, now, false);
    }

    /// When what is waited for has been waited for too long.
    pub(super) fn stalled_at(&self) -> Instant {
        let round_trip = self.smoothed.unwrap_or(UNKNOWN_ROUND_TRIP);
        let patience = (PATIENCE_ROUND_TRIPS * round_trip + PATIENCE).clamp(LEAST_PATIENCE, MOST_PATIENCE);
        let factor = if self.heard > self.progress { HEARD_FACTOR } else { 1 };
        self.progress + patience * factor * 2_u32.pow(self.in_vain.min(MOST_DOUBLINGS))
    }

    /// When to look for news after the last carrier was lost at `since`: at once where it was in use, whose answer may be lost
    /// with it.
    pub(super) fn look_at(&self, since: Instant) -> Option<Instant> {
        let poll = self.poll?;
        let in_use = since.saturating_duration_since(self.heard.max(self.progress)) < IN_USE;
        Some(if in_use { since } else { since + poll })
    }

    pub(super) fn look(&mut self, now: Instant) {
        self.looked = now;
    }

    pub(super) fn looked(&self) -> Instant {
        self.looked
    }

    pub(super) fn dialled(&mut self, need: Option<Need>, now: Instant) {
        self.tokens.take(now);
        match need {
            Some(Need::Stalled) => self.in_vain = self.in_vain.saturating_add(1),
            Some(Need::Look) => self.poll = self.poll.map(|poll| (poll * 2).min(self.most_poll)),
            _ => {}
        }
    }

    /// When the next carrier may be made.
    pub(super) fn budget_at(&self) -> Instant {
        self.tokens.next()
    }
}
