//! A download that stands still is the decoy's to judge: it sees one as well, and what it does about it shows.

use std::time::Duration;

use crate::decoy::{Ending, Impatience, Manner};
use crate::user::Plan;
use crate::world::{Down, Options, Up, World, lengths};
use qnet_proto::carrier::Close;

const IDLE: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(20);
/// More than a session sends ahead of its acknowledgements.
const LONG: usize = 5 << 20;

fn world(patience: Option<Impatience>) -> World {
    let patience = patience.map(|what| (PATIENCE, what));
    let manner = Manner { idle: Some(IDLE), patience, ..Manner::default() };
    let mut world = World::new(Options { manner, ..Options::default() });
    world.run_through();
    world
}

/// Begins a download, whose receiver is not heard any more; until it stands still.
fn withheld(world: &mut World) {
    let plan = Plan { up: 0, down: LONG };
    world.client_user.add(plan);
    world.bridge_user.add(plan);
    let before = world.client_user.read();
    assert!(world.run(Duration::from_secs(5), |world| world.client_user.read() > before + 100_000));
    world.hold(Up, true);
    let stood = world.decoy.stood;
    assert!(world.run(Duration::from_secs(60), |world| world.decoy.stood > stood), "the decoy sees nothing");
}

/// What still came until the end, and after which time that was.
fn rest(world: &mut World, limit: Duration) -> (Vec<usize>, Duration) {
    let (began, before) = (world.now, lengths(world.sent(Down)).len());
    world.run(limit, |world| world.ended(Down).is_some());
    (lengths(world.sent(Down))[before..].to_vec(), world.now - began)
}

fn about(time: Duration, expected: Duration) -> bool {
    time.abs_diff(expected) < Duration::from_millis(10)
}

#[test]
fn a_decoy_that_ends_the_connection_ends_it() {
    let mut world = world(Some(Impatience::Connection));
    withheld(&mut world);
    let (records, time) = rest(&mut world, 10 * PATIENCE);
    assert_eq!(records, [34, 19]);
    assert!(about(time, PATIENCE), "{time:?}");
    assert_eq!((world.ended(Down), world.decoy.ending), (Some(Close::Fin), Some(Ending::Idle)));
}

#[test]
fn a_decoy_that_ends_the_download_shows_that_and_idles_out() {
    let mut world = world(Some(Impatience::Download));
    withheld(&mut world);
    let requests = world.decoy.requests;
    let (records, time) = rest(&mut world, 10 * PATIENCE);
    // A RST_STREAM's length, and after a silence GOAWAY and alert.
    assert_eq!(records, [30, 34, 19]);
    assert!(about(time, PATIENCE + IDLE), "{time:?}");
    assert_eq!(world.decoy.requests, requests, "nothing is asked of it meanwhile");
}

#[test]
fn a_decoy_that_is_patient_keeps_it() {
    let mut world = world(None);
    withheld(&mut world);
    let requests = world.decoy.requests;
    let (records, time) = rest(&mut world, Duration::from_secs(3_600));
    assert_eq!((records.len(), time), (0, Duration::from_secs(3_600)));
    assert_eq!(world.decoy.requests, requests);
    world.hold(Up, false);
    world.run_through();
    // The decoy's download is over with the tunnel's.
    let (records, time) = rest(&mut world, Duration::from_secs(60));
    assert_eq!(records, [34, 19]);
    assert!(time < IDLE + Duration::from_secs(2), "{time:?}");
}

/// Nothing fits into the client's socket: a server that gives up can only close it.
#[test]
fn a_client_whose_socket_stays_full_is_dropped_when_the_decoy_loses_patience() {
    for what in [Impatience::Connection, Impatience::Download] {
        let mut world = world(Some(what));
        let plan = Plan { up: 0, down: 1 << 20 };
        world.client_user.add(plan);
        world.bridge_user.add(plan);
        world.hold(Down, true);
        assert!(world.run(Duration::from_secs(10), |world| world.decoy.stood > 0));
        let (began, sent) = (world.now, world.sent(Down).len());
        assert!(world.run(10 * PATIENCE, |world| world.bridge().is_none()), "{what:?}");
        assert!(about(world.now - began, PATIENCE), "{what:?}: {:?}", world.now - began);
        assert_eq!(world.sent(Down).len(), sent, "{what:?}");
        assert_eq!(world.bridge_end(), Some(qnet_proto::Ended::DecoyEnded), "{what:?}");
    }
}

#[test]
fn a_slow_client_is_not_cut_off() {
    let mut world = world(Some(Impatience::Connection));
    let plan = Plan { up: 0, down: 2 << 20 };
    world.client_user.add(plan);
    world.bridge_user.add(plan);
    let (begun, before) = (world.now, world.client_user.read());
    // Its segments come through in one moment of every patience but a second. (When all has gone the connection is idle.)
    while world.client_user.read() < before + (1 << 20) {
        world.hold(Down, false);
        world.run_for(Duration::from_millis(1));
        world.hold(Down, true);
        world.run_for(PATIENCE - Duration::from_secs(1));
        assert_eq!(world.ended(Down), None, "after {:?}", world.now - begun);
    }
    assert!(world.now - begun > 3 * PATIENCE);
    assert!(world.decoy.stood > 3, "{}", world.decoy.stood);
}

#[test]
fn an_upload_that_stands_still_is_kept_for_a_minute() {
    let mut world = world(Some(Impatience::Connection));
    let plan = Plan { up: 2 << 20, down: 0 };
    world.client_user.add(plan);
    world.bridge_user.add(plan);
    world.run_for(Duration::from_millis(100));
    world.hold(Down, true);
    let (records, time) = rest(&mut world, Duration::from_secs(600));
    assert_eq!(records.last(), Some(&19), "{records:?}");
    assert!((Duration::from_secs(60)..Duration::from_secs(70)).contains(&time), "{time:?}");
    assert_eq!(world.decoy.stood, 0);
}
