//! What every attack needs: a decoy, a bridge before it, a wire in the censor's hands, and a client.
//!
//! ```text
//! dialer ──▶ front (the censor's wire) ──▶ bridge ──▶ back (what the decoy sees) ──▶ decoy
//! ```

use std::collections::HashMap;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::support::decoy::{Decoy, Options, Server};
use crate::support::flow::{End, Flow};
use crate::support::link::{Link, Trace};
use anyhow::{Context, Result, bail};
use qnet_transport::admission::Admission;
use qnet_transport::bridge::{BridgeConfig, Listener};
use qnet_transport::client::{Dialer, DialerConfig, Tunnel};
use qnet_transport::connect::Connect;
use qnet_transport::tls::Roots;
use qnet_transport::{Profile, Stream};
use qnet_wire::bridge_line::BridgeLine;
use qnet_wire::key::{BridgeKey, IdentityKey};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// What a stream asks of the far side with its first byte: send for ever.
const DOWNLOAD: u8 = b'd';
/// Take what comes.
const UPLOAD: u8 = b'u';
/// Bytes read or written at once.
const PIECE: usize = 16 * 1024;
/// A protected record's type byte and tag.
const OVERHEAD: usize = 17;
/// The length of a protected alert.
pub const ALERT: usize = 19;
/// Shorter than any answer (docs/protocol.md, section 4): alerts, GOAWAY, PING.
pub const SHORT: usize = 64;
/// One way from the client to whoever answers, unless it is said otherwise. Without it what a client says to an alert comes in the
/// microseconds between the alert and the decoy's closing, which makes an RST of some FINs.
const DISTANCE: Duration = Duration::from_millis(5);
/// How long anything that needs no waiting may take on a busy machine.
pub const SOON: Duration = Duration::from_secs(20);

/// What the bridge's side received, by the number that an upload says first.
type Uploads = Arc<Mutex<HashMap<u64, Arc<Mutex<Payload>>>>>;

/// The scene of an attack.
pub struct Stage {
    /// The decoy.
    pub decoy: Decoy,
    /// Between client and bridge.
    pub front: Link,
    /// Between bridge and decoy.
    pub back: Link,
    /// Where the bridge listens.
    pub bridge: SocketAddr,
    /// The bridge's public key.
    pub key: BridgeKey,
    /// One way from a client to whoever answers.
    pub distance: Duration,
    uploads: Uploads,
    next_upload: AtomicU64,
    runtime: tokio::runtime::Runtime,
}

/// What came out of a stream.
#[derive(Clone, Debug, Default)]
pub struct Payload {
    /// How many bytes came that were right, one after the other.
    pub right: u64,
    /// A byte came that was not sent at its place.
    pub wrong: bool,
    /// The stream ended in order.
    pub ended: bool,
    /// It ended otherwise.
    pub broken: bool,
}

impl Stage {
    /// A decoy, and a bridge before it.
    ///
    /// # Errors
    /// The decoy does not start, or no port can be had.
    pub fn new(server: Server, options: Options) -> Result<Self> {
        Self::with_delay(server, options, Duration::ZERO)
    }

