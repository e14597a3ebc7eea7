//! What must stay an ordinary visit: before the proof, whatever does not fit, and what a visitor's connection is like.

use std::time::Duration;

use qnet_proto::Ended;
use qnet_proto::admission::Admission;
use qnet_proto::bridge::DecoyFacts;
use qnet_proto::carrier::{Close, Event};
use qnet_wire::key::IdentityKey;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;

use crate::decoy::{Ending, Manner};
use crate::hellos;
use crate::world::{Down, FromDecoy, Options, ToDecoy, Up, World, lengths};

/// Both ends exchanged the same bytes as if the bridge were a wire.
fn assert_a_wire(world: &World) {
    assert_eq!(world.taken(Up), world.sent(ToDecoy), "up is as it was");
    assert_eq!(world.taken(FromDecoy), world.sent(Down), "down is as it was");
}

/// No tunnel came to be, and the client finds out.
fn assert_no_proof(world: &mut World) {
    world.run(Duration::from_secs(30), |world| world.client_end().is_some());
    assert_eq!(world.client_end(), Some(Ended::NoProof));
    assert!(!world.proved());
    assert!(!world.bridge_events.contains(&Event::Proved));
    assert_a_wire(world);
}

/// How many records the load sends up to the knock, ClientHello, ChangeCipherSpec and Finished included.
fn knock_number() -> usize {
    let mut world = World::new(Options::default());
    world.run(Duration::from_secs(30), World::proved);
    // The knock is the last record before message 1, which the client sent as soon as it saw the proof.
    crate::world::records(world.taken(Up)).len() - 1
}

#[test]
fn without_a_proof_the_client_fails_and_idles_as_a_browser_for_five_minutes() {
    let mut world = World::new(Options { allowed: false, ..Options::default() });
    assert_no_proof(&mut world);
    let answered = world.now;
    let (sent, events) = (world.sent(Up).len(), world.client_events.len());
    assert!(world.now - world.begun < Duration::from_secs(5));
    world.run(Duration::from_secs(400), |world| world.ended(Up).is_some());
    assert_eq!(world.ended(Up), Some(Close::Fin));
    assert_eq!(world.sent(Up).len(), sent, "silence");
    assert_eq!(world.client_events.len(), events);
    let waited = world.now - answered;
    assert!((Duration::from_secs(296)..Duration::from_secs(301)).contains(&waited), "{waited:?}");
}

#[test]
fn a_client_without_proof_answers_what_a_browser_answers() {
    let mut world = World::new(Options { allowed: false, ..Options::default() });
    assert_no_proof(&mut world);
    let mut ping = Vec::new();
    crate::decoy::frame(6, 0, 0, &[4; 8], &mut ping);
    world.with_decoy(|decoy| decoy.say(23, &ping));
    world.run_for(Duration::from_secs(1));
    assert_eq!(world.decoy.pongs, 1);
    world.with_decoy(crate::decoy::Decoy::go_away);
    world.run_for(Duration::from_secs(1));
    assert_eq!(world.ended(Up), Some(Close::Fin));
    assert_eq!(world.decoy.ending, Some(Ending::Idle));
    assert_a_wire(&world);
}

#[test]
fn a_token_under_another_key_is_a_visitors() {
    let key = IdentityKey::generate(&mut ChaCha20Rng::from_seed([8; 32]));
    let mut world = World::new(Options { bridge: key, ..Options::default() });
    assert_no_proof(&mut world);
    assert!(world.bridge().unwrap().is_visitor());
}

#[test]
fn a_replayed_token_is_a_visitors() {
    let mut first = World::new(Options::default());
    first.run_until_up();
    let options =
        Options { knocked: Some(std::sync::Arc::clone(&first.config)), seed: 2, ..Options::default() };
    let mut second = World::new(options);
    assert_no_proof(&mut second);
    let knocked = Some(std::sync::Arc::clone(&first.config));
    World::new(Options { knocked, hello: 3, ..Options::default() }).run_until_up();
}

#[test]
fn a_repeated_flight_meets_another_server_hello_and_proves_nothing() {
    // A censor repeats everything a client sent, bit for bit, against a decoy that is another connection's.
    let mut first = World::new(Options::default());
    first.run(Duration::from_secs(30), World::proved);
    let sent = first.taken(Up).to_vec();
    let manner = Manner { random: [0x77; 32], ..Manner::default() };
    let mut second = World::new(Options { manner, ..Options::default() });
    second.hold(Up, true);
    second.run_for(Duration::from_millis(1));
    second.replace(Up, &sent);
    second.run_for(Duration::from_secs(10));
    assert!(!second.bridge_events.contains(&Event::Proved));
    assert_a_wire(&second);
}

