//! The key both sides share after the hellos, the knock made with it, and the memory of tokens that knocked
//! (docs/protocol.md, sections 3 to 5).

mod tokens;

use std::fmt;

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::{kdf, token::Token};
pub use tokens::{KNOCKED_TOKENS, KnockedTokens};

/// Bytes of a knock.
pub const KNOCK_LEN: usize = 8;
/// Bytes at a record's end behind the field: the inner content type and the AEAD tag (RFC 8446, section 5.2).
const AFTER_FIELD: usize = 1 + 16;
/// Bytes of a record's header.
const RECORD_HEADER: usize = 5;
/// Outer content type `application_data` and version, of every protected record (RFC 8446, section 5.2).
const PROTECTED: [u8; 3] = [23, 3, 3];
/// Letters of a knock as a cookie: 64 bits in letters of 6.
const COOKIE_LEN: usize = 11;

/// K: what a token, the invitation and the two hellos of one connection give (section 3).
pub struct KnockKey {
    key: Zeroizing<[u8; 32]>,
    salt: [u8; 32],
}

/// SHA-256(ClientHello ‖ ServerHello), what a connection's keys are salted with (section 3).
pub fn salt(client_hello: &[u8], server_hello: &[u8]) -> [u8; 32] {
    Sha256::new().chain_update(client_hello).chain_update(server_hello).finalize().into()
}

/// The handshake keys of one direction (section 5), for ChaCha20-Poly1305.
pub struct DirectionKeys {
    /// The key.
    pub key: Zeroizing<[u8; 32]>,
    /// The IV, which each record's index is XORed into (section 6).
    pub iv: [u8; 12],
}

impl KnockKey {
    /// Derives K. Both hellos are handshake messages with their 4-byte headers, without record headers. `invitation` is
    /// X25519(client static, bridge static) on a bridge by invitation, `None` on an open one.
    pub fn derive(
        token: &Token,
        invitation: Option<&[u8; 32]>,
        client_hello: &[u8],
        server_hello: &[u8],
    ) -> Self {
        Self::with_salt(token, invitation, salt(client_hello, server_hello))
    }

    /// The same where the [`salt`] of the two hellos is known.
    pub fn with_salt(token: &Token, invitation: Option<&[u8; 32]>, salt: [u8; 32]) -> Self {
        let invitation = invitation.map_or(&[][..], |secret| &secret[..]);
        let ikm = Zeroizing::new([token.as_bytes(), invitation].concat());
        let prk = kdf::extract(&salt, &ikm);
        let mut key = Zeroizing::new([0; 32]);
        kdf::expand::<Sha256>(&*prk, &[b"qnet knock v1"], &mut *key);
        Self { key, salt }
    }

    /// SHA-256(ClientHello ‖ ServerHello), which Noise's prologue holds too (section 7).
    pub fn salt(&self) -> &[u8; 32] {
        &self.salt
    }

    /// The handshake keys, up (client to bridge) and down, of the connection whose proof record carries `n`.
    pub fn proof_keys(&self, n: &[u8; 32]) -> (DirectionKeys, DirectionKeys) {
        let prk = kdf::extract(n, &*self.key);
        (DirectionKeys::expand(&prk, b"up"), DirectionKeys::expand(&prk, b"down"))
    }

    /// `up`: the hash of every byte up to the field.
    fn knock(&self, up: &[u8; 32]) -> Zeroizing<[u8; KNOCK_LEN]> {
        let mac = kdf::hmac(&self.key, &[b"knock", up]);
        let mut knock = Zeroizing::new([0; KNOCK_LEN]);
        knock.copy_from_slice(&mac[..KNOCK_LEN]);
        knock
    }
}

impl fmt::Debug for KnockKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KnockKey([redacted])")
    }
}

impl DirectionKeys {
    fn expand(prk: &[u8; 32], info: &[u8]) -> Self {
        let mut okm = Zeroizing::new([0; 44]);
        kdf::expand::<Sha256>(prk, &[info], &mut *okm);
        let mut keys = Self { key: Zeroizing::new([0; 32]), iv: [0; 12] };
        let (key, iv) = okm.split_at(keys.key.len());
        keys.key.copy_from_slice(key);
        keys.iv.copy_from_slice(iv);
        keys
    }
}

impl fmt::Debug for DirectionKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DirectionKeys([redacted])")
    }
}

/// The running hash of every byte the client sent after the last record of its ClientHello: record headers and
/// ChangeCipherSpec included.
#[derive(Clone, Default)]
pub struct UpHash(Sha256);

impl UpHash {
    /// Of no bytes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The knock of the next record, whose bytes up to the field, header included, are given. The hash itself does not
    /// advance.
    pub fn knock(&self, key: &KnockKey, record_up_to_field: &[u8]) -> [u8; KNOCK_LEN] {
        *key.knock(&self.0.clone().chain_update(record_up_to_field).finalize().into())
    }
}

impl fmt::Debug for UpHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("UpHash(…)")
    }
}

