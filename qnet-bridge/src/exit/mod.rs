//! What becomes of a client's stream where no tor stands behind the bridge: it says where to (docs/protocol.md, section 18), the
//! exit policy is asked, and the connection is made; or all streams go to one fixed upstream, as they are. The bridge's own site is
//! opened whatever the policy says.

pub mod limits;
mod meter;
pub mod policy;
mod site;
mod udp;

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use qnet_transport::{
    bridge::Incoming,
    connect::connect_from_any,
    decoy::{Place as Upstream, is_local},
    relay::relay,
};
use qnet_wire::target::{Answer, Host, MAX_REQUEST, Request, Target, TargetError};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
    sync::Semaphore,
    time::timeout,
};

use limits::{Clients, Full, Limits, Place};
use meter::Metered;
use policy::ExitPolicy;
pub use site::Site;

/// How long a client may take to say where to. It says so when it opens the stream.
const HEAD_LIMIT: Duration = Duration::from_secs(30);
/// How long a name's look-up may take.
const LOOKUP_LIMIT: Duration = Duration::from_secs(10);
/// Look-ups at once: each is a thread of the system's resolver.
const MAX_LOOKUPS: usize = 64;
/// Addresses of one name that are tried.
const MAX_TRIED: usize = 4;
/// How long one address may take to accept: a SYN and three repetitions.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// Where streams go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// Where each says, if the policy allows it.
    Anywhere(Allowed),
    /// All to this place.
    Upstream(Upstream),
}

/// What a bridge connects to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allowed {
    /// The rules.
    pub policy: ExitPolicy,
    /// Whether private and other special addresses, and this machine's own, are left to the rules.
    pub special: bool,
    /// Whether UDP is served; to the addresses and ports of the same rules.
    pub udp: bool,
}

impl Allowed {
    /// Whether a client may reach `target`.
    fn has(&self, target: SocketAddr) -> bool {
        self.policy.allows(target, self.special) && (self.special || !is_local(target.ip()))
    }
}

/// What is counted, for status lines and metrics. Nothing of it says who or where to.
#[derive(Debug, Default)]
pub struct Counts {
    /// Streams that were connected.
    pub connected: AtomicU64,
    /// Streams that the policy refused.
    pub refused: AtomicU64,
    /// Streams whose target was not reached.
    pub failed: AtomicU64,
    /// Streams beyond the limits.
    pub limited: AtomicU64,
}

/// Serves streams.
pub struct Exit {
    destination: RwLock<Arc<Destination>>,
    site: Site,
    /// What clients use.
    pub clients: Clients,
    /// What was counted.
    pub counts: Counts,
    lookups: Arc<Semaphore>,
}

impl Exit {
    /// An exit to there and to the bridge's own `site`, within these limits.
    #[must_use]
    pub fn new(destination: Destination, limits: Limits, site: Site) -> Self {
        let clients = Clients::default();
        clients.set(limits);
        let destination = RwLock::new(Arc::new(destination));
        Self {
            destination,
            site,
            clients,
            counts: Counts::default(),
            lookups: Arc::new(Semaphore::new(MAX_LOOKUPS)),
        }
    }

    /// Applies other settings to streams from now on; those that are there go on.
    pub fn set(&self, destination: Destination, limits: Limits) {
        *self.destination.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(destination);
        self.clients.set(limits);
    }

    /// Serves one stream to its end.
    pub async fn serve(&self, incoming: Incoming) {
        let Incoming { stream, client } = incoming;
        let destination = Arc::clone(&self.destination.read().unwrap_or_else(PoisonError::into_inner));
        let place = self.clients.enter(client.ip());
        // A stream that simply ends, or whose client goes away, is no news.
        let outcome = match &*destination {
            Destination::Upstream(upstream) => match place {
                Ok(place) => self.forward(stream, upstream, &place).await,
                Err(full) => {
                    self.turn_away(full);
                    Ok(())
                }
            },
            Destination::Anywhere(allowed) => self.connect_out(stream, allowed, place).await,
        };
        if let Err(error) = outcome {
            tracing::debug!("a stream ended: {error}");
        }
    }

    fn turn_away(&self, full: Full) {
        add(&self.counts.limited);
        tracing::debug!("a stream was turned away: {full:?}");
    }

