//! A carrier's other end, made by hand from the protocol's parts, so that it can break every rule behind the
//! cryptography: a client and a decoy around a bridge, or a bridge and a decoy around a client.

use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, Instant};

use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use qnet_proto::admission::{Admission, Door};
use qnet_proto::bridge::{Bridge, BridgeConfig, DecoyFacts};
use qnet_proto::carrier::{Carrier, Event, Side};
use qnet_proto::client::{Client, Handshake, Start};
use qnet_proto::frame::{Frame, Handover};
use qnet_proto::knock::{Field, KnockKey, KnockedTokens, UpHash};
use qnet_proto::mux::Role;
use qnet_proto::noise::{
    Established, Initiator, MESSAGE1_MAX, MESSAGE2_LEN, MESSAGE3_LEN, MessageReader, Responder, framed,
    prologue,
};
use qnet_proto::record::{Cipher, RecordOpener, RecordSealer};
use qnet_proto::session::{Mode, Profile, Session, SharedSessions};
use qnet_proto::tls::{Sealer, Secret, Suite};
use qnet_proto::token::Token;
use qnet_wire::key::IdentityKey;

use crate::rng;

const VECTORS: &str = include_str!("../../../transport/proto/tests/vectors/token.txt");
const SUITE: Suite = Suite::Aes128GcmSha256;
const CHACHA: Cipher = Cipher::ChaCha20Poly1305;
const NAME: &str = "www.example.com";

/// Inner types of records.
pub const FRAMES: u8 = 23;
/// See [`FRAMES`].
pub const NOISE: u8 = 22;
/// See [`FRAMES`].
pub const ALERT: u8 = 21;

fn vector(name: &str) -> Vec<u8> {
    let mut lines = VECTORS.lines().filter_map(|line| line.split_once(" = "));
    let (_, value) = lines.find(|(n, _)| *n == name).expect("the vector");
    HEXLOWER.decode(value.as_bytes()).expect("hexadecimal")
}

fn secret(fill: u8) -> Secret {
    Secret::new(SUITE, &[fill; 32]).expect("32 bytes")
}

fn record(kind: u8, content: &[u8]) -> Vec<u8> {
    let [high, low] = u16::try_from(content.len()).expect("a record's content").to_be_bytes();
    [&[kind, 3, 3, high, low], content].concat()
}

fn server_hello() -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend([0x42; 32]);
    body.extend([0, 0x13, 1, 0, 0, 6, 0, 43, 0, 2, 3, 4]);
    [&[2, 0, 0, 46], &body[..]].concat()
}

fn token() -> Token {
    Token::from_inner_name(&BASE64URL_NOPAD.encode(&vector("token"))).expect("a token")
}

fn hello_message() -> Vec<u8> {
    vector("flight").split_off(5)
}

/// The knock key of both puppets' connection.
fn knock_key(invitation: Option<&IdentityKey>) -> KnockKey {
    let shared = invitation.and_then(|key| key.diffie_hellman(&identity().public().0));
    KnockKey::derive(&token(), shared.as_deref(), &hello_message(), &server_hello())
}

/// The bridge's key.
pub fn identity() -> IdentityKey {
    IdentityKey::from_bytes(vector("identity").try_into().expect("32 bytes"))
}

/// Any instant: only differences count.
pub fn start() -> Instant {
    Instant::now()
}

/// Puts bytes into a carrier as a socket would.
pub fn feed(core: &mut dyn Carrier, side: Side, mut bytes: &[u8], now: Instant) {
    while !bytes.is_empty() {
        let space = core.space(side);
        assert!(!space.is_empty(), "no room to read into");
        let n = space.len().min(bytes.len());
        space[..n].copy_from_slice(&bytes[..n]);
        core.filled(side, n, now);
        bytes = &bytes[n..];
    }
}

/// Takes everything a carrier has for one side.
pub fn drain(core: &mut dyn Carrier, side: Side, now: Instant) -> Vec<u8> {
    let mut all = Vec::new();
    while !core.pending(side).is_empty() {
        let n = core.pending(side).len();
        all.extend_from_slice(core.pending(side));
        core.wrote(side, n, now);
    }
    all
}

