//! What can go wrong, in words for the one who has to do something about it.
#![forbid(unsafe_code)]

use std::io;
use std::path::PathBuf;

use boring::error::ErrorStack;
use qnet_wire::error::{Kind, Retry};
use qnet_wire::redact::Redacted;

/// Why the handshake with the decoy failed.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The certificate is not one that a browser would accept for the name.
    #[error(
        "the site's certificate is not to be trusted: {why}; check the name in the bridge line and this machine's clock"
    )]
    Certificate {
        /// The decoy's name, as in the bridge line.
        name: Redacted<String>,
        /// What is wrong, without names.
        why: String,
        /// The names that the certificate is for instead, where that is what is wrong: a few of them.
        names: Redacted<Vec<String>>,
    },
    /// The site answered with TLS 1.2 or older.
    #[error("the site behind the bridge speaks no TLS 1.3: tell the bridge's operator")]
    OldTls,
    /// The site asked for another key share.
    #[error(
        "the site behind the bridge asked for a second hello (HelloRetryRequest), which hides no token: tell the \
         bridge's operator"
    )]
    HelloRetry,
    /// The site did not choose HTTP/2.
    #[error("the site behind the bridge does not speak HTTP/2 ({}): tell the bridge's operator", chosen(.0))]
    NoHttp2(Option<String>),
    /// The site sent a TLS alert.
    #[error("the site ended the handshake with a TLS alert: {} ({number})", .meaning)]
    Alert {
        /// Its number (RFC 8446, section 6).
        number: u8,
        /// The number's name.
        meaning: &'static str,
    },
    /// The connection ended before the handshake did.
    #[error("the connection was closed {}: the site behind the bridge may be down, or something on the way objects; try later", if *.answered { "in the middle of the TLS handshake" } else { "right after the TLS hello, without an answer" })]
    Closed {
        /// Whether anything had come back.
        answered: bool,
    },
    /// The socket failed: reset, unreachable.
    #[error(
        "the connection broke during the TLS handshake: the site behind the bridge may be down, or something on the way objects; try later"
    )]
    Io(#[source] io::Error),
    /// The server's flight is larger than [`MAX_SERVER_FLIGHT`](super::MAX_SERVER_FLIGHT).
    #[error(
        "the site's half of the TLS handshake is over {} bytes: check the address and port in the bridge line",
        super::MAX_SERVER_FLIGHT
    )]
    TooLong,
    /// What came is not a TLS handshake: another protocol, or somebody who changes bytes on the way.
    #[error(
        "what came back is not the expected TLS handshake ({0}): check the address and port in the bridge line"
    )]
    Malformed(String),
    /// The server opened the Encrypted Client Hello. Only the bridge can, and it never answers: it is not a decoy.
    #[error("the far side answered the hidden hello itself; that is no decoy")]
    EchAccepted,
    /// The offer does not fit the name it is used with.
    #[error("the ECH offer was made for another name")]
    WrongOffer {
        /// The name given.
        name: Redacted<String>,
    },
    /// BoringSSL could not be set up.
    #[error("the TLS library failed")]
    Library(#[from] ErrorStack),
    /// BoringSSL did what it was never seen to do.
    #[error("the TLS library behaved unexpectedly: {0}")]
    Unexpected(&'static str),
}

fn chosen(protocol: &Option<String>) -> String {
    protocol.as_ref().map_or_else(|| "it chose nothing".into(), |name| format!("it chose {name}"))
}

impl HandshakeError {
    /// Who is at fault.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Certificate { .. } | Self::TooLong | Self::Malformed(_) | Self::EchAccepted => {
                Kind::PeerMisbehaved
            }
            Self::OldTls | Self::HelloRetry | Self::NoHttp2(_) | Self::Alert { .. } => Kind::PeerIncompatible,
            Self::Closed { .. } | Self::Io(_) => Kind::Network,
            Self::WrongOffer { .. } => Kind::Misuse,
            Self::Library(_) => Kind::Local,
            Self::Unexpected(_) => Kind::Bug,
        }
    }

    /// Whether trying again helps.
    pub fn retry(&self) -> Retry {
        match self {
            // Somebody between may go away; a certificate is renewed; a site comes back.
            Self::Certificate { .. }
            | Self::TooLong
            | Self::Malformed(_)
            | Self::Alert { .. }
            | Self::Closed { .. }
            | Self::Io(_)
            | Self::Library(_) => Retry::Later,
            Self::OldTls
            | Self::HelloRetry
            | Self::NoHttp2(_)
            | Self::EchAccepted
            | Self::WrongOffer { .. }
            | Self::Unexpected(_) => Retry::Never,
        }
    }
}

/// Why the roots could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum RootsError {
    /// A file or directory that `SSL_CERT_FILE` or `SSL_CERT_DIR` names.
    #[error("cannot read the certificates in {}: correct or unset SSL_CERT_FILE or SSL_CERT_DIR", .path.display())]
    Unreadable {
        /// The path as given.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The file that `SSL_CERT_FILE` names holds none.
    #[error("no PEM certificate in {}: correct or unset SSL_CERT_FILE", .path.display())]
    NoCertificate {
        /// The path as given.
        path: PathBuf,
    },
    /// BoringSSL could not be set up.
    #[error("the TLS library failed")]
    Library(#[from] ErrorStack),
}

impl RootsError {
    /// Who is at fault.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Unreadable { .. } | Self::NoCertificate { .. } => Kind::Misuse,
            Self::Library(_) => Kind::Local,
        }
    }

    /// Whether trying again helps.
    pub fn retry(&self) -> Retry {
        match self {
            Self::Unreadable { .. } | Self::NoCertificate { .. } => Retry::Never,
            Self::Library(_) => Retry::Later,
        }
    }
}

/// The name of an alert (RFC 8446, section 6), in words.
pub(super) fn alert_meaning(number: u8) -> &'static str {
    match number {
        0 => "close notify",
        10 => "unexpected message",
        20 => "bad record MAC",
        22 => "record overflow",
        40 => "handshake failure",
        42 => "bad certificate",
        43 => "unsupported certificate",
        44 => "certificate revoked",
        45 => "certificate expired",
        46 => "certificate unknown",
        47 => "illegal parameter",
        48 => "unknown authority",
        49 => "access denied",
        50 => "decode error",
        51 => "decrypt error",
        70 => "protocol version",
        71 => "insufficient security",
        80 => "internal error",
        86 => "inappropriate fallback",
        90 => "user canceled",
        109 => "missing extension",
        110 => "unsupported extension",
        112 => "unrecognized name",
        113 => "bad certificate status response",
        116 => "certificate required",
        120 => "no application protocol",
        121 => "ECH required",
        _ => "unknown",
    }
}
