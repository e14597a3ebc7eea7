//! `qnet-bridge check`: does the bridge work, seen from the bridge itself or, with a line, from a user's side?

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use boring::ssl::{SslConnector, SslMethod, SslVerifyMode};
use clap::Args;
use qnet_transport::{
    Stream, admission,
    bridge::client_network,
    client::{DialError, Dialer, DialerConfig, Tunnel, WebsocketError},
    connect::Connect,
    decoy::{self, Ending, Place, Resolver, is_local},
    identity,
    tls::Roots,
};
use qnet_wire::{
    bridge_line::{BridgeLine, Cover},
    error::chain,
    key::BridgeKey,
    name::ServerName,
    target::{ANSWER, Answer, Request, Target},
    url::WebsocketUrl,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, timeout},
};

use crate::{
    exit::{Destination, policy::special},
    findings::Findings,
    init::TORRC_PART,
    line::{Fingerprints, TOR_DATA},
    settings::{Decoy, Front, Plan, Settings},
};

/// How long one step may take.
const LIMIT: Duration = Duration::from_secs(20);

/// Say whether a bridge works: this machine's, or the one of a line as its users meet it
#[derive(Args, Debug)]
pub(crate) struct Check {
    /// A bridge line, in quotes or not; without one, this machine's bridge is checked by its settings
    #[arg(value_name = "LINE", trailing_var_arg = true)]
    line: Vec<String>,
    /// The settings of this machine's bridge
    #[arg(long, value_name = "FILE", default_value = crate::settings::DEFAULT_CONFIG)]
    config: PathBuf,
    /// tor's data folder: with a fingerprint there, what stands behind this machine's bridge must be tor
    #[arg(long, value_name = "FOLDER", default_value = TOR_DATA)]
    tor_data: PathBuf,
    /// With a line: also ask the bridge to connect there, if it is one without tor
    #[arg(long, value_name = "HOST:PORT")]
    target: Option<Target>,
    /// Also measure how long the site keeps an idle connection: up to ten minutes
    #[arg(long)]
    idle: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Check {
    /// Whether all is well, which has been printed.
    pub(crate) async fn start(self) -> Result<bool> {
        let roots = Roots::load().context("the certificates to check sites by")?;
        let mut findings = Findings::default();
        if self.line.is_empty() {
            let plan = Settings::read(&self.config)?.plan()?;
            own(&plan, &roots, self.idle, &self.tor_data, &mut findings).await;
        } else {
            let line: BridgeLine = self.line.join(" ").parse().context("the bridge line")?;
            let end = match (&line.fingerprint, self.target) {
                (_, Some(target)) => End::Target(target),
                (Some(_), None) => End::Tor,
                (None, None) => End::Unknown,
            };
            check(&Subject { line, end, idle: self.idle, own: false, opens: true }, &roots, &mut findings)
                .await;
        }
        crate::say(&if self.json { findings.json() } else { findings.to_string() })?;
        Ok(findings.good())
    }
}

/// What is at the other end of a bridge's streams.
pub(crate) enum End {
    /// tor's ORPort.
    Tor,
    /// The bridge is to be asked for this.
    Target(Target),
    /// Nobody said.
    Unknown,
}

/// A bridge as its users meet it.
pub(crate) struct Subject {
    pub(crate) line: BridgeLine,
    pub(crate) end: End,
    /// Measure the idle limit, too.
    pub(crate) idle: bool,
    /// It is this machine's.
    pub(crate) own: bool,
    /// Whether its line opens it: not where others are invited.
    pub(crate) opens: bool,
}

/// Checks this machine's bridge.
pub(crate) async fn own(plan: &Plan, roots: &Roots, idle: bool, tor_data: &Path, findings: &mut Findings) {
    if let Decoy::Server { place, third_party } = &plan.decoy
        && let Err(error) = place.resolve(*third_party).await
    {
        return findings.fail("site", chain(&error));
    }
    let key = match identity::load(&plan.state) {
        Ok(Some(key)) => key.public(),
        Ok(None) => {
            let words =
                format!("no key in {} yet: the bridge makes it when it first runs", plan.state.display());
            return findings.fail("key", words);
        }
        Err(error) => return findings.fail("key", chain(&error)),
    };
    findings.ok(
        "key",
        format!("{} is whole, and nobody else may read it", plan.state.join(identity::FILE).display()),
    );
    if let Decoy::Front(front) = &plan.decoy {
        behind_front(plan, front, key, roots, findings).await;
    } else {
        before_site(plan, key, roots, idle, findings).await;
    }
    if let Destination::Upstream(upstream) = &plan.destination {
        behind(upstream, expects_tor(tor_data), findings).await;
    }
}

/// Checks this machine's bridge before a web site, from loopback.
async fn before_site(plan: &Plan, key: BridgeKey, roots: &Roots, idle: bool, findings: &mut Findings) {
    let opens = invited(plan, findings);
    let mut address = plan.listen;
    if address.ip().is_unspecified() {
        let loopback =
            if address.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
        address.set_ip(loopback);
    }
    if !plan.balancers.is_empty() {
        return findings.warn("port", BALANCERS_ALONE);
    }
    let line = |cover| BridgeLine { address, fingerprint: None, key, cover, profile: None, invitation: None };
    let mirror = line(Cover::Mirror(plan.names.clone()));
    check(&Subject { line: mirror, end: End::Unknown, idle, own: true, opens }, roots, findings).await;
    if let Some(url) = plan.decoy.url().filter(|_| findings.good()) {
        let line = line(Cover::Websocket(url.clone()));
        tunnel(&Subject { line, end: End::Unknown, idle, own: true, opens }, roots, findings).await;
    }
}

const BALANCERS_ALONE: &str = "not tried: the balancers in proxy-protocol alone may connect; check with the line, as in `qnet-bridge check LINE`";

/// Checks this machine's bridge behind a web server: its own end first, then the whole way, from where the site's name leads.
async fn behind_front(plan: &Plan, front: &Front, key: BridgeKey, roots: &Roots, findings: &mut Findings) {
    if !plan.balancers.is_empty() {
        findings.warn("port", BALANCERS_ALONE);
    } else if !port(plan.listen, findings).await || !opens(plan.listen, &front.url, findings).await {
        return;
    }
    match crate::run::reach(front.origin).await {
        Ok(()) => findings.ok("origin", format!("the site without TLS answers at {}", front.origin)),
        Err(error) => findings.warn(
            "origin",
            format!(
                "nothing answers at {} ({error}): who asks for the secret path and is no client gets no answer, which no site does",
                front.origin
            ),
        ),
    }
    let host = front.url.host();
    let looked_up = timeout(LIMIT, tokio::net::lookup_host((format!("{host}."), 443))).await;
    let found = looked_up.unwrap_or_else(|late| Err(late.into())).map(|mut found| found.next());
    let Ok(Some(address)) = found else {
        let words = format!(
            "not tried: {host} leads nowhere from here; check with the line, as in `qnet-bridge check LINE`"
        );
        return findings.warn("site", words);
    };
    let cover = Cover::Websocket(front.url.clone());
    let line = BridgeLine { address, fingerprint: None, key, cover, profile: None, invitation: None };
    check(&Subject { line, end: End::Unknown, idle: false, own: true, opens: true }, roots, findings).await;
}

/// Whether the bridge itself opens a websocket, asked as the web server in front asks it.
async fn opens(address: SocketAddr, url: &WebsocketUrl, findings: &mut Findings) -> bool {
    let asked = async {
        let mut tcp = TcpStream::connect(address).await?;
        // Any key of 16 bytes in base64 will do (RFC 6455, section 4.1).
        let request = format!(
            "GET {} HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
            url.path(),
            url.host()
        );
        tcp.write_all(request.as_bytes()).await?;
        let mut status = [0; STATUS];
        tcp.read_exact(&mut status).await?;
        Ok(status)
    };
    let outcome: std::io::Result<_> = timeout(LIMIT, asked).await.unwrap_or_else(|late| Err(late.into()));
    match outcome {
        Ok(status) if status.ends_with(b" 101") => {
            findings.ok("path", format!("{address} opens websockets at the secret path"));
            return true;
        }
        Ok(_) => {
            let words = format!(
                "{address} opens no websocket at the path of url: does another program listen there, or was the bridge not started anew?"
            );
            findings.fail("path", words);
        }
        Err(error) => findings.fail("path", format!("{address} gives no answer ({error})")),
    }
    false
}

/// Bytes of an answer up to its status: `HTTP/1.1 101`.
const STATUS: usize = 12;

/// Whether the bridge lets in whoever has its line; where not, says how many are invited.
fn invited(plan: &Plan, findings: &mut Findings) -> bool {
    let Some(path) = &plan.invited else { return true };
    match admission::read(path) {
        Ok(list) => {
            findings.ok("invited", format!("{} clients, in {}", list.clients().len(), path.display()));
        }
        Err(error) => findings.fail("invited", chain(&error)),
    }
    false
}

/// What stands behind the bridge: tor, or something else. `expected`: why it should be tor.
async fn behind(upstream: &Place, expected: Option<String>, findings: &mut Findings) {
    let connected = async {
        let address = upstream.resolve(true).await.map_err(std::io::Error::other)?;
        TcpStream::connect(address).await
    };
    let tcp = match timeout(LIMIT, connected).await.unwrap_or_else(|late| Err(late.into())) {
        Ok(tcp) => tcp,
        Err(error) => {
            return findings.fail(
                "behind",
                format!("nothing answers at the upstream {upstream} ({error}); is it running?"),
            );
        }
    };
    match timeout(LIMIT, tor_answers(tcp)).await {
        Ok(Ok(())) => findings.ok("behind", format!("tor's ORPort answers at {upstream}")),
        _ => match expected {
            None => findings
                .ok("behind", format!("the upstream {upstream} accepts connections; it is no tor's ORPort")),
            Some(why) => findings.warn(
                "behind",
                format!(
                    "what answers at {upstream} is no tor's ORPort, though {why}: tor's clients get nowhere; does another program have \
                     that port?"
                ),
            ),
        },
    }
}

/// What says that tor stands behind this machine's bridge.
fn expects_tor(tor_data: &Path) -> Option<String> {
    let part = Path::new(TORRC_PART);
    if Fingerprints::read(tor_data).is_ok_and(|found| found.is_some()) {
        Some("the line for users has a tor's fingerprint in it".to_owned())
    } else {
        part.exists().then(|| format!("{} sets up a tor", part.display()))
    }
}

/// Plays a stranger's visit and a user's, one step after the other, until one fails that the next ones need.
pub(crate) async fn check(subject: &Subject, roots: &Roots, findings: &mut Findings) {
    let line = &subject.line;
    if !port(line.address, findings).await {
        return;
    }
    if let Cover::Mirror(names) = &line.cover {
        if !site(line.address, names, roots, findings).await {
            return;
        }
        if subject.idle {
            idle(line.address, names, roots, findings).await;
        }
        for name in names {
            dns(name, line.address.ip(), subject.own, findings).await;
        }
    }
    if !subject.opens {
        let words = "not tried: the bridge is by invitation; check it with an invited client's line, as in `qnet-bridge check LINE`";
        return findings.warn("knock", words);
    }
    tunnel(subject, roots, findings).await;
}

/// Plays a user's visit.
async fn tunnel(subject: &Subject, roots: &Roots, findings: &mut Findings) {
    let dialer = Dialer::new(DialerConfig::new(roots.clone()));
    let begun = Instant::now();
    let tunnel = match dialer.dial(&subject.line).await {
        Ok(tunnel) => tunnel,
        Err(error) => return findings.fail(step(&subject.line.cover, &error), chain(&error)),
    };
    if matches!(subject.line.cover, Cover::Websocket(_)) {
        findings.ok("websocket", "the site answers, and its secret path opens a websocket");
    }
    findings.ok("knock", format!("the bridge proved itself after {} ms", begun.elapsed().as_millis()));
    match timeout(LIMIT, tunnel.established()).await {
        Ok(Ok(())) => findings.ok("tunnel", format!("open after {} ms", begun.elapsed().as_millis())),
        Ok(Err(why)) => return findings.fail("tunnel", chain(&why)),
        Err(_) => return findings.fail("tunnel", "the bridge proved itself and then said nothing more"),
    }
    far_end(&tunnel, &subject.end, findings).await;
}

/// Where a dial failed.
fn step(cover: &Cover, error: &DialError) -> &'static str {
    match (cover, error) {
        (Cover::Mirror(_), _) => "knock",
        (Cover::Websocket(_), DialError::Handshake(_) | DialError::Websocket(WebsocketError::Load(_))) => {
            "site"
        }
        (Cover::Websocket(_), DialError::Websocket(_)) => "websocket",
        (Cover::Websocket(_), _) => "knock",
    }
}

