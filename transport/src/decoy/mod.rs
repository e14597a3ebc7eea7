//! Which sites can be decoys: examines the site that a bridge stands before, and measures what its carriers need to know.
//!
//! A carrier is a visit to the site whose second half nobody but client and bridge can read. So the site must be one to which
//! such a visit is ordinary, and whose answers do not show that there was a knock. [`examine`] plays the visits that a client
//! makes, straight to the site, and refuses with a [`DecoyError`]; it takes a second or two:
//!
//! 1. A page load as Chrome's; nothing long may come unasked after it; then requests until the site ends the connection, or
//!    there were 1,001.
//! 2. Another; then a record that does not open: the alert must have TLS's own length.
//! 3. Two loads with a knock, random as it is to all but the bridge: as padding or, where that is refused, as a cookie. Their
//!    last answers must be those of the loads before.
//!
//! [`measure_idle`] loads the page and waits for the connection to end, up to ten minutes; it belongs in the background. Until
//! it is done a bridge asks its decoy for something every two seconds when it need not.
//!
//! Meanwhile the name's DNS is asked for an HTTPS record (RFC 9460) with `ech` or `h3` in it: browsers would then send another hello
//! than ours, or go by HTTP/3. Where no name server answers within two seconds the operator is told so, and how to look by hand.
//!
//! [`measure_lifetime`] comes after it: a connection is kept in use for an hour and some minutes, or until the site ends it. A site that
//! ends connections later is as one that never does; the carrier then ends with it, unannounced.

mod dns;
mod error;
mod idle;
mod lifetime;
mod place;
mod probes;
mod visit;
mod watch;

use std::{fmt, net::SocketAddr, time::Duration};

use qnet_proto::{bridge::DecoyFacts, http2::Answer, knock::Field, shape::Habit};
use qnet_wire::name::ServerName;

pub use dns::Resolver;
pub use error::{DecoyError, Refusal};
pub use idle::Idle;
pub use lifetime::{Lifetime, Pace};
pub use place::{Place, PlaceError, is_local, is_usable};
pub use visit::Ending;
pub use watch::watch;

use crate::tls::Roots;
use dns::Verdict;
use visit::{Site, Visit};

/// An unasked record of this length or more could be taken for an answer (docs/protocol.md, section 4).
const UNASKED: usize = 64;
/// The first record of the last answer needs this length: well above [`UNASKED`], and room for the proof's like.
const MIN_ANSWER: usize = 80;
/// Requests a connection must serve: a carrier makes some every time its tunnel falls quiet.
const MIN_REQUESTS: u32 = 200;
/// Requests that are tried: one more than nginx's default.
const MOST_REQUESTS: u32 = 1_001;
/// Visits with a knock.
const KNOCKS: usize = 2;

/// What was measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Where clients are to put the knock. A bridge takes both.
    pub field: Field,
    /// Requests that one connection answers.
    pub requests: u32,
    /// Whether it answers no more than those; otherwise it was not asked for more.
    pub limited: bool,
    /// The largest length of a record from the site, bytes.
    pub largest_record: usize,
    /// How it cuts long answers into records.
    pub habit: Habit,
    /// What a page load brings from the site, TLS's own bytes included; that of the first visit.
    pub load_bytes: usize,
    /// From a hello to the first byte back; the shortest of all visits.
    pub round_trip: Duration,
    /// How long an idle connection is kept, once measured.
    pub idle: Option<Duration>,
    /// How long any connection is kept, once measured, if there is such a limit.
    pub lifetime: Option<Duration>,
}

impl From<&Facts> for DecoyFacts {
    fn from(facts: &Facts) -> Self {
        Self {
            idle_limit: facts.idle,
            lifetime: facts.lifetime,
            max_requests: facts.requests,
            habit: facts.habit,
        }
    }
}

impl Facts {
    /// What holds for both of two names of one bridge.
    fn and(&self, other: &Self) -> Self {
        Self {
            field: if self.field == Field::Cookie { self.field } else { other.field },
            requests: self.requests.min(other.requests),
            limited: self.limited || other.limited,
            largest_record: self.largest_record.min(other.largest_record),
            habit: if self.habit == other.habit { self.habit } else { Habit::default() },
            load_bytes: self.load_bytes.min(other.load_bytes),
            round_trip: self.round_trip.min(other.round_trip),
            idle: self.idle.into_iter().chain(other.idle).min(),
            lifetime: self.lifetime.into_iter().chain(other.lifetime).min(),
        }
    }
}

