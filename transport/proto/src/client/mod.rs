//! The client's carrier: loads the decoy's page, knocks, checks the proof and speaks HTX (docs/protocol.md, sections 3 to 10).
//! It begins after the TLS handshake with the decoy, which a browser's TLS library makes.
//!
//! ```text
//!  Load ──proof──► Inner (message 1, 2, 3, HANDOVER, frames)
//!   │ no proof        │ a record that does not open, the decoy's end, the user's close
//!   ▼                 ▼
//!  Load, alone ────► Done
//! ```

mod inner;
mod load;

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use qnet_wire::{
    key::{BridgeKey, IdentityKey},
    name::ServerName,
};
use rand_chacha::{
    ChaCha20Rng,
    rand_core::{Rng, SeedableRng},
};

use crate::{
    Ended,
    buffer::{Inbox, Outbox, Scratch},
    carrier::{Carrier, Close, Event, Side},
    knock::{Field, KnockKey},
    mux::Role,
    noise::Initiator,
    record::MAX_CONTENT,
    scan::APPLICATION_DATA,
    session::{Mode, SharedSession, Statics},
    tls::{Secret, Suite},
    token::Token,
    tunnel::Tunnel,
};
use inner::{Heard, Inner, Options, whole};
use load::{Load, Proof, Read};

/// Fatal `bad_record_mac` (RFC 8446, section 6.2).
const BAD_RECORD_MAC: [u8; 2] = [2, 20];
/// What Chrome writes on a fatal alert: a GOAWAY frame with 30 bytes of debug data, 64 bytes as a record.
const GOAWAY_LEN: usize = 47;
/// Bytes waiting for the socket above which it is not read.
const MAX_WAITING: usize = 256 * 1024;
/// How long after the last byte buffers are given back.
const SHRINK_AFTER: Duration = Duration::from_secs(1);

/// What the rest of a carrier's life needs of the TLS handshake with the decoy.
pub struct Handshake {
    /// The ClientHello as sent, a handshake message with its 4-byte header.
    pub client_hello: Vec<u8>,
    /// The ServerHello, likewise.
    pub server_hello: Vec<u8>,
    /// The suite the decoy chose.
    pub suite: Suite,
    /// The application traffic secret from client to decoy, as derived in the handshake (RFC 8446, section 7.1).
    pub up_secret: Secret,
    /// The one from decoy to client.
    pub down_secret: Secret,
    /// Every byte sent after the ClientHello's last record: ChangeCipherSpec and the record of the Finished message.
    pub sent: Vec<u8>,
    /// Records of outer type 23 sent so far: the index of the first one under `up_secret` (docs/protocol.md, section 6).
    pub up_records: u64,
    /// Records of outer type 23 received so far, those in `unread` not counted: the same for `down_secret`.
    pub down_records: u64,
    /// Bytes received after the decoy's Finished message and not yet read by anybody.
    pub unread: Vec<u8>,
    /// From the ClientHello sent to the first byte back: one round trip to the decoy.
    pub round_trip: Duration,
}

/// What a carrier begins with: the outcome of the TLS handshake with the decoy, and what the user wants.
pub struct Start {
    /// The bridge's key.
    pub bridge: BridgeKey,
    /// The client's static key: the same on all carriers of a session, and of no other session unless by invitation.
    pub client_key: IdentityKey,
    /// Whether the bridge invites that key.
    pub invited: bool,
    /// The session this carrier begins, if it is not established, or joins.
    pub session: SharedSession,
    /// How it joins.
    pub mode: Mode,
    /// The token in the ClientHello.
    pub token: Token,
    /// The TLS handshake.
    pub tls: Handshake,
    /// The decoy's name.
    pub name: ServerName,
    /// The page to load, `/` as a rule.
    pub path: String,
    /// How this decoy takes the knock.
    pub field: Field,
    /// Whether the first data may go with message 1, neither forward secret nor post-quantum.
    pub early_data: bool,
    /// Whether this machine has AES instructions.
    pub aes_hardware: bool,
    /// 32 bytes from the system's generator.
    pub seed: [u8; 32],
}

