//! 8. Tor's cells: lengths a multiple of 514 bytes apart.

use std::collections::BTreeMap;

use anyhow::Result;
use statrs::distribution::{Binomial, DiscreteCDF};

use crate::capture::{Capture, Connection, Way, bursts};
use crate::detector::{About, Detector, Judgement, Role, Threshold, Verdict, each_capture};
use crate::load::Load;
use crate::stage::Field;
use crate::transport::Kind;

const SOURCE: &str = "tor-spec, section 3 (cells of 514 bytes), and Winter and Lindskog, ScrambleSuit, WPES 2013, on what their lengths give away";

/// A cell's length; and with the record of TLS 1.3 around one cell.
const PERIODS: [usize; 2] = [514, 514 + 22];

/// Other lengths that a comb might have: what chance gives.
const OTHERS: std::ops::RangeInclusive<usize> = 400..=700;

/// No other length as near to a cell's as this is counted as chance.
const APART: usize = 6;

/// A tooth's half width, bytes.
const TOOTH: usize = 1;

/// Shorter ones carry no cell.
const SHORTEST: usize = 400;

/// A TLS record's most, and all its neighbours that are full: they say how much there was, not what.
const FULL: usize = 16_300;

/// Fewer lengths than this show nothing: what carried Tor's cells and of which either side has no more records cannot be judged.
const FEWEST: usize = 20;

/// Chance that a comb as clear as this is none, corrected for the number of combs looked at.
const CHANCE: f64 = 1e-4;

/// A comb's least part of all lengths, its largest tooth left out.
const PART: f64 = 0.15;

/// The detector.
#[derive(Debug)]
pub struct Cells;

impl Detector for Cells {
    fn about(&self) -> About {
        let ours = "set here before the first measurement: no published rule has figures";
        About {
            number: 8,
            name: "cells' lengths",
            source: SOURCE,
            rule: "Lengths of application records, and bytes that go one way until the other side speaks, are laid on combs whose teeth \
                   are a cell (514 bytes), or a cell in a TLS record (536 bytes), apart. How many lie on the best such comb, its largest \
                   tooth left out, is compared with combs of other lengths from 400 to 700 bytes. Of lengths that visits to the same page \
                   have in common those of one visit count: they say what the page is, each time again.",
            thresholds: vec![
                Threshold {
                    what: "part on the comb beside its largest tooth",
                    value: "flagged at 15 % or more".into(),
                    source: ours,
                },
                Threshold {
                    what: "p-value against combs of other lengths (binomial, Bonferroni for 8 combs)",
                    value: "and below 0.0001".into(),
                    source: ours,
                },
            ],
            gate: true,
        }
    }

    fn examine(&self, field: &Field) -> Result<Vec<Verdict>> {
        Ok(each_capture(field, role, judge))
    }
}

fn role(capture: &Capture) -> Option<Role> {
    match (capture.transport, capture.load) {
        (Kind::Plain, Load::Page | Load::Tour | Load::Talk) => Some(Role::Negative),
        (Kind::Plain | Kind::Tunnel, Load::Tor) => Some(Role::Positive),
        (Kind::Qnet | Kind::QnetWebsocket, _) => Some(Role::Subject),
        _ => Some(Role::Beside),
    }
}

