//! One AEAD under one key, with the nonce that TLS 1.3 and HTX share.
//!
//! A thin wrapper over BoringSSL's, chosen for its speed; it allocates once, when the key is set, and wipes that
//! memory when dropped. The nonce is `iv XOR (0x00000000 ‖ index as big-endian u64)` (RFC 8446, section 5.3;
//! `docs/protocol.md`, section 6). Keeping an index from being used twice is the caller's part.

use std::alloc::{Layout, handle_alloc_error};

use boring::aead::{AeadCtx, Algorithm as Boring};
use zeroize::Zeroizing;

/// Bytes of the tag of every [`Algorithm`].
pub const TAG_LEN: usize = 16;

/// The AEADs of TLS 1.3 that are in use (RFC 8446, appendix B.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// AES-128 in Galois/counter mode.
    Aes128Gcm,
    /// AES-256 in Galois/counter mode.
    Aes256Gcm,
    /// ChaCha20-Poly1305 (RFC 8439).
    ChaCha20Poly1305,
}

impl Algorithm {
    /// Length of the key in bytes.
    pub fn key_len(self) -> usize {
        match self {
            Self::Aes128Gcm => 16,
            Self::Aes256Gcm | Self::ChaCha20Poly1305 => 32,
        }
    }
}

/// A keyed AEAD.
pub struct Aead {
    context: AeadCtx,
    iv: Zeroizing<[u8; 12]>,
}

impl Aead {
    /// Sets a key; [`Algorithm::Aes128Gcm`] takes its first 16 bytes.
    pub fn new(algorithm: Algorithm, key: &[u8; 32], iv: [u8; 12]) -> Self {
        let boring = match algorithm {
            Algorithm::Aes128Gcm => Boring::aes_128_gcm(),
            Algorithm::Aes256Gcm => Boring::aes_256_gcm(),
            Algorithm::ChaCha20Poly1305 => Boring::chacha20_poly1305(),
        };
        let Some(context) =
            key.get(..algorithm.key_len()).and_then(|key| AeadCtx::new_default_tag(&boring, key).ok())
        else {
            // With a key of the right length BoringSSL fails only where memory ran out: this ends as any other
            // failed allocation of the program does.
            handle_alloc_error(Layout::new::<[u64; 75]>())
        };
        Self { context, iv: Zeroizing::new(iv) }
    }

    /// Seals `buffer` in place: all but its last [`TAG_LEN`] bytes are plaintext, those receive the tag.
    ///
    /// A buffer that is too short for a tag is a caller's error and is left as it is.
    pub fn seal(&mut self, index: u64, aad: &[u8], buffer: &mut [u8]) {
        let nonce = self.nonce(index);
        let Some((plain, tag)) = buffer.split_last_chunk_mut::<TAG_LEN>() else {
            debug_assert!(false, "no room for a tag");
            return;
        };
        if self.context.seal_in_place_mut(&nonce, plain, tag, aad).is_err() {
            // Only sizes can be wrong, and they are right. Were they not, no plaintext may leave.
            debug_assert!(false, "BoringSSL refused to seal");
            plain.fill(0);
            tag.fill(0);
        }
    }

    /// Opens `buffer` (ciphertext, then tag) in place and returns the plaintext, which is [`TAG_LEN`] shorter.
    ///
    /// `None` if it is not authentic; what was in `buffer` is then destroyed.
    #[must_use]
    pub fn open<'a>(&mut self, index: u64, aad: &[u8], buffer: &'a mut [u8]) -> Option<&'a mut [u8]> {
        let nonce = self.nonce(index);
        let (sealed, tag) = buffer.split_last_chunk_mut::<TAG_LEN>()?;
        self.context.open_in_place_mut(&nonce, sealed, tag, aad).ok()?;
        Some(sealed)
    }

    fn nonce(&self, index: u64) -> [u8; 12] {
        let mut nonce = *self.iv;
        for (byte, count) in nonce.iter_mut().skip(4).zip(index.to_be_bytes()) {
            *byte ^= count;
        }
        nonce
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALL: [Algorithm; 3] = [Algorithm::Aes128Gcm, Algorithm::Aes256Gcm, Algorithm::ChaCha20Poly1305];

    #[test]
    fn nonce_is_iv_xor_index() {
        let aead = Aead::new(Algorithm::Aes128Gcm, &[0; 32], [0xf0; 12]);
        let nonce = aead.nonce(0x0102_0304_0506_0708);
        assert_eq!(nonce, [0xf0, 0xf0, 0xf0, 0xf0, 0xf1, 0xf2, 0xf3, 0xf4, 0xf5, 0xf6, 0xf7, 0xf8]);
    }

    #[test]
    fn aes_128_ignores_the_rest_of_the_key() {
        let mut long = [7; 32];
        let mut one = [0; 20];
        Aead::new(Algorithm::Aes128Gcm, &long, [0; 12]).seal(0, b"", &mut one);
        long[16..].fill(9);
        let mut two = [0; 20];
        Aead::new(Algorithm::Aes128Gcm, &long, [0; 12]).seal(0, b"", &mut two);
        assert_eq!(one, two);
    }

    #[test]
    fn shorter_than_a_tag_does_not_open() {
        for algorithm in ALL {
            let mut aead = Aead::new(algorithm, &[1; 32], [2; 12]);
            assert!(aead.open(0, b"", &mut [0; 15]).is_none());
        }
    }

    proptest! {
        #[test]
        fn opens_what_it_sealed_and_nothing_else(
            which in 0..3_usize,
            key: [u8; 32],
            iv: [u8; 12],
            index: u64,
            aad in prop::collection::vec(any::<u8>(), 0..20),
            plain in prop::collection::vec(any::<u8>(), 0..80),
            bit: prop::sample::Index,
        ) {
            let mut aead = Aead::new(ALL[which], &key, iv);
            let mut buffer = plain.clone();
            buffer.resize(plain.len() + TAG_LEN, 0);
            aead.seal(index, &aad, &mut buffer);

            let bit = bit.index(buffer.len() * 8);
            let mut bent = buffer.clone();
            bent[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(aead.open(index, &aad, &mut bent).is_none());
            prop_assert!(aead.open(index ^ 1, &aad, &mut buffer.clone()).is_none());
            let mut longer = aad.clone();
            longer.push(0);
            prop_assert!(aead.open(index, &longer, &mut buffer.clone()).is_none());
            prop_assert_eq!(aead.open(index, &aad, &mut buffer).map(|p| p.to_vec()), Some(plain));
        }
    }
}