enum State {
    Load(Box<Load>),
    Inner(Box<Inner>),
    Done,
}

/// One carrier on a client. See [`Carrier`] for the call contract; [`Side::Decoy`] does not exist here.
pub struct Client {
    state: State,
    rng: ChaCha20Rng,
    bridge: BridgeKey,
    client_key: IdentityKey,
    session: SharedSession,
    mode: Mode,
    early_data: bool,
    aes_hardware: bool,
    inbox: Inbox,
    outbox: Outbox,
    scratch: Scratch,
    /// Records of outer type 23 received.
    down: u64,
    events: VecDeque<Event>,
    told_up: bool,
    told_end: bool,
    close: Option<Close>,
    closed: bool,
    peer_ended: bool,
    shrink_at: Option<Instant>,
}

impl Client {
    /// Begins the page load.
    #[must_use]
    pub fn new(start: Start, now: Instant) -> Self {
        let mut rng = ChaCha20Rng::from_seed(start.seed);
        let mut seed = [0; 32];
        rng.fill_bytes(&mut seed);
        let shared = start.invited.then(|| start.client_key.diffie_hellman(&start.bridge.0)).flatten();
        let key = KnockKey::derive(
            &start.token,
            shared.as_deref(),
            &start.tls.client_hello,
            &start.tls.server_hello,
        );
        let mut client = Self {
            state: State::Load(Box::new(Load::new(&start, key, seed))),
            rng,
            bridge: start.bridge,
            client_key: start.client_key,
            session: start.session,
            mode: start.mode,
            early_data: start.early_data,
            aes_hardware: start.aes_hardware,
            inbox: Inbox::default(),
            outbox: Outbox::default(),
            scratch: Scratch::default(),
            down: start.tls.down_records,
            events: VecDeque::new(),
            told_up: false,
            told_end: false,
            close: None,
            closed: false,
            peer_ended: false,
            shrink_at: None,
        };
        client.inbox.extend(&start.tls.unread);
        client.records(now);
        client.send(now);
        client
    }

    /// Bytes allocated for what is on its way: the socket's buffers and the streams' queues.
    #[must_use]
    pub fn held(&self) -> usize {
        let streams = match &self.state {
            State::Inner(inner) => inner.held(),
            State::Load(_) | State::Done => 0,
        };
        self.inbox.allocated() + self.outbox.allocated() + self.scratch.0.capacity() + streams
    }

    fn over(&mut self, why: Ended, now: Instant) {
        if !self.told_end {
            self.told_end = true;
            if let State::Inner(inner) = &mut self.state {
                inner.tunnel.leave(why, now);
            }
            self.events.push_back(Event::Ended(why));
        }
    }

    /// Closes as a browser does: what is pending, then FIN.
    fn finish(&mut self, why: Ended, now: Instant) {
        self.over(why, now);
        self.state = State::Done;
        self.inbox.consume(usize::MAX);
        self.close.get_or_insert(Close::Fin);
    }

    fn records(&mut self, now: Instant) {
        while !matches!(self.state, State::Done) {
            let (outer, total) = match whole(self.inbox.data()) {
                None => return,
                Some(Err(())) => return self.tampered(now),
                Some(Ok(found)) => found,
            };
            let index = self.down;
            self.down += u64::from(outer == APPLICATION_DATA);
            match &mut self.state {
                State::Load(_) => self.load_record(outer, total, index, now),
                State::Inner(_) => self.inner_record(outer, total, now),
                State::Done => return,
            }
            self.inbox.consume(total);
        }
    }

