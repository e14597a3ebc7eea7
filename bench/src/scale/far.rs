//! What stands behind the bridge: a process that a hundred thousand connections may reach, with no buffer for one that rests.
//!
//! A connection's first byte says what it is: `e` gives back whatever comes; `c` takes a byte at a time, to `p` answers `p`, and from
//! `d` on gives bytes as fast as they are taken.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;

use anyhow::Result;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// Bytes that the kernel holds of what is sent, at most.
const SEND_BUFFER: usize = 256 * 1024;

/// Most that is read and given back at once.
const PIECE: usize = 16 * 1024;

/// Serves until it is ended.
///
/// # Errors
/// It cannot listen there.
pub fn run(listen: SocketAddr) -> Result<()> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
        serve(TcpListener::bind(listen).await?).await;
        Ok(())
    })
}

/// Serves whoever connects.
pub(crate) async fn serve(listener: TcpListener) {
    loop {
        match listener.accept().await {
            // What goes wrong shows at the near end, which waits for an answer.
            Ok((stream, _)) => drop(tokio::spawn(answer(stream))),
            // Of descriptors there may be too few for a moment.
            Err(_) => tokio::task::yield_now().await,
        }
    }
}

async fn answer(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    // The kernel would let a thousand connections hold 4 MiB each, which is more than it gives all of TCP (`tcp_mem`): it drops
    // segments then, and what is measured is how long they take to come again.
    socket2::SockRef::from(&stream).set_send_buffer_size(SEND_BUFFER)?;
    match stream.read_u8().await? {
        b'e' => echo(stream).await,
        b'c' => obey(stream).await,
        _ => Err(ErrorKind::InvalidData.into()),
    }
}

async fn echo(mut stream: TcpStream) -> io::Result<()> {
    loop {
        stream.readable().await?;
        let mut piece = vec![0; PIECE];
        match stream.try_read(&mut piece) {
            Ok(0) => return Ok(()),
            Ok(read) => {
                piece.truncate(read);
                stream.write_all(&piece).await?;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

async fn obey(mut stream: TcpStream) -> io::Result<()> {
    loop {
        match stream.read_u8().await? {
            b'p' => stream.write_all(b"p").await?,
            b'd' => {
                let piece = vec![7; PIECE];
                loop {
                    stream.write_all(&piece).await?;
                }
            }
            _ => return Err(ErrorKind::InvalidData.into()),
        }
    }
}
