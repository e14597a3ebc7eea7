//! The client's side: dial a bridge, get a session with streams, and keep it alive over one connection after another.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use qnet_proto::{
    Ended,
    carrier::Carrier,
    client::{Client, Start},
    knock::Field,
    mux::{OpenError, Role},
    session::{Mode, Need, Profile, Session, SharedSession},
    shape::{Counters, Shape},
    token::{self, Token},
    websocket as protocol,
};
use qnet_wire::{
    bridge_line::{BridgeLine, Cover},
    error::{Kind, Retry},
    key::{BridgeKey, IdentityKey},
    name::ServerName,
    url::WebsocketUrl,
};
use rand_chacha::{
    ChaCha20Rng,
    rand_core::{Rng, SeedableRng},
};
use tokio::{
    net::TcpStream,
    sync::{oneshot, watch},
    time::{Instant, sleep, timeout_at},
};

pub use qnet_proto::websocket::WebsocketError;

use crate::{
    connect::{Connect, ConnectError},
    driver::{Driver, Fate, Host, Progress, now},
    seed::{SeedError, seed},
    session::Shared,
    stream::Stream,
    tls::{Handshake, HandshakeError, Roots, aes_hardware, handshake},
    websocket::{self, ClientCarrier, Occasion, Opened},
};

/// How long a dial may take in all: Arti gives a transport 10 s at a round trip of 400 ms; slow lines get more.
const DIAL_LIMIT: Duration = Duration::from_secs(30);

/// How long TCP may take of that, so that a bridge that is not there is told from one that does not go on. A SYN is repeated
/// after 1, 3, 7 and 15 seconds.
pub(crate) const CONNECT_LIMIT: Duration = Duration::from_secs(20);

/// The pause after the first failure; each further one doubles it.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

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
    /// How sessions behave.
    pub profile: Profile,
}

impl DialerConfig {
    /// Directly, without early data, the decoy's front page.
    #[must_use]
    pub fn new(roots: Roots) -> Self {
        Self {
            connect: Connect::default(),
            roots,
            early_data: false,
            path: "/".to_owned(),
            profile: Profile::default(),
        }
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
    /// The page load before the websocket, or its opening, failed.
    #[error(transparent)]
    Websocket(#[from] WebsocketError),
    /// No line, or lines of several bridges.
    #[error("one bridge's lines are needed, all with the same key and the same invitation, if any")]
    Lines,
    /// The line names a traffic profile that is not known here.
    #[error("the bridge line's profile= is none of those that this version knows: {}", profiles())]
    Profile,
    /// It took too long.
    #[error("no tunnel after {} seconds: the network is very slow, or something on it drops this connection", DIAL_LIMIT.as_secs())]
    TimedOut,
    /// This machine cannot begin.
    #[error(transparent)]
    Seed(#[from] SeedError),
}

/// The names of the traffic profiles, for people.
#[must_use]
pub fn profiles() -> String {
    let names: Vec<&str> = Shape::all().map(|shape| shape.profile().name.as_str()).collect();
    names.join(", ")
}

fn hint(why: &Ended) -> &'static str {
    match why {
        Ended::NoProof => {
            ": check the key and the name in the bridge line, whether the bridge runs and, if it is by invitation, whether yours still holds"
        }
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
            Self::Websocket(error) => error.kind(),
            Self::TimedOut => Kind::Network,
            Self::Lines | Self::Profile => Kind::Misuse,
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
            Self::Websocket(error) => error.retry(),
            Self::TimedOut => Retry::Later,
            Self::Lines | Self::Profile | Self::Seed(_) => Retry::Never,
        }
    }
}

impl Dialer {
    /// A dialer with this configuration.
    #[must_use]
    pub fn new(config: DialerConfig) -> Self {
        Self { config: Arc::new(config), fields: Arc::default() }
    }

    /// Reaches the bridge, or the site in front of it, loads the page, opens the websocket where the line names one, and waits
    /// for the bridge's proof.
    ///
    /// Dropping the future closes the connection and frees everything. When the bridge does not prove itself, or not in
    /// time, the connection is left behind to idle out as a browser's would (docs/protocol.md, section 5); a websocket is closed.
    ///
    /// # Errors
    ///
    /// See [`DialError`].
    pub async fn dial(&self, line: &BridgeLine) -> Result<Tunnel, DialError> {
        self.dial_any(std::slice::from_ref(line)).await
    }

