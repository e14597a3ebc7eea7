//! Defences against website fingerprinting as maybenot's machines, from their papers, with figures that a profile gives.
//!
//! Where a paper counts cells of Tor's, these count records. Three differences are ours alone and hold for all: a page load
//! ends when nobody has sent data for a while, which ends the machines too; the next load has machines of new draws; and the
//! profile's budget is kept by the shaper, whatever a machine wants.
//!
//! RegulaTor's machines are the crate `maybenot-machines`' with another beginning. The others are built here: the
//! crate gives Interspace and Break-Pad no parameters but Tor's, looks for FRONT's intervals by a search that need not end, and ends Tamaraw in one
//! burst.

use enum_map::enum_map;
use maybenot::action::Action;
use maybenot::constants::{MAX_SAMPLED_BLOCK_DURATION, STATE_END, STATE_SIGNAL};
use maybenot::counter::{Counter, Operation};
use maybenot::dist::{Dist, DistType};
use maybenot::event::Event;
use maybenot::state::{State, Trans};
use maybenot::{Error, Machine, Timer};
use maybenot_machines::regulator::{regulator_client, regulator_server};
use rand_chacha::rand_core::Rng;
use serde::Deserialize;

use super::maybenot::MOST_COUNTED;
use super::{MOST_HELD, Span};

/// Records of padding in one load: a page's megabyte in records of 1,400 bytes is 750.
const MOST_RECORDS: u16 = 2_000;
/// Steps in which a curve is drawn: each is a few hundred bytes of machine.
const MOST_STEPS: u8 = 16;
/// A gap between two records of padding, or a window for them, microseconds: a load takes seconds.
const MOST_GAP_US: u32 = 10_000_000;

/// One side's defence.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) enum Defence {
    /// Gong and Wang, Zero-delay Lightweight Defenses against Website Fingerprinting, USENIX Security 2020.
    Front(Front),
    /// Holland and Hopper, `RegulaTor`, PETS 2022: what a client sends.
    RegulatorClient(RegulatorClient),
    /// The same: what a bridge sends.
    RegulatorBridge(RegulatorBridge),
    /// Cai et al., A Systematic Approach to Developing and Evaluating Website Fingerprinting Defenses, CCS 2014; with the soft end of
    /// Gong et al., `WFDefProxy`, TIFS 2023.
    Tamaraw(Tamaraw),
    /// Pulls, Towards Effective and Efficient Padding Machines for Tor, 2020: what a client sends.
    InterspaceClient(Interspace),
    /// The same: what a bridge sends.
    InterspaceBridge(Interspace),
    /// Huang and Du, Break-Pad, Cybersecurity 2024: what a client sends.
    BreakPadClient(BreakPad),
    /// The same: what a bridge sends.
    BreakPadBridge(BreakPad),
}

/// Padding at times that follow a Rayleigh distribution from the load's beginning, nothing held.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub(super) struct Front {
    /// Records of padding, drawn for each load.
    records: Span<u16>,
    /// The distribution's scale, where it peaks, milliseconds; drawn for each load.
    window_ms: Span<u32>,
    /// Intervals of equal probability that stand for the curve.
    steps: u8,
}

/// A record for so many that came, or when one has waited too long.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub(super) struct RegulatorClient {
    /// Records that come for each that goes, in tenths.
    ratio_tenths: u16,
    /// How long a record waits at most, milliseconds.
    wait_ms: u16,
}

/// A surge whose rate falls; another whenever too much waits.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub(super) struct RegulatorBridge {
    /// Records a second with which a surge begins.
    rate: u16,
    /// What is left of that rate a second later, per mille.
    decay_per_mille: u16,
    /// A surge begins anew when more records wait than the rate times this, in tenths.
    surge_tenths: u16,
    /// The most padding in a load, records; drawn from 1 to it.
    records: u16,
    /// Records that go evenly before the first surge, and their rate a second.
    first: u8,
    first_rate: u16,
    /// Steps in which the rate falls.
    steps: u8,
}

/// A record every so often until the load is over, and then until their number is a multiple.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub(super) struct Tamaraw {
    /// Between two records, microseconds.
    slot_us: u32,
    /// Their number becomes a multiple of this.
    multiple: u16,
    /// The load is over when nothing was to be sent for so long, milliseconds.
    stop_ms: u16,
}

