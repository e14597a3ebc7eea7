//! Two programs between a near end and the far end: what every transport is to the load.

use std::any::Any;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;

use anyhow::Result;
use tempfile::TempDir;

use crate::plugin::{Kind, Method, Plugin};
use crate::{socks, usage};

/// What can be measured.
pub trait Contender {
    /// What the table calls it.
    fn name(&self) -> &'static str;

    /// Starts a client and a bridge whose traffic ends at `far`.
    ///
    /// # Errors
    /// A program is missing, does not start, or does not listen in time.
    fn start(&self, far: SocketAddr) -> Result<Pair>;
}

/// Where the load goes in.
pub enum Entrance {
    /// A port that leads to the far end.
    Port(SocketAddr),
    /// A plugin's SOCKS port, and the bridge to name there.
    Socks(SocketAddr, Method),
}

/// A running client and bridge; both end when this is dropped.
pub struct Pair {
    client: u32,
    bridge: u32,
    entrance: Entrance,
    // Before the folders that they use.
    _programs: Box<dyn Any + Sync>,
    _state: TempDir,
}

impl Pair {
    /// Of two processes, by their numbers; `programs` ends them.
    #[must_use]
    pub fn new(
        [client, bridge]: [u32; 2],
        entrance: Entrance,
        programs: impl Any + Sync,
        state: TempDir,
    ) -> Self {
        Self { client, bridge, entrance, _programs: Box::new(programs), _state: state }
    }

    /// A connection towards the far end.
    ///
    /// # Errors
    /// The client is not there, or refuses.
    pub fn connect(&self) -> Result<TcpStream> {
        match &self.entrance {
            Entrance::Port(address) => socks::patient(TcpStream::connect(address)?),
            Entrance::Socks(plugin, method) => socks::connect(*plugin, method),
        }
    }

    /// What client and bridge have used so far, in seconds.
    ///
    /// # Errors
    /// One of them is gone.
    pub fn cpu(&self) -> Result<[f64; 2]> {
        Ok([usage::cpu(self.client)?.as_secs_f64(), usage::cpu(self.bridge)?.as_secs_f64()])
    }

    /// What client and bridge have in memory, in bytes.
    ///
    /// # Errors
    /// One of them is gone.
    pub fn resident(&self) -> Result<[u64; 2]> {
        Ok([usage::resident(self.client)?, usage::resident(self.bridge)?])
    }
}

impl Contender for Kind {
    fn name(&self) -> &'static str {
        self.name
    }

    fn start(&self, far: SocketAddr) -> Result<Pair> {
        let state = tempfile::tempdir()?;
        let folder = |name: &str| -> Result<PathBuf> {
            let folder = state.path().join(name);
            std::fs::create_dir(&folder)?;
            Ok(folder)
        };
        let (bridge, mut method) = Plugin::server(self, &folder("bridge")?, far)?;
        method.args.extend(self.client_args.iter().cloned());
        let (client, socks) = Plugin::client(self, &folder("client")?)?;
        let pids = [client.pid(), bridge.pid()];
        Ok(Pair::new(pids, Entrance::Socks(socks, method), (client, bridge), state))
    }
}
