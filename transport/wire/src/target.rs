//! What a stream says first where no tor stands behind the bridge: where its far end is to connect (docs/protocol.md,
//! section 18).
//!
//! ```text
//! request   version(1) command(1) [address]      client, first; an address with command 1 alone
//! answer    version(1) code(1)                   bridge, first
//! address   type(1) host port(2)                 host: 4 bytes, 16 bytes, or a length byte and a name
//! datagram  length(2) address payload            both, after the answer to command 2; the length is what follows it
//! ```
//!
//! Numbers are big-endian. Each `read` looks at the bytes that are there and gives what they begin with and how long that
//! is, or `None` while more are needed: at most [`MAX_REQUEST`], [`ANSWER`] or [`MAX_FRAME`] bytes, so a caller never has to
//! keep more.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use crate::error::{Kind, Retry};
use crate::name::{self, MAX_NAME, NameError};

/// The version of everything here.
pub const VERSION: u8 = 1;
/// Longest address: type, the length of a name, the longest name, a port.
const MAX_ADDRESS: usize = 1 + 1 + MAX_NAME + 2;
/// Longest request, bytes.
pub const MAX_REQUEST: usize = 2 + MAX_ADDRESS;
/// Length of an answer, bytes.
pub const ANSWER: usize = 2;
/// Longest datagram with its length field, bytes: what that field can say.
pub const MAX_FRAME: usize = 2 + u16::MAX as usize;
/// Longest payload of a datagram, bytes: what fits with any address.
pub const MAX_PAYLOAD: usize = u16::MAX as usize - MAX_ADDRESS;

const COMMAND_TCP: u8 = 1;
const COMMAND_UDP: u8 = 2;
const TYPE_V4: u8 = 1;
const TYPE_NAME: u8 = 3;
const TYPE_V6: u8 = 4;

/// The name of a host to be looked up: a [`ServerName`](crate::name::ServerName)'s rules, and underscores, which names that
/// exist have. Lower case. `Debug` does not show it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct HostName(Box<str>);

impl HostName {
    /// The name, in lower case.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HostName([redacted])")
    }
}

impl FromStr for HostName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        name::check(&text.replace('_', "x"))?;
        Ok(Self(text.to_ascii_lowercase().into()))
    }
}

/// A host: by address, or by a name that the far end looks up.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Host {
    /// An address.
    Ip(IpAddr),
    /// A name.
    Name(HostName),
}

/// Host and port of a connection or a datagram. `Debug` does not show them, `Display` does: not for logs.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Target {
    host: Host,
    port: u16,
}

impl Target {
    /// Both together.
    ///
    /// # Errors
    /// [`TargetError::Port`]: nothing listens on port 0.
    pub fn new(host: Host, port: u16) -> Result<Self, TargetError> {
        if port == 0 { Err(TargetError::Port) } else { Ok(Self { host, port }) }
    }

    /// The host.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The port, not 0.
    pub fn port(&self) -> u16 {
        self.port
    }

    fn read(bytes: &[u8]) -> Result<Option<(Self, &[u8])>, TargetError> {
        let Some((&kind, rest)) = bytes.split_first() else { return Ok(None) };
        let found = match kind {
            TYPE_V4 => {
                rest.split_first_chunk::<4>().map(|(ip, rest)| (Host::Ip(Ipv4Addr::from(*ip).into()), rest))
            }
            TYPE_V6 => {
                rest.split_first_chunk::<16>().map(|(ip, rest)| (Host::Ip(Ipv6Addr::from(*ip).into()), rest))
            }
            TYPE_NAME => read_name(rest)?.map(|(name, rest)| (Host::Name(name), rest)),
            other => return Err(TargetError::AddressType(other)),
        };
        let Some((host, rest)) = found else { return Ok(None) };
        let Some((port, rest)) = rest.split_first_chunk() else { return Ok(None) };
        Ok(Some((Self::new(host, u16::from_be_bytes(*port))?, rest)))
    }

    fn write(&self, out: &mut Vec<u8>) {
        match &self.host {
            Host::Ip(IpAddr::V4(ip)) => {
                out.push(TYPE_V4);
                out.extend(ip.octets());
            }
            Host::Ip(IpAddr::V6(ip)) => {
                out.push(TYPE_V6);
                out.extend(ip.octets());
            }
            Host::Name(name) => {
                let name = name.as_str().as_bytes();
                out.push(TYPE_NAME);
                // A name is at most 253 letters.
                out.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
                out.extend(name);
            }
        }
        out.extend(self.port.to_be_bytes());
    }
}

