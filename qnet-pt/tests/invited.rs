//! A bridge by invitation that a parent starts, and clients with and without an invitation among their arguments.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed step is a failed test")]
#![allow(clippy::disallowed_methods, reason = "a parent has a clock and waits")]

mod support;

use std::fs;
use std::io::Read as _;
use std::path::Path;

use qnet_wire::invitation::{Invitation, InvitedList};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng as _;
use support::{Launch, Tunnel, closed_port, options, shared_decoy, talk};

/// The reply for a bridge that does not prove itself.
const HOST_UNREACHABLE: u8 = 4;

fn invitation(seed: u8) -> Invitation {
    Invitation::generate(&mut ChaCha20Rng::from_seed([seed; 32]))
}

fn write(path: &Path, clients: &[(&str, &Invitation)]) {
    let mut list = InvitedList::default();
    for (name, invitation) in clients {
        list.invite(name.parse().unwrap(), invitation.key().public()).unwrap();
    }
    let beside = path.with_extension("new");
    fs::write(&beside, list.to_file_text()).unwrap();
    fs::rename(beside, path).unwrap();
}

fn by_invitation(launch: &mut Launch, list: &Path) {
    let site = shared_decoy();
    let options = format!("{};qnet:invited={}", options(site.address(), site.name()), list.display());
    launch.env("TOR_PT_SERVER_TRANSPORT_OPTIONS", options);
}

#[test]
fn an_invitation_among_the_arguments_opens_the_bridge_until_it_is_revoked() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("invited");
    let (alice, bob) = (invitation(1), invitation(2));
    write(&path, &[("alice", &alice), ("bob", &bob)]);
    let mut tunnel = Tunnel::with(|_| {}, |server| by_invitation(server, &path));
    assert!(!tunnel.args.contains("invite"), "what is published opens nothing: {}", tunnel.args);
    assert_eq!(tunnel.open().unwrap_err(), HOST_UNREACHABLE);
    let plain = tunnel.args.clone();
    let with = |invitation: &Invitation| format!("{plain};invite={}", *invitation.expose_text());

    tunnel.args = with(&bob);
    let (mut bobs, mut behind_bob) = tunnel.ends();
    talk(&mut bobs, &mut behind_bob);
    tunnel.args = with(&alice);
    let (mut alices, mut behind_alice) = tunnel.ends();
    talk(&mut alices, &mut behind_alice);

    write(&path, &[("bob", &bob)]);
    for end in [&mut alices, &mut behind_alice] {
        let ended = end.read(&mut [0]);
        let reset = |error: std::io::Error| error.kind() == std::io::ErrorKind::ConnectionReset;
        assert!(matches!(ended, Ok(0)) || ended.is_err_and(reset), "the client or tor goes on");
    }
    assert_eq!(tunnel.open().unwrap_err(), HOST_UNREACHABLE);
    talk(&mut bobs, &mut behind_bob);

    // What either said, and neither names anybody nor shows a secret.
    let Tunnel { mut client, mut server, .. } = tunnel;
    client.close_stdin();
    server.close_stdin();
    for said in [client.all(), server.all()].concat() {
        for word in ["alice", "bob", alice.expose_text().as_str(), bob.expose_text().as_str()] {
            assert!(!said.contains(word), "{said}");
        }
    }
}

#[test]
fn a_list_that_cannot_be_used_keeps_the_bridge_from_starting() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("invited");
    let message = || {
        let mut launch = Launch::server(closed_port());
        by_invitation(&mut launch, &path);
        let lines = launch.start().configured();
        lines.iter().find_map(|line| line.strip_prefix("SMETHOD-ERROR qnet ")).unwrap().to_owned()
    };
    assert!(message().contains("there is no list of invited clients"), "{}", message());
    fs::write(&path, "qnet invited clients, version 1\nalice\n").unwrap();
    let said = message();
    assert!(said.contains("/invited, line 2: expected a name, a space and a key"), "{said}");
}
