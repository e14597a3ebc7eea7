//! 7. TLS inside TLS: the bursts of an inner handshake show through the outer one.

mod models;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use anyhow::Result;
use statrs::distribution::{DiscreteCDF, Hypergeometric};

use self::models::{MODELS, Model, distance};
use crate::capture::{Capture, Connection, Packet, Way, bursts};
use crate::detector::{About, Detector, Judgement, Role, Threshold, Verdict, usual_role};
use crate::load::Load;
use crate::stage::Field;
use crate::transport::Kind;

const NDPI: &str = "nDPI, src/lib/protocols/tls.c (TLS obfuscation heuristics), after Xue et al., Fingerprinting Obfuscated Proxy Traffic with Encapsulated TLS Handshakes, USENIX Security 2024";
const TROJAN: &str =
    "XTLS/Trojan-killer, whose main.go has 650 to 750 up; the range here is wider, for later hellos";
const FIELD: &str = "reports of users whose tunnels were blocked; no paper";

/// What the outer TLS adds to a packet by nDPI's estimate, bytes.
const OVERHEAD: usize = 24;

/// How many packets after the handshake nDPI looks at unless it is told otherwise. Later on, whoever only browses has such
/// bursts too, as our negative controls show: a form of 20 kB is many long packets, and a page that talks over a websocket
/// comes near the models now and then.
const FIRST_PACKETS: usize = 25;

/// Chance that matches after the first packets are as frequent as in ordinary browsing.
const CHANCE: f64 = 1e-3;

/// The same for connections that match in the first packets: for QNet's captures one by one, all together (each gets its part of it, Bonferroni), and again for
/// those that pool a server's.
const EARLY_CHANCE: f64 = 0.05;

/// Connections of ordinary browsing that matched in the first packets before, of so many: about one of a hundred of Chromium's direct visits did here. They are
/// counted with a run's own negative controls, which are too few to show it: were they taken to match never, one match by chance would be a finding.
const ORDINARY: [u64; 2] = [1, 100];

/// Trojan's first request, with a ClientHello in it, and the answers to it, bytes.
const TROJAN_UP: std::ops::RangeInclusive<usize> = 650..=1_000;
const TROJAN_DOWN: [std::ops::RangeInclusive<usize>; 2] = [170..=180, 3_000..=7_500];

/// Three packets of the client's in a row, each of so many bytes or more.
const LONG_PACKET: usize = 411;
const LONG_PACKETS: usize = 3;

/// The detector.
#[derive(Debug)]
pub struct Nested;

impl Detector for Nested {
    fn about(&self) -> About {
        let model = |model: &Model| Threshold {
            what: model.name,
            value: format!(
                "flagged below Mahalanobis distance {} from {:?} bytes up, down, up, down, in the first {FIRST_PACKETS} packets after \
                 the handshake of one connection, if such connections are more frequent here than in ordinary browsing, which is all negative controls \
                 together and {} of {} connections before them, with p below {EARLY_CHANCE} for all of QNet's captures together (Fisher's exact test, Bonferroni); \
                 likewise for all captures of a server's",
                model.distance, model.mean, ORDINARY[0], ORDINARY[1]
            ),
            source: NDPI,
        };
        let mut thresholds: Vec<_> = MODELS.iter().map(model).collect();
        thresholds.push(Threshold {
            what: "Trojan's lengths",
            value: "flagged at 650 to 1,000 bytes up from the client's ChangeCipherSpec, and then 170 to 180 or 3,000 to 7,500 down".into(),
            source: TROJAN,
        });
        thresholds.push(Threshold {
            what: "long packets",
            value: format!(
                "flagged at {LONG_PACKETS} client packets of {LONG_PACKET} bytes or more, one after the other, among the first \
                 {FIRST_PACKETS} packets after its ChangeCipherSpec; later ones are counted: any upload has them"
            ),
            source: FIELD,
        });
        thresholds.push(Threshold {
            what: "matches after the first packets",
            value: "flagged if more frequent than in ordinary browsing (all negative controls together) with p below 0.001 \
                    (Fisher's exact test)"
                .into(),
            source: "set here: nDPI does not look so far, and ordinary websockets match now and then",
        });
        About {
            number: 7,
            name: "TLS inside TLS",
            source: NDPI,
            rule: "After the outer handshake, packets are joined into bursts and each is freed of 24 bytes a packet. Every four bursts \
                   that begin with the client's are compared with three models of a handshake's bursts. nDPI stops after 25 packets, and \
                   so does what decides; this goes on to the end, and asks whether matches are more frequent there than in ordinary \
                   browsing. QNet's captures are judged one by one, and all of a server's together, where a small rate shows. Beside it, two simpler rules of lengths.",
            thresholds,
            gate: true,
        }
    }