    /// The same where one bridge, of one key, has several lines: other addresses, other covers. The first that can be reached
    /// begins; when a carrier fails or stands still the session goes on over the next.
    ///
    /// # Errors
    ///
    /// See [`DialError`]; of the last line, if all fail.
    pub async fn dial_any(&self, lines: &[BridgeLine]) -> Result<Tunnel, DialError> {
        let Some(first) = lines.first() else { return Err(DialError::Lines) };
        if lines.iter().any(|line| line.key != first.key || line.invitation != first.invitation) {
            return Err(DialError::Lines);
        }
        let mut rng = ChaCha20Rng::from_seed(seed()?);
        let mut profile = self.config.profile.clone();
        if let Some(name) = &first.profile {
            profile.shape = Shape::named(name.as_str()).ok_or(DialError::Profile)?;
        }
        let session = Session::new(Role::Client, profile, now());
        let keeper = Keeper {
            dialer: self.clone(),
            lines: lines.to_vec(),
            present: AtomicUsize::new(0),
            key: match &first.invitation {
                Some(invitation) => invitation.key().clone(),
                None => IdentityKey::generate(&mut rng),
            },
            shared: Shared::new(Arc::new(Mutex::new(session))),
            known: websocket::Known::default(),
        };
        keeper.shared.session().dialled(None, now());
        let mut outcome = keeper.carry(Mode::Replace, Occasion::Alone, false).await;
        for _ in lines.iter().skip(1) {
            if outcome.is_err() {
                outcome = keeper.carry(Mode::Replace, Occasion::Alone, false).await;
            }
        }
        if let Err(error) = outcome {
            keeper.known.leave_open();
            return Err(error);
        }
        let tunnel = Tunnel::new(Arc::clone(&keeper.shared));
        tokio::spawn(keeper.keep(rng));
        Ok(tunnel)
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
}

type BoxedCarrier = Box<dyn Carrier + Send>;

/// Makes the carriers of one session, one after another.
struct Keeper {
    dialer: Dialer,
    /// The bridge's, at least one.
    lines: Vec<BridgeLine>,
    /// Which of them is used.
    present: AtomicUsize,
    /// The client's static key on all carriers of this session: fresh, or the invitation's.
    key: IdentityKey,
    shared: Arc<Shared>,
    /// Of the site in front of a bridge under the websocket cover.
    known: websocket::Known,
}

impl Keeper {
    fn line(&self) -> &BridgeLine {
        let at = self.present.load(Ordering::Relaxed) % self.lines.len();
        &self.lines[at]
    }

    /// Takes the next line from now on.
    fn turn(&self) {
        self.present.fetch_add(1, Ordering::Relaxed);
    }

    /// One carrier more, as far as the bridge's proof or, where `up`, until it carries the session.
    async fn carry(&self, mode: Mode, occasion: Occasion, up: bool) -> Result<(), DialError> {
        let outcome = self.try_line(mode, occasion, up).await;
        if outcome.is_err() {
            self.turn();
        }
        outcome
    }

    async fn try_line(&self, mode: Mode, occasion: Occasion, up: bool) -> Result<(), DialError> {
        let limit = Instant::now() + DIAL_LIMIT;
        // Boxed: what it needs while it runs would otherwise stay in its caller for as long as that lives.
        let begun = timeout_at(limit, Box::pin(self.begin(mode, occasion))).await;
        let (mut progress, fate) = begun.unwrap_or(Err(DialError::TimedOut))?;
        let decided = timeout_at(
            limit,
            progress.wait_for(|progress| match progress {
                Progress::Begun => false,
                Progress::Proved => !up,
                Progress::Up | Progress::Over(_) => true,
            }),
        )
        .await;
        let outcome = match decided.map(|decided| decided.map(|progress| *progress)) {
            Ok(Ok(Progress::Proved | Progress::Up)) => Ok(()),
            Ok(Ok(Progress::Over(why))) => Err(DialError::Tunnel(why)),
            Ok(Ok(Progress::Begun) | Err(_)) => Err(DialError::Tunnel(Ended::Internal)),
            Err(_) => Err(DialError::TimedOut),
        };
        // Without a proof the carrier goes on as a page left open, where it has not ended.
        let kept = fate.send(if outcome.is_ok() { Fate::Keep } else { Fate::LeaveOpen });
        if let Err(DialError::Tunnel(Ended::NoProof)) = outcome {
            self.dialer.try_other_field(&self.line().key);
        }
        // Where the carrier's task is gone, the carrier has ended, and the session knows.
        kept.ok();
        outcome
    }

