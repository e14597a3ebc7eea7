//! What traffic may look like, as data: the files in `transport/proto/profiles`.
//!
//! A profile is TOML. What it may cost is bounded here, by named constants, whatever the file says.

use std::sync::LazyLock;

use rand_chacha::rand_core::Rng;
use serde::Deserialize;
use thiserror::Error;

use super::budget::MAX_HOLD;
pub use super::machines::{MaybenotTable, WindingTable};
use crate::sizes::below;

/// Longest profile, bytes: a page of numbers and their reasons.
pub const MAX_FILE: usize = 64 * 1024;
/// Longest name: it stands in a bridge line, which has 250 bytes.
pub const MAX_NAME: usize = 24;
/// Bytes that a profile may add to a carrier whatever it carries: as much as a large page.
pub const MAX_ALLOWANCE: u32 = 4 << 20;
/// What it may add to each thousand bytes carried: the dearest of the published defences send four bytes for one.
pub const MAX_PER_MILLE: u16 = 3_000;
/// Time that data may be held in all, whatever the carrier's age.
pub const MAX_HELD_MS: u32 = 60_000;
/// The most of a carrier's time that may be spent holding: all of it, for schedules.
pub const MAX_HELD_PER_MILLE: u16 = 1_000;
/// The longest record (RFC 8446, section 5.2), and so the most that one may be lengthened by.
pub const MAX_RECORD: u32 = 16_401;
/// The longest answer that is drawn: beyond it padding costs more than any detector here is worth.
pub const MAX_ANSWER: u32 = 1 << 20;
/// Values of a drawn quantity, at most: percentiles.
pub const MAX_QUANTILES: usize = 101;
/// Exchanges that are shaped after a carrier or a stream began, at most: what pages have requests.
pub const MAX_EXCHANGES: u32 = 256;
/// Segments that one of a client's first bursts is cut into, at least: hellos have three at most in the models that censors use
/// (docs/threat-model.md, detector 7).
pub const LEAST_HELLO_SEGMENTS: u32 = 4;
/// And at most: what a connection's initial window takes (RFC 6928, section 2), so that none waits for a round trip.
pub const MAX_HELLO_SEGMENTS: u32 = 10;
/// Bytes of cover an hour, at most: some pages, which a phone's tariff can bear.
pub const MAX_PER_HOUR: u32 = 16 << 20;
/// The longest pause that may be drawn, milliseconds: an hour.
pub const MAX_PAUSE_MS: u32 = 3_600_000;

/// A quantity, by its quantiles at even steps from the least to the greatest value.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Quantiles(Vec<u32>);

impl Quantiles {
    /// A value between two neighbours, any two as likely.
    pub(super) fn draw(&self, rng: &mut impl Rng) -> usize {
        let at = below(rng, self.0.len().saturating_sub(1));
        let (Some(&low), high) = (self.0.get(at), self.0.get(at + 1)) else { return 0 };
        let high = high.copied().unwrap_or(low);
        low as usize + below(rng, (high - low) as usize + 1)
    }

    /// The same for what is counted.
    pub(super) fn draw_count(&self, rng: &mut impl Rng) -> u16 {
        u16::try_from(self.draw(rng)).unwrap_or(u16::MAX)
    }

    /// The greatest value.
    #[must_use]
    pub fn greatest(&self) -> u32 {
        self.0.last().copied().unwrap_or_default()
    }

    /// The least value.
    #[must_use]
    pub fn least(&self) -> u32 {
        self.0.first().copied().unwrap_or_default()
    }

    pub(super) fn check(&self, what: &'static str, most: u32) -> Result<(), ProfileError> {
        let ordered = self.0.is_sorted() && !self.0.is_empty();
        if !ordered || self.0.len() > MAX_QUANTILES {
            return Err(ProfileError::Quantiles(what));
        }
        within(what, self.greatest(), most)
    }
}

