//! The ServerHello (RFC 8446, section 4.1.3).

use super::client::read_extensions;
use super::extension;
use super::reader::Reader;

/// ServerHello's handshake type.
const SERVER_HELLO: u8 = 2;
/// The version both supported_versions and nothing else can select: TLS 1.3.
const TLS13: [u8; 2] = [3, 4];
/// The random of a HelloRetryRequest: SHA-256 of "HelloRetryRequest" (RFC 8446, section 4.1.3).
const HELLO_RETRY: [u8; 32] = [
    0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11, 0xbe, 0x1d, 0x8c, 0x02, 0x1e, 0x65, 0xb8, 0x91, 0xc2,
    0xa2, 0x11, 0x16, 0x7a, 0xbb, 0x8c, 0x5e, 0x07, 0x9e, 0x09, 0xe2, 0xc8, 0xa8, 0x33, 0x9c,
];

/// A ServerHello that was read to its last byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerHello {
    raw: Vec<u8>,
    hello_retry: bool,
    tls13: bool,
    cipher_suite: u16,
}

impl ServerHello {
    /// Reads a whole handshake message, its 4-byte header included; `None` where it is not a ServerHello to the last
    /// byte. Those of TLS 1.2, which may have no extensions, are read too.
    pub fn parse(raw: Vec<u8>) -> Option<Self> {
        let mut message = Reader::new(&raw);
        if message.u8()? != SERVER_HELLO || message.u24()? != message.rest().len() {
            return None;
        }
        let _version = message.u16()?;
        let random: &[u8; 32] = message.array()?;
        let session_id = message.vec8()?;
        let cipher_suite = message.u16()?;
        let _compression = message.u8()?;
        let list = if message.is_empty() { &[] } else { message.vec16()? };
        message.finish()?;
        let extensions = read_extensions(list, 0)?;
        if session_id.len() > 32 {
            return None;
        }
        let version = extensions.iter().find(|(kind, _)| *kind == extension::SUPPORTED_VERSIONS);
        let tls13 = version.is_some_and(|(_, at)| list.get(at.clone()) == Some(&TLS13));
        Some(Self { hello_retry: *random == HELLO_RETRY, tls13, cipher_suite, raw })
    }

    /// The handshake message, its 4-byte header included.
    pub fn raw(&self) -> &[u8] {
        &self.raw
    }

    /// Whether it asks for a second ClientHello, which makes the connection a visitor's.
    pub fn is_hello_retry(&self) -> bool {
        self.hello_retry
    }

    /// Whether it selects TLS 1.3.
    pub fn is_tls13(&self) -> bool {
        self.tls13
    }

    /// The cipher suite it selects.
    pub fn cipher_suite(&self) -> u16 {
        self.cipher_suite
    }
}

#[cfg(test)]
mod tests;
