use proptest::prelude::*;

use super::super::vectors;
use super::*;

fn chrome_like() -> Vec<u8> {
    vectors::message(&vectors::tokens().1[0].1)
}

fn vec16(bytes: &[u8]) -> Vec<u8> {
    [&u16::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat()
}

/// A hello whose variable parts are given; `extensions` is the list without its length.
fn build(session_id: &[u8], suites: &[u8], compression: &[u8], extensions: &[u8]) -> Vec<u8> {
    let mut body = vec![3; 34];
    body.push(u8::try_from(session_id.len()).unwrap());
    body.extend(session_id);
    body.extend(vec16(suites));
    body.push(u8::try_from(compression.len()).unwrap());
    body.extend(compression);
    body.extend(vec16(extensions));
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    [&[CLIENT_HELLO, length[1], length[2], length[3]], &body[..]].concat()
}

fn extension(kind: u16, body: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes(), &vec16(body)[..]].concat()
}

fn with(kind: u16, body: &[u8]) -> ClientHello {
    ClientHello::parse(build(&[], &[0x13, 1], &[0], &extension(kind, body))).unwrap()
}

#[test]
fn a_chrome_like_hello_shows_all_its_parts() {
    let raw = chrome_like();
    let hello = ClientHello::parse(raw.clone()).unwrap();
    assert_eq!(hello.raw(), raw);
    assert_eq!(hello.body(), &raw[4..]);
    assert_eq!(hello.session_id().len(), 32);
    let suites: Vec<_> = hello.cipher_suites().collect();
    assert_eq!(suites[1..4], [0x1301, 0x1302, 0x1303]);
    let groups = hello.extensions().find(|extension| extension.kind == 10).unwrap();
    assert_eq!(groups.body.len(), 2 + 2 * 5);
    assert_eq!(hello.extensions().map(|extension| 4 + extension.body.len()).sum::<usize>(), {
        let fixed = 4 + 2 + 32 + (1 + 32) + (2 + 2 * suites.len()) + 2 + 2;
        raw.len() - fixed
    });
    assert_eq!(hello.sni(), Some("www.example.com"));
    let ech = hello.ech().unwrap();
    assert_eq!((ech.suite.0, ech.enc.len()), (1, 32));
    assert_eq!(&raw[ech.payload_at], ech.payload);
}

#[test]
fn every_cut_and_every_added_byte_is_refused() {
    let raw = chrome_like();
    for length in 0..raw.len() {
        assert_eq!(ClientHello::parse(raw[..length].to_vec()), None);
        if length >= 4 {
            // The same with a length that is right again.
            let mut cut = raw[..length].to_vec();
            let body = u32::try_from(length - 4).unwrap().to_be_bytes();
            cut[1..4].copy_from_slice(&body[1..]);
            assert_eq!(ClientHello::parse(cut), None);
        }
    }
    assert_eq!(ClientHello::parse([raw, vec![0]].concat()), None);
}

#[test]
fn each_field_has_its_bounds() {
    let suites = &[0x13, 1][..];
    assert!(ClientHello::parse(build(&[0; 32], suites, &[0], &[])).is_some());
    assert_eq!(ClientHello::parse(build(&[0; 33], suites, &[0], &[])), None);
    assert_eq!(ClientHello::parse(build(&[], &[], &[0], &[])), None);
    assert_eq!(ClientHello::parse(build(&[], &[0x13, 1, 2], &[0], &[])), None);
    assert_eq!(ClientHello::parse(build(&[], suites, &[], &[])), None);
    let twice = [extension(5, &[]), extension(6, &[]), extension(5, &[1])].concat();
    assert_eq!(ClientHello::parse(build(&[], suites, &[0], &twice)), None);
    let mut server = build(&[], suites, &[0], &[]);
    server[0] = 2;
    assert_eq!(ClientHello::parse(server), None);
}

/// The most extensions a hello can hold, all different: it must not take a stranger's hello to keep the bridge busy.
#[test]
fn thousands_of_extensions_are_read() {
    let extensions: Vec<u8> = (0..4000).rev().flat_map(|kind| extension(kind, &[])).collect();
    let hello = ClientHello::parse(build(&[], &[0x13, 1], &[0], &extensions)).unwrap();
    assert_eq!(hello.extensions().count(), 4000);
}

#[test]
fn only_one_whole_ascii_name_is_a_server_name() {
    assert_eq!(with(0, b"\0\x06\0\0\x03a.b").sni(), Some("a.b"));
    for body in [
        &b""[..],
        b"\0\0",
        b"\0\x03\0\0\0",
        b"\0\x06\x01\0\x03a.b",
        b"\0\x06\0\0\x03a.b\0",
        b"\0\x07\0\0\x03a.b",
        b"\0\x07\0\0\x03a.b\0",
        b"\0\x05\0\0\x03a.b",
        b"\0\x06\0\0\x04a.b",
        b"\0\x0c\0\0\x03a.b\0\0\x03c.d",
        b"\0\x06\0\0\x03a\xc3\xbc",
        b"\0\x06\0\0\x03a\xff\xff",
    ] {
        assert_eq!(with(0, body).sni(), None, "{body:?}");
    }
    assert_eq!(with(1, b"\0\x06\0\0\x03a.b").sni(), None);
}

#[test]
fn only_a_whole_outer_extension_is_an_ech() {
    let outer = b"\0\0\x01\0\x02\x2a\0\x03enc\0\x07payload";
    let expected = |hello: &ClientHello| {
        let ech = hello.ech().unwrap();
        assert_eq!(
            (ech.suite, ech.config_id, ech.enc, ech.payload),
            ((1, 2), 0x2a, &b"enc"[..], &b"payload"[..])
        );
        assert_eq!(&hello.raw()[ech.payload_at], b"payload");
    };
    expected(&with(0xfe0d, outer));
    for length in 0..outer.len() {
        assert_eq!(with(0xfe0d, &outer[..length]).ech(), None);
    }
    assert_eq!(with(0xfe0d, &[&outer[..], b"!"].concat()).ech(), None);
    assert_eq!(with(0xfe0d, &[1]).ech(), None);
    assert_eq!(with(0xfe0c, outer).ech(), None);
}

proptest! {
    #[test]
    fn mutated_hellos_never_panic(edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6), cut: prop::sample::Index, grow in 0_usize..4) {
        let mut raw = chrome_like();
        for (at, byte) in edits {
            let at = at.index(raw.len());
            raw[at] = byte;
        }
        let cut = cut.index(raw.len());
        for raw in [raw[..cut].to_vec(), [&raw[..], &raw[..grow]].concat(), raw] {
            if let Some(hello) = ClientHello::parse(raw.clone()) {
                prop_assert_eq!(hello.raw(), raw);
                let _ = (hello.sni(), hello.ech(), hello.cipher_suites().count(), hello.extensions().count());
            }
        }
    }

    #[test]
    fn any_bytes_never_panic(raw in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = ClientHello::parse(raw);
    }
}
