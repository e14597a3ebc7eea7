//! Compares two observations modulo what is random or a matter of a machine's load.
//!
//! # What varies
//!
//! Measured on 2026-11-21: every probe against each decoy of the tests (nginx, Apache, lighttpd with OpenSSL and with GnuTLS,
//! Caddy), again and again, 32 at a time, on two cores:
//!
//! - What answers a script has the same records and the same end each time: 237 scripts, some 9 times against each server.
//! - So has what answers a client, of 145, if its records arrive one at a time: 4 ms apart, all but 4 with Apache, 6 and 28 with
//!   lighttpd, 20 with Caddy. Together they make a server race with itself, whether it acknowledges SETTINGS before its alert,
//!   how it cuts its answers, FIN or RST: then 90 and more had two faces and more with each server.
//! - Times differ by a few milliseconds, those of servers that look at their timers once in a while by up to a second and a half; but
//!   connections that begin together end together.

use std::time::Duration;

use super::pool::Round;
use super::{Observation, SPREADS, Seen};

/// By how much two observations may differ and still be the same.
#[derive(Clone, Copy, Debug)]
pub struct Tolerance {
    /// For the time at which something happens, of connections that began together.
    pub time: Duration,
    /// For a ciphertext record's length, bytes. An answer's date and tag are Huffman coded, so its length varies.
    pub length: usize,
}

impl Default for Tolerance {
    fn default() -> Self {
        Self { time: Duration::from_millis(50), length: 8 }
    }
}

impl Tolerance {
    /// With as much time for this feature as the decoy's own plays ask for, where that is more.
    pub(super) fn widened(self, feature: Feature, rounds: &[Round]) -> Self {
        let apart = |round: &Round| {
            let [one, other] = round.decoy.each_ref().map(|observation| feature.time(observation));
            Some(one?.abs_diff(other?))
        };
        let mut spreads: Vec<Duration> = rounds.iter().filter_map(apart).collect();
        spreads.sort_unstable();
        // Of two the smaller: one that was late by itself says little.
        let median = spreads.get(spreads.len().saturating_sub(1) / 2).copied().unwrap_or_default();
        Self { time: self.time.max(median * SPREADS), ..self }
    }
}

/// The shortest ciphertext record whose length may vary: below are alerts, SETTINGS, PING and GOAWAY, which have one
/// length each.
const VARYING: usize = 64;

/// What an observer can go by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feature {
    /// What came, and how it ended.
    Shape,
    /// When the first byte came.
    First,
    /// When the last byte came.
    Last,
    /// When it ended.
    End,
}

impl Feature {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Shape, Self::First, Self::Last, Self::End];

    /// How the bridge's observation differs from the decoy's in this; empty where it does not.
    #[must_use]
    pub fn compare(self, decoy: &Observation, bridge: &Observation, tolerance: Tolerance) -> Vec<String> {
        let what = match self {
            Self::Shape => return compare_shapes(decoy, bridge, tolerance),
            Self::First => "first byte",
            Self::Last => "last byte",
            Self::End => "end",
        };
        let (theirs, ours) = (self.time(decoy), self.time(bridge));
        let same = match (theirs, ours) {
            (Some(theirs), Some(ours)) => theirs.abs_diff(ours) <= tolerance.time,
            // Whether there is one is the shape's.
            _ => true,
        };
        if same { Vec::new() } else { vec![format!("the {what} came at {ours:?}, not at {theirs:?}")] }
    }
}

impl Feature {
    /// When it was, for those that are times.
    fn time(self, observation: &Observation) -> Option<Duration> {
        match self {
            Self::Shape => None,
            Self::First => observation.first_at,
            Self::Last => observation.last_at,
            Self::End => observation.ended_at,
        }
    }
}

/// What differs, in words; empty where the two are the same.
#[must_use]
pub fn compare(decoy: &Observation, bridge: &Observation, tolerance: Tolerance) -> Vec<String> {
    Feature::ALL.iter().flat_map(|feature| feature.compare(decoy, bridge, tolerance)).collect()
}

fn compare_shapes(decoy: &Observation, bridge: &Observation, tolerance: Tolerance) -> Vec<String> {
    let mut found = Vec::new();
    compare_records(&decoy.records, &bridge.records, tolerance, &mut found);
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

fn same_record(a: &Seen, b: &Seen, tolerance: Tolerance) -> bool {
    let varies = a.kind == 23 && a.length.min(b.length) > VARYING;
    let lengths = if varies { a.length.abs_diff(b.length) <= tolerance.length } else { a.length == b.length };
    lengths && (a.kind, a.version, a.whole, a.alert) == (b.kind, b.version, b.whole, b.alert)
}

/// Plain text without the line that says what time it is.
fn undated(plain: &[u8]) -> Vec<&[u8]> {
    plain.split(|b| *b == b'\n').filter(|line| !line.to_ascii_lowercase().starts_with(b"date:")).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::support::flow::End;

    fn record(kind: u8, length: usize) -> Seen {
        Seen { kind, version: 0x0303, length, whole: true, alert: None }
    }

    pub(in super::super) fn some() -> Observation {
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
        other.ended_at = Some(Duration::from_millis(2_040));
        other.first_at = Some(Duration::from_millis(50));
        assert!(compare(&some(), &other, Tolerance::default()).is_empty());
    }

    #[test]
    fn a_time_counts_by_what_the_decoys_own_plays_differ_by() {
        let round = |apart: u64| {
            let mut late = some();
            late.first_at = late.first_at.map(|at| at + Duration::from_millis(apart));
            Round { probe: String::new(), decoy: [some(), late], bridge: some() }
        };
        let time = |feature, apart: &[u64]| {
            let rounds: Vec<Round> = apart.iter().map(|apart| round(*apart)).collect();
            Tolerance::default().widened(feature, &rounds).time
        };
        let usual = Tolerance::default().time;
        assert_eq!(time(Feature::First, &[]), usual);
        assert_eq!(time(Feature::First, &[1, 2, 1, 3, 900, 800]), usual);
        assert_eq!(time(Feature::First, &[40, 50, 60, 70, 0, 50]), Duration::from_millis(150));
        assert_eq!(time(Feature::End, &[40, 50, 60]), usual);
    }

    #[test]
    fn every_tell_counts() {
        let tells: [fn(&mut Observation); 13] = [
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
            |o| o.end = None,
            |o| o.first_at = Some(Duration::from_millis(110)),
            |o| o.ended_at = Some(Duration::from_millis(1_900)),
        ];
        for (number, tell) in tells.iter().enumerate() {
            let mut other = some();
            tell(&mut other);
            assert_eq!(compare(&some(), &other, Tolerance::default()).len(), 1, "tell {number}");
            assert_eq!(compare(&other, &some(), Tolerance::default()).len(), 1, "tell {number}, reversed");
        }
    }
}
