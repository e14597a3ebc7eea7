//! Streams with credit flow control in one session (docs/protocol.md, sections 9 and 11), without I/O.
//!
//! # Call contract
//!
//! - What the peer sent goes in by [`Mux::on_frame`], frame by frame, in order. A [`Violation`] ends the tunnel: call
//!   nothing but the destructor afterwards.
//! - What is to be sent comes out by [`Mux::pack`], whenever [`Mux::wants_to_send`] says so and the carrier takes it.
//!   What was packed must reach the peer, in order.
//! - After both, and after any call of the user's, [`Mux::take_wake`] says whom to wake, until it says `None`;
//!   [`Mux::acceptable`] says whether the peer opened a stream.
//! - Every stream that [`Mux::open`] or [`Mux::accept`] gave out is given back once by [`Mux::release`]. Until then
//!   its entry stays, over or not.
//! - [`Mux::tick`] before a batch of frames or reads, so that windows can grow; [`Mux::trim`] when the carrier falls
//!   quiet, so that spare memory is given back.
//!
//! # Memory
//!
//! Received bytes: never more than the connection's window. Bytes to send: [`MAX_QUEUED_TO_SEND`] and one segment a stream.
//! Entries: see [`MAX_STREAMS`]. A frame that brings neither data nor news is allowed only in proportion to those that do.

mod error;
mod flow;
mod queue;
mod receive;
mod send;
mod stream;
mod turns;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::time::{Duration, Instant};

pub use self::error::{OpenError, StreamError, Violation};
use self::flow::{Clock, Credit, Granted};
use self::queue::Ring;
pub(crate) use self::queue::{Pool, Queue, SEGMENT};
use self::stream::{Ending, Place, State, Stream};
use self::turns::Turns;
use crate::frame::MAX_VARINT;

/// Streams opened by one side that are open at once. Far above what a browser or tor needs; at about 200 bytes an entry, a
/// peer that opens all of them costs a quarter of a megabyte, and 4 KiB more for each that it sends a byte on.
pub const MAX_STREAMS: usize = 1_024;

/// Bytes a stream holds for sending, at most: what its writer has at once, twice, so that half of it being free is room for all.
pub const MAX_SEND_QUEUE: usize = 128 << 10;

/// Bytes held for sending over all streams, beyond which each stream holds one segment only. A peer that grants no
/// credit would otherwise tie up 128 KiB in each of its streams.
pub const MAX_QUEUED_TO_SEND: usize = 4 << 20;

/// Bytes that the streams which can send share evenly: what spare memory is kept for.
const MOVING: usize = 2 << 20;

/// Entries for streams the peer opened, those included that are over but not released; beyond, new ones are
/// refused. A peer that opens and cancels in a loop is held here until the user keeps up.
const MAX_PEER_ENTRIES: usize = 2 * MAX_STREAMS;

/// CLOSE codes of a stream (docs/protocol.md, section 9).
pub mod code {
    /// End of this direction's data.
    pub const END: u8 = 0;
    /// Cancelled by its user.
    pub const CANCELLED: u8 = 1;
    /// Not accepted: too many, or going away. Nothing of it was delivered.
    pub const REFUSED: u8 = 2;
    /// The far end of the stream cannot be reached.
    pub const UNREACHABLE: u8 = 3;
    /// The side that sends it failed.
    pub const INTERNAL: u8 = 4;
}

/// Which end of the session this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Opens odd streams.
    Client,
    /// Opens even streams.
    Bridge,
}

impl Role {
    fn peer(self) -> Self {
        match self {
            Self::Client => Self::Bridge,
            Self::Bridge => Self::Client,
        }
    }

    fn first_id(self) -> u64 {
        match self {
            Self::Client => 1,
            Self::Bridge => 2,
        }
    }

    fn opens(self, id: u64) -> bool {
        id != 0 && id % 2 == self.first_id() % 2
    }
}

/// A stream of one session: odd when the client opened it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(u64);

impl StreamId {
    /// The id on the wire.
    #[must_use]
    pub fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a read found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// This many bytes are at the buffer's beginning, at least one unless the buffer was empty.
    Data(usize),
    /// Nothing yet; a [`Wake::Readable`] follows.
    Empty,
    /// All of the peer's data has been read.
    End,
}

/// What a stream's user waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// A read gives data, the end or an error.
    Readable,
    /// A write takes bytes or gives an error.
    Writable,
}

