//! From the proof on: HTX with the bridge; the rest of the decoy's answer comes in DECOY frames.

use std::time::{Duration, Instant};

use rand_chacha::ChaCha20Rng;

use crate::{
    Ended,
    buffer::Scratch,
    client::goodbye,
    decoy_tls::{DecoyTls, Said},
    frame::{Frame, frames},
    http2::{Output, PageLoad},
    mux::Role,
    noise::{AwaitMessage2, Initiator, MESSAGE2_LEN, MessageReader},
    record::Cipher,
    scan::{APPLICATION_DATA, HEADER_LEN, Head, head},
    session::{Mode, Statics, lock},
    sizes::Lengths,
    tls::MAX_CONTENT,
    tunnel::{ALERT, BACKLOG, FRAMES, Meant, NOISE, Tunnel},
};

/// Early data in message 1 at most (docs/protocol.md, section 7).
const MAX_EARLY: usize = 4_096;
/// How long message 1 waits for early data: tor writes its first flight as soon as it hears of success, and a browser's
/// own pause after a page's last request hides this one.
const EARLY_WAIT: Duration = Duration::from_millis(20);
/// The inner type byte and the tag.
const OVERHEAD: usize = 17;

enum Phase {
    /// Message 1 waits for early data.
    One(Box<Initiator>, Instant),
    Two(Box<AwaitMessage2>),
    Up,
    Spent,
}

/// HTX as the client speaks it.
pub(super) struct Inner {
    pub(super) tunnel: Tunnel,
    phase: Phase,
    cipher: Cipher,
    reader: MessageReader,
    tls: DecoyTls,
    requests: u32,
    /// The decoy's bytes out of DECOY frames, until a TLS record is whole.
    decoy_down: Vec<u8>,
    /// The page load, until the bridge has the decoy to itself.
    h2: Option<Box<PageLoad>>,
    /// TLS records for the decoy, to go in DECOY frames.
    owed: Vec<u8>,
    /// Records down since the proof that stand for the decoy's own, less those of them that were read: how far a
    /// record of the decoy's that came as it is would be ahead.
    ahead: u64,
    /// The bridge has let go: what comes down is the decoy's own.
    raw: bool,
    /// The next KEY_UPDATE leads from the handshake keys to Noise's own.
    first_keys: bool,
    up_lengths: Lengths,
    scratch: Scratch,
    early_scratch: Scratch,
    mode: Mode,
    statics: Statics,
    /// HANDOVER was sent.
    up: bool,
    pub(super) going_away: bool,
}

/// What a record meant.
pub(super) enum Heard {
    Nothing,
    /// The bridge let go: the tunnel is over, the connection goes on as the decoy's.
    LetGo,
    /// The decoy, and so the carrier, ends: close.
    Ends,
    Fails(Ended),
}

impl Inner {
    pub(super) fn new(
        mut tunnel: Tunnel,
        initiator: Initiator,
        tls: DecoyTls,
        mut h2: PageLoad,
        up_lengths: Lengths,
        options: &Options,
    ) -> Self {
        tunnel.set_round_trip(options.round_trip);
        let requests = h2.requests();
        // No more requests; what is owed is still paid.
        h2.give_up();
        let early = options.early && lock(tunnel.session()).id().is_none();
        Self {
            tunnel,
            phase: Phase::One(
                Box::new(initiator),
                options.now + if early { EARLY_WAIT } else { Duration::ZERO },
            ),
            cipher: Cipher::preferred(options.aes_hardware),
            reader: MessageReader::new(MESSAGE2_LEN),
            tls,
            requests,
            decoy_down: Vec::new(),
            h2: Some(Box::new(h2)),
            owed: Vec::new(),
            ahead: 0,
            raw: false,
            first_keys: true,
            up_lengths,
            scratch: Scratch::default(),
            early_scratch: Scratch::default(),
            mode: options.mode,
            statics: options.statics,
            up: false,
            going_away: false,
        }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        match &self.phase {
            Phase::One(_, until) if !self.raw => Some(*until),
            _ => self.tunnel.deadline(),
        }
    }

