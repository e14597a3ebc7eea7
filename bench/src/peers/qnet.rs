//! QNet without tor: `qnet proxy` and `qnet-bridge run`, whose streams share one session.

use std::fs::DirBuilder;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use qnet_tests::support::decoy::Decoy;
use qnet_tests::support::process::{Running, free_address, tail, wait_for};

use super::{START_LIMIT, built, listening};
use crate::load;
use crate::pair::{Contender, Entrance, Pair};

/// Both programs, before a decoy that somebody else holds.
pub struct Qnet {
    proxy: PathBuf,
    bridge: PathBuf,
    decoy: SocketAddr,
    name: String,
    ca: PathBuf,
}

impl Qnet {
    /// What Cargo built, before `decoy`.
    ///
    /// # Errors
    /// It was not built.
    pub fn new(decoy: &Decoy) -> Result<Self> {
        Ok(Self::by([built("qnet")?, built("qnet-bridge")?], decoy))
    }

    /// The same by these programs, `qnet` and `qnet-bridge`.
    #[must_use]
    pub fn by([proxy, bridge]: [PathBuf; 2], decoy: &Decoy) -> Self {
        Self {
            proxy,
            bridge,
            decoy: decoy.address(),
            name: decoy.name().to_owned(),
            ca: decoy.certificates().ca.clone(),
        }
    }

    fn bridge(&self, folder: &Path, listen: SocketAddr) -> Command {
        let mut command = Command::new(&self.bridge);
        command.args(["run", "--listen", &listen.to_string(), "--decoy", &self.decoy.to_string()]);
        command.args(["--sni", &self.name, "--state"]).arg(folder);
        // The far end is on loopback.
        command.args(["--exit-policy", "accept *:*", "--allow-special", "true"]);
        // All clients are one, which is no one's usual case.
        command.args(["--stream-rate-per-client", "0", "--max-streams-per-client", "8192"]);
        command.env("SSL_CERT_FILE", &self.ca);
        command
    }
}

impl Contender for Qnet {
    fn name(&self) -> &'static str {
        "qnet"
    }

    fn start(&self, far: SocketAddr) -> Result<Pair> {
        let pair = self.start_by(far, |bridge| Ok((bridge, ())))?;
        // The first stream waits until the session is there.
        load::hold(&mut pair.connect()?)?;
        Ok(pair)
    }
}

impl Qnet {
    /// The same, whose client reaches the bridge's address by the way that `by` makes to it, and without a session yet; what else
    /// `by` gives is kept as long as the programs.
    ///
    /// # Errors
    /// As for [`Contender::start`], or `by` fails.
    pub fn start_by<T: Send + Sync + 'static>(
        &self,
        far: SocketAddr,
        by: impl FnOnce(SocketAddr) -> Result<(SocketAddr, T)>,
    ) -> Result<Pair> {
        let state = tempfile::tempdir()?;
        let bridge = self.bridge_in(state.path())?;
        let (way, kept) = by(bridge.address)?;
        let near = free_address()?;
        let client = self.proxy_in(state.path(), "proxy", &bridge.line_by(way), near, far)?;
        let pids = [client.pid(), bridge.program.pid()];
        Ok(Pair::new(pids, Entrance::Port(near), (client, bridge.program, kept), state))
    }

    /// A bridge with its state and log in `folder`, and its line.
    ///
    /// # Errors
    /// It does not start.
    pub fn bridge_in(&self, folder: &Path) -> Result<Bridge> {
        let state = folder.join("state");
        DirBuilder::new().mode(0o700).create(&state)?;
        let address = free_address()?;
        let program = listening(folder, "bridge", &mut self.bridge(&state, address), address)?;
        let log = folder.join("bridge.log");
        let line = wait_for("the bridge's line", START_LIMIT, || {
            let said = std::fs::read_to_string(&log)?;
            let line = said.lines().find_map(|line| line.split_once("Bridge qnet "));
            Ok(line.map(|(_, line)| format!("qnet {line}")))
        })
        .with_context(|| tail(&log))?;
        Ok(Bridge { program, address, line })
    }

    /// A proxy whose port `near` leads to `far` by the bridge with this line; its log is in `folder`, called `name`.
    ///
    /// # Errors
    /// It does not start.
    pub fn proxy_in(
        &self,
        folder: &Path,
        name: &str,
        line: &str,
        near: SocketAddr,
        far: SocketAddr,
    ) -> Result<Running> {
        let mut proxy = Command::new(&self.proxy);
        proxy.args(["proxy", "--bridge", line, "--status", "off", "--listen", &free_address()?.to_string()]);
        proxy.args(["--forward", &format!("{}:{}:{far}", near.ip(), near.port())]);
        proxy.env("SSL_CERT_FILE", &self.ca);
        listening(folder, name, &mut proxy, near)
    }
}

/// A bridge that runs.
pub struct Bridge {
    /// Ends with this.
    pub program: Running,
    /// Where it listens.
    pub address: SocketAddr,
    line: String,
}

impl Bridge {
    /// Its line, with the address of a way to it in place of its own.
    #[must_use]
    pub fn line_by(&self, way: SocketAddr) -> String {
        self.line.replacen(&self.address.to_string(), &way.to_string(), 1)
    }
}
