//! The client side: its SOCKS listener and the arguments that come through it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed step is a failed test")]
#![allow(clippy::disallowed_methods, reason = "a parent has a clock and waits")]

mod support;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::time::Duration;
use support::{Launch, Pt, Tunnel, accept, closed_port, in_own_network, listener, read_exact, socks, talk};

/// A key that is one, and no bridge's.
const KEY: &str = "CQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
const NOT_ALLOWED: u8 = 2;
const NETWORK_UNREACHABLE: u8 = 3;
const HOST_UNREACHABLE: u8 = 4;
const REFUSED: u8 = 5;
const ADDRESS_TYPE: u8 = 8;

/// A client whose bridge is a port where nobody listens: whatever is understood ends as "refused".
struct Client {
    pt: Pt,
    socks: SocketAddr,
    bridge: SocketAddr,
    _launch: Launch,
}

impl Client {
    fn new() -> Self {
        let launch = Launch::client();
        let mut pt = launch.start();
        let socks = pt.cmethod();
        Self { pt, socks, bridge: closed_port(), _launch: launch }
    }

    /// The failure that arguments lead to.
    fn code(&self, args: &str) -> u8 {
        socks::connect(self.socks, self.bridge, args).unwrap_err()
    }

    fn code_of_halves(&self, user: &[u8], password: &[u8]) -> u8 {
        socks::connect_with(self.socks, self.bridge, user, password).unwrap_err()
    }

    /// The next reason for a failure.
    fn reason(&mut self) -> String {
        self.pt.line("LOG SEVERITY=warning MESSAGE=")
    }
}

fn args() -> String {
    format!("key={KEY};sni=www.example.com")
}

#[test]
fn row_22_cmethod_is_loopback_with_a_real_port() {
    let client = Client::new();
    assert_eq!(client.socks.ip(), Ipv4Addr::LOCALHOST);
    assert_ne!(client.socks.port(), 0);
    assert!(TcpStream::connect(client.socks).is_ok());
}

#[test]
fn row_23_the_login_is_chosen_where_both_are_offered() {
    let client = Client::new();
    for (offer, chosen) in
        [(&[5, 2, 0, 2][..], 2), (&[5, 2, 2, 0], 2), (&[5, 1, 2], 2), (&[5, 1, 0], 0), (&[5, 2, 1, 3], 0xff)]
    {
        let mut tcp = socks::dial(client.socks);
        tcp.write_all(offer).unwrap();
        assert_eq!(read_exact::<2>(&mut tcp), [5, chosen], "{offer:?}");
        if chosen == 0xff {
            assert_eq!(tcp.read(&mut [0]).unwrap(), 0);
        }
    }
    // Without a login there are no arguments, and so no bridge.
    let mut tcp = socks::dial(client.socks);
    tcp.write_all(&[5, 1, 0]).unwrap();
    read_exact::<2>(&mut tcp);
    tcp.write_all(&socks::request(client.bridge)).unwrap();
    assert_eq!(socks::reply(tcp).unwrap_err(), NOT_ALLOWED);
}

#[test]
fn row_23_success_only_when_the_tunnel_is_up() {
    let tunnel = Tunnel::new();
    let (mut user, mut tor) = tunnel.ends();
    talk(&mut user, &mut tor);
}

#[test]
fn row_23_what_listens_but_is_no_bridge_is_no_success() {
    let tunnel = Tunnel::new();
    let (silent, address) = listener();
    let mut tcp = socks::dial(tunnel.socks);
    socks::log_in(&mut tcp, tunnel.args.as_bytes(), &[0]);
    tcp.write_all(&socks::request(address)).unwrap();
    let mut dialled = accept(&silent);
    tcp.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    assert!(tcp.read(&mut [0; 10]).is_err(), "an answer without a tunnel");
    // Who asked hangs up: the dial ends too.
    drop(tcp);
    dialled.read_to_end(&mut Vec::new()).unwrap();
}

#[test]
fn row_23_failures_have_codes_of_their_own() {
    let client = Client::new();
    assert_eq!(client.code(&args()), REFUSED);
    assert_eq!(client.code("key=x"), NOT_ALLOWED);
    let name = [&[5, 1, 0, 3, 12][..], b"host.example", &[1, 187]].concat();
    for (request, code) in
        [(&name[..], ADDRESS_TYPE), (&[5, 2, 0, 1, 127, 0, 0, 1, 0, 1], 7), (&[5, 1, 0, 2], 8)]
    {
        let mut tcp = socks::dial(client.socks);
        socks::log_in(&mut tcp, args().as_bytes(), &[0]);
        tcp.write_all(request).unwrap();
        assert_eq!(socks::reply(tcp).unwrap_err(), code);
    }
}

#[test]
fn row_23_unreachable_networks_and_hosts() {
    let setup = "ip route add unreachable 198.51.100.0/24";
    if !in_own_network("row_23_unreachable_networks_and_hosts", setup) {
        return;
    }
    let client = Client::new();
    let code = |target: &str| socks::connect(client.socks, target.parse().unwrap(), &args()).unwrap_err();
    assert_eq!(code("192.0.2.1:9"), NETWORK_UNREACHABLE);
    assert_eq!(code("198.51.100.1:9"), HOST_UNREACHABLE);
}