    /// Everything up to the TLS handshake, and the task that goes on from there.
    async fn begin(
        &self,
        mode: Mode,
        occasion: Occasion,
    ) -> Result<(watch::Receiver<Progress>, oneshot::Sender<Fate>), DialError> {
        let mut rng = ChaCha20Rng::from_seed(seed()?);
        let (core, tcp) = match &self.line().cover {
            Cover::Mirror(names) => self.mirror(names, mode, &mut rng).await?,
            Cover::Websocket(url) => self.websocket(url, mode, occasion, &mut rng).await?,
        };
        let host = ClientHost(Arc::clone(&self.shared));
        let mut driver = Driver::new(core, tcp, None, host);
        let watched = driver.watched();
        tokio::spawn(driver.run());
        Ok(watched)
    }

    /// A carrier that is a visit to the decoy, up to the TLS handshake.
    async fn mirror(
        &self,
        names: &[ServerName],
        mode: Mode,
        rng: &mut ChaCha20Rng,
    ) -> Result<(BoxedCarrier, TcpStream), DialError> {
        let config = &self.dialer.config;
        let pick = rng.next_u32() as usize % names.len().max(1);
        let Some(name) = names.get(pick) else { return Err(DialError::Tunnel(Ended::Internal)) };
        let mut tcp = config.connect.connect_within(self.line().address, CONNECT_LIMIT).await?;
        let offer = token::offer(rng, &self.line().key, name, aes_hardware());
        let done = handshake(&mut tcp, &offer, name, &config.roots).await?;
        let start = self.start(name, mode, offer.token, done, rng);
        Ok((Box::new(Client::new(start, now())), tcp))
    }

    /// A carrier that is a websocket, up to its opening.
    async fn websocket(
        &self,
        url: &WebsocketUrl,
        mode: Mode,
        occasion: Occasion,
        rng: &mut ChaCha20Rng,
    ) -> Result<(BoxedCarrier, TcpStream), DialError> {
        let config = &self.dialer.config;
        let Opened { tcp, tls, channel, round_trip } =
            websocket::open(config, self.line().address, url, &self.known, occasion, rng).await?;
        let mut seed = [0; 32];
        rng.fill_bytes(&mut seed);
        let start = protocol::Start {
            bridge: self.line().key,
            url: url.clone(),
            client_key: self.key.clone(),
            session: Arc::clone(self.shared.handle()),
            mode,
            channel,
            aes_hardware: aes_hardware(),
            round_trip,
            seed,
        };
        let now = now();
        Ok((Box::new(ClientCarrier::new(protocol::Client::new(start, now), tls, now)), tcp))
    }

    fn start(
        &self,
        name: &ServerName,
        mode: Mode,
        token: Token,
        done: Handshake,
        rng: &mut ChaCha20Rng,
    ) -> Start {
        let mut seed = [0; 32];
        rng.fill_bytes(&mut seed);
        let config = &self.dialer.config;
        Start {
            bridge: self.line().key,
            client_key: self.key.clone(),
            invited: self.line().invitation.is_some(),
            session: Arc::clone(self.shared.handle()),
            mode,
            token,
            tls: done.tls,
            name: name.clone(),
            path: config.path.clone(),
            field: self.dialer.field(&self.line().key),
            early_data: config.early_data,
            aes_hardware: aes_hardware(),
            seed,
        }
    }

