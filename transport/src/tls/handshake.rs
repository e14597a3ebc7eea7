//! The handshake over a socket.
#![forbid(unsafe_code)]

use std::time::Duration;

use boring::hash::MessageDigest;
use boring::x509::X509;
use qnet_proto::client::Handshake as Tls;
use qnet_proto::hello::ServerHello;
use qnet_proto::tls::{Secret, Suite};
use qnet_proto::token::EchOffer;
use qnet_wire::name::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::engine::{Engine, Hello, Step, Trust};
use super::error::HandshakeError;
use super::roots::Roots;
use super::wire::{self, APPLICATION_DATA, HEADER, HelloCollector, Next};

/// Most bytes of the server's half of a handshake: twice the 64 KiB that the largest certificate chains in use
/// (post-quantum ones included) stay under.
pub const MAX_SERVER_FLIGHT: usize = 131_072;
/// How much is asked of the socket at once: one record of the largest size.
const READ_SIZE: usize = 16_384 + 256 + HEADER;

/// The outcome of a TLS handshake.
pub struct Handshake {
    /// What the rest of the carrier's life needs of it.
    pub tls: Tls,
    /// The certificate that was accepted.
    pub certificate: Certificate,
    /// Whether the server asked for a client certificate (RFC 8446, section 4.3.2); it got an empty one.
    pub wants_client_certificate: bool,
}

impl std::fmt::Debug for Handshake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Neither secrets nor anything that could identify the visit.
        f.debug_struct("Handshake").field("suite", &self.tls.suite).finish_non_exhaustive()
    }
}

/// What is worth showing of a certificate that was accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// SHA-256 of its DER form.
    pub sha256: [u8; 32],
    /// Its last day and time of validity, as BoringSSL prints it (`Nov 21 03:37:27 2026 GMT`).
    pub not_after: String,
}

impl Certificate {
    fn of(certificate: &X509) -> Option<Self> {
        let digest = certificate.digest(MessageDigest::sha256()).ok()?;
        Some(Self {
            sha256: digest.as_ref().try_into().ok()?,
            not_after: certificate.not_after().to_string(),
        })
    }
}

/// Performs the TLS 1.3 handshake with the decoy at the other end of `tcp`, with `offer`'s token in its hello, and
/// checks that the decoy is `name` and speaks HTTP/2.
///
/// There is no time limit in here; put one around it. Dropping the future frees everything; the socket is then good
/// for nothing but closing, as it is after an error.
///
/// # Errors
/// See [`HandshakeError`].
pub async fn handshake(
    tcp: &mut TcpStream,
    offer: &EchOffer,
    name: &ServerName,
    roots: &Roots,
) -> Result<Handshake, HandshakeError> {
    let shook = perform(tcp, &Hello::Token(offer), name, roots, Trust::Roots).await?;
    conclude(shook)
}

/// As [`handshake`], but a certificate that clients may have no reason to believe is taken, if it is for `name` and
/// within its time. The second result says what they would have against it.
///
/// # Errors
/// See [`HandshakeError`].
pub(crate) async fn handshake_with_any_issuer(
    tcp: &mut TcpStream,
    offer: &EchOffer,
    name: &ServerName,
    roots: &Roots,
) -> Result<(Handshake, Option<String>), HandshakeError> {
    let shook = perform(tcp, &Hello::Token(offer), name, roots, Trust::AnyIssuer).await?;
    let doubt = shook.engine.doubt()?;
    Ok((conclude(shook)?, doubt))
}

