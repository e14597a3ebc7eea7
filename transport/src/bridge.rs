//! The bridge's side: listen, join every client to the decoy, and hand out the streams of those that knock.

mod examiner;
mod whose;

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::unix::net::UnixStream,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak},
    time::Duration,
};

use qnet_proto::{
    admission::Door,
    bridge::{Bridge, BridgeConfig as Core, DecoyFacts},
    carrier::Close,
    elsewhere::Holder,
    knock::KnockedTokens,
    session::{Profile, SharedSession, lock_sessions},
    shape::Counters,
    websocket as protocol,
};
use qnet_wire::{key::IdentityKey, name::ServerName, url::WebsocketUrl};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc, watch},
    task::JoinHandle,
};

use crate::{
    admission::{Admission, Doorkeeper},
    budget::Budget,
    connect::{Connect, Hop},
    decoy::Resolver,
    descriptors::{self, Seldom},
    driver::{Driver, Host, now},
    elsewhere::{self, Link},
    listening::{Balancers, Listening},
    seed::seed,
    session::Shared,
    stream::Stream,
    websocket::{self, Caller},
};

pub use crate::sessions::Sessions;
pub use examiner::Examiner;
pub use whose::Whose;

/// Tokens that knocked and are remembered (docs/protocol.md, section 4).
const REMEMBERED: usize = 65_536;
/// Streams opened by clients and not yet taken by [`Listener::accept`].
const BACKLOG: usize = 256;
/// Connections at once: a hundred thousand clients, at two or three descriptors and some 16 KiB each less than 2 GB, and visitors
/// beside them. Fewer where the limit of open files is lower than that takes.
const MAX_CONNECTIONS: usize = 120_000;
/// How long the decoy may take to accept. It is on this machine or near it.
const DECOY_CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// How long to wait after accept failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How often it is looked whether nothing is left.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How often sessions without a carrier are looked through for those whose time is over.
const EXPIRE_EVERY: Duration = Duration::from_secs(10);

/// What a bridge needs.
pub struct BridgeConfig {
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The bridge's key.
    pub identity: IdentityKey,
    /// The decoy's address.
    pub decoy: SocketAddr,
    /// Names the decoy serves and clients may ask for; at least one.
    pub names: Vec<ServerName>,
    /// Who may use it.
    pub admission: Admission,
    /// From which address the decoy is reached; never through a proxy.
    pub connect: Connect,
    /// How sessions behave.
    pub profile: Profile,
    /// Its sessions; the same as another listener's of the same bridge where their carriers may follow each other.
    pub sessions: Sessions,
}

/// What a bridge behind a web server or a CDN needs, which ends TLS.
pub struct WebsocketBridgeConfig {
    /// Where to listen, in the clear: on loopback. Port 0 takes a free one.
    pub listen: SocketAddr,
    /// The bridge's key.
    pub identity: IdentityKey,
    /// The websocket's address, as clients have it.
    pub url: WebsocketUrl,
    /// The site's plain HTTP origin, which gets what is not a client's; `None`: such connections are cut off, for a server in front
    /// that then answers for itself.
    pub site: Option<SocketAddr>,
    /// Clients are those that the server in front names in `X-Forwarded-For`, and not the server itself. To be set only where it
    /// adds that field, which clients could fill in as they like otherwise.
    pub forwarded: bool,
    /// From which address the site is reached; never through a proxy.
    pub connect: Connect,
    /// How sessions behave.
    pub profile: Profile,
    /// Its sessions; the same as another listener's of the same bridge where their carriers may follow each other.
    pub sessions: Sessions,
}

/// A stream a client opened.
pub struct Incoming {
    /// The stream.
    pub stream: Stream,
    /// The client's address; port 0 where a web server in front told it. Not for logs.
    pub client: SocketAddr,
}

/// What stands for a client's network wherever clients are counted: its /24 or, of an IPv6 address, its /64. More cannot be told
/// apart: behind an address there may be many, and who has one /64 has 2^64 addresses.
#[must_use]
pub fn client_network(ip: IpAddr) -> u64 {
    crate::budget::prefix(ip.to_canonical())
}

/// What is counted, for status lines and metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections accepted.
    pub connections: u64,
    /// Streams handed out.
    pub streams: u64,
    /// Connections for which the decoy was not reached.
    pub decoy_failures: u64,
}

/// What a bridge's carriers look like, and who stands behind it for everybody else.
enum Cover {
    Mirror { core: Arc<Core>, decoy: SocketAddr },
    Websocket { core: Arc<protocol::BridgeConfig>, site: Option<SocketAddr>, forwarded: bool },
}

