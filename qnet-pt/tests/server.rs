//! The bridge side: where it listens, what it publishes, what it refuses to start with.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed step is a failed test")]
#![allow(clippy::disallowed_methods, reason = "a parent has a clock and waits")]

mod support;

use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use support::{Launch, Tunnel, closed_port, listener, talk};

fn server() -> Launch {
    Launch::server(closed_port())
}

/// The one SMETHOD-ERROR of a bridge that must not start; the process lives on.
fn smethod_error(launch: &Launch) -> String {
    let mut pt = launch.start();
    let lines = pt.configured();
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert!(pt.ended().is_none());
    lines[1].strip_prefix("SMETHOD-ERROR qnet ").unwrap_or_else(|| panic!("{lines:?}")).to_owned()
}

fn with_options(options: &str) -> String {
    smethod_error(server().env("TOR_PT_SERVER_TRANSPORT_OPTIONS", options))
}

#[test]
fn row_29_bound_as_given() {
    let free = closed_port();
    let (address, _) =
        server().env("TOR_PT_SERVER_BINDADDR", format!("obfs4-127.0.0.1:1,qnet-{free}")).start().smethod();
    assert_eq!(address, free);
    let (address, _) = server().env("TOR_PT_SERVER_BINDADDR", "qnet-[::1]:0").start().smethod();
    assert!(address.is_ipv6() && address.ip().is_loopback());
    let (address, _) = server().unset("TOR_PT_SERVER_BINDADDR").start().smethod();
    assert!(address.ip().is_unspecified(), "it is optional");
    let lines = server().env("TOR_PT_SERVER_BINDADDR", "qnet-127.0.0.1:0,qnet-127.0.0.1:0").fails();
    assert!(lines[0].starts_with("ENV-ERROR ") && lines[0].contains("two addresses"), "{lines:?}");
}

#[test]
fn row_29_what_cannot_be_bound() {
    let (_taken, address) = listener();
    let message = smethod_error(server().env("TOR_PT_SERVER_BINDADDR", format!("qnet-{address}")));
    assert!(
        message.contains(&address.to_string()) && message.contains("another program listens"),
        "{message}"
    );
    let message = smethod_error(server().env("TOR_PT_SERVER_BINDADDR", "qnet-192.0.2.1:0"));
    assert!(message.contains("not an address of this machine"), "{message}");
}

#[test]
fn row_30_tors_default_gets_its_true_port() {
    let mut launch = server();
    let mut pt = launch.env("TOR_PT_SERVER_BINDADDR", "qnet-0.0.0.0:0").start();
    let (address, _) = pt.smethod();
    assert!(address.ip().is_unspecified());
    assert_ne!(address.port(), 0);
    assert!(std::net::TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], address.port()))).is_ok());
}

#[test]
fn row_31_options() {
    let sni = |options: &str| {
        let (_, args) = server().env("TOR_PT_SERVER_TRANSPORT_OPTIONS", options).start().smethod();
        args.split_once(',').unwrap().1.to_owned()
    };
    assert_eq!(
        sni(r"qnet:decoy=127.0.0.1\:9;obfs4:iat-mode=1;qnet:sni=a.example;qnet:sni=b.example"),
        "sni=a.example,sni=b.example"
    );
    assert_eq!(sni(r"qnet:decoy=[\:\:1]\:9;qnet:sni=a.example"), "sni=a.example");
    assert_eq!(
        sni("qnet:decoy=127.0.0.1:9;qnet:s\\ni=a\\.example"),
        "sni=a.example",
        "what needs no escape may have one"
    );
    assert_eq!(sni(r"qnet:decoy=localhost:9;qnet:sni=a.example"), "sni=a.example");
    assert_eq!(sni(r"qnet:decoy=192.0.2.1:9;qnet:sni=a.example;qnet:third-party-decoy=1"), "sni=a.example");
}

#[test]
fn row_31_options_that_are_wrong() {
    let example = "ServerTransportOptions qnet decoy=127.0.0.1:8443 sni=www.example.com";
    for (options, words) in [
        ("", example),
        ("qnet:sni=a.example", example),
        ("qnet:decoy=127.0.0.1", "not HOST:PORT"),
        ("qnet:decoy=127.0.0.1:9", "sni= must say which name"),
        ("qnet:decoy=127.0.0.1:9;qnet:sni=-", "sni=-"),
        ("qnet:decoy=127.0.0.1:9;qnet:sni=a.example;qnet:third-party-decoy=yes", "1 or 0"),
        ("qnet:decoy=127.0.0.1:9;qnet:sni=a.example;qnet:colour=red", "unknown option colour"),
    ] {
        let message = with_options(options);
        assert!(message.contains(words), "{options}: {message}");
    }
}

#[test]
fn a_decoy_elsewhere_needs_to_be_agreed() {
    for decoy in ["192.0.2.1:443", "[2001:db8::1]:443"] {
        let message = with_options(&format!("qnet:decoy={decoy};qnet:sni=a.example"));
        assert!(
            message.contains("third-party-decoy=1") && message.contains("somebody else's site"),
            "{message}"
        );
    }
}

