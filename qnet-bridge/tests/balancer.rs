//! Several bridges behind HAProxy, with the configuration in `deploy/balancer`.
#![forbid(unsafe_code)]

mod support;

use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    os::unix::{fs::DirBuilderExt as _, net::UnixStream},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use qnet_tests::support::{
    decoy::{Decoy, NAME, Options, Server},
    isolate::isolated,
    probe::{Tolerance, catalogue, differences},
    process::{self, Running, wait_for},
    tunnel::runtime,
};
use qnet_transport::{
    Stream,
    client::{Dialer, DialerConfig, Tunnel},
    connect::Connect,
    tls::Roots,
};
use qnet_wire::{bridge_line::BridgeLine, target::Answer};
use support::{ask, echo, echoes, program};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;

const LIMIT: Duration = Duration::from_secs(30);
/// Where clients find the bridges: no address of loopback's, which clients reach from there alone.
const PUBLIC: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const INSTANCES: usize = 3;
const NAMES: [&str; INSTANCES] = ["one", "two", "three"];

/// A bridge behind the balancer.
struct Instance {
    running: Running,
    listen: SocketAddr,
    metrics: SocketAddr,
}

impl Instance {
    fn start(folder: &Path, number: usize, decoy: &Decoy, settings: &str) -> Result<Self> {
        let listen = own_address(number);
        let folder = folder.join(NAMES.get(number).context("a name")?);
        let state = folder.join("state");
        fs::DirBuilder::new().mode(0o700).recursive(true).create(&state)?;
        // One bridge to its users: one key.
        let key = qnet_transport::identity::FILE;
        fs::copy(folder.with_file_name("key").join(key), state.join(key))?;
        let metrics = process::free_address()?;
        let text = format!(
            "listen = \"{listen}\"\nstate = \"{}\"\ndecoy = \"{}\"\nsni = [\"{NAME}\"]\nmetrics = \"{metrics}\"\n\
             proxy-protocol = [\"{}\"]\nallow-special = true\nexit-policy = [\"accept *:*\"]\n{settings}\n",
            state.display(),
            decoy.address(),
            // On this machine HAProxy reaches each address from itself.
            listen.ip()
        );
        fs::write(folder.join("bridge.toml"), text)?;
        let mut command = program();
        command.args(["run", "--config"]).arg(folder.join("bridge.toml"));
        command.env("SSL_CERT_FILE", &decoy.certificates().ca).stderr(File::create(folder.join("log"))?);
        let running = Running::start("qnet-bridge", &mut command)?;
        wait_for("the bridge's line", LIMIT, || {
            Ok(fs::read_to_string(folder.join("log"))?.contains("Bridge qnet ").then_some(()))
        })?;
        Ok(Self { running, listen, metrics })
    }

    fn number(&self, name: &str) -> Result<u64> {
        let mut tcp = TcpStream::connect(self.metrics)?;
        tcp.write_all(b"GET /metrics HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")?;
        let mut text = String::new();
        tcp.read_to_string(&mut text)?;
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        Ok(value.with_context(|| format!("no {name} in {text}"))?.parse()?)
    }
}

/// Three bridges with one key before one decoy, and HAProxy before them.
struct Balanced {
    decoy: Decoy,
    instances: Vec<Instance>,
    line: BridgeLine,
    /// HAProxy before the decoy itself, for who compares.
    decoy_balanced: SocketAddr,
    _haproxy: Running,
    folder: TempDir,
}

impl Balanced {
    /// As delivered.
    fn usual() -> Result<Self> {
        Self::start(None, Options::default(), "")
    }

    /// With `balance` in place of the way in which the configuration chooses a bridge, and these settings in each bridge's file.
    fn start(balance: Option<&str>, decoy: Options, settings: &str) -> Result<Self> {
        addresses()?;
        let decoy = Decoy::start(Server::Nginx, decoy)?;
        let folder = tempfile::tempdir()?;
        let key = folder.path().join("key");
        fs::DirBuilder::new().mode(0o700).create(&key)?;
        let identity = qnet_transport::identity::load_or_create(&key)?;
        let start = |number| Instance::start(folder.path(), number, &decoy, settings);
        let instances = (0..INSTANCES).map(start).collect::<Result<Vec<_>>>()?;
        let public = SocketAddr::from((PUBLIC, 443));
        let decoy_balanced = SocketAddr::from((PUBLIC, 8443));
        let text = config(folder.path(), balance)?;
        let text = format!(
            "{text}\nfrontend compared\n    bind {decoy_balanced}\n    default_backend decoy\n\
             backend decoy\n    server decoy {}\n",
            decoy.address()
        );
        fs::write(folder.path().join("haproxy.cfg"), text)?;
        let mut command = Command::new("haproxy");
        command.arg("-db").arg("-f").arg(folder.path().join("haproxy.cfg")).stdin(Stdio::null());
        let log = folder.path().join("haproxy.log");
        let out = File::create(&log)?;
        command.stdout(out.try_clone()?).stderr(out);
        let mut haproxy = Running::start("haproxy", &mut command)?;
        process::wait_listening(&mut haproxy, public, LIMIT, &log)?;
        let line = format!("qnet {public} key={} sni={NAME}", identity.public()).parse()?;
        Ok(Self { decoy, instances, line, decoy_balanced, _haproxy: haproxy, folder })
    }