/// What the operator should know of a site that can be the decoy.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Warning {
    /// The site is on this machine, and the certificate's issuer is not known here.
    Untrusted {
        /// The name asked for.
        name: ServerName,
        /// What a client would say.
        why: String,
    },
    /// The site refuses padding that is not zero.
    CookieNeeded {
        /// The name asked for.
        name: ServerName,
        /// What it does about such padding.
        why: String,
    },
    /// No name server told whether there is an HTTPS record.
    DnsUnchecked {
        /// The name asked for.
        name: ServerName,
        /// What went wrong.
        why: String,
    },
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Untrusted { name, why } => write!(
                f,
                "clients will not believe the certificate for {name} ({why}) unless its authority is among those they trust"
            ),
            Self::CookieNeeded { name, why } => write!(
                f,
                "{name} needs the cookie form of the knock, which its logs can show: padding changes its answer ({why})"
            ),
            Self::DnsUnchecked { name, why } => write!(
                f,
                "could not check that the DNS of {name} has no HTTPS record with ech or h3, which a decoy's must not ({why}); \
                 see what `dig +short HTTPS {name}` says"
            ),
        }
    }
}

/// A site that can be the decoy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Examined {
    /// What was measured.
    pub facts: Facts,
    /// What is not as it should be, and yet no reason to refuse.
    pub warnings: Vec<Warning>,
}

/// Examines the site `name` at `address`: the fast part, a second or two where the site is near. See the module's
/// documentation for what is done.
///
/// A certificate that `roots` do not vouch for is refused, but where the site is on this machine: its clients may have
/// authorities that the bridge does not, and the operator is warned; as when `resolver` cannot say whether there is an HTTPS record.
///
/// # Errors
/// See [`DecoyError`].
pub async fn examine(
    address: SocketAddr,
    name: &ServerName,
    roots: &Roots,
    resolver: &Resolver,
) -> Result<Examined, DecoyError> {
    let site = Site { address, name, roots };
    let (visited, looked_up) = tokio::join!(examine_site(&site), resolver.https_records(name));
    let mut examined = visited?;
    match looked_up {
        Ok(Verdict::Harmless) => {}
        Ok(Verdict::Ech) => return Err(DecoyError::HttpsRecord("a key for Encrypted Client Hello (ech)")),
        Ok(Verdict::Http3) => return Err(DecoyError::HttpsRecord("HTTP/3 (h3)")),
        Err(why) => {
            examined.warnings.push(Warning::DnsUnchecked { name: name.clone(), why: why.to_string() });
        }
    }
    Ok(examined)
}

async fn examine_site(site: &Site<'_>) -> Result<Examined, DecoyError> {
    let Site { address, name, .. } = *site;
    let mut warnings = Vec::new();

    let mut first = site.plain_visit().await?;
    if let Some(why) = first.doubt.take() {
        if !address.ip().is_loopback() {
            return Err(DecoyError::Untrusted(why));
        }
        warnings.push(Warning::Untrusted { name: name.clone(), why });
    }
    let load_bytes = first.received;
    probes::watch(&mut first).await?;
    let requests = probes::count_requests(site, &mut first).await?;

    let mut second = site.plain_visit().await?;
    probes::spoil(&mut second).await?;

    let plain = [first.answer(), second.answer()];
    let mut visits = vec![first, second];
    let field = match knocks(site, Field::Padding, &plain, &mut visits).await? {
        Ok(()) => Field::Padding,
        Err(padding) => match knocks(site, Field::Cookie, &plain, &mut visits).await? {
            Ok(()) => {
                warnings.push(Warning::CookieNeeded { name: name.clone(), why: padding });
                Field::Cookie
            }
            Err(cookie) if cookie == padding => return Err(DecoyError::KnockShows(padding)),
            Err(cookie) => return Err(DecoyError::KnockShows(format!("{padding}; as a cookie, {cookie}"))),
        },
    };
    let facts = Facts {
        field,
        requests: requests.answered,
        limited: requests.limited,
        largest_record: visits.iter().map(|visit| visit.largest).max().unwrap_or_default(),
        // Of the first visit's many requests the answers may go together.
        habit: visits.iter().skip(1).fold(Habit::default(), |habit, visit| habit.or(visit.habit)),
        load_bytes,
        round_trip: visits.iter().map(|visit| visit.round_trip).min().unwrap_or_default(),
        idle: None,
        lifetime: None,
    };
    Ok(Examined { facts, warnings })
}

