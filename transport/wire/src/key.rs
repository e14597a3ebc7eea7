//! A bridge's identity: one X25519 key, used for HPKE, Noise and invitations under separate labels.

use std::fmt;
use std::str::FromStr;

use data_encoding::{BASE64URL_NOPAD, DecodeKind};
use rand_core::CryptoRng;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::{Zeroize, Zeroizing};

use crate::error::{Kind, Retry};

/// Letters in a key's text form: 32 bytes in base64url (RFC 4648, section 5) without padding.
pub const KEY_LETTERS: usize = 43;

/// First line of a key file, up to the version. It never changes, so that a newer version is told from another file.
const FILE_HEADER: &str = "qnet identity key, version ";
/// The one version there is.
const FILE_VERSION: &str = "1";
/// Bytes of SHA-256 kept as a key file's checksum: damage is an accident here, and 2^-64 is far below what disks do.
const CHECK_LEN: usize = 8;

/// The secret half of a bridge's identity: an X25519 scalar of 32 bytes, wiped when dropped.
#[derive(Clone)]
pub struct IdentityKey {
    secret: StaticSecret,
    /// Kept, since a bridge needs it for every hello and computing it costs as much as an exchange.
    public: BridgeKey,
}

impl IdentityKey {
    /// The key with these bytes. All 2^256 values are keys; X25519 clamps when it multiplies (RFC 7748, section 5).
    pub fn from_bytes(mut bytes: [u8; 32]) -> Self {
        let secret = StaticSecret::from(bytes);
        bytes.zeroize();
        let public = BridgeKey(PublicKey::from(&secret).to_bytes());
        Self { secret, public }
    }

    /// A fresh key.
    pub fn generate(rng: &mut impl CryptoRng) -> Self {
        let mut bytes = Zeroizing::new([0; 32]);
        rng.fill_bytes(&mut *bytes);
        Self::from_bytes(*bytes)
    }

    /// The public half.
    pub fn public(&self) -> BridgeKey {
        self.public
    }

    /// X25519 with a peer's point; `None` where the output is all zero, which a peer forces by sending a point of low
    /// order (RFC 7748, section 6.1).
    pub fn diffie_hellman(&self, point: &[u8; 32]) -> Option<Zeroizing<[u8; 32]>> {
        let shared = self.secret.diffie_hellman(&PublicKey::from(*point));
        shared.was_contributory().then(|| Zeroizing::new(*shared.as_bytes()))
    }

    /// The secret bytes, for the code that hands them to HPKE and Noise.
    pub fn expose(&self) -> &[u8; 32] {
        self.secret.as_bytes()
    }

    /// The text of the file a bridge keeps its key in: four lines, a version, the secret, the public key, a checksum.
    pub fn to_file_text(&self) -> Zeroizing<String> {
        let secret = Zeroizing::new(BASE64URL_NOPAD.encode(self.expose()));
        let check = BASE64URL_NOPAD.encode(&file_check(self.expose()));
        // Sized at once: a string that grows leaves copies of the secret behind.
        let mut text = Zeroizing::new(String::with_capacity(256));
        for part in [FILE_HEADER, FILE_VERSION, "\nsecret ", &secret, "\npublic "] {
            text.push_str(part);
        }
        text.push_str(&self.public().to_string());
        for part in ["\ncheck ", &check, "\n"] {
            text.push_str(part);
        }
        text
    }

    /// Reads what [`to_file_text`](Self::to_file_text) wrote. Line ends may be LF or CRLF.
    ///
    /// # Errors
    /// [`KeyFileError`]: another file, another version, or damage, which is any letter lost, added or changed.
    pub fn parse_file_text(text: &str) -> Result<Self, KeyFileError> {
        let mut lines = text.lines();
        let version =
            lines.next().and_then(|line| line.strip_prefix(FILE_HEADER)).ok_or(KeyFileError::NotAKey)?;
        if version != FILE_VERSION {
            return Err(KeyFileError::Version);
        }
        let mut field =
            |label: &str| lines.next().and_then(|line| line.strip_prefix(label)).map(str::as_bytes);
        let secret = field("secret ").ok_or(KeyFileError::Damaged)?;
        let public = field("public ").ok_or(KeyFileError::Damaged)?;
        let check = field("check ").ok_or(KeyFileError::Damaged)?;
        if lines.next().is_some() || !text.ends_with('\n') {
            return Err(KeyFileError::Damaged);
        }
        let bytes = decode_32(secret).map_err(|_| KeyFileError::Damaged)?;
        let key = Self::from_bytes(*bytes);
        let expected = BASE64URL_NOPAD.encode(&file_check(key.expose()));
        let whole = bool::from(expected.as_bytes().ct_eq(check));
        if !whole || key.public().to_string().as_bytes() != public {
            return Err(KeyFileError::Damaged);
        }
        Ok(key)
    }
}

