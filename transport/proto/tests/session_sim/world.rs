//! Client, bridge, the carriers between them, and what befalls them.

use std::time::{Duration, Instant};

use qnet_proto::Ended;
use qnet_proto::frame::frames;
use qnet_proto::mux::Role;
use qnet_proto::noise::Established;
use qnet_proto::record::{Cipher, DirectionSecret};
use qnet_proto::session::{
    CarrierState, MAX_UNACKED, Mode, Need, Profile, Session, Sessions, SharedSession, Statics, lock,
};
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};
use zeroize::Zeroizing;

use super::link::{Content, Link, Pipe, Place};
use super::user::{User, below};

const STATICS: Statics = Statics { client: [3; 32], bridge: [4; 32] };

/// How long the carriers are interfered with.
const TROUBLE: Duration = Duration::from_secs(20);
/// How long everything may take afterwards. The longest pause of a client that only looks is below it.
const PEACE: Duration = Duration::from_secs(3_600);
/// Steps of a run; far more than any takes.
const STEPS: usize = 50_000;
/// All that a side may ever hold in these runs.
const MOST_HELD: usize = 2 * MAX_UNACKED;

/// What happened in a run.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Seen {
    lost: bool,
    stalls: bool,
    gentle: bool,
    striped: bool,
    refused: bool,
    replaced: bool,
    looked: bool,
    going_away: bool,
    cancelled: bool,
    failed_dials: bool,
}

impl Seen {
    fn all(&mut self) -> [&mut bool; 10] {
        [
            &mut self.lost,
            &mut self.stalls,
            &mut self.gentle,
            &mut self.striped,
            &mut self.refused,
            &mut self.replaced,
            &mut self.looked,
            &mut self.going_away,
            &mut self.cancelled,
            &mut self.failed_dials,
        ]
    }

    pub(crate) fn add(&mut self, other: &Self) {
        let mut other = *other;
        for (to, from) in self.all().into_iter().zip(other.all()) {
            *to |= *from;
        }
    }

    pub(crate) fn is_complete(mut self) -> bool {
        self.all().into_iter().all(|seen| *seen)
    }
}

/// How hard a seed is on the carriers: one in so many steps.
struct Faults {
    cut: u64,
    stall: u64,
    going_away: u64,
    restart: u64,
}

pub(crate) struct World {
    seed: u64,
    rng: ChaCha8Rng,
    begin: Instant,
    now: Instant,
    client: Session,
    bridge: Sessions,
    /// The bridge's end, as long as the bridge has not been restarted.
    session: SharedSession,
    links: Vec<Link>,
    /// A carrier on its way: when it is there, and how it joins.
    dialled: Option<(Instant, Mode)>,
    users: [User; 2],
    faults: Faults,
    restarted: bool,
    finished: bool,
    pub(crate) seen: Seen,
    /// A hash over all that moved.
    pub(crate) trace: u64,
}

fn profile(rng: &mut ChaCha8Rng) -> Profile {
    let mut profile =
        Profile { poll: Some(Duration::from_secs(2)), per_minute: 60, burst: 20, ..Profile::default() };
    profile.poll_most = Duration::from_secs(60);
    if below(rng, 3) == 0 {
        profile.stripes = 2 + below(rng, 3) as u8;
    }
    if below(rng, 2) == 0 {
        profile.age = Duration::from_secs(1)..=Duration::from_secs(8);
    }
    if below(rng, 4) == 0 {
        profile.volume = 5_000..=50_000;
    }
    profile
}

impl World {
    /// A whole run.
    pub(crate) fn run(seed: u64) -> Self {
        let mut world = Self::new(seed);
        world.play();
        world
    }

