//! What came out: a table, JSON, and a page with plots.

mod page;
mod plots;

use std::borrow::Cow;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::capture::Capture;
use crate::detector::{About, Detector, Figure, Plot, Role, Verdict};
use crate::stage::Field;

/// Characters of a note that a terminal is given.
const NOTE: usize = 400;

/// What one detector said, or why it could not.
#[derive(Debug, Serialize)]
pub struct Outcome {
    /// What it is.
    pub about: About,
    /// What it said.
    pub verdicts: Vec<Verdict>,
    /// What it measured, where that can be drawn.
    pub plots: Vec<Plot>,
    /// Why it could not run.
    pub error: Option<String>,
}

impl Outcome {
    /// Runs a detector.
    pub fn of(detector: &dyn Detector, field: &Field) -> Self {
        let about = detector.about();
        match detector.examine_and_plot(field) {
            Ok((verdicts, plots)) => Self { about, verdicts, plots, error: None },
            Err(error) => {
                let error = Some(format!("{error:#}"));
                Self { about, verdicts: Vec::new(), plots: Vec::new(), error }
            }
        }
    }

    /// Everything that is not as it must be, a line each.
    #[must_use]
    pub fn failures(&self) -> Vec<String> {
        let name = format!("{} {}", self.about.number, self.about.name);
        let mut found: Vec<String> =
            self.error.iter().map(|why| format!("{name}: could not run: {why}")).collect();
        for (role, words) in [(Role::Positive, "positive"), (Role::Negative, "negative")] {
            if self.error.is_none() && !self.verdicts.iter().any(|verdict| verdict.role == role) {
                found.push(format!("{name}: has no {words} control"));
            }
        }
        let judged = |verdict: &Verdict| verdict.role == Role::Subject;
        if self.about.gate && self.error.is_none() && !self.verdicts.iter().any(judged) {
            found.push(format!("{name}: has judged nothing of QNet's"));
        }
        for verdict in self.verdicts.iter().filter(|verdict| !verdict.holds()) {
            let what = match verdict.role {
                Role::Positive => "did not flag its positive control",
                Role::Negative => "flags its negative control",
                Role::Subject if self.about.gate => "flags",
                Role::Subject | Role::Beside | Role::Inapplicable => continue,
                Role::Unjudged => {
                    found.push(format!("{name}: could not judge {}: {}", verdict.what, verdict.note));
                    continue;
                }
            };
            found.push(format!("{name}: {what}: {}", verdict.what));
        }
        found
    }
}

/// A web server before which QNet will not stand: no detector has judged it there, which is a failure.
#[derive(Debug, Serialize)]
pub struct Refused {
    /// Which.
    pub server: String,
    /// What the bridge says of it.
    pub why: String,
}

impl Refused {
    /// For people.
    #[must_use]
    pub fn told(&self) -> String {
        format!("QNet will not stand before {}: {}", self.server, self.why)
    }
}

/// What could not be captured, which is a failure.
#[derive(Debug, Serialize)]
pub struct Missing {
    /// What.
    pub what: String,
    /// Why not.
    pub why: String,
}

impl Missing {
    /// For people.
    #[must_use]
    pub fn told(&self) -> String {
        format!("could not capture {}: {}", self.what, self.why)
    }
}

/// A try of a capture that failed before another one. It is no failure, and is told all the same: what fails now and then is a finding.
#[derive(Debug, Serialize)]
pub struct Retried {
    /// What was captured.
    pub what: String,
    /// Why that try failed.
    pub why: String,
}

impl Retried {
    /// For people.
    #[must_use]
    pub fn told(&self) -> String {
        format!("tried again to capture {}: {}", self.what, self.why)
    }
}

/// All of it.
#[derive(Debug, Serialize)]
pub struct Report {
    /// By detector.
    pub outcomes: Vec<Outcome>,
    /// Where there is nothing to judge.
    pub refused: Vec<Refused>,
    /// What was not captured.
    pub missing: Vec<Missing>,
    /// What was tried more than once.
    pub retried: Vec<Retried>,
}

impl Report {
    /// Runs all detectors, telling `tell` which it is at.
    pub fn of(detectors: &[Box<dyn Detector>], field: &Field, mut tell: impl FnMut(&str)) -> Self {
        let outcomes = detectors.iter().map(|detector| {
            tell(detector.about().name);
            Outcome::of(detector.as_ref(), field)
        });
        let refused = field.refused.iter();
        let refused = refused.map(|(server, why)| Refused { server: server.clone(), why: why.clone() });
        let missing = field.missing.iter();
        let missing = missing.map(|(what, why)| Missing { what: what.clone(), why: why.clone() });
        let retried = field.retried.iter();
        let retried = retried.map(|(what, why)| Retried { what: what.clone(), why: why.clone() });
        Self {
            outcomes: outcomes.collect(),
            refused: refused.collect(),
            missing: missing.collect(),
            retried: retried.collect(),
        }
    }

