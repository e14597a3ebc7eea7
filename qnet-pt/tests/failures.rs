//! What a user or an operator is told when there is no tunnel: over the real transport, against real servers.
//!
//! Each cause has words of its own in LOG and STATUS, and a SOCKS code that tells it from the others as far as SOCKS has
//! codes. After each the process serves the next.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed step is a failed test")]
#![allow(clippy::disallowed_methods, reason = "a parent has a clock and waits")]

mod support;

use qnet_tests::support::decoy::{Decoy, Options};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use support::{
    Launch, PATIENCE, Pt, Tunnel, closed_port, extor, in_own_network, listener, new_decoy, shared_decoy,
    socks,
};

/// A key that is one, and no bridge's.
const KEY: &str = "CQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
const GENERAL: u8 = 1;
const NOT_ALLOWED: u8 = 2;
const HOST_UNREACHABLE: u8 = 4;
const REFUSED: u8 = 5;
const EXPIRED: u8 = 6;

fn args() -> String {
    format!("key={KEY};sni=www.example.com")
}

/// A client that trusts a site.
struct Client {
    pt: Pt,
    socks: SocketAddr,
}

impl Client {
    fn trusting(site: &Arc<Decoy>) -> Self {
        let mut pt = Launch::client().trust(site).start();
        let socks = pt.cmethod();
        Self { pt, socks }
    }

    /// Fails to connect, with this code, and says why in LOG and in STATUS.
    fn fails(&mut self, at: SocketAddr, args: &str, code: u8, words: &str) {
        let got = socks::connect(self.socks, at, args).unwrap_err();
        let log = self.pt.line("LOG SEVERITY=warning MESSAGE=\"no connection to the bridge: ");
        let status = self.pt.line("STATUS TRANSPORT=qnet CONNECT=Failed RETRY=");
        for line in [&log, &status] {
            assert!(line.contains(words), "{words:?} expected: {line}");
        }
        assert_eq!(got, code, "{log}");
    }
}

/// A server that does `play` with each connection.
fn playing(play: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let (server, address) = listener();
    let play = Arc::new(play);
    std::thread::spawn(move || {
        for tcp in server.incoming().flatten() {
            let play = Arc::clone(&play);
            std::thread::spawn(move || play(tcp));
        }
    });
    address
}

#[test]
fn row_23_who_is_not_the_bridge() {
    let tunnel = Tunnel::new();
    let site = shared_decoy();
    let mut client = Client::trusting(&site);
    let words = "the bridge did not prove itself: check the key";
    client.fails(tunnel.bridge, &args(), HOST_UNREACHABLE, words);
    // A censor who leads the connection to the true site.
    client.fails(site.address(), &tunnel.args, HOST_UNREACHABLE, words);
    // The same client still reaches the bridge that the line describes.
    drop(socks::connect(client.socks, tunnel.bridge, &tunnel.args).unwrap());
}

#[test]
fn row_23_certificates() {
    let tunnel = Tunnel::new();
    let mut client = Client::trusting(&shared_decoy());
    let elsewhere = tunnel.args.replace("www.example.com", "www.example.org");
    client.fails(tunnel.bridge, &elsewhere, NOT_ALLOWED, "it is for another name");
    let other = new_decoy(Options::default());
    client.fails(other.address(), &args(), NOT_ALLOWED, "is not to be trusted");
    // A name the certificate has and the bridge's operator did not give is not the bridge's.
    let names = vec!["www.example.com".to_owned(), "www.example.net".to_owned()];
    let site = Arc::new(new_decoy(Options { names, ..Options::default() }));
    let mut bridge = Launch::server(closed_port());
    let mut server = bridge.before(&site).start();
    let (address, args) = server.smethod();
    let mut client = Client::trusting(&site);
    let args = args.replace(',', ";").replace("example.com", "example.net");
    client.fails(address, &args, HOST_UNREACHABLE, "check the key and the name");
}

