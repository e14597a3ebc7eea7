//! What the censor's wire shows of a connection, read from its bytes alone.

use std::collections::HashSet;
use std::time::Duration;

use anyhow::{Context, Result};
use qnet_tests::ja4::{Hello, extension};
use qnet_tests::support::flow::Flow;
use qnet_tests::support::link::Trace;

/// Where a ServerHello's session id begins in its record: the headers of record and message, version, random
/// (RFC 8446, section 4.1.3).
const SESSION_ID: usize = 5 + 4 + 2 + 32;

/// Bytes in a row that count as the page's. Ciphertext matches so many by chance once in 2^128.
pub(crate) const PIECE: usize = 16;

/// A connection as its observer knows it.
pub(crate) struct Seen {
    /// The server name asked for.
    pub(crate) name: String,
    /// The hello's JA4.
    pub(crate) ja4: String,
    /// Application protocols offered.
    pub(crate) protocols: String,
    /// Whether the hello has an Encrypted Client Hello or what looks like one.
    pub(crate) ech: bool,
    /// The version and cipher suite that the server chose.
    pub(crate) chosen: String,
    /// Towards the server.
    pub(crate) up: Direction,
    /// Towards the client.
    pub(crate) down: Direction,
    /// From the first byte to the last.
    pub(crate) lasted: Duration,
}

/// One direction of a connection.
pub(crate) struct Direction {
    /// How many TLS records.
    pub(crate) records: usize,
    /// How many bytes.
    pub(crate) bytes: usize,
    /// The first records' lengths, as their headers give them.
    pub(crate) first: Vec<usize>,
}

impl Seen {
    /// Reads a connection's trace.
    ///
    /// # Errors
    /// It is not TLS.
    pub(crate) fn read(trace: &Trace) -> Result<Self> {
        let hello = Hello::parse(first_record(&trace.up)).context("the client sent no ClientHello")?;
        let protocols = hello.protocols().unwrap_or_default();
        let protocols: Vec<_> = protocols.into_iter().map(String::from_utf8_lossy).collect();
        let times = |flow: &Flow| (flow.first().unwrap_or_default(), flow.last().unwrap_or_default());
        let (up, down) = (times(&trace.up), times(&trace.down));
        Ok(Self {
            name: hello.server_name().unwrap_or("none").to_owned(),
            ja4: hello.ja4(),
            protocols: protocols.join(", "),
            ech: hello.extension(extension::ECH).is_some(),
            chosen: chosen(first_record(&trace.down)).context("the server sent no ServerHello")?,
            up: Direction::read(&trace.up),
            down: Direction::read(&trace.down),
            lasted: up.1.max(down.1).saturating_sub(up.0),
        })
    }
}

impl Direction {
    fn read(flow: &Flow) -> Self {
        Self {
            records: flow.records().len(),
            bytes: flow.total(),
            first: flow.records().iter().take(14).map(|record| record.length).collect(),
        }
    }
}

fn first_record(flow: &Flow) -> &[u8] {
    flow.records().first().map_or(&[], |record| flow.record_bytes(record))
}

/// Version and cipher suite of the ServerHello that begins `record`.
fn chosen(record: &[u8]) -> Option<String> {
    (record.first() == Some(&22) && record.get(5) == Some(&2)).then_some(())?;
    let session_id = usize::from(*record.get(SESSION_ID)?);
    let rest = record.get(SESSION_ID + 1 + session_id..)?;
    let suite = match *rest.first_chunk()? {
        [0x13, 0x01] => "AES-128-GCM".to_owned(),
        [0x13, 0x02] => "AES-256-GCM".to_owned(),
        [0x13, 0x03] => "ChaCha20-Poly1305".to_owned(),
        other => format!("suite {:04x}", u16::from_be_bytes(other)),
    };
    // Suite, compression method, length of the extensions; then extensions.
    let mut extensions = rest.get(5..)?;
    while let [kind_high, kind_low, high, low, after @ ..] = extensions {
        let (body, next) = after.split_at_checked(usize::from(u16::from_be_bytes([*high, *low])))?;
        let kind = u16::from_be_bytes([*kind_high, *kind_low]);
        if kind == extension::SUPPORTED_VERSIONS && body == [3, 4] {
            return Some(format!("TLS 1.3, {suite}"));
        }
        extensions = next;
    }
    Some(format!("TLS 1.2 or older, {suite}"))
}

/// How many pieces of `page` are to be found in `wire`, wherever they begin.
pub(crate) fn pieces_of(page: &[u8], wire: &[u8]) -> usize {
    let (pieces, _) = page.as_chunks::<PIECE>();
    let pieces: HashSet<&[u8]> = pieces.iter().map(<[u8; PIECE]>::as_slice).collect();
    wire.windows(PIECE).filter(|window| pieces.contains(window)).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_found_wherever_they_begin() {
        let page: Vec<u8> = (0..64u8).collect();
        for before in 0..20 {
            let wire = [&vec![0xff; before][..], &page[16..48], &[0xff; 3]].concat();
            assert_eq!(pieces_of(&page, &wire), 2);
        }
        assert_eq!(pieces_of(&page, &page[17..31]), 0);
    }

    #[test]
    fn a_server_hello_tells_version_and_suite_and_a_cut_one_nothing_wrong() {
        let mut record = vec![22, 3, 3, 0, 56, 2, 0, 0, 52, 3, 3];
        record.extend([7; 32]);
        record.extend([2, 1, 2, 0x13, 0x02, 0, 0, 10, 0, 51, 0, 0, 0, 43, 0, 2, 3, 4]);
        assert_eq!(chosen(&record).as_deref(), Some("TLS 1.3, AES-256-GCM"));
        for end in 0..record.len() {
            assert_ne!(chosen(&record[..end]).as_deref(), Some("TLS 1.3, AES-256-GCM"));
        }
    }
}
