//! Both carriers with nothing between them but what stands in a test's way.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use qnet_wire::key::IdentityKey;
use qnet_wire::url::WebsocketUrl;

use super::{Accept, Bridge, BridgeConfig, Channel, Client, Start, Verdict};
use crate::Ended;
use crate::carrier::{Carrier, Close, Event, Side};
use crate::chrome::CHROME_156;
use crate::elsewhere::Holder;
use crate::mux::{Read, Role, StreamId};
use crate::session::{Mode, Profile, Session, SharedSession, SharedSessions, lock, lock_sessions};
use crate::shape::MAX_HOLD;

#[allow(clippy::disallowed_methods, reason = "a starting point; the tests step time themselves")]
fn start() -> Instant {
    Instant::now()
}

fn url() -> WebsocketUrl {
    "https://www.example.com/secret?x=1".parse().unwrap()
}

fn identity() -> IdentityKey {
    IdentityKey::from_bytes([9; 32])
}

fn config() -> Arc<BridgeConfig> {
    Arc::new(BridgeConfig {
        identity: identity(),
        url: url(),
        sessions: SharedSessions::default(),
        profile: Profile::default(),
    })
}

fn session(now: Instant) -> SharedSession {
    Arc::new(Mutex::new(Session::new(Role::Client, Profile::default(), now)))
}

/// Which way bytes go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    Up,
    Down,
}

/// A carrier's two ends. Messages in between are plain to whoever is in the middle, as they are to a CDN.
struct Pair {
    client: Client,
    bridge: Bridge,
    now: Instant,
    heard: Vec<(Way, Event)>,
    /// All bytes of messages, as frames, each way.
    up: Vec<u8>,
    down: Vec<u8>,
}

/// The websocket's opening, through to the bridge's end.
fn opened(seed: u8, now: Instant) -> (Channel, Vec<u8>) {
    let url = url();
    let mut channel = Channel::http1(&CHROME_156, url.host(), url.path(), &[], [seed; 32]);
    let request = channel.poll(now).unwrap();
    let Verdict::Opens { answer, .. } = Accept::new(url.path()).on_data(&request) else { panic!() };
    channel.on_data(&answer, &mut Vec::new(), now).unwrap();
    (channel, answer)
}

impl Pair {
    fn new(config: &Arc<BridgeConfig>, session: &SharedSession, seed: u8, now: Instant) -> Self {
        Self::with(config, session, IdentityKey::from_bytes([7; 32]), &identity(), seed, now)
    }

    fn with(
        config: &Arc<BridgeConfig>,
        session: &SharedSession,
        client_key: IdentityKey,
        believed: &IdentityKey,
        seed: u8,
        now: Instant,
    ) -> Self {
        let (channel, answer) = opened(seed, now);
        let start = Start {
            bridge: believed.public(),
            url: url(),
            client_key,
            session: Arc::clone(session),
            mode: Mode::Replace,
            channel,
            aes_hardware: true,
            round_trip: Duration::from_millis(20),
            seed: [seed; 32],
        };
        let bridge = Bridge::new(Arc::clone(config), &[], &[], [seed ^ 0xff; 32], now);
        drop(answer);
        let client = Client::new(start, now);
        Self { client, bridge, now, heard: Vec::new(), up: Vec::new(), down: Vec::new() }
    }

    /// Lets both speak until both are silent; `change` may alter what goes by.
    fn pump(&mut self, mut change: impl FnMut(Way, &mut Vec<u8>)) {
        loop {
            let mut moved = false;
            self.client.flush(self.now);
            while let Some(mut record) = self.client.poll(self.now) {
                self.up.extend_from_slice(&record);
                change(Way::Up, &mut record);
                for piece in record.chunks(1_000) {
                    let space = self.bridge.space(Side::Peer);
                    space[..piece.len()].copy_from_slice(piece);
                    self.bridge.filled(Side::Peer, piece.len(), self.now);
                }
                moved = true;
            }
            self.bridge.flush(self.now);
            let mut bytes = self.bridge.pending(Side::Peer).to_vec();
            if !bytes.is_empty() {
                self.bridge.wrote(Side::Peer, bytes.len(), self.now);
                self.down.extend_from_slice(&bytes);
                change(Way::Down, &mut bytes);
                self.client.on_data(&bytes, self.now);
                moved = true;
            }
            while let Some(event) = self.client.poll_event() {
                self.heard.push((Way::Up, event));
            }
            while let Some(event) = self.bridge.poll_event() {
                self.heard.push((Way::Down, event));
            }
            self.now += Duration::from_millis(1);
            if !moved && !self.wait() {
                return;
            }
        }
    }

