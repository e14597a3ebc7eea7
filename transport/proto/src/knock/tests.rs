use std::collections::BTreeSet;

use proptest::prelude::*;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;

use super::*;
use crate::hello::vectors;

fn token(seed: u64) -> Token {
    Token::generate(&mut ChaCha20Rng::seed_from_u64(seed))
}

fn key(seed: u64) -> KnockKey {
    KnockKey::derive(&token(seed), None, b"client hello", b"server hello")
}

fn up(bytes: &[u8]) -> UpHash {
    let mut up = UpHash::new();
    up.update(bytes);
    up
}

/// A record of protected bytes.
fn record(content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).unwrap().to_be_bytes();
    [&PROTECTED, &length[..], content].concat()
}

/// A record that knocks: content with the field where it belongs, under a keystream.
fn knocking(up: &UpHash, key: &KnockKey, field: Field, content: &[u8], keystream: &[u8]) -> Vec<u8> {
    let mut record = record(content);
    let at = record.len() - field.from_end();
    let knock = up.knock(key, &record[..at]);
    let mut plain = vec![0; field.len()];
    field.write(&knock, keystream, &mut plain);
    for ((out, plain), mask) in record[at..].iter_mut().zip(plain).zip(keystream) {
        *out = plain ^ mask;
    }
    record
}

#[test]
fn agrees_with_an_independent_computation() {
    let vectors = vectors::knocks();
    assert_eq!(vectors.len(), 2);
    for vector in vectors {
        let field = |name: &str| vector[name].as_slice();
        let fixed = |name: &str| -> [u8; 32] { field(name).try_into().unwrap() };
        let token = data_encoding::BASE64URL_NOPAD.encode(field("token"));
        let token = Token::from_inner_name(&token).unwrap();
        let invitation = (!field("invitation").is_empty()).then(|| fixed("invitation"));
        let key = KnockKey::derive(&token, invitation.as_ref(), field("client_hello"), field("server_hello"));
        assert_eq!((key.salt(), &key.key[..]), (&fixed("salt"), field("key")));
        let (up_keys, down_keys) = key.proof_keys(&fixed("n"));
        assert_eq!((&up_keys.key[..], &up_keys.iv[..]), (field("up_key"), field("up_iv")));
        assert_eq!((&down_keys.key[..], &down_keys.iv[..]), (field("down_key"), field("down_iv")));
        let up = up(field("before"));
        assert_eq!(check(&up, &key, field("padding_record")), Some(Field::Padding));
        assert_eq!(check(&up, &key, field("cookie_record")), Some(Field::Cookie));
    }
}

#[test]
fn each_input_changes_the_key() {
    let (a, b) = (token(1), token(2));
    let keys = [
        KnockKey::derive(&a, None, b"ch", b"sh"),
        KnockKey::derive(&b, None, b"ch", b"sh"),
        KnockKey::derive(&a, Some(&[0; 32]), b"ch", b"sh"),
        KnockKey::derive(&a, Some(&[1; 32]), b"ch", b"sh"),
        KnockKey::derive(&a, None, b"cH", b"sh"),
        KnockKey::derive(&a, None, b"ch", b"sH"),
    ];
    let different: BTreeSet<_> = keys.iter().map(|key| *key.key).collect();
    assert_eq!(different.len(), keys.len());
    let (n_up, n_down) = keys[0].proof_keys(&[1; 32]);
    let (m_up, _) = keys[0].proof_keys(&[2; 32]);
    assert_ne!(*n_up.key, *n_down.key);
    assert_ne!(*n_up.key, *m_up.key);
    assert_eq!(format!("{:?} {n_up:?}", keys[0]), "KnockKey([redacted]) DirectionKeys([redacted])");
}

#[test]
fn a_knock_with_any_bit_flipped_in_the_record_or_before_is_none() {
    let (key, before) = (key(1), b"everything before".to_vec());
    let after = |field: Field| field.from_end() - AFTER_FIELD;
    for field in [Field::Padding, Field::Cookie] {
        let good = knocking(&up(&before), &key, field, &[0xa5; 64], &[0x3c; 11]);
        assert_eq!(check(&up(&before), &key, &good), Some(field));
        let covered = good.len() - AFTER_FIELD;
        for at in 0..covered {
            for bit in 0..8 {
                let mut flipped = good.clone();
                flipped[at] ^= 1 << bit;
                // Of a cookie's letters only the low six bits are read: the others make it a letter.
                let unread = field == Field::Cookie && bit >= 6 && at >= covered - after(field);
                assert_eq!(
                    check(&up(&before), &key, &flipped),
                    unread.then_some(field),
                    "byte {at}, bit {bit}"
                );
            }
        }
        for at in 0..before.len() {
            let mut flipped = before.clone();
            flipped[at] ^= 1;
            assert_eq!(check(&up(&flipped), &key, &good), None);
        }
        assert_eq!(check(&up(&before), &self::key(2), &good), None);
    }
}

