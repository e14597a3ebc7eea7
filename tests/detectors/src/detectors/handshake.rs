//! 4. Lengths after the handshake: a server's own tickets and SETTINGS, which an imitation gets wrong.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;

use crate::capture::{Capture, Connection, H2_OFFERED, Record, Way};
use crate::detector::{About, Detector, Figure, Role, Threshold, Verdict, usual_role};
use crate::load::Load;
use crate::stage::{DIRECT, Field, Plan};
use crate::stats::{Cluster, clustered, least_permutation};
use crate::transport::Kind;

const SOURCE: &str = "ban6cat6/aparecium, which tells ShadowTLS and REALITY from the site they imitate by the messages after the handshake";

/// A page's first answer in full is longer than any ticket or SETTINGS.
const ANSWER: usize = 1_000;

/// A request, its head compressed, is longer than what a browser says besides: acknowledgements, windows, pings. A record's length.
const REQUEST: usize = 50;

/// A frame's head (RFC 9113, section 4.1), bytes: an acknowledgement of SETTINGS, which has nothing else, may go before an answer or
/// after it, and a proxy that passes an answer on in the pieces in which it gets it gives each one.
const FRAME_HEAD: usize = 9;

/// By so much an answer's head may be longer at one second than at another, bytes: its date's digits have 5 bits or 6 in HPACK's Huffman code (RFC 7541, appendix B),
/// six of which may differ.
const DATE: usize = 1;

/// A record's content type and tag (RFC 8446, section 5.2), bytes: they count again when a record is cut in two.
const PROTECTION: usize = 17;

/// Below this the two ways of cutting are not one server's.
const CHANCE: f64 = 1e-3;

/// Visits of the control for the cuts, by the transport and directly: fewer than the full choice has.
const MADE_UP: [usize; 2] = [6, 12];

/// The detector.
#[derive(Debug)]
pub struct AfterHandshake;

impl Detector for AfterHandshake {
    fn about(&self) -> About {
        let ours = "set here before the first measurement";
        About {
            number: 4,
            name: "lengths after the handshake",
            source: SOURCE,
            rule: "What the server sends under protection up to the client's Finished, record by record, and what it sends from then until \
                   the client asks for more after the first long answer, as bytes of content, must be among what the decoy was seen to \
                   send to Chromium directly; an empty frame more or less counts as equal, and so do a frame's head for each record more, in which a proxy passes an answer on as it gets it, and the byte that an answer's date takes more at some seconds. How that is cut into records before the \
                   long answer is compared as a distribution, by a permutation test over whole visits, whose connections are not independent of \
                   each other, where there are as many as it takes: the quick choice has too few. A connection is compared with those alone whose hello offers h2 as its own does, or as its own \
                   does not. Of a connection whose hello does not offer h2, a websocket's, \
                   the server's first turn is looked at.",
            thresholds: vec![
                Threshold {
                    what: "the server's flight",
                    value: "flagged if not among the decoy's own".into(),
                    source: SOURCE,
                },
                Threshold {
                    what: "tickets, SETTINGS and the first answer",
                    value: "flagged if their bytes are not among the decoy's own".into(),
                    source: SOURCE,
                },
                Threshold {
                    what: "how they are cut (a permutation test over visits)",
                    value: format!(
                        "flagged below p {CHANCE}; not compared where the samples are so small that p cannot be"
                    ),
                    source: ours,
                },
            ],
            gate: true,
        }
    }

    fn examine(&self, field: &Field) -> Result<Vec<Verdict>> {
        let pages = || {
            field
                .captures
                .iter()
                .filter(|capture| matches!(capture.load, Load::Page | Load::Proxied | Load::Talk))
        };
        let mut verdicts = vec![cuts_control()];
        for capture in pages() {
            if capture.transport == Kind::Obfs4 {
                verdicts.push(without_tls(capture));
                continue;
            }
            let direct = pages().find(|plain| {
                plain.transport == Kind::Plain
                    && plain.server == capture.server
                    && plain.round_trip_ms == capture.round_trip_ms
            });
            verdicts.push(match direct {
                Some(direct) => judge(capture, direct, &field.plan),
                None => Verdict::none(capture.title(), "the decoy was not visited directly"),
            });
        }
        Ok(verdicts)
    }
}

