use proptest::prelude::*;

use super::*;

/// What HAProxy 2.6.12 sent for a connection from 127.0.7.1 port 38603 to 127.0.0.1 port 35997 (`send-proxy-v2`).
const HAPROXY_V4: [u8; 28] = *b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x7f\0\x07\x01\x7f\0\0\x01\x96\xcb\x8c\x9d";
/// The same for its own look at whether a server is there.
const HAPROXY_CHECK: [u8; 16] = *b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

fn header(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
    [&SIGNATURE[..], &[0x20 | command, family], &length, rest].concat()
}

fn addresses(client: SocketAddr) -> (u8, Vec<u8>) {
    let port = client.port().to_be_bytes();
    match client {
        SocketAddr::V4(v4) => (TCP_OVER_V4, [&v4.ip().octets()[..], &[9; 4], &port, &[1, 187]].concat()),
        SocketAddr::V6(v6) => (TCP_OVER_V6, [&v6.ip().octets()[..], &[9; 16], &port, &[1, 187]].concat()),
    }
}

#[test]
fn what_haproxy_sends_is_read() {
    let client = Source::Client("127.0.7.1:38603".parse().unwrap());
    assert_eq!(read(&HAPROXY_V4), Ok(Progress::Whole(client)));
    assert_eq!(read(&HAPROXY_CHECK), Ok(Progress::Whole(Source::Balancer)));
}

#[test]
fn what_is_of_no_use_is_refused() {
    let v4 = [7; 12];
    for (bytes, expected) in [
        (b"PROXY TCP4 192.0.2.7 192.0.2.1 1 2\r\n".to_vec(), ProxyError::Signature),
        (vec![22, 3, 1], ProxyError::Signature),
        ([&SIGNATURE[..], &[0x31, 0x11, 0, 12]].concat(), ProxyError::Version(3)),
        (header(2, TCP_OVER_V4, &v4), ProxyError::Command(2)),
        (header(1, 0x12, &v4), ProxyError::Family(0x12)),
        (header(1, 0x31, &[7; 216]), ProxyError::Family(0x31)),
        (header(1, TCP_OVER_V4, &v4[..11]), ProxyError::Length(11)),
        (header(1, TCP_OVER_V6, &[7; 35]), ProxyError::Length(35)),
        (header(1, TCP_OVER_V4, &[7; MAX_REST + 1]), ProxyError::Length(MAX_REST + 1)),
        ([header(1, TCP_OVER_V4, &v4), vec![0]].concat(), ProxyError::Length(12)),
        ([header(0, 0, &[]), vec![0]].concat(), ProxyError::Length(0)),
    ] {
        assert_eq!(read(&bytes), Err(expected), "{bytes:?}");
    }
}

#[test]
fn a_connection_without_an_origin_is_the_balancers() {
    for bytes in
        [header(1, UNSPECIFIED, &[]), header(1, UNSPECIFIED, &[1; 30]), header(0, TCP_OVER_V4, &[1; 12])]
    {
        assert_eq!(read(&bytes), Ok(Progress::Whole(Source::Balancer)));
    }
}

proptest! {
    /// Whoever reads as it says reads the header whole and nothing behind it.
    #[test]
    fn reading_as_told_takes_the_header_and_no_more(
        client: SocketAddr, extensions in prop::collection::vec(any::<u8>(), 0..900), behind: [u8; 4]
    ) {
        let (family, mut rest) = addresses(client);
        rest.extend(extensions);
        let header = header(1, family, &rest);
        let sent = [&header[..], &behind].concat();
        let mut taken = 0;
        let source = loop {
            match read(&sent[..taken]).unwrap() {
                Progress::Whole(source) => break source,
                Progress::Missing(count) => {
                    prop_assert!(count > 0);
                    taken += count;
                }
            }
        };
        prop_assert_eq!(taken, header.len());
        let Source::Client(found) = source else { panic!("no client") };
        prop_assert_eq!((found.ip(), found.port()), (client.ip(), client.port()));
        for length in 0..header.len() {
            prop_assert!(matches!(read(&header[..length]), Ok(Progress::Missing(count)) if count <= header.len() - length));
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        let _ = read(&bytes);
        let begun = [&SIGNATURE[..], &bytes].concat();
        if let Ok(Progress::Missing(count)) = read(&begun) {
            prop_assert!(begun.len() + count <= MAX_HEADER);
        }
    }
}
