//! A ClientHello as an observer reads it, and its JA4 (FoxIO's JA4 technical details, the TLS client part).
//!
//! Written apart from the product's own parser on purpose: what measures must not share mistakes with what is measured.

use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};

/// Extension numbers that are looked into (IANA's "TLS ExtensionType Values").
pub mod extension {
    /// server_name.
    pub const SERVER_NAME: u16 = 0;
    /// signature_algorithms.
    pub const SIGNATURE_ALGORITHMS: u16 = 13;
    /// application_layer_protocol_negotiation.
    pub const ALPN: u16 = 16;
    /// pre_shared_key.
    pub const PRE_SHARED_KEY: u16 = 41;
    /// supported_versions.
    pub const SUPPORTED_VERSIONS: u16 = 43;
    /// key_share.
    pub const KEY_SHARE: u16 = 51;
    /// supported_groups.
    pub const SUPPORTED_GROUPS: u16 = 10;
    /// trust_anchors.
    pub const TRUST_ANCHORS: u16 = 51764;
    /// encrypted_client_hello.
    pub const ECH: u16 = 65037;
}

/// A ClientHello's fields, in the order they came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// The version in the record's header.
    pub record_version: u16,
    /// The version field of the message, 0x0303 in TLS 1.3.
    pub legacy_version: u16,
    /// The session id.
    pub session_id: Vec<u8>,
    /// Cipher suites.
    pub ciphers: Vec<u16>,
    /// Compression methods.
    pub compression: Vec<u8>,
    /// Extensions with their bodies.
    pub extensions: Vec<(u16, Vec<u8>)>,
    /// Length of the whole message, its 4-byte header included.
    pub length: usize,
}

impl Hello {
    /// Reads a ClientHello out of one whole TLS record. `None` if it is anything else.
    pub fn parse(record: &[u8]) -> Option<Self> {
        let mut input = Input(record);
        let (kind, record_version) = (input.byte()?, input.short()?);
        let mut message = Input(input.short_vector()?);
        let length = message.0.len();
        if kind != 22 || !input.0.is_empty() || message.byte()? != 1 || message.byte()? != 0 {
            return None;
        }
        let mut body = Input(message.short_vector()?);
        let legacy_version = body.short()?;
        body.take(32)?;
        let session_id = body.byte_vector()?.to_vec();
        let ciphers = shorts(body.short_vector()?)?;
        let compression = body.byte_vector()?.to_vec();
        let mut list = Input(body.short_vector()?);
        let mut extensions = Vec::new();
        while !list.0.is_empty() {
            extensions.push((list.short()?, list.short_vector()?.to_vec()));
        }
        let whole = message.0.is_empty() && body.0.is_empty();
        whole.then_some(Self {
            record_version,
            legacy_version,
            session_id,
            ciphers,
            compression,
            extensions,
            length,
        })
    }

    /// The body of an extension.
    pub fn extension(&self, number: u16) -> Option<&[u8]> {
        self.extensions.iter().find(|(kind, _)| *kind == number).map(|(_, body)| body.as_slice())
    }

    /// The server name.
    pub fn server_name(&self) -> Option<&str> {
        let mut list = Input(Input(self.extension(extension::SERVER_NAME)?).short_vector()?);
        (list.byte()? == 0).then_some(())?;
        std::str::from_utf8(list.short_vector()?).ok()
    }

    /// Supported groups, in order.
    pub fn groups(&self) -> Option<Vec<u16>> {
        shorts(Input(self.extension(extension::SUPPORTED_GROUPS)?).short_vector()?)
    }

    /// Signature algorithms, in order.
    pub fn signature_algorithms(&self) -> Option<Vec<u16>> {
        shorts(Input(self.extension(extension::SIGNATURE_ALGORITHMS)?).short_vector()?)
    }

    /// Supported versions, in order.
    pub fn versions(&self) -> Option<Vec<u16>> {
        shorts(Input(self.extension(extension::SUPPORTED_VERSIONS)?).byte_vector()?)
    }

    /// Groups of the key shares and the lengths of these, in order.
    pub fn key_shares(&self) -> Option<Vec<(u16, usize)>> {
        let mut list = Input(Input(self.extension(extension::KEY_SHARE)?).short_vector()?);
        let mut shares = Vec::new();
        while !list.0.is_empty() {
            shares.push((list.short()?, list.short_vector()?.len()));
        }
        Some(shares)
    }