/// What is said of a transport that is no TLS, once it was seen to be none.
fn without_tls(capture: &Capture) -> Verdict {
    let records: usize = capture.connections.iter().map(|one| one.records.len()).sum();
    match (capture.connections.is_empty(), records) {
        (false, 0) => {
            Verdict::inapplicable(capture.title(), "no TLS: no records after a handshake to look at")
        }
        (true, _) => Verdict::none(capture.title(), "no connection was used"),
        (false, _) => {
            Verdict::none(capture.title(), format!("{records} TLS records, where none were expected"))
        }
    }
}

fn judge(capture: &Capture, direct: &Capture, plan: &Plan) -> Verdict {
    let theirs: Vec<Seen> = direct.connections.iter().filter_map(seen).collect();
    let ours: Vec<Seen> = capture.connections.iter().filter_map(seen).collect();
    compare(capture.title(), capture.transport, &ours, &theirs, plan)
}

/// Compares with the decoy's connections these, which are the same where the decoy is visited directly.
fn compare(what: String, transport: Kind, ours: &[Seen], theirs: &[Seen], plan: &Plan) -> Verdict {
    let itself = transport == Kind::Plain;
    let strange = |part: fn(&Seen) -> Part| {
        let differs = |(number, one): &(usize, &Seen)| {
            // A connection is not its own witness.
            !theirs.iter().enumerate().any(|(other, their)| {
                (!itself || other != *number) && one.h2 == their.h2 && part(one).like(&part(their))
            })
        };
        ours.iter().enumerate().filter(differs).count()
    };
    let (flights, contents) = (
        strange(|seen| Part::Flight(seen.flight.clone())),
        strange(|seen| Part::Content(seen.content, seen.records)),
    );
    let [our_cuts, their_cuts] = both_cuts(ours, theirs);
    let p = if itself {
        // The negative control: one half of the direct visits against the other.
        cut_alike(&half(&their_cuts, 0), &half(&their_cuts, 1))
    } else {
        cut_alike(&our_cuts, &their_cuts)
    };
    let flagged = flights + contents > 0 || p.is_some_and(|p| p < CHANCE);
    let shown = |seen: &[Seen]| seen.first().map_or_else(String::new, |one| format!("{:?}", one.after));
    let compared = if p.is_some() { "" } else { "; too few to compare how they are cut" };
    let mut figures = vec![
        Figure::new("strange flights", flights as f64),
        Figure::new("strange contents", contents as f64),
        Figure::new("connections", ours.len() as f64),
        Figure::new("direct visits", theirs.len() as f64),
    ];
    figures.extend(p.map(|p| Figure::new("p of the cuts", p)));
    if let Some(why) = nothing_to_judge(ours, theirs, p, enough(plan, itself)).filter(|_| !flagged) {
        return Verdict { figures, ..Verdict::none(what, why) };
    }
    let note = format!("first: {}, direct: {}{compared}", shown(ours), shown(theirs));
    Verdict { what, role: usual_role(transport, Kind::Tunnel), flagged, figures, note }
}

/// Why it means nothing that nothing is strange, where that is so.
fn nothing_to_judge(ours: &[Seen], theirs: &[Seen], p: Option<f64>, enough: bool) -> Option<String> {
    let lacks = |h2: bool| {
        let any = |seen: &[Seen]| seen.iter().any(|one| one.h2 == h2);
        any(theirs) && !any(ours)
    };
    if ours.is_empty() || theirs.is_empty() {
        Some("no connection was used".into())
    } else if let Some(h2) = [true, false].into_iter().find(|h2| lacks(*h2)) {
        Some(format!("no connection {} h2 was used, as the decoy's are", if h2 { "with" } else { "without" }))
    } else if p.is_none() && enough {
        Some("too few connections to compare how they are cut, where the plan has enough".into())
    } else {
        None
    }
}

/// Whether so many visits as are planned can tell cuts apart, if each uses a connection of each kind.
fn enough(plan: &Plan, itself: bool) -> bool {
    let pages = usize::try_from(plan.pages).unwrap_or(usize::MAX);
    let direct = usize::try_from(DIRECT * plan.pages).unwrap_or(usize::MAX);
    let (one, other) = if itself { (direct / 2, direct - direct / 2) } else { (pages, direct) };
    least_permutation(one, other) < CHANCE
}

