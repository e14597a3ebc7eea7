use proptest::prelude::*;

use super::*;

const SUITES: [Suite; 3] = [Suite::Aes128GcmSha256, Suite::Aes256GcmSha384, Suite::ChaCha20Poly1305Sha256];

fn secret(suite: Suite) -> Secret {
    Secret::new(suite, &[0x5e; 48][..suite.secret_len()]).unwrap()
}

fn pair(suite: Suite, first: u64, next: u64) -> (Sealer, Opener) {
    (Sealer::new(suite, secret(suite), first, next), Opener::new(suite, secret(suite), first, next))
}

#[test]
fn only_the_three_suites_are_known() {
    for number in 0..=u16::MAX {
        match Suite::try_from(number) {
            Ok(suite) => assert_eq!(u16::from(suite), number),
            Err(UnknownSuite(same)) => assert!(same == number && !(0x1301..=0x1303).contains(&number)),
        }
    }
}

#[test]
fn a_secret_has_its_suites_length_and_is_not_shown() {
    for suite in SUITES {
        for len in 0..=64 {
            assert_eq!(Secret::new(suite, &[1; 64][..len]).is_some(), len == suite.secret_len());
        }
        assert_eq!(secret(suite).as_bytes(), &[0x5e; 48][..suite.secret_len()]);
        assert_eq!(format!("{:?}", secret(suite)), "Secret([redacted])");
    }
}

#[test]
fn long_content_goes_into_several_records() {
    let (mut sealer, mut opener) = pair(SUITES[0], 0, 0);
    let mut out = Vec::new();
    let content = [3; 2 * MAX_CONTENT];
    sealer.seal(23, &content, &mut out);
    let record = 5 + MAX_CONTENT + 17;
    assert_eq!(out.len(), 2 * record);
    assert_eq!(sealer.direction().next_index(), 2);
    let mut scratch = Vec::new();
    for record in out.chunks(record) {
        assert_eq!(opener.open(record, &mut scratch), Ok(23));
        assert_eq!(scratch, [3; MAX_CONTENT]);
    }

    out.clear();
    sealer.seal_with(23, &mut [4; MAX_CONTENT + 3], 8, |_, _, field| field.fill(9), &mut out);
    let (head, tail) = out.split_at(5 + 3 + 17);
    assert_eq!(opener.open(head, &mut scratch), Ok(23));
    assert_eq!(scratch, [4; 3]);
    assert_eq!(opener.open(tail, &mut scratch), Ok(23));
    assert_eq!(scratch[..MAX_CONTENT - 8], [4; MAX_CONTENT - 8]);
    assert_eq!(scratch[MAX_CONTENT - 8..], [9; 8]);
}

#[test]
fn padded_records_open_and_untyped_ones_do_not() {
    // What a decoy may send and this sealer does not.
    let suite = SUITES[2];
    let (sealer, mut opener) = pair(suite, 0, 0);
    let mut aead = keyed(suite, sealer.direction().secret());
    let mut scratch = Vec::new();
    for (plain, result) in [
        (&b"abc\x17\0\0\0"[..], Ok(23)),
        (&[0; 40][..], Err(OpenError::Type)),
        (&[0][..], Err(OpenError::Type)),
        (&[1; MAX_CONTENT + 2][..], Err(OpenError::Overlong)),
        (&[1; MAX_CONTENT + 240][..], Err(OpenError::Overlong)),
        (&b"\x15"[..], Ok(21)),
    ] {
        let header = crate::record::header(plain.len() + 16);
        let mut body = [plain, &[0; 16]].concat();
        aead.seal(opener.direction().next_index(), &header, &mut body);
        assert_eq!(opener.open(&[&header, &body[..]].concat(), &mut scratch), result);
        assert!(result.is_ok() || scratch.is_empty());
    }
    assert_eq!(opener.direction().next_index(), 2);
}

#[test]
fn a_sequence_may_wrap_with_the_index() {
    // The peer names both in HANDOVER: nothing may overflow, and no sequence number repeat.
    let (mut sealer, mut opener) = pair(SUITES[0], u64::MAX - 1, u64::MAX);
    let mut scratch = Vec::new();
    for _ in 0..3 {
        let mut out = Vec::new();
        sealer.seal(23, b"x", &mut out);
        assert_eq!(opener.open(&out, &mut scratch), Ok(23));
    }
    assert_eq!(sealer.direction().next_index(), 2);
}

