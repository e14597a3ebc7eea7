//! What a client sends while it visits the decoy, record by record, up to the knock; and while it opens a websocket, up to the request for it.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use qnet_proto::chrome::{CHROME_156, Profile};
use qnet_tests::support::decoy::{NAME, Options, Server};
use qnet_tests::support::devtools::Browser;
use qnet_tests::support::front::{self, Front};
use qnet_tests::support::link::{Link, Trace};
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

use crate::capture::H2_OFFERED;
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

/// The lengths of the protected records that a client sent, in order, and on which of a visit's connections: a page's, or a websocket's own.
type Visit = Vec<(Of, usize)>;

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
    let link = Link::start(decoy.address(), delay)?;
    let line = |address, key| format!("qnet {address} key={key} sni={NAME}");
    let place =
        Place { name: format!("visit: {{}}, {server:?}, {round_trip} ms"), link, delay, visited: page };
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
    let link = Link::start(front.address(), delay)?;
    let line = |address, key| format!("qnet {address} key={key} url=https://{NAME}{PATH}");
    let name = format!("websocket's visit: {{}}, {server:?}, {round_trip} ms");
    let place = Place { name, link, delay, visited: page_and_websocket };
    place.verdicts(visits, plots, |seed| qnet(front.address(), &front.certificates().ca, seed, delay, &line))
}

/// Where clients go.
struct Place {
    /// What verdicts are called, with braces for who was there.
    name: String,
    link: Link,
    delay: Duration,
    /// What of its connections is compared.
    visited: fn(&[Trace]) -> Option<Visit>,
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
        let mut chromiums = |agent: Option<&Value>| -> Result<Vec<Visit>> {
            (0..visits).map(|_| self.chromium(&mut browser, agent)).collect()
        };
        let model = chromiums(Some(&agent))?;
        let again = chromiums(Some(&agent))?;
        let headless = chromiums(None)?;
        let ours = |seed| self.silence(&qnet(seed)?.link, 0);
        let ours: Vec<Visit> = (0..visits as u64).map(ours).collect::<Result<_>>()?;
        let all = [("the model", &model), ("Chromium again", &again), ("QNet", &ours)];
        let lengths =
            |visits: &Vec<Visit>| visits.iter().flatten().map(|(_, length)| *length as f64).collect();
        plots.push(Plot::Distributions {
            title: self.name.replace("{}", "lengths of records, bytes"),
            samples: all.map(|(who, visits)| (who.to_owned(), lengths(visits))).into(),
        });
        Ok(vec![
            self.judge("Chromium with its own user agent", Role::Positive, &headless, &model),
            self.judge("Chromium again", Role::Negative, &again, &model),
            self.judge("QNet", Role::Subject, &ours, &model),
        ])
    }

    fn judge(&self, what: &str, role: Role, visits: &[Visit], model: &[Visit]) -> Verdict {
        let p = permutation(visits, model);
        let each = |visits: &[Visit], sum: fn(&Visit) -> usize| {
            visits.iter().map(sum).sum::<usize>() as f64 / visits.len().max(1) as f64
        };
        let bytes = |visit: &Visit| visit.iter().map(|(_, length)| length).sum();
        let shown =
            |visits: &[Visit]| commonest(visits).iter().map(|(_, length)| *length).collect::<Vec<_>>();
        Verdict {
            what: self.name.replace("{}", what),
            role,
            flagged: p < CHANCE,
            figures: vec![
                Figure::new("p", p),
                Figure::new("visits each", visits.len() as f64),
                Figure::new("records", each(visits, Vec::len)),
                Figure::new("the model's", each(model, Vec::len)),
                Figure::new("bytes", each(visits, bytes)),
                Figure::new("the model's bytes", each(model, bytes)),
            ],
            note: format!("such as {:?}, the model {:?}", shown(visits), shown(model)),
        }
    }

    fn chromium(&self, browser: &mut Browser, agent: Option<&Value>) -> Result<Visit> {
        let before = self.link.traces().len();
        let page = browser.open_as(agent, &format!("https://{NAME}/"), PATIENCE)?;
        let visit = self.silence(&self.link, before);
        browser.close(&page)?;
        visit
    }

    /// What the client of the connections after so many sent, once it was there and silent for long enough.
    fn silence(&self, link: &Link, before: usize) -> Result<Visit> {
        let silent = SILENT + 2 * self.delay;
        let (mut since, mut known) = (Instant::now(), 0);
        wait_for("a visit, and then silence", PATIENCE, || {
            let traces = link.traces();
            let traces = traces.get(before..).unwrap_or_default();
            let now: usize = traces.iter().map(|trace| trace.up.total()).sum();
            if now != known {
                (known, since) = (now, Instant::now());
            }
            Ok((self.visited)(traces).filter(|_| since.elapsed() > silent))
        })
    }
}

/// The busiest connection's, which is the page's.
fn page(traces: &[Trace]) -> Option<Visit> {
    let trace = traces.iter().max_by_key(|trace| trace.up.total())?;
    let visit: Visit = lengths(trace).map(|length| (Of::Page, length)).collect();
    (!visit.is_empty()).then_some(visit)
}

/// The page's, and the beginning of the websocket's own. A browser opens connections ahead that it may never use.
fn page_and_websocket(traces: &[Trace]) -> Option<Visit> {
    let (pages, websockets): (Vec<&Trace>, Vec<&Trace>) = traces.iter().partition(|trace| offers_h2(trace));
    let page = pages.into_iter().max_by_key(|trace| trace.up.total())?;
    let websocket = websockets.into_iter().max_by_key(|trace| trace.up.total())?;
    let opening: Visit = lengths(websocket).take(OPENING).map(|length| (Of::Websocket, length)).collect();
    (opening.len() == OPENING)
        .then(|| lengths(page).map(|length| (Of::Page, length)).chain(opening).collect())
}

fn offers_h2(trace: &Trace) -> bool {
    let hello = trace.up.records().first().map(|record| trace.up.record_bytes(record));
    hello.is_some_and(|hello| hello.windows(H2_OFFERED.len()).any(|offer| offer == H2_OFFERED))
}

/// Of the protected records that a client sent.
fn lengths(trace: &Trace) -> impl Iterator<Item = usize> {
    trace.up.records().iter().filter(|record| record.kind == 23).map(|record| record.length)
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
    let link = Link::start(site, delay)?;
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
