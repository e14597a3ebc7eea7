//! A stream whose reads are counted and held to rates.
//!
//! A read is paid for before the next one, so that nothing is ever cut up for the limiter's sake.

use std::{
    future::Future as _,
    io,
    num::NonZeroU32,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use governor::{
    DefaultDirectRateLimiter,
    clock::{Clock as _, DefaultClock},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

use super::limits::Place;

/// Passes writes on as they are, and reads as the place allows.
pub(super) struct Metered<'a, S> {
    inner: S,
    place: &'a Place,
    /// What is still to be paid to each limiter.
    debts: [Option<Debt>; 2],
    wait: Option<Pin<Box<Sleep>>>,
}

struct Debt {
    limiter: Arc<DefaultDirectRateLimiter>,
    owed: u32,
}

impl<'a, S> Metered<'a, S> {
    pub(super) fn new(inner: S, place: &'a Place) -> Self {
        let debts = place.limiters().map(|limiter| limiter.map(|limiter| Debt { limiter, owed: 0 }));
        Self { inner, place, debts, wait: None }
    }

    fn pay(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if let Some(wait) = &mut self.wait {
                ready!(wait.as_mut().poll(cx));
                self.wait = None;
            }
            let mut late = None;
            for debt in self.debts.iter_mut().flatten() {
                late = late.max(debt.pay());
            }
            match late {
                None => return Poll::Ready(()),
                Some(late) => self.wait = Some(Box::pin(sleep(late))),
            }
        }
    }
}

impl Debt {
    /// Pays, or says how long to wait.
    fn pay(&mut self) -> Option<std::time::Duration> {
        let owed = NonZeroU32::new(self.owed)?;
        match self.limiter.check_n(owed) {
            // More than the limiter ever holds cannot be paid: no read is as long as that.
            Ok(Ok(())) | Err(_) => {
                self.owed = 0;
                None
            }
            Ok(Err(not_yet)) => Some(not_yet.wait_time_from(DefaultClock::default().now())),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<'_, S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.pay(cx));
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
        let read = u32::try_from(buf.filled().len() - before).unwrap_or(u32::MAX);
        self.place.count(read);
        for debt in self.debts.iter_mut().flatten() {
            debt.owed = read;
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Metered<'_, S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::super::limits::{Clients, Limits};
    use super::*;

    /// How long `bytes` take through a meter at a rate of 100 kB/s, whichever limiter has it.
    async fn takes(bytes: usize, limits: Limits) -> (Duration, u64) {
        let clients = Clients::default();
        clients.set(limits);
        let Ok(place) = clients.enter("192.0.2.1".parse().unwrap()) else { panic!("no place") };
        let (mut near, far) = duplex(1 << 20);
        near.write_all(&vec![7; bytes]).await.unwrap();
        near.shutdown().await.unwrap();
        let begin = Instant::now();
        let mut got = Vec::new();
        Metered::new(far, &place).read_to_end(&mut got).await.unwrap();
        assert_eq!(got.len(), bytes);
        (begin.elapsed(), clients.bytes())
    }

    #[tokio::test]
    async fn bytes_are_counted_and_held_to_the_rate() {
        let rate = NonZeroU32::new(100_000);
        let (free, counted) = takes(180_000, Limits::default()).await;
        assert!(free < Duration::from_millis(400) && counted == 180_000, "{free:?}");
        for limits in [
            Limits { bandwidth: rate, ..Limits::default() },
            Limits { bandwidth_per_client: rate, ..Limits::default() },
        ] {
            // A second's worth at once, then 80 kB at 100 kB/s.
            let (held, _) = takes(180_000, limits).await;
            assert!((Duration::from_millis(500)..Duration::from_secs(3)).contains(&held), "{held:?}");
        }
    }
}
