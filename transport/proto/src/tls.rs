//! TLS 1.3 record protection from a traffic secret (RFC 8446, sections 5.2, 7.2 and 7.3).
//!
//! The TLS handshake with the decoy is BoringSSL's; from its end on, each direction is sealed and opened here: by
//! the client up to the switch, by the bridge after HANDOVER (`docs/protocol.md`, sections 1 and 10).
//!
//! Both count records of outer type 23 since the TCP connection began, as HTX does. TLS's own sequence number is
//! that index less the index of the first record under the secret. Indices can come from the peer, in HANDOVER;
//! whatever they are, sequence numbers that follow each other do not repeat under one secret.

mod opener;
mod sealer;
#[cfg(test)]
mod tests;

use std::fmt;

use hmac::{EagerHash, Hmac, KeyInit, Mac};
use sha2::{Sha256, Sha384};
use zeroize::Zeroizing;

use crate::aead::{Aead, Algorithm};
use crate::kdf;

pub use crate::record::{MAX_CONTENT, OpenError};
pub use opener::Opener;
pub use sealer::Sealer;

/// The longest traffic secret: SHA-384's digest.
const MAX_SECRET_LEN: usize = 48;

/// The cipher suites of TLS 1.3 that Chrome offers (RFC 8446, appendix B.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum Suite {
    /// TLS_AES_128_GCM_SHA256.
    Aes128GcmSha256 = 0x1301,
    /// TLS_AES_256_GCM_SHA384.
    Aes256GcmSha384 = 0x1302,
    /// TLS_CHACHA20_POLY1305_SHA256.
    ChaCha20Poly1305Sha256 = 0x1303,
}

/// A number that is none of [`Suite`]'s.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("cipher suite {0:#06x} is not one of TLS 1.3's that Chrome offers")]
pub struct UnknownSuite(pub u16);

impl TryFrom<u16> for Suite {
    type Error = UnknownSuite;

    fn try_from(number: u16) -> Result<Self, UnknownSuite> {
        match number {
            0x1301 => Ok(Self::Aes128GcmSha256),
            0x1302 => Ok(Self::Aes256GcmSha384),
            0x1303 => Ok(Self::ChaCha20Poly1305Sha256),
            other => Err(UnknownSuite(other)),
        }
    }
}

impl From<Suite> for u16 {
    fn from(suite: Suite) -> Self {
        suite as Self
    }
}

impl Suite {
    /// Length in bytes of its traffic secrets: its hash's digest.
    pub fn secret_len(self) -> usize {
        match self {
            Self::Aes128GcmSha256 | Self::ChaCha20Poly1305Sha256 => 32,
            Self::Aes256GcmSha384 => 48,
        }
    }

    fn algorithm(self) -> Algorithm {
        match self {
            Self::Aes128GcmSha256 => Algorithm::Aes128Gcm,
            Self::Aes256GcmSha384 => Algorithm::Aes256Gcm,
            Self::ChaCha20Poly1305Sha256 => Algorithm::ChaCha20Poly1305,
        }
    }

    fn expand_label(self, secret: &Secret, label: &[u8], out: &mut [u8]) {
        match self {
            Self::Aes128GcmSha256 | Self::ChaCha20Poly1305Sha256 => {
                expand_label::<Sha256>(secret.as_bytes(), label, out);
            }
            Self::Aes256GcmSha384 => expand_label::<Sha384>(secret.as_bytes(), label, out),
        }
    }
}

/// A traffic secret: 32 or 48 bytes, wiped when dropped.
#[derive(Clone)]
pub struct Secret {
    bytes: Zeroizing<[u8; MAX_SECRET_LEN]>,
    len: usize,
}

impl Secret {
    /// A traffic secret of this suite. `None` if it has not the suite's length.
    pub fn new(suite: Suite, secret: &[u8]) -> Option<Self> {
        let len = suite.secret_len();
        if secret.len() != len {
            return None;
        }
        let mut bytes = Zeroizing::new([0; MAX_SECRET_LEN]);
        bytes.get_mut(..len)?.copy_from_slice(secret);
        Some(Self { bytes, len })
    }

    /// The secret itself.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret([redacted])")
    }
}

/// One direction's secret, its keys, and where it stands.
pub struct Direction {
    suite: Suite,
    secret: Secret,
    aead: Aead,
    first_index: u64,
    next_index: u64,
}

impl Direction {
    fn new(suite: Suite, secret: Secret, first_index: u64, next_index: u64) -> Self {
        let aead = keyed(suite, &secret);
        Self { suite, secret, aead, first_index, next_index }
    }

    /// The suite.
    pub fn suite(&self) -> Suite {
        self.suite
    }

    /// The current secret.
    pub fn secret(&self) -> &Secret {
        &self.secret
    }

    /// Index of the first record under the current secret.
    pub fn first_index(&self) -> u64 {
        self.first_index
    }

    /// Index of the record that comes next.
    pub fn next_index(&self) -> u64 {
        self.next_index
    }

    /// The sequence number of RFC 8446, section 5.3.
    fn sequence(&self) -> u64 {
        self.next_index.wrapping_sub(self.first_index)
    }

    fn advance(&mut self) {
        self.next_index = self.next_index.wrapping_add(1);
    }

    /// The next generation of the secret (RFC 8446, section 7.2), from the next record on.
    fn key_update(&mut self) {
        let mut next = Zeroizing::new([0; MAX_SECRET_LEN]);
        if let Some(out) = next.get_mut(..self.secret.len) {
            self.suite.expand_label(&self.secret, b"traffic upd", out);
        }
        self.secret = Secret { bytes: next, len: self.secret.len };
        self.aead = keyed(self.suite, &self.secret);
        self.first_index = self.next_index;
    }
}

/// Key and IV of a traffic secret (RFC 8446, section 7.3).
fn keyed(suite: Suite, secret: &Secret) -> Aead {
    let mut key = Zeroizing::new([0; 32]);
    let mut iv = [0; 12];
    if let Some(key) = key.get_mut(..suite.algorithm().key_len()) {
        // The length is part of what is derived, so it must be the cipher's own.
        suite.expand_label(secret, b"key", key);
    }
    suite.expand_label(secret, b"iv", &mut iv);
    Aead::new(suite.algorithm(), &key, iv)
}

/// HKDF-Expand-Label with an empty context (RFC 8446, section 7.1).
fn expand_label<D: EagerHash>(secret: &[u8], label: &[u8], out: &mut [u8])
where
    Hmac<D>: KeyInit + Mac,
{
    const PREFIX: &[u8] = b"tls13 ";
    let length = u16::try_from(out.len()).unwrap_or(u16::MAX).to_be_bytes();
    let label_len = u8::try_from(PREFIX.len() + label.len()).unwrap_or(u8::MAX);
    kdf::expand::<D>(secret, &[&length, &[label_len], PREFIX, label, &[0]], out);
}
