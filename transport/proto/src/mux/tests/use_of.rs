//! What users and the wire see, case by case.

use super::super::{MAX_SEND_QUEUE, MAX_STREAMS, OpenError, Wake, code};
use super::*;

fn wakes(mux: &mut Mux) -> Vec<(StreamId, Wake)> {
    std::iter::from_fn(|| mux.take_wake()).collect()
}

fn read_all(mux: &mut Mux, id: StreamId) -> Result<(Vec<u8>, bool), StreamError> {
    let (mut all, mut buf) = (Vec::new(), [0; 5_000]);
    loop {
        match mux.read(id, &mut buf)? {
            Read::Data(count) => all.extend_from_slice(&buf[..count]),
            Read::Empty => return Ok((all, false)),
            Read::End => return Ok((all, true)),
        }
    }
}

#[test]
fn ids_go_up_by_two_from_one_and_two() {
    let mut pair = Pair::new();
    for n in 0..5 {
        assert_eq!(pair.open(0).get(), 2 * n + 1);
        assert_eq!(pair.open(1).get(), 2 * n + 2);
    }
}

#[test]
fn data_goes_both_ways_and_each_way_ends_by_itself() {
    let mut pair = Pair::new();
    let id = pair.ends[0].open().unwrap();
    assert_eq!(pair.ends[0].write(id, b"GET"), Ok(3));
    pair.ends[0].finish(id);
    assert_eq!(pair.ends[0].write(id, b"more"), Err(StreamError::Finished));
    // The opening, the data and the end share a record.
    assert_eq!(pair.pack(0, RECORD), 5 + 3 + 6);
    pair.settle();
    assert_eq!(pair.ends[0].write(id, b"more"), Err(StreamError::Finished));
    assert_eq!(wakes(&mut pair.ends[1]), [], "nobody has it yet");
    assert_eq!(pair.ends[1].accept(), Some(id));
    assert_eq!(wakes(&mut pair.ends[1]), [(id, Wake::Readable)]);
    assert_eq!(read_all(&mut pair.ends[1], id), Ok((b"GET".to_vec(), true)));
    assert_eq!(pair.ends[1].write(id, b"200"), Ok(3));
    pair.settle();
    assert_eq!(read_all(&mut pair.ends[0], id), Ok((b"200".to_vec(), false)));
    wakes(&mut pair.ends[0]);
    pair.ends[1].finish(id);
    pair.settle();
    assert_eq!(wakes(&mut pair.ends[0]), [(id, Wake::Readable)]);
    assert_eq!(pair.ends[0].read(id, &mut []), Ok(Read::End));
    assert_eq!((pair.ends[0].open_streams(), pair.ends[1].open_streams()), (0, 0));
    for end in &mut pair.ends {
        end.release(id);
        assert_eq!(end.read(id, &mut []), Err(StreamError::Unknown));
        check_gone(end);
    }
}

#[test]
fn an_opened_stream_is_announced_without_data() {
    let mut pair = Pair::new();
    let id = pair.ends[0].open().unwrap();
    assert!(pair.ends[0].wants_to_send());
    assert_eq!(pair.pack(0, RECORD), 5);
    pair.settle();
    assert!(pair.ends[1].acceptable());
    assert_eq!(pair.ends[1].accept(), Some(id));
    assert!(!pair.ends[1].acceptable());
    assert_eq!(pair.ends[1].read(id, &mut [0; 9]), Ok(Read::Empty));
}

#[test]
fn writers_wait_and_are_woken_once() {
    let mut pair = Pair::new();
    let id = pair.open(0);
    let data = vec![1; MAX_SEND_QUEUE + 1];
    assert_eq!(pair.ends[0].write(id, &data), Ok(MAX_SEND_QUEUE));
    assert_eq!(pair.ends[0].write(id, &data), Ok(0));
    assert_eq!(wakes(&mut pair.ends[0]), []);
    for _ in 0..3 {
        pair.pack(0, RECORD);
    }
    assert_eq!(wakes(&mut pair.ends[0]), [], "not for every little room");
    pair.pack(0, RECORD);
    pair.pack(0, RECORD);
    assert_eq!(wakes(&mut pair.ends[0]), [(id, Wake::Writable)]);
    pair.pack(0, RECORD);
    assert_eq!(wakes(&mut pair.ends[0]), [], "nobody waits");
}

