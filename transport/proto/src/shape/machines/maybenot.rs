//! Maybenot's framework as a machine of the shaper: what happens becomes its events, its actions become timers, padding
//! and holding.
//!
//! A packet of the framework is a record here. Its rules for who uses it (the crate's documentation, and those of its actions and
//! events) are kept as follows:
//!
//! - Each of the framework's machines has one action timer, which its next action replaces, and one internal timer; the framework as a
//!   whole has one blocking, which slots may bypass or not.
//! - `NormalSent` is told when a record's worth of data is queued, as soon as it is known of: the first when data is queued, the others
//!   when a record is cut; `TunnelSent` when a record goes. `PaddingSent` is told when padding's time has come, even where data
//!   goes in its place.
//! - Padding that may not bypass the blocking waits until it ends; padding that may be replaced is, where a record waits.
//! - What was queued when a blocking ends goes, even if another begins at the same instant.
//!
//! Beyond them, a record goes when it has waited for [`MOST_HELD`], whatever the machines say.
//!
//! The framework knows no page loads. Here nobody's sending data for the profile's `quiet_ms` ends one: with it end the framework, its blocking
//! and what it still meant to send. The next data has a framework with machines of new draws.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use maybenot::{Framework, MachineId, Timer, TriggerAction, TriggerEvent};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde::Deserialize;

use super::super::machine::{Event, Machine};
use super::super::profile::{MAX_RECORD, ProfileError, Quantiles};
use super::defences::Defence;
use super::{BULK, MOST_HELD, OVERHEAD, TICK, check_lengths, check_quiet};
use crate::mux::Role;

/// Timers that may end in one call: a machine that sets timers of nothing in a circle must not hang us. The rest end a tick
/// later.
const MOST_STEPS: usize = 64;
/// Records of padding that wait at once: more than any burst of a defence's; beyond them the oldest has to do.
const MOST_WAITING: u16 = 128;
/// Slots that wait at once, for a path that takes nothing: those beyond are lost, as a schedule's are.
const MOST_SLOTS: u16 = 4;
/// Records of data that the framework is told of before they go: enough for what waits to be seen, and few enough that in bulk there
/// is always another to tell of, as machines take a load for over when nothing is queued any more.
pub(super) const MOST_COUNTED: usize = 8;
/// Bytes that were let go, before it is known how many those are.
const ALL: usize = usize::MAX;
/// How long a slot stays open for data that is thought to wait.
const SLOT_LIFE: Duration = Duration::from_millis(5);

/// What a profile says for both sides.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct MaybenotTable {
    /// A load is over when nobody has sent data for so long, milliseconds.
    quiet_ms: u32,
    client: Side,
    bridge: Side,
}

/// And for one of them.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
struct Side {
    /// Lengths of records of padding, and of data that goes in slots.
    lengths: Quantiles,
    defence: Defence,
    #[serde(skip)]
    made: Made,
}

/// Machines that are the same for all loads: one copy for all carriers.
#[derive(Clone, Debug, Default)]
struct Made(OnceLock<Arc<[maybenot::Machine]>>);

/// They follow from the figures beside them.
impl PartialEq for Made {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Made {}

impl Side {
    fn machines(&self, rng: &mut ChaCha8Rng) -> Option<Arc<[maybenot::Machine]>> {
        let mut make = || self.defence.machines(rng).ok().map(Arc::from);
        if self.defence.draws() {
            return make();
        }
        if let Some(made) = self.made.0.get() {
            return Some(Arc::clone(made));
        }
        let made = make()?;
        Some(Arc::clone(self.made.0.get_or_init(|| made)))
    }
}

impl MaybenotTable {
    pub(in super::super) fn check(&self) -> Result<(), ProfileError> {
        check_quiet(self.quiet_ms)?;
        [&self.client, &self.bridge].into_iter().try_for_each(|side| {
            check_lengths(&side.lengths)?;
            side.defence.check().map_err(ProfileError::Contradiction)?;
            // Once for all draws: no draw of figures within their bounds makes a machine that maybenot refuses.
            let mut rng = ChaCha8Rng::from_seed([0; 32]);
            let made = side.defence.machines(&mut rng);
            made.map(drop).map_err(|_| ProfileError::Contradiction("maybenot refuses the machines"))
        })
    }