proptest! {
    #[test]
    fn opens_what_was_sealed(
        suite in 0..3_usize,
        first in 0..1_000_u64,
        done in 0..1_000_u64,
        records in prop::collection::vec((1..=255_u8, prop::collection::vec(any::<u8>(), 0..600), any::<bool>()), 1..6),
    ) {
        let (mut sealer, mut opener) = pair(SUITES[suite], first, first + done);
        let mut scratch = b"what was there".to_vec();
        for (inner_type, content, update) in records {
            let mut out = b"before".to_vec();
            sealer.seal(inner_type, &content, &mut out);
            let record = &out[6..];
            prop_assert_eq!(record.len(), 5 + content.len() + 17);
            let kept = record.to_vec();
            prop_assert_eq!(opener.open(record, &mut scratch), Ok(inner_type));
            prop_assert_eq!(record, &kept[..]);
            prop_assert_eq!(&scratch, &content);
            // Only once, and only in its place.
            prop_assert_eq!(opener.open(record, &mut scratch), Err(OpenError::Sealed));
            if update {
                sealer.key_update();
                opener.key_update();
                prop_assert_eq!(sealer.direction().first_index(), sealer.direction().next_index());
            }
            prop_assert_eq!(sealer.direction().next_index(), opener.direction().next_index());
            prop_assert_eq!(sealer.direction().first_index(), opener.direction().first_index());
            prop_assert_eq!(sealer.direction().secret().as_bytes(), opener.direction().secret().as_bytes());
        }
    }

    #[test]
    fn any_bit_counts(suite in 0..3_usize, content in prop::collection::vec(any::<u8>(), 0..60)) {
        let (mut sealer, mut opener) = pair(SUITES[suite], 0, 4);
        let mut out = Vec::new();
        sealer.seal(23, &content, &mut out);
        let mut scratch = Vec::new();
        for bit in 0..out.len() * 8 {
            let mut bent = out.clone();
            bent[bit / 8] ^= 1 << (bit % 8);
            let expected = if bit < 40 { OpenError::Header } else { OpenError::Sealed };
            prop_assert_eq!(opener.open(&bent, &mut scratch), Err(expected));
            prop_assert!(scratch.is_empty());
        }
        for cut in 0..out.len() {
            prop_assert_eq!(opener.open(&out[..cut], &mut scratch), Err(OpenError::Header));
        }
        prop_assert_eq!(opener.open(&out, &mut scratch), Ok(23));
    }

    #[test]
    fn the_field_is_chosen_by_its_ciphertext(
        suite in 0..3_usize,
        content in prop::collection::vec(any::<u8>(), 0..300),
        field_len in 0..40_usize,
        wanted in prop::collection::vec(any::<u8>(), 40),
    ) {
        let (mut sealer, mut opener) = pair(SUITES[suite], 2, 9);
        let mut changed = content.clone();
        let mut out = Vec::new();
        let mut seen = Vec::new();
        sealer.seal_with(23, &mut changed, field_len, |before, keystream, field| {
            seen = before.to_vec();
            assert_eq!(keystream.len(), field.len());
            for ((plain, key), want) in field.iter_mut().zip(keystream).zip(&wanted) {
                *plain = key ^ want;
            }
        }, &mut out);
        let field_len = field_len.min(content.len());
        prop_assert_eq!(out.len(), 5 + content.len() + 17);
        let at = out.len() - 17 - field_len;
        prop_assert_eq!(&out[..at], &seen[..]);
        prop_assert_eq!(&out[at..at + field_len], &wanted[..field_len]);
        let mut scratch = Vec::new();
        prop_assert_eq!(opener.open(&out, &mut scratch), Ok(23));
        prop_assert_eq!(&scratch, &changed);
        prop_assert_eq!(&scratch[..content.len() - field_len], &content[..content.len() - field_len]);
        prop_assert_eq!(sealer.direction().next_index(), 10);
    }

    #[test]
    fn anything_may_be_opened(suite in 0..3_usize, record in prop::collection::vec(any::<u8>(), 0..100), first: u64, next: u64) {
        let (_, mut opener) = pair(SUITES[suite], first, next);
        prop_assert!(opener.open(&record, &mut Vec::new()).is_err());
        prop_assert_eq!(opener.direction().next_index(), next);
    }
}
