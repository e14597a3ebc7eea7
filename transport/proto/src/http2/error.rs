//! Why a load fails.

use qnet_wire::error::{Kind, Retry};

use super::decode::HpackError;

/// Why a page load cannot go on to its knock. The connection is to be left as a browser would leave it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// The decoy broke HTTP/2 (RFC 9113).
    #[error("the decoy broke HTTP/2: {0}")]
    Protocol(&'static str),
    /// A header block cannot be used.
    #[error("the decoy's answer cannot be read: {0}")]
    Headers(#[from] HpackError),
    /// The page is elsewhere.
    #[error("the decoy redirects to another host; its own name is to be used as sni")]
    RedirectedAway,
    /// More redirects than a browser follows.
    #[error("the decoy redirects without end")]
    RedirectLoop,
    /// The page's stream was reset.
    #[error("the decoy refused the page, HTTP/2 error {0}")]
    Refused(u32),
    /// GOAWAY before the load was over.
    #[error("the decoy closed its connection during the page load")]
    GoneAway,
    /// The load has no last request: the page has no subresource, and its icon is not the decoy's own.
    #[error("the decoy's page gives no request to knock with; give it an icon of its own")]
    NothingToKnockWith,
    /// The load did not end in time.
    #[error("the decoy's page did not load within {0} seconds")]
    TooSlow(u64),
}

impl LoadError {
    /// Who is at fault.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Protocol(_) | Self::Headers(_) => Kind::PeerMisbehaved,
            Self::RedirectedAway | Self::RedirectLoop | Self::NothingToKnockWith => Kind::PeerIncompatible,
            Self::Refused(_) | Self::GoneAway | Self::TooSlow(_) => Kind::Network,
        }
    }

    /// Whether trying again can help.
    pub fn retry(&self) -> Retry {
        match self {
            Self::RedirectedAway | Self::RedirectLoop | Self::NothingToKnockWith => Retry::Never,
            Self::Protocol(_) | Self::Headers(_) | Self::Refused(_) | Self::GoneAway | Self::TooSlow(_) => {
                Retry::Later
            }
        }
    }
}
