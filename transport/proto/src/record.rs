//! HTX records, and what they share with TLS's (`docs/protocol.md`, sections 5, 6 and 8).
//!
//! A record is `17 03 03 length(u16) ‖ AEAD(content ‖ type ‖ zero padding)`, the header being the associated
//! data. Its nonce holds the record's *index*: the count of all records of outer type 23 that went before in that
//! direction of the TCP connection, whoever sealed them. It runs on over key changes and never restarts.
//!
//! Sealing and opening are one AEAD pass and, once the caller's buffers have grown to a record's size, no
//! allocation.

mod clock;
mod opener;
mod sealer;
#[cfg(test)]
mod tests;

use qnet_wire::error::{Kind, Retry};
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::aead::{Algorithm, TAG_LEN};
use crate::kdf;
use crate::knock::DirectionKeys;

pub use clock::{KEY_BYTES, KEY_RECORDS, KEY_TIME, KeyClock};
pub use opener::{RecordOpener, proof_nonce};
pub use sealer::RecordSealer;

/// Bytes of a record's header: outer type, version, length.
pub const HEADER_LEN: usize = 5;
/// Bytes of content one record can carry (RFC 8446, section 5.1).
pub const MAX_CONTENT: usize = 16_384;
/// The largest length field of a record that may open: [`MAX_CONTENT`], the type byte and the tag.
pub const MAX_LENGTH: usize = MAX_CONTENT + OVERHEAD;
/// What the length field counts beside the content: the inner type byte and the tag.
pub const OVERHEAD: usize = 1 + TAG_LEN;
/// The largest length field a TLS stack reads on after (RFC 8446, section 5.2). Up to here a record is awaited
/// whole and then found not to open, as the decoy would.
pub const MAX_WIRE_LENGTH: usize = MAX_CONTENT + 256;
/// The smallest length field that can open: a type byte and a tag.
pub const MIN_LENGTH: usize = OVERHEAD;
/// Bytes of the random value in the clear at a proof's beginning (`docs/protocol.md`, section 5).
pub const PROOF_NONCE_LEN: usize = 32;

/// Inner type of a record of frames, and outer type of all.
pub const TYPE_FRAMES: u8 = 23;
/// Inner type of a record of Noise messages.
pub const TYPE_NOISE: u8 = 22;
/// Inner type of an alert.
pub const TYPE_ALERT: u8 = 21;

/// Why a record was not opened. The index stands as it stood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Not `17 03 03` with a length of 17 to 16,640, or not as long as it says.
    #[error("not a record of application data")]
    Header,
    /// Not authentic: altered, out of order, or under other keys.
    #[error("the record does not open")]
    Sealed,
    /// Authentic, and larger than a record may be.
    #[error("the record is larger than 16,401 bytes")]
    Overlong,
    /// Authentic, but without a type byte, or with one that may not stand there.
    #[error("the record has no valid type")]
    Type,
}

impl OpenError {
    /// Who is at fault.
    pub fn kind(self) -> Kind {
        match self {
            Self::Header | Self::Sealed | Self::Overlong | Self::Type => Kind::PeerMisbehaved,
        }
    }

    /// Whether another connection may fare better.
    pub fn retry(self) -> Retry {
        match self {
            // Somebody on the path may have done it, and may tire of it.
            Self::Header | Self::Sealed => Retry::Later,
            Self::Overlong | Self::Type => Retry::Never,
        }
    }
}

/// The AEAD of HTX records, as message 1 of the inner handshake names it (`docs/protocol.md`, section 7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Cipher {
    /// ChaCha20-Poly1305 (RFC 8439); always under the handshake keys.
    ChaCha20Poly1305 = 1,
    /// AES-256-GCM.
    Aes256Gcm = 2,
}

impl Cipher {
    /// The faster one: AES where the processor has instructions for it.
    pub fn preferred(aes_hardware: bool) -> Self {
        if aes_hardware { Self::Aes256Gcm } else { Self::ChaCha20Poly1305 }
    }

