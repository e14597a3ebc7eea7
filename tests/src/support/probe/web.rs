//! What a visitor of a web site may ask it for inside TLS to learn whether one of its paths leads to a bridge.

use std::time::Duration;

use super::{Probe, Step};
use crate::support::site::noise;
use crate::support::visitor::{PREFACE, Visitor, frame};

/// The sample key of RFC 6455, section 1.3.
pub const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// A frame's opcodes (RFC 6455, section 5.2).
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;

/// A mask: any will do.
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// What a bridge is documented to do once its websocket is open (docs/protocol.md, section 17).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Documented {
    /// It says nothing for 30 seconds at least, and closes before 90 are over.
    Silence,
    /// It says this and goes on saying nothing.
    Answer(Vec<u8>),
    /// It says this and ends the connection.
    Last(Vec<u8>),
}

/// Asks `name` for `path` over HTTP/1.1, with these fields besides the host.
#[must_use]
pub fn request(method: &str, name: &str, path: &str, fields: &[&str]) -> Vec<u8> {
    let fields: String = fields.iter().map(|field| format!("{field}\r\n")).collect();
    format!("{method} {path} HTTP/1.1\r\nHost: {name}\r\n{fields}\r\n").into_bytes()
}

/// The request that opens a websocket.
#[must_use]
pub fn opening(name: &str, path: &str) -> Vec<u8> {
    let key = format!("Sec-WebSocket-Key: {KEY}");
    request("GET", name, path, &[UPGRADE, WEBSOCKET, VERSION, &key])
}

const UPGRADE: &str = "Connection: Upgrade";
const WEBSOCKET: &str = "Upgrade: websocket";
const VERSION: &str = "Sec-WebSocket-Version: 13";

/// Who speaks HTTP/1.1, and who HTTP/2.
fn over(name: &str, protocol: &'static str) -> Visitor {
    Visitor { alpn: vec![protocol], ..Visitor::new(name) }
}

fn over_http1(what: impl Into<String>, name: &str, steps: Vec<Step>) -> Probe {
    Probe::inside(what, over(name, "http/1.1"), steps)
}

/// What is asked of other paths than `path`, by who does not know it.
#[must_use]
pub fn neighbourhood(name: &str, path: &str) -> Vec<Probe> {
    let send = |bytes: Vec<u8>| vec![Step::Send(bytes)];
    let half = path.get(..path.len() / 2).unwrap_or("/");
    let near = [format!("{path}x"), format!("{path}/"), path.to_lowercase(), half.to_owned()];
    let mut probes: Vec<Probe> = ["/", "/style.css", "/no/such/page", "/socket", "/ws", "*"]
        .into_iter()
        .map(|path| over_http1(format!("GET {path}"), name, send(request("GET", name, path, &[]))))
        .collect();
    for (place, near) in near.iter().enumerate() {
        probes.push(over_http1(
            format!("GET beside the path, {place}"),
            name,
            send(request("GET", name, near, &[])),
        ));
        probes.push(over_http1(
            format!("a websocket beside the path, {place}"),
            name,
            send(opening(name, near)),
        ));
    }
    for path in ["/", "/socket", "/no/such/page"] {
        probes.push(over_http1(format!("a websocket at {path}"), name, send(opening(name, path))));
        let garbage = [opening(name, path), noise("behind", 300)].concat();
        probes.push(over_http1(format!("a websocket at {path} and garbage"), name, send(garbage)));
        let connect = [PREFACE.to_vec(), extended_connect(name, path)].concat();
        let what = format!("an extended CONNECT to {path}");
        probes.push(Probe::inside(what, over(name, "h2"), send(connect)));
    }
    probes
}

/// What is asked of `path` itself that opens no websocket, by who knows it.
#[must_use]
pub fn of_the_path(name: &str, path: &str) -> Vec<Probe> {
    let key = format!("Sec-WebSocket-Key: {KEY}");
    let get = |fields: &[&str]| request("GET", name, path, fields);
    let many = format!("Accept: {}", "a".repeat(4_000));
    let large = [UPGRADE, WEBSOCKET, VERSION, key.as_str(), many.as_str(), many.as_str(), many.as_str()];
    let queried = format!("{path}?x=1");
    let form = [request("POST", name, path, &["Content-Length: 3"]), b"a=b".to_vec()].concat();
    let asked = [
        ("GET", get(&[])),
        ("GET twice", [get(&[]), get(&[])].concat()),
        ("GET, then another file", [get(&[]), request("GET", name, "/style.css", &[])].concat()),
        ("GET, the last", get(&["Connection: close"])),
        ("GET over HTTP/1.0", format!("GET {path} HTTP/1.0\r\nHost: {name}\r\n\r\n").into_bytes()),
        ("HEAD", request("HEAD", name, path, &[])),
        ("DELETE", request("DELETE", name, path, &[])),
        ("a form", form),
        ("a method nobody knows", request("QNET", name, path, &[])),
        ("half a request", get(&[]).split_at(24).0.to_vec()),
        ("a websocket with another query", opening(name, &queried)),
        ("a websocket of version 8", get(&[UPGRADE, WEBSOCKET, "Sec-WebSocket-Version: 8", &key])),
        ("a websocket without a version", get(&[UPGRADE, WEBSOCKET, &key])),
        ("no websocket, its fields", get(&[VERSION, &key])),
        ("another upgrade", get(&[UPGRADE, "Upgrade: h2c", VERSION, &key])),
        (
            "a websocket by POST",
            request("POST", name, path, &[UPGRADE, WEBSOCKET, VERSION, &key, "Content-Length: 0"]),
        ),
        ("a websocket with a large head", get(&large)),
    ];
    asked
        .into_iter()
        .map(|(what, bytes)| over_http1(format!("the path: {what}"), name, vec![Step::Send(bytes)]))
        .chain([Probe::inside(
            "the path: GET over HTTP/2",
            over(name, "h2"),
            vec![Step::Send([PREFACE.to_vec(), get_over_http2(name, path)].concat())],
        )])
        .collect()
}

