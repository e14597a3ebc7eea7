//! A client and its session, with a process between the two.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use proptest::prelude::*;
use zeroize::Zeroizing;

use super::*;
use crate::Ended;
use crate::carrier::{Carrier, Close, Event, Side};
use crate::frame::Frame;
use crate::mux::{Read, Role, StreamId};
use crate::noise::Established;
use crate::record::{Cipher, DirectionSecret};
use crate::session::{
    CarrierNumber, Mode, Profile, Session, SharedSession, SharedSessions, Statics, lock, lock_sessions,
};

const STATICS: Statics = Statics { client: [3; 32], bridge: [4; 32] };
const HASH: [u8; 32] = [9; 32];
/// Turns until all that is under way has come to rest.
const TURNS: usize = 20_000;

fn session(role: Role, now: Instant) -> Session {
    let secret = |byte| DirectionSecret::new(Zeroizing::new([byte; 32]));
    let established = Established {
        up: secret(1),
        down: secret(2),
        cipher: Cipher::ChaCha20Poly1305,
        peer_static: STATICS.client,
        handshake_hash: HASH,
    };
    let profile = Profile { per_minute: 60_000, burst: 1_000, ..Profile::default() };
    let mut session = Session::new(role, profile, now);
    session.establish(&established, STATICS, now);
    session
}

fn now() -> Instant {
    #[expect(clippy::disallowed_methods, reason = "a test owns its clock")]
    Instant::now()
}

/// The client, its session in another process, and the carrier between.
struct World {
    now: Instant,
    client: Session,
    bridge: SharedSession,
    sessions: SharedSessions,
    number: CarrierNumber,
    away: Away,
    holder: Holder,
    /// Lengths of records and reads, by turns.
    sizes: Vec<usize>,
    turn: usize,
}

impl World {
    fn new(sizes: Vec<usize>) -> Self {
        let now = now();
        let (mut client, bridge) = (session(Role::Client, now), session(Role::Bridge, now));
        client.lost(CarrierNumber(0), now);
        let bridge = Arc::new(Mutex::new(bridge));
        lock(&bridge).lost(CarrierNumber(0), now);
        let sessions = SharedSessions::default();
        lock_sessions(&sessions).insert(&bridge);
        let (number, join) = client.join(&HASH, Mode::Replace, now);
        let away = Away::new(HASH, STATICS.client, None, join);
        let holder = Holder::new(Arc::clone(&sessions), now);
        let mut world = Self { now, client, bridge, sessions, number, away, holder, sizes, turn: 0 };
        world.ask();
        world
    }

    fn size(&mut self) -> usize {
        self.turn += 1;
        self.sizes[self.turn % self.sizes.len()]
    }

    /// The carrier is lost, at either end, and the client makes another.
    fn replace(&mut self) {
        self.client.lost(self.number, self.now);
        if self.turn.is_multiple_of(2) {
            self.away.leave();
            assert!(self.away.is_done());
        }
        self.holder.ended(Side::Link, Close::Fin, self.now);
        assert!(self.holder.finished());
        let (number, join) = self.client.join(&HASH, Mode::Replace, self.now);
        self.number = number;
        self.away = Away::new(HASH, STATICS.client, Some(Duration::from_millis(100)), join);
        self.holder = Holder::new(Arc::clone(&self.sessions), self.now);
        self.ask();
    }

    fn ask(&mut self) {
        assert!(self.away.take_wanted() && !self.away.take_wanted());
        self.away.linked(self.now);
        for _ in 0..TURNS {
            if let Some(answer) = self.link() {
                self.client.joined(&answer, &HASH, self.now).unwrap();
                assert_eq!(self.holder.poll_event(), Some(Event::Up));
                return;
            }
        }
        panic!("no answer");
    }