/// Bursts that are drawn longer, and false ones; each load has other distributions.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub(super) struct Interspace {
    /// The shortest gap before a record of padding, microseconds: the scale of a Pareto distribution, drawn for each load.
    gap_us: Span<u32>,
    /// The longest such gap.
    gap_most_us: u32,
    /// The fewest records of padding in a row, in tenths: the scale of another, drawn too.
    burst_tenths: Span<u16>,
    /// The most in a row.
    burst_most: u16,
    /// Bridge: the mean time after which a false burst begins, milliseconds; drawn.
    fake_ms: Span<u32>,
    /// The most in a load that may exceed the share.
    records: u16,
    /// And the share of records that may be padding beyond them, per mille.
    share_per_mille: u16,
}

/// A burst of padding where a run of records that came is broken.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub(super) struct BreakPad {
    /// Records that come in a row until padding goes: a Weibull distribution's scale and shape, in tenths.
    run_tenths: u16,
    run_shape_tenths: u16,
    /// Records of padding then: a Pareto distribution's scale and shape, in tenths.
    burst_tenths: u16,
    burst_shape_tenths: u16,
    /// The most in one burst.
    burst_most: u16,
    /// Between two of a burst, microseconds.
    gap_us: Span<u32>,
    /// The most in a load that may exceed the share.
    records: u16,
    /// And the share of records that may be padding beyond them, per mille.
    share_per_mille: u16,
}

impl Defence {
    /// Whether its figures are within their bounds.
    pub(super) fn check(&self) -> Result<(), &'static str> {
        let well = match self {
            Self::Front(front) => front.check(),
            Self::RegulatorClient(regulator) => {
                (10..=1_000).contains(&regulator.ratio_tenths)
                    && (1..=MOST_HELD.as_millis()).contains(&u128::from(regulator.wait_ms))
            }
            Self::RegulatorBridge(regulator) => regulator.check(),
            Self::Tamaraw(tamaraw) => tamaraw.check(),
            Self::InterspaceClient(interspace) | Self::InterspaceBridge(interspace) => interspace.check(),
            Self::BreakPadClient(breaking) | Self::BreakPadBridge(breaking) => breaking.check(),
        };
        if well { Ok(()) } else { Err("a defence's figures are out of their bounds") }
    }

    /// Whether data waits for slots, so that records have the lengths of padding.
    pub(super) fn holds(&self) -> bool {
        matches!(self, Self::RegulatorClient(_) | Self::RegulatorBridge(_) | Self::Tamaraw(_))
    }

    /// Whether each load has machines of its own draws.
    pub(super) fn draws(&self) -> bool {
        matches!(self, Self::Front(_) | Self::InterspaceClient(_) | Self::InterspaceBridge(_))
    }

    /// The machines for one load.
    ///
    /// # Errors
    ///
    /// None for figures that [`Defence::check`] accepts: maybenot's own validation.
    pub(super) fn machines(&self, rng: &mut impl Rng) -> Result<Vec<Machine>, Error> {
        match self {
            Self::Front(front) => front.machines(rng),
            // One more than the paper's ratio: the crate counts what is sent as one that came.
            Self::RegulatorClient(regulator) => Ok(regulator_client(
                f64::from(regulator.ratio_tenths) / 10.0 + 1.0,
                f64::from(regulator.wait_ms) / 1_000.0,
            )),
            Self::RegulatorBridge(regulator) => regulator.machines(),
            Self::Tamaraw(tamaraw) => tamaraw.machines(),
            Self::InterspaceClient(interspace) => interspace.client(rng),
            Self::InterspaceBridge(interspace) => interspace.bridge(rng),
            Self::BreakPadClient(breaking) => breaking.machines(Event::NormalSent),
            Self::BreakPadBridge(breaking) => breaking.machines(Event::NormalRecv),
        }
    }
}

impl Front {
    fn check(&self) -> bool {
        self.records.within(1, MOST_RECORDS)
            && self.window_ms.within(10, MOST_GAP_US / 1_000)
            && (1..=MOST_STEPS).contains(&self.steps)
    }

