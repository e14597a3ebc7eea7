//! Many hellos of one client each, from connections that nobody answers.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result};
use qnet_proto::token;
use qnet_tests::ja4::Hello;
use qnet_tests::support::browser::Browser;
use qnet_tests::support::decoy::{Decoy, NAME, Options, Server};
use qnet_tests::support::tunnel::runtime;
use qnet_transport::tls::{Purpose, Roots, aes_hardware, connect, handshake};
use qnet_wire::key::IdentityKey;
use qnet_wire::name::ServerName;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;

/// How long Chromium may take to send its hellos.
const LIMIT: Duration = Duration::from_secs(180);

/// How long a connection may take to send its hello.
const PATIENCE: Duration = Duration::from_secs(10);

/// Fetches that Chromium's page makes at once: as many connections as it opens to one host.
const AT_ONCE: usize = 6;

/// Ports to which Chromium's page opens websockets at once. To each it opens one after the other, and waits for up to five seconds where
/// others failed before.
const PORTS: usize = 100;

/// Listeners, and the hellos of whoever connects to one; each connection is closed after its hello.
struct Ears {
    addresses: Vec<SocketAddr>,
    heard: mpsc::UnboundedReceiver<Hello>,
}

impl Ears {
    async fn open(count: usize) -> Result<Self> {
        let (sender, heard) = mpsc::unbounded_channel();
        let mut addresses = Vec::new();
        for _ in 0..count {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
            addresses.push(listener.local_addr()?);
            let sender = sender.clone();
            tokio::spawn(async move {
                while let Ok((mut tcp, _)) = listener.accept().await {
                    // A connection opened ahead and closed unused says nothing.
                    let record = timeout(PATIENCE, read_record(&mut tcp)).await.ok().flatten();
                    let hello = record.and_then(|record| Hello::parse(&record));
                    if hello.is_some_and(|hello| sender.send(hello).is_err()) {
                        break;
                    }
                }
            });
        }
        Ok(Self { addresses, heard })
    }

    fn ports(&self) -> Vec<u16> {
        self.addresses.iter().map(SocketAddr::port).collect()
    }

    /// The next `count` hellos.
    async fn collect(&mut self, count: usize) -> Result<Vec<Hello>> {
        let mut hellos = Vec::new();
        let all = async {
            while hellos.len() < count {
                hellos.extend(self.heard.recv().await);
            }
        };
        let outcome = timeout(LIMIT, all).await;
        outcome.with_context(|| format!("{} of {count} hellos in {LIMIT:?}", hellos.len()))?;
        Ok(hellos)
    }
}

async fn read_record(tcp: &mut TcpStream) -> Option<Vec<u8>> {
    let mut record = vec![0; 5];
    tcp.read_exact(&mut record).await.ok()?;
    let length = match *record {
        [.., high, low] => usize::from(u16::from_be_bytes([high, low])),
        _ => 0,
    };
    record.resize(5 + length, 0);
    tcp.read_exact(record.get_mut(5..)?).await.ok()?;
    Some(record)
}

/// Hellos of Chromium, from a page that fetches.
pub(super) fn chromiums_fetches(count: usize) -> Result<Vec<Hello>> {
    chromiums(count, 1, |ports| {
        let port = ports.first().copied().unwrap_or_default();
        format!(
            "const go = async () => {{ for (let i = 0; i < {count}; i++) try {{ \
             await fetch(\"https://{NAME}:{port}/?\" + i, {{ mode: \"no-cors\", cache: \"no-store\" }}); }} catch (e) {{}} }}; \
             for (let n = 0; n < {AT_ONCE}; n++) go();"
        )
    })
}

/// Hellos of Chromium, from a page that opens websockets.
pub(super) fn chromiums_websockets(count: usize) -> Result<Vec<Hello>> {
    chromiums(count, PORTS, |ports| {
        let go = format!(
            "const go = (port) => {{ new WebSocket(\"wss://{NAME}:\" + port + \"/\").onclose = () => go(port); }};"
        );
        ports.iter().fold(go, |mut script, port| {
            let _ = write!(script, " go({port});");
            script
        })
    })
}

/// Hellos of Chromium, from a page with a script that reaches for ports where nobody answers one.
fn chromiums(count: usize, ports: usize, script: impl FnOnce(&[u16]) -> String) -> Result<Vec<Hello>> {
    runtime()?.block_on(async {
        let mut ears = Ears::open(ports).await?;
        let script = script(&ears.ports());
        let extra =
            format!("location = / {{ default_type text/html; return 200 '<script>{script}</script>'; }}");
        let page = Decoy::start(Server::Nginx, Options { extra, ..Options::default() })?;
        let _browser = Browser::open(NAME, page.address().port(), &["--ignore-certificate-errors"])?;
        ears.collect(count).await
    })
}

/// Hellos of the client, each with another token for another bridge.
pub(super) fn htx(count: usize) -> Result<Vec<Hello>> {
    ours(count, &async |tcp, seed, name, roots| {
        let mut rng = ChaCha20Rng::seed_from_u64(seed);
        let key = IdentityKey::generate(&mut rng).public();
        let offer = token::offer(&mut rng, &key, name, aes_hardware());
        let _ = timeout(PATIENCE, handshake(tcp, &offer, name, roots)).await;
    })
}

/// Hellos of the client of the websocket cover.
pub(super) fn websocket_cover(count: usize, purpose: impl Fn() -> Purpose) -> Result<Vec<Hello>> {
    ours(count, &async |tcp, _, name, roots| {
        let _ = timeout(PATIENCE, connect(tcp, purpose(), name, roots)).await;
    })
}

/// Hellos of what `greet` does with a connection to nobody: how that ends does not matter.
fn ours(count: usize, greet: &impl AsyncFn(&mut TcpStream, u64, &ServerName, &Roots)) -> Result<Vec<Hello>> {
    let roots = Roots::with(None, None)?;
    let name: ServerName = NAME.parse()?;
    runtime()?.block_on(async {
        let mut ears = Ears::open(1).await?;
        let address = *ears.addresses.first().context("one address")?;
        for seed in 0..count as u64 {
            let mut tcp = TcpStream::connect(address).await?;
            greet(&mut tcp, seed, &name, &roots).await;
        }
        ears.collect(count).await
    })
}
