//! The client's end of a websocket, over either HTTP, as a page's script opens it.

use std::collections::VecDeque;
use std::time::Instant;

use qnet_wire::name::ServerName;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};

use super::error::WebsocketError;
use super::frame::MAX_MESSAGE;
use super::messages::Messages;
use super::upgrade::{self, From, Nonce};
use crate::chrome::Profile;
use crate::http2::{Output, PageLoad};

/// Most bytes of a TLS record's content.
const MAX_RECORD: usize = 16_384;

/// A websocket from its opening to its close, client's end.
///
/// Contract: [`poll`](Self::poll) until it gives None, each output being the content of one TLS record; give what comes to
/// [`on_data`](Self::on_data), and poll again. Messages given before it [is open](Self::is_open) wait. After an error the
/// connection is good for nothing but closing.
#[derive(Debug)]
pub struct Channel {
    over: Over,
    messages: Messages,
    /// Frames on their way out, one buffer each, and how much of the first has gone.
    queue: VecDeque<Vec<u8>>,
    gone: usize,
}

#[derive(Debug)]
enum Over {
    /// HTTP/1.1, the request not yet polled.
    Request(Vec<u8>, Nonce),
    /// The request is out, and so much of its answer is in.
    Answer(Vec<u8>, Nonce),
    Http1,
    Http2(Box<Http2>),
}

/// A stream of the connection that the page was loaded over.
#[derive(Debug)]
struct Http2 {
    load: PageLoad,
    /// The request, not yet polled.
    request: Option<Vec<u8>>,
    open: bool,
}

impl Channel {
    /// A websocket over a connection of its own, with a page's `cookies`. Key and masks come from `seed`.
    pub fn http1(
        profile: &'static Profile,
        host: &ServerName,
        path: &str,
        cookies: &[String],
        seed: [u8; 32],
    ) -> Self {
        let mut random = ChaCha20Rng::from_seed(seed);
        let mut nonce = Nonce::default();
        random.fill_bytes(&mut nonce);
        let request = From { profile, host: host.as_str(), cookies }.request(path, &nonce);
        Self::new(Over::Request(request, nonce), random)
    }

    /// A websocket over the connection of a load that is [over](PageLoad::conclude), whose server
    /// [takes them](PageLoad::takes_websockets). Masks come from `seed`.
    pub fn http2(
        mut load: PageLoad,
        profile: &'static Profile,
        host: &ServerName,
        path: &str,
        seed: [u8; 32],
        now: Instant,
    ) -> Self {
        let cookies = load.cookies(path);
        let fields = From { profile, host: host.as_str(), cookies: &cookies }.fields();
        let request = load.connect(path, &fields, now);
        let over = Over::Http2(Box::new(Http2 { load, request, open: false }));
        Self::new(over, ChaCha20Rng::from_seed(seed))
    }

    fn new(over: Over, random: ChaCha20Rng) -> Self {
        Self { over, messages: Messages::client(random), queue: VecDeque::new(), gone: 0 }
    }

    /// Whether the server has opened it.
    pub fn is_open(&self) -> bool {
        match &self.over {
            Over::Request(..) | Over::Answer(..) => false,
            Over::Http1 => true,
            Over::Http2(http2) => http2.open,
        }
    }

    /// Whether it is a stream of the connection that the page was loaded over.
    pub fn is_the_pages(&self) -> bool {
        matches!(self.over, Over::Http2(_))
    }

    /// Nothing more will come: the server closed it.
    pub fn is_over(&self) -> bool {
        let ended = match &self.over {
            Over::Http2(http2) => http2.load.websocket.as_ref().is_some_and(|websocket| websocket.ended),
            Over::Request(..) | Over::Answer(..) | Over::Http1 => false,
        };
        ended || self.messages.is_over()
    }

    /// The server has announced the connection's end (GOAWAY).
    pub fn is_going_away(&self) -> bool {
        match &self.over {
            Over::Http2(http2) => http2.load.gone_away(),
            Over::Request(..) | Over::Answer(..) | Over::Http1 => false,
        }
    }

    /// Bytes that wait for [`poll`](Self::poll), or for the server's credit.
    pub fn waiting(&self) -> usize {
        self.queue.iter().map(Vec::len).sum::<usize>() - self.gone
    }

    /// Bytes allocated.
    pub fn held(&self) -> usize {
        self.queue.iter().map(Vec::capacity).sum()
    }

    /// Takes a message of at most [`MAX_MESSAGE`] bytes; the rest goes into further ones.
    pub fn send(&mut self, message: &[u8]) {
        for message in message.chunks(MAX_MESSAGE) {
            let mut frame = Vec::with_capacity(message.len() + 14);
            self.messages.message(message, &mut frame);
            self.queue(frame);
        }
    }

