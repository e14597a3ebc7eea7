//! The successor's end: what its tunnel has in place of a session.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::{ANSWER_LIMIT, Ask, Broken, MAX_WAITING, Word, read, whole};
use crate::buffer::{Inbox, Outbox};
use crate::carrier::Close;
use crate::frame::{self, Frame, Join};
use crate::mux::Violation;
use crate::session::Queue;

/// Where it stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// It waits for a connection to a process that may have the session.
    Seeking,
    /// One was asked; until when its answer is waited for.
    Asking(Instant),
    /// It carries the session.
    Carrying,
    /// It has nothing more to do with the session.
    Over,
}

/// What the tunnel is to do.
#[derive(PartialEq, Eq, Debug)]
pub(crate) enum News {
    Nothing,
    /// The session is carried: the answer for the client.
    Joined(Join),
}

/// Bytes of the session that follow each other.
struct Run {
    position: u64,
    bytes: Outbox,
}

/// A session that another process holds.
pub(crate) struct Away {
    state: State,
    /// The shell is to be told that a connection is wanted.
    wanted: bool,
    ask: Vec<u8>,
    inbox: Inbox,
    outbox: Outbox,
    /// What is to go to the client, in the order in which it came, and its bytes in all.
    runs: VecDeque<Run>,
    waiting: usize,
    /// What the client is to be told was received.
    ack: Option<u64>,
    /// Behind the last that was given to the client.
    sent: u64,
    /// The session has more to send right behind what came.
    more: bool,
    /// The client was told so.
    said_more: bool,
    /// The client is to be told that the session is over.
    end: bool,
    begun: u64,
    open: bool,
    closed: bool,
}

impl Away {
    /// Before anybody is asked: the carrier's `hash`, its `client`'s static key, and what the client says.
    pub(crate) fn new(hash: [u8; 32], client: [u8; 32], round_trip: Option<Duration>, join: Join) -> Self {
        let ask = Ask { hash, client, round_trip: round_trip.unwrap_or_default(), join };
        Self {
            state: State::Seeking,
            wanted: true,
            ask: ask.encode(),
            inbox: Inbox::default(),
            outbox: Outbox::default(),
            runs: VecDeque::new(),
            waiting: 0,
            ack: None,
            sent: 0,
            more: false,
            said_more: false,
            end: false,
            begun: 0,
            open: false,
            closed: false,
        }
    }

    /// Whether a connection is wanted, the first or, where one did not know the session, another. Told once.
    pub(crate) fn take_wanted(&mut self) -> bool {
        std::mem::take(&mut self.wanted)
    }

    /// A connection is there.
    pub(crate) fn linked(&mut self, now: Instant) {
        if self.state == State::Seeking {
            self.inbox = Inbox::default();
            self.outbox = Outbox::default();
            self.outbox.extend(&self.ask);
            self.state = State::Asking(now + ANSWER_LIMIT);
        }
    }

    pub(crate) fn is_carrying(&self) -> bool {
        self.state == State::Carrying
    }

    /// Whether it is over and the client knows all that it should.
    pub(crate) fn is_done(&self) -> bool {
        self.state == State::Over && !self.end
    }

    /// Streams begun in the session, and whether one is open.
    pub(crate) fn streams(&self) -> (u64, bool) {
        (self.begun, self.open)
    }

    // --- the connection to the session ---------------------------------------------------------------------------

    pub(crate) fn wants(&self) -> bool {
        matches!(self.state, State::Asking(_) | State::Carrying) && self.waiting < MAX_WAITING
    }

    pub(crate) fn space(&mut self) -> &mut [u8] {
        self.inbox.space()
    }

    pub(crate) fn filled(&mut self, n: usize) -> News {
        self.inbox.filled(n);
        let mut inbox = std::mem::take(&mut self.inbox);
        let news = self.words(&mut inbox);
        self.inbox = inbox;
        news.unwrap_or_else(|Broken| {
            self.broken_off();
            News::Nothing
        })
    }

    fn words(&mut self, inbox: &mut Inbox) -> Result<News, Broken> {
        let mut news = News::Nothing;
        while matches!(self.state, State::Asking(_) | State::Carrying) {
            let Some(total) = whole(inbox.data())? else { break };
            let word = inbox.data().get(..total).unwrap_or_default();
            if let Some(answer) = self.word(read(word)?)? {
                news = News::Joined(answer);
            }
            inbox.consume(total);
        }
        Ok(news)
    }

    fn word(&mut self, word: Word<'_>) -> Result<Option<Join>, Broken> {
        match (self.state, word) {
            (State::Asking(_), Word::Frame(Frame::Join(answer))) => {
                self.state = State::Carrying;
                self.sent = 0;
                return Ok(Some(answer));
            }
            (State::Asking(_), Word::Frame(Frame::Refused)) => self.seek_again(),
            (State::Carrying, Word::Frame(Frame::Segment { more, position, bytes })) => {
                self.segment(more, position, bytes);
            }
            (State::Carrying, Word::Frame(Frame::Ack { position })) => self.ack = Some(position),
            (State::Carrying, Word::Frame(Frame::End)) => self.say_end(),
            (State::Carrying, Word::Streams { begun, open }) => (self.begun, self.open) = (begun, open),
            (State::Carrying, Word::Over) => {
                self.forget_queue();
                self.state = State::Over;
            }
            _ => return Err(Broken),
        }
        Ok(None)
    }

