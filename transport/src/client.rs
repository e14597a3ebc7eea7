//! The client's side: dial a bridge, get streams.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use qnet_proto::{
    Ended,
    client::{Client, Start},
    knock::Field,
    mux::OpenError,
    token::{self, Token},
};
use qnet_wire::{
    bridge_line::BridgeLine,
    error::{Kind, Retry},
    key::BridgeKey,
    name::ServerName,
};
use rand_chacha::{
    ChaCha20Rng,
    rand_core::{Rng, SeedableRng},
};
use tokio::time::timeout_at;

use crate::{
    connect::{Connect, ConnectError},
    driver::{Driver, Host, Progress, Shared, now},
    seed::{SeedError, seed},
    stream::Stream,
    tls::{Handshake, HandshakeError, Roots, aes_hardware, handshake},
};

/// How long a dial may take in all: Arti gives a transport 10 s at a round trip of 400 ms; slow lines get more.
const DIAL_LIMIT: Duration = Duration::from_secs(30);

/// How long TCP may take of that, so that a bridge that is not there is told from one that does not go on. A SYN is repeated
/// after 1, 3, 7 and 15 seconds.
const CONNECT_LIMIT: Duration = Duration::from_secs(20);

/// What all dials of a program share.
#[derive(Clone, Debug)]
pub struct DialerConfig {
    /// How bridges are reached.
    pub connect: Connect,
    /// Whose certificates are believed.
    pub roots: Roots,
    /// Send the first data with the first inner message: a round trip less, and neither forward secret nor
    /// post-quantum. For data that is itself encrypted, as Tor's is.
    pub early_data: bool,
    /// The page that is loaded, a path on the decoy.
    pub path: String,
}

impl DialerConfig {
    /// Directly, without early data, the decoy's front page.
    #[must_use]
    pub fn new(roots: Roots) -> Self {
        Self { connect: Connect::default(), roots, early_data: false, path: "/".to_owned() }
    }
}

/// Bridges of which is remembered how their decoys take the knock. A user has a handful.
const MAX_LEARNED: usize = 256;

/// Makes tunnels.
///
/// Few decoys refuse the knock in padding and take it in a cookie (docs/protocol.md, section 4). The bridge line does not say
/// which: after a load without a proof the next dial to the same bridge tries the other form.
#[derive(Clone, Debug)]
pub struct Dialer {
    config: Arc<DialerConfig>,
    fields: Arc<Mutex<HashMap<BridgeKey, Field>>>,
}

/// Why there is no tunnel.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DialError {
    /// The bridge was not reached.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The TLS handshake with the site behind the bridge failed.
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    /// The page load, the proof or the inner handshake failed.
    #[error("{}{}", .0, hint(.0))]
    Tunnel(Ended),
    /// It took too long.
    #[error("no tunnel after {} seconds: the network is very slow, or something on it drops this connection", DIAL_LIMIT.as_secs())]
    TimedOut,
    /// This machine cannot begin.
    #[error(transparent)]
    Seed(#[from] SeedError),
}

fn hint(why: &Ended) -> &'static str {
    match why {
        Ended::NoProof => ": check the key and the name in the bridge line, and whether the bridge runs",
        Ended::Load => ": its operator should check the site",
        _ => "",
    }
}

impl DialError {
    /// Who is at fault.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Connect(error) => error.kind(),
            Self::Handshake(error) => error.kind(),
            Self::Tunnel(why) => why.kind(),
            Self::TimedOut => Kind::Network,
            Self::Seed(_) => Kind::Local,
        }
    }

    /// Whether dialling again can help.
    #[must_use]
    pub fn retry(&self) -> Retry {
        match self {
            Self::Connect(error) => error.retry(),
            Self::Handshake(error) => error.retry(),
            Self::Tunnel(why) => why.retry(),
            Self::TimedOut => Retry::Later,
            Self::Seed(_) => Retry::Never,
        }
    }
}

impl Dialer {
    /// A dialer with this configuration.
    #[must_use]
    pub fn new(config: DialerConfig) -> Self {
        Self { config: Arc::new(config), fields: Arc::default() }
    }

    /// Reaches the bridge, loads the decoy's page and waits for the bridge's proof.
    ///
    /// Dropping the future closes the connection and frees everything. When the bridge does not prove itself, or not in
    /// time, the connection is left behind to idle out as a browser's would (docs/protocol.md, section 5).
    ///
    /// # Errors
    ///
    /// See [`DialError`].
    pub async fn dial(&self, line: &BridgeLine) -> Result<Tunnel, DialError> {
        let limit = tokio::time::Instant::now() + DIAL_LIMIT;
        // Boxed: what it needs while it runs would otherwise stay in its caller for as long as that lives.
        let begun = timeout_at(limit, Box::pin(self.begin(line))).await;
        let shared = begun.unwrap_or(Err(DialError::TimedOut))?;
        let tunnel = Tunnel::new(Arc::clone(&shared));
        let waiting = shared.until(|inner| match inner.progress {
            Progress::Begun => None,
            Progress::Proved | Progress::Up => Some(Ok(())),
            Progress::Over(why) => Some(Err(DialError::Tunnel(why))),
        });
        let outcome = timeout_at(limit, waiting).await.unwrap_or(Err(DialError::TimedOut));
        if outcome.is_err() {
            // The carrier goes on without a user, as a page left open, where it has not ended.
            shared.leave_open();
        }
        if let Err(DialError::Tunnel(Ended::NoProof)) = outcome {
            self.try_other_field(&line.key);
        }
        outcome.map(|()| tunnel)
    }

