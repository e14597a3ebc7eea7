//! Frames: what HTX records of type 23 carry (docs/protocol.md, sections 9 and 10).
//!
//! ```text
//! length(u24) type(u8) body
//! ```
//!
//! A frame lies in one record, so reading borrows from the opened record and copies nothing but a
//! [`Handover`]. Where a frame may stand (early data, after HANDOVER, ...) is for the reader's owner to judge;
//! this module judges form alone.

use std::fmt;

use qnet_wire::error::{Kind, Retry};
use subtle::ConstantTimeEq;
use thiserror::Error;
use zeroize::Zeroizing;

/// Bytes before a frame's body: length and type.
pub const HEADER_LEN: usize = 4;

/// The largest integer a varint can hold, 2^62 - 1 (RFC 9000, section 16).
pub const MAX_VARINT: u64 = (1 << 62) - 1;

/// The largest body the length field can state. A record's content, 16,384 bytes, is the limit that binds.
const MAX_BODY: usize = (1 << 24) - 1;

/// The longest STREAM frame prefix: header and an 8-byte stream id.
pub const MAX_STREAM_OVERHEAD: usize = HEADER_LEN + 8;

const PADDING: u8 = 0;
const STREAM: u8 = 1;
const WINDOW_UPDATE: u8 = 2;
const PING: u8 = 3;
const KEY_UPDATE: u8 = 4;
const CLOSE: u8 = 5;
const DECOY: u8 = 6;
const HANDOVER: u8 = 7;
const SEGMENT: u8 = 8;
const ACK: u8 = 9;
const JOIN: u8 = 10;
const REFUSED: u8 = 11;
const END: u8 = 12;
const SHAPE: u8 = 13;

/// SEGMENT's flag: more follows right behind.
const MORE: u8 = 1;

/// The longest SEGMENT prefix: header, flags and an 8-byte position.
pub const MAX_SEGMENT_OVERHEAD: usize = HEADER_LEN + 1 + 8;

/// One frame. Slices borrow from the record it was read from, or from what is to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// Filling, whatever its body. Encoded with an empty body; [`encode_padding`] makes any size.
    Padding,
    /// Data of a stream; the first one opens it.
    Stream {
        /// Stream id, at most [`MAX_VARINT`]; 0 is nobody's.
        id: u64,
        /// Data bytes, perhaps none.
        data: &'a [u8],
    },
    /// More credit for the other side's data.
    WindowUpdate {
        /// Stream id; 0 for the connection.
        id: u64,
        /// Bytes, at most [`MAX_VARINT`].
        increment: u64,
    },
    /// A request to answer, or the answer.
    Ping {
        /// False: a request. True: an answer.
        answer: bool,
        /// Repeated in the answer.
        data: [u8; 8],
    },
    /// The next record of this direction is under the next secret.
    KeyUpdate,
    /// End of a stream, or of one direction of it, or of the carrier.
    Close {
        /// Stream id; 0 for the carrier.
        id: u64,
        /// docs/protocol.md, section 9.
        code: u8,
    },
    /// A piece of the decoy's TLS byte stream.
    Decoy(&'a [u8]),
    /// The client's TLS session with the decoy.
    Handover(Handover),
    /// A piece of the session's bytes.
    Segment {
        /// The sender has more to send right behind this.
        more: bool,
        /// Where the first of the bytes stands, at most [`MAX_VARINT`].
        position: u64,
        /// The bytes, perhaps none.
        bytes: &'a [u8],
    },
    /// The session's bytes below this position have arrived.
    Ack {
        /// At most [`MAX_VARINT`].
        position: u64,
    },
    /// A carrier asks to carry a session that is older than it, or is accepted.
    Join(Join),
    /// The answer to a JOIN that is not accepted.
    Refused,
    /// The session is over.
    End,
    /// What traffic is to look like, or will.
    Shape {
        /// The profile's number (docs/protocol.md, section 15).
        profile: u8,
        /// Its version.
        version: u16,
    },
}

/// Bytes of a session's id.
pub const SESSION_ID_LEN: usize = 16;

/// A JOIN's content (docs/protocol.md, section 16).
#[derive(Clone, PartialEq, Eq)]
pub struct Join {
    /// How the carrier joins.
    pub mode: u8,
    /// The session.
    pub id: [u8; SESSION_ID_LEN],
    /// The carrier's number, at most [`MAX_VARINT`].
    pub carrier: u64,
    /// The position the sender expects next, at most [`MAX_VARINT`].
    pub next: u64,
    /// Proves that the sender has the session's secret and that this is its carrier.
    pub mac: [u8; 32],
}

/// Nobody else's business.
impl fmt::Debug for Join {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Join")
            .field("mode", &self.mode)
            .field("carrier", &self.carrier)
            .finish_non_exhaustive()
    }
}

