//! The client's end of an HTTP/2 connection below its requests: frames in, events and what is owed out.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::decode::{Decoder, MAX_LIST};
use super::encode::Encoder;
use super::error::LoadError;
use super::frame::{self, Cutter, Frame, flag, kind, setting};
use super::send::SendWindows;
use crate::chrome::Profile;

/// What an HTTP/2 connection's window is before any update (RFC 9113, section 6.9.2).
const DEFAULT_WINDOW: u32 = 65_535;
/// Chrome returns a smaller credit than half a window only after this long.
const SMALL_UPDATES: Duration = Duration::from_secs(5);
/// A header block's frames together: a list is at most [`MAX_LIST`], and coding rarely makes it larger.
const MAX_BLOCK: usize = MAX_LIST;
/// Answers owed at most (to SETTINGS and PING). A decoy that asks for more before one is sent is flooding.
const MAX_OWED: usize = 64;
/// Streams a decoy allows at once before it says so; also the most that is believed.
const MAX_STREAMS: u32 = 100;

/// What a decoy did.
#[derive(Debug)]
pub(crate) enum Event {
    /// A header block, informational answers and trailers included.
    Headers { stream: u32, fields: Fields, end: bool },
    /// A piece of a body.
    Data { stream: u32, data: Vec<u8>, end: bool },
    /// RST_STREAM.
    Reset { stream: u32, code: u32 },
}

/// The fields of an answer that matter to a load.
#[derive(Debug, Default)]
pub(crate) struct Fields {
    pub(crate) status: u16,
    pub(crate) location: Option<Vec<u8>>,
    pub(crate) content_type: Vec<u8>,
    pub(crate) content_encoding: Vec<u8>,
    pub(crate) cookies: Vec<Vec<u8>>,
    /// How many fields there were.
    pub(crate) count: usize,
    /// `alt-svc` (RFC 7838), unless it only withdraws earlier ones.
    pub(crate) alt_svc: Option<Vec<u8>>,
    /// `sec-websocket-extensions`.
    pub(crate) websocket_extensions: Vec<Vec<u8>>,
    /// Whether there is a `sec-websocket-protocol`.
    pub(crate) websocket_protocol: bool,
}

impl Fields {
    fn take(&mut self, name: &[u8], value: &[u8]) {
        self.count += 1;
        match name {
            b":status" => {
                let number = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
                self.status = number.unwrap_or_default();
            }
            b"location" => self.location = Some(value.to_vec()),
            b"content-type" => self.content_type = value.to_vec(),
            b"content-encoding" => self.content_encoding = value.to_vec(),
            b"set-cookie" => self.cookies.push(value.to_vec()),
            b"sec-websocket-extensions" => self.websocket_extensions.push(value.to_vec()),
            b"sec-websocket-protocol" => self.websocket_protocol = true,
            b"alt-svc" if value != b"clear" => self.alt_svc = Some(value.to_vec()),
            _ => {}
        }
    }
}

/// Credit taken and not yet returned.
#[derive(Debug)]
struct Credit {
    window: u32,
    taken: u32,
    last: Instant,
}

impl Credit {
    fn new(window: u32, now: Instant) -> Self {
        Self { window, taken: 0, last: now }
    }

    /// Takes `bytes` and gives the increment to send now, as Chrome does: when more than half the window is taken, or
    /// the last update is long past.
    fn take(&mut self, bytes: u32, now: Instant) -> Option<u32> {
        self.taken = self.taken.saturating_add(bytes);
        let due = self.taken > self.window / 2 || now.saturating_duration_since(self.last) >= SMALL_UPDATES;
        (due && self.taken > 0).then(|| {
            self.last = now;
            std::mem::take(&mut self.taken)
        })
    }
}

#[derive(Debug)]
pub(crate) struct Connection {
    cutter: Cutter,
    decoder: Decoder,
    pub(crate) encoder: Encoder,
    block: Option<(u32, u8, Vec<u8>)>,
    /// Streams without an end yet, with their credit.
    open: Vec<(u32, Credit)>,
    credit: Credit,
    stream_window: u32,
    /// Records owed to the decoy, in order.
    pub(crate) owed: VecDeque<Vec<u8>>,
    /// The decoy's SETTINGS have come.
    pub(crate) settings_came: bool,
    /// Ours are acknowledged.
    pub(crate) settings_taken: bool,
    pub(crate) max_streams: u32,
    pub(crate) gone_away: bool,
    /// What the decoy last named as an alternative of itself.
    pub(crate) alt_svc: Option<Vec<u8>>,
    /// Its SETTINGS allow a websocket as a stream (RFC 8441, section 3).
    pub(crate) takes_websockets: bool,
    /// What may be sent in DATA frames.
    pub(crate) windows: SendWindows,
}