    fn load_record(&mut self, outer: u8, total: usize, index: u64, now: Instant) {
        let State::Load(load) = &mut self.state else { return };
        let record = &self.inbox.data()[..total];
        match load.record(outer, record, index, &mut self.scratch.0, self.outbox.tail(), now) {
            Read::Nothing => {
                let cuts = load.send(self.outbox.tail(), now);
                self.outbox.cut(cuts.into_iter());
            }
            Read::Proof(proof) => self.proved(*proof, now),
            Read::Ends => {
                let why = if load.knocked() { Ended::NoProof } else { Ended::DecoyEnded };
                self.finish(why, now);
            }
            Read::Tampered => self.tampered(now),
            Read::Fails(why) => self.alone(why, now),
        }
    }

    /// No tunnel: tell the user, and go on as a browser that has loaded its page.
    fn alone(&mut self, why: Ended, now: Instant) {
        self.over(why, now);
        if let State::Load(load) = &mut self.state {
            load.leave_alone();
        }
    }

    fn proved(&mut self, proof: Proof, now: Instant) {
        let initiator = Initiator::new(&mut self.rng, &self.bridge, &self.client_key, &proof.prologue);
        let State::Load(load) = std::mem::replace(&mut self.state, State::Done) else {
            return self.finish(Ended::Internal, now);
        };
        let options = Options {
            early: self.early_data,
            aes_hardware: self.aes_hardware,
            round_trip: load.round_trip,
            mode: self.mode,
            statics: Statics { client: self.client_key.public().0, bridge: self.bridge.0 },
            now,
        };
        let mut seed = [0; 32];
        self.rng.fill_bytes(&mut seed);
        let session = Arc::clone(&self.session);
        let tunnel = Tunnel::new(session, proof.sealer, proof.opener, MAX_CONTENT, (Role::Client, seed));
        let inner = Inner::new(tunnel, initiator, load.tls, load.h2, load.up_lengths, &options);
        self.state = State::Inner(Box::new(inner));
        self.events.push_back(Event::Proved);
    }

    fn inner_record(&mut self, outer: u8, total: usize, now: Instant) {
        let State::Inner(inner) = &mut self.state else { return };
        let record = &mut self.inbox.data_mut()[..total];
        let heard = if outer == APPLICATION_DATA {
            inner.record(record, self.outbox.tail(), &mut self.rng, now)
        } else {
            None
        };
        self.outbox.cut(inner.tunnel.cuts());
        if std::mem::take(&mut inner.going_away) {
            self.events.push_back(Event::GoingAway);
        }
        self.events.extend(inner.tunnel.take_other_shape().map(Event::OtherShape));
        match heard {
            None => self.tampered(now),
            Some(Heard::Nothing) => {}
            Some(Heard::LetGo) => self.over(Ended::Tampered, now),
            Some(Heard::Ends) => self.finish(Ended::DecoyEnded, now),
            Some(Heard::Fails(why)) => self.finish(why, now),
        }
    }

    /// A record that does not open: an encrypted alert and FIN, as Chrome does.
    fn tampered(&mut self, now: Instant) {
        match &mut self.state {
            State::Load(load) => {
                load.tls.sealer.seal(crate::scan::ALERT, &BAD_RECORD_MAC, self.outbox.tail());
            }
            State::Inner(inner) => inner.bad_record(self.outbox.tail()),
            State::Done => return,
        }
        self.finish(Ended::Tampered, now);
    }

    fn send(&mut self, now: Instant) {
        match &mut self.state {
            State::Load(load) => {
                let cuts = load.send(self.outbox.tail(), now);
                self.outbox.cut(cuts.into_iter());
                if load.has_failed() {
                    self.alone(Ended::Load, now);
                }
            }
            State::Inner(inner) => {
                let waiting = self.outbox.len();
                inner.flush(self.outbox.tail(), waiting, &mut self.rng, now);
                self.outbox.cut(inner.tunnel.cuts());
                if inner.tunnel.is_inside() && !self.told_up {
                    self.told_up = true;
                    self.events.push_back(Event::Up);
                }
                if inner.tunnel.is_done() {
                    self.finish(Ended::Closed, now);
                }
            }
            State::Done => {}
        }
    }

    /// Bytes went in or out.
    fn touched(&mut self, now: Instant) {
        self.shrink_at = Some(now + SHRINK_AFTER);
    }
}

