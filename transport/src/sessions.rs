//! The sessions of a bridge, and who uses them.

use std::{
    collections::HashMap,
    os::unix::net::UnixStream,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use qnet_proto::session::{SessionId, SharedSession, SharedSessions, lock, lock_sessions};
use tokio::sync::mpsc;

use crate::{driver::now, elsewhere::Others, session::Shared};

/// The sessions of one bridge. Clones are the same sessions, for several listeners under one key: other addresses, other covers.
#[derive(Clone, Default)]
pub struct Sessions {
    pub(crate) known: SharedSessions,
    /// What users share of each, for its next carrier to find.
    users: Arc<Mutex<Users>>,
    /// The processes that have others.
    pub(crate) others: Others,
}

type Users = HashMap<SessionId, Weak<Shared>>;

impl Sessions {
    pub(crate) fn users(&self) -> MutexGuard<'_, Users> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From here on sessions that are not known here are asked for at another process of this bridge, older than this one and than
    /// those named before. What is returned gives connections to it, on which sessions' bytes are not encrypted: they are to be handed
    /// to [`Holding::serve`](crate::bridge::Holding::serve) there. When it is dropped, that process is asked no more.
    #[must_use]
    pub fn look_elsewhere(&self) -> mpsc::Receiver<UnixStream> {
        let links = self.others.add();
        lock_sessions(&self.known).set_elsewhere(true);
        links
    }

    /// Ends those that were without a carrier for too long.
    pub(crate) fn expire(&self) {
        let elsewhere = self.others.any();
        lock_sessions(&self.known).set_elsewhere(elsewhere);
        let ended = lock_sessions(&self.known).expire(now());
        self.tell(ended);
    }

    /// Ends at once the sessions of the clients for whose static key `whose` says so. How many.
    pub(crate) fn cut(&self, whose: impl Fn(&[u8; 32]) -> bool) -> usize {
        let ended = lock_sessions(&self.known).cut(whose);
        let count = ended.len();
        self.tell(ended);
        count
    }

    /// Wakes the users and carriers of sessions that have ended.
    fn tell(&self, ended: Vec<SessionId>) {
        for id in ended {
            let shared = self.users().remove(&id).and_then(|shared| shared.upgrade());
            if let Some(shared) = shared {
                shared.wake_all();
            }
        }
    }

    /// Finds what users share of `session`, or enters it: `own` where that is it.
    pub(crate) fn find(&self, session: &SharedSession, own: Option<Arc<Shared>>) -> Arc<Shared> {
        let fits = |shared: &Arc<Shared>| Arc::ptr_eq(shared.handle(), session);
        let own = own.filter(fits);
        let Some(id) = lock(session).id() else {
            return own.unwrap_or_else(|| Shared::new(Arc::clone(session)));
        };
        // Dropped after the lock, which its end takes where nobody else holds it.
        let known;
        let mut users = self.users();
        known = users.get(&id).and_then(Weak::upgrade);
        if let Some(known) = known.as_ref().filter(|shared| fits(shared)) {
            return Arc::clone(known);
        }
        let shared = own.unwrap_or_else(|| Shared::new(Arc::clone(session)));
        users.insert(id, Arc::downgrade(&shared));
        let list = Arc::downgrade(&self.users);
        shared.at_end(move || forget(&list, id));
        shared
    }
}

/// Takes a session that nobody holds any more from the list: even an entry alone would keep its page of memory.
fn forget(users: &Weak<Mutex<Users>>, id: SessionId) {
    let Some(users) = users.upgrade() else { return };
    let mut users = users.lock().unwrap_or_else(PoisonError::into_inner);
    if users.get(&id).is_some_and(|shared| shared.strong_count() == 0) {
        users.remove(&id);
    }
}
