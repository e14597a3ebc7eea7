//! The predecessor's end: a carrier of its session whose connection is the one between the processes.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::{ANSWER_LIMIT, Ask, Broken, MAX_WAITING, OVER, Word, put, put_streams, read, whole};
use crate::Ended;
use crate::buffer::{Inbox, Outbox};
use crate::carrier::{Carrier, Close, Event, Side};
use crate::frame::Frame;
use crate::record::MAX_CONTENT;
use crate::session::{CarrierNumber, CarrierState, SharedSession, SharedSessions, lock, lock_sessions};

/// How long after the last byte buffers are given back.
const SHRINK_AFTER: Duration = Duration::from_secs(1);

enum State {
    /// Nothing was asked; until when that is waited for.
    Before(Instant),
    Carrying(SharedSession, CarrierNumber),
    /// What is left is said, then the connection ends.
    Over,
}

/// One connection from a successor, on a bridge that no longer listens. See [`Carrier`] for the call contract; it has
/// [`Side::Link`] alone.
pub struct Holder {
    sessions: SharedSessions,
    state: State,
    inbox: Inbox,
    outbox: Outbox,
    events: VecDeque<Event>,
    told: Option<(u64, bool)>,
    shrink_at: Option<Instant>,
    closed: bool,
}

impl Holder {
    /// Waits for what is asked of these sessions.
    #[must_use]
    pub fn new(sessions: SharedSessions, now: Instant) -> Self {
        Self {
            sessions,
            state: State::Before(now + ANSWER_LIMIT),
            inbox: Inbox::default(),
            outbox: Outbox::default(),
            events: VecDeque::new(),
            told: None,
            shrink_at: None,
            closed: false,
        }
    }

    /// Bytes allocated, without the session's.
    #[must_use]
    pub fn held(&self) -> usize {
        self.inbox.allocated() + self.outbox.allocated()
    }

    fn words(&mut self, inbox: &mut Inbox, now: Instant) -> Result<(), Broken> {
        while !matches!(self.state, State::Over) {
            let Some(total) = whole(inbox.data())? else { break };
            let word = read(inbox.data().get(..total).unwrap_or_default())?;
            self.word(&word, now)?;
            inbox.consume(total);
        }
        if matches!(self.state, State::Over) {
            inbox.consume(usize::MAX);
        }
        Ok(())
    }

    fn word(&mut self, word: &Word<'_>, now: Instant) -> Result<(), Broken> {
        match (&self.state, word) {
            (State::Before(_), Word::Ask(ask)) => self.answer(ask, now),
            (
                State::Carrying(session, number),
                Word::Frame(frame @ (Frame::Segment { .. } | Frame::Ack { .. } | Frame::End)),
            ) => {
                let mut session = lock(session);
                // Who breaks the protocol has ended the session as well.
                let broken = session.on_frame(*number, frame, now).is_err();
                let id = session.id().filter(|_| broken || *frame == Frame::End);
                drop(session);
                if let Some(id) = id {
                    lock_sessions(&self.sessions).remove(id);
                }
            }
            _ => return Err(Broken),
        }
        Ok(())
    }

    fn answer(&mut self, ask: &Ask, now: Instant) {
        let session = lock_sessions(&self.sessions).get(&ask.join.id);
        let admitted = session.and_then(|session| {
            let admitted = lock(&session).admit(&ask.join, &ask.hash, &ask.client, now).ok();
            admitted.map(|(number, answer)| (session, number, answer))
        });
        let Some((session, number, answer)) = admitted else {
            Frame::Refused.encode(self.outbox.tail());
            self.state = State::Over;
            return;
        };
        if !ask.round_trip.is_zero() {
            lock(&session).set_round_trip(number, ask.round_trip);
        }
        Frame::Join(answer).encode(self.outbox.tail());
        self.state = State::Carrying(session, number);
        self.events.push_back(Event::Up);
    }

