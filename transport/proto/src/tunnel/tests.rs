//! Two ends of a carrier after their handshake, on sealed bytes.

use zeroize::Zeroizing;

use super::*;
use crate::frame::frames;
use crate::mux::{Read, StreamId};
use crate::scan::{Head, protected_head};
use crate::session::{Profile, Session};
use std::sync::{Arc, Mutex};

/// A turn of one end, and how long bytes are on their way.
const DELAY: Duration = Duration::from_millis(10);
/// What happens later than this is none of what was asked for.
const REST: Duration = Duration::from_secs(1);
/// Turns of a run; far more than any takes.
const TURNS: usize = 100_000;

/// One end: its tunnel, what it sent, and what the peer's frames meant.
struct End {
    tunnel: Tunnel,
    role: Role,
    first_keys: bool,
    /// Lengths of the records that it sent, headers included.
    sent: Vec<usize>,
    /// The bridge's SHAPE, at the client.
    heard: Vec<(u8, u16)>,
}

struct Pair {
    ends: [End; 2],
    now: Instant,
}

fn established() -> Established {
    let secret = |byte| DirectionSecret::new(Zeroizing::new([byte; 32]));
    Established {
        up: secret(1),
        down: secret(2),
        cipher: Cipher::ChaCha20Poly1305,
        peer_static: [0; 32],
        handshake_hash: [9; 32],
    }
}

impl End {
    fn new(role: Role, shape: Shape, seed: u8, now: Instant) -> Self {
        let session = Session::new(role, Profile { shape, ..Profile::default() }, now);
        let keys = |byte| DirectionSecret::new(Zeroizing::new([byte; 32])).keys();
        let (up, down) = (keys(3), keys(4));
        let (send, receive) = if role == Role::Client { (up, down) } else { (down, up) };
        let chacha = Cipher::ChaCha20Poly1305;
        let sealer = RecordSealer::new(chacha, &send.key, send.iv, 0);
        let opener = RecordOpener::new(chacha, &receive.key, receive.iv, 0);
        let session = Arc::new(Mutex::new(session));
        let mut tunnel = Tunnel::new(session, sealer, opener, 16_384, (role, [seed; 32]));
        let statics = Statics { client: [5; 32], bridge: [6; 32] };
        tunnel.establish(role, established(), statics, now);
        tunnel.set_round_trip(2 * DELAY);
        Self { tunnel, role, first_keys: role == Role::Client, sent: Vec::new(), heard: Vec::new() }
    }

    fn pack(&mut self, now: Instant) -> Vec<u8> {
        let mut out = Vec::new();
        self.tunnel.pack(&mut out, 0, now);
        let mut rest = out.as_slice();
        while let Head::Record { total, .. } = protected_head(rest) {
            self.sent.push(total);
            rest = &rest[total..];
        }
        assert!(rest.is_empty());
        assert!(self.tunnel.cuts().all(|at| at <= out.len()));
        out
    }

    fn take(&mut self, mut bytes: &[u8], now: Instant) {
        while let Head::Record { total, .. } = protected_head(bytes) {
            let (record, rest) = bytes.split_at(total);
            bytes = rest;
            let mut scratch = Vec::new();
            let (kind, content) = self.tunnel.opener.open(record, &mut scratch).unwrap();
            assert_eq!(kind, FRAMES);
            self.tunnel.heard(total, content.len(), now);
            for frame in frames(content) {
                match self.tunnel.on_frame(&frame.clone().unwrap(), self.first_keys, now).unwrap() {
                    Meant::Role => {
                        let Ok(Frame::Shape { profile, version }) = frame else { panic!("{frame:?}") };
                        assert_eq!(self.role, Role::Client);
                        assert!(self.tunnel.answered(profile, version));
                        self.heard.push((profile, version));
                    }
                    Meant::KeysChanged => self.first_keys = false,
                    _ => {}
                }
            }
        }
        assert!(bytes.is_empty());
    }

    fn total(&self) -> usize {
        self.sent.iter().sum()
    }
}

impl Pair {
    #[expect(clippy::disallowed_methods, reason = "any instant will do; only differences count")]
    fn new(shape: Shape, seed: u8) -> Self {
        let now = Instant::now();
        Self {
            ends: [End::new(Role::Client, shape, seed, now), End::new(Role::Bridge, shape, seed, now)],
            now,
        }
    }

    /// What the client says about the shape, in the place of the record that it rides in.
    fn ask(&mut self) -> bool {
        let Frame::Shape { profile, version } = self.ends[0].tunnel.shape() else { panic!("no shape") };
        self.ends[1].tunnel.follow(profile, version)
    }

    /// Each sends what it may and the other takes it; time passes. False: nothing moved and nothing is soon to.
    fn turn(&mut self) -> bool {
        let mut moved = false;
        for from in [0, 1] {
            let bytes = self.ends[from].pack(self.now);
            moved |= !bytes.is_empty();
            self.ends[1 - from].take(&bytes, self.now + DELAY);
        }
        self.now += DELAY;
        let soon = self.now + REST;
        moved || self.ends.iter().any(|end| end.tunnel.shaper.deadline().is_some_and(|at| at <= soon))
    }

    fn session(&self, of: usize) -> SharedSession {
        Arc::clone(&self.ends[of].tunnel.session)
    }

    fn quiet(&mut self) {
        assert!((0..TURNS).any(|_| !self.turn()), "no end");
    }

