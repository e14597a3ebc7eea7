//! Where the program meets the transport. A stand-in for now: plain TCP, no protection of any kind.

use crate::options::Options;
use crate::refusal::chain;
use qnet_pt_ipc::env::Settings;
use qnet_pt_ipc::socks::Reply;
use qnet_pt_ipc::upstream as env;
use qnet_transport::connect::{Connect, ConnectError, Login, LoginError, Upstream};
use qnet_transport::tls::Roots;
use qnet_wire::bridge_line::BridgeLine;
use qnet_wire::error::Retry;
use qnet_wire::key::IdentityKey;
use std::io;
use std::net::SocketAddr;
use tokio::net::{TcpListener, TcpStream};

pub(crate) type Stream = TcpStream;

pub(crate) struct Dialer {
    connect: Connect,
}

/// What dials as the parent wants it; an error is one line that says what to do.
pub(crate) fn dialer(upstream: Option<&env::Upstream>, settings: &Settings) -> Result<Dialer, String> {
    let connect = Connect {
        upstream: upstream.map(proxy).transpose().map_err(|error| chain(&error))?.unwrap_or_default(),
        bind_v4: settings.bind_v4,
        bind_v6: settings.bind_v6,
    };
    let roots =
        Roots::load().map_err(|error| format!("the certificates to check sites by: {}", chain(&error)))?;
    tracing::debug!("{} root certificates", roots.count());
    Ok(Dialer { connect })
}

/// The upstream proxy in the transport's words.
fn proxy(upstream: &env::Upstream) -> Result<Upstream, LoginError> {
    let with = |login: &Option<env::Login>| {
        login.as_ref().map(|login| Login::new(login.user.as_str(), login.password.as_str())).transpose()
    };
    Ok(match upstream {
        env::Upstream::Socks5 { address, login } => Upstream::Socks5 { addr: *address, login: with(login)? },
        env::Upstream::Socks4a { address, user } => {
            Upstream::Socks4a { addr: *address, user: user.as_deref().map(|user| user.to_owned()) }
        }
        env::Upstream::Http { address, login } => Upstream::Http { addr: *address, login: with(login)? },
    })
}

impl Dialer {
    pub(crate) async fn dial(&self, line: &BridgeLine) -> Result<Stream, DialError> {
        Ok(self.connect.connect(line.address).await?)
    }
}

#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub(crate) struct DialError(#[from] ConnectError);

impl DialError {
    /// The SOCKS failure; each kind of cause has its own.
    pub(crate) fn reply(&self) -> Reply {
        match &self.0 {
            ConnectError::Refused { .. } => Reply::ConnectionRefused,
            ConnectError::NetworkUnreachable { .. } => Reply::NetworkUnreachable,
            ConnectError::HostUnreachable { .. } | ConnectError::ProxyFailed(_) => Reply::HostUnreachable,
            ConnectError::TimedOut { .. } => Reply::TtlExpired,
            ConnectError::ProxyWantsLogin | ConnectError::ProxyLoginRefused | ConnectError::ProxyForbids => {
                Reply::NotAllowed
            }
            ConnectError::Bind { .. }
            | ConnectError::Io { .. }
            | ConnectError::ProxyUnable(_)
            | ConnectError::ProxyMisbehaved(_)
            | ConnectError::ProxyClosed
            | ConnectError::BadLogin(_) => Reply::GeneralFailure,
        }
    }

    pub(crate) fn retry(&self) -> Retry {
        self.0.retry()
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
