//! Why a site cannot be a decoy, in words for its operator.

use std::{io, net::SocketAddr};

use qnet_proto::http2::LoadError;
use qnet_wire::{
    error::{Kind, Retry},
    name::ServerName,
};

use super::{MIN_ANSWER, MIN_REQUESTS, UNASKED};
use crate::{seed::SeedError, tls::HandshakeError};

/// The length of every TLS 1.3 alert without padding: two bytes, the inner type and the tag (RFC 8446, section 6).
pub(super) const ALERT_LENGTH: usize = 2 + 1 + 16;
/// Most letters of the decoy's that a message repeats.
const MAX_SHOWN: usize = 80;

/// Why the site cannot be the decoy. Each message is one line that says what is wrong and, where it is known, what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DecoyError {
    /// No TCP connection.
    #[error("nothing answers at {address} ({why}); is the web server running?")]
    Unreachable {
        /// Where it was looked for.
        address: SocketAddr,
        /// The system's reason.
        why: io::Error,
    },
    /// A visit took too long.
    #[error("the site is too slow: a visit took more than {0} seconds")]
    TooSlow(u64),
    /// TLS 1.2 or older.
    #[error("the site speaks no TLS 1.3; switch it on in the web server")]
    OldTls,
    /// No HTTP/2.
    #[error("the site speaks no HTTP/2; switch it on in the web server")]
    NoHttp2,
    /// A HelloRetryRequest.
    #[error(
        "the site asks browsers for a second hello (HelloRetryRequest); let the web server accept the group X25519"
    )]
    HelloRetry,
    /// A CertificateRequest. Chrome drops such a connection, asks its user, and begins again with the answer; a client that went
    /// on at once, with an empty certificate and so a longer Finished flight, would show.
    #[error(
        "the site asks visitors for a certificate of their own, over which browsers begin anew; switch client \
         certificates off for this name (nginx: ssl_verify_client off)"
    )]
    ClientCertificate,
    /// The certificate is for other names, or out of date.
    #[error("the site's certificate is no good for {name}: {why}")]
    Certificate {
        /// The name asked for.
        name: String,
        /// What is wrong.
        why: String,
    },
    /// The certificate's issuer is unknown, and the site is not on this machine.
    #[error(
        "clients would not trust the site's certificate ({0}); if its authority is one that all of them have, name it in SSL_CERT_FILE"
    )]
    Untrusted(String),
    /// The handshake failed in another way.
    #[error(transparent)]
    Handshake(HandshakeError),
    /// `alt-svc` or an ALTSVC frame (RFC 7838).
    #[error("the site sends browsers elsewhere (Alt-Svc: {0}); switch HTTP/3 off, or remove that header")]
    AltSvc(String),
    /// An HTTPS record (RFC 9460) with `ech` or `h3`.
    #[error(
        "the DNS of the site's name has an HTTPS record that offers browsers {0}, and they would come in another way than \
         clients do; take that out of the record"
    )]
    HttpsRecord(&'static str),
    /// A redirect to another origin.
    #[error("the site redirects to another host; use that host's name, or serve a page under this one")]
    RedirectsAway,
    /// The connection ended before the page was loaded.
    #[error("the site closes its connection {}; it must keep it open (keep-alive)", after(*.answers))]
    ClosesEarly {
        /// Whole answers before that.
        answers: u32,
    },
    /// The page load failed in another way.
    #[error(transparent)]
    Load(LoadError),
    /// An alert of another length than the client's and the bridge's own.
    #[error("the site's TLS alerts have {0} bytes instead of {ALERT_LENGTH}; switch record padding off")]
    AlertLength(usize),
    /// A record that nothing asked for, too long to be an end or a PING.
    #[error(
        "the site sends {0} bytes unasked to a visitor who has loaded its page; fewer than {UNASKED} are allowed"
    )]
    Unasked(usize),
    /// The first record of the answer to the last request is too short.
    #[error(
        "the answer to a page load's last request begins with a record of {0} bytes, and {MIN_ANSWER} are needed; \
         let the web server add a header to that answer alone (such as Cache-Control for the icon)"
    )]
    ShortAnswer(usize),
    /// What is answered shows whether there was a knock.
    #[error("the site answers a knock differently from a browser's request: {0}")]
    KnockShows(String),
    /// Too few requests on a connection.
    #[error(
        "the site answers only {0} requests on a connection, and {MIN_REQUESTS} are needed; raise the web server's limit"
    )]
    FewRequests(u32),
    /// TLS is broken on the way.
    #[error("the site breaks off TLS in a page load: {0}")]
    Broken(&'static str),
    /// This machine cannot begin.
    #[error(transparent)]
    Seed(#[from] SeedError),
}

fn after(answers: u32) -> String {
    match answers {
        0 => "without an answer".into(),
        1 => "after one answer".into(),
        more => format!("after {more} answers, in the middle of a page load"),
    }
}

/// What a decoy sent, fit for a message.
pub(super) fn shown(bytes: &[u8]) -> String {
    bytes.get(..MAX_SHOWN).unwrap_or(bytes).escape_ascii().to_string()
}

impl DecoyError {
    /// What ended a page load of which so many answers had come.
    pub(super) fn of_load(error: LoadError, answers: u32) -> Self {
        match error {
            LoadError::RedirectedAway => Self::RedirectsAway,
            LoadError::GoneAway => Self::ClosesEarly { answers },
            other => Self::Load(other),
        }
    }

    /// Who is at fault.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Unreachable { .. } | Self::TooSlow(_) => Kind::Network,
            Self::OldTls
            | Self::NoHttp2
            | Self::HelloRetry
            | Self::ClientCertificate
            | Self::Untrusted(_)
            | Self::AltSvc(_)
            | Self::HttpsRecord(_)
            | Self::RedirectsAway
            | Self::ClosesEarly { .. }
            | Self::AlertLength(_)
            | Self::Unasked(_)
            | Self::ShortAnswer(_)
            | Self::KnockShows(_)
            | Self::FewRequests(_) => Kind::PeerIncompatible,
            Self::Certificate { .. } | Self::Broken(_) => Kind::PeerMisbehaved,
            Self::Handshake(error) => error.kind(),
            Self::Load(error) => error.kind(),
            Self::Seed(_) => Kind::Local,
        }
    }

    /// Whether examining it again, as it is, can help.
    #[must_use]
    pub fn retry(&self) -> Retry {
        match self {
            // A server starts or is restarted, a certificate is renewed.
            Self::Unreachable { .. }
            | Self::TooSlow(_)
            | Self::Certificate { .. }
            | Self::ClosesEarly { .. }
            | Self::Broken(_) => Retry::Later,
            Self::OldTls
            | Self::NoHttp2
            | Self::HelloRetry
            | Self::ClientCertificate
            | Self::Untrusted(_)
            | Self::AltSvc(_)
            | Self::HttpsRecord(_)
            | Self::RedirectsAway
            | Self::AlertLength(_)
            | Self::Unasked(_)
            | Self::ShortAnswer(_)
            | Self::KnockShows(_)
            | Self::FewRequests(_)
            | Self::Seed(_) => Retry::Never,
            Self::Handshake(error) => error.retry(),
            Self::Load(error) => error.retry(),
        }
    }
}