    fn examine(&self, field: &Field) -> Result<Vec<Verdict>> {
        let judged: Vec<(&Capture, Role, Judged)> = (field.captures.iter())
            .filter_map(|capture| Some((capture, role(capture)?, Judged::of(capture))))
            .collect();
        let mut verdicts = vec![trojan_control()];
        let ours = judged.iter().filter(|(_, role, _)| *role == Role::Subject).count();
        verdicts.extend(judged.iter().map(|(capture, role, one)| {
            // A control is compared with the others.
            let others = Ordinary::of(&judged, |of| !std::ptr::eq(of, *capture), ours);
            one.verdict(capture.title(), *role, &others)
        }));
        let pooled = pooled(&judged);
        let subjects = pooled.values().filter(|(role, _)| *role == Role::Subject).count();
        verdicts.extend(pooled.into_iter().map(|(what, (role, all))| {
            // The control has to be flagged by the stricter bound of the two.
            let tests = if role == Role::Positive { ours.max(subjects) } else { subjects };
            all.verdict(what, role, &Ordinary::of(&judged, |_| true, tests))
        }));
        Ok(verdicts)
    }
}

/// What the rules found in all of QNet's captures before (or behind) one server together: a small rate shows in many connections only. The tunnel's
/// are the positive control together: one by one they are few connections, some of which a browser opens ahead and leaves unused.
fn pooled(judged: &[(&Capture, Role, Judged)]) -> BTreeMap<String, (Role, Judged)> {
    let mut pooled: BTreeMap<String, (Role, Judged)> = BTreeMap::new();
    for (capture, role, one) in judged {
        let role = match (role, capture.transport) {
            (Role::Subject, _) => Role::Subject,
            (_, Kind::Tunnel) => Role::Positive,
            _ => continue,
        };
        let profile = capture.profile.iter().map(|name| format!(" {name}")).collect::<String>();
        let what = format!("{:?}{profile}, all captures, {}", capture.transport, capture.server);
        match pooled.entry(what) {
            Entry::Vacant(entry) => drop(entry.insert((role, one.clone()))),
            Entry::Occupied(mut entry) => entry.get_mut().1.add(one),
        }
    }
    pooled
}

fn role(capture: &Capture) -> Option<Role> {
    match (usual_role(capture.transport, Kind::Tunnel), capture.load) {
        // Tor's handshake is not a browser's: no model is made for it.
        (Role::Negative, Load::Tor) => Some(Role::Beside),
        // All of the control's together are the control.
        (Role::Positive, _) => Some(Role::Beside),
        (role, _) => Some(role),
    }
}

/// The length rule's own positive control: Trojan around a hello of 517 bytes, as clients sent until hybrid key shares
/// made theirs longer.
fn trojan_control() -> Verdict {
    let connection = made_up(&[(Way::Up, 687), (Way::Down, 4_200), (Way::Up, 150)]);
    let flagged = trojan(&connection);
    let what = "Trojan's lengths, made up".into();
    Verdict { what, role: Role::Positive, flagged, figures: Vec::new(), note: String::new() }
}

/// Ordinary browsing, and how far beyond it is too far.
struct Ordinary {
    /// Connections that match in the first packets, of so many.
    early: [u64; 2],
    /// Matches after the first packets, of so many windows.
    later: [u64; 2],
    /// Below this chance the first are more frequent than in ordinary browsing.
    bound: f64,
}

impl Ordinary {
    /// What all negative controls that are wanted come to, for one of so many tests.
    fn of(judged: &[(&Capture, Role, Judged)], wanted: impl Fn(&Capture) -> bool, tests: usize) -> Self {
        let controls = judged.iter().filter(|(capture, role, _)| *role == Role::Negative && wanted(capture));
        let none = Self { early: ORDINARY, later: [0; 2], bound: EARLY_CHANCE / tests.max(1) as f64 };
        controls.fold(none, |sum, (_, _, one)| Self {
            early: added(sum.early, one.early),
            later: added(sum.later, one.later),
            ..sum
        })
    }
}

