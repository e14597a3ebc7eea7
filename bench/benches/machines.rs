//! What a decision of the shaper costs under each profile: `cargo bench -p qnet-bench --bench machines`.
//!
//! A page load is played to one shaper in time of its own, both what is heard and what is sent. An element is a decision: a record of
//! either direction, or a timer that ended without one.
#![allow(clippy::unwrap_used, missing_docs, reason = "a measurement")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use qnet_proto::mux::Role;
use qnet_proto::shape::{Shape, Shaper, Step};

const LONGEST: usize = 16_401;
const OVERHEAD: usize = 17;

/// One side of a carrier, and how much it had to decide.
struct Side {
    shaper: Shaper,
    now: Instant,
    decisions: u64,
}

impl Side {
    fn new(shape: Shape, role: Role) -> Self {
        let mut shaper = Shaper::new(shape, role, [7; 32]);
        let now = Instant::now();
        shaper.opened(now);
        Self { shaper, now, decisions: 0 }
    }

    fn hear(&mut self, length: usize) {
        self.shaper.heard(length, length - OVERHEAD, self.now);
        self.decisions += 1;
    }

    /// Until all of it has gone, or, with nothing to send, for so long.
    fn send(&mut self, mut left: usize, rest: Duration) {
        let end = self.now + rest;
        loop {
            self.decisions += 1;
            match self.shaper.next(left, LONGEST - OVERHEAD, LONGEST, self.now) {
                Step::Send { content } => {
                    let content = content.min(left);
                    left -= content;
                    black_box(self.shaper.length(content, LONGEST, left == 0, self.now));
                }
                Step::Pad(length) => {
                    black_box(length);
                }
                Step::Hold | Step::Rest => match self.shaper.deadline() {
                    Some(at) if left > 0 || at < end => {
                        self.now = at;
                        continue;
                    }
                    _ => break,
                },
            }
        }
        self.now = self.now.max(end);
    }

    /// What a load begins with, by which its machines are made.
    fn begin(&mut self, role: Role) {
        self.hear(600);
        if role == Role::Client {
            self.send(600, Duration::from_millis(1));
        }
    }

    /// A page: questions and answers, then a large file; and until the load is over.
    fn load(&mut self, role: Role) {
        for (asked, answered) in [(600, 4_900), (300, 14_000), (300, 1_050), (300, 60_000), (300, 300_000)] {
            if role == Role::Client {
                self.send(asked, Duration::from_millis(20));
                (0..answered / 16_000 + 1).for_each(|_| self.hear(answered.min(16_000)));
            } else {
                self.hear(asked);
                self.send(answered, Duration::from_millis(20));
            }
        }
        self.send(0, Duration::from_secs(3));
    }
}

fn decisions(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("a decision");
    for shape in Shape::all() {
        for role in [Role::Client, Role::Bridge] {
            let mut counted = Side::new(shape, role);
            counted.begin(role);
            counted.decisions = 0;
            counted.load(role);
            // So that an element's time is a decision's.
            group.throughput(Throughput::Elements(counted.decisions));
            group.bench_function(format!("{} {role:?}", shape.profile().name), |bencher| {
                bencher.iter_batched_ref(
                    || {
                        let mut side = Side::new(shape, role);
                        side.begin(role);
                        side
                    },
                    |side| side.load(role),
                    criterion::BatchSize::SmallInput,
                );
            });
        }
    }
    group.finish();
}

/// What a load begins with: machines of new draws.
fn beginnings(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("a load's beginning");
    for shape in Shape::all() {
        group.bench_function(&shape.profile().name, |bencher| {
            bencher.iter_batched_ref(
                || Side::new(shape, Role::Bridge),
                |side| side.begin(Role::Bridge),
                criterion::BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, decisions, beginnings);
criterion_main!(benches);
