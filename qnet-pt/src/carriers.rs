//! Where the program meets the transport. A stand-in for now: plain TCP, no protection of any kind.

use crate::options::Options;
use qnet_pt_ipc::env::Settings;
use qnet_pt_ipc::socks::Reply;
use qnet_pt_ipc::upstream::Upstream;
use qnet_wire::bridge_line::BridgeLine;
use qnet_wire::error::Retry;
use qnet_wire::key::IdentityKey;
use std::io;
use std::net::SocketAddr;
use tokio::net::{TcpListener, TcpStream};

pub(crate) type Stream = TcpStream;

pub(crate) struct Dialer;

pub(crate) fn dialer(_upstream: Option<&Upstream>, _settings: &Settings) -> Result<Dialer, String> {
    Ok(Dialer)
}

impl Dialer {
    pub(crate) async fn dial(&self, line: &BridgeLine) -> Result<Stream, DialError> {
        Ok(TcpStream::connect(line.address).await?)
    }
}

#[derive(Debug, thiserror::Error)]
#[error("cannot connect to the bridge")]
pub(crate) struct DialError(#[from] io::Error);

impl DialError {
    pub(crate) fn reply(&self) -> Reply {
        match self.0.kind() {
            io::ErrorKind::ConnectionRefused => Reply::ConnectionRefused,
            io::ErrorKind::HostUnreachable => Reply::HostUnreachable,
            io::ErrorKind::NetworkUnreachable => Reply::NetworkUnreachable,
            io::ErrorKind::TimedOut => Reply::TtlExpired,
            _ => Reply::GeneralFailure,
        }
    }

    pub(crate) fn retry(&self) -> Retry {
        Retry::Later
    }
}

pub(crate) struct Listener(TcpListener);

pub(crate) struct Incoming {
    pub(crate) stream: Stream,
    pub(crate) client: SocketAddr,
}

pub(crate) async fn listen(
    bind: SocketAddr,
    _identity: IdentityKey,
    _decoy: SocketAddr,
    _options: &Options,
    _settings: &Settings,
) -> Result<Listener, String> {
    TcpListener::bind(bind).await.map(Listener).map_err(|error| listen_message(bind, &error))
}

/// Why the bridge cannot listen, and what to do.
fn listen_message(bind: SocketAddr, error: &io::Error) -> String {
    let advice = match error.kind() {
        io::ErrorKind::AddrInUse => {
            "another program listens there; stop it, or set another ServerTransportListenAddr"
        }
        io::ErrorKind::PermissionDenied => {
            "ports under 1024 need a capability; give it with: setcap cap_net_bind_service=+ep on this program"
        }
        io::ErrorKind::AddrNotAvailable => {
            "it is not an address of this machine; see ServerTransportListenAddr in torrc"
        }
        _ => "see ServerTransportListenAddr in torrc",
    };
    format!("cannot listen on {bind}: {error}; {advice}")
}

impl Listener {
    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    pub(crate) async fn accept(&mut self) -> Incoming {
        loop {
            if let Ok((stream, client)) = self.0.accept().await {
                return Incoming { stream, client };
            }
        }
    }
}