    /// Its number on the wire.
    pub fn to_wire(self) -> u8 {
        self as u8
    }

    /// The cipher of a number on the wire.
    pub fn from_wire(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::ChaCha20Poly1305),
            2 => Some(Self::Aes256Gcm),
            _ => None,
        }
    }

    fn algorithm(self) -> Algorithm {
        match self {
            Self::ChaCha20Poly1305 => Algorithm::ChaCha20Poly1305,
            Self::Aes256Gcm => Algorithm::Aes256Gcm,
        }
    }
}

/// The traffic secret of one direction (`docs/protocol.md`, section 8). Wiped when dropped.
pub struct DirectionSecret(Zeroizing<[u8; 32]>);

impl DirectionSecret {
    /// One of the two secrets of the inner handshake's split.
    pub fn new(secret: Zeroizing<[u8; 32]>) -> Self {
        Self(secret)
    }

    /// The secret itself, to derive from.
    pub(crate) fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    /// The keys under this secret; both ciphers' keys have one length.
    pub fn keys(&self) -> DirectionKeys {
        let mut keys = DirectionKeys { key: Zeroizing::new([0; 32]), iv: [0; 12] };
        kdf::expand::<Sha256>(&*self.0, &[b"key"], &mut *keys.key);
        kdf::expand::<Sha256>(&*self.0, &[b"iv"], &mut keys.iv);
        keys
    }

    /// The secret that follows a KEY_UPDATE.
    #[must_use]
    pub fn next(&self) -> Self {
        let mut next = Zeroizing::new([0; 32]);
        kdf::expand::<Sha256>(&*self.0, &[b"upd"], &mut *next);
        Self(next)
    }
}

/// The length field of a header, if it begins `17 03 03` and the field is 17 to 16,640: the bytes of the record
/// that follow the header.
///
/// Anything else is not a record that could be an HTX record or TLS application data (`docs/protocol.md`,
/// section 6).
pub fn length(header: &[u8; HEADER_LEN]) -> Option<usize> {
    let [TYPE_FRAMES, 3, 3, high, low] = *header else { return None };
    let length = usize::from(u16::from_be_bytes([high, low]));
    (MIN_LENGTH..=MAX_WIRE_LENGTH).contains(&length).then_some(length)
}

/// Header and body of a record, where the one fits the other.
pub(crate) fn split(record: &[u8]) -> Result<(&[u8; HEADER_LEN], &[u8]), OpenError> {
    let (header, body) = record.split_first_chunk().ok_or(OpenError::Header)?;
    if length(header) != Some(body.len()) {
        return Err(OpenError::Header);
    }
    Ok((header, body))
}

/// The header of a record whose length field is `length`.
pub(crate) fn header(length: usize) -> [u8; HEADER_LEN] {
    debug_assert!(length <= MAX_WIRE_LENGTH);
    let [high, low] = u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes();
    [TYPE_FRAMES, 3, 3, high, low]
}

/// Inner type and length of the content of an opened plaintext: what stands before the zero padding and the type
/// byte (RFC 8446, section 5.4).
pub(crate) fn unpad(plain: &[u8]) -> Result<(u8, usize), OpenError> {
    if plain.len() > MAX_CONTENT + 1 {
        return Err(OpenError::Overlong);
    }
    // By blocks first: padding can be most of a record.
    const BLOCK: usize = 32;
    let blocks = plain.rchunks_exact(BLOCK).take_while(|block| **block == [0; BLOCK]).count();
    let plain = plain.get(..plain.len() - blocks * BLOCK).unwrap_or_default();
    let at = plain.iter().rposition(|byte| *byte != 0).ok_or(OpenError::Type)?;
    let inner_type = plain.get(at).copied().ok_or(OpenError::Type)?;
    Ok((inner_type, at))
}
