//! The shape of what one side of a carrier sends, without I/O: a machine that is told what happens and says what to do next.
//!
//! # Call contract
//!
//! - [`Shaper::heard`] for each record of frames that came, [`Shaper::opened`] for each stream that is opened,
//!   [`Shaper::streams`] where none is left, and where one is.
//! - [`Shaper::next`] says what is to be done: after a [`Step::Send`] the record is filled, [`Shaper::length`] says how long it
//!   is to be, and it goes out; after a [`Step::Pad`] a record of padding goes out. Then [`Shaper::next`] again, until it says
//!   [`Step::Hold`] or [`Step::Rest`].
//! - Records that may not wait go out whatever it says, and are told by [`Shaper::control`].
//! - After each record [`Shaper::alone`]: whether it is to stand in a segment of its own.
//! - [`Shaper::next`] again when [`Shaper::deadline`] has passed.
//!
//! What it adds never exceeds the profile's bytes, and no record at the head of the queue is held longer than the profile says
//! and [`MAX_HOLD`], whatever the profile's machine wants.

mod budget;
mod bursts;
mod counters;
mod draws;
mod habit;
mod idle;
mod machine;
mod machines;
mod models;
pub mod profile;
mod segments;
mod web;

use std::time::{Duration, Instant};

use rand_chacha::rand_core::Rng as _;

use self::budget::Budget;
pub use self::budget::MAX_HOLD;
use self::bursts::{LEAST_DATA, Turns};
pub use self::counters::Counters;
use self::draws::Draws;
use self::habit::Follower;
pub use self::habit::{Beat, Bulk, Habit};
use self::idle::Idle;
use self::machine::{Event, Machine};
use self::profile::Plan;
pub use self::profile::{Profile, ProfileError, Shape};
use self::segments::Segments;
use self::web::Web;
use crate::mux::Role;
use crate::sizes::{below, control_length};

/// The inner type byte and the AEAD tag.
const OVERHEAD: usize = 17;
/// A record's header, which its length does not count.
const RECORD_HEADER: usize = 5;
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
/// The shortest record: an empty PADDING frame.
const LEAST_RECORD: usize = 4 + OVERHEAD;
/// How long less than a record's worth of data waits for more after a full record: whoever writes a long answer is seldom as quick as
/// the socket, and a server that reads a file has no such gaps. The least that timers tell apart.
const MORE: Duration = Duration::from_millis(1);
/// What a full record may miss: no frame with data is as short.
const MOST_TO_FILL: usize = 24;
/// Records of padding that a machine may want in vain in one go: a machine without an end must not hang us.
const MOST_REFUSED: u32 = 64;
/// The least time between two looks at a machine that wants to be called at once and then has nothing to do: it must not spin.
const LEAST_PAUSE: Duration = Duration::from_millis(1);

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Send a record with at most so many bytes of what is queued.
    Send {
        /// Bytes of frames.
        content: usize,
    },
    /// Send a record of padding of this length.
    Pad(usize),
    /// What is queued waits, until [`Shaper::deadline`] at the latest.
    Hold,
    /// Nothing.
    Rest,
}

/// The machine of one direction of one carrier.
#[derive(Debug)]
pub struct Shaper {
    profile: &'static Profile,
    draws: Draws,
    budget: Budget,
    turns: Turns,
    /// The length that the present answer is to reach.
    target: usize,
    web: Option<Web>,
    segments: Option<Segments>,
    idle: Option<Idle>,
    follower: Option<Follower>,
    /// The last record was a full one of a long answer, and until when the next waits to be one too.
    in_bulk: bool,
    more_until: Option<Instant>,
    machine: Option<Box<dyn Machine>>,
    role: Role,
    /// What was queued when it was last asked.
    queued: usize,
    /// Since when the head of the queue is held, and until when.
    held: Option<(Instant, Instant)>,
    /// The next record's length, where a schedule fixes it.
    fixed: Option<usize>,
    last_heard: Option<Instant>,
    /// When it last said that nothing is to be done.
    looked: Option<Instant>,
    /// Not yet told of.
    counters: Counters,
}