fn read_name(bytes: &[u8]) -> Result<Option<(HostName, &[u8])>, TargetError> {
    let Some((&length, rest)) = bytes.split_first() else { return Ok(None) };
    let length = usize::from(length);
    if length > MAX_NAME {
        return Err(TargetError::Name(NameError::TooLong));
    }
    let Some((name, rest)) = rest.split_at_checked(length) else { return Ok(None) };
    let name = std::str::from_utf8(name).map_err(|_| TargetError::Name(NameError::Letter))?;
    Ok(Some((name.parse().map_err(TargetError::Name)?, rest)))
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Host([redacted])")
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Target([redacted])")
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Ip(ip) => SocketAddr::new(*ip, self.port).fmt(f),
            Host::Name(name) => write!(f, "{}:{}", name.as_str(), self.port),
        }
    }
}

/// `host:port`; an IPv6 address in brackets; a name may end with the root's dot.
impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        let (host, port) = text.rsplit_once(':').ok_or(TargetError::Port)?;
        // Digits alone: an integer's own parser takes a plus sign too.
        let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
        let port = port.parse().ok().filter(|_| digits).ok_or(TargetError::Port)?;
        Self::new(host.parse()?, port)
    }
}

impl FromStr for Host {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        if let Some(inner) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            let ip: Ipv6Addr = inner.parse().map_err(|_| TargetError::Bracket)?;
            return Ok(Self::Ip(ip.into()));
        }
        match text.parse::<IpAddr>() {
            Ok(IpAddr::V6(_)) => Err(TargetError::Bracket),
            Ok(ip) => Ok(Self::Ip(ip)),
            Err(_) => {
                text.strip_suffix('.').unwrap_or(text).parse().map(Self::Name).map_err(TargetError::Name)
            }
        }
    }
}

/// What the far end of a stream is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// A TCP connection; its bytes follow the answer, and the request without waiting for it.
    Tcp(Target),
    /// A UDP association: a socket of the far end's, and [`Datagram`]s both ways after the answer.
    Udp,
}

impl Request {
    /// What `bytes` begin with, and its length.
    ///
    /// # Errors
    /// See [`TargetError`]; whatever follows cannot make it a request.
    pub fn read(bytes: &[u8]) -> Result<Option<(Self, usize)>, TargetError> {
        let Some((&version, rest)) = bytes.split_first() else { return Ok(None) };
        check_version(version)?;
        let Some((&command, rest)) = rest.split_first() else { return Ok(None) };
        match command {
            COMMAND_TCP => {
                let found = Target::read(rest)?;
                Ok(found.map(|(target, rest)| (Self::Tcp(target), bytes.len() - rest.len())))
            }
            COMMAND_UDP => Ok(Some((Self::Udp, 2))),
            other => Err(TargetError::Command(other)),
        }
    }

    /// Appends it to `out`.
    pub fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Tcp(target) => {
                out.extend([VERSION, COMMAND_TCP]);
                target.write(out);
            }
            Self::Udp => out.extend([VERSION, COMMAND_UDP]),
        }
    }
}

fn check_version(version: u8) -> Result<(), TargetError> {
    if version == VERSION { Ok(()) } else { Err(TargetError::Version(version)) }
}

/// How a request went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Answer {
    /// The connection or the association is there.
    Connected = 0,
    /// It failed for a reason that has no code.
    Failed = 1,
    /// The exit policy does not allow it.
    NotAllowed = 2,
    /// No route to the target's network.
    NetworkUnreachable = 3,
    /// No route to the host, or no such name.
    HostUnreachable = 4,
    /// Nothing listens there.
    Refused = 5,
    /// No answer in time.
    TimedOut = 6,
    /// The far end does not do this.
    Unsupported = 7,
    /// The client has as many streams as it may.
    TooManyStreams = 8,
}

impl Answer {
    const ALL: [Self; 9] = [
        Self::Connected,
        Self::Failed,
        Self::NotAllowed,
        Self::NetworkUnreachable,
        Self::HostUnreachable,
        Self::Refused,
        Self::TimedOut,
        Self::Unsupported,
        Self::TooManyStreams,
    ];

    /// What `bytes` begin with; [`ANSWER`] bytes are enough. A code not known here is a failure without a reason.
    ///
    /// # Errors
    /// [`TargetError::Version`].
    pub fn read(bytes: &[u8]) -> Result<Option<Self>, TargetError> {
        let Some((&version, rest)) = bytes.split_first() else { return Ok(None) };
        check_version(version)?;
        let known = |code: u8| Self::ALL.into_iter().find(|answer| *answer as u8 == code);
        Ok(rest.first().map(|code| known(*code).unwrap_or(Self::Failed)))
    }

