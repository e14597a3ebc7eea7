//! What a client sends while it visits the decoy, record by record, up to the knock; and while it opens a websocket, up to the request for it.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use qnet_proto::chrome::{CHROME_156, Profile};
use qnet_tests::support::decoy::{NAME, Options, Server};
use qnet_tests::support::devtools::Browser;
use qnet_tests::support::flow::HEADER;
use qnet_tests::support::front::{self, Front};
use qnet_tests::support::link::Link;
use qnet_tests::support::process::{free_address, wait_for};
use qnet_tests::support::site;
use qnet_tests::support::talk::TalkServer;
use qnet_tests::support::tunnel::{dialer_with, runtime};
use qnet_wire::bridge_line::BridgeLine;
use qnet_wire::key::{BridgeKey, IdentityKey};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::capture::{Connection, H2_OFFERED, Record, Way};
use crate::detector::{Figure, Plot, Role, Verdict};
use crate::stage::suitable;
use crate::stats::permutation;

/// Below this two kinds of visits do not have one distribution.
pub(super) const CHANCE: f64 = 1e-3;

/// How long a page may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A visit is over when the client has said nothing for a round trip and so long: its last request comes 50 ms after the last answer, and what QNet's client
/// says where it is not answered comes after a second and two round trips.
const SILENT: Duration = Duration::from_millis(400);

/// Records of a websocket's own connection that are compared: Finished, and the request that opens it. What a page says after that is the page's affair.
const OPENING: usize = 2;

/// Where the site that is visited for its websocket has it.
const PATH: &str = "/a7Ge93kd";

/// Lengths, in order, and on which of a visit's connections: a page's, or a websocket's own.
type Visit = Vec<(Of, usize)>;

/// What a client sent from its ChangeCipherSpec on.
struct Sent {
    /// Protected records.
    records: Visit,
    /// TCP segments' payloads: a record by itself, or several together.
    segments: Visit,
}

/// What is compared of what was sent.
type Part = fn(&Sent) -> &Visit;

/// The parts, and what they are called after "visit".
const PARTS: [(&str, Part); 2] = [("", |sent| &sent.records), ("'s segments", |sent| &sent.segments)];

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Of {
    Page,
    Websocket,
}

/// What a client says at once depends on what it has to wait for: `round_trip` is that of the path, milliseconds.
pub(super) fn verdicts(
    server: Server,
    round_trip: u64,
    visits: usize,
    plots: &mut Vec<Plot>,
) -> Result<Vec<Verdict>> {
    let delay = Duration::from_millis(round_trip / 2);
    let decoy = suitable(server, Options::default())?;
    let link = Link::watched(decoy.address(), delay)?;
    let line = |address, key| format!("qnet {address} key={key} sni={NAME}");
    let place = Place { name: ("visit", format!("{server:?}, {round_trip} ms")), link, delay, visited: page };
    place.verdicts(visits, plots, |seed| qnet(decoy.address(), &decoy.certificates().ca, seed, delay, &line))
}

/// The same where a page opens a websocket, which a talking server answers, over a connection of its own.
pub(super) fn websocket_verdicts(
    server: front::Server,
    round_trip: u64,
    visits: usize,
    plots: &mut Vec<Plot>,
) -> Result<Vec<Verdict>> {
    let delay = Duration::from_millis(round_trip / 2);
    let talks = free_address()?;
    // Nothing is said there, and nothing asked for afterwards.
    let silent = site::page_that_talks(PATH, 0).replace(&format!("fetch('{}')", site::VISITED), "0");
    let front =
        Front::start(server, front::Options { page: Some(silent), ..front::Options::new(PATH, talks) })?;
    let _talks = TalkServer::start(talks)?;
    let link = Link::watched(front.address(), delay)?;
    let line = |address, key| format!("qnet {address} key={key} url=https://{NAME}{PATH}");
    let name = ("websocket's visit", format!("{server:?}, {round_trip} ms"));
    let place = Place { name, link, delay, visited: page_and_websocket };
    place.verdicts(visits, plots, |seed| qnet(front.address(), &front.certificates().ca, seed, delay, &line))
}

