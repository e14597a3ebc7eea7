use super::*;

fn put8(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(u8::try_from(bytes.len()).unwrap());
    out.extend(bytes);
}

fn put16(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend(u16::try_from(bytes.len()).unwrap().to_be_bytes());
    out.extend(bytes);
}

/// An inner hello of the given session id, extensions and padding.
fn encoded(session_id: &[u8], extensions: &[(u16, &[u8])], padding: &[u8]) -> Vec<u8> {
    let mut out = vec![3; 34];
    put8(&mut out, session_id);
    put16(&mut out, &[0x13, 0x01, 0x13, 0x03]);
    put8(&mut out, &[0]);
    let mut list = Vec::new();
    for (kind, body) in extensions {
        list.extend(kind.to_be_bytes());
        put16(&mut list, body);
    }
    put16(&mut out, &list);
    out.extend(padding);
    out
}

const NAME: (u16, &[u8]) = (0, b"\0\x09\0\0\x06inner1");
const INNER: (u16, &[u8]) = (0xfe0d, &[1]);
/// `ech_outer_extensions` that name key_share and supported_groups.
const OUTER: (u16, &[u8]) = (0xfd00, &[4, 0, 51, 0, 10]);

#[test]
fn the_name_is_found_whatever_stands_around_it() {
    for extensions in [
        vec![NAME, INNER],
        vec![INNER, OUTER, (43, &[2, 3, 4]), NAME],
        vec![(0x0a0a, &[]), NAME, OUTER, INNER],
    ] {
        for padding in [&[][..], &[0], &[0; 31]] {
            let hello = encoded(&[], &extensions, padding);
            assert_eq!(inner_server_name(&hello), Some("inner1"));
        }
    }
}

#[test]
fn what_the_standard_forbids_has_no_name() {
    for (session_id, extensions, padding) in [
        (&[7; 32][..], vec![NAME, INNER], &[][..]),
        (&[], vec![NAME, INNER], &[0, 0, 1]),
        (&[], vec![NAME, INNER], &[1]),
        (&[], vec![NAME], &[]),
        (&[], vec![INNER], &[]),
        (&[], vec![], &[]),
        (&[], vec![NAME, (0xfe0d, &[0])], &[]),
        (&[], vec![NAME, (0xfe0d, &[])], &[]),
        (&[], vec![NAME, (0xfe0d, &[1, 0])], &[]),
        (&[], vec![NAME, INNER, NAME], &[]),
        (&[], vec![INNER, OUTER], &[]),
        (&[], vec![INNER, (0, b"")], &[]),
        (&[], vec![INNER, (0, b"\0\0")], &[]),
        (&[], vec![INNER, (0, b"\0\x03\0\0\0")], &[]),
        (&[], vec![INNER, (0, b"\0\x04\x01\0\x01a")], &[]),
        (&[], vec![INNER, (0, b"\0\x04\0\0\x01\xff")], &[]),
        (&[], vec![INNER, (0, b"\0\x04\0\0\x01ab")], &[]),
        (&[], vec![INNER, (0, b"\0\x08\0\0\x01a\0\0\x01b")], &[]),
    ] {
        let hello = encoded(session_id, &extensions, padding);
        assert_eq!(inner_server_name(&hello), None, "{extensions:?}");
    }
}

#[test]
fn every_cut_of_it_has_no_name() {
    let whole = encoded(&[], &[INNER, OUTER, NAME], &[]);
    assert!(inner_server_name(&whole).is_some());
    for length in 0..whole.len() {
        assert_eq!(inner_server_name(&whole[..length]), None);
    }
}