async fn port(address: SocketAddr, findings: &mut Findings) -> bool {
    let begun = Instant::now();
    let connected = timeout(LIMIT, TcpStream::connect(address)).await.unwrap_or_else(|late| Err(late.into()));
    match connected {
        Ok(_) => {
            findings
                .ok("port", format!("{address} accepts connections ({} ms)", begun.elapsed().as_millis()));
            true
        }
        Err(error) => {
            let words = format!(
                "{address} does not accept connections ({error}); does the bridge run, and does its firewall let this port through?"
            );
            findings.fail("port", words);
            false
        }
    }
}

/// What a stranger meets: the site, which must be one that can be a decoy.
async fn site(address: SocketAddr, names: &[ServerName], roots: &Roots, findings: &mut Findings) -> bool {
    let resolver = Resolver::system(Connect::default());
    let examined = match decoy::examine_all(address, names, roots, &resolver).await {
        Ok(examined) => examined,
        Err(refusal) => {
            findings.fail("site", chain(&refusal));
            return false;
        }
    };
    let facts = examined.facts;
    findings.ok(
        "site",
        format!(
            "TLS 1.3, HTTP/2, a valid certificate; round trip {} ms, a page load of {} kB, {}{} requests on a connection",
            facts.round_trip.as_millis(),
            facts.load_bytes / 1_000,
            if facts.limited { "" } else { "more than " },
            if facts.limited { facts.requests } else { facts.requests.saturating_sub(1) },
        ),
    );
    for warning in examined.warnings {
        findings.warn("site", warning.to_string());
    }
    true
}

