//! The bridge's carrier over an open websocket (docs/protocol.md, section 17).

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use qnet_wire::key::IdentityKey;
use qnet_wire::url::WebsocketUrl;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};

use super::accept::Server;
use super::records::{self, Incoming, NONCE_LEN, Outgoing};
use crate::Ended;
use crate::buffer::{Inbox, Outbox};
use crate::carrier::{Carrier, Close, Event, Side};
use crate::frame::{Frame, frames};
use crate::mux::Role;
use crate::noise::{AwaitMessage3, MESSAGE1_MIN, MESSAGE3_LEN, MessageReader, Responder};
use crate::session::{Profile, Session, SharedSession, SharedSessions, Statics};
use crate::sizes::below;
use crate::tunnel::{FRAMES, Meant, NOISE, Tunnel};

/// Bytes waiting for the socket above which it is not read.
const MAX_WAITING: usize = 256 * 1024;
/// How long after the last byte buffers are given back.
const SHRINK_AFTER: Duration = Duration::from_secs(1);
/// How long a client may take from the websocket's opening to its session, at least and beyond that at most, milliseconds; slow
/// lines need a few seconds. Somebody who does not know the bridge's key is listened to as long, as if the site were waiting for
/// something else from him. The time is drawn, so that it is not the bridge's mark.
const PATIENCE: (Duration, u32) = (Duration::from_secs(30), 60_000);
/// How long the client may take to end a connection after a close.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);

/// What all carriers of a websocket bridge share.
pub struct BridgeConfig {
    /// The bridge's key.
    pub identity: IdentityKey,
    /// Its address, as its line has it.
    pub url: WebsocketUrl,
    /// Sessions whose carriers may come back.
    pub sessions: SharedSessions,
    /// How sessions behave.
    pub profile: Profile,
}

enum Phase {
    One(Box<Responder>),
    /// Since when message 2 is on its way.
    Three(Box<AwaitMessage3>, Instant),
    /// Message 3 is in; the next record says whether the client begins a session.
    Asked,
    Up,
    Spent,
}

enum State {
    /// The first bytes of messages, until the random ones are whole.
    Nonce(Vec<u8>),
    Talk(Box<Talk>),
    /// Somebody without the bridge's key, or who altered something on the way: nothing is said to him.
    Deaf,
    /// Nothing is heard or said any more; with what the client said last for a session in another process, where that is on its way
    /// there.
    Done(Option<Box<Talk>>),
}

struct Talk {
    tunnel: Tunnel,
    incoming: Incoming,
    outgoing: Outgoing,
    phase: Phase,
    reader: MessageReader,
}

/// One carrier on a websocket bridge. See [`Carrier`] for the call contract; [`Side::Decoy`] does not exist here: who is a
/// visitor was told before.
pub struct Bridge {
    config: Arc<BridgeConfig>,
    state: State,
    server: Server,
    inbox: Inbox,
    outbox: Outbox,
    rng: ChaCha20Rng,
    payload: Vec<u8>,
    events: VecDeque<Event>,
    told_up: bool,
    told_end: bool,
    /// When to end a connection whose client does not go on.
    limit: Option<Instant>,
    shrink_at: Option<Instant>,
    close: Option<Close>,
    closed: bool,
    peer_ended: bool,
}

impl Bridge {
    /// Goes on behind [`Verdict::Opens`](super::Verdict::Opens). `seed`: 32 bytes from the system's generator.
    #[must_use]
    pub fn new(config: Arc<BridgeConfig>, answer: &[u8], rest: &[u8], seed: [u8; 32], now: Instant) -> Self {
        let mut rng = ChaCha20Rng::from_seed(seed);
        let limit = Some(now + patience(&mut rng));
        let mut bridge = Self {
            config,
            state: State::Nonce(Vec::new()),
            server: Server::default(),
            inbox: Inbox::default(),
            outbox: Outbox::default(),
            rng,
            payload: Vec::new(),
            events: VecDeque::new(),
            told_up: false,
            told_end: false,
            limit,
            shrink_at: Some(now + SHRINK_AFTER),
            close: None,
            closed: false,
            peer_ended: false,
        };
        bridge.outbox.extend(answer);
        bridge.inbox.extend(rest);
        bridge.messages(now);
        bridge
    }

    /// Bytes allocated.
    #[must_use]
    pub fn held(&self) -> usize {
        let talk = match &self.state {
            State::Talk(talk) | State::Done(Some(talk)) => {
                talk.incoming.allocated() + talk.outgoing.allocated() + talk.tunnel.held()
            }
            State::Nonce(_) | State::Deaf | State::Done(None) => 0,
        };
        self.inbox.allocated() + self.outbox.allocated() + self.payload.capacity() + talk
    }