fn whole_records(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    while let [_, _, _, high, low, ..] = *bytes {
        let total = 5 + usize::from(u16::from_be_bytes([high, low]));
        let Some((record, rest)) = bytes.split_at_checked(total) else { break };
        all.push(record.to_vec());
        bytes = rest;
    }
    all
}

fn seal(sealer: &mut RecordSealer, kind: u8, content: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let start = sealer.begin(&mut out);
    out.extend_from_slice(&content[..content.len().min(16_384)]);
    sealer.finish(&mut out, start, kind, None);
    out
}

/// A record's content that carries the next of a session's bytes: these frames of its streams.
fn segment(position: &mut u64, frames: &[Frame<'_>]) -> Vec<u8> {
    let (mut bytes, mut content) = (Vec::new(), Vec::new());
    frames.iter().for_each(|frame| frame.encode(&mut bytes));
    Frame::Segment { more: false, position: *position, bytes: &bytes }.encode(&mut content);
    *position += bytes.len() as u64;
    content
}

/// How far a puppet plays by the rules before it is let loose.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Stage {
    /// Nothing was said.
    Connected,
    /// Both hellos went by, the token was opened.
    Hellos,
    /// The knock was made.
    Knocked,
    /// The bridge has proved itself.
    Proved,
    /// Message 1 and 2 were exchanged.
    Second,
    /// Message 3 was sent.
    Third,
    /// HANDOVER was made; a bridge's keys are still the first.
    Up,
}

impl Stage {
    /// One of the stages, by a fuzzer's byte.
    #[must_use]
    pub fn of(byte: u8) -> Self {
        [Self::Connected, Self::Hellos, Self::Knocked, Self::Proved, Self::Second, Self::Third, Self::Up]
            [usize::from(byte) % 7]
    }
}

/// What differs between puppet clients.
#[derive(Default)]
pub struct Script {
    /// Whom the bridge admits; everybody, if nothing is said.
    pub admission: Option<Admission>,
    /// The key by which the client is invited.
    pub invitation: Option<IdentityKey>,
    /// The key it shows in message 3, if another.
    pub shown: Option<IdentityKey>,
    /// Early data in message 1.
    pub early: Vec<u8>,
    /// The HTTP/2 requests it says it made.
    pub requests: u32,
}

/// What either puppet can say.
pub trait Voice {
    /// Bytes from the puppet's own end of the carrier.
    fn say(&mut self, bytes: &[u8]);
    /// Bytes from the decoy, as they reach whom is played with.
    fn decoy_says(&mut self, bytes: &[u8]);
    /// What seals the puppet's HTX, once there are keys.
    fn sealer(&mut self) -> Option<&mut RecordSealer>;
    /// What seals the decoy's records.
    fn decoy(&mut self) -> &mut Sealer;

    /// An HTX record; before there are keys, its content.
    fn htx(&mut self, kind: u8, content: &[u8]) {
        let record = match self.sealer() {
            Some(sealer) => seal(sealer, kind, content),
            None => record(kind, &content[..content.len().min(16_384)]),
        };
        self.say(&record);
    }

    /// A record with one frame.
    fn frame(&mut self, frame: &Frame<'_>) {
        let mut content = Vec::new();
        frame.encode(&mut content);
        self.htx(FRAMES, &content);
    }

    /// A record of the decoy's.
    fn decoy_record(&mut self, kind: u8, content: &[u8]) {
        let mut out = Vec::new();
        self.decoy().seal(kind, &content[..content.len().min(16_384)], &mut out);
        self.decoy_says(&out);
    }
}

/// A client by hand, and the decoy behind the bridge.
pub struct PuppetClient {
    /// The bridge that is played with.
    pub bridge: Bridge,
    /// Seals what the client sends, once there are keys.
    pub sealer: Option<RecordSealer>,
    /// The decoy's own.
    pub decoy: Sealer,
    /// What the bridge has said.
    pub events: Vec<Event>,
    /// Where the next of the session's bytes stand.
    pub position: u64,
    up: Sealer,
    now: Instant,
}

