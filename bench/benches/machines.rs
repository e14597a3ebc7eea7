//! What a decision of the shaper costs under each profile: `cargo bench -p qnet-bench --bench machines`.
//!
//! A page load is played to one shaper in time of its own, both what is heard and what is sent; the time divided by the number of
//! records of both directions is the cost of a record, with all questions that are asked about it and all timers between.
#![allow(clippy::unwrap_used, missing_docs, reason = "a measurement")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use qnet_proto::mux::Role;
use qnet_proto::shape::{Shape, Shaper, Step};

const LONGEST: usize = 16_401;
const OVERHEAD: usize = 17;

/// One side of a carrier, and how many records it has seen.
struct Side {
    shaper: Shaper,
    now: Instant,
    records: u64,
}

impl Side {
    fn new(shape: Shape, role: Role) -> Self {
        let mut shaper = Shaper::new(shape, role, [7; 32]);
        let now = Instant::now();
        shaper.opened(now);
        Self { shaper, now, records: 0 }
    }

    fn hear(&mut self, length: usize) {
        self.shaper.heard(length, length - OVERHEAD, self.now);
        self.records += 1;
    }

    /// Until all of it has gone, or, with nothing to send, for so long.
    fn send(&mut self, mut left: usize, rest: Duration) {
        let end = self.now + rest;
        loop {
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
            self.records += 1;
        }
        self.now = self.now.max(end);
    }

    /// A page: questions and answers, then a large file.
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

fn records(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("a record");
    for shape in Shape::all() {
        for role in [Role::Client, Role::Bridge] {
            let mut counted = Side::new(shape, role);
            counted.load(role);
            // So that the time of an element is a record's.
            group.throughput(Throughput::Elements(counted.records));
            group.bench_function(format!("{} {role:?}", shape.profile().name), |bencher| {
                bencher.iter_batched_ref(
                    || Side::new(shape, role),
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
                |side| side.hear(600),
                criterion::BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, records, beginnings);
criterion_main!(benches);