    #[expect(clippy::disallowed_methods, reason = "any instant will do; only differences count")]
    fn new(seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let now = Instant::now();
        let profile = profile(&mut rng);
        let hard = [40, 100, 400, 1 << 40];
        let mut often = || hard[below(&mut rng, hard.len() as u64) as usize];
        let faults = Faults { cut: often(), stall: often(), going_away: often(), restart: 1 << 40 };
        let faults = Faults { restart: if seed % 16 == 5 { 60 } else { 1 << 40 }, ..faults };
        let most = [300, 6_000, 60_000][below(&mut rng, 3) as usize];
        let users = [
            User::new(0, 1 + below(&mut rng, 4), most),
            User::new(1, below(&mut rng, 8).saturating_sub(6), most),
        ];
        let bridge =
            std::sync::Arc::new(std::sync::Mutex::new(Session::new(Role::Bridge, profile.clone(), now)));
        Self {
            seed,
            rng,
            begin: now,
            now,
            client: Session::new(Role::Client, profile, now),
            bridge: Sessions::new(),
            session: bridge,
            links: Vec::new(),
            dialled: None,
            users,
            faults,
            restarted: false,
            finished: false,
            seen: Seen::default(),
            trace: 0xcbf2_9ce4_8422_2325,
        }
    }

