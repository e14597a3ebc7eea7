//! The Extended ORPort behind a bridge.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed step is a failed test")]
#![allow(clippy::disallowed_methods, reason = "a parent has a clock and waits")]

mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::time::Duration;
use support::{Launch, Pt, Tunnel, accept, closed_port, extor, listener, socks, talk};
use tempfile::TempDir;

/// A tunnel into an Extended ORPort; the ORPort beside it must never be used.
struct Extended {
    tunnel: Tunnel,
    port: TcpListener,
    cookie: PathBuf,
    _folder: TempDir,
}

impl Extended {
    fn new() -> Self {
        let (port, address) = listener();
        let folder = tempfile::tempdir().unwrap();
        let cookie = folder.path().join("cookie");
        extor::write_cookie(&cookie);
        let env = |server: &mut Launch| {
            server.env("TOR_PT_EXTENDED_SERVER_PORT", address.to_string());
            server.env("TOR_PT_AUTH_COOKIE_FILE", &cookie);
        };
        let tunnel = Tunnel::with(|_| {}, env);
        Self { tunnel, port, cookie, _folder: folder }
    }

    fn user(&self) -> TcpStream {
        self.tunnel.open().unwrap()
    }

    /// The bridge's next complaint.
    fn reason(&mut self) -> String {
        self.tunnel.server.line("LOG SEVERITY=warning MESSAGE=\"a client was turned away: ")
    }
}

/// Whether the connection was closed.
fn closed(tcp: &mut TcpStream) -> bool {
    matches!(tcp.read(&mut [0; 64]), Ok(0) | Err(_))
}

#[test]
fn row_34_empty_means_none_and_set_needs_the_cookie_file() {
    // Launch::server sets it empty.
    let tunnel = Tunnel::new();
    let (mut user, mut tor) = tunnel.ends();
    talk(&mut user, &mut tor);

    let mut launch = Launch::server(closed_port());
    launch.env("TOR_PT_EXTENDED_SERVER_PORT", "127.0.0.1:9");
    for cookie in [None, Some("")] {
        if let Some(cookie) = cookie {
            launch.env("TOR_PT_AUTH_COOKIE_FILE", cookie);
        }
        assert_eq!(
            launch.fails(),
            [
                "ENV-ERROR TOR_PT_AUTH_COOKIE_FILE is not set; this program is meant to be started by tor or Arti"
            ]
        );
    }
}

#[test]
fn row_35_the_cookie_file_is_verified() {
    let mut extended = Extended::new();
    let whole = std::fs::read(&extended.cookie).unwrap();
    let wrong_header = [b"! Extended ORPort Auth Cookie?\n\n", &whole[32..]].concat();
    let cases = [
        (&b""[..], "64 bytes"),
        (&whole[..63], "64 bytes"),
        (&[&whole[..], b"x"].concat(), "64 bytes"),
        (&wrong_header, "header line"),
    ];
    for (file, words) in cases {
        std::fs::write(&extended.cookie, file).unwrap();
        let mut user = extended.user();
        let mut tor = accept(&extended.port);
        assert!(closed(&mut tor), "nothing is sent");
        assert!(closed(&mut user));
        let reason = extended.reason();
        assert!(reason.contains(words), "{reason}");
    }
    std::fs::remove_file(&extended.cookie).unwrap();
    drop((extended.user(), accept(&extended.port)));
    assert!(extended.reason().contains("cannot read the Extended ORPort's cookie file"));
    // Tor writes it anew: the next connection works.
    extor::write_cookie(&extended.cookie);
    let user = extended.user();
    extor::introduced(&extended.port);
    drop(user);
}

#[test]
fn row_36_both_sides_prove_that_they_know_the_cookie() {
    let extended = Extended::new();
    let user = extended.user();
    // `authenticate` checks our hash; an honest tor is satisfied.
    extor::authenticate(&mut accept(&extended.port));
    drop(user);
}