    /// The same, with the decoy this far from the bridge (one way).
    ///
    /// # Errors
    /// As for [`Self::new`].
    pub fn with_delay(server: Server, options: Options, delay: Duration) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let decoy = Decoy::start(server, options)?;
        let back = Link::start(decoy.address(), delay)?;
        let identity = IdentityKey::generate(&mut ChaCha20Rng::from_seed([7; 32]));
        let key = identity.public();
        let uploads = Uploads::default();
        let entered = runtime.enter();
        let listener = Listener::bind(BridgeConfig {
            listen: "127.0.0.1:0".parse()?,
            identity,
            decoy: back.address(),
            names: vec![decoy.name().parse()?],
            admission: Admission::Open,
            connect: Connect::default(),
            profile: Profile::default(),
            sessions: qnet_transport::bridge::Sessions::default(),
        })?;
        let bridge = listener.local_addr();
        let front = Link::start(bridge, Duration::ZERO)?;
        tokio::spawn(serve(listener, Arc::clone(&uploads)));
        drop(entered);
        let (distance, next_upload) = (DISTANCE, AtomicU64::new(0));
        Ok(Self { decoy, front, back, bridge, key, distance, uploads, next_upload, runtime })
    }

    /// The same with its clients this far from it, or as far as usual where that is more.
    #[must_use]
    pub fn away(self, distance: Duration) -> Self {
        Self { distance: self.distance.max(distance), ..self }
    }

    /// Runs `work` on the stage's runtime.
    pub fn block_on<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    /// Runs `work` beside the test.
    pub fn spawn<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> tokio::task::JoinHandle<T> {
        self.runtime.spawn(work)
    }

    /// The line of a bridge at `address`, which is the wire's as a rule.
    ///
    /// # Errors
    /// It is no line.
    pub fn line(&self, address: SocketAddr) -> Result<BridgeLine> {
        Ok(format!("qnet {address} key={} sni={}", self.key, self.decoy.name()).parse()?)
    }

    /// A client that loads `path`.
    ///
    /// # Errors
    /// The decoy's CA cannot be read.
    pub fn dialer(&self, path: &str) -> Result<Dialer> {
        let roots = Roots::with(Some(&self.decoy.certificates().ca), None)?;
        // What becomes of one connection is looked at: no other takes its place.
        let profile = Profile::single();
        Ok(Dialer::new(DialerConfig { path: path.to_owned(), profile, ..DialerConfig::new(roots) }))
    }

    /// A tunnel through `front`, its inner handshake done.
    ///
    /// # Errors
    /// There is none.
    pub fn tunnel(&self) -> Result<Tunnel> {
        self.tunnel_over(&self.front)
    }

    /// The same over a wire of the caller's.
    ///
    /// # Errors
    /// As for [`Self::tunnel`].
    pub fn tunnel_over(&self, link: &Link) -> Result<Tunnel> {
        let (dialer, line) = (self.dialer("/menu.js")?, self.line(link.address())?);
        self.block_on(async {
            let tunnel = dialer.dial(&line).await?;
            tunnel.established().await?;
            Ok(tunnel)
        })
    }

    /// Sends for ever in a stream of `tunnel`; gives what the bridge's side receives of it.
    ///
    /// # Errors
    /// The tunnel has ended.
    pub fn upload(&self, tunnel: &Tunnel) -> Result<Arc<Mutex<Payload>>> {
        let number = self.next_upload.fetch_add(1, Ordering::Relaxed);
        let payload: Arc<Mutex<Payload>> = Arc::default();
        self.uploads.lock().unwrap_or_else(PoisonError::into_inner).insert(number, Arc::clone(&payload));
        let mut stream = tunnel.open()?;
        self.spawn(async move {
            if stream.write_all(&[&[UPLOAD][..], &number.to_be_bytes()].concat()).await.is_ok() {
                send(&mut stream).await;
            }
        });
        Ok(payload)
    }

    /// Says one byte in a stream of its own, which is given so that it stays open.
    ///
    /// # Errors
    /// The tunnel has ended.
    pub async fn whisper(&self, tunnel: &Tunnel) -> Result<Stream> {
        let mut stream = tunnel.open()?;
        stream.write_all(&[UPLOAD]).await?;
        Ok(stream)
    }

    /// Receives for ever in a stream of `tunnel`.
    ///
    /// # Errors
    /// The tunnel has ended.
    pub fn download(&self, tunnel: &Tunnel) -> Result<Arc<Mutex<Payload>>> {
        let mut stream = tunnel.open()?;
        let payload: Arc<Mutex<Payload>> = Arc::default();
        let theirs = Arc::clone(&payload);
        self.spawn(async move {
            if stream.write_all(&[DOWNLOAD]).await.is_ok() {
                receive(&mut stream, &theirs).await;
            }
        });
        Ok(payload)
    }
}

