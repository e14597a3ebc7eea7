//! The way from a bridge into its tor: the ORPort, or the Extended ORPort, which is told whom it serves first.

use crate::random;
use qnet_pt_ipc::env::OrPort;
use qnet_pt_ipc::extor::{Client, Cookie, CookieError, ExtOrError, Progress};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long tor may take, which is on this machine.
const LIMIT: Duration = Duration::from_secs(20);

/// Why a client's payload cannot reach tor.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OrPortError {
    #[error("cannot connect to tor's {name} at {address}: {error}; is tor running?")]
    Connect { name: &'static str, address: SocketAddr, error: io::Error },
    #[error("tor's {name} at {address} did not answer in time")]
    TimedOut { name: &'static str, address: SocketAddr },
    #[error("cannot read the Extended ORPort's cookie file {}: {error}", .path.display())]
    CookieFile { path: PathBuf, error: io::Error },
    #[error("{}: {error}", .path.display())]
    Cookie { path: PathBuf, error: CookieError },
    #[error("the connection to the Extended ORPort broke: {0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Refused(#[from] ExtOrError),
}

/// Connects for a client at `client`; returns the connection and the payload that came with the last answer.
pub(crate) async fn connect(
    or_port: &OrPort,
    client: SocketAddr,
) -> Result<(TcpStream, Vec<u8>), OrPortError> {
    let (address, name) = match or_port {
        OrPort::Plain(address) => (*address, "ORPort"),
        OrPort::Extended { address, .. } => (*address, "Extended ORPort"),
    };
    let work = async {
        let connected = TcpStream::connect(address).await;
        let mut tcp = connected.map_err(|error| OrPortError::Connect { name, address, error })?;
        tcp.set_nodelay(true)?;
        let early = match or_port {
            OrPort::Plain(_) => Vec::new(),
            OrPort::Extended { cookie_file, .. } => introduce(&mut tcp, cookie_file, client).await?,
        };
        Ok((tcp, early))
    };
    timeout(LIMIT, work).await.unwrap_or(Err(OrPortError::TimedOut { name, address }))
}

async fn introduce(
    tcp: &mut TcpStream,
    cookie_file: &Path,
    client: SocketAddr,
) -> Result<Vec<u8>, OrPortError> {
    let cookie = read_cookie(cookie_file).await?;
    let mut negotiation = Client::new(cookie, Some(client), crate::TRANSPORT, &mut random::generator()?);
    let mut buffer = [0; 512];
    let mut out = Vec::new();
    loop {
        let count = tcp.read(&mut buffer).await?;
        if count == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        let progress = negotiation.on_bytes(buffer.get(..count).unwrap_or_default(), &mut out)?;
        tcp.write_all(&out).await?;
        out.clear();
        if let Progress::Ready(early) = progress {
            return Ok(early);
        }
    }
}

/// Read for each connection: tor writes the file anew when it starts.
async fn read_cookie(path: &Path) -> Result<Cookie, OrPortError> {
    let unreadable = |error| OrPortError::CookieFile { path: path.to_owned(), error };
    let file = tokio::fs::File::open(path).await.map_err(unreadable)?;
    let mut content = zeroize::Zeroizing::new(Vec::with_capacity(Cookie::FILE_LEN + 1));
    // One byte more than it may have, so that a longer file is told from a whole one.
    file.take(Cookie::FILE_LEN as u64 + 1).read_to_end(&mut content).await.map_err(unreadable)?;
    Cookie::parse(&content).map_err(|error| OrPortError::Cookie { path: path.to_owned(), error })
}
