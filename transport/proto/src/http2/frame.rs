//! HTTP/2's frames (RFC 9113, sections 4 and 6).

/// The client's connection preface (RFC 9113, section 3.4).
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Length of a frame's header in bytes.
pub(crate) const HEADER: usize = 9;
/// The largest payload a peer may send, since neither Chrome nor the keeper allows more (SETTINGS_MAX_FRAME_SIZE).
pub(crate) const MAX_PAYLOAD: usize = 16_384;

/// Frame types.
pub(crate) mod kind {
    pub(crate) const DATA: u8 = 0;
    pub(crate) const HEADERS: u8 = 1;
    pub(crate) const PRIORITY: u8 = 2;
    pub(crate) const RST_STREAM: u8 = 3;
    pub(crate) const SETTINGS: u8 = 4;
    pub(crate) const PUSH_PROMISE: u8 = 5;
    pub(crate) const PING: u8 = 6;
    pub(crate) const GOAWAY: u8 = 7;
    pub(crate) const WINDOW_UPDATE: u8 = 8;
    pub(crate) const CONTINUATION: u8 = 9;
    /// RFC 7838, section 4.
    pub(crate) const ALTSVC: u8 = 10;
}

/// Frame flags.
pub(crate) mod flag {
    pub(crate) const ACK: u8 = 0x1;
    pub(crate) const END_STREAM: u8 = 0x1;
    pub(crate) const END_HEADERS: u8 = 0x4;
    pub(crate) const PADDED: u8 = 0x8;
    pub(crate) const PRIORITY: u8 = 0x20;
}

/// Settings.
pub(crate) mod setting {
    pub(crate) const HEADER_TABLE_SIZE: u16 = 1;
    pub(crate) const MAX_CONCURRENT_STREAMS: u16 = 3;
    pub(crate) const INITIAL_WINDOW_SIZE: u16 = 4;
    /// RFC 8441, section 3.
    pub(crate) const ENABLE_CONNECT_PROTOCOL: u16 = 8;
}

/// One frame received.
#[derive(Debug)]
pub(crate) struct Frame<'a> {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: &'a [u8],
}

impl<'a> Frame<'a> {
    /// Whether a flag is set.
    pub(crate) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// The payload of DATA and HEADERS without padding and priority. None: the padding does not fit.
    pub(crate) fn content(&self) -> Option<&'a [u8]> {
        let mut rest = self.payload;
        if self.has(flag::PADDED) {
            let (pad, tail) = rest.split_first()?;
            rest = tail.get(..tail.len().checked_sub(usize::from(*pad))?)?;
        }
        if self.kind == kind::HEADERS && self.has(flag::PRIORITY) {
            rest = rest.get(5..)?;
        }
        Some(rest)
    }

    /// The payload as one 31-bit number. None: it has another length.
    pub(crate) fn number(&self) -> Option<u32> {
        <[u8; 4]>::try_from(self.payload).ok().map(|bytes| u32::from_be_bytes(bytes) & 0x7fff_ffff)
    }

    /// The settings of a SETTINGS frame. None: its length is no multiple of 6.
    pub(crate) fn settings(&self) -> Option<impl Iterator<Item = (u16, u32)>> {
        self.payload.len().is_multiple_of(6).then(|| {
            self.payload.chunks_exact(6).map(|six| {
                (u16::from_be_bytes([six[0], six[1]]), u32::from_be_bytes([six[2], six[3], six[4], six[5]]))
            })
        })
    }
}

