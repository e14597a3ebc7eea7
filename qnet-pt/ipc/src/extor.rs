//! The client's side of the Extended ORPort (`ext-orport-spec`): SAFE_COOKIE, then who the client is
//! and which transport it came by, then payload.
//!
//! ```text
//!  Types --(1 among them: send type, nonce)--> ServerHash --(right: send our hash)--> Status
//!    Status --(1: send USERADDR, TRANSPORT, DONE)--> Answer --OKAY--> payload
//!                                                       |----DENY--> refused
//! ```
//!
//! Call contract: create a [`Client`] once connected, give it every byte that arrives, send what it
//! appends to `out`. After [`Progress::Ready`] the connection carries payload, beginning with the
//! bytes returned; after an error, close.

use hmac::{Hmac, KeyInit, Mac};
use qnet_wire::error::{Kind, Retry};
use rand_core::CryptoRng;
use sha2::Sha256;
use std::net::SocketAddr;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

const COOKIE_HEADER: &[u8; 32] = b"! Extended ORPort Auth Cookie !\x0a";
const HASH_LEN: usize = 32;
const NONCE_LEN: usize = 32;
const SAFE_COOKIE: u8 = 1;
const SERVER_LABEL: &[u8] = b"ExtORPort authentication server-to-client hash";
const CLIENT_LABEL: &[u8] = b"ExtORPort authentication client-to-server hash";
const DONE: u16 = 0x0000;
const USERADDR: u16 = 0x0001;
const TRANSPORT: u16 = 0x0002;
const OKAY: u16 = 0x1000;
const DENY: u16 = 0x1001;

/// Most authentication types read: there are no more byte values.
const MAX_TYPES: usize = 255;

/// The secret tor and its transports share through a file.
pub struct Cookie(Zeroizing<[u8; 32]>);

impl Cookie {
    /// Exact size of a cookie file, in bytes.
    pub const FILE_LEN: usize = 64;

    /// Reads a cookie file: the header line, then 32 bytes.
    ///
    /// # Errors
    /// [`CookieError`]
    pub fn parse(file: &[u8]) -> Result<Self, CookieError> {
        let (header, cookie) = file.split_first_chunk::<32>().ok_or(CookieError::Length)?;
        if header != COOKIE_HEADER {
            return Err(CookieError::Header);
        }
        Ok(Self(Zeroizing::new(cookie.try_into().map_err(|_| CookieError::Length)?)))
    }

    fn hash(&self, label: &[u8], nonces: &[&[u8]; 2]) -> Result<[u8; HASH_LEN], ExtOrError> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&*self.0).map_err(|_| ExtOrError::Hash)?;
        mac.update(label);
        mac.update(nonces[0]);
        mac.update(nonces[1]);
        Ok(mac.finalize().into_bytes().into())
    }
}

impl std::fmt::Debug for Cookie {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Cookie")
    }
}

/// What is wrong with a cookie file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CookieError {
    /// Not 64 bytes.
    #[error("the Extended ORPort's cookie file is not 64 bytes long")]
    Length,
    /// It does not begin as it must.
    #[error("the Extended ORPort's cookie file does not begin with its header line")]
    Header,
}

impl CookieError {
    /// Who is at fault.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Length | Self::Header => Kind::Local,
        }
    }

    /// Whether the same can succeed later.
    pub fn retry(&self) -> Retry {
        match self {
            // Tor writes the file anew when it starts.
            Self::Length | Self::Header => Retry::Later,
        }
    }
}

/// One connection to an Extended ORPort.
pub struct Client {
    state: State,
    cookie: Cookie,
    nonce: [u8; NONCE_LEN],
    introduction: Vec<u8>,
    pending: Vec<u8>,
}

enum State {
    Types,
    ServerHash,
    Status,
    Answer,
    /// Bytes of an unknown message's body still to come.
    Skip(usize),
    Spent,
}

/// What the bytes so far amount to.
#[derive(Debug, PartialEq, Eq)]
pub enum Progress {
    /// Send `out`, if there is any, and give more.
    More,
    /// Payload may flow; these bytes of it came already.
    Ready(Vec<u8>),
}

/// Why an Extended ORPort is of no use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ExtOrError {
    /// Type 1 is not among what it offers.
    #[error("the Extended ORPort does not offer SAFE_COOKIE")]
    NoSafeCookie,
    /// It does not know the cookie: something else listens there, or the file is an old one.
    #[error("the Extended ORPort does not know the cookie in TOR_PT_AUTH_COOKIE_FILE")]
    ServerHash,
    /// It refuses ours.
    #[error("the Extended ORPort refuses our authentication")]
    ClientHash,
    /// DENY.
    #[error("the Extended ORPort refuses this connection")]
    Denied,
    /// The hash function cannot be keyed; a bug.
    #[error("the cookie cannot key a hash")]
    Hash,
    /// Bytes for a connection that was handed over or failed.
    #[error("the Extended ORPort's negotiation has ended")]
    Spent,
}

impl ExtOrError {
    /// Who is at fault.
    pub fn kind(&self) -> Kind {
        match self {
            Self::NoSafeCookie => Kind::PeerIncompatible,
            Self::ServerHash | Self::ClientHash | Self::Denied => Kind::PeerMisbehaved,
            Self::Hash | Self::Spent => Kind::Bug,
        }
    }