    /// Lets what a shape holds back go. False: nothing is held.
    fn wait(&mut self) -> bool {
        let deadlines = [self.client.deadline(), self.bridge.deadline()];
        let Some(at) = deadlines.into_iter().flatten().min().filter(|at| *at <= self.now + MAX_HOLD) else {
            return false;
        };
        self.now = self.now.max(at);
        self.client.on_timer(self.now);
        self.bridge.on_timer(self.now);
        true
    }

    fn quietly(&mut self) {
        self.pump(|_, _| {});
    }

    /// The connection is lost at both ends.
    fn cut(mut self) -> Instant {
        self.client.ended(Ended::Reset, self.now);
        self.bridge.ended(Side::Peer, Close::Reset, self.now);
        self.now
    }

    fn was(&self, way: Way, event: &Event) -> bool {
        self.heard.iter().any(|(whose, heard)| *whose == way && heard == event)
    }
}

fn bridges(pair: &Pair) -> SharedSession {
    Arc::clone(pair.bridge.session().expect("a session"))
}

fn write(session: &SharedSession, id: StreamId, data: &[u8]) -> usize {
    lock(session).streams().write(id, data).unwrap()
}

fn read(session: &SharedSession, id: StreamId) -> Vec<u8> {
    let (mut all, mut room) = (Vec::new(), [0; 4_096]);
    while let Read::Data(n) = lock(session).streams().read(id, &mut room).unwrap() {
        all.extend_from_slice(&room[..n]);
    }
    all
}

/// Bytes that are nowhere the same.
fn noise(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at * 131 + at / 251).to_le_bytes()[0]).collect()
}

#[test]
fn streams_go_both_ways() {
    let (now, config) = (start(), config());
    let ours = session(now);
    let mut pair = Pair::new(&config, &ours, 1, now);
    let id = lock(&ours).streams().open().unwrap();
    let sent = noise(200_000);
    let mut written = write(&ours, id, &sent);
    pair.quietly();
    assert!(
        pair.was(Way::Up, &Event::Proved) && pair.was(Way::Up, &Event::Up) && pair.was(Way::Down, &Event::Up)
    );
    let theirs = bridges(&pair);
    let there = lock(&theirs).streams().accept().unwrap();
    let mut got = read(&theirs, there);
    while written < sent.len() {
        written += write(&ours, id, &sent[written..]);
        pair.quietly();
        got.extend(read(&theirs, there));
    }
    assert!(got == sent);
    let (mut written, mut got) = (0, Vec::new());
    while written < sent.len() {
        written += write(&theirs, there, &sent[written..]);
        pair.quietly();
        got.extend(read(&ours, id));
    }
    assert!(got == sent);

    // Whoever is in the middle sees no header of a record anywhere, and no message as long as another by rule.
    for bytes in [&pair.up, &pair.down] {
        let headers = bytes.windows(4).filter(|four| four[..3] == [23, 3, 3] && four[3] < 0x42).count();
        assert!(headers < 5, "{headers}");
    }
    lock(&ours).finish();
    pair.quietly();
    pair.now += Duration::from_secs(3);
    pair.client.on_timer(pair.now);
    assert_eq!(pair.client.is_over(), Some(Close::Fin));
}