    /// Sends message 1 once there is early data or no more time to wait for it, what the decoy is owed, and whatever the
    /// streams have.
    pub(super) fn flush(&mut self, out: &mut Vec<u8>, waiting: usize, rng: &mut ChaCha20Rng, now: Instant) {
        if self.raw {
            return;
        }
        match &self.phase {
            Phase::One(_, until) if *until <= now || self.tunnel.has_unsent() => {
                self.message1(out, rng, *until > now);
            }
            Phase::Two(_) => self.pay(out, now),
            Phase::Up if waiting < BACKLOG => {
                self.tunnel.tick(now);
                self.tunnel.pack(out, waiting, now);
            }
            _ => {}
        }
    }

    /// Sends the decoy what it is owed, in records of the lengths it would have.
    fn pay(&mut self, out: &mut Vec<u8>, now: Instant) {
        while let Some(Output::Record(content)) = self.h2.as_mut().and_then(|h2| h2.poll(now)) {
            self.tls.sealer.seal(APPLICATION_DATA, &content, &mut self.owed);
        }
        for piece in std::mem::take(&mut self.owed).chunks(MAX_CONTENT - HEADER_LEN) {
            self.tunnel.seal_frames(&[Frame::Decoy(piece)], None, out);
        }
    }

    fn message1(&mut self, out: &mut Vec<u8>, rng: &mut ChaCha20Rng, early_allowed: bool) {
        if let Phase::One(initiator, _) = std::mem::replace(&mut self.phase, Phase::Spent) {
            let mut early = Vec::new();
            if early_allowed {
                self.tunnel.pack_early(MAX_EARLY, &mut early);
            }
            if let Ok((message, next)) = initiator.message1(self.cipher, &early) {
                self.tunnel.seal_noise(&message, &self.up_lengths, rng, out);
                self.phase = Phase::Two(Box::new(next));
            }
        }
    }

    /// A whole record of outer type 23. `None`: it does not open.
    pub(super) fn record(
        &mut self,
        record: &mut [u8],
        out: &mut Vec<u8>,
        rng: &mut ChaCha20Rng,
        now: Instant,
    ) -> Option<Heard> {
        self.tunnel.tick(now);
        if self.first_keys {
            return self.early_record(record, out, rng, now);
        }
        let length = record.len();
        let (kind, content) = self.tunnel.opener.open_in_place(record).ok()?;
        self.tunnel.heard(length, content.len(), now);
        Some(match kind {
            FRAMES => self.frames(content, out, now),
            ALERT => self.alert(content, out),
            _ => Heard::Fails(Ended::Violation),
        })
    }

    /// As long as the bridge may not have the decoy to itself, a record may also be the decoy's own: the bridge lets go
    /// where somebody tampers with what we send.
    fn early_record(
        &mut self,
        record: &[u8],
        out: &mut Vec<u8>,
        rng: &mut ChaCha20Rng,
        now: Instant,
    ) -> Option<Heard> {
        if self.raw {
            return self.raw_record(record, out, now);
        }
        let mut scratch = std::mem::take(&mut self.early_scratch.0);
        let heard = match self.tunnel.opener.open(record, &mut scratch) {
            Ok((NOISE, content)) => self.noise(content, out, rng, now),
            Ok((FRAMES, content)) => {
                // A PADDING frame comes first in a record that stands for none of the decoy's.
                self.ahead += u64::from(content.get(3) != Some(&0));
                self.frames(content, out, now)
            }
            Ok((ALERT, content)) => self.alert(content, out),
            Ok(_) => Heard::Fails(Ended::Violation),
            Err(_) => {
                let next = self.tls.opener.direction().next_index();
                self.tls.opener.go_to(next.wrapping_add(self.ahead));
                self.early_scratch.0 = scratch;
                let heard = self.raw_record(record, out, now)?;
                self.raw = true;
                return Some(match heard {
                    Heard::Nothing => Heard::LetGo,
                    other => other,
                });
            }
        };
        self.early_scratch.0 = scratch;
        Some(heard)
    }

