//! The probes that need nothing of the product: bytes, and visitors whose records a censor treats.
//!
//! What needs the product's own client (a token under another key, a spoiled knock, a knock from another connection) is
//! made of the same parts: [`Probe::script`] with its recorded hello, or [`Probe::client`] with its dialler as the
//! [`Client`] and the same rules. [`spoiled`] makes a whole set for any client.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;

use super::hello::{self, with_extension};
use super::{Client, Probe, Step};
use crate::support::flow::End;
use crate::support::link::{Act, Editor, Rule, Way, Which};
use crate::support::site::noise;
use crate::support::visitor::Visitor;

/// Everything here, for a decoy that is called `name`.
///
/// # Errors
/// BoringSSL's.
pub fn all(name: &str) -> Result<Vec<Probe>> {
    let visitor = Visitor::new(name);
    let hello = visitor.hello()?;
    let mut probes = silent();
    probes.extend(random());
    probes.extend(other_protocols());
    probes.extend(records());
    probes.extend(hellos(&hello)?);
    probes.extend(damaged_hellos(&hello)?);
    probes.extend(followed_hellos(&hello));
    probes.extend(visitors(name)?);
    probes.extend(spoiled("a visitor", &client(visitor)));
    Ok(probes)
}

/// A visitor as a probe's client.
#[must_use]
pub fn client(visitor: Visitor) -> Client {
    Arc::new(move |address, limit| {
        // What it thinks of the answer is of no interest: the link sees it.
        visitor.visit(address, limit).ok();
    })
}

/// Nothing is sent.
#[must_use]
pub fn silent() -> Vec<Probe> {
    vec![
        Probe::script("silence", Vec::new()),
        Probe::script("half-close at once", vec![Step::HalfClose]),
        Probe::script("half-close after a second", vec![Step::Wait(Duration::from_secs(1)), Step::HalfClose]),
    ]
}

/// Random bytes of many lengths, some that begin like TLS.
#[must_use]
pub fn random() -> Vec<Probe> {
    let mut probes = Vec::new();
    for length in
        [1, 2, 3, 4, 5, 6, 11, 16, 31, 32, 64, 100, 200, 255, 517, 1_000, 1_460, 2_000, 4_096, 16_384, 70_000]
    {
        let bytes = noise(&format!("random {length}"), length);
        probes.push(Probe::script(format!("{length} random bytes"), vec![Step::Send(bytes.clone())]));
        if length < 2_000 {
            let steps = vec![Step::Send(bytes.clone()), Step::HalfClose];
            probes.push(Probe::script(format!("{length} random bytes, then half-close"), steps));
            let mut like = vec![22, 3, 1];
            like.extend(&bytes);
            probes.push(Probe::script(
                format!("a handshake record's start and {length} random bytes"),
                vec![Step::Send(like)],
            ));
        }
    }
    let drip = Step::Drip(noise("drip", 30), 1, Duration::from_millis(50));
    probes.push(Probe::script("random bytes one by one", vec![drip]));
    probes
}