fn added(one: [u64; 2], other: [u64; 2]) -> [u64; 2] {
    [one[0] + other[0], one[1] + other[1]]
}

/// What the rules found in one capture, or in several.
#[derive(Clone)]
struct Judged {
    /// The smallest distance to each model among the first packets, and at all.
    nearest: Vec<[f64; 2]>,
    /// Connections that match a model in the first packets, of so many.
    early: [u64; 2],
    /// Connections with Trojan's lengths.
    trojans: usize,
    /// Connections with long packets among the first, and at all.
    long: [usize; 2],
    /// Matches after the first packets, of so many windows.
    later: [u64; 2],
}

impl Judged {
    fn of(capture: &Capture) -> Self {
        let count =
            |rule: &dyn Fn(&Connection) -> bool| capture.connections.iter().filter(|one| rule(one)).count();
        let all = |model: &Model, limit| -> Vec<f64> {
            capture.connections.iter().flat_map(|one| distances(model, one, limit)).collect()
        };
        let (mut nearest, mut later) = (Vec::new(), [0; 2]);
        for model in &MODELS {
            let (first, whole) = (all(model, FIRST_PACKETS), all(model, usize::MAX));
            nearest.push([&first, &whole].map(|all| all.iter().copied().fold(f64::INFINITY, f64::min)));
            let matches = |all: &[f64]| all.iter().filter(|distance| **distance < model.distance).count();
            later[0] += matches(&whole).saturating_sub(matches(&first)) as u64;
            later[1] += whole.len().saturating_sub(first.len()) as u64;
        }
        Self {
            nearest,
            early: [
                count(&|one| MODELS.iter().any(|model| matches_early(model, one))) as u64,
                capture.connections.len() as u64,
            ],
            trojans: count(&trojan),
            long: [FIRST_PACKETS, usize::MAX].map(|limit| count(&|one| long_packets(one, limit))),
            later,
        }
    }

    fn add(&mut self, other: &Self) {
        for (nearest, others) in self.nearest.iter_mut().zip(&other.nearest) {
            for (nearest, other) in nearest.iter_mut().zip(others) {
                *nearest = nearest.min(*other);
            }
        }
        (self.early, self.later) = (added(self.early, other.early), added(self.later, other.later));
        self.trojans += other.trojans;
        self.long = [self.long[0] + other.long[0], self.long[1] + other.long[1]];
    }

    fn verdict(&self, what: String, role: Role, ordinary: &Ordinary) -> Verdict {
        let p_early = more_frequent(self.early, ordinary.early);
        let p = more_frequent(self.later, ordinary.later);
        let flagged = p_early < ordinary.bound || self.trojans + self.long[0] > 0 || p < CHANCE;
        let mut judgement = Judgement { flagged, ..Judgement::default() };
        for (model, [early, whole]) in MODELS.iter().zip(&self.nearest) {
            for (words, nearest) in [("", early), (" at all", whole)] {
                if nearest.is_finite() {
                    judgement = judgement.figure(format!("nearest to {}{words}", model.name), *nearest);
                }
            }
        }
        let judgement = judgement
            .figure("connections that match in the first 25 packets", self.early[0] as f64)
            .figure("of connections", self.early[1] as f64)
            .figure("p against ordinary browsing", p_early)
            .figure("bound of that", ordinary.bound)
            .figure("Trojan's lengths", self.trojans as f64)
            .figure("long packets in the first 25", self.long[0] as f64)
            .figure("long packets at all", self.long[1] as f64)
            .figure("later matches", self.later[0] as f64)
            .figure("of windows", self.later[1] as f64)
            .figure("p against ordinary browsing", p);
        let Judgement { flagged, figures, note, .. } = judgement;
        Verdict { what, role, flagged, figures, note }
    }
}

fn matches_early(model: &Model, connection: &Connection) -> bool {
    distances(model, connection, FIRST_PACKETS).iter().any(|distance| *distance < model.distance)
}

