use super::{Direction, OpenError, Secret, Suite};
use crate::record::{split, unpad};

/// Opens TLS records of one direction. A record that does not open leaves the index as it was.
pub struct Opener(Direction);

impl Opener {
    /// An opener for the record of index `next_index`, under a secret whose first record had `first_index`.
    pub fn new(suite: Suite, secret: Secret, first_index: u64, next_index: u64) -> Self {
        Self(Direction::new(suite, secret, first_index, next_index))
    }

    /// Opens a whole record, header included, and returns its inner type. `record` stays as it is; the content
    /// replaces what was in `scratch`, where after an error nothing is left.
    pub fn open(&mut self, record: &[u8], scratch: &mut Vec<u8>) -> Result<u8, OpenError> {
        scratch.clear();
        let (header, body) = split(record)?;
        scratch.extend_from_slice(body);
        let sequence = self.0.sequence();
        let opened = self
            .0
            .aead
            .open(sequence, header, scratch)
            .ok_or(OpenError::Sealed)
            .and_then(|plain| unpad(plain));
        match opened {
            Ok((inner_type, length)) => {
                scratch.truncate(length);
                self.0.advance();
                Ok(inner_type)
            }
            Err(error) => {
                scratch.clear();
                Err(error)
            }
        }
    }

    /// Awaits the record of this index, under the same secret.
    pub(crate) fn go_to(&mut self, index: u64) {
        self.0.next_index = index;
    }

    /// Goes on under the next generation of the secret: call it right after a KeyUpdate message was opened
    /// (RFC 8446, section 4.6.3).
    pub fn key_update(&mut self) {
        self.0.key_update();
    }

    /// Where this direction stands.
    pub fn direction(&self) -> &Direction {
        &self.0
    }
}