#[test]
fn row_36_what_does_not_know_the_cookie_learns_nothing() {
    let mut extended = Extended::new();
    let mut user = extended.user();
    let mut impostor = accept(&extended.port);
    impostor.write_all(&[1, 0]).unwrap();
    support::read_exact::<33>(&mut impostor);
    impostor.write_all(&[7; 64]).unwrap();
    assert!(closed(&mut impostor), "no hash of ours, no address of a client");
    assert!(closed(&mut user));
    assert!(extended.reason().contains("does not know the cookie"));

    let user = extended.user();
    let mut old = accept(&extended.port);
    old.write_all(&[2, 0]).unwrap();
    assert!(closed(&mut old));
    assert!(extended.reason().contains("SAFE_COOKIE"));
    drop(user);

    let user = extended.user();
    let mut tor = accept(&extended.port);
    extor::offer(&mut tor);
    support::read_exact::<32>(&mut tor);
    tor.write_all(&[0]).unwrap();
    assert!(closed(&mut tor));
    assert!(extended.reason().contains("refuses our authentication"));
    drop(user);
}

#[test]
fn row_37_who_the_client_is_and_how_it_came() {
    let extended = Extended::new();
    let user = extended.user();
    let (_tor, messages) = extor::introduced(&extended.port);
    assert_eq!(messages.len(), 3, "{messages:?}");
    assert_eq!(messages[0].0, 1);
    let address: SocketAddr = String::from_utf8(messages[0].1.clone()).unwrap().parse().unwrap();
    assert!(address.ip().is_loopback() && address.port() != 0);
    assert_eq!(messages[1], (2, b"qnet".to_vec()));
    assert_eq!(messages[2], (0, vec![]));
    drop(user);
}

#[test]
fn row_38_payload_only_after_okay() {
    let extended = Extended::new();
    let mut user = extended.user();
    user.write_all(b"from a").unwrap();
    let (mut tor, _) = extor::introduced(&extended.port);
    tor.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    assert!(tor.read(&mut [0; 16]).is_err(), "payload before OKAY");
    tor.set_read_timeout(Some(support::PATIENCE)).unwrap();
    // An unknown message with a body, then CONTROL, then OKAY with tor's first payload behind it.
    tor.write_all(b"\x77\x77\x00\x05hello\x10\x02\x00\x01x\x10\x00\x00\x00early").unwrap();
    assert_eq!(&support::read_exact::<6>(&mut tor), b"from a");
    assert_eq!(&support::read_exact::<5>(&mut user), b"early");
    talk(&mut user, &mut tor);
}

#[test]
fn row_38_closed_on_deny() {
    let mut extended = Extended::new();
    let mut user = extended.user();
    let (mut tor, _) = extor::introduced(&extended.port);
    tor.write_all(&[0x10, 1, 0, 0]).unwrap();
    assert!(closed(&mut tor));
    assert!(closed(&mut user));
    assert!(extended.reason().contains("refuses this connection"));
}

#[test]
fn row_39_a_warning_where_it_is_not_on_loopback() {
    let warned = |address: &str| {
        let mut launch = Launch::server(closed_port());
        launch.env("TOR_PT_EXTENDED_SERVER_PORT", address).env("TOR_PT_AUTH_COOKIE_FILE", "/cookie");
        let mut pt: Pt = launch.start();
        pt.configured()
            .iter()
            .any(|line| line.starts_with("LOG SEVERITY=warning") && line.contains("not on loopback"))
    };
    assert!(warned("192.0.2.1:9"));
    assert!(!warned("127.0.0.1:9"));
    assert!(!warned("[::1]:9"));
}

#[test]
fn an_extended_orport_that_is_down() {
    let Extended { tunnel, port, _folder, .. } = Extended::new();
    drop(port);
    let Tunnel { mut server, socks, bridge, args, client, .. } = tunnel;
    let mut user = socks::connect(socks, bridge, &args).unwrap();
    assert!(closed(&mut user));
    assert!(server.line("LOG SEVERITY=warning").contains("cannot connect to tor's Extended ORPort"));
    drop(client);
}
