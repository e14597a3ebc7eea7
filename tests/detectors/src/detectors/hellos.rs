//! 6. Fingerprints: hello, HTTP/2 and the visit's records against Chromium's of the same run; the answer against the decoy's.

mod answers;
mod http2;
mod order;
mod samples;
mod visits;
mod websocket;

use anyhow::{Context, Result};
use qnet_tests::ja4::{Hello, is_grease};
use qnet_tests::support::decoy::NAME;
use qnet_tests::support::front;
use qnet_tests::support::hello::constants;
use qnet_tests::support::visitor::Visitor;
use qnet_transport::tls::Purpose;

use crate::detector::{About, Detector, Figure, Plot, Role, Threshold, Verdict, part};
use crate::obfs4;
use crate::stage::Field;
use crate::stats::chi_squared;

const SOURCE: &str = "FoxIO, JA4 and JA4S; Shuster et al., Akamai, Passive Fingerprinting of HTTP/2 Clients, Black Hat Europe 2017; Frolov and Wustrow, The use of TLS in Censorship Circumvention, NDSS 2019; RFC 8701 (GREASE)";

/// All distributions together; each gets its part of it (Bonferroni).
const CHANCE: f64 = 1e-3;

/// First messages taken of obfs4's client.
const OBFS4S: usize = 8;

/// The detector.
#[derive(Debug)]
pub struct Hellos;

impl Detector for Hellos {
    fn about(&self) -> About {
        About {
            number: 6,
            name: "fingerprints",
            source: SOURCE,
            rule: "Every field that is equal in all of Chromium's hellos must be equal in all of ours, JA4 with them. What differs from hello \
                   to hello (GREASE values, which extension is first and last, which of two comes first, classes of the ECH payload, its config \
                   id) is compared as a distribution. The bridge's answer (JA4S) must be one that the decoy gives. SETTINGS, WINDOW_UPDATE and the \
                   order of pseudo-header fields, read by a server that ends TLS, must be Chromium's, and so must be how the first request is framed; \
                   whether streams change their priority, which is a matter of times, is compared by how often they do. \
                   The lengths of the records that a client sends while it visits the decoy, up to the knock, are compared as distributions with those \
                   of Chromium's visits, which says that it is the browser that QNet imitates, and so are those of the TCP segments that these records go in; those of a visit that opens a websocket over a connection of its own, up to \
                   the request for it, likewise (where websockets ride in HTTP/2, what a page says there cannot be told from its requests). Of the websocket cover the hellos of both connections, or of the one \
                   where websockets ride in HTTP/2, HTTP/2 as above, and the request that opens the websocket must be those of Chromium, whose page opens one.",
            thresholds: vec![
                Threshold { what: "fields", value: "flagged if one differs".into(), source: SOURCE },
                Threshold {
                    what: "JA4S and HTTP/2",
                    value: "flagged if unlike all that the model shows".into(),
                    source: SOURCE,
                },
                Threshold {
                    what: "changes of priorities (a permutation test over visits)",
                    value: format!("flagged below p {}", http2::CHANCE),
                    source: "set here before it was first used",
                },
                Threshold {
                    what: "lengths of a visit's records, and of its segments (permutation tests over visits)",
                    value: format!("flagged below p {}", visits::CHANCE),
                    source: "set here before the first measurement",
                },
                Threshold {
                    what: "distributions, and which of each two extensions comes first (chi-squared, Bonferroni)",
                    value: "flagged below p 0.001 for all of them together".into(),
                    source: "set here before the first measurement",
                },
            ],
            gate: true,
        }
    }

    fn needs_captures(&self) -> bool {
        false
    }

    fn examine(&self, field: &Field) -> Result<Vec<Verdict>> {
        Ok(self.examine_and_plot(field)?.0)
    }