impl Shaper {
    /// A machine that has sent nothing.
    #[must_use]
    pub fn new(shape: Shape, role: Role, seed: [u8; 32]) -> Self {
        let profile = shape.profile();
        let mut draws = Draws::new(seed);
        let mut inner = [0; 32];
        draws.rng().fill_bytes(&mut inner);
        let web = match &profile.plan {
            Plan::Web(data) => Some(Web::new(data, role, draws.rng())),
            _ => None,
        };
        let bursts = profile.bursts.as_ref().filter(|_| role == Role::Client);
        let segments = bursts.map(|data| Segments::new(data, draws.rng()));
        Self {
            profile,
            draws,
            budget: Budget::new(profile.bounds),
            turns: Turns::new(),
            target: 0,
            web,
            segments,
            idle: profile.idle.as_ref().map(|data| Idle::new(data, role)),
            follower: None,
            in_bulk: false,
            more_until: None,
            machine: machine::build(profile, role, inner),
            role,
            queued: 0,
            held: None,
            fixed: None,
            last_heard: None,
            looked: None,
            counters: Counters::default(),
        }
    }

    /// The path's round trip, once it is known.
    pub fn set_round_trip(&mut self, round_trip: Duration) {
        if let Some(web) = &mut self.web {
            web.set_round_trip(round_trip);
        }
    }

    /// Page loads only: what stands between the full records of a long answer.
    pub fn follow(&mut self, beat: Option<Beat>) {
        self.follower = beat.filter(|_| self.web.is_some()).map(Follower::new);
    }

    /// The peer sent a record of this length; `content`: its bytes without padding.
    pub fn heard(&mut self, length: usize, content: usize, now: Instant) {
        self.turns.heard(length, content);
        if let Some(idle) = &mut self.idle {
            idle.heard(length, content, self.draws.rng());
        }
        self.last_heard = Some(now);
        if let Some(machine) = &mut self.machine {
            let data = content >= LEAST_DATA;
            let event =
                if data { Event::DataHeard { bytes: length } } else { Event::PaddingHeard { bytes: length } };
            machine.on(event, now);
        }
    }

    /// Whether any stream is open.
    pub fn streams(&mut self, open: bool) {
        if let Some(idle) = &mut self.idle {
            idle.open(open);
        }
    }

    /// A stream was opened.
    pub fn opened(&mut self, now: Instant) {
        if let Some(web) = &mut self.web {
            web.opened(self.draws.rng());
        }
        if let Some(segments) = &mut self.segments {
            segments.opened(self.draws.rng());
        }
        self.tell(Event::Opened, now);
    }

    fn tell(&mut self, event: Event, now: Instant) {
        if let Some(machine) = &mut self.machine {
            machine.on(event, now);
        }
    }

    /// What is to be done with `queued` bytes of data. A record has `room` for content, and is `longest` at most.
    pub fn next(&mut self, queued: usize, room: usize, longest: usize, now: Instant) -> Step {
        self.budget.began(now);
        if queued > self.queued {
            self.tell(Event::Queued, now);
        }
        self.queued = queued;
        if let Some(length) = self.due(longest, now) {
            return self.pad(length, now);
        }
        if queued == 0 {
            self.held = None;
            (self.in_bulk, self.more_until) = (false, None);
            self.follower.iter_mut().for_each(Follower::begin);
            if let Some(length) = self.ending(longest) {
                return self.pad(length, now);
            }
            let cover = self.idle.as_mut().and_then(|idle| idle.due(longest, now, self.draws.rng()));
            if let Some(length) = cover {
                self.control(length);
                self.counters.cover += length as u64;
                return Step::Pad(length);
            }
            self.looked = Some(now);
            return Step::Rest;
        }
        if self.holds(queued, now) || self.awaits_more(queued, room, now) {
            self.looked = Some(now);
            return Step::Hold;
        }
        if let Some(length) = self.between() {
            return self.pad(length, now);
        }
        Step::Send { content: self.content(queued, room, now) }
    }

    /// Whether a long answer is not to be cut yet.
    fn awaits_more(&mut self, queued: usize, room: usize, now: Instant) -> bool {
        self.in_bulk && queued < room && *self.more_until.get_or_insert(now + MORE) > now
    }

    /// The record that goes before further data, where the server's answers have one there.
    fn between(&mut self) -> Option<usize> {
        let follower = self.follower.as_mut()?;
        let length = follower.due()?;
        follower.begin();
        let there = length <= self.budget.left();
        self.counters.over_budget += u64::from(!there);
        there.then_some(length)
    }