    async fn forward<S>(&self, stream: S, upstream: &Upstream, place: &Place) -> io::Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let connected = async {
            let address = upstream.resolve(true).await.map_err(io::Error::other)?;
            // One place for all streams, and on this machine as a rule: the first to which there are too few ports.
            connect_from_any(address, |_| Ok(())).await
        };
        let connected = timeout(CONNECT_LIMIT, connected).await.unwrap_or_else(|late| Err(late.into()));
        match connected {
            Ok(tcp) => {
                add(&self.counts.connected);
                join(stream, tcp, place).await
            }
            Err(error) => {
                add(&self.counts.failed);
                tracing::warn!("the upstream {upstream} is not reached: {error}; is it running?");
                Ok(())
            }
        }
    }

    async fn connect_out<S>(
        &self,
        mut stream: S,
        allowed: &Allowed,
        place: Result<Place, Full>,
    ) -> io::Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let head =
            timeout(HEAD_LIMIT, read_request(&mut stream)).await.unwrap_or_else(|late| Err(late.into()))?;
        let (request, early) = match head {
            Ok(head) => head,
            Err(error) => {
                let answer = match error {
                    TargetError::Command(_) | TargetError::AddressType(_) => Answer::Unsupported,
                    _ => Answer::Failed,
                };
                return refuse(&mut stream, answer).await;
            }
        };
        let place = match place {
            Ok(place) => place,
            Err(full) => {
                self.turn_away(full);
                return refuse(&mut stream, Answer::TooManyStreams).await;
            }
        };
        match request {
            Request::Udp if allowed.udp => {
                stream.write_all(&Answer::Connected.bytes()).await?;
                add(&self.counts.connected);
                udp::associate(Metered::new(stream, &place), early, allowed, self).await
            }
            Request::Udp => {
                add(&self.counts.refused);
                refuse(&mut stream, Answer::Unsupported).await
            }
            Request::Tcp(target) => self.connect(stream, &target, early, (allowed, &place)).await,
        }
    }

    async fn connect<S>(
        &self,
        mut stream: S,
        target: &Target,
        mut early: Vec<u8>,
        (allowed, place): (&Allowed, &Place),
    ) -> io::Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let own = self.site.is(target);
        // Whatever the policy says: a stranger at the bridge's port has the site, too.
        let reached =
            if own { reach(&[self.site.address]).await } else { self.reach_allowed(target, allowed).await };
        let mut tcp = match reached {
            Ok(tcp) => tcp,
            Err(answer) => {
                let refused = answer == Answer::NotAllowed;
                add(if refused { &self.counts.refused } else { &self.counts.failed });
                return refuse(&mut stream, answer).await;
            }
        };
        add(&self.counts.connected);
        stream.write_all(&Answer::Connected.bytes()).await?;
        if own {
            early = site::beginning(&mut stream, early).await?;
        }
        tcp.write_all(&early).await?;
        drop(early);
        join(stream, tcp, place).await
    }

    async fn reach_allowed(&self, target: &Target, allowed: &Allowed) -> Result<TcpStream, Answer> {
        reach(&self.addresses(target, allowed).await?).await
    }

    /// The addresses of the target that are allowed. A name is looked up here, once: what is judged is what is connected to, so
    /// a name server that answers otherwise the next time gains nothing.
    async fn addresses(&self, target: &Target, allowed: &Allowed) -> Result<Vec<SocketAddr>, Answer> {
        let port = target.port();
        if !allowed.policy.allows_port(port) {
            return Err(Answer::NotAllowed);
        }
        let found = match target.host() {
            Host::Ip(ip) => vec![SocketAddr::new(*ip, port)],
            Host::Name(name) => {
                // The dot says that the name is whole: this machine's search domains and private names are not for clients,
                // unless the operator lets them in.
                let dot = if allowed.special { "" } else { "." };
                self.look_up(format!("{}{dot}", name.as_str()), port).await?
            }
        };
        let mut good: Vec<_> = found.into_iter().filter(|address| allowed.has(*address)).collect();
        good.truncate(MAX_TRIED);
        if good.is_empty() { Err(Answer::NotAllowed) } else { Ok(good) }
    }

    async fn look_up(&self, name: String, port: u16) -> Result<Vec<SocketAddr>, Answer> {
        let lookups = Arc::clone(&self.lookups);
        // A task of its own: a look-up cannot be stopped, so its place is taken until it is over, waited for or not.
        let task = tokio::spawn(async move {
            let _slot = lookups.acquire_owned().await.ok()?;
            let found = tokio::net::lookup_host((name, port)).await.ok()?;
            Some(found.collect::<Vec<_>>()).filter(|found| !found.is_empty())
        });
        match timeout(LOOKUP_LIMIT, task).await {
            Ok(Ok(found)) => found.ok_or(Answer::HostUnreachable),
            Ok(Err(_)) => Err(Answer::Failed),
            Err(_) => Err(Answer::TimedOut),
        }
    }
}

/// The first of the addresses that answers.
async fn reach(addresses: &[SocketAddr]) -> Result<TcpStream, Answer> {
    let mut last = Answer::HostUnreachable;
    for address in addresses {
        let connected = timeout(CONNECT_LIMIT, TcpStream::connect(address)).await;
        match connected.unwrap_or_else(|late| Err(late.into())) {
            Ok(tcp) => return Ok(tcp),
            Err(error) => last = answer_of(&error),
        }
    }
    Err(last)
}

fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

async fn join<S>(stream: S, tcp: TcpStream, place: &Place) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    tcp.set_nodelay(true)?;
    // A server that is gone without a word would hold its stream for ever.
    rustix::net::sockopt::set_socket_keepalive(&tcp, true)?;
    relay(&mut Metered::new(stream, place), &mut Metered::new(tcp, place), |_, _| ()).await
}

/// A stream's first bytes: the request, and what came with it.
async fn read_request<S: AsyncRead + Unpin>(
    stream: &mut S,
) -> io::Result<Result<(Request, Vec<u8>), TargetError>> {
    let mut head = Vec::with_capacity(MAX_REQUEST);
    loop {
        match Request::read(&head) {
            Ok(Some((request, length))) => {
                head.drain(..length);
                return Ok(Ok((request, head)));
            }
            Ok(None) => {}
            Err(error) => return Ok(Err(error)),
        }
        // A request that is not whole is shorter than the longest one, so there is room; more comes after the answer.
        let room = (MAX_REQUEST - head.len()) as u64;
        if (&mut *stream).take(room).read_buf(&mut head).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// A client that does not take even that must not hold a stream.
async fn refuse<S: AsyncWrite + Unpin>(stream: &mut S, answer: Answer) -> io::Result<()> {
    let said = async {
        stream.write_all(&answer.bytes()).await?;
        stream.shutdown().await
    };
    timeout(HEAD_LIMIT, said).await.unwrap_or_else(|late| Err(late.into()))
}

fn answer_of(error: &io::Error) -> Answer {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Answer::Refused,
        io::ErrorKind::HostUnreachable => Answer::HostUnreachable,
        io::ErrorKind::NetworkUnreachable => Answer::NetworkUnreachable,
        io::ErrorKind::TimedOut => Answer::TimedOut,
        _ => Answer::Failed,
    }
}