#[test]
fn data_is_not_squeezed_into_what_is_left_of_a_record() {
    let mut pair = Pair::new();
    let [a, b] = [(); 2].map(|()| pair.open(0));
    pair.ends[0].write(a, &[1; 100]).unwrap();
    pair.ends[0].write(b, &[2; 1_000]).unwrap();
    // 105 bytes for the first, and 5 of overhead and 63 of data would still fit.
    assert_eq!(pair.pack(0, 105 + 68), 105);
    assert_eq!(pair.pack(0, 68), 68, "but a record of that size is filled");
    assert_eq!(pair.pack(0, RECORD), 5 + 1_000 - 63);
}

#[test]
fn the_sum_of_what_waits_to_be_sent_is_bounded() {
    let mut pair = Pair::new();
    let data = vec![0; MAX_SEND_QUEUE];
    let ids: Vec<StreamId> = (0..MAX_STREAMS).map(|_| pair.ends[1].open().unwrap()).collect();
    for &id in &ids {
        let taken = pair.ends[1].write(id, &data).unwrap();
        assert!(taken >= super::super::SEGMENT);
    }
    assert!(
        pair.ends[1].buffered() <= super::super::MAX_QUEUED_TO_SEND + MAX_STREAMS * super::super::SEGMENT
    );
    assert_eq!(pair.ends[1].open(), Err(OpenError::TooMany));
    // All of it still goes, and each writer hears of it.
    pair.settle();
    let mut buf = vec![0; 1 << 20];
    while let Some(id) = pair.ends[0].accept() {
        while let Ok(Read::Data(_)) = pair.ends[0].read(id, &mut buf) {}
        pair.settle();
    }
    assert_eq!(pair.ends[1].buffered(), 0);
    let woken = wakes(&mut pair.ends[1]);
    let waited = ids.len() - super::super::MAX_QUEUED_TO_SEND / MAX_SEND_QUEUE;
    assert!(woken.len() >= waited, "{} of {waited}", woken.len());
}

#[test]
fn cancelling_drops_what_is_queued_and_tells_the_other_side() {
    for (given, told) in [(code::UNREACHABLE, code::UNREACHABLE), (code::END, code::CANCELLED)] {
        let mut pair = Pair::new();
        let id = pair.open(0);
        pair.ends[0].write(id, &[7; 9_000]).unwrap();
        pair.ends[1].write(id, &[7; 9_000]).unwrap();
        pair.settle();
        pair.ends[1].write(id, &[7; 9_000]).unwrap();
        pair.ends[0].cancel(id, given);
        pair.ends[0].cancel(id, 77);
        assert_eq!(pair.ends[0].buffered(), 0);
        assert_eq!(pair.ends[0].read(id, &mut [0]), Err(StreamError::Cancelled));
        assert_eq!(pair.ends[0].write(id, &[0]), Err(StreamError::Cancelled));
        wakes(&mut pair.ends[1]);
        assert_eq!(pair.ends[1].read(id, &mut [0]), Ok(Read::Data(1)));
        pair.settle();
        assert_eq!(pair.ends[1].buffered(), 0);
        assert_eq!(pair.ends[1].read(id, &mut [0]), Err(StreamError::Closed(told)));
        assert_eq!(pair.ends[1].write(id, &[0]), Err(StreamError::Closed(told)));
        for end in &mut pair.ends {
            end.release(id);
            check_gone(end);
        }
    }
}

#[test]
fn a_stream_cancelled_before_it_was_announced_leaves_no_trace() {
    let mut pair = Pair::new();
    let gone = pair.ends[0].open().unwrap();
    let kept = pair.ends[0].open().unwrap();
    pair.ends[0].write(gone, b"x").unwrap();
    pair.ends[0].release(gone);
    pair.settle();
    assert_eq!(pair.ends[1].accept(), Some(kept));
    assert_eq!(pair.ends[1].accept(), None);
}

