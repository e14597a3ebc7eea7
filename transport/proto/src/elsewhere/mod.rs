//! A session whose carriers are in another process than the session itself (docs/protocol.md, section 16), without I/O: what a
//! bridge that was upgraded does with a JOIN for a session that its predecessor has.
//!
//! 1. The successor, to which the carrier's connection came, has finished its inner handshake. It does not know the session that a
//!    JOIN names. It asks the predecessor over a connection between the two: the JOIN, with all that it is bound to (`Ask`).
//! 2. The predecessor, who has the session's secret, judges the JOIN as its own ([`Holder`]) and answers with its JOIN or REFUSED.
//! 3. From then on SEGMENT, ACK and END go between client and session by way of the successor, which opens and seals records and
//!    shapes them (`Away`), and cuts segments to the records' size.
//!
//! No secret of a session or a carrier goes over the connection. To the session it is one carrier more: when the connection
//! ends, what was on its way is sent again over the next.
//!
//! Words on the connection are framed as frames are, `length(u24) type(u8) body`. SEGMENT, ACK, END, JOIN and REFUSED are those of
//! section 9; types from 0x80 on are the connection's own.

mod away;
mod holder;
#[cfg(test)]
mod tests;

use std::time::Duration;

pub(crate) use self::away::{Away, News};
pub use self::holder::Holder;
use crate::frame::{Frame, HEADER_LEN, Join, frames};
use crate::record::MAX_CONTENT;

/// The type of [`Ask`].
const ASK: u8 = 0x80;
/// From the holder, how many streams were begun, and whether one is open: the shaper wants to know.
const STREAMS: u8 = 0x81;
/// From the holder, its last word: the session goes on without this carrier, or is over.
const OVER: u8 = 0x82;

/// Bytes that wait on either side above which no more are taken in: as much as a carrier seals ahead.
const MAX_WAITING: usize = crate::tunnel::BACKLOG;
/// How long an answer may take: it comes from the same machine, which may be busy, and the client waits.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// What the successor asks.
#[derive(Clone, PartialEq, Eq)]
struct Ask {
    /// The hash of the carrier's inner handshake, which the JOIN is bound to.
    hash: [u8; 32],
    /// The client's static key, which that handshake proved.
    client: [u8; 32],
    /// The path's round trip; 0: not known.
    round_trip: Duration,
    join: Join,
}

impl Ask {
    fn encode(&self) -> Vec<u8> {
        let mut body = Vec::new();
        body.extend_from_slice(&self.hash);
        body.extend_from_slice(&self.client);
        body.extend_from_slice(&u32::try_from(self.round_trip.as_micros()).unwrap_or(u32::MAX).to_be_bytes());
        Frame::Join(self.join.clone()).encode(&mut body);
        let mut out = Vec::new();
        put(ASK, &body, &mut out);
        out
    }

    fn decode(body: &[u8]) -> Option<Self> {
        let (hash, rest) = body.split_first_chunk()?;
        let (client, rest) = rest.split_first_chunk()?;
        let (micros, rest) = rest.split_first_chunk()?;
        let round_trip = Duration::from_micros(u64::from(u32::from_be_bytes(*micros)));
        let mut frames = frames(rest);
        let (Some(Ok(Frame::Join(join))), None) = (frames.next(), frames.next()) else { return None };
        Some(Self { hash: *hash, client: *client, round_trip, join })
    }
}

/// A word that is whole.
enum Word<'a> {
    Ask(Box<Ask>),
    Streams { begun: u64, open: bool },
    Over,
    Frame(Frame<'a>),
}

/// Appends a word of the connection's own.
fn put(kind: u8, body: &[u8], out: &mut Vec<u8>) {
    let [.., a, b, c] = body.len().to_be_bytes();
    out.extend_from_slice(&[a, b, c, kind]);
    out.extend_from_slice(body);
}

fn put_streams(begun: u64, open: bool, out: &mut Vec<u8>) {
    let mut body = [0; 9];
    body[..8].copy_from_slice(&begun.to_be_bytes());
    body[8] = u8::from(open);
    put(STREAMS, &body, out);
}

/// The length of the word that `bytes` begin with, once it is whole.
///
/// # Errors
/// It is longer than any.
fn whole(bytes: &[u8]) -> Result<Option<usize>, Broken> {
    let [a, b, c, _, ..] = *bytes else { return Ok(None) };
    let total = HEADER_LEN + u32::from_be_bytes([0, a, b, c]) as usize;
    if total > MAX_CONTENT {
        return Err(Broken);
    }
    Ok(Some(total).filter(|total| bytes.len() >= *total))
}

/// Reads a whole word.
///
/// # Errors
/// It is none.
fn read(word: &[u8]) -> Result<Word<'_>, Broken> {
    let (&[.., kind], body) = word.split_first_chunk::<HEADER_LEN>().ok_or(Broken)?;
    let read = match kind {
        ASK => Ask::decode(body).map(|ask| Word::Ask(Box::new(ask))),
        STREAMS => body.split_first_chunk().and_then(|(begun, rest)| match rest {
            [open @ (0 | 1)] => Some(Word::Streams { begun: u64::from_be_bytes(*begun), open: *open == 1 }),
            _ => None,
        }),
        OVER => body.is_empty().then_some(Word::Over),
        _ => frames(word).next().and_then(Result::ok).map(Word::Frame),
    };
    read.ok_or(Broken)
}

/// The other process does not keep to this protocol: another version of the program, or a bug. The connection ends.
#[derive(Debug, PartialEq, Eq)]
struct Broken;
