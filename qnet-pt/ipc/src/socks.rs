//! The SOCKS5 server a parent talks to (RFC 1928), with the login of RFC 1929 carrying the
//! connection's arguments; and the same for applications, which may ask for a UDP association too.
//!
//! Call contract: create one [`Server`] a connection, give it every byte that arrives with
//! [`Server::on_bytes`], send what it appends to `out`. When it returns [`Progress::Request`] or
//! [`Progress::Failed`] it is spent. After a request, answer once with [`Reply::write`]; bytes that
//! came early are in the request and belong to the tunnel.

use qnet_wire::error::{Kind, Retry};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use zeroize::Zeroizing;

const VERSION: u8 = 5;
const LOGIN_VERSION: u8 = 1;
const METHOD_NONE: u8 = 0;
const METHOD_LOGIN: u8 = 2;
const METHOD_NOTHING_ACCEPTABLE: u8 = 0xff;
const COMMAND_CONNECT: u8 = 1;
const COMMAND_UDP: u8 = 3;
const ADDRESS_V4: u8 = 1;
const ADDRESS_NAME: u8 = 3;
const ADDRESS_V6: u8 = 4;

/// Most bytes held at once. The longest message is a login of 513; a parent that sends payload
/// before the answer gets room for a first flight.
pub const MAX_PENDING: usize = 4_096;

/// One connection's negotiation.
pub struct Server {
    state: State,
    udp: bool,
    pending: Zeroizing<Vec<u8>>,
    args: Zeroizing<Vec<u8>>,
}

enum State {
    Greeting,
    Login,
    Request,
    Spent,
}

/// What the bytes so far amount to.
#[derive(Debug, PartialEq, Eq)]
pub enum Progress {
    /// Send `out`, if there is any, and give more.
    More,
    /// The parent wants a connection.
    Request(Request),
    /// Send `out` and close.
    Failed(SocksError),
}

impl Progress {
    /// What came of the negotiation, once it is over.
    ///
    /// # Errors
    /// It failed; what was to be sent has to be sent all the same.
    pub fn outcome(self) -> Option<Result<Request, SocksError>> {
        match self {
            Self::More => None,
            Self::Request(request) => Some(Ok(request)),
            Self::Failed(error) => Some(Err(error)),
        }
    }
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// A connection.
    Connect,
    /// A UDP association; the target is what the client says it will send from, which may be a dummy.
    Udp,
}

/// A connection the parent wants. `Debug` shows neither arguments nor target.
#[derive(PartialEq, Eq)]
pub struct Request {
    /// A connection, where [`Server::with_udp`] did not allow others.
    pub command: Command,
    /// Where to. It may be a dummy where a transport finds its way by arguments alone.
    pub target: Target,
    /// User name followed by password, joined, not yet parsed.
    pub args: Zeroizing<Vec<u8>>,
    /// Bytes that came after the request: payload.
    pub early: Vec<u8>,
}

impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Request").field("early", &self.early.len()).finish_non_exhaustive()
    }
}

/// A request's target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// An address.
    Address(SocketAddr),
    /// A name, not looked up, and a port.
    Name(String, u16),
}

/// Why a negotiation failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SocksError {
    /// Another version of SOCKS, or something else.
    #[error("the first byte is {0}, not SOCKS version 5")]
    Version(u8),
    /// Neither of the two methods spoken here was offered.
    #[error("neither \"no login\" nor \"user name and password\" was offered")]
    NoMethod,
    /// The login is not of RFC 1929.
    #[error("the login has version {0}, not 1")]
    LoginVersion(u8),
    /// Not CONNECT, nor UDP ASSOCIATE where that is allowed.
    #[error("the SOCKS command {0} is not supported here")]
    Command(u8),
    /// Not an IPv4 address, a name or an IPv6 address.
    #[error("the SOCKS address type is {0}")]
    AddressType(u8),
    /// A name that is not text.
    #[error("the SOCKS target's name is not text")]
    Name,
    /// More bytes before the answer than are held.
    #[error("more than 4,096 bytes before the answer")]
    TooMuch,
    /// Bytes for a negotiation that has ended.
    #[error("the negotiation has ended")]
    Spent,
}