    /// A record of padding goes out.
    fn pad(&mut self, length: usize, now: Instant) -> Step {
        self.budget.add(length);
        self.turns.sent(length);
        if let Some(segments) = &mut self.segments {
            segments.sent(length);
        }
        self.counters.padding_records += 1;
        self.counters.padding += length as u64;
        self.tell(Event::PaddingSent { bytes: length }, now);
        Step::Pad(length)
    }

    /// What the machine wants to add now, as far as the budget goes.
    fn due(&mut self, longest: usize, now: Instant) -> Option<usize> {
        for _ in 0..MOST_REFUSED {
            let length = self.machine.as_mut()?.padding(now)?.clamp(LEAST_RECORD, longest);
            if length <= self.budget.left() {
                return Some(length);
            }
            // As if it had gone: a machine that waits for its own padding must not wait for ever.
            self.tell(Event::PaddingSent { bytes: length }, now);
            self.counters.over_budget += 1;
        }
        None
    }

    /// Whether the head of the queue has to wait.
    fn holds(&mut self, queued: usize, now: Instant) -> bool {
        if self.turns.begins(queued)
            && self.held.is_none()
            && let Some(web) = &mut self.web
        {
            web.pause(self.last_heard, now, self.draws.rng());
        }
        let web = self.web.as_ref().and_then(Web::held_until);
        let machine = self.machine.as_ref().and_then(|machine| machine.held_until(now));
        let wanted = web.max(machine).filter(|until| *until > now);
        if wanted.is_none() && self.held.is_none() {
            return false;
        }
        let since = self.held.map_or(now, |(since, _)| since);
        let most = since + self.budget.hold(now);
        match wanted {
            Some(until) if most > now => {
                self.held = Some((since, until.min(most)));
                true
            }
            _ => {
                self.counters.off_schedule += u64::from(wanted.is_some());
                let held = now.saturating_duration_since(since);
                self.budget.held(held);
                self.counters.held += held;
                self.held = None;
                false
            }
        }
    }

    /// How much of `queued` bytes goes into the next record.
    fn content(&mut self, queued: usize, room: usize, now: Instant) -> usize {
        if self.turns.begins(queued) {
            self.turns.begin();
            let target = self.web.as_mut().map_or(0, |web| web.begin_burst(self.draws.rng()));
            let affordable = target <= self.budget.spare();
            self.counters.over_budget += u64::from(!affordable);
            self.target = if affordable { target } else { 0 };
            if let Some(segments) = &mut self.segments {
                segments.begin_burst(queued, self.draws.rng());
            }
        }
        self.fixed = self.machine.as_mut().and_then(|machine| machine.data_record(queued, now));
        if let Some(length) = self.fixed {
            return room.min(length.saturating_sub(OVERHEAD));
        }
        let cut = self.segments.as_mut().and_then(|segments| segments.content(queued, self.draws.rng()));
        cut.map_or_else(|| self.end_of_burst(queued, room), |content| content.min(room))
    }

    /// Where nothing may be added any more, the end of a burst is cut in two instead, anywhere, so that its records tell
    /// nothing of cells either.
    fn end_of_burst(&mut self, queued: usize, room: usize) -> usize {
        let tail = usize::from(self.profile.records.tail);
        if tail == 0 || queued >= room || queued < LEAST_TO_CUT || self.budget.spare() >= tail {
            return room;
        }
        queued / 4 + below(self.draws.rng(), queued / 2)
    }

    /// The length for a record with `content` bytes of data, at most `longest`; `last`: nothing is to follow at once. `None`:
    /// its own.
    pub fn length(&mut self, content: usize, longest: usize, last: bool, now: Instant) -> Option<usize> {
        let own = content + OVERHEAD;
        // What comes to be queued from here on is told, however much there was before.
        self.queued = self.queued.saturating_sub(content);
        self.budget.carried(own);
        let longest = self.segments.as_ref().map_or(longest, |segments| segments.most(longest));
        let extra = match self.fixed.take() {
            Some(length) => {
                let wanted = length.min(longest).saturating_sub(own);
                self.affordable(wanted, self.budget.left())
            }
            // Without data to speak of it is control, and costs what that costs.
            None if let Some(length) = control_length(content) => return self.small(own, length, now),
            // A few bytes that no frame fits into: the records of a long answer are full.
            None if !last
                && self.web.is_some()
                && !self.alone()
                && (own..=own + MOST_TO_FILL).contains(&longest) =>
            {
                self.affordable(longest - own, self.budget.left())
            }
            // A burst that is still to grow ends in padding anyway.
            None if !last || own >= longest || self.turns.answer() + own < self.target => 0,
            None => {
                let most = usize::from(self.profile.records.tail).min(longest - own);
                let wanted = below(self.draws.rng(), most + 1);
                self.affordable(wanted, self.budget.spare())
            }
        };
        self.budget.add(extra);
        self.turns.sent(own + extra);
        if let Some(segments) = &mut self.segments {
            segments.sent(own + extra);
        }
        let full = own + extra == longest;
        (self.in_bulk, self.more_until) = (full && self.role == Role::Bridge && self.web.is_some(), None);
        if let Some(follower) = &mut self.follower {
            follower.sent(full);
        }
        self.counters.records += 1;
        self.counters.carried += own as u64;
        self.counters.padding += extra as u64;
        self.tell(Event::DataSent { bytes: own + extra }, now);
        (extra > 0).then_some(own + extra)
    }

