//! What carries a load past the censor: plain TLS, QNet, obfs4, and a TLS tunnel as a control.
//!
//! ```text
//! load ──▶ Transport::entry() ─[ client ]─▶ the censor's wire ─[ server ]─▶ target
//! ```

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use qnet_bench::plugin::{self, Method, Plugin};
use qnet_bench::socks;
use qnet_tests::support::decoy::{Decoy, NAME};
use qnet_tests::support::front::{self, Front};
use qnet_tests::support::link::Link;
use qnet_tests::support::process::free_address;
use qnet_tests::support::site;
use qnet_tests::support::talk::TalkServer;
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use crate::programs::{Programs, Proxy};
use crate::tunnel::Tunnel;

/// A port that the kernel chooses.
const LOOPBACK: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// Which transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// None: the load's own TLS on the wire.
    Plain,
    /// QNet before a decoy.
    Qnet,
    /// QNet under its websocket cover, behind a web server.
    QnetWebsocket,
    /// Debian's obfs4proxy.
    Obfs4,
    /// A TLS connection to a server that passes on what is inside, as Trojan and its kin do. It hides nothing of sizes
    /// and times: a control that detectors of nested TLS must flag.
    Tunnel,
}

/// A site whose pages talk over a websocket, and the place behind it for who answers: such a server as any site has, or a bridge.
#[derive(Clone, Debug)]
pub struct TalkingSite {
    /// The web server in front, which may have other addresses besides this one.
    pub front: Arc<Front>,
    address: SocketAddr,
    bridge: SocketAddr,
}

/// How much its pages say in one visit.
const MESSAGES: usize = 20;

/// How long a websocket may be silent: longer than a bridge listens to a stranger, which the front would else cut short.
const IDLE: Duration = Duration::from_secs(120);

impl TalkingSite {
    /// Where its websocket is.
    pub const PATH: &str = "/a7Ge93kd";

    /// Starts it; nobody answers yet.
    ///
    /// # Errors
    /// A web server's package is not installed, or it does not listen.
    pub fn start(server: front::Server) -> Result<Self> {
        let [site] = Self::several(server, [Self::PATH])?;
        Ok(site)
    }

    /// The same behind one web server with several addresses, each with a place of its own for who answers; on each of them this
    /// path leads there.
    ///
    /// # Errors
    /// As for [`Self::start`].
    pub fn several<const N: usize>(server: front::Server, paths: [&str; N]) -> Result<[Self; N]> {
        let mut ways = Vec::new();
        for path in paths {
            ways.push((path.to_owned(), free_address()?));
        }
        let places: Vec<SocketAddr> = ways.iter().map(|(_, bridge)| *bridge).collect();
        let mut ways = ways.into_iter();
        let (path, bridge) = ways.next().context("a site has an address")?;
        let page = Some(site::page_that_talks(Self::PATH, MESSAGES));
        let options =
            front::Options { page, idle: IDLE, doors: ways.collect(), ..front::Options::new(&path, bridge) };
        let front = Arc::new(Front::start(server, options)?);
        let addresses = std::iter::once(front.address()).chain(front.doors().iter().copied());
        let sites: Vec<Self> = addresses
            .zip(places)
            .map(|(address, bridge)| Self { front: Arc::clone(&front), address, bridge })
            .collect();
        sites.try_into().map_err(|_| anyhow!("an address for each path"))
    }

    /// Where it listens with TLS.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Starts such a server as any site has.
    ///
    /// # Errors
    /// Somebody answers already.
    pub fn talk(&self) -> Result<TalkServer> {
        TalkServer::start(self.bridge)
    }
}

/// A running transport. Ends when dropped.
pub struct Transport {
    entry: SocketAddr,
    server: SocketAddr,
    link: Link,
    running: Running,
}

enum Running {
    Nothing,
    Plugins { line: String, _server: Plugin, _client: Plugin, _state: TempDir },
    Tunnel { _tunnel: Tunnel },
    Talk { _server: TalkServer },
    Proxy { _proxy: Box<Proxy> },
}

impl Transport {
    /// Starts it between [`Self::entry`] and `target`, over a wire that delays each direction by `delay`. QNet and the tunnel
    /// use `decoy`'s name and certificates; `qnet_pt` is the program.
    ///
    /// # Errors
    /// A program is missing, or does not start.
    pub fn start(
        kind: Kind,
        decoy: &Decoy,
        qnet_pt: &Path,
        target: SocketAddr,
        delay: Duration,
    ) -> Result<Self> {
        Self::start_with(kind, None, decoy, qnet_pt, target, delay)
    }

