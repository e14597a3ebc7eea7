//! Peers that follow the handshake's letter with values that no honest one sends.

use ml_kem::kem::KeyExport;
use ml_kem::{DecapsulationKey768, Seed};
use snow::params::{CipherChoice, DHChoice, HashChoice};
use snow::resolvers::{CryptoResolver, DefaultResolver};
use snow::types::{Cipher as NoiseCipher, Dh, Hash, Random};
use snow::{Builder, Error, HandshakeState};
use zeroize::Zeroizing;

use super::super::crypto::Resolver;
use super::*;

/// The points whose multiples by a clamped scalar are zero, in their canonical form: of order 1 or 2, and of order 8.
const LOW_ORDER: [[u8; 32]; 3] = [
    [0; 32],
    [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    [
        0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f, 0xc4, 0x6a, 0xda,
        0x09, 0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49, 0xb8, 0x00,
    ],
];

/// A client of the library's that writes what it is told to.
fn client(pair: &Pair, resolver: Option<LowStatic>) -> HandshakeState {
    let params = "Noise_XKpsk2_25519_ChaChaPoly_SHA256".parse().unwrap();
    let builder = match resolver {
        Some(resolver) => Builder::with_resolver(params, Box::new(resolver)),
        None => Builder::new(params),
    };
    builder
        .local_private_key(pair.client.expose())
        .unwrap()
        .remote_public_key(&pair.identity.public().0)
        .unwrap()
        .prologue(PROLOGUE)
        .unwrap()
        .build_initiator()
        .unwrap()
}

fn message1(noise: &mut HandshakeState, cipher: u8, key: &[u8]) -> Vec<u8> {
    let mut message = vec![0; MESSAGE1_MIN];
    assert_eq!(noise.write_message(&[&[cipher], key].concat(), &mut message), Ok(MESSAGE1_MIN));
    message
}

fn kem_key() -> Vec<u8> {
    DecapsulationKey768::from_seed(Seed::from([5; 64])).encapsulation_key().to_bytes().to_vec()
}

#[test]
fn an_unknown_cipher_is_refused() {
    for cipher in [0, 3, 255] {
        let pair = pair(30);
        let message = message1(&mut client(&pair, None), cipher, &kem_key());
        assert_eq!(pair.responder.read1(&message).err(), Some(NoiseError::Cipher(cipher)));
    }
}

#[test]
fn an_encapsulation_key_with_a_coefficient_above_the_modulus_is_refused() {
    // 384 bytes a polynomial, 12 bits a coefficient: 3,329 is the smallest that is not reduced.
    for (at, bytes, valid) in [
        (0, [0xff, 0x0f, 0], false),
        (0, [0x01, 0x0d, 0], false),
        (0, [0x00, 0x0d, 0], true),
        (0, [0, 0xf0, 0xff], false),
        (3 * 384 - 3, [0, 0x10, 0xd0], false),
        (3 * 384 - 3, [0, 0x00, 0xd0], true),
    ] {
        let pair = pair(31);
        let mut key = kem_key();
        key[at..at + 3].copy_from_slice(&bytes);
        let message = message1(&mut client(&pair, None), 1, &key);
        let expected = if valid { None } else { Some(NoiseError::KemKey) };
        assert_eq!(pair.responder.read1(&message).err(), expected, "{bytes:x?} at {at}");
    }
}

#[test]
fn a_bridge_key_of_low_order_is_refused() {
    for point in LOW_ORDER {
        let mut rng = ChaCha20Rng::seed_from_u64(32);
        let own = IdentityKey::generate(&mut rng);
        let initiator = Initiator::new(&mut rng, &BridgeKey(point), &own, PROLOGUE);
        assert_eq!(initiator.message1(Cipher::Aes256Gcm, b"").err(), Some(NoiseError::LowOrder));
    }
}

#[test]
fn ephemeral_keys_of_low_order_are_refused() {
    for point in LOW_ORDER {
        let Pair { initiator, responder, .. } = pair(33);
        let (mut message1, initiator) = initiator.message1(Cipher::Aes256Gcm, b"").unwrap();
        let (mut message2, _) = pair(33).responder.read1(&message1).unwrap().1.write().unwrap();
        message1[..32].copy_from_slice(&point);
        assert_eq!(responder.read1(&message1).err(), Some(NoiseError::LowOrder));
        message2[KEM_CIPHERTEXT_LEN..][..32].copy_from_slice(&point);
        assert_eq!(initiator.read(&message2).err(), Some(NoiseError::LowOrder));
    }
}

/// Primitives of the library's, but for a static key that says it is another point than it is.
struct LowStatic([u8; 32]);

struct LowDh {
    real: Box<dyn Dh>,
    claimed: [u8; 32],
    is_static: bool,
}

impl CryptoResolver for LowStatic {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        DefaultResolver.resolve_rng()
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        let real = DefaultResolver.resolve_dh(choice)?;
        Some(Box::new(LowDh { real, claimed: self.0, is_static: false }))
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        DefaultResolver.resolve_hash(choice)
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn NoiseCipher>> {
        DefaultResolver.resolve_cipher(choice)
    }
}

impl Dh for LowDh {
    fn name(&self) -> &'static str {
        "25519"
    }

    fn pub_len(&self) -> usize {
        32
    }

    fn priv_len(&self) -> usize {
        32
    }

    fn set(&mut self, secret: &[u8]) {
        self.is_static = true;
        self.real.set(secret);
    }

    fn generate(&mut self, rng: &mut dyn Random) -> Result<(), Error> {
        self.real.generate(rng)
    }

    fn pubkey(&self) -> &[u8] {
        if self.is_static { &self.claimed } else { self.real.pubkey() }
    }

    fn privkey(&self) -> &[u8] {
        self.real.privkey()
    }

    fn dh(&self, public: &[u8], out: &mut [u8]) -> Result<(), Error> {
        self.real.dh(public, out)
    }
}

#[test]
fn a_static_key_of_low_order_is_refused() {
    for point in LOW_ORDER {
        let pair = pair(34);
        let mut noise = client(&pair, Some(LowStatic(point)));
        let message1 = message1(&mut noise, 1, &kem_key());
        let (message2, responder) = pair.responder.read1(&message1).unwrap().1.write().unwrap();
        let kem = DecapsulationKey768::from_seed(Seed::from([5; 64]));
        let (ciphertext, message2) = message2.split_first_chunk::<KEM_CIPHERTEXT_LEN>().unwrap();
        noise.set_psk(2, &interop::psk_of(&kem, ciphertext)).unwrap();
        noise.read_message(message2, &mut [0; 100]).unwrap();
        let mut message3 = [0; MESSAGE3_LEN];
        assert_eq!(noise.write_message(&[], &mut message3), Ok(MESSAGE3_LEN));
        assert_eq!(responder.read(&message3).err(), Some(NoiseError::LowOrder));
    }
}

#[test]
fn randomness_is_used_once() {
    let resolver = Resolver { ephemeral: Zeroizing::new([1; 32]) };
    let mut rng = resolver.resolve_rng().unwrap();
    let mut bytes = [0; 32];
    assert_eq!(rng.try_fill_bytes(&mut bytes), Ok(()));
    assert_eq!(bytes, [1; 32]);
    assert_eq!(rng.try_fill_bytes(&mut bytes), Err(Error::Rng));
}