    fn side(&self, role: Role) -> &Side {
        match role {
            Role::Client => &self.client,
            Role::Bridge => &self.bridge,
        }
    }
}

/// One direction's machine: see the module's documentation.
#[derive(Debug)]
pub(in super::super) struct Maybenot {
    quiet: Duration,
    side: &'static Side,
    rng: ChaCha8Rng,
    load: Option<Load>,
}

impl Maybenot {
    /// A machine at rest.
    pub(in super::super) fn new(table: &'static MaybenotTable, role: Role, seed: [u8; 32]) -> Self {
        Self {
            quiet: Duration::from_millis(table.quiet_ms.into()),
            side: table.side(role),
            rng: ChaCha8Rng::from_seed(seed),
            load: None,
        }
    }

    /// Bytes of data in the longest record: what waits makes so many records at least.
    fn most_content(&self) -> usize {
        (self.side.lengths.greatest() as usize).saturating_sub(OVERHEAD).max(1)
    }

    /// Data was queued, sent or heard: a load goes on, or begins.
    fn go_on(&mut self, now: Instant) -> Option<&mut Load> {
        self.advance(now);
        if self.load.is_none() {
            self.load = Load::begin(self.side, &mut self.rng, now);
        }
        let load = self.load.as_mut()?;
        load.data_at = now;
        Some(load)
    }

    /// What was due until now happens.
    fn advance(&mut self, now: Instant) {
        if self.load.as_ref().is_some_and(|load| now >= load.data_at + self.quiet) {
            self.load = None;
        }
        if let Some(load) = &mut self.load {
            load.advance(now);
        }
    }
}

impl Machine for Maybenot {
    fn on(&mut self, event: Event, now: Instant) {
        let most = self.most_content();
        match event {
            Event::Queued => {
                if let Some(load) = self.go_on(now) {
                    load.found_waiting(1, now);
                }
            }
            Event::DataSent { bytes } => {
                if let Some(load) = self.go_on(now) {
                    load.found_waiting(1, now);
                    load.data_went(bytes.saturating_sub(OVERHEAD), now);
                    load.found_waiting(load.queued.div_ceil(most), now);
                }
            }
            Event::DataHeard { .. } => {
                if let Some(load) = self.go_on(now) {
                    load.heard(now);
                }
            }
            // Whether it was sent or refused, it is time for what comes after it.
            Event::PaddingSent { .. } => {}
            Event::PaddingHeard { .. } => {
                self.advance(now);
                if let Some(load) = &mut self.load {
                    load.tell(&[TriggerEvent::TunnelRecv, TriggerEvent::PaddingRecv], now);
                }
            }
            Event::Opened => {}
        }
        self.advance(now);
    }

    fn padding(&mut self, now: Instant) -> Option<usize> {
        self.advance(now);
        let load = self.load.as_mut()?;
        load.take_padding().then(|| self.side.lengths.draw(&mut self.rng))
    }

    fn held_until(&self, now: Instant) -> Option<Instant> {
        self.load.as_ref().and_then(|load| load.held_until(now))
    }

    fn data_record(&mut self, queued: usize, now: Instant) -> Option<usize> {
        self.advance(now);
        if !self.side.defence.holds() {
            return None;
        }
        let most = self.most_content();
        let load = self.load.as_mut()?;
        load.cut(queued);
        load.found_waiting(queued.div_ceil(most), now);
        let bulk = queued >= BULK;
        Some(if bulk { MAX_RECORD as usize } else { self.side.lengths.draw(&mut self.rng) })
    }

