//! Where the program meets the transport.

use crate::options::{Mirror, Websocket};
use qnet_pt_ipc::env::Settings;
use qnet_pt_ipc::socks::Reply;
use qnet_pt_ipc::upstream as env;
use qnet_transport::Stream;
use qnet_transport::admission::Admission;
use qnet_transport::bridge::{BridgeConfig, Listener, WebsocketBridgeConfig};
use qnet_transport::client::{self, DialerConfig};
use qnet_transport::connect::{Connect, ConnectError, Login, LoginError, Upstream};
use qnet_transport::tls::{HandshakeError, Roots};
use qnet_wire::bridge_line::BridgeLine;
use qnet_wire::error::{Retry, chain};
use qnet_wire::key::IdentityKey;
use std::io;
use std::net::SocketAddr;

/// What dials bridges.
pub(crate) struct Dialer(client::Dialer);

/// What dials as the parent wants it; an error is one line that says what to do.
pub(crate) fn dialer(upstream: Option<&env::Upstream>, settings: &Settings) -> Result<Dialer, String> {
    let connect = Connect {
        upstream: upstream.map(proxy).transpose().map_err(|error| chain(&error))?.unwrap_or_default(),
        bind_v4: settings.bind_v4,
        bind_v6: settings.bind_v6,
    };
    let roots = roots()?;
    let config = DialerConfig { connect, ..DialerConfig::new(roots) };
    Ok(Dialer(client::Dialer::new(config)))
}

/// Whose certificates are believed; an error is one line that says what to do.
pub(crate) fn roots() -> Result<Roots, String> {
    let roots =
        Roots::load().map_err(|error| format!("the certificates to check sites by: {}", chain(&error)))?;
    tracing::debug!("{} root certificates", roots.count());
    Ok(roots)
}

/// The upstream proxy in the transport's words.
fn proxy(upstream: &env::Upstream) -> Result<Upstream, LoginError> {
    let with = |login: &Option<env::Login>| {
        login.as_ref().map(|login| Login::new(login.user.as_str(), login.password.as_str())).transpose()
    };
    Ok(match upstream {
        env::Upstream::Socks5 { address, login } => Upstream::Socks5 { addr: *address, login: with(login)? },
        env::Upstream::Socks4a { address, user } => Upstream::Socks4a { addr: *address, user: user.clone() },
        env::Upstream::Http { address, login } => Upstream::Http { addr: *address, login: with(login)? },
    })
}

impl Dialer {
    /// A tunnel to the bridge with one stream in it. The tunnel lives as long as the stream.
    pub(crate) async fn dial(&self, line: &BridgeLine) -> Result<Stream, DialError> {
        Ok(self.0.dial(line).await?.open()?)
    }
}

/// Why there is no stream to the bridge.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    #[error(transparent)]
    Dial(#[from] client::DialError),
    #[error(transparent)]
    Open(#[from] client::OpenStreamError),
}

impl DialError {
    /// The SOCKS failure; each kind of cause has its own.
    pub(crate) fn reply(&self) -> Reply {
        match self {
            Self::Dial(client::DialError::Connect(error)) => connect_reply(error),
            Self::Dial(client::DialError::Handshake(error)) => handshake_reply(error),
            Self::Dial(client::DialError::TimedOut) => Reply::TtlExpired,
            // Something answers there, and it is not the bridge of this line.
            Self::Dial(client::DialError::Tunnel(_) | client::DialError::Websocket(_)) => {
                Reply::HostUnreachable
            }
            Self::Dial(_) | Self::Open(_) => Reply::GeneralFailure,
        }
    }

    pub(crate) fn retry(&self) -> Retry {
        match self {
            Self::Dial(error) => error.retry(),
            Self::Open(error) => error.retry(),
        }
    }
}

fn connect_reply(error: &ConnectError) -> Reply {
    match error {
        ConnectError::Refused { .. } | ConnectError::Reset { .. } => Reply::ConnectionRefused,
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

fn handshake_reply(error: &HandshakeError) -> Reply {
    match error {
        // Our own rules forbid to go on.
        HandshakeError::Certificate { .. } => Reply::NotAllowed,
        // What a host whose server is down does.
        HandshakeError::Closed { .. } | HandshakeError::Io(_) => Reply::ConnectionRefused,
        HandshakeError::OldTls
        | HandshakeError::HelloRetry
        | HandshakeError::NoHttp2(_)
        | HandshakeError::Alert { .. }
        | HandshakeError::TooLong
        | HandshakeError::Malformed(_)
        | HandshakeError::EchAccepted
        | HandshakeError::WrongOffer { .. }
        | HandshakeError::Library(_)
        | HandshakeError::Unexpected(_) => Reply::GeneralFailure,
    }
}

/// A bridge that listens on `bind` before `decoy`.
pub(crate) fn listen(
    bind: SocketAddr,
    identity: IdentityKey,
    decoy: SocketAddr,
    options: &Mirror,
    admission: Admission,
    settings: &Settings,
) -> Result<Listener, String> {
    let config = BridgeConfig {
        listen: bind,
        identity,
        decoy,
        names: options.names.clone(),
        admission,
        connect: directly(settings),
        profile: qnet_transport::Profile::default(),
        sessions: qnet_transport::bridge::Sessions::default(),
    };
    Listener::bind(config).map_err(|error| listen_message(bind, &error))
}

/// A bridge that listens on `bind` behind a web server.
pub(crate) fn listen_websocket(
    bind: SocketAddr,
    identity: IdentityKey,
    options: &Websocket,
    settings: &Settings,
) -> Result<Listener, String> {
    let config = WebsocketBridgeConfig {
        listen: bind,
        identity,
        url: options.url.clone(),
        site: Some(options.site),
        forwarded: false,
        connect: directly(settings),
        profile: qnet_transport::Profile::default(),
        sessions: qnet_transport::bridge::Sessions::default(),
    };
    Listener::bind_websocket(config).map_err(|error| listen_message(bind, &error))
}

/// From the addresses that the parent wants, through no proxy.
fn directly(settings: &Settings) -> Connect {
    Connect { upstream: Upstream::Direct, bind_v4: settings.bind_v4, bind_v6: settings.bind_v6 }
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