impl From<HandshakeError> for DecoyError {
    fn from(error: HandshakeError) -> Self {
        match error {
            HandshakeError::OldTls => Self::OldTls,
            HandshakeError::NoHttp2(_) => Self::NoHttp2,
            HandshakeError::HelloRetry => Self::HelloRetry,
            // To the operator, whose site it is, the names are told.
            HandshakeError::Certificate { name, why, names } => Self::Certificate {
                name: name.reveal().clone(),
                why: if names.reveal().is_empty() {
                    why
                } else {
                    format!("it is for {}", names.reveal().join(", "))
                },
            },
            other => Self::Handshake(other),
        }
    }
}

/// Why a bridge's site cannot be its decoy.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// Not under this name.
    #[error("{name} cannot be the decoy: {why}")]
    Site {
        /// The name.
        name: ServerName,
        /// Why not.
        why: DecoyError,
    },
    /// The bridge has no name for its decoy.
    #[error("the bridge is given no name of a site")]
    NoName,
}

impl Refusal {
    pub(super) fn of(name: &ServerName) -> impl FnOnce(DecoyError) -> Self {
        |why| Self::Site { name: name.clone(), why }
    }

    /// Who is at fault.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Site { why, .. } => why.kind(),
            Self::NoName => Kind::Misuse,
        }
    }

    /// Whether examining it again, as it is, can help.
    #[must_use]
    pub fn retry(&self) -> Retry {
        match self {
            Self::Site { why, .. } => why.retry(),
            Self::NoName => Retry::Never,
        }
    }
}
