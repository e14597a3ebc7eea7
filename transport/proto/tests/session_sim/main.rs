//! Sessions as a whole: a client and a bridge in virtual time, over carriers that are cut, stand still, announce their end, are
//! replaced and striped as a seed says, and a bridge that may forget. Whatever happens, what is read of a stream is what was
//! written, once and in order; and once the carriers are left in peace, all of it arrives.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]
#![allow(clippy::cast_possible_truncation, reason = "patterns and small numbers")]

mod link;
mod user;
mod world;

use world::World;

/// Seeds in all, over [`PARTS`] tests that run side by side.
const SEEDS: u64 = 10_000;
const PARTS: u64 = 4;

fn part(number: u64) {
    for seed in (0..SEEDS).filter(|seed| seed % PARTS == number) {
        World::run(seed);
    }
}

#[test]
fn first_quarter_of_the_seeds() {
    part(0);
}

#[test]
fn second_quarter_of_the_seeds() {
    part(1);
}

#[test]
fn third_quarter_of_the_seeds() {
    part(2);
}

#[test]
fn last_quarter_of_the_seeds() {
    part(3);
}

/// The runs are worth something only if what they are about happens in them.
#[test]
fn everything_that_can_happen_does() {
    let mut all = world::Seen::default();
    for seed in 0..300 {
        all.add(&World::run(seed).seen);
    }
    assert!(all.is_complete(), "{all:?}");
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in 0..100 {
        assert_eq!(World::run(seed).trace, World::run(seed).trace, "seed {seed}");
    }
    assert_ne!(World::run(1).trace, World::run(2).trace);
}
