//! What one client and all together may use: streams at once, new streams a second, bytes a second.
//!
//! A client is its network, a /24 or a /64: more cannot be told apart, and behind one address there may be many.

use std::{
    collections::HashMap,
    net::IpAddr,
    num::NonZeroU32,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use qnet_transport::bridge::client_network;
use tokio::time::Instant;

/// Networks remembered at once, some 32 MiB of them: more than a bridge takes connections, each of which may come from another. When
/// all have streams, a new one is turned away.
const MAX_CLIENTS: usize = 131_072;
/// How often it is looked, where that many are remembered, whether some can be forgotten: all of them have to be looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long a network without streams is remembered: by then its limiters are full again.
const FORGET_AFTER: Duration = Duration::from_secs(60);
/// Bytes that may pass at once, at least: what a relay reads in one go.
const LEAST_BURST: u32 = 64 * 1024;
/// New streams at once are this many seconds' worth: a browser opens a page's connections together.
const STREAM_BURST_SECONDS: u32 = 10;

/// The operator's numbers. A rate that is `None` is unlimited.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Streams at once.
    pub streams: usize,
    /// Streams at once of one client.
    pub streams_per_client: usize,
    /// New streams a second of one client; ten times as many at once.
    pub rate_per_client: Option<NonZeroU32>,
    /// Bytes a second, both directions together.
    pub bandwidth: Option<NonZeroU32>,
    /// Bytes a second of one client, both directions together.
    pub bandwidth_per_client: Option<NonZeroU32>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            streams: 8_192,
            streams_per_client: 1_024,
            rate_per_client: NonZeroU32::new(50),
            bandwidth: None,
            bandwidth_per_client: None,
        }
    }
}

type Limiter = Arc<DefaultDirectRateLimiter>;

/// All clients and what they use.
#[derive(Default)]
pub struct Clients(Arc<Shared>);

#[derive(Default)]
struct Shared {
    table: Mutex<Table>,
    streams: AtomicUsize,
    bytes: AtomicU64,
}

#[derive(Default)]
struct Table {
    limits: Limits,
    /// Counts changes of the limits, so that a client's limiters are made anew.
    version: u64,
    bandwidth: Option<Limiter>,
    clients: HashMap<u64, Client>,
    /// When it was last looked which of them can be forgotten.
    looked: Option<Instant>,
}

struct Client {
    streams: usize,
    left: Instant,
    version: u64,
    rate: Option<Limiter>,
    bandwidth: Option<Limiter>,
}

/// Which limit a stream met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// All clients' streams, or the clients that can be remembered.
    Bridge,
    /// This client's streams.
    Client,
    /// This client's new streams in a second.
    Rate,
}

impl Clients {
    /// Applies other limits: to streams that are there as far as they are counted, to later ones in full.
    pub fn set(&self, limits: Limits) {
        let mut table = self.0.table();
        table.bandwidth = limits.bandwidth.map(bytes_a_second);
        table.limits = limits;
        table.version += 1;
    }

    /// A place for one more stream of the client at `ip`.
    ///
    /// # Errors
    /// The limit that is reached.
    pub fn enter(&self, ip: IpAddr) -> Result<Place, Full> {
        let network = client_network(ip);
        let mut table = self.0.table();
        let now = Instant::now();
        if self.0.streams.load(Ordering::Relaxed) >= table.limits.streams || !table.has_room(network, now) {
            return Err(Full::Bridge);
        }
        let Table { limits, version, bandwidth, clients, .. } = &mut *table;
        let client = clients.entry(network).or_insert_with(|| Client::new(limits, *version, now));
        client.renew(limits, *version);
        if client.streams >= limits.streams_per_client {
            return Err(Full::Client);
        }
        if client.rate.as_ref().is_some_and(|rate| rate.check().is_err()) {
            return Err(Full::Rate);
        }
        client.streams += 1;
        self.0.streams.fetch_add(1, Ordering::Relaxed);
        let limiters = [client.bandwidth.clone(), bandwidth.clone()];
        Ok(Place { shared: Arc::clone(&self.0), network, limiters })
    }

    /// Streams at the moment.
    #[must_use]
    pub fn streams(&self) -> usize {
        self.0.streams.load(Ordering::Relaxed)
    }

    /// Bytes that passed, both directions together.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.0.bytes.load(Ordering::Relaxed)
    }
}

impl Shared {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn has_room(&mut self, network: u64, now: Instant) -> bool {
        let due = self.looked.is_none_or(|looked| now - looked >= LOOK_EVERY);
        if due && self.clients.len() >= MAX_CLIENTS && !self.clients.contains_key(&network) {
            self.looked = Some(now);
            self.clients.retain(|_, client| client.streams > 0 || now - client.left < FORGET_AFTER);
        }
        self.clients.len() < MAX_CLIENTS || self.clients.contains_key(&network)
    }
}

