//! What `check --json` found.

use std::process::Output;

use anyhow::{Context as _, Result};
use serde_json::Value;

/// Check, outcome and words.
pub(crate) type Finding = (String, String, String);

/// Whether all was well, and each finding.
pub(crate) fn outcomes(output: &Output) -> Result<(bool, Vec<Finding>)> {
    let said: Value = serde_json::from_slice(&output.stdout).with_context(|| format!("{output:?}"))?;
    let good = said["ok"].as_bool().context("ok")?;
    assert_eq!(good, output.status.success());
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let findings = said["findings"].as_array().context("findings")?;
    Ok((good, findings.iter().map(|f| (text(&f["check"]), text(&f["outcome"]), text(&f["words"]))).collect()))
}

/// Without the words.
pub(crate) fn names(findings: &[Finding]) -> Vec<(&str, &str)> {
    findings.iter().map(|(check, outcome, _)| (check.as_str(), outcome.as_str())).collect()
}