/// What a profile may cost a carrier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bounds {
    /// Bytes that may be added whatever the carrier carries.
    pub allowance: u32,
    /// And for each thousand bytes it carries.
    pub per_mille: u16,
    /// Milliseconds that a record may be held.
    pub hold_ms: u32,
    /// Milliseconds that records may be held in all.
    pub held_ms: u32,
    /// And for each thousand milliseconds of the carrier's.
    pub held_per_mille: u16,
}

/// Record lengths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Records {
    /// The most that the last record of a burst is lengthened by, bytes.
    pub tail: u16,
    /// Whether bursts are kept clear of the models in `models.rs`.
    pub clear: bool,
}

/// How a client's bursts are cut into segments.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bursts {
    /// Bytes from which a burst is bulk, which is not cut.
    pub bulk: u32,
    /// The longest record: with its header a segment of any usual path.
    pub longest: u16,
    /// Lengths of the records between long ones.
    pub short: Quantiles,
    /// How many of a client's first bursts on a stream are cut into more segments than a hello has.
    pub hellos: Quantiles,
    /// Into how many segments.
    pub hello_segments: Quantiles,
}

/// Page loads.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Web {
    /// How many answers of the bridge after a carrier has come up are made as long as a page's.
    pub first_answers: Quantiles,
    /// The same after a stream was opened: its first exchanges may be a TLS handshake.
    pub stream_answers: Quantiles,
    /// Lengths of such answers, bytes.
    pub answers: Quantiles,
    /// How many of the client's bursts after a carrier has come up are held for a browser's pause.
    pub first_gaps: Quantiles,
    /// The pauses between the last answer and a burst, milliseconds.
    pub gaps_ms: Quantiles,
}

/// Cover for when nobody asks for anything.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Idle {
    /// The pauses before the client's next request, whole seconds; up to one more is added.
    pub pauses_s: Quantiles,
    /// Lengths of such requests.
    pub asks: Quantiles,
    /// Lengths of the answers.
    pub answers: Quantiles,
    /// Bytes that a side may send so in an hour.
    pub per_hour: u32,
}

/// What a profile is made of besides lengths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    /// Nothing is added or held.
    None,
    /// Page loads.
    Web(Web),
    /// Defences that maybenot's framework runs.
    Maybenot(MaybenotTable),
    /// A schedule of slots.
    Winding(WindingTable),
}

/// How both sides shape what they send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    /// Its name, of small letters, digits and hyphens.
    pub name: String,
    /// Its number on the wire (docs/protocol.md, section 15).
    pub number: u8,
    /// Counts the changes of its data.
    pub version: u16,
    /// What it may cost.
    pub bounds: Bounds,
    /// Record lengths.
    pub records: Records,
    /// How the client's bursts are cut, if they are.
    pub bursts: Option<Bursts>,
    /// The rest.
    pub plan: Plan,
    /// Cover when idle, if there is any.
    pub idle: Option<Idle>,
}

/// A file as it stands.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    name: String,
    number: u8,
    version: u16,
    machine: Kind,
    budget: Bounds,
    records: Records,
    bursts: Option<Bursts>,
    web: Option<Web>,
    idle: Option<Idle>,
    maybenot: Option<MaybenotTable>,
    winding: Option<WindingTable>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    None,
    Web,
    Maybenot,
    Winding,
}