impl Join {
    fn decode(mut body: &[u8]) -> Option<Self> {
        let [mode] = take(&mut body)?;
        let join = Self {
            mode,
            id: take(&mut body)?,
            carrier: take_varint(&mut body)?,
            next: take_varint(&mut body)?,
            mac: take(&mut body)?,
        };
        body.is_empty().then_some(join)
    }

    fn body_len(&self) -> usize {
        1 + SESSION_ID_LEN + varint_len(self.carrier) + varint_len(self.next) + self.mac.len()
    }

    /// What the MAC covers of it: all that stands before the MAC.
    pub(crate) fn encode_fields(&self, out: &mut Vec<u8>) {
        out.push(self.mode);
        out.extend_from_slice(&self.id);
        put_varint(self.carrier, out);
        put_varint(self.next, out);
    }
}

/// What the bridge needs to go on with the client's TLS connection to the decoy (docs/protocol.md, section 10).
#[derive(Clone)]
pub struct Handover {
    /// TLS cipher suite: 0x1301, 0x1302 or 0x1303.
    pub suite: u16,
    /// HTTP/2 requests the client has made.
    pub requests: u32,
    /// Index of the first record under `up_secret`.
    pub up_first: u64,
    /// Index of the first record under `down_secret`.
    pub down_first: u64,
    /// TLS application traffic secret, client to decoy: 48 bytes for suite 0x1302, else 32.
    pub up_secret: Zeroizing<Vec<u8>>,
    /// The same, decoy to client.
    pub down_secret: Zeroizing<Vec<u8>>,
}

/// Secrets stay out of it.
impl fmt::Debug for Handover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handover")
            .field("suite", &self.suite)
            .field("requests", &self.requests)
            .field("up_first", &self.up_first)
            .field("down_first", &self.down_first)
            .finish_non_exhaustive()
    }
}

/// Secrets are compared in constant time.
impl PartialEq for Handover {
    fn eq(&self, other: &Self) -> bool {
        let secrets = self.up_secret.ct_eq(&other.up_secret) & self.down_secret.ct_eq(&other.down_secret);
        (self.suite, self.requests, self.up_first, self.down_first)
            == (other.suite, other.requests, other.up_first, other.down_first)
            && secrets.into()
    }
}

impl Eq for Handover {}

impl Handover {
    /// Fixed fields: suite, requests, two indices.
    const FIXED_LEN: usize = 2 + 4 + 8 + 8;

    /// The length of a suite's traffic secrets, none for a suite that is not TLS 1.3's or not ours.
    fn secret_len(suite: u16) -> Option<usize> {
        match suite {
            0x1301 | 0x1303 => Some(32),
            0x1302 => Some(48),
            _ => None,
        }
    }

    fn body_len(&self) -> usize {
        Self::FIXED_LEN + 2 + self.up_secret.len() + self.down_secret.len()
    }

    fn encode_body(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.suite.to_be_bytes());
        out.extend_from_slice(&self.requests.to_be_bytes());
        out.extend_from_slice(&self.up_first.to_be_bytes());
        out.extend_from_slice(&self.down_first.to_be_bytes());
        for secret in [&self.up_secret, &self.down_secret] {
            debug_assert_eq!(Self::secret_len(self.suite), Some(secret.len()));
            out.push(u8::try_from(secret.len()).unwrap_or(u8::MAX));
            out.extend_from_slice(secret);
        }
    }

    fn decode(mut body: &[u8]) -> Option<Self> {
        let suite = u16::from_be_bytes(take(&mut body)?);
        let requests = u32::from_be_bytes(take(&mut body)?);
        let up_first = u64::from_be_bytes(take(&mut body)?);
        let down_first = u64::from_be_bytes(take(&mut body)?);
        let length = Self::secret_len(suite)?;
        let mut secret = || {
            let [stated] = take(&mut body)?;
            let (secret, rest) = body.split_at_checked(length)?;
            body = rest;
            (usize::from(stated) == length).then(|| Zeroizing::new(secret.to_vec()))
        };
        let (up_secret, down_secret) = (secret()?, secret()?);
        body.is_empty().then_some(Self { suite, requests, up_first, down_first, up_secret, down_secret })
    }
}

/// Why a record's content is not a sequence of frames. Each ends the tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum FrameError {
    /// A header is cut off, or a body goes beyond its record.
    #[error("a frame does not fit its record")]
    Truncated,
    /// No such type in this version.
    #[error("unknown frame type {0}")]
    UnknownType(u8),
    /// A body that is too short, too long, or holds a value that is not allowed.
    #[error("malformed body in a frame of type {0}")]
    Malformed(u8),
    /// Something follows a KEY_UPDATE in its record.
    #[error("a KEY_UPDATE frame is not the last of its record")]
    NotLast,
}

