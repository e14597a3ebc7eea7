//! The client's carrier over an open websocket (docs/protocol.md, section 17): Noise, then the session.

use std::collections::VecDeque;
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use qnet_wire::key::{BridgeKey, IdentityKey};
use qnet_wire::url::WebsocketUrl;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};

use super::channel::Channel;
use super::records::{self, Incoming, NONCE_LEN, Outgoing};
use crate::Ended;
use crate::carrier::{Close, Event};
use crate::frame::{Frame, frames};
use crate::mux::Role;
use crate::noise::{AwaitMessage2, Initiator, MESSAGE2_LEN, MessageReader};
use crate::record::Cipher;
use crate::session::{Mode, SharedSession, Statics};
use crate::sizes::below;
use crate::tunnel::{FRAMES, Meant, NOISE, Tunnel};

/// How long Chrome waits for the server's close before it drops the connection (`kUnderlyingConnectionCloseTimeout`).
const CLOSE_LIMIT: Duration = Duration::from_secs(2);
/// How long a page stays whose websocket came to nothing: as Chrome keeps a connection that nobody uses.
const PAGE_LIMIT: Duration = Duration::from_secs(300);
/// How much longer than its content the record after message 3 may be.
const SPREAD: usize = 256;
/// Lengths of the websocket messages in which the first bytes go, the last but for one that may be shorter. Noise's message 1 has the
/// length of a ClientHello and message 2 that of a short certificate: together they came within a few per cent of nDPI's model of Chrome.
/// No hello fills four packets, and three packets of 411 bytes in a row are another rule's.
const FIRST_MESSAGES: RangeInclusive<usize> = 140..=360;

/// What a carrier begins with.
pub struct Start {
    /// The bridge's key.
    pub bridge: BridgeKey,
    /// The bridge's address, as its line has it.
    pub url: WebsocketUrl,
    /// The client's static key: the same on all carriers of a session, and of no other session.
    pub client_key: IdentityKey,
    /// The session this carrier begins, if it is not established, or joins.
    pub session: SharedSession,
    /// How it joins.
    pub mode: Mode,
    /// The websocket, open.
    pub channel: Channel,
    /// Whether this machine has AES instructions.
    pub aes_hardware: bool,
    /// The round trip seen in the TLS handshake.
    pub round_trip: Duration,
    /// 32 bytes from the system's generator.
    pub seed: [u8; 32],
}

enum Phase {
    Two(Box<AwaitMessage2>),
    Up,
    Spent,
}

/// One carrier of a client's, between TLS and the session. The shell gives it the contents of records and sends what
/// [`poll`](Self::poll) gives as records, until [`is_over`](Self::is_over).
pub struct Client {
    channel: Channel,
    incoming: Incoming,
    outgoing: Outgoing,
    talk: Talk,
    rng: ChaCha20Rng,
    payload: Vec<u8>,
    events: VecDeque<Event>,
    told_up: bool,
    told_away: bool,
    ended: bool,
    /// When to drop a connection whose server does not answer a close.
    drop_at: Option<Instant>,
    /// Nobody with the bridge's key has answered, and the connection is the page's, which a browser still shows.
    stays: bool,
    /// The last record of a websocket that the server does not end.
    parting: Option<Vec<u8>>,
    over: Option<Close>,
}

/// What is said inside records.
struct Talk {
    tunnel: Tunnel,
    phase: Phase,
    reader: MessageReader,
    /// The next KEY_UPDATE leads from the handshake keys to Noise's own.
    first_keys: bool,
    mode: Mode,
    statics: Statics,
    going_away: bool,
    proved: bool,
}

impl Client {
    /// Sends Noise message 1.
    #[must_use]
    pub fn new(start: Start, now: Instant) -> Self {
        let mut rng = ChaCha20Rng::from_seed(start.seed);
        let mut nonce = [0; NONCE_LEN];
        rng.fill_bytes(&mut nonce);
        let mut shape = [0; 32];
        rng.fill_bytes(&mut shape);
        let (mut tunnel, incoming, mut outgoing) =
            records::begin(Role::Client, start.session, &start.bridge, &start.url, &nonce, shape);
        tunnel.set_round_trip(start.round_trip);
        let prologue = records::prologue(&start.url, &nonce);
        let initiator = Initiator::new(&mut rng, &start.bridge, &start.client_key, &prologue);
        let mut channel = start.channel;
        // Early data stays out: the server in between could play message 1 again.
        let phase = match initiator.message1(Cipher::preferred(start.aes_hardware), &[]) {
            Ok((message, next)) => {
                outgoing.noise(&mut tunnel, &message, &mut rng);
                let records = outgoing.message(&mut tunnel, &mut rng).unwrap_or_default();
                let first = [&nonce[..], records].concat();
                outgoing.taken();
                say_in_pieces(&mut channel, &first, &mut rng);
                Phase::Two(Box::new(next))
            }
            Err(_) => Phase::Spent,
        };
        let failed = matches!(phase, Phase::Spent);
        let statics = Statics { client: start.client_key.public().0, bridge: start.bridge.0 };
        let talk = Talk {
            tunnel,
            phase,
            reader: MessageReader::new(MESSAGE2_LEN),
            first_keys: true,
            mode: start.mode,
            statics,
            going_away: false,
            proved: false,
        };
        let mut client = Self {
            channel,
            incoming,
            outgoing,
            talk,
            rng,
            payload: Vec::new(),
            events: VecDeque::new(),
            told_up: false,
            told_away: false,
            ended: false,
            drop_at: None,
            stays: false,
            parting: None,
            over: None,
        };
        if failed {
            client.end(Ended::Internal, now);
        }
        client
    }