/// The streams of one session. The module's documentation has the call contract.
#[derive(Debug)]
pub struct Mux {
    role: Role,
    streams: BTreeMap<u64, Box<Stream>>,
    pool: Pool,
    /// The connection's window, granted to the peer.
    granted: Granted,
    /// The connection's window, granted to us.
    credit: Credit,
    clock: Option<Clock>,
    /// The id our next stream gets.
    next_ours: u64,
    /// Ids of ours below this have been on the wire, or never will be.
    announced: u64,
    /// The lowest id the peer has not opened yet.
    next_theirs: u64,
    /// Streams of ours that are not over.
    open_ours: usize,
    /// Streams of theirs that are not over, refused ones aside.
    open_theirs: usize,
    /// Entries of theirs.
    entries_theirs: usize,
    /// Streams of theirs that are owed a CLOSE with code 2; they have no entry.
    refused: BTreeSet<u64>,
    /// Streams of theirs not yet accepted, in the order of their ids.
    incoming: VecDeque<u64>,
    turns: Turns,
    blocked: Ring,
    control: Ring,
    wakes: Ring,
    connection_update_due: bool,
    /// Whether the connection's window was found nearly spent.
    pressed: bool,
    /// Frames that bring nothing which the peer may still send.
    patience: u32,
    queued_in: usize,
    queued_out: usize,
}

impl Mux {
    /// No streams, initial windows.
    #[must_use]
    pub fn new(role: Role) -> Self {
        Self {
            role,
            streams: BTreeMap::new(),
            pool: Pool::default(),
            granted: Granted::new(flow::initial(role).1),
            credit: Credit::new(flow::initial(role.peer()).1),
            clock: None,
            next_ours: role.first_id(),
            announced: role.first_id(),
            next_theirs: role.peer().first_id(),
            open_ours: 0,
            open_theirs: 0,
            entries_theirs: 0,
            refused: BTreeSet::new(),
            incoming: VecDeque::new(),
            turns: Turns::default(),
            blocked: Ring::default(),
            control: Ring::default(),
            wakes: Ring::default(),
            connection_update_due: false,
            pressed: false,
            patience: receive::PATIENCE,
            queued_in: 0,
            queued_out: 0,
        }
    }

    /// Tells the time and the path's present round trip, by which windows grow. Without it they stay as they began.
    pub fn tick(&mut self, now: Instant, round_trip: Duration) {
        self.clock = Some(Clock { now, round_trip });
    }