/// A copy of what was noted so far.
#[must_use]
pub fn copy(payload: &Mutex<Payload>) -> Payload {
    payload.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

async fn serve(mut listener: Listener, uploads: Uploads) {
    while let Some(incoming) = listener.accept().await {
        let (mut stream, uploads) = (incoming.stream, Arc::clone(&uploads));
        tokio::spawn(async move {
            match stream.read_u8().await {
                Ok(DOWNLOAD) => send(&mut stream).await,
                Ok(UPLOAD) => {
                    let Ok(number) = stream.read_u64().await else { return };
                    let payload =
                        uploads.lock().unwrap_or_else(PoisonError::into_inner).get(&number).map(Arc::clone);
                    if let Some(payload) = payload {
                        receive(&mut stream, &payload).await;
                    }
                }
                Ok(_) | Err(_) => {}
            }
        });
    }
}

/// The byte at `offset`: no two stretches of a record's size are alike.
fn byte(offset: u64) -> u8 {
    let mixed = (offset / 8 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed.to_be_bytes()[usize::try_from(offset % 8).unwrap_or_default()]
}

async fn send(stream: &mut Stream) {
    for piece in 0u64.. {
        let start = piece * PIECE as u64;
        let bytes: Vec<u8> = (start..start + PIECE as u64).map(byte).collect();
        if stream.write_all(&bytes).await.is_err() {
            return;
        }
    }
}

async fn receive(stream: &mut Stream, payload: &Mutex<Payload>) {
    let mut piece = vec![0; PIECE];
    loop {
        let outcome = stream.read(&mut piece).await;
        let mut payload = payload.lock().unwrap_or_else(PoisonError::into_inner);
        match outcome {
            Ok(0) => payload.ended = true,
            Ok(n) => {
                for got in piece.get(..n).unwrap_or_default() {
                    payload.wrong |= *got != byte(payload.right);
                    payload.right += 1;
                }
                continue;
            }
            Err(_) => payload.broken = true,
        }
        return;
    }
}

/// What a direction shows to one who cannot read it: its records' types and lengths, whole or not, and how it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Content types and lengths, as far as they came.
    pub records: Vec<(u8, usize)>,
    /// How it ended.
    pub end: Option<End>,
}

/// What is left of [`Seen`] when it does not matter how a server cut its answers into records, which depends on how many of
/// the requests it found at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// Bytes inside protected records, type bytes not counted.
    pub inside: usize,
    /// All records of other types.
    pub others: Vec<(u8, usize)>,
    /// Protected records as short as an alert's.
    pub alerts: usize,
    /// The last record, where it is shorter than any answer.
    pub last: Option<(u8, usize)>,
    /// How it ended.
    pub end: Option<End>,
}

impl Seen {
    /// How a client's direction ended, where FIN and RST are alike: which of them a socket that is closed sends depends on
    /// whether something is left in it that was not read.
    #[must_use]
    pub fn ended(&self) -> Option<End> {
        self.end.map(|_| End::Fin)
    }

    /// What is left of it.
    #[must_use]
    pub fn content(&self) -> Content {
        let protected = self.records.iter().filter(|(kind, _)| *kind == 23);
        Content {
            inside: protected.clone().map(|(_, length)| length.saturating_sub(OVERHEAD)).sum(),
            others: self.records.iter().filter(|(kind, _)| *kind != 23).copied().collect(),
            alerts: protected.filter(|(_, length)| *length == ALERT).count(),
            last: self.records.last().copied().filter(|(_, length)| *length < SHORT),
            end: self.end,
        }
    }
}

/// What `flow` shows from the record of this number on.
#[must_use]
pub fn seen(flow: &Flow, from: usize) -> Seen {
    let records = flow.records().iter().skip(from).map(|record| (record.kind, record.present)).collect();
    Seen { records, end: flow.end().map(|(end, _)| end) }
}

/// Waits until both directions of a connection have ended, or the whole connection has.
///
/// # Errors
/// They have not within `limit`.
pub fn both_ended(link: &Link, number: usize, limit: Duration) -> Result<Trace> {
    link.wait("the connection to end", number, limit, |trace| {
        let abrupt = |flow: &Flow| matches!(flow.end(), Some((End::Rst, _)));
        abrupt(&trace.up) || abrupt(&trace.down) || trace.up.end().is_some() && trace.down.end().is_some()
    })
}

/// Waits, looking often, until `done`.
///
/// # Errors
/// It is not within `limit`.
pub fn until(what: &str, limit: Duration, done: impl Fn() -> bool) -> Result<()> {
    let started = Instant::now();
    while !done() {
        if started.elapsed() > limit {
            bail!("not within {limit:?}: {what}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// The only trace of a link, or its newest.
///
/// # Errors
/// There is none.
pub fn newest(link: &Link) -> Result<Trace> {
    link.traces().pop().context("no connection yet")
}
