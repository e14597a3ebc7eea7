//! What pages are read through. QNet's ends are of this process: a tunnel carries all of a browser's connections as streams, as
//! tor and a proxy would have it, where a plugin makes a tunnel for each connection.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use qnet_tests::support::decoy::{Decoy, NAME};
use qnet_tests::support::front::{self, Front};
use qnet_tests::support::link::Link;
use qnet_tests::support::process::free_address;
use qnet_tests::support::tunnel::{dialer, dialer_with, runtime};
use qnet_transport::Shape;
use qnet_transport::admission::Admission;
use qnet_transport::bridge::{BridgeConfig, Listener, Sessions, WebsocketBridgeConfig};
use qnet_transport::client::{Dialer, Tunnel};
use qnet_transport::connect::Connect;
use qnet_wire::bridge_line::BridgeLine;
use qnet_wire::key::IdentityKey;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::OnceCell;

use super::visits::DELAY;
use crate::transport::{Kind, Transport};

/// Ends when dropped.
pub(super) enum Road {
    Transport(Transport),
    Qnet { entry: SocketAddr, link: Link, runtime: Option<Runtime> },
}

impl Road {
    /// Another transport than QNet.
    pub(super) fn other(kind: Kind, decoy: &Decoy, qnet_pt: &Path, sites: SocketAddr) -> Result<Self> {
        Transport::start(kind, decoy, qnet_pt, sites, DELAY).map(Self::Transport)
    }

    /// QNet before `decoy`, the line naming `profile` if there is one. The first connection makes the tunnel, or it is there before.
    pub(super) fn qnet(
        decoy: &Decoy,
        profile: Option<Shape>,
        sites: SocketAddr,
        ahead: bool,
    ) -> Result<Self> {
        let runtime = runtime()?;
        let entered = runtime.enter();
        let identity = IdentityKey::generate(&mut ChaCha20Rng::from_seed([7; 32]));
        let key = identity.public();
        let listener = Listener::bind(BridgeConfig {
            listen: "127.0.0.1:0".parse()?,
            identity,
            decoy: decoy.address(),
            names: vec![decoy.name().parse()?],
            admission: Admission::Open,
            connect: Connect::default(),
            profile: qnet_transport::Profile::default(),
            sessions: Sessions::default(),
        })?;
        let link = Link::watched(listener.local_addr(), DELAY)?;
        let profile = profile.map(|shape| format!(" profile={}", shape.profile().name)).unwrap_or_default();
        let line = format!("qnet {} key={key} sni={}{profile}", link.address(), decoy.name()).parse()?;
        tokio::spawn(serve(listener, sites));
        drop(entered);
        Self::by(link, line, dialer(decoy)?, runtime, ahead)
    }

    /// QNet behind a web server, likewise.
    pub(super) fn websocket(behind: &Behind, ahead: bool) -> Result<Self> {
        let link = Link::watched(behind.front.address(), DELAY)?;
        let line = BridgeLine { address: link.address(), ..behind.line.clone() };
        Self::by(link, line, dialer_with(&behind.front.certificates().ca)?, runtime()?, ahead)
    }

    fn by(link: Link, line: BridgeLine, dialer: Dialer, runtime: Runtime, ahead: bool) -> Result<Self> {
        let entered = runtime.enter();
        let tunnel = Arc::new(OnceCell::new());
        if ahead {
            runtime.block_on(made(&tunnel, &dialer, &line)).context("no tunnel")?;
        }
        let door = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
        let entry = door.local_addr()?;
        tokio::spawn(async move {
            while let Ok((mut load, _)) = door.accept().await {
                let (tunnel, dialer, line) = (Arc::clone(&tunnel), dialer.clone(), line.clone());
                tokio::spawn(async move {
                    load.set_nodelay(true)?;
                    let mut stream = made(&tunnel, &dialer, &line).await?.open()?;
                    copy_bidirectional(&mut load, &mut stream).await.map_err(anyhow::Error::from)
                });
            }
        });
        drop(entered);
        Ok(Self::Qnet { entry, link, runtime: Some(runtime) })
    }

    /// Where a browser connects.
    pub(super) fn entry(&self) -> SocketAddr {
        match self {
            Self::Transport(transport) => transport.entry(),
            Self::Qnet { entry, .. } => *entry,
        }
    }

    /// The censor's wire.
    pub(super) fn link(&self) -> &Link {
        match self {
            Self::Transport(transport) => transport.link(),
            Self::Qnet { link, .. } => link,
        }
    }
}

impl Drop for Road {
    fn drop(&mut self) {
        if let Self::Qnet { runtime, .. } = self
            && let Some(runtime) = runtime.take()
        {
            // Nobody waits for connections that have lost their other end.
            runtime.shutdown_background();
        }
    }
}

/// A bridge behind a web server, for all clients. Ends when dropped.
pub(super) struct Behind {
    front: Front,
    line: BridgeLine,
    runtime: Option<Runtime>,
}

/// Where its websocket is.
const PATH: &str = "/a7Ge93kd";

/// How long it may be silent: longer than a page may take.
const IDLE: Duration = Duration::from_secs(600);

impl Behind {
    /// Starts it; what comes through goes to `sites`.
    pub(super) fn start(sites: SocketAddr) -> Result<Self> {
        let runtime = runtime()?;
        let entered = runtime.enter();
        let identity = IdentityKey::generate(&mut ChaCha20Rng::from_seed([7; 32]));
        let (key, listen) = (identity.public(), free_address()?);
        let options = front::Options { idle: IDLE, ..front::Options::new(PATH, listen) };
        let front = Front::start(front::Server::Nginx, options)?;
        let url = format!("https://{NAME}{PATH}");
        let listener = Listener::bind_websocket(WebsocketBridgeConfig {
            listen,
            identity,
            url: url.parse()?,
            site: Some(front.site()),
            forwarded: false,
            connect: Connect::default(),
            profile: qnet_transport::Profile::default(),
            sessions: Sessions::default(),
        })?;
        tokio::spawn(serve(listener, sites));
        let line = format!("qnet {} key={key} url={url}", front.address()).parse()?;
        drop(entered);
        Ok(Self { front, line, runtime: Some(runtime) })
    }
}

impl Drop for Behind {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// The one tunnel, made by whoever is first.
async fn made<'a>(tunnel: &'a OnceCell<Tunnel>, dialer: &Dialer, line: &BridgeLine) -> Result<&'a Tunnel> {
    tunnel.get_or_try_init(|| async { Ok(dialer.dial(line).await?) }).await
}

async fn serve(mut listener: Listener, sites: SocketAddr) {
    while let Some(mut incoming) = listener.accept().await {
        tokio::spawn(async move {
            let mut site = TcpStream::connect(sites).await?;
            site.set_nodelay(true)?;
            copy_bidirectional(&mut incoming.stream, &mut site).await
        });
    }
}