    /// Opens a stream. Its first frame goes out with the next [`pack`](Self::pack), even before any data.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(&mut self) -> Result<StreamId, OpenError> {
        if self.open_ours >= MAX_STREAMS {
            return Err(OpenError::TooMany);
        }
        let id = self.next_ours;
        if id > MAX_VARINT {
            return Err(OpenError::Spent);
        }
        self.next_ours += 2;
        self.open_ours += 1;
        self.be_patient(receive::NEWS);
        let mut stream = self.fresh(true);
        // First turns are first come, first served, so streams are announced in the order of their ids.
        stream.place = Place::Ready;
        self.turns.push(id, &stream.share);
        self.streams.insert(id, stream);
        Ok(StreamId(id))
    }

    fn fresh(&self, ours: bool) -> Box<Stream> {
        let (granted, credit) = (flow::initial(self.role).0, flow::initial(self.role.peer()).0);
        Box::new(Stream::new(ours, granted, credit))
    }

    /// Takes the next stream that the peer opened.
    pub fn accept(&mut self) -> Option<StreamId> {
        let id = self.incoming.pop_front()?;
        if self.incoming.is_empty() {
            self.incoming = VecDeque::new();
        }
        self.be_patient(receive::NEWS);
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.accepted = true;
            wake_reader(stream, id, &mut self.wakes);
        }
        Some(StreamId(id))
    }

    /// Whether [`accept`](Self::accept) has a stream to give.
    #[must_use]
    pub fn acceptable(&self) -> bool {
        !self.incoming.is_empty()
    }

    /// Queues bytes for sending; returns how many were taken. If not all, a [`Wake::Writable`] follows.
    ///
    /// # Errors
    /// When nothing will ever be taken again. Bytes taken before may then be lost with the stream.
    pub fn write(&mut self, id: StreamId, data: &[u8]) -> Result<usize, StreamError> {
        let limit = self.send_limit();
        let stream = user_stream(&mut self.streams, id)?;
        match stream.state {
            State::Cancelling(_) | State::Ended(Ending::Ours) => return Err(StreamError::Cancelled),
            State::Ended(Ending::Theirs { code, .. }) => return Err(StreamError::Closed(code)),
            State::SentEnd | State::Done => return Err(StreamError::Finished),
            State::Open | State::GotEnd if stream.finishing => return Err(StreamError::Finished),
            State::Open | State::GotEnd => {}
        }
        let taken = data.len().min(limit.saturating_sub(stream.outgoing.len()));
        stream.outgoing.push(&data[..taken], &mut self.pool);
        stream.writer_waits = taken < data.len();
        self.queued_out += taken;
        self.settle_turn(id.0);
        Ok(taken)
    }

    /// What one stream may hold for sending now.
    fn send_limit(&self) -> usize {
        let share = MOVING / self.turns.len().max(1);
        MAX_QUEUED_TO_SEND.saturating_sub(self.queued_out).min(share).clamp(SEGMENT, MAX_SEND_QUEUE)
    }

    /// Ends our direction after the data queued so far. Again, or on a stream that has ended: nothing.
    pub fn finish(&mut self, id: StreamId) {
        if let Ok(stream) = user_stream(&mut self.streams, id)
            && stream.state.can_send()
        {
            stream.finishing = true;
            self.settle_turn(id.0);
        }
    }

    /// Whether the end that [`finish`](Self::finish) asked for was packed, or will never be. If not, a
    /// [`Wake::Writable`] follows.
    pub fn is_finished(&mut self, id: StreamId) -> bool {
        match user_stream(&mut self.streams, id) {
            Ok(stream) if stream.state.can_send() => {
                stream.writer_waits = true;
                false
            }
            _ => true,
        }
    }

    /// Ends both directions at once with a CLOSE code (see [`code`]; [`code::END`] counts as
    /// [`code::CANCELLED`]); what is queued is dropped. On a stream that has ended: nothing.
    pub fn cancel(&mut self, id: StreamId, code: u8) {
        if user_stream(&mut self.streams, id).is_ok() {
            self.abort(id.0, code);
        }
    }

    fn abort(&mut self, id: u64, code: u8) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let state = match stream.state {
            State::Done | State::Ended(_) | State::Cancelling(_) => return,
            _ if !stream.announced => State::Ended(Ending::Ours),
            _ => State::Cancelling(if code == code::END { code::CANCELLED } else { code }),
        };
        self.drop_incoming(id);
        self.drop_outgoing(id);
        self.set_state(id, state);
        self.settle_turn(id);
        self.wake_both(id);
    }

    /// Takes a stream back from its user. After [`finish`](Self::finish) what is queued, and the end, are still sent;
    /// what else is open is cancelled. The id means nothing afterwards.
    pub fn release(&mut self, id: StreamId) {
        let Ok(stream) = user_stream(&mut self.streams, id) else { return };
        stream.released = true;
        let lingers = stream.finishing && stream.state.can_send();
        self.drop_incoming(id.0);
        if !lingers {
            self.abort(id.0, code::CANCELLED);
        }
        self.forget_if_over(id.0);
    }

    /// Reads what has arrived into `buf`.
    ///
    /// # Errors
    /// When the stream was ended before its data: what was queued is dropped then.
    pub fn read(&mut self, id: StreamId, buf: &mut [u8]) -> Result<Read, StreamError> {
        let stream = user_stream(&mut self.streams, id)?;
        if stream.incoming.is_empty() {
            return match stream.state {
                State::Cancelling(_) | State::Ended(Ending::Ours) => Err(StreamError::Cancelled),
                State::Ended(Ending::Theirs { code, whole: false }) => Err(StreamError::Closed(code)),
                State::GotEnd | State::Done | State::Ended(Ending::Theirs { .. }) => Ok(Read::End),
                State::Open | State::SentEnd => {
                    stream.reader_waits = true;
                    Ok(Read::Empty)
                }
            };
        }
        let count = stream.incoming.read(buf, &mut self.pool);
        stream.reader_waits = stream.incoming.is_empty();
        if stream.reader_waits && stream.state.is_whole() {
            // The end is known already: it would never be news.
            wake_reader(stream, id.0, &mut self.wakes);
        }
        self.queued_in -= count;
        self.consumed(id.0, count);
        Ok(Read::Data(count))
    }

    /// The next user to wake. Edge-triggered: a reader is woken once after it has emptied the queue (or, at first, has
    /// not looked), a writer once after its data did not all fit or its end was still to come.
    pub fn take_wake(&mut self) -> Option<(StreamId, Wake)> {
        while let Some(id) = self.wakes.front() {
            if let Some(stream) = self.streams.get_mut(&id) {
                if std::mem::take(&mut stream.wake_readable) {
                    return Some((StreamId(id), Wake::Readable));
                }
                if std::mem::take(&mut stream.wake_writable) {
                    return Some((StreamId(id), Wake::Writable));
                }
                stream.in_wakes = false;
            }
            self.wakes.pop();
        }
        None
    }

    /// Streams that are not over on the wire, of both sides, those included that wait for
    /// [`accept`](Self::accept) or were released with bytes left to send.
    #[must_use]
    pub fn open_streams(&self) -> usize {
        self.open_ours + self.open_theirs
    }

    /// Streams that were ever opened, by either side.
    #[must_use]
    pub fn begun(&self) -> u64 {
        (self.next_ours - self.role.first_id()) / 2 + (self.next_theirs - self.role.peer().first_id()) / 2
    }

    /// Bytes held: received and not read, taken and not sent.
    #[must_use]
    pub fn buffered(&self) -> usize {
        self.queued_in + self.queued_out
    }

    /// Whether the peer seems to wait for credit, on the connection or for a stream that is read.
    #[must_use]
    pub fn peer_starves(&self) -> bool {
        self.granted.starves()
            || self.streams.values().any(|stream| !stream.discards() && stream.granted.starves())
    }

    /// Bytes written to streams that still wait to be packed, for want of room or of credit.
    #[must_use]
    pub fn unsent(&self) -> usize {
        self.queued_out
    }

    /// Bytes allocated for queues, in use and spare. More than [`buffered`](Self::buffered) by at most two segments
    /// (of 4,096 bytes) a queue and 640 spare ones.
    #[must_use]
    pub fn allocated(&self) -> usize {
        self.pool.allocated()
    }

    /// Gives back spare memory, of which there is up to 2.5 MiB, and indices that nothing is in.
    pub fn trim(&mut self) {
        self.pool.trim();
        self.turns.trim();
        for ring in [&mut self.blocked, &mut self.control, &mut self.wakes] {
            ring.trim();
        }
        for stream in self.streams.values_mut() {
            stream.incoming.trim();
            stream.outgoing.trim();
        }
    }

    /// Changes a stream's state and keeps the counts.
    fn set_state(&mut self, id: u64, state: State) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let was_over = std::mem::replace(&mut stream.state, state).is_over();
        if matches!(state, State::Cancelling(_)) && !stream.in_control {
            stream.in_control = true;
            self.control.push(id);
        }
        if state.is_over() && !was_over {
            let open = if stream.ours { &mut self.open_ours } else { &mut self.open_theirs };
            *open -= 1;
        }
    }

    /// Removes the entry of a stream that is over and that no user holds or can still want.
    fn forget_if_over(&mut self, id: u64) {
        let Some(stream) = self.streams.get(&id) else { return };
        let wanted = if stream.accepted { !stream.released } else { stream.state.is_whole() };
        if !stream.state.is_over() || wanted {
            return;
        }
        if !stream.accepted
            && let Ok(at) = self.incoming.binary_search(&id)
        {
            self.incoming.remove(at);
        }
        self.drop_incoming(id);
        self.drop_outgoing(id);
        let Some(stream) = self.streams.remove(&id) else { return };
        if !stream.ours {
            self.entries_theirs -= 1;
        }
        match stream.place {
            Place::Ready => self.turns.remove(id),
            Place::Blocked => drop(self.blocked.remove(id)),
            Place::Out => {}
        }
        if stream.in_control {
            self.control.remove(id);
        }
        if stream.in_wakes {
            self.wakes.remove(id);
        }
    }

    /// Drops what has arrived and was not read; the connection's credit for it goes back.
    fn drop_incoming(&mut self, id: u64) {
        if let Some(stream) = self.streams.get_mut(&id) {
            let count = stream.incoming.clear(&mut self.pool);
            self.queued_in -= count;
            self.consumed(id, count);
        }
    }

    fn drop_outgoing(&mut self, id: u64) {
        if let Some(stream) = self.streams.get_mut(&id) {
            self.queued_out -= stream.drop_outgoing(&mut self.pool);
        }
    }

    /// Wakes whoever waits on a stream that ended.
    fn wake_both(&mut self, id: u64) {
        if let Some(stream) = self.streams.get_mut(&id) {
            wake_reader(stream, id, &mut self.wakes);
            wake_writer(stream, id, &mut self.wakes);
        }
    }
}

/// A stream that a user holds.
fn user_stream(streams: &mut BTreeMap<u64, Box<Stream>>, id: StreamId) -> Result<&mut Stream, StreamError> {
    match streams.get_mut(&id.0) {
        Some(stream) if stream.accepted && !stream.released => Ok(stream),
        _ => Err(StreamError::Unknown),
    }
}

/// Notes a wake for the reader if one is owed and there is something to find.
fn wake_reader(stream: &mut Stream, id: u64, wakes: &mut Ring) {
    if stream.accepted && !stream.released && stream.reader_waits && stream.is_readable() {
        stream.reader_waits = false;
        stream.wake_readable = true;
        enlist(stream, id, wakes);
    }
}

/// Notes a wake for the writer if one is owed.
fn wake_writer(stream: &mut Stream, id: u64, wakes: &mut Ring) {
    if stream.accepted && !stream.released && stream.writer_waits {
        stream.writer_waits = false;
        stream.wake_writable = true;
        enlist(stream, id, wakes);
    }
}

fn enlist(stream: &mut Stream, id: u64, wakes: &mut Ring) {
    if !stream.in_wakes {
        stream.in_wakes = true;
        wakes.push(id);
    }
}

#[cfg(test)]
mod tests;
