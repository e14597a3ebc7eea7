//! A web server that does what a decoy must not do and no usual server can be told to do. TLS is BoringSSL's; of HTTP/2 there is
//! only what a page load needs, with answers by the order of requests and not by what they ask for.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::Result;
use boring::ssl::{AlpnError, SslAcceptor, SslFiletype, SslMethod, SslStream, select_next_proto};
use tempfile::TempDir;

use super::ca::Certificates;

/// What is odd about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quirk {
    /// Nothing.
    None,
    /// It closes after one answer, without a word.
    ClosesAfterOne,
    /// It says goodbye after one answer.
    GoesAwayAfterOne,
    /// It breaks off when a request has padding that is not zero, as HTTP/2 allows (RFC 9113, section 6.1).
    RefusesPadding,
    /// It answers requests without priority in another way.
    WantsPriority,
    /// A moment after the last answer it sends a long record.
    Chatters,
    /// It closes an idle connection, with many words.
    EndsLoudly,
}

/// How long a connection is silent before [`Quirk::Chatters`] shows.
const MOMENT: Duration = Duration::from_millis(80);
/// How long a connection may idle.
const IDLE: Duration = Duration::from_secs(1);

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const PRIORITY: u8 = 0x20;
/// The first stream of a bridge's own requests, which are HEAD.
const KEEPERS: u32 = 1001;

/// The server, until the process ends.
#[derive(Debug)]
pub struct OddServer {
    address: SocketAddr,
    certificates: Certificates,
    _folder: TempDir,
}

impl OddServer {
    /// Listens on a loopback port as `name`.
    ///
    /// # Errors
    /// The kernel's and BoringSSL's.
    pub fn start(quirk: Quirk, name: &str) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let certificates = Certificates::make(folder.path(), &[name])?;
        let mut acceptor = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls())?;
        acceptor.set_private_key_file(&certificates.key, SslFiletype::PEM)?;
        acceptor.set_certificate_chain_file(&certificates.certificate)?;
        acceptor.set_alpn_select_callback(|_, offered| {
            select_next_proto(b"\x02h2", offered).ok_or(AlpnError::ALERT_FATAL)
        });
        let acceptor = Arc::new(acceptor.build());
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        thread::spawn(move || {
            for tcp in listener.incoming().flatten() {
                let acceptor = Arc::clone(&acceptor);
                thread::spawn(move || {
                    if let Ok(tls) = acceptor.accept(tcp) {
                        // However it ends, the other side says what it saw.
                        Connection { tls, quirk, answers: 0, chattered: false }.serve().ok();
                    }
                });
            }
        });
        Ok(Self { address, certificates, _folder: folder })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The CA's and the site's certificates.
    #[must_use]
    pub fn certificates(&self) -> &Certificates {
        &self.certificates
    }
}

struct Connection {
    tls: SslStream<TcpStream>,
    quirk: Quirk,
    answers: u32,
    chattered: bool,
}

/// A frame: type, flags, stream, payload.
type Frame = (u8, u8, u32, Vec<u8>);

impl Connection {
    fn serve(&mut self) -> io::Result<()> {
        let mut preface = [0; 24];
        self.tls.read_exact(&mut preface)?;
        self.send(&[(SETTINGS, 0, 0, Vec::new())])?;
        loop {
            let (kind, flags, stream, payload) = self.next()?;
            match kind {
                SETTINGS if flags & ACK == 0 => self.send(&[(SETTINGS, ACK, 0, Vec::new())])?,
                HEADERS => self.answer(flags, stream, &payload)?,
                _ => {}
            }
            let one = self.answers == 1;
            if one && self.quirk == Quirk::ClosesAfterOne {
                return Ok(());
            }
            if one && self.quirk == Quirk::GoesAwayAfterOne {
                return self.goodbye(0, "");
            }
        }
    }

    fn answer(&mut self, flags: u8, stream: u32, payload: &[u8]) -> io::Result<()> {
        let padding = payload.first().map_or(0, |length| usize::from(*length));
        let padded = flags & PADDED != 0;
        if self.quirk == Quirk::RefusesPadding
            && padded
            && payload.iter().rev().take(padding).any(|b| *b != 0)
        {
            self.goodbye(1, "padding")?;
            return Err(io::ErrorKind::InvalidData.into());
        }
        self.answers += 1;
        let refused = self.quirk == Quirk::WantsPriority && stream < KEEPERS && flags & PRIORITY == 0;
        // :status 200 or 400 from the static table (RFC 7541, appendix A); content-type is its entry 31.
        let mut block = vec![if refused { 0x8c } else { 0x88 }, 0x0f, 31 - 15, 9];
        block.extend_from_slice(b"text/html");
        if stream >= KEEPERS {
            return self.send(&[(HEADERS, END_HEADERS | END_STREAM, stream, block)]);
        }
        let body = b"<!doctype html><title>A page</title><p>There is little to see on this one.".to_vec();
        self.send(&[(HEADERS, END_HEADERS, stream, block), (DATA, END_STREAM, stream, body)])
    }

    fn next(&mut self) -> io::Result<Frame> {
        let mut head = [0; 9];
        self.wait(&mut head)?;
        let [a, b, c, kind, flags, s @ ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        self.tls.read_exact(&mut payload)?;
        Ok((kind, flags, u32::from_be_bytes(s), payload))
    }

    /// Reads a frame's header; meanwhile time may pass.
    fn wait(&mut self, head: &mut [u8]) -> io::Result<()> {
        loop {
            let chatter = self.quirk == Quirk::Chatters && self.answers >= 2 && !self.chattered;
            self.tls.get_ref().set_read_timeout(Some(if chatter { MOMENT } else { IDLE }))?;
            let (first, rest) = head.split_at_mut(1);
            match self.tls.read(first) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => return self.tls.read_exact(rest),
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                Err(_) if chatter => {
                    self.chattered = true;
                    let updates = vec![(WINDOW_UPDATE, 0, 0, vec![0, 0, 0, 1]); 5];
                    self.send(&updates)?;
                }
                Err(error) => {
                    let words = if self.quirk == Quirk::EndsLoudly {
                        "so long, and thanks for all the bytes"
                    } else {
                        ""
                    };
                    self.goodbye(0, words)?;
                    return Err(error);
                }
            }
        }
    }

    fn goodbye(&mut self, code: u8, words: &str) -> io::Result<()> {
        let payload = [&[0, 0, 0, 1, 0, 0, 0, code], words.as_bytes()].concat();
        self.send(&[(GOAWAY, 0, 0, payload)])
    }

    /// All in one record.
    fn send(&mut self, frames: &[Frame]) -> io::Result<()> {
        let mut out = Vec::new();
        for (kind, flags, stream, payload) in frames {
            let length = u32::try_from(payload.len()).unwrap_or_default();
            out.extend_from_slice(&length.to_be_bytes()[1..]);
            out.extend_from_slice(&[*kind, *flags]);
            out.extend_from_slice(&stream.to_be_bytes());
            out.extend_from_slice(payload);
        }
        self.tls.write_all(&out)
    }
}
