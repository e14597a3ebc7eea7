//! One stream of a tunnel, as tokio sees it.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use qnet_proto::{
    Ended,
    mux::{Read, StreamError, StreamId, code},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::driver::{Inner, Progress, Shared};

/// A byte stream inside a tunnel. [`tokio::io::AsyncWriteExt::shutdown`] ends the sending half in order, and returns when all
/// that was written, and the end, has left the stream's queue for the connection. A drop cancels what is still open: what
/// was written before an unfinished shutdown may be lost.
///
/// Errors are [`io::Error`]s; where the tunnel itself ended, the source is an [`Ended`].
pub struct Stream {
    shared: Arc<Shared>,
    id: StreamId,
    /// A client's: the carrier closes with the last handle.
    dialled: bool,
    refused: bool,
}

impl Stream {
    /// The caller has counted the handle.
    pub(crate) fn new(shared: Arc<Shared>, id: StreamId, dialled: bool) -> Self {
        Self { shared, id, dialled, refused: false }
    }

    /// Drops a stream nobody takes while the lock is held.
    pub(crate) fn refuse(mut self, inner: &mut Inner) {
        self.refused = true;
        inner.uncount_handle();
        inner.release(self.id);
    }
}

impl Inner {
    fn release(&mut self, id: StreamId) {
        if let Some(mux) = self.core.streams() {
            if !mux.is_finished(id) {
                // Nobody is left to wait for a peer that grants no credit.
                mux.cancel(id, code::CANCELLED);
            }
            mux.release(id);
        }
        self.forget(id);
    }

    fn ended(&self) -> io::Error {
        let why = if let Progress::Over(why) = self.progress { why } else { Ended::Internal };
        let kind = match why {
            Ended::Reset | Ended::Tampered => io::ErrorKind::ConnectionReset,
            _ => io::ErrorKind::BrokenPipe,
        };
        io::Error::new(kind, why)
    }
}

fn stream_error(error: StreamError) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, error)
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.refused {
            return;
        }
        self.shared.lock().release(self.id);
        self.shared.drop_handle(self.dialled);
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.shared.lock();
        let over = matches!(inner.progress, Progress::Over(_));
        let Some(mux) = inner.core.streams() else { return Poll::Ready(Err(inner.ended())) };
        let read = mux.read(self.id, buf.initialize_unfilled());
        let owes = mux.wants_to_send();
        match read {
            Ok(Read::Data(n)) => {
                buf.advance(n);
                if owes {
                    inner.wake_driver();
                }
                Poll::Ready(Ok(()))
            }
            Ok(Read::End) => Poll::Ready(Ok(())),
            Ok(Read::Empty) if over => Poll::Ready(Err(inner.ended())),
            Ok(Read::Empty) => {
                inner.wait_readable(self.id, cx);
                Poll::Pending
            }
            Err(error) => Poll::Ready(Err(stream_error(error))),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let mut inner = self.shared.lock();
        if let Progress::Over(_) = inner.progress {
            return Poll::Ready(Err(inner.ended()));
        }
        let Some(mux) = inner.core.streams() else { return Poll::Ready(Err(inner.ended())) };
        match mux.write(self.id, data) {
            Ok(0) if !data.is_empty() => {
                inner.wait_writable(self.id, cx);
                Poll::Pending
            }
            Ok(n) => {
                inner.wake_driver();
                Poll::Ready(Ok(n))
            }
            Err(error) => Poll::Ready(Err(stream_error(error))),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.shared.lock();
        let over = matches!(inner.progress, Progress::Over(_));
        let Some(mux) = inner.core.streams() else { return Poll::Ready(Err(inner.ended())) };
        mux.finish(self.id);
        // Where the tunnel is over nothing leaves any more; what was received may still be read, and says so at its end.
        if mux.is_finished(self.id) || over {
            return Poll::Ready(Ok(()));
        }
        inner.wait_writable(self.id, cx);
        inner.wake_driver();
        Poll::Pending
    }
}