#[test]
fn a_hello_retry_is_a_visitors() {
    let manner = Manner { random: hellos::hello_retry_random(), ..Manner::default() };
    let mut world = World::new(Options { manner, ..Options::default() });
    assert_no_proof(&mut world);
}

#[test]
fn an_uninvited_client_stays_a_visitor_and_an_invited_one_is_let_in() {
    let mut rng = ChaCha20Rng::from_seed([9; 32]);
    let keys: Vec<_> = (0..3).map(|_| IdentityKey::generate(&mut rng)).collect();
    let admission = Admission::Invited(keys[..2].iter().map(|key| key.public().0).collect());
    for key in &keys[..2] {
        let (admission, invitation) = (admission.clone(), Some(key.clone()));
        World::new(Options { admission, invitation, ..Options::default() }).run_through();
    }
    // Nobody is invited by an empty list.
    let nobody = Admission::Invited(Vec::new());
    for (admission, invitation) in [
        (&admission, None),
        (&admission, Some(keys[2].clone())),
        (&nobody, None),
        (&nobody, Some(keys[0].clone())),
    ] {
        let mut world =
            World::new(Options { admission: admission.clone(), invitation, ..Options::default() });
        assert_no_proof(&mut world);
    }
    // The invited client of an open bridge is none of its own.
    let mut world = World::new(Options { invitation: Some(keys[0].clone()), ..Options::default() });
    assert_no_proof(&mut world);
}

#[test]
fn a_knock_with_any_bit_changed_proves_nothing() {
    let knock = knock_number();
    // In the field, before it, in the tag, in the header of the record before: a sample of each.
    for (back, bit) in (0..26).map(|n| (n, n % 8)).chain([(40, 3), (50, 0)]) {
        let mut world = World::new(Options::default()).with_filter(Up, move |number, mut record| {
            if number == knock {
                let at = record.len() - 1 - back;
                record[at] ^= 1 << bit;
            }
            record
        });
        world.run_for(Duration::from_secs(10));
        // The decoy finds the record spoilt and says so: the bridge adds nothing.
        assert_eq!(world.decoy.ending, Some(Ending::BadRecord), "{back}");
        assert!(!world.bridge_events.contains(&Event::Proved), "{back}");
        assert_a_wire(&world);
        // As Chrome: a GOAWAY of 64 bytes, then FIN.
        assert_eq!(lengths(world.sent(Up)).last(), Some(&64), "{back}");
        assert_eq!(world.ended(Up), Some(Close::Fin));
    }
}

#[test]
fn every_byte_the_client_sent_is_in_the_knock() {
    let knock = knock_number();
    // One changed bit in any earlier record: the decoy ends it there, and there is no knock to answer.
    for spoilt in 1..knock {
        let mut world = World::new(Options::default()).with_filter(Up, move |number, mut record| {
            if number == spoilt {
                record[5] ^= 1;
            }
            record
        });
        world.run_for(Duration::from_secs(10));
        assert!(!world.bridge_events.contains(&Event::Proved), "{spoilt}");
        assert_a_wire(&world);
    }
}

#[test]
fn a_client_byte_between_knock_and_proof_makes_a_visitor() {
    for with_knock in [true, false] {
        let knock = knock_number();
        let mut world = World::new(Options::default());
        if with_knock {
            // In the same segment.
            world.set_filter(Up, move |number, mut record| {
                if number == knock {
                    record.push(23);
                }
                record
            });
        } else {
            world.hold(FromDecoy, false);
            world.run(Duration::from_secs(30), |world| crate::world::records(world.taken(Up)).len() > knock);
            world.hold(FromDecoy, true);
            world.inject(Up, &[23]);
            world.run_for(Duration::from_millis(100));
            world.hold(FromDecoy, false);
        }
        world.run_for(Duration::from_secs(10));
        assert!(world.bridge().is_none_or(|bridge| bridge.is_visitor()));
        assert!(!world.bridge_events.contains(&Event::Proved));
        assert_a_wire(&world);
        assert_eq!(world.client_end(), Some(Ended::NoProof));
    }
}

