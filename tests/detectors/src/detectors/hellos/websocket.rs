//! The websocket cover's connections, as a server that ends TLS sees them, against those of Chromium's page that opens a websocket.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result};
use qnet_tests::support::browser::Browser;
use qnet_tests::support::decoy::NAME;
use qnet_tests::support::front;
use qnet_tests::support::http2::{akamai, first_connect, first_request, frames};
use qnet_tests::support::probe::web::opening;
use qnet_tests::support::probe::{Probe, Step, play};
use qnet_tests::support::process::wait_for;
use qnet_tests::support::tap::{Tap, Tapped};
use qnet_tests::support::tunnel::{dialer_with, runtime};
use qnet_tests::support::visitor::Visitor;
use qnet_wire::bridge_line::BridgeLine;
use qnet_wire::key::IdentityKey;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;

use super::fields;
use crate::detector::{Figure, Role, Verdict};
use crate::transport::TalkingSite;

/// Visits of each client: what is compared is the same in all of them.
const VISITS: usize = 2;

/// How long a client may take to open its websocket.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long the control stays.
const STAY: Duration = Duration::from_secs(1);

/// What a client showed, by name.
type Shown = BTreeMap<String, String>;

/// A client that is led to a tap.
type Client<'a> = dyn Fn(&Tap) -> Result<()> + 'a;

pub(super) fn verdicts(server: front::Server) -> Result<Vec<Verdict>> {
    let site = TalkingSite::start(server)?;
    let _talk = site.talk()?;
    let [http2, http1] = site.front.in_the_clear();
    // Each time another tap, since what is seen is told by it.
    let visits = |client: &Client| -> Result<Vec<Shown>> {
        let visit = |_| {
            let tap = Tap::start(site.front.certificates(), http2, http1)?;
            client(&tap)?;
            Ok(shown(&tap))
        };
        (0..VISITS).map(visit).collect()
    };
    let mut model: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (name, value) in visits(&chromium)?.into_iter().flatten() {
        model.entry(name).or_default().insert(value);
    }
    let judged = [
        ("BoringSSL as it comes", Role::Positive, visits(&boringssl)?),
        ("Chromium again", Role::Negative, visits(&chromium)?),
        ("QNet", Role::Subject, visits(&|tap| qnet(tap, &site))?),
    ];
    let verdict = |(what, role, visits): (&str, Role, Vec<Shown>)| {
        let strange: BTreeSet<&str> = visits.iter().flat_map(|shown| strange(&model, shown)).collect();
        Verdict {
            what: format!("websocket: {what}, {server:?}"),
            role,
            flagged: !strange.is_empty(),
            figures: vec![
                Figure::new("visits", VISITS as f64),
                Figure::new("compared", model.len() as f64),
                Figure::new("that differ", strange.len() as f64),
            ],
            note: strange.into_iter().collect::<Vec<_>>().join(", "),
        }
    };
    Ok(judged.map(verdict).into())
}

/// What the model shows otherwise, or does not show, or a client leaves out.
fn strange<'a>(model: &'a BTreeMap<String, BTreeSet<String>>, shown: &'a Shown) -> Vec<&'a str> {
    let missing = model.keys().filter(|name| !shown.contains_key(*name));
    let other =
        shown.iter().filter(|(name, value)| !model.get(*name).is_some_and(|known| known.contains(*value)));
    missing.chain(other.map(|(name, _)| name)).map(String::as_str).collect()
}

