//! Why a websocket fails.

use qnet_wire::error::{Kind, Retry};

use super::frame::FrameError;
use crate::http2::LoadError;

/// Why a websocket did not open, or broke.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WebsocketError {
    /// The site answered the opening with another status than the one that opens.
    #[error("the site refused the websocket with status {0}: is the path right, and does the bridge run?")]
    Refused(u16),
    /// The site reset the websocket's stream, with this HTTP/2 error.
    #[error("the site ended the websocket, HTTP/2 error {0}")]
    Reset(u32),
    /// The answer to the opening breaks HTTP or RFC 6455.
    #[error("the answer to the websocket's opening makes no sense: {0}")]
    Answer(&'static str),
    /// What came broke RFC 6455's framing.
    #[error("what came over the websocket breaks its rules: {0}")]
    Frame(#[from] FrameError),
    /// The page load before it failed.
    #[error(transparent)]
    Load(#[from] LoadError),
}

impl WebsocketError {
    /// Who is at fault.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Refused(_) => Kind::PeerIncompatible,
            Self::Reset(_) => Kind::Network,
            Self::Answer(_) | Self::Frame(_) => Kind::PeerMisbehaved,
            Self::Load(error) => error.kind(),
        }
    }

    /// Whether trying again can help.
    pub fn retry(&self) -> Retry {
        match self {
            Self::Refused(_) | Self::Reset(_) | Self::Answer(_) | Self::Frame(_) => Retry::Later,
            Self::Load(error) => error.retry(),
        }
    }
}