/// What a user's log may not hold: whom the bridge hides behind, where it is, and from where the user dials.
#[test]
fn row_17_no_name_and_no_address_in_a_clients_log() {
    if !in_own_network("row_17_no_name_and_no_address_in_a_clients_log", "true") {
        return;
    }
    let tunnel = Tunnel::new();
    let site = shared_decoy();
    let names = vec!["www.example.net".to_owned()];
    let (other, old) = (
        new_decoy(Options { names, ..Options::default() }),
        Arc::new(new_decoy(Options { tls13: false, ..Options::default() })),
    );
    let (name, key) = ("www.example.com", KEY);
    let elsewhere = tunnel.args.replace(name, "www.example.org");
    let tries = [
        (tunnel.bridge, elsewhere),
        (other.address(), args()),
        (old.address(), args()),
        (closed_port(), args()),
        (tunnel.bridge, args()),
        (tunnel.bridge, format!("key={key}")),
        (tunnel.bridge, format!("key={key};sni={name},www.example.org")),
        (tunnel.bridge, format!("key={key};{name}=1")),
        ("198.51.100.1:443".parse().unwrap(), args()),
    ];
    let mut logged = Vec::new();
    // A process says no more than sixteen things at once.
    for tries in tries.chunks(6) {
        let mut client = Launch::client();
        let mut pt = client.trust(&site).env("TOR_PT_OUTBOUND_BIND_ADDRESS_V4", "192.0.2.77").start();
        let address = pt.cmethod();
        for (at, args) in tries {
            socks::connect(address, *at, args).unwrap_err();
            pt.line("STATUS TRANSPORT=qnet CONNECT=Failed");
        }
        pt.signal("TERM");
        pt.exit();
        logged.extend(pt.all());
    }
    logged.retain(|line| line.starts_with("LOG") || line.starts_with("STATUS TRANSPORT"));
    assert_eq!(logged.len(), 2 * tries.len(), "{logged:#?}");
    let ports = tries.map(|(at, _)| format!(":{}", at.port()));
    for line in logged {
        for secret in ["example", "127.0.0.1", "192.0.2.", "198.51.100.", key]
            .into_iter()
            .chain(ports.iter().map(String::as_str))
        {
            assert!(!line.contains(secret), "{secret}: {line}");
        }
    }
}

#[test]
fn row_23_sites_that_cannot_be_decoys() {
    for (options, words) in [
        (Options { tls13: false, ..Options::default() }, "speaks no TLS 1.3: tell the bridge's operator"),
        (Options { h2: false, ..Options::default() }, "does not speak HTTP/2"),
    ] {
        let site = Arc::new(new_decoy(options));
        Client::trusting(&site).fails(site.address(), &args(), GENERAL, words);
    }
}

#[test]
fn row_23_a_decoy_that_is_down() {
    let mut site = new_decoy(Options::default());
    let (or_port, or_address) = listener();
    let mut launch = Launch::server(or_address);
    launch.env("TOR_PT_SERVER_TRANSPORT_OPTIONS", support::options(site.address(), site.name()));
    let mut server = launch.start();
    let (bridge, args) = server.smethod();
    let args = args.replace(',', ";");
    let mut pt = Launch::client().env("SSL_CERT_FILE", &site.certificates().ca).start();
    let socks = pt.cmethod();
    let mut client = Client { pt, socks };
    site.stop().unwrap();
    client.fails(bridge, &args, REFUSED, "may be down");
    for start in ["LOG SEVERITY=warning", "STATUS TRANSPORT=qnet DECOY=Failed REASON="] {
        let line = server.line(start);
        assert!(line.contains(&format!("is the web server at {} running?", site.address())), "{line}");
    }
    // A site that is down is said once, however many come.
    for _ in 0..5 {
        client.fails(bridge, &args, REFUSED, "may be down");
    }
    site.restart().unwrap();
    let mut user = socks::connect(client.socks, bridge, &args).unwrap();
    support::talk(&mut user, &mut support::accept(&or_port));
    server.line("STATUS TRANSPORT=qnet DECOY=Success");
    let said = server.seen.iter().filter(|line| line.contains("web server")).count();
    assert_eq!(said, 2, "{:#?}", server.seen);
}

#[test]
fn hostile_answers_to_the_hello() {
    let mut client = Client::trusting(&shared_decoy());
    let ssh = playing(|mut tcp| _ = tcp.write_all(b"SSH-2.0-OpenSSH_9.2p1\r\n"));
    client.fails(ssh, &args(), GENERAL, "check the address and port");
    let longest = playing(|mut tcp| {
        let _ = tcp.write_all(&[22, 3, 3, 0xff, 0xff]);
        while tcp.write_all(&[0; 65_535]).is_ok() {}
    });
    client.fails(longest, &args(), GENERAL, "not the expected TLS handshake");
    // A handshake message said to have 16 MB, in records of the largest size, for ever.
    let endless = playing(|mut tcp| {
        let _ = tcp.read(&mut [0; 4_096]);
        let first = [&[22, 3, 3, 0x40, 0, 2, 0xff, 0xff, 0xff][..], &[0; 16_380]].concat();
        let more = [&[22, 3, 3, 0x40, 0][..], &[0; 16_384]].concat();
        let _ = tcp.write_all(&first);
        while tcp.write_all(&more).is_ok() {}
    });
    client.fails(endless, &args(), GENERAL, "TLS handshake");
    let closed = playing(|mut tcp| _ = tcp.read(&mut [0; 4_096]));
    client.fails(closed, &args(), REFUSED, "the site behind the bridge may be down");
    // None of it has grown the process.
    let status = std::fs::read_to_string(format!("/proc/{}/status", client.pt.id())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak: u64 = peak.trim().strip_suffix(" kB").unwrap().parse().unwrap();
    assert!(peak < 64 << 10, "{peak} KiB resident at most");
}

#[test]
fn hostile_lengths_from_the_orport() {
    let (port, address) = listener();
    let folder = tempfile::tempdir().unwrap();
    let cookie = folder.path().join("cookie");
    extor::write_cookie(&cookie);
    let mut tunnel = Tunnel::with(
        |_| {},
        |server| {
            server.env("TOR_PT_EXTENDED_SERVER_PORT", address.to_string());
            server.env("TOR_PT_AUTH_COOKIE_FILE", &cookie);
        },
    );
    // Authentication types without an end.
    let user = tunnel.open().unwrap();
    let mut tor = support::accept(&port);
    while tor.write_all(&[9; 4_096]).is_ok() {}
    assert!(tunnel.server.line("LOG SEVERITY=warning").contains("SAFE_COOKIE"));
    drop(user);
    // The longest unknown message, then OKAY.
    let mut user = tunnel.open().unwrap();
    let (mut tor, _) = extor::introduced(&port);
    tor.write_all(&[&[0x77, 0x77, 0xff, 0xff][..], &[0; 65_535], &[0x10, 0, 0, 0]].concat()).unwrap();
    support::talk(&mut user, &mut tor);
}

/// A port whose queue of connections is full: the kernel drops what more comes, as a network does that leads nowhere.
fn deaf() -> (SocketAddr, (socket2::Socket, Vec<TcpStream>)) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let mut queue = vec![];
    while let Ok(tcp) = TcpStream::connect_timeout(&address, Duration::from_millis(500)) {
        queue.push(tcp);
    }
    (address, (socket, queue))
}

