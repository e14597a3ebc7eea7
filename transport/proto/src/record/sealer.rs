use super::{Cipher, HEADER_LEN, MAX_CONTENT, MAX_LENGTH, OVERHEAD, PROOF_NONCE_LEN, TYPE_FRAMES, header};
use crate::aead::{Aead, TAG_LEN};

/// Seals the records of one direction.
///
/// Content is written straight into the buffer that goes to the socket: [`begin`](Self::begin), append, then
/// [`finish`](Self::finish), which seals it where it stands.
pub struct RecordSealer {
    aead: Aead,
    index: u64,
}

impl RecordSealer {
    /// A sealer whose next record has this index.
    pub fn new(cipher: Cipher, key: &[u8; 32], iv: [u8; 12], index: u64) -> Self {
        Self { aead: Aead::new(cipher.algorithm(), key, iv), index }
    }

    /// Makes room for a header at the end of `out` and returns where the record starts. The caller appends at most
    /// [`MAX_CONTENT`] bytes of content.
    pub fn begin(&self, out: &mut Vec<u8>) -> usize {
        let start = out.len();
        out.extend_from_slice(&[0; HEADER_LEN]);
        start
    }

    /// Seals in place the record that began at `start`.
    ///
    /// `length` is the wanted value of the length field, reached with zero padding; one that is too small for the
    /// content is ignored, one above [`MAX_LENGTH`] counts as that. Content beyond [`MAX_CONTENT`] is a caller's
    /// error; it is cut, so that the peer finds a frame that does not fit and ends the tunnel.
    pub fn finish(&mut self, out: &mut Vec<u8>, start: usize, inner_type: u8, length: Option<usize>) {
        self.close(out, start, HEADER_LEN, inner_type, length.unwrap_or(0));
    }

    /// Appends a whole proof record (`docs/protocol.md`, section 5): `nonce` in the clear, then `content`, which is
    /// nothing but PADDING frames, sealed with inner type 23. `length` as for [`finish`](Self::finish).
    pub fn seal_proof(
        &mut self,
        out: &mut Vec<u8>,
        nonce: &[u8; PROOF_NONCE_LEN],
        content: &[u8],
        length: usize,
    ) {
        let start = self.begin(out);
        out.extend_from_slice(nonce);
        out.extend_from_slice(content);
        self.close(out, start, HEADER_LEN + PROOF_NONCE_LEN, TYPE_FRAMES, length);
    }

    /// Pads, writes the header and seals; what lies before `clear` bytes after `start` is associated data.
    fn close(&mut self, out: &mut Vec<u8>, start: usize, clear: usize, inner_type: u8, length: usize) {
        let content = out.len().saturating_sub(start + HEADER_LEN);
        debug_assert!(content <= MAX_CONTENT, "content of {content} bytes");
        let content = content.min(MAX_CONTENT);
        let length = length.clamp(content + OVERHEAD, MAX_LENGTH);
        out.truncate(start + HEADER_LEN + content);
        out.push(inner_type);
        // Padding and the tag's place.
        out.resize(start + HEADER_LEN + length, 0);
        let Some((aad, body)) = out.get_mut(start..).and_then(|record| record.split_at_mut_checked(clear))
        else {
            // `begin` was not called: there is no record here to seal.
            debug_assert!(false, "no record begins at {start}");
            out.truncate(start);
            return;
        };
        for (to, from) in aad.iter_mut().zip(header(length)) {
            *to = from;
        }
        debug_assert!(body.len() > TAG_LEN);
        self.aead.seal(self.index, aad, body);
        self.index = self.index.wrapping_add(1);
    }

    /// The index of the next record.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// Goes on under another key; the index runs on.
    pub fn rekey(&mut self, cipher: Cipher, key: &[u8; 32], iv: [u8; 12]) {
        self.aead = Aead::new(cipher.algorithm(), key, iv);
    }
}
