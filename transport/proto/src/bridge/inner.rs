//! From the proof on: HTX with the client, TLS with the decoy.

use std::{
    sync::{Arc, Mutex},
    time::Instant,
};

use qnet_wire::name::ServerName;
use rand_chacha::{ChaCha20Rng, rand_core::Rng};

use crate::{
    Ended,
    bridge::{
        BridgeConfig, DecoyFacts,
        before::Knocked,
        decoy::{Counts, Keeping, Standstill, Word, last_call, may_be_key_update},
    },
    buffer::{Inbox, Outbox, Scratch},
    frame::{Frame, Handover, frames},
    mux::{Role, Violation},
    noise::{self, AwaitMessage3, MESSAGE1_MAX, MessageReader, Responder, SendMessage2},
    record::{Cipher, MAX_CONTENT, MAX_LENGTH, RecordOpener, RecordSealer},
    scan::{self, APPLICATION_DATA, HEADER_LEN, Head, head, protected_head},
    session::{Join, Session, Statics},
    sizes::Lengths,
    tunnel::{ALERT, FRAMES, Meant, NOISE, Tunnel},
};

/// The least a record of ours may hold at most, however small the site's own: below it a bulk transfer costs too much.
const LEAST_CONTENT: usize = 1_400;
/// The proof: 32 bytes, a type byte, a tag, and room to look like an answer's piece.
const SHORTEST_PROOF: usize = 80;
/// Bytes of a DECOY frame's header.
const FRAME_HEADER: usize = 4;
/// Bytes of DECOY frames held back at most, by a decoy that sends nothing but tiny records: then extra records go out.
const MAX_HELD_BACK: usize = 32 * 1024;
/// Records that may be KeyUpdates kept from message 2 until HANDOVER, a round trip: a server updates once in gigabytes.
const MAX_MISSED: usize = 16;
/// The inner type byte and the tag.
const OVERHEAD: usize = 17;

/// Bytes in which a server that begins with short records comes to full ones: Go does after these at the latest (`crypto/tls`,
/// `recordSizeBoostThreshold`).
const WARM_UP: usize = 128 * 1024;

enum Phase {
    One(Box<Responder>),
    /// Since when message 2 is on its way.
    Three(Box<AwaitMessage3>, Instant),
    /// Message 3 is in; the client may have asked to carry a session it has.
    Handover(Option<Box<Join>>),
    Up(Box<Keeping>),
    /// Between two phases, and after a peer that is authentic broke the protocol.
    Spent,
}

/// What became of the client's bytes.
pub(super) enum Outcome {
    /// All that was whole is understood.
    Waiting,
    /// What is left in the inbox, and all that follows, goes to the decoy as it is.
    Foreign,
    /// The client's alert was passed on to the decoy: it is as good as gone.
    Alerted,
    /// The peer is authentic and broke the protocol.
    Ended(Ended),
}

/// What the caller should tell its user.
#[derive(Default)]
pub(super) struct News {
    pub(super) up: bool,
    pub(super) going_away: bool,
}

/// HTX as the bridge speaks it.
pub(super) struct Inner {
    pub(super) tunnel: Tunnel,
    phase: Phase,
    name: ServerName,
    /// Whose static key message 3 must show, on a bridge by invitation.
    client: Option<[u8; 32]>,
    reader: MessageReader,
    counts: Counts,
    /// The client's bytes for the decoy, until a TLS record is whole.
    decoy_up: Vec<u8>,
    /// The decoy's bytes for the client that did not fit the records that stand for the decoy's own.
    decoy_down: Vec<u8>,
    /// The decoy's records since message 2 that may change its keys, with their indices: HANDOVER does not know them.
    missed: Vec<(u64, Vec<u8>)>,
    down_lengths: Lengths,
    /// Bytes that are still to go in records no longer than the decoy's longest.
    warm_up: Option<usize>,
    /// Bytes at the end of what waits for the client that stand for the decoy's and are no traffic of the tunnel's.
    asides: usize,
    announced: bool,
    pub(super) news: News,
    scratch: Scratch,
}

