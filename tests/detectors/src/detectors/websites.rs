//! 10. Website fingerprinting, closed world: which of so many pages was read through the transport.

mod pages;
mod road;
mod visits;

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use qnet_transport::Shape;
use serde::Deserialize;

use self::visits::{Means, Visit, Visitor};
use crate::detector::{About, Detector, Figure, Plot, Role, Threshold, Verdict};
use crate::stage::Field;
use crate::transport::Kind;

const SOURCE: &str = "Hayes and Danezis, k-fingerprinting, USENIX Security 2016; Panchenko et al., Website Fingerprinting at Internet Scale, NDSS 2016";

/// The classifiers, run by a Python that has scikit-learn.
const PROGRAM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fingerprint.py");

/// That Python, which `./dev detect` makes.
const PYTHON: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/detect/python/bin/python");

/// Where visits are kept.
const KEPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/detect/visits");

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
            rule: "Headless Chromium reads each of several local pages of different make many times, by each transport, the pages in another order \
                   each time, always without cache or connections from before. A random forest and nearest neighbours learn from four fifths of the \
                   visits which page it was, and are asked about the last fifth, five times. The censor is told where visits begin and end: more \
                   than he has.",
            thresholds: vec![Threshold {
                what: "accuracy of the best classifier",
                value: format!(
                    "flagged at {BETTER} times what guessing gives; with the pages' names shuffled it must not be"
                ),
                source: "set here before the first measurement",
            }],
            gate: false,
        }
    }

    fn needs_captures(&self) -> bool {
        false
    }

    fn examine(&self, field: &Field) -> Result<Vec<Verdict>> {
        Ok(self.examine_and_plot(field)?.0)
    }

    fn examine_and_plot(&self, field: &Field) -> Result<(Vec<Verdict>, Vec<Plot>)> {
        let (pages, rounds) = field.plan.closed_world;
        ensure!(rounds >= 5, "five folds need five visits of each page");
        let mut visitor = Visitor::start(pages, &field.programs.qnet_pt, Path::new(KEPT))?;
        let all = means(&field.plan.profiles);
        let (mut verdicts, mut points) = (Vec::new(), Vec::new());
        let mut direct: Option<Cost> = None;
        let visited = visitor.visits(&all, rounds)?;
        for (means, visits) in all.iter().zip(visited) {
            let cost = Cost::of(&visits);
            let scores = classify(Path::new(PYTHON), &visits)?;
            let role = match means.kind {
                Kind::Plain => Role::Positive,
                Kind::Qnet | Kind::QnetWebsocket => Role::Subject,
                _ => Role::Beside,
            };
            let base = direct.get_or_insert(cost);
            let figures = [scores.figures(), cost.beside(base).to_vec(), sizes(pages, rounds)].concat();
            points.push((means.name(), [cost.more_bytes(base), scores.best()]));
            let flagged = scores.best() >= BETTER / pages as f64;
            verdicts.push(Verdict { what: means.name(), role, flagged, figures, note: String::new() });
            if role == Role::Positive {
                let shuffled = Figure::range("forest", &scores.shuffled);
                verdicts.push(Verdict {
                    what: "plain, pages' names shuffled".into(),
                    role: Role::Negative,
                    flagged: mean(&scores.shuffled) >= BETTER / pages as f64,
                    figures: [shuffled.to_vec(), sizes(pages, rounds)].concat(),
                    note: String::new(),
                });
            }
        }
        let title = format!("which of {pages} pages it was, against what that costs");
        let axes = ["bytes more than directly, %", "accuracy of the best classifier"];
        Ok((verdicts, vec![Plot::Points { title, axes, points }]))
    }
}

/// The controls, and QNet under these profiles, or all there are, each twice.
fn means(profiles: &[Shape]) -> Vec<Means> {
    let profiles = if profiles.is_empty() { Shape::all().collect() } else { profiles.to_vec() };
    let controls = [Kind::Plain, Kind::Obfs4].map(|kind| Means { kind, profile: None, fresh: false });
    let qnet =
        |fresh| profiles.iter().map(move |shape| Means { kind: Kind::Qnet, profile: Some(*shape), fresh });
    // By its own choice of profile.
    let websocket = [true, false].map(|fresh| Means { kind: Kind::QnetWebsocket, profile: None, fresh });
    controls.into_iter().chain(qnet(true)).chain(qnet(false)).chain(websocket).collect()
}

fn sizes(pages: usize, rounds: usize) -> Vec<Figure> {
    vec![
        Figure::new("guessing", 1.0 / pages as f64),
        Figure::new("pages", pages as f64),
        Figure::new("visits of each", rounds as f64),
    ]
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// What the visits cost on average.
#[derive(Clone, Copy)]
struct Cost {
    bytes: f64,
    seconds: f64,
}

impl Cost {
    fn of(visits: &[Visit]) -> Self {
        let bytes: Vec<f64> = visits
            .iter()
            .map(|visit| visit.packets.iter().map(|(_, bytes)| bytes.unsigned_abs()).sum::<u64>() as f64)
            .collect();
        let seconds: Vec<f64> = visits.iter().map(|visit| visit.took).collect();
        Self { bytes: mean(&bytes), seconds: mean(&seconds) }
    }

    /// Percent.
    fn more_bytes(&self, direct: &Self) -> f64 {
        (self.bytes / direct.bytes - 1.0) * 100.0
    }

    fn beside(&self, direct: &Self) -> [Figure; 4] {
        [
            Figure::new("kB a visit", self.bytes / 1_000.0),
            Figure::new("bytes more, %", self.more_bytes(direct)),
            Figure::new("seconds a page", self.seconds),
            Figure::new("seconds more", self.seconds - direct.seconds),
        ]
    }
}

/// Accuracies in each fold.
#[derive(Clone, Deserialize)]
struct Scores {
    forest: Vec<f64>,
    leaves: Vec<f64>,
    scaled: Vec<f64>,
    shuffled: Vec<f64>,
}

impl Scores {
    fn best(&self) -> f64 {
        [&self.forest, &self.leaves, &self.scaled].into_iter().map(|folds| mean(folds)).fold(0.0, f64::max)
    }

    fn figures(&self) -> Vec<Figure> {
        [("forest", &self.forest), ("nearest by leaves", &self.leaves), ("nearest", &self.scaled)]
            .into_iter()
            .flat_map(|(name, folds)| Figure::range(name, folds))
            .collect()
    }
}

fn classify(python: &Path, visits: &[Visit]) -> Result<Scores> {
    let mut lines = Vec::new();
    for visit in visits {
        serde_json::to_writer(&mut lines, visit)?;
        lines.push(b'\n');
    }
    let mut child = Command::new(python)
        .arg(PROGRAM)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("{} does not start: ./dev detect makes it", python.display()))?;
    // All of it is read before anything is written.
    child.stdin.take().context("its input is a pipe")?.write_all(&lines)?;
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "the classifiers ended with {}", output.status);
    Ok(serde_json::from_slice(&output.stdout)?)
}
