//! What was seen of one direction of a connection, cut into TLS records where it is TLS.

use std::time::{Duration, Instant};

/// Bytes kept of one direction. Records are noted however many bytes there are.
const MAX_RAW: usize = 4 << 20;

/// Reads noted of one direction: a transfer of a gigabyte in pieces of a TCP segment.
const MAX_READS: usize = 1 << 20;

/// A TLS record's header, bytes.
pub const HEADER: usize = 5;

/// How a direction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// In order: TCP's FIN.
    Fin,
    /// Abruptly: TCP's RST.
    Rst,
}

/// One TLS record (RFC 8446, section 5.1), whole or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Content type: 20 change cipher spec, 21 alert, 22 handshake, 23 application data.
    pub kind: u8,
    /// The version in the header.
    pub version: u16,
    /// The length in the header, bytes.
    pub length: usize,
    /// How many of them came.
    pub present: usize,
    /// Where its header begins in the direction's bytes.
    pub offset: usize,
    /// When its last byte so far came, since the connection began.
    pub at: Duration,
}

/// One direction of a connection.
#[derive(Clone, Debug)]
pub struct Flow {
    started: Instant,
    raw: Vec<u8>,
    total: usize,
    records: Vec<Record>,
    reads: Vec<(Duration, usize)>,
    header: Vec<u8>,
    plain: bool,
    first: Option<Duration>,
    last: Option<Duration>,
    end: Option<(End, Duration)>,
}

impl Flow {
    /// Nothing seen yet; times count from `started`.
    #[must_use]
    pub fn new(started: Instant) -> Self {
        Self {
            started,
            raw: Vec::new(),
            total: 0,
            records: Vec::new(),
            reads: Vec::new(),
            header: Vec::new(),
            plain: false,
            first: None,
            last: None,
            end: None,
        }
    }

    /// Bytes came.
    pub fn push(&mut self, mut bytes: &[u8], now: Instant) {
        let at = now.saturating_duration_since(self.started);
        self.first.get_or_insert(at);
        self.last = Some(at);
        if self.reads.len() < MAX_READS {
            self.reads.push((at, bytes.len()));
        }
        let room = MAX_RAW.saturating_sub(self.raw.len()).min(bytes.len());
        self.raw.extend(bytes.get(..room).unwrap_or_default());
        while !bytes.is_empty() && !self.plain {
            let taken = self.scan(bytes, at);
            self.total += taken;
            bytes = bytes.get(taken..).unwrap_or_default();
        }
        self.total += bytes.len();
    }

    /// Takes what belongs to the record under way, or to the next header.
    fn scan(&mut self, bytes: &[u8], at: Duration) -> usize {
        if let Some(record) = self.records.last_mut().filter(|record| record.present < record.length) {
            let taken = bytes.len().min(record.length - record.present);
            record.present += taken;
            record.at = at;
            return taken;
        }
        let taken = bytes.len().min(HEADER - self.header.len());
        self.header.extend(bytes.get(..taken).unwrap_or_default());
        if !looks_like_header(&self.header) {
            self.plain = true;
        } else if let [kind, major, minor, high, low] = *self.header {
            self.header.clear();
            self.records.push(Record {
                kind,
                version: u16::from_be_bytes([major, minor]),
                length: u16::from_be_bytes([high, low]).into(),
                present: 0,
                offset: self.total + taken - HEADER,
                at,
            });
        }
        taken
    }

    /// The direction ended; only the first end counts.
    pub fn ended(&mut self, end: End, now: Instant) {
        self.end.get_or_insert((end, now.saturating_duration_since(self.started)));
    }

    /// When the connection began: what times count from.
    #[must_use]
    pub fn started(&self) -> Instant {
        self.started
    }

    /// The bytes, up to a bound of some megabytes.
    #[must_use]
    pub fn raw(&self) -> &[u8] {
        &self.raw
    }

    /// How many bytes came.
    #[must_use]
    pub fn total(&self) -> usize {
        self.total
    }

    /// The TLS records, the last perhaps in part.
    #[must_use]
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// What came at once, and when: the time since the connection began, and the number of bytes.
    #[must_use]
    pub fn reads(&self) -> &[(Duration, usize)] {
        &self.reads
    }

    /// A record's bytes with its header, as far as they were kept.
    #[must_use]
    pub fn record_bytes(&self, record: &Record) -> &[u8] {
        let end = (record.offset + HEADER + record.present).min(self.raw.len());
        self.raw.get(record.offset..end).unwrap_or_default()
    }

    /// What is not TLS: everything from the first header that is none. Empty where all is TLS so far.
    #[must_use]
    pub fn not_tls(&self) -> &[u8] {
        let tls = self.records.last().map_or(0, |record| record.offset + HEADER + record.present);
        self.raw.get(tls..).unwrap_or_default()
    }

    /// When the first byte came, since the connection began.
    #[must_use]
    pub fn first(&self) -> Option<Duration> {
        self.first
    }

    /// When the last byte came.
    #[must_use]
    pub fn last(&self) -> Option<Duration> {
        self.last
    }

    /// How and when the direction ended, or `None` while it is open.
    #[must_use]
    pub fn end(&self) -> Option<(End, Duration)> {
        self.end
    }
}

/// Whether these first bytes can begin a TLS record.
fn looks_like_header(header: &[u8]) -> bool {
    header.first().is_none_or(|kind| (20..=24).contains(kind))
        && header.get(1).is_none_or(|major| *major == 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: &[u8] = &[22, 3, 1, 0, 3, 1, 2, 3, 21, 3, 3, 0, 2, 2, 40];

    #[test]
    fn records_are_the_same_however_the_bytes_come() {
        let now = Instant::now();
        let mut whole = Flow::new(now);
        whole.push(TWO, now);
        for cut in 0..=TWO.len() {
            let mut flow = Flow::new(now);
            flow.push(&TWO[..cut], now);
            flow.push(&TWO[cut..], now);
            assert_eq!(flow.records(), whole.records(), "cut at {cut}");
            assert_eq!((flow.total(), flow.not_tls()), (TWO.len(), &[][..]));
        }
        assert_eq!(whole.record_bytes(&whole.records()[1]), &TWO[8..]);
        assert_eq!((whole.records()[0].length, whole.records()[1].kind), (3, 21));
    }

    #[test]
    fn what_is_not_tls_is_kept_apart() {
        let now = Instant::now();
        let mut flow = Flow::new(now);
        flow.push(&[TWO, b"HTTP/1.1 400"].concat(), now);
        assert_eq!((flow.records().len(), flow.not_tls()), (2, &b"HTTP/1.1 400"[..]));
        let mut flow = Flow::new(now);
        flow.push(&TWO[..10], now);
        assert_eq!((flow.records().len(), flow.not_tls()), (1, &TWO[8..10]));
    }
}