    /// Application protocols, in order.
    pub fn protocols(&self) -> Option<Vec<&[u8]>> {
        let mut list = Input(Input(self.extension(extension::ALPN)?).short_vector()?);
        let mut protocols = Vec::new();
        while !list.0.is_empty() {
            protocols.push(list.byte_vector()?);
        }
        Some(protocols)
    }

    /// The outer Encrypted Client Hello (RFC 9849, section 5).
    pub fn ech(&self) -> Option<Ech> {
        let mut body = Input(self.extension(extension::ECH)?);
        (body.byte()? == 0).then_some(())?;
        let (kdf, aead, config_id) = (body.short()?, body.short()?, body.byte()?);
        let (enc, payload) = (body.short_vector()?.len(), body.short_vector()?.len());
        body.0.is_empty().then_some(Ech { kdf, aead, config_id, enc, payload })
    }

    /// JA4, of a hello over TCP.
    pub fn ja4(&self) -> String {
        let version = match self.versions().unwrap_or_default().into_iter().filter(|v| !is_grease(*v)).max() {
            Some(0x0304) => "13",
            Some(0x0303) => "12",
            _ => "00",
        };
        let ciphers: Vec<u16> = self.ciphers.iter().copied().filter(|c| !is_grease(*c)).collect();
        let kinds: Vec<u16> =
            self.extensions.iter().map(|(kind, _)| *kind).filter(|k| !is_grease(*k)).collect();
        let name = if kinds.contains(&extension::SERVER_NAME) { 'd' } else { 'i' };
        let protocols = self.protocols().unwrap_or_default();
        let alpn = match protocols.first() {
            Some([only]) => format!("{0}{0}", char::from(*only)),
            Some([first, .., last]) => format!("{}{}", char::from(*first), char::from(*last)),
            _ => "00".into(),
        };
        let sorted = |mut list: Vec<u16>| {
            list.sort_unstable();
            hex_list(&list)
        };
        let hashed_kinds = kinds
            .iter()
            .copied()
            .filter(|k| ![extension::SERVER_NAME, extension::ALPN].contains(k))
            .collect();
        let mut algorithms = self.signature_algorithms().unwrap_or_default();
        algorithms.retain(|algorithm| !is_grease(*algorithm));
        let algorithms = hex_list(&algorithms);
        format!(
            "t{version}{name}{:02}{:02}{alpn}_{}_{}",
            ciphers.len().min(99),
            kinds.len().min(99),
            short_hash(&sorted(ciphers)),
            short_hash(&format!("{}_{algorithms}", sorted(hashed_kinds))),
        )
    }
}

/// JA4S of the ServerHello in one whole TLS record, over TCP: version, number of extensions and protocol; cipher; extensions in the order
/// in which they came. `None` if it is anything else.
pub fn ja4s(record: &[u8]) -> Option<String> {
    let mut input = Input(record);
    let (kind, _) = (input.byte()?, input.short()?);
    let mut message = Input(input.short_vector()?);
    if kind != 22 || message.byte()? != 2 || message.byte()? != 0 {
        return None;
    }
    let mut body = Input(message.short_vector()?);
    let legacy = body.short()?;
    body.take(32)?;
    body.byte_vector()?;
    let cipher = body.short()?;
    body.byte()?;
    let mut list = Input(body.short_vector()?);
    let (mut kinds, mut version, mut alpn) = (Vec::new(), legacy, "00".to_owned());
    while !list.0.is_empty() {
        let (kind, found) = (list.short()?, list.short_vector()?);
        kinds.push(kind);
        match (kind, found) {
            (extension::SUPPORTED_VERSIONS, [high, low]) => version = u16::from_be_bytes([*high, *low]),
            // One name, in a list.
            (extension::ALPN, [_, _, _, first, .., last]) => {
                alpn = format!("{}{}", char::from(*first), char::from(*last));
            }
            _ => {}
        }
    }
    let version = match version {
        0x0304 => "13",
        0x0303 => "12",
        _ => "00",
    };
    Some(format!("t{version}{:02}{alpn}_{cipher:04x}_{}", kinds.len().min(99), short_hash(&hex_list(&kinds))))
}

/// An outer Encrypted Client Hello.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ech {
    /// HPKE's key derivation function.
    pub kdf: u16,
    /// HPKE's cipher.
    pub aead: u16,
    /// The config's id.
    pub config_id: u8,
    /// Length of the encapsulated key.
    pub enc: usize,
    /// Length of the payload.
    pub payload: usize,
}