    /// Takes the inbox's frames.
    fn messages(&mut self, now: Instant) {
        let mut payload = std::mem::take(&mut self.payload);
        let outcome = self.server.on_data(self.inbox.data(), &mut payload, self.outbox.tail());
        self.inbox.consume(usize::MAX);
        self.payload(&payload, now);
        payload.clear();
        self.payload = payload;
        if outcome.is_err() {
            self.finish(Ended::Violation, now);
        } else if self.server.is_over() {
            // Our own close is the answer: then the server ends the connection (RFC 6455, section 7.1.1).
            self.end(Ended::PeerClosed, now);
            self.close.get_or_insert(Close::Fin);
        }
    }

    fn payload(&mut self, mut payload: &[u8], now: Instant) {
        if let State::Nonce(nonce) = &mut self.state {
            let missing = NONCE_LEN.saturating_sub(nonce.len()).min(payload.len());
            let (more, rest) = payload.split_at(missing);
            nonce.extend_from_slice(more);
            payload = rest;
            let Ok(whole) = <[u8; NONCE_LEN]>::try_from(nonce.as_slice()) else { return };
            self.state = State::Talk(Box::new(self.talk(&whole, now)));
        }
        let State::Talk(talk) = &mut self.state else { return };
        talk.incoming.push(payload);
        match talk.records(&self.config, &mut self.rng, now) {
            Ok(()) => self.settle(),
            Err(None) => self.deaf(now),
            Err(Some(why)) => self.finish(why, now),
        }
    }

    /// Who carries a session is waited for no longer; one that another process may have is asked for there.
    fn settle(&mut self) {
        let State::Talk(talk) = &mut self.state else { return };
        if matches!(talk.phase, Phase::Up) && talk.tunnel.carries() {
            self.limit = None;
        }
        if talk.tunnel.link_wanted() {
            self.events.push_back(Event::Elsewhere);
        }
    }

    fn tunnel(&self) -> Option<&Tunnel> {
        if let State::Talk(talk) | State::Done(Some(talk)) = &self.state { Some(&talk.tunnel) } else { None }
    }

    fn tunnel_mut(&mut self) -> Option<&mut Tunnel> {
        if let State::Talk(talk) | State::Done(Some(talk)) = &mut self.state {
            Some(&mut talk.tunnel)
        } else {
            None
        }
    }

    fn is_clogged(&self) -> bool {
        matches!(&self.state, State::Talk(talk) if talk.tunnel.is_clogged())
    }

    fn talk(&mut self, nonce: &[u8; NONCE_LEN], now: Instant) -> Talk {
        let session = Arc::new(Mutex::new(Session::new(Role::Bridge, self.config.profile.clone(), now)));
        let BridgeConfig { identity, url, .. } = &*self.config;
        let mut shape = [0; 32];
        self.rng.fill_bytes(&mut shape);
        let (tunnel, incoming, outgoing) =
            records::begin(Role::Bridge, session, &identity.public(), url, nonce, shape);
        let responder = Responder::new(&mut self.rng, identity, &records::prologue(url, nonce));
        let phase = Phase::One(Box::new(responder));
        Talk { tunnel, incoming, outgoing, phase, reader: MessageReader::new(MESSAGE1_MIN) }
    }

    fn deaf(&mut self, now: Instant) {
        self.end(Ended::Tampered, now);
        self.state = State::Deaf;
        self.limit = Some(now + patience(&mut self.rng));
    }

    fn send(&mut self, now: Instant) {
        let State::Talk(talk) = &mut self.state else { return };
        if matches!(talk.phase, Phase::Up) {
            talk.tunnel.tick(now);
            talk.tunnel.pack(talk.outgoing.tail(), self.outbox.len(), now);
        }
        if let Some(message) = talk.outgoing.message(&mut talk.tunnel, &mut self.rng) {
            self.server.send(message, self.outbox.tail());
            talk.outgoing.taken();
        }
        if talk.tunnel.is_inside() && !std::mem::replace(&mut self.told_up, true) {
            self.events.push_back(Event::Up);
        }
        if talk.tunnel.is_done() {
            self.finish(Ended::Closed, now);
        }
    }

    /// Nothing is carried any more: the session goes on without this carrier.
    fn end(&mut self, why: Ended, now: Instant) {
        if !std::mem::replace(&mut self.told_end, true) {
            if let State::Talk(talk) = &mut self.state {
                talk.tunnel.leave(why, now);
            }
            self.events.push_back(Event::Ended(why));
        }
    }