impl FrameError {
    /// Who is at fault.
    #[must_use]
    pub fn kind(self) -> Kind {
        match self {
            Self::Truncated | Self::Malformed(_) | Self::NotLast => Kind::PeerMisbehaved,
            Self::UnknownType(_) => Kind::PeerIncompatible,
        }
    }

    /// Whether another carrier may do better.
    #[must_use]
    pub fn retry(self) -> Retry {
        match self {
            Self::Truncated | Self::Malformed(_) | Self::NotLast => Retry::Later,
            Self::UnknownType(_) => Retry::Never,
        }
    }
}

/// Reads the frames of a record's content. After an error the iterator is at its end.
#[must_use]
pub fn frames(content: &[u8]) -> Frames<'_> {
    Frames { rest: content }
}

/// See [`frames`].
#[derive(Clone, Debug)]
pub struct Frames<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Frames<'a> {
    type Item = Result<Frame<'a>, FrameError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let frame = self.read();
        if frame.is_err() {
            self.rest = &[];
        }
        Some(frame)
    }
}

impl std::iter::FusedIterator for Frames<'_> {}

impl<'a> Frames<'a> {
    fn read(&mut self) -> Result<Frame<'a>, FrameError> {
        let [a, b, c, kind] = take(&mut self.rest).ok_or(FrameError::Truncated)?;
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        let (body, rest) = self.rest.split_at_checked(length).ok_or(FrameError::Truncated)?;
        self.rest = rest;
        if kind > SHAPE {
            return Err(FrameError::UnknownType(kind));
        }
        if kind == KEY_UPDATE && !rest.is_empty() {
            return Err(FrameError::NotLast);
        }
        decode_body(kind, body).ok_or(FrameError::Malformed(kind))
    }
}

fn decode_body(kind: u8, mut body: &[u8]) -> Option<Frame<'_>> {
    let frame = match kind {
        PADDING => return Some(Frame::Padding),
        STREAM => return Some(Frame::Stream { id: take_varint(&mut body)?, data: body }),
        DECOY => return Some(Frame::Decoy(body)),
        HANDOVER => return Handover::decode(body).map(Frame::Handover),
        WINDOW_UPDATE => {
            Frame::WindowUpdate { id: take_varint(&mut body)?, increment: take_varint(&mut body)? }
        }
        PING => {
            let answer = match take(&mut body)? {
                [0] => false,
                [1] => true,
                _ => return None,
            };
            Frame::Ping { answer, data: take(&mut body)? }
        }
        KEY_UPDATE => Frame::KeyUpdate,
        REFUSED => Frame::Refused,
        END => Frame::End,
        SHAPE => {
            let ([profile], version) = (take(&mut body)?, u16::from_be_bytes(take(&mut body)?));
            Frame::Shape { profile, version }
        }
        ACK => Frame::Ack { position: take_varint(&mut body)? },
        JOIN => return Join::decode(body).map(Frame::Join),
        SEGMENT => {
            let more = match take(&mut body)? {
                [0] => false,
                [MORE] => true,
                _ => return None,
            };
            return Some(Frame::Segment { more, position: take_varint(&mut body)?, bytes: body });
        }
        CLOSE => {
            let id = take_varint(&mut body)?;
            let [code] = take(&mut body)?;
            Frame::Close { id, code }
        }
        _ => return None,
    };
    body.is_empty().then_some(frame)
}

