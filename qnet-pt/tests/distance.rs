//! Row 40: the whole of connecting over a long way.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed step is a failed test")]
#![allow(clippy::disallowed_methods, clippy::print_stdout, reason = "a parent has a clock and waits")]

mod support;

use qnet_tests::support::link::Link;
use std::io::{Read, Write};
use std::time::{Duration, Instant};
use support::{Tunnel, accept, socks};

/// The path's round trip.
const ROUND_TRIP: Duration = Duration::from_millis(400);
/// How long Arti waits for a transport and for Tor's TLS above it.
const ARTI: Duration = Duration::from_secs(10);
/// What the link in user space does not delay: TCP's own handshake.
const TCP: u32 = 1;
/// What tor does above the tunnel before it calls the connection good: TCP's part is done, so TLS and Tor's own greeting.
const TOR: u32 = 3;

/// Until success at SOCKS, and until the first byte that came back through the tunnel, at a round trip of `way`.
fn connecting(way: Duration) -> (Duration, Duration) {
    let tunnel = Tunnel::new();
    let link = Link::start(tunnel.bridge, way / 2).unwrap();
    let or_port = tunnel.or_port.try_clone().unwrap();
    let echo = std::thread::spawn(move || {
        let mut tor = accept(&or_port);
        let mut bytes = [0; 500];
        tor.read_exact(&mut bytes).unwrap();
        tor.write_all(&bytes).unwrap();
        tor
    });
    let begin = Instant::now();
    let mut user = socks::connect(tunnel.socks, link.address(), &tunnel.args).unwrap();
    let success = begin.elapsed();
    // As much as the ClientHello that tor writes at once.
    user.write_all(&[7; 500]).unwrap();
    user.read_exact(&mut [0; 500]).unwrap();
    let echoed = begin.elapsed();
    drop(echo.join().unwrap());
    (success, echoed)
}

#[test]
fn row_40_connecting_fits_ten_seconds_at_a_round_trip_of_400_ms() {
    let near = connecting(Duration::ZERO);
    let far = connecting(ROUND_TRIP);
    let trips = |far: Duration, near: Duration| {
        far.saturating_sub(near).as_secs_f64() / ROUND_TRIP.as_secs_f64() + f64::from(TCP)
    };
    println!(
        "at {ROUND_TRIP:?}: success after {:?} ({:.1} round trips), first byte back after {:?} ({:.1} round trips), \
         TCP's handshake counted; at none: {near:?}",
        far.0 + TCP * ROUND_TRIP,
        trips(far.0, near.0),
        far.1 + TCP * ROUND_TRIP,
        trips(far.1, near.1),
    );
    assert!(far.1 + TCP * ROUND_TRIP <= ARTI - TOR * ROUND_TRIP, "{far:?}");
    // TCP, TLS, the page, its parts, the knock (with the proof), and the first data with its answer, which go with the
    // inner handshake's first message. One more is a regression to explain.
    assert!(trips(far.1, near.1) < 7.8, "{far:?} {near:?}");
}