    /// A record of the decoy's own after the bridge let go. `None`: it does not open.
    fn raw_record(&mut self, record: &[u8], out: &mut Vec<u8>, now: Instant) -> Option<Heard> {
        match self.tls.read(record, &mut self.scratch.0, &mut Vec::new()) {
            Ok(Said::Alert(alert)) => Some(self.decoy_ends(alert, out)),
            Ok(Said::Data) => Some(self.data(now)),
            Ok(Said::Nothing) => Some(Heard::Nothing),
            Ok(Said::Nonsense) | Err(_) => None,
        }
    }

    /// Takes a piece of message 2; answers the whole with message 3 and HANDOVER.
    fn noise(&mut self, content: &[u8], out: &mut Vec<u8>, rng: &mut ChaCha20Rng, now: Instant) -> Heard {
        let message = match self.reader.push(content) {
            Err(_) => return Heard::Fails(Ended::Handshake),
            Ok(None) => return Heard::Nothing,
            Ok(Some(message)) => message,
        };
        // The last thing the decoy hears from us.
        self.pay(out, now);
        let Phase::Two(wait) = std::mem::replace(&mut self.phase, Phase::Spent) else {
            return Heard::Fails(Ended::Violation);
        };
        let Ok((third, established)) = wait.read(&message) else { return Heard::Fails(Ended::Handshake) };
        self.tunnel.seal_noise(&third, &self.up_lengths, rng, out);
        self.tunnel.establish(Role::Client, established, self.statics, now);
        let mut last = Vec::new();
        if let Some(join) = self.tunnel.ask_to_join(self.mode, now) {
            last.push(Frame::Join(join));
        }
        last.push(self.tunnel.shape());
        last.push(Frame::Handover(self.tls.handover(self.requests)));
        let content: usize = last.iter().map(Frame::encoded_len).sum();
        let length = self.up_lengths.draw(content + OVERHEAD, rng);
        self.tunnel.seal_last(&last, length, out);
        self.tunnel.limit_content(MAX_CONTENT);
        self.phase = Phase::Up;
        self.up = true;
        Heard::Nothing
    }

    fn frames(&mut self, content: &[u8], out: &mut Vec<u8>, now: Instant) -> Heard {
        let mut rest = frames(content);
        while let Some(frame) = rest.next() {
            let Ok(frame) = frame else { return Heard::Fails(Ended::Violation) };
            // Until the bridge has the decoy to itself: its first KEY_UPDATE comes after HANDOVER.
            if let Frame::Decoy(bytes) = frame
                && self.first_keys
            {
                match self.decoy(bytes, out, now) {
                    Heard::Nothing => continue,
                    other => return other,
                }
            }
            if self.first_keys
                && !matches!(frame, Frame::Padding | Frame::KeyUpdate | Frame::Close { id: 0, .. })
            {
                return Heard::Fails(Ended::Violation);
            }
            match (self.tunnel.on_frame(&frame, self.first_keys, now), &frame) {
                (Ok(Meant::Done | Meant::Over), _) => {}
                (Ok(Meant::Role), Frame::Join(answer)) if self.tunnel.joined(answer, now) => {}
                (Ok(Meant::Role), Frame::Refused) if self.tunnel.refused(now) => {
                    return Heard::Fails(Ended::Forgotten);
                }
                (Ok(Meant::Role), Frame::Shape { profile, version })
                    if self.tunnel.answered(*profile, *version) => {}
                (Ok(Meant::Carrier(0)), _) => {
                    self.going_away = true;
                    self.tunnel.going_away(now);
                }
                (Ok(Meant::Carrier(_)), _) => return Heard::Ends,
                (Ok(Meant::KeysChanged), _) if rest.next().is_none() => self.alone_with_bridge(),
                (Ok(Meant::KeysChanged | Meant::Role) | Err(_), _) => {
                    return Heard::Fails(Ended::Violation);
                }
            }
        }
        Heard::Nothing
    }

