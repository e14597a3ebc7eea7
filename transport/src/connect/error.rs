//! Why no connection came about.
#![forbid(unsafe_code)]

use std::fmt;
use std::io;
use std::net::IpAddr;

use qnet_wire::error::{Kind, Retry};
use qnet_wire::redact::Redacted;

/// Which part of the way an error speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hop {
    /// The bridge, dialled directly.
    Bridge,
    /// The upstream proxy.
    Proxy,
    /// The bridge, as the upstream proxy reports it.
    BeyondProxy,
    /// The web site behind a bridge, dialled by the bridge.
    Decoy,
}

impl fmt::Display for Hop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bridge => "the bridge",
            Self::Proxy => "the upstream proxy",
            Self::BeyondProxy => "the bridge, asked for through the upstream proxy,",
            Self::Decoy => "the web site behind this bridge",
        })
    }
}

/// Why no connection to the bridge came about. Proxies' own words are never repeated: they may say anything.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Nobody listens there.
    #[error("{hop} refused the connection: nothing listens on that port")]
    Refused {
        /// Where.
        hop: Hop,
    },
    /// No such host, or a firewall that says so.
    #[error("{hop} cannot be reached: no route to the host")]
    HostUnreachable {
        /// Where.
        hop: Hop,
    },
    /// No way there at all.
    #[error("{hop} cannot be reached: no route to its network; is this machine online?")]
    NetworkUnreachable {
        /// Where.
        hop: Hop,
    },
    /// No answer in time.
    #[error("{hop} did not answer in time")]
    TimedOut {
        /// Where.
        hop: Hop,
    },
    /// It was accepted and broken off at once.
    #[error(
        "the connection to {hop} was reset at once: the site behind it may be down, or something on the way objects; try later"
    )]
    Reset {
        /// Where.
        hop: Hop,
    },
    /// The source address is not this machine's.
    #[error("cannot connect from the {} address set for outgoing connections: is it this machine's?", family(.address))]
    Bind {
        /// The address configured.
        address: Redacted<IpAddr>,
        /// The system's reason.
        #[source]
        error: io::Error,
    },
    /// Any other failure of the system.
    #[error("the connection to {hop} failed")]
    Io {
        /// Where.
        hop: Hop,
        /// The system's reason.
        #[source]
        error: io::Error,
    },
    /// The proxy wants a login and none is configured.
    #[error("the upstream proxy wants a user name and password; none is configured")]
    ProxyWantsLogin,
    /// The proxy did not accept the login.
    #[error("the upstream proxy did not accept the user name and password")]
    ProxyLoginRefused,
    /// The proxy's rules forbid this target.
    #[error("the upstream proxy's rules do not allow a connection to the bridge's address and port")]
    ProxyForbids,
    /// The proxy gives up for a reason it does not tell more of.
    #[error("the upstream proxy could not connect to the bridge ({0})")]
    ProxyFailed(ProxyReply),
    /// The proxy cannot do what is needed.
    #[error("the upstream proxy does not support this: {0}")]
    ProxyUnable(&'static str),
    /// What answers is not a proxy of the configured kind.
    #[error("what answers at the upstream proxy's address is not such a proxy: {0}")]
    ProxyMisbehaved(&'static str),
    /// The proxy closed instead of answering.
    #[error("the upstream proxy closed the connection instead of answering")]
    ProxyClosed,
    /// A user name or password that the proxy's protocol cannot carry.
    #[error("the upstream proxy's login cannot be sent: {0}")]
    BadLogin(&'static str),
}

fn family(address: &Redacted<IpAddr>) -> &'static str {
    if address.reveal().to_canonical().is_ipv4() { "IPv4" } else { "IPv6" }
}

/// A proxy's failure code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyReply {
    /// SOCKS5's reply field (RFC 1928, section 6).
    Socks5(u8),
    /// SOCKS4's reply code.
    Socks4(u8),
    /// An HTTP status.
    Http(u16),
}

impl fmt::Display for ProxyReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socks5(code) => write!(f, "SOCKS5 reply {code}"),
            Self::Socks4(code) => write!(f, "SOCKS4 reply {code}"),
            Self::Http(status) => write!(f, "HTTP status {status}"),
        }
    }
}

impl ConnectError {
    /// The system's answer to a dial.
    pub(super) fn dialling(hop: Hop, error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::Refused { hop },
            io::ErrorKind::HostUnreachable => Self::HostUnreachable { hop },
            io::ErrorKind::NetworkUnreachable => Self::NetworkUnreachable { hop },
            io::ErrorKind::TimedOut => Self::TimedOut { hop },
            io::ErrorKind::ConnectionReset => Self::Reset { hop },
            _ => Self::Io { hop, error },
        }
    }

    /// A failure while talking with the proxy.
    pub(super) fn talking(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
                Self::ProxyClosed
            }
            _ => Self::Io { hop: Hop::Proxy, error },
        }
    }

    /// Who is at fault.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Refused { .. }
            | Self::HostUnreachable { .. }
            | Self::NetworkUnreachable { .. }
            | Self::TimedOut { .. }
            | Self::Reset { .. }
            | Self::ProxyFailed(_)
            | Self::ProxyClosed => Kind::Network,
            Self::Bind { .. }
            | Self::ProxyWantsLogin
            | Self::ProxyLoginRefused
            | Self::ProxyForbids
            | Self::BadLogin(_) => Kind::Misuse,
            Self::Io { .. } => Kind::Local,
            Self::ProxyUnable(_) => Kind::PeerIncompatible,
            Self::ProxyMisbehaved(_) => Kind::PeerMisbehaved,
        }
    }

    /// Whether trying again helps.
    pub fn retry(&self) -> Retry {
        match self {
            Self::Refused { .. }
            | Self::HostUnreachable { .. }
            | Self::NetworkUnreachable { .. }
            | Self::TimedOut { .. }
            | Self::Reset { .. }
            | Self::Io { .. }
            // An address may come back with its interface.
            | Self::Bind { .. }
            | Self::ProxyFailed(_)
            | Self::ProxyClosed => Retry::Later,
            Self::ProxyWantsLogin
            | Self::ProxyLoginRefused
            | Self::ProxyForbids
            | Self::ProxyUnable(_)
            | Self::ProxyMisbehaved(_)
            | Self::BadLogin(_) => Retry::Never,
        }
    }
}