/// Fisher's exact test, one-sided: the chance of so many matches among these windows, if those of ordinary browsing have the same
/// source.
fn more_frequent([matches, windows]: [u64; 2], ordinary: [u64; 2]) -> f64 {
    let all = Hypergeometric::new(windows + ordinary[1], matches + ordinary[0], windows);
    all.map_or(1.0, |all| if matches == 0 { 1.0 } else { all.sf(matches - 1) })
}

/// Packets after the packet with the ChangeCipherSpec, in each direction, and how many bytes of each are not payload.
fn after_handshake(connection: &Connection) -> (impl Iterator<Item = &Packet>, usize) {
    let starts = [connection.change_cipher(Way::Up), connection.change_cipher(Way::Down)];
    let overhead = if starts == [None, None] { 0 } else { OVERHEAD };
    let packets = connection.packets.iter().filter(move |packet| {
        let start = if packet.way == Way::Up { starts[0] } else { starts[1] };
        start.is_none_or(|start| packet.offset > start)
    });
    (packets, overhead)
}

/// The distances of all fours of bursts that can be a handshake's at all.
fn distances(model: &Model, connection: &Connection, limit: usize) -> Vec<f64> {
    let (packets, overhead) = after_handshake(connection);
    let bursts =
        bursts(packets.take(limit).map(|packet| (packet.way, packet.bytes.saturating_sub(overhead))));
    bursts.windows(4).filter_map(|window| distance(model, window)).collect()
}

/// The client's bytes from its ChangeCipherSpec, that included, until the server speaks, and the server's from then until the
/// client speaks again.
fn trojan(connection: &Connection) -> bool {
    let start = connection.change_cipher(Way::Up).unwrap_or(0);
    let packets = connection
        .packets
        .iter()
        .skip_while(|packet| packet.way == Way::Down || packet.offset + packet.bytes <= start)
        .map(|packet| (packet.way, packet.bytes));
    let bursts = bursts(packets);
    let [up, down, ..] = bursts.as_slice() else { return false };
    TROJAN_UP.contains(&up.bytes) && TROJAN_DOWN.iter().any(|range| range.contains(&down.bytes))
}

fn long_packets(connection: &Connection, limit: usize) -> bool {
    let (packets, _) = after_handshake(connection);
    let sizes: Vec<usize> =
        packets.take(limit).filter(|packet| packet.way == Way::Up).map(|packet| packet.bytes).collect();
    sizes.windows(LONG_PACKETS).any(|three| three.iter().all(|bytes| *bytes >= LONG_PACKET))
}

/// A connection of these packets, after a handshake that is left out.
fn made_up(packets: &[(Way, usize)]) -> Connection {
    let mut offsets = [0; 2];
    let packet = |(number, (way, bytes)): (usize, &(Way, usize))| {
        let offset = &mut offsets[usize::from(*way == Way::Down)];
        *offset += bytes;
        Packet { at: number as f64 / 100.0, way: *way, bytes: *bytes, offset: *offset - bytes }
    };
    let packets: Vec<Packet> = packets.iter().enumerate().map(packet).collect();
    Connection {
        visit: 0,
        packets,
        records: Vec::new(),
        events: Vec::new(),
        first: Vec::new(),
        first_packet: 0,
    }
}

/// What the shaper keeps clear of. The module is its own affair, so that its source is taken as it is.
#[cfg(test)]
#[path = "../../../../transport/proto/src/shape/models.rs"]
mod shapers;

#[cfg(test)]
mod tests {
    use rand_chacha::ChaCha20Rng;
    use rand_chacha::rand_core::{Rng, SeedableRng};

    use super::*;
    use crate::capture::Burst;

    /// The distance by a model of ours, whatever the hello's length.
    fn far(model: &Model, bytes: [usize; 4]) -> f64 {
        let ways = [Way::Up, Way::Down].into_iter().cycle();
        let window: Vec<Burst> =
            bytes.into_iter().zip(ways).map(|(bytes, way)| Burst { way, bytes, packets: 1 }).collect();
        distance(&Model { least: 0, ..*model }, &window).unwrap()
    }

