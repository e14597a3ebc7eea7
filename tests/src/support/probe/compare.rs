//! Compares two observations modulo what is random or a matter of a machine's load.

use std::time::Duration;

use super::{Observation, Seen};

/// By how much two observations may differ and still be the same.
#[derive(Clone, Copy, Debug)]
pub struct Tolerance {
    /// For what happens within a second of the beginning.
    pub early: Duration,
    /// For what happens later: servers look at their timers once a second.
    pub late: Duration,
    /// For a ciphertext record's length, bytes. An answer's date and tag are Huffman coded, so its length varies.
    pub length: usize,
    /// Whether the same ciphertext may be cut into other records: servers that answer several requests, or that are told
    /// something wrong meanwhile, write when they get to it.
    pub recut: bool,
}

impl Default for Tolerance {
    fn default() -> Self {
        Self {
            early: Duration::from_millis(400),
            late: Duration::from_millis(1_400),
            length: 8,
            recut: false,
        }
    }
}

/// From when on an event is late.
const EARLY: Duration = Duration::from_secs(1);

/// The shortest ciphertext record whose length may vary: below are alerts, SETTINGS, PING and GOAWAY, which have one
/// length each.
const VARYING: usize = 64;

/// A SETTINGS frame's record, 57 bytes, that a server may not come to send, and little else.
const RECUT_ANYWAY: usize = 64;

/// A record's type byte and tag, 17 bytes, a frame's head, 9, and a few for a date.
const RECUT_A_RECORD: usize = 40;

/// What differs, in words; empty where the two are the same.
#[must_use]
pub fn compare(decoy: &Observation, bridge: &Observation, tolerance: Tolerance) -> Vec<String> {
    let mut found = Vec::new();
    if !(tolerance.recut && same_but_recut(&decoy.records, &bridge.records, tolerance)) {
        compare_records(&decoy.records, &bridge.records, tolerance, &mut found);
    }
    if undated(&decoy.plain) != undated(&bridge.plain) {
        found.push(format!(
            "the plain text is {:?}, not {:?}",
            String::from_utf8_lossy(&bridge.plain),
            String::from_utf8_lossy(&decoy.plain)
        ));
    }
    if decoy.end != bridge.end {
        found.push(format!("the end is {:?}, not {:?}", bridge.end, decoy.end));
    }
    if let (Some(theirs), Some(ours)) = (decoy.then_resets, bridge.then_resets)
        && theirs != ours
    {
        found.push(format!("a reset after the end: {ours}, not {theirs}"));
    }
    for (what, theirs, ours) in [
        ("end", decoy.ended_at, bridge.ended_at),
        ("first byte", decoy.first_at, bridge.first_at),
        ("last byte", decoy.last_at, bridge.last_at),
    ] {
        if !same_time(theirs, ours, tolerance) {
            found.push(format!("the {what} came at {ours:?}, not at {theirs:?}"));
        }
    }
    found
}

fn compare_records(decoy: &[Seen], bridge: &[Seen], tolerance: Tolerance, found: &mut Vec<String>) {
    if decoy.len() != bridge.len() {
        found.push(format!("{} records, not {}", bridge.len(), decoy.len()));
    }
    for (number, (theirs, ours)) in decoy.iter().zip(bridge).enumerate() {
        if !same_record(theirs, ours, tolerance) {
            found.push(format!("record {number} is {ours:?}, not {theirs:?}"));
        }
    }
}

/// Whether both are the same but for how the ciphertext is cut: all that is in the clear, the last record, and the
/// ciphertext's sum. What a record and a frame have of their own may come as often as the numbers of records differ, and one
/// control frame may be left unsaid; a record put in by somebody, a proof most of all, is longer.
fn same_but_recut(a: &[Seen], b: &[Seen], tolerance: Tolerance) -> bool {
    let clear =
        |seen: &[Seen]| -> Vec<Seen> { seen.iter().filter(|record| record.kind != 23).cloned().collect() };
    let last = match (a.last(), b.last()) {
        (Some(a), Some(b)) => same_record(a, b, tolerance),
        (a, b) => a.is_none() && b.is_none(),
    };
    let sum = |seen: &[Seen]| -> usize {
        seen.iter().filter(|record| record.kind == 23).map(|record| record.length).sum()
    };
    let allowed = RECUT_ANYWAY + RECUT_A_RECORD * a.len().abs_diff(b.len());
    last && clear(a) == clear(b) && sum(a).abs_diff(sum(b)) <= allowed
}

