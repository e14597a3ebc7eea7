//! QNet without tor: `qnet proxy` and `qnet-bridge run`, whose streams share one session.

use std::fs::DirBuilder;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use qnet_tests::support::decoy::Decoy;
use qnet_tests::support::process::{free_address, tail, wait_for};

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
        Ok(Self {
            proxy: built("qnet")?,
            bridge: built("qnet-bridge")?,
            decoy: decoy.address(),
            name: decoy.name().to_owned(),
            ca: decoy.certificates().ca.clone(),
        })
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
        let folder = state.path().join("state");
        DirBuilder::new().mode(0o700).create(&folder)?;
        let (near, middle) = (free_address()?, free_address()?);
        let bridge = listening(state.path(), "bridge", &mut self.bridge(&folder, middle), middle)?;
        let log = state.path().join("bridge.log");
        let line = wait_for("the bridge's line", START_LIMIT, || {
            let said = std::fs::read_to_string(&log)?;
            let line = said.lines().find_map(|line| line.split_once("Bridge qnet "));
            Ok(line.map(|(_, line)| format!("qnet {line}")))
        })
        .with_context(|| tail(&log))?;
        let (way, kept) = by(middle)?;
        let line = line.replacen(&middle.to_string(), &way.to_string(), 1);
        let mut proxy = Command::new(&self.proxy);
        proxy.args(["proxy", "--bridge", &line, "--status", "off", "--listen", &free_address()?.to_string()]);
        proxy.args(["--forward", &format!("{}:{}:{far}", near.ip(), near.port())]);
        proxy.env("SSL_CERT_FILE", &self.ca);
        let client = listening(state.path(), "proxy", &mut proxy, near)?;
        let pids = [client.pid(), bridge.pid()];
        Ok(Pair::new(pids, Entrance::Port(near), (client, bridge, kept), state))
    }
}