    fn note(&mut self, what: u64) {
        let at = self.now.duration_since(self.begin).as_micros() as u64;
        for value in [at, what] {
            self.trace = (self.trace ^ value).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn millis(&mut self, least: u64, most: u64) -> Duration {
        Duration::from_millis(least + below(&mut self.rng, most - least + 1))
    }

    fn link(&mut self) -> Link {
        let round_trip = self.millis(4, 400);
        let records = [60, 300, 1_400, 4_000, 16_380];
        let mut pipe = || Pipe::new(round_trip / 2, records[below(&mut self.rng, 5) as usize]);
        let pipes = [pipe(), pipe()];
        let mut hash = [0; 32];
        self.rng.fill_bytes(&mut hash);
        Link { pipes, places: [Place::Outside; 2], broken: [None; 2], hash, round_trip, faulty: false }
    }

    fn begin(&mut self) {
        let secret = |byte| DirectionSecret::new(Zeroizing::new([byte; 32]));
        let mut link = self.link();
        let established = Established {
            up: secret(self.seed as u8),
            down: secret(2),
            cipher: Cipher::Aes256Gcm,
            peer_static: [0; 32],
            handshake_hash: link.hash,
        };
        let number = self.client.establish(&established, STATICS, self.now);
        self.client.set_round_trip(number, link.round_trip);
        let mut bridge = lock(&self.session);
        assert_eq!(bridge.establish(&established, STATICS, self.now), number);
        bridge.set_round_trip(number, link.round_trip);
        drop(bridge);
        self.bridge.insert(&self.session);
        link.places = [Place::Inside(number); 2];
        self.links.push(link);
    }

    /// It is the bridge's user who ends the session.
    fn bridge_ends(&self) -> bool {
        self.seed.is_multiple_of(3)
    }

    fn is_calm(&self) -> bool {
        self.now.duration_since(self.begin) > TROUBLE
    }

    fn play(&mut self) {
        self.begin();
        let mut calm = false;
        for _ in 0..STEPS {
            if self.is_calm() && !calm {
                calm = true;
                self.make_peace();
            }
            self.step(calm);
            if self.is_over() {
                self.judge();
                return;
            }
            assert!(self.now.duration_since(self.begin) < TROUBLE + PEACE, "{}", self.describe());
            self.pass_time(calm);
        }
        panic!("too many steps; {}", self.describe());
    }

    fn describe(&self) -> String {
        format!(
            "seed {}: client {:?}, bridge {:?}, users {:#?}, links {:?}, dialled {:?}",
            self.seed,
            self.client,
            lock(&self.session),
            self.users,
            self.links,
            self.dialled
        )
    }

    /// The carriers that were interfered with end, as everything does at last. The client's user wants something once more:
    /// without a stream a client does not ask what a bridge may have.
    fn make_peace(&mut self) {
        let now = self.now;
        self.users[0].to_open += 1;
        for link in self.links.iter_mut().filter(|link| link.faulty) {
            link.cut([now; 2]);
        }
    }

    fn step(&mut self, calm: bool) {
        for at in 0..self.links.len() {
            self.deliver(at);
        }
        self.act(calm);
        if !calm {
            self.interfere();
        }
        self.on_timers();
        self.dial(calm);
        for at in 0..self.links.len() {
            self.pump(at);
            self.close_if_done(at);
        }
        self.links.retain(|link| !link.is_over());
        assert!(self.client.held() <= MOST_HELD && lock(&self.session).held() <= MOST_HELD);
    }

    fn act(&mut self, calm: bool) {
        if self.client.ended().is_none() {
            self.users[0].act(self.client.streams(), &mut self.rng, calm);
        }
        let mut bridge = lock(&self.session);
        if bridge.ended().is_none() && !self.restarted {
            self.users[1].act(bridge.streams(), &mut self.rng, calm);
        }
        self.seen.cancelled |= self.users.iter().any(|user| !user.cancelled.is_empty());
        let done = calm && self.users.iter().all(User::is_done);
        if done && !self.finished {
            self.finished = true;
            // Either may be the one that is done.
            if self.bridge_ends() {
                bridge.finish();
            } else {
                drop(bridge);
                self.client.finish();
            }
        }
    }

    /// One thing, seldom, that no session likes.
    fn interfere(&mut self) {
        let now = self.now;
        if self.links.is_empty() {
            return;
        }
        let at = below(&mut self.rng, self.links.len() as u64) as usize;
        if below(&mut self.rng, self.faults.cut) == 0 {
            let mut learned = [self.millis(0, 2_000), self.millis(0, 2_000)].map(|after| now + after);
            match below(&mut self.rng, 3) {
                0 => learned = [now; 2],
                // One side learns late: a middle box that forgot the connection.
                1 => learned[below(&mut self.rng, 2) as usize] = now + Duration::from_secs(30),
                _ => {}
            }
            self.seen.lost |= self.links[at].cut(learned);
            self.note(1);
        }
        if below(&mut self.rng, self.faults.stall) == 0 {
            let which = below(&mut self.rng, 3);
            self.links[at].faulty = true;
            self.links[at].pipes[0].stalled |= which != 1;
            self.links[at].pipes[1].stalled |= which != 0;
            self.note(2);
        }
        if below(&mut self.rng, self.faults.going_away) == 0
            && let Place::Inside(number) = self.links[at].places[1]
            && !self.restarted
        {
            lock(&self.session).going_away(number, now);
            self.links[at].pipes[1].send(Content::GoingAway, Duration::ZERO, now);
            self.note(3);
        }
        if !self.restarted && below(&mut self.rng, self.faults.restart) == 0 {
            self.restart();
        }
    }

    /// The bridge forgets everything; its connections end.
    fn restart(&mut self) {
        self.restarted = true;
        self.bridge = Sessions::new();
        for link in &mut self.links {
            link.cut([self.now; 2]);
            link.places[1] = Place::Closed;
        }
        self.note(4);
    }

    fn on_timers(&mut self) {
        let now = self.now;
        if self.client.deadline().is_some_and(|at| at <= now) {
            self.client.on_timer(now);
            let next = self.client.deadline();
            assert!(next.is_none_or(|at| at > now), "a deadline that passed stays; {}", self.describe());
        }
        let mut bridge = lock(&self.session);
        if !self.restarted && bridge.deadline().is_some_and(|at| at <= now) {
            bridge.on_timer(now);
            assert!(bridge.deadline().is_none_or(|at| at > now), "a deadline that passed stays");
        }
        for at in 0..self.links.len() {
            for side in 0..2 {
                if self.links[at].broken[side].is_some_and(|broken| broken <= now) {
                    close(
                        &mut self.links[at],
                        side,
                        now,
                        if side == 0 { &mut self.client } else { &mut bridge },
                    );
                }
            }
        }
    }

    fn dial(&mut self, calm: bool) {
        let now = self.now;
        match self.dialled {
            None => {
                let Some(need) = self.client.need(now) else { return };
                self.seen.looked |= need == Need::Look;
                self.seen.stalls |= need == Need::Stalled;
                self.seen.going_away |= need == Need::GoingAway;
                self.client.dialled(Some(need), now);
                let mode = self.client.mode_for(need);
                let after = self.millis(20, 900);
                self.dialled = Some((now + after, mode));
                self.note(10 + need as u64);
            }
            Some((at, mode)) if at <= now => {
                if self.client.ended().is_some() {
                    self.dialled = None;
                } else if !calm && below(&mut self.rng, 8) == 0 {
                    // It came to nothing: whoever dials tries again after a pause.
                    self.seen.failed_dials = true;
                    self.dialled = Some((now + Duration::from_millis(700), mode));
                } else {
                    self.dialled = None;
                    self.ask(mode);
                }
            }
            Some(_) => {}
        }
    }

    fn ask(&mut self, mode: Mode) {
        let mut link = self.link();
        let (number, join) = self.client.join(&link.hash, mode, self.now);
        match mode {
            Mode::Replace => self.seen.replaced = true,
            Mode::Gently => self.seen.gentle = true,
            Mode::Striped(_) => self.seen.striped = true,
        }
        link.places[0] = Place::Asked(number);
        link.pipes[0].send(Content::Join(join), Duration::ZERO, self.now);
        self.links.push(link);
    }

    fn deliver(&mut self, at: usize) {
        for side in 0..2 {
            // A side that has closed hears nothing.
            while self.links[at].places[1 - side] != Place::Closed
                && let Some(content) = self.links[at].pipes[side].take(self.now)
            {
                self.arrive(at, 1 - side, content);
            }
        }
    }

    /// Something came to a side.
    fn arrive(&mut self, at: usize, side: usize, content: Content) {
        let now = self.now;
        let link = &mut self.links[at];
        let shared = self.session.clone();
        let mut bridge = lock(&shared);
        let session = if side == 0 { &mut self.client } else { &mut *bridge };
        match (content, link.places[side]) {
            (Content::Fin, _) => close(link, side, now, session),
            (Content::GoingAway, Place::Inside(number)) => session.going_away(number, now),
            (Content::Frames(bytes), Place::Inside(number)) => {
                session.tick(now);
                for frame in frames(&bytes) {
                    session.on_frame(number, &frame.expect("well formed"), now).unwrap_or_else(|violation| {
                        panic!("seed {}: {violation} by side {}", self.seed, 1 - side)
                    });
                }
                self.note(100 + bytes.len() as u64);
            }
            (Content::Join(join), Place::Outside) if side == 1 => {
                let known = self.bridge.get(&join.id).is_some();
                match session.admit(&join, &link.hash, &STATICS.client, now) {
                    Ok((number, answer)) if known => {
                        session.set_round_trip(number, link.round_trip);
                        link.places[1] = Place::Inside(number);
                        link.pipes[1].send(Content::Join(answer), Duration::ZERO, now);
                    }
                    result => {
                        assert!(!known || session.ended().is_some(), "seed {}: {result:?}", self.seed);
                        link.pipes[1].send(Content::Refused, Duration::ZERO, now);
                        link.pipes[1].send(Content::Fin, Duration::ZERO, now);
                        link.places[1] = Place::Closed;
                    }
                }
            }
            (Content::Join(answer), Place::Asked(number)) => {
                session.joined(&answer, &link.hash, now).expect("the bridge's answer");
                session.set_round_trip(number, link.round_trip);
                link.places[0] = Place::Inside(number);
            }
            (Content::Refused, Place::Asked(_)) => {
                session.refused(now);
                self.seen.refused = true;
                link.places[0] = Place::Closed;
            }
            (content, place) => panic!("seed {}: {content:?} in {place:?}", self.seed),
        }
    }

    fn pump(&mut self, at: usize) {
        let now = self.now;
        let shared = self.session.clone();
        let mut bridge = lock(&shared);
        for side in 0..2 {
            let link = &mut self.links[at];
            let Place::Inside(number) = link.places[side] else { continue };
            let session = if side == 0 { &mut self.client } else { &mut *bridge };
            let mut packed = 0;
            while link.pipes[side].has_room() && session.wants_to_send(number) {
                let mut out = Vec::new();
                let count = session.pack(number, link.pipes[side].record, &mut out, now);
                assert!(count == out.len() && count <= link.pipes[side].record);
                if count == 0 {
                    break;
                }
                packed += count as u64;
                let jitter = Duration::from_millis(below(&mut self.rng, 5));
                link.pipes[side].send(Content::Frames(out), jitter, now);
            }
            if packed > 0 {
                self.note(1_000_000 + packed);
            }
        }
    }

    /// A side that has no use for a carrier any more ends it.
    fn close_if_done(&mut self, at: usize) {
        let now = self.now;
        let shared = self.session.clone();
        let mut bridge = lock(&shared);
        for side in 0..2 {
            let link = &mut self.links[at];
            let session = if side == 0 { &mut self.client } else { &mut *bridge };
            let (Place::Inside(number) | Place::Asked(number)) = link.places[side] else { continue };
            let retired = session.state_of(number) == CarrierState::Retired;
            let over = session.ended().is_some() && !session.wants_to_send(number);
            if retired || over {
                close(link, side, now, session);
            }
        }
    }

    fn pass_time(&mut self, calm: bool) {
        let mut next: Vec<Instant> = self.links.iter().filter_map(Link::next_at).collect();
        next.extend(self.client.deadline());
        if !self.restarted {
            next.extend(lock(&self.session).deadline());
        }
        next.extend(self.dialled.map(|(at, _)| at));
        if !calm {
            let after = self.millis(5, 600);
            next.push(self.now + after);
            next.push(self.begin + TROUBLE + Duration::from_millis(1));
        }
        let soonest = next.into_iter().filter(|at| *at > self.now).min();
        let Some(soonest) = soonest else {
            // Nothing is due. Users who can go on do; if they cannot either, it is a deadlock.
            self.now += Duration::from_secs(1);
            return;
        };
        self.now = soonest;
    }

    fn is_over(&self) -> bool {
        let bridge = lock(&self.session);
        if self.restarted {
            return self.client.ended().is_some() || (self.finished && self.links.is_empty());
        }
        self.client.ended().is_some() && (bridge.ended().is_some() || self.links.is_empty())
    }

    /// The run is over: was everything as it should be?
    fn judge(&self) {
        let [client, bridge] = &self.users;
        if self.restarted {
            assert!(
                matches!(self.client.ended(), Some(Ended::Forgotten | Ended::Closed)),
                "{}",
                self.describe()
            );
        } else {
            // A bridge that ends it while no carrier is there answers the next one with REFUSED.
            let right = match self.client.ended() {
                Some(Ended::Closed) => !self.bridge_ends(),
                Some(Ended::PeerClosed | Ended::Forgotten) => self.bridge_ends(),
                _ => false,
            };
            assert!(right, "{}", self.describe());
            assert!(self.finished, "{}", self.describe());
        }
        for (from, to) in [(client, bridge), (bridge, client)] {
            for (id, end) in &from.ends {
                let cancelled = client.cancelled.contains(id) || bridge.cancelled.contains(id);
                let read = to.ends.get(id).map_or(0, |end| end.read);
                assert!(read <= end.written, "seed {}: stream {id} doubled", self.seed);
                if !cancelled && !self.restarted {
                    assert!(!end.failed && end.got_end, "stream {id} failed; {}", self.describe());
                    assert_eq!(read, end.written, "stream {id}; {}", self.describe());
                }
            }
        }
    }
}

/// A side lets go of a carrier; the other is told, if anything still arrives.
fn close(link: &mut Link, side: usize, now: Instant, session: &mut Session) {
    if let Place::Inside(number) | Place::Asked(number) = link.places[side] {
        session.lost(number, now);
    }
    link.places[side] = Place::Closed;
    link.pipes[side].send(Content::Fin, Duration::ZERO, now);
}