    /// The client asks for so much on a new stream, and gets it.
    fn download(&mut self, ask: usize, bytes: usize) {
        let (ours, theirs) = (self.session(0), self.session(1));
        let id = lock(&ours).streams().open().unwrap();
        lock(&ours).streams().write(id, &vec![7; ask]).unwrap();
        self.quiet();
        let there = lock(&theirs).streams().accept().unwrap();
        assert_eq!(read(&theirs, there), ask);
        let (mut written, mut got) = (0, 0);
        let data = vec![8; bytes];
        while got < bytes {
            written += lock(&theirs).streams().write(there, &data[written..]).unwrap();
            self.turn();
            got += read(&ours, id);
        }
        self.quiet();
    }
}

/// How many bytes came, all of them read.
fn read(session: &SharedSession, id: StreamId) -> usize {
    let (mut all, mut room) = (0, vec![0; 65_536]);
    while let Read::Data(n) = lock(session).streams().read(id, &mut room).unwrap() {
        all += n;
    }
    all
}

#[test]
fn the_bridge_follows_what_it_knows_and_says_so_with_its_first_data() {
    for shape in Shape::all() {
        let mut pair = Pair::new(shape, 1);
        assert!(pair.ask());
        pair.quiet();
        assert!(pair.ends[1].sent.is_empty(), "the answer goes with data, not by itself");
        pair.download(300, 5_000);
        let profile = shape.profile();
        assert_eq!(pair.ends[0].heard, [(profile.number, profile.version)]);
        assert_eq!(pair.ends[0].tunnel.take_other_shape(), None);
        assert!(!pair.ask(), "it may be said once");
    }
}

#[test]
fn what_is_not_known_or_not_said_is_web() {
    let none = Shape::named("none").unwrap();
    let known = none.profile();
    for (number, version) in [(known.number, known.version + 1), (255, known.version)] {
        let mut pair = Pair::new(none, 2);
        assert!(pair.ends[1].tunnel.follow(number, version));
        pair.download(300, 5_000);
        let web = Shape::default().profile();
        assert_eq!(pair.ends[0].heard, [(web.number, web.version)]);
        // Told once a session, whatever its further carriers hear.
        assert_eq!(pair.ends[0].tunnel.take_other_shape(), Some(Shape::default()));
        assert_eq!(pair.ends[0].tunnel.take_other_shape(), None);
        let mut next = End::new(Role::Client, none, 3, pair.now);
        next.tunnel.session = pair.session(0);
        assert!(next.tunnel.answered(web.number, web.version));
        assert_eq!(next.tunnel.take_other_shape(), None);
        assert!(!next.tunnel.answered(web.number, web.version), "it may be said once");
    }
    let mut silent = Pair::new(none, 4);
    silent.download(300, 1_000);
    assert!(silent.ends[0].heard.is_empty());
    assert!(lock(&silent.session(1)).shaping().padding > 0, "web adds something");
}

#[test]
fn ten_megabytes_cost_less_than_three_per_cent_more_and_nothing_changes_for_none() {
    const BYTES: usize = 10_000_000;
    let cost = |shape: Shape, ask: usize, pieces: usize| {
        let mut pair = Pair::new(shape, 5);
        assert!(pair.ask());
        for _ in 0..pieces {
            pair.download(ask, BYTES / pieces);
        }
        let shaping = lock(&pair.session(1)).shaping();
        let sent = pair.ends[1].total();
        let padding = usize::try_from(shaping.padding).unwrap();
        assert!(padding <= sent - BYTES);
        (sent, padding)
    };
    for pieces in [1, 20, 400] {
        let (plain, nothing) = cost(Shape::named("none").unwrap(), 400, pieces);
        let (shaped, added) = cost(Shape::default(), 400, pieces);
        assert_eq!(nothing, 0);
        assert!(added > 0 && shaped > plain, "{added} bytes added");
        assert!((shaped - plain) * 100 <= BYTES * 3, "{plain} became {shaped}");
    }
}

#[test]
fn an_upload_is_whole_and_bulk_takes_full_records() {
    let mut pair = Pair::new(Shape::default(), 6);
    assert!(pair.ask());
    let (ours, theirs) = (pair.session(0), pair.session(1));
    let id = lock(&ours).streams().open().unwrap();
    let data: Vec<u8> = (0..3_000_000_u32).map(|at| (at % 251) as u8).collect();
    let (mut written, mut got, mut there) = (0, Vec::new(), None);
    let mut room = vec![0; 65_536];
    while got.len() < data.len() {
        written += lock(&ours).streams().write(id, &data[written..]).unwrap();
        pair.turn();
        let mut session = lock(&theirs);
        there = there.or_else(|| session.streams().accept());
        let Some(there) = there else { continue };
        while let Read::Data(n) = session.streams().read(there, &mut room).unwrap() {
            got.extend_from_slice(&room[..n]);
        }
    }
    assert!(got == data, "bytes in their order");
    let full = pair.ends[0].sent.iter().filter(|length| **length > 16_000).sum::<usize>();
    assert!(full * 100 > 95 * data.len(), "{full} bytes in full records");
}

#[test]
fn acknowledgements_and_the_end_are_not_held() {
    let mut pair = Pair::new(Shape::default(), 7);
    assert!(pair.ask());
    let ours = pair.session(0);
    let id = lock(&ours).streams().open().unwrap();
    lock(&ours).streams().write(id, &[1; 500]).unwrap();
    assert!(pair.ends[0].pack(pair.now).is_empty(), "a page's first request comes after a pause");
    let held = pair.ends[0].tunnel.deadline().unwrap() - pair.now;
    assert!(held > Duration::ZERO && held <= 2 * DELAY);
    pair.ends[0].tunnel.announce_end();
    let bytes = pair.ends[0].pack(pair.now);
    assert_eq!(bytes.len(), 5 + 26, "a record of control alone");
    assert!(pair.ends[0].pack(pair.now).is_empty());
    assert!(!pair.ends[0].pack(pair.now + held).is_empty());
}
