//! The websocket cover's carriers before a peer who holds the keys: from any stage on, whatever that peer, the web server in
//! between, a user and time can do. The keys are derived here anew, from the protocol's text (section 17).

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hkdf::Hkdf;
use hmac::{Hmac, KeyInit as _, Mac as _};
use qnet_proto::carrier::{Carrier, Close, Side};
use qnet_proto::chrome::CHROME_156;
use qnet_proto::mux::Role;
use qnet_proto::noise::{
    Initiator, MESSAGE1_MAX, MESSAGE2_LEN, MESSAGE3_LEN, MessageReader, Responder, framed,
};
use qnet_proto::record::{Cipher, DirectionSecret, RecordOpener, RecordSealer};
use qnet_proto::session::{Mode, Profile, Session, SharedSession, SharedSessions, lock};
use qnet_proto::websocket::{Accept, Bridge, BridgeConfig, Channel, Client, Server, Start, Verdict};
use qnet_wire::key::IdentityKey;
use qnet_wire::url::WebsocketUrl;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::puppet::{ALERT, FRAMES, NOISE, drain, feed, start};
use crate::rng;

const CHACHA: Cipher = Cipher::ChaCha20Poly1305;
const NONCE: [u8; 32] = [0x5a; 32];
const HEADER: usize = 5;
/// What a carrier may hold: both windows, and what a fuzzer's input can make of them.
const MOST_HELD: usize = 64 << 20;

fn url() -> WebsocketUrl {
    "https://www.example.com/secret?x=1".parse().expect("an address")
}

fn identity() -> IdentityKey {
    IdentityKey::from_bytes([9; 32])
}

fn prologue(nonce: &[u8]) -> Vec<u8> {
    let url = url();
    let (host, path) = (url.host().as_str().as_bytes(), url.path().as_bytes());
    let length = |part: &[u8]| u16::try_from(part.len()).expect("short").to_be_bytes();
    [b"qnet htx ws v1", &length(host)[..], host, &length(path), path, nonce].concat()
}

/// One direction: a puppet's own half of it.
struct Half {
    veil: [u8; 32],
    key: Zeroizing<[u8; 32]>,
    iv: [u8; 12],
}

impl Half {
    fn derive(nonce: &[u8], info: &str) -> Self {
        let url = url();
        let text = format!("qnet htx ws v1{}{}", url.host(), url.path());
        let ikm = [&identity().public().0[..], nonce].concat();
        let hkdf = Hkdf::<Sha256>::new(Some(&Sha256::digest(text)), &ikm);
        let mut secret = Zeroizing::new([0; 32]);
        hkdf.expand(info.as_bytes(), &mut *secret).expect("32 bytes");
        let mut veil = [0; 32];
        hkdf.expand(format!("{info} header").as_bytes(), &mut veil).expect("32 bytes");
        let keys = DirectionSecret::new(secret).keys();
        Self { veil, key: keys.key, iv: keys.iv }
    }

    fn turn(&self, record: &mut [u8]) {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.veil).expect("any length");
        mac.update(&record[HEADER..HEADER + 16]);
        let mask = mac.finalize().into_bytes();
        record[..HEADER].iter_mut().zip(mask).for_each(|(byte, mask)| *byte ^= mask);
    }
}

/// A peer's records.
struct Wire {
    sends: Half,
    sealer: RecordSealer,
    hears: Half,
    opener: RecordOpener,
    came: Vec<u8>,
}

impl Wire {
    fn new(nonce: &[u8], sends: &str, hears: &str) -> Self {
        let (sends, hears) = (Half::derive(nonce, sends), Half::derive(nonce, hears));
        Self {
            sealer: RecordSealer::new(CHACHA, &sends.key, sends.iv, 0),
            opener: RecordOpener::new(CHACHA, &hears.key, hears.iv, 0),
            sends,
            hears,
            came: Vec::new(),
        }
    }

    fn seal(&mut self, kind: u8, content: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let start = self.sealer.begin(&mut out);
        out.extend_from_slice(content);
        self.sealer.finish(&mut out, start, kind, None);
        self.sends.turn(&mut out);
        out
    }

    /// The contents of the Noise records among what came.
    fn noise(&mut self, payload: &[u8]) -> Vec<u8> {
        self.came.extend_from_slice(payload);
        let mut all = Vec::new();
        while self.came.len() >= HEADER + 16 {
            self.hears.turn(&mut self.came);
            let total = HEADER + usize::from(u16::from_be_bytes([self.came[3], self.came[4]]));
            let record: Vec<u8> = self.came.drain(..total).collect();
            let mut scratch = Vec::new();
            let (kind, content) = self.opener.open(&record, &mut scratch).expect("the peer's own record");
            if kind == NOISE {
                all.extend_from_slice(content);
            }
        }
        all
    }

    fn rekey(&mut self, secret: &DirectionSecret) {
        let keys = secret.keys();
        self.sealer.rekey(CHACHA, &keys.key, keys.iv);
    }
}

