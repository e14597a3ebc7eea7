use proptest::prelude::*;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;

use super::*;

fn hex(text: &str) -> [u8; 32] {
    data_encoding::HEXLOWER.decode(text.as_bytes()).unwrap().try_into().unwrap()
}

/// RFC 7748, section 6.1.
#[test]
fn agrees_with_the_standard() {
    let bob =
        IdentityKey::from_bytes(hex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb"));
    let public = hex("de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f");
    let alice = hex("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a");
    let shared = hex("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742");
    assert_eq!(bob.public().0, public);
    assert_eq!(*bob.diffie_hellman(&alice).unwrap(), shared);
}

/// The points of order 1, 2, 4 and 8 on the curve and its twist, in their canonical forms.
const LOW_ORDER: [&str; 5] = [
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
];

#[test]
fn points_of_low_order_are_refused() {
    let key = IdentityKey::from_bytes([7; 32]);
    for point in LOW_ORDER {
        assert!(key.diffie_hellman(&hex(point)).is_none());
        assert_eq!(BridgeKey(hex(point)).to_string().parse::<BridgeKey>(), Err(KeyError::LowOrder));
    }
}

#[test]
fn encodings_no_bridge_outputs_are_refused() {
    for point in [
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "f6ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "0900000000000000000000000000000000000000000000000000000000000080",
    ] {
        assert_eq!(BridgeKey(hex(point)).to_string().parse::<BridgeKey>(), Err(KeyError::Damaged));
    }
    let base = BridgeKey(hex("0900000000000000000000000000000000000000000000000000000000000000"));
    assert_eq!(base.to_string().parse(), Ok(base));
}

#[test]
fn key_texts_of_another_form_are_refused() {
    let text = IdentityKey::from_bytes([7; 32]).public().to_string();
    assert_eq!(text.len(), KEY_LETTERS);
    assert_eq!("".parse::<BridgeKey>(), Err(KeyError::Length(0)));
    assert_eq!(text[1..].parse::<BridgeKey>(), Err(KeyError::Length(42)));
    assert_eq!(format!("{text}=").parse::<BridgeKey>(), Err(KeyError::Length(44)));
    for letter in ["+", "/", "=", " ", "\n"] {
        assert_eq!(format!("{letter}{}", &text[1..]).parse::<BridgeKey>(), Err(KeyError::Letter));
    }
    // The last letter carries four bits: others would be a second spelling of the same key.
    let last = BASE64URL_NOPAD.encode(&[0xff; 33]);
    assert_eq!(last[..43].parse::<BridgeKey>(), Err(KeyError::Damaged));
}

#[test]
fn secrets_stay_out_of_debug_output() {
    let key = IdentityKey::from_bytes([7; 32]);
    assert_eq!(format!("{key:?} {:?}", key.public()), "IdentityKey([redacted]) BridgeKey([redacted])");
}

/// The file format, pinned: a bridge must be able to read what an older version wrote.
#[test]
fn the_file_text_is_fixed() {
    let text = "qnet identity key, version 1\n\
        secret AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8\n\
        public j0DFrbaPJWJK5bIU6nZ6bslNgp09e14a0bpvPiE4KF8\n\
        check 8egkqGeirjQ\n";
    let bytes: [u8; 32] = std::array::from_fn(|i| u8::try_from(i).unwrap());
    assert_eq!(*IdentityKey::from_bytes(bytes).to_file_text(), text);
    assert_eq!(IdentityKey::parse_file_text(text).unwrap().expose(), &bytes);
    let dos = text.replace('\n', "\r\n");
    assert_eq!(IdentityKey::parse_file_text(&dos).unwrap().expose(), &bytes);
}

#[test]
fn every_changed_bit_and_every_lost_letter_of_a_file_is_noticed() {
    let text = IdentityKey::from_bytes([7; 32]).to_file_text();
    for at in 0..text.len() {
        assert!(IdentityKey::parse_file_text(&text[..at]).is_err(), "cut at {at}");
        for bit in 0..7 {
            let mut damaged = text.as_bytes().to_vec();
            damaged[at] ^= 1 << bit;
            let damaged = String::from_utf8(damaged).unwrap();
            assert!(IdentityKey::parse_file_text(&damaged).is_err(), "byte {at}, bit {bit}");
        }
    }
    assert_eq!(IdentityKey::parse_file_text("").unwrap_err(), KeyFileError::NotAKey);
    let newer = text.replace("version 1", "version 2");
    assert_eq!(IdentityKey::parse_file_text(&newer).unwrap_err(), KeyFileError::Version);
    assert_eq!(IdentityKey::parse_file_text(&format!("{}\n", *text)).unwrap_err(), KeyFileError::Damaged);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn keys_survive_their_text_forms(seed: [u8; 32]) {
        let key = IdentityKey::generate(&mut ChaCha20Rng::from_seed(seed));
        prop_assert_eq!(key.public().to_string().parse(), Ok(key.public()));
        let again = IdentityKey::parse_file_text(&key.to_file_text()).unwrap();
        prop_assert_eq!(again.expose(), key.expose());
    }

    #[test]
    fn both_sides_agree(a: [u8; 32], b: [u8; 32]) {
        let (a, b) = (IdentityKey::from_bytes(a), IdentityKey::from_bytes(b));
        prop_assert_eq!(a.diffie_hellman(&b.public().0), b.diffie_hellman(&a.public().0));
    }

    #[test]
    fn other_texts_never_panic(text in "\\PC{0,60}") {
        let _ = text.parse::<BridgeKey>();
        let _ = IdentityKey::parse_file_text(&text);
    }
}
