//! No stream starves another.

use super::super::MAX_STREAMS;
use super::*;

/// Jain's index: 1 when all have the same, 1/n when one has everything.
fn jain(shares: &[usize]) -> f64 {
    let sum: f64 = shares.iter().map(|&share| share as f64).sum();
    let squares: f64 = shares.iter().map(|&share| (share as f64).powi(2)).sum();
    sum * sum / (shares.len() as f64 * squares)
}

/// 64 streams that always have data and are read at once, records of random rooms, one each so long.
fn shares(rooms: impl Fn(&mut Choices) -> usize, records: usize, side: usize, pace: Duration) -> Vec<usize> {
    let (mut pair, mut choices) = (Pair::new(), Choices(7));
    let ids: Vec<StreamId> = (0..64).map(|_| pair.open(side)).collect();
    let (data, mut buf) = (vec![0; 65_536], vec![0; 1 << 20]);
    let mut shares = vec![0; ids.len()];
    for _ in 0..records {
        for &id in &ids {
            pair.ends[side].write(id, &data).unwrap();
        }
        let room = rooms(&mut choices);
        pair.pass_time(pace, Duration::from_millis(1));
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
    // A path of 1.6 MB a second: turns are short.
    let slow = Duration::from_millis(10);
    for side in 0..2 {
        let full = shares(|_| RECORD, 400, side, slow);
        assert!(jain(&full) > 0.999, "{full:?}");
        let random = shares(|choices| 30 + choices.below(RECORD), 800, side, slow);
        assert!(jain(&random) > 0.99, "{random:?}");
        let small = shares(|choices| 30 + choices.below(600), 4_000, side, slow / 10);
        assert!(jain(&small) > 0.95, "{small:?}");
        // Faster than any: they are long, and a share shows over as many more.
        let fast = shares(|_| RECORD, 4_000, side, Duration::from_micros(10));
        assert!(jain(&fast) > 0.999, "{fast:?}");
    }
}

/// How many streams come to anything in ten records.
fn served(pace: Duration) -> usize {
    let (mut pair, data, mut buf) = (Pair::new(), vec![0; 65_536], vec![0; 65_536]);
    let ids: Vec<StreamId> = (0..64).map(|_| pair.open(1)).collect();
    let mut served = std::collections::BTreeSet::new();
    for record in 0..1_000 {
        for &id in &ids {
            pair.ends[1].write(id, &data).unwrap();
        }
        pair.pass_time(pace, Duration::from_millis(1));
        pair.pack(1, RECORD);
        while pair.deliver(1) {}
        for &id in &ids {
            while let Ok(Read::Data(_)) = pair.ends[0].read(id, &mut buf) {
                served.extend((record >= 990).then_some(id));
            }
        }
        while pair.pack(0, RECORD) > 0 {}
        while pair.deliver(0) {}
    }
    served.len()
}

#[test]
fn turns_are_long_where_rounds_are_short() {
    let (slow, fast) = (served(Duration::from_millis(10)), served(Duration::from_micros(10)));
    assert!((40..=45).contains(&slow), "{slow}: four streams a record");
    assert!((5..=7).contains(&fast), "{fast}: a stream for two records");
}

/// 64 streams, of which all but the first have bulk to send, after this many records.
fn bulk_under_way(records: usize) -> (Pair, StreamId) {
    let mut pair = Pair::new();
    let ids: Vec<StreamId> = (0..64).map(|_| pair.open(1)).collect();
    for _ in 0..records {
        for &id in &ids[1..] {
            pair.ends[1].write(id, &[0; 65_536]).unwrap();
        }
        pair.pack(1, RECORD);
        while pair.deliver(1) {}
    }
    for &id in &ids[1..] {
        pair.ends[1].write(id, &[0; 65_536]).unwrap();
    }
    (pair, ids[0])
}

/// Records until these bytes have come over.
fn records_for(pair: &mut Pair, id: StreamId, count: usize) -> usize {
    pair.ends[1].write(id, &vec![0; count]).unwrap();
    let (mut records, mut got, mut buf) = (0, 0, vec![0; count]);
    while got < count {
        assert!(pair.pack(1, RECORD) > 0);
        while pair.deliver(1) {}
        while let Ok(Read::Data(more)) = pair.ends[0].read(id, &mut buf) {
            got += more;
        }
        records += 1;
    }
    records
}

#[test]
fn a_small_stream_waits_for_the_beginning_of_the_others_at_most() {
    let (mut pair, id) = bulk_under_way(1);
    assert!(records_for(&mut pair, id, 3) <= 17);
}

#[test]
fn a_few_bytes_do_not_wait_behind_bulk_and_many_wait_for_a_round() {
    let (mut pair, id) = bulk_under_way(20);
    for _ in 0..40 {
        assert_eq!(records_for(&mut pair, id, 100), 1, "at once, however often");
    }
    // What it may say early is spent: its turn comes after all the others'.
    assert!(records_for(&mut pair, id, 5_000) > 1);
    let rest = records_for(&mut pair, id, 10_000);
    assert!((5..=65).contains(&rest), "{rest}");
}

/// A stream whose writer brings little at a time comes early again and again; that is no way to more than a share.
#[test]
fn coming_back_early_gives_no_larger_share() {
    let mut pair = Pair::new();
    let ids: Vec<StreamId> = (0..8).map(|_| pair.open(1)).collect();
    let (data, mut buf, mut shares) = (vec![0; 65_536], vec![0; 1 << 16], vec![0; ids.len()]);
    for _ in 0..800 {
        for (at, &id) in ids.iter().enumerate() {
            let piece = if at == 0 { 1_000 } else { data.len() };
            pair.ends[1].write(id, &data[..piece]).unwrap();
        }
        assert!(pair.pack(1, 4_000) > 0);
        while pair.deliver(1) {}
        for (&id, share) in ids.iter().zip(&mut shares) {
            while let Ok(Read::Data(count)) = pair.ends[0].read(id, &mut buf) {
                *share += count;
            }
        }
        while pair.pack(0, RECORD) > 0 {}
        while pair.deliver(0) {}
    }
    let others = shares[1..].iter().sum::<usize>() / (shares.len() - 1);
    assert!(shares[0] <= others * 13 / 10, "{shares:?}");
    assert!(jain(&shares) > 0.95, "{shares:?}");
}

#[test]
fn streams_that_come_and_go_without_end_do_not_stop_one_that_stays() {
    let mut pair = Pair::new();
    let stays = pair.open(1);
    let (mut bulk, mut buf) = (0, vec![0; 1 << 16]);
    for _ in 0..300 {
        pair.ends[1].write(stays, &[0; 65_536]).unwrap();
        // More than the record that goes.
        for _ in 0..30 {
            let id = pair.ends[1].open().unwrap();
            pair.ends[1].write(id, &[0; 1_000]).unwrap();
            pair.ends[1].finish(id);
            pair.ends[1].release(id);
        }
        pair.pack(1, RECORD);
        while pair.deliver(1) {}
        while let Ok(Read::Data(count)) = pair.ends[0].read(stays, &mut buf) {
            bulk += count;
        }
        while let Some(id) = pair.ends[0].accept() {
            while let Ok(Read::Data(_)) = pair.ends[0].read(id, &mut buf) {}
            pair.ends[0].release(id);
        }
        while pair.pack(0, RECORD) > 0 {}
        while pair.deliver(0) {}
        if pair.ends[1].open_streams() > 900 {
            break;
        }
    }
    assert!(bulk > 150_000, "{bulk}");
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
