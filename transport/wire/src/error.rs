//! What all error enums of the house have in common.
//!
//! Each error enum answers two questions by an exhaustive match beside it: `kind()`, who is at fault, and `retry()`,
//! whether the same call can succeed later. A new variant therefore does not compile until both are answered.

use std::fmt;

/// Who is at fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The peer broke the protocol: a bug of its own, or somebody between who tampers.
    PeerMisbehaved,
    /// The peer is honest but cannot do what is needed, such as an older version or another TLS stack.
    PeerIncompatible,
    /// The path failed: refused, unreachable, timed out, cut.
    Network,
    /// The caller or the configuration asked for something that cannot be.
    Misuse,
    /// This machine failed: its disk, its ports, its memory.
    Local,
    /// Our own code reached a state that it must not reach.
    Bug,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PeerMisbehaved => "the peer broke the protocol",
            Self::PeerIncompatible => "the peer cannot do what is needed",
            Self::Network => "the network failed",
            Self::Misuse => "the request or the configuration is wrong",
            Self::Local => "this machine failed",
            Self::Bug => "a bug in QNet",
        })
    }
}

/// Whether the same call can succeed when it is made again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Retry {
    /// At once.
    Now,
    /// After a pause that grows with each failure.
    Later,
    /// Not until somebody changes something.
    Never,
}

/// An error and what caused it, in one line. A cause that its effect already told is not told twice.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let words = cause.to_string();
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn a_chain_is_one_line_and_says_nothing_twice() {
        assert_eq!(chain(&Outer(std::io::Error::other("inner"))), "outer: inner");
        assert_eq!(chain(&Outer(std::io::Error::other("outer"))), "outer");
    }
}