    /// Closes it as `WebSocket.close()` does; the server's close comes back.
    pub fn close(&mut self) {
        let mut frame = Vec::new();
        self.messages.close(&mut frame);
        self.queue(frame);
    }

    fn queue(&mut self, frame: Vec<u8>) {
        if !frame.is_empty() {
            self.queue.push_back(frame);
        }
    }

    /// The content of the next TLS record to send, if any.
    pub fn poll(&mut self, now: Instant) -> Option<Vec<u8>> {
        match &mut self.over {
            Over::Request(request, nonce) => {
                let (request, nonce) = (std::mem::take(request), *nonce);
                self.over = Over::Answer(Vec::new(), nonce);
                return Some(request);
            }
            Over::Answer(..) => return None,
            Over::Http1 => {}
            Over::Http2(http2) => {
                if let Some(request) = http2.request.take() {
                    return Some(request);
                }
                if let Some(Output::Record(owed) | Output::Knock(owed)) = http2.load.poll(now) {
                    return Some(owed);
                }
                if !http2.open || self.queue.is_empty() {
                    return None;
                }
                if let Some(ping) = http2.load.trial(now) {
                    return Some(ping);
                }
            }
        }
        let frame = self.queue.front()?;
        let rest = frame.get(self.gone..).unwrap_or_default();
        let (record, taken) = match &mut self.over {
            Over::Http2(http2) => http2.load.websocket_data(rest, now)?,
            _ => {
                let taken = rest.len().min(MAX_RECORD);
                (rest[..taken].to_vec(), taken)
            }
        };
        self.gone += taken;
        if self.gone == frame.len() {
            self.queue.pop_front();
            self.gone = 0;
        }
        Some(record)
    }

    /// Takes what came over the connection; appends the messages' bytes to `payload`.
    ///
    /// # Errors
    /// [`WebsocketError`].
    pub fn on_data(
        &mut self,
        bytes: &[u8],
        payload: &mut Vec<u8>,
        now: Instant,
    ) -> Result<(), WebsocketError> {
        let mut owed = Vec::new();
        match &mut self.over {
            Over::Request(..) => return Err(WebsocketError::Answer("it came before the request")),
            Over::Answer(head, nonce) => {
                head.extend_from_slice(bytes);
                let Some(length) = upgrade::answer(head, nonce)? else { return Ok(()) };
                let head = std::mem::take(head);
                self.over = Over::Http1;
                self.messages.read(&head[length..], payload, &mut owed)?;
            }
            Over::Http1 => self.messages.read(bytes, payload, &mut owed)?,
            Over::Http2(http2) => {
                let received = http2.on_data(bytes, now)?;
                self.messages.read(&received, payload, &mut owed)?;
            }
        }
        self.queue(owed);
        Ok(())
    }

    /// The load whose connection was to carry it, where it came to nothing: the page stays.
    pub fn into_load(self) -> Option<PageLoad> {
        match self.over {
            Over::Http2(http2) => Some(http2.load),
            Over::Request(..) | Over::Answer(..) | Over::Http1 => None,
        }
    }

    /// The stream that the server does not end after a close, dropped as Chrome drops it: the content of one record. Over
    /// HTTP/1.1 the connection's end says it.
    pub fn cancel(&mut self) -> Option<Vec<u8>> {
        match &mut self.over {
            Over::Http2(http2) => http2.load.cancel_websocket(),
            Over::Request(..) | Over::Answer(..) | Over::Http1 => None,
        }
    }
}

impl Http2 {
    /// The websocket's bytes among what came.
    fn on_data(&mut self, bytes: &[u8], now: Instant) -> Result<Vec<u8>, WebsocketError> {
        self.load.on_data(bytes, now)?;
        let Some(websocket) = &mut self.load.websocket else { return Ok(Vec::new()) };
        if let Some(fields) = &websocket.answer
            && !self.open
        {
            if fields.status != 200 {
                return Err(WebsocketError::Refused(fields.status));
            }
            let extensions = fields.websocket_extensions.iter().map(Vec::as_slice);
            upgrade::agreed(extensions, fields.websocket_protocol)?;
            self.open = true;
        }
        match websocket.reset {
            Some(code) => Err(WebsocketError::Reset(code)),
            None if !self.open && !websocket.received.is_empty() => {
                Err(WebsocketError::Answer("data before it"))
            }
            None => Ok(std::mem::take(&mut websocket.received)),
        }
    }
}

#[cfg(test)]
mod tests;