    /// Makes a carrier whenever the session needs one, until the session is over.
    async fn keep(self, mut rng: ChaCha20Rng) {
        let mut trouble: Option<(Instant, Duration)> = None;
        while let Some(need) = self.needed().await {
            let mode = self.begin_anew(need);
            let occasion = match need {
                Need::Use | Need::Look => Occasion::Alone,
                _ => Occasion::Beside,
            };
            let error = match self.carry(mode, occasion, true).await {
                Ok(()) => {
                    trouble = None;
                    continue;
                }
                Err(error) => error,
            };
            let (since, pause) = trouble.unwrap_or((Instant::now(), FIRST_PAUSE));
            if error.retry() == Retry::Never || since.elapsed() > self.dialer.config.profile.give_up {
                tracing::warn!("a session is given up: no new connection to the bridge: {error}");
                self.shared.session().fail(Ended::Unreachable);
                self.shared.wake_all();
                return;
            }
            tracing::info!("no new connection to the bridge yet: {error}");
            trouble = Some((since, (2 * pause).min(LONGEST_PAUSE)));
            // Between half and all of it, so that many clients of a bridge that was away do not come back at once.
            sleep(pause.mul_f64(0.5 + f64::from(rng.next_u32()) / f64::from(u32::MAX) / 2.0)).await;
        }
    }

    /// Tells the session that a carrier is on its way, and returns how it should join.
    fn begin_anew(&self, need: Need) -> Mode {
        let mut session = self.shared.session();
        tracing::debug!("a session makes a new connection: {need}");
        session.dialled(Some(need), now());
        if need == Need::Stalled {
            self.turn();
        }
        session.mode_for(need)
    }

    /// Waits until the session needs a carrier; `None` when it is over.
    async fn needed(&self) -> Option<Need> {
        loop {
            let deadline = self.shared.session().deadline();
            let wait = self.shared.until(|session| {
                if session.ended().is_some() { Some(None) } else { session.need(now()).map(Some) }
            });
            let Some(deadline) = deadline else { return wait.await };
            if let Ok(found) = timeout_at(deadline.into(), wait).await {
                return found;
            }
            self.shared.session().on_timer(now());
            self.shared.wake_drivers();
        }
    }
}

/// A session with a bridge and the streams in it. Clones are handles of the same session; with the last handle and the last
/// stream dropped it ends.
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
    /// The session has ended or has too many streams.
    pub fn open(&self) -> Result<Stream, OpenStreamError> {
        let mut session = self.shared.session();
        if let Some(why) = session.ended() {
            return Err(OpenStreamError::Ended(why));
        }
        let id = session.streams().open()?;
        drop(session);
        self.shared.add_handle();
        Ok(Stream::new(Arc::clone(&self.shared), id, true))
    }

    /// Whether new streams are still taken.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.shared.session().ended().is_none()
    }

    /// Whether a connection carries the session at the moment. Without one the next data waits for a new page load.
    #[must_use]
    pub fn is_carried(&self) -> bool {
        self.shared.has_carrier()
    }

    /// Waits until the inner handshake is complete; [`Dialer::dial`] returns at the proof.
    ///
    /// # Errors
    ///
    /// Why the session ended before.
    pub async fn established(&self) -> Result<(), Ended> {
        let outcome = |session: &mut Session| match session.ended() {
            Some(why) => Some(Err(why)),
            None => session.id().map(|_| Ok(())),
        };
        self.shared.until(outcome).await
    }

    /// What the shaping of its carriers did on this side so far.
    #[must_use]
    pub fn shaping(&self) -> Counters {
        self.shared.session().shaping()
    }

    /// Ends the session here and now, whoever else has a handle or a stream of it, and returns when its last connection has told the
    /// bridge, or is gone. What the bridge has not got it does not get.
    pub async fn end(&self) {
        self.shared.session().cut();
        self.shared.wake_all();
        self.shared.until(|_| (!self.shared.has_carrier()).then_some(())).await;
    }

    /// Waits for the end and says why.
    pub async fn closed(&self) -> Ended {
        self.shared.until(|session| session.ended()).await
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

/// A client has no hellos to judge, one session, and no use for streams the bridge opens.
struct ClientHost(Arc<Shared>);

impl Host for ClientHost {
    fn allow(&mut self) -> bool {
        false
    }

    fn shared(&mut self, _session: &SharedSession, _established: bool) -> Arc<Shared> {
        Arc::clone(&self.0)
    }

    fn stream(&mut self, stream: Stream) {
        drop(stream);
    }
}
