//! Acknowledgements, stalls, limits, budgets, the bridge's table.

use std::sync::{Arc, Mutex};

use super::*;
use crate::shape::Counters;

const MILLISECOND: Duration = Duration::from_millis(1);
const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn a_bridge_acknowledges_soon_and_a_client_when_it_is_quiet() {
    for (side, after) in [(0, Duration::from_millis(20)), (1, Duration::from_secs(1))] {
        let mut pair = Pair::new();
        let id = pair.stream();
        pair.rest();
        pair.write(side, id, b"bytes");
        pair.settle();
        assert!(!pair.ends[side].log.is_empty());
        assert!(!pair.ends[1 - side].wants_to_send(CarrierNumber(0)));
        assert_eq!(pair.ends[1 - side].deadline(), Some(pair.now + after));
        pair.pass(after);
        let record = pair.pack(1 - side, RECORD).unwrap();
        assert_eq!(record, encoded(&Frame::Ack { position: pair.ends[side].log.end() }));
        pair.give(side, &record).unwrap();
        assert!(pair.ends[side].log.is_empty());
        assert_eq!(pair.pack(1 - side, RECORD), None, "an acknowledgement is not acknowledged");
        assert_eq!(pair.pack(side, RECORD), None);
    }
}

#[test]
fn an_acknowledgement_rides_with_data() {
    for side in 0..2 {
        let mut pair = Pair::new();
        let id = pair.stream();
        pair.rest();
        pair.write(side, id, b"question");
        pair.settle();
        pair.write(1 - side, id, b"answer");
        let record = pair.pack(1 - side, RECORD).unwrap();
        assert_eq!(frames(&record).count(), 2);
        pair.give(side, &record).unwrap();
        assert!(pair.ends[side].log.is_empty());
    }
}

/// An acknowledgement may be lost with one of several carriers; the others bring another.
#[test]
fn a_repetition_is_acknowledged() {
    let mut pair = Pair::new();
    let id = pair.stream();
    pair.rest();
    pair.join(Mode::Striped(2));
    pair.write(0, id, b"bytes");
    let record = pair.pack(0, RECORD).unwrap();
    pair.give(1, &record).unwrap();
    pair.pass(Duration::from_millis(20));
    pair.pack(1, RECORD).unwrap();
    pair.give(1, &record).unwrap();
    pair.pass(Duration::from_millis(20));
    let again = pair.pack(1, RECORD).unwrap();
    assert_eq!(again, encoded(&Frame::Ack { position: pair.client().log.end() }));
}

#[test]
fn silence_after_something_was_sent_is_a_stall() {
    let mut pair = Pair::new();
    let id = pair.stream();
    pair.rest();
    pair.pass(MINUTE);
    let now = pair.now;
    assert_eq!(pair.client().need(now), None, "nothing is due");
    pair.write(0, id, b"lost");
    pair.pack(0, RECORD).unwrap();
    let at = pair.client().deadline().unwrap();
    let patience = at - pair.now;
    assert!(patience >= Duration::from_millis(500) && patience <= Duration::from_secs(10), "{patience:?}");
    assert_eq!(pair.client().need(at - MILLISECOND), None);
    assert_eq!(pair.client().need(at), Some(Need::Stalled));
    pair.now = at;
    pair.client().dialled(Some(Need::Stalled), at);
    pair.join(pair.ends[0].mode_for(Need::Stalled));
    assert_eq!(pair.client().need(at), None, "the wait begins anew");
    pair.settle();
    assert_eq!(pair.read(1, id), b"lost");
}

#[test]
fn silence_after_more_was_promised_is_a_stall() {
    let mut pair = Pair::new();
    let id = pair.stream();
    pair.rest();
    pair.write(1, id, &pattern(40_000));
    let records = pair.pack_all(1, RECORD);
    let (last, first) = records.split_last().unwrap();
    for record in first {
        pair.give(0, record).unwrap();
    }
    // Its own acknowledgement is not what it waits for.
    pair.pass(Duration::from_secs(1));
    pair.pack(0, RECORD);
    let later = pair.now + MINUTE;
    assert_eq!(pair.client().need(later), Some(Need::Stalled));
    pair.give(0, last).unwrap();
    assert_eq!(pair.client().need(later), None, "it has all that was promised");
}

#[test]
fn a_gap_that_stays_is_a_stall() {
    let mut pair = Pair::new();
    let id = pair.stream();
    pair.rest();
    pair.write(1, id, b"lost");
    pair.pack(1, RECORD).unwrap();
    pair.join(Mode::Gently);
    pair.write(1, id, b"there");
    let record = pair.pack(1, RECORD).unwrap();
    pair.give(0, &record).unwrap();
    let later = pair.now + MINUTE;
    assert_eq!(pair.client().need(later), Some(Need::Stalled));
}