#[test]
fn a_short_first_record_is_no_answer() {
    // GOAWAY and alert come instead of an answer.
    let knock = knock_number();
    let mut world = World::new(Options {
        manner: Manner { mute_at: Some(5), ..Manner::default() },
        ..Options::default()
    });
    world.run(Duration::from_secs(30), |world| crate::world::records(world.taken(Up)).len() > knock);
    world.with_decoy(crate::decoy::Decoy::go_away);
    world.run_for(Duration::from_secs(5));
    assert_eq!(world.client_end(), Some(Ended::NoProof));
    assert!(!world.bridge_events.contains(&Event::Proved));
    assert_a_wire(&world);
}

#[test]
fn a_knock_that_crosses_the_decoys_goodbye_proves_nothing() {
    let knock = knock_number();
    let crossing = |silence: Duration| {
        let mut world = World::new(Options::default());
        world.run(Duration::from_secs(30), |world| crate::world::records(world.sent(Up)).len() > knock);
        world.hold(Up, true);
        world.run_for(silence);
        world.with_decoy(crate::decoy::Decoy::say_goodbye);
        world.run_for(Duration::from_millis(1));
        world.hold(Up, false);
        world
    };
    let mut world = crossing(Duration::from_secs(1));
    world.run_for(Duration::from_secs(10));
    // The decoy answers all the same.
    assert_eq!(world.decoy.requests, 5);
    assert!(!world.bridge_events.contains(&Event::Proved));
    assert_a_wire(&world);
    // What comes beside the answers before may belong to them.
    let mut world = crossing(Duration::from_millis(100));
    world.run_for(Duration::from_secs(10));
    assert!(world.bridge_events.contains(&Event::Proved));
}

/// Its answers come after long silences and end in frames as short as a goodbye.
#[test]
fn a_decoy_that_takes_its_time_is_not_taken_for_one_that_says_goodbye() {
    for seed in 0..8 {
        let manner = Manner { empty_end: true, ..Manner::default() };
        let mut world = World::new(Options { manner, seed, ..Options::default() });
        for _ in 0..40 {
            world.hold(FromDecoy, true);
            world.run_for(Duration::from_millis(700));
            world.hold(FromDecoy, false);
            world.run_for(Duration::from_millis(1));
        }
        assert!(world.is_up(), "seed {seed}: {:?}", world.bridge_events);
    }
}

#[test]
fn a_record_begun_before_the_knock_is_no_answer() {
    // A long record is half through when the knock comes; the answer's own first record follows later.
    let knock = knock_number();
    let manner = Manner { mute_at: Some(5), ..Manner::default() };
    let mut world = World::new(Options { manner, ..Options::default() });
    let knocked = move |world: &World| crate::world::records(world.taken(Up)).len() > knock;
    assert!(world.run(Duration::from_secs(30), |world| world.decoy.requests == 4
        && !world.sent(Up).is_empty()
        && crate::world::records(world.sent(Up)).len() > knock));
    // The knock is on its way. The decoy begins a record.
    let mut record = Vec::new();
    world.with_decoy(|decoy| {
        decoy.say(23, &[&[0, 0, 200, 0xfe, 0, 0, 0, 0, 0][..], &[1; 200]].concat());
        record = decoy.take_out();
    });
    world.inject(FromDecoy, &record[..3]);
    world.run(Duration::from_secs(30), knocked);
    world.run_for(Duration::from_millis(2));
    world.inject(FromDecoy, &record[3..]);
    world.run_for(Duration::from_millis(500));
    assert!(!world.bridge_events.contains(&Event::Proved));
    // Now the answer.
    world.with_decoy(|decoy| decoy.say(23, &[&[0, 0, 200, 0xfe, 0, 0, 0, 0, 0][..], &[1; 200]].concat()));
    world.run_for(Duration::from_millis(500));
    assert!(world.bridge_events.contains(&Event::Proved) && world.proved());
}

#[test]
fn a_knock_lies_in_the_first_64_kib_however_the_stream_is_cut() {
    let mut plain = World::new(Options::default());
    plain.run(Duration::from_secs(30), World::proved);
    let knock_ends = plain.taken(Up).len() - hellos::hello(0).flight.len();
    for (over, proves) in [(0, true), (1, false), (5_000, false)] {
        for cut in [1, 100_000] {
            let sent_before = 65_536 - knock_ends + over;
            let mut world = World::new(Options { sent_before, cut, ..Options::default() });
            if proves {
                world.run_until_up();
            } else {
                assert_no_proof(&mut world);
            }
        }
    }
}

