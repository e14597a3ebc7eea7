use super::{Cipher, HEADER_LEN, OVERHEAD, OpenError, PROOF_NONCE_LEN, TYPE_FRAMES, split, unpad};
use crate::aead::Aead;

/// Opens the records of one direction. A record that does not open leaves the index as it was.
pub struct RecordOpener {
    aead: Aead,
    index: u64,
}

impl RecordOpener {
    /// An opener that awaits the record of this index.
    pub fn new(cipher: Cipher, key: &[u8; 32], iv: [u8; 12], index: u64) -> Self {
        Self { aead: Aead::new(cipher.algorithm(), key, iv), index }
    }

    /// Opens a whole record by way of `scratch`, so that `record` may still go on as it is, and returns inner type
    /// and content. What was in `scratch` is replaced.
    pub fn open<'a>(&mut self, record: &[u8], scratch: &'a mut Vec<u8>) -> Result<(u8, &'a [u8]), OpenError> {
        let (header, body) = split(record)?;
        let (inner_type, content) = self.open_copy(header, body, scratch)?;
        Ok((inner_type, content))
    }

    /// Opens a whole record where it stands. Where it fails with anything but [`OpenError::Header`], what was in
    /// `record` is destroyed.
    pub fn open_in_place<'a>(&mut self, record: &'a mut [u8]) -> Result<(u8, &'a mut [u8]), OpenError> {
        split(record)?;
        let (header, body) = record.split_at_mut_checked(HEADER_LEN).ok_or(OpenError::Header)?;
        self.open_body(header, body)
    }

    /// Opens a proof record (`docs/protocol.md`, section 5) by way of `scratch` and returns its content, PADDING
    /// frames. The keys follow from [`proof_nonce`].
    pub fn open_proof<'a>(&mut self, record: &[u8], scratch: &'a mut Vec<u8>) -> Result<&'a [u8], OpenError> {
        split(record)?;
        let (aad, body) = record.split_at_checked(HEADER_LEN + PROOF_NONCE_LEN).ok_or(OpenError::Sealed)?;
        match self.open_copy(aad, body, scratch)? {
            (TYPE_FRAMES, content) => Ok(content),
            _ => Err(OpenError::Type),
        }
    }

    fn open_copy<'a>(
        &mut self,
        aad: &[u8],
        body: &[u8],
        scratch: &'a mut Vec<u8>,
    ) -> Result<(u8, &'a mut [u8]), OpenError> {
        scratch.clear();
        scratch.extend_from_slice(body);
        self.open_body(aad, scratch)
    }

    fn open_body<'a>(&mut self, aad: &[u8], body: &'a mut [u8]) -> Result<(u8, &'a mut [u8]), OpenError> {
        let plain = self.aead.open(self.index, aad, body).ok_or(OpenError::Sealed)?;
        let (inner_type, length) = unpad(plain)?;
        let content = plain.get_mut(..length).ok_or(OpenError::Type)?;
        self.index = self.index.wrapping_add(1);
        Ok((inner_type, content))
    }

    /// The index of the record that is awaited.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// Goes on under another key; the index runs on.
    pub fn rekey(&mut self, cipher: Cipher, key: &[u8; 32], iv: [u8; 12]) {
        self.aead = Aead::new(cipher.algorithm(), key, iv);
    }
}

/// The random value at the beginning of a record that may be a proof, to derive the keys from that would open it.
///
/// `None` if the record is too short to be one.
pub fn proof_nonce(record: &[u8]) -> Option<&[u8; PROOF_NONCE_LEN]> {
    let (_, body) = split(record).ok()?;
    let (nonce, sealed) = body.split_first_chunk()?;
    (sealed.len() >= OVERHEAD).then_some(nonce)
}
