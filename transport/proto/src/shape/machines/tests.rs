use std::collections::VecDeque;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use super::super::machine::{Event, Machine};
use super::super::profile::{Profile, Shape};
use super::*;
use crate::mux::Role;
use proptest::prelude::*;

mod integration;
mod published;
mod schedule;

/// The longest record of data where a machine fixes no length.
const LONGEST: usize = 16_401;

/// The profiles that have machines.
fn profiles() -> Vec<&'static Profile> {
    let all = Shape::all().map(Shape::profile);
    all.filter(|profile| machine(profile, Role::Client, 0).is_some()).collect()
}

/// A machine of a profile's.
fn machine(profile: &'static Profile, role: Role, seed: u8) -> Option<Box<dyn Machine>> {
    super::super::machine::build(profile, role, [seed; 32])
}

#[expect(clippy::disallowed_methods, reason = "any instant will do; only differences count")]
fn some_instant() -> Instant {
    Instant::now()
}

/// One end: a machine, what it has to send, and what it did.
struct End {
    machine: Box<dyn Machine>,
    queued: usize,
    /// Since when its first byte could have gone.
    since: Instant,
    sent: Vec<(Instant, Sent)>,
    longest_held: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sent {
    Data { record: usize, content: usize },
    Padding(usize),
}

impl End {
    fn new(machine: Box<dyn Machine>, now: Instant) -> Self {
        Self { machine, queued: 0, since: now, sent: Vec::new(), longest_held: Duration::ZERO }
    }

    fn queue(&mut self, bytes: usize, now: Instant) {
        if self.queued == 0 {
            self.since = now;
        }
        self.queued += bytes;
        self.machine.on(Event::Queued, now);
    }

    /// What the shaper does: padding that is due, then data that may go. Returns what went.
    fn drive(&mut self, now: Instant) -> Vec<Sent> {
        let mut went = Vec::new();
        loop {
            assert!(went.len() < 4_000, "a machine that never has enough");
            if let Some(length) = self.machine.padding(now) {
                assert!((LEAST_RECORD as usize..=LONGEST).contains(&length));
                self.machine.on(Event::PaddingSent { bytes: length }, now);
                went.push(Sent::Padding(length));
                continue;
            }
            let held = self.machine.held_until(now);
            if let Some(until) = held {
                assert!(until > now, "held until a time that has passed");
            }
            if self.queued == 0 || held.is_some() {
                break;
            }
            let length = self.machine.data_record(self.queued, now);
            let content = self.queued.min(length.unwrap_or(LONGEST) - OVERHEAD);
            let record = length.unwrap_or(content + OVERHEAD);
            self.queued -= content;
            self.longest_held = self.longest_held.max(now - self.since);
            self.since = now;
            self.machine.on(Event::DataSent { bytes: record }, now);
            went.push(Sent::Data { record, content });
        }
        if let Some(deadline) = self.machine.deadline() {
            assert!(deadline > now, "nothing is left to do, and yet the time has come");
        }
        self.sent.extend(went.iter().map(|sent| (now, *sent)));
        went
    }

    fn padding(&self) -> (usize, usize) {
        let lengths = self.sent.iter().filter_map(|(_, sent)| match sent {
            Sent::Padding(length) => Some(*length),
            Sent::Data { .. } => None,
        });
        lengths.fold((0, 0), |(count, bytes), length| (count + 1, bytes + length))
    }
}

/// Two ends and a path between them.
struct Pair {
    now: Instant,
    begun: Instant,
    delay: Duration,
    client: End,
    bridge: End,
    /// What is under way: to the client or not, when it comes.
    flying: VecDeque<(Instant, bool, Sent)>,
}

impl Pair {
    fn new(profile: &'static Profile, seed: u8, delay: Duration) -> Self {
        let now = some_instant();
        Self {
            now,
            begun: now,
            delay,
            client: End::new(machine(profile, Role::Client, seed).unwrap(), now),
            bridge: End::new(machine(profile, Role::Bridge, seed.wrapping_add(1)).unwrap(), now),
            flying: VecDeque::new(),
        }
    }

