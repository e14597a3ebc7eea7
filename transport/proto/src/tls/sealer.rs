use zeroize::Zeroize;

use super::{Direction, MAX_CONTENT, Secret, Suite};
use crate::aead::TAG_LEN;
use crate::record::{HEADER_LEN, OVERHEAD, header};

/// Seals TLS records of one direction.
pub struct Sealer(Direction);

impl Sealer {
    /// A sealer for the record of index `next_index`, under a secret whose first record had `first_index`.
    pub fn new(suite: Suite, secret: Secret, first_index: u64, next_index: u64) -> Self {
        Self(Direction::new(suite, secret, first_index, next_index))
    }

    /// Appends a whole record: `content` of `inner_type`, without padding.
    ///
    /// Content beyond [`MAX_CONTENT`] goes into further records.
    pub fn seal(&mut self, inner_type: u8, content: &[u8], out: &mut Vec<u8>) {
        let mut rest = content;
        while let Some((full, after)) =
            rest.split_at_checked(MAX_CONTENT).filter(|(_, after)| !after.is_empty())
        {
            self.append(inner_type, full, out);
            self.0.advance();
            rest = after;
        }
        self.append(inner_type, rest, out);
        self.0.advance();
    }

    /// Appends a whole record, the last `field_len` bytes of whose content `choose` may choose by the ciphertext
    /// they give.
    ///
    /// `choose` gets the record up to the field, as it will stand on the wire; the keystream at the field; and the
    /// field itself, to be overwritten. Ciphertext is plaintext XOR keystream in all of TLS 1.3's ciphers. Content
    /// beyond [`MAX_CONTENT`] goes into records of its own before the one with the field; a field longer than the
    /// content is all of it.
    pub fn seal_with(
        &mut self,
        inner_type: u8,
        content: &mut [u8],
        field_len: usize,
        choose: impl FnOnce(&[u8], &[u8], &mut [u8]),
        out: &mut Vec<u8>,
    ) {
        let (before, content) = content.split_at_mut(content.len().saturating_sub(MAX_CONTENT));
        if !before.is_empty() {
            self.seal(inner_type, before, out);
        }
        let start = out.len();
        // What comes of this first pass is not sent: it shows the keystream. No nonce serves twice on the wire.
        self.append(inner_type, content, out);
        let field_at = content.len().saturating_sub(field_len);
        let (_, field) = content.split_at_mut(field_at);
        let Some((record, sealed)) =
            out.get_mut(start..).and_then(|record| record.split_at_mut_checked(HEADER_LEN + field_at))
        else {
            return;
        };
        for (byte, plain) in sealed.iter_mut().zip(&*field) {
            *byte ^= plain;
        }
        let keystream = sealed.get_mut(..field.len()).unwrap_or_default();
        choose(record, keystream, field);
        keystream.zeroize();
        out.truncate(start);
        self.append(inner_type, content, out);
        self.0.advance();
    }

    /// Appends the record that the next index gives, without moving on.
    fn append(&mut self, inner_type: u8, content: &[u8], out: &mut Vec<u8>) {
        let header = header(content.len() + OVERHEAD);
        out.reserve(HEADER_LEN + content.len() + OVERHEAD);
        out.extend_from_slice(&header);
        let body = out.len();
        out.extend_from_slice(content);
        out.push(inner_type);
        out.extend_from_slice(&[0; TAG_LEN]);
        let sequence = self.0.sequence();
        if let Some(body) = out.get_mut(body..) {
            self.0.aead.seal(sequence, &header, body);
        }
    }

    /// Goes on under the next generation of the secret: call it right after sealing a KeyUpdate message
    /// (RFC 8446, section 4.6.3).
    pub fn key_update(&mut self) {
        self.0.key_update();
    }

    /// Where this direction stands.
    pub fn direction(&self) -> &Direction {
        &self.0
    }
}
