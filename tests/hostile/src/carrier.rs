//! The two carriers as an attacker on the wire meets them. Without the keys nobody draws more than a browser or the decoy
//! would give; whatever comes, in whatever order, they come to rest.
//!
//! The input is a list of steps: what, how many bytes, the bytes.

use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, Instant};

use qnet_proto::admission::{Admission, Door};
use qnet_proto::bridge::{Bridge, BridgeConfig, DecoyFacts};
use qnet_proto::carrier::{Carrier, Close, Event, Side};
use qnet_proto::client::{Client, Handshake, Start};
use qnet_proto::knock::{Field, KnockedTokens};
use qnet_proto::mux::Role;
use qnet_proto::session::{Mode, Profile, Session, SharedSessions};
use qnet_proto::tls::{Sealer, Secret, Suite};
use qnet_proto::token::Token;
use qnet_wire::key::IdentityKey;

use crate::{hello, rng};

/// Bytes a core may hold for one socket: its own limit, and one read's worth beyond.
const MOST_PENDING: usize = 1 << 20;

/// Calls to a core between two steps.
const MOST_CALLS: usize = 10_000;

/// Longer than anything that a browser or a bridge waits for.
const LONGEST_WAIT: Duration = Duration::from_secs(3_600);

enum Step<'a> {
    Bytes(Side, &'a [u8]),
    /// Bytes that the harness seals, or knows.
    Special(&'a [u8]),
    End(Side, Close),
    /// A second at most: past a browser's pauses, not past its patience.
    Second,
    /// Whatever the core waits for.
    Deadline,
}

fn steps(mut data: &[u8]) -> impl Iterator<Item = Step<'_>> {
    std::iter::from_fn(move || {
        let (&[what, length], rest) = data.split_first_chunk()?;
        let (bytes, rest) = rest.split_at(usize::from(length).min(rest.len()));
        data = rest;
        Some(match what % 8 {
            0 | 1 => Step::Bytes(Side::Peer, bytes),
            2 => Step::Bytes(Side::Decoy, bytes),
            3 => Step::Special(bytes),
            4 => Step::End(Side::Peer, if length & 1 == 0 { Close::Fin } else { Close::Reset }),
            5 => Step::End(Side::Decoy, if length & 1 == 0 { Close::Fin } else { Close::Reset }),
            6 => Step::Second,
            _ => Step::Deadline,
        })
    })
}

/// A core with a shell around it that keeps the contract.
struct Shell<C> {
    core: C,
    now: Instant,
    given: [Vec<u8>; 2],
    written: [Vec<u8>; 2],
    ended: [bool; 2],
    shut: [Option<Close>; 2],
    events: Vec<Event>,
}

fn index(side: Side) -> usize {
    match side {
        Side::Peer => 0,
        // Nobody is asked for a session here.
        Side::Decoy | Side::Link => 1,
    }
}

impl<C: Carrier> Shell<C> {
    fn new(core: C, now: Instant) -> Self {
        let (given, written) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
        Self { core, now, given, written, ended: [false; 2], shut: [None; 2], events: Vec::new() }
    }

    fn give(&mut self, side: Side, mut bytes: &[u8]) {
        while !bytes.is_empty() && !self.ended[index(side)] && self.core.wants(side) {
            let space = self.core.space(side);
            assert!(!space.is_empty(), "room for what is wanted");
            let length = space.len().min(bytes.len());
            space[..length].copy_from_slice(&bytes[..length]);
            self.core.filled(side, length, self.now);
            self.given[index(side)].extend_from_slice(&bytes[..length]);
            bytes = &bytes[length..];
            self.settle();
        }
    }

    fn end(&mut self, side: Side, how: Close) {
        if !self.ended[index(side)] && self.core.wants(side) {
            self.ended[index(side)] = true;
            self.core.ended(side, how, self.now);
            self.settle();
        }
    }

    fn wait(&mut self, most: Duration) {
        let latest = self.now + most;
        self.now = self.core.deadline().map_or(latest, |due| due.clamp(self.now, latest));
        self.core.on_timer(self.now);
        self.settle();
    }