#[test]
fn only_whole_protected_records_with_room_are_tested() {
    let (key, up) = (key(1), up(b""));
    for length in 0..64 {
        let mut content = record(&vec![0; length]);
        if let Some(at) =
            content.len().checked_sub(Field::Padding.from_end()).filter(|at| *at >= RECORD_HEADER)
        {
            let knock = up.knock(&key, &content[..at]);
            content[at..at + KNOCK_LEN].copy_from_slice(&knock);
        }
        // A record that has room for padding but none for a cookie is too small for any request.
        let expected = (length >= Field::Cookie.from_end()).then_some(Field::Padding);
        assert_eq!(check(&up, &key, &content), expected, "{length}");
    }
    let good = knocking(&up, &key, Field::Padding, &[0; 64], &[7; 8]);
    for cut in 0..good.len() {
        assert_eq!(check(&up, &key, &good[..cut]), None);
    }
    assert_eq!(check(&up, &key, &[&good[..], &[0]].concat()), None);
    for header in [[22, 3, 3], [23, 3, 1], [20, 3, 3]] {
        let mut other = good.clone();
        other[..3].copy_from_slice(&header);
        let at = other.len() - Field::Padding.from_end();
        let knock = up.knock(&key, &other[..at]);
        other[at..at + KNOCK_LEN].copy_from_slice(&knock);
        assert_eq!(check(&up, &key, &other), None);
    }
}

#[test]
fn cookie_letters_are_legal_but_for_the_one_that_has_none() {
    for bits in 0..64_u8 {
        let letter = cookie_letter(bits);
        assert_eq!(letter & 0x3f, bits);
        // RFC 6265, section 4.1.1.
        let legal = matches!(letter, 0x21 | 0x23..=0x2b | 0x2d..=0x3a | 0x3c..=0x5b | 0x5d..=0x7e);
        assert_eq!(legal, bits != 28, "{bits} gives {:?}", char::from(letter));
        // RFC 9110, section 5.5: a field's value.
        assert!((0x21..=0x7e).contains(&letter));
        let other_letters = [bits, bits | 0x40].into_iter().filter(|b| b.is_ascii_alphanumeric()).count();
        assert_eq!(letter.is_ascii_alphanumeric(), other_letters > 0);
    }
    assert_eq!(cookie_letter(28), b'\\');
    assert_eq!(&cookie_letters(&[0; 8], &[0; 11]), b"@@@@@@@@@@@");
    assert_eq!(&cookie_letters(&[0xff; 8], &[0; 11]), b"??????????|");
}

#[test]
fn a_repeated_token_is_known_until_it_is_the_oldest() {
    let mut tokens = KnockedTokens::new(3);
    let [a, b, c, d] = [1, 2, 3, 4].map(token);
    assert!(tokens.insert(&a) && tokens.insert(&b) && tokens.insert(&c));
    assert!(!tokens.insert(&a), "seeing it again does not make it younger");
    assert!(tokens.insert(&d));
    assert!(tokens.insert(&a), "the oldest went");
    assert!(!tokens.insert(&c) && !tokens.insert(&d) && tokens.insert(&b));
    assert_eq!(format!("{tokens:?}"), "KnockedTokens(3 of 3)");
}

#[test]
fn the_memory_of_tokens_is_bounded() {
    let mut tokens = KnockedTokens::new(100);
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    for _ in 0..1000 {
        assert!(tokens.insert(&Token::generate(&mut rng)));
        assert!(tokens.seen.len() <= 100 && tokens.order.len() == tokens.seen.len());
    }
    assert!(KnockedTokens::new(0).insert(&token(1)));
}

proptest! {
    #[test]
    fn every_knock_is_found_as_what_it_is(
        before in prop::collection::vec(any::<u8>(), 0..100), content in prop::collection::vec(any::<u8>(), 28..400),
        keystream: [u8; 11], seed: u64,
    ) {
        let (key, up) = (key(seed), up(&before));
        for field in [Field::Padding, Field::Cookie] {
            let record = knocking(&up, &key, field, &content, &keystream);
            prop_assert_eq!(check(&up, &key, &record), Some(field));
        }
        prop_assert_eq!(check(&up, &key, &record(&content)), None);
    }

    #[test]
    fn the_hash_does_not_depend_on_the_cuts(bytes in prop::collection::vec(any::<u8>(), 0..300), cut: prop::sample::Index, at: prop::sample::Index) {
        let key = key(1);
        let (start, end) = bytes.split_at(cut.index(bytes.len() + 1));
        let mut pieces = up(start);
        pieces.update(end);
        prop_assert_eq!(pieces.knock(&key, b"x"), up(&bytes).knock(&key, b"x"));
        let (first, rest) = bytes.split_at(at.index(bytes.len() + 1));
        prop_assert_eq!(up(first).knock(&key, rest), up(&bytes).knock(&key, b""));
    }

    #[test]
    fn letters_spell_the_knock(knock: [u8; 8], keystream: [u8; 11]) {
        let letters = cookie_letters(&knock, &keystream);
        let mut bits = 0_u128;
        for (letter, mask) in letters.iter().zip(keystream) {
            bits = bits << 6 | u128::from((letter ^ mask) & 0x3f);
        }
        prop_assert_eq!(bits, u128::from(u64::from_be_bytes(knock)) << 2);
    }

    #[test]
    fn any_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
        prop_assert_eq!(check(&UpHash::new(), &key(1), &bytes), None);
    }
}