/// A frame as a client sends it, its mask all zero.
fn masked(opcode: u8, payload: &[u8]) -> Vec<u8> {
    frame(opcode, payload, 0x80)
}

fn frame(opcode: u8, payload: &[u8], masked: u8) -> Vec<u8> {
    let mut out = vec![0x80 | opcode];
    match u16::try_from(payload.len()).expect("short messages") {
        short @ 0..126 => out.push(masked | u8::try_from(short).expect("below 126")),
        long => {
            out.push(masked | 126);
            out.extend(long.to_be_bytes());
        }
    }
    if masked != 0 {
        out.extend([0; 4]);
    }
    out.extend_from_slice(payload);
    out
}

/// The payloads of a server's whole frames.
fn unframed(mut bytes: &[u8]) -> Vec<u8> {
    let mut all = Vec::new();
    while let [first, second, ..] = *bytes {
        let (length, at) = match second {
            126 => (usize::from(u16::from_be_bytes([bytes[2], bytes[3]])), 4),
            short => (usize::from(short), 2),
        };
        if first == 0x82 {
            all.extend_from_slice(&bytes[at..at + length]);
        }
        bytes = &bytes[at + length..];
    }
    all
}

struct Step<'a> {
    action: u8,
    bytes: &'a [u8],
}

fn steps(mut data: &[u8]) -> impl Iterator<Item = Step<'_>> {
    std::iter::from_fn(move || {
        let [action, length, ref rest @ ..] = *data else { return None };
        let (bytes, rest) = rest.split_at(usize::from(length).min(rest.len()));
        data = rest;
        Some(Step { action, bytes })
    })
}

/// What a user does with the session.
fn user(session: Option<&SharedSession>, bytes: &[u8]) {
    let Some(mut session) = session.map(lock) else { return };
    let streams = session.streams();
    while streams.accept().is_some() {}
    if let Ok(id) = streams.open() {
        let _ = streams.write(id, &bytes.repeat(200));
    }
}

/// A bridge before a client that may do anything. Stages: nothing, the random bytes, message 1, message 3, a session.
pub fn bridge(data: &[u8]) {
    let Some((&stage, data)) = data.split_first() else { return };
    let mut now = start();
    let config = BridgeConfig {
        identity: identity(),
        url: url(),
        sessions: SharedSessions::default(),
        profile: Profile::default(),
    };
    let mut bridge = Bridge::new(Arc::new(config), b"", b"", [3; 32], now);
    let mut wire = Wire::new(&NONCE, "up", "down");
    advance(&mut bridge, &mut wire, stage % 5, now);
    for step in steps(data) {
        let raw = match step.action % 8 {
            0 => masked(2, step.bytes),
            1 => masked(2, &wire.seal(FRAMES, step.bytes)),
            2 => masked(2, &wire.seal(NOISE, step.bytes)),
            3 => masked(2, &wire.seal(ALERT, step.bytes)),
            4 => step.bytes.to_vec(),
            5 => masked(9, step.bytes.get(..125).unwrap_or(step.bytes)),
            6 => {
                user(bridge.session(), step.bytes);
                bridge.flush(now);
                Vec::new()
            }
            _ => {
                now = bridge.deadline().unwrap_or(now).max(now);
                bridge.on_timer(now);
                Vec::new()
            }
        };
        if bridge.wants(Side::Peer) {
            feed(&mut bridge, Side::Peer, &raw, now);
        }
        assert!(bridge.held() < MOST_HELD);
        drain(&mut bridge, Side::Peer, now);
        while bridge.poll_event().is_some() {}
    }
    bridge.ended(Side::Peer, Close::Fin, now);
    drain(&mut bridge, Side::Peer, now);
    assert!(bridge.shutdown(Side::Peer).is_some() && bridge.finished());
}

/// Plays an honest client as far as `stage`.
fn advance(bridge: &mut Bridge, wire: &mut Wire, stage: u8, now: Instant) {
    if stage >= 1 {
        feed(bridge, Side::Peer, &masked(2, &NONCE), now);
    }
    if stage < 2 {
        return;
    }
    let client = IdentityKey::from_bytes([7; 32]);
    let initiator = Initiator::new(&mut rng(), &identity().public(), &client, &prologue(&NONCE));
    let (first, wait) = initiator.message1(CHACHA, &[]).expect("message 1");
    feed(bridge, Side::Peer, &masked(2, &wire.seal(NOISE, &framed(&first))), now);
    let answer = wire.noise(&unframed(&drain(bridge, Side::Peer, now)));
    let second = MessageReader::new(MESSAGE2_LEN).push(&answer).expect("message 2").expect("all of it");
    let (third, established) = wait.read(&second).expect("the bridge's own");
    if stage >= 3 {
        feed(bridge, Side::Peer, &masked(2, &wire.seal(NOISE, &framed(&third))), now);
        wire.rekey(&established.up);
    }
    if stage >= 4 {
        // A PADDING frame: this carrier begins a session.
        feed(bridge, Side::Peer, &masked(2, &wire.seal(FRAMES, &[0; 4])), now);
        assert!(bridge.session().is_some(), "an honest client has a session");
    }
}