impl Inner {
    /// Sends the proof and waits for Noise message 1. `next`: the length of the decoy's next record, if it is known.
    pub(super) fn prove(
        knocked: Knocked,
        next: Option<usize>,
        config: &BridgeConfig,
        facts: &DecoyFacts,
        rng: &mut ChaCha20Rng,
        out: &mut Vec<u8>,
        now: Instant,
    ) -> Option<Self> {
        let Knocked { before, knock, .. } = knocked;
        let name = before.name()?;
        let mut n = [0; 32];
        rng.fill_bytes(&mut n);
        let (up, down) = knock.key.proof_keys(&n);
        let chacha = Cipher::ChaCha20Poly1305;
        let mut sealer = RecordSealer::new(chacha, &down.key, down.iv, before.down.protected);
        let opener = RecordOpener::new(chacha, &up.key, up.iv, before.up_protected);
        let length = next
            .filter(|&l| l >= SHORTEST_PROOF)
            .unwrap_or_else(|| before.down_lengths.draw(SHORTEST_PROOF, rng))
            .min(MAX_LENGTH);
        let start = out.len();
        sealer.seal_proof(out, &n, &[], length);
        let prologue =
            noise::prologue(knock.key.salt(), knock.token.as_bytes(), &knock.record, &out[start..]);
        let responder = Responder::new(rng, &config.identity, &prologue);
        let counts = Counts { up: before.up_protected, down: before.down.protected };
        let mut seed = [0; 32];
        rng.fill_bytes(&mut seed);
        let session = Arc::new(Mutex::new(Session::new(Role::Bridge, config.profile.clone(), now)));
        let mut inner = Self {
            tunnel: Tunnel::new(session, sealer, opener, LEAST_CONTENT, (Role::Bridge, seed)),
            phase: Phase::One(Box::new(responder)),
            name,
            client: knock.client,
            reader: MessageReader::new(MESSAGE1_MAX),
            counts,
            decoy_up: Vec::new(),
            decoy_down: Vec::new(),
            missed: Vec::new(),
            down_lengths: before.down_lengths.clone(),
            warm_up: None,
            asides: 0,
            announced: false,
            news: News::default(),
            scratch: Scratch::default(),
        };
        inner.follow_decoy(facts);
        Some(inner)
    }

    /// Bulk goes as the site's own: in records as long as its full ones, with what stands between them. Where nothing that it sent on
    /// this connection or to [`DecoyFacts`]' visits was long enough to tell, no record is longer than its longest while a server of
    /// its kind may still be warming up, and full ones follow, as from all servers that were measured (docs/shaping.md).
    fn follow_decoy(&mut self, facts: &DecoyFacts) {
        let habit = self.down_lengths.habit().or(facts.habit);
        let bulk = habit.bulk();
        self.warm_up = bulk.is_none().then_some(WARM_UP);
        let longest = bulk.map_or(habit.longest(), |bulk| usize::from(bulk.longest)).saturating_sub(OVERHEAD);
        self.tunnel.limit_content(longest.clamp(LEAST_CONTENT, MAX_CONTENT));
        self.tunnel.follow_beat(bulk.and_then(|bulk| bulk.beat()));
    }

    /// So many bytes more were sealed for the client.
    fn warm_up(&mut self, sealed: usize) {
        let Some(left) = self.warm_up else { return };
        self.warm_up = left.checked_sub(sealed);
        if self.warm_up.is_none() {
            self.tunnel.limit_content(MAX_CONTENT);
        }
    }

    pub(super) fn handed_over(&self) -> bool {
        matches!(self.phase, Phase::Up(_))
    }

    /// Understands what the client sent.
    pub(super) fn client_records(
        &mut self,
        inbox: &mut Inbox,
        to_client: &mut Outbox,
        to_decoy: &mut Outbox,
        context: &mut Context<'_>,
    ) -> Outcome {
        self.tunnel.tick(context.now);
        loop {
            let total = match protected_head(inbox.data()) {
                Head::More => return Outcome::Waiting,
                Head::Foreign => return Outcome::Foreign,
                Head::Record { total, .. } => total,
            };
            let Some(record) = inbox.data().get(..total) else { return Outcome::Waiting };
            // Opened into a scratch: a record that does not open goes on as it came.
            let mut scratch = std::mem::take(&mut self.scratch.0);
            let Ok((kind, content)) = self.tunnel.opener.open(record, &mut scratch) else {
                self.scratch.0 = scratch;
                return Outcome::Foreign;
            };
            self.tunnel.heard(total, content.len(), context.now);
            let result = self.content(kind, content, to_client, to_decoy, context);
            self.scratch.0 = scratch;
            inbox.consume(total);
            if kind == ALERT && result.is_ok() {
                return Outcome::Alerted;
            }
            if let Err(ended) = result {
                self.phase = Phase::Spent;
                return Outcome::Ended(ended);
            }
        }
    }