/// Where clients go.
struct Place {
    /// What verdicts are called: before who was there, and after.
    name: (&'static str, String),
    link: Link,
    delay: Duration,
    /// What of its connections is compared.
    visited: fn(&[Connection]) -> Option<Sent>,
}

impl Place {
    /// Chromium, as the browser that QNet imitates and as it is, and QNet as often.
    fn verdicts(
        &self,
        visits: usize,
        plots: &mut Vec<Plot>,
        qnet: impl Fn(u64) -> Result<Led>,
    ) -> Result<Vec<Verdict>> {
        let agent = agent(&CHROME_156);
        // A site's requests name its port unless it is the usual one.
        let mut browser = Browser::start(&format!("MAP {NAME}:443 {}", self.link.address()))?;
        let mut chromiums = |agent: Option<&Value>| -> Result<Vec<Sent>> {
            (0..visits).map(|_| self.chromium(&mut browser, agent)).collect()
        };
        let model = chromiums(Some(&agent))?;
        let again = chromiums(Some(&agent))?;
        let headless = chromiums(None)?;
        let ours = |seed| self.silence(&qnet(seed)?.link, 0);
        let ours: Vec<Sent> = (0..visits as u64).map(ours).collect::<Result<_>>()?;
        let judged = [
            ("Chromium with its own user agent", Role::Positive, &headless),
            ("Chromium again", Role::Negative, &again),
            ("QNet", Role::Subject, &ours),
        ];
        let (before, after) = &self.name;
        let mut verdicts = Vec::new();
        for (part, of) in PARTS {
            let of = |sent: &[Sent]| sent.iter().map(|one| of(one).clone()).collect::<Vec<Visit>>();
            let model = of(&model);
            let drawn = judged.iter().map(|(who, _, sent)| (*who, of(sent)));
            let drawn = drawn.chain([("the model", model.clone())]);
            let bytes = |visits: Vec<Visit>| visits.concat().iter().map(|(_, bytes)| *bytes as f64).collect();
            plots.push(Plot::Distributions {
                title: format!("{before}{part}, {after}: lengths, bytes"),
                samples: drawn.map(|(who, visits)| (who.to_owned(), bytes(visits))).collect(),
            });
            verdicts.extend(judged.iter().map(|(who, role, sent)| {
                judge(format!("{before}{part}: {who}, {after}"), *role, &of(sent), &model)
            }));
        }
        Ok(verdicts)
    }

    fn chromium(&self, browser: &mut Browser, agent: Option<&Value>) -> Result<Sent> {
        let before = self.link.connections();
        let page = browser.open_as(agent, &format!("https://{NAME}/"), PATIENCE)?;
        let visit = self.silence(&self.link, before);
        browser.close(&page)?;
        visit
    }

