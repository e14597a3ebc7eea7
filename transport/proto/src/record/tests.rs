use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;

const CIPHERS: [Cipher; 2] = [Cipher::ChaCha20Poly1305, Cipher::Aes256Gcm];

fn pair(cipher: Cipher, index: u64) -> (RecordSealer, RecordOpener) {
    (RecordSealer::new(cipher, &[1; 32], [2; 12], index), RecordOpener::new(cipher, &[1; 32], [2; 12], index))
}

fn seal(sealer: &mut RecordSealer, inner_type: u8, content: &[u8], length: Option<usize>) -> Vec<u8> {
    let mut out = b"before".to_vec();
    let start = sealer.begin(&mut out);
    assert_eq!(start, 6);
    out.extend_from_slice(content);
    sealer.finish(&mut out, start, inner_type, length);
    assert_eq!(&out[..6], b"before");
    out.split_off(6)
}

#[test]
fn ciphers_have_their_numbers() {
    for number in 0..=255 {
        assert_eq!(
            Cipher::from_wire(number).map(Cipher::to_wire),
            [1, 2].contains(&number).then_some(number)
        );
    }
    assert_eq!(Cipher::preferred(true), Cipher::Aes256Gcm);
    assert_eq!(Cipher::preferred(false), Cipher::ChaCha20Poly1305);
}

#[test]
fn a_header_is_application_data_of_a_length_that_tls_reads() {
    for length_field in 0..=u16::MAX {
        let [high, low] = length_field.to_be_bytes();
        let expected = (17..=16_640).contains(&length_field).then_some(usize::from(length_field));
        assert_eq!(length(&[23, 3, 3, high, low]), expected);
    }
    for (at, byte) in [(0, 22), (0, 21), (0, 20), (1, 2), (2, 1), (2, 4)] {
        let mut header = [23, 3, 3, 0, 100];
        header[at] = byte;
        assert_eq!(length(&header), None);
    }
}

#[test]
fn a_length_is_met_exactly_or_ignored() {
    for cipher in CIPHERS {
        let (mut sealer, mut opener) = pair(cipher, 0);
        let mut scratch = Vec::new();
        for (content, asked, got) in [
            (0, None, 17),
            (0, Some(0), 17),
            (0, Some(17), 17),
            (0, Some(18), 18),
            (0, Some(MAX_LENGTH), MAX_LENGTH),
            (0, Some(usize::MAX), MAX_LENGTH),
            (100, Some(116), 117),
            (100, Some(117), 117),
            (100, Some(118), 118),
            (100, Some(1_400), 1_400),
            (MAX_CONTENT, None, MAX_LENGTH),
            (MAX_CONTENT, Some(MAX_LENGTH + 1), MAX_LENGTH),
        ] {
            let content = vec![0; content];
            let record = seal(&mut sealer, 23, &content, asked);
            assert_eq!(record.len(), HEADER_LEN + got);
            assert_eq!(length(record.first_chunk().unwrap()), Some(got));
            assert_eq!(opener.open(&record, &mut scratch), Ok((23, &content[..])));
        }
    }
}

#[test]
fn authentic_but_wrong_plaintexts_do_not_open() {
    for cipher in CIPHERS {
        let (_, mut opener) = pair(cipher, 7);
        let mut aead = crate::aead::Aead::new(cipher.algorithm(), &[1; 32], [2; 12]);
        for (plain, error) in [
            (&[0; 1][..], OpenError::Type),
            (&[0; 500][..], OpenError::Type),
            (&[1; MAX_CONTENT + 2][..], OpenError::Overlong),
        ] {
            let header = header(plain.len() + 16);
            let mut record = [&header, plain, &[0; 16]].concat();
            aead.seal(7, &header, &mut record[5..]);
            assert_eq!(opener.open(&record, &mut Vec::new()), Err(error));
            assert_eq!(opener.open_in_place(&mut record), Err(error));
            assert_eq!(opener.index(), 7);
        }
    }
}

#[test]
fn the_index_runs_on_over_a_new_key() {
    let (mut sealer, mut opener) = pair(Cipher::ChaCha20Poly1305, 41);
    let mut scratch = Vec::new();
    let record = seal(&mut sealer, 22, b"one", None);
    assert_eq!(opener.open(&record, &mut scratch), Ok((22, &b"one"[..])));
    sealer.rekey(Cipher::Aes256Gcm, &[3; 32], [4; 12]);
    let record = seal(&mut sealer, 23, b"two", None);
    assert_eq!(opener.open(&record, &mut scratch), Err(OpenError::Sealed));
    opener.rekey(Cipher::Aes256Gcm, &[3; 32], [4; 12]);
    assert_eq!(opener.open(&record, &mut scratch), Ok((23, &b"two"[..])));
    assert_eq!((sealer.index(), opener.index()), (43, 43));
}

#[test]
fn a_secret_leads_to_keys_and_to_the_next() {
    let secret = DirectionSecret::new(Zeroizing::new([9; 32]));
    let keys = secret.keys();
    let next = secret.next().keys();
    assert_ne!(*keys.key, *next.key);
    assert_ne!(keys.iv, next.iv);
}

