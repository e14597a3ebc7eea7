//! Joining the first handshake message of one direction from its records.

/// Longest message in bytes, its 4-byte header included. Chrome's hellos have about 2,000; what is longer than one
/// record can be is a visitor's (docs/protocol.md, section 2), and this is all the memory a stranger gets.
pub const MAX_MESSAGE: usize = 16_384;

/// Bytes of a record's header: type, version, length.
const RECORD_HEADER: usize = 5;
/// Bytes of a handshake message's header: type, u24 length.
const MESSAGE_HEADER: usize = 4;
/// Longest plaintext record (RFC 8446, section 5.1).
const MAX_RECORD: usize = 16_384;
/// Content type `handshake`.
const HANDSHAKE: u8 = 22;

/// What is known after a [`push`](Assembler::push).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// The message is not complete.
    More,
    /// The message is complete.
    Message {
        /// The message, its 4-byte handshake header included, without record headers.
        raw: Vec<u8>,
        /// The offset in the direction's byte stream just after the last record that held part of the message.
        end: usize,
    },
    /// This is not the hello that was waited for, or one that is not understood here.
    NotTls,
}

/// Joins the first handshake message of one direction, from offset 0 of its byte stream.
///
/// Call [`push`](Self::push) with each piece, of any size, in order, until it gives something else than
/// [`Progress::More`]; after that it gives [`Progress::NotTls`]. The message may be split over records, but must end
/// where a record ends (in TLS 1.3 keys change after both hellos: RFC 8446, section 5.1). It keeps at most
/// [`MAX_MESSAGE`] bytes and, since every record carries at least one of them, sees at most six times as many.
#[derive(Debug)]
pub struct Assembler {
    message_type: u8,
    /// Bytes of the stream consumed so far.
    consumed: usize,
    /// The header of the record that is being read.
    header: [u8; RECORD_HEADER],
    header_len: usize,
    /// Bytes of the current record's content still to come.
    left: usize,
    message: Vec<u8>,
    done: bool,
}

impl Assembler {
    /// Waits for a ClientHello.
    pub fn client() -> Self {
        Self::new(1)
    }

    /// Waits for a ServerHello (a HelloRetryRequest is one too).
    pub fn server() -> Self {
        Self::new(2)
    }

    fn new(message_type: u8) -> Self {
        let header = [0; RECORD_HEADER];
        Self { message_type, consumed: 0, header, header_len: 0, left: 0, message: Vec::new(), done: false }
    }

    /// Takes the next bytes of the stream. Bytes behind the message's last record are not looked at.
    pub fn push(&mut self, mut bytes: &[u8]) -> Progress {
        let mut progress = if self.done { Progress::NotTls } else { Progress::More };
        while progress == Progress::More && !bytes.is_empty() {
            (progress, bytes) = self.step(bytes);
        }
        self.done = progress != Progress::More;
        progress
    }

    /// Consumes at least one byte.
    fn step<'a>(&mut self, bytes: &'a [u8]) -> (Progress, &'a [u8]) {
        let wanted = if self.left == 0 { RECORD_HEADER - self.header_len } else { self.left };
        let (piece, rest) = bytes.split_at(wanted.min(bytes.len()));
        self.consumed += piece.len();
        if self.left == 0 {
            self.header[self.header_len..][..piece.len()].copy_from_slice(piece);
            self.header_len += piece.len();
            (if self.header_fits() { Progress::More } else { Progress::NotTls }, rest)
        } else {
            self.message.extend_from_slice(piece);
            self.left -= piece.len();
            (self.check_message(), rest)
        }
    }

    /// Looks at the record header as far as it has come: what is wrong is wrong at its first byte, so that plain HTTP
    /// is let go at once.
    fn header_fits(&mut self) -> bool {
        let [kind, major, _, high, low] = self.header;
        if kind != HANDSHAKE || (self.header_len > 1 && major != 3) {
            return false;
        }
        if self.header_len == RECORD_HEADER {
            self.header_len = 0;
            self.left = usize::from(u16::from_be_bytes([high, low]));
            return (1..=MAX_RECORD).contains(&self.left) && self.record_ends_within();
        }
        true
    }

    /// Whether the record that is being read ends at or before the message's end, as far as that is known.
    fn record_ends_within(&self) -> bool {
        let limit = self.message_len().unwrap_or(MAX_MESSAGE);
        self.message.len() + self.left <= limit
    }

    fn message_len(&self) -> Option<usize> {
        let header: &[u8; MESSAGE_HEADER] = self.message.first_chunk()?;
        let [_, a, b, c] = *header;
        Some(MESSAGE_HEADER + (usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c)))
    }

    fn check_message(&mut self) -> Progress {
        if self.message.first().is_some_and(|first| *first != self.message_type) || !self.record_ends_within()
        {
            return Progress::NotTls;
        }
        match self.message_len() {
            Some(length) if length > MAX_MESSAGE => Progress::NotTls,
            Some(length) if length == self.message.len() => {
                Progress::Message { raw: std::mem::take(&mut self.message), end: self.consumed }
            }
            _ => Progress::More,
        }
    }
}

#[cfg(test)]
mod tests;
