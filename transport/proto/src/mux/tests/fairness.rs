//! No stream starves another.

use super::super::MAX_STREAMS;
use super::*;

/// Jain's index: 1 when all have the same, 1/n when one has everything.
fn jain(shares: &[usize]) -> f64 {
    let sum: f64 = shares.iter().map(|&share| share as f64).sum();
    let squares: f64 = shares.iter().map(|&share| (share as f64).powi(2)).sum();
    sum * sum / (shares.len() as f64 * squares)
}

/// 64 streams that always have data and are read at once, records of random rooms.
fn shares(rooms: impl Fn(&mut Choices) -> usize, records: usize, side: usize) -> Vec<usize> {
    let (mut pair, mut choices) = (Pair::new(), Choices(7));
    let ids: Vec<StreamId> = (0..64).map(|_| pair.open(side)).collect();
    let (data, mut buf) = (vec![0; 65_536], vec![0; 1 << 20]);
    let mut shares = vec![0; ids.len()];
    for _ in 0..records {
        for &id in &ids {
            pair.ends[side].write(id, &data).unwrap();
        }
        let room = rooms(&mut choices);
        assert!(pair.pack(side, room) > 0);
        pair.deliver(side);
        for (&id, share) in ids.iter().zip(&mut shares) {
            while let Ok(Read::Data(count)) = pair.ends[1 - side].read(id, &mut buf) {
                *share += count;
            }
        }
        while pair.pack(1 - side, RECORD) > 0 {}
        while pair.deliver(1 - side) {}
    }
    shares
}

#[test]
fn sixty_four_streams_share_evenly() {
    for side in 0..2 {
        let full = shares(|_| RECORD, 400, side);
        assert!(jain(&full) > 0.999, "{full:?}");
        let random = shares(|choices| 30 + choices.below(RECORD), 800, side);
        assert!(jain(&random) > 0.99, "{random:?}");
        let small = shares(|choices| 30 + choices.below(600), 4_000, side);
        assert!(jain(&small) > 0.95, "{small:?}");
    }
}

#[test]
fn a_small_stream_waits_for_one_round_of_the_others() {
    let mut pair = Pair::new();
    let ids: Vec<StreamId> = (0..64).map(|_| pair.open(1)).collect();
    let data = vec![0; 65_536];
    for &id in &ids[1..] {
        pair.ends[1].write(id, &data).unwrap();
    }
    pair.pack(1, RECORD);
    pair.ends[1].write(ids[0], b"now").unwrap();
    let mut records = 0;
    while pair.ends[0].read(ids[0], &mut [0; 9]).unwrap() == Read::Empty {
        pair.pack(1, RECORD);
        while pair.deliver(1) {}
        records += 1;
    }
    assert!(records <= 17, "{records} records");
}

/// A stream is used, then rests; `stuck` others are filled as far as they go and never read; then the first must get
/// `amount` bytes more across. Returns how much the stuck ones hold and how many round trips the others' took.
fn crosses_beside(stuck: usize, side: usize, amount: usize) -> (usize, usize) {
    let mut pair = Pair::new();
    let (data, mut buf) = (vec![0; 65_536], vec![0; 1 << 16]);
    let busy = pair.open(side);
    // As much withheld from the busy stream as can be: half its window.
    let mut half = flow::initial(pair.ends[1 - side].role).0 / 2;
    while half > 0 {
        half -= pair.ends[side].write(busy, &data).unwrap() as u64;
        pair.settle();
        while let Ok(Read::Data(_)) = pair.ends[1 - side].read(busy, &mut buf) {}
    }
    assert!(!pair.ends[1 - side].wants_to_send());
    let stuck: Vec<StreamId> = (0..stuck).map(|_| pair.open(side)).collect();
    loop {
        for &id in &stuck {
            pair.ends[side].write(id, &data).unwrap();
        }
        if !pair.settle() {
            break;
        }
    }
    let held = pair.ends[1 - side].buffered();
    let (mut crossed, mut trips) = (0, 0);
    while crossed < amount {
        trips += 1;
        pair.ends[side].write(busy, &data).unwrap();
        let before = crossed;
        pair.settle();
        while let Ok(Read::Data(count)) = pair.ends[1 - side].read(busy, &mut buf) {
            crossed += count;
        }
        let moved = pair.settle() || crossed > before;
        assert!(moved, "{} stuck streams: {crossed} of {amount} bytes crossed", stuck.len());
    }
    (held, trips)
}

#[test]
fn streams_that_stand_still_do_not_stop_the_others() {
    // Each trip could carry 64 KiB, the send queue.
    let up = [(1, 4 << 20, 64), (3, 4 << 20, 64), (4, 1 << 20, 150), (20, 100_000, 20), (200, 10_000, 10)];
    for (stuck, amount, most) in up {
        let (held, trips) = crosses_beside(stuck, 0, amount);
        assert!((200_000..1 << 20).contains(&held), "{held}");
        assert!(trips <= most, "{stuck} stuck streams up: {trips} trips");
    }
    for (stuck, amount, most) in [(1, 20 << 20, 320), (3, 20 << 20, 320), (8, 4 << 20, 64), (20, 1 << 20, 20)]
    {
        let (held, trips) = crosses_beside(stuck, 1, amount);
        assert!((4 << 20..15 << 20).contains(&held), "{held}");
        assert!(trips <= most, "{stuck} stuck streams down: {trips} trips");
    }
}

#[test]
fn a_thousand_stuck_streams_leave_a_way() {
    crosses_beside(MAX_STREAMS - 1, 0, 400);
    crosses_beside(MAX_STREAMS - 1, 1, 6_000);
}

#[test]
fn a_lone_stream_uses_its_whole_window() {
    // Whatever the reader holds back, half of the connection's window among it.
    let mut pair = Pair::new();
    let id = pair.open(1);
    let (data, mut buf, mut choices) = (vec![0; 65_536], vec![0; 65_536], Choices(1));
    for round in 0..200 {
        while pair.pack(1, RECORD) > 0 || pair.ends[1].write(id, &data).unwrap() > 0 {}
        let (connection, stream) =
            (pair.ends[1].credit.left(), pair.ends[1].streams[&id.get()].credit.left());
        assert!(connection == 0 || stream == 0, "round {round}: {connection} and {stream} left");
        while pair.deliver(1) {}
        // Each time another part of what there is.
        for _ in 0..choices.below(110) {
            pair.ends[0].read(id, &mut buf).unwrap();
        }
        while pair.pack(0, RECORD) > 0 {}
        while pair.deliver(0) {}
    }
}