/// Several visits with a knock of one form. The inner error says how it shows.
async fn knocks(
    site: &Site<'_>,
    field: Field,
    plain: &[Answer],
    visits: &mut Vec<Visit>,
) -> Result<Result<(), String>, DecoyError> {
    for _ in 0..KNOCKS {
        match probes::knock(site, field, plain).await? {
            Ok(visit) => visits.push(visit),
            Err(how) => return Ok(Err(how)),
        }
    }
    Ok(Ok(()))
}

/// [`examine`]s the site under each of a bridge's names; the facts are those that hold for all.
///
/// # Errors
/// The first name that is refused, and why; that there is no name.
pub async fn examine_all(
    address: SocketAddr,
    names: &[ServerName],
    roots: &Roots,
    resolver: &Resolver,
) -> Result<Examined, Refusal> {
    let mut all: Option<Examined> = None;
    for name in names {
        let this = examine(address, name, roots, resolver).await.map_err(Refusal::of(name))?;
        all = Some(match all {
            None => this,
            Some(before) => Examined {
                facts: before.facts.and(&this.facts),
                warnings: [before.warnings, this.warnings].concat(),
            },
        });
    }
    all.ok_or(Refusal::NoName)
}

/// Loads the page of `name` at `address` and waits for the idle connection to end, up to 10 minutes: the slow part.
///
/// # Errors
/// [`DecoyError::Unasked`]: the site sent what it should not, and cannot be the decoy after all. Others as for [`examine`].
pub async fn measure_idle(address: SocketAddr, name: &ServerName, roots: &Roots) -> Result<Idle, DecoyError> {
    idle::measure(&Site { address, name, roots }).await
}

/// [`measure_idle`] for each of a bridge's names, one after the other; the shortest.
///
/// # Errors
/// As for [`measure_idle`], for the first name that has one; that there is no name.
pub async fn measure_idle_all(
    address: SocketAddr,
    names: &[ServerName],
    roots: &Roots,
) -> Result<Idle, Refusal> {
    let mut shortest: Option<Idle> = None;
    for name in names {
        let this = measure_idle(address, name, roots).await.map_err(Refusal::of(name))?;
        shortest = shortest.filter(|other| other.limit <= this.limit).or(Some(this));
    }
    shortest.ok_or(Refusal::NoName)
}

/// Keeps a connection to `name` at `address` in use until the site ends it, for 65 minutes at most; and once more where it does.
///
/// # Errors
/// As for [`examine`].
pub async fn measure_lifetime(
    address: SocketAddr,
    name: &ServerName,
    roots: &Roots,
    pace: Pace,
) -> Result<Lifetime, DecoyError> {
    lifetime::measure(&Site { address, name, roots }, pace).await
}

/// [`measure_lifetime`] for each of a bridge's names, one after the other; the shortest that was ended, if one was.
///
/// # Errors
/// As for [`measure_lifetime`], for the first name that has one; that there is no name.
pub async fn measure_lifetime_all(
    address: SocketAddr,
    names: &[ServerName],
    roots: &Roots,
    pace: Pace,
) -> Result<Lifetime, Refusal> {
    let mut shortest: Option<Lifetime> = None;
    for name in names {
        let this = measure_lifetime(address, name, roots, pace).await.map_err(Refusal::of(name))?;
        let order = |lifetime: &Lifetime| (!lifetime.ended, lifetime.lasted);
        shortest = shortest.filter(|other| order(other) <= order(&this)).or(Some(this));
    }
    shortest.ok_or(Refusal::NoName)
}