#[test]
fn a_session_goes_on_over_another_carrier() {
    let (now, config) = (start(), config());
    let ours = session(now);
    let mut pair = Pair::new(&config, &ours, 1, now);
    let id = lock(&ours).streams().open().unwrap();
    write(&ours, id, b"one");
    pair.quietly();
    let theirs = bridges(&pair);
    let there = lock(&theirs).streams().accept().unwrap();
    assert_eq!(read(&theirs, there), b"one");
    write(&ours, id, b"two");
    // It is on its way when the connection breaks.
    pair.client.flush(pair.now);
    let now = pair.cut();

    let mut again = Pair::new(&config, &ours, 2, now);
    again.quietly();
    assert!(Arc::ptr_eq(&bridges(&again), &theirs));
    assert_eq!(read(&theirs, there), b"two");
    write(&theirs, there, b"three");
    again.quietly();
    assert_eq!(read(&ours, id), b"three");
}

#[test]
fn a_bridge_that_knows_the_session_no_more_says_so() {
    let now = start();
    let ours = session(now);
    let mut pair = Pair::new(&config(), &ours, 1, now);
    pair.quietly();
    let now = pair.cut();
    let mut again = Pair::new(&config(), &ours, 2, now);
    again.quietly();
    assert_eq!(lock(&ours).ended(), Some(Ended::Forgotten));
    assert!(again.was(Way::Up, &Event::Ended(Ended::Forgotten)) && again.bridge.session().is_none());
}

/// What one process says gets to the other; whether there was anything.
fn pass(from: &mut impl Carrier, to: &mut impl Carrier, now: Instant) -> bool {
    let mut moved = false;
    while to.wants(Side::Link) && !from.pending(Side::Link).is_empty() {
        let count = from.pending(Side::Link).len().min(999);
        to.space(Side::Link)[..count].copy_from_slice(&from.pending(Side::Link)[..count]);
        to.filled(Side::Link, count, now);
        from.wrote(Side::Link, count, now);
        moved = true;
    }
    moved
}

/// Lets all that two processes have to say to each other get there.
fn between(pair: &mut Pair, holder: &mut Holder) {
    loop {
        pair.quietly();
        let up = pass(&mut pair.bridge, holder, pair.now);
        holder.flush(pair.now);
        let down = pass(holder, &mut pair.bridge, pair.now);
        if !up && !down {
            return;
        }
    }
}

/// A session whose process has a successor, to which its client has come.
fn succeeded(client_key: IdentityKey) -> (SharedSession, SharedSession, Pair, Holder) {
    let (now, old, new) = (start(), config(), config());
    let ours = session(now);
    let mut pair = Pair::new(&old, &ours, 1, now);
    pair.quietly();
    let theirs = bridges(&pair);
    let now = pair.cut();
    lock_sessions(&new.sessions).set_elsewhere(true);
    let mut pair = Pair::with(&new, &ours, client_key, &identity(), 2, now);
    pair.quietly();
    assert!(pair.was(Way::Down, &Event::Elsewhere) && !pair.was(Way::Down, &Event::Up));
    pair.heard.clear();
    pair.bridge.linked(true, pair.now);
    (ours, theirs, pair, Holder::new(Arc::clone(&old.sessions), now))
}

#[test]
fn a_session_of_another_process_goes_on() {
    let (ours, theirs, mut pair, mut holder) = succeeded(IdentityKey::from_bytes([7; 32]));
    between(&mut pair, &mut holder);
    let id = lock(&ours).streams().open().unwrap();
    let sent = noise(150_000);
    let (mut written, mut got, mut there) = (0, Vec::new(), None);
    while got.len() < sent.len() {
        written += write(&ours, id, &sent[written..]);
        between(&mut pair, &mut holder);
        there = there.or_else(|| lock(&theirs).streams().accept());
        got.extend(read(&theirs, there.unwrap()));
    }
    assert!(got == sent);
    let (mut written, mut got) = (0, Vec::new());
    while got.len() < sent.len() {
        written += write(&theirs, there.unwrap(), &sent[written..]);
        between(&mut pair, &mut holder);
        got.extend(read(&ours, id));
    }
    assert!(got == sent);
    // The carrier is one among the session's: it goes, and the session stays.
    pair.bridge.ended(Side::Peer, Close::Reset, pair.now);
    assert_eq!(pair.bridge.shutdown(Side::Link), Some(Close::Fin));
    holder.ended(Side::Link, Close::Fin, pair.now);
    assert!(holder.finished() && lock(&theirs).is_detached().is_some() && lock(&theirs).ended().is_none());
}

