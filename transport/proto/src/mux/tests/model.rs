//! Random users on two muxes against a model that knows what each stream was given.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::super::{Wake, code};
use super::*;

#[derive(Clone, Debug)]
enum Step {
    Open(usize),
    Write(usize, u16, usize),
    Finish(usize, u16),
    Cancel(usize, u16),
    Release(usize, u16),
    Read(usize, u16, usize),
    Pack(usize, usize),
    Deliver(usize, usize),
}

fn step() -> impl Strategy<Value = Step> {
    let (side, which) = (0..2usize, any::<u16>());
    let room = prop_oneof![3 => 0..40usize, 2 => 0..2_000usize, 2 => 0..=RECORD];
    let amount = prop_oneof![3 => 0..300usize, 2 => 0..20_000usize, 1 => 0..400_000usize];
    prop_oneof![
        10 => side.clone().prop_map(Step::Open),
        30 => (side.clone(), which, amount.clone()).prop_map(|(a, b, c)| Step::Write(a, b, c)),
        5 => (side.clone(), which).prop_map(|(a, b)| Step::Finish(a, b)),
        3 => (side.clone(), which).prop_map(|(a, b)| Step::Cancel(a, b)),
        3 => (side.clone(), which).prop_map(|(a, b)| Step::Release(a, b)),
        30 => (side.clone(), which, amount).prop_map(|(a, b, c)| Step::Read(a, b, c)),
        40 => (side.clone(), room).prop_map(|(a, b)| Step::Pack(a, b)),
        40 => (side, 0..8usize).prop_map(|(a, b)| Step::Deliver(a, b)),
    ]
}

/// One user's end of a stream.
#[derive(Debug, Default)]
struct End {
    /// Bytes it wants to have written, and those that were taken.
    wants: usize,
    written: usize,
    wants_end: bool,
    finished: bool,
    read: usize,
    got_end: bool,
    /// It was told to wait, and waits until it is woken.
    waits_to_read: bool,
    waits_to_write: bool,
    /// A read or write failed, as it must after a cancel.
    failed: bool,
    released: bool,
}

impl End {
    fn is_used(&self) -> bool {
        !self.released && !self.failed
    }
}

/// The pair and what its users know.
struct World {
    pair: Pair,
    /// By stream and side; an end is there once it was opened or accepted.
    ends: BTreeMap<(StreamId, usize), End>,
    /// Streams that somebody cancelled, or released before their end, or that may have been refused.
    broken: Vec<StreamId>,
}

impl World {
    fn new() -> Self {
        Self { pair: Pair::new(), ends: BTreeMap::new(), broken: Vec::new() }
    }