    /// Some bytes each way between the processes.
    fn link(&mut self) -> Option<Join> {
        let most = self.size();
        while !self.away.pending().is_empty() && self.holder.wants(Side::Link) {
            let count = self.away.pending().len().min(most);
            let space = self.holder.space(Side::Link);
            let count = count.min(space.len());
            space[..count].copy_from_slice(&self.away.pending()[..count]);
            self.holder.filled(Side::Link, count, self.now);
            self.away.wrote(count);
        }
        let count = self.holder.pending(Side::Link).len().min(most);
        if count == 0 || !self.away.wants() {
            return None;
        }
        let space = self.away.space();
        let count = count.min(space.len());
        space[..count].copy_from_slice(&self.holder.pending(Side::Link)[..count]);
        let news = self.away.filled(count);
        self.holder.wrote(Side::Link, count, self.now);
        assert!(self.away.held() < 1 << 20 && self.holder.held() < 1 << 20);
        match news {
            News::Joined(answer) => Some(answer),
            News::Nothing => None,
        }
    }

    /// A record each way, and some bytes between the processes.
    fn step(&mut self) {
        self.now += Duration::from_millis(7);
        self.client.tick(self.now);
        self.client.on_timer(self.now);
        let mut up = Vec::new();
        if !self.away.is_clogged() && self.client.wants_to_send(self.number) {
            let room = 40 + self.size();
            self.client.pack(self.number, room, &mut up, self.now);
        }
        for frame in frames(&up) {
            self.away.on_frame(&frame.unwrap()).unwrap();
        }
        self.holder.on_timer(self.now);
        assert!(self.link().is_none());
        let (room, queue) = (20 + self.size(), self.away.queue());
        let mut down = Vec::new();
        self.away.pack(room, queue.data > 0, &mut down);
        assert!(down.len() <= room, "a record's room");
        assert!(!down.is_empty() || !self.away.wants_to_send(), "nothing moves");
        for frame in frames(&down) {
            self.client.on_frame(self.number, &frame.unwrap(), self.now).unwrap();
        }
    }
}

/// Writes what fits, reads what came.
fn use_stream(session: &mut Session, id: StreamId, rest: &mut &[u8], got: &mut Vec<u8>) {
    let written = session.streams().write(id, rest).unwrap();
    *rest = &rest[written..];
    let mut buffer = [0; 4_096];
    while let Ok(Read::Data(n)) = session.streams().read(id, &mut buffer) {
        got.extend_from_slice(&buffer[..n]);
    }
}

fn pattern(count: usize, seed: usize) -> Vec<u8> {
    (0..count).map(|at| ((at + seed).wrapping_mul(2_654_435_761) >> 13).to_le_bytes()[0]).collect()
}