/// All that waits for something that never comes, at once: the slowest takes half a minute.
#[test]
fn row_23_silence() {
    let (deaf, _queue) = deaf();
    let silent = playing(|mut tcp| _ = tcp.read_to_end(&mut Vec::new()));
    let site = shared_decoy();
    let waits = [(deaf, "the bridge did not answer in time"), (silent, "no tunnel after 30 seconds")];
    let waiting = waits.map(|(address, words)| {
        let mut client = Client::trusting(&site);
        std::thread::spawn(move || {
            let begin = Instant::now();
            let mut tcp = socks::dial(client.socks);
            tcp.set_read_timeout(Some(Duration::from_secs(45))).unwrap();
            socks::log_in(&mut tcp, args().as_bytes(), &[0]);
            tcp.write_all(&socks::request(address)).unwrap();
            assert_eq!(socks::reply(tcp).unwrap_err(), EXPIRED);
            assert!(begin.elapsed() < Duration::from_secs(40));
            let line = client.pt.line("LOG SEVERITY=warning");
            assert!(line.contains(words), "{line}");
        })
    });
    // An Extended ORPort that accepts and says nothing.
    let (port, address) = listener();
    let folder = tempfile::tempdir().unwrap();
    let cookie = folder.path().join("cookie");
    extor::write_cookie(&cookie);
    let mut tunnel = Tunnel::with(
        |_| {},
        |server| {
            server.env("TOR_PT_EXTENDED_SERVER_PORT", address.to_string());
            server.env("TOR_PT_AUTH_COOKIE_FILE", &cookie);
        },
    );
    let mut user = tunnel.open().unwrap();
    user.set_read_timeout(Some(2 * PATIENCE)).unwrap();
    let _tor = support::accept(&port);
    assert!(matches!(user.read(&mut [0; 1]), Ok(0)), "its user is told");
    assert!(tunnel.server.line("LOG SEVERITY=warning").contains("Extended ORPort"));
    for thread in waiting {
        thread.join().unwrap();
    }
}

#[test]
fn an_unreadable_state_folder() {
    let launch = Launch::server(closed_port());
    launch.start().smethod();
    shut(&launch.state());
    let mut launch = launch;
    if rustix::process::geteuid().is_root() {
        // Root reads everything, but not another user's files from a namespace that does not know that user.
        std::os::unix::fs::chown(launch.state(), Some(1), Some(1)).unwrap();
        launch.under(&["unshare", "-r"]);
    }
    let mut pt = launch.start();
    let lines = pt.configured();
    assert!(
        lines[1].starts_with("SMETHOD-ERROR qnet cannot read the identity key")
            && lines[1].contains("may tor's user read the state folder?"),
        "{lines:?}"
    );
    assert!(pt.ended().is_none());
    open(&launch.state());
}

fn shut(folder: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o000)).unwrap();
}

fn open(folder: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o700)).unwrap();
}

#[test]
fn a_port_in_use_does_not_end_the_process() {
    let (taken, address): (TcpListener, _) = listener();
    let mut launch = Launch::server(closed_port());
    let mut pt = launch.env("TOR_PT_SERVER_BINDADDR", format!("qnet-{address}")).start();
    let line = pt.line("SMETHOD-ERROR qnet cannot listen on ");
    assert!(line.contains("another program listens there; stop it, or set another"), "{line}");
    pt.line("SMETHODS DONE");
    assert!(pt.ended().is_none());
    drop(taken);
}
