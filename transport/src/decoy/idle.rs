//! The slow part: how long the site keeps a visitor who has loaded its page and does nothing.

use std::time::Duration;

use super::{
    error::DecoyError,
    visit::{Ending, Heard, Site},
};
use crate::driver::now;

/// How long an idle connection is watched at most. Browsers close theirs after five minutes; a bridge that asks for
/// something every ten is within any limit that is longer.
pub(super) const MAX_IDLE: Duration = Duration::from_secs(600);
/// After the first sign of its end, how long what is still to come may take. Some servers then wait for the client to close,
/// as Chrome does; Go's wait for a second (`goAwayTimeout` of its HTTP/2).
const GRACE: Duration = Duration::from_secs(3);

/// The end of an idle connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Idle {
    /// From the last answer's end to the first sign of the connection's; 10 minutes if there was none until then.
    pub limit: Duration,
    /// The lengths of the records that came between.
    pub records: Vec<usize>,
    /// How the connection ended, if it did.
    pub ending: Option<Ending>,
}

/// Loads the page and waits for the end of the connection.
pub(super) async fn measure(site: &Site<'_>) -> Result<Idle, DecoyError> {
    let mut visit = site.plain_visit().await?;
    visit.leave_open();
    let loaded = now();
    let (mut until, mut limit, mut records, mut ending) = (loaded + MAX_IDLE, None, Vec::new(), None);
    loop {
        let heard = visit.hear_unasked(until).await?;
        let sign = match heard {
            Heard::Data(length) | Heard::Other(length) => {
                records.push(length);
                visit.load.gone_away()
            }
            Heard::Alert => {
                records.push(super::error::ALERT_LENGTH);
                true
            }
            Heard::Ended(how) => {
                ending = Some(how);
                true
            }
            Heard::Silence => false,
        };
        if sign && limit.is_none() {
            limit = Some(now() - loaded);
            until = now() + GRACE;
        }
        if matches!(heard, Heard::Ended(_) | Heard::Silence) {
            return Ok(Idle { limit: limit.unwrap_or(MAX_IDLE), records, ending });
        }
    }
}