#[test]
fn a_bridge_needs_nothing() {
    let mut pair = Pair::new();
    let id = pair.stream();
    pair.write(1, id, b"x");
    let now = pair.now;
    pair.bridge().lost(CarrierNumber(0), now);
    assert_eq!(pair.bridge().need(now + MINUTE), None);
    assert_eq!(pair.bridge().is_detached(), Some(now));
}

#[test]
fn a_client_looks_for_news_ever_more_seldom() {
    let profile = Profile {
        poll: Some(Duration::from_secs(2)),
        poll_most: Duration::from_secs(7),
        ..Profile::default()
    };
    let mut pair = Pair::with(&profile);
    pair.stream();
    pair.rest();
    // A carrier that was in use may have taken an answer with it: that is looked for at once.
    let (now, carrier) = (pair.now, pair.carrier);
    for end in &mut pair.ends {
        end.lost(carrier, now);
    }
    assert_eq!(pair.client().need(now), Some(Need::Look));
    pair.join(Mode::Replace);
    pair.settle();
    pair.pass(2 * MINUTE);
    for pause in [2, 4, 7, 7] {
        let (now, carrier) = (pair.now, pair.carrier);
        for end in &mut pair.ends {
            end.lost(carrier, now);
        }
        let at = now + Duration::from_secs(pause);
        assert_eq!(pair.client().need(at - MILLISECOND), None);
        assert_eq!(pair.client().deadline(), Some(at));
        assert_eq!(pair.client().need(at), Some(Need::Look));
        pair.client().dialled(Some(Need::Look), at);
        pair.now = at;
        pair.join(Mode::Replace);
        pair.settle();
        pair.pass(2 * MINUTE);
    }
    // Without a stream there is nothing to look for.
    let mut idle = Pair::with(&profile);
    let now = idle.now;
    idle.client().lost(CarrierNumber(0), now);
    assert_eq!((idle.client().need(now + MINUTE), idle.client().deadline()), (None, None));
}

#[test]
fn carriers_have_limits_of_their_own() {
    let profile = Profile { volume: 1_000..=1_000, ..Profile::default() };
    let mut pair = Pair::with(&profile);
    let id = pair.stream();
    pair.write(0, id, &pattern(990));
    pair.settle();
    let now = pair.now;
    assert_eq!(pair.client().need(now), Some(Need::Volume));
    pair.join(pair.ends[0].mode_for(Need::Volume));
    assert_eq!(pair.client().need(now), None);
    assert_eq!(pair.client().state_of(CarrierNumber(0)), CarrierState::Draining);

    let profile = Profile { age: MINUTE..=2 * MINUTE, ..Profile::default() };
    let mut pair = Pair::with(&profile);
    let id = pair.stream();
    pair.rest();
    pair.pass(2 * MINUTE);
    let now = pair.now;
    assert_eq!(pair.client().need(now), None, "a carrier nobody uses is left alone");
    pair.write(0, id, b"use");
    pair.settle();
    assert_eq!(pair.client().need(now), Some(Need::Age));

    let mut pair = Pair::new();
    pair.stream();
    pair.rest();
    let now = pair.now;
    pair.client().going_away(CarrierNumber(0), now);
    assert_eq!(pair.client().need(now), Some(Need::GoingAway));
}

#[test]
fn limits_differ_from_carrier_to_carrier_and_stay_in_range() {
    let pair = Pair::new();
    let secret = pair.ends[0].secret.as_ref().unwrap();
    let profile = Profile::default();
    let mut seen = std::collections::BTreeSet::new();
    for number in 0..500 {
        let limits = format!("{:?}", secret.limits(number, &profile));
        seen.insert(limits);
    }
    assert!(seen.len() > 490);
    let fixed = Profile { age: MINUTE..=MINUTE, volume: 5..=5, ..profile };
    assert_eq!(
        format!("{:?}", secret.limits(1, &fixed)),
        format!("{:?}", secret.limits(2, &fixed)),
        "an empty range has one value"
    );
}

#[test]
fn new_carriers_have_a_budget() {
    let profile = Profile { burst: 3, per_minute: 6, ..Profile::default() };
    let mut pair = Pair::with(&profile);
    let id = pair.stream();
    pair.rest();
    pair.write(0, id, b"x");
    let mut dialled = 0;
    for _ in 0..600 {
        let now = pair.now;
        if pair.client().need(now).is_some() {
            pair.client().dialled(Some(Need::Use), now);
            dialled += 1;
            pair.join(Mode::Replace);
        }
        let carrier = pair.carrier;
        pair.client().lost(carrier, now);
        if pair.client().need(now).is_none() {
            let at = pair.client().deadline().unwrap();
            assert!(at > now && at <= now + Duration::from_secs(10));
        }
        pair.pass(Duration::from_millis(100));
    }
    // Three at once, then six in the minute.
    assert!((8..=9).contains(&dialled), "{dialled}");
}