    fn content(
        &mut self,
        kind: u8,
        content: &[u8],
        to_client: &mut Outbox,
        to_decoy: &mut Outbox,
        context: &mut Context<'_>,
    ) -> Result<(), Ended> {
        match kind {
            NOISE => match self.reader.push(content).map_err(|_| Ended::Handshake)? {
                Some(message) => self.noise(&message, to_client, context),
                None => Ok(()),
            },
            FRAMES => {
                if let Phase::Up(keeping) = &mut self.phase {
                    keeping.traffic(context.now);
                }
                self.frames(content, to_decoy, context)
            }
            ALERT => {
                let alert = <[u8; 2]>::try_from(content).map_err(|_| Ended::Violation)?;
                match &mut self.phase {
                    Phase::Up(keeping) => keeping.alert(alert, to_decoy.tail()),
                    _ => return Err(Ended::Violation),
                }
                Ok(())
            }
            _ => Err(Ended::Violation),
        }
    }

    fn noise(
        &mut self,
        message: &[u8],
        to_client: &mut Outbox,
        context: &mut Context<'_>,
    ) -> Result<(), Ended> {
        match std::mem::replace(&mut self.phase, Phase::Spent) {
            Phase::One(responder) => {
                let (first, send): (_, SendMessage2) =
                    responder.read1(message).map_err(|_| Ended::Handshake)?;
                self.tunnel.take_early(&first.early, context.now).map_err(|_: Violation| Ended::Violation)?;
                let (second, next) = send.write().map_err(|_| Ended::Handshake)?;
                self.release(to_client, context.rng);
                self.tunnel.seal_noise(&second, &self.down_lengths, context.rng, to_client.tail());
                self.phase = Phase::Three(Box::new(next), context.now);
                Ok(())
            }
            Phase::Three(wait, since) => {
                let established = wait.read(message).map_err(|_| Ended::Handshake)?;
                if self.client.is_some_and(|key| key != established.peer_static) {
                    return Err(Ended::Handshake);
                }
                let statics =
                    Statics { client: established.peer_static, bridge: context.config.identity.public().0 };
                self.tunnel.establish(Role::Bridge, established, statics, context.now);
                self.tunnel.set_round_trip(context.now.saturating_duration_since(since));
                self.phase = Phase::Handover(None);
                Ok(())
            }
            Phase::Handover(_) | Phase::Up(_) | Phase::Spent => Err(Ended::Violation),
        }
    }

    fn frames(
        &mut self,
        content: &[u8],
        to_decoy: &mut Outbox,
        context: &mut Context<'_>,
    ) -> Result<(), Ended> {
        let mut rest = frames(content);
        while let Some(frame) = rest.next() {
            let frame = frame.map_err(|_| Ended::Violation)?;
            let frame = match (&mut self.phase, frame) {
                (Phase::Handover(asked @ None), Frame::Join(join)) => {
                    *asked = Some(Box::new(join));
                    continue;
                }
                (Phase::Handover(_), Frame::Shape { profile, version })
                    if self.tunnel.follow(profile, version) =>
                {
                    continue;
                }
                (Phase::Handover(_), Frame::Handover(handover)) => {
                    self.hand_over(&handover, to_decoy, context)?;
                    continue;
                }
                (Phase::One(_) | Phase::Three(..), Frame::Decoy(bytes)) => {
                    self.for_decoy(bytes, to_decoy)?;
                    continue;
                }
                (_, Frame::Padding) => continue,
                (Phase::Up(_), frame) => frame,
                _ => return Err(Ended::Violation),
            };
            match self.tunnel.on_frame(&frame, false, context.now).map_err(|_: Violation| Ended::Violation)? {
                Meant::Done | Meant::Carrier(_) => {}
                Meant::Over => self.tunnel.forget(&context.config.sessions),
                Meant::KeysChanged if rest.next().is_none() => {}
                Meant::KeysChanged | Meant::Role => return Err(Ended::Violation),
            }
        }
        Ok(())
    }

