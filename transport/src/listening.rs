//! A socket that listens, before a bridge stands behind it: bound here, or inherited from who bound it; and whose the connections
//! are that it takes, where a balancer stands before it.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use qnet_wire::proxy::{self, MAX_HEADER, Progress, Source};
use socket2::SockRef;
use tokio::{
    io::AsyncReadExt as _,
    net::{TcpListener, TcpSocket, TcpStream},
    time::timeout,
};

/// Connections the kernel completes ahead of us.
const LISTEN_BACKLOG: u32 = 1_024;
/// How long a balancer may take to say whose a connection is. It is the first that it sends, from near by.
const HEADER_LIMIT: Duration = Duration::from_secs(5);

/// A listening socket.
pub struct Listening {
    tcp: TcpListener,
    local: SocketAddr,
    balancers: Balancers,
}

impl Listening {
    /// Binds; port 0 takes a free one.
    ///
    /// # Errors
    /// The address cannot be listened on.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        Self::new(socket.listen(LISTEN_BACKLOG)?)
    }

    /// Takes over a socket that listens already.
    ///
    /// # Errors
    /// It is none, or the system does not let it be used without waiting.
    pub fn inherited(tcp: std::net::TcpListener) -> io::Result<Self> {
        tcp.set_nonblocking(true)?;
        Self::new(TcpListener::from_std(tcp)?)
    }

    fn new(tcp: TcpListener) -> io::Result<Self> {
        Ok(Self { local: tcp.local_addr()?, tcp, balancers: Balancers::default() })
    }

    /// Takes connections from these alone, each of which begins with a PROXY header (version 2) that says whose it is. With none,
    /// connections are those of who made them.
    #[must_use]
    pub fn behind(self, balancers: &[IpAddr]) -> Self {
        let addresses = balancers.iter().map(IpAddr::to_canonical).collect();
        Self { balancers: Balancers { addresses, ..Balancers::default() }, ..self }
    }

    /// The address that was bound.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// The same socket once more: connections wait at it for as long as one of both is held.
    ///
    /// # Errors
    /// There is no file descriptor left.
    pub fn share(&self) -> io::Result<std::net::TcpListener> {
        Ok(SockRef::from(&self.tcp).try_clone()?.into())
    }

    pub(crate) fn split(self) -> (TcpListener, Balancers) {
        (self.tcp, self.balancers)
    }
}

/// Who may say whose a connection is.
#[derive(Default)]
pub(crate) struct Balancers {
    addresses: Vec<IpAddr>,
    told: [AtomicBool; 2],
}

/// What is wrong with a connection that is not a balancer's as agreed.
#[derive(Clone, Copy)]
enum Fault {
    Stranger,
    Header,
}

impl Balancers {
    /// The client whose connection `tcp` from `peer` is, with nothing read of what the client sent; `None` where that is not to be
    /// learned, and the connection is of no use.
    pub(crate) async fn client(&self, tcp: &mut TcpStream, peer: SocketAddr) -> Option<SocketAddr> {
        if self.addresses.is_empty() {
            return Some(peer);
        }
        if !self.addresses.contains(&peer.ip().to_canonical()) {
            self.tell(Fault::Stranger, "one came from an address that is not among them");
            return None;
        }
        match timeout(HEADER_LIMIT, header(tcp)).await {
            Ok(Ok(Source::Client(client))) => Some(client),
            // It looks whether somebody listens, as a rule, and says nothing: that is no connection.
            Ok(Ok(Source::Balancer)) => match timeout(HEADER_LIMIT, tcp.peek(&mut [0])).await {
                Ok(Ok(1..)) => Some(peer),
                _ => None,
            },
            Ok(Err(error)) => {
                // One that looks without a header ends at once.
                if error.kind() == io::ErrorKind::InvalidData {
                    self.tell(Fault::Header, &error.to_string());
                }
                None
            }
            Err(_) => {
                self.tell(Fault::Header, "none came in time");
                None
            }
        }
    }

    /// Once for each fault: whoever reaches the port could fill the log.
    fn tell(&self, fault: Fault, why: &str) {
        if !self.told[fault as usize].swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "connections that do not come from the balancers in proxy-protocol, each with a PROXY header of version 2, are ended: \
                 {why} (said once)"
            );
        }
    }
}

async fn header(tcp: &mut TcpStream) -> io::Result<Source> {
    let mut bytes = [0; MAX_HEADER];
    let mut taken = 0;
    loop {
        let invalid = |error| io::Error::new(io::ErrorKind::InvalidData, error);
        match proxy::read(bytes.get(..taken).unwrap_or_default()).map_err(invalid)? {
            Progress::Whole(source) => return Ok(source),
            Progress::Missing(count) => {
                let room = bytes.get_mut(taken..taken + count).ok_or(io::ErrorKind::InvalidData)?;
                // As it comes: what is no header is known by its first bytes, and need not be waited for.
                taken += match tcp.read(room).await? {
                    0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                    count => count,
                };
            }
        }
    }
}

#[cfg(test)]
mod tests;