    fn examine_and_plot(&self, field: &Field) -> Result<(Vec<Verdict>, Vec<Plot>)> {
        let mut plots = Vec::new();
        let mut verdicts = part("hellos", hellos(field.plan.hellos));
        verdicts.extend(part("hello: obfs4", obfs4s()));
        for server in &field.plan.servers {
            verdicts.extend(part(format!("JA4S, {server:?}"), answers::verdicts(*server)));
        }
        verdicts.extend(part("HTTP/2", http2::verdicts()));
        for front in [front::Server::HaproxyHttp1, front::Server::Haproxy] {
            verdicts.extend(part(format!("websocket, {front:?}"), websocket::verdicts(front)));
        }
        for server in &field.plan.servers {
            for round_trip in &field.plan.round_trips {
                let found = visits::verdicts(*server, *round_trip, field.plan.visits, &mut plots);
                verdicts.extend(part(format!("visit, {server:?}, {round_trip} ms"), found));
            }
        }
        for server in field.plan.fronts.iter().copied().filter(|server| *server != front::Server::Haproxy) {
            for round_trip in &field.plan.round_trips {
                let found = visits::websocket_verdicts(server, *round_trip, field.plan.visits, &mut plots);
                verdicts.extend(part(format!("websocket's visit, {server:?}, {round_trip} ms"), found));
            }
        }
        Ok((verdicts, plots))
    }
}

/// What obfs4's client says first, which is no hello: flagged by the very fact. Nothing else that is compared here is there at all.
fn obfs4s() -> Result<Vec<Verdict>> {
    let visits = obfs4::Server::start()?.visits(OBFS4S)?;
    let said: Vec<&[u8]> = visits.iter().map(|trace| trace.up.raw()).collect();
    let hellos = said.iter().filter(|said| Hello::parse(said).is_some()).count();
    let first = said.first().and_then(|said| said.get(..5)).context("it said nothing")?;
    let mut verdicts = vec![Verdict {
        what: "hello: obfs4".into(),
        role: Role::Beside,
        flagged: hellos < said.len(),
        figures: vec![
            Figure::new("first messages", said.len() as f64),
            Figure::new("that are hellos", hellos as f64),
        ],
        note: format!("the first bytes of one are {first:02x?}, where a TLS record's are [16, 03, 01, ..]"),
    }];
    let none = "no TLS: what is compared is not there";
    let rest = ["JA4S", "HTTP/2", "visit", "visit's websocket"];
    verdicts.extend(rest.map(|what| Verdict::inapplicable(format!("{what}: obfs4"), none)));
    Ok(verdicts)
}

/// Hellos of a visit, and of a websocket that is opened without a ticket, against Chromium's.
fn hellos(wanted: usize) -> Result<Vec<Verdict>> {
    let chromiums = samples::chromiums_fetches(2 * wanted)?;
    let (model, again) = chromiums.split_at(wanted);
    let others = (0..wanted).map(|_| {
        let hello = Visitor::new(NAME).hello()?;
        Hello::parse(&hello).context("a visitor's hello")
    });
    let others = others.collect::<Result<Vec<_>>>()?;
    let websockets = samples::chromiums_websockets(2 * wanted)?;
    let (websocket_model, websockets_again) = websockets.split_at(wanted);
    let ours = samples::htx(wanted)?;
    let page = samples::websocket_cover(wanted, || Purpose::Page(None))?;
    let websocket = samples::websocket_cover(wanted, || Purpose::Websocket(None))?;
    Ok(vec![
        judge("hello: BoringSSL as it comes", Role::Positive, &others, model)?,
        judge("hello: Chromium again", Role::Negative, again, model)?,
        // What only distributions show.
        judge("hello: QNet's, in one order", Role::Positive, &order::in_one_order(&ours), model)?,
        judge("hello: QNet's, two extensions in order", Role::Positive, &order::of_one_pair(&ours), model)?,
        judge("hello: QNet's, with one GREASE value", Role::Positive, &order::of_one_grease(&ours), model)?,
        judge("hello: QNet", Role::Subject, &ours, model)?,
        judge("hello: QNet's websocket, its page", Role::Subject, &page, model)?,
        judge("hello: a visit's, as a websocket's", Role::Positive, &page, websocket_model)?,
        judge("hello: Chromium's websocket again", Role::Negative, websockets_again, websocket_model)?,
        judge("hello: QNet's websocket", Role::Subject, &websocket, websocket_model)?,
    ])
}