/// Everything that clients are compared in; what is missing did not happen.
fn shown(tap: &Tap) -> Shown {
    let mut shown = Shown::new();
    let seen = tap.seen();
    let mut say =
        |name: &str, value: Option<String>| shown.extend(value.map(|value| (name.to_owned(), value)));
    if let Some(page) = seen.iter().find(|one| one.protocol == b"h2" && !one.records.is_empty()) {
        for (field, value) in fields(&page.hello) {
            say(&format!("page: {field}"), Some(value));
        }
        let frames = frames(&page.records.concat()).unwrap_or_default();
        say("page: HTTP/2", akamai(&frames).map(|text| without_priorities(&text)));
        say("page: the first request", first_request(&frames));
        say("websocket: extended CONNECT", first_connect(&frames).map(|text| without_parent(&text)));
    }
    if let Some(own) = seen.iter().find(|one| request(one).is_some()) {
        for (field, value) in fields(&own.hello) {
            say(&format!("websocket: {field}"), Some(value));
        }
        say("websocket: resumption", Some(own.resumed.to_string()));
        say("websocket: the request", request(own).map(|text| comparable(&text, tap)));
    }
    shown
}

/// Which streams change their priority, and to which, is a matter of times.
fn without_priorities(akamai: &str) -> String {
    akamai
        .split('|')
        .enumerate()
        .filter(|(part, _)| *part != 2)
        .map(|(_, part)| part)
        .collect::<Vec<_>>()
        .join("|")
}

/// On which stream it depends is a matter of times, too: which requests are still open.
fn without_parent(framing: &str) -> String {
    framing.split(", ").filter(|part| !part.starts_with("parent ")).collect::<Vec<_>>().join(", ")
}

/// The request over HTTP/1.1 that opens the websocket.
fn request(one: &Tapped) -> Option<String> {
    let text = std::str::from_utf8(one.records.first()?).ok()?;
    text.starts_with(&format!("GET {} HTTP/1.1\r\n", TalkingSite::PATH)).then(|| text.to_owned())
}

/// Without the port, which a test's site has and a bridge's has not, the key, and the name of a browser that is headless here.
fn comparable(request: &str, tap: &Tap) -> String {
    let text = request.replace(&format!(":{}", tap.address().port()), "");
    let varies = |line: &&str| line.starts_with("User-Agent: ") || line.starts_with("Sec-WebSocket-Key: ");
    let name = |line: &str| line.split_once(' ').map(|(name, _)| name.to_owned()).unwrap_or_default();
    text.split("\r\n")
        .map(|line| if varies(&line) { name(line) } else { line.to_owned() })
        .collect::<Vec<_>>()
        .join("\n")
}

/// Whether the websocket's request has come, either way.
fn opened(tap: &Tap) -> Result<()> {
    wait_for("a websocket's request", PATIENCE, || {
        let connects = |one: &Tapped| frames(&one.records.concat()).and_then(|frames| first_connect(&frames));
        let opened =
            |one: &Tapped| request(one).is_some() || one.protocol == b"h2" && connects(one).is_some();
        Ok(tap.seen().iter().any(opened).then_some(()))
    })
}

fn chromium(tap: &Tap) -> Result<()> {
    let _browser = Browser::open(NAME, tap.address().port(), &["--ignore-certificate-errors"])?;
    opened(tap)
}

/// The control: no page, and TLS as the library has it.
fn boringssl(tap: &Tap) -> Result<()> {
    let visitor = Visitor { alpn: vec!["http/1.1"], ..Visitor::new(NAME) };
    let steps = vec![Step::Send(opening(NAME, TalkingSite::PATH))];
    play(&Probe::inside("a websocket", visitor, steps), tap.address(), STAY).map(drop)
}

/// That no bridge is there it learns when the websocket is open.
fn qnet(tap: &Tap, site: &TalkingSite) -> Result<()> {
    let key = IdentityKey::generate(&mut ChaCha20Rng::seed_from_u64(6)).public();
    let url = format!("https://{NAME}{}", TalkingSite::PATH);
    let line: BridgeLine = format!("qnet {} key={key} url={url}", tap.address()).parse().context("a line")?;
    let runtime = runtime()?;
    let dialer = dialer_with(&site.front.certificates().ca)?;
    runtime.spawn(async move { dialer.dial(&line).await.map(drop) });
    opened(tap)
}