struct Common {
    cover: Cover,
    connect: Connect,
    budget: Mutex<Budget>,
    counts: Mutex<Counts>,
    balancers: Balancers,
    whose: Whose,
    /// Why the decoy was not reached, if it was not when last asked.
    trouble: watch::Sender<Option<String>>,
    incoming: mpsc::Sender<Incoming>,
    /// Connections at once.
    room: usize,
    slots: Arc<Semaphore>,
    sessions: Sessions,
}

/// A listening bridge. Dropping it stops listening; connections that are there go on.
pub struct Listener {
    local: SocketAddr,
    incoming: mpsc::Receiver<Incoming>,
    common: Arc<Common>,
    /// Until [`Self::open`].
    closed: Option<TcpListener>,
    task: Option<JoinHandle<()>>,
}

impl Listener {
    /// Binds and begins to serve.
    ///
    /// # Errors
    ///
    /// The address cannot be listened on.
    pub fn bind(config: BridgeConfig) -> io::Result<Self> {
        let mut listener = Self::prepare(Listening::bind(config.listen)?, config);
        listener.open();
        Ok(listener)
    }

    /// A bridge at a socket of one's own, instead of the one that `config` says. It serves nobody before [`Self::open`]: who connects
    /// meanwhile waits.
    #[must_use]
    pub fn prepare(listening: Listening, config: BridgeConfig) -> Self {
        let core = Core {
            door: Door::new(&config.identity, &config.admission),
            identity: config.identity,
            names: config.names,
            facts: RwLock::new(DecoyFacts::default()),
            knocked: Mutex::new(KnockedTokens::new(REMEMBERED)),
            sessions: Arc::clone(&config.sessions.known),
            profile: config.profile,
        };
        let cover = Cover::Mirror { core: Arc::new(core), decoy: config.decoy };
        Self::behind(listening, cover, config.connect, config.sessions)
    }

    /// Binds and begins to serve behind a web server.
    ///
    /// # Errors
    ///
    /// The address cannot be listened on.
    pub fn bind_websocket(config: WebsocketBridgeConfig) -> io::Result<Self> {
        let mut listener = Self::prepare_websocket(Listening::bind(config.listen)?, config);
        listener.open();
        Ok(listener)
    }

    /// The same at a socket of one's own, as by [`Self::prepare`].
    #[must_use]
    pub fn prepare_websocket(listening: Listening, config: WebsocketBridgeConfig) -> Self {
        let core = protocol::BridgeConfig {
            identity: config.identity,
            url: config.url,
            sessions: Arc::clone(&config.sessions.known),
            profile: config.profile,
        };
        let cover = Cover::Websocket { core: Arc::new(core), site: config.site, forwarded: config.forwarded };
        Self::behind(listening, cover, config.connect, config.sessions)
    }

    fn behind(listening: Listening, cover: Cover, connect: Connect, sessions: Sessions) -> Self {
        let local = listening.local_addr();
        let (tcp, balancers) = listening.split();
        let (sender, incoming) = mpsc::channel(BACKLOG);
        let room = descriptors::connections(MAX_CONNECTIONS);
        let common = Arc::new(Common {
            cover,
            connect,
            budget: Mutex::new(Budget::new(now())),
            counts: Mutex::default(),
            balancers,
            whose: Whose::default(),
            trouble: watch::Sender::new(None),
            incoming: sender,
            room,
            slots: Arc::new(Semaphore::new(room)),
            sessions,
        });
        tokio::spawn(expire(Arc::downgrade(&common)));
        Self { local, incoming, common, closed: Some(tcp), task: None }
    }

    /// Begins to serve, if it did not.
    pub fn open(&mut self) {
        if let Some(tcp) = self.closed.take() {
            self.task = Some(tokio::spawn(serve(tcp, Arc::clone(&self.common))));
        }
    }

    /// The address that was bound.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Takes no more connections: the port is closed when this returns. Those that are there go on, and so does [`Self::accept`].
    pub async fn stop_listening(&mut self) {
        self.closed = None;
        if let Some(task) = self.task.take() {
            task.abort();
            // That it was aborted is all it says.
            let _ = task.await;
        }
    }

    /// The next stream a client opened.
    pub async fn accept(&mut self) -> Option<Incoming> {
        self.incoming.recv().await
    }

    /// What the carriers of a mirror bridge go by at the moment.
    #[must_use]
    pub fn facts(&self) -> Option<DecoyFacts> {
        self.examiner().map(|examiner| examiner.facts().clone())
    }

    /// Who changes whom a mirror bridge admits.
    #[must_use]
    pub fn doorkeeper(&self) -> Option<Doorkeeper> {
        match &self.common.cover {
            Cover::Mirror { core, .. } => {
                Some(Doorkeeper { core: Arc::clone(core), sessions: self.common.sessions.clone() })
            }
            Cover::Websocket { .. } => None,
        }
    }

