//! After the proof: what meets one who changes, drops, doubles, swaps, adds or withholds records. The wire must show what
//! TLS between a browser and the decoy would show.

use std::time::Duration;

use qnet_proto::Ended;
use qnet_proto::bridge::DecoyFacts;
use qnet_proto::carrier::{Close, Event};

use crate::decoy::{Ending, Manner};
use crate::user::Plan;
use crate::world::{Down, Options, ToDecoy, Up, World, lengths, records};

const ALERT: usize = 19;
const GOAWAY: usize = 34;
const CHROME_GOAWAY: usize = 64;

fn busy() -> Options {
    Options { plans: vec![Plan { up: 100_000, down: 100_000 }], ..Options::default() }
}

/// The number of the proof among the records down, and that of message 1's first record up.
fn switch() -> (usize, usize) {
    let mut world = World::new(busy());
    world.run(Duration::from_secs(30), World::proved);
    (records(world.taken(Down)).len() - 1, records(world.taken(Up)).len())
}

/// How many records up, from message 1 on, there are before HANDOVER is through.
fn handover() -> usize {
    let mut world = World::new(busy());
    world.client_user.paused = true;
    world.run_until_up();
    records(world.taken(Up)).len()
}

fn after(stream: &[u8], number: usize) -> &[u8] {
    let skip: usize = records(stream)[..number].iter().map(|(_, length)| 5 + length).sum();
    &stream[skip..]
}

#[test]
fn a_record_spoilt_on_its_way_up_reaches_the_decoy_as_it_is() {
    let (_, first) = switch();
    let last_before = handover();
    for number in first..last_before + 6 {
        for spoil in [5, 40] {
            let mut world = World::new(busy()).with_filter(Up, move |at, mut record| {
                if at == number {
                    let place = spoil.min(record.len() - 1);
                    record[place] ^= 0x40;
                }
                record
            });
            world.run_for(Duration::from_secs(5));
            assert_eq!(world.decoy.ending, Some(Ending::BadRecord), "{number}");
            assert_eq!(world.bridge_end(), Some(Ended::Tampered), "{number}");
            let spoilt = after(world.taken(Up), number);
            assert!(world.sent(ToDecoy).ends_with(spoilt), "{number}: raw from the header on");
            assert_eq!(lengths(world.sent(Down)).last(), Some(&ALERT), "{number}");
            assert_eq!(lengths(world.sent(Down)).iter().filter(|l| **l == ALERT).count(), 1, "{number}");
            assert_eq!(world.ended(Down), Some(Close::Fin), "{number}");
            // The decoy's alert reaches the client, and it answers as Chrome: not with an alert of its own.
            assert_eq!(lengths(world.sent(Up)).last(), Some(&CHROME_GOAWAY), "{number}");
            assert_eq!(world.ended(Up), Some(Close::Fin), "{number}");
        }
    }
}

#[test]
fn a_foreign_header_up_goes_on_at_once() {
    for (header, whole) in
        [(&[22u8][..], false), (&[23, 3, 1], false), (&[23, 3, 3, 0, 16], true), (&[23, 3, 3, 0x41, 1], true)]
    {
        let mut world = World::new(busy());
        world.client_user.paused = true;
        world.run_until_up();
        world.run_for(Duration::from_secs(1));
        world.inject(Up, header);
        world.run_for(Duration::from_secs(1));
        assert!(world.sent(ToDecoy).ends_with(header), "{header:?} {whole}");
        assert_eq!(world.bridge_end(), Some(Ended::Tampered));
    }
}

#[test]
fn a_record_cut_short_by_a_fin_goes_on_with_it() {
    let mut world = World::new(busy());
    world.client_user.paused = true;
    world.run_until_up();
    world.run_for(Duration::from_secs(1));
    let partial = [23, 3, 3, 1, 0, 9, 9, 9];
    world.inject(Up, &partial);
    world.run_for(Duration::from_millis(200));
    assert!(!world.sent(ToDecoy).ends_with(&partial), "it may still become whole");
    world.inject_end(Up, Close::Fin);
    world.run_for(Duration::from_secs(1));
    assert!(world.sent(ToDecoy).ends_with(&partial));
    assert_eq!(world.ended(ToDecoy), Some(Close::Fin));
    assert_eq!(world.bridge_end(), Some(Ended::PeerClosed));
}

/// What an attacker does to records down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deed {
    Spoil(usize),
    Drop,
    Double,
    Swap,
    Inject,
}

fn deed(deed: Deed, target: usize) -> impl FnMut(usize, Vec<u8>) -> Vec<u8> {
    let mut kept = Vec::new();
    move |number, mut record| match deed {
        Deed::Spoil(place) if number == target => {
            let place = place.min(record.len() - 1);
            record[place] ^= 1;
            record
        }
        Deed::Drop if number == target => Vec::new(),
        Deed::Double if number == target => record.repeat(2),
        Deed::Inject if number == target => [&[23, 3, 3, 0, 40][..], &[7; 40], &record].concat(),
        Deed::Swap if number == target => {
            kept = record;
            Vec::new()
        }
        Deed::Swap if number == target + 1 => [record, std::mem::take(&mut kept)].concat(),
        _ => record,
    }
}

