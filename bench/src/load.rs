//! What stands where tor's ORPort would: takes bytes, gives bytes, or holds a connection.
//!
//! A connection begins with nine bytes: what is wanted, and how many bytes of it.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use anyhow::{Context, Result, bail, ensure};

/// One write or read of either end. Tor's own are of this order.
const PIECE: usize = 64 * 1024;

/// A connection's thread needs one piece and little more: several hundred of them are open at once.
const STACK: usize = 4 * PIECE;

/// Which way the bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the ORPort.
    Up,
    /// From the ORPort to the client.
    Down,
}

/// Starts the far end; it lives as long as this process.
///
/// # Errors
/// No loopback port can be had.
pub fn start() -> Result<SocketAddr> {
    start_counting().map(|(address, _)| address)
}

/// The same, with a count of all the bytes that it has taken.
///
/// # Errors
/// As for [`start`].
pub fn start_counting() -> Result<(SocketAddr, Arc<AtomicU64>)> {
    let taken = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&taken);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no port on loopback")?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let counter = Arc::clone(&counter);
            // A failure shows at the near end, which waits for an answer.
            let _ = thread::Builder::new().stack_size(STACK).spawn(move || serve(stream, &counter));
        }
    });
    Ok((address, taken))
}

/// Moves `bytes` through a fresh connection `stream`, and returns when the last has arrived.
///
/// # Errors
/// The connection ends early, stands still for a minute, or delivers something else than was sent.
pub fn transfer(mut stream: TcpStream, direction: Direction, bytes: u64) -> Result<()> {
    match direction {
        Direction::Up => write(stream, bytes, PIECE),
        Direction::Down => {
            ask(&mut stream, b'd', bytes)?;
            take(&mut stream, bytes, |_| {})
        }
    }
}

/// Moves `bytes` up through a fresh connection `stream` by writes of `piece` bytes, a divisor of 65,536, and returns when the last has
/// arrived.
///
/// # Errors
/// As for [`transfer`].
pub fn write(mut stream: TcpStream, bytes: u64, piece: usize) -> Result<()> {
    ask(&mut stream, b'u', bytes)?;
    give(&mut stream, bytes, piece)?;
    let mut answer = [0];
    stream.read_exact(&mut answer).context("the far end did not confirm")?;
    ensure!(answer == *b"y", "the far end took other bytes than were sent");
    Ok(())
}

/// Takes `bytes` down a fresh connection `stream`, and counts them as they come.
///
/// # Errors
/// As for [`transfer`].
pub fn receive(mut stream: TcpStream, bytes: u64, counter: &AtomicU64) -> Result<()> {
    ask(&mut stream, b'd', bytes)?;
    take(&mut stream, bytes, |read| {
        counter.fetch_add(read, Ordering::Relaxed);
    })
}

/// Makes sure that a connection works end to end; it is idle from then on, for as long as the caller keeps it.
///
/// # Errors
/// The connection does not work.
pub fn hold(stream: &mut TcpStream) -> Result<()> {
    ask(stream, b'i', 0)?;
    let mut answer = [0];
    stream.read_exact(&mut answer).context("the far end did not answer")
}

fn ask(stream: &mut TcpStream, what: u8, bytes: u64) -> Result<()> {
    let mut request = vec![what];
    request.extend_from_slice(&bytes.to_be_bytes());
    Ok(stream.write_all(&request)?)
}

fn serve(mut stream: TcpStream, taken: &AtomicU64) -> Result<()> {
    let mut request = [0; 9];
    stream.read_exact(&mut request)?;
    let [what, bytes @ ..] = request;
    let bytes = u64::from_be_bytes(bytes);
    match what {
        b'u' => {
            let count = |read| {
                taken.fetch_add(read, Ordering::Relaxed);
            };
            let answer = if take(&mut stream, bytes, count).is_ok() { b"y" } else { b"n" };
            stream.write_all(answer)?;
        }
        b'd' => give(&mut stream, bytes, PIECE)?,
        b'i' => stream.write_all(b"y")?,
        _ => bail!("an unknown request"),
    }
    // The near end closes first, so that no reset can overtake what is still on its way.
    match stream.read(&mut [0]) {
        Err(error) if error.kind() != ErrorKind::ConnectionReset => Err(error.into()),
        _ => Ok(()),
    }
}

fn give(stream: &mut TcpStream, bytes: u64, piece: usize) -> Result<()> {
    ensure!(piece > 0 && PIECE.is_multiple_of(piece), "no such pieces");
    let pattern = pattern();
    let mut pieces = pattern.chunks(piece).cycle();
    let mut left = bytes;
    while left > 0 {
        let piece = pieces.next().unwrap_or_default();
        let now = usize::try_from(left.min(piece.len() as u64))?;
        stream.write_all(piece.get(..now).unwrap_or(piece)).context("the connection took no more")?;
        left -= now as u64;
    }
    Ok(())
}

/// Takes what [`give`] gives: figures of a transport that delivers wrong bytes would be worth nothing.
fn take(stream: &mut TcpStream, bytes: u64, mut tell: impl FnMut(u64)) -> Result<()> {
    let pattern = pattern();
    let mut buffer = vec![0; PIECE];
    let (mut left, mut at) = (bytes, 0);
    while left > 0 {
        let room = usize::try_from(left.min((PIECE - at) as u64))?;
        let read =
            stream.read(buffer.get_mut(..room).unwrap_or_default()).context("the connection gave no more")?;
        ensure!(read > 0, "the connection ended {left} bytes early");
        ensure!(buffer.get(..read) == pattern.get(at..at + read), "a wrong byte was delivered");
        left -= read as u64;
        tell(read as u64);
        at = (at + read) % PIECE;
    }
    Ok(())
}

/// A piece without short periods: a swapped or doubled record shows.
fn pattern() -> Vec<u8> {
    let mut state: u32 = 1;
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    std::iter::repeat_with(next).take(PIECE).collect()
}

#[cfg(test)]
mod tests {
    use super::{Direction, hold, start, take, transfer, write};
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn bytes_go_both_ways_and_connections_hold() {
        let far = start().unwrap();
        for bytes in [0, 1, 65_536, 200_001] {
            transfer(TcpStream::connect(far).unwrap(), Direction::Up, bytes).unwrap();
            transfer(TcpStream::connect(far).unwrap(), Direction::Down, bytes).unwrap();
        }
        for piece in [64, 4_096] {
            write(TcpStream::connect(far).unwrap(), 200_001, piece).unwrap();
        }
        assert!(write(TcpStream::connect(far).unwrap(), 1, 100).is_err());
        hold(&mut TcpStream::connect(far).unwrap()).unwrap();
    }

    #[test]
    fn a_wrong_or_missing_byte_is_noticed() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut far, _) = listener.accept().unwrap();
        near.write_all(&[0; 100]).unwrap();
        assert_eq!(take(&mut far, 100, |_| {}).unwrap_err().to_string(), "a wrong byte was delivered");
        drop(near);
        assert!(take(&mut far, 1, |_| {}).unwrap_err().to_string().contains("early"));
    }
}