/// What speaks first in other protocols.
#[must_use]
pub fn other_protocols() -> Vec<Probe> {
    let texts: [(&str, &[u8]); 14] = [
        ("HTTP/1.1", b"GET / HTTP/1.1\r\nHost: www.example.com\r\n\r\n"),
        ("HTTP/1.0", b"GET / HTTP/1.0\r\n\r\n"),
        ("HTTP/0.9", b"GET /\r\n"),
        ("half an HTTP request", b"GET / HTTP/1.1\r\nHost: www.exa"),
        ("an HTTP upgrade", b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n"),
        ("a proxy request", b"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org:443\r\n\r\n"),
        ("an HTTP method nobody knows", b"QNET / HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("HTTP/2 in the clear", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"),
        ("SSH", b"SSH-2.0-OpenSSH_9.2\r\n"),
        ("SMTP", b"EHLO example.org\r\n"),
        ("SOCKS5", &[5, 1, 0]),
        ("SOCKS4", &[4, 1, 0, 80, 127, 0, 0, 1, 0]),
        ("SSL 2", &[0x80, 0x2e, 1, 0, 2, 0, 21, 0, 0, 0, 16, 7, 0, 0xc0, 5, 0, 0x80]),
        ("RDP", &[3, 0, 0, 19, 14, 0xe0, 0, 0, 0, 0, 0, 1, 0, 8, 0, 3, 0, 0, 0]),
    ];
    texts.map(|(name, text)| Probe::script(name, vec![Step::Send(text.to_vec())])).into()
}

/// TLS records that no client begins with.
#[must_use]
pub fn records() -> Vec<Probe> {
    let big = [&[22, 3, 1, 0x40, 1][..], &noise("big", 16_385)].concat();
    let data = [&[23, 3, 3, 1, 0][..], &noise("data", 256)].concat();
    let texts: [(&str, Vec<u8>); 12] = [
        ("an alert first", vec![21, 3, 1, 0, 2, 2, 40]),
        ("close_notify first", vec![21, 3, 3, 0, 2, 1, 0]),
        ("change cipher spec first", vec![20, 3, 3, 0, 1, 1]),
        ("application data first", data),
        ("a heartbeat first", vec![24, 3, 2, 0, 3, 1, 0x40, 0]),
        ("an empty handshake record", vec![22, 3, 1, 0, 0]),
        ("eight empty handshake records", [22, 3, 1, 0, 0].repeat(8)),
        ("a record of an unknown type", vec![99, 3, 1, 0, 1, 0]),
        ("a record that is too long", big),
        ("a record of the greatest length, begun", vec![22, 3, 1, 0xff, 0xff, 1, 0, 0xff]),
        ("a ServerHello first", [&[22, 3, 3, 0, 40, 2, 0, 0, 36, 3, 3][..], &noise("random", 34)].concat()),
        ("a Finished first", [&[22, 3, 3, 0, 16, 20, 0, 0, 12][..], &noise("finished", 12)].concat()),
    ];
    texts.map(|(name, bytes)| Probe::script(name, vec![Step::Send(bytes)])).into()
}

/// A hello in unusual but legal ways, in part, twice, and with unusual contents.
///
/// # Errors
/// `hello` is none.
pub fn hellos(hello: &[u8]) -> Result<Vec<Probe>> {
    let mut probes = vec![
        Probe::script("a hello", vec![Step::Send(hello.to_vec())]),
        Probe::script("the same hello again", vec![Step::Send(hello.to_vec())]),
        Probe::script("a hello, then half-close", vec![Step::Send(hello.to_vec()), Step::HalfClose]),
        Probe::script("a hello in drops", vec![Step::Drip(hello.to_vec(), 100, Duration::from_millis(20))]),
        Probe::script(
            "a hello in slow drops",
            vec![Step::Drip(hello.to_vec(), 20, Duration::from_millis(120))],
        ),
        Probe::script("a hello in many records", vec![Step::Send(hello::in_records(hello, 50))]),
        Probe::script("a hello in records of one byte", vec![Step::Send(hello::in_records(hello, 1))]),
    ];
    for length in [1, 3, 5, 6, 9, 11, 43, 44, 76, 200, hello.len() / 2, hello.len() - 1] {
        let part = hello.get(..length).unwrap_or_default().to_vec();
        probes.push(Probe::script(format!("{length} bytes of a hello"), vec![Step::Send(part.clone())]));
        let steps = vec![Step::Send(part), Step::HalfClose];
        probes.push(Probe::script(format!("{length} bytes of a hello, then half-close"), steps));
    }
    for (name, kind, body) in [
        ("no key share", 51, &[0, 0][..]),
        ("no common version", 43, &[2, 3, 9]),
        ("no common group", 10, &[0, 2, 0x0a, 0x0a]),
        ("no common signature", 13, &[0, 2, 0x0a, 0x0a]),
        ("no common protocol", 16, &[0, 5, 4, b'q', b'n', b'e', b't']),
        ("an empty server name", 0, &[]),
    ] {
        let changed = with_extension(hello, kind, body)?;
        probes.push(Probe::script(format!("a hello with {name}"), vec![Step::Send(changed)]));
    }
    Ok(probes)
}

/// A hello with one bit flipped, at the beginning and at the end of each of its fields.
///
/// # Errors
/// `hello` is none.
pub fn damaged_hellos(hello: &[u8]) -> Result<Vec<Probe>> {
    let mut probes = Vec::new();
    for field in hello::fields(hello)? {
        for (place, bit) in [(field.at.start, 0x80), (field.at.end - 1, 0x01)] {
            let mut damaged = hello.to_vec();
            if let Some(byte) = damaged.get_mut(place) {
                *byte ^= bit;
            }
            let name = format!("a hello with {} damaged at byte {place}", field.name);
            probes.push(Probe::script(name, vec![Step::Send(damaged)]));
        }
    }
    Ok(probes)
}

/// A hello with something after it that no client sends.
#[must_use]
pub fn followed_hellos(hello: &[u8]) -> Vec<Probe> {
    let data = [&[23, 3, 3, 0, 53][..], &noise("finished", 53)].concat();
    let follow: [(&str, Vec<u8>); 8] = [
        ("random bytes", noise("garbage", 300)),
        ("plain HTTP", b"GET / HTTP/1.1\r\n\r\n".to_vec()),
        ("a record of random bytes", data.clone()),
        ("change cipher spec and a record of random bytes", [&[20, 3, 3, 0, 1, 1][..], &data].concat()),
        ("close_notify", vec![21, 3, 3, 0, 2, 1, 0]),
        ("a fatal alert", vec![21, 3, 3, 0, 2, 2, 40]),
        ("itself", hello.to_vec()),
        ("an empty record", vec![23, 3, 3, 0, 0]),
    ];
    let mut probes = Vec::new();
    for (name, bytes) in follow {
        let at_once = vec![Step::Send([hello, &bytes].concat())];
        probes.push(Probe::script(format!("a hello and {name} at once"), at_once));
        let later =
            vec![Step::Send(hello.to_vec()), Step::Wait(Duration::from_millis(300)), Step::Send(bytes)];
        probes.push(Probe::script(format!("a hello, then {name}"), later));
    }
    probes
}

/// Visitors of several kinds, left alone.
///
/// # Errors
/// BoringSSL's.
pub fn visitors(name: &str) -> Result<Vec<Probe>> {
    let usual = Visitor::new(name);
    let named = |name: &str| Some(name.to_owned());
    let many = ["/", "/style.css", "/menu.js", "/boat.png", "/map.png", "/favicon.ico", "/nothing"];
    let kinds = [
        ("asks for the page", usual.clone()),
        ("asks for everything", Visitor { paths: many.map(str::to_owned).into(), ..usual.clone() }),
        ("asks for nothing", Visitor { paths: Vec::new(), ..usual.clone() }),
        ("speaks HTTP/1.1", Visitor { alpn: vec!["http/1.1"], ..usual.clone() }),
        ("offers no protocol", Visitor { alpn: Vec::new(), ..usual.clone() }),
        ("speaks TLS 1.2", Visitor { tls13: false, ..usual.clone() }),
        ("speaks TLS 1.2 and HTTP/1.1", Visitor { tls13: false, alpn: vec!["http/1.1"], ..usual.clone() }),
        ("speaks TLS 1.3 only", Visitor { tls13_only: true, ..usual.clone() }),
        ("names nobody", Visitor { name: None, ..usual.clone() }),
        ("names another site", Visitor { name: named("www.example.org"), ..usual.clone() }),
        ("names the site in capitals", Visitor { name: named(&name.to_uppercase()), ..usual.clone() }),
    ];
    let mut probes: Vec<Probe> = kinds
        .into_iter()
        .map(|(kind, visitor)| Probe::client(format!("a visitor who {kind}"), client(visitor), Vec::new()))
        .collect();
    let old = Visitor { tls13: false, ..usual };
    probes.push(Probe::script("a TLS 1.2 hello", vec![Step::Send(old.hello()?)]));
    for nth in 1..4 {
        let flip = Rule::new(Way::Up, Which::Nth(nth), Act::Flip { byte: -1, bit: 0 });
        let name = format!("a TLS 1.2 visitor whose record {nth} is spoiled");
        probes.push(Probe::client(name, client(old.clone()), vec![flip]));
    }
    Ok(probes)
}

/// A client whose ChangeCipherSpec (record 1), Finished (data record 0), preface and requests (data records 1 and 2) are
/// spoiled, lost, doubled, swapped, cut, or have something put before or after them.
#[must_use]
pub fn spoiled(who: &str, client: &Client) -> Vec<Probe> {
    let flip = |byte| Act::Flip { byte, bit: 0 };
    let garbage = || [&[23, 3, 3, 0, 60][..], &noise("injected", 60)].concat();
    let retyped = |kind: u8| {
        Act::Edit(Editor::new(move |record| {
            if let Some(first) = record.first_mut() {
                *first = kind;
            }
        }))
    };
    let acts = [
        ("has its type spoiled", flip(0)),
        ("has its version spoiled", flip(1)),
        ("has its length spoiled", flip(4)),
        ("has its first byte spoiled", flip(5)),
        ("has its last byte spoiled", flip(-1)),
        ("has a byte before its tag spoiled", flip(-20)),
        ("is lost", Act::Drop),
        ("is doubled", Act::Double),
        ("changes place with the next", Act::Swap),
        ("follows an injected record", Act::InjectBefore(garbage())),
        ("is followed by an injected record", Act::InjectAfter(garbage())),
        ("is followed by random bytes", Act::InjectAfter(noise("bare", 100))),
        ("becomes a handshake record", retyped(22)),
        ("becomes an alert", retyped(21)),
        ("is late by a second", Act::Delay(Duration::from_secs(1))),
        ("is cut off by a FIN", Act::Cut { keep: 9, end: End::Fin }),
        (
            "is replaced by random bytes",
            Act::Edit(Editor::new(|record| *record = noise("replaced", record.len()))),
        ),
    ];
    let finished_preface_request = ["Finished", "preface", "request"].into_iter().enumerate();
    let records = std::iter::once(("ChangeCipherSpec", None))
        .chain(finished_preface_request.map(|(n, name)| (name, Some(n))));
    let mut probes = Vec::new();
    for (record, number) in records {
        // A ChangeCipherSpec is too short to have one.
        for (act, how) in
            acts.iter().filter(|(act, _)| !(record == "ChangeCipherSpec" && act.contains("tag")))
        {
            let rule = Rule::new(Way::Up, number.map_or(Which::Nth(1), Which::NthData), how.clone());
            probes.push(Probe::client(format!("{who} whose {record} {act}"), Arc::clone(client), vec![rule]));
        }
    }
    probes
}