/// Bytes that are sure to pass in [`TURNS`] when the smallest of these sizes is all that a turn moves, half of the turns move
/// something else, and every piece has a segment's header before it.
fn passes(sizes: &[usize]) -> usize {
    let smallest = *sizes.iter().min().unwrap();
    TURNS / 2 * smallest * smallest / (smallest + 40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn every_byte_comes_once_whatever_ends(
        sizes in prop::collection::vec(1_usize..16_000, 1..12),
        cuts in prop::collection::btree_set(0_usize..200, 0..6),
        (up, down) in (0_usize..300_000, 0_usize..600_000),
    ) {
        let most = passes(&sizes);
        let mut world = World::new(sizes);
        let (up, down) = (pattern(up.min(most), 1), pattern(down.min(most), 2));
        let (mut up_left, mut down_left) = (up.as_slice(), down.as_slice());
        let (mut up_got, mut down_got) = (Vec::new(), Vec::new());
        let id = world.client.streams().open().unwrap();
        world.client.streams().write(id, b"?").unwrap();
        let mut theirs = None;
        for turn in 0..TURNS {
            if cuts.contains(&turn) {
                world.replace();
            }
            world.step();
            use_stream(&mut world.client, id, &mut up_left, &mut down_got);
            let bridge = Arc::clone(&world.bridge);
            let mut bridge = lock(&bridge);
            theirs = theirs.or_else(|| bridge.streams().accept());
            if let Some(id) = theirs {
                use_stream(&mut bridge, id, &mut down_left, &mut up_got);
            }
            drop(bridge);
            world.holder.flush(world.now);
            if turn > 200 && down_got.len() == down.len() && up_got.len() == up.len() + 1 {
                break;
            }
        }
        prop_assert!(down_got == down && up_got[1..] == up[..]);
        prop_assert_eq!(world.client.ended(), None);
        prop_assert_eq!(lock(&world.bridge).ended(), None);
        prop_assert_eq!(world.away.streams(), (1, true));
    }

    #[test]
    fn no_bytes_from_either_process_panic_or_hang(
        bytes in prop::collection::vec(any::<u8>(), 0..2_000),
        length in 0_u8..40,
        kinds in prop::collection::vec(prop::sample::select(vec![0_u8, 1, 8, 9, 10, 11, 12, ASK, STREAMS, OVER]), 1..20),
    ) {
        let mut hostile = bytes.clone();
        for (kind, body) in kinds.iter().zip(bytes.chunks(usize::from(length).max(1))) {
            put(*kind, body, &mut hostile);
        }
        for offset in [0, bytes.len()] {
            let mut world = World::new(vec![1_000]);
            let World { away, holder, now, .. } = &mut world;
            for piece in hostile[offset..].chunks(97) {
                if holder.wants(Side::Link) {
                    holder.space(Side::Link)[..piece.len()].copy_from_slice(piece);
                    holder.filled(Side::Link, piece.len(), *now);
                }
                if away.wants() {
                    away.space()[..piece.len()].copy_from_slice(piece);
                    let _ = away.filled(piece.len());
                }
                let mut out = Vec::new();
                away.pack(1_000, true, &mut out);
                prop_assert!(out.len() <= 1_000 && frames(&out).all(|frame| frame.is_ok()));
            }
            prop_assert!(away.held() < 1 << 20 && holder.held() < 1 << 20);
        }
    }
}

#[test]
fn what_is_asked_is_read_as_it_was_written() {
    let mut client = session(Role::Client, now());
    let (_, join) = client.join(&HASH, Mode::Gently, now());
    let ask = Ask { hash: [1; 32], client: [2; 32], round_trip: Duration::from_micros(70_001), join };
    let bytes = ask.encode();
    assert_eq!(whole(&bytes), Ok(Some(bytes.len())));
    assert_eq!(whole(&bytes[..bytes.len() - 1]), Ok(None));
    let Ok(Word::Ask(read)) = read(&bytes) else { panic!("no ask") };
    assert!(*read == ask);
    for length in HEADER_LEN..bytes.len() {
        assert!(super::read(&bytes[..length]).is_err(), "{length}");
    }
    assert_eq!(whole(&[0, 64, 0, ASK]), Err(Broken));
}

/// What the holder answers when this is changed about an ask that it would accept.
fn answer(change: impl Fn(&mut Ask)) -> Option<u8> {
    let now = now();
    let (mut client, bridge) = (session(Role::Client, now), session(Role::Bridge, now));
    let sessions = SharedSessions::default();
    lock_sessions(&sessions).insert(&Arc::new(Mutex::new(bridge)));
    let (_, join) = client.join(&HASH, Mode::Replace, now);
    let mut ask = Ask { hash: HASH, client: STATICS.client, round_trip: Duration::ZERO, join };
    change(&mut ask);
    let mut holder = Holder::new(sessions, now);
    let bytes = ask.encode();
    holder.space(Side::Link)[..bytes.len()].copy_from_slice(&bytes);
    holder.filled(Side::Link, bytes.len(), now);
    holder.pending(Side::Link).get(3).copied()
}

#[test]
fn a_stolen_id_is_worth_nothing_there_either() {
    let (join, refused) = (Some(10), Some(11));
    assert_eq!(answer(|_| {}), join);
    assert_eq!(answer(|ask| ask.hash[0] ^= 1), refused, "another carrier's JOIN");
    assert_eq!(answer(|ask| ask.client[0] ^= 1), refused, "another client's");
    assert_eq!(answer(|ask| ask.join.mac[31] ^= 1), refused);
    assert_eq!(answer(|ask| ask.join.next += 1), refused);
    assert_eq!(answer(|ask| ask.join.carrier += 1), refused);
    assert_eq!(answer(|ask| ask.join.id[0] ^= 1), refused, "no such session");
}

#[test]
fn who_is_refused_or_not_answered_asks_the_next() {
    let mut world = World::new(vec![1_000]);
    let (_, join) = world.client.join(&HASH, Mode::Replace, world.now);
    let mut away = Away::new(HASH, STATICS.client, None, join);
    for round in 0..3 {
        assert!(away.take_wanted() && away.on_frame(&Frame::End).is_err());
        away.linked(world.now);
        assert!(!away.take_wanted() && away.pending().get(3) == Some(&ASK));
        match round {
            0 => {
                let mut refused = Vec::new();
                Frame::Refused.encode(&mut refused);
                away.space()[..refused.len()].copy_from_slice(&refused);
                assert_eq!(away.filled(refused.len()), News::Nothing);
            }
            1 => away.broken_off(),
            _ => {
                away.on_timer(world.now + ANSWER_LIMIT - Duration::from_millis(1));
                assert!(!away.take_wanted());
                away.on_timer(away.deadline().unwrap());
            }
        }
    }
    assert!(away.take_wanted() && !away.wants_to_send());
}

#[test]
fn a_process_that_is_gone_has_taken_its_sessions_with_it() {
    let mut world = World::new(vec![1_000]);
    world.away.broken_off();
    assert!(world.away.wants_to_send() && !world.away.is_done());
    world.step();
    assert_eq!(world.client.ended(), Some(Ended::PeerClosed));
    assert!(world.away.is_done());
    assert_eq!(world.away.shutdown(), Some(Close::Fin));
    assert_eq!(world.away.shutdown(), None);
}

#[test]
fn a_session_that_ends_is_over_at_either_end() {
    let mut world = World::new(vec![1_000]);
    lock(&world.bridge).cut();
    world.holder.flush(world.now);
    for _ in 0..3 {
        world.step();
    }
    assert_eq!(world.client.ended(), Some(Ended::PeerClosed));
    assert!(world.away.is_done() && world.away.shutdown().is_some());

    let mut world = World::new(vec![1_000]);
    world.client.finish();
    for _ in 0..3 {
        world.step();
    }
    assert_eq!(lock(&world.bridge).ended(), Some(Ended::PeerClosed));
    assert!(lock_sessions(&world.sessions).is_empty() && world.away.is_done());
}

#[test]
fn a_carrier_that_was_replaced_ends_without_a_word_to_the_client() {
    let mut world = World::new(vec![1_000]);
    let (_, join) = world.client.join(&HASH, Mode::Replace, world.now);
    lock(&world.bridge).admit(&join, &HASH, &STATICS.client, world.now).unwrap();
    world.holder.flush(world.now);
    assert!(world.link().is_none());
    assert!(world.away.is_done() && !world.away.wants_to_send());
    assert_eq!(world.holder.shutdown(Side::Link), Some(Close::Fin));
    assert!(world.holder.finished());
}

#[test]
fn a_last_word_that_nobody_takes_is_not_kept_for_ever() {
    let mut world = World::new(vec![1_000]);
    lock(&world.bridge).cut();
    world.holder.flush(world.now);
    assert!(!world.holder.pending(Side::Link).is_empty() && world.holder.shutdown(Side::Link).is_none());
    assert!(world.holder.wants(Side::Link));
    for _ in 0..100 {
        world.holder.space(Side::Link)[..1_000].fill(7);
        world.holder.filled(Side::Link, 1_000, world.now);
    }
    assert!(world.holder.held() < 40_000 && !world.holder.finished());
    world.holder.on_timer(world.holder.deadline().unwrap());
    assert!(world.holder.held() < 1_000);
    world.holder.ended(Side::Link, Close::Reset, world.now);
    assert!(world.holder.finished());
}

#[test]
fn who_asks_nothing_is_not_waited_for() {
    let now = now();
    let mut holder = Holder::new(SharedSessions::default(), now);
    assert_eq!(holder.deadline(), Some(now + ANSWER_LIMIT));
    holder.on_timer(now + ANSWER_LIMIT);
    assert_eq!(holder.deadline(), None);
    assert_eq!(holder.shutdown(Side::Link), Some(Close::Fin));
    assert!(holder.finished());
}
