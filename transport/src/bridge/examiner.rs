//! What looks after a bridge's decoy.

use std::{
    net::SocketAddr,
    sync::{Arc, PoisonError, RwLockWriteGuard},
    time::Duration,
};

use qnet_proto::bridge::{BridgeConfig as Core, DecoyFacts};
use tokio::task::JoinHandle;

use crate::{
    decoy::{self, Examined, Idle, Lifetime, Pace, Refusal, Resolver},
    tls::Roots,
};

/// What is taken for the decoy's idle limit before it is measured: less than any server's default.
const UNKNOWN_IDLE: Duration = Duration::from_secs(3);

/// Examines the site behind a bridge and tells the bridge's carriers what it measured.
#[derive(Clone)]
pub struct Examiner {
    pub(super) core: Arc<Core>,
    pub(super) decoy: SocketAddr,
    pub(super) resolver: Resolver,
}

impl Examiner {
    /// Asks `resolver` instead of the system's name servers for the names' HTTPS records.
    #[must_use]
    pub fn asking(self, resolver: Resolver) -> Self {
        Self { resolver, ..self }
    }

    /// Examines the decoy under each of the bridge's names, and tells the carriers what was measured. To be called before
    /// the bridge is announced; takes a second or two for each name.
    ///
    /// # Errors
    ///
    /// The site cannot be the decoy. Nothing is changed then, and it may be examined again.
    pub async fn examine(&self, roots: &Roots) -> Result<Examined, Refusal> {
        let examined = decoy::examine_all(self.decoy, &self.core.names, roots, &self.resolver).await?;
        let mut facts = self.facts();
        let DecoyFacts { idle_limit, lifetime, .. } = *facts;
        *facts = DecoyFacts { idle_limit, lifetime, ..DecoyFacts::from(&examined.facts) };
        drop(facts);
        Ok(examined)
    }

    /// Measures in the background how long the decoy keeps an idle connection, up to ten minutes, and tells the carriers. An
    /// error that the task gives with [`DecoyError::Unasked`](decoy::DecoyError::Unasked) means that the site should not be
    /// the decoy after all; others, that it could not be measured.
    pub fn measure_idle(&self, roots: &Roots) -> JoinHandle<Result<Idle, Refusal>> {
        let (examiner, roots) = (self.clone(), roots.clone());
        tokio::spawn(async move {
            let idle = decoy::measure_idle_all(examiner.decoy, &examiner.core.names, &roots).await?;
            examiner.facts().idle_limit = Some(idle.limit);
            Ok(idle)
        })
    }

    /// Measures in the background how long the decoy keeps a connection in use, and tells the carriers where it ends one; takes
    /// more than an hour for each name where it does not. To be called after [`Examiner::measure_idle`] is done.
    pub fn measure_lifetime(&self, roots: &Roots) -> JoinHandle<Result<Lifetime, Refusal>> {
        let (examiner, roots) = (self.clone(), roots.clone());
        tokio::spawn(async move {
            let facts = examiner.facts().clone();
            let pace = Pace { idle: facts.idle_limit.unwrap_or(UNKNOWN_IDLE), requests: facts.max_requests };
            let all = decoy::measure_lifetime_all(examiner.decoy, &examiner.core.names, &roots, pace);
            let lifetime = all.await?;
            examiner.facts().lifetime = lifetime.ended.then_some(lifetime.lasted);
            Ok(lifetime)
        })
    }

    pub(super) fn facts(&self) -> RwLockWriteGuard<'_, DecoyFacts> {
        self.core.facts.write().unwrap_or_else(PoisonError::into_inner)
    }
}
