//! How a transport starts: environment, version, folders, and what may stand on standard output.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed step is a failed test")]
#![allow(clippy::disallowed_methods, reason = "a parent has a clock and waits")]

mod support;

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};
use support::{Launch, Tunnel, closed_port, socks};

const NEITHER: &[&str] = &["TOR_PT_CLIENT_TRANSPORTS", "TOR_PT_SERVER_TRANSPORTS"];

fn server() -> Launch {
    Launch::server(closed_port())
}

/// One line, an ENV-ERROR that holds `words`.
fn env_error(launch: &Launch, words: &str) {
    let lines = launch.fails();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].starts_with("ENV-ERROR ") && lines[0].contains(words), "{words}: {lines:?}");
}

#[test]
fn row_01_one_role_a_process() {
    env_error(server().env("TOR_PT_CLIENT_TRANSPORTS", "qnet"), "one process plays one role");
    let mut launch = Launch::client();
    for name in NEITHER {
        launch.unset(name);
    }
    env_error(&launch, "neither TOR_PT_CLIENT_TRANSPORTS nor TOR_PT_SERVER_TRANSPORTS");
}

#[test]
fn row_02_versions() {
    for good in ["1", "2,1", "1,2", "7,1,3"] {
        let mut pt = Launch::client().env("TOR_PT_MANAGED_TRANSPORT_VER", good).start();
        assert_eq!(pt.configured()[0], "VERSION 1", "{good}");
    }
    for bad in ["2", "11", "2,3"] {
        let lines = Launch::client().env("TOR_PT_MANAGED_TRANSPORT_VER", bad).fails();
        assert_eq!(lines, ["VERSION-ERROR no-version"], "{bad}");
    }
}

#[test]
fn row_03_version_comes_first() {
    let mut client = Launch::client();
    client.env("TOR_PT_PROXY", "socks5://127.0.0.1:9");
    let lines = client.start().configured();
    assert_eq!(lines[..2], ["VERSION 1", "PROXY DONE"]);
    assert!(lines[2].starts_with("CMETHOD qnet "), "{lines:?}");
    let lines = server().start().configured();
    assert_eq!(lines[0], "VERSION 1");
    assert!(lines[1].starts_with("SMETHOD qnet "), "{lines:?}");
}

#[test]
fn row_04_bad_environment() {
    env_error(
        Launch::client().unset("TOR_PT_MANAGED_TRANSPORT_VER"),
        "TOR_PT_MANAGED_TRANSPORT_VER is not set",
    );
    env_error(Launch::client().unset("TOR_PT_STATE_LOCATION"), "TOR_PT_STATE_LOCATION is not set");
    env_error(server().unset("TOR_PT_ORPORT"), "TOR_PT_ORPORT is not set");
    env_error(server().env("TOR_PT_ORPORT", "localhost:9"), "TOR_PT_ORPORT has \"localhost:9\"");
    env_error(server().env("TOR_PT_SERVER_BINDADDR", "qnet-x"), "TOR_PT_SERVER_BINDADDR has \"qnet-x\"");
    env_error(server().env("TOR_PT_SERVER_TRANSPORT_OPTIONS", "qnet"), "TOR_PT_SERVER_TRANSPORT_OPTIONS");
    env_error(
        Launch::client().env("TOR_PT_OUTBOUND_BIND_ADDRESS_V4", "x"),
        "TOR_PT_OUTBOUND_BIND_ADDRESS_V4",
    );
    env_error(Launch::client().bytes("TOR_PT_CLIENT_TRANSPORTS", b"\xff"), "is not UTF-8");
}

#[test]
fn row_05_state_folder() {
    let mut launch = server();
    let state = launch.home().join("a/b");
    launch.env("TOR_PT_STATE_LOCATION", &state);
    launch.start().configured();
    assert_eq!(std::fs::metadata(&state).unwrap().permissions().mode() & 0o777, 0o700);
    let names = |folder: &std::path::Path| -> Vec<_> {
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect()
    };
    assert_eq!(names(&state), ["qnet_identity"]);
    assert_eq!(names(launch.home()), ["a"]);

    // A client needs nothing, and one that exists keeps its mode.
    let launch = Launch::client();
    std::fs::create_dir(launch.state()).unwrap();
    std::fs::set_permissions(launch.state(), std::fs::Permissions::from_mode(0o750)).unwrap();
    launch.start().configured();
    assert!(names(&launch.state()).is_empty());
    assert_eq!(std::fs::metadata(launch.state()).unwrap().permissions().mode() & 0o777, 0o750);

    let mut launch = Launch::client();
    std::fs::write(launch.home().join("file"), "").unwrap();
    let inside_a_file = launch.home().join("file/state");
    env_error(launch.env("TOR_PT_STATE_LOCATION", inside_a_file), "cannot create the state folder");
}