    /// From each mean into many directions, up to just within and just beyond the limit: a model that the shaper did not have, or had
    /// with another mean, covariance or limit, would be met otherwise there.
    #[test]
    fn the_shaper_keeps_clear_of_the_same_models() {
        let mut rng = ChaCha20Rng::seed_from_u64(7);
        let mut seen = [0; 2];
        for model in &MODELS {
            for _ in 0..150 {
                let direction = [0; 4].map(|_| f64::from(rng.next_u32()) / f64::from(u32::MAX) - 0.5);
                // Bytes vary by thousands in one burst and by tens in another.
                let scales = [0, 4, 7, 9].map(|entry| model.inverse[entry].sqrt().recip());
                let point = |length: f64| -> Option<[usize; 4]> {
                    let mut bytes = [0; 4];
                    for (place, bytes) in bytes.iter_mut().enumerate() {
                        let exact = model.mean[place] + length * direction[place] * scales[place];
                        *bytes = format!("{:.0}", exact).parse().ok()?;
                    }
                    Some(bytes)
                };
                // A burst has no less than no bytes: then this direction ends earlier.
                let lengths = (1..400).map(|step| f64::from(step) / 20.0);
                for bytes in lengths.map_while(point) {
                    let within = |model: &Model| far(model, bytes) / model.distance;
                    if MODELS.iter().any(|model| (within(model) - 1.0).abs() < 0.002) {
                        continue;
                    }
                    let long = |model: &&Model| bytes[0] >= model.least;
                    let ours = MODELS.iter().filter(long).any(|model| within(model) < 1.0);
                    let bursts = bytes.map(|bytes| f64::from(u32::try_from(bytes).unwrap()));
                    assert_eq!(shapers::matches(bursts, 1.0), ours, "{}: {bytes:?}", model.name);
                    seen[usize::from(ours)] += 1;
                }
            }
        }
        assert!(seen.iter().all(|count| *count > 1_000), "{seen:?}");
    }

    fn nearest(model: &Model, connection: &Connection) -> Option<f64> {
        distances(model, connection, usize::MAX).into_iter().min_by(f64::total_cmp)
    }

    #[test]
    fn the_mean_is_near_and_far_is_far() {
        for model in &MODELS {
            let exact: Vec<(Way, usize)> = (model.mean.iter().zip([Way::Up, Way::Down].iter().cycle()))
                .map(|(bytes, way)| (*way, format!("{bytes:.0}").parse().unwrap()))
                .collect();
            // The last burst ends with the client's next packet.
            let mut packets = exact.clone();
            packets.push((Way::Up, 100));
            let found = nearest(model, &made_up(&packets)).unwrap();
            assert!(found < 0.1, "{}: {found}", model.name);
            let doubled: Vec<_> = exact.iter().map(|(way, bytes)| (*way, bytes * 3)).collect();
            let found = nearest(model, &made_up(&doubled)).unwrap();
            assert!(found > model.distance, "{}: {found}", model.name);
        }
    }

    #[test]
    fn a_hello_of_too_many_packets_is_none() {
        let hello = [(Way::Up, 470); 4];
        let rest = [(Way::Down, 4_903), (Way::Up, 785), (Way::Down, 1_051)];
        let connection = |count: usize| made_up(&[&hello[..count], &rest].concat());
        assert!(nearest(&MODELS[0], &connection(4)).is_none());
        assert!(nearest(&MODELS[0], &connection(3)).is_some());
    }

    #[test]
    fn rules_of_lengths_hold_at_their_bounds() {
        let lengths = |up, down| trojan(&made_up(&[(Way::Up, up), (Way::Down, down)]));
        assert!(lengths(650, 170) && lengths(1_000, 7_500) && lengths(800, 3_000));
        assert!(!lengths(649, 170) && !lengths(1_001, 175) && !lengths(800, 181) && !lengths(800, 7_501));
        let long = |sizes: [usize; 3]| long_packets(&made_up(&sizes.map(|bytes| (Way::Up, bytes))), 3);
        assert!(long([411, 411, 1_448]) && !long([411, 410, 411]));
        let late = [(Way::Up, 410), (Way::Up, 411), (Way::Up, 411), (Way::Up, 411)];
        assert!(long_packets(&made_up(&late), 4) && !long_packets(&made_up(&late), 3));
    }