    fn deadline(&self) -> Option<Instant> {
        let load = self.load.as_ref()?;
        let quiet = load.data_at + self.quiet;
        Some(load.next().map_or(quiet, |next| next.min(quiet)))
    }
}

/// The framework and its surroundings for one load.
#[derive(Debug)]
pub(super) struct Load {
    framework: Framework<Arc<[maybenot::Machine]>, Generator>,
    timers: Vec<Timers>,
    /// One of them may have begun, which the framework is to be told.
    begun: bool,
    blocking: Option<Blocking>,
    /// Bytes of data that are known to wait, and the records that the framework was told of for them.
    queued: usize,
    waiting: usize,
    /// Since when the first of them waits.
    since: Instant,
    /// What may go though data is held: bytes that a blocking's end let go, and records in slots; both until then.
    released: usize,
    slots: u16,
    slots_until: Instant,
    /// Records of padding to be sent, and those that wait for the blocking's end.
    padding: u16,
    behind: u16,
    /// Padding was handed out, and nothing was told of it yet.
    offered: bool,
    data_at: Instant,
    /// When the last timer was to end: what follows is reckoned from there, or slots would come ever later.
    nominal: Instant,
    /// Nothing is looked at before: a circle of timers was cut short.
    not_before: Instant,
    /// When something is due, unless what it follows from has changed since.
    wakes: Option<Instant>,
    stale: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Timers {
    action: Option<(Instant, Pending)>,
    internal: Option<Instant>,
    /// The internal timer was set, which the framework is to be told.
    begun: bool,
}

#[derive(Clone, Copy, Debug)]
enum Pending {
    Padding { bypass: bool, replace: bool },
    Blocking { duration: Duration, bypass: bool, replace: bool },
}

#[derive(Clone, Copy, Debug)]
struct Blocking {
    until: Instant,
    bypass: bool,
}

impl Load {
    /// `None`: maybenot refuses the machines; nothing is shaped then.
    fn begin(side: &Side, rng: &mut ChaCha8Rng, now: Instant) -> Option<Self> {
        let machines = side.machines(rng)?;
        let mut seed = [0; 32];
        rng.fill_bytes(&mut seed);
        Self::of(machines, seed, now)
    }

    pub(super) fn of(machines: Arc<[maybenot::Machine]>, seed: [u8; 32], now: Instant) -> Option<Self> {
        let generator = Generator(ChaCha8Rng::from_seed(seed));
        // Without shares of its own: what bounds them all is the profile's budget.
        let framework = Framework::new(machines, 0.0, 0.0, now, generator).ok()?;
        Some(Self {
            timers: vec![Timers::default(); framework.num_machines()],
            framework,
            begun: false,
            blocking: None,
            queued: 0,
            waiting: 0,
            since: now,
            released: 0,
            slots: 0,
            slots_until: now,
            padding: 0,
            behind: 0,
            offered: false,
            data_at: now,
            nominal: now,
            not_before: now,
            wakes: None,
            stale: true,
        })
    }

    /// So many records are known to wait.
    pub(super) fn found_waiting(&mut self, records: usize, now: Instant) {
        while self.waiting < records.min(MOST_COUNTED) {
            if self.waiting == 0 {
                self.since = now;
            }
            self.waiting += 1;
            self.tell(&[TriggerEvent::NormalSent], now);
        }
    }

    pub(super) fn heard(&mut self, now: Instant) {
        self.tell(&[TriggerEvent::TunnelRecv, TriggerEvent::NormalRecv], now);
    }

    /// A record is to be filled from so much data.
    pub(super) fn cut(&mut self, queued: usize) {
        self.queued = queued;
        if self.released == ALL {
            self.released = queued;
        }
    }

    /// A record with so much data went.
    pub(super) fn data_went(&mut self, content: usize, now: Instant) {
        self.waiting = self.waiting.saturating_sub(1);
        self.since = now;
        self.queued = self.queued.saturating_sub(content);
        if self.released == 0 {
            self.slots = self.slots.saturating_sub(1);
        } else if self.released < ALL {
            self.released = self.released.saturating_sub(content);
        }
        self.tell(&[TriggerEvent::TunnelSent], now);
    }

    pub(super) fn take_padding(&mut self) -> bool {
        self.offered = self.padding > 0;
        self.padding = self.padding.saturating_sub(1);
        self.offered
    }