async fn idle(address: SocketAddr, names: &[ServerName], roots: &Roots, findings: &mut Findings) {
    match decoy::measure_idle_all(address, names, roots).await {
        Ok(idle) => {
            let how = match idle.ending {
                Some(Ending::Fin) => "closed in order",
                Some(Ending::Reset) => "reset",
                None => "still open when that was over",
            };
            findings.ok(
                "idle",
                format!("an idle connection is kept for {} s and then {how}", idle.limit.as_secs()),
            );
        }
        Err(refusal) => findings.fail("idle", chain(&refusal)),
    }
}

/// Whether the site's name leads to the bridge: a censor may compare the two.
pub(crate) async fn dns(name: &ServerName, bridge: IpAddr, own: bool, findings: &mut Findings) {
    // Without the dot a machine's own search domains would be tried, too.
    let looked_up = timeout(LIMIT, tokio::net::lookup_host((format!("{name}."), 443))).await;
    let found: Vec<IpAddr> = match looked_up.unwrap_or_else(|late| Err(late.into())) {
        Ok(found) => found.map(|address| address.ip()).collect(),
        Err(error) => {
            let words = format!("{name} cannot be looked up ({error}): a name that leads nowhere stands out");
            return findings.warn("dns", words);
        }
    };
    let here = |ip: &IpAddr| *ip == bridge || (own && !ip.is_loopback() && is_local(*ip));
    if found.iter().any(here) {
        findings.ok("dns", format!("{name} leads to this bridge"));
    } else if own && special(bridge).is_some() {
        let words = format!(
            "{name} leads to none of this machine's addresses; is there address translation between? \
                             Check from outside with the bridge line"
        );
        findings.warn("dns", words);
    } else if found.iter().any(|ip| client_network(*ip) == client_network(bridge)) {
        findings.ok("dns", format!("{name} leads to the bridge's own network"));
    } else {
        let words = format!(
            "{name} leads elsewhere than to this bridge, which who watches can find out; a site of your own at this \
             address, or one in its network, is better"
        );
        findings.warn("dns", words);
    }
}