impl Connection {
    pub(crate) fn new(profile: &Profile, now: Instant) -> Self {
        let stream_window =
            profile.settings.iter().find(|(id, _)| *id == 4).map_or(DEFAULT_WINDOW, |(_, v)| *v);
        Self {
            cutter: Cutter::default(),
            decoder: Decoder::new(),
            encoder: Encoder::new(),
            block: None,
            open: Vec::new(),
            credit: Credit::new(DEFAULT_WINDOW + profile.connection_increment, now),
            stream_window,
            owed: VecDeque::new(),
            settings_came: false,
            settings_taken: false,
            max_streams: MAX_STREAMS,
            gone_away: false,
            alt_svc: None,
            takes_websockets: false,
            windows: SendWindows::default(),
        }
    }

    /// Notes a request.
    pub(crate) fn opened(&mut self, stream: u32, now: Instant) {
        self.open.push((stream, Credit::new(self.stream_window, now)));
    }

    /// Requests without a whole answer.
    pub(crate) fn open(&self) -> usize {
        self.open.len()
    }

    /// Whether a request has no whole answer.
    pub(crate) fn is_open(&self, stream: u32) -> bool {
        self.open.iter().any(|(id, _)| *id == stream)
    }

    /// Takes the decoy's bytes; `each` gets what they mean for the load.
    pub(crate) fn on_data(
        &mut self,
        bytes: &[u8],
        now: Instant,
        events: &mut Vec<Event>,
    ) -> Result<(), LoadError> {
        let mut cutter = std::mem::take(&mut self.cutter);
        cutter.push(bytes);
        let outcome = loop {
            match cutter.next() {
                Ok(Some(frame)) => {
                    if let Err(error) = self.frame(&frame, now, events) {
                        break Err(error);
                    }
                }
                Ok(None) => break Ok(()),
                Err(_) => break Err(LoadError::Protocol("a frame longer than allowed")),
            }
        };
        self.cutter = cutter;
        outcome
    }

    fn frame(&mut self, frame: &Frame<'_>, now: Instant, events: &mut Vec<Event>) -> Result<(), LoadError> {
        if self.block.is_some() != (frame.kind == kind::CONTINUATION) {
            return Err(LoadError::Protocol("a header block was broken off"));
        }
        if !self.settings_came && frame.kind != kind::SETTINGS {
            return Err(LoadError::Protocol("it did not begin with SETTINGS"));
        }
        match frame.kind {
            kind::DATA => self.data(frame, now, events),
            kind::HEADERS => {
                let content = frame.content().ok_or(LoadError::Protocol("padding longer than its frame"))?;
                self.fragment(frame.stream, frame.flags, Vec::new(), content, events)
            }
            kind::CONTINUATION => match self.block.take() {
                Some((stream, flags, block)) if stream == frame.stream => {
                    let flags = flags | (frame.flags & flag::END_HEADERS);
                    self.fragment(stream, flags, block, frame.payload, events)
                }
                _ => Err(LoadError::Protocol("a header block was broken off")),
            },
            kind::RST_STREAM => {
                let bytes = <[u8; 4]>::try_from(frame.payload);
                let code = u32::from_be_bytes(bytes.map_err(|_| LoadError::Protocol("a bad RST_STREAM"))?);
                if self.end(frame.stream) {
                    events.push(Event::Reset { stream: frame.stream, code });
                }
                Ok(())
            }
            kind::SETTINGS => self.settings(frame),
            kind::PUSH_PROMISE => Err(LoadError::Protocol("it pushed, which SETTINGS forbid")),
            kind::PING => {
                if frame.payload.len() != 8 || frame.stream != 0 {
                    return Err(LoadError::Protocol("a bad PING"));
                }
                if frame.has(flag::ACK) { Ok(()) } else { self.owe(kind::PING, frame.payload) }
            }
            kind::GOAWAY => {
                self.gone_away = true;
                Ok(())
            }
            kind::ALTSVC => {
                self.alt_svc = Some(frame.payload.to_vec());
                Ok(())
            }
            kind::WINDOW_UPDATE => {
                let increment = frame.number().filter(|increment| *increment > 0);
                increment
                    .and_then(|increment| self.windows.grow(frame.stream, increment))
                    .ok_or(LoadError::Protocol("a bad WINDOW_UPDATE"))
            }
            // PRIORITY and the unknown are passed over.
            _ => Ok(()),
        }
    }

