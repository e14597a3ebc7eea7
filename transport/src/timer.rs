//! When a carrier is to be woken.
#![forbid(unsafe_code)]

use std::{
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use tokio::{task::JoinHandle, time::Sleep};

use crate::driver::now;

/// A pause that is shorter, and exact, is slept through by a thread. tokio's timer counts whole milliseconds and rounds up, so that
/// a browser's pause of one millisecond would become one of two to three: who watches sees that it is never shorter.
const SHORT: Duration = Duration::from_millis(8);

/// One carrier's timer.
#[derive(Default)]
pub(crate) struct Timer {
    sleep: Option<Pin<Box<Sleep>>>,
    /// Until when a thread sleeps.
    nap: Option<(Instant, JoinHandle<()>)>,
}

impl Timer {
    /// Ready once `deadline` has passed.
    pub(crate) fn poll(&mut self, deadline: Instant, exact: bool, cx: &mut Context<'_>) -> Poll<()> {
        if exact && self.poll_nap(deadline, cx).is_pending() {
            return Poll::Pending;
        }
        let at = tokio::time::Instant::from_std(deadline);
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
        if sleep.deadline() != at {
            sleep.as_mut().reset(at);
        }
        if deadline <= now() { Poll::Ready(()) } else { sleep.as_mut().poll(cx) }
    }

    /// Pending while a thread sleeps until then.
    fn poll_nap(&mut self, deadline: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let pause = deadline.saturating_duration_since(now());
        if self.nap.as_ref().is_none_or(|(until, _)| *until != deadline) {
            if pause.is_zero() || pause >= SHORT {
                return Poll::Ready(());
            }
            #[expect(clippy::disallowed_methods, reason = "a thread of its own")]
            let nap = tokio::task::spawn_blocking(move || std::thread::sleep(pause));
            self.nap = Some((deadline, nap));
        }
        let polled = self.nap.as_mut().map(|(_, nap)| Pin::new(nap).poll(cx));
        match polled {
            Some(Poll::Pending) => Poll::Pending,
            _ => {
                self.nap = None;
                Poll::Ready(())
            }
        }
    }

    /// Nothing is to be waited for.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}

/// What comes of `work`, if it does by an exact deadline.
pub(crate) async fn by<T>(deadline: Instant, work: impl Future<Output = T>) -> Option<T> {
    let (mut timer, mut work) = (Timer::default(), std::pin::pin!(work));
    poll_fn(|cx| match work.as_mut().poll(cx) {
        Poll::Ready(done) => Poll::Ready(Some(done)),
        Poll::Pending => timer.poll(deadline, true, cx).map(|()| None),
    })
    .await
}

#[cfg(test)]
mod tests {

    use super::*;

    /// The shortest of some pauses of a millisecond: a busy machine lengthens some.
    async fn shortest(exact: bool) -> Duration {
        let mut shortest = Duration::MAX;
        for _ in 0..50 {
            let (mut timer, begun) = (Timer::default(), now());
            poll_fn(|cx| timer.poll(begun + Duration::from_millis(1), exact, cx)).await;
            let took = now() - begun;
            assert!(took >= Duration::from_millis(1), "too soon: {took:?}");
            shortest = shortest.min(took);
        }
        shortest
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_browsers_pause_is_as_long_as_it_was_drawn() {
        let exact = shortest(true).await;
        assert!(exact < Duration::from_micros(1_700), "{exact:?}");
        assert!(shortest(false).await >= Duration::from_millis(1));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_deadline_that_moves_is_met() {
        let (mut timer, begun) = (Timer::default(), now());
        let at = |milliseconds| begun + Duration::from_millis(milliseconds);
        let mut looks = 0;
        poll_fn(|cx| {
            looks += 1;
            let (deadline, exact) = [(at(60_000), false), (at(5), true), (at(30), true)][looks.min(2)];
            let polled = timer.poll(deadline, exact, cx);
            if looks == 1 {
                cx.waker().wake_by_ref();
            }
            polled
        })
        .await;
        assert!(now() >= at(30) && looks >= 3, "{looks}");
        timer.clear();
        assert!(timer.sleep.is_none() && timer.nap.is_none());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn work_is_waited_for_until_then() {
        let begun = now();
        assert_eq!(by(begun + Duration::from_secs(60), async { 7 }).await, Some(7));
        assert_eq!(by(begun + Duration::from_millis(2), std::future::pending::<()>()).await, None);
        assert!((2..60_000).contains(&(now() - begun).as_millis()));
    }

    /// Where time stands still until nothing else is to be done, a thread's sleep moves it by nothing.
    #[tokio::test(start_paused = true)]
    async fn a_clock_that_is_paused_goes_on_as_well() {
        let (mut timer, begun) = (Timer::default(), now());
        poll_fn(|cx| timer.poll(begun + Duration::from_millis(3), true, cx)).await;
        assert!(now() >= begun + Duration::from_millis(3));
    }
}