/// Why a text is no profile.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ProfileError {
    /// More than [`MAX_FILE`] bytes.
    #[error("the profile is longer than {MAX_FILE} bytes")]
    TooLong,
    /// Not TOML, or not of a profile's form.
    #[error("{0}")]
    Form(String),
    /// The name is empty, too long or has other letters.
    #[error("a profile's name has 1 to {MAX_NAME} small letters, digits and hyphens")]
    Name,
    /// A value beyond what any profile may have.
    #[error("`{what}` is {value}; it may be {most} at most")]
    Beyond {
        /// The value's name.
        what: &'static str,
        /// The value.
        value: u32,
        /// The bound.
        most: u32,
    },
    /// None, too many, or not in order.
    #[error("`{0}` must have 1 to {MAX_QUANTILES} values, none below the one before it")]
    Quantiles(&'static str),
    /// Values that do not go together.
    #[error("{0}")]
    Contradiction(&'static str),
}

impl ProfileError {
    /// Who is at fault: who wrote the file.
    #[must_use]
    pub fn kind(&self) -> qnet_wire::error::Kind {
        match self {
            Self::TooLong | Self::Form(_) | Self::Name => qnet_wire::error::Kind::Misuse,
            Self::Beyond { .. } | Self::Quantiles(_) | Self::Contradiction(_) => {
                qnet_wire::error::Kind::Misuse
            }
        }
    }

    /// Whether trying again helps.
    #[must_use]
    pub fn retry(&self) -> qnet_wire::error::Retry {
        match self {
            Self::TooLong | Self::Form(_) | Self::Name => qnet_wire::error::Retry::Never,
            Self::Beyond { .. } | Self::Quantiles(_) | Self::Contradiction(_) => {
                qnet_wire::error::Retry::Never
            }
        }
    }
}

pub(super) fn within(what: &'static str, value: u32, most: u32) -> Result<(), ProfileError> {
    if value > most { Err(ProfileError::Beyond { what, value, most }) } else { Ok(()) }
}

impl Bounds {
    fn check(&self) -> Result<(), ProfileError> {
        within("allowance", self.allowance, MAX_ALLOWANCE)?;
        within("per_mille", self.per_mille.into(), MAX_PER_MILLE.into())?;
        within("hold_ms", self.hold_ms, u32::try_from(MAX_HOLD.as_millis()).unwrap_or(u32::MAX))?;
        within("held_ms", self.held_ms, MAX_HELD_MS)?;
        within("held_per_mille", self.held_per_mille.into(), MAX_HELD_PER_MILLE.into())
    }
}

impl Bursts {
    /// The least that a record may have to hold: a SEGMENT and a STREAM frame with a few bytes.
    const LEAST_RECORD: u32 = 57;

    fn check(&self) -> Result<(), ProfileError> {
        self.short.check("short", super::segments::MOST_SHORT)?;
        self.hellos.check("hellos", MAX_EXCHANGES)?;
        self.hello_segments.check("hello_segments", MAX_HELLO_SEGMENTS)?;
        within("longest", self.longest.into(), MAX_RECORD)?;
        let least = self.short.least();
        if least < Self::LEAST_RECORD || u32::from(self.longest) < super::segments::MOST_SHORT {
            return Err(ProfileError::Contradiction("the client's records would be too short for frames"));
        }
        if self.hello_segments.least() < LEAST_HELLO_SEGMENTS {
            return Err(ProfileError::Contradiction("a burst would have no more segments than a hello"));
        }
        Ok(())
    }
}

impl Web {
    fn check(&self) -> Result<(), ProfileError> {
        self.first_answers.check("first_answers", MAX_EXCHANGES)?;
        self.stream_answers.check("stream_answers", MAX_EXCHANGES)?;
        self.first_gaps.check("first_gaps", MAX_EXCHANGES)?;
        self.answers.check("answers", MAX_ANSWER)?;
        self.gaps_ms.check("gaps_ms", MAX_PAUSE_MS)
    }
}

impl Idle {
    fn check(&self) -> Result<(), ProfileError> {
        within("per_hour", self.per_hour, MAX_PER_HOUR)?;
        self.pauses_s.check("pauses_s", MAX_PAUSE_MS / 1_000)?;
        self.asks.check("asks", MAX_RECORD)?;
        self.answers.check("answers", MAX_ANSWER)?;
        if self.pauses_s.least() == 0 {
            return Err(ProfileError::Contradiction("a pause of no time is no pause"));
        }
        if self.asks.least() < Bursts::LEAST_RECORD || self.answers.least() < Bursts::LEAST_RECORD {
            return Err(ProfileError::Contradiction("cover would be as short as control"));
        }
        Ok(())
    }
}

impl Profile {
    /// Reads a profile.
    ///
    /// # Errors
    ///
    /// [`ProfileError`]: it is no profile, or may cost more than any may.
    pub fn parse(text: &str) -> Result<Self, ProfileError> {
        if text.len() > MAX_FILE {
            return Err(ProfileError::TooLong);
        }
        let file: File =
            toml::from_str(text).map_err(|error| ProfileError::Form(error.message().to_owned()))?;
        let letters = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if file.name.is_empty() || file.name.len() > MAX_NAME || !file.name.bytes().all(letters) {
            return Err(ProfileError::Name);
        }
        file.budget.check()?;
        within("tail", file.records.tail.into(), MAX_RECORD)?;
        file.bursts.as_ref().map_or(Ok(()), Bursts::check)?;
        file.idle.as_ref().map_or(Ok(()), Idle::check)?;
        let plan = match (file.machine, file.web, file.maybenot, file.winding) {
            (Kind::None, None, None, None) => Plan::None,
            (Kind::Web, Some(web), None, None) => {
                web.check()?;
                Plan::Web(web)
            }
            (Kind::Maybenot, None, Some(maybenot), None) => {
                maybenot.check()?;
                Plan::Maybenot(maybenot)
            }
            (Kind::Winding, None, None, Some(winding)) => {
                winding.check()?;
                Plan::Winding(winding)
            }
            _ => return Err(ProfileError::Contradiction("the machine's table, and no other, must be there")),
        };
        let File { name, number, version, budget: bounds, records, bursts, idle, .. } = file;
        Ok(Self { name, number, version, bounds, records, bursts, plan, idle })
    }

    /// Nothing is added: what remains where a built-in file cannot be read.
    fn bare() -> Self {
        Self {
            name: "none".into(),
            number: 0,
            version: 0,
            bounds: Bounds { allowance: 0, per_mille: 0, hold_ms: 0, held_ms: 0, held_per_mille: 0 },
            records: Records { tail: 0, clear: false },
            bursts: None,
            plan: Plan::None,
            idle: None,
        }
    }
}

/// The built-in files. Their order is that of their numbers.
pub(super) const FILES: [&str; 9] = [
    include_str!("../../profiles/none.toml"),
    include_str!("../../profiles/web.toml"),
    include_str!("../../profiles/front.toml"),
    include_str!("../../profiles/regulator.toml"),
    include_str!("../../profiles/tamaraw.toml"),
    include_str!("../../profiles/interspace.toml"),
    include_str!("../../profiles/break-pad.toml"),
    include_str!("../../profiles/winding.toml"),
    include_str!("../../profiles/web-idle.toml"),
];

static BUILT_IN: LazyLock<Vec<Profile>> = LazyLock::new(|| {
    FILES.iter().map(|file| Profile::parse(file).unwrap_or_else(|_| Profile::bare())).collect()
});

/// The number of `web`, which is followed where nothing is agreed on.
const WEB: u8 = 1;

/// Which built-in profile a carrier follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape(usize);

impl Shape {
    /// All there are.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..BUILT_IN.len()).map(Self)
    }

    /// The one of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::all().find(|shape| shape.profile().name == name)
    }

    /// The one with this number, if its version is this one too.
    #[must_use]
    pub fn numbered(number: u8, version: u16) -> Option<Self> {
        Self::all().find(|shape| (shape.profile().number, shape.profile().version) == (number, version))
    }

    /// The data.
    #[must_use]
    pub fn profile(self) -> &'static Profile {
        static BARE: LazyLock<Profile> = LazyLock::new(Profile::bare);
        BUILT_IN.get(self.0).unwrap_or(&BARE)
    }
}

/// `web`.
impl Default for Shape {
    fn default() -> Self {
        Self::all().find(|shape| shape.profile().number == WEB).unwrap_or(Self(0))
    }
}