    fn hand_over(
        &mut self,
        handover: &Handover,
        to_decoy: &mut Outbox,
        context: &mut Context<'_>,
    ) -> Result<(), Ended> {
        if !self.decoy_up.is_empty() {
            return Err(Ended::Violation);
        }
        self.decoy_down = Vec::new();
        let keeping = Keeping::new(handover, self.counts, &self.name, context.facts, context.now);
        let mut keeping = keeping.ok_or(Ended::Violation)?;
        let mut random = [0; 8];
        context.rng.fill_bytes(&mut random);
        let missed = std::mem::take(&mut self.missed);
        keeping.catch_up(&missed, self.counts, to_decoy.tail()).ok_or(Ended::Violation)?;
        keeping.find_frames(random, to_decoy.tail());
        // Of the answer there is more to see than at the proof, and the shape is agreed on.
        self.follow_decoy(context.facts);
        if let Phase::Handover(asked) = std::mem::replace(&mut self.phase, Phase::Up(Box::new(keeping))) {
            self.news.up = self.tunnel.begin(&context.config.sessions, asked.as_deref(), context.now);
        }
        // Who was shut out since the knock: asked after the session stands in the table, where it is found by who shuts out later.
        if self.client.is_some_and(|client| !context.config.door.admits(&client)) {
            self.tunnel.cut(&context.config.sessions);
        }
        Ok(())
    }

    /// Only whole TLS records go to the decoy, so that what follows raw begins at a boundary.
    fn for_decoy(&mut self, bytes: &[u8], to_decoy: &mut Outbox) -> Result<(), Ended> {
        self.decoy_up.extend_from_slice(bytes);
        loop {
            match head(&self.decoy_up) {
                Head::More => return Ok(()),
                Head::Foreign => return Err(Ended::Violation),
                Head::Record { outer, total } => {
                    if self.decoy_up.len() < total {
                        return Ok(());
                    }
                    to_decoy.extend(&self.decoy_up[..total]);
                    self.decoy_up.drain(..total);
                    self.counts.up += u64::from(outer == APPLICATION_DATA);
                }
            }
        }
    }

    /// Takes the decoy's records: before HANDOVER they go to the client in DECOY frames, after it they are ours. `tunnel_over`:
    /// only what ends the connection still matters.
    pub(super) fn decoy_records(
        &mut self,
        inbox: &mut Inbox,
        to_client: &mut Outbox,
        to_decoy: &mut Outbox,
        tunnel_over: bool,
        context: &mut Context<'_>,
    ) -> Word {
        let mut said = Word::Nothing;
        loop {
            let (outer, total) = match head(inbox.data()) {
                Head::More => return said,
                Head::Foreign => return Word::Broken,
                Head::Record { outer, total } => (outer, total),
            };
            let Some(record) = inbox.data().get(..total) else { return said };
            if outer == APPLICATION_DATA {
                self.counts.down += 1;
            }
            let word = if let Phase::Up(keeping) = &mut self.phase {
                let mut owed = Vec::new();
                let word = keeping.record(outer, record, &mut owed);
                if !tunnel_over && said == Word::Nothing {
                    to_decoy.extend(&owed);
                }
                word
            } else {
                let awaits_handover = matches!(self.phase, Phase::Three(..) | Phase::Handover(_));
                if awaits_handover && may_be_key_update(record) && self.missed.len() < MAX_MISSED {
                    self.missed.push((self.counts.down.wrapping_sub(1), record.to_vec()));
                }
                self.seal_decoy(record, to_client);
                if self.decoy_down.len() > MAX_HELD_BACK {
                    self.release(to_client, context.rng);
                }
                Word::Nothing
            };
            inbox.consume(total);
            let before = to_client.len();
            if !matches!(word, Word::Nothing | Word::Broken) && self.is_blocked(before) {
                return Word::Closes;
            }
            match word {
                Word::Nothing | Word::Closes => {}
                Word::GoAway(length) => {
                    self.tunnel.seal_frames(
                        &[Frame::Close { id: 0, code: 1 }],
                        Some(length),
                        to_client.tail(),
                    );
                }
                Word::GaveUp(length) => {
                    self.tunnel.seal_frames(&[Frame::Padding], Some(length), to_client.tail());
                }
                Word::Alert(alert) => {
                    self.tunnel.seal_alert(alert, to_client.tail());
                    said = word;
                }
                Word::Broken => return word,
            }
            self.asides += to_client.len() - before;
        }
    }

    /// One record down for one of the decoy's, of the same length, so that an observer who withholds what the client
    /// sends sees the decoy's own answer and the decoy's own end. It carries as much of the decoy's stream as fits.
    fn seal_decoy(&mut self, record: &[u8], to_client: &mut Outbox) {
        let length = (record.len() - HEADER_LEN).min(MAX_LENGTH);
        self.decoy_down.extend_from_slice(record);
        let room = length.saturating_sub(OVERHEAD + FRAME_HEADER).min(self.decoy_down.len());
        let out = to_client.tail();
        let start = self.tunnel.sealer.begin(out);
        if room > 0 {
            Frame::Decoy(&self.decoy_down[..room]).encode(out);
            self.decoy_down.drain(..room);
        }
        self.tunnel.sealer.finish(out, start, FRAMES, Some(length));
        self.down_lengths.note(length);
    }

