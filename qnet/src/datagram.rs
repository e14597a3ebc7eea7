//! Datagrams with the header that SOCKS5 gives them (RFC 1928, section 7), and as a stream carries them, without I/O.

use std::io;

use qnet_wire::target::Datagram;

/// Two reserved bytes and a fragment's number before the address.
const HEADER: usize = 3;
/// An application's datagram as the stream carries it; `false` if it is not one. Fragments are optional to do, and nobody does.
pub fn to_frame(datagram: &[u8], frame: &mut Vec<u8>) -> bool {
    let Some(([0, 0, 0], body)) = datagram.split_first_chunk::<HEADER>() else { return false };
    let Ok(length) = u16::try_from(body.len()) else { return false };
    frame.extend(length.to_be_bytes());
    frame.extend(body);
    // The address is SOCKS's own in both.
    matches!(Datagram::read(frame), Ok(Some(_)))
}

/// The first datagram of a stream's bytes as the application wants it, and how many bytes it was; `None` while it is not whole.
///
/// # Errors
/// These are no datagram's bytes.
pub fn from_frame(bytes: &[u8], datagram: &mut Vec<u8>) -> io::Result<Option<usize>> {
    let invalid = |error| io::Error::new(io::ErrorKind::InvalidData, error);
    let Some((_, length)) = Datagram::read(bytes).map_err(invalid)? else { return Ok(None) };
    datagram.clear();
    datagram.extend([0; HEADER]);
    datagram.extend(bytes.get(2..length).unwrap_or_default());
    Ok(Some(length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datagram_goes_there_and_back() {
        let datagram = b"\0\0\0\x03\x0bexample.com\0\x35query";
        let (mut frame, mut back) = (Vec::new(), Vec::new());
        assert!(to_frame(datagram, &mut frame));
        assert_eq!(frame[..2], [0, 20]);
        frame.extend(b"next");
        assert_eq!(from_frame(&frame, &mut back).unwrap(), Some(frame.len() - 4));
        assert_eq!(back, datagram);
        assert!(from_frame(&frame[..10], &mut back).unwrap().is_none());
        assert!(from_frame(b"\0\x02\x01\x7f", &mut back).is_err());
    }

    #[test]
    fn what_is_no_datagram_is_dropped() {
        for datagram in [
            b"".as_slice(),
            b"\0\0",
            b"\0\0\0",
            b"\0\0\x01\x01\x7f\0\0\x01\0\x35x",
            b"\0\x01\0\x01\x7f\0\0\x01\0\x35x",
            b"\0\0\0\x01\x7f\0\0\x01\0\0x",
            b"\0\0\0\x01\x7f\0\0",
        ] {
            assert!(!to_frame(datagram, &mut Vec::new()), "{datagram:?}");
        }
    }
}
