//! Why a tunnel ended or never came to be.

use qnet_wire::error::{Kind, Retry};

/// Why there is no tunnel, or no longer one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Ended {
    /// The user closed it.
    #[error("closed here")]
    Closed,
    /// The answer to the knock came without a proof.
    #[error("the bridge did not prove itself")]
    NoProof,
    /// The site answered in a way the page load cannot follow.
    #[error("the site behind the bridge did not serve its page as expected")]
    Load,
    /// The carrier ended as the decoy's connection ended.
    #[error("the connection ended as the site behind the bridge ended it")]
    DecoyEnded,
    /// The other side closed the connection.
    #[error("the connection was closed from the other side")]
    PeerClosed,
    /// The connection was reset.
    #[error("the connection was reset")]
    Reset,
    /// A record on the wire was not what the other side sent.
    #[error("the connection was tampered with")]
    Tampered,
    /// The peer is authentic and broke the protocol.
    #[error("the other side broke the protocol")]
    Violation,
    /// The inner handshake failed.
    #[error("the inner handshake failed")]
    Handshake,
    /// The bridge no longer knows the session: it was away for too long, or the bridge was started anew.
    #[error("the bridge has forgotten this session")]
    Forgotten,
    /// No new connection to the bridge was made in time.
    #[error("the bridge could not be reached again")]
    Unreachable,
    /// A bug here.
    #[error("internal error")]
    Internal,
}

impl Ended {
    /// Who is at fault.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Closed => Kind::Misuse,
            Self::NoProof | Self::Load => Kind::PeerIncompatible,
            Self::DecoyEnded
            | Self::PeerClosed
            | Self::Reset
            | Self::Tampered
            | Self::Forgotten
            | Self::Unreachable => Kind::Network,
            Self::Violation | Self::Handshake => Kind::PeerMisbehaved,
            Self::Internal => Kind::Bug,
        }
    }

    /// Whether dialling again can help.
    #[must_use]
    pub fn retry(&self) -> Retry {
        match self {
            Self::DecoyEnded | Self::PeerClosed | Self::Reset | Self::Forgotten => Retry::Now,
            Self::Unreachable | Self::NoProof | Self::Load | Self::Tampered | Self::Handshake => Retry::Later,
            Self::Closed | Self::Violation | Self::Internal => Retry::Never,
        }
    }
}