    /// Everything that the contract asks for after a call.
    fn settle(&mut self) {
        for _ in 0..MOST_CALLS {
            let mut quiet = true;
            for side in [Side::Peer, Side::Decoy] {
                let pending = self.core.pending(side);
                assert!(pending.len() <= MOST_PENDING, "a core that hoards");
                if !pending.is_empty() {
                    assert!(self.shut[index(side)].is_none(), "bytes after the end");
                    self.written[index(side)].extend_from_slice(pending);
                    let length = pending.len();
                    self.core.wrote(side, length, self.now);
                    quiet = false;
                }
                if let Some(how) = self.core.shutdown(side) {
                    self.shut[index(side)].get_or_insert(how);
                    quiet = false;
                }
            }
            while let Some(event) = self.core.poll_event() {
                if event == Event::Hello {
                    self.core.judge(true);
                }
                self.events.push(event);
                quiet = false;
            }
            if quiet {
                return;
            }
        }
        panic!("a core that never comes to rest");
    }

    fn run(&mut self, data: &[u8], mut special: impl FnMut(&[u8]) -> (Side, Vec<u8>)) {
        self.settle();
        for step in steps(data) {
            match step {
                Step::Bytes(side, bytes) => self.give(side, bytes),
                Step::Special(bytes) => {
                    let (side, bytes) = special(bytes);
                    self.give(side, &bytes);
                }
                Step::End(side, how) => self.end(side, how),
                Step::Second => self.wait(Duration::from_secs(1)),
                Step::Deadline => self.wait(LONGEST_WAIT),
            }
        }
    }
}

/// A bridge between a stranger and its decoy. The special step is a genuine hello with a token, as a thief has it; without
/// its secret no knock follows, so that bridge and wire must be one and the same.
pub fn bridge(data: &[u8]) {
    let client = IdentityKey::from_bytes([8; 32]).public().0;
    for admission in [Admission::Open, Admission::Invited(vec![client])] {
        bridge_admitting(&admission, data);
    }
}

fn bridge_admitting(admission: &Admission, data: &[u8]) {
    let config = BridgeConfig {
        identity: hello::identity(),
        names: hello::names(),
        door: Door::new(&hello::identity(), admission),
        facts: RwLock::new(DecoyFacts::default()),
        knocked: Mutex::new(KnockedTokens::new(16)),
        sessions: SharedSessions::default(),
        profile: Profile::default(),
    };
    let now = Instant::now();
    let mut shell = Shell::new(Bridge::new(Arc::new(config), [7; 32]), now);
    shell.run(data, |_| (Side::Peer, hello::stolen_hello()));
    assert!(
        shell.events.iter().all(|event| *event == Event::Hello),
        "a tunnel for nobody: {:?}",
        shell.events
    );
    let reset = shell.shut.contains(&Some(Close::Reset));
    for (from, to) in [(0, 1), (1, 0)] {
        assert!(shell.given[from].starts_with(&shell.written[to]), "a byte that is not the other end's");
        assert!(reset || shell.given[from].len() == shell.written[to].len(), "a byte was kept");
        assert!(reset || shell.ended[from] == shell.shut[to].is_some(), "an end of its own");
    }
}

/// A client whose connection leads to an attacker who may be the decoy: the special step is a record under the decoy's
/// keys. The bridge is nowhere, so nothing is ever proved.
pub fn client(data: &[u8]) {
    let suite = Suite::Aes128GcmSha256;
    let secret = |byte| Secret::new(suite, &[byte; 32]).expect("32 bytes");
    let now = Instant::now();
    let start = Start {
        bridge: hello::identity().public(),
        client_key: IdentityKey::generate(&mut rng()),
        invited: false,
        session: Arc::new(Mutex::new(Session::new(Role::Client, Profile::default(), now))),
        mode: Mode::Replace,
        token: Token::generate(&mut rng()),
        name: hello::names().remove(0),
        path: "/".into(),
        field: Field::Padding,
        early_data: true,
        aes_hardware: true,
        seed: [7; 32],
        tls: Handshake {
            client_hello: vec![1; 300],
            server_hello: vec![2; 100],
            suite,
            up_secret: secret(1),
            down_secret: secret(2),
            sent: vec![3; 80],
            up_records: 1,
            down_records: 2,
            unread: Vec::new(),
            round_trip: Duration::from_millis(50),
        },
    };
    let mut sealer = Sealer::new(suite, secret(2), 2, 2);
    let mut shell = Shell::new(Client::new(start, now), now);
    shell.run(data, |bytes| {
        let (kind, content) = bytes.split_last().map_or((23, bytes), |(kind, content)| (*kind, content));
        let mut record = Vec::new();
        sealer.seal(kind, content, &mut record);
        (Side::Peer, record)
    });
    let proved = |event: &Event| matches!(event, Event::Proved | Event::Up | Event::Hello);
    assert!(!shell.events.iter().any(proved), "proved by nobody: {:?}", shell.events);
    assert!(shell.written[1].is_empty());
}
