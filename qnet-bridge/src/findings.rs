//! What a check found, in words and as JSON.

use std::fmt;

use serde::Serialize;

/// How one thing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// As it should be.
    Ok,
    /// Not as it should be, and the bridge works all the same.
    Warning,
    /// The bridge does not work.
    Failed,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Its name, one word, the same in every version.
    pub check: &'static str,
    /// How it is.
    pub outcome: Outcome,
    /// What was found and, where something is wrong, what to do.
    pub words: String,
}

/// Everything that was looked at, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings(pub Vec<Finding>);

impl Findings {
    pub(crate) fn ok(&mut self, check: &'static str, words: impl Into<String>) {
        self.0.push(Finding { check, outcome: Outcome::Ok, words: words.into() });
    }

    pub(crate) fn warn(&mut self, check: &'static str, words: impl Into<String>) {
        self.0.push(Finding { check, outcome: Outcome::Warning, words: words.into() });
    }

    pub(crate) fn fail(&mut self, check: &'static str, words: impl Into<String>) {
        self.0.push(Finding { check, outcome: Outcome::Failed, words: words.into() });
    }

    /// Whether nothing failed.
    #[must_use]
    pub fn good(&self) -> bool {
        self.0.iter().all(|finding| finding.outcome != Outcome::Failed)
    }

    /// As JSON, with a newline.
    #[must_use]
    pub fn json(&self) -> String {
        format!("{:#}\n", serde_json::json!({ "ok": self.good(), "findings": self.0 }))
    }
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Finding { check, outcome, words } in &self.0 {
            let outcome = match outcome {
                Outcome::Ok => "ok",
                Outcome::Warning => "warning",
                Outcome::Failed => "FAILED",
            };
            writeln!(f, "{outcome:<8} {check:<7} {words}")?;
        }
        let summary = match self.0.iter().filter(|finding| finding.outcome == Outcome::Warning).count() {
            _ if !self.good() => "This bridge does not work as it is.",
            0 => "All well.",
            _ => "This works; see the warnings.",
        };
        writeln!(f, "{summary}")
    }
}
