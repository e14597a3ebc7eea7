//! The bridge's carrier: joins a client to the decoy, recognises a knock, proves itself, and speaks HTX
//! (docs/protocol.md, sections 1 to 10).
//!
//! ```text
//!  Before ──knock──► Knocked ──answer's first record──► Inner ──HANDOVER──► Inner, decoy ours
//!    │                  │                                │ ╲                     │
//!    │ anything else    │ a client byte, a short record  │  foreign bytes        │ foreign bytes, either end
//!    ▼                  ▼                                ▼                       ▼
//!  Visitor ◄────────────┴────────────────────────────────┘               Over (up raw, down HTX)
//! ```

mod before;
mod decoy;
mod end;
mod inner;

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::{Duration, Instant},
};

use qnet_wire::{key::IdentityKey, name::ServerName};
use rand_chacha::{ChaCha20Rng, rand_core::SeedableRng};

use crate::{
    Ended,
    admission::Door,
    carrier::{Carrier, Close, Event, Side},
    knock::KnockedTokens,
    session::{Profile, SharedSession, SharedSessions},
    shape::Habit,
    tunnel::Tunnel,
};
use before::{Answer, Before, Knocked, Seen};
use decoy::Word;
use end::{End, pass, pass_some};
use inner::{Context, Inner, Outcome, next_length};

/// Bytes waiting for a socket above which its source is not read: a server's usual send buffer.
const MAX_WAITING: usize = 128 * 1024;
/// How long after the last byte buffers are given back.
const SHRINK_AFTER: Duration = Duration::from_secs(1);

/// How long after the decoy's end a client may keep its own direction open, or stop taking what is left for it: as long as
/// Linux keeps a socket that its server has closed (`tcp_fin_timeout`). Without it a visitor who never closes would hold
/// two sockets for ever.
const LINGER: Duration = Duration::from_secs(60);

/// What is known about the decoy, by measurement.
#[derive(Clone, Debug)]
pub struct DecoyFacts {
    /// How long it keeps a silent connection; `None` until measured.
    pub idle_limit: Option<Duration>,
    /// How long it keeps any connection; `None` where no such limit was measured.
    pub lifetime: Option<Duration>,
    /// Requests it answers on one connection.
    pub max_requests: u32,
    /// How it cuts long answers into records.
    pub habit: Habit,
}

impl Default for DecoyFacts {
    /// Before anything is measured: nginx's number of requests, nothing else.
    fn default() -> Self {
        Self { idle_limit: None, lifetime: None, max_requests: 1_000, habit: Habit::default() }
    }
}

/// What all carriers of a bridge share.
pub struct BridgeConfig {
    /// The bridge's one key.
    pub identity: IdentityKey,
    /// Names a client may ask for: those the decoy serves.
    pub names: Vec<ServerName>,
    /// Who may use the bridge.
    pub door: Door,
    /// What is known about the decoy.
    pub facts: RwLock<DecoyFacts>,
    /// Tokens that knocked.
    pub knocked: Mutex<KnockedTokens>,
    /// The sessions, with a carrier and without.
    pub sessions: SharedSessions,
    /// How sessions behave.
    pub profile: Profile,
}

enum State {
    Before(Box<Before>),
    Knocked(Box<Knocked>),
    Inner(Box<Inner>),
    /// The tunnel is over after HANDOVER: up raw, down what ends the decoy's connection, under HTX.
    Over(Box<Inner>),
    /// Authentic, but done: its bytes are dropped, the decoy's go on until it ends.
    Deaf,
    Visitor,
}

/// One carrier on a bridge. See [`Carrier`] for the call contract.
pub struct Bridge {
    config: Arc<BridgeConfig>,
    rng: ChaCha20Rng,
    state: State,
    client: End,
    decoy: End,
    events: VecDeque<Event>,
    /// When the first byte came: the decoy's connection is as old.
    began: Option<Instant>,
    /// When to give buffers back.
    shrink_at: Option<Instant>,
    /// When the client's end is no longer waited for, and the bytes it had still to take when that was decided.
    abandon: Option<(Instant, usize)>,
    abandoned: bool,
    told_end: bool,
}