fn judge(capture: &Capture) -> Judgement {
    let mut worst = Comb { part: 0.0, chance: 1.0 };
    let (mut found, mut counts) = (Vec::new(), Vec::new());
    for way in [Way::Up, Way::Down] {
        let records = |one: &Connection| one.data(way).map(|record| record.length).collect();
        let turns = |one: &Connection| {
            let bursts = bursts(one.packets.iter().map(|packet| (packet.way, packet.bytes)));
            bursts.into_iter().filter(|burst| burst.way == way).map(|burst| burst.bytes).collect()
        };
        for (what, lengths) in [("records", lengths(capture, records)), ("turns", lengths(capture, turns))] {
            counts.push((what, way, lengths.len()));
            for period in PERIODS {
                let comb = comb(&lengths, period);
                if comb.flagged() {
                    found.push(format!(
                        "{what} {way:?} {period}: part {:.2}, p {:.1e}",
                        comb.part, comb.chance
                    ));
                }
                if comb.chance < worst.chance {
                    worst = comb;
                }
            }
        }
    }
    let cells = carries_cells(capture) && role(capture) == Some(Role::Subject);
    // The server's lengths say nothing of the client's, and what goes one way in a turn is made of records.
    let few = counts.iter().filter(|(what, _, count)| *what == "records" && *count < FEWEST);
    let few: Vec<String> = few
        .map(|(what, way, count)| format!("{count} {what} {way:?}, where {FEWEST} are needed to show a comb"))
        .collect();
    let unjudged = (cells && !few.is_empty()).then(|| few.join("; "));
    let judgement =
        Judgement { flagged: !found.is_empty(), note: found.join("; "), unjudged, ..Judgement::default() }
            .figure("lowest p", worst.chance)
            .figure("its part", worst.part);
    counts.into_iter().fold(judgement, |judgement, (what, way, count)| {
        judgement.figure(format!("{what} {way:?}"), count as f64)
    })
}

fn carries_cells(capture: &Capture) -> bool {
    matches!(capture.load, Load::Tor | Load::RealTor)
}

/// The lengths that are looked at. Each length of a page counts as often as in the visit that has most of it.
fn lengths(capture: &Capture, of: impl Fn(&Connection) -> Vec<usize>) -> Vec<usize> {
    let mut visits: BTreeMap<usize, BTreeMap<usize, usize>> = BTreeMap::new();
    for one in &capture.connections {
        let visit = visits.entry(if carries_cells(capture) { 0 } else { one.visit }).or_default();
        for length in of(one).into_iter().filter(|length| (SHORTEST..FULL).contains(length)) {
            *visit.entry(length).or_default() += 1;
        }
    }
    let mut most = BTreeMap::new();
    for (length, count) in visits.into_values().flatten() {
        let known = most.entry(length).or_insert(0);
        *known = count.max(*known);
    }
    most.into_iter().flat_map(|(length, count)| std::iter::repeat_n(length, count)).collect()
}

#[derive(Clone, Copy, Debug)]
struct Comb {
    part: f64,
    chance: f64,
}

impl Comb {
    fn flagged(self) -> bool {
        self.part >= PART && self.chance < CHANCE
    }
}

/// How clearly `lengths` lie on a comb of this period.
fn comb(lengths: &[usize], period: usize) -> Comb {
    let none = Comb { part: 0.0, chance: 1.0 };
    if lengths.len() < FEWEST {
        return none;
    }
    let others: Vec<usize> = OTHERS
        .filter(|other| PERIODS.iter().all(|period| other.abs_diff(*period) > APART))
        .map(|other| on_comb(lengths, other))
        .collect();
    let mean = others.iter().sum::<usize>() as f64 / others.len() as f64;
    // A comb that no other length shows would otherwise be impossible, not unlikely.
    let expected = mean.max(1.0) / lengths.len() as f64;
    let on = on_comb(lengths, period);
    let chance = match Binomial::new(expected.min(1.0), lengths.len() as u64) {
        Ok(binomial) if on > 0 => binomial.sf(on as u64 - 1),
        _ => 1.0,
    };
    let combs = (PERIODS.len() * 4) as f64;
    Comb { part: on as f64 / lengths.len() as f64, chance: (chance * combs).min(1.0) }
}

