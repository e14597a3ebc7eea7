//! The websocket that a loaded page opens as a stream of the same connection: an extended CONNECT (RFC 8441), whose
//! DATA frames carry its bytes.

use std::time::{Duration, Instant};

use super::connection::{Event, Fields};
use super::frame::{self, flag, kind};
use super::page::{PageLoad, draw};
use super::request::{self, Level, PRIORITY};

/// Chrome fills a record with a DATA frame, its header included (`kMaxSpdyFrameChunkSize`).
const MAX_CHUNK: usize = 16_384 - frame::HEADER;
/// HTTP/2's error CANCEL (RFC 9113, section 7), with which Chrome drops a stream.
const CANCEL: u32 = 8;

/// The websocket's stream.
#[derive(Debug)]
pub(crate) struct Extended {
    stream: u32,
    /// The answer's fields, once they came.
    pub(crate) answer: Option<Fields>,
    /// What came and was not yet taken.
    pub(crate) received: Vec<u8>,
    /// The peer ended the stream.
    pub(crate) ended: bool,
    /// The peer reset it, with this error.
    pub(crate) reset: Option<u32>,
    /// When something last came over the connection.
    last_read: Instant,
    /// PINGs sent, and whether the last one is still without anything that came after it.
    pings: u64,
    pinged: bool,
}

impl Extended {
    fn new(stream: u32, now: Instant) -> Self {
        Self {
            stream,
            answer: None,
            received: Vec::new(),
            ended: false,
            reset: None,
            last_read: now,
            pings: 0,
            pinged: false,
        }
    }

    /// Something came over the connection.
    pub(super) fn heard(&mut self, now: Instant) {
        self.last_read = now;
        self.pinged = false;
    }

    /// Takes what is about this stream, and gives back what is about another.
    pub(super) fn on_event(&mut self, event: Event) -> Option<Event> {
        match event {
            Event::Headers { stream, fields, end } if stream == self.stream => {
                // Neither informational answers nor trailers are the answer.
                if self.answer.is_none() && fields.status >= 200 {
                    self.answer = Some(fields);
                }
                self.ended |= end;
            }
            Event::Data { stream, data, end } if stream == self.stream => {
                self.received.extend_from_slice(&data);
                self.ended |= end;
            }
            Event::Reset { stream, code } if stream == self.stream => {
                self.ended = true;
                self.reset = Some(code);
            }
            other => return Some(other),
        }
        None
    }
}

impl PageLoad {
    /// Whether the server takes websockets as streams of this connection, where it has said.
    pub fn takes_websockets(&self) -> bool {
        self.connection.as_ref().is_some_and(|connection| connection.takes_websockets)
    }

    /// Ends the load where its last request, which was [without a knock](Self::without_knock), is answered. From then on only
    /// what is owed is sent, and a websocket may be opened. Some: it is over, and a page's script would open its websocket
    /// after this pause, which is drawn anew each time.
    pub fn conclude(&mut self) -> Option<Duration> {
        if self.last_request_made() && self.answer_ended() {
            self.give_up();
        }
        let pause = self.profile.websocket_pause;
        self.is_over().then(|| draw(&mut self.random, pause))
    }

    /// The cookies that go with a websocket at `path`, `name=value` each.
    pub fn cookies(&self, path: &str) -> Vec<String> {
        self.jar.for_path(path)
    }

    /// The request that opens a websocket at `path`, with these fields: the content of one record. None where one is open.
    pub(crate) fn connect(
        &mut self,
        path: &str,
        fields: &[(String, String)],
        now: Instant,
    ) -> Option<Vec<u8>> {
        let connection = self.connection.as_mut().filter(|_| self.websocket.is_none())?;
        let stream = self.requests * 2 + 1;
        let pseudo = [
            (":method", "CONNECT"),
            (":authority", self.authority.as_str()),
            (":scheme", "https"),
            (":path", path),
            (":protocol", "websocket"),
        ];
        let mut block = Vec::new();
        connection.encoder.begin(&mut block);
        for (name, value) in pseudo {
            connection.encoder.field(name, value, &mut block);
        }
        for (name, value) in fields {
            connection.encoder.field(name, value, &mut block);
        }
        connection.opened(stream, now);
        connection.windows.open(stream);
        self.requests += 1;
        self.idle = Some(now + self.profile.idle);
        self.websocket = Some(Extended::new(stream, now));
        let depends_on = self.dependencies.add(stream, Level::Lowest);
        let weight = self.profile.weights[Level::Lowest as usize];
        let mut out = Vec::with_capacity(frame::HEADER + PRIORITY + block.len());
        request::headers(stream, flag::END_HEADERS, (depends_on, weight), &block, &mut out);
        Some(out)
    }

    /// The PING with which Chrome tries a connection that was silent for long, just before it sends data: the content of one
    /// record.
    pub(crate) fn trial(&mut self, now: Instant) -> Option<Vec<u8>> {
        let after = self.profile.ping_after;
        let websocket = self.websocket.as_mut().filter(|websocket| !websocket.pinged)?;
        if now.saturating_duration_since(websocket.last_read) <= after {
            return None;
        }
        websocket.pinged = true;
        websocket.pings += 1;
        let mut out = Vec::with_capacity(frame::HEADER + 8);
        frame::header(kind::PING, 0, 0, 8, &mut out);
        out.extend_from_slice(&websocket.pings.to_be_bytes());
        Some(out)
    }

    /// A DATA frame with as many of the websocket's bytes as it and the peer's windows hold: the content of one record, and how
    /// many those were. None: none may go now.
    pub(crate) fn websocket_data(&mut self, bytes: &[u8], now: Instant) -> Option<(Vec<u8>, usize)> {
        let (websocket, connection) = (self.websocket.as_ref()?, self.connection.as_mut()?);
        if websocket.reset.is_some() {
            return None;
        }
        let taken = connection.windows.take(bytes.len().min(MAX_CHUNK));
        let bytes = bytes.get(..taken).filter(|bytes| !bytes.is_empty())?;
        self.idle = Some(now + self.profile.idle);
        let mut out = Vec::with_capacity(frame::HEADER + taken);
        frame::header(kind::DATA, 0, websocket.stream, taken, &mut out);
        out.extend_from_slice(bytes);
        Some((out, taken))
    }

    /// The frame with which Chrome drops a websocket that the server does not end.
    pub(crate) fn cancel_websocket(&mut self) -> Option<Vec<u8>> {
        let websocket = self.websocket.as_mut().filter(|websocket| !websocket.ended)?;
        websocket.ended = true;
        let mut out = Vec::with_capacity(frame::HEADER + 4);
        frame::header(kind::RST_STREAM, 0, websocket.stream, 4, &mut out);
        out.extend_from_slice(&CANCEL.to_be_bytes());
        Some(out)
    }
}
