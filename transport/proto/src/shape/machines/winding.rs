//! A schedule of send slots that repeats: the phases of a circle map.
//!
//! The circle map takes a phase by `theta -> theta + p/q + c/(2 pi) sin(2 pi theta)`, modulo 1. Without the last term and with a
//! rational winding number `p/q` its orbit has `q` phases, `k p/q` for `k` below `q`, whatever the starting phase. So a schedule that
//! reads its gaps and lengths off the phase is a machine of `q` states, each with a constant timeout and a class of lengths,
//! gone through in a fixed order; `p` says in which order the circle's points come up. Of the coupling the schedule takes the first order: a
//! state's gap is the mean times `1 + c sin(2 pi theta)`. For `c` below 1 every gap is positive, and over a turn they add up to `q` times
//! the mean.
//!
//! A slot takes data, one record or a train of them, or padding, or nothing. Data that comes between two slots waits for the next: never
//! longer than the greatest gap. A slot that the driver reaches late is counted; the next one keeps its time unless that has passed
//! as well, so that no gap is ever negative. A turn's first slot is the moment a load begins; the state it begins in is drawn. When
//! nobody has sent data for a while, or every slot of some turns was empty, the schedule rests until there is data again.

use std::f64::consts::TAU;
use std::time::{Duration, Instant};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use serde::Deserialize;

use super::super::machine::{Event, Machine};
use super::super::profile::{MAX_RECORD, ProfileError, Quantiles, within};
use super::{BULK, MOST_HELD, OVERHEAD, TICK, check_lengths, check_quiet};
use crate::mux::Role;
use crate::sizes::below;

/// States: beyond a few dozen a schedule does not repeat within a load.
const MOST_STATES: u8 = 64;
/// Arcs of the circle that have lengths of their own.
const MOST_ARCS: usize = 8;
/// Records in one slot: a congestion window of a fast path, 1 MiB of full records.
const MOST_TRAIN: u8 = 64;
/// The greatest coupling, per mille: the shortest gap is a tenth of the mean.
const MOST_COUPLING: u16 = 900;
/// Turns without data after which the schedule rests.
const MOST_EMPTY_TURNS: u8 = 50;
/// The greatest mean gap, microseconds: nothing is held longer.
const MAX_GAP_US: u32 = 50_000;
/// A slot reached more than this late is counted: two ticks of the driver's timer.
const LATE: Duration = TICK.saturating_mul(2);

/// What a profile says for both sides.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct WindingTable {
    /// The schedule rests when nobody has sent data for so long, milliseconds.
    quiet_ms: u32,
    client: Side,
    bridge: Side,
}

/// And for one of them.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
struct Side {
    /// The winding number, p turns in q steps, without a common divisor.
    p: u8,
    q: u8,
    /// The mean gap between two slots, microseconds.
    gap_us: u32,
    /// How much gaps differ with the phase, per mille of the mean.
    coupling_per_mille: u16,
    /// Arcs of the circle, in order and of equal size: the lengths of records there, of data and of padding.
    arcs: Vec<Quantiles>,
    /// Records of data that a slot takes at most.
    train: u8,
    /// Empty slots that are padded, per mille.
    padded_per_mille: u16,
    /// Turns without any data after which the schedule rests.
    empty_turns: u8,
}

impl WindingTable {
    pub(in super::super) fn check(&self) -> Result<(), ProfileError> {
        check_quiet(self.quiet_ms)?;
        self.client.check()?;
        self.bridge.check()
    }
}

impl Side {
    fn check(&self) -> Result<(), ProfileError> {
        let (p, q) = (self.p, self.q);
        if !(1..=MOST_STATES).contains(&q) || !(1..=q).contains(&p) || divisor(p, q) != 1 {
            return Err(ProfileError::Contradiction(
                "p and q: without a common divisor, p at most q, q at most 64",
            ));
        }
        within("coupling_per_mille", self.coupling_per_mille.into(), MOST_COUPLING.into())?;
        within("gap_us", self.gap_us, MAX_GAP_US)?;
        if self.gap_us < 1_000 || self.gaps().any(|gap| gap > MOST_HELD) {
            return Err(ProfileError::Contradiction("gaps: a mean of 1 ms or more, none above 50 ms"));
        }
        within("train", self.train.into(), MOST_TRAIN.into())?;
        within("padded_per_mille", self.padded_per_mille.into(), 1_000)?;
        within("empty_turns", self.empty_turns.into(), MOST_EMPTY_TURNS.into())?;
        if self.arcs.is_empty() || self.arcs.len() > MOST_ARCS || self.train == 0 || self.empty_turns == 0 {
            return Err(ProfileError::Contradiction("1 to 8 arcs, a train and a turn"));
        }
        self.arcs.iter().try_for_each(check_lengths)
    }

    /// The phase of each state, in turns.
    fn phases(&self) -> impl Iterator<Item = f64> {
        let (p, q) = (u32::from(self.p), u32::from(self.q));
        (0..q).map(move |step| f64::from(step * p % q) / f64::from(q))
    }

    fn gaps(&self) -> impl Iterator<Item = Duration> {
        let (mean, coupling) = (f64::from(self.gap_us) / 1e6, f64::from(self.coupling_per_mille) / 1e3);
        self.phases().map(move |phase| Duration::from_secs_f64(mean * (1.0 + coupling * (TAU * phase).sin())))
    }

