//! Copies both ways between two streams, each direction ending by itself.
//!
//! An idle connection holds no buffer: reads go into one buffer a thread, and only what the other side does not take
//! at once is kept, until it does.
//!
//! Once both readers' ends were seen, what is left is given a limited time: a far end that takes nothing more must not
//! hold memory and a connection for ever.

use std::cell::RefCell;
use std::future::{Future as _, poll_fn};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// Most bytes read at once, and so most kept for a slow reader: half the send queue of one tunnel stream.
const CHUNK: usize = 64 * 1024;

/// Fewest bytes read at once, however little the writer takes.
const LEAST: usize = 4 * 1024;

/// How long what is left may take once both readers' ends were seen: a stream's send queue each way, 128 KiB at a
/// kilobyte a second.
const LINGER: Duration = Duration::from_secs(128);

thread_local! {
    /// Empty between polls: nothing stays in it, and no poll of a stream comes back here.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; CHUNK].into_boxed_slice());
}

/// Copies until both directions have ended or one fails. `moved` hears of it whenever there was work: how many bytes the far
/// end took each way since the last time, `a`'s first.
///
/// # Errors
/// The first failure of either stream, or that the last bytes were not taken in time; what is under way in the other
/// direction is given up.
pub async fn relay<A, B>(a: &mut A, b: &mut B, mut moved: impl FnMut(u64, u64)) -> io::Result<()>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let (mut up, mut down) = (Direction::default(), Direction::default());
    let mut limit: Option<Pin<Box<Sleep>>> = None;
    poll_fn(|cx| {
        let (up_polled, down_polled) = (up.poll(cx, a, b), down.poll(cx, b, a));
        moved(std::mem::take(&mut up.moved), std::mem::take(&mut down.moved));
        let (up_done, down_done) = (up_polled?.is_ready(), down_polled?.is_ready());
        if up_done && down_done {
            return Poll::Ready(Ok(()));
        }
        if up.state == State::Copying || down.state == State::Copying {
            return Poll::Pending;
        }
        let limit = limit.get_or_insert_with(|| Box::pin(tokio::time::sleep(LINGER)));
        limit.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    })
    .await
}

/// One direction.
struct Direction {
    /// What the writer did not take, from `written` on.
    left: Vec<u8>,
    written: usize,
    /// Bytes to read at once: about what the writer took of late, so that little is read that it leaves.
    appetite: usize,
    /// Bytes that the writer took since this was last asked.
    moved: u64,
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

impl Default for Direction {
    fn default() -> Self {
        Self {
            left: Vec::new(),
            written: 0,
            appetite: CHUNK,
            moved: 0,
            unflushed: false,
            state: State::default(),
        }
    }
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
            self.moved += count as u64;
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
            let mut buffer = ReadBuf::new(&mut scratch[..self.appetite]);
            ready!(Pin::new(reader).poll_read(cx, &mut buffer))?;
            let mut data: &[u8] = buffer.filled();
            if data.is_empty() {
                return Poll::Ready(Ok(true));
            }
            let read = data.len();
            while !data.is_empty() {
                match Pin::new(&mut *writer).poll_write(cx, data) {
                    Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    Poll::Ready(Ok(count)) => {
                        data = data.get(count..).unwrap_or_default();
                        self.moved += count as u64;
                        self.unflushed = true;
                    }
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => {
                        self.left.extend_from_slice(data);
                        break;
                    }
                }
            }
            let taken = read - data.len();
            self.appetite = if taken == read { self.appetite * 2 } else { taken }.clamp(LEAST, CHUNK);
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
        let task = tokio::spawn(async move { relay(&mut near, &mut far, |_, _| {}).await });
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
    async fn every_byte_is_counted_once() {
        let (mut user, mut near) = duplex(7);
        let (mut server, mut far) = duplex(7);
        let task = tokio::spawn(async move {
            let mut counted = (0, 0);
            relay(&mut near, &mut far, |up, down| counted = (counted.0 + up, counted.1 + down))
                .await
                .unwrap();
            counted
        });
        let far_end = tokio::spawn(async move {
            let mut got = Vec::new();
            server.read_to_end(&mut got).await.unwrap();
            server.write_all(&got[..100]).await.unwrap();
        });
        user.write_all(&[1; 1_000]).await.unwrap();
        user.shutdown().await.unwrap();
        user.read_to_end(&mut Vec::new()).await.unwrap();
        far_end.await.unwrap();
        assert_eq!(task.await.unwrap(), (1_000, 100));
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

    /// A stream whose end nobody takes, as a tunnel's whose far side grants no credit.
    struct Stuck(tokio::io::DuplexStream);

    impl AsyncRead for Stuck {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_read(cx, buffer)
        }
    }

    impl AsyncWrite for Stuck {
        fn poll_write(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            data: &[u8],
        ) -> Poll<io::Result<usize>> {
            Pin::new(&mut self.0).poll_write(cx, data)
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_flush(cx)
        }

        fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_end_that_nobody_takes_is_given_up() {
        let (mut user, mut near) = duplex(64);
        let (mut server, far) = duplex(64);
        let mut far = Stuck(far);
        let task = tokio::spawn(async move { relay(&mut near, &mut far, |_, _| {}).await });
        user.shutdown().await.unwrap();
        tokio::time::sleep(10 * LINGER).await;
        assert!(!task.is_finished(), "one side may still speak, for as long as it likes");
        server.shutdown().await.unwrap();
        let begin = tokio::time::Instant::now();
        assert_eq!(task.await.unwrap().unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(begin.elapsed() >= LINGER && begin.elapsed() < 2 * LINGER);
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
