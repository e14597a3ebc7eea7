//! The inner handshake, `Noise_XKpsk2_25519_ChaChaPoly_SHA256` with ML-KEM-768 (`docs/protocol.md`, section 7).
//!
//! 1. The client sends message 1: its ephemeral key; then, sealed to the bridge's static key, the cipher its hardware
//!    prefers, an ML-KEM encapsulation key and, if it likes, early data. Whoever later learns the bridge's key reads
//!    this message; no other.
//! 2. The bridge encapsulates, and both set `psk = HKDF(KEM secret)`, bound to key and ciphertext by its salt. The
//!    ciphertext goes before message 2 in the clear: it is inside a sealed record, and an altered one makes another psk.
//! 3. The client sends its static key. All from here on, the transport secrets included, is secret as long as X25519
//!    or ML-KEM holds. That the bridge is the bridge rests on X25519 alone.
//!
//! The prologue binds everything to the TLS connection around it: the hellos by the salt, the token, the knock and the
//! proof. States are spent as they go: each method takes its state and gives the next, so that no step can be repeated
//! or left out.

mod crypto;
mod reader;
mod states;
#[cfg(test)]
mod tests;

use qnet_wire::error::{Kind, Retry};
use sha2::{Digest, Sha256};

pub use reader::{MessageReader, framed};
pub use states::{AwaitMessage2, AwaitMessage3, Established, Initiator, Message1, Responder, SendMessage2};

/// Bytes of an ML-KEM-768 encapsulation key (FIPS 203, table 3).
pub const KEM_KEY_LEN: usize = 1_184;
/// Bytes of an ML-KEM-768 ciphertext (FIPS 203, table 3).
pub const KEM_CIPHERTEXT_LEN: usize = 1_088;
/// Bytes of early data at most: tor's first flight needs under 1,000, and a bridge holds this much for a client that has
/// proved nothing but its knowledge of the bridge line.
pub const MAX_EARLY: usize = 4_096;

const DH_LEN: usize = 32;
const TAG_LEN: usize = 16;

/// Bytes of message 1 without early data: ephemeral key, cipher, encapsulation key, tag.
pub const MESSAGE1_MIN: usize = DH_LEN + 1 + KEM_KEY_LEN + TAG_LEN;
/// Bytes of message 1 at most.
pub const MESSAGE1_MAX: usize = MESSAGE1_MIN + MAX_EARLY;
/// Bytes of message 2: KEM ciphertext, ephemeral key, tag.
pub const MESSAGE2_LEN: usize = KEM_CIPHERTEXT_LEN + DH_LEN + TAG_LEN;
/// Bytes of message 3: the client's static key and two tags.
pub const MESSAGE3_LEN: usize = DH_LEN + 2 * TAG_LEN;

/// What both sides hash in before message 1: that they speak of one TLS connection, knock and proof.
///
/// `salt` is the knock key's (`docs/protocol.md`, section 3); the records are whole, with their headers, as they stood on
/// the wire.
pub fn prologue(salt: &[u8; 32], token: &[u8; 20], knock_record: &[u8], proof_record: &[u8]) -> Vec<u8> {
    let hashes = [Sha256::digest(knock_record), Sha256::digest(proof_record)];
    [b"qnet htx v1", &salt[..], &token[..], &hashes[0][..], &hashes[1][..]].concat()
}

/// Why the inner handshake failed.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum NoiseError {
    /// More early data than [`MAX_EARLY`].
    #[error("early data of {0} bytes, at most {MAX_EARLY} are allowed")]
    EarlyData(usize),
    /// A message that is shorter or longer than it can be.
    #[error("an inner handshake message of {0} bytes, which none has")]
    Length(usize),
    /// Bytes after a message that has to be answered first.
    #[error("bytes after an inner handshake message")]
    Trailing,
    /// Not from who it should be, or not of this connection.
    #[error("an inner handshake message is not authentic")]
    Authentication,
    /// A Diffie-Hellman output of zeros only: the peer's key is of low order (RFC 7748, section 6.1).
    #[error("the peer's X25519 key is of low order")]
    LowOrder,
    /// The encapsulation key fails FIPS 203's modulus check (section 7.2).
    #[error("the peer's ML-KEM key is not valid")]
    KemKey,
    /// The peer names a cipher that is not known here.
    #[error("the peer asks for cipher {0}, which this version does not know")]
    Cipher(u8),
    /// The Noise library's state is not what it should be.
    #[error("the Noise library refused a step")]
    Library(#[source] snow::Error),
}

impl NoiseError {
    /// Who is at fault.
    pub fn kind(&self) -> Kind {
        match self {
            Self::EarlyData(_) => Kind::Misuse,
            Self::Length(_) | Self::Trailing | Self::Authentication | Self::LowOrder | Self::KemKey => {
                Kind::PeerMisbehaved
            }
            Self::Cipher(_) => Kind::PeerIncompatible,
            Self::Library(_) => Kind::Bug,
        }
    }

    /// Whether another connection may fare better.
    pub fn retry(&self) -> Retry {
        match self {
            // Records are authentic before a message is read; yet what failed here may be one connection's.
            Self::Authentication => Retry::Later,
            Self::EarlyData(_)
            | Self::Length(_)
            | Self::Trailing
            | Self::LowOrder
            | Self::KemKey
            | Self::Cipher(_)
            | Self::Library(_) => Retry::Never,
        }
    }
}

impl From<snow::Error> for NoiseError {
    fn from(error: snow::Error) -> Self {
        match error {
            snow::Error::Dh => Self::LowOrder,
            snow::Error::Decrypt => Self::Authentication,
            other => Self::Library(other),
        }
    }
}
