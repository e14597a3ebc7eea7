//! What the process's limit of open files leaves for connections.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

/// What a connection may take in all: the client's, the decoy's, and one to a stream's target.
const EACH: u64 = 3;
/// For everything else: listeners, files, what is connected to for other reasons.
const RESERVE: u64 = 64;
/// Fewest connections, however low the limit: a bridge for oneself.
const LEAST: usize = 16;

/// How many connections a listener may take, `most` at most, so that streams of clients that are there still find descriptors when
/// as many as that have come. Whoever raises the limit does so before.
pub(crate) fn connections(most: usize) -> usize {
    share(limit(), most)
}

fn share(limit: Option<u64>, most: usize) -> usize {
    let fit = limit.map_or(u64::MAX, |limit| limit.saturating_sub(RESERVE) / EACH);
    usize::try_from(fit).unwrap_or(most).max(LEAST).min(most)
}

#[cfg(unix)]
fn limit() -> Option<u64> {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).current
}

#[cfg(not(unix))]
fn limit() -> Option<u64> {
    None
}

/// Something that is worth a line in the log, and not ten a second.
#[derive(Debug, Default)]
pub(crate) struct Seldom(Option<Instant>);

impl Seldom {
    const PAUSE: Duration = Duration::from_secs(60);

    /// Whether it is time to say it, which it was last a minute ago or never.
    pub(crate) fn is_due(&mut self, now: Instant) -> bool {
        let due = self.0.is_none_or(|last| now.saturating_duration_since(last) >= Self::PAUSE);
        if due {
            self.0 = Some(now);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::now;

    #[test]
    fn a_third_of_what_there_is() {
        for (limit, expected) in [
            (Some(0), 16),
            (Some(100), 16),
            (Some(1_024), 320),
            (Some(20_000), 6_645),
            (Some(524_288), 120_000),
            (Some(u64::MAX), 120_000),
            (None, 120_000),
        ] {
            assert_eq!(share(limit, 120_000), expected, "{limit:?}");
        }
        assert!((LEAST..=1_000_000).contains(&connections(1_000_000)));
    }

    #[test]
    fn it_is_said_once_a_minute() {
        let (mut seldom, start) = (Seldom::default(), now());
        let said =
            (0..1_800).filter(|tenth| seldom.is_due(start + Duration::from_millis(100 * tenth))).count();
        assert_eq!(said, 3);
    }
}
