//! The EncodedClientHelloInner (RFC 9849, section 5.1): a ClientHello without handshake header and session id, then
//! zeros.

use super::client::{read_extensions, server_name};
use super::extension;
use super::reader::Reader;

/// `ECHClientHelloType` of the inner hello (RFC 9849, section 5).
const ECH_INNER: &[u8] = &[1];

/// The server name of a decrypted inner hello. It stands there itself: `ech_outer_extensions` may take other
/// extensions' places, never its own, since the outer one differs.
pub(crate) fn inner_server_name(encoded: &[u8]) -> Option<&str> {
    let mut hello = Reader::new(encoded);
    let _version_and_random: &[u8; 34] = hello.array()?;
    let session_id = hello.vec8()?;
    let _cipher_suites = hello.vec16()?;
    let _compression = hello.vec8()?;
    let list = hello.vec16()?;
    if !session_id.is_empty() || hello.rest().iter().any(|byte| *byte != 0) {
        return None;
    }
    let extensions = read_extensions(list, 0)?;
    let body = |wanted| {
        let (_, at) = extensions.iter().find(|(kind, _)| *kind == wanted)?;
        list.get(at.clone())
    };
    if body(extension::ENCRYPTED_CLIENT_HELLO)? != ECH_INNER {
        return None;
    }
    server_name(body(extension::SERVER_NAME)?)
}

#[cfg(test)]
mod tests;