    /// What the client of the connections after so many sent, once it was there and silent for long enough.
    fn silence(&self, link: &Link, before: usize) -> Result<Sent> {
        let silent = SILENT + 2 * self.delay;
        let (mut since, mut known) = (Instant::now(), 0);
        wait_for("a visit, and then silence", PATIENCE, || {
            let now = link.sent_from(before);
            if now != known {
                (known, since) = (now, Instant::now());
            }
            if known == 0 || since.elapsed() <= silent {
                return Ok(None);
            }
            let traces = link.watched_traces(before)?;
            let seen = traces.iter().map(|trace| Connection::from_trace(trace, self.delay));
            Ok((self.visited)(&seen.collect::<Vec<_>>()))
        })
    }
}

fn judge(what: String, role: Role, visits: &[Visit], model: &[Visit]) -> Verdict {
    let p = permutation(visits, model);
    let each = |visits: &[Visit], sum: fn(&Visit) -> usize| {
        visits.iter().map(sum).sum::<usize>() as f64 / visits.len().max(1) as f64
    };
    let bytes = |visit: &Visit| visit.iter().map(|(_, length)| length).sum();
    let shown = |visits: &[Visit]| commonest(visits).iter().map(|(_, length)| *length).collect::<Vec<_>>();
    Verdict {
        what,
        role,
        flagged: p < CHANCE,
        figures: vec![
            Figure::new("p", p),
            Figure::new("visits each", visits.len() as f64),
            Figure::new("of each", each(visits, Vec::len)),
            Figure::new("the model's", each(model, Vec::len)),
            Figure::new("bytes", each(visits, bytes)),
            Figure::new("the model's bytes", each(model, bytes)),
        ],
        note: format!("such as {:?}, the model {:?}", shown(visits), shown(model)),
    }
}

/// The busiest connection's, which is the page's.
fn page(connections: &[Connection]) -> Option<Sent> {
    let page = connections.iter().max_by_key(|one| said(one))?;
    Some(sent(Of::Page, page, usize::MAX)).filter(|sent| !sent.records.is_empty())
}

/// The page's, and the beginning of the websocket's own. A browser opens connections ahead that it may never use.
fn page_and_websocket(connections: &[Connection]) -> Option<Sent> {
    let offers_h2 = |one: &&Connection| one.first.windows(H2_OFFERED.len()).any(|offer| offer == H2_OFFERED);
    let (pages, websockets): (Vec<_>, Vec<_>) = connections.iter().partition(offers_h2);
    let page = pages.into_iter().max_by_key(|one| said(one))?;
    let websocket = websockets.into_iter().max_by_key(|one| said(one))?;
    let (page, websocket) = (sent(Of::Page, page, usize::MAX), sent(Of::Websocket, websocket, OPENING));
    (websocket.records.len() == OPENING).then(|| Sent {
        records: [page.records, websocket.records].concat(),
        segments: [page.segments, websocket.segments].concat(),
    })
}

/// How much its client said, bytes.
fn said(connection: &Connection) -> usize {
    connection.packets.iter().filter(|packet| packet.way == Way::Up).map(|packet| packet.bytes).sum()
}

/// The first so many records, and the segments in which they went: with Finished goes the ChangeCipherSpec.
fn sent(of: Of, connection: &Connection, most: usize) -> Sent {
    let records: Vec<&Record> = connection.data(Way::Up).take(most).collect();
    let end = records.last().map_or(0, |last| last.offset + HEADER + last.length);
    let begin = connection.change_cipher(Way::Up).unwrap_or(0);
    let packets = connection.packets.iter().filter(|packet| packet.way == Way::Up);
    let segments = packets.filter(|packet| (begin..end).contains(&packet.offset));
    Sent {
        records: records.iter().map(|record| (of, record.length)).collect(),
        segments: segments.map(|packet| (of, packet.bytes)).collect(),
    }
}

/// The visit that occurs most often, the first of several.
fn commonest(visits: &[Visit]) -> Visit {
    let times = |visit: &Visit| visits.iter().filter(|other| *other == visit).count();
    let mut best: Option<(&Visit, usize)> = None;
    for visit in visits {
        let times = times(visit);
        if best.is_none_or(|(_, most)| times > most) {
            best = Some((visit, times));
        }
    }
    best.map(|(visit, _)| visit.clone()).unwrap_or_default()
}

/// QNet's client, led to a site itself: it sends all up to the knock, or to its websocket's first words, and meets no bridge. The line is of the address where
/// it is led and of a key.
fn qnet(
    site: SocketAddr,
    ca: &Path,
    seed: u64,
    delay: Duration,
    line: &dyn Fn(SocketAddr, BridgeKey) -> String,
) -> Result<Led> {
    let link = Link::watched(site, delay)?;
    let key = IdentityKey::generate(&mut ChaCha20Rng::seed_from_u64(seed)).public();
    let line: BridgeLine = line(link.address(), key).parse()?;
    let runtime = runtime()?;
    let dialer = dialer_with(ca)?;
    runtime.spawn(async move { dialer.dial(&line).await.map(drop) });
    Ok(Led { link, _runtime: runtime })
}

/// QNet's client on its way. Ends when dropped.
struct Led {
    link: Link,
    _runtime: Runtime,
}

/// What DevTools calls the browser that a profile imitates.
fn agent(profile: &Profile) -> Value {
    // Each brand is `"name";v="version"`.
    let brands: Vec<Value> = profile
        .brands
        .split(", ")
        .filter_map(|brand| {
            let mut parts = brand.split('"');
            Some(json!({ "brand": parts.nth(1)?, "version": parts.nth(1)? }))
        })
        .collect();
    json!({
        "userAgent": profile.user_agent,
        "userAgentMetadata": {
            "brands": brands, "platform": profile.platform.trim_matches('"'), "platformVersion": "10.0.0",
            "architecture": "x86", "model": "", "mobile": false,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::Packet;

    /// A client's connection of these segments, a hello before them, and records of these lengths in them.
    fn connection(segments: &[usize], lengths: &[usize]) -> Connection {
        let packet = |bytes, offset| Packet { at: 0.0, way: Way::Up, bytes, offset };
        let (mut packets, mut at) = (vec![packet(1_700, 0)], 1_700);
        for bytes in segments {
            packets.push(packet(*bytes, at));
            at += bytes;
        }
        let (mut records, mut at) = (Vec::new(), 1_700);
        for (kind, length) in [(20, 1)].into_iter().chain(lengths.iter().map(|length| (23, *length))) {
            records.push(Record { at: 0.0, way: Way::Up, kind, length, offset: at });
            at += HEADER + length;
        }
        let (events, first) = (Vec::new(), Vec::new());
        Connection { visit: 0, packets, records, events, first, first_packet: 1_700 }
    }

    /// Chromium's first two frames go by themselves, each in a segment.
    #[test]
    fn segments_tell_what_records_do_not() {
        let lengths = [53, 87, 488];
        let [apart, together] = [[64, 92, 493].as_slice(), &[64, 585]]
            .map(|segments| page(&[connection(segments, &lengths)]).unwrap());
        assert_eq!(apart.records, together.records);
        assert_eq!(apart.segments, [64, 92, 493].map(|bytes| (Of::Page, bytes)));
        assert_eq!(together.segments, [64, 585].map(|bytes| (Of::Page, bytes)));
        let visits = |sent: &Sent| vec![sent.segments.clone(); 10];
        let judged = |one: &Sent| judge("QNet".into(), Role::Subject, &visits(one), &visits(&apart)).flagged;
        assert!(!judged(&apart) && judged(&together));
    }

    #[test]
    fn of_a_websocket_its_opening_counts() {
        let mut page = connection(&[64, 92, 493], &[53, 87, 488]);
        page.first = b"..\x02h2..".to_vec();
        let websocket = connection(&[64, 530, 192], &[53, 525, 187]);
        let sent = page_and_websocket(&[page.clone(), websocket]).unwrap();
        assert_eq!(sent.records[3..], [(Of::Websocket, 53), (Of::Websocket, 525)]);
        assert_eq!(sent.segments[3..], [(Of::Websocket, 64), (Of::Websocket, 530)]);
        assert!(page_and_websocket(&[page.clone(), connection(&[64], &[53])]).is_none(), "not opened yet");
        assert!(page_and_websocket(&[page]).is_none());
    }
}
