//! Session tickets (RFC 8446, section 4.6.1): the connection that a page came over gives one to its websocket's.
#![forbid(unsafe_code)]

use std::sync::{Mutex, OnceLock, PoisonError};

use boring::error::ErrorStack;
use boring::ex_data::Index;
use boring::ssl::{Ssl, SslContext, SslRef, SslSession};

/// A session that a later connection to the same server may resume, once.
pub struct Ticket {
    pub(super) session: SslSession,
    pub(super) context: SslContext,
}

impl std::fmt::Debug for Ticket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Ticket([redacted])")
    }
}

/// Tickets kept of a connection: as many as Chrome keeps of a site, and as servers give at once.
const MAX_KEPT: usize = 2;

/// The newest is the last.
type Slot = Mutex<Vec<SslSession>>;

fn index() -> Result<Index<Ssl, Slot>, ErrorStack> {
    // BoringSSL never gives an index back, so one serves the whole process.
    static INDEX: OnceLock<Index<Ssl, Slot>> = OnceLock::new();
    if let Some(index) = INDEX.get() {
        return Ok(*index);
    }
    let new = Ssl::new_ex_index()?;
    Ok(*INDEX.get_or_init(|| new))
}

/// Hangs an empty place for tickets on `ssl`; without one, tickets are dropped.
pub(super) fn attach(ssl: &mut Ssl) -> Result<(), ErrorStack> {
    ssl.set_ex_data(index()?, Slot::default());
    Ok(())
}

/// The ticket of those that are left that came last over `ssl`, which is the one that Chrome uses first.
pub(super) fn take(ssl: &SslRef) -> Option<Ticket> {
    let slot = index().ok().and_then(|index| ssl.ex_data(index))?;
    let session = slot.lock().unwrap_or_else(PoisonError::into_inner).pop()?;
    Some(Ticket { session, context: ssl.ssl_context().to_owned() })
}

/// BoringSSL's callback for each ticket.
pub(super) fn collect(ssl: &mut SslRef, session: SslSession) {
    if let Some(slot) = index().ok().and_then(|index| ssl.ex_data(index)) {
        let mut kept = slot.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() == MAX_KEPT {
            kept.remove(0);
        }
        kept.push(session);
    }
}