    fn pick(&self, side: usize, which: u16) -> Option<StreamId> {
        let used: Vec<StreamId> = self
            .ends
            .iter()
            .filter(|((_, s), end)| *s == side && end.is_used())
            .map(|((id, _), _)| *id)
            .collect();
        (!used.is_empty()).then(|| used[usize::from(which) % used.len()])
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Open(side) => {
                if let Ok(id) = self.pair.ends[side].open() {
                    self.ends.insert((id, side), End::default());
                }
            }
            Step::Write(side, which, amount) => {
                if let Some(id) = self.pick(side, which) {
                    let end = self.ends.get_mut(&(id, side)).unwrap();
                    end.wants += if end.wants_end { 0 } else { amount };
                    self.write(side, id);
                }
            }
            Step::Finish(side, which) => {
                if let Some(id) = self.pick(side, which) {
                    self.ends.get_mut(&(id, side)).unwrap().wants_end = true;
                    self.write(side, id);
                }
            }
            Step::Cancel(side, which) => {
                if let Some(id) = self.pick(side, which) {
                    self.pair.ends[side].cancel(id, code::INTERNAL);
                    self.broken.push(id);
                }
            }
            Step::Release(side, which) => {
                if let Some(id) = self.pick(side, which) {
                    self.release(side, id);
                }
            }
            Step::Read(side, which, amount) => {
                if let Some(id) = self.pick(side, which) {
                    self.read(side, id, amount.max(1));
                }
            }
            Step::Pack(side, room) => {
                self.pair.pack(side, room);
            }
            Step::Deliver(side, count) => {
                for _ in 0..count {
                    self.pair.deliver(side);
                }
            }
        }
        self.look();
    }

    /// Takes what the muxes have to tell.
    fn look(&mut self) {
        for side in 0..2 {
            while let Some(id) = self.pair.ends[side].accept() {
                let known = self.ends.insert((id, side), End::default());
                assert!(known.is_none(), "accepted twice");
            }
            while let Some((id, wake)) = self.pair.ends[side].take_wake() {
                let end = self.ends.get_mut(&(id, side)).expect("a wake for somebody");
                assert!(!end.released);
                match wake {
                    Wake::Readable => end.waits_to_read = false,
                    Wake::Writable => end.waits_to_write = false,
                }
            }
        }
    }

    fn fail(&mut self, side: usize, id: StreamId, error: StreamError) {
        assert!(self.broken.contains(&id), "stream {id} failed for no reason: {error}");
        self.ends.get_mut(&(id, side)).unwrap().failed = true;
    }

    fn write(&mut self, side: usize, id: StreamId) {
        let end = self.ends.get_mut(&(id, side)).unwrap();
        if end.waits_to_write || end.finished {
            return;
        }
        let missing = end.wants - end.written;
        let data = bytes(side, id, end.written, missing);
        match self.pair.ends[side].write(id, &data) {
            Ok(taken) => {
                end.written += taken;
                end.waits_to_write = taken < missing;
                if end.wants_end && end.written == end.wants {
                    end.finished = true;
                    self.pair.ends[side].finish(id);
                }
            }
            Err(error) => self.fail(side, id, error),
        }
    }

    fn read(&mut self, side: usize, id: StreamId, amount: usize) {
        let mut buf = vec![0; amount];
        let result = self.pair.ends[side].read(id, &mut buf);
        let end = self.ends.get_mut(&(id, side)).unwrap();
        if end.waits_to_read {
            assert_eq!(result, Ok(Read::Empty), "somebody sleeps over it");
        }
        match result {
            Ok(Read::Data(count)) => {
                assert!(!end.got_end && count > 0);
                assert_eq!(buf[..count], bytes(1 - side, id, end.read, count), "stream {id}");
                end.read += count;
            }
            Ok(Read::Empty) => end.waits_to_read = true,
            Ok(Read::End) => {
                end.got_end = true;
                let total = end.read;
                let other = &self.ends[&(id, 1 - side)];
                assert!(other.finished);
                assert_eq!(total, other.written, "an end before all the data");
            }
            Err(error) => self.fail(side, id, error),
        }
    }

    fn release(&mut self, side: usize, id: StreamId) {
        let end = self.ends.get_mut(&(id, side)).unwrap();
        end.released = true;
        // The other side's data, unless all read, has no reader; this side's, unless finished, no end.
        self.broken.push(id);
        self.pair.ends[side].release(id);
    }

    /// Lets everybody finish, moved by wakes alone.
    fn run_out(&mut self) {
        loop {
            let mut moved = self.pair.settle();
            self.look();
            let keys: Vec<(StreamId, usize)> = self.ends.keys().copied().collect();
            for (id, side) in keys {
                let end = &self.ends[&(id, side)];
                if end.is_used() && !end.waits_to_read && !end.got_end {
                    self.read(side, id, 50_000);
                    moved = true;
                }
                let end = &self.ends[&(id, side)];
                if end.is_used() && !end.waits_to_write && end.written < end.wants {
                    self.write(side, id);
                    moved = true;
                }
            }
            if !moved {
                return;
            }
        }
    }

    fn check_all_arrived(&self) {
        for ((id, side), end) in &self.ends {
            if self.broken.contains(id) {
                continue;
            }
            let other = &self.ends[&(*id, 1 - side)];
            assert_eq!(end.written, end.wants, "stream {id}, side {side}: a writer stands still");
            assert_eq!(other.read, end.written, "stream {id}, side {side}: bytes are missing");
            assert_eq!(other.got_end, end.finished);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn every_byte_arrives_once_and_in_order(steps in prop::collection::vec(step(), 1..250)) {
        let mut world = World::new();
        for step in &steps {
            world.step(step);
        }
        world.run_out();
        world.check_all_arrived();
        let keys: Vec<(StreamId, usize)> = world.ends.keys().copied().collect();
        for (id, side) in keys {
            if !world.ends[&(id, side)].released {
                world.pair.ends[side].release(id);
            }
        }
        world.pair.settle();
        for end in &mut world.pair.ends {
            check_gone(end);
        }
    }
}

/// A finished stream whose user goes away at once loses nothing, however the rest is timed.
#[test]
fn finished_and_released_streams_arrive_whole_under_random_rooms() {
    for seed in 0..40 {
        let (mut pair, mut choices) = (Pair::new(), Choices(seed));
        // Less than the share that each of so many has of what is held for sending.
        let amounts: Vec<usize> = (0..20).map(|_| choices.below(50_000)).collect();
        for &amount in &amounts {
            let id = pair.ends[0].open().unwrap();
            assert_eq!(pair.ends[0].write(id, &bytes(0, id, 0, amount)), Ok(amount));
            pair.ends[0].finish(id);
            pair.ends[0].release(id);
        }
        let mut got: BTreeMap<StreamId, (usize, bool)> = BTreeMap::new();
        let mut buf = vec![0; 70_000];
        while got.len() < amounts.len() || got.values().any(|(_, ended)| !ended) {
            for side in 0..2 {
                pair.pack(side, 20 + choices.below(3_000));
                if choices.below(3) == 0 {
                    while pair.deliver(side) {}
                }
            }
            while let Some(id) = pair.ends[1].accept() {
                got.insert(id, (0, false));
            }
            for (&id, (read, ended)) in got.iter_mut().filter(|(_, (_, ended))| !ended) {
                let room = 1 + choices.below(buf.len());
                match pair.ends[1].read(id, &mut buf[..room]) {
                    Ok(Read::Data(count)) => {
                        assert_eq!(buf[..count], bytes(0, id, *read, count));
                        *read += count;
                    }
                    Ok(Read::Empty) => {}
                    Ok(Read::End) => *ended = true,
                    Err(error) => panic!("{error}"),
                }
            }
        }
        assert!(got.values().map(|(read, _)| *read).eq(amounts.iter().copied()));
        for &id in got.keys() {
            pair.ends[1].release(id);
        }
        pair.settle();
        for end in &mut pair.ends {
            check_gone(end);
        }
    }
}