#[test]
fn a_record_changed_on_its_way_down_meets_chromes_alert() {
    let (proof, _) = switch();
    let deeds = [Deed::Spoil(5), Deed::Spoil(60), Deed::Drop, Deed::Double, Deed::Swap, Deed::Inject];
    for target in proof..proof + 12 {
        for what in deeds {
            let manner = Manner { last: 30_000, idle: Some(Duration::from_secs(5)), ..Manner::default() };
            let mut world = World::new(Options { manner, ..busy() }).with_filter(Down, deed(what, target));
            world.run_for(Duration::from_secs(20));
            let idled = world.decoy.ending == Some(Ending::Idle) && matches!(what, Deed::Drop | Deed::Swap);
            let said = (what, target);
            assert_eq!(lengths(world.sent(Up)).last(), Some(&ALERT), "{said:?}");
            assert_eq!(world.ended(Up), Some(Close::Fin), "{said:?}");
            assert_eq!(world.client_end(), Some(Ended::Tampered), "{said:?}");
            let ending = if idled { Ending::Idle } else { Ending::Alerted([2, 20]) };
            assert_eq!(world.decoy.ending, Some(ending), "{said:?}");
            assert!(world.bridge_end().is_some(), "{said:?}");
            assert!(world.bridge().is_none(), "{said:?}");
        }
    }
}

#[test]
fn a_record_changed_in_the_load_meets_chromes_alert() {
    let (proof, _) = switch();
    // Not the hellos and what BoringSSL reads: those are not the core's.
    for target in 6..proof {
        for what in [Deed::Spoil(5), Deed::Drop, Deed::Double, Deed::Inject] {
            let manner = Manner { idle: Some(Duration::from_secs(5)), ..Manner::default() };
            let mut world = World::new(Options { manner, ..busy() }).with_filter(Down, deed(what, target));
            world.run_for(Duration::from_secs(10));
            // Where nothing follows what was dropped, only the decoy's end shows it.
            let idled = world.decoy.ending == Some(Ending::Idle) && matches!(what, Deed::Drop | Deed::Swap);
            assert_eq!(lengths(world.sent(Up)).last(), Some(&ALERT), "{what:?} {target}");
            let ending = if idled { Ending::Idle } else { Ending::Alerted([2, 20]) };
            assert_eq!(world.decoy.ending, Some(ending), "{what:?} {target}");
            assert_eq!(world.client_end(), Some(Ended::Tampered), "{what:?} {target}");
        }
    }
}

#[test]
fn withheld_upload_shows_the_decoys_own_closing_records() {
    let (_, first) = switch();
    for held_from in first..handover() {
        for last in [1_500, 40_000] {
            let manner = Manner { idle: Some(Duration::from_secs(5)), last, ..Manner::default() };
            let mut world = World::new(Options { manner, ..busy() });
            world.client_user.paused = true;
            world.set_filter(Up, move |number, record| if number < held_from { record } else { Vec::new() });
            world.run(Duration::from_secs(4), |_| false);
            let before = lengths(world.sent(Down)).len();
            world.run_for(Duration::from_secs(20));
            assert_eq!(world.decoy.ending, Some(Ending::Idle), "{held_from}");
            assert_eq!(lengths(world.sent(Down))[before..], [GOAWAY, ALERT], "{held_from}");
            assert_eq!(world.ended(Down), Some(Close::Fin));
        }
    }
}

#[test]
fn until_the_client_speaks_records_down_are_the_decoys_and_one() {
    // Whoever withholds the client's records from the proof on sees the answer's own record lengths, and the proof.
    let (_, first) = switch();
    let manner = Manner { last: 30_000, empty_end: true, ..Manner::default() };
    let mut honest = World::new(Options { manner: manner.clone(), allowed: false, ..busy() });
    honest.run_for(Duration::from_secs(5));
    let mut world = World::new(Options { manner, ..busy() });
    world.set_filter(Up, move |number, record| if number < first { record } else { Vec::new() });
    world.run_for(Duration::from_secs(5));
    let (expected, mut seen) = (lengths(honest.sent(Down)), lengths(world.sent(Down)));
    let at = expected.iter().zip(&seen).position(|(a, b)| a != b).unwrap_or(expected.len());
    assert!(seen.len() == expected.len() + 1, "{expected:?} {seen:?}");
    seen.remove(at);
    assert_eq!(seen, expected);
}