    /// Everything up to the TLS handshake, and the task that goes on from there.
    async fn begin(&self, line: &BridgeLine) -> Result<Arc<Shared>, DialError> {
        let mut rng = ChaCha20Rng::from_seed(seed()?);
        let pick = rng.next_u32() as usize % line.sni.len().max(1);
        let Some(name) = line.sni.get(pick) else { return Err(DialError::Tunnel(Ended::Internal)) };
        let mut tcp = self.config.connect.connect_within(line.address, CONNECT_LIMIT).await?;
        let offer = token::offer(&mut rng, &line.key, name, aes_hardware());
        let done = handshake(&mut tcp, &offer, name, &self.config.roots).await?;
        let start = self.start(line, name, offer.token, done, &mut rng);
        let shared = Shared::new(Box::new(Client::new(start, now())));
        tokio::spawn(Driver::new(Arc::clone(&shared), tcp, None, NoHost).run());
        Ok(shared)
    }

    fn field(&self, bridge: &BridgeKey) -> Field {
        let fields = self.fields.lock().unwrap_or_else(PoisonError::into_inner);
        fields.get(bridge).copied().unwrap_or(Field::Padding)
    }

    fn try_other_field(&self, bridge: &BridgeKey) {
        let other = match self.field(bridge) {
            Field::Padding => Field::Cookie,
            Field::Cookie => Field::Padding,
        };
        let mut fields = self.fields.lock().unwrap_or_else(PoisonError::into_inner);
        if fields.len() >= MAX_LEARNED && !fields.contains_key(bridge) {
            fields.clear();
        }
        fields.insert(*bridge, other);
    }

    fn start(
        &self,
        line: &BridgeLine,
        name: &ServerName,
        token: Token,
        done: Handshake,
        rng: &mut ChaCha20Rng,
    ) -> Start {
        let mut seed = [0; 32];
        rng.fill_bytes(&mut seed);
        Start {
            bridge: line.key,
            invitation: None,
            token,
            tls: done.tls,
            name: name.clone(),
            path: self.config.path.clone(),
            field: self.field(&line.key),
            early_data: self.config.early_data,
            aes_hardware: aes_hardware(),
            seed,
        }
    }
}

/// One carrier to a bridge and the streams in it. Clones are handles of the same tunnel; with the last handle and the last stream
/// dropped the connection closes.
pub struct Tunnel {
    shared: Arc<Shared>,
}

impl Tunnel {
    fn new(shared: Arc<Shared>) -> Self {
        shared.add_handle();
        Self { shared }
    }

    /// Opens a stream. Nothing is sent before its first data.
    ///
    /// # Errors
    ///
    /// The tunnel has ended, is about to, or has too many streams.
    pub fn open(&self) -> Result<Stream, OpenStreamError> {
        let mut inner = self.shared.lock();
        if let Progress::Over(why) = inner.progress {
            return Err(OpenStreamError::Ended(why));
        }
        let mux = inner.core.streams().ok_or(OpenStreamError::Ended(Ended::Internal))?;
        let id = mux.open()?;
        inner.count_handle();
        drop(inner);
        Ok(Stream::new(Arc::clone(&self.shared), id, true))
    }

    /// Whether new streams are still taken: the decoy's connection is not about to end.
    #[must_use]
    pub fn is_open(&self) -> bool {
        let inner = self.shared.lock();
        !inner.going_away && !matches!(inner.progress, Progress::Over(_))
    }

    /// Waits until the inner handshake is complete; [`Dialer::dial`] returns at the proof.
    ///
    /// # Errors
    ///
    /// Why the tunnel ended before.
    pub async fn established(&self) -> Result<(), Ended> {
        self.shared
            .until(|inner| match inner.progress {
                Progress::Begun | Progress::Proved => None,
                Progress::Up => Some(Ok(())),
                Progress::Over(why) => Some(Err(why)),
            })
            .await
    }

    /// Waits for the end and says why.
    pub async fn closed(&self) -> Ended {
        self.shared
            .until(|inner| if let Progress::Over(why) = inner.progress { Some(why) } else { None })
            .await
    }
}

impl Clone for Tunnel {
    fn clone(&self) -> Self {
        Self::new(Arc::clone(&self.shared))
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        self.shared.drop_handle(true);
    }
}

/// Why a stream was not opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenStreamError {
    /// The tunnel has ended.
    #[error("the tunnel has ended: {0}")]
    Ended(Ended),
    /// The streams' own rules.
    #[error(transparent)]
    Refused(#[from] OpenError),
}

impl OpenStreamError {
    /// Who is at fault.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Ended(why) => why.kind(),
            Self::Refused(error) => error.kind(),
        }
    }

    /// Whether asking again can help.
    #[must_use]
    pub fn retry(&self) -> Retry {
        match self {
            Self::Ended(why) => why.retry(),
            Self::Refused(error) => error.retry(),
        }
    }
}

/// A client has no hellos to judge and no use for streams the bridge opens.
struct NoHost;

impl Host for NoHost {
    fn allow(&mut self) -> bool {
        false
    }

    fn stream(&mut self, stream: Stream) -> Result<(), Stream> {
        Err(stream)
    }
}
