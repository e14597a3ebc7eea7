//! What can go wrong with streams, and whose fault it is.

use qnet_wire::error::{Kind, Retry};
use thiserror::Error;

#[cfg(doc)]
use super::Mux;
use super::{MAX_STREAMS, code};

/// Why no stream was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// [`MAX_STREAMS`] of ours are open.
    #[error("{MAX_STREAMS} streams are open in this session")]
    TooMany,
    /// All stream ids have been used.
    #[error("the session has no stream ids left")]
    Spent,
}

impl OpenError {
    /// Who is at fault.
    #[must_use]
    pub fn kind(self) -> Kind {
        match self {
            Self::TooMany => Kind::Misuse,
            Self::Spent => Kind::Network,
        }
    }

    /// Whether to try again: in this session when streams have ended, else in another at once.
    #[must_use]
    pub fn retry(self) -> Retry {
        match self {
            Self::TooMany => Retry::Later,
            Self::Spent => Retry::Now,
        }
    }
}

/// Why a read or a write failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum StreamError {
    /// The peer ended both directions, with this CLOSE code (see [`code`]).
    #[error("the far side ended the stream (code {0})")]
    Closed(u8),
    /// [`Mux::cancel`] was called before.
    #[error("the stream was cancelled")]
    Cancelled,
    /// A write after [`Mux::finish`].
    #[error("the stream's sending side was finished before")]
    Finished,
    /// No such stream, or it was released.
    #[error("no such stream")]
    Unknown,
}

impl StreamError {
    /// Who is at fault.
    #[must_use]
    pub fn kind(self) -> Kind {
        match self {
            Self::Closed(_) => Kind::Network,
            Self::Cancelled | Self::Finished | Self::Unknown => Kind::Misuse,
        }
    }

    /// Whether a new stream may do better.
    #[must_use]
    pub fn retry(self) -> Retry {
        match self {
            Self::Closed(code::REFUSED) => Retry::Now,
            Self::Closed(_) => Retry::Later,
            Self::Cancelled | Self::Finished | Self::Unknown => Retry::Never,
        }
    }
}

/// What no honest peer does. Ends the tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Violation {
    /// Data beyond what was granted.
    #[error("the peer sent more data than it had credit for")]
    BeyondCredit,
    /// A WINDOW_UPDATE that adds nothing.
    #[error("the peer granted no credit in a WINDOW_UPDATE")]
    EmptyIncrement,
    /// Credit beyond 2^31 - 1 bytes.
    #[error("the peer granted an absurd window")]
    WindowTooLarge,
    /// A frame of a stream that nobody opened and the peer may not open.
    #[error("the peer sent a frame of stream {0}, which was never opened")]
    NeverOpened(u64),
    /// Data or an end after the peer's own end of the stream.
    #[error("the peer went on with stream {0} after it had ended it")]
    AfterClose(u64),
    /// The peer opened more than [`MAX_STREAMS`] at once.
    #[error("the peer opened more than {MAX_STREAMS} streams at once")]
    TooManyStreams,
    /// Too many frames that bring nothing.
    #[error("the peer floods the session with frames that bring nothing")]
    Flood,
    /// A frame that may not stand where it stands.
    #[error("the peer sent a frame where it may not stand")]
    Misplaced,
    /// A frame that is none.
    #[error("the peer sent a malformed frame")]
    Malformed,
    /// Session bytes further ahead than anybody may be, or in too many pieces.
    #[error("the peer sent data too far ahead of what has arrived")]
    BeyondWindow,
    /// Other bytes at a position that is known.
    #[error("the peer sent other data at a position it had used before")]
    OtherData,
    /// An acknowledgement of what was never sent.
    #[error("the peer acknowledged what was never sent")]
    NeverSent,
}

impl Violation {
    /// Who is at fault.
    #[must_use]
    pub fn kind(self) -> Kind {
        match self {
            Self::BeyondCredit
            | Self::EmptyIncrement
            | Self::WindowTooLarge
            | Self::NeverOpened(_)
            | Self::AfterClose(_)
            | Self::TooManyStreams
            | Self::Flood
            | Self::Misplaced
            | Self::Malformed
            | Self::BeyondWindow
            | Self::OtherData
            | Self::NeverSent => Kind::PeerMisbehaved,
        }
    }

    /// Whether another session may do better.
    #[must_use]
    pub fn retry(self) -> Retry {
        // The session is over; another may fare better, not at once.
        Retry::Later
    }
}