    /// Everything that is not as it must be; empty if all is well.
    #[must_use]
    pub fn failures(&self) -> Vec<String> {
        let refused = self.refused.iter().map(Refused::told);
        let missing = self.missing.iter().map(Missing::told);
        refused.chain(missing).chain(self.outcomes.iter().flat_map(Outcome::failures)).collect()
    }

    /// The table for a terminal.
    #[must_use]
    pub fn table(&self) -> String {
        let mut out = String::new();
        for Outcome { about, verdicts, error, .. } in &self.outcomes {
            let gate = if about.gate { "" } else { " (measured only)" };
            let _ = writeln!(out, "\n{:2}. {}{gate}\n    {}", about.number, about.name, about.source);
            if let Some(error) = error {
                let _ = writeln!(out, "    COULD NOT RUN: {error}");
            }
            for verdict in verdicts {
                let mark = if verdict.holds() { "  " } else { "!!" };
                let said = said(verdict);
                let _ = writeln!(
                    out,
                    " {mark} {:42} {:8} {said:8} {}{}{}",
                    verdict.what,
                    role(verdict.role),
                    figures(&verdict.figures),
                    if verdict.note.is_empty() { "" } else { "; " },
                    cut(&verdict.note)
                );
            }
        }
        for retried in &self.retried {
            let _ = writeln!(out, "\n{}", retried.told());
        }
        out
    }

    /// Writes `report.json` and `report.html` into `folder`.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn write(&self, folder: &Path, captures: &[Capture]) -> Result<()> {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        fs::write(folder.join("report.json"), serde_json::to_vec_pretty(self)?)?;
        fs::write(folder.join("captures.json"), serde_json::to_vec(captures)?)?;
        fs::write(folder.join("report.html"), page::page(self, captures))?;
        Ok(())
    }
}

/// A note as far as a terminal has room for it: some hold whole pages, which the report has.
fn cut(note: &str) -> Cow<'_, str> {
    match note.char_indices().nth(NOTE) {
        Some((end, _)) => format!("{}…", note.get(..end).unwrap_or_default()).into(),
        None => note.into(),
    }
}

/// A role in a word.
fn role(role: Role) -> &'static str {
    match role {
        Role::Positive => "control+",
        Role::Negative => "control-",
        Role::Subject => "QNet",
        Role::Beside => "beside",
        Role::Unjudged => "unjudged",
        Role::Inapplicable => "beside",
    }
}

/// A verdict in a word.
fn said(verdict: &Verdict) -> &'static str {
    match (verdict.role, verdict.flagged) {
        (Role::Unjudged, _) => "none",
        (Role::Inapplicable, _) => "not applicable",
        (_, true) => "flagged",
        (_, false) => "passes",
    }
}

/// Figures in a line; of a range the ends are in brackets.
fn figures(all: &[Figure]) -> String {
    let ranges = Figure::ranges(all);
    let is_end = |name: &str| {
        ranges.iter().any(|(range, _)| name.strip_prefix(range).is_some_and(|end| end.starts_with(", ")))
    };
    let told = all.iter().filter(|figure| !is_end(&figure.name)).map(|figure| {
        let ends = ranges.iter().find(|(name, _)| *name == figure.name);
        let ends = ends.map(|(_, [_, least, most])| format!(" ({} to {})", number(*least), number(*most)));
        format!("{} {}{}", figure.name, number(figure.value), ends.unwrap_or_default())
    });
    told.collect::<Vec<_>>().join(", ")
}