/// Where in its record a knock is. Both kinds end just before the inner content type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// The last 8 bytes of a PADDED HEADERS frame's padding.
    Padding,
    /// The 11 letters of the cookie value that ends a HEADERS frame.
    Cookie,
}

impl Field {
    /// Bytes of the field.
    #[expect(clippy::len_without_is_empty, reason = "no field is empty")]
    pub const fn len(self) -> usize {
        match self {
            Self::Padding => KNOCK_LEN,
            Self::Cookie => COOKIE_LEN,
        }
    }

    /// How many bytes before its record's end the field begins.
    pub const fn from_end(self) -> usize {
        self.len() + AFTER_FIELD
    }

    /// Writes the plaintext that the keystream turns into the knock. `keystream` and `out` have [`len`](Self::len)
    /// bytes; what is longer is left alone.
    pub fn write(self, knock: &[u8; KNOCK_LEN], keystream: &[u8], out: &mut [u8]) {
        match self {
            Self::Padding => {
                for ((out, mask), byte) in out.iter_mut().zip(keystream).zip(knock) {
                    *out = byte ^ mask;
                }
            }
            Self::Cookie => {
                for ((out, mask), bits) in out.iter_mut().zip(keystream).zip(sixes(knock)) {
                    *out = cookie_letter(bits ^ mask);
                }
            }
        }
    }
}

/// The letters of a cookie value whose ciphertext under `keystream` spells the knock in its low bits.
pub fn cookie_letters(knock: &[u8; KNOCK_LEN], keystream: &[u8; COOKIE_LEN]) -> [u8; COOKIE_LEN] {
    let mut letters = [0; COOKIE_LEN];
    Field::Cookie.write(knock, keystream, &mut letters);
    letters
}

/// The knock's 64 bits, most significant first, and two zero bits, in sixes.
fn sixes(knock: &[u8; KNOCK_LEN]) -> [u8; COOKIE_LEN] {
    let bits = u128::from(u64::from_be_bytes(*knock)) << 2;
    // The mask leaves six bits, so that the cast is exact.
    #[expect(clippy::cast_possible_truncation)]
    std::array::from_fn(|at| (bits >> (6 * (COOKIE_LEN - 1 - at))) as u8 & 0x3f)
}

/// The letter with these low six bits that may stand in a cookie's value (RFC 6265, section 4.1.1: `cookie-octet`);
/// letters and digits before signs. Only 28 has none: there it is the backslash, which HTTP/2 allows in a field's
/// value and the servers that were tried take.
fn cookie_letter(bits: u8) -> u8 {
    match bits & 0x3f {
        low @ 0..=31 => 0x40 | low,
        low @ (48..=57 | 63) => low,
        low => 0x40 | low,
    }
}

/// Tests one complete client record, header included, for a knock in either form. `up` is the hash of everything
/// before it. Takes the same time whether it matches, and where not.
pub fn check(up: &UpHash, key: &KnockKey, record: &[u8]) -> Option<Field> {
    Suspect::new(up, record)?.check(key)
}

/// A complete client record that may hold a knock, hashed once for all the keys that it is tested with.
pub struct Suspect {
    at_padding: [u8; 32],
    padding: [u8; KNOCK_LEN],
    at_cookie: [u8; 32],
    low_bits: [u8; COOKIE_LEN],
}

impl Suspect {
    /// Of a record, header included, that has room for a knock in either form. `up` is the hash of everything before it.
    pub fn new(up: &UpHash, record: &[u8]) -> Option<Self> {
        let (header, content) = record.split_at_checked(RECORD_HEADER)?;
        let (kind, length) = header.split_at(PROTECTED.len());
        if kind != PROTECTED || usize::from(u16::from_be_bytes(length.try_into().ok()?)) != content.len() {
            return None;
        }
        let room = content.len().checked_sub(Field::Cookie.from_end())?;
        let (before, rest) = record.split_at(RECORD_HEADER + room);
        let (cookie, _) = rest.split_at(COOKIE_LEN);
        let (between, padding) = cookie.split_at(COOKIE_LEN - KNOCK_LEN);
        let at_cookie = up.0.clone().chain_update(before);
        Some(Self {
            at_padding: at_cookie.clone().chain_update(between).finalize().into(),
            padding: padding.try_into().ok()?,
            at_cookie: at_cookie.finalize().into(),
            low_bits: std::array::from_fn(|at| cookie[at] & 0x3f),
        })
    }

    /// Whether it holds the knock that this key makes. Takes the same time whether it does, and where not.
    pub fn check(&self, key: &KnockKey) -> Option<Field> {
        let is_padding = self.padding.ct_eq(&*key.knock(&self.at_padding));
        let is_cookie = self.low_bits.ct_eq(&sixes(&key.knock(&self.at_cookie)));
        match (is_padding.into(), is_cookie.into()) {
            (true, _) => Some(Field::Padding),
            (false, true) => Some(Field::Cookie),
            (false, false) => None,
        }
    }
}

#[cfg(test)]
mod tests;