#[test]
fn row_32_what_is_published() {
    let launch = server();
    let (_, args) = launch.start().smethod();
    let (key, sni) = args.split_once(',').unwrap();
    assert_eq!(sni, "sni=www.example.com");
    assert_eq!(key.strip_prefix("key=").unwrap().len(), 43);
    let file = std::fs::read_to_string(launch.state().join("qnet_identity")).unwrap();
    let secret = file.lines().find_map(|line| line.strip_prefix("secret ")).unwrap();
    assert!(!args.contains(secret), "no secrets");

    // A line too long to be pasted and sent.
    let names: String = (0..3).map(|i| format!(";qnet:sni={i}{}.example", "a".repeat(60))).collect();
    let message = with_options(&(r"qnet:decoy=127.0.0.1\:9".to_owned() + &names));
    assert!(message.contains("longer than 250 bytes"), "{message}");
}

#[test]
fn the_identity_survives_and_is_never_overwritten() {
    let launch = server();
    let (_, first) = launch.start().smethod();
    let path = launch.state().join("qnet_identity");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(launch.start().smethod().1, first);

    let whole = std::fs::read(&path).unwrap();
    for damaged in [&b""[..], &whole[..50], &[&whole[..], b"x"].concat()] {
        std::fs::write(&path, damaged).unwrap();
        let message = smethod_error(&launch);
        assert!(message.contains("qnet_identity") && message.contains("identity key"), "{message}");
        assert_eq!(std::fs::read(&path).unwrap(), damaged);
    }
    std::fs::write(&path, &whole).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert!(smethod_error(&launch).contains("chmod 600"));
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(launch.start().smethod().1, first);
}

#[test]
fn a_full_disk_is_said_and_leaves_nothing() {
    // A file system of one page, already full, in a namespace of its own.
    let launch = server();
    std::fs::create_dir(launch.state()).unwrap();
    let script = r#"mount -t tmpfs -o size=4k none "$TOR_PT_STATE_LOCATION" &&
        { head -c 4096 /dev/zero > "$TOR_PT_STATE_LOCATION/full" || :; } &&
        "$0"; ls "$TOR_PT_STATE_LOCATION" >&2"#;
    let mut launch = launch;
    let message = smethod_error(launch.under(&["unshare", "-rm", "sh", "-c", script]));
    assert!(message.contains("cannot write the identity key") && message.contains("disk"), "{message}");
}

#[test]
fn row_33_the_orport_gets_payload_only() {
    let tunnel = Tunnel::new();
    let (mut user, mut tor) = tunnel.ends();
    talk(&mut user, &mut tor);
}

#[test]
fn row_33_an_orport_that_is_down() {
    let tunnel = Tunnel::new();
    let Tunnel { or_port, mut server, socks, bridge, args, client, .. } = tunnel;
    let address = or_port.local_addr().unwrap();
    drop(or_port);
    // The tunnel is up, so that is a success; then it ends.
    let mut user = support::socks::connect(socks, bridge, &args).unwrap();
    let mut rest = Vec::new();
    let _ = std::io::Read::read_to_end(&mut user, &mut rest);
    assert!(rest.is_empty());
    let line = server.line("LOG SEVERITY=warning");
    assert!(line.contains("cannot connect to tor's ORPort") && line.contains(&address.to_string()), "{line}");
    assert!(server.line("STATUS TRANSPORT=qnet ORPORT=Failed REASON=").contains("is tor running?"));
    // The process lives on and serves the next.
    let or_port = TcpListener::bind(address).unwrap();
    let mut user = support::socks::connect(socks, bridge, &args).unwrap();
    talk(&mut user, &mut support::accept(&or_port));
    drop(client);
}

#[test]
fn row_17_no_client_address_in_any_log() {
    let tunnel = Tunnel::new();
    drop(tunnel.ends());
    let Tunnel { or_port, mut server, socks, bridge, args, mut client, .. } = tunnel;
    drop(or_port);
    // A user whose tunnel fails behind the bridge, and a stranger.
    let user = support::socks::connect(socks, bridge, &args).unwrap();
    let stranger = std::net::TcpStream::connect(bridge).unwrap();
    let ports = [&user, &stranger].map(|tcp| format!(":{}", tcp.local_addr().unwrap().port()));
    server.line("STATUS TRANSPORT=qnet ORPORT=Failed");
    drop((user, stranger));
    for pt in [&mut client, &mut server] {
        pt.signal("TERM");
        pt.exit();
        for line in pt.all().iter().filter(|line| line.starts_with("LOG") || line.starts_with("STATUS")) {
            assert!(!ports.iter().any(|port| line.contains(port)), "{line}");
            // The one address an operator needs is tor's own.
            assert!(!line.contains("127.0.0.1") || line.contains("tor's ORPort at 127.0.0.1"), "{line}");
        }
    }
}