/// A figure with as many digits as it needs.
fn number(value: f64) -> String {
    if value == value.trunc() && value.abs() < 1e9 {
        format!("{value}")
    } else if value.abs() >= 0.01 {
        format!("{value:.2}")
    } else {
        format!("{value:.1e}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(gate: bool, verdicts: &[(Role, bool)]) -> Outcome {
        let about = About { number: 8, name: "a rule", source: "", rule: "", thresholds: Vec::new(), gate };
        let verdict = |&(role, flagged): &(Role, bool)| {
            let (what, figures, note) = (format!("{role:?}"), Vec::new(), String::new());
            Verdict { what, role, flagged, figures, note }
        };
        let verdicts = verdicts.iter().map(verdict).collect();
        Outcome { about, verdicts, plots: Vec::new(), error: None }
    }

    /// What a detector that works says of what it must not flag.
    const WELL: [(Role, bool); 4] =
        [(Role::Positive, true), (Role::Negative, false), (Role::Subject, false), (Role::Beside, true)];

    #[test]
    fn what_holds_is_no_failure() {
        assert_eq!(outcome(true, &WELL).failures(), Vec::<String>::new());
        assert_eq!(outcome(false, &WELL[..2]).failures(), Vec::<String>::new(), "measured only");
        let flagged = [WELL[0], WELL[1], (Role::Subject, true)];
        assert_eq!(outcome(false, &flagged).failures(), Vec::<String>::new(), "measured only");
    }

    #[test]
    fn each_way_to_fail_is_told() {
        let with = |role, flagged| {
            let verdicts = WELL.map(|one| if one.0 == role { (role, flagged) } else { one });
            outcome(true, &verdicts).failures()
        };
        assert_eq!(with(Role::Positive, false), ["8 a rule: did not flag its positive control: Positive"]);
        assert_eq!(with(Role::Negative, true), ["8 a rule: flags its negative control: Negative"]);
        assert_eq!(with(Role::Subject, true), ["8 a rule: flags: Subject"]);
        assert_eq!(outcome(true, &WELL[1..]).failures(), ["8 a rule: has no positive control"]);
        let without = [WELL[0], WELL[2]];
        assert_eq!(outcome(true, &without).failures(), ["8 a rule: has no negative control"]);
        assert_eq!(outcome(true, &WELL[..2]).failures(), ["8 a rule: has judged nothing of QNet's"]);
        let error = Some("no packet socket".to_owned());
        let broken = Outcome { error, ..outcome(true, &[]) };
        assert_eq!(broken.failures(), ["8 a rule: could not run: no packet socket"]);
    }

    #[test]
    fn what_could_not_be_judged_is_a_failure() {
        let mut outcome = outcome(false, &WELL);
        outcome.verdicts.push(Verdict::none("QNet, Nginx", "no lengths"));
        assert_eq!(outcome.failures(), ["8 a rule: could not judge QNet, Nginx: no lengths"]);
        let report =
            Report { outcomes: vec![outcome], refused: Vec::new(), missing: Vec::new(), retried: Vec::new() };
        assert!(report.table().contains("!! QNet, Nginx"), "{}", report.table());
    }

    #[test]
    fn what_a_rule_does_not_apply_to_is_said_everywhere_and_no_failure() {
        let mut outcome = outcome(true, &WELL);
        outcome.verdicts.push(Verdict::inapplicable("obfs4, a page", "no TLS: nothing to look at"));
        let report =
            Report { outcomes: vec![outcome], refused: Vec::new(), missing: Vec::new(), retried: Vec::new() };
        assert_eq!(report.failures(), Vec::<String>::new());
        let line = report.table().lines().find(|line| line.contains("obfs4")).unwrap().to_owned();
        assert!(line.contains("not applicable") && line.contains("no TLS"), "{line}");
        let folder = tempfile::tempdir().unwrap();
        report.write(folder.path(), &[]).unwrap();
        let read = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
        let json: serde_json::Value = serde_json::from_str(&read("report.json")).unwrap();
        assert_eq!(json["outcomes"][0]["verdicts"][4]["role"], "not applicable");
        assert_eq!(json["outcomes"][0]["verdicts"][4]["note"], "no TLS: nothing to look at");
        let html = read("report.html");
        assert!(html.contains("<td>obfs4, a page<td>beside<td>not applicable<td>"), "{html}");
        assert!(html.contains("no TLS: nothing to look at"));
    }

    #[test]
    fn what_was_refused_or_not_captured_is_told_and_a_failure_and_a_retry_is_told() {
        let refused = Refused { server: "Caddy".into(), why: "answers <too short>".into() };
        let missing = Missing { what: "QNet, a page, Nginx, 20 ms".into(), why: "no page".into() };
        let outcomes = vec![outcome(true, &WELL)];
        let retried = Retried { what: "plain, a page".into(), why: "no <browser>".into() };
        let report =
            Report { outcomes, refused: vec![refused], missing: vec![missing], retried: vec![retried] };
        let failures = [
            "QNet will not stand before Caddy: answers <too short>",
            "could not capture QNet, a page, Nginx, 20 ms: no page",
        ];
        assert_eq!(report.failures(), failures);
        assert!(report.table().contains("tried again to capture plain, a page: no <browser>"));
        let folder = tempfile::tempdir().unwrap();
        report.write(folder.path(), &[]).unwrap();
        let read = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
        let json: serde_json::Value = serde_json::from_str(&read("report.json")).unwrap();
        assert_eq!(json["refused"][0]["server"], "Caddy");
        assert_eq!(json["refused"][0]["why"], "answers <too short>");
        assert_eq!(json["retried"][0]["why"], "no <browser>");
        assert!(read("report.html").contains("tried again to capture plain, a page: no &lt;browser&gt;"));
        assert!(read("report.html").contains("not stand before Caddy: answers &lt;too short&gt;"));
    }
}
