//! Copies both ways between two streams, each direction ending by itself.
//!
//! An idle connection holds no buffer: reads go into one buffer a thread, and only what the other side does not take
//! at once is kept, until it does.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Most bytes read at once, and so most kept for a slow reader: the send queue of one tunnel stream.
const CHUNK: usize = 64 * 1024;

thread_local! {
    /// Empty between polls: nothing stays in it, and no poll of a stream comes back here.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; CHUNK].into_boxed_slice());
}

/// Copies until both directions have ended or one fails.
///
/// # Errors
/// The first failure of either stream; what is under way in the other direction is given up.
pub async fn relay<A, B>(a: &mut A, b: &mut B) -> io::Result<()>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let (mut up, mut down) = (Direction::default(), Direction::default());
    poll_fn(|cx| {
        let up = up.poll(cx, a, b)?;
        let down = down.poll(cx, b, a)?;
        crate::memory::used();
        if up.is_ready() && down.is_ready() { Poll::Ready(Ok(())) } else { Poll::Pending }
    })
    .await
}

/// One direction.
#[derive(Default)]
struct Direction {
    /// What the writer did not take, from `written` on.
    left: Vec<u8>,
    written: usize,
    /// Bytes were written since the last flush.
    unflushed: bool,
    state: State,
}

#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    Copying,
    Ending,
    Ended,
}

impl Direction {
    fn poll<R, W>(&mut self, cx: &mut Context<'_>, reader: &mut R, writer: &mut W) -> Poll<io::Result<()>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        loop {
            ready!(self.write_left(cx, writer))?;
            match self.state {
                State::Copying => match self.read_and_write(cx, reader, writer) {
                    Poll::Ready(end) => {
                        if end? {
                            self.state = State::Ending;
                        }
                    }
                    Poll::Pending => return self.idle(cx, writer),
                },
                State::Ending => {
                    ready!(Pin::new(&mut *writer).poll_shutdown(cx))?;
                    self.state = State::Ended;
                }
                State::Ended => return Poll::Ready(Ok(())),
            }
        }
    }

    /// Nothing to read: gives the memory back, and pushes on what a writer may hold.
    fn idle<W: AsyncWrite + Unpin>(&mut self, cx: &mut Context<'_>, writer: &mut W) -> Poll<io::Result<()>> {
        if self.left.is_empty() {
            self.left = Vec::new();
        }
        if self.unflushed {
            ready!(Pin::new(writer).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Pending
    }

    fn write_left<W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        writer: &mut W,
    ) -> Poll<io::Result<()>> {
        while let Some(rest) = self.left.get(self.written..).filter(|rest| !rest.is_empty()) {
            let count = ready!(Pin::new(&mut *writer).poll_write(cx, rest))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += count;
            self.unflushed = true;
        }
        self.left.clear();
        self.written = 0;
        Poll::Ready(Ok(()))
    }

    /// Reads once and writes what the writer takes; `true` at the reader's end.
    fn read_and_write<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut R,
        writer: &mut W,
    ) -> Poll<io::Result<bool>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        SCRATCH.with_borrow_mut(|scratch| {
            let mut buffer = ReadBuf::new(scratch);
            ready!(Pin::new(reader).poll_read(cx, &mut buffer))?;
            let mut data: &[u8] = buffer.filled();
            if data.is_empty() {
                return Poll::Ready(Ok(true));
            }
            while !data.is_empty() {
                match Pin::new(&mut *writer).poll_write(cx, data) {
                    Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    Poll::Ready(Ok(count)) => {
                        data = data.get(count..).unwrap_or_default();
                        self.unflushed = true;
                    }
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => {
                        self.left.extend_from_slice(data);
                        break;
                    }
                }
            }
            Poll::Ready(Ok(false))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    /// A user and a server joined by a relay over pipes of the given capacity.
    fn joined(
        capacity: usize,
    ) -> (tokio::io::DuplexStream, tokio::io::DuplexStream, tokio::task::JoinHandle<io::Result<()>>) {
        let (user, mut near) = duplex(capacity);
        let (server, mut far) = duplex(capacity);
        let task = tokio::spawn(async move { relay(&mut near, &mut far).await });
        (user, server, task)
    }

    #[tokio::test]
    async fn every_byte_both_ways_over_narrow_pipes() {
        for capacity in [1, 7, 1_000, 1 << 20] {
            let (mut user, mut server, task) = joined(capacity);
            let data: Vec<u8> = (0..200_000u32).map(|i| (i % 251) as u8).collect();
            let sent = data.clone();
            let echo = tokio::spawn(async move {
                let mut got = Vec::new();
                server.read_to_end(&mut got).await.unwrap();
                server.write_all(&got).await.unwrap();
            });
            user.write_all(&sent).await.unwrap();
            user.shutdown().await.unwrap();
            let mut back = Vec::new();
            user.read_to_end(&mut back).await.unwrap();
            assert!(back == data, "capacity {capacity}");
            echo.await.unwrap();
            task.await.unwrap().unwrap();
        }
    }

    #[tokio::test]
    async fn one_direction_ends_and_the_other_goes_on() {
        let (mut user, mut server, task) = joined(64);
        server.write_all(b"last words").await.unwrap();
        server.shutdown().await.unwrap();
        let mut got = Vec::new();
        user.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, b"last words");
        user.write_all(b"still here").await.unwrap();
        let mut buffer = [0; 10];
        server.read_exact(&mut buffer).await.unwrap();
        assert_eq!(&buffer, b"still here");
        drop(user);
        task.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_failure_ends_both() {
        let (user, mut server, task) = joined(64);
        drop(user);
        // The pipe to the user is gone: what the server sends has nowhere to go.
        let _ = server.write_all(&[0; 1_000]).await;
        assert!(task.await.unwrap().is_err());
    }
}