    /// Whether the same can succeed later.
    pub fn retry(&self) -> Retry {
        match self {
            Self::ServerHash | Self::ClientHash | Self::Denied => Retry::Later,
            Self::NoSafeCookie | Self::Hash | Self::Spent => Retry::Never,
        }
    }
}

impl Client {
    /// Begins on a new connection. `client` is told to tor, if it is known; `transport` is the
    /// transport's name, at most 65,535 bytes of it.
    pub fn new(
        cookie: Cookie,
        client: Option<SocketAddr>,
        transport: &str,
        rng: &mut impl CryptoRng,
    ) -> Self {
        let mut nonce = [0; NONCE_LEN];
        rng.fill_bytes(&mut nonce);
        let mut introduction = Vec::new();
        if let Some(client) = client {
            let client = SocketAddr::new(client.ip().to_canonical(), client.port());
            message(USERADDR, client.to_string().as_bytes(), &mut introduction);
        }
        message(TRANSPORT, transport.as_bytes(), &mut introduction);
        message(DONE, b"", &mut introduction);
        Self { state: State::Types, cookie, nonce, introduction, pending: Vec::new() }
    }

    /// Takes bytes; appends what to send to `out`. What is held stays within one message,
    /// 65,539 bytes, plus `input`: bodies of unknown messages are dropped as they come.
    ///
    /// # Errors
    /// [`ExtOrError`]
    pub fn on_bytes(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<Progress, ExtOrError> {
        self.pending.extend_from_slice(input);
        loop {
            let step = match self.state {
                State::Types => self.types(out),
                State::ServerHash => self.server_hash(out),
                State::Status => self.status(out),
                State::Answer => self.answer(),
                State::Skip(left) => Ok(self.skip(left)),
                State::Spent => Err(ExtOrError::Spent),
            };
            match step {
                Ok(Some(next)) => self.state = next,
                Ok(None) => return Ok(Progress::More),
                Err(error) => {
                    self.state = State::Spent;
                    return Err(error);
                }
            }
            if matches!(self.state, State::Spent) {
                return Ok(Progress::Ready(std::mem::take(&mut self.pending)));
            }
        }
    }

    fn types(&mut self, out: &mut Vec<u8>) -> Result<Option<State>, ExtOrError> {
        let Some(end) = self.pending.iter().take(MAX_TYPES + 1).position(|kind| *kind == 0) else {
            return if self.pending.len() > MAX_TYPES { Err(ExtOrError::NoSafeCookie) } else { Ok(None) };
        };
        if !self.pending.iter().take(end).any(|kind| *kind == SAFE_COOKIE) {
            return Err(ExtOrError::NoSafeCookie);
        }
        self.pending.drain(..=end);
        out.push(SAFE_COOKIE);
        out.extend_from_slice(&self.nonce);
        Ok(Some(State::ServerHash))
    }

    fn server_hash(&mut self, out: &mut Vec<u8>) -> Result<Option<State>, ExtOrError> {
        let Some((hash, rest)) = self.pending.split_first_chunk::<HASH_LEN>() else { return Ok(None) };
        let Some((theirs, _)) = rest.split_first_chunk::<NONCE_LEN>() else { return Ok(None) };
        let nonces: [&[u8]; 2] = [&self.nonce, theirs];
        let expected = self.cookie.hash(SERVER_LABEL, &nonces)?;
        if !bool::from(expected.ct_eq(hash)) {
            return Err(ExtOrError::ServerHash);
        }
        out.extend_from_slice(&self.cookie.hash(CLIENT_LABEL, &nonces)?);
        self.pending.drain(..HASH_LEN + NONCE_LEN);
        Ok(Some(State::Status))
    }

    fn status(&mut self, out: &mut Vec<u8>) -> Result<Option<State>, ExtOrError> {
        match self.pending.first() {
            None => Ok(None),
            Some(1) => {
                self.pending.drain(..1);
                out.append(&mut self.introduction);
                Ok(Some(State::Answer))
            }
            Some(_) => Err(ExtOrError::ClientHash),
        }
    }

    fn answer(&mut self) -> Result<Option<State>, ExtOrError> {
        let [c0, c1, l0, l1, ..] = self.pending[..] else { return Ok(None) };
        let length = usize::from(u16::from_be_bytes([l0, l1]));
        match u16::from_be_bytes([c0, c1]) {
            DENY => Err(ExtOrError::Denied),
            OKAY if self.pending.len() < 4 + length => Ok(None),
            OKAY => {
                self.pending.drain(..4 + length);
                Ok(Some(State::Spent))
            }
            _ => {
                self.pending.drain(..4);
                Ok(Some(State::Skip(length)))
            }
        }
    }

    fn skip(&mut self, left: usize) -> Option<State> {
        let here = left.min(self.pending.len());
        self.pending.drain(..here);
        if here < left {
            self.state = State::Skip(left - here);
            return None;
        }
        Some(State::Answer)
    }
}

fn message(command: u16, body: &[u8], out: &mut Vec<u8>) {
    let length = u16::try_from(body.len()).unwrap_or(u16::MAX);
    out.extend_from_slice(&command.to_be_bytes());
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(body.get(..usize::from(length)).unwrap_or(body));
}

#[cfg(test)]
mod tests;
