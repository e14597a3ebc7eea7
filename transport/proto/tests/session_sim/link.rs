//! A carrier as the session sees it: two pipes that keep order and delay, until they do not.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use qnet_proto::session::{CarrierNumber, Join};

/// Bytes on the way in one direction beyond which a carrier takes no more.
const CAPACITY: usize = 48 << 10;

/// What goes over a carrier.
#[derive(Debug)]
pub(crate) enum Content {
    Frames(Vec<u8>),
    Join(Join),
    Refused,
    GoingAway,
    Fin,
}

/// One direction.
#[derive(Debug)]
pub(crate) struct Pipe {
    way: VecDeque<(Instant, Content)>,
    on_way: usize,
    delay: Duration,
    /// The most that one record holds.
    pub(crate) record: usize,
    /// Nothing arrives any more, and nobody is told.
    pub(crate) stalled: bool,
}

impl Pipe {
    pub(crate) fn new(delay: Duration, record: usize) -> Self {
        Self { way: VecDeque::new(), on_way: 0, delay, record, stalled: false }
    }

    pub(crate) fn has_room(&self) -> bool {
        self.on_way < CAPACITY
    }

    pub(crate) fn send(&mut self, content: Content, jitter: Duration, now: Instant) {
        let earliest = self.way.back().map_or(now, |(at, _)| *at);
        if let Content::Frames(bytes) = &content {
            self.on_way += bytes.len();
        }
        if !self.stalled {
            self.way.push_back((earliest.max(now + self.delay + jitter), content));
        }
    }

    pub(crate) fn next_at(&self) -> Option<Instant> {
        self.way.front().map(|(at, _)| *at)
    }

    pub(crate) fn take(&mut self, now: Instant) -> Option<Content> {
        self.way.front().filter(|(at, _)| *at <= now)?;
        let (_, content) = self.way.pop_front()?;
        if let Content::Frames(bytes) = &content {
            self.on_way -= bytes.len();
        }
        Some(content)
    }

    /// Whether something was thrown away.
    pub(crate) fn lose_everything(&mut self) -> bool {
        let lost = !self.way.is_empty();
        self.way.clear();
        lost
    }
}

/// What a side makes of a carrier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Not the session's yet: no JOIN was sent, or none came.
    Outside,
    /// Client: a JOIN was sent.
    Asked(CarrierNumber),
    Inside(CarrierNumber),
    Closed,
}

/// One carrier. Side 0 is the client.
#[derive(Debug)]
pub(crate) struct Link {
    /// By sender.
    pub(crate) pipes: [Pipe; 2],
    pub(crate) places: [Place; 2],
    /// When a side learns that the connection is gone.
    pub(crate) broken: [Option<Instant>; 2],
    pub(crate) hash: [u8; 32],
    pub(crate) round_trip: Duration,
    /// It was told to stand still or cut; left alone from here on.
    pub(crate) faulty: bool,
}

impl Link {
    pub(crate) fn is_over(&self) -> bool {
        self.places == [Place::Closed; 2]
    }

    /// The connection is gone: what is on the way is lost, and each side learns of it in its own time.
    pub(crate) fn cut(&mut self, learned: [Instant; 2]) -> bool {
        let lost = self.pipes.iter_mut().map(Pipe::lose_everything).fold(false, |a, b| a | b);
        for pipe in &mut self.pipes {
            pipe.stalled = true;
        }
        for (broken, at) in self.broken.iter_mut().zip(learned) {
            *broken = Some(broken.map_or(at, |before| before.min(at)));
        }
        self.faulty = true;
        lost
    }

    pub(crate) fn next_at(&self) -> Option<Instant> {
        let open = |side: usize| self.places[side] != Place::Closed;
        let arrivals = (0..2).filter(|side| open(1 - side)).filter_map(|side| self.pipes[side].next_at());
        let breaks = (0..2).filter(|side| open(*side)).filter_map(|side| self.broken[side]);
        arrivals.chain(breaks).min()
    }
}
