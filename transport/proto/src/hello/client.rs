//! The ClientHello (RFC 8446, section 4.1.2).

use std::ops::Range;

use super::extension;
use super::reader::Reader;

/// Bytes of a handshake message's header.
const MESSAGE_HEADER: usize = 4;
/// ClientHello's handshake type.
const CLIENT_HELLO: u8 = 1;

/// A ClientHello that was read to its last byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientHello {
    raw: Vec<u8>,
    session_id: Range<usize>,
    cipher_suites: Range<usize>,
    extensions: Vec<(u16, Range<usize>)>,
}

/// One extension: its type and its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extension<'a> {
    /// The type, as registered with IANA.
    pub kind: u16,
    /// The body, without type and length.
    pub body: &'a [u8],
}

/// An outer `encrypted_client_hello` extension (RFC 9849, section 5). GREASE looks the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ech<'a> {
    /// HPKE's KDF and AEAD identifiers.
    pub suite: (u16, u16),
    /// The ECHConfig's id.
    pub config_id: u8,
    /// HPKE's encapsulated key.
    pub enc: &'a [u8],
    /// The sealed inner hello.
    pub payload: &'a [u8],
    /// Where the payload lies in [`ClientHello::raw`].
    pub payload_at: Range<usize>,
}

impl ClientHello {
    /// Reads a whole handshake message, its 4-byte header included; `None` where it is not a ClientHello to the last
    /// byte, or carries an extension twice (RFC 8446, section 4.2).
    pub fn parse(raw: Vec<u8>) -> Option<Self> {
        let mut message = Reader::new(&raw);
        if message.u8()? != CLIENT_HELLO || message.u24()? != message.rest().len() {
            return None;
        }
        let _version_and_random: &[u8; 34] = message.array()?;
        let session_id = span(&mut message, Reader::vec8)?;
        let cipher_suites = span(&mut message, Reader::vec16)?;
        let compression = message.vec8()?;
        if session_id.len() > 32
            || cipher_suites.len() < 2
            || cipher_suites.len() % 2 != 0
            || compression.is_empty()
        {
            return None;
        }
        let list = message.vec16()?;
        let start = message.at() - list.len();
        message.finish()?;
        let extensions = read_extensions(list, start)?;
        Some(Self { session_id, cipher_suites, extensions, raw })
    }

    /// The handshake message, its 4-byte header included.
    pub fn raw(&self) -> &[u8] {
        &self.raw
    }

    /// The message without its 4-byte header, as ECH authenticates it.
    pub(crate) fn body(&self) -> &[u8] {
        self.raw.get(MESSAGE_HEADER..).unwrap_or_default()
    }

    /// The session id, 0 to 32 bytes.
    pub fn session_id(&self) -> &[u8] {
        self.slice(&self.session_id)
    }

    /// The cipher suites in the client's order.
    pub fn cipher_suites(&self) -> impl Iterator<Item = u16> + '_ {
        self.slice(&self.cipher_suites).as_chunks().0.iter().map(|pair| u16::from_be_bytes(*pair))
    }

    /// The extensions in the client's order.
    pub fn extensions(&self) -> impl Iterator<Item = Extension<'_>> {
        self.extensions.iter().map(|(kind, at)| Extension { kind: *kind, body: self.slice(at) })
    }

    /// The server name, where there is exactly one and it is ASCII.
    pub fn sni(&self) -> Option<&str> {
        server_name(self.slice(self.find(extension::SERVER_NAME)?))
    }

    /// The outer ECH extension, GREASE included.
    pub fn ech(&self) -> Option<Ech<'_>> {
        let at = self.find(extension::ENCRYPTED_CLIENT_HELLO)?;
        let mut body = Reader::new(self.slice(at));
        if body.u8()? != 0 {
            return None;
        }
        let suite = (body.u16()?, body.u16()?);
        let config_id = body.u8()?;
        let enc = body.vec16()?;
        let payload = body.vec16()?;
        body.finish()?;
        Some(Ech { suite, config_id, enc, payload, payload_at: at.end - payload.len()..at.end })
    }

    fn find(&self, kind: u16) -> Option<&Range<usize>> {
        self.extensions.iter().find(|(found, _)| *found == kind).map(|(_, at)| at)
    }

    fn slice(&self, at: &Range<usize>) -> &[u8] {
        self.raw.get(at.clone()).unwrap_or_default()
    }
}

/// Reads a vector and gives where its content lies.
fn span<'a>(
    reader: &mut Reader<'a>,
    read: impl FnOnce(&mut Reader<'a>) -> Option<&'a [u8]>,
) -> Option<Range<usize>> {
    let length = read(reader)?.len();
    Some(reader.at() - length..reader.at())
}

/// Reads a list of extensions that begins at `start` of its message, and refuses one that comes twice.
pub(super) fn read_extensions(list: &[u8], start: usize) -> Option<Vec<(u16, Range<usize>)>> {
    let mut reader = Reader::new(list);
    let mut extensions = Vec::new();
    while !reader.is_empty() {
        let kind = reader.u16()?;
        let at = span(&mut reader, Reader::vec16)?;
        extensions.push((kind, start + at.start..start + at.end));
    }
    let mut kinds: Vec<_> = extensions.iter().map(|(kind, _)| *kind).collect();
    kinds.sort_unstable();
    // Sorted first: comparing each with each would let a hello of 4,000 empty extensions cost millions of steps.
    kinds.is_sorted_by(|a, b| a < b).then_some(extensions)
}

/// The one host name in a `server_name` extension's body (RFC 6066, section 3).
pub(super) fn server_name(body: &[u8]) -> Option<&str> {
    let mut body = Reader::new(body);
    let mut list = Reader::new(body.vec16()?);
    body.finish()?;
    if list.u8()? != 0 {
        return None;
    }
    let name = std::str::from_utf8(list.vec16()?).ok()?;
    list.finish()?;
    (!name.is_empty() && name.is_ascii()).then_some(name)
}

#[cfg(test)]
mod tests;