/// The websocket at `path` is opened by somebody without the bridge's key, who then goes on in many ways; with what a bridge is
/// documented to do.
#[must_use]
pub fn openings(name: &str, path: &str) -> Vec<(Probe, Documented)> {
    use Documented::{Answer, Last, Silence};
    let wait = || Step::Wait(Duration::from_millis(300));
    let then = |what: &str, bytes: Vec<u8>| {
        let steps = vec![Step::Send(opening(name, path)), wait(), Step::Send(bytes)];
        over_http1(format!("opened: {what}"), name, steps)
    };
    let closed = || Last(vec![0x80 | CLOSE, 0]);
    let binary = |length| websocket_frame(0x80 | BINARY, &noise("message", length));
    let unmasked = [&[0x80 | BINARY, 100][..], &noise("message", 100)].concat();
    let huge =
        [&[0x80 | BINARY, 0x80 | 127, 0, 0, 1, 0, 0, 0, 0, 0][..], &MASK, &noise("message", 100)].concat();
    let long = [&[0x80 | BINARY, 0x80 | 126, 0, 10][..], &MASK, &noise("message", 10)].concat();
    let half_close = vec![Step::Send(opening(name, path)), wait(), Step::HalfClose];
    vec![
        (then("silence", Vec::new()), Silence),
        (then("10 bytes", binary(10)), Silence),
        (then("300 bytes", binary(300)), Silence),
        (then("1,500 bytes", binary(1_500)), Silence),
        (then("40,000 bytes", binary(40_000)), Silence),
        (then("a ping", websocket_frame(0x80 | PING, b"are you there?")), Answer(pong(b"are you there?"))),
        (
            then("a close", websocket_frame(0x80 | CLOSE, &1_000u16.to_be_bytes())),
            Last(vec![0x80 | CLOSE, 2, 3, 0xe8]),
        ),
        (then("a close without a code", websocket_frame(0x80 | CLOSE, &[])), closed()),
        (then("text", websocket_frame(0x80 | TEXT, b"hello")), closed()),
        (then("a reserved bit", websocket_frame(0xc0 | BINARY, b"hello")), closed()),
        (then("a reserved kind", websocket_frame(0x80 | 3, b"hello")), closed()),
        (then("no mask", unmasked), closed()),
        (then("a frame of a terabyte", huge), closed()),
        (then("a length that is not the shortest", long), closed()),
        (then("a continuation of nothing", websocket_frame(0x80, b"hello")), closed()),
        (over_http1("opened: half-close", name, half_close), Last(Vec::new())),
    ]
}

/// The same over HTTP/2, for servers that take websockets there: what is said goes in DATA frames of its stream.
#[must_use]
pub fn openings_over_http2(name: &str, path: &str) -> Vec<(Probe, Documented)> {
    let said = [
        ("silence", Vec::new(), Documented::Silence),
        ("1,500 bytes", websocket_frame(0x80 | BINARY, &noise("message", 1_500)), Documented::Silence),
        ("a ping", websocket_frame(0x80 | PING, b"?"), Documented::Answer(pong(b"?"))),
    ];
    let then = |(what, bytes, documented): (&str, Vec<u8>, Documented)| {
        let connect = [PREFACE.to_vec(), extended_connect(name, path)].concat();
        let steps = vec![
            Step::Send(connect),
            Step::Wait(Duration::from_millis(300)),
            Step::Send(if bytes.is_empty() { bytes } else { frame(0, 0, 1, &bytes) }),
        ];
        (Probe::inside(format!("opened over HTTP/2: {what}"), over(name, "h2"), steps), documented)
    };
    said.map(then).into()
}

/// A server's answer to a ping.
fn pong(payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).unwrap_or(0);
    [&[0x8a, length][..], payload].concat()
}

/// A client's frame, its payload masked (RFC 6455, section 5.3).
fn websocket_frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match u16::try_from(payload.len()).unwrap_or(u16::MAX) {
        short @ 0..126 => frame.push(0x80 | u8::try_from(short).unwrap_or(0)),
        long => {
            frame.push(0x80 | 126);
            frame.extend(long.to_be_bytes());
        }
    }
    frame.extend(MASK);
    frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

/// An extended CONNECT (RFC 8441, section 4), its stream left open.
fn extended_connect(name: &str, path: &str) -> Vec<u8> {
    let fields = [
        (":method", "CONNECT"),
        (":protocol", "websocket"),
        (":scheme", "https"),
        (":path", path),
        (":authority", name),
    ];
    let fields = fields.into_iter().chain([("sec-websocket-version", "13")]);
    frame(1, 4, 1, &fields.flat_map(|(name, value)| literal(name, value)).collect::<Vec<_>>())
}

fn get_over_http2(name: &str, path: &str) -> Vec<u8> {
    let fields = [(":method", "GET"), (":scheme", "https"), (":path", path), (":authority", name)];
    frame(1, 5, 1, &fields.into_iter().flat_map(|(name, value)| literal(name, value)).collect::<Vec<_>>())
}

/// A header field as HPACK's literal without indexing, with a new name (RFC 7541, section 6.2.2). Names and values here are
/// shorter than 127 bytes, which is what a length of one byte holds.
fn literal(name: &str, value: &str) -> Vec<u8> {
    let text = |text: &str| {
        let length = text.len().min(126);
        [&[u8::try_from(length).unwrap_or(0)][..], text.as_bytes().get(..length).unwrap_or_default()].concat()
    };
    [vec![0], text(name), text(value)].concat()
}