/// What Chrome does with the decoy's alert: a GOAWAY for a fatal one, nothing for close_notify.
fn goodbye(alert: [u8; 2], seal: impl FnOnce(&[u8])) {
    if alert == BAD_RECORD_MAC {
        let mut frame = [0; GOAWAY_LEN];
        // HTTP/2 frame header: length 38, type GOAWAY, no flags, stream 0 (RFC 9113, section 6.8).
        frame[2] = 38;
        frame[3] = 7;
        seal(&frame);
    }
}

impl Carrier for Client {
    fn wants(&self, side: Side) -> bool {
        let aborted = self.close == Some(Close::Reset);
        side == Side::Peer && !self.peer_ended && !aborted && self.outbox.len() < MAX_WAITING
    }

    fn space(&mut self, _side: Side) -> &mut [u8] {
        self.inbox.space()
    }

    fn filled(&mut self, _side: Side, n: usize, now: Instant) {
        self.inbox.filled(n);
        self.touched(now);
        self.records(now);
        if matches!(self.state, State::Done) {
            self.inbox.consume(usize::MAX);
        }
        self.send(now);
    }

    fn ended(&mut self, _side: Side, how: Close, now: Instant) {
        self.peer_ended = true;
        let knocked = matches!(&self.state, State::Load(load) if load.knocked());
        match how {
            Close::Fin if knocked => self.finish(Ended::NoProof, now),
            Close::Fin => self.finish(Ended::PeerClosed, now),
            Close::Reset => {
                self.finish(Ended::Reset, now);
                self.close = Some(Close::Reset);
            }
        }
    }

    fn pending(&self, side: Side) -> &[u8] {
        if side == Side::Peer { self.outbox.pending() } else { &[] }
    }

    fn ends_segment(&self, _side: Side) -> bool {
        self.outbox.is_cut()
    }

    fn wrote(&mut self, _side: Side, n: usize, now: Instant) {
        self.outbox.wrote(n);
        self.touched(now);
        self.send(now);
    }

    fn shutdown(&mut self, side: Side) -> Option<Close> {
        let due = self.close.filter(|_| side == Side::Peer && !self.closed)?;
        if due == Close::Fin && !self.outbox.is_empty() {
            return None;
        }
        self.closed = true;
        Some(due)
    }

    fn deadline(&self) -> Option<Instant> {
        let state = match &self.state {
            State::Load(load) => load.deadline(),
            State::Inner(inner) => inner.deadline(),
            State::Done => None,
        };
        [state, self.shrink_at].into_iter().flatten().min()
    }

    fn is_exact(&self) -> bool {
        matches!(self.state, State::Load(_))
    }

    fn on_timer(&mut self, now: Instant) {
        let shrink = self.shrink_at.is_some_and(|at| at <= now);
        match &mut self.state {
            State::Load(load) if load.overdue(now) => self.alone(Ended::NoProof, now),
            State::Load(load) if load.idled_out(now) => self.finish(Ended::Closed, now),
            State::Inner(inner) => inner.tunnel.on_timer(now),
            State::Load(_) | State::Done => {}
        }
        self.send(now);
        if shrink {
            self.shrink_at = None;
            self.inbox.shrink();
            self.outbox.shrink();
            self.scratch.shrink();
            if let State::Inner(inner) = &mut self.state {
                inner.shrink();
            }
        }
    }

    fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    fn session(&self) -> Option<&SharedSession> {
        Some(&self.session)
    }

    fn flush(&mut self, now: Instant) {
        self.send(now);
    }

    fn judge(&mut self, _allowed: bool) {}

    fn close(&mut self, now: Instant) {
        self.finish(Ended::Closed, now);
    }

    fn leave(&mut self, now: Instant) {
        if matches!(self.state, State::Load(_)) {
            self.alone(Ended::NoProof, now);
        } else {
            self.close(now);
        }
    }

    fn finished(&self) -> bool {
        // As a browser's socket: closed whole, the kernel does the rest.
        self.closed
    }
}