    /// Tells the framework, and sets the timers that it wants set.
    fn tell(&mut self, events: &[TriggerEvent], now: Instant) {
        self.stale = true;
        let late = now.saturating_duration_since(self.nominal);
        let from = if late <= TICK * 2 { self.nominal } else { now };
        for action in self.framework.trigger_events(events, now) {
            let timers = &mut self.timers;
            match *action {
                TriggerAction::Cancel { machine, timer } => cancel(of(timers, machine), timer),
                TriggerAction::SendPadding { timeout, bypass, replace, machine } => {
                    if let Some(timers) = of(timers, machine) {
                        timers.action = Some((due(timeout, from), Pending::Padding { bypass, replace }));
                    }
                }
                TriggerAction::BlockOutgoing { timeout, duration, bypass, replace, machine } => {
                    if let Some(timers) = of(timers, machine) {
                        let blocking = Pending::Blocking { duration, bypass, replace };
                        timers.action = Some((due(timeout, from), blocking));
                    }
                }
                TriggerAction::UpdateTimer { duration, replace, machine } => {
                    if let Some(timers) = of(timers, machine) {
                        let end = now + duration;
                        let longer = timers.internal.filter(|old| !replace && *old > end);
                        timers.internal = Some(longer.unwrap_or(end));
                        (timers.begun, self.begun) = (true, true);
                    }
                }
            }
        }
    }

    /// What was due until now happens.
    pub(super) fn advance(&mut self, now: Instant) {
        if std::mem::take(&mut self.offered) {
            // Sent or refused by the shaper: for the machines it went, so that their schedules go on.
            self.tell(&[TriggerEvent::TunnelSent], now);
        }
        if now < self.not_before || !self.stale && self.wakes.is_none_or(|at| now < at) {
            return;
        }
        for _ in 0..MOST_STEPS {
            if !self.step(now) {
                return;
            }
        }
        self.not_before = now + TICK;
    }

    /// The first thing that is due; false if there is none.
    fn step(&mut self, now: Instant) -> bool {
        if std::mem::take(&mut self.begun)
            && let Some(begun) = self.timers.iter().position(|timers| timers.begun)
        {
            self.timers[begun].begun = false;
            self.begun = true;
            self.tell(&[TriggerEvent::TimerBegin { machine: MachineId::from_raw(begun) }], now);
            return true;
        }
        let first = self.first();
        let Some((at, what)) = first.filter(|(at, _)| *at <= now) else {
            (self.wakes, self.stale) = (first.map(|(at, _)| at), false);
            return false;
        };
        (self.nominal, self.stale) = (at, true);
        match what {
            Due::Slot => {
                // Nothing waited after all, or the path takes nothing: the slot is lost. For the machines it was used.
                (self.slots, self.released, self.waiting, self.queued) = (0, 0, 0, 0);
                self.tell(&[TriggerEvent::TunnelSent], now);
            }
            Due::Overdue => {
                (self.released, self.slots_until, self.since) = (1, now + SLOT_LIFE, now);
            }
            Due::BlockingEnd => {
                self.blocking = None;
                self.released = if self.waiting > 0 { ALL } else { 0 };
                self.slots_until = now + SLOT_LIFE;
                self.padding = (self.padding + std::mem::take(&mut self.behind)).min(MOST_WAITING);
                self.tell(&[TriggerEvent::BlockingEnd], now);
            }
            Due::Internal(index) => {
                self.timers[index].internal = None;
                self.tell(&[TriggerEvent::TimerEnd { machine: MachineId::from_raw(index) }], now);
            }
            Due::Action(index) => self.act(index, now),
        }
        true
    }

    /// An action's timer has ended.
    fn act(&mut self, index: usize, now: Instant) {
        let machine = MachineId::from_raw(index);
        match self.timers[index].action.take() {
            Some((_, Pending::Padding { bypass, replace })) => {
                self.pad(bypass, replace, now);
                self.tell(&[TriggerEvent::PaddingSent { machine }], now);
            }
            Some((_, Pending::Blocking { duration, bypass, replace })) => {
                let until = now + duration;
                if self.blocking.is_none_or(|old| replace || until > old.until) {
                    self.blocking = Some(Blocking { until, bypass });
                }
                self.tell(&[TriggerEvent::BlockingBegin { machine }], now);
            }
            None => {}
        }
    }