/// The most lengths on any comb of this period, without its largest tooth: a length that is merely frequent is no comb.
fn on_comb(lengths: &[usize], period: usize) -> usize {
    let mut by_phase = vec![Vec::new(); period];
    for length in lengths {
        by_phase.get_mut(length % period).into_iter().for_each(|lengths| lengths.push(*length));
    }
    let most = |first: usize| {
        let near = (0..=2 * TOOTH).filter_map(|off| by_phase.get((first + period + off - TOOTH) % period));
        let mut teeth = BTreeMap::new();
        for length in near.flatten() {
            *teeth.entry((length + TOOTH) / period).or_insert(0) += 1;
        }
        teeth.values().sum::<usize>() - teeth.values().max().copied().unwrap_or(0)
    };
    (0..period).map(most).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::Record;

    /// Lengths between the shortest and the longest, in no order.
    fn scattered(count: usize) -> impl Iterator<Item = usize> {
        (0..count).map(|number| SHORTEST + number * 7_919 % (FULL - SHORTEST))
    }

    #[test]
    fn a_comb_is_seen_and_scatter_is_not() {
        let cells: Vec<usize> = (0..100).map(|number| 514 * (1 + number % 7) + 39).collect();
        assert!(comb(&cells, 514).flagged(), "{:?}", comb(&cells, 514));
        let none: Vec<usize> = scattered(300).collect();
        assert!(!comb(&none, 514).flagged() && !comb(&none, 536).flagged());
        let hidden: Vec<usize> = cells.iter().copied().chain(scattered(200)).collect();
        assert!(comb(&hidden, 514).flagged(), "{:?}", comb(&hidden, 514));
    }

    /// A connection of records of these lengths.
    fn connection(visit: usize, lengths: impl Iterator<Item = (Way, usize)>) -> Connection {
        let records =
            lengths.map(|(way, length)| Record { at: 0.0, way, kind: 23, length, offset: 0 }).collect();
        let (packets, events, first) = (Vec::new(), Vec::new(), Vec::new());
        Connection { visit, packets, records, events, first, first_packet: 0 }
    }

    fn captured(transport: Kind, load: Load, connections: Vec<Connection>) -> Capture {
        Capture { transport, profile: None, server: "Nginx".into(), load, round_trip_ms: 20, connections }
    }

    /// Apache's answers of two lengths that happened to be 4 x 514 bytes apart, the same in each of ten visits, were flagged.
    #[test]
    fn what_all_visits_have_in_common_is_no_comb() {
        let visits = |load| {
            let visit = |number| {
                let page = [700, 700 + 4 * 514, 5_000, 6_100, 9_001];
                connection(number, page.into_iter().map(|length| (Way::Down, length)))
            };
            judge(&captured(Kind::Plain, load, (0..10).map(visit).collect()))
        };
        assert!(!visits(Load::Tour).flagged && visits(Load::Tor).flagged);
        // A comb that is in each visit stays one.
        let cells = |number| connection(number, (0..60).map(|cell| (Way::Down, 39 + 514 * (1 + cell % 7))));
        assert!(judge(&captured(Kind::Qnet, Load::Page, (0..10).map(cells).collect())).flagged);
    }

    #[test]
    fn too_few_lengths_under_tor_are_no_verdict() {
        let said = |transport, load, counts: [usize; 2]| {
            let lengths = [Way::Up, Way::Down]
                .into_iter()
                .zip(counts)
                .flat_map(|(way, count)| scattered(count).map(move |length| (way, length)));
            judge(&captured(transport, load, vec![connection(0, lengths)]))
        };
        let judged = |transport, load, counts| said(transport, load, counts).unjudged.is_none();
        let enough = [FEWEST; 2];
        assert!(judged(Kind::Qnet, Load::Tor, enough) && judged(Kind::QnetWebsocket, Load::RealTor, enough));
        // Many of one side's do not make up for few of the other's.
        assert!(!judged(Kind::Qnet, Load::Tor, [FEWEST - 1, 10 * FEWEST]));
        assert!(!judged(Kind::Qnet, Load::Tor, [10 * FEWEST, FEWEST - 1]));
        assert!(
            !judged(Kind::QnetWebsocket, Load::Tor, [0; 2]) && !judged(Kind::Qnet, Load::RealTor, [0; 2])
        );
        assert!(judged(Kind::Qnet, Load::Page, [0; 2]) && judged(Kind::Obfs4, Load::Tor, [0; 2]));
        let shown = said(Kind::Qnet, Load::Tor, [3, 30]).figures;
        let count = |name: &str| shown.iter().find(|one| one.name == name).map(|one| one.value);
        assert_eq!([count("records Up"), count("records Down")], [Some(3.0), Some(30.0)]);
        assert_eq!([count("turns Up"), count("turns Down")], [Some(0.0); 2]);
    }

    #[test]
    fn one_frequent_length_is_no_comb() {
        let lengths: Vec<usize> = scattered(60).chain(std::iter::repeat_n(553, 60)).collect();
        assert!(!comb(&lengths, 514).flagged(), "{:?}", comb(&lengths, 514));
    }
}