async fn far_end(tunnel: &Tunnel, end: &End, findings: &mut Findings) {
    let stream = match tunnel.open() {
        Ok(stream) => stream,
        Err(error) => return findings.fail("tunnel", chain(&error)),
    };
    match end {
        End::Unknown => {}
        End::Tor => match timeout(LIMIT, tor_answers(stream)).await {
            Ok(Ok(())) => findings.ok("tor", "tor's ORPort answers"),
            Ok(Err(error)) => {
                findings.fail(
                    "tor",
                    format!("tor's ORPort does not answer ({error:#}); is tor running behind the bridge?"),
                );
            }
            Err(_) => findings
                .fail("tor", "tor's ORPort does not answer in time; is tor running behind the bridge?"),
        },
        End::Target(target) => match timeout(LIMIT, ask(stream, target)).await {
            Ok(Ok(Answer::Connected)) => findings.ok("target", format!("the bridge connects to {target}")),
            Ok(Ok(answer)) => findings.fail("target", format!("{target}: {answer}")),
            Ok(Err(error)) => {
                findings.fail("target", format!("{target}: the bridge gives no answer ({error:#})"));
            }
            Err(_) => findings.fail("target", format!("{target}: the bridge does not answer in time")),
        },
    }
}

/// tor's link begins with TLS under a certificate of its own making, which nobody here can judge: its client does. Then both sides
/// say which versions of the link they know (tor-spec, "Negotiating and initializing channels"), as no other server would.
pub(crate) async fn tor_answers(stream: impl AsyncRead + AsyncWrite + Unpin) -> Result<()> {
    let mut connector = SslConnector::builder(SslMethod::tls())?;
    connector.set_verify(SslVerifyMode::NONE);
    let config = connector.build().configure()?.verify_hostname(false).use_server_name_indication(false);
    let mut stream = match tokio_boring::connect(config, "www.example.com", stream).await {
        Ok(stream) => stream,
        Err(error) => bail!("no TLS: {error}"),
    };
    stream.write_all(&VERSIONS).await.context("TLS, and no more")?;
    let mut answer = [0; VERSIONS_HEAD];
    stream.read_exact(&mut answer).await.context("TLS, and no more")?;
    ensure!(answer == VERSIONS[..VERSIONS_HEAD], "TLS of something that is no tor");
    Ok(())
}

/// A cell VERSIONS that names 3, 4 and 5 (tor-spec, "The VERSIONS cell"): no circuit, the command, the length, three numbers.
const VERSIONS: [u8; 11] = [0, 0, 7, 0, 6, 0, 3, 0, 4, 0, 5];
/// Bytes of it that every such cell begins with.
const VERSIONS_HEAD: usize = 3;

async fn ask(mut stream: Stream, target: &Target) -> Result<Answer> {
    let mut head = Vec::new();
    Request::Tcp(target.clone()).write(&mut head);
    stream.write_all(&head).await?;
    let mut answer = [0; ANSWER];
    stream.read_exact(&mut answer).await?;
    Answer::read(&answer)?.context("not an answer")
}