fn same_record(a: &Seen, b: &Seen, tolerance: Tolerance) -> bool {
    let varies = a.kind == 23 && a.length.min(b.length) > VARYING;
    let lengths = if varies { a.length.abs_diff(b.length) <= tolerance.length } else { a.length == b.length };
    lengths && (a.kind, a.version, a.whole, a.alert) == (b.kind, b.version, b.whole, b.alert)
}

fn same_time(a: Option<Duration>, b: Option<Duration>, tolerance: Tolerance) -> bool {
    match (a, b) {
        (None, None) => true,
        (Some(a), Some(b)) => {
            a.abs_diff(b) <= if a.min(b) < EARLY { tolerance.early } else { tolerance.late }
        }
        _ => false,
    }
}

/// Plain text without the line that says what time it is.
fn undated(plain: &[u8]) -> Vec<&[u8]> {
    plain.split(|b| *b == b'\n').filter(|line| !line.to_ascii_lowercase().starts_with(b"date:")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::flow::End;

    fn record(kind: u8, length: usize) -> Seen {
        Seen { kind, version: 0x0303, length, whole: true, alert: None }
    }

    fn some() -> Observation {
        Observation {
            records: vec![record(22, 122), record(23, 19), record(23, 300)],
            plain: b"HTTP/1.1 400\r\nDate: Monday\r\n".to_vec(),
            end: Some(End::Fin),
            ended_at: Some(Duration::from_secs(2)),
            first_at: Some(Duration::from_millis(10)),
            last_at: Some(Duration::from_millis(20)),
            then_resets: Some(true),
        }
    }

    #[test]
    fn what_is_random_does_not_count() {
        let mut other = some();
        assert!(compare(&some(), &other, Tolerance::default()).is_empty());
        other.records[2].length += 3;
        other.plain = b"HTTP/1.1 400\r\nDate: Tuesday\r\n".to_vec();
        other.ended_at = Some(Duration::from_millis(2_900));
        other.first_at = Some(Duration::from_millis(90));
        assert!(compare(&some(), &other, Tolerance::default()).is_empty());
    }

    #[test]
    fn another_cut_counts_only_where_none_is_expected() {
        let mut other = some();
        other.records.splice(1..2, [record(23, 57), record(23, 19)]);
        other.records.swap(1, 2);
        let recut = Tolerance { recut: true, ..Tolerance::default() };
        assert!(!compare(&some(), &other, Tolerance::default()).is_empty());
        assert!(compare(&some(), &other, recut).is_empty());
        for tell in [record(23, 150), record(22, 19), record(21, 2)] {
            for place in [1, 3] {
                let mut other = some();
                other.records.insert(place, tell.clone());
                assert!(!compare(&some(), &other, recut).is_empty(), "{tell:?} at {place}");
            }
        }
    }

    #[test]
    fn every_tell_counts() {
        let tells: [fn(&mut Observation); 12] = [
            |o| o.records.truncate(2),
            |o| o.records[0].length += 1,
            |o| o.records[1].length += 1,
            |o| o.records[2].length += 20,
            |o| o.records[1].kind = 21,
            |o| o.records[1].whole = false,
            |o| o.records[1].alert = Some((2, 40)),
            |o| o.plain.push(b'!'),
            |o| o.end = Some(End::Rst),
            |o| o.then_resets = Some(false),
            |o| o.ended_at = None,
            |o| o.first_at = Some(Duration::from_millis(700)),
        ];
        for (number, tell) in tells.iter().enumerate() {
            let mut other = some();
            tell(&mut other);
            assert_eq!(compare(&some(), &other, Tolerance::default()).len(), 1, "tell {number}");
            assert_eq!(compare(&other, &some(), Tolerance::default()).len(), 1, "tell {number}, reversed");
        }
    }
}
