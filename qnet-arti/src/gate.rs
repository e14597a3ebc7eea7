//! Holds Arti's directory manager back until the transport is in its place.
//!
//! Arti makes its channel manager only when it bootstraps, and begins to fetch the directory in the same step. Between the two
//! stands this: the usual directory manager, whose bootstrap waits.

use std::sync::Arc;
use std::time::SystemTime;

use arti_client::{DirProviderBuilder, ErrorDetail};
use async_trait::async_trait;
use futures::stream::BoxStream;
use tokio::sync::{Notify, Semaphore};
use tor_circmgr::CircMgr;
use tor_config::{Reconfigure, ReconfigureError};
use tor_dirmgr::{DirBootstrapStatus, DirMgr, DirMgrConfig, DirMgrStore, DirProvider};
use tor_netdir::params::NetParameters;
use tor_netdir::{DirEvent, NetDir, NetDirProvider, Timeliness};
use tor_netdoc::doc::netstatus::ProtoStatuses;
use tor_rtcompat::Runtime;
use tor_rtcompat::scheduler::TaskHandle;

/// Closed until opened. Clones are handles of the same.
#[derive(Clone, Default)]
pub(crate) struct Gate(Arc<State>);

struct State {
    reached: Notify,
    /// Without permits while closed.
    opened: Semaphore,
}

impl Default for State {
    fn default() -> Self {
        Self { reached: Notify::new(), opened: Semaphore::new(0) }
    }
}

impl Gate {
    /// Waits until the bootstrap waits.
    pub(crate) async fn reached(&self) {
        self.0.reached.notified().await;
    }

    /// Lets it and all later ones pass.
    pub(crate) fn open(&self) {
        self.0.opened.add_permits(1);
    }

    async fn pass(&self) {
        self.0.reached.notify_one();
        // It is never closed, and a permit is given back.
        drop(self.0.opened.acquire().await);
    }
}

impl<R: Runtime> DirProviderBuilder<R> for Gate {
    fn build(
        &self,
        runtime: R,
        store: DirMgrStore<R>,
        circuits: Arc<CircMgr<R>>,
        config: DirMgrConfig,
    ) -> arti_client::Result<Arc<dyn DirProvider + 'static>> {
        let directory = DirMgr::create_unbootstrapped(config, runtime, store, circuits)
            .map_err(ErrorDetail::DirMgrSetup)?;
        Ok(Arc::new(Gated { gate: self.clone(), directory: Arc::new(directory) }))
    }
}

/// Arti's own directory manager behind the gate.
struct Gated {
    gate: Gate,
    directory: Arc<dyn DirProvider>,
}

#[async_trait]
impl DirProvider for Gated {
    fn reconfigure(&self, config: &DirMgrConfig, how: Reconfigure) -> Result<(), ReconfigureError> {
        self.directory.reconfigure(config, how)
    }

    async fn bootstrap(&self) -> tor_dirmgr::Result<()> {
        self.gate.pass().await;
        self.directory.bootstrap().await
    }

    fn bootstrap_events(&self) -> BoxStream<'static, DirBootstrapStatus> {
        self.directory.bootstrap_events()
    }

    fn download_task_handle(&self) -> Option<TaskHandle> {
        self.directory.download_task_handle()
    }
}

impl NetDirProvider for Gated {
    fn netdir(&self, timeliness: Timeliness) -> tor_netdir::Result<Arc<NetDir>> {
        self.directory.netdir(timeliness)
    }

    fn events(&self) -> BoxStream<'static, DirEvent> {
        self.directory.events()
    }

    fn params(&self) -> Arc<dyn AsRef<NetParameters>> {
        self.directory.params()
    }

    fn protocol_statuses(&self) -> Option<(SystemTime, Arc<ProtoStatuses>)> {
        self.directory.protocol_statuses()
    }
}
