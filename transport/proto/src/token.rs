//! The token: 20 bytes that client and bridge share and nobody else can read, carried in the client's Encrypted Client
//! Hello (docs/protocol.md, section 2).
//!
//! The client's ECH is real and looks like the GREASE that Chrome sends to sites without ECH. Client and bridge build
//! the same `ECHConfig`; it is published nowhere:
//!
//! 1. [`offer`] draws a token and a config, for BoringSSL to seal the token's [`Token::inner_name`] with.
//! 2. The decoy cannot open it and ignores it, as it would GREASE.
//! 3. The bridge, once the hello has gone on to the decoy, asks [`Sealed::find`] whether it can be for this bridge at
//!    all, which costs nothing, and then [`Sealed::open`], which costs one HPKE operation: between the two is the
//!    place for a budget.

use std::fmt;
use std::hash::{Hash, Hasher};

use data_encoding::BASE64URL_NOPAD;
use hpke::aead::{Aead, AesGcm128, ChaCha20Poly1305};
use hpke::kdf::HkdfSha256;
use hpke::kem::{Kem, X25519HkdfSha256};
use hpke::{Deserializable, OpModeR};
use qnet_wire::key::{BridgeKey, IdentityKey};
use qnet_wire::name::ServerName;
use rand_core::CryptoRng;
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::hello::{ClientHello, Ech, inner_server_name};

/// Bytes of a token.
pub const TOKEN_LEN: usize = 20;
/// Letters of a token as inner server name: 160 bits in base64url without padding.
pub const INNER_NAME_LEN: usize = 27;
/// The version in a token's first four bits.
const VERSION: u8 = 1;

/// The `ECHConfig`'s version, also its extension's number (RFC 9849, section 4).
const CONFIG_VERSION: u16 = 0xfe0d;
/// DHKEM(X25519, HKDF-SHA256) (RFC 9180, section 7.1).
const KEM: u16 = 0x0020;
/// HKDF-SHA256 (RFC 9180, section 7.2).
const KDF: u16 = 0x0001;
/// AES-128-GCM (RFC 9180, section 7.3).
const AES_128_GCM: u16 = 0x0001;
/// ChaCha20-Poly1305 (RFC 9180, section 7.3).
const CHACHA20_POLY1305: u16 = 0x0003;
/// What BoringSSL's GREASE draws its payload's length from with equal chance, and the `maximum_name_length` that makes
/// a real payload of that length, in bytes.
const CLASSES: [(usize, u8); 4] = [(144, 27), (176, 59), (208, 91), (240, 123)];

/// A token: four bits of version and 156 random ones. Wiped when dropped, compared in constant time, hidden in `Debug`.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Token([u8; TOKEN_LEN]);

impl Token {
    /// A fresh token.
    pub fn generate(rng: &mut impl CryptoRng) -> Self {
        let mut token = Self([0; TOKEN_LEN]);
        rng.fill_bytes(&mut token.0);
        let [first, ..] = &mut token.0;
        *first = VERSION << 4 | *first & 0x0f;
        token
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8; TOKEN_LEN] {
        &self.0
    }

    /// The name of the inner hello: [`INNER_NAME_LEN`] letters of base64url.
    pub fn inner_name(&self) -> String {
        BASE64URL_NOPAD.encode(&self.0)
    }

    /// The token whose [`inner_name`](Self::inner_name) this is; `None` for any other text or version.
    pub fn from_inner_name(name: &str) -> Option<Self> {
        if name.len() != INNER_NAME_LEN {
            return None;
        }
        let mut token = Self([0; TOKEN_LEN]);
        BASE64URL_NOPAD.decode_mut(name.as_bytes(), &mut token.0).ok()?;
        let [first, ..] = token.0;
        (first >> 4 == VERSION).then_some(token)
    }
}

impl ConstantTimeEq for Token {
    fn ct_eq(&self, other: &Self) -> subtle::Choice {
        self.0.ct_eq(&other.0)
    }
}

impl PartialEq for Token {
    fn eq(&self, other: &Self) -> bool {
        self.ct_eq(other).into()
    }
}

impl Eq for Token {}

impl Hash for Token {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token([redacted])")
    }
}

/// What a client needs to send a token.
pub struct EchOffer {
    /// An `ECHConfigList` with one config, for `SSL_set1_ech_config_list`.
    pub config_list: Vec<u8>,
    /// The token; [`Token::inner_name`] goes to `SSL_set_tlsext_host_name`.
    pub token: Token,
}

impl fmt::Debug for EchOffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EchOffer([redacted])")
    }
}