    fn owe(&mut self, kind: u8, payload: &[u8]) -> Result<(), LoadError> {
        if self.owed.len() >= MAX_OWED {
            return Err(LoadError::Protocol("a flood of SETTINGS or PING"));
        }
        let mut out = Vec::with_capacity(frame::HEADER + payload.len());
        frame::header(kind, flag::ACK, 0, payload.len(), &mut out);
        out.extend_from_slice(payload);
        self.owed.push_back(out);
        Ok(())
    }

    fn settings(&mut self, frame: &Frame<'_>) -> Result<(), LoadError> {
        if frame.has(flag::ACK) {
            self.settings_taken = true;
            return Ok(());
        }
        for (id, value) in frame.settings().ok_or(LoadError::Protocol("bad SETTINGS"))? {
            match id {
                setting::HEADER_TABLE_SIZE => self.encoder.set_table_size(value),
                setting::MAX_CONCURRENT_STREAMS => self.max_streams = value.min(MAX_STREAMS),
                setting::INITIAL_WINDOW_SIZE => {
                    self.windows.set_initial(value).ok_or(LoadError::Protocol("bad SETTINGS"))?;
                }
                // It is never taken back (RFC 8441, section 3).
                setting::ENABLE_CONNECT_PROTOCOL => self.takes_websockets |= value == 1,
                _ => {}
            }
        }
        self.settings_came = true;
        self.owe(kind::SETTINGS, &[])
    }

    fn fragment(
        &mut self,
        stream: u32,
        flags: u8,
        mut block: Vec<u8>,
        more: &[u8],
        events: &mut Vec<Event>,
    ) -> Result<(), LoadError> {
        if block.len() + more.len() > MAX_BLOCK {
            return Err(super::HpackError::TooLarge.into());
        }
        block.extend_from_slice(more);
        if flags & flag::END_HEADERS == 0 {
            self.block = Some((stream, flags, block));
            return Ok(());
        }
        let mut fields = Fields::default();
        self.decoder.decode(&block, |name, value| fields.take(name, value))?;
        if let Some(other) = fields.alt_svc.take() {
            self.alt_svc = Some(other);
        }
        let end = flags & flag::END_STREAM != 0;
        if self.is_open(stream) {
            if end {
                self.end(stream);
            }
            events.push(Event::Headers { stream, fields, end });
        }
        Ok(())
    }

    fn data(&mut self, frame: &Frame<'_>, now: Instant, events: &mut Vec<Event>) -> Result<(), LoadError> {
        let content = frame.content().ok_or(LoadError::Protocol("padding longer than its frame"))?;
        let end = frame.has(flag::END_STREAM);
        // Padding counts against the windows too (RFC 9113, section 6.9.1).
        let taken = u32::try_from(frame.payload.len()).unwrap_or(u32::MAX);
        if let Some(increment) = self.credit.take(taken, now) {
            self.owe_credit(0, increment);
        }
        let Some((_, credit)) = self.open.iter_mut().find(|(id, _)| *id == frame.stream) else {
            return Ok(());
        };
        if end {
            self.end(frame.stream);
        } else if let Some(increment) = credit.take(taken, now) {
            self.owe_credit(frame.stream, increment);
        }
        events.push(Event::Data { stream: frame.stream, data: content.to_vec(), end });
        Ok(())
    }

    fn owe_credit(&mut self, stream: u32, increment: u32) {
        let mut out = Vec::with_capacity(frame::HEADER + 4);
        frame::window_update(stream, increment, &mut out);
        self.owed.push_back(out);
    }

    fn end(&mut self, stream: u32) -> bool {
        let before = self.open.len();
        self.open.retain(|(id, _)| *id != stream);
        self.open.len() < before
    }
}
