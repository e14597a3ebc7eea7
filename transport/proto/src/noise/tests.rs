mod hostile;
mod interop;

use proptest::prelude::*;
use qnet_wire::key::{BridgeKey, IdentityKey};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

use super::*;
use crate::record::{Cipher, DirectionSecret};

const PROLOGUE: &[u8] = b"a prologue";

struct Pair {
    identity: IdentityKey,
    client: IdentityKey,
    initiator: Initiator,
    responder: Responder,
}

fn pair(seed: u64) -> Pair {
    let mut rng = ChaCha20Rng::seed_from_u64(seed);
    let identity = IdentityKey::generate(&mut rng);
    let client = IdentityKey::generate(&mut rng);
    let initiator = Initiator::new(&mut rng, &identity.public(), &client, PROLOGUE);
    let responder = Responder::new(&mut rng, &identity, PROLOGUE);
    Pair { identity, client, initiator, responder }
}

fn same(one: &DirectionSecret, other: &DirectionSecret) -> bool {
    *one.keys().key == *other.keys().key && one.keys().iv == other.keys().iv
}

#[test]
fn both_sides_agree() {
    for cipher in [Cipher::ChaCha20Poly1305, Cipher::Aes256Gcm] {
        let Pair { identity, client, initiator, responder } = pair(1);
        let (message1, initiator) = initiator.message1(cipher, b"early").unwrap();
        assert_eq!(message1.len(), MESSAGE1_MIN + 5);
        let (got, responder) = responder.read1(&message1).unwrap();
        assert_eq!((got.cipher, &got.early[..]), (cipher, &b"early"[..]));
        let (message2, responder) = responder.write().unwrap();
        assert_eq!(message2.len(), MESSAGE2_LEN);
        let (message3, up) = initiator.read(&message2).unwrap();
        assert_eq!(message3.len(), MESSAGE3_LEN);
        let down = responder.read(&message3).unwrap();

        assert!(same(&up.up, &down.up) && same(&up.down, &down.down) && !same(&up.up, &up.down));
        assert_eq!((up.cipher, down.cipher), (cipher, cipher));
        assert_eq!(up.handshake_hash, down.handshake_hash);
        assert_eq!(up.peer_static, identity.public().0);
        assert_eq!(down.peer_static, client.public().0);
    }
}

#[test]
fn early_data_has_its_bound() {
    let (message1, _) = pair(2).initiator.message1(Cipher::Aes256Gcm, &[7; MAX_EARLY]).unwrap();
    assert_eq!(message1.len(), MESSAGE1_MAX);
    assert_eq!(pair(2).responder.read1(&message1).unwrap().0.early, [7; MAX_EARLY]);
    let error = pair(2).initiator.message1(Cipher::Aes256Gcm, &[7; MAX_EARLY + 1]).err();
    assert_eq!(error, Some(NoiseError::EarlyData(MAX_EARLY + 1)));
}

#[test]
fn the_prologue_is_all_that_binds() {
    let base = prologue(&[1; 32], &[2; 20], b"knock", b"proof");
    assert_eq!(base.len(), 11 + 32 + 20 + 32 + 32);
    let others = [
        prologue(&[0; 32], &[2; 20], b"knock", b"proof"),
        prologue(&[1; 32], &[0; 20], b"knock", b"proof"),
        prologue(&[1; 32], &[2; 20], b"knocK", b"proof"),
        prologue(&[1; 32], &[2; 20], b"knock", b"prooF"),
    ];
    for other in others {
        assert_eq!(other.len(), base.len());
        assert_ne!(other, base);
        let mut rng = ChaCha20Rng::seed_from_u64(3);
        let identity = IdentityKey::generate(&mut rng);
        let (message1, _) = Initiator::new(&mut rng, &identity.public(), &identity, &base)
            .message1(Cipher::Aes256Gcm, b"")
            .unwrap();
        let result = Responder::new(&mut rng, &identity, &other).read1(&message1);
        assert_eq!(result.err(), Some(NoiseError::Authentication));
    }
}

#[test]
fn another_bridges_key_does_not_open() {
    let (message1, _) = pair(4).initiator.message1(Cipher::Aes256Gcm, b"").unwrap();
    assert_eq!(pair(5).responder.read1(&message1).err(), Some(NoiseError::Authentication));
}

#[test]
fn messages_have_their_lengths() {
    for length in [0, 31, 32, MESSAGE1_MIN - 1, MESSAGE1_MAX + 1, 65_535] {
        let error = pair(6).responder.read1(&vec![9; length]).err();
        assert_eq!(error, Some(NoiseError::Length(length)));
    }
    for length in [0, KEM_CIPHERTEXT_LEN, MESSAGE2_LEN - 1, MESSAGE2_LEN + 1, 65_535] {
        let (_, initiator) = pair(6).initiator.message1(Cipher::Aes256Gcm, b"").unwrap();
        assert_eq!(initiator.read(&vec![9; length]).err(), Some(NoiseError::Length(length)));
    }
    for length in [0, 48, MESSAGE3_LEN - 1, MESSAGE3_LEN + 1, 65_535] {
        let Pair { initiator, responder, .. } = pair(6);
        let (message1, _) = initiator.message1(Cipher::Aes256Gcm, b"").unwrap();
        let (_, responder) = responder.read1(&message1).unwrap().1.write().unwrap();
        assert_eq!(responder.read(&vec![9; length]).err(), Some(NoiseError::Length(length)));
    }
}

