//! The slowest part: how long the site keeps a connection that is in use.
//!
//! Some servers end a connection because of its age (nginx: `keepalive_time`, an hour unless it is set), mostly in answer to the
//! first request after. So requests are made at growing distances, each a twentieth of the connection's age, which tells the end
//! of an hour to three minutes with some two hundred requests.

use std::time::{Duration, Instant};

use qnet_proto::http2::Keeper;

use super::{
    error::DecoyError,
    probes::SILENT,
    visit::{Heard, Site, Visit},
};
use crate::{driver::now, tls::wire::APPLICATION_DATA};

/// How long a connection is kept in use at most: a little more than nginx's hour.
const WATCHED: Duration = Duration::from_secs(65 * 60);
/// The shortest distance of two requests.
const SHORTEST: Duration = Duration::from_secs(1);
/// The distance of two requests, as a part of the connection's age.
const PART: u32 = 20;
/// Requests left of the site's number per connection: that limit is another one.
const SPARE: u32 = 20;

/// How long a connection in use lasted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetime {
    /// Its age when the site last answered without ending it: it lasts at least this long.
    pub lasted: Duration,
    /// Whether the site then ended it, and did so a second time; otherwise it was not watched for longer.
    pub ended: bool,
}

/// How a connection may be used without meeting another of the site's limits.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// How long the site keeps an idle connection.
    pub idle: Duration,
    /// How many requests it answers on one.
    pub requests: u32,
}

/// Loads the page and goes on with requests until the site ends the connection, twice: a restart looks the same once.
pub(super) async fn measure(site: &Site<'_>, pace: Pace) -> Result<Lifetime, DecoyError> {
    let first = once(site, pace).await?;
    if !first.ended {
        return Ok(first);
    }
    let second = once(site, pace).await?;
    Ok(if second.lasted > first.lasted { second } else { first })
}

async fn once(site: &Site<'_>, pace: Pace) -> Result<Lifetime, DecoyError> {
    let begun = now();
    let mut visit = site.plain_visit().await?;
    let mut keeper = Keeper::new(visit.load.requests(), site.name, "/");
    let mut lasted = now() - begun;
    loop {
        let next = distance(lasted, pace.idle);
        if lasted + next > WATCHED || keeper.requests() + SPARE >= pace.requests {
            return Ok(Lifetime { lasted, ended: false });
        }
        let rested = listen(&mut visit, &mut keeper, begun + lasted + next, false).await?;
        if !rested || !ask(&mut visit, &mut keeper).await? {
            return Ok(Lifetime { lasted, ended: true });
        }
        lasted = now() - begun;
    }
}

/// One request. False: the site ends the connection, or does not answer.
async fn ask(visit: &mut Visit, keeper: &mut Keeper) -> Result<bool, DecoyError> {
    let mut request = Vec::new();
    keeper.request(&mut request);
    say(visit, &request).await;
    listen(visit, keeper, now() + SILENT, true).await
}

/// Listens until then, or until what was asked is answered. False: the site ends the connection, or an answer is missing.
async fn listen(
    visit: &mut Visit,
    keeper: &mut Keeper,
    until: Instant,
    asked: bool,
) -> Result<bool, DecoyError> {
    loop {
        match visit.hear(Some(until)).await? {
            Heard::Data(_) => {
                let mut owed = Vec::new();
                keeper
                    .on_data(&visit.content, &mut owed)
                    .map_err(|_| DecoyError::Broken("a frame that is not HTTP/2's"))?;
                say(visit, &owed).await;
            }
            Heard::Other(_) => {}
            Heard::Alert | Heard::Ended(_) => return Ok(false),
            Heard::Silence => return Ok(keeper.outstanding() == 0),
        }
        if keeper.going_away() {
            return Ok(false);
        }
        if asked && keeper.outstanding() == 0 {
            return Ok(true);
        }
    }
}

async fn say(visit: &mut Visit, plain: &[u8]) {
    if !plain.is_empty() {
        let mut out = Vec::new();
        visit.tls.sealer.seal(APPLICATION_DATA, plain, &mut out);
        visit.send(&out).await;
    }
}

/// From one request to the next, within the idle limit.
fn distance(age: Duration, idle: Duration) -> Duration {
    (age / PART).max(SHORTEST).min(idle.saturating_sub(SHORTEST).max(idle / 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Requests made until [`WATCHED`] is over.
    fn requests(idle: u64) -> u32 {
        let (mut age, mut count) = (Duration::ZERO, 0);
        while age < WATCHED {
            age += distance(age, Duration::from_secs(idle));
            count += 1;
        }
        count
    }

    #[test]
    fn an_hour_is_measured_with_few_requests_within_the_idle_limit() {
        assert!((100..200).contains(&requests(75)), "{}", requests(75));
        // Below six seconds a usual number of requests ends it before.
        assert!(requests(6) < 1_000, "{}", requests(6));
        for idle in [1, 2, 5, 75, 600] {
            let longest = distance(WATCHED, Duration::from_secs(idle));
            assert!(
                longest < Duration::from_secs(idle) && longest >= Duration::from_millis(500),
                "{longest:?}"
            );
        }
    }
}