    #[test]
    fn a_small_rate_shows_in_all_captures_together() {
        // A match in each capture of 10 connections, where ordinary browsing has two in 200.
        let captured = |number: u64| Capture {
            transport: Kind::Qnet,
            profile: None,
            server: if number < 6 { "Nginx" } else { "Caddy" }.into(),
            load: Load::Page,
            round_trip_ms: number,
            connections: Vec::new(),
        };
        let captures: Vec<Capture> = (0..7).map(captured).collect();
        let one =
            Judged { nearest: vec![[3.5, 2.9]], early: [1, 10], trojans: 0, long: [0, 2], later: [0, 9] };
        let judged: Vec<_> = captures.iter().map(|capture| (capture, Role::Subject, one.clone())).collect();
        let ordinary = Ordinary { early: [2, 200], later: [0, 9], bound: EARLY_CHANCE };
        let flags = |one: &Judged| one.verdict(String::new(), Role::Subject, &ordinary).flagged;
        assert!(!flags(&one));
        let pooled = pooled(&judged);
        assert_eq!(pooled.len(), 2);
        let (role, nginx) = &pooled["Qnet, all captures, Nginx"];
        assert!(*role == Role::Subject && flags(nginx));
        assert_eq!((nginx.early, nginx.later, nginx.long), ([6, 60], [0, 54], [0, 12]));
    }

    /// The quick choice: a dozen of QNet's connections in nine captures, two dozen ordinary ones.
    #[test]
    fn one_match_by_chance_is_none_and_what_recurs_is_one() {
        let flags = |early, tests: usize| {
            let one = Judged { nearest: vec![[2.9; 2]; 3], early, trojans: 0, long: [0; 2], later: [0, 9] };
            let early = added(ORDINARY, [0, 22]);
            let ordinary = Ordinary { early, later: [0, 9], bound: EARLY_CHANCE / tests as f64 };
            one.verdict(String::new(), Role::Subject, &ordinary).flagged
        };
        // One by one, and of one transport all together.
        assert!(!flags([1, 5], 9) && !flags([1, 1], 9) && !flags([1, 12], 2));
        assert!(flags([2, 5], 9) && flags([2, 2], 9) && flags([2, 12], 2));
    }

    /// Of the tunnel's page one connection in four matched over paths of 100 and 300 ms, and Tor's link each time.
    #[test]
    fn controls_are_judged_by_the_bound_that_is_qnets() {
        let capture = |transport, number| Capture {
            transport,
            profile: None,
            server: "Nginx".into(),
            load: Load::Page,
            round_trip_ms: number,
            connections: Vec::new(),
        };
        let kinds = [Kind::Plain, Kind::Tunnel, Kind::Tunnel, Kind::Qnet, Kind::QnetWebsocket];
        let captures: Vec<Capture> =
            kinds.into_iter().zip(0..).map(|(kind, number)| capture(kind, number)).collect();
        let early = [[0, 22], [1, 4], [1, 1], [0, 2], [0, 10]];
        let judged: Vec<_> = captures
            .iter()
            .zip(early)
            .map(|(capture, early)| {
                let one =
                    Judged { nearest: vec![[2.9; 2]; 3], early, trojans: 0, long: [0; 2], later: [0; 2] };
                (capture, role(capture).unwrap(), one)
            })
            .collect();
        let ordinary = Ordinary::of(&judged, |_| true, 9);
        assert_eq!(ordinary.early, [1, 122]);
        assert!((ordinary.bound - EARLY_CHANCE / 9.0).abs() < 1e-9);
        let pooled = pooled(&judged);
        let (role, tunnel) = &pooled["Tunnel, all captures, Nginx"];
        assert_eq!((*role, tunnel.early), (Role::Positive, [2, 5]));
        assert!(tunnel.verdict(String::new(), *role, &ordinary).holds());
        assert!(judged[0].2.verdict(String::new(), judged[0].1, &ordinary).holds());
    }

    #[test]
    fn frequent_is_more_than_ordinary() {
        assert!(more_frequent([10, 20], [3, 200]) < 1e-6);
        assert!(more_frequent([1, 20], [3, 60]) > 0.5);
        assert!((more_frequent([0, 20], [0, 0]) - 1.0).abs() < 1e-9);
        // Three of three against none of three: 1 in 20.
        assert!((more_frequent([3, 3], [0, 3]) - 0.05).abs() < 1e-9);
    }
}