    /// The bridge has the decoy to itself.
    fn alone_with_bridge(&mut self) {
        self.first_keys = false;
        self.h2 = None;
        self.decoy_down = Vec::new();
    }

    /// Bytes of the decoy's own stream.
    fn decoy(&mut self, bytes: &[u8], out: &mut Vec<u8>, now: Instant) -> Heard {
        self.decoy_down.extend_from_slice(bytes);
        loop {
            let (outer, total) = match head(&self.decoy_down) {
                Head::More => return Heard::Nothing,
                Head::Foreign => return Heard::Fails(Ended::Violation),
                Head::Record { outer, total } => (outer, total),
            };
            if self.decoy_down.len() < total {
                return Heard::Nothing;
            }
            let record: Vec<u8> = self.decoy_down.drain(..total).collect();
            if outer != APPLICATION_DATA {
                return Heard::Fails(Ended::Tampered);
            }
            self.ahead = self.ahead.saturating_sub(1);
            let heard = match self.tls.read(&record, &mut self.scratch.0, &mut self.owed) {
                Ok(Said::Alert(alert)) => self.decoy_ends(alert, out),
                Ok(Said::Data) => self.data(now),
                Ok(Said::Nothing) => Heard::Nothing,
                Ok(Said::Nonsense) | Err(_) => Heard::Fails(Ended::Tampered),
            };
            if !matches!(heard, Heard::Nothing) {
                return heard;
            }
        }
    }

    /// The decoy's application data, in the scratch.
    fn data(&mut self, now: Instant) -> Heard {
        let Some(h2) = &mut self.h2 else { return Heard::Nothing };
        if h2.on_data(&self.scratch.0, now).is_err() {
            return Heard::Fails(Ended::Load);
        }
        if h2.gone_away() { Heard::Ends } else { Heard::Nothing }
    }

    fn decoy_ends(&mut self, alert: [u8; 2], out: &mut Vec<u8>) -> Heard {
        if self.up {
            return self.alert(&alert, out);
        }
        goodbye(alert, |content| self.tls.sealer.seal(APPLICATION_DATA, content, out));
        Heard::Ends
    }

    fn alert(&mut self, content: &[u8], out: &mut Vec<u8>) -> Heard {
        if let Ok(alert) = <[u8; 2]>::try_from(content) {
            goodbye(alert, |content| {
                let length = content.len() + OVERHEAD;
                self.tunnel.seal_frames(&[Frame::Close { id: 0, code: 1 }], Some(length), out);
            });
        }
        Heard::Ends
    }

    /// What a browser sends when a record does not open: under the decoy's keys until it was handed over.
    pub(super) fn bad_record(&mut self, out: &mut Vec<u8>) {
        if self.up && !self.raw {
            self.tunnel.seal_alert(super::BAD_RECORD_MAC, out);
        } else {
            self.tls.sealer.seal(ALERT, &super::BAD_RECORD_MAC, out);
        }
    }

    pub(super) fn held(&self) -> usize {
        self.tunnel.held() + self.scratch.0.capacity() + self.decoy_down.capacity()
    }

    pub(super) fn shrink(&mut self) {
        self.scratch.shrink();
        self.early_scratch.shrink();
        self.tunnel.trim();
        self.decoy_down.shrink_to_fit();
    }
}

/// How the inner handshake is to be made.
pub(super) struct Options {
    pub(super) early: bool,
    pub(super) aes_hardware: bool,
    pub(super) round_trip: Duration,
    pub(super) mode: Mode,
    pub(super) statics: Statics,
    pub(super) now: Instant,
}

/// The header's share of a record is not its own length field's.
pub(super) fn whole(bytes: &[u8]) -> Option<Result<(u8, usize), ()>> {
    match head(bytes) {
        Head::More => None,
        Head::Foreign => Some(Err(())),
        Head::Record { total, .. } if bytes.len() < total => None,
        Head::Record { outer, total } if total > HEADER_LEN => Some(Ok((outer, total))),
        Head::Record { .. } => Some(Err(())),
    }
}