/// What differs from hello to hello, as categories.
type Feature = (&'static str, fn(&Hello) -> Vec<u16>);

const FEATURES: [Feature; 8] = [
    ("GREASE cipher", |hello| hello.ciphers.iter().take(1).copied().collect()),
    ("GREASE group", |hello| hello.groups().unwrap_or_default().into_iter().take(1).collect()),
    ("GREASE version", |hello| hello.versions().unwrap_or_default().into_iter().take(1).collect()),
    ("GREASE extensions", |hello| {
        // Both at once are 240 classes: their sum tells as much of how they are drawn from a thousand.
        let found = hello.extensions.iter().filter(|(kind, _)| is_grease(*kind));
        vec![found.map(|(kind, _)| kind >> 12).sum()]
    }),
    ("first extension", |hello| hello.extensions.iter().skip(1).take(1).map(|(kind, _)| *kind).collect()),
    ("last extension", |hello| {
        hello.extensions.iter().rev().skip(1).take(1).map(|(kind, _)| *kind).collect()
    }),
    ("ECH payload", |hello| {
        hello.ech().map(|ech| u16::try_from(ech.payload).unwrap_or(u16::MAX)).into_iter().collect()
    }),
    ("ECH config id", |hello| hello.ech().map(|ech| u16::from(ech.config_id >> 4)).into_iter().collect()),
];

fn judge(what: &str, role: Role, hellos: &[Hello], model: &[Hello]) -> Result<Verdict> {
    let wanted = fields(model.first().context("Chromium sent no hello")?);
    let mut differing: Vec<&str> = hellos
        .iter()
        .flat_map(|hello| {
            let found = fields(hello);
            let fields = wanted.iter().zip(found).filter(|((_, wanted), (_, found))| wanted != found);
            fields.map(|((name, _), _)| *name).collect::<Vec<_>>()
        })
        .collect();
    differing.sort_unstable();
    differing.dedup();
    let mut verdict = Verdict {
        what: what.to_owned(),
        role,
        flagged: !differing.is_empty(),
        figures: vec![
            Figure { name: "hellos".into(), value: hellos.len() as f64 },
            Figure { name: "fields that differ".into(), value: differing.len() as f64 },
        ],
        note: differing.join(", "),
    };
    let order = order::compare(hellos, model)?;
    let bound = CHANCE / (FEATURES.len() + order.pairs) as f64;
    verdict.flagged |= order.least < bound;
    verdict.figures.push(Figure::new("pairs of extensions", order.pairs as f64));
    verdict.figures.push(Figure::new("least p of a pair's order", order.least));
    if let Some(pair) = order.which.filter(|_| order.least < bound) {
        let comma = if verdict.note.is_empty() { "" } else { ", " };
        verdict.note += &format!("{comma}the order of extensions {pair:?}");
    }
    for (name, feature) in FEATURES {
        let sample = |hellos: &[Hello]| hellos.iter().map(feature).collect::<Vec<_>>();
        let p = chi_squared(&sample(hellos), &sample(model))?;
        verdict.flagged |= p < bound;
        verdict.figures.push(Figure { name: format!("p of {name}"), value: p });
    }
    Ok(verdict)
}

/// The constant fields; of a hello that lacks what browsers send, that it does.
fn fields(hello: &Hello) -> Vec<(&'static str, String)> {
    let complete =
        hello.ech().is_some() && hello.key_shares().is_some() && hello.signature_algorithms().is_some();
    if complete { constants(hello) } else { vec![("what browsers send", "is not all there".into())] }
}
