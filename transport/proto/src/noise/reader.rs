use super::NoiseError;

/// Bytes of the length before a message.
const LENGTH_LEN: usize = 2;

/// Joins the pieces of a message, `length(u16) ‖ message`, from the contents of records of type 22.
///
/// Messages of one direction alternate with the other's, so nothing may follow one before it is answered. Holds at most
/// the longest message it was made for.
#[derive(Debug)]
pub struct MessageReader {
    buffer: Vec<u8>,
    max: usize,
}

impl MessageReader {
    /// A reader of messages of 1 to `max` bytes, such as [`MESSAGE1_MAX`](super::MESSAGE1_MAX).
    pub fn new(max: usize) -> Self {
        Self { buffer: Vec::new(), max }
    }

    /// Takes the content of one record; gives the message, without its length, that it completes.
    ///
    /// # Errors
    /// [`NoiseError::Length`] as soon as the length is known to be out of bounds, [`NoiseError::Trailing`] if anything
    /// follows the message. The reader is of no use afterwards.
    pub fn push(&mut self, piece: &[u8]) -> Result<Option<Vec<u8>>, NoiseError> {
        self.buffer.extend_from_slice(piece);
        let Some((prefix, message)) = self.buffer.split_first_chunk::<LENGTH_LEN>() else { return Ok(None) };
        let length = usize::from(u16::from_be_bytes(*prefix));
        if length == 0 || length > self.max {
            return Err(NoiseError::Length(length));
        }
        if message.len() > length {
            return Err(NoiseError::Trailing);
        }
        if message.len() < length {
            return Ok(None);
        }
        let mut whole = std::mem::take(&mut self.buffer);
        whole.drain(..LENGTH_LEN);
        Ok(Some(whole))
    }

    /// Whether part of a message is held.
    pub fn is_partial(&self) -> bool {
        !self.buffer.is_empty()
    }
}

/// A message as it is cut over records: its length (u16), then itself.
pub fn framed(message: &[u8]) -> Vec<u8> {
    debug_assert!(message.len() <= super::MESSAGE1_MAX);
    let length = u16::try_from(message.len()).unwrap_or(u16::MAX);
    [&length.to_be_bytes(), message].concat()
}
