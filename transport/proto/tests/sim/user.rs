//! What the users of both ends do with streams, and what they check: every byte once, in order.

use qnet_proto::carrier::Event;
use qnet_proto::mux::{Read, StreamError, StreamId};
use qnet_proto::session::{SharedSession, lock};

use crate::counted::in_core;

/// One stream: how many bytes go each way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) up: usize,
    pub(crate) down: usize,
}

struct Open {
    id: StreamId,
    to_write: usize,
    written: usize,
    to_read: usize,
    read: usize,
    finished: bool,
    ended: bool,
    error: Option<StreamError>,
}

/// The user of one end. The client's opens the streams that are planned, the bridge's answers them.
pub(crate) struct User {
    plans: Vec<Plan>,
    client: bool,
    /// Opens streams as soon as the bridge has proved itself, not only when the tunnel is up.
    pub(crate) eager: bool,
    opened: usize,
    streams: Vec<Open>,
    pub(crate) paused: bool,
}

impl User {
    pub(crate) fn new(plans: Vec<Plan>, client: bool) -> Self {
        Self { plans, client, eager: false, opened: 0, streams: Vec::new(), paused: false }
    }

    /// Another stream, later.
    pub(crate) fn add(&mut self, plan: Plan) {
        self.plans.push(plan);
    }

    pub(crate) fn is_done(&self) -> bool {
        self.opened == self.plans.len() && self.streams.iter().all(|s| s.ended && s.finished)
    }

    /// Bytes read so far, over all streams.
    pub(crate) fn read(&self) -> usize {
        self.streams.iter().map(|s| s.read).sum()
    }

    pub(crate) fn opened(&self) -> usize {
        self.opened
    }

    /// Does what can be done now. True if anything was.
    pub(crate) fn act(&mut self, session: Option<&SharedSession>, events: &[Event]) -> bool {
        let up = events.contains(&Event::Up) || self.eager && events.contains(&Event::Proved);
        let over = events.iter().any(|e| matches!(e, Event::Ended(_)));
        let Some(mut session) = session.map(lock) else { return false };
        let mux = session.streams();
        let mut moved = false;
        while self.client && up && !over && self.opened < self.plans.len() && !self.paused {
            let Ok(id) = mux.open() else { break };
            self.begin(id);
            moved = true;
        }
        while let Some(id) = mux.accept() {
            self.begin(id);
            moved = true;
        }
        while mux.take_wake().is_some() {}
        for stream in &mut self.streams {
            moved |= stream.act(mux, self.client);
        }
        moved
    }

    fn begin(&mut self, id: StreamId) {
        let plan = self.plans[self.opened];
        self.opened += 1;
        let (to_write, to_read) = if self.client { (plan.up, plan.down) } else { (plan.down, plan.up) };
        self.streams.push(Open {
            id,
            to_write,
            written: 0,
            to_read,
            read: 0,
            finished: false,
            ended: false,
            error: None,
        });
    }
}

/// The byte at a place of a stream, different for each stream and direction.
fn byte_at(id: u64, from_client: bool, place: usize) -> u8 {
    let salt = id.wrapping_mul(37).wrapping_add(u64::from(from_client) * 101);
    ((place as u64).wrapping_mul(2_654_435_761).wrapping_add(salt) >> 7) as u8
}

impl Open {
    fn act(&mut self, mux: &mut qnet_proto::mux::Mux, client: bool) -> bool {
        let mut moved = false;
        if self.written < self.to_write && self.error.is_none() {
            let n = (self.to_write - self.written).min(10_000);
            let bytes: Vec<u8> =
                (self.written..self.written + n).map(|at| byte_at(self.id.get(), client, at)).collect();
            let taken = in_core(|| mux.write(self.id, &bytes)).unwrap_or(0);
            self.written += taken;
            moved |= taken > 0;
        }
        if self.written == self.to_write && !self.finished {
            mux.finish(self.id);
            self.finished = true;
            moved = true;
        }
        let mut buffer = [0; 7_000];
        while !self.ended && self.error.is_none() {
            match in_core(|| mux.read(self.id, &mut buffer)) {
                Ok(Read::Data(n)) => {
                    for (at, byte) in buffer[..n].iter().enumerate() {
                        assert_eq!(*byte, byte_at(self.id.get(), !client, self.read + at), "a wrong byte");
                    }
                    self.read += n;
                    assert!(self.read <= self.to_read, "more than was sent");
                    moved = true;
                }
                Ok(Read::Empty) => break,
                Ok(Read::End) => {
                    assert_eq!(self.read, self.to_read, "an end before all data");
                    self.ended = true;
                    moved = true;
                }
                Err(error) => {
                    self.error = Some(error);
                    moved = true;
                }
            }
        }
        moved
    }
}
