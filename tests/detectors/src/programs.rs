//! The programs that are judged, and how those for people without Tor are started.

use std::fs::{self, DirBuilder, File};
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use qnet_tests::support::decoy::Decoy;
use qnet_tests::support::process::{Running, free_address, tail, wait_for};
use qnet_wire::bridge_line::BridgeLine;
use tempfile::TempDir;

/// How long a program may take until it is ready, on a busy machine and a path of 300 ms.
const LIMIT: Duration = Duration::from_secs(60);

/// What a bridge says before its line.
const LINE: &str = "Bridge qnet ";

/// What the proxy's status page says when a request has come back.
const CONNECTED: &str = r#""state":"connected""#;

/// Where the programs are.
#[derive(Clone, Debug, Default)]
pub struct Programs {
    /// The pluggable transport, both sides.
    pub qnet_pt: PathBuf,
    /// The proxy for people without Tor.
    pub qnet: PathBuf,
    /// Their bridge.
    pub qnet_bridge: PathBuf,
}

impl Programs {
    /// Those in one folder, which is where cargo puts the programs of a build.
    ///
    /// # Errors
    /// One is not there; says how to build it.
    pub fn in_folder(folder: &Path) -> Result<Self> {
        Self::built_by(|name| {
            let program = folder.join(name);
            ensure!(
                program.is_file(),
                "{} is not there; ./dev detect builds it, or cargo build -p {name}",
                program.display()
            );
            Ok(program)
        })
    }

    /// Those that `built` gives by their names.
    ///
    /// # Errors
    /// Its own.
    pub fn built_by(built: impl Fn(&str) -> Result<PathBuf>) -> Result<Self> {
        Ok(Self { qnet_pt: built("qnet-pt")?, qnet: built("qnet")?, qnet_bridge: built("qnet-bridge")? })
    }

    /// Starts `qnet-bridge run` before `decoy`, which connects its clients to anything, loopback included: all there is here.
    ///
    /// # Errors
    /// It does not start, or has no line in time; with the end of its log.
    pub(crate) fn bridge(&self, decoy: &Decoy) -> Result<Bridge> {
        let (folder, listen) = (TempDir::new()?, free_address()?);
        let (state, log) = (folder.path().join("state"), folder.path().join("log"));
        DirBuilder::new().mode(0o700).create(&state)?;
        let mut command = Command::new(&self.qnet_bridge);
        command.args(["run", "--listen", &listen.to_string(), "--decoy", &decoy.address().to_string()]);
        command.args(["--sni", decoy.name(), "--exit-policy", "accept *:*", "--allow-special", "true"]);
        command.arg("--state").arg(state).env("SSL_CERT_FILE", &decoy.certificates().ca);
        let mut running = start("qnet-bridge", &mut command, &log)?;
        let line = wait_for("the bridge's line", LIMIT, || {
            if let Some(status) = running.ended()? {
                bail!("qnet-bridge ended: {status}");
            }
            let said = fs::read_to_string(&log)?;
            let line = said.lines().find_map(|line| line.split_once(LINE));
            line.map(|(_, line)| Ok(format!("{LINE}{line}").parse()?)).transpose()
        })
        .with_context(|| tail(&log))?;
        Ok(Bridge { line, _running: running, _folder: folder })
    }

    /// Starts `qnet proxy`, which connects to this bridge by `link`, under the profile that its line names. Returns when it is connected.
    ///
    /// # Errors
    /// It does not start, or is not connected in time; with the end of its log.
    pub(crate) fn proxy(
        &self,
        decoy: &Decoy,
        bridge: Bridge,
        link: SocketAddr,
        profile: Option<&str>,
    ) -> Result<Proxy> {
        let profile = profile.map(str::parse).transpose()?;
        let line = BridgeLine { address: link, profile, ..bridge.line.clone() };
        let (folder, listen, status) = (TempDir::new()?, free_address()?, free_address()?);
        let log = folder.path().join("log");
        let mut command = Command::new(&self.qnet);
        command.args(["proxy", "--bridge", &line.to_string(), "--listen", &listen.to_string()]);
        command.args(["--status", &status.to_string()]).env("SSL_CERT_FILE", &decoy.certificates().ca);
        let mut running = start("qnet", &mut command, &log)?;
        wait_for("the proxy is connected", LIMIT, || {
            if let Some(status) = running.ended()? {
                bail!("qnet ended: {status}");
            }
            // Until it listens there is nothing to read.
            let report = report(status).unwrap_or_default();
            Ok(report.contains(CONNECTED).then_some(()))
        })
        .with_context(|| tail(&log))?;
        Ok(Proxy { address: listen, _running: running, _folder: folder, _bridge: bridge })
    }
}

/// Starts a program that writes its log there.
fn start(name: &str, command: &mut Command, log: &Path) -> Result<Running> {
    Running::start(name, command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(log)?))
}

/// What the proxy's status page says; nothing where it does not listen yet.
fn report(status: SocketAddr) -> Result<String> {
    let url = format!("http://{status}/status.json");
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--max-time", "5", &url]).stdin(Stdio::null());
    Ok(String::from_utf8(curl.output().context("curl does not start")?.stdout)?)
}

/// A running `qnet-bridge`. Ends when dropped.
pub(crate) struct Bridge {
    line: BridgeLine,
    _running: Running,
    _folder: TempDir,
}

impl Bridge {
    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.line.address
    }
}

/// A running `qnet proxy`, and its bridge. Both end when this is dropped, the proxy first.
pub(crate) struct Proxy {
    address: SocketAddr,
    _running: Running,
    _folder: TempDir,
    _bridge: Bridge,
}

impl Proxy {
    /// Where applications connect.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}
