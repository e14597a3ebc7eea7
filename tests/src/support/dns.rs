//! A name server that knows one answer: the HTTPS record (RFC 9460) of every name.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use anyhow::Result;

/// What it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Says {
    /// There is no such record.
    Nothing,
    /// One with `alpn=h2`.
    Http2,
    /// One with `alpn=h3,h2`.
    Http3,
    /// One with `ech`.
    Ech,
    /// SERVFAIL.
    Failure,
    /// Never anything.
    Silence,
}

/// A DNS message's header (RFC 1035, section 4.1.1).
const HEADER: u8 = 12;
/// Type and class behind a question's name.
const TYPE_AND_CLASS: usize = 4;
/// The type HTTPS.
const HTTPS: u8 = 65;

/// The name server, until the process ends.
#[derive(Debug)]
pub struct NameServer {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<IpAddr>>>,
}

impl NameServer {
    /// Listens on a loopback port.
    ///
    /// # Errors
    /// The kernel's.
    pub fn start(says: Says) -> Result<Self> {
        Self::start_at(Ipv4Addr::LOCALHOST.into(), says)
    }

    /// Listens on a port of `ip`.
    ///
    /// # Errors
    /// The kernel's.
    pub fn start_at(ip: IpAddr, says: Says) -> Result<Self> {
        let socket = UdpSocket::bind((ip, 0))?;
        let address = socket.local_addr()?;
        let asked = Arc::new(Mutex::default());
        let note = Arc::clone(&asked);
        thread::spawn(move || {
            let mut query = [0; 512];
            while let Ok((length, from)) = socket.recv_from(&mut query) {
                lock(&note).push(from.ip());
                let answer = query.get(..length).and_then(|query| answer(query, says));
                if let Some(answer) = answer {
                    socket.send_to(&answer, from).ok();
                }
            }
        });
        Ok(Self { address, asked })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many questions came.
    #[must_use]
    pub fn asked(&self) -> usize {
        lock(&self.asked).len()
    }

    /// From where the last one came.
    #[must_use]
    pub fn asked_from(&self) -> Option<IpAddr> {
        lock(&self.asked).last().copied()
    }
}

fn lock(asked: &Mutex<Vec<IpAddr>>) -> MutexGuard<'_, Vec<IpAddr>> {
    asked.lock().unwrap_or_else(PoisonError::into_inner)
}

fn answer(query: &[u8], says: Says) -> Option<Vec<u8>> {
    let rest = query.get(usize::from(HEADER)..)?;
    let name = rest.iter().position(|byte| *byte == 0)? + 1;
    let question = rest.get(..name + TYPE_AND_CLASS)?;
    let params: Option<&[u8]> = match says {
        Says::Silence => return None,
        Says::Nothing | Says::Failure => None,
        Says::Http2 => Some(b"\0\x01\0\x03\x02h2"),
        Says::Http3 => Some(b"\0\x01\0\x06\x02h3\x02h2"),
        Says::Ech => Some(b"\0\x01\0\x03\x02h2\0\x05\0\x04\0\x02\xfe\x0d"),
    };
    let code = if says == Says::Failure { 2 } else { 0 };
    let mut out = query.get(..2)?.to_vec();
    // Answer, recursion desired and available; one question, no other records.
    out.extend_from_slice(&[0x81, 0x80 | code, 0, 1, 0, u8::from(params.is_some()), 0, 0, 0, 0]);
    out.extend_from_slice(question);
    if let Some(params) = params {
        // The question's name, the type, the class IN, a minute; then priority 1 and the target, the name itself.
        out.extend_from_slice(&[0xc0, HEADER, 0, HTTPS, 0, 1, 0, 0, 0, 60]);
        out.extend_from_slice(&u16::try_from(3 + params.len()).ok()?.to_be_bytes());
        out.extend_from_slice(&[0, 1, 0]);
        out.extend_from_slice(params);
    }
    Some(out)
}