    /// What examines a mirror bridge's decoy, before the bridge is announced and after.
    #[must_use]
    pub fn examiner(&self) -> Option<Examiner> {
        match &self.common.cover {
            Cover::Mirror { core, decoy } => {
                let resolver = Resolver::system(self.common.connect.clone());
                Some(Examiner { core: Arc::clone(core), decoy: *decoy, resolver })
            }
            Cover::Websocket { .. } => None,
        }
    }

    /// Its sessions, for another listener of the same bridge.
    #[must_use]
    pub fn sessions(&self) -> Sessions {
        self.common.sessions.clone()
    }

    /// Tells a decoy that is this very program whose the connections are that come to it.
    #[must_use]
    pub fn whose(&self) -> Whose {
        self.common.whose.clone()
    }

    /// Why the decoy was not reached, in words for the operator, or `None` where it was: the outcome of the last
    /// connection.
    #[must_use]
    pub fn trouble(&self) -> watch::Receiver<Option<String>> {
        self.common.trouble.subscribe()
    }

    /// What was counted so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        *self.common.counts()
    }

    /// What serves the carriers that another process took.
    #[must_use]
    pub fn holding(&self) -> Holding {
        Holding(Arc::clone(&self.common))
    }

    /// The same for who does not hold the listener.
    #[must_use]
    pub fn counter(&self) -> Counter {
        Counter(Arc::clone(&self.common))
    }
}

/// Serves the carriers of a [`Listener`]'s sessions whose connections came to a newer process of the same bridge.
#[derive(Clone)]
pub struct Holding(Arc<Common>);

impl Holding {
    /// Serves a connection that [`Sessions::look_elsewhere`] gave there, until it ends. It counts as one of the bridge's own.
    pub async fn serve(&self, link: UnixStream) {
        // Fails only where the semaphore is closed, which it never is.
        let Ok(_slot) = self.0.slots.acquire().await else { return };
        let (link, client) = match elsewhere::receive(link).await {
            Ok(received) => received,
            Err(error) => {
                tracing::debug!("a connection from a newer process cannot be used: {error}");
                return;
            }
        };
        let core = Holder::new(Arc::clone(&self.0.sessions.known), now());
        let host = BridgeHost::new(Arc::clone(&self.0), client);
        Driver::linked(Box::new(core), Some(link), host).run().await;
    }
}

/// Tells what a [`Listener`] has counted, as long as it is asked.
#[derive(Clone)]
pub struct Counter(Arc<Common>);

impl Counter {
    /// What was counted so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        *self.0.counts()
    }

    /// Whether the decoy was reached when last asked.
    #[must_use]
    pub fn decoy_up(&self) -> bool {
        self.0.trouble.borrow().is_none()
    }

    /// Waits until no connection is left, a client's or a visitor's, and no session whose client may come back. To be asked when no
    /// new connections are taken.
    pub async fn drained(&self) {
        let busy = || self.0.slots.available_permits() < self.0.room;
        // Looked at again and again: who waited for all slots would keep newer processes' connections from getting one.
        while busy() || !lock_sessions(&self.0.sessions.known).is_empty() {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Sessions that have not ended.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.0.sessions.users().len()
    }

    /// What the shapers of all sessions' carriers did on the bridge's side, of sessions that are over as well.
    #[must_use]
    pub fn shaping(&self) -> Counters {
        lock_sessions(&self.0.sessions.known).shaping()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }
}

impl Common {
    /// The decoy, or the site behind a websocket bridge.
    async fn reach(&self, address: SocketAddr) -> Option<TcpStream> {
        let reached = self.connect.connect_directly(address, Hop::Decoy, DECOY_CONNECT_LIMIT).await;
        match reached {
            Ok(tcp) => {
                self.tell(None);
                Some(tcp)
            }
            Err(error) => {
                self.counts().decoy_failures += 1;
                self.tell(Some(format!("{error}; is the web server at {address} running?")));
                None
            }
        }
    }

