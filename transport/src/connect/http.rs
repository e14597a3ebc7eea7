//! The CONNECT method of an HTTP proxy (RFC 9110, section 9.3.6), client side.
#![forbid(unsafe_code)]

use std::net::SocketAddr;

use data_encoding::BASE64;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use zeroize::Zeroizing;

use super::error::{ConnectError, Hop, ProxyReply};
use super::login::Login;

/// Longest answer head, bytes. Servers bound a whole head at 8 KiB by custom, and refuse with a page after it.
const MAX_HEAD: usize = 8192;
const NOT_HTTP: ConnectError = ConnectError::ProxyMisbehaved("no HTTP answer");

/// Asks an HTTP proxy for a connection to `to`.
pub(super) async fn connect(
    tcp: &mut TcpStream,
    login: Option<&Login>,
    to: SocketAddr,
) -> Result<(), ConnectError> {
    let request = request(login, to)?;
    tcp.write_all(request.as_bytes()).await.map_err(ConnectError::talking)?;
    let mut head = Vec::new();
    let end = loop {
        if let Some(end) = head.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            break end + 4;
        }
        if !b"HTTP/1.".starts_with(head.get(..7).unwrap_or(&head)) {
            return Err(NOT_HTTP);
        }
        if head.len() >= MAX_HEAD {
            return Err(ConnectError::ProxyMisbehaved("the head of its HTTP answer is over 8 KiB"));
        }
        let room = u64::try_from(MAX_HEAD - head.len()).unwrap_or_default();
        if (&mut *tcp).take(room).read_buf(&mut head).await.map_err(ConnectError::talking)? == 0 {
            return Err(ConnectError::ProxyClosed);
        }
    };
    let status = status(&head).ok_or(NOT_HTTP)?;
    match status {
        200..=299 if head.len() == end => Ok(()),
        // Nobody speaks before us in there: the bridge's side waits for a TLS hello.
        200..=299 => Err(ConnectError::ProxyMisbehaved("bytes after its answer to CONNECT")),
        407 if login.is_some() => Err(ConnectError::ProxyLoginRefused),
        407 => Err(ConnectError::ProxyWantsLogin),
        403 => Err(ConnectError::ProxyForbids),
        405 | 501 => Err(ConnectError::ProxyUnable("the CONNECT method")),
        504 => Err(ConnectError::TimedOut { hop: Hop::BeyondProxy }),
        other => Err(ConnectError::ProxyFailed(ProxyReply::Http(other))),
    }
}

fn request(login: Option<&Login>, to: SocketAddr) -> Result<Zeroizing<String>, ConnectError> {
    // `SocketAddr` would print an IPv6 scope, which is this machine's own business.
    let authority = match to {
        SocketAddr::V4(to) => to.to_string(),
        SocketAddr::V6(to) => format!("[{}]:{}", to.ip(), to.port()),
    };
    let mut request = Zeroizing::new(String::with_capacity(1024)); // not moved by growing: the login stays in one place
    request.push_str("CONNECT ");
    request.push_str(&authority);
    request.push_str(" HTTP/1.1\r\nHost: ");
    request.push_str(&authority);
    request.push_str("\r\n");
    if let Some(login) = login {
        // RFC 7617, section 2.
        if login.user().contains(':') {
            return Err(ConnectError::BadLogin("an HTTP proxy's user name cannot hold a colon"));
        }
        let mut pair = Zeroizing::new(Vec::with_capacity(2 * super::login::MAX_PART + 1));
        pair.extend_from_slice(login.user().as_bytes());
        pair.push(b':');
        pair.extend_from_slice(login.password().as_bytes());
        request.push_str("Proxy-Authorization: Basic ");
        BASE64.encode_append(&pair, &mut request);
        request.push_str("\r\n");
    }
    request.push_str("\r\n");
    Ok(request)
}

/// The status of `HTTP/1.x NNN …`.
fn status(head: &[u8]) -> Option<u16> {
    let rest = head.strip_prefix(b"HTTP/1.")?;
    let [b'0'..=b'9', b' ', digits @ ..] = rest else { return None };
    let digits = digits.get(..3)?;
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok().filter(|status| (100..600).contains(status))
}