#[test]
fn the_end_of_a_session_of_another_process_gets_there_together_with_the_websockets() {
    let (ours, theirs, mut pair, mut holder) = succeeded(IdentityKey::from_bytes([7; 32]));
    between(&mut pair, &mut holder);
    lock(&ours).finish();
    pair.client.flush(pair.now);
    let mut said = Vec::new();
    while let Some(bytes) = pair.client.poll(pair.now) {
        said.extend(bytes);
    }
    pair.bridge.space(Side::Peer)[..said.len()].copy_from_slice(&said);
    pair.bridge.filled(Side::Peer, said.len(), pair.now);
    assert!(!pair.bridge.pending(Side::Peer).is_empty(), "the websocket goes on");
    pair.bridge.ended(Side::Peer, Close::Fin, pair.now);
    assert_eq!(pair.bridge.shutdown(Side::Link), None);
    assert!(pass(&mut pair.bridge, &mut holder, pair.now));
    assert_eq!(lock(&theirs).ended(), Some(Ended::PeerClosed));
    assert_eq!(pair.bridge.shutdown(Side::Link), Some(Close::Fin));
}

#[test]
fn a_session_of_another_process_is_no_strangers_either() {
    let (ours, theirs, mut pair, mut holder) = succeeded(IdentityKey::from_bytes([8; 32]));
    between(&mut pair, &mut holder);
    assert!(lock(&theirs).is_detached().is_some());
    // The next one is to be asked, and there is none.
    assert!(pair.was(Way::Down, &Event::Elsewhere));
    pair.bridge.linked(false, pair.now);
    pair.quietly();
    assert_eq!(lock(&ours).ended(), Some(Ended::Forgotten));
}

#[test]
fn another_client_cannot_join() {
    let (now, config) = (start(), config());
    let ours = session(now);
    let mut pair = Pair::new(&config, &ours, 1, now);
    pair.quietly();
    let now = pair.cut();
    let other = IdentityKey::from_bytes([8; 32]);
    let mut again = Pair::with(&config, &ours, other, &identity(), 2, now);
    again.quietly();
    assert!(again.bridge.session().is_none());
}

#[test]
fn who_has_not_the_bridges_key_hears_nothing() {
    let (now, config) = (start(), config());
    let ours = session(now);
    let mut pair = Pair::with(
        &config,
        &ours,
        IdentityKey::from_bytes([7; 32]),
        &IdentityKey::from_bytes([1; 32]),
        1,
        now,
    );
    pair.quietly();
    assert!(pair.down.is_empty() && !pair.was(Way::Up, &Event::Proved));
    assert!(pair.was(Way::Down, &Event::Ended(Ended::Tampered)));
    // After a while that is drawn, a close.
    let at = pair.bridge.deadline().unwrap();
    pair.bridge.on_timer(at);
    let at = pair.bridge.deadline().unwrap();
    assert!(at >= now + Duration::from_secs(30) && at <= now + Duration::from_secs(91));
    pair.bridge.on_timer(at);
    assert_eq!(pair.bridge.pending(Side::Peer), [0x88, 0]);
}

/// nDPI takes no more than three packets for a ClientHello, and three in a row of 411 bytes for a tunnel's.
#[test]
fn the_first_bytes_go_in_more_messages_than_a_hello_has_packets() {
    for seed in 0..100 {
        let now = start();
        let mut pair = Pair::new(&config(), &session(now), seed, now);
        pair.client.flush(pair.now);
        let lengths: Vec<usize> =
            std::iter::from_fn(|| pair.client.poll(pair.now)).map(|content| content.len()).collect();
        assert!(lengths.len() > 3, "{lengths:?}");
        // TLS adds 22 bytes to each.
        assert!(lengths.iter().all(|length| length + 22 < 411), "{lengths:?}");
    }
}