/// How each visit's connections are cut: those with h2, and those without. What a server says first on the one is nothing like the other.
type Cuts = Vec<Cluster<bool, Vec<usize>>>;

/// Those of two samples, where lengths that differ by what a date may take count as the lesser of them: when a visit is made tells nothing.
fn both_cuts(ours: &[Seen], theirs: &[Seen]) -> [Cuts; 2] {
    let all: BTreeSet<usize> = ours.iter().chain(theirs).flat_map(|one| &one.after).copied().collect();
    [ours, theirs].map(|seen| {
        cuts(seen, |length| {
            Some(length.saturating_sub(DATE)).filter(|less| all.contains(less)).unwrap_or(length)
        })
    })
}

fn cuts(seen: &[Seen], counts_as: impl Fn(usize) -> usize) -> Cuts {
    let mut visits: BTreeMap<usize, Cluster<bool, Vec<usize>>> = BTreeMap::new();
    for one in seen {
        visits
            .entry(one.visit)
            .or_default()
            .push((one.h2, one.after.iter().map(|length| counts_as(*length)).collect()));
    }
    visits.into_values().collect()
}

/// Every other visit.
fn half(cuts: &Cuts, first: usize) -> Cuts {
    cuts.iter().skip(first).step_by(2).cloned().collect()
}

/// The chance that these visits' connections and those are cut by one server; `None` where either has none, or of a kind that either has so few visits that it
/// could never be below [`CHANCE`].
fn cut_alike(ours: &Cuts, theirs: &Cuts) -> Option<f64> {
    let visits =
        |cuts: &Cuts, h2: bool| cuts.iter().filter(|cut| cut.iter().any(|(kind, _)| *kind == h2)).count();
    let enough = |h2: bool| match (visits(ours, h2), visits(theirs, h2)) {
        (0, 0) => true,
        (ours, theirs) => least_permutation(ours, theirs) < CHANCE,
    };
    let any = !ours.is_empty() && !theirs.is_empty();
    (any && enough(true) && enough(false)).then(|| clustered(ours, theirs))
}

/// The cuts' own positive control: two tickets in one record where the decoy mostly sends one in each, the bytes being the same.
fn cuts_control() -> Verdict {
    let [one, other] = MADE_UP;
    let apart =
        |number: usize| if number.is_multiple_of(4) { vec![274, 274 + 62] } else { vec![274, 274, 62] };
    let theirs: Cuts = (0..other).map(|number| vec![(true, apart(number))]).collect();
    let p = cut_alike(&vec![vec![(true, vec![274 + 274 - PROTECTION, 62])]; one], &theirs);
    Verdict {
        what: "tickets in one record, made up".into(),
        role: Role::Positive,
        flagged: p.is_some_and(|p| p < CHANCE),
        figures: p.map(|p| Figure::new("p of the cuts", p)).into_iter().collect(),
        note: String::new(),
    }
}

enum Part {
    Flight(Vec<usize>),
    /// Bytes, in so many records.
    Content(usize, usize),
}

impl Part {
    fn like(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Flight(one), Self::Flight(other)) => one == other,
            (Self::Content(one, pieces), Self::Content(other, others)) => (0..=1 + pieces.abs_diff(*others))
                .any(|heads| one.abs_diff(*other).abs_diff(heads * FRAME_HEAD) <= DATE),
            _ => false,
        }
    }
}

/// What a server sent until the client asked for more.
struct Seen {
    /// In which visit.
    visit: usize,
    /// Whether the client's hello offers h2: a websocket's own does not.
    h2: bool,
    /// Lengths of protected records until the client's Finished.
    flight: Vec<usize>,
    /// Lengths of those from then on that come before the first long answer; without h2 all of the first turn's.
    after: Vec<usize>,
    /// Bytes of content from the client's Finished until it asks for more.
    content: usize,
    /// The records that these come in.
    records: usize,
}

