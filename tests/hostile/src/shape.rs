//! Profiles as files, and shapers under any order of events.

use std::time::{Duration, Instant};

use qnet_proto::mux::Role;
use qnet_proto::shape::{Habit, MAX_HOLD, Profile, Shape, Shaper, Step, profile};

/// The longest record (docs/protocol.md, section 6).
const LONGEST: usize = 16_401;
/// Records that may go at one moment, far more than a backlog holds.
const AT_ONCE: usize = 10_000;

/// Any text. What is read keeps the bounds of every profile.
pub fn read(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    match Profile::parse(&text) {
        Ok(read) => {
            let bounds = read.bounds;
            assert!(bounds.allowance <= profile::MAX_ALLOWANCE && bounds.per_mille <= profile::MAX_PER_MILLE);
            assert!(Duration::from_millis(bounds.hold_ms.into()) <= MAX_HOLD);
            assert!(!read.name.is_empty() && read.name.len() <= profile::MAX_NAME);
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// The first two bytes choose profile and role; each further four are an event and how long after the last it comes.
pub fn machine(data: &[u8]) {
    let Some(([which, role], events)) = data.split_first_chunk() else { return };
    let count = Shape::all().count();
    let Some(shape) = Shape::all().nth(usize::from(*which) % count) else { return };
    let role = if role % 2 == 0 { Role::Client } else { Role::Bridge };
    let mut run =
        Run { shaper: Shaper::new(shape, role, [*which; 32]), now: Instant::now(), queued: 0, head: None };
    let (mut carried, mut added) = (0, 0);
    for event in events.chunks_exact(4) {
        let [kind, high, low, pause] = *event else { return };
        run.pass(Duration::from_millis(u64::from(pause)));
        let amount = usize::from(u16::from_be_bytes([high, low]));
        match kind % 5 {
            0 => run.shaper.heard(amount.min(LONGEST), amount.min(LONGEST).saturating_sub(17), run.now),
            1 => run.shaper.heard(amount.min(LONGEST), 4, run.now),
            2 => run.shaper.opened(run.now),
            3 => run.shaper.set_round_trip(Duration::from_millis(amount as u64)),
            _ => run.queued += amount,
        }
        run.send();
        let counters = run.shaper.take_counters();
        (carried, added) = (carried + counters.carried, added + counters.padding);
        let bounds = shape.profile().bounds;
        let most = u64::from(bounds.allowance) + carried * u64::from(bounds.per_mille) / 1_000;
        assert!(added <= most, "{added} bytes of {most} added");
    }
}

/// Lengths of a server's records, two bytes each, half of them seen on one connection and half on another: what follows from either
/// and from both.
pub fn habit(data: &[u8]) {
    let lengths: Vec<usize> = data
        .chunks_exact(2)
        .map(|pair| pair.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)))
        .collect();
    let (one, other) = lengths.split_at(lengths.len() / 2);
    let [one, other] = [one, other].map(|lengths| {
        let mut habit = Habit::default();
        for length in lengths {
            habit.note(*length);
            keeps_bounds(habit);
        }
        assert_eq!(habit.longest(), lengths.iter().copied().max().unwrap_or(0));
        habit
    });
    for both in [one.or(other), other.or(one)] {
        keeps_bounds(both);
        assert!([one, other].iter().any(|seen| seen.longest() == both.longest()));
        assert!(both.bulk().is_some() || one.bulk().is_none() && other.bulk().is_none(), "forgotten");
    }
    let twice = one.or(one);
    assert!(twice.or(one) == twice && twice.longest() == one.longest());
}

/// What the bridge is to imitate are records that there can be, and those of headers stand after full ones.
fn keeps_bounds(habit: Habit) {
    if let Some(bulk) = habit.bulk() {
        assert_eq!(usize::from(bulk.longest), habit.longest());
        let sound =
            |every, length| every > 0 && (17 + 9..=17 + 5 * 9).contains(&length) && length <= bulk.longest;
        assert!(bulk.beat().is_none_or(|beat| sound(beat.every, beat.length)), "{bulk:?}");
    }
}

struct Run {
    shaper: Shaper,
    now: Instant,
    queued: usize,
    /// Since when the head of the queue could have gone.
    head: Option<Instant>,
}

impl Run {
    /// Time passes; what is due on the way is done.
    fn pass(&mut self, pause: Duration) {
        let until = self.now + pause;
        while let Some(at) = self.shaper.deadline().filter(|at| *at <= until) {
            assert!(at > self.now, "it would spin");
            self.now = at;
            self.send();
        }
        self.now = until;
    }

    fn send(&mut self) {
        for _ in 0..AT_ONCE {
            let head = *self.head.get_or_insert(self.now);
            match self.shaper.next(self.queued, LONGEST - 17, LONGEST, self.now) {
                Step::Send { content } => {
                    assert!(content > 0, "nothing of what is queued would ever go");
                    assert!(self.now - head <= MAX_HOLD, "held for {:?}", self.now - head);
                    self.head = None;
                    let content = content.min(self.queued);
                    self.queued -= content;
                    let length = self.shaper.length(content, LONGEST, self.queued == 0, self.now);
                    assert!(length.is_none_or(|length| (content + 17..=LONGEST).contains(&length)));
                }
                Step::Pad(length) => assert!((21..=LONGEST).contains(&length)),
                Step::Hold => {
                    assert!(self.queued > 0 && self.shaper.deadline().is_some());
                    return;
                }
                Step::Rest => {
                    assert_eq!(self.queued, 0);
                    self.head = None;
                    return;
                }
            }
        }
        panic!("no end to what is sent at once");
    }
}
