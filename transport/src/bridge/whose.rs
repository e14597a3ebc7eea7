//! Whose the connections to the decoy are.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::net::TcpStream;

/// Whose the connections are that a bridge has made to its decoy: for a decoy that is this very program, which sees all of them come
/// from the bridge. One entry for each connection that is there.
#[derive(Clone, Default)]
pub struct Whose(Arc<Mutex<HashMap<SocketAddr, SocketAddr>>>);

impl Whose {
    /// The client or visitor whose connection comes to the decoy from this address.
    #[must_use]
    pub fn is(&self, connection: SocketAddr) -> Option<SocketAddr> {
        self.entries().get(&connection).copied()
    }

    /// Remembers whose the connection `decoy` is until what is returned is dropped.
    pub(super) fn enter(&self, decoy: &TcpStream, client: SocketAddr) -> Option<Entry> {
        let connection = decoy.local_addr().ok()?;
        self.entries().insert(connection, client);
        Some(Entry { all: self.clone(), connection })
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<SocketAddr, SocketAddr>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection that is known.
pub(super) struct Entry {
    all: Whose,
    connection: SocketAddr,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.all.entries().remove(&self.connection);
    }
}
