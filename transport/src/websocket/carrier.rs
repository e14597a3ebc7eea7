//! The client's carrier: TLS around the core.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use qnet_proto::Ended;
use qnet_proto::carrier::{Carrier, Close, Event, Side};
use qnet_proto::session::SharedSession;
use qnet_proto::websocket::Client;

use crate::tls::Tls;

/// Room for a read: four full records, so that one system call carries several; given back when idle.
const READ_SIZE: usize = 64 * 1024;
/// Bytes waiting for the socket above which the core is asked for no more.
const BACKLOG: usize = 64 * 1024;
/// Bytes waiting for the socket above which it is not read.
const MAX_WAITING: usize = 256 * 1024;
/// Content of a TLS record that fits a segment of any usual path.
const SEGMENT: usize = 1_350;
/// How long after the last byte buffers are given back.
const SHRINK_AFTER: Duration = Duration::from_secs(1);

/// A websocket carrier on a client.
pub(crate) struct ClientCarrier {
    core: Client,
    tls: Tls,
    room: Vec<u8>,
    content: Vec<u8>,
    out: Vec<u8>,
    written: usize,
    /// Where records end in `out` that fit a segment: a browser writes each of its records by itself.
    cuts: VecDeque<usize>,
    peer_ended: bool,
    closed: bool,
    shrink_at: Option<Instant>,
}

impl ClientCarrier {
    pub(crate) fn new(core: Client, tls: Tls, now: Instant) -> Self {
        let mut carrier = Self {
            core,
            tls,
            room: Vec::new(),
            content: Vec::new(),
            out: Vec::new(),
            written: 0,
            cuts: VecDeque::new(),
            peer_ended: false,
            closed: false,
            shrink_at: Some(now + SHRINK_AFTER),
        };
        carrier.send(now);
        carrier
    }

    fn waiting(&self) -> usize {
        self.out.len() - self.written
    }

    /// Seals what the core has, as far as the socket keeps up.
    fn send(&mut self, now: Instant) {
        loop {
            self.core.flush(now);
            let mut moved = false;
            while self.waiting() < BACKLOG
                && let Some(content) = self.core.poll(now)
            {
                moved = true;
                if self.tls.write(&content, &mut self.out).is_err() {
                    self.core.ended(Ended::Internal, now);
                }
                if content.len() <= SEGMENT {
                    self.cuts.push_back(self.out.len());
                }
            }
            if !moved {
                return;
            }
            self.shrink_at = Some(now + SHRINK_AFTER);
        }
    }
}

impl Carrier for ClientCarrier {
    fn wants(&self, side: Side) -> bool {
        let waiting = self.waiting() + self.core.waiting();
        side == Side::Peer && !self.peer_ended && self.core.is_over().is_none() && waiting < MAX_WAITING
    }

    fn space(&mut self, _side: Side) -> &mut [u8] {
        if self.room.len() < READ_SIZE {
            self.room.resize(READ_SIZE, 0);
        }
        &mut self.room
    }

    fn filled(&mut self, _side: Side, n: usize, now: Instant) {
        self.shrink_at = Some(now + SHRINK_AFTER);
        let bytes = self.room.get(..n).unwrap_or_default();
        let outcome = self.tls.read(bytes, &mut self.content, &mut self.out);
        self.core.on_data(&self.content, now);
        self.content.clear();
        match outcome {
            Ok(()) => {}
            Err(None) => self.core.ended(Ended::PeerClosed, now),
            Err(Some(_)) => self.core.ended(Ended::Tampered, now),
        }
        self.send(now);
    }

    fn ended(&mut self, _side: Side, how: Close, now: Instant) {
        self.peer_ended = true;
        self.core.ended(if how == Close::Reset { Ended::Reset } else { Ended::PeerClosed }, now);
    }

    fn pending(&self, side: Side) -> &[u8] {
        if side != Side::Peer {
            return &[];
        }
        let end = self.cuts.front().copied().unwrap_or(self.out.len());
        self.out.get(self.written..end).unwrap_or_default()
    }

    fn ends_segment(&self, _side: Side) -> bool {
        !self.cuts.is_empty()
    }

    fn wrote(&mut self, _side: Side, n: usize, now: Instant) {
        self.written = (self.written + n).min(self.out.len());
        while self.cuts.front().is_some_and(|at| *at <= self.written) {
            self.cuts.pop_front();
        }
        if self.written == self.out.len() {
            self.out.clear();
            self.written = 0;
        }
        self.send(now);
    }

    fn shutdown(&mut self, side: Side) -> Option<Close> {
        let due = self.core.is_over().filter(|_| side == Side::Peer && !self.closed)?;
        if due == Close::Fin && self.waiting() > 0 {
            return None;
        }
        self.closed = true;
        Some(due)
    }

    fn deadline(&self) -> Option<Instant> {
        [self.core.deadline(), self.shrink_at].into_iter().flatten().min()
    }

    fn on_timer(&mut self, now: Instant) {
        self.core.on_timer(now);
        self.send(now);
        if self.shrink_at.is_some_and(|at| at <= now) {
            self.shrink_at = None;
            self.room = Vec::new();
            self.content = Vec::new();
            if self.out.is_empty() {
                self.out = Vec::new();
            }
            self.core.shrink();
        }
    }

    fn poll_event(&mut self) -> Option<Event> {
        self.core.poll_event()
    }

    fn session(&self) -> Option<&SharedSession> {
        Some(self.core.session())
    }

    fn flush(&mut self, now: Instant) {
        self.send(now);
    }

    fn judge(&mut self, _allowed: bool) {}

    fn close(&mut self, now: Instant) {
        self.core.close(now);
        self.send(now);
    }

    fn leave(&mut self, now: Instant) {
        self.core.leave(now);
        self.send(now);
    }

    fn finished(&self) -> bool {
        self.closed
    }
}