    /// What HAProxy is told on its own socket.
    fn command(&self, words: &str) -> Result<String> {
        let mut socket = UnixStream::connect(self.folder.path().join("admin"))?;
        socket.write_all(format!("{words}\n").as_bytes())?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer)?;
        Ok(answer)
    }

    /// Cuts all connections to the bridges.
    fn cut(&self) -> Result<()> {
        for name in NAMES {
            let answer = self.command(&format!("shutdown sessions server bridges/{name}"))?;
            ensure!(answer.trim().is_empty(), "{answer}");
        }
        Ok(())
    }

    /// A client in the network of this number, and its session.
    async fn client(&self, network: u8) -> Result<Client> {
        let dialer = Client::dialer(self, network)?;
        let before = self.sessions()?;
        let tunnel = dialer.dial(&self.line).await?;
        tunnel.established().await?;
        let now = || Ok(self.sessions()?.iter().zip(&before).position(|(now, before)| now > before));
        let instance = wait_for("a session", LIMIT, now)?;
        Ok(Client { network, dialer, tunnel, instance })
    }

    fn sessions(&self) -> Result<Vec<u64>> {
        // One that was killed tells nothing.
        Ok(self
            .instances
            .iter()
            .map(|instance| instance.number("qnet_bridge_sessions").unwrap_or(0))
            .collect())
    }
}

struct Client {
    network: u8,
    dialer: Dialer,
    tunnel: Tunnel,
    instance: usize,
}

impl Client {
    fn dialer(balanced: &Balanced, network: u8) -> Result<Dialer> {
        let connect = Connect { bind_v4: Some(address(network)), ..Connect::default() };
        let roots = Roots::with(Some(&balanced.decoy.certificates().ca), None)?;
        Ok(Dialer::new(DialerConfig { connect, ..DialerConfig::new(roots) }))
    }

    /// Its connections' ports.
    fn connections(&self) -> Result<String> {
        let source = address(self.network).to_string();
        let output = Command::new("ss").args(["-Htn", "state", "established", "src", &source]).output()?;
        let line = |line: &str| line.split_whitespace().skip(2).collect::<Vec<_>>().join(" ");
        Ok(String::from_utf8(output.stdout)?.lines().map(line).collect())
    }
}

/// A client's address.
fn address(network: u8) -> Ipv4Addr {
    Ipv4Addr::new(203, 0, network, 7)
}

/// Where a bridge listens, for HAProxy alone.
fn own_address(number: usize) -> SocketAddr {
    let last = [11, 12, 13].get(number).copied().unwrap_or_default();
    SocketAddr::from(([10, 0, 0, last], 443))
}

/// Gives this machine all addresses of the test.
fn addresses() -> Result<()> {
    let own = (0..INSTANCES).map(|number| own_address(number).ip());
    for address in (0..40).map(|network| address(network).into()).chain([PUBLIC.into()]).chain(own) {
        ip(&format!("addr add {address}/32 dev lo"))?;
    }
    Ok(())
}

fn ip(words: &str) -> Result<()> {
    ensure!(Command::new("ip").args(words.split(' ')).status()?.success(), "ip {words}");
    Ok(())
}

/// The configuration as it is delivered, with the addresses of the test.
fn config(folder: &Path, balance: Option<&str>) -> Result<String> {
    let mut text =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/balancer/haproxy.cfg"))?;
    let mut replace = |from: &str, to: &str| {
        ensure!(text.matches(from).count() == 1, "{from}");
        text = text.replace(from, to);
        Ok(())
    };
    // A user who is not root cannot become another.
    for line in ["    user haproxy\n", "    group haproxy\n", "    chroot /var/lib/haproxy\n"] {
        replace(line, "")?;
    }
    replace("/run/haproxy/admin.sock", &folder.join("admin").display().to_string())?;
    replace("maxconn 50000", "maxconn 1000")?;
    replace("0.0.0.0:443", &format!("{PUBLIC}:443"))?;
    if let Some(balance) = balance {
        replace("balance hash src,ipmask(24,64)\n    hash-type consistent", balance)?;
    }
    // The bridges' addresses are the test's own.
    for number in 0..INSTANCES {
        ensure!(text.contains(&format!(" {}\n", own_address(number))));
    }
    Ok(text)
}