#[test]
fn a_proof_opens_as_a_proof_only() {
    let (mut sealer, mut opener) = pair(Cipher::ChaCha20Poly1305, 5);
    let mut out = Vec::new();
    sealer.seal_proof(&mut out, &[8; 32], b"padding", 700);
    assert_eq!(out.len(), 705);
    assert_eq!(proof_nonce(&out), Some(&[8; 32]));
    let mut scratch = Vec::new();
    assert_eq!(opener.open(&out, &mut scratch), Err(OpenError::Sealed));
    for bit in 0..out.len() * 8 {
        let mut bent = out.clone();
        bent[bit / 8] ^= 1 << (bit % 8);
        assert!(opener.open_proof(&bent, &mut scratch).is_err());
    }
    assert_eq!(opener.open_proof(&out, &mut scratch), Ok(&b"padding"[..]));
    assert_eq!((sealer.index(), opener.index()), (6, 6));

    // Too small to be asked for, and too small to be one.
    out.clear();
    sealer.seal_proof(&mut out, &[8; 32], b"", 0);
    assert_eq!(out.len(), 5 + 32 + 17);
    assert_eq!(opener.open_proof(&out, &mut scratch), Ok(&b""[..]));
    let short = [&header(48)[..], &[0; 48]].concat();
    assert_eq!(proof_nonce(&short), None);
    assert_eq!(opener.open_proof(&short, &mut scratch), Err(OpenError::Sealed));
}

#[test]
fn a_key_serves_its_time_its_bytes_or_its_records() {
    #[allow(clippy::disallowed_methods, reason = "any instant will do; only differences count")]
    let start = Instant::now();
    let mut clock = KeyClock::new(start);
    assert!(!clock.due(start));
    assert!(!clock.due(start + KEY_TIME - Duration::from_nanos(1)));
    assert!(clock.due(start + KEY_TIME));
    clock.restart(start + KEY_TIME);
    assert!(!clock.due(start + KEY_TIME));

    for _ in 0..(KEY_BYTES >> 14) - 1 {
        clock.count(1 << 14);
    }
    assert!(!clock.due(start + KEY_TIME));
    clock.count(1 << 14);
    assert!(clock.due(start + KEY_TIME));

    let mut clock = KeyClock::new(start);
    for _ in 1..KEY_RECORDS {
        clock.count(22);
    }
    assert!(!clock.due(start));
    clock.count(22);
    assert!(clock.due(start));
}

proptest! {
    #[test]
    fn opens_what_was_sealed(
        which in 0..2_usize,
        index: u64,
        records in prop::collection::vec(
            (1..=255_u8, prop::collection::vec(any::<u8>(), 0..500), prop::option::of(0..700_usize)), 1..6),
    ) {
        let (mut sealer, mut opener) = pair(CIPHERS[which], index);
        let mut scratch = Vec::new();
        for (inner_type, content, asked) in records {
            let mut record = seal(&mut sealer, inner_type, &content, asked);
            prop_assert_eq!(record.len(), 5 + asked.unwrap_or(0).max(content.len() + 17));
            let kept = record.clone();
            let before = opener.index();
            prop_assert_eq!(opener.open(&record, &mut scratch), Ok((inner_type, &content[..])));
            prop_assert_eq!(&record, &kept);
            prop_assert_eq!(opener.open(&record, &mut scratch), Err(OpenError::Sealed));
            let mut again = pair(CIPHERS[which], before).1;
            let (same_type, same) = again.open_in_place(&mut record).unwrap();
            prop_assert_eq!((same_type, &*same), (inner_type, &content[..]));
            prop_assert_eq!(opener.index(), before.wrapping_add(1));
            prop_assert_eq!(sealer.index(), opener.index());
        }
    }

    #[test]
    fn any_bit_counts(
        which in 0..2_usize,
        content in prop::collection::vec(any::<u8>(), 0..40),
        asked in 0..60_usize,
    ) {
        let (mut sealer, mut opener) = pair(CIPHERS[which], 3);
        let record = seal(&mut sealer, 23, &content, Some(asked));
        let mut scratch = Vec::new();
        for bit in 0..record.len() * 8 {
            let mut bent = record.clone();
            bent[bit / 8] ^= 1 << (bit % 8);
            let expected = if bit < 40 { OpenError::Header } else { OpenError::Sealed };
            prop_assert_eq!(opener.open(&bent, &mut scratch), Err(expected));
            prop_assert_eq!(opener.open_in_place(&mut bent), Err(expected));
        }
        for cut in 0..record.len() {
            prop_assert_eq!(opener.open(&record[..cut], &mut scratch), Err(OpenError::Header));
        }
        prop_assert_eq!(opener.index(), 3);
        prop_assert_eq!(opener.open(&record, &mut scratch), Ok((23, &content[..])));
    }

    #[test]
    fn anything_may_be_opened(which in 0..2_usize, mut record in prop::collection::vec(any::<u8>(), 0..100)) {
        let (_, mut opener) = pair(CIPHERS[which], 3);
        let mut scratch = Vec::new();
        prop_assert!(opener.open(&record, &mut scratch).is_err());
        prop_assert!(opener.open_proof(&record, &mut scratch).is_err());
        prop_assert!(opener.open_in_place(&mut record).is_err());
        if let Ok(header) = record[..5.min(record.len())].try_into() {
            prop_assert!(length(header).is_none_or(|length| (17..=16_640).contains(&length)));
        }
    }

    #[test]
    fn padding_is_found_wherever_it_ends(content in prop::collection::vec(any::<u8>(), 0..100), zeros in 0..200_usize) {
        let mut plain = content.clone();
        plain.push(22);
        plain.resize(plain.len() + zeros, 0);
        prop_assert_eq!(unpad(&plain), Ok((22, content.len())));
        prop_assert_eq!(unpad(&vec![0; zeros]), Err(OpenError::Type));
    }
}
