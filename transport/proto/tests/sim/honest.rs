//! Nobody interferes: every byte arrives once and in order, whatever the links do, and the decoy sees a visitor.

use std::time::Duration;

use qnet_proto::Ended;
use qnet_proto::bridge::DecoyFacts;
use qnet_proto::carrier::{Close, Event};
use qnet_proto::knock::Field;
use qnet_proto::tls::Suite;

use crate::decoy::{Decoy, Ending, Manner};
use crate::user::Plan;
use crate::world::{Down, Options, Up, World, lengths};

fn plans(n: usize) -> Vec<Plan> {
    (0..n).map(|i| Plan { up: i * 3_777 % 50_000, down: (i + 1) * 40_009 % 300_000 }).collect()
}

#[test]
fn a_tunnel_comes_up_and_carries_data() {
    let mut world = World::new(Options::default());
    world.run_until_up();
    world.run_through();
    assert_eq!(world.decoy.ending, None);
}

#[test]
fn every_byte_arrives_once_however_the_links_cut_and_delay() {
    for seed in 0..5 {
        for cut in [1, 7, 100, 3_000, 100_000] {
            let size = if cut < 100 { 2 } else { 8 };
            let options = Options {
                seed,
                cut,
                jitter: Duration::from_millis(seed * 3),
                hello: seed as usize,
                early: seed % 2 == 0,
                plans: plans(if cut == 1 { 1 } else { size }),
                ..Options::default()
            };
            let mut world = World::new(options);
            world.client_user.eager = seed % 2 == 0;
            world.run_through();
            assert_eq!(world.decoy.ending, None, "seed {seed}, cut {cut}");
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let run = |seed| {
        let mut world = World::new(Options {
            seed,
            cut: 500,
            jitter: Duration::from_millis(5),
            plans: plans(3),
            ..Options::default()
        });
        world.run_through();
        world.trace()
    };
    assert_eq!(run(5), run(5));
    assert_ne!(run(5), run(6));
}

#[test]
fn every_suite_and_both_forms_of_the_knock_work() {
    for suite in [Suite::Aes128GcmSha256, Suite::Aes256GcmSha384, Suite::ChaCha20Poly1305Sha256] {
        for field in [Field::Padding, Field::Cookie] {
            let manner = Manner { suite, ..Manner::default() };
            let mut world = World::new(Options { manner, field, ..Options::default() });
            world.run_through();
        }
    }
}

#[test]
fn half_closed_streams_go_on_in_the_other_direction() {
    let plans = vec![Plan { up: 0, down: 200_000 }, Plan { up: 200_000, down: 0 }, Plan { up: 0, down: 0 }];
    let mut world = World::new(Options { plans, ..Options::default() });
    world.run_through();
}

#[test]
fn keys_change_after_ten_minutes_with_the_next_data() {
    let mut world = World::new(Options::default());
    world.run_through();
    for round in 1..=3 {
        world.run_for(Duration::from_secs(10 * 60 + 1));
        world.client_user.add(Plan { up: 70_000, down: 70_000 });
        world.bridge_user.add(Plan { up: 70_000, down: 70_000 });
        world.run_through();
        assert_eq!(world.client_user.opened(), 1 + round);
    }
    assert_eq!((world.client_end(), world.bridge_end()), (None, None));
}

#[test]
fn an_idle_tunnel_ends_as_the_decoy_ends_it_with_records_of_its_sizes() {
    let manner = Manner { idle: Some(Duration::from_secs(5)), ..Manner::default() };
    let mut world = World::new(Options { manner, ..Options::default() });
    world.run_through();
    let before = lengths(world.sent(Down)).len();
    world.run_for(Duration::from_secs(30));
    assert_eq!(world.decoy.ending, Some(Ending::Idle));
    assert_eq!(lengths(world.sent(Down))[before..], [34, 19]);
    assert_eq!(world.ended(Down), Some(Close::Fin));
    assert_eq!(world.client_end(), Some(Ended::DecoyEnded));
    assert_eq!(world.bridge_end(), Some(Ended::DecoyEnded));
    assert_eq!(world.ended(Up), Some(Close::Fin));
    assert!(world.bridge().is_none(), "the bridge's carrier is finished");
}

#[test]
fn a_decoy_that_says_goodbye_with_a_ping_is_closed_by_the_client() {
    let mut world = World::new(Options::default());
    world.run_through();
    world.run_for(Duration::from_secs(5));
    let (before, pongs) = (lengths(world.sent(Down)).len(), world.decoy.pongs);
    world.with_decoy(Decoy::say_goodbye);
    world.run_for(Duration::from_secs(1));
    // As with a visitor whose browser closes what goes away: nothing comes before that is through.
    assert_eq!(lengths(world.sent(Down))[before..], [51]);
    assert_eq!((world.ended(Up), world.decoy.ending), (Some(Close::Fin), Some(Ending::PeerFin)));
    assert_eq!((world.ended(Down), world.decoy.pongs), (Some(Close::Fin), pongs));
    assert_eq!(world.client_end(), Some(Ended::DecoyEnded));
}

#[test]
fn a_busy_tunnel_outlives_the_decoys_idle_limit() {
    let manner = Manner { idle: Some(Duration::from_secs(5)), ..Manner::default() };
    let mut world = World::new(Options { manner, ..Options::default() });
    world.run_through();
    let requests = world.decoy.requests;
    for _ in 0..40 {
        world.run_for(Duration::from_secs(3));
        let plan = Plan { up: 100, down: 100 };
        world.client_user.add(plan);
        world.bridge_user.add(plan);
        world.run_through();
    }
    assert_eq!(world.decoy.ending, None);
    assert!(world.decoy.requests > requests + 20);
}

#[test]
fn the_end_of_the_decoys_lifetime_is_announced_to_quiet_tunnels_too() {
    for busy in [true, false] {
        let facts = DecoyFacts { lifetime: Some(Duration::from_secs(100)), ..DecoyFacts::default() };
        let mut world = World::new(Options { facts, ..Options::default() });
        world.run_through();
        while busy && world.now < world.begun + Duration::from_secs(80) {
            world.run_for(Duration::from_secs(3));
            let plan = Plan { up: 100, down: 100 };
            world.client_user.add(plan);
            world.bridge_user.add(plan);
            world.run_through();
        }
        // A tenth before the end, as old as the connection then is.
        let begun = world.begun;
        for (until, expected) in [(Duration::from_millis(89_900), false), (Duration::from_secs(91), true)] {
            let left = until.saturating_sub(world.now - begun);
            world.run_for(left);
            assert_eq!(
                world.client_events.contains(&Event::GoingAway),
                expected,
                "busy {busy}, after {until:?}"
            );
        }
        assert!(world.bridge_events.contains(&Event::GoingAway));
        assert_eq!((world.client_end(), world.bridge_end()), (None, None));
    }
}