/// Clients at every bridge, each with a stream.
async fn everywhere(balanced: &Balanced, echo: &str) -> Result<Vec<(Client, Stream)>> {
    let mut clients: Vec<(Client, Stream)> = Vec::new();
    for network in 0..40 {
        let client = balanced.client(network).await?;
        if clients.iter().all(|(other, _)| other.instance != client.instance) {
            let (mut stream, said) = ask(&client.tunnel, echo).await?;
            ensure!(said == Answer::Connected);
            echoes(&mut stream, b"begun").await?;
            clients.push((client, stream));
        }
        if clients.len() == INSTANCES {
            return Ok(clients);
        }
    }
    anyhow::bail!("40 networks go to {} bridges", clients.len())
}

#[test]
fn a_sessions_next_connection_finds_the_bridge_that_has_it() -> Result<()> {
    isolated("a_sessions_next_connection_finds_the_bridge_that_has_it", || {
        let balanced = Balanced::usual()?;
        runtime()?.block_on(async {
            let echo = echo().await?.to_string();
            let mut clients = everywhere(&balanced, &echo).await?;
            for round in 0..3 {
                balanced.cut()?;
                for (client, stream) in &mut clients {
                    echoes(stream, format!("after cut {round}").as_bytes()).await?;
                    ensure!(client.tunnel.is_open());
                }
            }
            Ok(())
        })
    })
}

/// The negative control: without such a choice the session is lost.
#[test]
fn another_bridge_does_not_know_the_session() -> Result<()> {
    isolated("another_bridge_does_not_know_the_session", || {
        let balanced = Balanced::start(Some("balance roundrobin"), Options::default(), "")?;
        runtime()?.block_on(async {
            let client = balanced.client(0).await?;
            let (mut stream, _) = ask(&client.tunnel, &echo().await?.to_string()).await?;
            let mut lost = false;
            for _ in 0..3 {
                balanced.cut()?;
                lost = lost || echoes(&mut stream, b"anybody?").await.is_err();
            }
            ensure!(lost && !client.tunnel.is_open(), "the session goes on, at whichever bridge");
            Ok(())
        })
    })
}

/// What becomes of everybody when the bridge of one client is no more; `within`: how long that client may be without.
fn one_is_lost(lose: impl FnOnce(&Instance) -> Result<()>, within: Duration) -> Result<()> {
    let balanced = Balanced::usual()?;
    runtime()?.block_on(async {
        let echo = echo().await?.to_string();
        let mut clients = everywhere(&balanced, &echo).await?;
        let (orphan, mut torn) = clients.pop().context("a client")?;
        let others: Vec<String> =
            clients.iter().map(|(client, _)| client.connections()).collect::<Result<_>>()?;
        ensure!(others.iter().all(|other| !other.is_empty()));
        let begun = Instant::now();
        lose(balanced.instances.get(orphan.instance).context("its bridge")?)?;
        // Somebody of the same network who comes before the balancer knows.
        let early = Client::dialer(&balanced, orphan.network)?.dial(&balanced.line).await?;
        let early_after = begun.elapsed();
        let (mut stream, said) = ask(&early, &echo).await?;
        ensure!(said == Answer::Connected);
        echoes(&mut stream, b"in time").await?;
        // Who has nothing to say needs not know.
        torn.write_all(b"anybody?").await.ok();
        let closed = tokio::time::timeout(LIMIT, orphan.tunnel.closed()).await;
        closed.with_context(|| {
            format!("the session goes on; another after {early_after:?}: {:?}", balanced.command("show stat"))
        })?;
        ensure!(echoes(&mut torn, b"gone").await.is_err());
        let noticed = begun.elapsed();
        let again = orphan.dialer.dial(&balanced.line).await?;
        let (mut stream, said) = ask(&again, &echo).await?;
        ensure!(said == Answer::Connected);
        echoes(&mut stream, b"back").await?;
        let back = begun.elapsed();
        ensure!(
            back < within,
            "another after {early_after:?}, noticed after {noticed:?}, back after {back:?}"
        );
        let down = || Ok(balanced.command("show stat")?.contains("DOWN").then_some(()));
        wait_for("the bridge is marked", LIMIT, down)?;
        for ((client, stream), before) in clients.iter_mut().zip(others) {
            echoes(stream, b"undisturbed").await?;
            ensure!(client.tunnel.is_open() && client.connections()? == before, "{before}");
        }
        Ok(())
    })
}

