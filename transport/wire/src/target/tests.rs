use proptest::prelude::*;

use super::*;

fn target(text: &str) -> Target {
    text.parse().unwrap()
}

fn written(request: &Request) -> Vec<u8> {
    let mut out = Vec::new();
    request.write(&mut out);
    out
}

/// docs/protocol.md, section 18, has these.
#[test]
fn requests_are_these_bytes() {
    for (text, bytes) in [
        ("192.0.2.7:80", b"\x01\x01\x01\xc0\x00\x02\x07\x00\x50".as_slice()),
        ("www.Example.com:443", b"\x01\x01\x03\x0fwww.example.com\x01\xbb"),
        (
            "[2001:db8::7]:443",
            b"\x01\x01\x04\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x07\x01\xbb",
        ),
    ] {
        let request = Request::Tcp(target(text));
        assert_eq!(written(&request), bytes);
        assert_eq!(Request::read(bytes), Ok(Some((request, bytes.len()))));
    }
    assert_eq!(written(&Request::Udp), [1, 2]);
    assert_eq!(Request::read(&[1, 2, 9]), Ok(Some((Request::Udp, 2))));
}

#[test]
fn datagrams_are_these_bytes() {
    let bytes = b"\x00\x0c\x01\xc0\x00\x02\x07\x00\x35hello";
    let datagram = Datagram { peer: target("192.0.2.7:53"), payload: b"hello" };
    let mut out = Vec::new();
    datagram.write(&mut out).unwrap();
    assert_eq!(out, bytes);
    assert_eq!(Datagram::read(bytes), Ok(Some((datagram, bytes.len()))));
}

#[test]
fn what_is_wrong_with_a_request_is_said_at_its_byte() {
    for (bytes, error) in [
        (b"\x00".as_slice(), TargetError::Version(0)),
        (b"\x05", TargetError::Version(5)),
        (b"\x01\x00", TargetError::Command(0)),
        (b"\x01\x03", TargetError::Command(3)),
        (b"\x01\x01\x02", TargetError::AddressType(2)),
        (b"\x01\x01\x03\xfe", TargetError::Name(NameError::TooLong)),
        (b"\x01\x01\x03\x00", TargetError::Name(NameError::Empty)),
        (b"\x01\x01\x03\x02a ", TargetError::Name(NameError::Letter)),
        (b"\x01\x01\x03\x02\xff\xfe", TargetError::Name(NameError::Letter)),
        // A resolver would take it for 127.0.0.1.
        (b"\x01\x01\x03\x05127.1", TargetError::Name(NameError::Address)),
        (b"\x01\x01\x03\x080x7f.0x1", TargetError::Name(NameError::Address)),
        (b"\x01\x01\x01\x7f\x00\x00\x01\x00\x00", TargetError::Port),
    ] {
        assert_eq!(Request::read(bytes), Err(error), "{bytes:?}");
        // Not before.
        assert_eq!(Request::read(&bytes[..bytes.len() - 1]), Ok(None), "{bytes:?}");
    }
    assert_eq!(Datagram::read(b"\x00\x00"), Err(TargetError::Cut));
    assert_eq!(Datagram::read(b"\x00\x03\x01\x7f\x00"), Err(TargetError::Cut));
}

#[test]
fn texts_are_read_as_people_write_them() {
    for (text, shown) in [
        ("Example.COM:80", "example.com:80"),
        ("example.com.:80", "example.com:80"),
        ("_dmarc.my_host.example:1", "_dmarc.my_host.example:1"),
        ("localhost:65535", "localhost:65535"),
        ("192.0.2.7:22", "192.0.2.7:22"),
        ("[::1]:22", "[::1]:22"),
    ] {
        let target = target(text);
        assert_eq!(target.to_string(), shown);
        assert_eq!(format!("{target:?} {:?}", target.host()), "Target([redacted]) Host([redacted])");
    }
    for (text, error) in [
        ("", TargetError::Port),
        ("example.com", TargetError::Port),
        ("example.com:", TargetError::Port),
        ("example.com:0", TargetError::Port),
        ("example.com:+80", TargetError::Port),
        ("example.com:65536", TargetError::Port),
        (":80", TargetError::Name(NameError::Empty)),
        ("a b:80", TargetError::Name(NameError::Letter)),
        ("example.com..:80", TargetError::Name(NameError::Label)),
        ("2001:db8::7:443", TargetError::Bracket),
        ("[192.0.2.7]:443", TargetError::Bracket),
        ("[example.com]:443", TargetError::Bracket),
    ] {
        assert_eq!(text.parse::<Target>(), Err(error), "{text:?}");
    }
}