    /// One thing after the other until `until` or nothing is left; what each end has received is given to `answer`, which says what it
    /// has to send then.
    fn run(&mut self, until: Duration, answer: &mut dyn FnMut(bool, usize) -> usize) {
        let end = self.begun + until;
        loop {
            for (to_client, side) in [(false, &mut self.client), (true, &mut self.bridge)] {
                for sent in side.drive(self.now) {
                    self.flying.push_back((self.now + self.delay, to_client, sent));
                }
            }
            let next = [
                self.flying.front().map(|(at, ..)| *at),
                self.client.machine.deadline(),
                self.bridge.machine.deadline(),
            ];
            let Some(next) = next.into_iter().flatten().min().filter(|next| *next <= end) else {
                self.now = end;
                return;
            };
            self.now = self.now.max(next);
            while self.flying.front().is_some_and(|(at, ..)| *at <= self.now) {
                let Some((_, to_client, sent)) = self.flying.pop_front() else { break };
                let side = if to_client { &mut self.client } else { &mut self.bridge };
                match sent {
                    Sent::Data { record, content } => {
                        side.machine.on(Event::DataHeard { bytes: record }, self.now);
                        let bytes = answer(to_client, content);
                        if bytes > 0 {
                            side.queue(bytes, self.now);
                        }
                    }
                    Sent::Padding(length) => {
                        side.machine.on(Event::PaddingHeard { bytes: length }, self.now);
                    }
                }
            }
        }
    }
}

/// A page: so many requests, each when the last is answered, and how long its data took.
fn load(pair: &mut Pair, answers: &[usize]) -> (usize, Duration) {
    let (mut left, begun) = (VecDeque::from(answers.to_vec()), pair.now);
    let (mut to_ask, mut to_come, mut got) = (600, 0, 0);
    pair.client.queue(to_ask, pair.now);
    let until = pair.now - pair.begun + Duration::from_secs(60);
    pair.run(until, &mut |to_client, content| {
        let counter = if to_client { &mut to_come } else { &mut to_ask };
        *counter -= content;
        got += if to_client { content } else { 0 };
        match (*counter, to_client) {
            (0, true) if !left.is_empty() => {
                to_ask = 300;
                to_ask
            }
            (0, false) => {
                to_come = left.pop_front().unwrap_or(0);
                to_come
            }
            _ => 0,
        }
    });
    let data =
        |end: &End| end.sent.iter().rfind(|(_, sent)| matches!(sent, Sent::Data { .. })).map(|(at, _)| *at);
    (got, data(&pair.bridge).map_or(Duration::ZERO, |last| last - begun))
}

const PAGE: [usize; 9] = [4_900, 1_050, 14_000, 700, 60_000, 3_000, 12_000, 200_000, 900];

#[test]
fn a_page_comes_whole_is_held_within_bounds_and_then_all_is_quiet() {
    for profile in profiles() {
        let name = &profile.name;
        for seed in 0..8 {
            let mut pair = Pair::new(profile, seed, Duration::from_millis(10 + 40 * u64::from(seed % 3)));
            let (got, _) = load(&mut pair, &PAGE);
            assert_eq!(got, PAGE.iter().sum::<usize>(), "{name}");
            for (side, end) in [("client", &pair.client), ("bridge", &pair.bridge)] {
                assert_eq!(end.machine.deadline(), None, "{name}'s {side} still has plans");
                assert!(end.longest_held <= MOST_HELD + TICK, "{name}'s {side}: {:?}", end.longest_held);
                let last = |data: bool| {
                    end.sent.iter().rev().find(|(_, sent)| matches!(sent, Sent::Data { .. }) == data)
                };
                if let (Some((data, _)), Some((padding, _))) = (last(true), last(false)) {
                    let after = padding.saturating_duration_since(*data);
                    assert!(
                        after <= Duration::from_secs(11),
                        "{name}'s {side} pads {after:?} after the page"
                    );
                }
            }
        }
    }
}

#[test]
fn padding_alone_wakes_nobody() {
    for profile in profiles() {
        let name = &profile.name;
        for role in [Role::Client, Role::Bridge] {
            let now = some_instant();
            let mut end = End::new(machine(profile, role, 1).unwrap(), now);
            for step in 0..100 {
                let now = now + Duration::from_millis(step * 10);
                end.machine.on(Event::PaddingHeard { bytes: 500 }, now);
                assert_eq!(end.drive(now), [], "{name}");
                assert_eq!(end.machine.deadline(), None, "{name}");
            }
        }
    }
}

#[test]
fn the_same_seed_repeats_a_load_and_another_does_not() {
    for profile in profiles() {
        let name = &profile.name;
        let trace = |seed| {
            let mut pair = Pair::new(profile, seed, Duration::from_millis(20));
            load(&mut pair, &PAGE);
            let begun = pair.begun;
            let of = |end: &End| end.sent.iter().map(|(at, sent)| (*at - begun, *sent)).collect::<Vec<_>>();
            (of(&pair.client), of(&pair.bridge))
        };
        assert_eq!(trace(3), trace(3), "{name}");
        assert_ne!(trace(3), trace(4), "{name}");
    }
}

/// What each profile does in a page's first moments with one seed: microseconds, d for data or p for padding, the record's
/// length. A change of it is a new version of the profile.
#[test]
fn the_vectors_of_the_profiles_hold() {
    let mut text = String::new();
    for profile in profiles() {
        let mut pair = Pair::new(profile, 42, Duration::from_millis(10));
        load(&mut pair, &PAGE);
        for (side, end) in [("client", &pair.client), ("bridge", &pair.bridge)] {
            let (all, bytes) = end.padding();
            write!(text, "{} {} {side} {all} {bytes}:", profile.name, profile.version).unwrap();
            for (at, sent) in end.sent.iter().take(16) {
                let (what, length) = match sent {
                    Sent::Data { record, .. } => ('d', record),
                    Sent::Padding(length) => ('p', length),
                };
                write!(text, " {}{what}{length}", (*at - pair.begun).as_micros()).unwrap();
            }
            text.push('\n');
        }
    }
    assert_eq!(text, include_str!("tests/vectors.txt"), "it was:\n{text}");
}

/// What docs/shaping.md says of a page of 300 KB: padding of both sides, and how much later it is there than the 170 ms that its nine
/// round trips take without a shape.
#[test]
fn a_page_costs_what_the_documentation_says() {
    let pages = 40;
    for (name, kilobytes, most_ms) in [
        ("front", 200..=500, 0),
        ("regulator", 200..=500, 450),
        ("tamaraw", 300..=800, 500),
        ("interspace", 100..=350, 0),
        ("break-pad", 100..=350, 0),
        ("winding", 80..=300, 300),
    ] {
        let profile = Shape::named(name).unwrap().profile();
        let (mut up, mut down, mut slowest) = (0, 0, Duration::ZERO);
        for seed in 0..pages {
            let mut pair = Pair::new(profile, seed, Duration::from_millis(10));
            let last = load(&mut pair, &PAGE).1;
            slowest = slowest.max(last);
            (up, down) = (up + pair.client.padding().1, down + pair.bridge.padding().1);
        }
        let (up, down) = (up / usize::from(pages), down / usize::from(pages));
        assert!(up > 0 && kilobytes.contains(&((up + down) / 1_000)), "{name}: {up} up, {down} down");
        let later = slowest.saturating_sub(Duration::from_millis(170));
        assert!(later <= Duration::from_millis(most_ms), "{name}: {slowest:?}");
    }
}

/// A large file goes at the rates that the profiles' comments give, and an upload too.
#[test]
fn bulk_goes_in_bounded_time() {
    for profile in profiles() {
        let name = &profile.name;
        let mut pair = Pair::new(profile, 3, Duration::from_millis(10));
        let took = load(&mut pair, &[2_000_000]).1;
        assert!(took < Duration::from_millis(2_500), "{name}: {took:?} for 2 MB");
        let mut end = End::new(machine(profile, Role::Client, 1).unwrap(), pair.now);
        end.queue(1_000_000, pair.now);
        let mut now = pair.now;
        loop {
            // A word of the peer's now and then, as of one who reads.
            end.machine.on(Event::DataHeard { bytes: 100 }, now);
            end.drive(now);
            if end.queued == 0 {
                break;
            }
            now = end.machine.deadline().unwrap_or(now).max(now + TICK);
        }
        assert!(now - pair.now < Duration::from_millis(2_500), "{name}: {:?} for 1 MB up", now - pair.now);
    }
}

#[test]
fn a_second_load_is_another_draw() {
    let mut pair = Pair::new(Shape::named("front").unwrap().profile(), 5, Duration::from_millis(20));
    load(&mut pair, &PAGE);
    let first = pair.bridge.padding().0;
    load(&mut pair, &PAGE);
    assert!(pair.bridge.padding().0 > first, "the second is padded too");
    assert_ne!(pair.bridge.padding().0, 2 * first);
}

#[test]
fn a_shaper_that_refuses_all_padding_still_gets_its_data_through() {
    for profile in profiles() {
        let name = &profile.name;
        let start = some_instant();
        let mut machine = machine(profile, Role::Bridge, 2).unwrap();
        let (mut now, mut left, mut steps) = (start, 300_000usize, 0);
        machine.on(Event::DataHeard { bytes: 600 }, now);
        machine.on(Event::Queued, now);
        while left > 0 {
            steps += 1;
            assert!(steps < 100_000, "{name} stands still");
            if machine.held_until(now).is_none() {
                let length = machine.data_record(left, now);
                let content = left.min(length.unwrap_or(LONGEST) - OVERHEAD);
                left -= content;
                machine.on(Event::DataSent { bytes: length.unwrap_or(content + OVERHEAD) }, now);
            } else if machine.padding(now).is_none() {
                now = machine.deadline().unwrap();
            }
        }
        assert!(now - start < Duration::from_secs(30), "{name} took {:?}", now - start);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever an end hears and sends, and however late its timers: nothing panics, spins, or is held beyond the bound, and it ends.
    #[test]
    fn any_traffic_at_any_time_is_held_within_bounds_and_ends(
        file in 0..6usize,
        bridge in any::<bool>(),
        seed in any::<u8>(),
        steps in prop::collection::vec((0..6u8, 0..40_000u64, 1..30_000usize), 1..250),
    ) {
        let role = if bridge { Role::Bridge } else { Role::Client };
        let mut now = some_instant();
        let mut end = End::new(machine(profiles()[file], role, seed).unwrap(), now);
        for (what, micros, bytes) in steps {
            let target = now + Duration::from_micros(micros);
            while let Some(deadline) = end.machine.deadline().filter(|at| *at <= target) {
                now = now.max(deadline);
                end.drive(now);
            }
            now = target;
            match what {
                0 => end.queue(bytes, now),
                1 => end.machine.on(Event::DataHeard { bytes }, now),
                2 => end.machine.on(Event::PaddingHeard { bytes }, now),
                3 => end.machine.on(Event::Opened, now),
                // A timer that is late by all of it.
                _ => now += Duration::from_micros(micros * 10),
            }
            end.drive(now);
        }
        let over = now + Duration::from_secs(60);
        while let Some(deadline) = end.machine.deadline() {
            now = deadline;
            prop_assert!(now < over, "no end");
            end.drive(now);
        }
        prop_assert_eq!(end.queued, 0);
        // Timers were late by 400 ms at most.
        prop_assert!(end.longest_held <= MOST_HELD + Duration::from_millis(441));
    }
}