/// Whether a number is one of RFC 8701's.
pub fn is_grease(number: u16) -> bool {
    let [high, low] = number.to_be_bytes();
    high == low && low & 0x0f == 0x0a
}

fn hex_list(list: &[u16]) -> String {
    list.iter().map(|number| format!("{number:04x}")).collect::<Vec<_>>().join(",")
}

fn short_hash(text: &str) -> String {
    Sha256::digest(text).iter().take(6).fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn short(&mut self) -> Option<u16> {
        self.take(2)?.first_chunk().copied().map(u16::from_be_bytes)
    }

    fn byte_vector(&mut self) -> Option<&'a [u8]> {
        let length = self.byte()?;
        self.take(length.into())
    }

    fn short_vector(&mut self) -> Option<&'a [u8]> {
        let length = self.short()?;
        self.take(length.into())
    }
}

fn shorts(bytes: &[u8]) -> Option<Vec<u16>> {
    let (pairs, rest) = bytes.as_chunks::<2>();
    rest.is_empty().then(|| pairs.iter().map(|pair| u16::from_be_bytes(*pair)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grease_is_told_apart() {
        assert!((0..16).all(|n| is_grease(n << 12 | 0x0a00 | n << 4 | 0x0a)));
        assert!(![0x0a1a, 0x1301, 0x0a0b, 0xfe0d].into_iter().any(is_grease));
    }

    /// The worked example of the JA4 specification: Chrome's lists and the three parts that follow from them.
    #[test]
    fn ja4_of_the_specifications_example() {
        let ciphers = "002f,0035,009c,009d,1301,1302,1303,c013,c014,c02b,c02c,c02f,c030,cca8,cca9";
        assert_eq!(short_hash(ciphers), "8daaf6152771");
        let extensions = "0005,000a,000b,000d,0012,0015,0017,001b,0023,002b,002d,0033,4469,ff01";
        let algorithms = "0403,0804,0401,0503,0805,0501,0806,0601";
        assert_eq!(short_hash(&format!("{extensions}_{algorithms}")), "e5627efa2ab1");
    }

    /// Captured on 2026-11-21 on loopback.
    const CHROMIUM: &[u8] = include_bytes!("../vectors/hello/chromium-156.0.8078.79.bin");

    #[test]
    fn a_captured_hello_is_read() {
        let hello = Hello::parse(CHROMIUM).unwrap();
        assert_eq!(hello.ja4(), "t13d1517h2_8daaf6152771_cb7bf5808d99");
        assert_eq!(hello.server_name(), Some("www.example.com"));
        assert_eq!(hello.protocols().unwrap(), [&b"h2"[..], b"http/1.1"]);
        assert_eq!(hello.key_shares().unwrap()[1..], [(0x11ec, 1216), (0x001d, 32)]);
        let ech = hello.ech().unwrap();
        assert_eq!((ech.kdf, ech.aead, ech.enc, ech.payload), (1, 1, 32, 144));
    }

    /// A ServerHello as RFC 8446, section 4.1.3, has it; the two hashes are those that FoxIO's database has for TLS 1.3's two
    /// extensions in either order.
    #[test]
    fn ja4s_of_a_server_hello() {
        let versions = [0, 43, 0, 2, 3, 4];
        let share = [0, 51, 0, 6, 0, 29, 0, 2, 1, 2];
        for (extensions, wanted) in [
            ([&versions[..], &share].concat(), "t130200_1301_a56c5b993250"),
            ([&share[..], &versions].concat(), "t130200_1301_234ea6891581"),
        ] {
            let body = [&[3, 3][..], &[7; 32], &[0], &[0x13, 1, 0, 0, 16], &extensions].concat();
            let length = u8::try_from(body.len()).unwrap();
            let record = [&[22, 3, 3, 0, length + 4, 2, 0, 0, length][..], &body].concat();
            assert_eq!(ja4s(&record).unwrap(), wanted);
            assert!((0..record.len()).all(|end| ja4s(&record[..end]).is_none()));
        }
    }

    #[test]
    fn a_hello_cut_anywhere_is_none() {
        assert!((0..CHROMIUM.len()).all(|end| Hello::parse(&CHROMIUM[..end]).is_none()));
    }
}