#[test]
fn bounds_are_exact() {
    let label = "a".repeat(63);
    let longest = target(&format!("{label}.{label}.{label}.{}:443", "a".repeat(61)));
    assert_eq!(written(&Request::Tcp(longest.clone())).len(), MAX_REQUEST);
    let payload = vec![7; MAX_PAYLOAD + 1];
    let mut out = Vec::new();
    let datagram = |payload| Datagram { peer: longest.clone(), payload };
    assert_eq!(datagram(&payload).write(&mut out), Err(TargetError::TooLong));
    assert!(out.is_empty());
    datagram(&payload[1..]).write(&mut out).unwrap();
    assert_eq!(out.len(), MAX_FRAME);
    assert!(Datagram::read(&out).unwrap().is_some());
}

#[test]
fn every_answer_comes_back_and_others_are_failures() {
    for code in 0..=u8::MAX {
        let answer = Answer::read(&[VERSION, code]).unwrap().unwrap();
        let known = Answer::ALL.get(usize::from(code));
        assert_eq!(answer, *known.unwrap_or(&Answer::Failed));
        assert!(known.is_none() || answer.bytes() == [VERSION, code]);
    }
    assert_eq!(Answer::read(&[VERSION]), Ok(None));
    assert_eq!(Answer::read(&[2]), Err(TargetError::Version(2)));
}

fn hosts() -> impl Strategy<Value = Host> {
    prop_oneof![
        any::<Ipv4Addr>().prop_map(|ip| Host::Ip(ip.into())),
        any::<Ipv6Addr>().prop_map(|ip| Host::Ip(ip.into())),
        "([a-z0-9_]([a-z0-9_-]{0,20}[a-z0-9])?\\.){0,4}[a-z]{2,10}"
            .prop_map(|name| Host::Name(name.parse().unwrap())),
    ]
}

fn targets() -> impl Strategy<Value = Target> {
    (hosts(), 1..=u16::MAX).prop_map(|(host, port)| Target::new(host, port).unwrap())
}

proptest! {
    #[test]
    fn what_is_written_is_read_and_no_byte_too_many(
        target in targets(), payload in prop::collection::vec(any::<u8>(), 0..300), more in any::<[u8; 3]>(),
    ) {
        let request = Request::Tcp(target.clone());
        let mut bytes = written(&request);
        let length = bytes.len();
        prop_assert!(length <= MAX_REQUEST);
        for cut in 0..length {
            prop_assert_eq!(Request::read(&bytes[..cut]), Ok(None));
        }
        bytes.extend(more);
        prop_assert_eq!(Request::read(&bytes), Ok(Some((request, length))));

        let datagram = Datagram { peer: target.clone(), payload: &payload };
        let mut bytes = Vec::new();
        datagram.write(&mut bytes).unwrap();
        let length = bytes.len();
        for cut in 0..length {
            prop_assert_eq!(Datagram::read(&bytes[..cut]), Ok(None));
        }
        bytes.extend(more);
        prop_assert_eq!(Datagram::read(&bytes), Ok(Some((datagram, length))));
        prop_assert_eq!(target.to_string().parse::<Target>(), Ok(target));
    }

    #[test]
    fn any_bytes_are_read_within_the_bounds(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        if let Ok(None) = Request::read(&bytes) {
            prop_assert!(bytes.len() < MAX_REQUEST);
        }
        if let Ok(Some((datagram, length))) = Datagram::read(&bytes) {
            prop_assert!(length <= bytes.len() && datagram.payload.len() < length);
        }
    }

    #[test]
    fn any_text_is_a_target_or_an_error(text in "\\PC{0,60}(:[0-9]{1,6})?") {
        if let Ok(target) = text.parse::<Target>() {
            prop_assert_eq!(target.to_string().parse::<Target>(), Ok(target));
        }
    }
}