    /// State 0 waits for the load; each of the others has an interval of the curve that holds the same share of the padding, which
    /// goes at gaps of twice the mean at most.
    fn machines(&self, rng: &mut impl Rng) -> Result<Vec<Machine>, Error> {
        let records = draw(rng, self.records.low(), self.records.high());
        let window = draw(rng, self.window_ms.low(), self.window_ms.high()) as f64 * 1_000.0;
        let steps = u64::from(self.steps).min(records).max(1);
        let mut states = vec![on(&[(Event::NormalSent, 1), (Event::NormalRecv, 1)])];
        let mut before = 0.0;
        for step in 1..=steps {
            // The last interval has no end; the middle of its probability stands for it.
            let quantile = if step == steps { step as f64 - 0.5 } else { step as f64 } / steps as f64;
            let until = window * (-2.0 * (1.0 - quantile).ln()).sqrt();
            let count = (records * step / steps - records * (step - 1) / steps) as f64;
            let index = states.len();
            let next = if step == steps { STATE_END } else { index + 1 };
            let gaps = uniform(0.0, 2.0 * (until - before) / count);
            states.push(padding(
                &[(Event::PaddingSent, index), (Event::LimitReached, next)],
                gaps,
                Some(constant(count)),
                false,
            ));
            before = until;
        }
        Ok(vec![unlimited(states)?])
    }
}

impl RegulatorBridge {
    fn check(&self) -> bool {
        (2..=2_000).contains(&self.rate)
            && (100..=990).contains(&self.decay_per_mille)
            && (1..=1_000).contains(&self.surge_tenths)
            && (2..=MOST_RECORDS).contains(&self.records)
            && (1..=50).contains(&self.first)
            && u128::from(self.first_rate) * MOST_HELD.as_millis() >= 1_000
            && self.first_rate <= 2_000
            && (1..=MOST_STEPS).contains(&self.steps)
    }

    /// The crate's, but for what goes before the first surge: there ten records in a second, which a page would wait for.
    fn machines(&self) -> Result<Vec<Machine>, Error> {
        let mut machines = regulator_server(
            f64::from(self.rate),
            f64::from(self.decay_per_mille) / 1_000.0,
            f64::from(self.surge_tenths) / 10.0,
            f64::from(self.records),
            usize::from(self.steps),
        );
        let first = vec![
            on(&[(Event::BlockingBegin, 1)]),
            padding(
                &[
                    (Event::PaddingSent, 1),
                    (Event::LimitReached, STATE_SIGNAL),
                    (Event::BlockingEnd, STATE_END),
                ],
                constant(1_000_000.0 / f64::from(self.first_rate)),
                Some(constant(f64::from(self.first))),
                true,
            ),
        ];
        if let Some(machine) = machines.get_mut(REGULATOR_FIRST) {
            *machine = unlimited(first)?;
        }
        Ok(machines)
    }
}

/// Where the crate's list has the machine that sends what goes before the first surge.
const REGULATOR_FIRST: usize = 1;

impl Tamaraw {
    fn check(&self) -> bool {
        (1_000..=MOST_HELD.as_micros()).contains(&u128::from(self.slot_us))
            && (1..=200).contains(&self.multiple)
            // Longer than what waits is told ahead, or the end would come before it has gone.
            && u64::from(self.stop_ms) * 1_000 > u64::from(self.slot_us) * MOST_COUNTED as u64
            && self.stop_ms <= 5_000
    }

