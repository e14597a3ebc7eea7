//! Frames (RFC 6455, section 5), as far as one side needs them: binary messages are one stream of bytes, their
//! boundaries mean nothing here.
//!
//! Written here rather than taken from a library: those that parse without I/O accept what the RFC forbids (lengths
//! that are not minimal) or hold whole messages, and this is two screens.

/// Largest frame that is read, in bytes of payload. Ours are at most [`MAX_MESSAGE`], which a proxy may join or cut, but
/// not to this.
const MAX_FRAME: u64 = 16 << 20;
/// Largest message that is written, in bytes: four full HTX records, so that a frame's header is no cost.
pub const MAX_MESSAGE: usize = 65_536;
/// Largest payload of a control frame (RFC 6455, section 5.5).
const MAX_CONTROL: usize = 125;
/// Longest header: two bytes, the length's eight, the mask's four.
const MAX_HEADER: usize = 14;

const FIN: u8 = 0x80;
const RSV: u8 = 0x70;
const MASKED: u8 = 0x80;

/// What a frame is (RFC 6455, section 5.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Opcode {
    Continuation = 0,
    Binary = 2,
    Close = 8,
    Ping = 9,
    Pong = 10,
}

impl Opcode {
    fn is_control(self) -> bool {
        self as u8 & 8 != 0
    }
}

/// How a peer broke the framing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A reserved bit is set: compression or another extension, none of which was agreed on.
    #[error("a frame with a reserved bit, as compression sets it")]
    Reserved,
    /// Text, which is not spoken here, or a reserved kind.
    #[error("a frame of kind {0}")]
    Opcode(u8),
    /// A client's frame without mask, or a server's with one (section 5.1).
    #[error("a frame masked the wrong way")]
    Mask,
    /// A length that is not in its shortest form, or is above what is taken.
    #[error("a frame with a bad length")]
    Length,
    /// A control frame in pieces, or too long.
    #[error("a bad control frame")]
    Control,
    /// A continuation of nothing, or a new message inside another.
    #[error("fragments out of order")]
    Fragment,
}

/// What a peer said besides data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Said {
    /// To be answered with a pong of the same payload.
    Ping(Vec<u8>),
    /// The end, with its code where one was given. Nothing after it counts.
    Close(Option<u16>),
}

#[derive(Debug)]
enum State {
    Header,
    Data { left: u64, mask: Option<[u8; 4]>, at: usize },
    Control { opcode: Opcode, length: usize, mask: Option<[u8; 4]> },
    Closed,
}

/// Reads one direction's frames, however they are cut.
#[derive(Debug)]
pub(super) struct Decoder {
    /// Whether the peer masks: a client does, a server does not.
    masked: bool,
    state: State,
    /// A header, or a control frame's payload, as far as it has come.
    held: Vec<u8>,
    /// Inside a message of several frames.
    open: bool,
}

impl Decoder {
    pub(super) fn new(masked: bool) -> Self {
        Self { masked, state: State::Header, held: Vec::new(), open: false }
    }

    /// Takes bytes; appends messages' payloads to `out` and the last of what else was said, a close before a ping.
    pub(super) fn read(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) -> Result<Option<Said>, FrameError> {
        let mut said = None;
        loop {
            match &mut self.state {
                State::Closed => return Ok(said),
                State::Header => {
                    let Some(used) = self.header(bytes)? else { return Ok(said) };
                    bytes = &bytes[used..];
                }
                State::Data { left: 0, .. } => self.state = State::Header,
                State::Data { left, mask, at } => {
                    let n = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                    let start = out.len();
                    out.extend_from_slice(&bytes[..n]);
                    if let Some(mask) = mask {
                        apply(*mask, *at, &mut out[start..]);
                    }
                    *at = (*at + n) % 4;
                    *left -= n as u64;
                    bytes = &bytes[n..];
                    if bytes.is_empty() {
                        return Ok(said);
                    }
                }
                State::Control { opcode, length, mask } => {
                    let n = (*length - self.held.len()).min(bytes.len());
                    self.held.extend_from_slice(&bytes[..n]);
                    bytes = &bytes[n..];
                    if self.held.len() < *length {
                        return Ok(said);
                    }
                    let mut payload = std::mem::take(&mut self.held);
                    if let Some(mask) = mask {
                        apply(*mask, 0, &mut payload);
                    }
                    let opcode = *opcode;
                    self.state = State::Header;
                    self.control(opcode, payload, &mut said)?;
                }
            }
        }
    }

