//! A plain HTTP/1.1 server that gives one file: what a download through Tor is measured against.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use super::site::noise;
use super::socks;

/// The longest answer head [`download`] accepts, in bytes.
const MAX_HEAD: u64 = 4_096;

/// A server on a loopback port, until the process ends.
#[derive(Debug)]
pub struct FileServer {
    address: SocketAddr,
    sha256: [u8; 32],
    size: usize,
}

impl FileServer {
    /// Serves `size` bytes, no two stretches of them alike, so that none can be doubled or lost unseen.
    ///
    /// # Errors
    /// No port can be had.
    pub fn start(size: usize) -> Result<Self> {
        let body: Arc<[u8]> = noise("download", size).into();
        let sha256 = Sha256::digest(&body).into();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let body = Arc::clone(&body);
                thread::spawn(move || answer(&stream, &body).ok());
            }
        });
        Ok(Self { address, sha256, size })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The file's SHA-256.
    #[must_use]
    pub fn sha256(&self) -> [u8; 32] {
        self.sha256
    }

    /// The file's size, bytes.
    #[must_use]
    pub fn size(&self) -> usize {
        self.size
    }
}

fn answer(stream: &TcpStream, body: &[u8]) -> Result<()> {
    let mut lines = BufReader::new(stream).lines();
    while !lines.next().context("the request ended early")??.is_empty() {}
    let mut out = stream;
    write!(out, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len())?;
    Ok(out.write_all(body)?)
}

/// Gets the file at `server` through the SOCKS5 proxy at `proxy`; calls `progress` with the number of bytes so far.
///
/// # Errors
/// The proxy refuses, the connection breaks, or what came is not the file (by length or SHA-256).
pub fn download(
    proxy: SocketAddr,
    server: &FileServer,
    mut progress: impl FnMut(usize) -> Result<()>,
) -> Result<()> {
    let stream = socks::connect(proxy, server.address())?;
    let mut out = &stream;
    write!(out, "GET /file HTTP/1.1\r\nHost: {}\r\n\r\n", server.address())?;
    let mut reader = BufReader::new(&stream);
    let mut line = String::new();
    while line != "\r\n" {
        line.clear();
        if reader.by_ref().take(MAX_HEAD).read_line(&mut line)? == 0 {
            bail!("the answer ended within its head");
        }
    }
    let (mut hash, mut total, mut piece) = (Sha256::new(), 0, vec![0; 65_536]);
    loop {
        let n = reader.read(&mut piece)?;
        if n == 0 {
            break;
        }
        hash.update(piece.get(..n).unwrap_or_default());
        total += n;
        progress(total)?;
    }
    let got: [u8; 32] = hash.finalize().into();
    if total != server.size() || got != server.sha256() {
        bail!("{total} of {} bytes came, and the hash is {}", server.size(), got == server.sha256());
    }
    Ok(())
}