#[test]
fn what_was_finished_and_released_still_arrives_whole() {
    let mut pair = Pair::new();
    let id = pair.open(0);
    let data = bytes(0, id, 0, 50_000);
    assert_eq!(pair.ends[0].write(id, &data), Ok(data.len()));
    pair.ends[0].finish(id);
    pair.ends[0].release(id);
    // Nobody will read it: its credit comes back, it goes nowhere.
    pair.ends[1].write(id, &[0; 30_000]).unwrap();
    pair.settle();
    assert_eq!(pair.ends[0].buffered(), 0);
    assert_eq!(read_all(&mut pair.ends[1], id), Ok((data, true)));
    assert_eq!(pair.ends[1].write(id, b"x"), Err(StreamError::Closed(code::CANCELLED)));
    pair.ends[1].release(id);
    for end in &mut pair.ends {
        check_gone(end);
    }
}

#[test]
fn a_cancel_before_accept_is_never_seen() {
    let mut pair = Pair::new();
    let [a, b] = [(); 2].map(|()| pair.ends[0].open().unwrap());
    pair.ends[0].write(a, b"data").unwrap();
    pair.settle();
    pair.ends[0].cancel(a, code::CANCELLED);
    pair.settle();
    assert_eq!(pair.ends[1].buffered(), 0);
    assert_eq!(pair.ends[1].accept(), Some(b));
    assert_eq!(pair.ends[1].accept(), None);
}

#[test]
fn the_send_windows_are_those_of_the_protocol() {
    for (side, stream, connection) in [(1, 6_291_456, 15_728_640), (0, 262_144, 1_048_576)] {
        let mut pair = Pair::new();
        let id = pair.open(side);
        let mut sent = 0;
        loop {
            sent += pair.ends[side].write(id, &[0; 65_536]).unwrap();
            if !pair.settle() {
                break;
            }
        }
        let waiting = pair.ends[side].buffered();
        assert_eq!(sent - waiting, stream);
        assert_eq!(pair.ends[side].credit.left(), (connection - stream) as u64);
        assert_eq!(pair.ends[1 - side].buffered(), stream);
        // Half of the window read: nothing is granted; one byte more: an update of the stream alone.
        let mut buf = vec![0; stream / 2];
        assert_eq!(pair.ends[1 - side].read(id, &mut buf), Ok(Read::Data(stream / 2)));
        assert_eq!(pair.pack(1 - side, RECORD), 0);
        assert_eq!(pair.ends[1 - side].read(id, &mut buf[..1]), Ok(Read::Data(1)));
        assert_eq!(pair.pack(1 - side, RECORD), 4 + 1 + 4);
    }
}

#[test]
fn windows_grow_when_they_set_the_pace() {
    // Each round trip carries what the window allows.
    let round_trip = Duration::from_millis(100);
    let mut pair = Pair::new();
    let id = pair.open(0);
    let (data, mut buf) = (vec![0; 65_536], vec![0; 1 << 20]);
    let mut largest = 0;
    for _ in 0..40 {
        pair.pass_time(round_trip, round_trip);
        let mut carried = 0;
        while pair.ends[0].write(id, &data).unwrap() > 0 {
            while pair.pack(0, RECORD) > 0 {}
        }
        while pair.deliver(0) {}
        while let Ok(Read::Data(count)) = pair.ends[1].read(id, &mut buf) {
            carried += count;
        }
        pair.settle();
        largest = largest.max(carried);
    }
    assert_eq!(pair.ends[1].streams[&id.get()].granted.size(), flow::STREAM_LIMIT);
    assert_eq!(pair.ends[1].granted.size(), flow::CONNECTION_LIMIT);
    assert!(largest >= 6 << 20, "{largest}");
}

#[test]
fn windows_stay_when_the_path_sets_the_pace() {
    let mut pair = Pair::new();
    let id = pair.open(0);
    for _ in 0..200 {
        // Half a window, eight records, takes four round trips.
        pair.pass_time(Duration::from_millis(50), Duration::from_millis(100));
        pair.ends[0].write(id, &[0; RECORD]).unwrap();
        pair.settle();
        read_all(&mut pair.ends[1], id).unwrap();
    }
    assert_eq!(pair.ends[1].streams[&id.get()].granted.size(), flow::STREAM_UP);
    assert_eq!(pair.ends[1].granted.size(), flow::CONNECTION_UP);
}