    /// Three machines: one has the slots, one signals when nothing was to be sent for a while, one counts and, once signalled,
    /// ends the blocking at the next multiple.
    fn machines(&self) -> Result<Vec<Machine>, Error> {
        // Without it the slot after the last would be padded.
        let mut ended = on(&[(Event::NormalSent, 1)]);
        ended.action = Some(Action::Cancel { timer: Timer::Action });
        let slots = vec![
            on(&[(Event::NormalSent, 1)]),
            blocking(&[(Event::BlockingBegin, 2)], MAX_SAMPLED_BLOCK_DURATION),
            padding(
                &[(Event::TunnelSent, 2), (Event::BlockingEnd, 3)],
                constant(f64::from(self.slot_us)),
                None,
                true,
            ),
            ended,
        ];
        let mut timer = on(&[(Event::NormalSent, 1), (Event::TimerEnd, STATE_SIGNAL)]);
        timer.action = Some(Action::UpdateTimer {
            replace: true,
            duration: constant(f64::from(self.stop_ms) * 1_000.0),
            limit: None,
        });
        let stop = vec![on(&[(Event::NormalSent, 1)]), timer];
        let mut set = on(&[(Event::TunnelSent, 2), (Event::Signal, 5), (Event::BlockingEnd, 0)]);
        set.counter.0 = Some(Counter::new_dist(Operation::Set, constant(f64::from(self.multiple))));
        let mut count = on(&[
            (Event::TunnelSent, 2),
            (Event::CounterZero, 1),
            (Event::Signal, 3),
            (Event::BlockingEnd, 0),
        ]);
        count.counter.0 = Some(Counter::new(Operation::Decrement));
        let mut last = on(&[(Event::TunnelSent, 4), (Event::CounterZero, 5), (Event::BlockingEnd, 0)]);
        last.counter.0 = Some(Counter::new(Operation::Decrement));
        let counting = vec![
            on(&[(Event::BlockingBegin, 1)]),
            set,
            count,
            on(&[(Event::TunnelSent, 4), (Event::BlockingEnd, 0)]),
            last,
            blocking(&[(Event::BlockingEnd, 0)], 0.0),
        ];
        Ok(vec![unlimited(slots)?, unlimited(stop)?, unlimited(counting)?])
    }
}

impl Interspace {
    fn check(&self) -> bool {
        self.gap_us.within(1, MOST_GAP_US)
            && u64::from(self.gap_most_us) >= self.gap_us.high()
            && self.gap_most_us <= MOST_GAP_US
            && self.burst_tenths.within(1, 1_000)
            && u64::from(self.burst_most) * 10 >= self.burst_tenths.high()
            && self.burst_most <= 100
            && self.fake_ms.within(1, MOST_GAP_US / 1_000)
            && self.records <= MOST_RECORDS
            && (1..=1_000).contains(&self.share_per_mille)
    }

    /// The bridge's padding wakes it; then what comes is answered by padding until there is something to send. On what it looks is a
    /// coin's choice.
    fn client(&self, rng: &mut impl Rng) -> Result<Vec<Machine>, Error> {
        let wait: &[_] = if coin(rng) {
            &[(Event::NormalRecv, 2)]
        } else {
            &[(Event::NormalRecv, 2), (Event::PaddingRecv, 2)]
        };
        let pad: &[_] = if coin(rng) {
            &[(Event::NormalSent, 1), (Event::PaddingSent, 2)]
        } else {
            &[(Event::NormalSent, 1), (Event::PaddingSent, 2), (Event::NormalRecv, 1)]
        };
        let states = vec![on(&[(Event::PaddingRecv, 1)]), on(wait), self.pad(pad, rng)];
        self.machine(states)
    }

    /// A coin says whether true bursts are lengthened or false ones begin.
    fn bridge(&self, rng: &mut impl Rng) -> Result<Vec<Machine>, Error> {
        let wait = if coin(rng) {
            on(&[(Event::NormalSent, 2)])
        } else {
            let mean = draw(rng, self.fake_ms.low(), self.fake_ms.high()) as f64 * 1_000.0;
            // Twice as many short waits as long ones, none of them constant.
            let timeout = Dist::new(DistType::Gamma { scale: mean / 2.0, shape: 2.0 }, 0.0, 4.0 * mean);
            padding(&[(Event::PaddingSent, 3)], timeout, None, false)
        };
        // A burst that is over waits for what is truly sent.
        let after = |state| [(Event::NormalSent, 1), (Event::PaddingSent, state)];
        let states =
            vec![on(&[(Event::NormalRecv, 1)]), wait, self.pad(&after(2), rng), self.pad(&after(3), rng)];
        self.machine(states)
    }

    fn pad(&self, transitions: &[(Event, usize)], rng: &mut impl Rng) -> State {
        let gap = draw(rng, self.gap_us.low(), self.gap_us.high()) as f64;
        let timeout = pareto(gap, draw_shape(rng), 0.0, f64::from(self.gap_most_us));
        let burst = draw(rng, self.burst_tenths.low(), self.burst_tenths.high()) as f64 / 10.0;
        let limit = pareto(burst, draw_shape(rng), 1.0, f64::from(self.burst_most));
        padding(transitions, timeout, Some(limit), false)
    }

    fn machine(&self, states: Vec<State>) -> Result<Vec<Machine>, Error> {
        limited(self.records, self.share_per_mille, states)
    }
}