    /// Only news wakes who watches: a site that is down is tried for every visitor.
    fn tell(&self, trouble: Option<String>) {
        self.trouble.send_if_modified(|known| {
            let news = *known != trouble;
            *known = trouble;
            news
        });
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn serve(listener: TcpListener, common: Arc<Common>) {
    let (mut full, mut failed) = (Seldom::default(), Seldom::default());
    loop {
        if common.slots.available_permits() == 0 && full.is_due(now()) {
            tracing::warn!(
                "{} connections are open, as many as the limit of open files (ulimit -n) leaves descriptors for, {MAX_CONNECTIONS} at \
                 most; others wait",
                common.room
            );
        }
        let Ok(slot) = Arc::clone(&common.slots).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((tcp, client)) => {
                let common = Arc::clone(&common);
                tokio::spawn(async move {
                    carry(tcp, client, common).await;
                    drop(slot);
                });
            }
            // A client that is gone already is no failure of ours; running out of descriptors passes.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                if failed.is_due(now()) {
                    tracing::warn!(%error, "cannot accept connections; is the limit of open files (ulimit -n) too low?");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn carry(mut tcp: TcpStream, peer: SocketAddr, common: Arc<Common>) {
    let Some(client) = common.balancers.client(&mut tcp, peer).await else { return abort(&tcp) };
    common.counts().connections += 1;
    match &common.cover {
        Cover::Mirror { core, decoy } => {
            let (core, decoy) = (Arc::clone(core), *decoy);
            mirror(tcp, client, common, core, decoy).await;
        }
        Cover::Websocket { .. } => answer(tcp, client, common).await,
    }
}

/// Joins a client to the decoy.
async fn mirror(tcp: TcpStream, client: SocketAddr, common: Arc<Common>, core: Arc<Core>, decoy: SocketAddr) {
    let Some(decoy) = common.reach(decoy).await else {
        // What a client sees of a host whose server is down.
        abort(&tcp);
        return;
    };
    let (Ok(seed), Ok(()), Ok(())) = (seed(), tcp.set_nodelay(true), decoy.set_nodelay(true)) else {
        abort(&tcp);
        return;
    };
    let _known = common.whose.enter(&decoy, client);
    let host = BridgeHost::new(common, client);
    Driver::new(Box::new(Bridge::new(core, seed)), tcp, Some(decoy), host).run().await;
}

/// Takes a client's websocket; hands everything else on to the site.
async fn answer(mut tcp: TcpStream, peer: SocketAddr, common: Arc<Common>) {
    let Cover::Websocket { core, site, forwarded } = &common.cover else { return };
    let (core, site, forwarded) = (Arc::clone(core), *site, *forwarded);
    let (Ok(seed), Ok(())) = (seed(), tcp.set_nodelay(true)) else { return abort(&tcp) };
    match websocket::receive(&mut tcp, core.url.path()).await {
        Ok(Caller::Client { answer, rest, address }) => {
            let core = protocol::Bridge::new(core, &answer, &rest, seed, now());
            let address = address.filter(|_| forwarded);
            let client = address.map_or(peer, |address| SocketAddr::new(address, 0));
            let host = BridgeHost::new(common, client);
            Driver::new(Box::new(core), tcp, None, host).run().await;
        }
        Ok(Caller::Visitor(head)) => {
            let Some(site) = site else { return abort(&tcp) };
            match common.reach(site).await {
                // Either end may break off as it likes.
                Some(site) => drop(websocket::join(tcp, site, &head).await),
                None => abort(&tcp),
            }
        }
        Err(_) => {}
    }
}

/// Ends sessions that were without a carrier for too long, for as long as the bridge is there.
async fn expire(common: Weak<Common>) {
    loop {
        tokio::time::sleep(EXPIRE_EVERY).await;
        let Some(common) = common.upgrade() else { return };
        common.sessions.expire();
    }
}

fn abort(tcp: &TcpStream) {
    crate::driver::end(tcp, Close::Reset).ok();
}

struct BridgeHost {
    common: Arc<Common>,
    client: SocketAddr,
    /// Of the session that began with this carrier.
    own: Option<Arc<Shared>>,
    /// The process that was asked last for the session.
    asked: Option<u64>,
}

impl BridgeHost {
    fn new(common: Arc<Common>, client: SocketAddr) -> Self {
        Self { common, client, own: None, asked: None }
    }
}

impl Host for BridgeHost {
    fn allow(&mut self) -> bool {
        let ip: IpAddr = self.client.ip().to_canonical();
        self.common.budget.lock().unwrap_or_else(PoisonError::into_inner).take(ip, now())
    }

    fn shared(&mut self, session: &SharedSession, established: bool) -> Arc<Shared> {
        if established {
            return self.common.sessions.find(session, self.own.take());
        }
        let shared = Shared::new(Arc::clone(session));
        self.own = Some(Arc::clone(&shared));
        shared
    }

    fn link(&mut self) -> Option<Link> {
        let (link, asked) = self.common.sessions.others.connect(self.asked, self.client)?;
        self.asked = Some(asked);
        Some(link)
    }

    fn stream(&mut self, stream: Stream) {
        let incoming = Incoming { stream, client: self.client };
        if self.common.incoming.try_send(incoming).is_ok() {
            self.common.counts().streams += 1;
        }
    }
}