    /// Sends what was held back, in records that stand for none of the decoy's: a PADDING frame comes first.
    fn release(&mut self, to_client: &mut Outbox, rng: &mut ChaCha20Rng) {
        let held = std::mem::take(&mut self.decoy_down);
        let longest = self.tunnel.max_content() - 2 * FRAME_HEADER;
        for piece in held.chunks(longest) {
            let length = self.down_lengths.draw(piece.len() + 2 * FRAME_HEADER + OVERHEAD, rng);
            let out = to_client.tail();
            let start = self.tunnel.sealer.begin(out);
            Frame::Padding.encode(out);
            Frame::Decoy(piece).encode(out);
            self.tunnel.sealer.finish(out, start, FRAMES, Some(length));
        }
    }

    /// Seals what the streams have to send.
    pub(super) fn flush(&mut self, to_client: &mut Outbox, context: &Context<'_>) {
        let Phase::Up(keeping) = &mut self.phase else { return };
        if !self.announced && keeping.nearly_over(context) {
            self.announced = true;
            self.news.going_away = true;
            self.tunnel.announce_end();
        }
        let waiting = to_client.len();
        self.tunnel.tick(context.now);
        if waiting < crate::tunnel::BACKLOG && self.tunnel.pack(to_client.tail(), waiting, context.now) {
            keeping.traffic(context.now);
            self.warm_up(to_client.len() - waiting);
        }
    }

    /// The client's socket took some of what waited, of which there were and are so many bytes.
    pub(super) fn wrote(&mut self, before: usize, left: usize, now: Instant) {
        if before > self.asides
            && let Phase::Up(keeping) = &mut self.phase
        {
            keeping.traffic(now);
        }
        self.asides = self.asides.min(left);
    }

    /// Whether the decoy was shown a standstill because the client's socket takes nothing. A server in that place can say nothing any
    /// more, and closes: what its socket has not taken is lost.
    pub(super) fn is_blocked(&self, waiting: usize) -> bool {
        waiting > self.asides && matches!(&self.phase, Phase::Up(keeping) if keeping.shows_standstill())
    }

    fn standstill(&self, to_client: &Outbox) -> Standstill {
        if to_client.len() > self.asides || self.tunnel.has_unsent() {
            Standstill::Download
        } else if self.tunnel.peer_starves() {
            Standstill::Upload
        } else {
            Standstill::None
        }
    }

    /// When [`Inner::on_timer`] has something to do.
    pub(super) fn deadline(
        &self,
        to_client: &Outbox,
        facts: &DecoyFacts,
        began: Option<Instant>,
    ) -> Option<Instant> {
        let Phase::Up(keeping) = &self.phase else { return None };
        let announce = last_call(facts, began).filter(|_| !self.announced);
        let keep = keeping.deadline(facts, || self.standstill(to_client));
        [keep, announce, self.tunnel.deadline()].into_iter().flatten().min()
    }

    pub(super) fn on_timer(&mut self, to_client: &Outbox, to_decoy: &mut Outbox, context: &Context<'_>) {
        self.tunnel.on_timer(context.now);
        let standstill = self.standstill(to_client);
        if let Phase::Up(keeping) = &mut self.phase {
            keeping.on_timer(context.facts, standstill, context.now, to_decoy.tail());
        }
    }

    pub(super) fn held(&self) -> usize {
        self.tunnel.held() + self.scratch.0.capacity() + self.decoy_up.capacity() + self.decoy_down.capacity()
    }

    pub(super) fn shrink(&mut self) {
        self.scratch.shrink();
        self.tunnel.trim();
        self.decoy_up.shrink_to_fit();
        if let Phase::Up(keeping) = &mut self.phase {
            keeping.shrink();
        }
    }
}

/// What a step needs besides the buffers.
pub(super) struct Context<'a> {
    pub(super) config: &'a BridgeConfig,
    pub(super) facts: &'a DecoyFacts,
    pub(super) rng: &'a mut ChaCha20Rng,
    /// When the connection began.
    pub(super) began: Option<Instant>,
    pub(super) now: Instant,
}

/// The length field of the record at the front of `bytes`, once its header is whole.
pub(super) fn next_length(bytes: &[u8]) -> Option<usize> {
    match head(bytes) {
        Head::Record { outer: scan::APPLICATION_DATA, total } => Some(total - HEADER_LEN),
        _ => None,
    }
}