/// Appends a frame's header.
#[allow(clippy::cast_possible_truncation, reason = "lengths are of frames built here, below 2^24")]
pub(crate) fn header(kind: u8, flags: u8, stream: u32, length: usize, out: &mut Vec<u8>) {
    out.extend_from_slice(&(length as u32).to_be_bytes()[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
}

/// Appends a WINDOW_UPDATE.
pub(crate) fn window_update(stream: u32, increment: u32, out: &mut Vec<u8>) {
    header(kind::WINDOW_UPDATE, 0, stream, 4, out);
    out.extend_from_slice(&increment.to_be_bytes());
}

/// Appends SETTINGS.
/// Appends a PRIORITY frame (RFC 7540, section 6.3), exclusive; `weight` from 1 to 256.
pub(crate) fn priority(stream: u32, depends_on: u32, weight: u16, out: &mut Vec<u8>) {
    header(kind::PRIORITY, 0, stream, 5, out);
    out.extend_from_slice(&(depends_on | 1 << 31).to_be_bytes());
    out.push(u8::try_from(weight.saturating_sub(1)).unwrap_or(u8::MAX));
}

pub(crate) fn settings(list: &[(u16, u32)], out: &mut Vec<u8>) {
    header(kind::SETTINGS, 0, 0, list.len() * 6, out);
    for (id, value) in list {
        out.extend_from_slice(&id.to_be_bytes());
        out.extend_from_slice(&value.to_be_bytes());
    }
}

/// Cuts a byte stream into frames. Holds at most one frame and one push.
#[derive(Debug, Default)]
pub(crate) struct Cutter {
    held: Vec<u8>,
    read: usize,
}

/// A frame longer than allowed (RFC 9113, section 4.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooLong;

impl Cutter {
    /// Takes received bytes.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.held.drain(..self.read);
        self.read = 0;
        self.held.extend_from_slice(bytes);
    }

    /// The next whole frame.
    pub(crate) fn next(&mut self) -> Result<Option<Frame<'_>>, TooLong> {
        let rest = &self.held[self.read..];
        let Some(head) = rest.first_chunk::<HEADER>() else { return Ok(None) };
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        if length > MAX_PAYLOAD {
            return Err(TooLong);
        }
        let (kind, flags) = (head[3], head[4]);
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & 0x7fff_ffff;
        if rest.len() < HEADER + length {
            return Ok(None);
        }
        let start = self.read + HEADER;
        self.read = start + length;
        Ok(Some(Frame { kind, flags, stream, payload: &self.held[start..start + length] }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Owned = (u8, u8, u32, Vec<u8>);

    fn all(cutter: &mut Cutter) -> Result<Vec<Owned>, TooLong> {
        let mut frames = Vec::new();
        while let Some(frame) = cutter.next()? {
            frames.push((frame.kind, frame.flags, frame.stream, frame.payload.to_vec()));
        }
        Ok(frames)
    }

    #[test]
    fn a_frame_longer_than_allowed_is_refused_at_its_header() {
        let mut cutter = Cutter::default();
        cutter.push(&[0x00, 0x40, 0x01, 0, 0, 0, 0, 0, 1]);
        assert_eq!(all(&mut cutter), Err(TooLong));
    }

    #[test]
    fn padding_that_does_not_fit_is_refused() {
        let frame = |payload| Frame { kind: kind::DATA, flags: flag::PADDED, stream: 1, payload };
        assert_eq!(frame(&[2, b'a', 0, 0]).content(), Some(&b"a"[..]));
        assert_eq!(frame(&[3, 0, 0, 0]).content(), Some(&b""[..]));
        assert_eq!(frame(&[4, 0, 0, 0]).content(), None);
        assert_eq!(frame(&[]).content(), None);
    }

    proptest! {
        #[test]
        fn frames_come_back_however_they_are_cut(
            frames in proptest::collection::vec((any::<u8>(), any::<u8>(), 0u32..0x8000_0000, proptest::collection::vec(any::<u8>(), 0..40)), 0..8),
            cut in 1usize..50,
        ) {
            let mut bytes = Vec::new();
            for (kind, flags, stream, payload) in &frames {
                header(*kind, *flags, *stream, payload.len(), &mut bytes);
                bytes.extend_from_slice(payload);
            }
            let (mut cutter, mut got) = (Cutter::default(), Vec::new());
            for piece in bytes.chunks(cut) {
                cutter.push(piece);
                got.extend(all(&mut cutter).unwrap());
            }
            prop_assert_eq!(got, frames);
        }
    }
}