impl SocksError {
    /// Who is at fault.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Version(_) | Self::NoMethod | Self::Command(_) | Self::AddressType(_) => {
                Kind::PeerIncompatible
            }
            Self::LoginVersion(_) | Self::Name | Self::TooMuch => Kind::PeerMisbehaved,
            Self::Spent => Kind::Bug,
        }
    }

    /// Whether the same can succeed later.
    pub fn retry(&self) -> Retry {
        match self {
            Self::Version(_)
            | Self::NoMethod
            | Self::Command(_)
            | Self::AddressType(_)
            | Self::LoginVersion(_)
            | Self::Name
            | Self::TooMuch
            | Self::Spent => Retry::Never,
        }
    }
}

/// The answer to a request (RFC 1928, section 6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Reply {
    /// The tunnel is up.
    Succeeded = 0,
    /// Something here failed.
    GeneralFailure = 1,
    /// The request itself is wrong: asking again will not help until somebody changes it.
    NotAllowed = 2,
    /// No way there.
    NetworkUnreachable = 3,
    /// What answers is not what was wanted, or nothing answers.
    HostUnreachable = 4,
    /// Refused.
    ConnectionRefused = 5,
    /// It took too long.
    TtlExpired = 6,
    /// Not CONNECT.
    CommandNotSupported = 7,
    /// The target cannot be a name.
    AddressTypeNotSupported = 8,
}

impl Reply {
    /// Appends the answer: 10 bytes, with 0.0.0.0:0 as the bound address, which no parent reads.
    pub fn write(self, out: &mut Vec<u8>) {
        self.write_bound(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0), out);
    }

    /// The same with an address, 10 or 22 bytes: where to send an association's datagrams.
    pub fn write_bound(self, bound: SocketAddr, out: &mut Vec<u8>) {
        out.extend_from_slice(&[VERSION, self as u8, 0]);
        match bound.ip() {
            IpAddr::V4(ip) => {
                out.push(ADDRESS_V4);
                out.extend_from_slice(&ip.octets());
            }
            IpAddr::V6(ip) => {
                out.push(ADDRESS_V6);
                out.extend_from_slice(&ip.octets());
            }
        }
        out.extend_from_slice(&bound.port().to_be_bytes());
    }
}

impl Default for Server {
    fn default() -> Self {
        Self::new()
    }
}

impl Server {
    /// A connection that was just accepted.
    pub fn new() -> Self {
        Self {
            state: State::Greeting,
            udp: false,
            pending: Zeroizing::new(Vec::new()),
            args: Zeroizing::new(Vec::new()),
        }
    }

    /// An application's, which may ask for a UDP association too.
    pub fn with_udp() -> Self {
        Self { udp: true, ..Self::new() }
    }

    /// Takes bytes; appends what to send to `out`.
    pub fn on_bytes(&mut self, input: &[u8], out: &mut Vec<u8>) -> Progress {
        if self.pending.len() + input.len() > MAX_PENDING {
            self.state = State::Spent;
            return Progress::Failed(SocksError::TooMuch);
        }
        self.pending.extend_from_slice(input);
        loop {
            let step = match self.state {
                State::Greeting => self.greeting(out),
                State::Login => self.login(out),
                State::Request => self.request(out),
                State::Spent => Err(SocksError::Spent),
            };
            match step {
                Ok(Step::Next) => {}
                Ok(Step::More) => return Progress::More,
                Ok(Step::Done(request)) => {
                    self.state = State::Spent;
                    return Progress::Request(request);
                }
                Err(error) => {
                    self.state = State::Spent;
                    return Progress::Failed(error);
                }
            }
        }
    }

