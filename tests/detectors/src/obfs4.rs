//! obfs4proxy by itself: its server, which is spoken to as a censor would, and what its client says.

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use anyhow::{Context, Result};
use qnet_bench::plugin::{self, Method, Plugin};
use qnet_bench::socks;
use qnet_tests::support::link::{Link, Trace};
use tempfile::TempDir;

/// A running server, whose clients reach nobody. Ends when dropped.
pub(crate) struct Server {
    kind: plugin::Kind,
    running: Option<Plugin>,
    method: Method,
    target: TcpListener,
    state: TempDir,
}

impl Server {
    /// Starts it with a key of its own.
    ///
    /// # Errors
    /// It does not start.
    pub(crate) fn start() -> Result<Self> {
        let (kind, state, target) =
            (plugin::Kind::obfs4()?, TempDir::new()?, TcpListener::bind("127.0.0.1:0")?);
        let folder = state.path().join("server");
        let (running, method) = Plugin::server(&kind, &folder, target.local_addr()?)?;
        Ok(Self { kind, running: Some(running), method, target, state })
    }

    /// Ends it and starts it with the same key at the same address: what it remembered of its clients is gone.
    ///
    /// # Errors
    /// It does not start.
    pub(crate) fn restart(&mut self) -> Result<()> {
        self.running = None;
        let (folder, target) = (self.state.path().join("server"), self.target.local_addr()?);
        let (running, method) = Plugin::server_at(&self.kind, &folder, target, self.method.address)?;
        (self.running, self.method) = (Some(running), method);
        Ok(())
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.method.address
    }

    /// So many connections of its own client, up to the end of their handshakes.
    ///
    /// # Errors
    /// The client does not start, or is not taken.
    pub(crate) fn visits(&self, count: usize) -> Result<Vec<Trace>> {
        let (_client, entry) = Plugin::client(&self.kind, &self.state.path().join("client"))?;
        let visit = |_| {
            let link = Link::start(self.address(), Duration::ZERO)?;
            let bridge = Method { address: link.address(), args: self.method.args.clone() };
            let _tunnel = socks::connect(entry, &bridge)?;
            link.traces().pop().context("the client did not connect")
        };
        (0..count).map(visit).collect()
    }
}