impl Frame<'_> {
    /// The exact number of bytes [`encode`](Self::encode) appends.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        HEADER_LEN + self.body_len()
    }

    fn body_len(&self) -> usize {
        match self {
            Self::Padding | Self::KeyUpdate | Self::Refused | Self::End => 0,
            Self::Segment { position, bytes, .. } => 1 + varint_len(*position) + bytes.len(),
            Self::Ack { position } => varint_len(*position),
            Self::Join(join) => join.body_len(),
            Self::Stream { id, data } => varint_len(*id) + data.len(),
            Self::WindowUpdate { id, increment } => varint_len(*id) + varint_len(*increment),
            Self::Ping { .. } => 1 + 8,
            Self::Close { id, .. } => varint_len(*id) + 1,
            Self::Decoy(data) => data.len(),
            Self::Handover(handover) => handover.body_len(),
            Self::Shape { .. } => 1 + 2,
        }
    }

    /// Appends the frame. The caller keeps it within one record's content, and integers within
    /// [`MAX_VARINT`]; a larger one is written as that.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put_header(self.type_byte(), self.body_len(), out);
        match self {
            Self::Padding | Self::KeyUpdate | Self::Refused | Self::End => {}
            Self::Segment { more, position, bytes } => {
                out.push(u8::from(*more) * MORE);
                put_varint(*position, out);
                out.extend_from_slice(bytes);
            }
            Self::Ack { position } => put_varint(*position, out),
            Self::Join(join) => {
                join.encode_fields(out);
                out.extend_from_slice(&join.mac);
            }
            Self::Stream { id, data } => {
                put_varint(*id, out);
                out.extend_from_slice(data);
            }
            Self::WindowUpdate { id, increment } => {
                put_varint(*id, out);
                put_varint(*increment, out);
            }
            Self::Ping { answer, data } => {
                out.push(u8::from(*answer));
                out.extend_from_slice(data);
            }
            Self::Close { id, code } => {
                put_varint(*id, out);
                out.push(*code);
            }
            Self::Decoy(data) => out.extend_from_slice(data),
            Self::Handover(handover) => handover.encode_body(out),
            Self::Shape { profile, version } => {
                out.push(*profile);
                out.extend_from_slice(&version.to_be_bytes());
            }
        }
    }

    fn type_byte(&self) -> u8 {
        match self {
            Self::Padding => PADDING,
            Self::Stream { .. } => STREAM,
            Self::WindowUpdate { .. } => WINDOW_UPDATE,
            Self::Ping { .. } => PING,
            Self::KeyUpdate => KEY_UPDATE,
            Self::Close { .. } => CLOSE,
            Self::Decoy(_) => DECOY,
            Self::Handover(_) => HANDOVER,
            Self::Segment { .. } => SEGMENT,
            Self::Ack { .. } => ACK,
            Self::Join(_) => JOIN,
            Self::Refused => REFUSED,
            Self::End => END,
            Self::Shape { .. } => SHAPE,
        }
    }
}

/// Appends a PADDING frame of `total` bytes in all, header included. Below [`HEADER_LEN`] nothing fits and nothing
/// is appended: a record's own zero padding serves there.
pub fn encode_padding(total: usize, out: &mut Vec<u8>) {
    if let Some(body) = total.checked_sub(HEADER_LEN) {
        put_header(PADDING, body, out);
        out.resize(out.len() + body, 0);
    }
}

/// Bytes a STREAM frame has besides its data.
pub(crate) fn stream_overhead(id: u64) -> usize {
    HEADER_LEN + varint_len(id)
}

/// Appends a STREAM frame up to its data; the caller appends `length` bytes of that.
pub(crate) fn put_stream_prefix(id: u64, length: usize, out: &mut Vec<u8>) {
    put_header(STREAM, varint_len(id) + length, out);
    put_varint(id, out);
}

/// Bytes a SEGMENT frame has besides the session's.
pub(crate) fn segment_overhead(position: u64) -> usize {
    HEADER_LEN + 1 + varint_len(position)
}

/// Appends a SEGMENT frame up to its bytes; the caller appends those and calls [`finish_segment`].
pub(crate) fn put_segment_prefix(position: u64, out: &mut Vec<u8>) {
    put_header(SEGMENT, 0, out);
    out.push(0);
    put_varint(position, out);
}

/// Completes the SEGMENT frame that begins at `start` and ends `out`.
pub(crate) fn finish_segment(start: usize, more: bool, out: &mut [u8]) {
    let body = out.len() - start - HEADER_LEN;
    debug_assert!(body <= MAX_BODY);
    let [.., a, b, c] = body.to_be_bytes();
    out[start..start + 3].copy_from_slice(&[a, b, c]);
    out[start + HEADER_LEN] = u8::from(more) * MORE;
}

fn put_header(kind: u8, body: usize, out: &mut Vec<u8>) {
    debug_assert!(body <= MAX_BODY);
    let [.., a, b, c] = body.to_be_bytes();
    out.extend_from_slice(&[a, b, c, kind]);
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (head, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*head)
}

fn varint_len(value: u64) -> usize {
    match value {
        0..=0x3f => 1,
        0x40..=0x3fff => 2,
        0x4000..=0x3fff_ffff => 4,
        _ => 8,
    }
}

fn put_varint(value: u64, out: &mut Vec<u8>) {
    debug_assert!(value <= MAX_VARINT);
    let bytes = value.min(MAX_VARINT).to_be_bytes();
    let length = varint_len(value);
    let start = out.len();
    out.extend_from_slice(&bytes[bytes.len() - length..]);
    // The first two bits are the length's logarithm.
    out[start] |= match length {
        1 => 0x00,
        2 => 0x40,
        4 => 0x80,
        _ => 0xc0,
    };
}

fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let first = *bytes.first()?;
    let length = 1 << (first >> 6);
    let (head, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    let mut value = [0; 8];
    value[8 - length..].copy_from_slice(head);
    value[8 - length] = first & 0x3f;
    Some(u64::from_be_bytes(value))
}

#[cfg(test)]
mod tests;