/// A client before a bridge that may do anything. Stages: nothing, message 2, the bridge's own keys.
pub fn client(data: &[u8]) {
    let Some((&stage, data)) = data.split_first() else { return };
    let mut now = start();
    let session = Arc::new(Mutex::new(Session::new(Role::Client, Profile::default(), now)));
    let mut client = Client::new(
        Start {
            bridge: identity().public(),
            url: url(),
            client_key: IdentityKey::from_bytes([7; 32]),
            session: Arc::clone(&session),
            mode: Mode::Replace,
            channel: open_channel(now),
            aes_hardware: false,
            round_trip: Duration::from_millis(20),
            seed: [5; 32],
        },
        now,
    );
    let mut far = Server::default();
    let sent = said(&mut client, &mut far, now);
    let (nonce, records) = sent.split_at(32);
    let mut wire = Wire::new(nonce, "down", "up");
    let first = wire.noise(records);
    if stage % 3 >= 1 {
        greet(&mut client, &mut wire, &mut far, nonce, &first, stage % 3 == 2, now);
    }
    for step in steps(data) {
        let raw = match step.action % 8 {
            0 => frame(2, step.bytes, 0),
            1 => frame(2, &wire.seal(FRAMES, step.bytes), 0),
            2 => frame(2, &wire.seal(NOISE, step.bytes), 0),
            3 => frame(2, &wire.seal(ALERT, step.bytes), 0),
            4 => step.bytes.to_vec(),
            5 => frame(9, step.bytes.get(..125).unwrap_or(step.bytes), 0),
            6 => {
                user(Some(&session), step.bytes);
                client.flush(now);
                Vec::new()
            }
            _ => {
                now = client.deadline().unwrap_or(now).max(now);
                client.on_timer(now);
                Vec::new()
            }
        };
        client.on_data(&raw, now);
        assert!(client.held() < MOST_HELD);
        while client.poll(now).is_some() {}
        while client.poll_event().is_some() {}
    }
    client.close(now);
    while client.poll(now).is_some() {}
    if let Some(at) = client.deadline() {
        client.on_timer(at.max(now));
    }
    assert!(client.is_over().is_some(), "a closed websocket ends");
}

fn open_channel(now: Instant) -> Channel {
    let url = url();
    let mut channel = Channel::http1(&CHROME_156, url.host(), url.path(), &[], [7; 32]);
    let request = channel.poll(now).expect("the request");
    let Verdict::Opens { answer, .. } = Accept::new(url.path()).on_data(&request) else { panic!("our own") };
    channel.on_data(&answer, &mut Vec::new(), now).expect("our own answer");
    channel
}

/// What the client has to say, as its peer reads it.
fn said(client: &mut Client, far: &mut Server, now: Instant) -> Vec<u8> {
    let (mut payload, mut owed) = (Vec::new(), Vec::new());
    while let Some(record) = client.poll(now) {
        far.on_data(&record, &mut payload, &mut owed).expect("our own frames");
    }
    payload
}

/// Plays an honest bridge up to message 2, or to the first record under its own keys.
fn greet(
    client: &mut Client,
    wire: &mut Wire,
    far: &mut Server,
    nonce: &[u8],
    first: &[u8],
    up: bool,
    now: Instant,
) {
    let message = MessageReader::new(MESSAGE1_MAX).push(first).expect("message 1").expect("all of it");
    let responder = Responder::new(&mut rng(), &identity(), &prologue(nonce));
    let (_, send) = responder.read1(&message).expect("the client's own");
    let (second, wait) = send.write().expect("message 2");
    client.on_data(&frame(2, &wire.seal(NOISE, &framed(&second)), 0), now);
    let sent = said(client, far, now);
    if up {
        // Message 3 is alone under the first keys; what follows it is not read here.
        let head = 2 + MESSAGE3_LEN;
        let third = third(wire, &sent, head);
        let message = MessageReader::new(MESSAGE3_LEN).push(&third).expect("message 3").expect("all of it");
        let established = wait.read(&message).expect("the client's own");
        client.on_data(&frame(2, &wire.seal(FRAMES, &[0, 0, 0, 4]), 0), now);
        wire.rekey(&established.down);
        assert!(lock(client.session()).id().is_some(), "an honest bridge's session");
    }
}

/// The Noise content of the first record alone.
fn third(wire: &mut Wire, sent: &[u8], most: usize) -> Vec<u8> {
    let mut bytes = sent.to_vec();
    wire.hears.turn(&mut bytes);
    let total = HEADER + usize::from(u16::from_be_bytes([bytes[3], bytes[4]]));
    let mut scratch = Vec::new();
    let (kind, content) = wire.opener.open(&bytes[..total], &mut scratch).expect("message 3's record");
    assert!(kind == NOISE && content.len() <= most);
    content.to_vec()
}