/// Who is in the middle plays a client's first message again: message 2 is another, and there it ends.
#[test]
fn a_first_message_played_again_brings_nothing() {
    let (now, config) = (start(), config());
    let ours = session(now);
    let mut pair = Pair::new(&config, &ours, 1, now);
    let id = lock(&ours).streams().open().unwrap();
    write(&ours, id, b"once");
    // All that it says before it is answered: message 1.
    let (mut first, mut answered) = (Vec::new(), false);
    pair.pump(|way, bytes| match way {
        Way::Up if !answered => first.extend_from_slice(bytes),
        Way::Up => {}
        Way::Down => answered = true,
    });
    let theirs = bridges(&pair);
    let there = lock(&theirs).streams().accept().unwrap();
    assert_eq!(read(&theirs, there), b"once");

    let mut bridge = Bridge::new(Arc::clone(&config), &[], &[], [4; 32], now);
    let rest = &pair.up[first.len()..];
    for (bytes, answered) in [(&first[..], true), (rest, true)] {
        let before = bridge.pending(Side::Peer).len();
        for piece in bytes.chunks(1_000) {
            bridge.space(Side::Peer)[..piece.len()].copy_from_slice(piece);
            bridge.filled(Side::Peer, piece.len(), now);
        }
        assert!(bridge.pending(Side::Peer).len() >= before, "{answered}");
    }
    assert!(!pair.down.starts_with(bridge.pending(Side::Peer)));
    assert!(bridge.session().is_none() && !lock(&theirs).streams().acceptable());
    assert!(!std::iter::from_fn(|| bridge.poll_event()).any(|event| event == Event::Up));
}

#[test]
fn without_a_session_a_carrier_does_not_stay() {
    let (now, config) = (start(), config());
    let mut bridge = Bridge::new(config, b"answer", &[], [4; 32], now);
    assert_eq!(bridge.pending(Side::Peer), b"answer");
    bridge.wrote(Side::Peer, 6, now);
    // After a while that is drawn as for who has no key.
    bridge.on_timer(now + Duration::from_secs(30));
    assert!(bridge.pending(Side::Peer).is_empty());
    let at = bridge.deadline().unwrap();
    assert!(at > now + Duration::from_secs(30) && at <= now + Duration::from_secs(90));
    bridge.on_timer(at);
    assert_eq!(bridge.pending(Side::Peer), [0x88, 0]);
    bridge.wrote(Side::Peer, 2, at);
    bridge.on_timer(at + Duration::from_secs(2));
    assert_eq!(bridge.shutdown(Side::Peer), Some(Close::Fin));
    assert!(bridge.finished());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whoever is in the middle alters one byte of a message, somewhere: no impersonation, and nothing wrong arrives.
    #[test]
    fn what_is_altered_is_not_delivered(place in 0_usize..6_000, up: bool, change in 1_u8..) {
        let (now, config) = (start(), config());
        let ours = session(now);
        let mut pair = Pair::new(&config, &ours, 1, now);
        let id = lock(&ours).streams().open().unwrap();
        let sent = noise(2_000);
        write(&ours, id, &sent);
        let mut seen = 0;
        pair.pump(|way, bytes| {
            if (way == Way::Up) == up {
                if let Some(byte) = place.checked_sub(seen).and_then(|at| bytes.get_mut(at)) {
                    *byte ^= change;
                }
                seen += bytes.len();
            }
        });
        if let Some(theirs) = pair.bridge.session().cloned() {
            let accepted = lock(&theirs).streams().accept();
            if let Some(there) = accepted {
                let got = read(&theirs, there);
                prop_assert!(sent.starts_with(&got));
            }
        }
    }
}
