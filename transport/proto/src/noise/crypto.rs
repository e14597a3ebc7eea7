//! What the Noise library is given to work with: an X25519 that refuses all-zero outputs, ephemeral keys from the
//! caller's generator, and BoringSSL's ChaCha20-Poly1305. The hash is the library's.

use qnet_wire::key::IdentityKey;
use snow::Error;
use snow::params::{CipherChoice, DHChoice, HashChoice};
use snow::resolvers::{CryptoResolver, DefaultResolver};
use snow::types::{Cipher, Dh, Hash, Random};
use zeroize::Zeroizing;

use crate::aead::{Aead, Algorithm, TAG_LEN};

/// Resolves this handshake's primitives; `ephemeral` becomes the secret of the one ephemeral key a side makes.
pub(super) struct Resolver {
    pub(super) ephemeral: Zeroizing<[u8; 32]>,
}

impl CryptoResolver for Resolver {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(Once(Some(self.ephemeral.clone()))))
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        match choice {
            DHChoice::Curve25519 => Some(Box::new(X25519::new(IdentityKey::from_bytes([0; 32])))),
            _ => None,
        }
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        DefaultResolver.resolve_hash(choice)
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        match choice {
            CipherChoice::ChaChaPoly => Some(Box::new(ChaChaPoly(Zeroizing::new([0; 32])))),
            _ => None,
        }
    }
}

/// Gives its 32 bytes once, and nothing after.
struct Once(Option<Zeroizing<[u8; 32]>>);

impl Random for Once {
    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), Error> {
        let bytes = self.0.take().filter(|bytes| bytes.len() == dest.len()).ok_or(Error::Rng)?;
        dest.copy_from_slice(&*bytes);
        Ok(())
    }
}

struct X25519 {
    secret: IdentityKey,
    public: [u8; 32],
}

impl X25519 {
    fn new(secret: IdentityKey) -> Self {
        let public = secret.public().0;
        Self { secret, public }
    }
}

impl Dh for X25519 {
    fn name(&self) -> &'static str {
        "25519"
    }

    fn pub_len(&self) -> usize {
        self.public.len()
    }

    fn priv_len(&self) -> usize {
        self.secret.expose().len()
    }

    fn set(&mut self, secret: &[u8]) {
        // Only ever called with the 32 bytes that `states` hands to the library.
        let mut bytes = Zeroizing::new([0; 32]);
        for (to, from) in bytes.iter_mut().zip(secret) {
            *to = *from;
        }
        *self = Self::new(IdentityKey::from_bytes(*bytes));
    }

    fn generate(&mut self, rng: &mut dyn Random) -> Result<(), Error> {
        let mut bytes = Zeroizing::new([0; 32]);
        rng.try_fill_bytes(&mut *bytes)?;
        *self = Self::new(IdentityKey::from_bytes(*bytes));
        Ok(())
    }

    fn pubkey(&self) -> &[u8] {
        &self.public
    }

    fn privkey(&self) -> &[u8] {
        self.secret.expose()
    }

    fn dh(&self, public: &[u8], out: &mut [u8]) -> Result<(), Error> {
        // The library's buffers are as long as its longest curve needs.
        let public = public.first_chunk().ok_or(Error::Dh)?;
        let shared = self.secret.diffie_hellman(public).ok_or(Error::Dh)?;
        out.get_mut(..shared.len()).ok_or(Error::Dh)?.copy_from_slice(&*shared);
        Ok(())
    }
}

/// Keyed anew for each message: a handshake has four.
struct ChaChaPoly(Zeroizing<[u8; 32]>);

impl ChaChaPoly {
    fn aead(&self) -> Aead {
        Aead::new(Algorithm::ChaCha20Poly1305, &self.0, [0; 12])
    }
}

impl Cipher for ChaChaPoly {
    fn name(&self) -> &'static str {
        "ChaChaPoly"
    }

    fn set(&mut self, key: &[u8; 32]) {
        *self.0 = *key;
    }

    fn encrypt(&self, nonce: u64, aad: &[u8], plain: &[u8], out: &mut [u8]) -> usize {
        let len = plain.len() + TAG_LEN;
        let Some(out) = out.get_mut(..len) else {
            debug_assert!(false, "the library gives room for the tag");
            return 0;
        };
        for (to, from) in out.iter_mut().zip(plain) {
            *to = *from;
        }
        // Noise counts in little-endian (Noise, section 12.3).
        self.aead().seal(nonce.swap_bytes(), aad, out);
        len
    }

    fn decrypt(&self, nonce: u64, aad: &[u8], sealed: &[u8], out: &mut [u8]) -> Result<usize, Error> {
        let mut buffer = sealed.to_vec();
        let plain = self.aead().open(nonce.swap_bytes(), aad, &mut buffer).ok_or(Error::Decrypt)?;
        out.get_mut(..plain.len()).ok_or(Error::Decrypt)?.copy_from_slice(plain);
        Ok(plain.len())
    }
}
