//! Every profile, over whole carriers: the same bytes arrive, it costs no more than it says, and it comes to rest.

use std::time::Duration;

use qnet_proto::shape::{MAX_HOLD, Shape};

use crate::user::Plan;
use crate::world::{Down, Options, Up, World};

fn plans() -> Vec<Plan> {
    let one = |up, down| Plan { up, down };
    vec![one(1_850, 4_900), one(600, 220_000), one(0, 900), one(70_000, 3_000)]
}

fn each(mut test: impl FnMut(&str, Shape)) {
    for shape in Shape::all() {
        test(&shape.profile().name, shape);
    }
}

#[test]
fn every_byte_arrives_once_under_each_profile() {
    each(|name, shape| {
        for (seed, cut) in [(1, 50), (2, 1_448), (3, 100_000)] {
            let jitter = Duration::from_millis(seed * 3);
            let options = Options { seed, cut, jitter, shape, plans: plans(), ..Options::default() };
            let mut world = World::new(options);
            world.run_through();
            assert_eq!(world.decoy.ending, None, "{name}, seed {seed}, cut {cut}");
        }
    });
}

#[test]
fn each_profile_costs_no_more_than_it_says() {
    each(|name, shape| {
        let mut world = World::new(Options { shape, plans: plans(), ..Options::default() });
        world.run_through();
        world.run_for(Duration::from_secs(30));
        let bounds = shape.profile().bounds;
        for counters in world.shaping() {
            let share = counters.carried * u64::from(bounds.per_mille) / 1_000;
            assert!(counters.padding <= u64::from(bounds.allowance) + share, "{name}: {counters:?}");
            let most = MAX_HOLD.min(Duration::from_millis(bounds.hold_ms.into()));
            let records = u32::try_from(counters.records).unwrap() + 1;
            assert!(counters.held <= most * records, "{name}: {counters:?}");
        }
    });
}

#[test]
fn each_profile_but_none_adds_something() {
    each(|name, shape| {
        let padding = |seed| {
            let mut world = World::new(Options { seed, shape, plans: plans(), ..Options::default() });
            world.run_through();
            world.run_for(Duration::from_secs(10));
            world.shaping().iter().map(|counters| counters.padding).sum::<u64>()
        };
        let all: u64 = (1..6).map(padding).sum();
        assert_eq!(all > 0, name != "none", "{name}: {all}");
    });
}

#[test]
fn a_carrier_without_data_sends_nothing_unless_its_profile_has_cover() {
    each(|name, shape| {
        // Cover is there for that: as long as a stream is open.
        if shape.profile().idle.is_some() {
            return;
        }
        let mut world = World::new(Options { shape, plans: plans(), ..Options::default() });
        world.run_through();
        world.run_for(Duration::from_secs(15));
        let before = [Up, Down].map(|link| world.sent(link).len());
        world.run_for(Duration::from_secs(100));
        assert_eq!([Up, Down].map(|link| world.sent(link).len()), before, "{name}");
    });
}

#[test]
fn a_second_load_comes_through_after_a_long_rest_under_each_profile() {
    each(|name, shape| {
        let mut world = World::new(Options { shape, plans: plans(), ..Options::default() });
        world.run_through();
        // Keys change with what comes next.
        world.run_for(Duration::from_secs(10 * 60 + 1));
        let begun = world.now;
        for plan in plans() {
            world.client_user.add(plan);
            world.bridge_user.add(plan);
        }
        world.run_through();
        assert!(world.now - begun < Duration::from_secs(20), "{name}: {:?}", world.now - begun);
    });
}
