//! What a shaper's decision about one record costs: `cargo bench -p qnet-bench --bench shape`. At most 200 ns are allowed for.
//!
//! An element is a record: of an answer and its question there are two, one heard and one sent, and with them comes all that fell due in
//! the 20 ms since the last pair.

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use qnet_proto::mux::Role;
use qnet_proto::shape::{Shape, Shaper, Step};

/// The longest record (docs/protocol.md, section 6).
const LONGEST: usize = 16_401;
/// The inner type byte and the tag.
const OVERHEAD: usize = 17;

/// One record's decisions: what goes next, and how long it is.
fn record(shaper: &mut Shaper, queued: usize, now: Instant) -> usize {
    match shaper.next(queued, LONGEST - OVERHEAD, LONGEST, now) {
        Step::Send { content } => {
            let content = content.min(queued);
            shaper.length(content, LONGEST, content == queued, now).unwrap_or(content + OVERHEAD)
        }
        Step::Pad(length) => length,
        Step::Hold | Step::Rest => 0,
    }
}

fn decisions(criterion: &mut Criterion) {
    for shape in Shape::all() {
        let mut criterion = criterion.benchmark_group(shape.profile().name.as_str());
        let bridge = |seed| Shaper::new(shape, Role::Bridge, [seed; 32]);
        let mut shaper = bridge(1);
        let mut now = Instant::now();
        criterion.throughput(Throughput::Elements(1));
        criterion.bench_function("a record of a download", |bencher| {
            bencher.iter(|| {
                now += Duration::from_micros(16);
                record(&mut shaper, black_box(1 << 20), now)
            });
        });
        let mut shaper = bridge(2);
        criterion.throughput(Throughput::Elements(2));
        criterion.bench_function("a record of an answer, and its question's heard", |bencher| {
            bencher.iter(|| {
                now += Duration::from_millis(20);
                shaper.heard(217, 200, now);
                record(&mut shaper, black_box(3_000), now)
            });
        });
        let mut shaper = Shaper::new(shape, Role::Client, [3; 32]);
        criterion.bench_function("a record of a question, and its answer's heard", |bencher| {
            bencher.iter(|| {
                now += Duration::from_millis(20);
                shaper.heard(4_920, 4_903, now);
                record(&mut shaper, black_box(800), now)
            });
        });
    }
}

criterion_group!(benches, decisions);
criterion_main!(benches);
