//! An HPACK decoder for what a decoy sends, bounded in time and memory.

use super::huffman;
use super::table::Dynamic;

/// The table a decoy's encoder may use: what Chrome's SETTINGS grant (SETTINGS_HEADER_TABLE_SIZE).
const MAX_TABLE: usize = 65_536;
/// What a decoded header list may add up to: what Chrome's SETTINGS grant (SETTINGS_MAX_HEADER_LIST_SIZE), counted as
/// RFC 9113 does, 32 bytes a field beside name and value. It also bounds a block that repeats one large table entry.
pub(crate) const MAX_LIST: usize = 262_144;
/// What a field costs beside its letters (RFC 9113, section 6.5.2).
const FIELD_OVERHEAD: usize = 32;
/// Longest form of an integer, in continuation bytes: enough for 28 bits, more than any size allowed here.
const MAX_CONTINUATION: u32 = 4;

/// Why a header block cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HpackError {
    /// The block is not HPACK.
    #[error("a header block is not valid HPACK")]
    Malformed,
    /// The list is larger than SETTINGS allow.
    #[error("a header list is larger than 262144 bytes")]
    TooLarge,
}

/// The decoder of one connection.
#[derive(Debug)]
pub(crate) struct Decoder {
    table: Dynamic,
    scratch: (Vec<u8>, Vec<u8>),
}

impl Decoder {
    /// A decoder with an empty table of 4,096 bytes.
    pub(crate) fn new() -> Self {
        Self { table: Dynamic::new(4096), scratch: (Vec::new(), Vec::new()) }
    }

    /// Decodes one whole block and gives each field to `each`. After an error the connection's table is lost.
    pub(crate) fn decode(
        &mut self,
        block: &[u8],
        mut each: impl FnMut(&[u8], &[u8]),
    ) -> Result<(), HpackError> {
        let mut input = Input(block);
        let (mut list, mut fields) = (0usize, false);
        while let Some(first) = input.0.first().copied() {
            if first & 0xe0 == 0x20 {
                let size = input.integer(5)?;
                // Only at a block's start (RFC 7541, section 4.2).
                if fields || size > MAX_TABLE {
                    return Err(HpackError::Malformed);
                }
                self.table.set_limit(size);
                continue;
            }
            fields = true;
            if first & 0x80 != 0 {
                let (name, value) = self.table.get(input.integer(7)?).ok_or(HpackError::Malformed)?;
                count(&mut list, name, value)?;
                each(name, value);
            } else {
                let insert = first & 0x40 != 0;
                self.literal(&mut input, if insert { 6 } else { 4 })?;
                let (name, value) = (&self.scratch.0, &self.scratch.1);
                count(&mut list, name, value)?;
                each(name, value);
                if insert {
                    self.table.insert(name, value);
                }
            }
        }
        Ok(())
    }

    fn literal(&mut self, input: &mut Input<'_>, bits: u32) -> Result<(), HpackError> {
        let index = input.integer(bits)?;
        self.scratch.0.clear();
        self.scratch.1.clear();
        if index == 0 {
            input.string(&mut self.scratch.0)?;
        } else {
            let (name, _) = self.table.get(index).ok_or(HpackError::Malformed)?;
            self.scratch.0.extend_from_slice(name);
        }
        input.string(&mut self.scratch.1)
    }
}

fn count(list: &mut usize, name: &[u8], value: &[u8]) -> Result<(), HpackError> {
    *list += name.len() + value.len() + FIELD_OVERHEAD;
    if *list > MAX_LIST { Err(HpackError::TooLarge) } else { Ok(()) }
}

struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> Result<u8, HpackError> {
        let (first, rest) = self.0.split_first().ok_or(HpackError::Malformed)?;
        self.0 = rest;
        Ok(*first)
    }

    fn integer(&mut self, bits: u32) -> Result<usize, HpackError> {
        let full = (1usize << bits) - 1;
        let mut value = usize::from(self.byte()?) & full;
        if value < full {
            return Ok(value);
        }
        for place in 0..MAX_CONTINUATION {
            let byte = self.byte()?;
            value += usize::from(byte & 0x7f) << (7 * place);
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(HpackError::Malformed)
    }

    fn string(&mut self, out: &mut Vec<u8>) -> Result<(), HpackError> {
        let coded = self.0.first().is_some_and(|first| first & 0x80 != 0);
        let length = self.integer(7)?;
        let (text, rest) = self.0.split_at_checked(length).ok_or(HpackError::Malformed)?;
        self.0 = rest;
        if !coded {
            out.extend_from_slice(text);
        } else if !huffman::decode(text, out) {
            return Err(HpackError::Malformed);
        }
        Ok(())
    }
}
