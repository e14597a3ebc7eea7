//! How a transport ends.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed step is a failed test")]
#![allow(clippy::disallowed_methods, reason = "a parent has a clock and waits")]

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use support::{Launch, PATIENCE, Tunnel, socks};

/// Long enough for a process that means to end to do so.
const WHILE: Duration = Duration::from_secs(1);

#[test]
fn row_12_the_end_of_stdin() {
    let mut pt = Launch::client().env("TOR_PT_EXIT_ON_STDIN_CLOSE", "1").start();
    pt.configured();
    assert!(pt.ended().is_none());
    pt.close_stdin();
    assert!(pt.exit().success());
    for value in [None, Some("0")] {
        let mut launch = Launch::client();
        if let Some(value) = value {
            launch.env("TOR_PT_EXIT_ON_STDIN_CLOSE", value);
        }
        let mut pt = launch.start();
        let address = pt.cmethod();
        pt.close_stdin();
        std::thread::sleep(WHILE);
        assert!(pt.ended().is_none());
        // And it still serves.
        socks::connect(address, address, "x").unwrap_err();
    }
}

#[test]
fn row_13_sigterm_gives_streams_a_short_time() {
    let mut idle = Launch::client().start();
    idle.configured();
    for signal in ["HUP", "TERM"] {
        assert!(idle.ended().is_none());
        idle.signal(signal);
        std::thread::sleep(Duration::from_millis(100));
    }
    let start = Instant::now();
    assert!(idle.exit().success());
    assert!(start.elapsed() < WHILE, "nothing to wait for");

    // A stream in use goes on; no new one begins; when the stream ends, so does the process.
    let Tunnel { mut client, or_port, socks, bridge, args, server, .. } = Tunnel::new();
    let mut user = socks::connect(socks, bridge, &args).unwrap();
    let mut tor = support::accept(&or_port);
    client.signal("TERM");
    std::thread::sleep(Duration::from_millis(300));
    support::talk(&mut user, &mut tor);
    assert!(TcpStream::connect(socks).is_err(), "no new connections");
    let start = Instant::now();
    drop((user, tor));
    assert!(client.exit().success());
    assert!(start.elapsed() < Duration::from_secs(2));
    drop(server);
}

#[test]
fn row_13_an_end_does_not_wait_for_ever() {
    let Tunnel { mut client, mut server, or_port, socks, bridge, args, .. } = Tunnel::new();
    let mut user = socks::connect(socks, bridge, &args).unwrap();
    let mut tor = support::accept(&or_port);
    support::talk(&mut user, &mut tor);
    let start = Instant::now();
    for pt in [&mut client, &mut server] {
        pt.signal("TERM");
    }
    assert!(client.exit().success() && server.exit().success());
    assert!(start.elapsed() > WHILE && start.elapsed() < Duration::from_secs(5), "Arti kills after 5 s");

    let Tunnel { mut client, or_port, socks, bridge, args, server, .. } = Tunnel::new();
    let user = socks::connect(socks, bridge, &args).unwrap();
    let tor = support::accept(&or_port);
    let start = Instant::now();
    client.signal("TERM");
    std::thread::sleep(Duration::from_millis(300));
    client.signal("TERM");
    assert!(client.exit().success());
    assert!(start.elapsed() < WHILE, "a second one ends at once");
    drop((user, tor, server));
}

#[test]
fn row_13_the_parents_death_is_noticed() {
    let home = tempfile::tempdir().unwrap();
    // A parent that says which child it has, and waits to be killed.
    let mut parent = Command::new("sh")
        .args(["-c", "\"$0\" & echo PID $! >&2; wait", env!("CARGO_BIN_EXE_qnet-pt")])
        .env("TOR_PT_MANAGED_TRANSPORT_VER", "1")
        .env("TOR_PT_STATE_LOCATION", home.path())
        .env("TOR_PT_CLIENT_TRANSPORTS", "qnet")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(parent.stdout.take().unwrap());
    let mut line = String::new();
    while line != "CMETHODS DONE\n" {
        line.clear();
        assert!(lines.read_line(&mut line).unwrap() > 0);
    }
    parent.kill().unwrap();
    parent.wait().unwrap();
    // The child holds the other end of this pipe as long as it lives.
    let (done, ended) = std::sync::mpsc::channel();
    std::thread::spawn(move || done.send(lines.read_to_end(&mut Vec::new()).is_ok()));
    assert_eq!(ended.recv_timeout(PATIENCE), Ok(true));
}

#[test]
fn ends_of_streams_pass_through() {
    let tunnel = Tunnel::new();
    let (mut user, mut tor) = tunnel.ends();
    user.write_all(b"question").unwrap();
    user.shutdown(std::net::Shutdown::Write).unwrap();
    let mut question = Vec::new();
    tor.read_to_end(&mut question).unwrap();
    assert_eq!(question, b"question");
    tor.write_all(b"answer").unwrap();
    drop(tor);
    let mut answer = Vec::new();
    user.read_to_end(&mut answer).unwrap();
    assert_eq!(answer, b"answer");
}

/// Whether the connection ends, in whatever way, within the time a test has.
fn ends(tcp: &mut TcpStream) -> bool {
    match tcp.read(&mut [0; 16]) {
        Ok(count) => count == 0,
        Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
    }
}

#[test]
fn who_is_left_alone_is_told() {
    for user_goes in [true, false] {
        let tunnel = Tunnel::new();
        let (mut user, mut tor) = tunnel.ends();
        support::talk(&mut user, &mut tor);
        if user_goes {
            drop(user);
            assert!(ends(&mut tor), "tor is told");
        } else {
            drop(tor);
            assert!(ends(&mut user), "the user is told");
        }
    }
}
