//! HPACK's Huffman code (RFC 7541, section 5.2 and appendix B).
//!
//! The code is canonical: codes of one length run on by octet, so that the lengths alone give the whole table.

/// Length in bits of each octet's code (RFC 7541, appendix B). The end-of-string symbol, 30 ones, is left out: it may
/// never stand in a string.
#[rustfmt::skip]
const LENGTHS: [u8; 256] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28,
    28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6,
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5,
    6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23,
    21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25,
    19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
];

/// The longest code, in bits.
const LONGEST: usize = 30;

/// The code tables, all from [`LENGTHS`].
struct Tables {
    /// Code of each octet, in the low bits.
    codes: [u32; 256],
    /// Octets by length, then by value.
    order: [u8; 256],
    /// For each length, its first code.
    first: [u32; LONGEST + 1],
    /// For each length, where its octets begin in `order`.
    start: [u16; LONGEST + 2],
}

static TABLES: Tables = tables();

#[allow(clippy::cast_possible_truncation, reason = "loops over 256 octets and 30 lengths, in a constant")]
const fn tables() -> Tables {
    let mut tables =
        Tables { codes: [0; 256], order: [0; 256], first: [0; LONGEST + 1], start: [0; LONGEST + 2] };
    let (mut code, mut place, mut length) = (0u32, 0usize, 1usize);
    while length <= LONGEST {
        code <<= 1;
        tables.first[length] = code;
        tables.start[length] = place as u16;
        let mut octet = 0;
        while octet < 256 {
            if LENGTHS[octet] as usize == length {
                tables.codes[octet] = code;
                tables.order[place] = octet as u8;
                code += 1;
                place += 1;
            }
            octet += 1;
        }
        length += 1;
    }
    tables.start[LONGEST + 1] = place as u16;
    tables
}

/// Length of `text` when coded, in whole bytes.
pub(crate) fn encoded_len(text: &[u8]) -> usize {
    text.iter().map(|octet| usize::from(LENGTHS[usize::from(*octet)])).sum::<usize>().div_ceil(8)
}

/// Appends `text`, coded, the last byte filled up with ones.
pub(crate) fn encode(text: &[u8], out: &mut Vec<u8>) {
    let (mut bits, mut held) = (0u64, 0u32);
    for octet in text {
        let octet = usize::from(*octet);
        bits = (bits << LENGTHS[octet]) | u64::from(TABLES.codes[octet]);
        held += u32::from(LENGTHS[octet]);
        while held >= 8 {
            held -= 8;
            out.push(((bits >> held) & 0xff) as u8);
        }
    }
    if held > 0 {
        out.push((((bits << (8 - held)) | (0xff >> held)) & 0xff) as u8);
    }
}

/// Decodes into `out`. False: a code that does not exist, the end-of-string symbol, or a filling that is not fewer
/// than 8 ones (RFC 7541, section 5.2). Grows `out` by at most 8/5 of the input.
pub(crate) fn decode(coded: &[u8], out: &mut Vec<u8>) -> bool {
    let (mut code, mut length) = (0u32, 0usize);
    for byte in coded {
        for shift in (0..8).rev() {
            code = (code << 1) | u32::from((byte >> shift) & 1);
            length += 1;
            if length > LONGEST {
                return false;
            }
            let Some(beyond) = code.checked_sub(TABLES.first[length]) else { continue };
            let place = beyond + u32::from(TABLES.start[length]);
            if place < u32::from(TABLES.start[length + 1]) {
                out.push(TABLES.order[place as usize]);
                (code, length) = (0, 0);
            }
        }
    }
    length < 8 && code == (1 << length) - 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn standard_examples() {
        // RFC 7541, appendix C.4 and C.6.
        for (text, coded) in [
            ("www.example.com", "f1e3c2e5f23a6ba0ab90f4ff"),
            ("no-cache", "a8eb10649cbf"),
            ("custom-value", "25a849e95bb8e8b4bf"),
            ("302", "6402"),
            ("Mon, 21 Oct 2013 20:13:21 GMT", "d07abe941054d444a8200595040b8166e082a62d1bff"),
        ] {
            let mut out = Vec::new();
            encode(text.as_bytes(), &mut out);
            assert_eq!(data_encoding::HEXLOWER.encode(&out), coded);
            assert_eq!(encoded_len(text.as_bytes()), out.len());
        }
    }

    #[test]
    fn bad_fillings_are_refused() {
        assert!(!decode(&[0xff; 4], &mut Vec::new()), "the end-of-string symbol");
        assert!(!decode(&[0xff], &mut Vec::new()), "eight ones are too many");
        assert!(!decode(&[0b0000_0110], &mut Vec::new()), "a filling of 110");
    }

    proptest! {
        #[test]
        fn round_trip(text in proptest::collection::vec(any::<u8>(), 0..300)) {
            let (mut coded, mut back) = (Vec::new(), Vec::new());
            encode(&text, &mut coded);
            prop_assert_eq!(coded.len(), encoded_len(&text));
            prop_assert!(decode(&coded, &mut back));
            prop_assert_eq!(back, text);
        }

        #[test]
        fn any_bytes_never_panic(coded in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut out = Vec::new();
            let _ = decode(&coded, &mut out);
            prop_assert!(out.len() <= coded.len() * 8 / 5);
        }
    }
}
