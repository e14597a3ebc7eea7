//! One carrier, joining, sending again, the end.

use super::*;

#[test]
fn one_carrier_carries_both_ways() {
    let mut pair = Pair::new();
    let id = pair.stream();
    pair.write(0, id, b"up");
    pair.write(1, id, b"down");
    pair.settle();
    assert_eq!(pair.read(1, id), b"up");
    assert_eq!(pair.read(0, id), b"down");
}

#[test]
fn what_a_lost_carrier_had_on_the_way_is_sent_again_once() {
    for mode in [Mode::Replace, Mode::Striped(2)] {
        for delivered in 0..5 {
            let mut pair = Pair::new();
            let id = pair.stream();
            let (up, down) = (pattern(60_000), pattern(50_000));
            pair.write(0, id, &up);
            pair.write(1, id, &down);
            for side in 0..2 {
                let records = pair.pack_all(side, 15_000);
                assert!(records.len() >= 4);
                for record in records.iter().take(delivered) {
                    pair.give(1 - side, record).unwrap();
                }
            }
            let now = pair.now;
            pair.client().lost(CarrierNumber(0), now);
            pair.bridge().lost(CarrierNumber(0), now);
            assert_eq!(pair.client().need(now), Some(Need::Use));
            pair.join(mode);
            pair.settle();
            assert_eq!(pair.read(1, id), up);
            assert_eq!(pair.read(0, id), down);
        }
    }
}

/// The bridge does not have to know that the old carrier is gone.
#[test]
fn a_replacement_retires_the_older_carriers_at_once() {
    let mut pair = Pair::new();
    let id = pair.stream();
    pair.write(1, id, b"lost");
    let record = pair.pack(1, RECORD).unwrap();
    pair.join(Mode::Replace);
    for end in &pair.ends {
        assert_eq!(end.state_of(CarrierNumber(0)), CarrierState::Retired);
        assert!(!end.wants_to_send(CarrierNumber(0)));
    }
    pair.give_on(CarrierNumber(0), 0, &record).unwrap();
    assert_eq!(pair.read(0, id), b"", "what a retired carrier brings is passed over");
    pair.settle();
    assert_eq!(pair.read(0, id), b"lost");
}

#[test]
fn a_gently_replaced_carrier_is_still_heard_and_let_go_when_all_is_there() {
    let mut pair = Pair::new();
    let id = pair.stream();
    pair.rest();
    pair.write(1, id, b"slow ");
    let slow = pair.pack(1, RECORD).unwrap();
    pair.join(Mode::Gently);
    assert_eq!(pair.client().state_of(CarrierNumber(0)), CarrierState::Draining);
    pair.write(1, id, b"fast");
    let fast = pair.pack(1, RECORD).unwrap();
    assert_eq!(pair.pack_on(CarrierNumber(0), 1, RECORD), None, "nothing fresh on the old one");
    pair.give(0, &fast).unwrap();
    assert_eq!(pair.read(0, id), b"");
    pair.give_on(CarrierNumber(0), 0, &slow).unwrap();
    assert_eq!(pair.read(0, id), b"slow fast");
    assert_eq!(pair.client().state_of(CarrierNumber(0)), CarrierState::Retired);
}

#[test]
fn what_a_drained_carrier_never_brings_is_sent_again() {
    for told in [false, true] {
        let mut pair = Pair::new();
        let id = pair.stream();
        pair.write(1, id, b"slow ");
        pair.pack(1, RECORD).unwrap();
        pair.join(Mode::Gently);
        pair.write(1, id, b"fast");
        pair.settle();
        assert_eq!(pair.read(0, id), b"");
        let now = pair.now;
        if told {
            pair.bridge().lost(CarrierNumber(0), now);
        } else {
            pair.pass(Duration::from_secs(20));
        }
        pair.settle();
        assert_eq!(pair.read(0, id), b"slow fast");
    }
}

#[test]
fn records_cut_frames_when_they_are_sent_again_and_not_before() {
    let mut pair = Pair::new();
    let id = pair.stream();
    let data = pattern(50_000);
    pair.write(0, id, &data);
    for record in pair.pack_all(0, 9_000) {
        for frame in frames(&record) {
            if let Ok(Frame::Segment { bytes, .. }) = frame {
                assert!(frames(bytes).all(|inner| inner.is_ok()));
            }
        }
    }
    let now = pair.now;
    pair.client().lost(CarrierNumber(0), now);
    pair.join(Mode::Replace);
    for room in (60..).step_by(7) {
        let Some(record) = pair.pack(0, room) else { break };
        pair.give(1, &record).unwrap();
    }
    assert_eq!(pair.read(1, id), data);
}

