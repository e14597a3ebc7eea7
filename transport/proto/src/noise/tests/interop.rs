//! Against the library with its own primitives, nothing of ours in between.

use hkdf::Hkdf;
use ml_kem::array::Array;
use ml_kem::kem::{Decapsulate, Encapsulate, KeyExport};
use ml_kem::{DecapsulationKey768, EncapsulationKey768, Seed};
use snow::{Builder, HandshakeState};

use super::*;

const PATTERN: &str = "Noise_XKpsk2_25519_ChaChaPoly_SHA256";

fn psk(key: &[u8], ciphertext: &[u8], secret: &[u8]) -> [u8; 32] {
    let salt = Sha256::digest([key, ciphertext].concat());
    let mut psk = [0; 32];
    Hkdf::<Sha256>::new(Some(&salt), secret).expand(b"qnet psk v1", &mut psk).unwrap();
    psk
}

pub(super) fn psk_of(kem: &DecapsulationKey768, ciphertext: &[u8; KEM_CIPHERTEXT_LEN]) -> [u8; 32] {
    let secret = kem.decapsulate(&Array::from(*ciphertext));
    psk(&kem.encapsulation_key().to_bytes(), ciphertext, &secret)
}

fn write(noise: &mut HandshakeState, payload: &[u8]) -> Vec<u8> {
    let mut message = vec![0; 65_535];
    let length = noise.write_message(payload, &mut message).unwrap();
    message.truncate(length);
    message
}

fn read(noise: &mut HandshakeState, message: &[u8]) -> Vec<u8> {
    let mut payload = vec![0; 65_535];
    let length = noise.read_message(message, &mut payload).unwrap();
    payload.truncate(length);
    payload
}

fn assert_agree(ours: &Established, noise: &mut HandshakeState) {
    assert!(noise.is_handshake_finished());
    assert_eq!(ours.handshake_hash[..], *noise.get_handshake_hash());
    let (up, down) = noise.dangerously_get_raw_split();
    for (ours, theirs) in [(&ours.up, up), (&ours.down, down)] {
        let mut key = [0; 32];
        Hkdf::<Sha256>::from_prk(&theirs).unwrap().expand(b"key", &mut key).unwrap();
        assert_eq!(*ours.keys().key, key);
    }
}

#[test]
fn our_client_and_the_librarys_bridge() {
    let Pair { identity, client, initiator, .. } = pair(20);
    let mut noise = Builder::new(PATTERN.parse().unwrap())
        .local_private_key(identity.expose())
        .unwrap()
        .prologue(PROLOGUE)
        .unwrap()
        .build_responder()
        .unwrap();

    let (message1, initiator) = initiator.message1(Cipher::Aes256Gcm, b"early").unwrap();
    let payload = read(&mut noise, &message1);
    assert_eq!((payload[0], &payload[1 + KEM_KEY_LEN..]), (2, &b"early"[..]));
    let key = &payload[1..=KEM_KEY_LEN];
    let kem = EncapsulationKey768::new(&Array::try_from(key).unwrap()).unwrap();
    let (ciphertext, secret) = kem.encapsulate_with_rng(&mut ChaCha20Rng::seed_from_u64(21));
    noise.set_psk(2, &psk(key, &ciphertext, &secret)).unwrap();
    let message2 = [ciphertext.to_vec(), write(&mut noise, b"")].concat();
    let (message3, ours) = initiator.read(&message2).unwrap();
    assert_eq!(read(&mut noise, &message3), b"");
    assert_eq!(noise.get_remote_static(), Some(&client.public().0[..]));
    assert_agree(&ours, &mut noise);
}

#[test]
fn the_librarys_client_and_our_bridge() {
    let Pair { identity, client, responder, .. } = pair(22);
    let public = identity.public();
    let mut noise = Builder::new(PATTERN.parse().unwrap())
        .local_private_key(client.expose())
        .unwrap()
        .remote_public_key(&public.0)
        .unwrap()
        .prologue(PROLOGUE)
        .unwrap()
        .build_initiator()
        .unwrap();

    let kem = DecapsulationKey768::from_seed(Seed::from([5; 64]));
    let key = kem.encapsulation_key().to_bytes();
    let message1 = write(&mut noise, &[&[1], &key[..], b"early"].concat());
    let (got, responder) = responder.read1(&message1).unwrap();
    assert_eq!((got.cipher, &got.early[..]), (Cipher::ChaCha20Poly1305, &b"early"[..]));
    let (message2, responder) = responder.write().unwrap();
    let (ciphertext, message) = message2.split_at(KEM_CIPHERTEXT_LEN);
    noise.set_psk(2, &psk_of(&kem, ciphertext.try_into().unwrap())).unwrap();
    assert_eq!(read(&mut noise, message), b"");
    let message3 = write(&mut noise, b"");
    let ours = responder.read(&message3).unwrap();
    assert_eq!(ours.peer_static, client.public().0);
    assert_agree(&ours, &mut noise);
}