    /// One record of padding: sent, behind the blocking, or replaced by what waits.
    fn pad(&mut self, bypass: bool, replace: bool, now: Instant) {
        let waits = self.released == 0 && self.waiting > usize::from(self.slots);
        let Some(blocking) = self.blocking else {
            // Nothing is held: what waits goes anyway.
            if !(replace && waits) {
                self.padding = (self.padding + 1).min(MOST_WAITING);
            }
            return;
        };
        if !(blocking.bypass && bypass) {
            if !(replace && (waits || self.behind > 0)) {
                self.behind = (self.behind + 1).min(MOST_WAITING);
            }
        } else if replace && waits {
            self.slots = (self.slots + 1).min(MOST_SLOTS);
            self.slots_until = now + SLOT_LIFE;
        } else {
            if replace {
                self.behind = self.behind.saturating_sub(1);
            }
            let most = if replace { MOST_SLOTS } else { MOST_WAITING };
            self.padding = (self.padding + 1).min(most.max(self.padding));
        }
    }

    /// What is due first, and when.
    fn first(&self) -> Option<(Instant, Due)> {
        let mut first = self.blocking.map(|blocking| (blocking.until, Due::BlockingEnd));
        let mut also = |at: Instant, what: Due| {
            if first.is_none_or(|(first, _)| at < first) {
                first = Some((at, what));
            }
        };
        if self.slots > 0 || self.released > 0 {
            also(self.slots_until, Due::Slot);
        } else if self.waiting > 0 && self.blocking.is_some() {
            also(self.since + MOST_HELD, Due::Overdue);
        }
        for (index, timers) in self.timers.iter().enumerate() {
            if let Some((at, _)) = timers.action {
                also(at, Due::Action(index));
            }
            if let Some(at) = timers.internal {
                also(at, Due::Internal(index));
            }
        }
        first
    }

    /// When [`Load::advance`] has something to do.
    pub(super) fn next(&self) -> Option<Instant> {
        let first = if self.stale { self.first().map(|(at, _)| at) } else { self.wakes };
        first.map(|at| at.max(self.not_before))
    }

    pub(super) fn held_until(&self, now: Instant) -> Option<Instant> {
        let blocking = self.blocking.filter(|blocking| blocking.until > now)?;
        let slot_due = |timers: &Timers| matches!(timers.action, Some((at, Pending::Padding { bypass: true, replace: true })) if at <= now);
        let overdue = self.waiting > 0 && self.since + MOST_HELD <= now;
        if overdue
            || self.slots > 0
            || self.released > 0
            || blocking.bypass && self.timers.iter().any(slot_due)
        {
            return None;
        }
        let next = self.next().unwrap_or(blocking.until);
        Some(if next > now { next } else { now + TICK })
    }
}

#[derive(Clone, Copy, Debug)]
enum Due {
    /// The last slot's life is over.
    Slot,
    /// Data has waited as long as any may.
    Overdue,
    BlockingEnd,
    Internal(usize),
    Action(usize),
}

fn of(timers: &mut [Timers], machine: MachineId) -> Option<&mut Timers> {
    timers.get_mut(machine.into_raw())
}

fn cancel(timers: Option<&mut Timers>, timer: Timer) {
    let Some(timers) = timers else { return };
    if matches!(timer, Timer::Action | Timer::All) {
        timers.action = None;
    }
    if matches!(timer, Timer::Internal | Timer::All) {
        timers.internal = None;
    }
}

/// When a timer of an action ends: at once, where it is shorter than the driver can tell.
fn due(timeout: Duration, from: Instant) -> Instant {
    if timeout < TICK { from } else { from + timeout }
}

/// Our generator, by the version of the trait that maybenot knows.
#[derive(Debug)]
struct Generator(ChaCha8Rng);

impl rand_core_09::RngCore for Generator {
    fn next_u32(&mut self) -> u32 {
        self.0.next_u32()
    }

    fn next_u64(&mut self) -> u64 {
        self.0.next_u64()
    }

    fn fill_bytes(&mut self, bytes: &mut [u8]) {
        self.0.fill_bytes(bytes);
    }
}