    fn control(
        &mut self,
        opcode: Opcode,
        payload: Vec<u8>,
        said: &mut Option<Said>,
    ) -> Result<(), FrameError> {
        match (opcode, payload.as_slice()) {
            // Only the latest of several is owed an answer (section 5.5.3).
            (Opcode::Ping, _) => *said = Some(Said::Ping(payload)),
            (Opcode::Close, []) => *said = Some(Said::Close(None)),
            (Opcode::Close, [high, low, ..]) => {
                *said = Some(Said::Close(Some(u16::from_be_bytes([*high, *low]))));
            }
            (Opcode::Close, _) => return Err(FrameError::Control),
            _ => {}
        }
        if opcode == Opcode::Close {
            self.state = State::Closed;
        }
        Ok(())
    }

    /// Looks for a whole header at the front of what is held and of `bytes`; gives how many of the latter it used.
    fn header(&mut self, bytes: &[u8]) -> Result<Option<usize>, FrameError> {
        let held = self.held.len();
        let more = bytes.len().min(MAX_HEADER - held);
        self.held.extend_from_slice(&bytes[..more]);
        let Some(header) = Header::parse(&self.held, self.masked)? else { return Ok(None) };
        self.held.clear();
        let Header { first, length, mask, size } = header;
        let fin = first & FIN != 0;
        let opcode = match first & 0xf {
            0 => Opcode::Continuation,
            2 => Opcode::Binary,
            8 => Opcode::Close,
            9 => Opcode::Ping,
            10 => Opcode::Pong,
            other => return Err(FrameError::Opcode(other)),
        };
        self.state = if opcode.is_control() {
            let length = usize::try_from(length).map_err(|_| FrameError::Control)?;
            if !fin || length > MAX_CONTROL {
                return Err(FrameError::Control);
            }
            State::Control { opcode, length, mask }
        } else {
            if (opcode == Opcode::Continuation) != self.open {
                return Err(FrameError::Fragment);
            }
            self.open = !fin;
            State::Data { left: length, mask, at: 0 }
        };
        Ok(Some(size - held))
    }
}

struct Header {
    first: u8,
    length: u64,
    mask: Option<[u8; 4]>,
    size: usize,
}

impl Header {
    fn parse(bytes: &[u8], masked: bool) -> Result<Option<Self>, FrameError> {
        let &[first, second, ref rest @ ..] = bytes else { return Ok(None) };
        if first & RSV != 0 {
            return Err(FrameError::Reserved);
        }
        if (second & MASKED != 0) != masked {
            return Err(FrameError::Mask);
        }
        let (length, rest) = match second & !MASKED {
            126 => {
                let Some((length, rest)) = rest.split_first_chunk::<2>() else { return Ok(None) };
                let length = u64::from(u16::from_be_bytes(*length));
                (Some(length).filter(|length| *length >= 126), rest)
            }
            127 => {
                let Some((length, rest)) = rest.split_first_chunk::<8>() else { return Ok(None) };
                (
                    Some(u64::from_be_bytes(*length)).filter(|length| (65_536..=MAX_FRAME).contains(length)),
                    rest,
                )
            }
            short => (Some(u64::from(short)), rest),
        };
        let length = length.ok_or(FrameError::Length)?;
        let (mask, rest) = if masked {
            let Some((mask, rest)) = rest.split_first_chunk::<4>() else { return Ok(None) };
            (Some(*mask), rest)
        } else {
            (None, rest)
        };
        Ok(Some(Self { first, length, mask, size: bytes.len() - rest.len() }))
    }
}

