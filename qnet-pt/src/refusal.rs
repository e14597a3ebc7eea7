//! What a failure becomes: a SOCKS reply, one line of words, and a status.

use crate::carriers::DialError;
use qnet_pt_ipc::args::ArgsError;
use qnet_pt_ipc::socks::Reply;
use qnet_wire::bridge_line::BridgeLineError;
use qnet_wire::error::{Retry, chain};

/// Why a SOCKS request is not served.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("the bridge line's arguments cannot be read: {0}")]
    Args(#[from] ArgsError),
    #[error("the bridge line is wrong: {0}")]
    BridgeLine(#[from] BridgeLineError),
    #[error(
        "the bridge line has no address: qnet needs one, as in \"Bridge qnet 192.0.2.7:443 key=... sni=...\""
    )]
    NoAddress,
    #[error("the bridge line has a host name; give the bridge's IP address (names are never looked up)")]
    HostName,
    #[error("{}", chain(.0))]
    Dial(#[from] DialError),
}

impl Refusal {
    /// The SOCKS failure; each kind of cause has its own.
    pub(crate) fn reply(&self) -> Reply {
        match self {
            Self::Args(_) | Self::BridgeLine(_) => Reply::NotAllowed,
            Self::NoAddress | Self::HostName => Reply::AddressTypeNotSupported,
            Self::Dial(error) => error.reply(),
        }
    }

    pub(crate) fn retry(&self) -> Retry {
        match self {
            Self::Args(error) => error.retry(),
            Self::BridgeLine(error) => error.retry(),
            Self::NoAddress | Self::HostName => Retry::Never,
            Self::Dial(error) => error.retry(),
        }
    }
}

/// The word for a STATUS line.
pub(crate) fn retry_word(retry: Retry) -> &'static str {
    match retry {
        Retry::Now => "now",
        Retry::Later => "later",
        Retry::Never => "never",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_have_replies_of_their_own() {
        assert_eq!(Refusal::from(ArgsError::EmptyKey).reply(), Reply::NotAllowed);
        assert_eq!(Refusal::NoAddress.reply(), Reply::AddressTypeNotSupported);
    }
}
