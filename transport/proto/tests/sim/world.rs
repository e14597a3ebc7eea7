//! Client, bridge and decoy, joined by links in virtual time. Everything follows from one seed.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, Instant};

use qnet_proto::Ended;
use qnet_proto::admission::Door;
use qnet_proto::bridge::{Bridge, BridgeConfig};
use qnet_proto::carrier::{Carrier, Close, Event, Side};
use qnet_proto::client::{Client, Handshake, Start};
use qnet_proto::knock::KnockedTokens;
use qnet_proto::mux::Role;
use qnet_proto::session::{Mode, Session, SharedSession, SharedSessions, lock};
use qnet_proto::shape::Counters;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use sha2::{Digest, Sha256};

use crate::counted::in_core;
use crate::decoy::Decoy;
use crate::hellos::{self, DOWN_RECORDS, UP_RECORDS};
pub(crate) use crate::options::Options;
pub(crate) use crate::records::{lengths, records};
use crate::user::User;

/// The decoy's name, for which the hellos were captured.
const NAME: &str = "www.example.com";
/// Bytes on their way on one link, above which its sender's socket is full.
const WINDOW: usize = 96 * 1024;
/// Bytes a socket gives at once, at most, where segments were joined.
const MOST_AT_ONCE: usize = 60_000;
/// What either core may hold, whatever happens: its windows are not filled in these tests.
const MOST_HELD: usize = 24 << 20;

/// The four links.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Link {
    /// Client to bridge.
    Up,
    /// Bridge to client.
    Down,
    /// Bridge to decoy.
    ToDecoy,
    /// Decoy to bridge.
    FromDecoy,
}
pub(crate) use Link::{Down, FromDecoy, ToDecoy, Up};

#[derive(Clone, PartialEq, Eq, Debug)]
enum What {
    Bytes(Vec<u8>),
    End(Close),
}

/// Gets each whole record of a link with its number, and gives what goes on instead.
pub(crate) type Filter = Box<dyn FnMut(usize, Vec<u8>) -> Vec<u8>>;

#[derive(Default)]
struct Wire {
    way: VecDeque<(Instant, What)>,
    in_flight: usize,
    /// Every byte the sender sent.
    sent: Vec<u8>,
    /// Every byte the receiver took.
    taken: Vec<u8>,
    end: Option<Close>,
    filter: Option<Filter>,
    partial: Vec<u8>,
    number: usize,
    held: bool,
}

/// What the client's TLS library does before the core begins.
enum ClientEnd {
    Hello(Vec<u8>),
    Core(Box<Client>),
    Gone,
}

pub(crate) struct World {
    pub(crate) now: Instant,
    pub(crate) begun: Instant,
    rng: ChaCha8Rng,
    options: Options,
    pub(crate) config: Arc<BridgeConfig>,
    client: ClientEnd,
    bridge: Option<Box<Bridge>>,
    pub(crate) decoy: Decoy,
    wires: [Wire; 4],
    /// The sessions of both ends; the bridge's once there is one.
    sessions: [Option<SharedSession>; 2],
    pub(crate) client_events: Vec<Event>,
    pub(crate) bridge_events: Vec<Event>,
    pub(crate) client_user: User,
    pub(crate) bridge_user: User,
    pub(crate) most_held: usize,
    trace: Sha256,
}