/// Appends one whole frame; `mask` for a client's.
#[allow(clippy::cast_possible_truncation, reason = "each length is matched to the width it is written in")]
pub(super) fn write(opcode: Opcode, payload: &[u8], mask: Option<[u8; 4]>, out: &mut Vec<u8>) {
    out.push(FIN | opcode as u8);
    let bit = if mask.is_some() { MASKED } else { 0 };
    match payload.len() {
        length @ 0..126 => out.push(bit | length as u8),
        length @ 126..65_536 => {
            out.push(bit | 126);
            out.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            out.push(bit | 127);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    let start = out.len() + mask.map_or(0, |mask| mask.len());
    out.extend(mask.into_iter().flatten());
    out.extend_from_slice(payload);
    if let Some(mask) = mask {
        apply(mask, 0, &mut out[start..]);
    }
}

/// Masks or unmasks bytes that begin `at` in their frame (section 5.3).
fn apply(mask: [u8; 4], at: usize, bytes: &mut [u8]) {
    let mut turned = mask;
    turned.rotate_left(at % 4);
    let wide = u64::from_ne_bytes([turned, turned].concat().try_into().unwrap_or_default());
    let (words, rest) = bytes.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    for (byte, mask) in rest.iter_mut().zip(turned.iter().cycle()) {
        *byte ^= mask;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(masked: bool, bytes: &[u8]) -> Result<(Vec<u8>, Option<Said>), FrameError> {
        let mut out = Vec::new();
        let said = Decoder::new(masked).read(bytes, &mut out)?;
        Ok((out, said))
    }

    /// RFC 6455, section 5.7, with binary in place of text.
    #[test]
    fn the_standards_examples() {
        let hello = b"Hello".to_vec();
        assert_eq!(all(false, b"\x82\x05Hello"), Ok((hello.clone(), None)));
        let masked = b"\x82\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58";
        assert_eq!(all(true, masked), Ok((hello.clone(), None)));
        let mut out = Vec::new();
        write(Opcode::Binary, b"Hello", Some([0x37, 0xfa, 0x21, 0x3d]), &mut out);
        assert_eq!(out, masked);
        assert_eq!(all(false, b"\x02\x03Hel\x80\x02lo"), Ok((hello.clone(), None)));
        assert_eq!(all(false, b"\x89\x05Hello"), Ok((vec![], Some(Said::Ping(hello)))));
        for (length, header) in [(256, "\u{2}~\u{1}\0"), (65_536, "\u{2}\x7f\0\0\0\0\0\u{1}\0\0")] {
            let mut out = Vec::new();
            write(Opcode::Binary, &vec![7; length], None, &mut out);
            assert_eq!((out[0], &out[1..header.len()]), (0x82, &header.as_bytes()[1..]));
        }
    }

    #[test]
    fn what_the_standard_forbids_is_refused() {
        for (bytes, error) in [
            (&b"\xc2\x01a"[..], FrameError::Reserved),
            (b"\xa2\x01a", FrameError::Reserved),
            (b"\x81\x01a", FrameError::Opcode(1)),
            (b"\x83\x01a", FrameError::Opcode(3)),
            (b"\x8b\x00", FrameError::Opcode(11)),
            (b"\x82\x81aaaaa", FrameError::Mask),
            (b"\x82\x7e\x00\x7d", FrameError::Length),
            (b"\x82\x7f\x00\x00\x00\x00\x00\x00\xff\xff", FrameError::Length),
            (b"\x82\x7f\x80\x00\x00\x00\x00\x00\x00\x00", FrameError::Length),
            (b"\x82\x7f\x00\x00\x00\x00\x01\x00\x00\x01", FrameError::Length),
            (b"\x09\x00", FrameError::Control),
            (b"\x89\x7e\x00\x7e", FrameError::Control),
            (b"\x88\x01a", FrameError::Control),
            (b"\x80\x01a", FrameError::Fragment),
            (b"\x02\x01a\x82\x01b", FrameError::Fragment),
        ] {
            assert_eq!(all(false, bytes), Err(error), "{bytes:02x?}");
        }
        assert_eq!(all(true, b"\x82\x01a"), Err(FrameError::Mask));
    }

    #[test]
    fn nothing_counts_after_a_close() {
        assert_eq!(
            all(false, b"\x82\x01a\x88\x02\x03\xe8\x82\x01b\xff"),
            Ok((vec![b'a'], Some(Said::Close(Some(1000)))))
        );
        assert_eq!(all(false, b"\x88\x00\x89\x00"), Ok((vec![], Some(Said::Close(None)))));
    }

    proptest! {
        #[test]
        fn messages_come_back_however_they_are_cut(
            messages in proptest::collection::vec((proptest::collection::vec(any::<u8>(), 0..300), any::<[u8; 4]>(), any::<bool>()), 0..6),
            cut in 1usize..400, masked: bool,
        ) {
            let (mut bytes, mut sent) = (Vec::new(), Vec::new());
            for (message, mask, ping) in &messages {
                let mask = masked.then_some(*mask);
                if *ping {
                    write(Opcode::Ping, &message[..message.len().min(125)], mask, &mut bytes);
                }
                write(Opcode::Binary, message, mask, &mut bytes);
                sent.extend_from_slice(message);
            }
            let (mut decoder, mut got) = (Decoder::new(masked), Vec::new());
            for piece in bytes.chunks(cut) {
                decoder.read(piece, &mut got).unwrap();
                prop_assert!(decoder.held.len() <= MAX_CONTROL);
            }
            prop_assert_eq!(got, sent);
        }

        #[test]
        fn any_bytes_never_panic_or_grow(bytes in proptest::collection::vec(any::<u8>(), 0..600), cut in 1usize..50, masked: bool) {
            let (mut decoder, mut out) = (Decoder::new(masked), Vec::new());
            for piece in bytes.chunks(cut) {
                if decoder.read(piece, &mut out).is_err() { break; }
                prop_assert!(decoder.held.len() <= MAX_CONTROL && out.len() <= bytes.len());
            }
        }
    }
}
