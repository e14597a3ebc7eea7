//! HPACK's two tables (RFC 7541, sections 2.3 and appendix A).

use std::collections::VecDeque;

/// The static table; its indices begin at 1.
#[rustfmt::skip]
pub(crate) const STATIC: [(&str, &str); 61] = [
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    ("accept-language", ""),
    ("accept-ranges", ""),
    ("accept", ""),
    ("access-control-allow-origin", ""),
    ("age", ""),
    ("allow", ""),
    ("authorization", ""),
    ("cache-control", ""),
    ("content-disposition", ""),
    ("content-encoding", ""),
    ("content-language", ""),
    ("content-length", ""),
    ("content-location", ""),
    ("content-range", ""),
    ("content-type", ""),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("expect", ""),
    ("expires", ""),
    ("from", ""),
    ("host", ""),
    ("if-match", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("if-range", ""),
    ("if-unmodified-since", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("max-forwards", ""),
    ("proxy-authenticate", ""),
    ("proxy-authorization", ""),
    ("range", ""),
    ("referer", ""),
    ("refresh", ""),
    ("retry-after", ""),
    ("server", ""),
    ("set-cookie", ""),
    ("strict-transport-security", ""),
    ("transfer-encoding", ""),
    ("user-agent", ""),
    ("vary", ""),
    ("via", ""),
    ("www-authenticate", ""),
];

/// What an entry costs beside its name and value (RFC 7541, section 4.1).
const ENTRY_OVERHEAD: usize = 32;

/// One header field, as octets: a decoy may send what is not UTF-8.
pub(crate) type Entry = (Vec<u8>, Vec<u8>);

/// The dynamic table of one direction.
#[derive(Clone, Debug)]
pub(crate) struct Dynamic {
    entries: VecDeque<Entry>,
    size: usize,
    limit: usize,
}

impl Dynamic {
    /// An empty table that holds at most `limit` bytes by RFC 7541's count.
    pub(crate) fn new(limit: usize) -> Self {
        Self { entries: VecDeque::new(), size: 0, limit }
    }

    /// Changes the limit and drops what no longer fits.
    pub(crate) fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
        self.make_room(0);
    }

    /// The limit in force, in bytes.
    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// Adds an entry in front. One too large for the table empties it and is not added (RFC 7541, section 4.4).
    pub(crate) fn insert(&mut self, name: &[u8], value: &[u8]) {
        let cost = name.len() + value.len() + ENTRY_OVERHEAD;
        self.make_room(cost);
        if cost <= self.limit {
            self.size += cost;
            self.entries.push_front((name.to_vec(), value.to_vec()));
        }
    }

    fn make_room(&mut self, cost: usize) {
        while self.size + cost > self.limit {
            let Some((name, value)) = self.entries.pop_back() else { return };
            self.size -= name.len() + value.len() + ENTRY_OVERHEAD;
        }
    }

    /// The field at an index of both tables together, counted from 1.
    pub(crate) fn get(&self, index: usize) -> Option<(&[u8], &[u8])> {
        let index = index.checked_sub(1)?;
        match STATIC.get(index) {
            Some((name, value)) => Some((name.as_bytes(), value.as_bytes())),
            None => self.entries.get(index - STATIC.len()).map(|(name, value)| (&name[..], &value[..])),
        }
    }

    /// The index of a field that is in a table: the static one first, then the latest entry.
    pub(crate) fn find(&self, name: &[u8], value: &[u8]) -> Option<usize> {
        let fixed = STATIC.iter().position(|(n, v)| n.as_bytes() == name && v.as_bytes() == value);
        fixed.map(|place| place + 1).or_else(|| {
            let place = self.entries.iter().position(|(n, v)| n == name && v == value)?;
            Some(STATIC.len() + 1 + place)
        })
    }

    /// The index of a name, in the same order.
    pub(crate) fn find_name(&self, name: &[u8]) -> Option<usize> {
        let fixed = STATIC.iter().position(|(n, _)| n.as_bytes() == name);
        fixed.map(|place| place + 1).or_else(|| {
            let place = self.entries.iter().position(|(n, _)| n == name)?;
            Some(STATIC.len() + 1 + place)
        })
    }
}
