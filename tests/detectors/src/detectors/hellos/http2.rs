//! HTTP/2 inside TLS, as the server sees it: it is no secret from a decoy that is somebody else's.

use std::collections::BTreeSet;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use qnet_tests::support::browser::Browser;
use qnet_tests::support::decoy::NAME;
use qnet_tests::support::front::{self, Front};
use qnet_tests::support::http2::{akamai, first_request, frames};
use qnet_tests::support::process::{free_address, wait_for};
use qnet_tests::support::tap::Tap;
use qnet_tests::support::tunnel::{dialer_with, runtime};
use qnet_wire::bridge_line::BridgeLine;
use qnet_wire::key::IdentityKey;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;

use crate::detector::{Figure, Role, Verdict};
use crate::stats::permutation;
use qnet_tests::support::devtools;

/// How long a client may take to make its first request.
const PATIENCE: Duration = Duration::from_secs(60);

/// A client has said all when it has said nothing for so long.
const SILENT: Duration = Duration::from_millis(500);

/// Visits of each client.
const VISITS: usize = 4;

/// Visits of the model's: enough that clients who always do what it seldom does are told from it.
const MODEL: usize = 10;

/// Clients whose visits change streams' priorities as often as the model's are judged otherwise so seldom.
pub(super) const CHANCE: f64 = 0.01;

/// What a client showed: Akamai's fingerprint without changes of priorities, and how its first request is framed.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Shown {
    akamai: String,
    request: String,
    /// Whether it changed a stream's priority. That is a matter of times, and so judged by how often.
    changes: bool,
}

impl Shown {
    fn make(&self) -> (&str, &str) {
        (&self.akamai, &self.request)
    }
}

impl std::fmt::Display for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let changes = if self.changes { "changes priorities" } else { "changes none" };
        write!(f, "{}, {}, {changes}", self.akamai, self.request)
    }
}

/// A client that is led to a tap.
type Client<'a> = dyn Fn(&Tap) -> Result<Shown> + 'a;

pub(super) fn verdicts() -> Result<Vec<Verdict>> {
    let front = Front::start(front::Server::Haproxy, front::Options::new("/socket", free_address()?))?;
    let [http2, http1] = front.in_the_clear();
    // Each time another tap, since what is seen is told by it.
    let visits = |count: usize, client: &Client| -> Result<Vec<Shown>> {
        (0..count).map(|_| client(&Tap::start(front.certificates(), http2, http1)?)).collect()
    };
    let model = visits(MODEL, &|tap| chromium(tap))?;
    let judged = [
        ("curl", Role::Positive, visits(VISITS, &|tap| curl(tap))?),
        // A browser that is driven: were that to be seen, it would be seen here.
        ("Chromium, driven", Role::Negative, visits(VISITS, &|tap| driven(tap))?),
        ("QNet", Role::Subject, visits(VISITS, &|tap| qnet(tap, &front))?),
    ];
    let told = |shown: &[Shown]| {
        let kinds: BTreeSet<String> = shown.iter().map(Shown::to_string).collect();
        kinds.into_iter().collect::<Vec<_>>().join("; ")
    };
    let changes = |shown: &[Shown]| shown.iter().map(|shown| vec![shown.changes]).collect::<Vec<_>>();
    let verdict = |(what, role, shown): (&str, Role, Vec<Shown>)| {
        let chance = permutation(&changes(&shown), &changes(&model));
        let known = |shown: &Shown| model.iter().any(|model| model.make() == shown.make());
        Verdict {
            what: format!("HTTP/2: {what}"),
            role,
            flagged: !shown.iter().all(known) || chance < CHANCE,
            figures: vec![
                Figure::new("visits", VISITS as f64),
                Figure::new(
                    "that change priorities",
                    shown.iter().filter(|shown| shown.changes).count() as f64,
                ),
                Figure::new("p of that", chance),
            ],
            note: format!("{}; the model: {}", told(&shown), told(&model)),
        }
    };
    Ok(judged.map(verdict).into())
}

/// What the first client of a tap that speaks HTTP/2 and asks for something showed, when it has nothing more to say.
fn shown(tap: &Tap) -> Result<Shown> {
    let (mut known, mut since) = (0, Instant::now());
    wait_for("a request, and then nothing", PATIENCE, || {
        let seen = tap.seen();
        let total: usize = seen.iter().flat_map(|one| &one.records).map(Vec::len).sum();
        if total != known {
            (known, since) = (total, Instant::now());
        }
        let shown = seen.iter().filter(|one| one.protocol == b"h2").find_map(|one| {
            let frames = frames(&one.records.concat())?;
            let (akamai, request) = (akamai(&frames)?, first_request(&frames)?);
            let mut parts: Vec<&str> = akamai.split('|').collect();
            // Its third part.
            let changes = parts.len() > 2 && parts.remove(2) != "0";
            Some(Shown { akamai: parts.join("|"), request, changes })
        });
        Ok(shown.filter(|_| since.elapsed() > SILENT))
    })
}

fn chromium(tap: &Tap) -> Result<Shown> {
    let _browser = Browser::open(NAME, tap.address().port(), &["--ignore-certificate-errors"])?;
    shown(tap)
}

fn driven(tap: &Tap) -> Result<Shown> {
    let mut browser = devtools::Browser::start(&format!("MAP {NAME} 127.0.0.1"))?;
    browser.open(&format!("https://{NAME}:{}/", tap.address().port()), PATIENCE)?;
    shown(tap)
}

fn curl(tap: &Tap) -> Result<Shown> {
    let port = tap.address().port();
    let status = Command::new("curl")
        .args(["--silent", "--insecure", "--http2", "--resolve", &format!("{NAME}:{port}:127.0.0.1")])
        .arg(format!("https://{NAME}:{port}/"))
        .stdout(Stdio::null())
        .status()
        .context("curl does not start: is it installed?")?;
    anyhow::ensure!(status.success(), "curl ended with {status}");
    shown(tap)
}

/// QNet's client, led to the tap: that no bridge is there it learns when the page is loaded.
fn qnet(tap: &Tap, front: &Front) -> Result<Shown> {
    let key = IdentityKey::generate(&mut ChaCha20Rng::seed_from_u64(6)).public();
    let line: BridgeLine = format!("qnet {} key={key} sni={NAME}", tap.address()).parse()?;
    let runtime = runtime()?;
    let dialer = dialer_with(&front.certificates().ca)?;
    runtime.spawn(async move { dialer.dial(&line).await.map(drop) });
    shown(tap)
}
