//! What a TCP balancer says before a client's first byte: whose connection it is. The PROXY protocol, version 2
//! (haproxy.org, `proxy-protocol.txt`, section 2.2).
//!
//! ```text
//! header   signature(12) version-and-command(1) family-and-protocol(1) length(2) addresses extensions
//! ```
//!
//! `length` is that of what follows it, big-endian. Addresses are source, destination, source port, destination port.
//! Extensions (TLVs) are passed over.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::error::{Kind, Retry};

/// What every header begins with: no protocol that clients speak begins so.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Length of what every header has, bytes.
const HEAD: usize = SIGNATURE.len() + 4;
/// Most bytes after that. Two addresses take 36 at most; extensions that balancers send (a unique id, the name asked for,
/// a cloud's own) a few hundred.
const MAX_REST: usize = 1_024;
/// Longest header that is taken, bytes.
pub const MAX_HEADER: usize = HEAD + MAX_REST;

const VERSION: u8 = 2;
const COMMAND_LOCAL: u8 = 0;
const COMMAND_PROXY: u8 = 1;
const UNSPECIFIED: u8 = 0x00;
const TCP_OVER_V4: u8 = 0x11;
const TCP_OVER_V6: u8 = 0x21;

/// Whose a connection is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source {
    /// The client's, from this address. Not for logs.
    Client(SocketAddr),
    /// The balancer's own, which looks whether the bridge is there; or one whose origin it does not know.
    Balancer,
}

/// How far a header has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Progress {
    /// At least so many bytes of it are missing, and reading them reads nothing of what follows it.
    Missing(usize),
    /// It is whole and says whose the connection is.
    Whole(Source),
}

/// Reads a header: all the bytes that came, which are none of what follows it if no more was read at any time than
/// [`Progress::Missing`] said. At most [`MAX_HEADER`] bytes are ever wanted.
///
/// # Errors
/// The bytes do not begin a header, or one of a kind that is of no use here.
pub fn read(bytes: &[u8]) -> Result<Progress, ProxyError> {
    let compared = bytes.len().min(SIGNATURE.len());
    if bytes.get(..compared) != SIGNATURE.get(..compared) {
        return Err(ProxyError::Signature);
    }
    let Some((&[.., version_and_command, family, high, low], rest)) = bytes.split_first_chunk::<HEAD>()
    else {
        return Ok(Progress::Missing(HEAD - bytes.len()));
    };
    if version_and_command >> 4 != VERSION {
        return Err(ProxyError::Version(version_and_command >> 4));
    }
    let length = usize::from(u16::from_be_bytes([high, low]));
    if length > MAX_REST {
        return Err(ProxyError::Length(length));
    }
    let missing = length.checked_sub(rest.len()).ok_or(ProxyError::Length(length))?;
    let source = match version_and_command & 0xf {
        COMMAND_LOCAL => Some(Source::Balancer),
        COMMAND_PROXY => source(family, length, rest)?,
        command => return Err(ProxyError::Command(command)),
    };
    Ok(source.filter(|_| missing == 0).map_or(Progress::Missing(missing), Progress::Whole))
}

/// The source address, or `None` while it has not come.
fn source(family: u8, length: usize, rest: &[u8]) -> Result<Option<Source>, ProxyError> {
    let addresses = match family {
        UNSPECIFIED => return Ok(Some(Source::Balancer)),
        TCP_OVER_V4 => 12,
        TCP_OVER_V6 => 36,
        other => return Err(ProxyError::Family(other)),
    };
    if length < addresses {
        return Err(ProxyError::Length(length));
    }
    Ok(match (family, rest) {
        (TCP_OVER_V4, &[a, b, c, d, _, _, _, _, high, low, _, _, ..]) => {
            let port = u16::from_be_bytes([high, low]);
            Some(Source::Client(SocketAddr::from((Ipv4Addr::new(a, b, c, d), port))))
        }
        (TCP_OVER_V6, rest) => rest.split_first_chunk::<16>().and_then(|(ip, rest)| {
            let port = rest.get(16..18)?.first_chunk().map(|port| u16::from_be_bytes(*port))?;
            Some(Source::Client(SocketAddr::from((Ipv6Addr::from(*ip), port))))
        }),
        _ => None,
    })
}

/// Why something is no header for a bridge.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ProxyError {
    /// It is something else, such as a client's own first bytes or version 1 of the protocol.
    #[error("no PROXY header of version 2")]
    Signature,
    /// A version that does not exist yet.
    #[error("a PROXY header of version {0} instead of 2")]
    Version(u8),
    /// Neither LOCAL nor PROXY.
    #[error("a PROXY header with the unknown command {0}")]
    Command(u8),
    /// Of a connection that is not TCP over IP.
    #[error("a PROXY header of a connection that is not TCP over IP (family and protocol {0:#04x})")]
    Family(u8),
    /// Too short for its addresses, shorter than what came, or longer than any that is of use.
    #[error("a PROXY header with an impossible length: {0}")]
    Length(usize),
}

impl ProxyError {
    /// Who is at fault.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Signature | Self::Version(_) | Self::Command(_) | Self::Family(_) | Self::Length(_) => {
                Kind::PeerMisbehaved
            }
        }
    }

    /// Whether trying again can help.
    #[must_use]
    pub fn retry(&self) -> Retry {
        match self {
            Self::Signature | Self::Version(_) | Self::Command(_) | Self::Family(_) | Self::Length(_) => {
                Retry::Never
            }
        }
    }
}

#[cfg(test)]
mod tests;