#[test]
fn the_decoys_own_complaint_meets_chromes_goaway() {
    // After HANDOVER the decoy finds fault with what the bridge sends.
    let mut world = World::new(busy());
    world.run_through();
    world.with_decoy(|decoy| decoy.complain([2, 20]));
    world.run_for(Duration::from_secs(2));
    assert_eq!(lengths(world.sent(Down)).last(), Some(&ALERT));
    assert_eq!(lengths(world.sent(Up)).last(), Some(&CHROME_GOAWAY));
    assert_eq!((world.ended(Up), world.ended(Down)), (Some(Close::Fin), Some(Close::Fin)));
    assert_eq!(world.client_end(), Some(Ended::DecoyEnded));
    // close_notify alone gets nothing.
    let mut world = World::new(busy());
    world.run_through();
    let sent = world.sent(Up).len();
    world.with_decoy(|decoy| decoy.complain([1, 0]));
    world.run_for(Duration::from_secs(2));
    assert_eq!(world.sent(Up).len(), sent);
    assert_eq!(world.ended(Up), Some(Close::Fin));
}

#[test]
fn a_long_answer_to_the_knock_whose_frames_cross_records_does_no_harm() {
    for (last, record) in [(100_000, 5_000), (100_000, 16_000), (3_000_000, 5_000), (30, 50), (0, 0)] {
        for empty_end in [false, true] {
            let manner =
                Manner { last, record, empty_end, idle: Some(Duration::from_secs(5)), ..Manner::default() };
            let mut world = World::new(Options { manner, ..busy() });
            world.run_through();
            for _ in 0..5 {
                world.run_for(Duration::from_secs(3));
                world.client_user.add(Plan { up: 10, down: 10 });
                world.bridge_user.add(Plan { up: 10, down: 10 });
                world.run_through();
            }
            assert_eq!(world.decoy.ending, None, "{last} {record}");
        }
    }
}

#[test]
fn what_the_decoy_asks_between_proof_and_handover_is_answered() {
    // A PING and a KeyUpdate behind the answer's first record.
    let manner = Manner { last: 20_000, key_update_after: Some(5), ping_after: Some(5), ..Manner::default() };
    let mut world = World::new(Options { manner, ..busy() });
    world.run_through();
    assert_eq!(world.decoy.pongs, 1);
    assert_eq!(world.decoy.secrets_updated, 1);
    world.run_for(Duration::from_secs(10));
    assert_eq!(world.decoy.ending, None);
}

#[test]
fn the_decoys_data_never_reaches_a_stream() {
    let mut world = World::new(busy());
    world.run_through();
    let read = world.client_user.read() + world.bridge_user.read();
    let mut data = Vec::new();
    crate::decoy::frame(0, 0, 9, &[0xdd; 5_000], &mut data);
    let before = world.sent(Down).len();
    world.with_decoy(|decoy| decoy.say(23, &data));
    world.run_for(Duration::from_secs(1));
    assert_eq!(world.client_user.read() + world.bridge_user.read(), read);
    assert_eq!(world.sent(Down).len(), before, "nor the wire");
    assert!(world.decoy.credit >= 5_000 || world.decoy.ending.is_none());
}

#[test]
fn a_reset_after_a_fin_is_passed_on() {
    let mut world = World::new(busy());
    world.run_through();
    world.with_decoy(crate::decoy::Decoy::go_away);
    world.hold(Up, true);
    world.run_for(Duration::from_secs(1));
    assert_eq!(world.ended(Down), Some(Close::Fin));
    world.inject_end(crate::world::FromDecoy, Close::Reset);
    world.run_for(Duration::from_secs(1));
    assert_eq!(world.ended(Down), Some(Close::Reset));
    assert!(world.bridge().is_none());
}

#[test]
fn an_idle_client_asks_for_no_time() {
    let mut world = World::new(busy());
    world.run_through();
    world.run_for(Duration::from_secs(5));
    world.with_client(|client, now| {
        use qnet_proto::carrier::Carrier;
        client.flush(now);
        assert_eq!(client.deadline(), None);
        assert!(client.held() < 40_000, "{}", client.held());
    });
    assert!(!world.client_events.iter().any(|e| matches!(e, Event::Ended(_))));
}

/// What comes down is withheld for longer than the decoy bears silence, while the client uploads: little at a time, or all that
/// its credit allows.
#[test]
fn an_upload_survives_a_silent_bridge() {
    for (size, pause) in [(1_000, 500), (300_000, 500), (3_000_000, 60_000)] {
        let idle = Duration::from_secs(5);
        let manner = Manner { idle: Some(idle), ..Manner::default() };
        let facts = DecoyFacts { idle_limit: Some(idle), ..DecoyFacts::default() };
        let mut world = World::new(Options { manner, facts, ..Options::default() });
        world.run_through();
        world.hold(Down, true);
        let held = world.now;
        while world.now < held + Duration::from_secs(16) {
            world.client_user.add(Plan { up: size, down: 10 });
            world.bridge_user.add(Plan { up: size, down: 10 });
            let left = held + Duration::from_secs(16) - world.now;
            world.run_for(Duration::from_millis(pause).min(left));
        }
        assert_eq!(world.decoy.ending, None, "{size} every {pause} ms");
        world.hold(Down, false);
        world.run_through();
    }
}