    /// So much of what is wanted as there is left.
    fn affordable(&mut self, wanted: usize, left: usize) -> usize {
        self.counters.over_budget += u64::from(left < wanted);
        wanted.min(left)
    }

    /// A length for a record that may have any, instead of `length` where that would make one long segment too many.
    pub fn fit(&mut self, length: usize) -> usize {
        match &self.segments {
            Some(segments) => segments.fit(length, self.draws.rng()),
            None => length,
        }
    }

    /// A record of data that is as short as control.
    fn small(&mut self, own: usize, length: usize, now: Instant) -> Option<usize> {
        self.control(length);
        self.counters.records += 1;
        self.counters.carried += own as u64;
        self.tell(Event::DataSent { bytes: length }, now);
        Some(length)
    }

    /// A record of this length that may not wait went out.
    pub fn control(&mut self, length: usize) {
        self.turns.sent(length);
        if let Some(segments) = &mut self.segments {
            segments.sent(length);
        }
    }

    /// Whether the record that went out last is to stand in a segment of its own.
    #[must_use]
    pub fn alone(&self) -> bool {
        self.segments.as_ref().is_some_and(Segments::alone)
    }

    /// What a burst that has ended is still to grow by, one record of it.
    fn ending(&mut self, longest: usize) -> Option<usize> {
        if self.turns.is_peers() {
            return None;
        }
        let mut missing = self.target.saturating_sub(self.turns.answer());
        if self.profile.records.clear && self.role == Role::Bridge {
            missing = missing.max(self.missing_to_clear(missing));
        }
        if missing == 0 {
            self.target = 0;
            return None;
        }
        let length = missing.max(LEAST_PADDING).min(longest).min(self.budget.left());
        if length < LEAST_PADDING {
            self.target = 0;
            self.counters.over_budget += 1;
            return None;
        }
        Some(length)
    }

    /// A burst that would complete what looks like a TLS handshake grows until it does not.
    fn missing_to_clear(&mut self, missing: usize) -> usize {
        let burst = self.turns.burst();
        if burst == 0 {
            return 0;
        }
        let near = |turns: &Turns, burst: usize| {
            #[expect(clippy::cast_precision_loss, reason = "lengths of a few kilobytes")]
            let window = turns.with(burst).map(|length| length as f64);
            models::matches(window, MARGIN)
        };
        let mut wanted = burst + missing;
        while wanted < MOST_TO_CLEAR && near(&self.turns, wanted) {
            wanted += STEP + below(self.draws.rng(), STEP);
        }
        wanted - burst
    }

    /// When to call [`Shaper::next`] again, if nothing happens before.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let machine = self.machine.as_ref().and_then(|machine| machine.deadline());
        let held = self.held.map(|(_, until)| until).into_iter().chain(self.more_until).min();
        let idle = self.idle.as_ref().and_then(Idle::deadline);
        let woken = [machine, idle].into_iter().flatten().min();
        let woken = woken.map(|at| self.looked.map_or(at, |looked| at.max(looked + LEAST_PAUSE)));
        // The end of a hold lies ahead when it is set, and may not be put off.
        [woken, held].into_iter().flatten().min()
    }

    /// Gives spare memory back.
    pub fn rest(&mut self) {
        self.draws.rest();
    }

    /// What it did since it was last asked.
    pub fn take_counters(&mut self) -> Counters {
        self.counters.late += self.machine.as_mut().map_or(0, |machine| machine.take_late());
        std::mem::take(&mut self.counters)
    }
}

#[cfg(test)]
mod tests;