/// One handshake in which one bit of one message is turned; gives the error of whoever reads that message.
fn bent(message: usize, bit: usize) -> Option<NoiseError> {
    let turn = |number: usize, bytes: &mut [u8]| {
        if number == message {
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    };
    let Pair { initiator, responder, .. } = pair(7);
    let (mut message1, initiator) = initiator.message1(Cipher::ChaCha20Poly1305, b"early").unwrap();
    turn(1, &mut message1);
    let (_, responder) = match responder.read1(&message1) {
        Ok(next) => next,
        Err(error) => return Some(error),
    };
    let (mut message2, responder) = responder.write().unwrap();
    turn(2, &mut message2);
    let (mut message3, _) = match initiator.read(&message2) {
        Ok(next) => next,
        Err(error) => return Some(error),
    };
    turn(3, &mut message3);
    responder.read(&message3).err()
}

#[test]
fn bits_count_throughout() {
    for (message, length) in [(1, MESSAGE1_MIN + 5), (2, MESSAGE2_LEN), (3, MESSAGE3_LEN)] {
        // A handshake each: a bit of every seventh byte.
        for at in (0..length).step_by(7) {
            let bit = at * 8 + at % 8;
            assert_eq!(bent(message, bit), Some(NoiseError::Authentication), "message {message}, bit {bit}");
        }
    }
    assert_eq!(bent(0, 0), None);
}

#[test]
fn the_bit_x25519_ignores_counts_too() {
    // The top bit of a point is not part of its value (RFC 7748, section 5); the handshake hash has it all the same.
    assert_eq!(bent(1, 255), Some(NoiseError::Authentication));
    assert_eq!(bent(2, KEM_CIPHERTEXT_LEN * 8 + 255), Some(NoiseError::Authentication));
}

#[test]
fn a_framed_message_has_its_length_before_it() {
    assert_eq!(framed(&[7; 300])[..3], [1, 44, 7]);
    assert_eq!(framed(&[7; 300]).len(), 302);
}

#[test]
fn the_reader_bounds_what_it_joins() {
    for (piece, error) in [
        (&[0, 0][..], NoiseError::Length(0)),
        (&[0, 11], NoiseError::Length(11)),
        (&[255, 255, 1], NoiseError::Length(65_535)),
        (&[0, 1, 2, 3], NoiseError::Trailing),
    ] {
        assert_eq!(MessageReader::new(10).push(piece), Err(error));
    }
    let mut reader = MessageReader::new(10);
    assert_eq!(reader.push(&[]), Ok(None));
    assert!(!reader.is_partial());
    assert_eq!(reader.push(&[0]), Ok(None));
    assert!(reader.is_partial());
    assert_eq!(reader.push(&[2, 8]), Ok(None));
    assert_eq!(reader.push(&[9]), Ok(Some(vec![8, 9])));
    assert!(!reader.is_partial());
    assert_eq!(reader.push(&[0, 1, 5]), Ok(Some(vec![5])));
}

proptest! {
    #[test]
    fn messages_join_however_they_are_cut(
        message in prop::collection::vec(any::<u8>(), 1..200),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..10),
    ) {
        let whole = framed(&message);
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(whole.len())).collect();
        cuts.extend([0, whole.len()]);
        cuts.sort_unstable();
        let mut reader = MessageReader::new(200);
        let mut got = None;
        for pair in cuts.windows(2) {
            prop_assert!(got.is_none());
            got = reader.push(&whole[pair[0]..pair[1]]).unwrap();
        }
        prop_assert_eq!(got, Some(message));
    }

    #[test]
    fn anything_may_be_read(junk in prop::collection::vec(any::<u8>(), MESSAGE1_MIN..MESSAGE1_MIN + 40)) {
        let Pair { initiator, responder, .. } = pair(8);
        prop_assert!(responder.read1(&junk).is_err());
        let (message1, initiator) = initiator.message1(Cipher::Aes256Gcm, b"").unwrap();
        prop_assert!(initiator.read(&junk[..MESSAGE2_LEN]).is_err());
        let (_, responder) = pair(8).responder.read1(&message1).unwrap().1.write().unwrap();
        prop_assert!(responder.read(&junk[..MESSAGE3_LEN]).is_err());
        let mut reader = MessageReader::new(MESSAGE1_MAX);
        let _ = reader.push(&junk);
    }
}
