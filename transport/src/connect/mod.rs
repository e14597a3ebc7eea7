//! The TCP connection to a bridge: direct, or through the upstream proxy that this machine has to use.
//!
//! With a proxy set nothing else is ever dialled, and no name is ever looked up: bridges and proxies are given by
//! address. Each way to fail has words of its own, because "it does not connect" is what users can do least with.
#![forbid(unsafe_code)]

mod error;
mod http;
mod login;
mod ports;
mod socks;
#[cfg(test)]
mod tests;

use std::fmt;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;
use zeroize::Zeroizing;

pub use error::{ConnectError, Hop, ProxyReply};
pub use login::{Login, LoginError};
pub use ports::connect_from_any;

/// How long [`Connect::connect`] waits. Linux gives up on a silent address after two minutes; nobody waits that long
/// for a browser.
pub const TIMEOUT: Duration = Duration::from_secs(30);
/// TCP keepalive of Chrome's sockets, both the idle time and the interval (Chromium 156, read from the kernel's timers
/// with `ss -o` on 2026-11-21): an idle carrier's probes are there to see.
const KEEPALIVE: Duration = Duration::from_secs(45);

/// What carries the connection.
#[derive(Clone, PartialEq, Eq, Default)]
pub enum Upstream {
    /// Nothing between.
    #[default]
    Direct,
    /// A SOCKS5 proxy (RFC 1928), with a login (RFC 1929) where it wants one.
    Socks5 {
        /// The proxy's address.
        addr: SocketAddr,
        /// Shown only to a proxy that chooses it.
        login: Option<Login>,
    },
    /// A SOCKS4 proxy; IPv6 targets go to it as SOCKS4a names.
    Socks4a {
        /// The proxy's address.
        addr: SocketAddr,
        /// The user id that the protocol has a field for.
        user: Option<Zeroizing<String>>,
    },
    /// An HTTP proxy, by the CONNECT method (RFC 9110, section 9.3.6), with Basic authentication.
    Http {
        /// The proxy's address.
        addr: SocketAddr,
        /// Sent at once: most proxies that want one close after refusing.
        login: Option<Login>,
    },
}

impl Upstream {
    /// The proxy's address, if there is a proxy.
    pub fn proxy(&self) -> Option<SocketAddr> {
        match self {
            Self::Direct => None,
            Self::Socks5 { addr, .. } | Self::Socks4a { addr, .. } | Self::Http { addr, .. } => Some(*addr),
        }
    }
}

impl fmt::Debug for Upstream {
    /// Without the login, and without a SOCKS4 user id, which is often used as one.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Direct => f.write_str("Direct"),
            Self::Socks5 { addr, .. } => write!(f, "Socks5({addr})"),
            Self::Socks4a { addr, .. } => write!(f, "Socks4a({addr})"),
            Self::Http { addr, .. } => write!(f, "Http({addr})"),
        }
    }
}

/// How connections to bridges are made.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Connect {
    /// What carries them.
    pub upstream: Upstream,
    /// Source address for IPv4, not used towards loopback.
    pub bind_v4: Option<Ipv4Addr>,
    /// Source address for IPv6, not used towards loopback.
    pub bind_v6: Option<Ipv6Addr>,
}

impl Connect {
    /// Connects to `to`, in at most [`TIMEOUT`].
    ///
    /// # Errors
    /// See [`ConnectError`].
    pub async fn connect(&self, to: SocketAddr) -> Result<TcpStream, ConnectError> {
        self.connect_within(to, TIMEOUT).await
    }

    /// Connects to `to`, the proxy's part included in at most `limit`. Dropping the future closes what was begun.
    ///
    /// # Errors
    /// See [`ConnectError`].
    pub async fn connect_within(&self, to: SocketAddr, limit: Duration) -> Result<TcpStream, ConnectError> {
        let Some(proxy) = self.upstream.proxy() else {
            return self.connect_directly(to, Hop::Bridge, limit).await;
        };
        let deadline = tokio::time::Instant::now() + limit;
        let mut tcp = within(limit, Hop::Proxy, self.dial(proxy, Hop::Proxy)).await?;
        let left = deadline.saturating_duration_since(tokio::time::Instant::now());
        // The proxy answers only once it has reached the bridge: silence now is most likely the bridge's.
        let talk = async {
            match &self.upstream {
                Upstream::Direct => Ok(()),
                Upstream::Socks5 { login, .. } => socks::connect5(&mut tcp, login.as_ref(), to).await,
                Upstream::Socks4a { user, .. } => {
                    socks::connect4(&mut tcp, user.as_ref().map_or("", |user| user), to).await
                }
                Upstream::Http { login, .. } => http::connect(&mut tcp, login.as_ref(), to).await,
            }
        };
        within(left, Hop::BeyondProxy, talk).await?;
        Ok(tcp)
    }

    /// Connects without a proxy to what errors call `hop`.
    pub(crate) async fn connect_directly(
        &self,
        to: SocketAddr,
        hop: Hop,
        limit: Duration,
    ) -> Result<TcpStream, ConnectError> {
        within(limit, hop, self.dial(to, hop)).await
    }

    /// A plain TCP connection from the address that the configuration wants, with Chrome's socket options.
    async fn dial(&self, to: SocketAddr, hop: Hop) -> Result<TcpStream, ConnectError> {
        let options = |socket: &TcpSocket| -> io::Result<()> {
            socket.set_nodelay(true)?;
            let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE);
            SockRef::from(socket).set_tcp_keepalive(&keepalive)
        };
        let tcp = match self.source(to.ip()) {
            None => connect_from_any(to, options).await,
            Some(source) => {
                let socket = if to.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
                let socket = socket.map_err(|error| ConnectError::Io { hop, error })?;
                socket
                    .bind(SocketAddr::new(source, 0))
                    .map_err(|error| ConnectError::Bind { address: source.into(), error })?;
                options(&socket).map_err(|error| ConnectError::Io { hop, error })?;
                socket.connect(to).await
            }
        };
        let tcp = tcp.map_err(|error| ConnectError::dialling(hop, error))?;
        // A port of this machine's own ephemeral range, free until this very call, can connect to itself.
        if tcp.local_addr().ok() == Some(to) {
            return Err(ConnectError::Refused { hop });
        }
        Ok(tcp)
    }

    /// From which address `to` is reached, where the configuration says.
    pub(crate) fn source(&self, to: IpAddr) -> Option<IpAddr> {
        match to.to_canonical() {
            address if address.is_loopback() => None,
            IpAddr::V4(_) if to.is_ipv4() => self.bind_v4.map(IpAddr::V4),
            // An IPv4 address in IPv6's clothes is dialled from an IPv6 socket.
            IpAddr::V4(_) => self.bind_v4.map(|source| IpAddr::V6(source.to_ipv6_mapped())),
            IpAddr::V6(_) => self.bind_v6.map(IpAddr::V6),
        }
    }
}

async fn within<T>(
    limit: Duration,
    hop: Hop,
    work: impl Future<Output = Result<T, ConnectError>>,
) -> Result<T, ConnectError> {
    timeout(limit, work).await.unwrap_or(Err(ConnectError::TimedOut { hop }))
}
