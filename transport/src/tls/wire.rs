//! TLS records and the two hellos, read only as far as the client needs to see for itself.
#![forbid(unsafe_code)]

/// Length of a record header (RFC 8446, section 5.1).
pub(crate) const HEADER: usize = 5;
/// Largest length field of a protected record (RFC 8446, section 5.2).
const MAX_LENGTH: usize = 16_384 + 256;
/// Largest hello kept: what the bridge accepts of a ClientHello (docs/protocol.md, section 2).
const MAX_HELLO: usize = 16_384;

const CHANGE_CIPHER_SPEC: u8 = 20;
const HANDSHAKE: u8 = 22;
pub(crate) const APPLICATION_DATA: u8 = 23;

/// What stands at the start of a byte stream.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// So many more bytes are needed to say.
    Missing(usize),
    /// A record of this many bytes, header included.
    Record(usize),
    /// Not a TLS record.
    Strange,
}

/// Looks at the start of `bytes`.
pub(crate) fn next(bytes: &[u8]) -> Next {
    let Some(&[kind, major, _, high, low]) = bytes.first_chunk::<HEADER>() else {
        return Next::Missing(HEADER - bytes.len());
    };
    let length = usize::from(u16::from_be_bytes([high, low]));
    if !(CHANGE_CIPHER_SPEC..=APPLICATION_DATA).contains(&kind) || major != 3 || length > MAX_LENGTH {
        return Next::Strange;
    }
    match (HEADER + length).checked_sub(bytes.len()) {
        None | Some(0) => Next::Record(HEADER + length),
        Some(missing) => Next::Missing(missing),
    }
}

/// The types of the records that `bytes` is made of; `None` where it is not whole records.
pub(super) fn record_types(mut bytes: &[u8]) -> Option<Vec<u8>> {
    let mut types = Vec::new();
    while let Some(&kind) = bytes.first() {
        let Next::Record(length) = next(bytes) else { return None };
        types.push(kind);
        bytes = bytes.get(length..)?;
    }
    Some(types)
}

/// Joins the first handshake message of a direction out of its records.
#[derive(Default)]
pub(super) struct HelloCollector {
    bytes: Vec<u8>,
}

impl HelloCollector {
    /// Takes a record; returns the message, its 4-byte header included, once it is whole. What follows it in the record
    /// (TLS 1.2 allows that) is dropped. A message larger than [`MAX_HELLO`] is never returned.
    pub(super) fn push(&mut self, record: &[u8]) -> Option<Vec<u8>> {
        let (&[HANDSHAKE, ..], Some(body)) = (record, record.get(HEADER..)) else { return None };
        let room = MAX_HELLO.saturating_sub(self.bytes.len());
        self.bytes.extend_from_slice(body.get(..room).unwrap_or(body));
        let &[_, a, b, c] = self.bytes.first_chunk::<4>()?;
        let end = 4 + u32::from_be_bytes([0, a, b, c]) as usize;
        (self.bytes.len() >= end).then(|| {
            let mut message = std::mem::take(&mut self.bytes);
            message.truncate(end);
            message.shrink_to_fit();
            message
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record(kind: u8, body: &[u8]) -> Vec<u8> {
        let mut record = vec![kind, 3, 3];
        record.extend_from_slice(&u16::try_from(body.len()).unwrap().to_be_bytes());
        record.extend_from_slice(body);
        record
    }

    #[test]
    fn a_record_is_known_by_its_header() {
        assert_eq!(next(b""), Next::Missing(5));
        assert_eq!(next(&[22, 3, 3, 0]), Next::Missing(1));
        assert_eq!(next(&[22, 3, 3, 0, 2, 9]), Next::Missing(1));
        assert_eq!(next(&[22, 3, 3, 0, 2, 9, 9, 9]), Next::Record(7));
        assert_eq!(next(b"HTTP/1.1 400"), Next::Strange);
        assert_eq!(next(&[23, 3, 3, 0x41, 0x01]), Next::Strange);
        assert_eq!(next(&[23, 3, 3, 0x41, 0x00]), Next::Missing(16_640));
        assert_eq!(next(&[19, 3, 3, 0, 0]), Next::Strange);
    }

    #[test]
    fn types_of_whole_records_only() {
        let both = [record(20, &[1]), record(23, &[0; 53])].concat();
        assert_eq!(record_types(&both), Some(vec![20, 23]));
        assert_eq!(record_types(&both[..both.len() - 1]), None);
        assert_eq!(record_types(&[]), Some(vec![]));
    }

    proptest! {
        #[test]
        fn a_hello_cut_anywhere_is_the_same_message(body in proptest::collection::vec(any::<u8>(), 0..600), cut in 1usize..600, tail in 0usize..5) {
            let mut message = vec![2, 0];
            message.extend_from_slice(&u16::try_from(body.len()).unwrap().to_be_bytes());
            message.extend_from_slice(&body);
            let mut sent = message.clone();
            sent.extend_from_slice(&vec![7; tail]);
            let mut collector = HelloCollector::default();
            let mut got = None;
            for piece in sent.chunks(cut) {
                got = collector.push(&record(HANDSHAKE, piece));
                if got.is_some() { break; }
            }
            prop_assert_eq!(got, Some(message));
        }

        #[test]
        fn garbage_never_panics_or_grows(pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..4000), 0..12)) {
            let mut collector = HelloCollector::default();
            for piece in &pieces {
                let _ = next(piece);
                let _ = record_types(piece);
                let _ = collector.push(piece);
                let _ = collector.push(&record(HANDSHAKE, piece));
                prop_assert!(collector.bytes.len() <= MAX_HELLO);
            }
        }
    }
}