    /// The session.
    #[must_use]
    pub fn session(&self) -> &SharedSession {
        self.talk.tunnel.session()
    }

    /// Takes what came in the server's records.
    pub fn on_data(&mut self, bytes: &[u8], now: Instant) {
        let mut payload = std::mem::take(&mut self.payload);
        let outcome = self.channel.on_data(bytes, &mut payload, now);
        if !self.ended {
            self.incoming.push(&payload);
        }
        payload.clear();
        self.payload = payload;
        self.records(now);
        if outcome.is_err() {
            self.end(Ended::Tampered, now);
            self.over.get_or_insert(Close::Fin);
        } else if self.channel.is_over() {
            self.end(Ended::PeerClosed, now);
            // Our own close is still on its way out; the server ends the connection, or we do.
            self.drop_at.get_or_insert(now + CLOSE_LIMIT);
        }
        if self.channel.is_going_away() && !std::mem::replace(&mut self.told_away, true) {
            self.talk.tunnel.going_away(now);
            self.events.push_back(Event::GoingAway);
        }
        self.flush(now);
    }

    fn records(&mut self, now: Instant) {
        while !self.ended {
            let total = match self.incoming.whole() {
                Ok(Some(total)) => total,
                Ok(None) => return,
                Err(_) => return self.end(Ended::Tampered, now),
            };
            let Self { incoming, outgoing, talk, rng, .. } = self;
            let Ok((kind, content)) = talk.tunnel.opener.open_in_place(incoming.record(total)) else {
                return self.end(Ended::Tampered, now);
            };
            talk.tunnel.tick(now);
            let heard = match kind {
                NOISE => talk.noise(content, outgoing, rng, now),
                FRAMES => {
                    talk.tunnel.heard(total, content.len(), now);
                    talk.frames(content, now)
                }
                _ => Err(Ended::Violation),
            };
            self.incoming.consume(total);
            if std::mem::take(&mut self.talk.proved) {
                self.events.push_back(Event::Proved);
            }
            if std::mem::take(&mut self.talk.going_away) {
                self.events.push_back(Event::GoingAway);
            }
            self.events.extend(self.talk.tunnel.take_other_shape().map(Event::OtherShape));
            if let Err(why) = heard {
                return self.end(why, now);
            }
        }
    }

    /// Makes messages of what there is to say, as far as the socket keeps up.
    pub fn flush(&mut self, now: Instant) {
        if self.ended {
            return;
        }
        let Self { channel, outgoing, talk, rng, .. } = self;
        if matches!(talk.phase, Phase::Up) {
            talk.tunnel.tick(now);
            talk.tunnel.pack(outgoing.tail(), channel.waiting(), now);
        }
        // A message that is too short by itself gets company and stays whole.
        let alone = !outgoing.is_short();
        let cuts: Vec<usize> = talk.tunnel.cuts().filter(|_| alone).collect();
        if let Some(mut message) = outgoing.message(&mut talk.tunnel, rng) {
            let mut sent = 0;
            for at in cuts {
                let Some((first, rest)) = message.split_at_checked(at - sent) else { break };
                channel.send(first);
                (message, sent) = (rest, at);
            }
            channel.send(message);
            outgoing.taken();
        }
        if self.talk.tunnel.is_inside() && !std::mem::replace(&mut self.told_up, true) {
            self.events.push_back(Event::Up);
        }
        if self.talk.tunnel.is_done() {
            self.close(now);
        }
    }

    /// The content of the next record to send.
    pub fn poll(&mut self, now: Instant) -> Option<Vec<u8>> {
        self.channel.poll(now).or_else(|| self.parting.take())
    }

    /// The connection ended: in order, or by a reset or what TLS did not open.
    pub fn ended(&mut self, why: Ended, now: Instant) {
        self.end(why, now);
        self.over.get_or_insert(if why == Ended::Reset { Close::Reset } else { Close::Fin });
    }

    /// Nothing is carried any more: the session goes on without this carrier.
    fn end(&mut self, why: Ended, now: Instant) {
        if !std::mem::replace(&mut self.ended, true) {
            self.talk.tunnel.leave(why, now);
            self.events.push_back(Event::Ended(why));
            self.channel.close();
            self.drop_at = Some(now + CLOSE_LIMIT);
            let proved = matches!(self.talk.phase, Phase::Up);
            self.stays |= !proved && why != Ended::Closed && self.channel.is_the_pages();
        }
    }