impl PuppetClient {
    /// Plays by the rules up to a stage.
    #[must_use]
    pub fn new(stage: Stage, script: Script, now: Instant) -> Self {
        let config = BridgeConfig {
            identity: identity(),
            names: vec![NAME.parse().expect("a name")],
            door: Door::new(&identity(), script.admission.as_ref().unwrap_or(&Admission::Open)),
            facts: RwLock::new(DecoyFacts::default()),
            knocked: Mutex::new(KnockedTokens::new(10)),
            sessions: SharedSessions::default(),
            profile: Profile::default(),
        };
        let mut puppet = Self {
            bridge: Bridge::new(Arc::new(config), [1; 32]),
            sealer: None,
            decoy: Sealer::new(SUITE, secret(2), 1, 1),
            events: Vec::new(),
            position: 0,
            up: Sealer::new(SUITE, secret(1), 1, 1),
            now,
        };
        puppet.play(stage, script);
        puppet
    }

    fn play(&mut self, stage: Stage, script: Script) {
        if stage < Stage::Hellos {
            return;
        }
        self.peer(&vector("flight"));
        self.bridge.judge(true);
        self.from_decoy(&[record(22, &server_hello()), record(20, &[1]), record(23, &[9; 900])].concat());
        let finished = [record(20, &[1]), record(23, &[8; 53])].concat();
        self.peer(&finished);
        if stage < Stage::Knocked {
            return;
        }
        let key = knock_key(script.invitation.as_ref());
        let mut hash = UpHash::new();
        hash.update(&finished);
        let (mut knock, mut content) = (Vec::new(), vec![6; 60]);
        let knock_with = |before: &[u8], stream: &[u8], plain: &mut [u8]| {
            Field::Padding.write(&hash.knock(&key, before), stream, plain);
        };
        self.up.seal_with(23, &mut content, Field::Padding.len(), knock_with, &mut knock);
        self.peer(&knock);
        if stage < Stage::Proved {
            return;
        }
        let mut answer = Vec::new();
        self.decoy.seal(23, &[5; 300], &mut answer);
        self.from_decoy(&answer);
        let down = drain(&mut self.bridge, Side::Peer, self.now);
        let Some(proof) = whole_records(&down).pop().filter(|last| *last != answer) else { return };
        let n = proof[5..37].try_into().expect("32 bytes");
        let (up, down) = key.proof_keys(&n);
        let mut opener = RecordOpener::new(CHACHA, &down.key, down.iv, 2);
        opener.open_proof(&proof, &mut Vec::new()).expect("a proof");
        self.sealer = Some(RecordSealer::new(CHACHA, &up.key, up.iv, 2));
        if stage >= Stage::Second {
            let prologue = prologue(key.salt(), token().as_bytes(), &knock, &proof);
            self.shake_hands(stage, script, &prologue, opener);
        }
    }

    fn shake_hands(&mut self, stage: Stage, script: Script, prologue: &[u8], mut opener: RecordOpener) {
        let mut rng = rng();
        let fresh = IdentityKey::generate(&mut rng);
        let own = script.shown.or(script.invitation).unwrap_or(fresh);
        let initiator = Initiator::new(&mut rng, &identity().public(), &own, prologue);
        let (first, wait) = initiator.message1(CHACHA, &script.early).expect("message 1");
        self.htx(NOISE, &framed(&first));
        let down = drain(&mut self.bridge, Side::Peer, self.now);
        let (mut reader, mut second) = (MessageReader::new(MESSAGE2_LEN), None);
        for record in whole_records(&down) {
            if let Ok((NOISE, piece)) = opener.open(&record, &mut Vec::new()) {
                second = reader.push(piece).expect("message 2");
            }
        }
        let Some(second) = second.filter(|_| stage >= Stage::Third) else { return };
        let (third, established) = wait.read(&second).expect("message 2");
        self.htx(NOISE, &framed(&third));
        let keys = established.up.keys();
        if let Some(sealer) = &mut self.sealer {
            sealer.rekey(CHACHA, &keys.key, keys.iv);
        }
        if stage >= Stage::Up {
            self.frame(&Frame::Handover(Handover {
                suite: SUITE.into(),
                requests: script.requests,
                up_first: 1,
                down_first: 1,
                up_secret: vec![1; 32].into(),
                down_secret: vec![2; 32].into(),
            }));
        }
    }

