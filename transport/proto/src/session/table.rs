//! The sessions of a bridge, with a carrier and without.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::{SessionId, SharedSession, lock};
use crate::Ended;
use crate::frame::SESSION_ID_LEN;
use crate::shape::Counters;

/// How long a session with open streams is kept without a carrier: tor's circuits, an idle mail connection.
const DETACHED: Duration = Duration::from_secs(30 * 60);
/// How long one without is kept: its client may be about to open one.
const DETACHED_EMPTY: Duration = Duration::from_secs(2 * 60);
/// Sessions without a carrier that are kept at once, at 10 KiB or so each.
const MAX_DETACHED: usize = 16_384;
/// Bytes that sessions without a carrier hold in all.
const MAX_DETACHED_BYTES: usize = 64 << 20;

/// The sessions of a bridge, shared by all its covers and addresses.
pub type SharedSessions = Arc<Mutex<Sessions>>;

/// Locks the table. A poisoned lock is taken all the same: no call leaves it half changed. A session may be locked while the
/// table is, never the other way round.
pub fn lock_sessions(sessions: &SharedSessions) -> MutexGuard<'_, Sessions> {
    sessions.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The sessions a bridge knows.
#[derive(Debug, Default)]
pub struct Sessions {
    known: HashMap<[u8; SESSION_ID_LEN], SharedSession>,
    elsewhere: bool,
    /// What the shapers of those that are not known any more did.
    shaped: Counters,
}

impl Sessions {
    /// None.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The session of this id.
    #[must_use]
    pub fn get(&self, id: &[u8; SESSION_ID_LEN]) -> Option<SharedSession> {
        self.known.get(id).cloned()
    }

    /// Whether another process of this bridge may have sessions that are not known here.
    pub fn set_elsewhere(&mut self, elsewhere: bool) {
        self.elsewhere = elsewhere;
    }

    /// Whether one may.
    #[must_use]
    pub fn elsewhere(&self) -> bool {
        self.elsewhere
    }

    /// Enters a session that was established.
    pub fn insert(&mut self, session: &SharedSession) {
        if let Some(id) = lock(session).id() {
            self.known.insert(id.0, Arc::clone(session));
        }
    }

    /// Forgets a session that is over.
    pub fn remove(&mut self, id: SessionId) {
        self.forget(&id.0);
    }

    fn forget(&mut self, id: &[u8; SESSION_ID_LEN]) {
        if let Some(session) = self.known.remove(id) {
            self.shaped.add(&lock(&session).shaping());
        }
    }

    /// What the shapers of all sessions' carriers did on this side, of those that are over as well.
    #[must_use]
    pub fn shaping(&self) -> Counters {
        let mut all = self.shaped;
        for session in self.known.values() {
            all.add(&lock(session).shaping());
        }
        all
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// Ends the sessions that were without a carrier for too long or are too many, forgets all that are over, and returns
    /// which.
    pub fn expire(&mut self, now: Instant) -> Vec<SessionId> {
        let mut gone = Vec::new();
        // Without a carrier: since when, what they hold, which.
        let mut detached = Vec::new();
        for (id, session) in &self.known {
            let mut session = lock(session);
            if session.ended().is_some() {
                gone.push(*id);
            } else if let Some(since) = session.is_detached() {
                let limit = if session.streams().open_streams() > 0 { DETACHED } else { DETACHED_EMPTY };
                if now.saturating_duration_since(since) >= limit {
                    session.fail(Ended::Unreachable);
                    gone.push(*id);
                } else {
                    detached.push((since, session.held(), *id));
                }
            }
        }
        self.shed(detached, &mut gone);
        for id in &gone {
            self.forget(id);
        }
        gone.into_iter().map(SessionId).collect()
    }

    /// Ends at once, and forgets, the sessions of the clients for whose static key `whose` says so, and returns which.
    pub fn cut(&mut self, whose: impl Fn(&[u8; 32]) -> bool) -> Vec<SessionId> {
        let mut gone = Vec::new();
        for (id, session) in &self.known {
            let mut session = lock(session);
            if session.client().is_some_and(|client| whose(&client)) {
                session.cut();
                gone.push(SessionId(*id));
            }
        }
        for id in &gone {
            self.forget(&id.0);
        }
        gone
    }

    /// Ends those longest without a carrier until the rest is within bounds.
    fn shed(
        &self,
        mut detached: Vec<(Instant, usize, [u8; SESSION_ID_LEN])>,
        gone: &mut Vec<[u8; SESSION_ID_LEN]>,
    ) {
        detached.sort_unstable();
        let mut bytes: usize = detached.iter().map(|(_, held, _)| held).sum();
        let mut count = detached.len();
        for (_, held, id) in detached {
            if count <= MAX_DETACHED && bytes <= MAX_DETACHED_BYTES {
                return;
            }
            if let Some(session) = self.known.get(&id) {
                lock(session).fail(Ended::Unreachable);
            }
            gone.push(id);
            (count, bytes) = (count - 1, bytes - held);
        }
    }
}