    /// Closes the websocket of which nothing came. Where its connection is the page's, that stays.
    pub fn leave(&mut self, now: Instant) {
        self.stays |= !self.ended && self.channel.is_the_pages();
        self.close(now);
    }

    /// Closes the websocket as a page does.
    pub fn close(&mut self, now: Instant) {
        self.end(Ended::Closed, now);
    }

    /// When to call [`on_timer`](Self::on_timer).
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let session = if self.ended { None } else { self.talk.tunnel.deadline() };
        [self.drop_at.filter(|_| self.over.is_none()), session].into_iter().flatten().min()
    }

    /// Time has passed.
    pub fn on_timer(&mut self, now: Instant) {
        if self.over.is_none() && self.drop_at.is_some_and(|at| at <= now) {
            self.parting = self.channel.cancel();
            if std::mem::take(&mut self.stays) {
                self.drop_at = Some(now + PAGE_LIMIT);
            } else {
                self.over = Some(Close::Fin);
            }
        }
        if !self.ended {
            self.talk.tunnel.on_timer(now);
        }
        self.flush(now);
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// How the connection is to be ended once what was polled is written.
    #[must_use]
    pub fn is_over(&self) -> Option<Close> {
        self.over
    }

    /// Bytes that wait for [`poll`](Self::poll), or for the server's credit: answers to its pings among them, so a server that
    /// asks more often than it reads is itself not read.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.channel.waiting()
    }

    /// Bytes allocated.
    #[must_use]
    pub fn held(&self) -> usize {
        let queues = self.channel.held() + self.payload.capacity();
        self.incoming.allocated() + self.outgoing.allocated() + queues + self.talk.tunnel.held()
    }

    /// Gives spare memory back.
    pub fn shrink(&mut self) {
        self.incoming.shrink();
        self.outgoing.shrink();
        self.payload = Vec::new();
        self.talk.tunnel.trim();
    }
}

/// Sends the first bytes as messages of [`FIRST_MESSAGES`].
fn say_in_pieces(channel: &mut Channel, mut bytes: &[u8], rng: &mut ChaCha20Rng) {
    let (least, most) = (*FIRST_MESSAGES.start(), *FIRST_MESSAGES.end());
    while !bytes.is_empty() {
        let length = least + below(rng, most - least + 1);
        let (piece, rest) = bytes.split_at_checked(length).unwrap_or((bytes, &[]));
        channel.send(piece);
        bytes = rest;
    }
}

impl Talk {
    /// Takes a piece of message 2; answers the whole with message 3 and, where the session is older than this carrier, JOIN.
    fn noise(
        &mut self,
        content: &[u8],
        outgoing: &mut Outgoing,
        rng: &mut ChaCha20Rng,
        now: Instant,
    ) -> Result<(), Ended> {
        let Some(message) = self.reader.push(content).map_err(|_| Ended::Handshake)? else { return Ok(()) };
        let Phase::Two(wait) = std::mem::replace(&mut self.phase, Phase::Spent) else {
            return Err(Ended::Violation);
        };
        let (third, established) = wait.read(&message).map_err(|_| Ended::Handshake)?;
        outgoing.noise(&mut self.tunnel, &third, rng);
        self.tunnel.establish(Role::Client, established, self.statics, now);
        // Without a JOIN the record says that this carrier begins a session.
        let mut first: Vec<_> =
            self.tunnel.ask_to_join(self.mode, now).map(Frame::Join).into_iter().collect();
        first.push(self.tunnel.shape());
        let length = first.iter().map(Frame::encoded_len).sum::<usize>() + below(rng, SPREAD);
        self.tunnel.seal_frames(&first, Some(length), outgoing.tail());
        self.phase = Phase::Up;
        self.proved = true;
        Ok(())
    }

    fn frames(&mut self, content: &[u8], now: Instant) -> Result<(), Ended> {
        if !matches!(self.phase, Phase::Up) {
            return Err(Ended::Violation);
        }
        let mut rest = frames(content);
        while let Some(frame) = rest.next() {
            let frame = frame.map_err(|_| Ended::Violation)?;
            if self.first_keys && !matches!(frame, Frame::Padding | Frame::KeyUpdate) {
                return Err(Ended::Violation);
            }
            let meant = self.tunnel.on_frame(&frame, self.first_keys, now).map_err(|_| Ended::Violation)?;
            match (meant, &frame) {
                (Meant::Done | Meant::Over, _) => {}
                (Meant::Role, Frame::Join(answer)) if self.tunnel.joined(answer, now) => {}
                (Meant::Role, Frame::Refused) if self.tunnel.refused(now) => return Err(Ended::Forgotten),
                (Meant::Role, Frame::Shape { profile, version })
                    if self.tunnel.answered(*profile, *version) => {}
                (Meant::Carrier(0), _) => {
                    self.going_away = true;
                    self.tunnel.going_away(now);
                }
                (Meant::Carrier(_), _) => return Err(Ended::PeerClosed),
                (Meant::KeysChanged, _) if rest.next().is_none() => self.first_keys = false,
                (Meant::KeysChanged | Meant::Role, _) => return Err(Ended::Violation),
            }
        }
        Ok(())
    }
}