impl Bridge {
    /// A carrier whose client and decoy have just been connected. `seed`: 32 bytes from the system's generator.
    #[must_use]
    pub fn new(config: Arc<BridgeConfig>, seed: [u8; 32]) -> Self {
        Self {
            config,
            rng: ChaCha20Rng::from_seed(seed),
            state: State::Before(Box::new(Before::new())),
            client: End::default(),
            decoy: End::default(),
            events: VecDeque::new(),
            began: None,
            shrink_at: None,
            abandon: None,
            abandoned: false,
            told_end: true,
        }
    }

    /// Whether this connection is, for good, an ordinary visit to the decoy.
    #[must_use]
    pub fn is_visitor(&self) -> bool {
        matches!(self.state, State::Visitor)
    }

    /// Bytes allocated for what is on its way: the sockets' buffers and the streams' queues.
    #[must_use]
    pub fn held(&self) -> usize {
        let ends = [&self.client, &self.decoy];
        let queues = ends.map(|end| end.inbox.allocated() + end.outbox.allocated()).iter().sum::<usize>();
        let streams = match &self.state {
            State::Inner(inner) | State::Over(inner) => inner.held(),
            _ => 0,
        };
        queues + streams
    }

    fn facts(&self) -> DecoyFacts {
        self.config.facts.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The end on this side; a link is none of ours but the tunnel's.
    fn end(&mut self, side: Side) -> &mut End {
        match side {
            Side::Peer => &mut self.client,
            Side::Decoy | Side::Link => &mut self.decoy,
        }
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

    fn client_bytes(&mut self, now: Instant) {
        match &mut self.state {
            State::Before(before) => {
                let seen = before.client_bytes(self.client.inbox.data(), now);
                pass(&mut self.client.inbox, &mut self.decoy.outbox);
                self.on_seen(seen);
            }
            State::Knocked(_) | State::Visitor => {
                self.state = State::Visitor;
                pass(&mut self.client.inbox, &mut self.decoy.outbox);
            }
            State::Over(_) => pass(&mut self.client.inbox, &mut self.decoy.outbox),
            State::Deaf => self.client.inbox.consume(usize::MAX),
            State::Inner(_) => self.client_htx(now),
        }
    }

    fn on_seen(&mut self, seen: Seen) {
        match seen {
            Seen::Nothing => {}
            Seen::Visitor => self.state = State::Visitor,
            Seen::Hello => self.events.push_back(Event::Hello),
            Seen::Knock(knock) => {
                let fresh = {
                    let mut knocked = self.config.knocked.lock().unwrap_or_else(PoisonError::into_inner);
                    knocked.insert(&knock.token)
                };
                let before = std::mem::replace(&mut self.state, State::Visitor);
                if let (State::Before(before), true) = (before, fresh) {
                    self.state = State::Knocked(Box::new(Knocked::new(before, knock)));
                }
            }
        }
    }

    fn client_htx(&mut self, now: Instant) {
        let (facts, began) = (self.facts(), self.began);
        let State::Inner(inner) = &mut self.state else { return };
        let mut context = Context { config: &self.config, facts: &facts, rng: &mut self.rng, began, now };
        let outcome = inner.client_records(
            &mut self.client.inbox,
            &mut self.client.outbox,
            &mut self.decoy.outbox,
            &mut context,
        );
        inner.flush(&mut self.client.outbox, &context);
        self.tell_news();
        match outcome {
            Outcome::Waiting => {}
            Outcome::Foreign => {
                self.untunnel(Ended::Tampered, now);
                pass(&mut self.client.inbox, &mut self.decoy.outbox);
            }
            Outcome::Alerted => {
                self.untunnel(Ended::PeerClosed, now);
                pass(&mut self.client.inbox, &mut self.decoy.outbox);
            }
            Outcome::Ended(why) => {
                self.over(why, now);
                self.state = State::Deaf;
                self.client.inbox.consume(usize::MAX);
                self.decoy.close.get_or_insert(Close::Fin);
            }
        }
    }

    fn tell_news(&mut self) {
        let State::Inner(inner) = &mut self.state else { return };
        let news = std::mem::take(&mut inner.news);
        if news.up {
            self.events.push_back(Event::Up);
        }
        if news.going_away {
            self.events.push_back(Event::GoingAway);
        }
        if inner.tunnel.link_wanted() {
            self.events.push_back(Event::Elsewhere);
        }
    }

    /// The tunnel, whose session another process may have.
    fn tunnel(&self) -> Option<&Tunnel> {
        match &self.state {
            State::Inner(inner) | State::Over(inner) => Some(&inner.tunnel),
            _ => None,
        }
    }

    fn tunnel_mut(&mut self) -> Option<&mut Tunnel> {
        match &mut self.state {
            State::Inner(inner) | State::Over(inner) => Some(&mut inner.tunnel),
            _ => None,
        }
    }

    /// From here on the client's bytes go to the decoy as they are. Before HANDOVER so do the decoy's; after it the
    /// direction down stays HTX, because the client's keys for it do.
    fn untunnel(&mut self, why: Ended, now: Instant) {
        self.over(why, now);
        self.state = match std::mem::replace(&mut self.state, State::Visitor) {
            State::Inner(inner) if inner.handed_over() => State::Over(inner),
            State::Over(inner) => State::Over(inner),
            _ => State::Visitor,
        };
        if matches!(self.state, State::Visitor) {
            pass(&mut self.decoy.inbox, &mut self.client.outbox);
        }
    }

    fn decoy_bytes(&mut self, now: Instant) {
        loop {
            match &mut self.state {
                State::Before(before) => {
                    let seen = before.decoy_bytes(self.decoy.inbox.data(), &self.config, now);
                    pass(&mut self.decoy.inbox, &mut self.client.outbox);
                    return self.on_seen(seen);
                }
                State::Visitor | State::Deaf => return pass(&mut self.decoy.inbox, &mut self.client.outbox),
                State::Knocked(_) => {
                    if !self.answer(now) {
                        return;
                    }
                }
                State::Inner(_) | State::Over(_) => return self.decoy_htx(now),
            }
        }
    }

    /// One step of the answer to the knock's request. False: nothing left to look at.
    fn answer(&mut self, now: Instant) -> bool {
        let State::Knocked(knocked) = &mut self.state else { return true };
        if self.decoy.inbox.len() == 0 {
            return false;
        }
        match knocked.decoy_bytes(self.decoy.inbox.data()) {
            Answer::Pass(n) => pass_some(&mut self.decoy.inbox, &mut self.client.outbox, n),
            Answer::Visitor => self.state = State::Visitor,
            Answer::Whole(n) => {
                pass_some(&mut self.decoy.inbox, &mut self.client.outbox, n);
                let facts = self.facts();
                let next = next_length(self.decoy.inbox.data());
                if let State::Knocked(knocked) = std::mem::replace(&mut self.state, State::Visitor)
                    && let Some(inner) = Inner::prove(
                        *knocked,
                        next,
                        &self.config,
                        &facts,
                        &mut self.rng,
                        self.client.outbox.tail(),
                        now,
                    )
                {
                    self.state = State::Inner(Box::new(inner));
                    self.events.push_back(Event::Proved);
                    self.told_end = false;
                }
            }
        }
        true
    }

    fn decoy_htx(&mut self, now: Instant) {
        let (facts, began) = (self.facts(), self.began);
        let over = matches!(self.state, State::Over(_)) || self.client.ended;
        let (State::Inner(inner) | State::Over(inner)) = &mut self.state else { return };
        let mut context = Context { config: &self.config, facts: &facts, rng: &mut self.rng, began, now };
        let (inbox, to_client, to_decoy) =
            (&mut self.decoy.inbox, &mut self.client.outbox, &mut self.decoy.outbox);
        let word = inner.decoy_records(inbox, to_client, to_decoy, over, &mut context);
        match word {
            Word::Nothing | Word::GoAway(_) | Word::GaveUp(_) => {}
            Word::Alert(_) => self.untunnel(Ended::DecoyEnded, now),
            Word::Closes => self.drop_client(now),
            // A decoy that no longer speaks TLS: there is nothing to hide behind.
            Word::Broken => {
                self.over(Ended::DecoyEnded, now);
                self.state = State::Deaf;
                self.decoy.inbox.consume(usize::MAX);
                self.client.close.get_or_insert(Close::Fin);
                self.decoy.close.get_or_insert(Close::Fin);
            }
        }
    }

    /// Ends both connections as a server that closes ends one: at once, whatever still waits to be written.
    fn drop_client(&mut self, now: Instant) {
        self.over(Ended::DecoyEnded, now);
        (self.state, self.abandoned) = (State::Deaf, true);
    }

    fn touched(&mut self, now: Instant) {
        self.shrink_at = Some(now + SHRINK_AFTER);
    }
}

impl Carrier for Bridge {
    fn wants(&self, side: Side) -> bool {
        let (this, other) = match side {
            Side::Peer => (&self.client, &self.decoy),
            Side::Decoy => (&self.decoy, &self.client),
            Side::Link => return self.tunnel().is_some_and(Tunnel::link_wants),
        };
        let aborted = this.close == Some(Close::Reset);
        // What the decoy sent before the knock was forwarded is no answer to it.
        if side == Side::Decoy && matches!(self.state, State::Knocked(_)) && !self.decoy.outbox.is_empty() {
            return false;
        }
        if side == Side::Peer && self.tunnel().is_some_and(Tunnel::is_clogged) {
            return false;
        }
        !this.ended && !aborted && other.outbox.len() < MAX_WAITING && this.outbox.len() < 2 * MAX_WAITING
    }

    fn space(&mut self, side: Side) -> &mut [u8] {
        match side {
            Side::Peer => self.client.inbox.space(),
            Side::Decoy => self.decoy.inbox.space(),
            Side::Link => self.tunnel_mut().map_or(&mut [], Tunnel::link_space),
        }
    }

    fn filled(&mut self, side: Side, n: usize, now: Instant) {
        self.began.get_or_insert(now);
        self.touched(now);
        match side {
            Side::Peer => {
                self.client.inbox.filled(n);
                self.client_bytes(now);
            }
            Side::Decoy => {
                self.decoy.inbox.filled(n);
                self.decoy_bytes(now);
            }
            Side::Link => {
                if let Some(tunnel) = self.tunnel_mut() {
                    tunnel.link_filled(n);
                }
                self.flush(now);
            }
        }
    }

    fn ended(&mut self, side: Side, how: Close, now: Instant) {
        if side == Side::Link {
            if let Some(tunnel) = self.tunnel_mut() {
                tunnel.link_ended();
            }
            return self.flush(now);
        }
        self.end(side).ended = true;
        if side == Side::Decoy {
            self.abandon = Some((now + LINGER, usize::MAX));
        }
        match (side, how) {
            (_, Close::Reset) => {
                self.over(Ended::Reset, now);
                self.state = State::Visitor;
                self.client.close = Some(Close::Reset);
                self.decoy.close = Some(Close::Reset);
                return;
            }
            // A record begun before the client's FIN goes on with it, as it would have on a plain wire.
            (Side::Peer, Close::Fin) => match self.state {
                State::Inner(_) => {
                    self.untunnel(Ended::PeerClosed, now);
                    pass(&mut self.client.inbox, &mut self.decoy.outbox);
                }
                State::Knocked(_) => self.state = State::Visitor,
                _ => {}
            },
            (Side::Decoy, Close::Fin) => match &self.state {
                State::Inner(inner) if inner.is_blocked(self.client.outbox.len()) => self.drop_client(now),
                State::Inner(_) => self.untunnel(Ended::DecoyEnded, now),
                State::Knocked(_) => self.state = State::Visitor,
                _ => {}
            },
            (Side::Link, Close::Fin) => {}
        }
        let other = if side == Side::Peer { Side::Decoy } else { Side::Peer };
        self.end(other).close.get_or_insert(Close::Fin);
    }

    fn pending(&self, side: Side) -> &[u8] {
        match side {
            Side::Peer => self.client.outbox.pending(),
            Side::Decoy => self.decoy.outbox.pending(),
            Side::Link => self.tunnel().map_or(&[], Tunnel::link_pending),
        }
    }

    fn wrote(&mut self, side: Side, n: usize, now: Instant) {
        self.touched(now);
        match side {
            Side::Peer => {
                let before = self.client.outbox.len();
                self.client.outbox.wrote(n);
                let left = self.client.outbox.len();
                if let State::Inner(inner) = &mut self.state {
                    inner.wrote(before, left, now);
                }
                self.flush(now);
            }
            Side::Decoy => self.decoy.outbox.wrote(n),
            Side::Link => {
                if let Some(tunnel) = self.tunnel_mut() {
                    tunnel.link_wrote(n);
                }
            }
        }
    }

    fn shutdown(&mut self, side: Side) -> Option<Close> {
        if side == Side::Link {
            return self.tunnel_mut().map_or(Some(Close::Fin), Tunnel::link_shutdown);
        }
        let end = self.end(side);
        let due = end.close?;
        // A reset may follow a FIN of ours.
        if end.closed == Some(due) || due == Close::Fin && !end.outbox.is_empty() {
            return None;
        }
        end.closed = Some(due);
        Some(due)
    }

    fn deadline(&self) -> Option<Instant> {
        let keeping = match &self.state {
            State::Inner(inner) => inner.deadline(&self.client.outbox, &self.facts(), self.began),
            _ => None,
        };
        [keeping, self.shrink_at, self.abandon.map(|(at, _)| at)].into_iter().flatten().min()
    }

    fn on_timer(&mut self, now: Instant) {
        if let Some((at, left)) = self.abandon
            && at <= now
        {
            // Who still takes the decoy's last words is given the time.
            let now_left = self.client.outbox.len();
            self.abandoned = now_left == 0 || now_left >= left;
            self.abandon = Some((now + LINGER, now_left)).filter(|_| !self.abandoned);
        }
        let (facts, began) = (self.facts(), self.began);
        if let State::Inner(inner) = &mut self.state {
            let context = Context { config: &self.config, facts: &facts, rng: &mut self.rng, began, now };
            inner.on_timer(&self.client.outbox, &mut self.decoy.outbox, &context);
        }
        self.flush(now);
        if self.shrink_at.is_some_and(|at| at <= now) {
            self.shrink_at = None;
            for end in [&mut self.client, &mut self.decoy] {
                end.inbox.shrink();
                end.outbox.shrink();
            }
            if let State::Inner(inner) | State::Over(inner) = &mut self.state {
                inner.shrink();
            }
        }
    }

    fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    fn session(&self) -> Option<&SharedSession> {
        match &self.state {
            State::Inner(inner) | State::Over(inner) => Some(inner.tunnel.session()),
            _ => None,
        }
    }

    fn flush(&mut self, now: Instant) {
        let (facts, began) = (self.facts(), self.began);
        if let State::Inner(inner) = &mut self.state {
            let context = Context { config: &self.config, facts: &facts, rng: &mut self.rng, began, now };
            inner.flush(&mut self.client.outbox, &context);
        }
        self.tell_news();
    }

    fn judge(&mut self, allowed: bool) {
        if let State::Before(before) = &mut self.state
            && !(allowed && before.judge(&self.config))
        {
            self.state = State::Visitor;
        }
    }

    fn linked(&mut self, there: bool, now: Instant) {
        if let Some(tunnel) = self.tunnel_mut() {
            tunnel.linked(there, now);
        }
        self.flush(now);
    }

    fn close(&mut self, now: Instant) {
        self.untunnel(Ended::Closed, now);
        self.decoy.close.get_or_insert(Close::Fin);
    }

    fn leave(&mut self, _now: Instant) {}

    fn finished(&self) -> bool {
        let reset = |end: &End| end.closed == Some(Close::Reset);
        let done = |end: &End| end.closed.is_some() && end.ended;
        self.abandoned || reset(&self.client) && reset(&self.decoy) || done(&self.client) && done(&self.decoy)
    }
}

#[cfg(test)]
mod tests;