#[test]
fn of_a_bridge_that_is_killed_the_clients_come_back_and_the_others_notice_nothing() -> Result<()> {
    isolated("of_a_bridge_that_is_killed_the_clients_come_back_and_the_others_notice_nothing", || {
        let kill = |lost: &Instance| {
            process::signal(lost.running.pid(), rustix::process::Signal::KILL)?;
            // The signal only begins its end: until then its socket takes connections that nobody will answer.
            wait_for("the bridge's end", LIMIT, || Ok(TcpStream::connect(lost.listen).is_err().then_some(())))
        };
        one_is_lost(kill, Duration::from_secs(5))
    })
}

#[test]
fn of_a_machine_that_vanishes_the_clients_come_back_and_the_others_notice_nothing() -> Result<()> {
    isolated("of_a_machine_that_vanishes_the_clients_come_back_and_the_others_notice_nothing", || {
        // From now on packets for it go where nobody is.
        let vanish = |lost: &Instance| {
            ip("link add nowhere type veth peer name nobody")?;
            ip("link set nowhere up")?;
            ip(&format!("addr del {}/32 dev lo", lost.listen.ip()))?;
            ip(&format!("route add {}/32 dev nowhere src {PUBLIC}", lost.listen.ip()))
        };
        one_is_lost(vanish, Duration::from_secs(15))
    })
}

#[test]
fn a_bridge_behind_a_balancer_counts_clients_and_takes_nobody_else() -> Result<()> {
    isolated("a_bridge_behind_a_balancer_counts_clients_and_takes_nobody_else", || {
        let balanced = Balanced::start(None, Options::default(), "max-streams-per-client = 2")?;
        runtime()?.block_on(async {
            let echo = echo().await?.to_string();
            let mut clients: Vec<Client> = Vec::new();
            let (one, other) = loop {
                let network = u8::try_from(clients.len())?;
                let client = balanced.client(network).await?;
                match clients.iter().position(|other| other.instance == client.instance) {
                    Some(place) => break (clients.swap_remove(place), client),
                    None => clients.push(client),
                }
            };
            let mut streams = Vec::new();
            for client in [&one, &other] {
                for expected in [Answer::Connected, Answer::Connected, Answer::TooManyStreams] {
                    let (stream, said) = ask(&client.tunnel, &echo).await?;
                    ensure!(said == expected, "{said:?} instead of {expected:?}");
                    streams.push(stream);
                }
            }
            Ok(())
        })?;
        let instance = balanced.instances.first().context("a bridge")?;
        let connections = instance.number("qnet_bridge_connections_total")?;
        let mut direct = TcpStream::connect(instance.listen)?;
        direct.set_read_timeout(Some(LIMIT))?;
        direct.write_all(b"GET / HTTP/1.1\r\n\r\n")?;
        ensure!(matches!(direct.read(&mut [0; 9]), Ok(0) | Err(_)), "somebody without a header is answered");
        // Nor does HAProxy's look at whether the bridge is there count, one every two seconds.
        runtime()?.block_on(async { tokio::time::sleep(Duration::from_secs(5)).await });
        assert_eq!(instance.number("qnet_bridge_connections_total")?, connections);
        let log = fs::read_to_string(balanced.folder.path().join("one/log"))?;
        ensure!(log.matches("no PROXY header of version 2").count() == 1, "{log}");
        let config = balanced.folder.path().join("one/bridge.toml");
        let checked = program().args(["check", "--config"]).arg(config).output()?;
        let said = String::from_utf8(checked.stdout)?;
        ensure!(checked.status.success() && said.contains("the balancers in proxy-protocol alone"), "{said}");
        Ok(())
    })
}

/// What a censor can send meets the site the same way, whether bridges stand between balancer and site or not.
#[test]
fn bridges_behind_haproxy_are_their_decoy_behind_haproxy() -> Result<()> {
    isolated("bridges_behind_haproxy_are_their_decoy_behind_haproxy", || {
        let limit = Duration::from_secs(2);
        let options = Options { idle: limit, head: limit, ..Options::default() };
        let balanced = Balanced::start(None, options, "")?;
        let probes = catalogue::all(NAME)?;
        let (bridge, watch) = (balanced.line.address, Duration::from_secs(5));
        let found = differences(&probes, &|| bridge, balanced.decoy_balanced, watch, Tolerance::default())?;
        let said: String = found.iter().map(ToString::to_string).collect();
        ensure!(found.is_empty(), "{} of {} probes differ:\n{said}", found.len(), probes.len());
        Ok(())
    })
}
