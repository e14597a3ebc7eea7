//! Finding record boundaries in a byte stream without holding it.

/// TLS record types that can be on the wire (RFC 8446, section 5.1).
pub(crate) const CHANGE_CIPHER_SPEC: u8 = 20;
/// See [`CHANGE_CIPHER_SPEC`].
pub(crate) const ALERT: u8 = 21;
/// See [`CHANGE_CIPHER_SPEC`].
pub(crate) const HANDSHAKE: u8 = 22;
/// See [`CHANGE_CIPHER_SPEC`].
pub(crate) const APPLICATION_DATA: u8 = 23;
/// A record header: type, version, length.
pub(crate) const HEADER_LEN: usize = 5;
/// The largest length field TLS 1.3 allows: 2^14 + 256 (RFC 8446, section 5.2).
pub(crate) const MAX_TLS_LENGTH: usize = 16_640;

/// The header at the front of `bytes`, or what is wrong with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Head {
    /// Fewer than five bytes, and nothing wrong with them so far.
    More,
    /// A record of this outer type with this many bytes in all, the header included.
    Record { outer: u8, total: usize },
    /// Not a TLS 1.3 record.
    Foreign,
}

/// Reads the header of a record as TLS 1.3 puts it on the wire. A first byte or version that cannot be one is
/// told at once, before the header is whole.
pub(crate) fn head(bytes: &[u8]) -> Head {
    let Some(&outer) = bytes.first() else { return Head::More };
    if !(CHANGE_CIPHER_SPEC..=APPLICATION_DATA).contains(&outer) || bytes.get(1).is_some_and(|&v| v != 3) {
        return Head::Foreign;
    }
    // The first flight's hello says 3.1 (RFC 8446, section 5.1); everything after it says 3.3.
    if bytes.get(2).is_some_and(|&v| v > 3) {
        return Head::Foreign;
    }
    let [_, _, _, high, low, ..] = *bytes else { return Head::More };
    let length = usize::from(u16::from_be_bytes([high, low]));
    if length > MAX_TLS_LENGTH { Head::Foreign } else { Head::Record { outer, total: HEADER_LEN + length } }
}

/// The same for a record that can only be protected: `17 03 03`, 17 to 16,640 bytes (DESIGN, section 2.3).
pub(crate) fn protected_head(bytes: &[u8]) -> Head {
    const START: [u8; 3] = [APPLICATION_DATA, 3, 3];
    let known = bytes.len().min(START.len());
    if bytes[..known] != START[..known] {
        return Head::Foreign;
    }
    match head(bytes) {
        Head::Record { total, .. } if total < HEADER_LEN + 17 => Head::Foreign,
        other => other,
    }
}

/// A piece of a stream that lies in one record.
pub(crate) struct Piece {
    /// How many of the given bytes belong to the current record.
    pub(crate) len: usize,
    /// The record's header, once these bytes complete it.
    pub(crate) header: Option<(u8, usize)>,
    /// Whether the record ends with this piece.
    pub(crate) ends: bool,
}

/// Walks a direction that is passed on as it arrives and tells where records begin and end.
#[derive(Default)]
pub(crate) struct Walk {
    header: [u8; HEADER_LEN],
    have: usize,
    left: usize,
    /// Records of outer type 23 whose header was seen.
    pub(crate) protected: u64,
}

impl Walk {
    /// Whether the next byte begins a record.
    pub(crate) fn at_boundary(&self) -> bool {
        self.have == 0 && self.left == 0
    }

    /// Takes bytes up to the end of the current record or of `bytes`. `None`: this is not TLS.
    pub(crate) fn step(&mut self, bytes: &[u8]) -> Option<Piece> {
        let mut taken = 0;
        let mut header = None;
        if self.left == 0 {
            let n = (HEADER_LEN - self.have).min(bytes.len());
            self.header[self.have..self.have + n].copy_from_slice(&bytes[..n]);
            self.have += n;
            taken = n;
            match head(&self.header[..self.have]) {
                Head::More => return Some(Piece { len: taken, header: None, ends: false }),
                Head::Foreign => return None,
                Head::Record { outer, total } => {
                    self.have = 0;
                    self.left = total - HEADER_LEN;
                    self.protected += u64::from(outer == APPLICATION_DATA);
                    header = Some((outer, total - HEADER_LEN));
                }
            }
        }
        let n = self.left.min(bytes.len() - taken);
        self.left -= n;
        Some(Piece { len: taken + n, header, ends: self.left == 0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn foreign_bytes_are_told_at_once() {
        assert_eq!(head(b"G"), Head::Foreign);
        assert_eq!(head(&[22, 2]), Head::Foreign);
        assert_eq!(head(&[22, 3, 1]), Head::More);
        assert_eq!(protected_head(&[22]), Head::Foreign);
        assert_eq!(protected_head(&[23, 3, 1]), Head::Foreign);
        assert_eq!(protected_head(&[23, 3, 3, 0, 16]), Head::Foreign);
        assert_eq!(protected_head(&[23, 3, 3, 0x41, 0x01]), Head::Foreign);
        assert_eq!(protected_head(&[23, 3, 3, 0x41, 0x00]), Head::Record { outer: 23, total: 16_645 });
    }

    proptest! {
        #[test]
        fn a_walk_finds_the_same_boundaries_however_the_stream_is_cut(
            lengths in proptest::collection::vec(0u16..300, 1..20), cut in 1usize..40
        ) {
            let mut stream = Vec::new();
            let mut ends = Vec::new();
            for length in &lengths {
                stream.extend_from_slice(&[23, 3, 3]);
                stream.extend_from_slice(&length.to_be_bytes());
                stream.resize(stream.len() + usize::from(*length), 0);
                ends.push(stream.len());
            }
            let mut walk = Walk::default();
            let (mut at, mut seen) = (0, Vec::new());
            while at < stream.len() {
                let stop = (at + cut).min(stream.len());
                let piece = walk.step(&stream[at..stop]).unwrap();
                at += piece.len;
                if piece.ends { seen.push(at); }
            }
            prop_assert_eq!(seen, ends);
            prop_assert_eq!(walk.protected, lengths.len() as u64);
        }
    }
}
