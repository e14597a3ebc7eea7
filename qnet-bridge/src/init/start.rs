//! `init --start`: what was written is switched on and looked at, and the line for users is the last that is printed.
//!
//! 1. systemd reads the units again; tor, where it stands behind, starts by its new configuration and makes its fingerprint.
//! 2. The service is switched on. What runs already starts anew only if its files were changed, now or since it began: an earlier run
//!    may have ended before it came to that.
//! 3. The bridge is checked as `qnet-bridge check` does it.

use std::{
    fs,
    path::Path,
    process::Command,
    time::{Duration, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, ensure};
use qnet_transport::tls::Roots;
use tokio::time::{Instant, sleep};

use super::{Behind, Changes, Decided, SERVICE, TORRC, TORRC_PART};
use crate::{
    check,
    findings::{Findings, Outcome},
    line::{Fingerprints, TOR_DATA},
    settings::{Certificate, DEFAULT_CONFIG, DEFAULT_URL_FILE, Decoy},
};

/// tor's service on Debian, and the bridge's.
const TOR: &str = "tor@default";
const BRIDGE: &str = "qnet-bridge";
/// How long tor may take to make its keys: a second or two, and more on a small machine.
const FINGERPRINT_LIMIT: Duration = Duration::from_secs(60);
/// How long an authority may take for the first certificate, before which strangers are shown none: mostly under half a minute.
const CERTIFICATE_LIMIT: Duration = Duration::from_secs(120);
/// Between two looks at either.
const PAUSE: Duration = Duration::from_secs(1);

/// What was found in the end.
pub(super) async fn start(decided: &Decided, changes: &Changes) -> Result<Findings> {
    systemctl(&["daemon-reload"], None)?;
    if decided.behind == Behind::Tor {
        let files = [TORRC_PART, TORRC];
        let anew = changes.tor || outdated(TOR, &files) || Fingerprints::read(Path::new(TOR_DATA))?.is_none();
        systemctl(&[verb(anew), TOR], Some(TOR))?;
        fingerprint(Path::new(TOR_DATA)).await?;
    }
    systemctl(&["enable", BRIDGE], None)?;
    let anew = changes.bridge || outdated(BRIDGE, &[DEFAULT_URL_FILE, DEFAULT_CONFIG, SERVICE]);
    systemctl(&[verb(anew), BRIDGE], Some(BRIDGE))?;
    let roots = Roots::load().context("the certificates to check sites by")?;
    let begun = Instant::now();
    let wait = if asks_an_authority(&decided.plan.decoy) { CERTIFICATE_LIMIT } else { Duration::ZERO };
    loop {
        let mut findings = Findings::default();
        check::own(&decided.plan, &roots, false, Path::new(TOR_DATA), &mut findings).await;
        if matches!(decided.plan.decoy, Decoy::Front(_)) {
            excuse_front(&mut findings);
        }
        if findings.good() || begun.elapsed() >= wait {
            return Ok(findings);
        }
        sleep(PAUSE).await;
    }
}

/// The web server in front is set up by its operator, as a rule after this: what it does not hand on yet is no failure of what was
/// started. It is looked at after the bridge's own end, of which the origin is the last.
fn excuse_front(findings: &mut Findings) {
    let own = findings.0.iter().position(|finding| finding.check == "origin");
    let fronts = findings.0.iter_mut().skip(own.map_or(usize::MAX, |place| place + 1));
    for finding in fronts.filter(|finding| finding.outcome == Outcome::Failed) {
        finding.outcome = Outcome::Warning;
        finding.words.push_str("; when the web server is set up as said below: qnet-bridge check");
    }
}

/// Whether a service runs since before one of its files was written. Within one second that is not seen.
fn outdated(unit: &str, files: &[&str]) -> bool {
    let words = ["show", "--property=ActiveEnterTimestamp", "--timestamp=unix", "--value", unit];
    // What cannot be asked, or does not run, is no older than its files.
    let Ok(output) = Command::new("systemctl").args(words).output() else { return false };
    let since =
        str::from_utf8(&output.stdout).ok().and_then(|text| text.trim().strip_prefix('@')?.parse().ok());
    let Some(since) = since.map(|seconds| UNIX_EPOCH + Duration::from_secs(seconds)) else { return false };
    let written = |file: &&str| fs::metadata(file).and_then(|file| file.modified()).ok();
    files.iter().filter_map(written).any(|written| written >= since + Duration::from_secs(1))
}

/// A service that does not run is started either way.
fn verb(changed: bool) -> &'static str {
    if changed { "restart" } else { "start" }
}

fn asks_an_authority(decoy: &Decoy) -> bool {
    matches!(decoy, Decoy::Site { certificate: Certificate::Acme(_), .. })
}

/// Waits until tor has made its keys.
async fn fingerprint(data: &Path) -> Result<()> {
    let begun = Instant::now();
    while Fingerprints::read(data)?.is_none() {
        ensure!(
            begun.elapsed() < FINGERPRINT_LIMIT,
            "tor has written no fingerprint to {} in {} s; see: journalctl -u {TOR}",
            data.display(),
            FINGERPRINT_LIMIT.as_secs()
        );
        sleep(PAUSE).await;
    }
    Ok(())
}

/// `unit`: whose log says why not.
fn systemctl(words: &[&str], unit: Option<&str>) -> Result<()> {
    let said = format!("systemctl {}", words.join(" "));
    let output = Command::new("systemctl").args(words).output();
    let output = output.with_context(|| format!("the files are written, but `{said}` does not start"))?;
    let log = unit.map(|unit| format!("; see: journalctl -u {unit}")).unwrap_or_default();
    ensure!(
        output.status.success(),
        "the files are written, but `{said}` failed: {}{log}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::findings::Finding;

    fn outcomes(checks: &[(&'static str, Outcome)]) -> Vec<Outcome> {
        let found = checks.iter().map(|(check, outcome)| Finding {
            check,
            outcome: *outcome,
            words: "words".to_owned(),
        });
        let mut findings = Findings(found.collect());
        excuse_front(&mut findings);
        findings.0.iter().map(|finding| finding.outcome).collect()
    }

    #[test]
    fn a_front_that_is_not_set_up_yet_is_no_failure_and_the_bridges_own_end_is() {
        use Outcome::{Failed, Ok, Warning};
        let front = [("path", Ok), ("origin", Warning), ("port", Ok), ("websocket", Failed)];
        assert_eq!(outcomes(&front), [Ok, Warning, Ok, Warning]);
        for own in [[("key", Failed), ("origin", Ok)], [("port", Ok), ("path", Failed)]] {
            assert_eq!(outcomes(&own), own.map(|(_, outcome)| outcome));
        }
    }
}
