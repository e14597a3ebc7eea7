//! The web site behind a running bridge: is it one that can be, and for how long does it keep an idle connection?

use std::time::Duration;

use qnet_wire::error::{Kind, chain};
use tokio::time::{sleep, timeout};

use super::Refusal;
use crate::{bridge::Examiner, tls::Roots};

/// How long the examination may take before the bridge is announced without it: starting must fit Arti's 30 s.
const LIMIT: Duration = Duration::from_secs(12);
/// How often a site that could not be reached is tried again.
const AGAIN: Duration = Duration::from_secs(30);

enum Outcome {
    Good,
    /// It did not answer, or not in time: perhaps it starts later than the bridge.
    Later(String),
    Refused(String),
}

/// Examines the site, measures in the background, and logs what the operator should know. One that is not there yet is
/// examined again in the background; meanwhile the bridge serves. Where that finds that it cannot be the decoy, `refused` is told.
///
/// # Errors
/// The site cannot stand behind a bridge, and why.
pub async fn watch(
    examiner: Examiner,
    roots: Roots,
    refused: impl FnOnce(&str) + Send + 'static,
) -> Result<(), String> {
    match examine(&examiner, &roots).await {
        Outcome::Good => {
            tokio::spawn(measure(examiner, roots));
            Ok(())
        }
        Outcome::Later(why) => {
            tracing::warn!("{why} (tried again every {} s)", AGAIN.as_secs());
            tokio::spawn(keep_trying(examiner, roots, refused));
            Ok(())
        }
        Outcome::Refused(why) => Err(why),
    }
}

async fn keep_trying(examiner: Examiner, roots: Roots, refused: impl FnOnce(&str)) {
    loop {
        sleep(AGAIN).await;
        match examine(&examiner, &roots).await {
            Outcome::Later(why) => tracing::debug!("{why}"),
            Outcome::Good => return measure(examiner, roots).await,
            Outcome::Refused(why) => {
                tracing::error!("{why}");
                return refused(&why);
            }
        }
    }
}

async fn examine(examiner: &Examiner, roots: &Roots) -> Outcome {
    match timeout(LIMIT, examiner.examine(roots)).await {
        Err(_) => Outcome::Later(format!("the decoy took more than {} s to examine", LIMIT.as_secs())),
        Ok(Err(refusal)) => told(&refusal),
        Ok(Ok(examined)) => {
            for warning in examined.warnings {
                tracing::warn!("{warning}");
            }
            Outcome::Good
        }
    }
}

fn told(refusal: &Refusal) -> Outcome {
    match refusal.kind() {
        Kind::Network => Outcome::Later(chain(refusal)),
        _ => Outcome::Refused(chain(refusal)),
    }
}

/// Measures the idle limit, which takes as long as it is, and then the lifetime.
async fn measure(examiner: Examiner, roots: Roots) {
    match examiner.measure_idle(&roots).await {
        Ok(Ok(_)) => {}
        Ok(Err(refusal)) => {
            return match told(&refusal) {
                Outcome::Refused(why) => tracing::error!("{why}"),
                Outcome::Later(why) => tracing::warn!("{why}"),
                Outcome::Good => {}
            };
        }
        // The process ends.
        Err(_) => return,
    }
    // A site that is restarted within the hour is no news.
    if let Ok(Err(refusal)) = examiner.measure_lifetime(&roots).await {
        tracing::debug!("how long the decoy keeps connections is not known: {}", chain(&refusal));
    }
}