#[test]
fn an_answer_without_end_or_an_end_without_answer_proves_nothing() {
    let manner = Manner { mute_at: Some(5), ..Manner::default() };
    for how in [Close::Fin, Close::Reset] {
        let knock = knock_number();
        let mut world = World::new(Options { manner: manner.clone(), ..Options::default() });
        world.run(Duration::from_secs(30), |world| crate::world::records(world.taken(Up)).len() > knock);
        world.inject_end(FromDecoy, how);
        world.run_for(Duration::from_secs(2));
        assert_eq!(world.ended(Down), Some(how));
        let why = if how == Close::Fin { Ended::NoProof } else { Ended::Reset };
        assert_eq!(world.client_end(), Some(why));
        assert!(!world.bridge_events.contains(&Event::Proved));
    }
}

#[test]
fn ends_go_on_as_they_are_in_every_state() {
    let points: [fn(&World) -> bool; 6] = [
        |world| !world.taken(Up).is_empty(),
        |world| !world.taken(Down).is_empty(),
        |world| world.decoy.requests == 1,
        |world| world.decoy.requests == 5,
        |world| world.proved(),
        |world| world.is_up(),
    ];
    for (at, point) in points.into_iter().enumerate() {
        for how in [Close::Fin, Close::Reset] {
            for link in [Up, FromDecoy] {
                let mut world = World::new(Options::default());
                assert!(world.run(Duration::from_secs(30), point), "point {at}");
                world.inject_end(link, how);
                world.run_for(Duration::from_secs(2));
                let onward = if link == Up { ToDecoy } else { Down };
                assert_eq!(world.ended(onward), Some(how), "point {at}, {link:?}");
                world.run_for(Duration::from_secs(400));
                assert!(world.bridge().is_none(), "point {at}, {link:?}, {how:?}: the bridge lets go");
            }
        }
    }
}

#[test]
fn a_key_update_of_the_decoys_in_the_load_is_followed() {
    for at in 1..=5 {
        let manner = Manner { key_update_at: Some(at), ..Manner::default() };
        let mut world = World::new(Options { manner, ..Options::default() });
        if at < 5 {
            world.run_until_up();
            world.run_through();
            world.run_for(Duration::from_secs(3));
            assert_eq!(world.decoy.ending, None, "at {at}");
        } else {
            // In the knock's own answer it is a short first record.
            assert_no_proof(&mut world);
        }
    }
}

/// Messages 1 and 2, message 3 and HANDOVER take 60 ms from the proof on; the bridge's own first PING comes after them.
#[test]
fn a_key_update_of_the_decoys_in_the_inner_handshake_is_followed() {
    for after in (0..90).step_by(5) {
        for times in 1..=2 {
            let mut world = World::new(Options::default());
            assert!(world.run(Duration::from_secs(30), World::proved));
            world.run_for(Duration::from_millis(after));
            for _ in 0..times {
                world.with_decoy(|decoy| decoy.ask(true, true));
            }
            world.run_through();
            for _ in 0..3 {
                world.run_for(Duration::from_secs(3));
                world.client_user.add(crate::user::Plan { up: 10, down: 10 });
                world.bridge_user.add(crate::user::Plan { up: 10, down: 10 });
                world.run_through();
            }
            world.run_for(Duration::from_secs(1));
            let told = (world.client_end(), world.bridge_end(), world.decoy.ending);
            assert_eq!(told, (None, None, None), "{times} after {after} ms");
            assert_eq!(world.decoy.secrets_updated, times, "{times} after {after} ms");
        }
    }
}

#[test]
fn the_facts_of_a_decoy_with_few_requests_are_kept_to() {
    let facts =
        DecoyFacts { max_requests: 40, idle_limit: Some(Duration::from_secs(5)), ..DecoyFacts::default() };
    let manner = Manner { idle: Some(Duration::from_secs(5)), ..Manner::default() };
    let mut world = World::new(Options { facts, manner, ..Options::default() });
    world.run_through();
    for _ in 0..200 {
        world.run_for(Duration::from_millis(700));
        let plan = crate::user::Plan { up: 10, down: 10 };
        if world.client_end().is_some() || world.client_events.contains(&Event::GoingAway) {
            break;
        }
        world.client_user.add(plan);
        world.bridge_user.add(plan);
        world.run_through();
    }
    assert!(world.client_events.contains(&Event::GoingAway));
    world.run_for(Duration::from_secs(60));
    assert!(world.decoy.requests < 40, "{}", world.decoy.requests);
    assert_eq!(world.decoy.ending, Some(Ending::Idle));
}