/// The handshake, whatever it is for.
pub(super) async fn perform(
    tcp: &mut TcpStream,
    hello: &Hello<'_>,
    name: &ServerName,
    roots: &Roots,
    trust: Trust,
) -> Result<Handshook, HandshakeError> {
    let mut engine = Engine::new(hello, name, roots, trust)?;
    let (client_hello, asked) = say_hello(&mut engine, tcp).await?;
    let mut incoming = Incoming::default();
    let mut seen = Seen::default();
    let mut round_trip = None;
    let mut sent = Vec::new();
    loop {
        let record = incoming.record(tcp).await?;
        round_trip.get_or_insert_with(|| asked.elapsed());
        seen.look(record)?;
        let step = engine.feed(record);
        incoming.consume();
        match step {
            Step::More(_) if incoming.strange || seen.strange => {
                return Err(HandshakeError::Malformed("a record or a ServerHello that is none".into()));
            }
            Step::More(writes) => send(tcp, &writes, &mut sent).await?,
            Step::Done(writes) => {
                send(tcp, &writes, &mut sent).await?;
                break;
            }
            Step::Failed(writes, error) => {
                // Why it failed says more than that the alert could not be sent.
                let _ = send(tcp, &writes, &mut sent).await;
                return Err(error);
            }
        }
    }
    let round_trip = round_trip.unwrap_or_default();
    Ok(Handshook { engine, seen, client_hello, sent, unread: incoming.rest(), round_trip })
}

/// Sends the ClientHello, in one write, and returns its message and when it went: before the write, during which a near
/// server may already answer.
async fn say_hello(engine: &mut Engine, tcp: &mut TcpStream) -> Result<(Vec<u8>, Instant), HandshakeError> {
    let Step::More(writes) = engine.feed(&[]) else {
        return Err(HandshakeError::Unexpected("no ClientHello"));
    };
    let record = writes.concat();
    let message = HelloCollector::default()
        .push(&record)
        .filter(|message| message.len() + HEADER == record.len())
        .ok_or(HandshakeError::Unexpected("a ClientHello that is not one record"))?;
    let asked = Instant::now();
    tcp.write_all(&record).await.map_err(HandshakeError::Io)?;
    Ok((message, asked))
}

/// Sends each of `writes` in one write, and notes it in `sent`.
async fn send(tcp: &mut TcpStream, writes: &[Vec<u8>], sent: &mut Vec<u8>) -> Result<(), HandshakeError> {
    for write in writes {
        tcp.write_all(write).await.map_err(HandshakeError::Io)?;
        sent.extend_from_slice(write);
    }
    Ok(())
}

/// What a handshake that BoringSSL is content with left behind.
pub(super) struct Handshook {
    pub(super) engine: Engine,
    seen: Seen,
    client_hello: Vec<u8>,
    sent: Vec<u8>,
    pub(super) unread: Vec<u8>,
    pub(super) round_trip: Duration,
}

/// What BoringSSL is content with is not yet what the carrier needs.
fn conclude(shook: Handshook) -> Result<Handshake, HandshakeError> {
    let Handshook { engine, seen, client_hello, sent, unread, round_trip } = shook;
    if seen.retried {
        return Err(HandshakeError::HelloRetry);
    }
    match engine.protocol() {
        Some(b"h2") => {}
        other => {
            return Err(HandshakeError::NoHttp2(
                other.map(|name| String::from_utf8_lossy(name).into_owned()),
            ));
        }
    }
    let server_hello = seen.server_hello.ok_or(HandshakeError::Unexpected("no ServerHello"))?;
    let suite = Suite::try_from(server_hello.cipher_suite())
        .map_err(|_| HandshakeError::Unexpected("a cipher suite that is not TLS 1.3's"))?;
    let secrets = engine.secrets();
    let secret = |bytes: Option<Zeroizing<Vec<u8>>>| {
        bytes
            .and_then(|bytes| Secret::new(suite, &bytes))
            .ok_or(HandshakeError::Unexpected("no traffic secrets"))
    };
    let types = wire::record_types(&sent).unwrap_or_default();
    let certificate = engine.certificate().as_ref().and_then(Certificate::of);
    let tls = Tls {
        client_hello,
        server_hello: server_hello.raw().to_vec(),
        suite,
        up_secret: secret(secrets.client)?,
        down_secret: secret(secrets.server)?,
        up_records: types.iter().filter(|&&kind| kind == APPLICATION_DATA).count() as u64,
        sent,
        down_records: seen.protected,
        unread,
        round_trip,
    };
    let certificate = certificate.ok_or(HandshakeError::Unexpected("no certificate"))?;
    Ok(Handshake { tls, certificate, wants_client_certificate: engine.wants_client_certificate() })
}