    /// Bytes from the client's socket.
    pub fn peer(&mut self, bytes: &[u8]) {
        feed(&mut self.bridge, Side::Peer, bytes, self.now);
        self.take_events();
    }

    /// Bytes from the decoy's socket.
    pub fn from_decoy(&mut self, bytes: &[u8]) {
        feed(&mut self.bridge, Side::Decoy, bytes, self.now);
        self.take_events();
    }

    /// A record with one frame of the session's streams.
    pub fn stream_frame(&mut self, frame: &Frame<'_>) {
        let content = segment(&mut self.position, std::slice::from_ref(frame));
        self.htx(FRAMES, &content);
    }

    fn take_events(&mut self) {
        while let Some(event) = self.bridge.poll_event() {
            self.events.push(event);
        }
    }
}

impl Voice for PuppetClient {
    fn say(&mut self, bytes: &[u8]) {
        self.peer(bytes);
    }

    fn decoy_says(&mut self, bytes: &[u8]) {
        self.from_decoy(bytes);
    }

    fn sealer(&mut self) -> Option<&mut RecordSealer> {
        self.sealer.as_mut()
    }

    fn decoy(&mut self) -> &mut Sealer {
        &mut self.decoy
    }
}

/// A bridge by hand, and the decoy behind it.
pub struct PuppetBridge {
    /// The client that is played with.
    pub client: Client,
    /// Seals what the bridge sends, once there are keys.
    pub sealer: Option<RecordSealer>,
    /// The decoy's own.
    pub decoy: Sealer,
    /// What the client has said.
    pub events: Vec<Event>,
    /// Where the next of the session's bytes stand.
    pub position: u64,
    /// The time by which the client has come here.
    pub now: Instant,
    sent: Vec<u8>,
}

impl Voice for PuppetBridge {
    fn say(&mut self, bytes: &[u8]) {
        self.from_bridge(bytes);
    }

    fn decoy_says(&mut self, bytes: &[u8]) {
        self.from_bridge(bytes);
    }

    fn sealer(&mut self) -> Option<&mut RecordSealer> {
        self.sealer.as_mut()
    }

    fn decoy(&mut self) -> &mut Sealer {
        &mut self.decoy
    }
}

impl PuppetBridge {
    /// Plays by the rules up to a stage; [`Stage::Third`] is as [`Stage::Second`].
    #[must_use]
    pub fn new(stage: Stage, early: bool, now: Instant) -> Self {
        let finished = [record(20, &[1]), record(23, &[8; 53])].concat();
        let begin = Start {
            bridge: identity().public(),
            client_key: IdentityKey::generate(&mut rng()),
            invited: false,
            session: Arc::new(Mutex::new(Session::new(Role::Client, Profile::default(), now))),
            mode: Mode::Replace,
            token: token(),
            name: NAME.parse().expect("a name"),
            path: "/".to_owned(),
            field: Field::Padding,
            early_data: early,
            aes_hardware: false,
            seed: [4; 32],
            tls: Handshake {
                client_hello: hello_message(),
                server_hello: server_hello(),
                suite: SUITE,
                up_secret: secret(1),
                down_secret: secret(2),
                sent: finished.clone(),
                up_records: 1,
                down_records: 1,
                unread: Vec::new(),
                round_trip: Duration::from_millis(50),
            },
        };
        let mut puppet = Self {
            client: Client::new(begin, now),
            sealer: None,
            decoy: Sealer::new(SUITE, secret(2), 1, 1),
            events: Vec::new(),
            position: 0,
            now,
            sent: finished,
        };
        puppet.play(stage);
        puppet
    }