#[test]
fn row_23_payload_before_the_answer_is_kept() {
    let tunnel = Tunnel::new();
    let mut user = socks::dial(tunnel.socks);
    socks::log_in(&mut user, tunnel.args.as_bytes(), &[0]);
    user.write_all(&[&socks::request(tunnel.bridge)[..], b"early"].concat()).unwrap();
    let mut tor = accept(&tunnel.or_port);
    let mut user = socks::reply(user).unwrap();
    assert_eq!(&read_exact::<5>(&mut tor), b"early");
    talk(&mut user, &mut tor);
}

#[test]
fn row_24_user_name_followed_by_password() {
    let client = Client::new();
    let args = args();
    assert_eq!(client.code_of_halves(args.as_bytes(), &[0]), REFUSED, "a password of one NUL is none");
    assert_eq!(client.code_of_halves(&args.as_bytes()[..20], &args.as_bytes()[20..]), REFUSED);
    assert_eq!(client.code_of_halves(args.as_bytes(), &[0, 0]), NOT_ALLOWED, "two are part of a name");
    // The limit of a bridge line falls within both halves together, which are read as a whole.
    let long = format!("key={KEY};sni={}.example;sni=b.example", "a".repeat(63));
    assert_eq!(client.code_of_halves(b"", long.as_bytes()), REFUSED);
    assert_eq!(client.code_of_halves(&[b'a'; 255], &[b'b'; 255]), NOT_ALLOWED);
}

#[test]
fn row_25_a_cut_anywhere_changes_nothing() {
    let client = Client::new();
    let args = format!("key={KEY};sni=www\\.example\\.com");
    for cut in (1..args.len()).rev().step_by(3).chain([args.find('\\').unwrap() + 1]) {
        let (user, password) = args.split_at(cut);
        assert_eq!(client.code_of_halves(user.as_bytes(), password.as_bytes()), REFUSED, "{cut}");
    }
}

#[test]
fn row_26_escapes() {
    let mut client = Client::new();
    let escaped = args().replace("www", "w\\w\\w").replace("key", "k\\ey");
    assert_eq!(client.code(&escaped), REFUSED);
    assert!(client.reason().contains("refused"));
    for (raw, unescaped) in [("a=b,c", "a=b,c"), (r"a\=b\;c\\d", r"a=b;c\\\\d")] {
        assert_eq!(client.code(&format!("{raw}=v;{}", args())), NOT_ALLOWED);
        // The name the arguments hold comes back in the reason: `a` where a raw `=` ends it.
        let expected = if raw.contains('\\') { unescaped } else { "a" };
        let reason = client.reason();
        assert!(reason.contains(&format!("`{expected}`")), "{reason}");
    }
    // A raw `=` in a value belongs to the value: this key has a letter no key has.
    assert_eq!(client.code("key=a=b;sni=www.example.com"), NOT_ALLOWED);
    assert!(client.reason().contains("key="));
}

#[test]
fn row_27_repeated_keys_and_bad_arguments() {
    let mut client = Client::new();
    assert_eq!(client.code(&format!("{};sni=b.example", args())), REFUSED);
    let cases = [
        ("=v", "empty key"),
        ("key", "has no `=`"),
        ("key=a;", "has no `=`"),
        ("key=a\\", "end in a backslash"),
        ("", "no `key=`"),
        ("sni=www.example.com", "no `key=`"),
    ];
    // The line of the first connection.
    assert!(client.reason().contains("refused"));
    for (bad, words) in cases {
        assert_eq!(client.code(bad), NOT_ALLOWED, "{bad}");
        let reason = client.reason();
        assert!(reason.contains(words), "{bad}: {reason}");
    }
    assert_eq!(client.code_of_halves(b"key=\xff", &[0]), NOT_ALLOWED);
}

#[test]
fn row_28_a_dummy_target() {
    let mut client = Client::new();
    for dummy in ["0.0.0.1:1", "0.0.0.0:0", "[::]:1"] {
        let code = socks::connect(client.socks, dummy.parse().unwrap(), &args()).unwrap_err();
        assert_eq!(code, ADDRESS_TYPE, "{dummy}");
        let reason = client.reason();
        assert!(reason.contains("the bridge line has no address"), "{reason}");
    }
}

#[test]
fn a_parent_that_says_nothing_or_nonsense_harms_nobody() {
    let mut client = Client::new();
    let silent = socks::dial(client.socks);
    for nonsense in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[4, 1, 0, 80], &[0; 5_000], &[255]] {
        let mut tcp = socks::dial(client.socks);
        // It may be refused before the last byte is written.
        let _ = tcp.write_all(nonsense);
        let _ = tcp.shutdown(Shutdown::Write);
        let mut answer = Vec::new();
        let _ = tcp.read_to_end(&mut answer);
        assert!(answer.is_empty(), "{nonsense:?}: {answer:?}");
    }
    assert!(client.reason().contains("not SOCKS version 5"));
    assert_eq!(client.code(&args()), REFUSED);
    drop(silent);
}
