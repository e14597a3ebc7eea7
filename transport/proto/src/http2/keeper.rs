//! The bridge's HTTP/2 to the decoy after HANDOVER: it knows neither side's HPACK tables, so its own header blocks are
//! literals only and the decoy's are not read.

use qnet_wire::error::{Kind, Retry};
use qnet_wire::name::ServerName;

use super::encode::integer;
use super::frame::{self, Cutter, Frame, flag, kind};
use crate::chrome::CHROME_156;

/// The first stream: above any that a client's load opens (docs/protocol.md, section 10).
const FIRST_STREAM: u32 = 1001;
/// The last stream: ids are 31 bits (RFC 9113, section 5.1.1).
const LAST_STREAM: u32 = 0x7fff_ffff;
/// Requests without an answer at most. A decoy that answers none is not asked on.
const MAX_OUTSTANDING: usize = 100;
/// Credit is returned in steps of this many bytes: often enough for the smallest window a client may have left.
const CREDIT_STEP: u32 = 16_384;

// Names in the static table (RFC 7541, appendix A), which every decoder has.
const AUTHORITY: usize = 1;
const METHOD: usize = 2;
const PATH: usize = 4;
const SCHEME: usize = 7;
const ACCEPT: usize = 19;
const USER_AGENT: usize = 58;

/// Why the decoy's connection cannot be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeeperError {
    /// The decoy broke HTTP/2 (RFC 9113).
    #[error("the decoy broke HTTP/2: {0}")]
    Protocol(&'static str),
}

impl KeeperError {
    /// Who is at fault.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Protocol(_) => Kind::PeerMisbehaved,
        }
    }

    /// Whether trying again can help.
    pub fn retry(&self) -> Retry {
        match self {
            Self::Protocol(_) => Retry::Later,
        }
    }
}

/// The bridge's side of a decoy's connection. HEAD requests keep it from idling out.
#[derive(Debug)]
pub struct Keeper {
    authority: String,
    path: String,
    requests: u32,
    answered: u32,
    next_stream: u32,
    outstanding: Vec<u32>,
    cutter: Option<Cutter>,
    taken: u32,
    going_away: bool,
}

impl Keeper {
    /// Goes on after a load of `requests_made` requests. The decoy's bytes given to [`on_data`](Self::on_data) must
    /// begin at a frame.
    pub fn new(requests_made: u32, authority: &ServerName, path: &str) -> Self {
        Self {
            authority: authority.as_str().to_owned(),
            path: path.to_owned(),
            requests: requests_made,
            answered: 0,
            next_stream: FIRST_STREAM,
            outstanding: Vec::new(),
            cutter: Some(Cutter::default()),
            taken: 0,
            going_away: false,
        }
    }

    /// Appends one HEAD request, unless the decoy is going away or answers nothing.
    pub fn request(&mut self, out: &mut Vec<u8>) {
        if self.going_away || self.outstanding.len() >= MAX_OUTSTANDING || self.next_stream > LAST_STREAM {
            return;
        }
        let mut block = Vec::new();
        for (name, value) in [
            (METHOD, "HEAD"),
            (SCHEME, "https"),
            (AUTHORITY, self.authority.as_str()),
            (PATH, self.path.as_str()),
            (USER_AGENT, CHROME_156.user_agent),
            (ACCEPT, "*/*"),
        ] {
            literal(name, value.as_bytes(), &mut block);
        }
        frame::header(
            kind::HEADERS,
            flag::END_STREAM | flag::END_HEADERS,
            self.next_stream,
            block.len(),
            out,
        );
        out.extend_from_slice(&block);
        self.outstanding.push(self.next_stream);
        self.next_stream += 2;
        self.requests += 1;
    }

    /// Takes what the decoy sent and appends what it is owed: answers to SETTINGS and PING, and credit.
    ///
    /// # Errors
    /// [`KeeperError`]: the connection cannot be understood any more.
    pub fn on_data(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), KeeperError> {
        let mut cutter = self.cutter.take().unwrap_or_default();
        cutter.push(bytes);
        let outcome = loop {
            match cutter.next() {
                Ok(Some(frame)) => {
                    if let Err(error) = self.frame(&frame, out) {
                        break Err(error);
                    }
                }
                Ok(None) => break Ok(()),
                Err(_) => break Err(KeeperError::Protocol("a frame longer than allowed")),
            }
        };
        self.cutter = Some(cutter);
        outcome
    }