    /// Its bytes.
    pub fn bytes(self) -> [u8; ANSWER] {
        [VERSION, self as u8]
    }

    /// Whether asking again can help. What is wrong with the target stays wrong for a while.
    pub fn retry(self) -> Retry {
        match self {
            Self::Connected | Self::NotAllowed | Self::Unsupported => Retry::Never,
            Self::Failed | Self::NetworkUnreachable | Self::HostUnreachable => Retry::Later,
            Self::Refused | Self::TimedOut | Self::TooManyStreams => Retry::Later,
        }
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connected => "connected",
            Self::Failed => "the exit could not connect",
            Self::NotAllowed => "the bridge's exit policy does not allow this address or port",
            Self::NetworkUnreachable => "the exit has no route to that network",
            Self::HostUnreachable => "the exit finds no such host",
            Self::Refused => "nothing listens on that port",
            Self::TimedOut => "the host did not answer the exit in time",
            Self::Unsupported => "the bridge does not do this",
            Self::TooManyStreams => "the bridge allows no more streams at once",
        })
    }
}

/// One datagram of an association. Up, `peer` is where to; down, the address it came from, never a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datagram<'a> {
    /// The other end.
    pub peer: Target,
    /// What it carries; may be empty.
    pub payload: &'a [u8],
}

impl<'a> Datagram<'a> {
    /// What `bytes` begin with, and its length with the length field.
    ///
    /// # Errors
    /// See [`TargetError`]; the association is over then.
    pub fn read(bytes: &'a [u8]) -> Result<Option<(Self, usize)>, TargetError> {
        let Some((length, rest)) = bytes.split_first_chunk() else { return Ok(None) };
        let length = usize::from(u16::from_be_bytes(*length));
        let Some(body) = rest.get(..length) else { return Ok(None) };
        let (peer, payload) = Target::read(body)?.ok_or(TargetError::Cut)?;
        Ok(Some((Self { peer, payload }, 2 + length)))
    }

    /// Appends it to `out`.
    ///
    /// # Errors
    /// [`TargetError::TooLong`]: more than the length field can say; nothing was appended then.
    pub fn write(&self, out: &mut Vec<u8>) -> Result<(), TargetError> {
        let mut peer = Vec::with_capacity(MAX_ADDRESS);
        self.peer.write(&mut peer);
        let length = u16::try_from(peer.len() + self.payload.len()).map_err(|_| TargetError::TooLong)?;
        out.extend(length.to_be_bytes());
        out.extend(peer);
        out.extend(self.payload);
        Ok(())
    }
}

/// Why bytes or a text are not what they should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// Another version.
    #[error("version {0} of the stream's head is not known here, only {VERSION}; is there a newer qnet?")]
    Version(u8),
    /// A command that is not known.
    #[error("command {0} is not known here")]
    Command(u8),
    /// Not an IPv4 address, a name or an IPv6 address.
    #[error("address type {0} is not known here")]
    AddressType(u8),
    /// Not the name of a host.
    #[error("in the host: {0}")]
    Name(NameError),
    /// No port, or 0.
    #[error("a port from 1 to 65535 is needed after the host, as in www.example.com:443")]
    Port,
    /// An IPv6 address without brackets, or something else in brackets.
    #[error("an IPv6 address, and nothing else, stands in brackets, as in [2001:db8::7]:443")]
    Bracket,
    /// A datagram whose length does not reach over its address.
    #[error("a datagram ends within its address")]
    Cut,
    /// A datagram of more bytes than its length field can say.
    #[error("a datagram may carry {MAX_PAYLOAD} bytes")]
    TooLong,
}

impl TargetError {
    /// Who is at fault, where a peer sent it; in a text it is who wrote that.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Version(_) | Self::Command(_) | Self::AddressType(_) => Kind::PeerIncompatible,
            Self::Cut => Kind::PeerMisbehaved,
            Self::Name(_) | Self::Port | Self::Bracket | Self::TooLong => Kind::Misuse,
        }
    }

    /// Whether trying again helps.
    pub fn retry(&self) -> Retry {
        match self {
            Self::Version(_) | Self::Command(_) | Self::AddressType(_) | Self::Cut => Retry::Never,
            Self::Name(_) | Self::Port | Self::Bracket | Self::TooLong => Retry::Never,
        }
    }
}

#[cfg(test)]
mod tests;
