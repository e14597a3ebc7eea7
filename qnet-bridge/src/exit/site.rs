//! The bridge's own site, opened for clients as it is for whoever comes to the bridge's port: by this a client finds out that its
//! streams lead somewhere, without a third party that would learn of the bridge.

use std::{io, net::SocketAddr};

use qnet_wire::{
    name::ServerName,
    target::{Host, Target},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    time::timeout,
};

use super::HEAD_LIMIT;

/// Where a site that answers strangers is asked for.
const HTTPS: u16 = 443;
/// What TLS begins with: a record of the handshake (RFC 8446, section 5.1). No method of HTTP begins so.
const HANDSHAKE: u8 = 22;
/// What is read before the rest is let through; the first byte is what counts.
const BEGINNING: usize = 1_024;

/// The site that answers strangers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    /// Where the bridge has it.
    pub address: SocketAddr,
    /// Its names.
    pub names: Vec<ServerName>,
}

impl Site {
    /// Whether it is what a client asks for. By name alone: its address is for the exit policy to judge.
    pub(super) fn is(&self, target: &Target) -> bool {
        let Host::Name(asked) = target.host() else { return false };
        target.port() == HTTPS && self.names.iter().any(|name| name.as_str() == asked.as_str())
    }
}

/// What the client says first to the site, `early` included.
///
/// Behind a web server the site is one without TLS, which nobody from outside reaches but by way of that server: there a client
/// could make requests under any name and in anybody's. What begins as TLS does is none, and is answered with a refusal.
///
/// # Errors
/// The client says nothing in time, or something else than TLS.
pub(super) async fn beginning<S: AsyncRead + Unpin>(
    stream: &mut S,
    mut early: Vec<u8>,
) -> io::Result<Vec<u8>> {
    if early.is_empty() {
        early.reserve_exact(BEGINNING);
        timeout(HEAD_LIMIT, stream.read_buf(&mut early)).await??;
    }
    match early.first() {
        Some(&HANDSHAKE) => Ok(early),
        Some(_) => Err(io::Error::new(io::ErrorKind::InvalidData, "the site was to be told what is no TLS")),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site() -> Site {
        let names = ["www.example.com", "Example.ORG"].map(|name| name.parse().unwrap());
        Site { address: "127.0.0.1:8443".parse().unwrap(), names: names.into() }
    }

    #[test]
    fn a_site_is_asked_for_by_its_names_and_port() {
        let is = |target: &str| site().is(&target.parse().unwrap());
        assert!(is("www.example.com:443") && is("WWW.example.com.:443") && is("example.org:443"));
        for other in [
            "www.example.com:80",
            "www.example.com:8443",
            "example.com:443",
            "127.0.0.1:443",
            "127.0.0.1:8443",
        ] {
            assert!(!is(other), "{other}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn only_tls_is_said_to_a_site() {
        let said = |early: &[u8], later: &'static [u8]| {
            let early = early.to_vec();
            async move { beginning(&mut &*later, early).await }
        };
        assert_eq!(said(b"\x16\x03\x01", b"").await.unwrap(), b"\x16\x03\x01");
        assert_eq!(said(b"", b"\x16\x03").await.unwrap(), b"\x16\x03");
        for (early, later) in [(&b"GET /"[..], &b""[..]), (b"", b"GET /"), (b"\n", b"\x16"), (b"", b"")] {
            assert!(said(early, later).await.is_err(), "{early:?}, {later:?}");
        }
        let (mut silent, _other) = tokio::io::duplex(1);
        let error = beginning(&mut silent, Vec::new()).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