    fn done(&mut self) {
        let (State::Talk(talk) | State::Done(Some(talk))) =
            std::mem::replace(&mut self.state, State::Done(None))
        else {
            return;
        };
        // The session's end, as a rule, which comes with the websocket's.
        self.state = State::Done(Some(talk).filter(|talk| !talk.tunnel.link_pending().is_empty()));
    }

    /// Closes the websocket, and the connection if the client then does not.
    fn finish(&mut self, why: Ended, now: Instant) {
        self.end(why, now);
        self.done();
        self.server.close(self.outbox.tail());
        self.limit = Some(now + CLOSE_LIMIT);
    }
}

/// How long somebody is borne with from now on.
fn patience(rng: &mut ChaCha20Rng) -> Duration {
    PATIENCE.0 + Duration::from_millis(below(rng, PATIENCE.1 as usize) as u64)
}

impl Talk {
    /// Understands what is whole. None: somebody who has not the bridge's key, or a record was altered.
    fn records(
        &mut self,
        config: &BridgeConfig,
        rng: &mut ChaCha20Rng,
        now: Instant,
    ) -> Result<(), Option<Ended>> {
        self.tunnel.tick(now);
        while let Some(total) = self.incoming.whole().map_err(|_| None)? {
            let Self { tunnel, incoming, outgoing, phase, reader } = self;
            let (kind, content) = tunnel.opener.open_in_place(incoming.record(total)).map_err(|_| None)?;
            match kind {
                NOISE => {
                    let message = reader.push(content).map_err(|_| Some(Ended::Handshake))?;
                    if let Some(message) = message {
                        noise(&message, tunnel, outgoing, phase, config, rng, now)?;
                        *reader = MessageReader::new(MESSAGE3_LEN);
                    }
                }
                FRAMES => {
                    tunnel.heard(total, content.len(), now);
                    said(content, tunnel, phase, config, now).map_err(Some)?;
                }
                _ => return Err(Some(Ended::Violation)),
            }
            self.incoming.consume(total);
        }
        Ok(())
    }
}

/// A whole Noise message.
fn noise(
    message: &[u8],
    tunnel: &mut Tunnel,
    outgoing: &mut Outgoing,
    phase: &mut Phase,
    config: &BridgeConfig,
    rng: &mut ChaCha20Rng,
    now: Instant,
) -> Result<(), Option<Ended>> {
    match std::mem::replace(phase, Phase::Spent) {
        Phase::One(responder) => {
            // Not authentic: a record that was made anew around another message, by somebody who has the line.
            let (_, send) = responder.read1(message).map_err(|_| None)?;
            let (second, next) = send.write().map_err(|_| Some(Ended::Handshake))?;
            outgoing.noise(tunnel, &second, rng);
            *phase = Phase::Three(Box::new(next), now);
            Ok(())
        }
        Phase::Three(wait, since) => {
            let established = wait.read(message).map_err(|_| None)?;
            let statics = Statics { client: established.peer_static, bridge: config.identity.public().0 };
            tunnel.establish(Role::Bridge, established, statics, now);
            tunnel.set_round_trip(now.saturating_duration_since(since));
            *phase = Phase::Asked;
            Ok(())
        }
        Phase::Asked | Phase::Up | Phase::Spent => Err(Some(Ended::Violation)),
    }
}

/// A record's frames. The first record of them after message 3 says whether the client begins a session.
fn said(
    content: &[u8],
    tunnel: &mut Tunnel,
    phase: &mut Phase,
    config: &BridgeConfig,
    now: Instant,
) -> Result<(), Ended> {
    let mut rest = frames(content);
    let opening = matches!(phase, Phase::Asked);
    let mut first = opening;
    if !opening && !matches!(phase, Phase::Up) {
        return Err(Ended::Violation);
    }
    while let Some(frame) = rest.next() {
        let frame = frame.map_err(|_| Ended::Violation)?;
        if std::mem::take(&mut first) {
            *phase = Phase::Up;
            let joins = if let Frame::Join(join) = &frame { Some(join) } else { None };
            tunnel.begin(&config.sessions, joins, now);
            if joins.is_some() {
                continue;
            }
        }
        if let Frame::Shape { profile, version } = frame
            && opening
            && tunnel.follow(profile, version)
        {
            continue;
        }
        match tunnel.on_frame(&frame, false, now).map_err(|_| Ended::Violation)? {
            Meant::Done => {}
            Meant::Over => tunnel.forget(&config.sessions),
            Meant::Carrier(_) => tunnel.going_away(now),
            Meant::KeysChanged if rest.next().is_none() => {}
            Meant::KeysChanged | Meant::Role => return Err(Ended::Violation),
        }
    }
    Ok(())
}

