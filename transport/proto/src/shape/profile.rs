//! What traffic may look like, as data.

use std::ops::RangeInclusive;

/// How one side shapes what it sends. The peer need not know: what is added is padding, which it drops.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    /// Its name.
    pub name: &'static str,
    /// Counts the changes of its data.
    pub version: u16,
    /// Answers of the bridge after a carrier has come up that are made as long as a page's.
    pub first_answers: u16,
    /// The same after a stream was opened: its first exchanges may be a TLS handshake.
    pub stream_answers: u16,
    /// The length of such an answer, bytes on the wire, drawn evenly on a logarithmic scale.
    pub answer: RangeInclusive<u32>,
    /// The most that the last record of a burst is lengthened by, bytes: more than a cell of Tor's (514), so that records tell
    /// nothing of cells.
    pub tail: u16,
    /// Bytes that may be added to a carrier whatever it carries.
    pub allowance: u32,
    /// And for each thousand bytes it carries.
    pub per_mille: u16,
}

/// Page loads: what the detectors of `tests/detectors` look for in the first exchanges is not there.
///
/// An answer longer than 9 KiB is three standard deviations from every model of a TLS handshake inside a tunnel that nDPI has
/// (`src/lib/protocols/tls.c`, after Xue et al., USENIX Security 2024: 4,903, 4,649 and 4,515 bytes, deviations of 1,331,
/// 1,201 and 1,292). Pictures and scripts of ordinary pages are of that size: the median of a page's answers above 4 KiB is
/// near 17 KiB (HTTP Archive, 2024).
pub static WEB: Profile = Profile {
    name: "web",
    version: 1,
    first_answers: 8,
    stream_answers: 3,
    answer: 10_500..=36_000,
    tail: 640,
    allowance: 192 * 1024,
    per_mille: 20,
};

/// Nothing is added.
pub static NONE: Profile = Profile {
    name: "none",
    version: 1,
    first_answers: 0,
    stream_answers: 0,
    answer: 0..=0,
    tail: 0,
    allowance: 0,
    per_mille: 0,
};

/// Which profile a session's carriers follow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shape {
    /// [`WEB`].
    #[default]
    Web,
    /// [`NONE`].
    None,
}

impl Shape {
    /// The data.
    #[must_use]
    pub fn profile(self) -> &'static Profile {
        match self {
            Self::Web => &WEB,
            Self::None => &NONE,
        }
    }
}