    fn states(&self) -> Vec<State> {
        let (p, q, arcs) = (usize::from(self.p), usize::from(self.q), self.arcs.len());
        let classes = (0..q).map(|step| step * p % q * arcs / q);
        self.gaps().zip(classes).map(|(gap, arc)| State { gap, arc }).collect()
    }
}

fn divisor(a: u8, b: u8) -> u8 {
    if b == 0 { a } else { divisor(b, a % b) }
}

/// One direction's machine: see the module's documentation.
#[derive(Debug)]
pub(in super::super) struct Winding {
    quiet: Duration,
    side: &'static Side,
    states: Vec<State>,
    rng: ChaCha8Rng,
    run: Option<Run>,
    late: u64,
}

#[derive(Clone, Copy, Debug)]
struct State {
    /// From this state's slot to the next.
    gap: Duration,
    /// Where its lengths are.
    arc: usize,
}

/// A schedule that runs.
#[derive(Clone, Copy, Debug)]
struct Run {
    state: usize,
    /// The next slot, at the end of which the state is the next.
    slot: Instant,
    /// Records of data that the slot begun last still takes, and until when it does.
    left: u8,
    until: Instant,
    /// Data was queued and has not all gone.
    waiting: bool,
    /// Bytes of it, as far as known.
    queued: usize,
    /// Padding for the slot begun last.
    padding: bool,
    /// Slots in a row without data in either direction.
    empty: u32,
    data_at: Instant,
}

impl Winding {
    /// A schedule at rest.
    pub(in super::super) fn new(table: &'static WindingTable, role: Role, seed: [u8; 32]) -> Self {
        let side = match role {
            Role::Client => &table.client,
            Role::Bridge => &table.bridge,
        };
        Self {
            quiet: Duration::from_millis(table.quiet_ms.into()),
            side,
            states: side.states(),
            rng: ChaCha8Rng::from_seed(seed),
            run: None,
            late: 0,
        }
    }

    /// Data was queued, sent or heard: the schedule goes on, or begins with a slot at `first`.
    fn go_on(&mut self, first: Instant, now: Instant) -> &mut Run {
        self.advance(now);
        let state = below(&mut self.rng, self.states.len());
        let run = self.run.get_or_insert(Run {
            state,
            slot: first,
            left: 0,
            until: now,
            waiting: false,
            queued: 0,
            padding: false,
            empty: 0,
            data_at: now,
        });
        (run.data_at, run.empty) = (now, 0);
        run
    }

    /// The slot that was due until now begins.
    fn advance(&mut self, now: Instant) {
        let turns = u32::from(self.side.empty_turns) * u32::from(self.side.q);
        let Some(run) = &mut self.run else { return };
        if now >= run.data_at + self.quiet || run.empty >= turns {
            self.run = None;
            return;
        }
        if now < run.slot {
            return;
        }
        self.late += u64::from(now - run.slot > LATE);
        let gap = self.states.get(run.state).map_or(MOST_HELD, |state| state.gap);
        let next = run.slot + gap;
        run.slot = if next > now { next } else { now + gap };
        run.state = (run.state + 1) % self.states.len().max(1);
        run.left = self.side.train;
        // Half the gap for what waited, since a path may take a train no faster. Nothing else is late for an empty slot.
        run.until = now + if run.waiting { gap / 2 } else { LATE };
        run.padding = !run.waiting && below(&mut self.rng, 1_000) < usize::from(self.side.padded_per_mille);
        run.empty += u32::from(!run.waiting);
    }

    /// A length of the arc that the slot begun last is in.
    fn draw(&mut self) -> Option<usize> {
        let run = self.run?;
        let states = self.states.len();
        let state = self.states.get((run.state + states.checked_sub(1)?) % states)?;
        Some(self.side.arcs.get(state.arc)?.draw(&mut self.rng))
    }
}

impl Machine for Winding {
    fn on(&mut self, event: Event, now: Instant) {
        match event {
            Event::Queued => self.go_on(now, now).waiting = true,
            Event::DataSent { bytes } => {
                let run = self.go_on(now, now);
                run.left = run.left.saturating_sub(1);
                run.queued = run.queued.saturating_sub(bytes.saturating_sub(OVERHEAD));
                run.waiting = run.queued > 0;
            }
            Event::DataHeard { .. } => {
                let gap = Duration::from_micros(self.side.gap_us.into());
                self.go_on(now + gap, now);
            }
            Event::PaddingSent { .. } | Event::PaddingHeard { .. } | Event::Opened => {}
        }
        self.advance(now);
    }

    fn padding(&mut self, now: Instant) -> Option<usize> {
        self.advance(now);
        let due = self.run.as_mut().is_some_and(|run| std::mem::take(&mut run.padding));
        if due { self.draw() } else { None }
    }

    fn held_until(&self, now: Instant) -> Option<Instant> {
        let run = self.run?;
        let open = run.left > 0 && now < run.until;
        (!open && now < run.slot && now < run.data_at + self.quiet).then_some(run.slot)
    }

    fn data_record(&mut self, queued: usize, now: Instant) -> Option<usize> {
        self.advance(now);
        let run = self.run.as_mut()?;
        (run.queued, run.waiting) = (queued, true);
        if queued >= BULK { Some(MAX_RECORD as usize) } else { self.draw() }
    }

    fn deadline(&self) -> Option<Instant> {
        self.run.map(|run| run.slot.min(run.data_at + self.quiet))
    }

    fn take_late(&mut self) -> u64 {
        std::mem::take(&mut self.late)
    }
}
