//! Ports of this machine's own, for very many connections to one address on loopback.
//!
//! A connection is told from others by its two addresses and ports, and three of these four do not change where a bridge connects to
//! its decoy. So it can have as many as the system has ports to choose from: 28,232 by Linux's default
//! (`net.ipv4.ip_local_port_range`), which fewer clients than fit into memory need. On IPv4 loopback there are further addresses to
//! connect from: 127.0.0.0/8 is all this machine's (RFC 6890).
#![forbid(unsafe_code)]

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::net::{TcpSocket, TcpStream};

/// Addresses to connect from, at most: 451,712 ports by Linux's default, more than a bridge takes connections. Other systems have one
/// address on loopback, or bind only together with a port.
const MOST: usize = if cfg!(target_os = "linux") { 16 } else { 1 };

/// The one that had a port last. To look for a port where few are left takes the kernel long.
static LAST: AtomicUsize = AtomicUsize::new(0);

/// Connects to `to`, from an address that the system chooses. Where that has no free port left, and `to` is on IPv4 loopback, from
/// 127.0.0.2 to 127.0.0.16. `prepare` sets the socket's options.
///
/// # Errors
/// The system's: of the last address, where none has a free port.
pub async fn connect_from_any(
    to: SocketAddr,
    prepare: impl Fn(&TcpSocket) -> io::Result<()>,
) -> io::Result<TcpStream> {
    if !matches!(to.ip(), IpAddr::V4(ip) if ip.is_loopback()) {
        return connect(to, None, &prepare).await;
    }
    connect_by(to, &LAST, MOST, &prepare).await
}

/// Tries the sources in turns, beginning with the one that `last` names.
async fn connect_by(
    to: SocketAddr,
    last: &AtomicUsize,
    most: usize,
    prepare: &impl Fn(&TcpSocket) -> io::Result<()>,
) -> io::Result<TcpStream> {
    let first = last.load(Ordering::Relaxed);
    let mut outcome = connect(to, source(first), prepare).await;
    for number in (first + 1..first + most).map(|number| number % most) {
        if !outcome.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::AddrNotAvailable) {
            break;
        }
        outcome = connect(to, source(number), prepare).await;
        if outcome.is_ok() {
            last.store(number, Ordering::Relaxed);
        }
    }
    outcome
}

/// The first is the system's own choice.
fn source(number: usize) -> Option<Ipv4Addr> {
    let last = u8::try_from(number + 1).ok().filter(|_| number > 0)?;
    Some(Ipv4Addr::new(127, 0, 0, last))
}

async fn connect(
    to: SocketAddr,
    source: Option<Ipv4Addr>,
    prepare: &impl Fn(&TcpSocket) -> io::Result<()>,
) -> io::Result<TcpStream> {
    let socket = if to.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(source) = source {
        bind(&socket, source)?;
    }
    prepare(&socket)?;
    socket.connect(to).await
}

/// The port is chosen when it connects (ip(7), `IP_BIND_ADDRESS_NO_PORT`). One that is chosen before is lost to connections from every
/// other address, and so to other programs.
#[cfg(target_os = "linux")]
fn bind(socket: &TcpSocket, source: Ipv4Addr) -> io::Result<()> {
    use nix::sys::socket::{setsockopt, sockopt};

    setsockopt(socket, sockopt::IpBindAddressNoPort, &true)?;
    socket.bind((source, 0).into())
}

#[cfg(not(target_os = "linux"))]
fn bind(socket: &TcpSocket, source: Ipv4Addr) -> io::Result<()> {
    socket.bind((source, 0).into())
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use tokio::net::TcpListener;

    use super::*;

    /// The kernel's errors for want of ports cannot be had here without taking thousands: the first call's socket is prepared to fail
    /// as they do.
    #[tokio::test]
    async fn another_source_is_taken_where_the_first_has_no_port() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = listener.local_addr().unwrap();
        let last = AtomicUsize::new(0);
        let without = |exhausted: HashSet<IpAddr>| {
            move |socket: &TcpSocket| match socket.local_addr() {
                Ok(local) if exhausted.contains(&local.ip()) => Err(io::ErrorKind::AddrNotAvailable.into()),
                _ => Ok(()),
            }
        };
        let ips = |all: &[&str]| all.iter().map(|ip| ip.parse().unwrap()).collect::<HashSet<IpAddr>>();
        let free = connect_by(to, &last, 4, &without(ips(&[]))).await.unwrap();
        assert_eq!(free.local_addr().unwrap().ip().to_string(), "127.0.0.1");
        // The system's choice shows as the unspecified address until it connects.
        let next = connect_by(to, &last, 4, &without(ips(&["0.0.0.0", "127.0.0.2"]))).await.unwrap();
        assert_eq!(next.local_addr().unwrap().ip().to_string(), "127.0.0.3");
        let again = connect_by(to, &last, 4, &without(ips(&["0.0.0.0", "127.0.0.2"]))).await.unwrap();
        assert_eq!(again.local_addr().unwrap().ip().to_string(), "127.0.0.3");
        let around = connect_by(to, &last, 4, &without(ips(&["127.0.0.3", "127.0.0.4"]))).await.unwrap();
        assert_eq!(around.local_addr().unwrap().ip().to_string(), "127.0.0.1");
        let none = ips(&["0.0.0.0", "127.0.0.2", "127.0.0.3", "127.0.0.4"]);
        let error = connect_by(to, &last, 4, &without(none)).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrNotAvailable);
    }

    #[tokio::test]
    async fn another_failure_is_told_at_once() {
        let closed = {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            listener.local_addr().unwrap()
        };
        let (last, tried) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let count = |_: &TcpSocket| {
            tried.fetch_add(1, Ordering::Relaxed);
            Ok(())
        };
        let error = connect_by(closed, &last, 4, &count).await.unwrap_err();
        assert_eq!((error.kind(), tried.into_inner()), (io::ErrorKind::ConnectionRefused, 1));
    }
}