    /// Gives the connection what the session has to send.
    fn send(&mut self, now: Instant) {
        let State::Carrying(session, number) = &self.state else { return };
        let mut session = lock(session);
        session.tick(now);
        let streams = (session.streams().begun(), session.streams().open_streams() > 0);
        let out = self.outbox.tail();
        if self.told.replace(streams) != Some(streams) {
            put_streams(streams.0, streams.1, out);
        }
        while out.len() < MAX_WAITING && session.wants_to_send(*number) {
            if session.pack(*number, MAX_CONTENT, out, now) == 0 {
                break;
            }
        }
        let retired = session.state_of(*number) == CarrierState::Retired;
        if retired || session.ended().is_some() && !session.wants_to_send(*number) {
            put(OVER, &[], out);
            drop(session);
            self.leave_session(Ended::Closed, now);
        }
    }

    fn leave_session(&mut self, why: Ended, now: Instant) {
        if let State::Carrying(session, number) = std::mem::replace(&mut self.state, State::Over) {
            lock(&session).lost(number, now);
            self.events.push_back(Event::Ended(why));
        }
    }

    fn break_off(&mut self, why: Ended, now: Instant) {
        self.leave_session(why, now);
        self.outbox = Outbox::default();
    }
}

impl Carrier for Holder {
    fn wants(&self, side: Side) -> bool {
        // To the very end: that the other process is gone is heard by reading.
        side == Side::Link && !self.closed
    }

    fn space(&mut self, _side: Side) -> &mut [u8] {
        self.inbox.space()
    }

    fn filled(&mut self, _side: Side, n: usize, now: Instant) {
        self.inbox.filled(n);
        let mut inbox = std::mem::take(&mut self.inbox);
        if self.words(&mut inbox, now) == Err(Broken) {
            self.break_off(Ended::Violation, now);
        }
        self.inbox = inbox;
        self.shrink_at = Some(now + SHRINK_AFTER);
        self.send(now);
    }

    fn ended(&mut self, _side: Side, _how: Close, now: Instant) {
        self.break_off(Ended::PeerClosed, now);
        self.closed = true;
    }

    fn pending(&self, side: Side) -> &[u8] {
        if side == Side::Link { self.outbox.pending() } else { &[] }
    }

    fn wrote(&mut self, _side: Side, n: usize, now: Instant) {
        self.outbox.wrote(n);
        self.shrink_at = Some(now + SHRINK_AFTER);
        self.send(now);
    }

    fn shutdown(&mut self, side: Side) -> Option<Close> {
        let due = side == Side::Link && matches!(self.state, State::Over) && self.outbox.is_empty();
        (due && !std::mem::replace(&mut self.closed, true)).then_some(Close::Fin)
    }

    fn deadline(&self) -> Option<Instant> {
        let state = match &self.state {
            State::Before(until) => Some(*until),
            State::Carrying(session, _) => lock(session).deadline(),
            State::Over => None,
        };
        [state, self.shrink_at].into_iter().flatten().min()
    }

    fn on_timer(&mut self, now: Instant) {
        match &self.state {
            State::Before(until) if *until <= now => self.state = State::Over,
            State::Carrying(session, _) => lock(session).on_timer(now),
            State::Before(_) | State::Over => {}
        }
        self.send(now);
        if self.shrink_at.is_some_and(|at| at <= now) {
            self.shrink_at = None;
            self.inbox.shrink();
            self.outbox.shrink();
        }
    }

    fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    fn session(&self) -> Option<&SharedSession> {
        match &self.state {
            State::Carrying(session, _) => Some(session),
            State::Before(_) | State::Over => None,
        }
    }

    fn flush(&mut self, now: Instant) {
        self.send(now);
    }

    fn judge(&mut self, _allowed: bool) {}

    fn close(&mut self, now: Instant) {
        self.break_off(Ended::Closed, now);
    }

    fn leave(&mut self, now: Instant) {
        self.close(now);
    }

    fn finished(&self) -> bool {
        self.closed
    }
}