    fn segment(&mut self, more: bool, position: u64, bytes: &[u8]) {
        self.more = more;
        if bytes.is_empty() {
            return;
        }
        self.waiting += bytes.len();
        match self.runs.back_mut() {
            Some(run) if run.position + run.bytes.len() as u64 == position => run.bytes.extend(bytes),
            _ => {
                let mut run = Run { position, bytes: Outbox::default() };
                run.bytes.extend(bytes);
                self.runs.push_back(run);
            }
        }
    }

    fn say_end(&mut self) {
        self.forget_queue();
        self.end = true;
    }

    fn forget_queue(&mut self) {
        self.runs = VecDeque::new();
        (self.waiting, self.ack, self.more, self.said_more) = (0, None, false, false);
    }

    fn seek_again(&mut self) {
        self.state = State::Seeking;
        self.wanted = true;
    }

    /// The connection has ended. Where that was not announced, the process that had the session is gone, and the session with it.
    pub(crate) fn broken_off(&mut self) {
        match self.state {
            State::Asking(_) => self.seek_again(),
            State::Carrying if !self.end => {
                self.say_end();
                self.state = State::Over;
            }
            State::Carrying => self.state = State::Over,
            State::Seeking | State::Over => {}
        }
    }

    pub(crate) fn pending(&self) -> &[u8] {
        self.outbox.pending()
    }

    pub(crate) fn wrote(&mut self, n: usize) {
        self.outbox.wrote(n);
    }

    /// How to end the connection, once what was to be said on it was.
    pub(crate) fn shutdown(&mut self) -> Option<Close> {
        let due = self.state == State::Over && self.outbox.is_empty();
        (due && !std::mem::replace(&mut self.closed, true)).then_some(Close::Fin)
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        match self.state {
            State::Asking(until) => Some(until),
            State::Seeking | State::Carrying | State::Over => None,
        }
    }

    pub(crate) fn on_timer(&mut self, now: Instant) {
        if self.deadline().is_some_and(|until| until <= now) {
            self.broken_off();
        }
    }

    // --- the carrier ---------------------------------------------------------------------------------------------

    /// The client sends faster than the session takes it: the carrier should not be read.
    pub(crate) fn is_clogged(&self) -> bool {
        self.outbox.len() >= MAX_WAITING
    }

    /// A frame of the client's for the session.
    ///
    /// # Errors
    /// The client was not told that it may.
    pub(crate) fn on_frame(&mut self, frame: &Frame<'_>) -> Result<(), Violation> {
        match self.state {
            State::Carrying => frame.encode(self.outbox.tail()),
            State::Over => {}
            State::Seeking | State::Asking(_) => return Err(Violation::Misplaced),
        }
        Ok(())
    }

    /// The carrier is over.
    pub(crate) fn leave(&mut self) {
        self.forget_queue();
        (self.state, self.end, self.wanted) = (State::Over, false, false);
    }

    pub(crate) fn queue(&self) -> Queue {
        let other = self.end || self.ack.is_some() || self.owes_word();
        // With data an acknowledgement rides, as in the process where it was made.
        let urgent = self.end || self.ack.is_some() && self.waiting == 0;
        Queue { data: self.waiting, urgent, other }
    }

    pub(crate) fn wants_to_send(&self) -> bool {
        self.waiting > 0 || self.queue().other
    }

    /// The client was told that more follows, and nothing does.
    fn owes_word(&self) -> bool {
        self.said_more && !self.more && self.waiting == 0
    }

    /// Appends frames of at most `room` bytes in all to `out`; without `data` only what may not wait for it.
    pub(crate) fn pack(&mut self, room: usize, data: bool, out: &mut Vec<u8>) {
        let end = out.len() + room;
        if std::mem::take(&mut self.end) {
            Frame::End.encode(out);
            return;
        }
        if let Some(position) = self.ack {
            let ack = Frame::Ack { position };
            if out.len() + ack.encoded_len() <= end {
                ack.encode(out);
                self.ack = None;
            }
        }
        if data || self.waiting == 0 {
            self.pack_segment(end.saturating_sub(out.len()), out);
        }
    }

    fn pack_segment(&mut self, room: usize, out: &mut Vec<u8>) {
        let position = self.runs.front().map_or(self.sent, |run| run.position);
        let Some(room) = room.checked_sub(frame::segment_overhead(position)) else { return };
        let count = self.runs.front().map_or(0, |run| run.bytes.len()).min(room);
        if count == 0 && !self.owes_word() {
            return;
        }
        let start = out.len();
        frame::put_segment_prefix(position, out);
        if let Some(run) = self.runs.front_mut() {
            out.extend_from_slice(run.bytes.pending().get(..count).unwrap_or_default());
            run.bytes.wrote(count);
            run.position += count as u64;
            self.sent = run.position;
            self.waiting -= count;
            if run.bytes.is_empty() {
                self.runs.pop_front();
            }
        }
        self.said_more = self.more || self.waiting > 0;
        frame::finish_segment(start, self.said_more, out);
    }

    pub(crate) fn held(&self) -> usize {
        let runs = self.runs.iter().map(|run| run.bytes.allocated()).sum::<usize>();
        self.inbox.allocated() + self.outbox.allocated() + runs
    }

    pub(crate) fn trim(&mut self) {
        self.inbox.shrink();
        self.outbox.shrink();
    }
}