    /// `version(5) count methods…`
    fn greeting(&mut self, out: &mut Vec<u8>) -> Result<Step, SocksError> {
        let Some((&version, rest)) = self.pending.split_first() else { return Ok(Step::More) };
        if version != VERSION {
            return Err(SocksError::Version(version));
        }
        let Some((&count, rest)) = rest.split_first() else { return Ok(Step::More) };
        let Some(methods) = rest.get(..usize::from(count)) else { return Ok(Step::More) };
        // A login carries the arguments: without it they are lost, so it goes before "no login".
        let method = if methods.contains(&METHOD_LOGIN) {
            self.state = State::Login;
            METHOD_LOGIN
        } else if methods.contains(&METHOD_NONE) {
            self.state = State::Request;
            METHOD_NONE
        } else {
            out.extend_from_slice(&[VERSION, METHOD_NOTHING_ACCEPTABLE]);
            return Err(SocksError::NoMethod);
        };
        out.extend_from_slice(&[VERSION, method]);
        self.pending.drain(..2 + usize::from(count));
        Ok(Step::Next)
    }

    /// `version(1) length user length password`
    fn login(&mut self, out: &mut Vec<u8>) -> Result<Step, SocksError> {
        let Some((&version, rest)) = self.pending.split_first() else { return Ok(Step::More) };
        if version != LOGIN_VERSION {
            out.extend_from_slice(&[LOGIN_VERSION, 1]);
            return Err(SocksError::LoginVersion(version));
        }
        let Some((user, rest)) = counted(rest) else { return Ok(Step::More) };
        let Some((password, rest)) = counted(rest) else { return Ok(Step::More) };
        self.args.extend_from_slice(user);
        if password != [0] {
            self.args.extend_from_slice(password);
        }
        let used = self.pending.len() - rest.len();
        self.pending.drain(..used);
        out.extend_from_slice(&[LOGIN_VERSION, 0]);
        self.state = State::Request;
        Ok(Step::Next)
    }

    /// `version(5) command reserved type address port`
    fn request(&mut self, out: &mut Vec<u8>) -> Result<Step, SocksError> {
        let Some((&version, rest)) = self.pending.split_first() else { return Ok(Step::More) };
        if version != VERSION {
            return Err(SocksError::Version(version));
        }
        let [command, _reserved, kind, rest @ ..] = rest else { return Ok(Step::More) };
        let command = match *command {
            COMMAND_CONNECT => Command::Connect,
            COMMAND_UDP if self.udp => Command::Udp,
            other => {
                Reply::CommandNotSupported.write(out);
                return Err(SocksError::Command(other));
            }
        };
        let parsed = match *kind {
            ADDRESS_V4 => {
                rest.split_first_chunk::<4>().map(|(ip, rest)| (Host::Ip(Ipv4Addr::from(*ip).into()), rest))
            }
            ADDRESS_V6 => {
                rest.split_first_chunk::<16>().map(|(ip, rest)| (Host::Ip(Ipv6Addr::from(*ip).into()), rest))
            }
            ADDRESS_NAME => counted(rest).map(|(name, rest)| (Host::Name(name), rest)),
            other => {
                Reply::AddressTypeNotSupported.write(out);
                return Err(SocksError::AddressType(other));
            }
        };
        let Some((host, rest)) = parsed else { return Ok(Step::More) };
        let Some((port, early)) = rest.split_first_chunk::<2>() else { return Ok(Step::More) };
        let port = u16::from_be_bytes(*port);
        let target = match host {
            Host::Ip(ip) => Target::Address(SocketAddr::new(ip, port)),
            Host::Name(name) => match std::str::from_utf8(name) {
                Ok(name) => Target::Name(name.to_owned(), port),
                Err(_) => {
                    Reply::AddressTypeNotSupported.write(out);
                    return Err(SocksError::Name);
                }
            },
        };
        let early = early.to_vec();
        Ok(Step::Done(Request { command, target, args: std::mem::take(&mut self.args), early }))
    }
}

enum Step {
    Next,
    More,
    Done(Request),
}

enum Host<'a> {
    Ip(IpAddr),
    Name(&'a [u8]),
}

/// Splits off a byte string with its length in one byte before it.
fn counted(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&length, rest) = bytes.split_first()?;
    rest.split_at_checked(usize::from(length))
}

#[cfg(test)]
mod tests;
