//! The web site behind the bridge: is it one that can be, and for how long does it keep an idle connection?

use crate::TRANSPORT;
use crate::output::Output;
use crate::refusal::chain;
use qnet_transport::bridge::Examiner;
use qnet_transport::decoy::Refusal;
use qnet_transport::tls::Roots;
use qnet_wire::error::Kind;
use std::time::Duration;
use tokio::time::{sleep, timeout};

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

/// Examines the site. One that is not there yet is examined again in the background; meanwhile the bridge serves.
///
/// # Errors
/// The site cannot stand before a bridge, and why.
pub(crate) async fn check(examiner: Examiner, roots: Roots, output: Output) -> Result<(), String> {
    match examine(&examiner, &roots).await {
        Outcome::Good => {
            tokio::spawn(measure(examiner, roots));
            Ok(())
        }
        Outcome::Later(why) => {
            tracing::warn!("{why} (tried again every {} s)", AGAIN.as_secs());
            tokio::spawn(keep_trying(examiner, roots, output));
            Ok(())
        }
        Outcome::Refused(why) => Err(why),
    }
}

async fn keep_trying(examiner: Examiner, roots: Roots, output: Output) {
    loop {
        sleep(AGAIN).await;
        match examine(&examiner, &roots).await {
            Outcome::Later(why) => tracing::debug!("{why}"),
            Outcome::Good => return measure(examiner, roots).await,
            Outcome::Refused(why) => {
                tracing::error!("{why}");
                return output.status(&[("TRANSPORT", TRANSPORT), ("DECOY", "Refused"), ("REASON", &why)]);
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
