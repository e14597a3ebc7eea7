//! What others on this machine, and users of a bridge, may try.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed step is a failed test")]
#![allow(clippy::disallowed_methods, reason = "a parent has a clock and waits")]

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};
use support::{Launch, Pt, Tunnel, accept, listener, shared_decoy, socks, talk};

/// More connections than the processes below have file descriptors.
const CROWD: usize = 600;
/// A shell's words that start the program with few file descriptors.
const FEW_FILES: [&str; 3] = ["sh", "-c", "ulimit -n 400; exec \"$0\""];

fn crowd(at: SocketAddr) -> Vec<TcpStream> {
    (0..CROWD).map(|_| TcpStream::connect(at).unwrap()).collect()
}

/// Kibibytes resident at most so far.
fn peak(pt: &Pt) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", pt.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse().unwrap()
}

#[test]
fn a_crowd_at_the_socks_port_does_not_keep_tor_out() {
    let tunnel = Tunnel::with(|client| _ = client.under(&FEW_FILES), |_| {});
    let silent = crowd(tunnel.socks);
    let half: Vec<_> = silent.iter().take(200).collect();
    for mut tcp in half {
        // A slow drip: a greeting begun.
        let _ = tcp.write_all(&[5]);
    }
    let begin = Instant::now();
    let (mut user, mut tor) = tunnel.ends();
    talk(&mut user, &mut tor);
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
    drop(silent);
}

#[test]
fn garbage_at_the_socks_port_costs_little() {
    let Tunnel { mut client, server, or_port, socks, bridge, args, .. } = Tunnel::new();
    let mut seed = 1u64;
    for length in (0..200).map(|n| n * 7) {
        let mut tcp = socks::dial(socks);
        let garbage: Vec<u8> = std::iter::repeat_with(|| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 56) as u8
        })
        .take(length)
        .collect();
        // With a right beginning, so that every step gets its share.
        let prefix: &[u8] = [&[][..], &[5, 1, 2], &[5, 1, 2, 1], &[5, 1, 0, 5, 1, 0, 3]][length % 4];
        let _ = tcp.write_all(&[prefix, &garbage].concat());
    }
    let mut user = socks::connect(socks, bridge, &args).unwrap();
    talk(&mut user, &mut accept(&or_port));
    assert!(client.ended().is_none());
    assert!(peak(&client) < 64 << 10, "{} KiB", peak(&client));
    drop(server);
}

#[test]
fn a_crowd_of_visitors_passes() {
    let tunnel = Tunnel::with(|_| {}, |server| _ = server.under(&FEW_FILES));
    let visitors = crowd(tunnel.bridge);
    // Those that found no room wait in the kernel's queue; when some go there is room again.
    drop(visitors);
    let (mut user, mut tor) = tunnel.ends();
    talk(&mut user, &mut tor);
}

#[test]
fn as_many_files_as_the_administrator_permits() {
    let mut launch = Launch::client();
    let mut pt = launch.under(&["sh", "-c", "ulimit -Sn 100; exec \"$0\""]).start();
    pt.configured();
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", pt.id())).unwrap();
    let files = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
    let words: Vec<&str> = files.split_whitespace().collect();
    assert_eq!(words[0], words[1], "{files}");
}

/// Writes until nothing is taken any more; how many bytes that were.
fn fill(tcp: &mut TcpStream) -> usize {
    tcp.set_write_timeout(Some(Duration::from_secs(2))).unwrap();
    let mut total = 0;
    loop {
        match tcp.write(&[7; 65_536]) {
            Ok(count) => total += count,
            Err(error) if [ErrorKind::WouldBlock, ErrorKind::TimedOut].contains(&error.kind()) => {
                return total;
            }
            Err(error) => panic!("after {total} bytes: {error}"),
        }
    }
}

#[test]
fn a_user_who_stops_reading_holds_a_bounded_part() {
    let tunnel = Tunnel::new();
    let (mut user, mut tor) = tunnel.ends();
    talk(&mut user, &mut tor);
    let taken = fill(&mut tor);
    for pt in [&tunnel.client, &tunnel.server] {
        assert!(peak(pt) < 80 << 10, "{} KiB resident for {taken} bytes", peak(pt));
    }
    // Others are not held up.
    let (mut other, mut others_tor) = tunnel.ends();
    talk(&mut other, &mut others_tor);
    // What was taken is not lost.
    let reader = std::thread::spawn(move || {
        let mut all = Vec::new();
        user.read_to_end(&mut all).unwrap();
        all.len()
    });
    drop(tor);
    assert_eq!(reader.join().unwrap(), taken);
}

#[test]
fn last_words_are_not_lost_when_both_sides_have_ended() {
    let tunnel = Tunnel::new();
    let (mut user, mut tor) = tunnel.ends();
    talk(&mut user, &mut tor);
    // Tor has said all; the user's last words are more than the carrier holds, and then it is gone.
    tor.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(user.read(&mut [0; 1]).unwrap(), 0);
    let words = vec![3; 3_000_000];
    let reader = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(300));
        let mut all = Vec::new();
        tor.read_to_end(&mut all).unwrap();
        all.len()
    });
    user.write_all(&words).unwrap();
    drop(user);
    assert_eq!(reader.join().unwrap(), words.len());
}

#[test]
fn an_orport_with_a_full_queue_holds_nobody_else_up() {
    // Tor accepts nothing: the kernel does, and the bytes stay where they are.
    let tunnel = Tunnel::new();
    let mut users: Vec<_> = (0..20).map(|_| tunnel.open().unwrap()).collect();
    for user in &mut users {
        user.write_all(&[1; 1_000]).unwrap();
    }
    let last = users.pop().unwrap();
    drop(users);
    // Tor comes back to life: those who left are told by an end, and who stayed is served.
    let mut served = 0;
    for _ in 0..20 {
        let mut tor = accept(&tunnel.or_port);
        let mut all = vec![0; 1_000];
        tor.read_exact(&mut all).unwrap();
        served += usize::from(all == vec![1; 1_000]);
    }
    assert_eq!(served, 20);
    drop(last);
}

#[test]
fn a_dial_that_is_given_up_leaves_nothing() {
    let (bridge, address) = listener();
    let site = shared_decoy();
    let mut pt = Launch::client().trust(&site).start();
    let port = pt.cmethod();
    let files = |pt: &Pt| std::fs::read_dir(format!("/proc/{}/fd", pt.id())).unwrap().count();
    let before = files(&pt);
    let key = "CQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    for _ in 0..20 {
        let mut tcp = socks::dial(port);
        socks::log_in(&mut tcp, format!("key={key};sni=www.example.com").as_bytes(), &[0]);
        tcp.write_all(&socks::request(address)).unwrap();
        let mut dialled = accept(&bridge);
        drop(tcp);
        dialled.read_to_end(&mut Vec::new()).unwrap();
    }
    let end = Instant::now() + support::PATIENCE;
    while files(&pt) > before + 1 && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(files(&pt) <= before + 1, "{} files, {before} before", files(&pt));
}