/// Draws a token and the config that carries it. `aes_hardware` must be what BoringSSL itself sees
/// (`EVP_has_aes_hardware`), since its GREASE chooses its suite by that.
pub fn offer(
    rng: &mut impl CryptoRng,
    key: &BridgeKey,
    public_name: &ServerName,
    aes_hardware: bool,
) -> EchOffer {
    let token = Token::generate(rng);
    let mut drawn = [0; 2];
    rng.fill_bytes(&mut drawn);
    let [config_id, class] = drawn;
    let (_, maximum_name_length) = CLASSES[usize::from(class) % CLASSES.len()];
    let aead = if aes_hardware { AES_128_GCM } else { CHACHA20_POLY1305 };
    let config = ech_config(config_id, key, aead, maximum_name_length, public_name);
    let mut config_list = Vec::with_capacity(2 + config.len());
    push_vec16(&mut config_list, &config);
    EchOffer { config_list, token }
}

/// Opens the token of a hello: [`Sealed::find`] and [`Sealed::open`] in one.
pub fn open(identity: &IdentityKey, names: &[ServerName], hello: &ClientHello) -> Option<Token> {
    Sealed::find(names, hello)?.open(identity)
}

/// A hello whose ECH may hold a token for this bridge.
#[derive(Debug)]
pub struct Sealed<'a> {
    hello: &'a ClientHello,
    ech: Ech<'a>,
    name: &'a ServerName,
    maximum_name_length: u8,
}

impl<'a> Sealed<'a> {
    /// Looks at what everybody can see: the server name must be one of the bridge's `names`, the ECH of a form that
    /// [`offer`] makes. No cryptography.
    pub fn find(names: &'a [ServerName], hello: &'a ClientHello) -> Option<Self> {
        let ech = hello.ech()?;
        let sni = hello.sni()?;
        let name = names.iter().find(|name| name.as_str() == sni)?;
        let (_, maximum_name_length) =
            CLASSES.into_iter().find(|(length, _)| *length == ech.payload.len())?;
        let known = matches!(ech.suite, (KDF, AES_128_GCM | CHACHA20_POLY1305));
        known.then_some(Self { hello, ech, name, maximum_name_length })
    }

    /// Opens it, with exactly one HPKE operation. `None` where it was sealed to another key, to another name or not at
    /// all (GREASE), where it was changed, and where it does not hold a token of this version.
    pub fn open(self, identity: &IdentityKey) -> Option<Token> {
        let (_, aead) = self.ech.suite;
        let plaintext = match aead {
            AES_128_GCM => self.decrypt::<AesGcm128>(identity),
            _ => self.decrypt::<ChaCha20Poly1305>(identity),
        }?;
        Token::from_inner_name(inner_server_name(&plaintext)?)
    }

    fn decrypt<A: Aead>(&self, identity: &IdentityKey) -> Option<Zeroizing<Vec<u8>>> {
        let secret = <X25519HkdfSha256 as Kem>::PrivateKey::from_bytes(identity.expose()).ok()?;
        let enc = <X25519HkdfSha256 as Kem>::EncappedKey::from_bytes(self.ech.enc).ok()?;
        let key = identity.public();
        let config =
            ech_config(self.ech.config_id, &key, self.ech.suite.1, self.maximum_name_length, self.name);
        let info = [b"tls ech\0", config.as_slice()].concat();
        let aad = self.aad();
        let mode = OpModeR::Base;
        hpke::single_shot_open::<A, HkdfSha256, X25519HkdfSha256>(
            &mode,
            &secret,
            &enc,
            &info,
            self.ech.payload,
            &aad,
        )
        .ok()
        .map(Zeroizing::new)
    }

    /// The outer hello without its handshake header, its payload zeroed (RFC 9849, section 5.2).
    fn aad(&self) -> Vec<u8> {
        let mut aad = self.hello.body().to_vec();
        let header = self.hello.raw().len() - aad.len();
        let at = &self.ech.payload_at;
        if let Some(payload) = aad.get_mut(at.start - header..at.end - header) {
            payload.fill(0);
        }
        aad
    }
}

/// An `ECHConfig`, its version and length included (RFC 9849, section 4).
fn ech_config(
    config_id: u8,
    key: &BridgeKey,
    aead: u16,
    maximum_name_length: u8,
    public_name: &ServerName,
) -> Vec<u8> {
    let mut contents = vec![config_id];
    contents.extend(KEM.to_be_bytes());
    push_vec16(&mut contents, &key.0);
    push_vec16(&mut contents, &[KDF.to_be_bytes(), aead.to_be_bytes()].concat());
    contents.push(maximum_name_length);
    let name = public_name.as_str().as_bytes();
    // A server name has at most 253 letters, so that the cast is exact.
    contents.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
    contents.extend(name);
    push_vec16(&mut contents, &[]);
    let mut config = CONFIG_VERSION.to_be_bytes().to_vec();
    push_vec16(&mut config, &contents);
    config
}

/// Appends a vector with two bytes of length before it. All of them here are shorter than 400 bytes.
fn push_vec16(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend(u16::try_from(bytes.len()).unwrap_or(u16::MAX).to_be_bytes());
    out.extend(bytes);
}

#[cfg(test)]
mod tests;
