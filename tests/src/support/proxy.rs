//! Upstream proxies, as an office might have them: they note whom they were asked for and what they were shown.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::{Context, Result, bail, ensure};

/// A proxy's protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// RFC 1928; insists on a login (RFC 1929).
    Socks5,
    /// SOCKS 4.
    Socks4,
    /// HTTP's CONNECT; insists on a login.
    Http,
}

/// What a proxy was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The target.
    pub target: SocketAddr,
    /// `user:password` over SOCKS5, the user over SOCKS4, the credentials in base64 over HTTP.
    pub login: String,
}

/// A proxy, until the process ends.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Proxy {
    /// Serves what comes to `listener`.
    ///
    /// # Errors
    /// The kernel's.
    pub fn start(kind: Kind, listener: TcpListener) -> Result<Self> {
        let (address, asked) = (listener.local_addr()?, Arc::<Mutex<Vec<Asked>>>::default());
        let noted = Arc::clone(&asked);
        thread::spawn(move || {
            for tcp in listener.incoming().flatten() {
                let noted = Arc::clone(&noted);
                thread::spawn(move || serve(kind, tcp, &noted).ok());
            }
        });
        Ok(Self { address, asked })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it was asked for so far.
    #[must_use]
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn serve(kind: Kind, mut tcp: TcpStream, noted: &Mutex<Vec<Asked>>) -> Result<()> {
    let asked = match kind {
        Kind::Socks5 => socks5(&mut tcp)?,
        Kind::Socks4 => socks4(&mut tcp)?,
        Kind::Http => http(&mut tcp)?,
    };
    noted.lock().unwrap_or_else(PoisonError::into_inner).push(asked.clone());
    let far = TcpStream::connect(asked.target)?;
    tcp.write_all(match kind {
        Kind::Socks5 => &[5, 0, 0, 1, 0, 0, 0, 0, 0, 0],
        Kind::Socks4 => &[0, 90, 0, 0, 0, 0, 0, 0],
        Kind::Http => b"HTTP/1.1 200 Connection established\r\n\r\n",
    })?;
    let (mut up_from, mut up_to) = (tcp.try_clone()?, far.try_clone()?);
    thread::spawn(move || {
        let copied = std::io::copy(&mut up_from, &mut up_to);
        up_to.shutdown(std::net::Shutdown::Write).and(copied)
    });
    let mut far = far;
    std::io::copy(&mut far, &mut tcp)?;
    Ok(tcp.shutdown(std::net::Shutdown::Write)?)
}

fn bytes<const N: usize>(tcp: &mut TcpStream) -> Result<[u8; N]> {
    let mut bytes = [0; N];
    tcp.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// A byte's worth of text behind its length.
fn text(tcp: &mut TcpStream) -> Result<String> {
    let [length] = bytes(tcp)?;
    let mut text = vec![0; length.into()];
    tcp.read_exact(&mut text)?;
    Ok(String::from_utf8(text)?)
}

fn socks5(tcp: &mut TcpStream) -> Result<Asked> {
    let [version, count] = bytes(tcp)?;
    let mut methods = vec![0; count.into()];
    tcp.read_exact(&mut methods)?;
    ensure!(version == 5 && methods.contains(&2), "no SOCKS5 with a login: {methods:?}");
    tcp.write_all(&[5, 2])?;
    ensure!(bytes(tcp)? == [1], "not RFC 1929");
    let login = format!("{}:{}", text(tcp)?, text(tcp)?);
    tcp.write_all(&[1, 0])?;
    ensure!(bytes(tcp)? == [5, 1, 0, 1], "only connections to IPv4 addresses");
    let [a, b, c, d, high, low] = bytes(tcp)?;
    Ok(Asked { target: v4([a, b, c, d], [high, low]), login })
}

fn socks4(tcp: &mut TcpStream) -> Result<Asked> {
    ensure!(bytes(tcp)? == [4, 1], "not a SOCKS4 connection");
    let [high, low, a, b, c, d] = bytes(tcp)?;
    let mut user = Vec::new();
    loop {
        match bytes(tcp)? {
            [0] => break,
            [byte] => user.push(byte),
        }
    }
    Ok(Asked { target: v4([a, b, c, d], [high, low]), login: String::from_utf8(user)? })
}

fn v4(ip: [u8; 4], port: [u8; 2]) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::from(ip), u16::from_be_bytes(port)))
}

fn http(tcp: &mut TcpStream) -> Result<Asked> {
    // The client waits for the answer, so nothing behind the head is swallowed.
    let mut lines = BufReader::new(tcp.try_clone()?).lines();
    let request = lines.next().context("no request")??;
    let target = request.strip_prefix("CONNECT ").and_then(|rest| rest.strip_suffix(" HTTP/1.1"));
    let target = target.with_context(|| format!("not a CONNECT: {request}"))?.parse()?;
    let mut login = None;
    for line in lines {
        let line = line?;
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(": ").context("a header has a name")?;
        if name.eq_ignore_ascii_case("proxy-authorization") {
            login = value.strip_prefix("Basic ").map(str::to_owned);
        }
    }
    let Some(login) = login else {
        tcp.write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic\r\n\r\n")?;
        bail!("no login");
    };
    Ok(Asked { target, login })
}