#[test]
fn early_data_is_the_beginning_of_the_session() {
    let mut pair = Pair::new();
    let mut client = Session::new(Role::Client, Profile::default(), pair.now);
    let mut bridge = Session::new(Role::Bridge, Profile::default(), pair.now);
    let id = client.streams().open().unwrap();
    client.streams().write(id, b"early").unwrap();
    let mut early = Vec::new();
    assert!(client.pack_early(4_096, &mut early) > 0);
    for frame in frames(&early) {
        bridge.on_early(&frame.unwrap(), pair.now).unwrap();
    }
    assert_eq!(bridge.on_early(&Frame::Ack { position: 0 }, pair.now), Err(Violation::Misplaced));
    client.establish(&established(1), STATICS, pair.now);
    bridge.establish(&established(1), STATICS, pair.now);
    pair.ends = [client, bridge];
    assert_eq!(pair.client().pack_early(4_096, &mut early), 0);
    pair.write(0, id, b", late");
    pair.settle();
    assert_eq!(pair.bridge().streams().accept(), Some(id));
    assert_eq!(pair.read(1, id), b"early, late");
}

#[test]
fn a_finished_session_ends_when_the_peer_has_everything() {
    for side in 0..2 {
        let mut pair = Pair::new();
        let id = pair.stream();
        pair.rest();
        pair.write(side, id, b"last words");
        pair.ends[side].streams().finish(id);
        pair.ends[side].finish();
        let record = pair.pack(side, RECORD).unwrap();
        assert_eq!(pair.ends[side].ended(), None, "not acknowledged");
        pair.give(1 - side, &record).unwrap();
        pair.rest();
        assert_eq!(pair.ends[side].ended(), Some(Ended::Closed));
        assert_eq!(pair.ends[1 - side].ended(), Some(Ended::PeerClosed));
        assert_eq!(pair.read(1 - side, id), b"last words");
        assert!(pair.ends.iter().all(|end| end.deadline().is_none() && end.need(pair.now).is_none()));
    }
}

/// Nothing of it is packed for want of credit, so that nothing waits for acknowledgement.
#[test]
fn a_finished_session_waits_for_credit() {
    let mut pair = Pair::new();
    let id = pair.stream();
    let data = pattern(400_000);
    let mut written = 0;
    while written < data.len() {
        let count = pair.client().streams().write(id, &data[written..]).unwrap();
        written += count;
        pair.settle();
        if count == 0 {
            break;
        }
    }
    assert!(written < data.len(), "the window is used up");
    pair.client().streams().finish(id);
    pair.client().finish();
    pair.rest();
    assert_eq!(pair.client().ended(), None);
    let mut read = pair.read(1, id);
    pair.rest();
    read.extend(pair.read(1, id));
    assert_eq!(read, data[..written]);
    pair.rest();
    assert_eq!(pair.client().ended(), Some(Ended::Closed));
}

#[test]
fn a_promise_of_more_is_taken_back() {
    let more = |record: &[u8]| {
        let flags = frames(record).filter_map(|frame| match frame {
            Ok(Frame::Segment { more, .. }) => Some(more),
            _ => None,
        });
        flags.last()
    };
    let mut pair = Pair::new();
    let id = pair.stream();
    let other = pair.stream();
    pair.rest();
    pair.write(1, id, &pattern(40_000));
    let record = pair.pack(1, RECORD).unwrap();
    assert_eq!(more(&record), Some(true));
    pair.give(0, &record).unwrap();
    pair.bridge().streams().cancel(id, 1);
    let all = pair.pack_all(1, RECORD);
    assert_eq!(all.last().map(|record| more(record)), Some(Some(false)));
    pair.write(1, other, b"all");
    assert_eq!(pair.pack(1, RECORD).map(|record| more(&record)), Some(Some(false)));
}

#[test]
fn striped_carriers_share_what_is_fresh() {
    let profile = Profile { stripes: 3, ..Profile::default() };
    let mut pair = Pair::with(&profile);
    let id = pair.stream();
    for _ in 0..2 {
        let now = pair.now;
        assert_eq!(pair.client().need(now), Some(Need::Stripe));
        let mode = pair.client().mode_for(Need::Stripe);
        assert_eq!(mode, Mode::Striped(3));
        pair.join(mode);
    }
    let now = pair.now;
    assert_eq!(pair.client().need(now), None);
    let data = pattern(60_000);
    pair.write(1, id, &data);
    let numbers = [0, 1, 2].map(CarrierNumber);
    let mut records = Vec::new();
    while let Some(record) = pair.pack_on(numbers[records.len() % 3], 1, 5_000) {
        records.push((numbers[records.len() % 3], record));
    }
    assert!(records.len() > 9);
    for (number, record) in records.iter().rev() {
        pair.give_on(*number, 0, record).unwrap();
    }
    assert_eq!(pair.read(0, id), data);
}
