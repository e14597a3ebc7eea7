//! An authentic peer that breaks the rules, and what it can make a session hold.

use proptest::prelude::*;

use super::*;
use crate::frame::MAX_VARINT;

/// The frame that opens a stream with `data`, as session bytes.
fn opening(data: &[u8]) -> Vec<u8> {
    encoded(&Frame::Stream { id: 1, data })
}

fn ended_by(pair: &mut Pair, side: usize, result: Result<(), Violation>, violation: Violation) {
    assert_eq!(result, Err(violation));
    assert_eq!(pair.ends[side].ended(), Some(Ended::Violation));
    assert_eq!(pair.segment(side, 0, b"anything"), Ok(()), "nothing more is taken in");
}

#[test]
fn an_acknowledgement_of_what_was_never_sent() {
    let mut pair = Pair::new();
    let id = pair.stream();
    pair.write(0, id, b"four");
    pair.settle();
    let sent = pair.client().log.end();
    let result = pair.give(0, &encoded(&Frame::Ack { position: sent + 1 }));
    ended_by(&mut pair, 0, result, Violation::NeverSent);
}

#[test]
fn an_acknowledgement_that_goes_back_is_passed_over() {
    let mut pair = Pair::new();
    let id = pair.stream();
    pair.write(0, id, b"four");
    pair.rest();
    assert!(pair.client().log.is_empty());
    pair.give(0, &encoded(&Frame::Ack { position: 1 })).unwrap();
    assert!(pair.client().log.is_empty());
}

#[test]
fn other_bytes_at_a_known_position() {
    let data = opening(&pattern(100));
    for cut in [(20, 60), (0, 30), (50, 104), (30, 31)] {
        let mut pair = Pair::new();
        pair.segment(1, 20, &data[20..60]).unwrap();
        let mut other = data[cut.0..cut.1].to_vec();
        pair.segment(1, cut.0 as u64, &other).expect("the same bytes");
        let mut pair = Pair::new();
        pair.segment(1, 20, &data[20..60]).unwrap();
        let at = if cut.0 <= 20 { 25 - cut.0 } else { 0 };
        other[at] ^= 1;
        let result = pair.segment(1, cut.0 as u64, &other);
        ended_by(&mut pair, 1, result, Violation::OtherData);
    }
}

#[test]
fn bytes_beyond_the_window() {
    let most = (FIRST_UNACKED + crate::record::MAX_CONTENT) as u64;
    let mut pair = Pair::new();
    pair.segment(1, most - 1, b"x").unwrap();
    let result = pair.segment(1, most, b"x");
    ended_by(&mut pair, 1, result, Violation::BeyondWindow);
    let mut pair = Pair::new();
    let result = pair.segment(1, MAX_VARINT, b"x");
    ended_by(&mut pair, 1, result, Violation::BeyondWindow);
}

#[test]
fn who_has_brought_more_may_be_further_ahead() {
    let brought = 2 * MAX_UNACKED as u64;
    for beyond in [0, 1] {
        let mut pair = Pair::new();
        let id = pair.stream();
        let from = pair.bridge().inbound.next();
        while pair.bridge().inbound.next() < brought {
            while pair.client().streams().write(id, &[7; 65_536]) == Ok(65_536) {}
            pair.settle();
            pair.read(1, id);
            pair.rest();
        }
        let next = pair.bridge().inbound.next();
        assert!(next > from);
        let most = (MAX_UNACKED + crate::record::MAX_CONTENT) as u64;
        let result = pair.segment(1, next + most - 1 + beyond, b"x");
        if beyond == 0 {
            result.unwrap();
        } else {
            ended_by(&mut pair, 1, result, Violation::BeyondWindow);
        }
    }
}

#[test]
fn session_bytes_are_frames_of_streams() {
    let cases: [(Vec<u8>, Violation); 6] = [
        (encoded(&Frame::Close { id: 0, code: 0 }), Violation::NeverOpened(0)),
        (encoded(&Frame::Ack { position: 0 }), Violation::Misplaced),
        (encoded(&Frame::KeyUpdate), Violation::Misplaced),
        (encoded(&Frame::Segment { more: false, position: 9, bytes: b"inner" }), Violation::Misplaced),
        (vec![0xff, 0xff, 0xff, 1], Violation::Malformed),
        (vec![0, 0, 0, 99], Violation::Malformed),
    ];
    for (bytes, violation) in cases {
        // Whole, and cut after each byte.
        let mut pair = Pair::new();
        let result = pair.segment(1, 0, &bytes);
        ended_by(&mut pair, 1, result, violation);
        let mut pair = Pair::new();
        let results: Vec<_> = bytes.iter().zip(0..).map(|(byte, at)| pair.segment(1, at, &[*byte])).collect();
        assert!(results.contains(&Err(violation)), "{results:?}");
    }
}