/// What the client notes for itself of the records that BoringSSL is fed.
#[derive(Default)]
struct Seen {
    collector: HelloCollector,
    server_hello: Option<ServerHello>,
    /// A HelloRetryRequest came first.
    retried: bool,
    /// The ServerHello makes no sense. BoringSSL is to say so itself, in Chrome's words.
    strange: bool,
    /// Records of outer type 23.
    protected: u64,
}

impl Seen {
    /// Looks at a record before BoringSSL does: to TLS 1.2 it must not answer.
    fn look(&mut self, record: &[u8]) -> Result<(), HandshakeError> {
        if record.first() == Some(&APPLICATION_DATA) {
            self.protected += 1;
        }
        if self.server_hello.is_some() {
            return Ok(());
        }
        let Some(message) = self.collector.push(record) else { return Ok(()) };
        match ServerHello::parse(message) {
            None => self.strange = true,
            Some(hello) if hello.is_hello_retry() => self.retried = true,
            Some(hello) if !hello.is_tls13() => return Err(HandshakeError::OldTls),
            Some(hello) => self.server_hello = Some(hello),
        }
        Ok(())
    }
}

/// The bytes of the server, record by record.
#[derive(Default)]
struct Incoming {
    buffer: Vec<u8>,
    /// Where the current record ends.
    end: usize,
    /// Bytes consumed since the connection began.
    total: usize,
    /// The current bytes are no record. BoringSSL needs the five of a header to say so in Chrome's words.
    strange: bool,
}

impl Incoming {
    async fn record(&mut self, tcp: &mut TcpStream) -> Result<&[u8], HandshakeError> {
        self.end = loop {
            match wire::next(&self.buffer) {
                Next::Record(length) => break length,
                Next::Strange => {
                    self.strange = true;
                    break HEADER;
                }
                Next::Missing(count) => {
                    self.buffer.reserve(count.max(READ_SIZE.saturating_sub(self.buffer.len())));
                }
            }
            if tcp.read_buf(&mut self.buffer).await.map_err(HandshakeError::Io)? == 0 {
                return Err(HandshakeError::Closed { answered: self.total + self.buffer.len() > 0 });
            }
        };
        if self.total + self.end > MAX_SERVER_FLIGHT {
            return Err(HandshakeError::TooLong);
        }
        Ok(self.buffer.get(..self.end).unwrap_or_default())
    }

    fn consume(&mut self) {
        self.buffer.drain(..self.end);
        self.total += self.end;
        self.end = 0;
    }

    /// What came after the last record consumed, in memory of its own size.
    fn rest(self) -> Vec<u8> {
        self.buffer.as_slice().to_vec()
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// No honest or dishonest server gets BoringSSL to take so much; the bound holds all the same.
    #[tokio::test]
    async fn an_endless_flight_is_refused_within_bounds() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut tcp = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut server, _) = listener.accept().await.unwrap();
        tokio::spawn(async move {
            let mut record = vec![23, 3, 3, 0x41, 0x00];
            record.resize(HEADER + 16_640, 0);
            while server.write_all(&record).await.is_ok() {}
        });
        let mut incoming = Incoming::default();
        let mut records = 0;
        let error = loop {
            match incoming.record(&mut tcp).await {
                Ok(record) => assert_eq!(record.len(), HEADER + 16_640),
                Err(error) => break error,
            }
            assert!(incoming.buffer.capacity() <= 4 * READ_SIZE);
            incoming.consume();
            records += 1;
        };
        assert!(matches!(error, HandshakeError::TooLong), "{error}");
        assert_eq!(records, MAX_SERVER_FLIGHT / (HEADER + 16_640));
    }
}
