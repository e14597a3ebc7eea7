//! 10. Website fingerprinting, closed world: which of so many pages was read through the transport.

mod pages;

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use qnet_tests::support::browser::Browser;
use qnet_tests::support::decoy::{Decoy, NAME, Options, Server};
use qnet_tests::support::process::wait_for;
use serde::Deserialize;
use serde_json::json;

use crate::capture::{Connection, Way};
use crate::detector::{About, Detector, Figure, Role, Threshold, Verdict};
use crate::stage::Field;
use crate::transport::{Kind, Transport};

const SOURCE: &str = "Hayes and Danezis, k-fingerprinting, USENIX Security 2016; Panchenko et al., Website Fingerprinting at Internet Scale, NDSS 2016";

/// The classifiers, run by a Python that has scikit-learn.
const PROGRAM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fingerprint.py");

/// That Python, which `./dev detect` makes.
const PYTHON: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/detect/python/bin/python");

/// One way.
const DELAY: Duration = Duration::from_millis(10);

/// How long one page may take.
const LIMIT: Duration = Duration::from_secs(60);

/// What comes after the page says that it is loaded: acknowledgements, and what the transport does then.
const AFTERWARDS: Duration = Duration::from_millis(500);

/// So many times what guessing gives: what a classifier must reach before it is called an attack.
const BETTER: f64 = 3.0;

/// The detector.
#[derive(Debug)]
pub struct Websites;

impl Detector for Websites {
    fn about(&self) -> About {
        About {
            number: 10,
            name: "website fingerprinting, closed world",
            source: SOURCE,
            rule: "Headless Chromium reads each of several local pages of different make many times, by each transport. A random forest and the \
                   three nearest neighbours learn from four fifths of the visits which page it was, and are asked about the last fifth, five \
                   times. Each page has a connection, or a browser's few, to itself, and the censor knows where visits begin: more than he has.",
            thresholds: vec![Threshold {
                what: "accuracy of the better classifier",
                value: format!(
                    "flagged at {BETTER} times what guessing gives; with the pages' names shuffled it must not be"
                ),
                source: "set here before the first measurement",
            }],
            gate: false,
        }
    }

    fn examine(&self, field: &Field) -> Result<Vec<Verdict>> {
        let (pages, visits) = field.plan.closed_world;
        ensure!(visits >= 5, "five folds need five visits of each page");
        let decoy = Decoy::start(Server::Nginx, Options::default())?;
        let sites = pages::sites(pages)?;
        let mut verdicts = Vec::new();
        let mut direct: Option<Cost> = None;
        for kind in [Kind::Plain, Kind::Qnet, Kind::Obfs4] {
            let read = sites.iter().map(|site| read(kind, &decoy, site, &field.qnet_pt, visits));
            let read = read.collect::<Result<Vec<_>>>().with_context(|| format!("{kind:?}"))?;
            let cost = Cost::of(&read);
            let scores = classify(Path::new(PYTHON), &read)?;
            let (role, shuffled) = match kind {
                Kind::Plain => (Role::Positive, Some(Role::Negative)),
                Kind::Qnet => (Role::Subject, None),
                _ => (Role::Beside, None),
            };
            let base = direct.get_or_insert(cost);
            verdicts.push(scores.verdict(&format!("{kind:?}"), role, pages, visits, &cost.beside(base)));
            verdicts.extend(shuffled.map(|role| {
                let shuffled = Scores { forest: scores.shuffled, nearest: 0.0, ..scores };
                shuffled.verdict("pages' names shuffled", role, pages, visits, &[])
            }));
        }
        Ok(verdicts)
    }
}

/// One visit: its packets on all its connections, and how long it took.
struct Visit {
    packets: Vec<(f64, i64)>,
    took: Duration,
}

/// Reads one site so many times by a transport, each time with a new browser.
fn read(kind: Kind, decoy: &Decoy, site: &Decoy, qnet_pt: &Path, visits: usize) -> Result<Vec<Visit>> {
    let mut all = Vec::new();
    for _ in 0..visits {
        let transport = Transport::start(kind, decoy, qnet_pt, site.address(), DELAY)?;
        let loaded = || site.access_log().unwrap_or_default().matches(pages::LOADED).count();
        let before = loaded();
        let begun = Instant::now();
        let browser = Browser::open(NAME, transport.entry().port(), &["--ignore-certificate-errors"])?;
        wait_for("the page", LIMIT, || Ok((loaded() > before).then_some(())))?;
        let took = begun.elapsed();
        thread::sleep(AFTERWARDS);
        drop(browser);
        let mut packets: Vec<(f64, i64)> = Vec::new();
        for trace in transport.link().watched_traces()? {
            let late = trace.begun().saturating_duration_since(begun).as_secs_f64();
            let connection = Connection::from_trace(&trace, DELAY);
            packets.extend(connection.packets.iter().map(|packet| {
                let bytes = i64::try_from(packet.bytes).unwrap_or(i64::MAX);
                (packet.at + late, if packet.way == Way::Up { bytes } else { -bytes })
            }));
        }
        packets.sort_by(|one, other| one.0.total_cmp(&other.0));
        all.push(Visit { packets, took });
    }
    Ok(all)
}

/// What the visits cost on average.
#[derive(Clone, Copy)]
struct Cost {
    bytes: f64,
    seconds: f64,
}

impl Cost {
    fn of(read: &[Vec<Visit>]) -> Self {
        let visits: Vec<&Visit> = read.iter().flatten().collect();
        let count = visits.len().max(1) as f64;
        let bytes: u64 =
            visits.iter().flat_map(|visit| &visit.packets).map(|(_, bytes)| bytes.unsigned_abs()).sum();
        let seconds: f64 = visits.iter().map(|visit| visit.took.as_secs_f64()).sum();
        Self { bytes: bytes as f64 / count, seconds: seconds / count }
    }

    fn beside(&self, direct: &Self) -> [Figure; 2] {
        [
            Figure { name: "bytes more, %".into(), value: (self.bytes / direct.bytes - 1.0) * 100.0 },
            Figure { name: "seconds more".into(), value: self.seconds - direct.seconds },
        ]
    }
}

/// Mean accuracies.
#[derive(Clone, Copy, Deserialize)]
struct Scores {
    forest: f64,
    nearest: f64,
    shuffled: f64,
}

impl Scores {
    fn verdict(self, what: &str, role: Role, pages: usize, visits: usize, cost: &[Figure]) -> Verdict {
        let guess = 1.0 / pages as f64;
        let figure = |name: &str, value: f64| Figure { name: name.to_owned(), value };
        let mut figures = vec![
            figure("forest", self.forest),
            figure("nearest", self.nearest),
            figure("guessing", guess),
            figure("pages", pages as f64),
            figure("visits of each", visits as f64),
        ];
        figures.extend_from_slice(cost);
        let flagged = self.forest.max(self.nearest) >= BETTER * guess;
        Verdict { what: what.to_owned(), role, flagged, figures, note: String::new() }
    }
}

fn classify(python: &Path, read: &[Vec<Visit>]) -> Result<Scores> {
    let mut lines = String::new();
    for (page, visits) in read.iter().enumerate() {
        for visit in visits {
            writeln!(lines, "{}", json!({ "page": page, "packets": visit.packets }))?;
        }
    }
    let mut child = Command::new(python)
        .arg(PROGRAM)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("{} does not start: ./dev detect makes it", python.display()))?;
    // All of it is read before anything is written.
    child.stdin.take().context("its input is a pipe")?.write_all(lines.as_bytes())?;
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "the classifiers ended with {}", output.status);
    Ok(serde_json::from_slice(&output.stdout)?)
}
