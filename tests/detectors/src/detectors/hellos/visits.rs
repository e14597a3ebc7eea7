//! What a client sends while it visits the decoy, record by record, up to the knock.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use qnet_proto::chrome::{CHROME_156, Profile};
use qnet_tests::support::decoy::{Decoy, NAME, Options, Server};
use qnet_tests::support::link::{Link, Trace};
use qnet_tests::support::tunnel::{dialer_with, runtime};
use qnet_wire::bridge_line::BridgeLine;
use qnet_wire::key::IdentityKey;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;
use serde_json::{Value, json};

use crate::detector::{Figure, Role, Verdict};
use crate::stage::suitable;
use crate::stats::permutation;
use qnet_tests::support::devtools::Browser;

/// Below this two kinds of visits do not have one distribution.
pub(super) const CHANCE: f64 = 1e-3;

/// How long a page may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A visit is over when the client has said nothing for a round trip and so long: its last request comes 50 ms after the last answer, and what QNet's client
/// says where it is not answered comes after a second and two round trips.
const SILENT: Duration = Duration::from_millis(400);

/// How often the wire is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// The lengths of the protected records that a client sent, in order.
type Visit = Vec<usize>;

/// What a client says at once depends on what it has to wait for: `round_trip` is that of the path, milliseconds.
pub(super) fn verdicts(server: Server, round_trip: u64, visits: usize) -> Result<Vec<Verdict>> {
    let delay = Duration::from_millis(round_trip / 2);
    let decoy = suitable(server, Options::default())?;
    let agent = agent(&CHROME_156);
    let link = Link::start(decoy.address(), delay)?;
    // A site's requests name its port unless it is the usual one.
    let mut browser = Browser::start(&format!("MAP {NAME}:443 {}", link.address()))?;
    let mut chromiums = |agent: Option<&Value>, visits: usize| -> Result<Vec<Visit>> {
        (0..visits).map(|_| chromium(&mut browser, agent, &link, delay)).collect()
    };
    let model = chromiums(Some(&agent), visits)?;
    let again = chromiums(Some(&agent), visits)?;
    let headless = chromiums(None, visits)?;
    let ours: Vec<Visit> = (0..visits as u64).map(|seed| qnet(&decoy, seed, delay)).collect::<Result<_>>()?;
    let judged = [
        ("Chromium with its own user agent", Role::Positive, headless),
        ("Chromium again", Role::Negative, again),
        ("QNet", Role::Subject, ours),
    ];
    let verdict = |(what, role, visits): (&str, Role, Vec<Visit>)| {
        let p = permutation(&visits, &model);
        let records = |visits: &[Visit]| visits.concat().len() as f64 / visits.len().max(1) as f64;
        let bytes =
            |visits: &[Visit]| visits.concat().iter().sum::<usize>() as f64 / visits.len().max(1) as f64;
        Verdict {
            what: format!("visit: {what}, {server:?}, {round_trip} ms"),
            role,
            flagged: p < CHANCE,
            figures: vec![
                Figure::new("p", p),
                Figure::new("visits each", visits.len() as f64),
                Figure::new("records", records(&visits)),
                Figure::new("the model's", records(&model)),
                Figure::new("bytes", bytes(&visits)),
                Figure::new("the model's bytes", bytes(&model)),
            ],
            note: format!("such as {:?}, the model {:?}", commonest(&visits), commonest(&model)),
        }
    };
    Ok(judged.map(verdict).into())
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

fn chromium(browser: &mut Browser, agent: Option<&Value>, link: &Link, delay: Duration) -> Result<Visit> {
    let before = link.traces().len();
    let page = browser.open_as(agent, &format!("https://{NAME}/"), PATIENCE)?;
    let visit = visited(link, before, SILENT + 2 * delay);
    browser.close(&page)?;
    visit
}

/// QNet's client, led to the decoy itself: it sends all up to the knock, and waits for a proof that does not come.
fn qnet(decoy: &Decoy, seed: u64, delay: Duration) -> Result<Visit> {
    let link = Link::start(decoy.address(), delay)?;
    let key = IdentityKey::generate(&mut ChaCha20Rng::seed_from_u64(seed)).public();
    let line: BridgeLine = format!("qnet {} key={key} sni={NAME}", link.address()).parse()?;
    let runtime = runtime()?;
    let dialer = dialer_with(&decoy.certificates().ca)?;
    runtime.spawn(async move { dialer.dial(&line).await.map(drop) });
    visited(&link, 0, SILENT + 2 * delay)
}

/// What the client of the busiest connection sent, of those after so many, once it was silent for so long.
fn visited(link: &Link, before: usize, silent: Duration) -> Result<Visit> {
    let (begun, mut since, mut known) = (Instant::now(), Instant::now(), 0);
    while known == 0 && begun.elapsed() < PATIENCE || since.elapsed() < silent {
        std::thread::sleep(LOOK);
        let now: usize = link.traces().iter().skip(before).map(|trace| trace.up.total()).sum();
        if now != known {
            (known, since) = (now, Instant::now());
        }
    }
    let lengths = |trace: &Trace| -> Visit {
        trace.up.records().iter().filter(|record| record.kind == 23).map(|record| record.length).collect()
    };
    link.traces().iter().skip(before).max_by_key(|trace| trace.up.total()).map(lengths).context("nobody came")
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