#[test]
fn row_06_nothing_but_lines() {
    // `Pt` itself fails at a line that is not ASCII or does not end in LF.
    let known = [
        "VERSION",
        "VERSION-ERROR",
        "ENV-ERROR",
        "PROXY",
        "PROXY-ERROR",
        "CMETHOD",
        "CMETHOD-ERROR",
        "CMETHODS",
        "SMETHOD",
        "SMETHOD-ERROR",
        "SMETHODS",
        "LOG",
        "STATUS",
    ];
    let mut lines = Launch::client().env("TOR_PT_CLIENT_TRANSPORTS", "qn\u{e9}t\nVERSION 1").fails();
    lines.extend(
        server().env("TOR_PT_SERVER_TRANSPORT_OPTIONS", "qnet:d\u{f6}coy=\n\u{7}").start().configured(),
    );
    let tunnel = Tunnel::new();
    drop(tunnel.ends());
    socks::connect(tunnel.socks, tunnel.bridge, "k\u{e9}y=\n").unwrap_err();
    let Tunnel { mut client, mut server, .. } = tunnel;
    for pt in [&mut client, &mut server] {
        pt.signal("TERM");
        pt.exit();
        lines.extend(pt.all());
    }
    for line in &lines {
        assert!(known.contains(&line.split(' ').next().unwrap()), "{line}");
    }
    assert!(lines.iter().any(|line| line.starts_with("LOG ")), "{lines:?}");
}

#[test]
fn row_07_few_lines() {
    let mut pt = Launch::client().start();
    let address = pt.cmethod();
    let start = Instant::now();
    let flood: Vec<_> = (0..8)
        .map(|_| {
            std::thread::spawn(move || (0..50).for_each(|_| drop(socks::connect(address, address, "x"))))
        })
        .collect();
    flood.into_iter().for_each(|thread| thread.join().unwrap());
    pt.signal("TERM");
    pt.exit();
    let seconds = usize::try_from(start.elapsed().as_secs()).unwrap();
    let lines = pt.all();
    assert!(lines.len() <= 4 + 16 + seconds + 1, "{} lines in {seconds} s", lines.len());
    assert!(lines.len() >= 16, "{lines:?}");
}

#[test]
fn row_08_transport_names() {
    for bad in ["", "4qnet", "q-net", "qnet,", "qnet obfs4", "*"] {
        env_error(Launch::client().env("TOR_PT_CLIENT_TRANSPORTS", bad), "names match");
        env_error(server().env("TOR_PT_SERVER_TRANSPORTS", bad), "names match");
    }
}

#[test]
fn row_09_other_transports_are_ignored() {
    let lines = Launch::client().env("TOR_PT_CLIENT_TRANSPORTS", "obfs4,qnet,_x").start().configured();
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert!(lines[1].starts_with("CMETHOD qnet socks5 "));
    let lines = Launch::client().env("TOR_PT_CLIENT_TRANSPORTS", "obfs4").start().configured();
    assert_eq!(lines, ["VERSION 1", "CMETHODS DONE"]);
    let lines = server().env("TOR_PT_SERVER_TRANSPORTS", "obfs4").start().configured();
    assert_eq!(lines, ["VERSION 1", "SMETHODS DONE"]);
}

#[test]
fn row_10_what_cannot_start_says_so() {
    let lines = Launch::client().env("SSL_CERT_FILE", "/missing").start().configured();
    assert!(lines[1].starts_with("CMETHOD-ERROR qnet ") && lines[1].contains("SSL_CERT_FILE"), "{lines:?}");
    assert_eq!(lines.len(), 3, "{lines:?}");
    let lines = server().unset("TOR_PT_SERVER_TRANSPORT_OPTIONS").start().configured();
    assert!(lines[1].starts_with("SMETHOD-ERROR qnet no decoy is set"), "{lines:?}");
    assert!(lines[1].contains("ServerTransportOptions qnet decoy=127.0.0.1:8443"), "{lines:?}");
}

#[test]
fn row_11_the_end_of_configuration_always_comes() {
    let start = Instant::now();
    let options = "qnet:decoy=decoy.invalid\\:443";
    let lines = server().env("TOR_PT_SERVER_TRANSPORT_OPTIONS", options).start().configured();
    assert!(lines[1].starts_with("SMETHOD-ERROR qnet cannot look up"), "{lines:?}");
    assert!(start.elapsed() < Duration::from_secs(30));
    assert_eq!(Launch::client().start().configured().last().unwrap(), "CMETHODS DONE");
}

#[test]
fn row_15_log_lines() {
    let mut pt = Launch::client().start();
    let address = pt.cmethod();
    socks::connect(address, address, r#"a\\"b=c"#).unwrap_err();
    let line = pt.line("LOG ");
    let message =
        line.strip_prefix("LOG SEVERITY=warning MESSAGE=\"").and_then(|rest| rest.strip_suffix('"'));
    let message = message.unwrap_or_else(|| panic!("{line}"));
    assert!(message.contains(r#"\""#), "a quote is escaped: {message}");
    // Once its escapes are away, no quote and no backslash is left.
    let plain = message.replace(r"\\", "").replace(r#"\""#, "");
    assert!(!plain.contains(['"', '\\']), "{message}");
}

#[test]
fn row_16_status_lines() {
    let mut pt = Launch::client().start();
    let address = pt.cmethod();
    let version = concat!("STATUS TYPE=version IMPLEMENTATION=qnet-pt VERSION=", env!("CARGO_PKG_VERSION"));
    assert_eq!(pt.line("STATUS "), version);
    socks::connect(address, address, "x").unwrap_err();
    let line = pt.line("STATUS ");
    let start = r#"STATUS TRANSPORT=qnet CONNECT=Failed RETRY=never REASON=""#;
    assert!(line.starts_with(start) && line.ends_with('"'), "{line}");
    let tunnel = Tunnel::new();
    drop(tunnel.ends());
    let Tunnel { mut client, .. } = tunnel;
    assert_eq!(client.line("STATUS TRANSPORT="), "STATUS TRANSPORT=qnet CONNECT=Success");
}
