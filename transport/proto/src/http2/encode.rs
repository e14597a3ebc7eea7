//! An HPACK encoder whose output is Chrome's, byte for byte.
//!
//! Chrome's choices, which RFC 7541 leaves open: a field in a table is sent as its index, the static table before the
//! dynamic one and the latest entry first; every other field is added to the table, but for pseudo-header fields other
//! than `:authority`; a string is Huffman-coded only when that is shorter; a table size is announced when the
//! peer's SETTINGS change it. Vectors: `tests/vectors/chrome156`.

use super::huffman;
use super::table::Dynamic;

/// The table's size before the peer's SETTINGS say otherwise (RFC 9113, section 6.5.2).
const DEFAULT_TABLE: usize = 4096;
/// The largest table that is kept, whatever the peer offers: enough for a page load several times over, and a bound on memory.
const MAX_TABLE: usize = 65_536;

/// How a string may be coded.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Coding {
    Shortest,
    Plain,
}

/// The encoder of one connection. Cloning it tries an encoding without keeping it.
#[derive(Clone, Debug)]
pub(crate) struct Encoder {
    table: Dynamic,
    /// Sizes to announce at the start of the next block: the smallest since the last one, and the present one.
    announce: Option<(usize, usize)>,
}

impl Encoder {
    /// An encoder with an empty table.
    pub(crate) fn new() -> Self {
        Self { table: Dynamic::new(DEFAULT_TABLE), announce: None }
    }

    /// The peer's SETTINGS_HEADER_TABLE_SIZE.
    pub(crate) fn set_table_size(&mut self, size: u32) {
        let size = usize::try_from(size).unwrap_or(MAX_TABLE).min(MAX_TABLE);
        let before = self.table.limit();
        if size == before {
            return;
        }
        let smallest = self.announce.map_or(usize::MAX, |(smallest, _)| smallest);
        let smallest = if size < before { smallest.min(size) } else { smallest };
        self.announce = Some((smallest, size));
        self.table.set_limit(size);
    }

    /// Begins a block: the announcements that are due.
    pub(crate) fn begin(&mut self, out: &mut Vec<u8>) {
        if let Some((smallest, present)) = self.announce.take() {
            if smallest < present {
                integer(0x20, 5, smallest, out);
            }
            integer(0x20, 5, present, out);
        }
    }

    /// Appends one field as Chrome would.
    pub(crate) fn field(&mut self, name: &str, value: &str, out: &mut Vec<u8>) {
        let (name, value) = (name.as_bytes(), value.as_bytes());
        if let Some(index) = self.table.find(name, value) {
            integer(0x80, 7, index, out);
            return;
        }
        let indexed = name == b":authority" || !name.starts_with(b":");
        let (pattern, bits) = if indexed { (0x40, 6) } else { (0x00, 4) };
        self.literal(pattern, bits, name, out);
        string(value, Coding::Shortest, out);
        if indexed {
            self.table.insert(name, value);
        }
    }

    /// Appends a literal field whose value is not Huffman-coded, so that it ends the block as it stands: for a value
    /// that is chosen after the block is made. It must be the connection's last field: the decoder adds the chosen
    /// value to its table, this one does not. (The form that is added is one byte shorter, which makes the knock fit.)
    pub(crate) fn plain_field(&self, name: &str, value: &[u8], out: &mut Vec<u8>) {
        self.literal(0x40, 6, name.as_bytes(), out);
        string(value, Coding::Plain, out);
    }

    fn literal(&self, pattern: u8, bits: u32, name: &[u8], out: &mut Vec<u8>) {
        if let Some(index) = self.table.find_name(name) {
            integer(pattern, bits, index, out);
        } else {
            out.push(pattern);
            string(name, Coding::Shortest, out);
        }
    }
}

/// Appends an integer with a prefix of `bits` bits (RFC 7541, section 5.1).
#[allow(clippy::cast_possible_truncation, reason = "each value is masked to the bits that are kept")]
pub(crate) fn integer(pattern: u8, bits: u32, value: usize, out: &mut Vec<u8>) {
    let full = (1usize << bits) - 1;
    if value < full {
        out.push(pattern | value as u8);
        return;
    }
    out.push(pattern | full as u8);
    let mut rest = value - full;
    while rest >= 0x80 {
        out.push(((rest & 0x7f) | 0x80) as u8);
        rest >>= 7;
    }
    out.push(rest as u8);
}

fn string(text: &[u8], coding: Coding, out: &mut Vec<u8>) {
    let coded = huffman::encoded_len(text);
    if coding == Coding::Shortest && coded < text.len() {
        integer(0x80, 7, coded, out);
        huffman::encode(text, out);
    } else {
        integer(0x00, 7, text.len(), out);
        out.extend_from_slice(text);
    }
}