#[test]
fn frames_of_a_carrier_are_none_of_the_sessions() {
    for frame in [Frame::Padding, Frame::Refused, Frame::Stream { id: 1, data: b"" }] {
        let mut pair = Pair::new();
        let result = pair.give(1, &encoded(&frame));
        ended_by(&mut pair, 1, result, Violation::Misplaced);
    }
}

#[test]
fn a_peer_that_never_acknowledges_stops_the_sender() {
    let mut pair = Pair::new();
    let ids: Vec<StreamId> = (0..20).map(|_| pair.stream()).collect();
    let mut sent = 0;
    'all: loop {
        let before = sent;
        for id in &ids {
            let _ = pair.bridge().streams().write(*id, &[7; 65_536]);
            while let Some(record) = pair.pack(1, RECORD) {
                sent += record.len();
                // Only the window updates of a client that reads.
                pair.give(0, &record).unwrap();
                pair.read(0, *id);
                let mut out = Vec::new();
                let now = pair.now;
                pair.client().pack(CarrierNumber(0), RECORD, &mut out, now);
                for frame in frames(&out).flatten() {
                    if matches!(frame, Frame::Segment { .. }) {
                        pair.bridge().on_frame(CarrierNumber(0), &frame, now).unwrap();
                    }
                }
            }
        }
        if sent == before {
            break 'all;
        }
    }
    let unacknowledged = pair.bridge().log.len();
    assert!(
        unacknowledged > FIRST_UNACKED - RECORD && unacknowledged < FIRST_UNACKED + RECORD,
        "{unacknowledged}"
    );
    assert!(pair.bridge().held() < 10 << 20);
}

#[test]
fn pieces_out_of_order_are_bounded() {
    let mut pair = Pair::new();
    let data = opening(&pattern(40_000));
    let mut wrapped = Vec::new();
    for chunk in data.chunks(16_000) {
        wrapped.extend(encoded(&Frame::Stream { id: 1, data: chunk }));
    }
    for (at, byte) in wrapped.iter().enumerate().skip(1).step_by(2) {
        pair.segment(1, at as u64, &[*byte]).unwrap();
    }
    assert!(pair.bridge().inbound.allocated() <= wrapped.len());
    // What was dropped comes again, with everything else.
    pair.segment(1, 0, &wrapped).unwrap();
    let id = pair.bridge().streams().accept().unwrap();
    assert_eq!(pair.read(1, id), data);
    assert_eq!(pair.bridge().inbound.allocated(), 0);
}

proptest! {
    /// However bytes are cut, repeated and ordered, they come out as they are.
    #[test]
    fn any_order_of_pieces_gives_the_bytes(
        lengths in prop::collection::vec(0..600usize, 1..12),
        pieces in prop::collection::vec((any::<prop::sample::Index>(), 1..700usize), 0..60),
    ) {
        let mut pair = Pair::new();
        let data: Vec<u8> = pattern(lengths.iter().sum());
        let mut bytes = encoded(&Frame::Stream { id: 1, data: b"" });
        let mut at = 0;
        for length in lengths {
            bytes.extend(encoded(&Frame::Stream { id: 1, data: &data[at..at + length] }));
            at += length;
        }
        for (from, length) in pieces {
            let from = from.index(bytes.len());
            let to = bytes.len().min(from + length);
            prop_assert_eq!(pair.segment(1, from as u64, &bytes[from..to]), Ok(()));
            prop_assert!(pair.bridge().inbound.next() <= bytes.len() as u64);
        }
        prop_assert_eq!(pair.segment(1, 0, &bytes), Ok(()));
        let id = pair.bridge().streams().accept().unwrap();
        prop_assert_eq!(pair.read(1, id), data);
        prop_assert!(!pair.bridge().inbound.has_gap());
    }
}
