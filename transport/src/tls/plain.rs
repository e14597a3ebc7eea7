//! TLS as a browser has it without a token in its hello: to load a page, and to open the page's websocket. BoringSSL then
//! stays for the connection's life, so that its records, alerts and key updates are Chrome's own.
#![forbid(unsafe_code)]

use std::time::Duration;

use qnet_wire::name::ServerName;
use tokio::net::TcpStream;

use super::engine::{Engine, Hello, TlsEnd, Trust};
use super::error::HandshakeError;
use super::handshake::perform;
use super::roots::Roots;
use super::tickets::Ticket;

/// What a connection without a token is for.
#[derive(Debug)]
pub enum Purpose {
    /// To load a page, over HTTP/2, with an earlier connection's ticket where there is one.
    Page(Option<Ticket>),
    /// To open a websocket over HTTP/1.1, with the ticket of the page's connection where it gave one.
    Websocket(Option<Ticket>),
}

/// A connection after its handshake, without its socket.
pub struct Connected {
    /// TLS.
    pub tls: Tls,
    /// Bytes that came after the server's Finished message, to be given to [`Tls::read`] first.
    pub unread: Vec<u8>,
    /// From the ClientHello sent to the first byte back.
    pub round_trip: Duration,
}

impl std::fmt::Debug for Connected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connected").finish_non_exhaustive()
    }
}

/// Performs a TLS 1.3 handshake as Chrome does for this purpose, and checks that the server is `name`.
///
/// There is no time limit in here; put one around it. After an error, or where the future is dropped, the socket is good for
/// nothing but closing.
///
/// # Errors
/// See [`HandshakeError`].
pub async fn connect(
    tcp: &mut TcpStream,
    purpose: Purpose,
    name: &ServerName,
    roots: &Roots,
) -> Result<Connected, HandshakeError> {
    let (hello, wanted): (_, &[u8]) = match purpose {
        Purpose::Page(ticket) => (Hello::Page(ticket), b"h2"),
        Purpose::Websocket(ticket) => (Hello::Websocket(ticket), b"http/1.1"),
    };
    let shook = perform(tcp, &hello, name, roots, Trust::Roots).await?;
    match shook.engine.protocol() {
        Some(chosen) if chosen == wanted => {}
        // A server that chooses nothing speaks HTTP/1.1.
        None if wanted == b"http/1.1" => {}
        other => {
            let other = other.map(|name| String::from_utf8_lossy(name).into_owned());
            return Err(HandshakeError::NoHttp2(other));
        }
    }
    Ok(Connected { tls: Tls(shook.engine), unread: shook.unread, round_trip: shook.round_trip })
}

/// One connection's TLS after its handshake: bytes of the socket on one side, contents of records on the other.
pub struct Tls(Engine);

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}

impl Tls {
    /// Takes bytes of the socket; appends what was in them to `content`, and what is to be sent for them to `out`.
    ///
    /// # Errors
    /// None: the server closed with `close_notify`. Some: an alert, or bytes that do not open. Send `out`, and close.
    pub fn read(
        &mut self,
        bytes: &[u8],
        content: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> Result<(), Option<HandshakeError>> {
        let outcome = self.0.read(bytes, content);
        self.collect(out);
        outcome.map_err(TlsEnd::error)
    }

    /// Seals `content`, of at most 16,384 bytes, as one record, and appends it to `out`.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn write(&mut self, content: &[u8], out: &mut Vec<u8>) -> Result<(), Option<HandshakeError>> {
        let outcome = self.0.write(content);
        self.collect(out);
        outcome.map_err(TlsEnd::error)
    }

    /// The ticket that came last of those that were not yet taken: each serves once.
    pub fn ticket(&self) -> Option<Ticket> {
        self.0.ticket()
    }

    /// Whether the server took the ticket that was offered.
    pub fn resumed(&self) -> bool {
        self.0.resumed()
    }

    fn collect(&mut self, out: &mut Vec<u8>) {
        for write in self.0.writes() {
            out.extend_from_slice(&write);
        }
    }
}

impl TlsEnd {
    fn error(self) -> Option<HandshakeError> {
        match self {
            Self::Closed => None,
            Self::Broken(error) => Some(error),
        }
    }
}