impl Carrier for Bridge {
    fn wants(&self, side: Side) -> bool {
        let open = !self.peer_ended && self.close.is_none() && self.outbox.len() < MAX_WAITING;
        match side {
            Side::Peer => open && !self.is_clogged(),
            Side::Link => self.tunnel().is_some_and(Tunnel::link_wants),
            Side::Decoy => false,
        }
    }

    fn space(&mut self, side: Side) -> &mut [u8] {
        if side == Side::Link {
            return self.tunnel_mut().map_or(&mut [], Tunnel::link_space);
        }
        self.inbox.space()
    }

    fn filled(&mut self, side: Side, n: usize, now: Instant) {
        self.shrink_at = Some(now + SHRINK_AFTER);
        if side == Side::Link {
            if let Some(tunnel) = self.tunnel_mut() {
                tunnel.link_filled(n);
            }
            self.settle();
        } else {
            self.inbox.filled(n);
            self.messages(now);
        }
        self.send(now);
    }

    fn ended(&mut self, side: Side, how: Close, now: Instant) {
        if side == Side::Link {
            if let Some(tunnel) = self.tunnel_mut() {
                tunnel.link_ended();
            }
            self.settle();
            return self.send(now);
        }
        self.peer_ended = true;
        self.end(if how == Close::Reset { Ended::Reset } else { Ended::PeerClosed }, now);
        self.done();
        self.close = Some(how);
    }

    fn pending(&self, side: Side) -> &[u8] {
        match side {
            Side::Peer => self.outbox.pending(),
            Side::Link => self.tunnel().map_or(&[], Tunnel::link_pending),
            Side::Decoy => &[],
        }
    }

    fn wrote(&mut self, side: Side, n: usize, now: Instant) {
        self.shrink_at = Some(now + SHRINK_AFTER);
        if side == Side::Link {
            if let Some(tunnel) = self.tunnel_mut() {
                tunnel.link_wrote(n);
            }
            return;
        }
        self.outbox.wrote(n);
        self.send(now);
    }

    fn shutdown(&mut self, side: Side) -> Option<Close> {
        if side == Side::Link {
            return self.tunnel_mut().map_or(Some(Close::Fin), Tunnel::link_shutdown);
        }
        let due = self.close.filter(|_| side == Side::Peer && !self.closed)?;
        if due == Close::Fin && !self.outbox.is_empty() {
            return None;
        }
        self.closed = true;
        Some(due)
    }

    fn deadline(&self) -> Option<Instant> {
        let session = match &self.state {
            State::Talk(talk) => talk.tunnel.deadline(),
            State::Nonce(_) | State::Deaf | State::Done(_) => None,
        };
        let limit = self.limit.filter(|_| self.close.is_none());
        [session, limit, self.shrink_at].into_iter().flatten().min()
    }

    fn on_timer(&mut self, now: Instant) {
        if self.limit.is_some_and(|at| at <= now) {
            match self.state {
                State::Done(_) => {
                    self.close.get_or_insert(Close::Fin);
                }
                State::Nonce(_) | State::Talk(_) | State::Deaf => self.finish(Ended::Handshake, now),
            }
        }
        if let State::Talk(talk) = &mut self.state {
            talk.tunnel.on_timer(now);
        }
        self.settle();
        self.send(now);
        if self.shrink_at.is_some_and(|at| at <= now) {
            self.shrink_at = None;
            self.inbox.shrink();
            self.outbox.shrink();
            self.payload = Vec::new();
            if let State::Talk(talk) = &mut self.state {
                talk.incoming.shrink();
                talk.outgoing.shrink();
                talk.tunnel.trim();
            }
        }
    }

    fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    fn session(&self) -> Option<&SharedSession> {
        match &self.state {
            State::Talk(talk) if talk.tunnel.is_inside() => Some(talk.tunnel.session()),
            _ => None,
        }
    }

    fn flush(&mut self, now: Instant) {
        self.send(now);
    }

    fn judge(&mut self, _allowed: bool) {}

    fn linked(&mut self, there: bool, now: Instant) {
        if let Some(tunnel) = self.tunnel_mut() {
            tunnel.linked(there, now);
        }
        self.settle();
        self.send(now);
    }

    fn close(&mut self, now: Instant) {
        self.finish(Ended::Closed, now);
    }

    fn leave(&mut self, now: Instant) {
        self.close(now);
    }

    fn finished(&self) -> bool {
        self.closed
    }
}