impl World {
    pub(crate) fn new(options: Options) -> Self {
        #[expect(clippy::disallowed_methods, reason = "where virtual time begins does not matter")]
        let now = Instant::now();
        let config = options.knocked.clone().unwrap_or_else(|| {
            Arc::new(BridgeConfig {
                identity: options.bridge.clone(),
                names: vec!["other.example.net".parse().unwrap(), NAME.parse().unwrap()],
                door: Door::new(&options.bridge, &options.admission),
                facts: RwLock::new(options.facts.clone()),
                knocked: Mutex::new(KnockedTokens::new(100)),
                sessions: SharedSessions::default(),
                profile: options.profile(),
            })
        });
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&options.seed.to_be_bytes());
        let mut bridge_seed = seed;
        bridge_seed[31] = 1;
        let bridge = in_core(|| Bridge::new(Arc::clone(&config), bridge_seed));
        let mut world = Self {
            now,
            begun: now,
            rng: ChaCha8Rng::from_seed(seed),
            config,
            client: ClientEnd::Hello(Vec::new()),
            bridge: Some(Box::new(bridge)),
            decoy: Decoy::new(options.manner.clone()),
            wires: Default::default(),
            sessions: [Some(Arc::new(Mutex::new(Session::new(Role::Client, options.profile(), now)))), None],
            client_events: Vec::new(),
            bridge_events: Vec::new(),
            client_user: User::new(options.plans.clone(), true),
            bridge_user: User::new(options.plans.clone(), false),
            most_held: 0,
            trace: Sha256::new(),
            options,
        };
        let flight = hellos::hello(world.options.hello).flight;
        world.send(Up, &flight);
        world
    }

    pub(crate) fn with_filter(
        mut self,
        link: Link,
        filter: impl FnMut(usize, Vec<u8>) -> Vec<u8> + 'static,
    ) -> Self {
        self.set_filter(link, filter);
        self
    }

    pub(crate) fn set_filter(&mut self, link: Link, filter: impl FnMut(usize, Vec<u8>) -> Vec<u8> + 'static) {
        let wire = &mut self.wires[link as usize];
        wire.number = records(&wire.sent).len();
        wire.filter = Some(Box::new(filter));
    }

    /// What the sender of a link has sent.
    pub(crate) fn sent(&self, link: Link) -> &[u8] {
        &self.wires[link as usize].sent
    }

    /// What the receiver of a link has taken.
    pub(crate) fn taken(&self, link: Link) -> &[u8] {
        &self.wires[link as usize].taken
    }

    /// How the sender of a link ended it.
    pub(crate) fn ended(&self, link: Link) -> Option<Close> {
        self.wires[link as usize].end
    }

    /// Withholds what is, and comes to be, on its way; or no longer.
    pub(crate) fn hold(&mut self, link: Link, held: bool) {
        self.wires[link as usize].held = held;
        let now = self.now;
        for (at, _) in &mut self.wires[link as usize].way {
            *at = (*at).max(now);
        }
    }

    /// Bytes of nobody's.
    pub(crate) fn inject(&mut self, link: Link, bytes: &[u8]) {
        self.enqueue(link, What::Bytes(bytes.to_vec()));
    }

    /// Other bytes in the place of all that is on its way.
    pub(crate) fn replace(&mut self, link: Link, bytes: &[u8]) {
        let wire = &mut self.wires[link as usize];
        (wire.in_flight, wire.held) = (0, false);
        wire.way.clear();
        self.inject(link, bytes);
        self.wires[link as usize].filter = Some(Box::new(|_, _| Vec::new()));
    }

    /// An end of nobody's.
    pub(crate) fn inject_end(&mut self, link: Link, how: Close) {
        self.enqueue(link, What::End(how));
    }

    /// What the shapers of both ends did.
    pub(crate) fn shaping(&self) -> Vec<Counters> {
        self.sessions.iter().flatten().map(|session| lock(session).shaping()).collect()
    }

    pub(crate) fn client(&self) -> Option<&Client> {
        if let ClientEnd::Core(client) = &self.client { Some(client) } else { None }
    }

    pub(crate) fn bridge(&self) -> Option<&Bridge> {
        self.bridge.as_deref()
    }

    /// Lets the user of the client's core do something.
    pub(crate) fn with_client(&mut self, act: impl FnOnce(&mut Client, Instant)) {
        let now = self.now;
        if let ClientEnd::Core(client) = &mut self.client {
            act(client, now);
        }
        self.settle();
    }

    pub(crate) fn with_decoy(&mut self, act: impl FnOnce(&mut Decoy)) {
        act(&mut self.decoy);
        self.settle();
    }

    pub(crate) fn client_end(&self) -> Option<Ended> {
        ended(&self.client_events)
    }

    pub(crate) fn bridge_end(&self) -> Option<Ended> {
        ended(&self.bridge_events)
    }

    pub(crate) fn is_up(&self) -> bool {
        self.client_events.contains(&Event::Up) && self.bridge_events.contains(&Event::Up)
    }

    pub(crate) fn proved(&self) -> bool {
        self.client_events.contains(&Event::Proved)
    }

    /// A hash over everything that was delivered, and when.
    pub(crate) fn trace(&self) -> [u8; 32] {
        self.trace.clone().finalize().into()
    }

    /// Runs until `done`, or until nothing is left to happen, or the time is up. Whether it is done.
    pub(crate) fn run(&mut self, limit: Duration, mut done: impl FnMut(&Self) -> bool) -> bool {
        let end = self.now + limit;
        let mut idle = 0;
        self.settle();
        while !done(self) {
            let Some(next) = self.next().filter(|at| *at <= end) else {
                self.now = end;
                return done(self);
            };
            // Nothing may keep asking for time without anything happening.
            idle = if next > self.now { 0 } else { idle + 1 };
            assert!(idle < 200_000, "time stands still at {:?}", self.now - self.begun);
            self.now = self.now.max(next);
            self.step();
        }
        true
    }

    /// Runs for that long.
    pub(crate) fn run_for(&mut self, time: Duration) {
        self.run(time, |_| false);
    }

    pub(crate) fn run_until_up(&mut self) {
        assert!(self.run(Duration::from_secs(30), Self::is_up), "no tunnel: {:?}", self.client_events);
    }

    /// Until both users are through with their plans.
    pub(crate) fn run_through(&mut self) {
        let done = |world: &Self| world.client_user.is_done() && world.bridge_user.is_done();
        assert!(
            self.run(Duration::from_secs(120), done),
            "stuck: {:?} {:?}",
            self.client_events,
            self.bridge_events
        );
    }

    fn next(&self) -> Option<Instant> {
        let mut times = Vec::new();
        for link in [Up, Down, ToDecoy, FromDecoy] {
            let wire = &self.wires[link as usize];
            if let Some((at, _)) = wire.way.front()
                && !wire.held
                && self.wants(link)
            {
                times.push(*at);
            }
        }
        if let ClientEnd::Core(client) = &self.client {
            times.extend(client.deadline());
        }
        times.extend(self.bridge.as_ref().and_then(|bridge| bridge.deadline()));
        times.extend(self.decoy.deadline());
        times.into_iter().min()
    }

    fn wants(&self, link: Link) -> bool {
        // Nobody has to read to learn of a reset.
        if let Some((_, What::End(Close::Reset))) = self.wires[link as usize].way.front() {
            return true;
        }
        match link {
            Up => self.bridge.as_ref().is_none_or(|bridge| bridge.wants(Side::Peer)),
            FromDecoy => self.bridge.as_ref().is_none_or(|bridge| bridge.wants(Side::Decoy)),
            Down => self.client().is_none_or(|client| client.wants(Side::Peer)),
            ToDecoy => true,
        }
    }

    fn step(&mut self) {
        for link in [Up, Down, ToDecoy, FromDecoy] {
            self.deliver(link);
        }
        let now = self.now;
        if let ClientEnd::Core(client) = &mut self.client
            && client.deadline().is_some_and(|at| at <= now)
        {
            in_core(|| client.on_timer(now));
        }
        if let Some(bridge) = &mut self.bridge
            && bridge.deadline().is_some_and(|at| at <= now)
        {
            in_core(|| bridge.on_timer(now));
        }
        self.decoy.on_timer(now);
        self.settle();
    }

    /// Delivers the next of a link, if it is due and wanted: sometimes joined with what follows it.
    fn deliver(&mut self, link: Link) {
        if self.wires[link as usize].held || !self.wants(link) {
            return;
        }
        let join = self.rng.next_u32().is_multiple_of(2);
        let now = self.now;
        let wire = &mut self.wires[link as usize];
        let mut bytes = Vec::new();
        let mut end = None;
        while let Some((at, _)) = wire.way.front()
            && *at <= now
            && (join || bytes.is_empty())
            && bytes.len() < MOST_AT_ONCE
        {
            match wire.way.pop_front() {
                Some((_, What::Bytes(more))) => bytes.extend(more),
                Some((_, What::End(how))) => {
                    if bytes.is_empty() {
                        end = Some(how);
                    } else {
                        wire.way.push_front((now, What::End(how)));
                    }
                    break;
                }
                None => break,
            }
        }
        wire.in_flight -= bytes.len().min(wire.in_flight);
        wire.taken.extend_from_slice(&bytes);
        self.trace.update((now - self.begun).as_nanos().to_be_bytes());
        self.trace.update([link as u8]);
        self.trace.update(&bytes);
        if !bytes.is_empty() {
            self.hand(link, &bytes);
        }
        if let Some(how) = end {
            self.hand_end(link, how);
        }
    }

    fn hand(&mut self, link: Link, bytes: &[u8]) {
        let now = self.now;
        match link {
            Up => feed(self.bridge.as_deref_mut(), Side::Peer, bytes, now),
            FromDecoy => feed(self.bridge.as_deref_mut(), Side::Decoy, bytes, now),
            ToDecoy => self.decoy.on_data(bytes, now),
            Down => {
                if let ClientEnd::Hello(flight) = &mut self.client {
                    flight.extend_from_slice(bytes);
                    self.begin_client();
                } else if let ClientEnd::Core(client) = &mut self.client {
                    feed(Some(&mut **client), Side::Peer, bytes, now);
                }
            }
        }
    }

    fn hand_end(&mut self, link: Link, how: Close) {
        let now = self.now;
        match (link, &mut self.client) {
            (Up | FromDecoy, _) => {
                if let Some(bridge) = &mut self.bridge {
                    bridge.ended(if link == Up { Side::Peer } else { Side::Decoy }, how, now);
                }
            }
            (ToDecoy, _) => self.decoy.on_end(how == Close::Reset),
            (Down, ClientEnd::Core(client)) => client.ended(Side::Peer, how, now),
            (Down, _) => {
                self.client = ClientEnd::Gone;
                self.end(Up, how);
            }
        }
    }

    /// The decoy's flight is whole: Finished goes out and the core begins.
    fn begin_client(&mut self) {
        let ClientEnd::Hello(flight) = &self.client else { return };
        let (suite, random) = (self.options.manner.suite, self.options.manner.random);
        let server_hello = hellos::server_hello(random, suite);
        let whole = hellos::server_flight(&server_hello).len();
        if flight.len() < whole {
            return;
        }
        let unread = flight[whole..].to_vec();
        let hello = hellos::hello(self.options.hello);
        let mut sent = hellos::client_flight();
        sent.extend(hellos::filling(self.options.sent_before));
        self.send(Up, &sent);
        let mut seed = [3; 32];
        seed[..8].copy_from_slice(&self.options.seed.to_be_bytes());
        let start = Start {
            bridge: hellos::identity().public(),
            client_key: self.options.invitation.clone().unwrap_or_else(hellos::client_key),
            invited: self.options.invitation.is_some(),
            session: self.sessions[0].clone().unwrap(),
            mode: Mode::Replace,
            name: NAME.parse().unwrap(),
            path: "/".to_owned(),
            field: self.options.field,
            early_data: self.options.early,
            aes_hardware: self.options.seed.is_multiple_of(2),
            seed,
            tls: Handshake {
                client_hello: hello.message().to_vec(),
                server_hello,
                suite,
                up_secret: hellos::secret(suite, 0xc1),
                down_secret: hellos::secret(suite, 0xd1),
                sent,
                up_records: UP_RECORDS,
                down_records: DOWN_RECORDS,
                unread,
                round_trip: 2 * self.options.delay,
            },
            token: hello.token,
        };
        self.client = ClientEnd::Core(Box::new(in_core(|| Client::new(start, self.now))));
    }

    /// Moves what cores and decoy have to say onto the wires, and lets the users act, until nothing changes.
    fn settle(&mut self) {
        loop {
            let mut moved = self.settle_bridge();
            moved |= self.settle_client();
            let out = self.decoy.take_out();
            moved |= !out.is_empty();
            self.send(FromDecoy, &out);
            if self.decoy.take_fin() {
                self.end(FromDecoy, Close::Fin);
            }
            if !moved {
                return;
            }
        }
    }

    fn settle_client(&mut self) -> bool {
        if self.client().is_none() {
            return false;
        }
        let ClientEnd::Core(mut client) = std::mem::replace(&mut self.client, ClientEnd::Gone) else {
            return false;
        };
        let now = self.now;
        let mut moved = self.client_user.act(self.sessions[0].as_ref(), &self.client_events);
        if moved {
            in_core(|| client.flush(now));
        }
        while let Some(event) = client.poll_event() {
            self.client_events.push(event);
            moved = true;
        }
        moved |= self.write(&mut *client, Side::Peer, Up);
        self.most_held = self.most_held.max(client.held());
        assert!(client.held() < MOST_HELD);
        self.client = if client.finished() { ClientEnd::Gone } else { ClientEnd::Core(client) };
        moved
    }

    fn settle_bridge(&mut self) -> bool {
        let Some(mut bridge) = self.bridge.take() else { return false };
        let now = self.now;
        self.sessions[1] = bridge.session().cloned().or(self.sessions[1].take());
        let mut moved = self.bridge_user.act(self.sessions[1].as_ref(), &self.bridge_events);
        if moved {
            in_core(|| bridge.flush(now));
        }
        moved |= self.write(&mut *bridge, Side::Peer, Down);
        moved |= self.write(&mut *bridge, Side::Decoy, ToDecoy);
        while let Some(event) = bridge.poll_event() {
            if event == Event::Hello {
                in_core(|| bridge.judge(self.options.allowed));
            }
            self.bridge_events.push(event);
            moved = true;
        }
        self.most_held = self.most_held.max(bridge.held());
        assert!(bridge.held() < MOST_HELD);
        if !bridge.finished() {
            self.bridge = Some(bridge);
        }
        moved
    }

    fn write(&mut self, core: &mut dyn Carrier, side: Side, link: Link) -> bool {
        let now = self.now;
        let mut moved = false;
        while !core.pending(side).is_empty() && self.wires[link as usize].in_flight < WINDOW {
            let n = core.pending(side).len().min(WINDOW - self.wires[link as usize].in_flight);
            let n = n.min(1 + self.rng.next_u32() as usize % WINDOW);
            let bytes = core.pending(side)[..n].to_vec();
            self.send(link, &bytes);
            in_core(|| core.wrote(side, n, now));
            moved = true;
        }
        if let Some(how) = core.shutdown(side) {
            self.end(link, how);
            moved = true;
        }
        moved
    }

    fn send(&mut self, link: Link, bytes: &[u8]) {
        let wire = &mut self.wires[link as usize];
        wire.sent.extend_from_slice(bytes);
        let Some(mut filter) = wire.filter.take() else {
            return self.enqueue(link, What::Bytes(bytes.to_vec()));
        };
        wire.partial.extend_from_slice(bytes);
        let mut out = Vec::new();
        while let [_, _, _, high, low, ..] = *wire.partial {
            let total = 5 + usize::from(u16::from_be_bytes([high, low]));
            if wire.partial.len() < total {
                break;
            }
            let record: Vec<u8> = wire.partial.drain(..total).collect();
            out.extend(filter(wire.number, record));
            wire.number += 1;
        }
        wire.filter.get_or_insert(filter);
        self.enqueue(link, What::Bytes(out));
    }

    fn end(&mut self, link: Link, how: Close) {
        let wire = &mut self.wires[link as usize];
        let partial = std::mem::take(&mut wire.partial);
        wire.end = Some(how);
        self.enqueue(link, What::Bytes(partial));
        self.enqueue(link, What::End(how));
    }

    /// Cuts and delays.
    fn enqueue(&mut self, link: Link, what: What) {
        let near = matches!(link, ToDecoy | FromDecoy);
        let delay = if near { Duration::from_micros(100) } else { self.options.delay };
        let mut pieces = Vec::new();
        match what {
            What::End(how) => pieces.push(What::End(how)),
            What::Bytes(bytes) => {
                let mut rest = &bytes[..];
                while !rest.is_empty() {
                    let n = (1 + self.rng.next_u32() as usize % self.options.cut).min(rest.len());
                    pieces.push(What::Bytes(rest[..n].to_vec()));
                    rest = &rest[n..];
                }
            }
        }
        for piece in pieces {
            let jitter = self.options.jitter.as_micros() as u64;
            let extra = if near || jitter == 0 { 0 } else { self.rng.next_u64() % jitter };
            let wire = &mut self.wires[link as usize];
            let last = wire.way.back().map_or(self.now, |(at, _)| *at);
            let at = last.max(self.now + delay + Duration::from_micros(extra));
            if let What::Bytes(bytes) = &piece {
                wire.in_flight += bytes.len();
            }
            wire.way.push_back((at, piece));
        }
    }
}

fn ended(events: &[Event]) -> Option<Ended> {
    let mut all = events.iter().filter_map(|e| if let Event::Ended(why) = e { Some(*why) } else { None });
    let first = all.next();
    assert_eq!(all.next(), None, "it ended twice");
    first
}

fn feed(core: Option<&mut (impl Carrier + ?Sized)>, side: Side, mut bytes: &[u8], now: Instant) {
    let Some(core) = core else { return };
    while !bytes.is_empty() {
        let space = core.space(side);
        assert!(!space.is_empty(), "no room to read into");
        let n = space.len().min(bytes.len());
        space[..n].copy_from_slice(&bytes[..n]);
        in_core(|| core.filled(side, n, now));
        bytes = &bytes[n..];
    }
}
