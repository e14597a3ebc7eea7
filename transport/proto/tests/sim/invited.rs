//! A bridge by invitation that shuts a client out: before its session began, and in the middle of it.

use std::time::Duration;

use qnet_proto::Ended;
use qnet_proto::admission::Admission;
use qnet_proto::carrier::{Carrier as _, Event};
use qnet_proto::session::{lock, lock_sessions};
use qnet_wire::key::IdentityKey;

use crate::user::Plan;
use crate::world::{Options, World};

fn client() -> IdentityKey {
    IdentityKey::from_bytes([0x31; 32])
}

fn other() -> IdentityKey {
    IdentityKey::from_bytes([0x32; 32])
}

fn admitting(clients: &[&IdentityKey]) -> Admission {
    Admission::Invited(clients.iter().map(|key| key.public().0).collect())
}

/// A bridge that invites two clients, of whom one is there with more to fetch than a second brings.
fn world() -> World {
    let plans = vec![Plan { up: 1_000, down: 40_000_000 }];
    let admission = admitting(&[&client(), &other()]);
    World::new(Options { admission, invitation: Some(client()), plans, ..Options::default() })
}

/// Shuts out all but these, as a bridge does when its list changes. How many sessions ended.
fn admit(world: &World, clients: &[&IdentityKey]) -> usize {
    let config = &world.config;
    config.door.set(&config.identity, &admitting(clients));
    let ended = lock_sessions(&config.sessions).cut(|client| !config.door.admits(client));
    ended.len()
}

#[test]
fn a_session_ends_at_once_when_its_client_is_shut_out() {
    let mut world = world();
    world.run_until_up();
    world.run_for(Duration::from_millis(200));
    let before = world.client_user.read();
    assert!(before > 0, "nothing to cut");
    assert_eq!(admit(&world, &[&client()]), 0, "another's invitation is none of this session's");
    world.run_for(Duration::from_millis(100));
    assert!(world.client_end().is_none() && world.client_user.read() > before);

    assert_eq!(admit(&world, &[]), 1);
    let session = std::sync::Arc::clone(world.client().unwrap().session().unwrap());
    world.run_for(Duration::from_millis(500));
    assert_eq!(lock(&session).ended(), Some(Ended::PeerClosed), "the client is told");
    assert!(lock_sessions(&world.config.sessions).is_empty());
    let read = world.client_user.read();
    world.run_for(Duration::from_secs(5));
    assert_eq!(world.client_user.read(), read, "data went on");
}

#[test]
fn who_is_shut_out_between_knock_and_session_gets_none() {
    for up in [false, true] {
        let mut world = world();
        world.run(Duration::from_secs(30), |world| {
            world.bridge_events.contains(&Event::Proved) && (!up || world.is_up())
        });
        assert_eq!(admit(&world, &[&other()]), usize::from(up));
        world.run_for(Duration::from_secs(10));
        assert!(lock_sessions(&world.config.sessions).is_empty(), "up: {up}");
        assert!(world.client_user.read() < 8_000_000, "up: {up}: the session went on");
    }
}
