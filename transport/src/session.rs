//! What the carriers of one session and its users share.

use std::{
    collections::HashMap,
    future::poll_fn,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use qnet_proto::{
    Ended,
    mux::{StreamId, Wake, code},
    session::{Session, SharedSession, lock},
};

use crate::{driver::now, stream::Stream};

#[derive(Default)]
struct StreamWakers {
    read: Option<Waker>,
    write: Option<Waker>,
}

/// A session with all who wait for it: carriers' tasks, streams, whoever watches how it goes.
pub(crate) struct Shared {
    session: SharedSession,
    waiting: Mutex<Waiting>,
}

/// Taken after the session's lock where both are. Tasks may be woken under it: that only marks them.
#[derive(Default)]
struct Waiting {
    /// Session and stream handles of the user.
    handles: usize,
    /// The tasks of the session's carriers, with numbers to know them by.
    drivers: Vec<(u64, Waker)>,
    next_driver: u64,
    streams: HashMap<StreamId, StreamWakers>,
    watchers: Vec<Waker>,
    at_end: Option<Box<dyn FnOnce() + Send>>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        let waiting = self.waiting.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(end) = waiting.at_end.take() {
            end();
        }
    }
}

impl Shared {
    pub(crate) fn new(session: SharedSession) -> Arc<Self> {
        Arc::new(Self { session, waiting: Mutex::default() })
    }

    /// What is done when nobody holds this any more. It runs where the last holder lets go: no lock it takes may be held there.
    pub(crate) fn at_end(&self, end: impl FnOnce() + Send + 'static) {
        self.waiting().at_end = Some(Box::new(end));
    }

    pub(crate) fn handle(&self) -> &SharedSession {
        &self.session
    }

    pub(crate) fn session(&self) -> MutexGuard<'_, Session> {
        lock(&self.session)
    }

    /// A poisoned lock is taken all the same: nothing here is ever left half changed.
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `done` says so; asked again whenever a carrier's task has run.
    pub(crate) async fn until<T>(&self, mut done: impl FnMut(&mut Session) -> Option<T>) -> T {
        poll_fn(|cx| {
            // Enlisted first: news between the look and the wait is not missed.
            let mut waiting = self.waiting();
            if !waiting.watchers.iter().any(|waker| waker.will_wake(cx.waker())) {
                waiting.watchers.push(cx.waker().clone());
            }
            drop(waiting);
            done(&mut self.session()).map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }

    /// A number for a carrier's task.
    pub(crate) fn enter(&self) -> u64 {
        let mut waiting = self.waiting();
        waiting.next_driver += 1;
        waiting.next_driver
    }

    /// The carrier's task waits for what the session's users do.
    pub(crate) fn register(&self, driver: u64, waker: &Waker) {
        let mut waiting = self.waiting();
        match waiting.drivers.iter_mut().find(|(number, _)| *number == driver) {
            Some((_, known)) => known.clone_from(waker),
            None => waiting.drivers.push((driver, waker.clone())),
        }
    }

    /// The carrier's task is over, or goes on with another session.
    pub(crate) fn leave(&self, driver: u64) {
        self.waiting().drivers.retain(|(number, _)| *number != driver);
    }

    /// Whether a carrier's task is there.
    pub(crate) fn has_carrier(&self) -> bool {
        !self.waiting().drivers.is_empty()
    }

    /// Something is there for a carrier to send. Without a carrier that is news for who makes one.
    pub(crate) fn wake_drivers(&self) {
        let mut waiting = self.waiting();
        for (_, waker) in &waiting.drivers {
            waker.wake_by_ref();
        }
        if waiting.drivers.is_empty() {
            for waker in waiting.watchers.drain(..) {
                waker.wake();
            }
        }
    }

    /// Collects whom a carrier's work must wake, to be woken when no lock is held. When the session is over that is everybody:
    /// its streams have no news of their own then. `changed`: a carrier came or went.
    pub(crate) fn collect(&self, changed: bool, wakers: &mut Vec<Waker>) {
        let mut session = self.session();
        let over = session.ended().is_some();
        let news = changed || over || session.need(now()).is_some();
        let mut waiting = self.waiting();
        if over {
            for stream in waiting.streams.values_mut() {
                wakers.extend(stream.read.take());
                wakers.extend(stream.write.take());
            }
        }
        while let Some((id, wake)) = session.streams().take_wake() {
            if let Some(stream) = waiting.streams.get_mut(&id) {
                let slot = match wake {
                    Wake::Readable => &mut stream.read,
                    Wake::Writable => &mut stream.write,
                };
                wakers.extend(slot.take());
            }
        }
        if news {
            wakers.append(&mut waiting.watchers);
        }
        if changed || over {
            wakers.extend(waiting.drivers.iter().map(|(_, waker)| waker.clone()));
        }
    }

    /// Wakes everybody who waits for the session: it has ended without a carrier.
    pub(crate) fn wake_all(&self) {
        let mut wakers = Vec::new();
        self.collect(true, &mut wakers);
        for waker in wakers {
            waker.wake();
        }
    }

    pub(crate) fn wait_readable(&self, id: StreamId, cx: &Context<'_>) {
        self.waiting().streams.entry(id).or_default().read = Some(cx.waker().clone());
    }

    pub(crate) fn wait_writable(&self, id: StreamId, cx: &Context<'_>) {
        self.waiting().streams.entry(id).or_default().write = Some(cx.waker().clone());
    }

    pub(crate) fn add_handle(&self) {
        self.waiting().handles += 1;
    }

    /// The user dropped a handle; with the last one of a client's the session ends.
    pub(crate) fn drop_handle(&self, ends_with_last: bool) {
        let mut waiting = self.waiting();
        waiting.handles -= 1;
        let last = waiting.handles == 0;
        drop(waiting);
        if last && ends_with_last {
            self.session().finish();
            self.wake_all();
        } else {
            self.wake_drivers();
        }
    }

    /// Takes a stream back from its user.
    pub(crate) fn release(&self, id: StreamId) {
        let mut session = self.session();
        let mux = session.streams();
        if !mux.is_finished(id) {
            // Nobody is left to wait for a peer that grants no credit.
            mux.cancel(id, code::CANCELLED);
        }
        mux.release(id);
        drop(session);
        self.waiting().streams.remove(&id);
    }

    /// Streams that the peer opened and nobody has yet.
    pub(crate) fn accept(self: &Arc<Self>) -> Option<Stream> {
        let id = self.session().streams().accept()?;
        self.add_handle();
        Some(Stream::new(Arc::clone(self), id, false))
    }
}

/// The error of a stream whose session is over.
pub(crate) fn ended(why: Ended) -> io::Error {
    let kind = match why {
        Ended::Reset | Ended::Tampered | Ended::Forgotten => io::ErrorKind::ConnectionReset,
        _ => io::ErrorKind::BrokenPipe,
    };
    io::Error::new(kind, why)
}