    fn play(&mut self, stage: Stage) {
        if stage < Stage::Hellos {
            return;
        }
        // The preface waits for Chrome's pause, and the page is asked for behind it.
        if let Some(at) = self.client.deadline() {
            self.now = at;
            self.client.on_timer(at);
            self.take();
        }
        // SETTINGS, theirs acknowledged; a page without anything: the icon is the last request.
        self.decoy_record(23, &[0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 4, 1, 0, 0, 0, 0]);
        self.decoy_record(23, &[0, 0, 1, 1, 5, 0, 0, 0, 1, 0x88]);
        if stage < Stage::Knocked {
            return;
        }
        while let Some(at) = self.client.deadline().filter(|at| *at < self.now + Duration::from_secs(1)) {
            self.now = self.now.max(at);
            self.client.on_timer(self.now);
            self.take();
            if whole_records(&self.sent).len() >= 6 {
                break;
            }
        }
        if stage < Stage::Proved {
            return;
        }
        let knock = whole_records(&self.sent).pop().expect("a knock");
        let key = knock_key(None);
        self.decoy_record(23, &[0, 0, 1, 1, 4, 0, 0, 0, 3, 0x88]);
        let n = [7; 32];
        let (up, down) = key.proof_keys(&n);
        let mut sealer = RecordSealer::new(CHACHA, &down.key, down.iv, self.decoy.direction().next_index());
        let mut proof = Vec::new();
        sealer.seal_proof(&mut proof, &n, &[], 300);
        let (before, index) = (self.sent.len(), whole_records(&self.sent).len() as u64 - 1);
        self.sealer = Some(sealer);
        self.from_bridge(&proof);
        if stage < Stage::Second {
            return;
        }
        self.now += Duration::from_millis(20);
        self.client.on_timer(self.now);
        self.take();
        let opener = RecordOpener::new(CHACHA, &up.key, up.iv, index);
        let prologue = prologue(key.salt(), token().as_bytes(), &knock, &proof);
        self.shake_hands(stage, before, &prologue, opener);
    }

    fn shake_hands(&mut self, stage: Stage, mut read: usize, prologue: &[u8], mut opener: RecordOpener) {
        let responder = Responder::new(&mut rng(), &identity(), prologue);
        let Some(first) = message(&self.sent[read..], MESSAGE1_MAX, &mut opener) else { return };
        read = self.sent.len();
        let (_, send) = responder.read1(&first).expect("message 1");
        let (second, wait) = send.write().expect("message 2");
        self.htx(NOISE, &framed(&second));
        if stage < Stage::Up {
            return;
        }
        let third = message(&self.sent[read..], MESSAGE3_LEN, &mut opener).expect("message 3");
        let established: Established = wait.read(&third).expect("message 3");
        let mut update = Vec::new();
        Frame::KeyUpdate.encode(&mut update);
        self.htx(FRAMES, &update);
        let keys = established.down.keys();
        if let Some(sealer) = &mut self.sealer {
            sealer.rekey(established.cipher, &keys.key, keys.iv);
        }
    }

    /// Bytes from the bridge's socket.
    pub fn from_bridge(&mut self, bytes: &[u8]) {
        feed(&mut self.client, Side::Peer, bytes, self.now);
        self.take();
    }

    /// A record with one frame of the session's streams.
    pub fn stream_frame(&mut self, frame: &Frame<'_>) {
        let content = segment(&mut self.position, std::slice::from_ref(frame));
        self.htx(FRAMES, &content);
    }

    /// Takes what the client has to say.
    pub fn take(&mut self) {
        let sent = drain(&mut self.client, Side::Peer, self.now);
        self.sent.extend(sent);
        while let Some(event) = self.client.poll_event() {
            self.events.push(event);
        }
    }
}

/// The first Noise message in these records.
fn message(bytes: &[u8], max: usize, opener: &mut RecordOpener) -> Option<Vec<u8>> {
    let mut reader = MessageReader::new(max);
    for record in whole_records(bytes) {
        let mut scratch = Vec::new();
        if let Ok((NOISE, piece)) = opener.open(&record, &mut scratch)
            && let Some(message) = reader.push(piece).expect("a message")
        {
            return Some(message);
        }
    }
    None
}