impl Client {
    fn new(limits: &Limits, version: u64, now: Instant) -> Self {
        let rate = limits.rate_per_client.map(|rate| {
            let burst = rate.saturating_mul(NonZeroU32::MIN.saturating_add(STREAM_BURST_SECONDS - 1));
            Arc::new(RateLimiter::direct(Quota::per_second(rate).allow_burst(burst)))
        });
        let bandwidth = limits.bandwidth_per_client.map(bytes_a_second);
        Self { streams: 0, left: now, version, rate, bandwidth }
    }

    fn renew(&mut self, limits: &Limits, version: u64) {
        if self.version != version {
            *self = Self { streams: self.streams, ..Self::new(limits, version, self.left) };
        }
    }
}

fn bytes_a_second(rate: NonZeroU32) -> Limiter {
    let burst = rate.max(NonZeroU32::MIN.saturating_add(LEAST_BURST - 1));
    Arc::new(RateLimiter::direct(Quota::per_second(rate).allow_burst(burst)))
}

/// A stream's place among the others, until it is dropped.
pub struct Place {
    shared: Arc<Shared>,
    network: u64,
    limiters: [Option<Limiter>; 2],
}

impl Place {
    /// The limiters that every byte must pass.
    pub(super) fn limiters(&self) -> [Option<Limiter>; 2] {
        self.limiters.clone()
    }

    pub(super) fn count(&self, bytes: u32) {
        self.shared.bytes.fetch_add(bytes.into(), Ordering::Relaxed);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shared.streams.fetch_sub(1, Ordering::Relaxed);
        if let Some(client) = self.shared.table().clients.get_mut(&self.network) {
            client.streams = client.streams.saturating_sub(1);
            client.left = Instant::now();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clients(limits: Limits) -> Clients {
        let clients = Clients::default();
        clients.set(limits);
        clients
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn streams_are_counted_for_each_network_and_for_all() {
        let clients = clients(Limits { streams: 3, streams_per_client: 2, ..Limits::default() });
        let first = clients.enter(ip("192.0.2.1")).ok();
        let _second = clients.enter(ip("192.0.2.200")).ok();
        assert!(matches!(clients.enter(ip("192.0.2.7")), Err(Full::Client)));
        let _third = clients.enter(ip("198.51.100.1")).ok();
        assert!(matches!(clients.enter(ip("203.0.113.1")), Err(Full::Bridge)));
        assert_eq!(clients.streams(), 3);
        drop(first);
        assert!(clients.enter(ip("::ffff:192.0.2.9")).is_ok(), "a place is free again");
        assert_eq!(clients.streams(), 2);
    }

    #[test]
    fn new_streams_have_a_rate() {
        let rate = NonZeroU32::new(2);
        let clients = clients(Limits { rate_per_client: rate, ..Limits::default() });
        let passed = (0..100).filter(|_| clients.enter(ip("192.0.2.1")).is_ok()).count();
        assert!((20..=21).contains(&passed), "{passed}");
        assert!(matches!(clients.enter(ip("192.0.2.1")), Err(Full::Rate)));
        assert!(clients.enter(ip("192.0.3.1")).is_ok(), "another network is not held to account");
    }

    #[test]
    fn other_limits_hold_at_once_and_places_are_kept() {
        let clients = clients(Limits { streams_per_client: 1, ..Limits::default() });
        let place = clients.enter(ip("192.0.2.1")).ok();
        assert!(clients.enter(ip("192.0.2.1")).is_err());
        clients.set(Limits { streams_per_client: 2, ..Limits::default() });
        let second = clients.enter(ip("192.0.2.1")).ok();
        assert!(second.is_some() && clients.enter(ip("192.0.2.1")).is_err());
        drop((place, second));
        assert_eq!(clients.streams(), 0);
    }

    #[test]
    fn memory_is_bounded() {
        let clients = clients(Limits { streams: usize::MAX, ..Limits::default() });
        let networks =
            (0..2 * u32::try_from(MAX_CLIENTS).unwrap()).map(|i| IpAddr::from((i << 8).to_be_bytes()));
        let places: Vec<_> = networks.map(|ip| clients.enter(ip)).collect();
        assert_eq!(places.iter().filter(|place| place.is_ok()).count(), MAX_CLIENTS);
        assert_eq!(clients.0.table().clients.len(), MAX_CLIENTS);
    }

    #[tokio::test(start_paused = true)]
    async fn networks_that_left_make_room_after_a_while() {
        let clients = clients(Limits { streams: usize::MAX, ..Limits::default() });
        let network = |i: usize| IpAddr::from((u32::try_from(i).unwrap() << 8).to_be_bytes());
        let places: Vec<_> = (0..MAX_CLIENTS).map(|i| clients.enter(network(i))).collect();
        drop(places);
        assert!(matches!(clients.enter(network(MAX_CLIENTS)), Err(Full::Bridge)));
        tokio::time::advance(FORGET_AFTER).await;
        assert!(clients.enter(network(MAX_CLIENTS)).is_ok());
        assert_eq!(clients.0.table().clients.len(), 1);
    }
}
