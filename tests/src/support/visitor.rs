//! A visitor in this process: TLS as BoringSSL speaks it, and just enough HTTP to ask for a page.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use boring::ssl::{HandshakeError, Ssl, SslContext, SslMethod, SslStream, SslVerifyMode, SslVersion};

/// HTTP/2's connection preface, an empty SETTINGS frame, and a WINDOW_UPDATE as big as a browser's (RFC 9113, 3.4).
pub(super) const PREFACE: &[u8] =
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\0\0\x04\x08\0\0\0\0\0\0\xef\0\x01";

/// Who visits, and what for.
#[derive(Clone, Debug)]
pub struct Visitor {
    /// The server name asked for; none if `None`.
    pub name: Option<String>,
    /// The protocols offered, best first; the extension is left out if there are none.
    pub alpn: Vec<&'static str>,
    /// Whether TLS 1.3 is offered; TLS 1.2 always is.
    pub tls13: bool,
    /// Whether only TLS 1.3 is.
    pub tls13_only: bool,
    /// The paths asked for, one request after the other without waiting.
    pub paths: Vec<String>,
    /// The window that he grants each stream, if not HTTP/2's first 65,535 bytes.
    pub window: Option<u32>,
    /// The CA the server's certificate must come from; any will do if `None`.
    pub ca: Option<PathBuf>,
}

/// What a visitor saw.
#[derive(Clone, Debug)]
pub struct Visit {
    /// The protocol chosen, empty if none.
    pub alpn: String,
    /// The server's certificate, DER.
    pub certificate: Vec<u8>,
    /// The TLS version, as BoringSSL names it.
    pub version: &'static str,
    /// Everything the server sent inside TLS.
    pub answer: Vec<u8>,
}

impl Visitor {
    /// A visitor of `name` who offers what browsers do and asks for `/`.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self {
            name: Some(name.to_owned()),
            alpn: vec!["h2", "http/1.1"],
            tls13: true,
            tls13_only: false,
            paths: vec!["/".to_owned()],
            window: None,
            ca: None,
        }
    }

    /// A ClientHello as it would be sent, with its record header; another one each time.
    ///
    /// # Errors
    /// BoringSSL's.
    pub fn hello(&self) -> Result<Vec<u8>> {
        match self.ssl()?.setup_connect(Deaf::default()).handshake() {
            Err(HandshakeError::WouldBlock(waiting)) => Ok(waiting.get_ref().0.clone()),
            Err(error) => bail!("no ClientHello: {error:?}"),
            Ok(_) => bail!("a handshake without an answer"),
        }
    }

    /// Connects, asks, and reads until the server ends, or `patience` (since the beginning) is at its end.
    ///
    /// # Errors
    /// The handshake fails. What comes after it is in the [`Visit`].
    pub fn visit(&self, address: SocketAddr, patience: Duration) -> Result<Visit> {
        let until = Instant::now() + patience;
        let mut tls = self.connect(address, patience)?;
        let alpn =
            String::from_utf8_lossy(tls.ssl().selected_alpn_protocol().unwrap_or_default()).into_owned();
        let certificate =
            tls.ssl().peer_certificate().map_or_else(|| Ok(Vec::new()), |found| found.to_der())?;
        let version = tls.ssl().version_str();
        self.ask(&mut tls, alpn == "h2")?;
        let answer = read(&mut tls, until)?;
        Ok(Visit { alpn, certificate, version, answer })
    }

    /// Connects as far as the handshake's end, no step of which takes longer than `patience`.
    pub(super) fn connect(&self, address: SocketAddr, patience: Duration) -> Result<SslStream<TcpStream>> {
        let tcp = TcpStream::connect(address)?;
        tcp.set_read_timeout(Some(patience))?;
        tcp.set_nodelay(true)?;
        match self.ssl()?.connect(tcp) {
            Ok(tls) => Ok(tls),
            Err(error) => bail!("no handshake: {error}"),
        }
    }

    fn ssl(&self) -> Result<Ssl> {
        let mut context = SslContext::builder(SslMethod::tls())?;
        let (oldest, newest) = (SslVersion::TLS1_2, SslVersion::TLS1_3);
        context.set_min_proto_version(Some(if self.tls13_only { newest } else { oldest }))?;
        context.set_max_proto_version(Some(if self.tls13 { newest } else { oldest }))?;
        context.set_grease_enabled(true);
        if let Some(ca) = &self.ca {
            context.set_ca_file(ca)?;
            context.set_verify(SslVerifyMode::PEER);
        } else {
            context.set_verify(SslVerifyMode::NONE);
        }
        let offered: Vec<u8> = self
            .alpn
            .iter()
            .flat_map(|name| u8::try_from(name.len()).into_iter().chain(name.bytes()))
            .collect();
        if !offered.is_empty() {
            context.set_alpn_protos(&offered)?;
        }
        let mut ssl = Ssl::new(&context.build())?;
        ssl.set_enable_ech_grease(true);
        if let Some(name) = &self.name {
            ssl.set_hostname(name)?;
            ssl.param_mut().set_host(name)?;
        }
        Ok(ssl)
    }

    fn ask(&self, tls: &mut SslStream<TcpStream>, h2: bool) -> Result<()> {
        let name = self.name.as_deref().unwrap_or("localhost");
        if h2 {
            tls.write_all(PREFACE)?;
            if let Some(window) = self.window {
                // SETTINGS_INITIAL_WINDOW_SIZE, and as much more for the connection.
                let window = window.to_be_bytes();
                tls.write_all(&frame(4, 0, 0, &[&[0, 4][..], &window].concat()))?;
                tls.write_all(&frame(8, 0, 0, &window))?;
            }
        }
        for (stream, path) in (1u32..).step_by(2).zip(&self.paths) {
            if h2 {
                tls.write_all(&request(stream, name, path))?;
            } else {
                tls.write_all(format!("GET {path} HTTP/1.1\r\nHost: {name}\r\n\r\n").as_bytes())?;
            }
        }
        Ok(())
    }
}

/// Reads until the end, whatever it is, or until time is up.
fn read(tls: &mut SslStream<TcpStream>, until: Instant) -> Result<Vec<u8>> {
    let (mut answer, mut piece) = (Vec::new(), [0; 16_384]);
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(answer);
        }
        tls.get_ref().set_read_timeout(Some(left))?;
        match tls.read(&mut piece) {
            Ok(0) | Err(_) => return Ok(answer),
            Ok(n) => answer.extend(piece.get(..n).unwrap_or_default()),
        }
    }
}

/// A HEADERS frame that ends its stream; its block is literals and static entries only (RFC 7541, 6.1 and 6.2.2).
fn request(stream: u32, name: &str, path: &str) -> Vec<u8> {
    let mut block = vec![0x82, 0x87];
    for (index, value) in [(0x01, name), (0x04, path)] {
        block.push(index);
        block.push(u8::try_from(value.len()).unwrap_or(0).min(126));
        block.extend(value.bytes().take(126));
    }
    frame(1, 5, stream, &block)
}

/// A frame of HTTP/2 (RFC 9113, section 4.1).
pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or_default().to_be_bytes();
    let mut frame = length.get(1..).unwrap_or_default().to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// Takes what is written and never answers.
#[derive(Debug, Default)]
struct Deaf(Vec<u8>);

impl Read for Deaf {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::WouldBlock.into())
    }
}

impl Write for Deaf {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
