use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

use super::*;
use crate::record::{Cipher, DirectionSecret};
use qnet_wire::key::IdentityKey;

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
