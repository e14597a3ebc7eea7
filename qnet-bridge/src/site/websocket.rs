//! The secret path of the built-in site: a client's websocket goes on to the bridge over loopback, as a web server in front would hand it
//! on. Whatever the bridge does not take is the site's to answer.

use std::{io, net::SocketAddr, time::Duration};

use bytes::Bytes;
use hyper::{
    Method, Request, Response, StatusCode, Version,
    body::Incoming,
    header::{self, HeaderMap, HeaderName, HeaderValue},
};
use hyper_util::rt::TokioIo;
use qnet_transport::{bridge::Whose, relay::relay};
use sha2::{Digest as _, Sha256};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use super::serve::Use;

/// How long the bridge may take to answer. It is this process.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// Most bytes of the answer's head, which has four lines.
const MAX_ANSWER: usize = 1_024;
/// How long a websocket may be silent: what web servers in front are told, too. Its client may be gone without a word.
const IDLE_LIMIT: Duration = Duration::from_secs(3_600);
/// What the bridge judges a request by.
const FIELDS: [HeaderName; 4] =
    [header::CONNECTION, header::UPGRADE, header::SEC_WEBSOCKET_VERSION, header::SEC_WEBSOCKET_KEY];

/// Where websockets go.
#[derive(Clone)]
pub struct Websockets {
    /// SHA-256 of the secret path, query included, so that the comparison tells nothing of it.
    path: [u8; 32],
    bridge: SocketAddr,
    whose: Whose,
}

impl Websockets {
    /// Those at `path` go to `bridge`, where a bridge's websocket listener takes `X-Forwarded-For` for true and cuts off who is no
    /// client. `whose` tells whose the site's connections are.
    #[must_use]
    pub fn new(path: &str, bridge: SocketAddr, whose: Whose) -> Self {
        Self { path: Sha256::digest(path).into(), bridge, whose }
    }

    /// Opens the websocket that `request`, on the connection from `visitor`, asks for. `None`: it is not for the bridge.
    pub(super) async fn open(
        &self,
        request: &mut Request<Incoming>,
        visitor: SocketAddr,
    ) -> Option<Response<Bytes>> {
        let path = request.uri().path_and_query()?.as_str();
        let here = <[u8; 32]>::from(Sha256::digest(path)) == self.path;
        if !here || request.method() != Method::GET || request.version() != Version::HTTP_11 {
            return None;
        }
        let head = head(path, request.headers(), self.whose.is(visitor).unwrap_or(visitor));
        let (bridge, accept) = timeout(ANSWER_LIMIT, ask(self.bridge, &head)).await.ok()?.ok()?;
        let upgrade = hyper::upgrade::on(request);
        tokio::spawn(async move {
            // Where the visitor is gone there is nothing to carry.
            if let Ok(upgraded) = upgrade.await {
                carry(TokioIo::new(upgraded), bridge).await;
            }
        });
        let mut response = Response::new(Bytes::new());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
        Some(response)
    }
}

/// The request as the bridge gets it: what it judges by, as it came, and whose it is.
fn head(path: &str, headers: &HeaderMap, client: SocketAddr) -> Vec<u8> {
    let mut head = format!("GET {path} HTTP/1.1\r\nX-Forwarded-For: {}\r\n", client.ip()).into_bytes();
    for name in &FIELDS {
        for value in headers.get_all(name) {
            head.extend_from_slice(name.as_str().as_bytes());
            head.extend_from_slice(b": ");
            head.extend_from_slice(value.as_bytes());
            head.extend_from_slice(b"\r\n");
        }
    }
    head.extend_from_slice(b"\r\n");
    head
}

/// A connection to the bridge on which the websocket is open, and what proves it to the client.
async fn ask(bridge: SocketAddr, head: &[u8]) -> io::Result<(TcpStream, HeaderValue)> {
    let mut tcp = TcpStream::connect(bridge).await?;
    tcp.set_nodelay(true)?;
    tcp.write_all(head).await?;
    let mut answer = Vec::new();
    // Nothing follows the head before the client's first message.
    while !answer.ends_with(b"\r\n\r\n") {
        if answer.len() >= MAX_ANSWER || tcp.read_buf(&mut answer).await? == 0 {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
    let accept = accept_of(&answer).ok_or(io::ErrorKind::InvalidData)?;
    Ok((tcp, accept))
}

fn accept_of(answer: &[u8]) -> Option<HeaderValue> {
    let mut lines = str::from_utf8(answer).ok()?.split("\r\n");
    lines.next().filter(|status| status.starts_with("HTTP/1.1 101 "))?;
    let accept = lines.find_map(|line| line.strip_prefix("Sec-WebSocket-Accept: "))?;
    accept.parse().ok()
}

async fn carry<V: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin>(
    mut visitor: V,
    mut bridge: TcpStream,
) {
    let using = Use::default();
    tokio::select! {
        // Either end may break off as it likes.
        _ = relay(&mut visitor, &mut bridge, |_, _| using.touch()) => {}
        () = using.idle(IDLE_LIMIT) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bridge_gets_what_it_judges_by_and_nothing_else() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("cookie", "a=b"),
            ("x-forwarded-for", "10.0.0.1"),
            ("upgrade", "websocket"),
            ("connection", "keep-alive, Upgrade"),
            ("sec-websocket-key", "one"),
            ("sec-websocket-key", "two"),
        ] {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let head = String::from_utf8(head("/x?y=1", &headers, "192.0.2.1:5".parse().unwrap())).unwrap();
        assert_eq!(
            head,
            "GET /x?y=1 HTTP/1.1\r\nX-Forwarded-For: 192.0.2.1\r\nconnection: keep-alive, Upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-key: one\r\nsec-websocket-key: two\r\n\r\n"
        );
    }

    #[test]
    fn only_an_opening_answer_opens() {
        let answer =
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: abc=\r\n\r\n";
        assert_eq!(accept_of(answer.as_bytes()), Some(HeaderValue::from_static("abc=")));
        for (from, to) in [("101", "200"), ("Accept", "Except"), ("abc=", "a\u{1}"), ("HTTP/1.1", "\u{e9}")] {
            assert_eq!(accept_of(answer.replace(from, to).as_bytes()), None, "{to}");
        }
    }
}