    fn frame(&mut self, frame: &Frame<'_>, out: &mut Vec<u8>) -> Result<(), KeeperError> {
        match frame.kind {
            kind::DATA => {
                self.taken += u32::try_from(frame.payload.len()).unwrap_or(u32::MAX);
                if self.taken >= CREDIT_STEP {
                    frame::window_update(0, std::mem::take(&mut self.taken), out);
                }
                if frame.has(flag::END_STREAM) {
                    self.answer(frame.stream);
                } else if !frame.payload.is_empty() {
                    // The knock answer's tail: its stream's credit is not known, so it is given back at once.
                    let length = u32::try_from(frame.payload.len()).unwrap_or(u32::MAX);
                    frame::window_update(frame.stream, length, out);
                }
            }
            kind::HEADERS if frame.has(flag::END_STREAM) => self.answer(frame.stream),
            kind::RST_STREAM => self.end(frame.stream),
            kind::SETTINGS if !frame.has(flag::ACK) => frame::header(kind::SETTINGS, flag::ACK, 0, 0, out),
            kind::PING if frame.payload.len() != 8 => return Err(KeeperError::Protocol("a bad PING")),
            kind::PING if !frame.has(flag::ACK) => {
                frame::header(kind::PING, flag::ACK, 0, frame.payload.len(), out);
                out.extend_from_slice(frame.payload);
            }
            kind::PUSH_PROMISE => return Err(KeeperError::Protocol("it pushed, which SETTINGS forbid")),
            kind::GOAWAY => self.going_away = true,
            _ => {}
        }
        Ok(())
    }

    fn answer(&mut self, stream: u32) {
        let before = self.outstanding.len();
        self.end(stream);
        self.answered += u32::from(self.outstanding.len() < before);
    }

    fn end(&mut self, stream: u32) {
        self.outstanding.retain(|id| *id != stream);
    }

    /// Requests without a whole answer.
    #[allow(clippy::cast_possible_truncation, reason = "at most MAX_OUTSTANDING")]
    pub fn outstanding(&self) -> u32 {
        self.outstanding.len() as u32
    }

    /// Requests of its own that were answered, not reset.
    pub fn answered(&self) -> u32 {
        self.answered
    }

    /// Requests made on this connection, the load's included.
    pub fn requests(&self) -> u32 {
        self.requests
    }

    /// Whether the decoy announced its end (GOAWAY).
    pub fn going_away(&self) -> bool {
        self.going_away
    }
}

/// A literal without indexing (RFC 7541, section 6.2.2), its name from the static table, its value as it is.
fn literal(name: usize, value: &[u8], out: &mut Vec<u8>) {
    integer(0x00, 4, name, out);
    integer(0x00, 7, value.len(), out);
    out.extend_from_slice(value);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_told_from_resets() {
        let mut keeper = Keeper::new(7, &"www.example.com".parse().unwrap(), "/");
        let mut out = Vec::new();
        (0..3).for_each(|_| keeper.request(&mut out));
        assert_eq!((keeper.requests(), keeper.outstanding(), keeper.answered()), (10, 3, 0));
        let mut came = Vec::new();
        frame::header(kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, FIRST_STREAM, 1, &mut came);
        came.push(0x88);
        frame::header(kind::RST_STREAM, 0, FIRST_STREAM + 2, 4, &mut came);
        came.extend_from_slice(&7u32.to_be_bytes());
        // An answer to none of its requests: the load's last one may still be on its way.
        frame::header(kind::DATA, flag::END_STREAM, 13, 0, &mut came);
        keeper.on_data(&came, &mut Vec::new()).unwrap();
        assert_eq!((keeper.outstanding(), keeper.answered()), (1, 1));
    }
}