#[test]
fn round_trips_are_not_measured_with_repeated_bytes() {
    let mut pair = Pair::new();
    let id = pair.stream();
    pair.rest();
    let known = pair.client().pace.round_trip();
    pair.write(0, id, b"x");
    pair.pack(0, RECORD).unwrap();
    let now = pair.now;
    pair.client().lost(CarrierNumber(0), now);
    pair.pass(MINUTE);
    pair.join(Mode::Replace);
    pair.settle();
    pair.rest();
    assert!(pair.client().log.is_empty());
    assert_eq!(pair.client().pace.round_trip(), known);
}

/// A bridge session in the table, without a carrier since `now`, that holds about this many bytes.
fn detached(table: &mut Sessions, seed: u8, bytes: usize, stream: bool, now: Instant) -> SharedSession {
    let mut session = Session::new(Role::Bridge, Profile::default(), now);
    session.establish(&established(seed), STATICS, now);
    if stream {
        let id = session.streams().open().unwrap();
        let data = vec![0; bytes];
        let mut rest = &data[..];
        while !rest.is_empty() {
            let taken = session.streams().write(id, rest).unwrap();
            rest = &rest[taken..];
            while session.pack(CarrierNumber(0), RECORD, &mut Vec::new(), now) > 0 {}
        }
    }
    session.lost(CarrierNumber(0), now);
    let session = Arc::new(Mutex::new(session));
    table.insert(&session);
    session
}

#[test]
fn sessions_without_a_carrier_expire() {
    let now = any_instant();
    let mut table = Sessions::new();
    let used = detached(&mut table, 1, 10, true, now);
    let unused = detached(&mut table, 2, 0, false, now);
    let id = lock(&used).id().unwrap();
    assert!(table.get(&id.0).is_some() && table.get(&[0; 16]).is_none());
    assert!(table.expire(now + 2 * MINUTE - MILLISECOND).is_empty());
    assert_eq!(table.expire(now + 2 * MINUTE), [lock(&unused).id().unwrap()]);
    assert!(lock(&unused).ended().is_some());
    assert!(table.expire(now + 30 * MINUTE - MILLISECOND).is_empty());
    assert_eq!(table.expire(now + 30 * MINUTE), [id]);
    assert!(table.is_empty() && lock(&used).ended().is_some());
}

#[test]
fn what_shapers_did_is_known_of_sessions_that_are_over_as_well() {
    let now = any_instant();
    let mut table = Sessions::new();
    let sessions = [1, 2, 3].map(|seed| detached(&mut table, seed, 10, true, now));
    for (session, late) in sessions.iter().zip([1, 10, 100]) {
        lock(session).shaped(&Counters { late, ..Counters::default() });
    }
    let [removed, cut, expired] = &sessions;
    assert_eq!(table.shaping().late, 111);
    let id = lock(removed).id().unwrap();
    table.remove(id);
    table.remove(id);
    assert_eq!((table.len(), table.shaping().late), (2, 111));
    lock(cut).shaped(&Counters { late: 1_000, ..Counters::default() });
    let other = lock(cut).client().unwrap();
    assert_eq!(table.cut(|client| *client == other).len() + table.len(), 2);
    assert_eq!(table.shaping().late, 1_111);
    table.expire(now + 30 * MINUTE);
    assert!(table.is_empty() && lock(expired).ended().is_some());
    assert_eq!(table.shaping().late, 1_111);
}

#[test]
fn sessions_without_a_carrier_hold_little_in_all() {
    let now = any_instant();
    let mut table = Sessions::new();
    for seed in 0..20 {
        detached(&mut table, seed, 4_000_000, true, now + u32::from(seed) * MILLISECOND);
    }
    let gone = table.expire(now + MINUTE);
    assert!(!gone.is_empty() && table.len() + gone.len() == 20);
    // The longest without one went, and no more than had to.
    let held: usize = (0..20).map(|seed| held(&table, seed)).sum();
    assert!(held <= 64 << 20 && held > 56 << 20, "{held}");
    assert_eq!(held_by(&table, 0), None);
    assert!(held_by(&table, 19).is_some());
}

fn held_by(table: &Sessions, seed: u8) -> Option<usize> {
    let mut session = Session::new(Role::Bridge, Profile::default(), any_instant());
    session.establish(&established(seed), STATICS, any_instant());
    table.get(&session.id().unwrap().0).map(|session| lock(&session).held())
}

fn held(table: &Sessions, seed: u8) -> usize {
    held_by(table, seed).unwrap_or_default()
}
