//! One stream of a tunnel, as tokio sees it.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use qnet_proto::mux::{Read, StreamError, StreamId};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::session::{Shared, ended};

/// A byte stream inside a session. [`tokio::io::AsyncWriteExt::shutdown`] ends the sending half in order, and returns when all
/// that was written, and the end, has left the stream's queue for a connection; what a lost connection took with it is
/// sent again. A drop cancels what is still open: what was written before an unfinished shutdown may be lost.
///
/// Errors are [`io::Error`]s; where the session itself ended, the source is an [`Ended`](qnet_proto::Ended).
pub struct Stream {
    shared: Arc<Shared>,
    id: StreamId,
    /// A client's: the session ends with the last handle.
    dialled: bool,
}

impl Stream {
    /// The caller has counted the handle.
    pub(crate) fn new(shared: Arc<Shared>, id: StreamId, dialled: bool) -> Self {
        Self { shared, id, dialled }
    }
}

fn stream_error(error: StreamError) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, error)
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.shared.release(self.id);
        self.shared.drop_handle(self.dialled);
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut session = self.shared.session();
        let over = session.ended();
        let mux = session.streams();
        let read = mux.read(self.id, buf.initialize_unfilled());
        let owes = mux.wants_to_send();
        match read {
            Ok(Read::Data(n)) => {
                buf.advance(n);
                drop(session);
                if owes {
                    self.shared.wake_drivers();
                }
                Poll::Ready(Ok(()))
            }
            Ok(Read::End) => Poll::Ready(Ok(())),
            Ok(Read::Empty) => match over {
                Some(why) => Poll::Ready(Err(ended(why))),
                None => {
                    self.shared.wait_readable(self.id, cx);
                    Poll::Pending
                }
            },
            Err(error) => Poll::Ready(Err(stream_error(error))),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let mut session = self.shared.session();
        if let Some(why) = session.ended() {
            return Poll::Ready(Err(ended(why)));
        }
        match session.streams().write(self.id, data) {
            Ok(0) if !data.is_empty() => {
                self.shared.wait_writable(self.id, cx);
                Poll::Pending
            }
            Ok(n) => {
                drop(session);
                self.shared.wake_drivers();
                Poll::Ready(Ok(n))
            }
            Err(error) => Poll::Ready(Err(stream_error(error))),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut session = self.shared.session();
        let over = session.ended().is_some();
        let mux = session.streams();
        mux.finish(self.id);
        // Where the session is over nothing leaves any more; what was received may still be read, and says so at its end.
        if mux.is_finished(self.id) || over {
            return Poll::Ready(Ok(()));
        }
        self.shared.wait_writable(self.id, cx);
        drop(session);
        self.shared.wake_drivers();
        Poll::Pending
    }
}