impl fmt::Debug for IdentityKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IdentityKey([redacted])")
    }
}

/// A checksum of the secret, not of the text, so that it need not be stable against line ends. The public key alone
/// would not do: clamping makes 32 secrets of each public key.
fn file_check(secret: &[u8; 32]) -> [u8; CHECK_LEN] {
    let digest = Sha256::new().chain_update(b"qnet identity key check v1").chain_update(secret).finalize();
    let mut check = [0; CHECK_LEN];
    check.copy_from_slice(&digest[..CHECK_LEN]);
    check
}

/// 32 bytes from [`KEY_LETTERS`] letters.
pub(crate) fn decode_32(letters: &[u8]) -> Result<Zeroizing<[u8; 32]>, KeyError> {
    if letters.len() != KEY_LETTERS {
        return Err(KeyError::Length(letters.len()));
    }
    let mut bytes = Zeroizing::new([0; 32]);
    match BASE64URL_NOPAD.decode_mut(letters, &mut *bytes) {
        Ok(_) => Ok(bytes),
        Err(partial) if partial.error.kind == DecodeKind::Trailing => Err(KeyError::Damaged),
        Err(_) => Err(KeyError::Letter),
    }
}

/// The public half of a bridge's identity: an X25519 point, its text form [`KEY_LETTERS`] letters of base64url.
///
/// `Debug` hides it: whoever has it and the address can recognise the bridge.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct BridgeKey(pub [u8; 32]);

impl fmt::Debug for BridgeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BridgeKey([redacted])")
    }
}

impl fmt::Display for BridgeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64URL_NOPAD.encode(&self.0))
    }
}

impl FromStr for BridgeKey {
    type Err = KeyError;

    /// Parses the text form.
    ///
    /// # Errors
    /// [`KeyError`]: not [`KEY_LETTERS`] letters of base64url, or no key that any bridge can have.
    fn from_str(text: &str) -> Result<Self, KeyError> {
        let bytes = *decode_32(text.as_bytes())?;
        if !is_canonical(&bytes) {
            return Err(KeyError::Damaged);
        }
        // Clamping makes every scalar a multiple of the cofactor, so that any of them takes all points of low order,
        // and no other, to zero.
        if IdentityKey::from_bytes([0; 32]).diffie_hellman(&bytes).is_none() {
            return Err(KeyError::LowOrder);
        }
        Ok(Self(bytes))
    }
}

/// Whether the point is the encoding X25519 would output: below 2^255 − 19. HPKE mixes the encoding into its keys, so a
/// line with another one could never be recognised by its bridge.
fn is_canonical(point: &[u8; 32]) -> bool {
    let [low, middle @ .., high] = point;
    *high < 0x7f || (*high == 0x7f && (*low < 0xed || middle.iter().any(|b| *b != 0xff)))
}

/// Why a text is not a bridge's public key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Another number of bytes than [`KEY_LETTERS`].
    #[error("a bridge key has {KEY_LETTERS} letters, this one has {0}; copy it again")]
    Length(usize),
    /// Something else than `A-Z a-z 0-9 - _`.
    #[error("a bridge key holds only letters, digits, - and _; copy it again")]
    Letter,
    /// Letters that spell no key a bridge can have.
    #[error("the bridge key is damaged; copy it again")]
    Damaged,
    /// A point of low order, which would make every secret known.
    #[error("the bridge key is one of the few that protect nothing; whoever gave it is careless or hostile")]
    LowOrder,
}

impl KeyError {
    /// Who is at fault.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Length(_) | Self::Letter | Self::Damaged | Self::LowOrder => Kind::Misuse,
        }
    }

    /// Whether trying again helps.
    pub fn retry(&self) -> Retry {
        match self {
            Self::Length(_) | Self::Letter | Self::Damaged | Self::LowOrder => Retry::Never,
        }
    }
}

/// Why a file's text is not an identity key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyFileError {
    /// The first line is not a key file's.
    #[error(
        "this is not a qnet identity key; put the key back from a copy, or move the file away to get a new identity"
    )]
    NotAKey,
    /// Written by another version of QNet.
    #[error("this identity key was written by a newer qnet; use that version, or put an older copy back")]
    Version,
    /// Letters were lost, added or changed.
    #[error(
        "this identity key is damaged; put it back from a copy, or move the file away to get a new identity"
    )]
    Damaged,
}

impl KeyFileError {
    /// Who is at fault.
    pub fn kind(&self) -> Kind {
        match self {
            Self::NotAKey | Self::Version => Kind::Misuse,
            Self::Damaged => Kind::Local,
        }
    }

    /// Whether trying again helps.
    pub fn retry(&self) -> Retry {
        match self {
            Self::NotAKey | Self::Version | Self::Damaged => Retry::Never,
        }
    }
}

#[cfg(test)]
mod tests;