/// `None` for a connection that was never used for a page or a websocket.
fn seen(connection: &Connection) -> Option<Seen> {
    let finished = connection.data(Way::Up).next()?.at;
    let flight = connection.data(Way::Down).filter(|record| record.at <= finished);
    let down: Vec<&Record> = connection.data(Way::Down).filter(|record| record.at > finished).collect();
    let h2 = connection.first.windows(H2_OFFERED.len()).any(|offer| offer == H2_OFFERED);
    let answer = if h2 { down.iter().position(|record| record.length >= ANSWER)? } else { 0 };
    let (answered, asks) = (down.get(answer)?.at, if h2 { REQUEST } else { 0 });
    let next = connection.data(Way::Up).find(|record| record.at > answered && record.length >= asks);
    let turn = |record: &&&Record| next.is_none_or(|next| record.at < next.at);
    let content = down.iter().filter(turn).map(|record| record.length.saturating_sub(PROTECTION)).sum();
    let records = down.iter().filter(turn).count();
    let after = if h2 { down.get(..answer)? } else { &down };
    Some(Seen {
        visit: connection.visit,
        h2,
        flight: flight.map(|record| record.length).collect(),
        after: after.iter().filter(turn).map(|record| record.length).collect(),
        content,
        records,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So many visits of one connection with h2 that is cut so.
    fn some(cut: &[usize], count: usize) -> Cuts {
        vec![vec![(true, cut.to_vec())]; count]
    }

    /// What visits use one after the other: a page's connection with h2, and its websocket's without.
    fn talks(visits: usize, websocket: &[usize]) -> Vec<Seen> {
        let page = |visit| Seen {
            visit,
            h2: true,
            flight: vec![58, 800],
            after: vec![274, 274, 62],
            content: 5_000,
            records: 4,
        };
        let socket = |visit| Seen {
            visit,
            h2: false,
            flight: vec![41],
            after: websocket.to_vec(),
            content: 300,
            records: 1,
        };
        (0..visits).flat_map(|visit| [page(visit), socket(visit)]).collect()
    }

    fn said(transport: Kind, ours: &[Seen], theirs: &[Seen], plan: &Plan) -> Verdict {
        compare("visits".into(), transport, ours, theirs, plan)
    }

    #[test]
    fn another_cut_is_found_where_there_are_enough_connections() {
        let [apart, joined] = [[274, 274, 62].as_slice(), &[531, 62]];
        assert_eq!(cut_alike(&some(joined, 4), &some(apart, 8)), None, "one in 495 is no 0.001");
        assert!(cut_alike(&some(joined, 6), &some(apart, 12)).unwrap() < CHANCE);
        assert!(cut_alike(&some(apart, 6), &some(apart, 12)).unwrap() > 0.9);
        // A server that does now this, now that.
        let both = |count: usize| [some(joined, count), some(apart, 2 * count)].concat();
        assert!(cut_alike(&both(3), &both(6)).unwrap() > 0.9);
        assert!(cut_alike(&some(joined, 7), &both(5)).unwrap() > CHANCE, "a third does");
        assert!(cuts_control().holds());
    }

    #[test]
    fn an_unused_connection_leaves_enough_to_compare() {
        let plan = Plan::full();
        let direct = usize::try_from(DIRECT * plan.pages).unwrap();
        let mut theirs = talks(direct, &[150, 120]);
        // Of every third visit the websocket, and one page.
        theirs.retain(|one| one.h2 || one.visit % 3 != 0);
        theirs.remove(0);
        let itself = said(Kind::Plain, &theirs, &theirs, &plan);
        assert!(itself.role == Role::Negative && itself.holds(), "{itself:?}");
    }

    #[test]
    fn kinds_that_alternate_are_halved_and_compared_each_with_itself() {
        let plan = Plan::full();
        let (visits, direct) =
            (usize::try_from(plan.pages).unwrap(), usize::try_from(DIRECT * plan.pages).unwrap());
        let theirs = talks(direct, &[150, 120]);
        let itself = said(Kind::Plain, &theirs, &theirs, &plan);
        assert!(itself.role == Role::Negative && itself.holds(), "{itself:?}");
        let same = said(Kind::QnetWebsocket, &talks(visits, &[150, 120]), &theirs, &plan);
        assert!(same.role == Role::Subject && same.holds(), "{same:?}");
        let joined = said(Kind::QnetWebsocket, &talks(visits, &[253]), &theirs, &plan);
        assert!(joined.role == Role::Subject && joined.flagged, "{joined:?}");
        // What only connections of the other kind show is strange.
        let mut swapped = talks(visits, &[150, 120]);
        swapped.iter_mut().for_each(|one| one.h2 = !one.h2);
        assert!(said(Kind::QnetWebsocket, &swapped, &theirs, &plan).flagged);
    }

    #[test]
    fn what_is_not_there_does_not_pass() {
        let judged = |ours: &[Seen], theirs: &[Seen], plan: &Plan| {
            let verdict = said(Kind::QnetWebsocket, ours, theirs, plan);
            assert!(!verdict.flagged, "{verdict:?}");
            verdict.role != Role::Unjudged
        };
        let (full, quick) = (Plan::full(), Plan::quick());
        let (ours, theirs) = (talks(7, &[150]), talks(14, &[150]));
        assert!(judged(&ours, &theirs, &full) && judged(&ours[..4], &theirs[..8], &quick));
        assert!(!judged(&[], &theirs, &quick) && !judged(&[], &[], &quick));
        assert!(!judged(&ours[..1], &theirs[..8], &quick), "no websocket");
        assert!(!judged(&ours[..4], &theirs[..8], &full), "the plan has more");
        let strange = [Seen { content: 9_000, ..talks(1, &[150]).remove(0) }];
        assert!(said(Kind::Qnet, &strange, &theirs, &full).flagged, "one is enough to be strange");
    }

    /// nginx's answers at 03:38:29 and at 03:38:36: found as a difference between a client and another that came seven seconds later.
    #[test]
    fn the_second_at_which_an_answer_is_given_is_no_difference() {
        let plan = Plan::full();
        let at = |visits: usize, head: usize| -> Vec<Seen> {
            let seen = |visit| Seen {
                visit,
                h2: true,
                flight: vec![58],
                after: vec![266, 266, head],
                content: 900 + head,
                records: 4,
            };
            (0..visits).map(seen).collect()
        };
        let later = said(Kind::Qnet, &at(10, 182), &at(20, 181), &plan);
        assert!(later.role == Role::Subject && later.holds(), "{later:?}");
        assert!(said(Kind::Qnet, &at(10, 183), &at(20, 181), &plan).flagged);
        let content = |one, other| Part::Content(one, 4).like(&Part::Content(other, 4));
        assert!(content(900, 901) && content(910, 900) && content(900, 908) && !content(900, 902));
        assert!(!content(900, 907) && !content(911, 900) && !content(900, 918));
    }

    /// `HAProxy` passed the same answer on whole in 18 of 20 of Chromium's visits, in two records in one and in eight in another.
    #[test]
    fn an_answer_that_came_in_pieces_is_no_other() {
        let content = |one, records, other, others| {
            Part::Content(one, records).like(&Part::Content(other, others))
                && Part::Content(other, others).like(&Part::Content(one, records))
        };
        assert!(
            content(12_070, 4, 12_079, 5) && content(12_070, 4, 12_115, 8) && content(12_079, 5, 12_115, 8)
        );
        assert!(!content(12_070, 4, 12_115, 5), "a piece has one head");
        assert!(!content(12_070, 4, 12_110, 8), "and all of it");
    }

    #[test]
    fn what_is_no_tls_is_said_to_be_none_only_where_it_was_seen() {
        let capture = |connections| Capture {
            transport: Kind::Obfs4,
            profile: None,
            server: "Nginx".into(),
            load: Load::Page,
            round_trip_ms: 20,
            connections,
        };
        let record = Record { at: 0.0, way: Way::Up, kind: 22, length: 517, offset: 0 };
        let connection = |records| {
            let (packets, events, first) = (Vec::new(), Vec::new(), Vec::new());
            Connection { visit: 0, packets, records, events, first, first_packet: 0 }
        };
        let role = |connections| without_tls(&capture(connections)).role;
        assert_eq!(role(vec![connection(Vec::new())]), Role::Inapplicable);
        assert_eq!(role(vec![connection(vec![record])]), Role::Unjudged);
        assert_eq!(role(Vec::new()), Role::Unjudged);
    }

    #[test]
    fn the_full_choice_has_enough_for_both_controls() {
        let plan = Plan::full();
        let pages = usize::try_from(plan.pages).unwrap();
        let direct = usize::try_from(DIRECT).unwrap() * pages;
        assert!(pages > MADE_UP[0] && direct > MADE_UP[1]);
        assert!(enough(&plan, true) && enough(&plan, false) && !enough(&Plan::quick(), true));
    }
}
