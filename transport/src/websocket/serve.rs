//! A connection from the web server in front: a client's websocket, or a visitor's request, which goes to the site.

use std::{net::IpAddr, time::Duration};

use qnet_proto::websocket::{Accept, Verdict};
use tokio::io::{self, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

/// How long a request's head may take. Web servers in front give a request on when they have it whole.
const HEAD_LIMIT: Duration = Duration::from_secs(10);
/// How much is read at once.
const READ_SIZE: usize = 8 * 1024;

/// Who has called.
pub(crate) enum Caller {
    /// A websocket at the secret path: the answer that opens it, and what already came behind the request.
    Client {
        /// The answer.
        answer: Vec<u8>,
        /// What came behind the request.
        rest: Vec<u8>,
        /// The client's address as a server in front says.
        address: Option<IpAddr>,
    },
    /// Anybody else: what came so far.
    Visitor(Vec<u8>),
}

/// Reads as much of a connection as it takes to tell.
///
/// # Errors
/// The connection broke.
pub(crate) async fn receive(tcp: &mut TcpStream, path: &str) -> io::Result<Caller> {
    let mut accept = Accept::new(path);
    let limit = Instant::now() + HEAD_LIMIT;
    loop {
        let mut bytes = Vec::with_capacity(READ_SIZE);
        let verdict = match timeout_at(limit, tcp.read_buf(&mut bytes)).await {
            Ok(Ok(1..)) => accept.on_data(&bytes),
            Ok(Err(error)) => return Err(error),
            // It ended, or takes too long: the site's to answer.
            Ok(Ok(_)) | Err(_) => accept.give_up(),
        };
        match verdict {
            Verdict::More => {}
            Verdict::Visitor(head) => return Ok(Caller::Visitor(head)),
            Verdict::Opens { answer, rest } => {
                return Ok(Caller::Client { answer, rest, address: accept.client() });
            }
        }
    }
}

/// Joins a visitor to the site, to both their ends.
///
/// # Errors
/// Either connection broke.
pub(crate) async fn join(mut visitor: TcpStream, mut site: TcpStream, head: &[u8]) -> io::Result<()> {
    site.write_all(head).await?;
    io::copy_bidirectional(&mut visitor, &mut site).await.map(drop)
}