    /// The same with the profile that QNet's bridge line names; no other transport has any.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_with(
        kind: Kind,
        profile: Option<&str>,
        decoy: &Decoy,
        qnet_pt: &Path,
        target: SocketAddr,
        delay: Duration,
    ) -> Result<Self> {
        match kind {
            Kind::Plain => {
                let link = Link::watched(target, delay)?;
                Ok(Self { entry: link.address(), server: target, link, running: Running::Nothing })
            }
            Kind::Qnet => {
                let kind = plugin::Kind::qnet(qnet_pt.to_owned(), decoy);
                Self::plugins(&kind, profile, (target, LOOPBACK), None, delay)
            }
            Kind::QnetWebsocket => bail!("it stands behind a site, not before one"),
            Kind::Obfs4 => Self::plugins(&plugin::Kind::obfs4()?, None, (target, LOOPBACK), None, delay),
            Kind::Tunnel => {
                let tunnel = Tunnel::start(decoy.certificates(), target)?;
                let link = Link::watched(tunnel.server(), delay)?;
                let entry = tunnel.client(link.address())?;
                let server = tunnel.server();
                Ok(Self { entry, server, link, running: Running::Tunnel { _tunnel: tunnel } })
            }
        }
    }

    /// QNet under its websocket cover behind a site, with the profile that the bridge line names.
    ///
    /// # Errors
    /// The program does not start.
    pub fn behind(
        site: &TalkingSite,
        profile: Option<&str>,
        qnet_pt: &Path,
        target: SocketAddr,
        delay: Duration,
    ) -> Result<Self> {
        let origin = site.front.site().to_string().replace(':', r"\:");
        let url = format!("https://{NAME}{}", TalkingSite::PATH).replace(':', r"\:");
        let kind = plugin::Kind {
            name: "qnet",
            transport: "qnet",
            client_args: Vec::new(),
            program: qnet_pt.to_owned(),
            server_options: format!("qnet:url={url};qnet:site={origin}"),
            environment: vec![("SSL_CERT_FILE".into(), site.front.certificates().ca.clone())],
        };
        Self::plugins(&kind, profile, (target, site.bridge), Some(site.address), delay)
    }

    /// QNet as a user without Tor has it: `qnet proxy` here and an operator's `qnet-bridge run` before `decoy`. [`Self::entry`] is the proxy's
    /// own address, for SOCKS5. Returns when it says that it is connected, which has made its first connection.
    ///
    /// # Errors
    /// A program does not start.
    pub fn proxy(decoy: &Decoy, profile: Option<&str>, programs: &Programs, delay: Duration) -> Result<Self> {
        let bridge = programs.bridge(decoy)?;
        let link = Link::watched(bridge.address(), delay)?;
        let (server, proxy) = (bridge.address(), programs.proxy(decoy, bridge, link.address(), profile)?);
        Ok(Self { entry: proxy.address(), server, link, running: Running::Proxy { _proxy: Box::new(proxy) } })
    }

    /// No transport: a browser's way to a site that answers what its pages say.
    ///
    /// # Errors
    /// No port can be had.
    pub fn talking(site: &TalkingSite, delay: Duration) -> Result<Self> {
        let server = site.address;
        let link = Link::watched(server, delay)?;
        let talk = site.talk()?;
        Ok(Self { entry: link.address(), server, link, running: Running::Talk { _server: talk } })
    }

    /// A pluggable transport as tor starts it, with a door in front that gives it the bridge's arguments. Its server passes on to
    /// `target` and listens at `bind`; clients go to `front` where there is one. A profile is one more argument of the line.
    fn plugins(
        kind: &plugin::Kind,
        profile: Option<&str>,
        (target, bind): (SocketAddr, SocketAddr),
        front: Option<SocketAddr>,
        delay: Duration,
    ) -> Result<Self> {
        let state = TempDir::new()?;
        let (server, method) = Plugin::server_at(kind, &state.path().join("server"), target, bind)?;
        let mut method = Method { address: front.unwrap_or(method.address), ..method };
        method.args.extend(profile.map(|name| ("profile".to_owned(), name.to_owned())));
        let (client, socks) = Plugin::client(kind, &state.path().join("client"))?;
        let link = Link::watched(method.address, delay)?;
        let args: String = method.args.iter().map(|(key, value)| format!(" {key}={value}")).collect();
        let line = format!("{} {}{args}", kind.transport, method.address);
        let bridge = Method { address: link.address(), args: method.args };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let entry = listener.local_addr()?;
        thread::spawn(move || {
            for load in listener.incoming().flatten() {
                let bridge = bridge.clone();
                // A load that finds no transport sees its connection end, and says so itself.
                thread::spawn(move || socks::connect(socks, &bridge).map(|tunnel| join(&load, &tunnel)));
            }
        });
        let running = Running::Plugins { line, _server: server, _client: client, _state: state };
        Ok(Self { entry, server: method.address, link, running })
    }

    /// The bridge line of its server, without the wire between; none where it is no pluggable transport.
    #[must_use]
    pub fn line(&self) -> Option<&str> {
        match &self.running {
            Running::Plugins { line, .. } => Some(line),
            Running::Nothing | Running::Tunnel { .. } | Running::Talk { .. } | Running::Proxy { .. } => None,
        }
    }

    /// Where a load connects.
    #[must_use]
    pub fn entry(&self) -> SocketAddr {
        self.entry
    }

    /// Where its server listens, without the wire.
    #[must_use]
    pub fn server(&self) -> SocketAddr {
        self.server
    }

    /// The censor's wire.
    #[must_use]
    pub fn link(&self) -> &Link {
        &self.link
    }
}

/// Passes on both directions until both have ended.
fn join(one: &TcpStream, other: &TcpStream) {
    for stream in [one, other] {
        stream.set_read_timeout(None).ok();
        stream.set_nodelay(true).ok();
    }
    thread::scope(|scope| {
        scope.spawn(|| pass_on(one, other));
        pass_on(other, one);
    });
}

fn pass_on(mut from: &TcpStream, mut to: &TcpStream) {
    let mut piece = vec![0; 65_536];
    loop {
        match from.read(&mut piece) {
            Ok(count) if count > 0 => {
                if to.write_all(piece.get(..count).unwrap_or_default()).is_err() {
                    break;
                }
            }
            _ => break,
        }
    }
    to.shutdown(Shutdown::Write).ok();
}