impl BreakPad {
    fn check(&self) -> bool {
        (10..=1_000).contains(&self.run_tenths)
            && (5..=200).contains(&self.run_shape_tenths)
            && (1..=1_000).contains(&self.burst_tenths)
            && (5..=1_000).contains(&self.burst_shape_tenths)
            && (1..=100).contains(&self.burst_most)
            && self.gap_us.within(1, MOST_GAP_US)
            && self.records <= MOST_RECORDS
            && (1..=1_000).contains(&self.share_per_mille)
    }

    /// Draws how long a run is to be, counts it down, pads; what is sent begins it anew.
    fn machines(&self, begins: Event) -> Result<Vec<Machine>, Error> {
        let run = DistType::Weibull {
            scale: f64::from(self.run_tenths) / 10.0,
            shape: f64::from(self.run_shape_tenths) / 10.0,
        };
        let mut set = on(&[(Event::NormalRecv, 2)]);
        // From 1 on: what is nought would never become nought.
        set.counter.0 = Some(Counter::new_dist(Operation::Set, Dist::new(run, 1.0, 1_000.0)));
        let mut count = on(&[(Event::NormalSent, 1), (Event::TunnelRecv, 2), (Event::CounterZero, 3)]);
        count.counter.0 = Some(Counter::new(Operation::Decrement));
        let limit = pareto(
            f64::from(self.burst_tenths) / 10.0,
            f64::from(self.burst_shape_tenths) / 10.0,
            1.0,
            f64::from(self.burst_most),
        );
        let gaps = uniform(self.gap_us.low() as f64, self.gap_us.high() as f64);
        let pad = padding(&[(Event::PaddingSent, 3), (Event::LimitReached, 0)], gaps, Some(limit), false);
        limited(self.records, self.share_per_mille, vec![on(&[(begins, 1)]), set, count, pad])
    }
}

/// A state that goes elsewhere on each of these events.
fn on(transitions: &[(Event, usize)]) -> State {
    let mut map = enum_map! { _ => Vec::new() };
    for (event, state) in transitions {
        map[*event] = vec![Trans(*state, 1.0)];
    }
    State::new(map)
}

/// A state that sends padding after `timeout`, microseconds, at most `limit` times; `slot`: data may go in its place though it is
/// held.
fn padding(transitions: &[(Event, usize)], timeout: Dist, limit: Option<Dist>, slot: bool) -> State {
    let mut state = on(transitions);
    state.action = Some(Action::SendPadding { bypass: slot, replace: slot, timeout, limit });
    state
}

/// A state that holds data for so long, microseconds, from now on; slots excepted.
fn blocking(transitions: &[(Event, usize)], duration: f64) -> State {
    let mut state = on(transitions);
    state.action = Some(Action::BlockOutgoing {
        bypass: true,
        replace: true,
        timeout: constant(0.0),
        duration: constant(duration),
        limit: None,
    });
    state
}

/// A machine whose states bound it.
fn unlimited(states: Vec<State>) -> Result<Machine, Error> {
    Machine::new(u64::MAX, 0.0, u64::MAX, 0.0, states)
}

/// A machine that pads so many records, and beyond them no more than a share of all.
fn limited(records: u16, share_per_mille: u16, states: Vec<State>) -> Result<Vec<Machine>, Error> {
    let share = f64::from(share_per_mille) / 1_000.0;
    Ok(vec![Machine::new(u64::from(records), share, 0, 0.0, states)?])
}

fn constant(value: f64) -> Dist {
    uniform(value, value)
}

fn uniform(low: f64, high: f64) -> Dist {
    Dist::new(DistType::Uniform { low, high }, 0.0, 0.0)
}

fn pareto(scale: f64, shape: f64, start: f64, most: f64) -> Dist {
    Dist::new(DistType::Pareto { scale, shape }, start, most)
}

/// A Pareto distribution's shape: its mean is defined, and half of it is within 1.6 times the scale.
fn draw_shape(rng: &mut impl Rng) -> f64 {
    draw(rng, 15, 60) as f64 / 10.0
}

fn draw(rng: &mut impl Rng, low: u64, high: u64) -> u64 {
    low + u64::from(rng.next_u32()) % (high.saturating_sub(low) + 1)
}

fn coin(rng: &mut impl Rng) -> bool {
    rng.next_u32() & 1 == 1
}
