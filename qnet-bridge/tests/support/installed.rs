//! A bridge that is installed, so that it can be upgraded.

use std::{
    fs::{self, File},
    net::SocketAddr,
    os::unix::{
        fs::{DirBuilderExt as _, PermissionsExt as _},
        net::UnixDatagram,
    },
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use qnet_tests::support::{
    ca::Certificates,
    decoy::{Decoy, NAME, Options, Server},
    front::{self, Front},
    process::{self, Running, signal, wait_for},
    tunnel::dialer_with,
};
use qnet_transport::client::Dialer;
use qnet_wire::bridge_line::BridgeLine;
use rustix::process::Signal;
use tempfile::TempDir;

use super::{LIMIT, line_of};

/// How long the decoy keeps what idles: so long does a connection stay whose client has gone.
pub(crate) const IDLE: Duration = Duration::from_secs(5);
/// What a web server hands on to a bridge behind it.
const PATH: &str = "/f0/secret-path";
pub(crate) const POLICY: &str = "allow-special = true\nexit-policy = [\"accept *:*\"]";

/// nginx, and where the bridge stands.
pub(crate) enum Web {
    /// Before it.
    Before(Box<Decoy>),
    /// Behind it, for websockets.
    Behind(Box<Front>),
}

impl Web {
    pub(crate) fn certificates(&self) -> &Certificates {
        match self {
            Self::Before(decoy) => decoy.certificates(),
            Self::Behind(front) => front.certificates(),
        }
    }

    fn settings(&self) -> String {
        match self {
            Self::Before(decoy) => format!("decoy = \"{}\"\nsni = [\"{NAME}\"]", decoy.address()),
            Self::Behind(front) => format!("url = \"https://{NAME}{PATH}\"\norigin = \"{}\"", front.site()),
        }
    }
}

/// A bridge whose program is a file of its own, and who hears what it tells its service manager.
pub(crate) struct Installed {
    folder: TempDir,
    pub(crate) web: Web,
    pub(crate) listen: SocketAddr,
    manager: UnixDatagram,
}

impl Installed {
    pub(crate) fn new(settings: &str) -> Result<Self> {
        let decoy = Decoy::start(Server::Nginx, Options { idle: IDLE, ..Options::default() })?;
        Self::with(Web::Before(Box::new(decoy)), process::free_address()?, settings)
    }

    pub(crate) fn behind_a_web_server(settings: &str) -> Result<Self> {
        let listen = process::free_address()?;
        let front = Front::start(front::Server::Nginx, front::Options::new(PATH, listen))?;
        Self::with(Web::Behind(Box::new(front)), listen, settings)
    }

    fn with(web: Web, listen: SocketAddr, settings: &str) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        fs::DirBuilder::new().mode(0o700).create(folder.path().join("state"))?;
        let manager = UnixDatagram::bind(folder.path().join("notify"))?;
        manager.set_read_timeout(Some(LIMIT))?;
        let installed = Self { folder, web, listen, manager };
        installed.configure(settings)?;
        installed.install()?;
        Ok(installed)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn configure(&self, settings: &str) -> Result<()> {
        let text = format!(
            "listen = \"{}\"\nstate = \"{}\"\n{}\n{settings}\n",
            self.listen,
            self.path("state").display(),
            self.web.settings(),
        );
        Ok(fs::write(self.path("bridge.toml"), text)?)
    }

    /// A new file in the program's place, as a package's upgrade puts one there.
    pub(crate) fn install(&self) -> Result<()> {
        fs::copy(env!("CARGO_BIN_EXE_qnet-bridge"), self.path("new"))?;
        Ok(fs::rename(self.path("new"), self.path("qnet-bridge"))?)
    }

    pub(crate) fn install_script(&self, text: &str) -> Result<()> {
        fs::write(self.path("new"), text)?;
        fs::set_permissions(self.path("new"), fs::Permissions::from_mode(0o755))?;
        Ok(fs::rename(self.path("new"), self.path("qnet-bridge"))?)
    }

    pub(crate) fn start(&self) -> Result<Running> {
        let mut command = Command::new(self.path("qnet-bridge"));
        command.args(["run", "--config"]).arg(self.path("bridge.toml"));
        command.env("SSL_CERT_FILE", &self.web.certificates().ca).env("NOTIFY_SOCKET", self.path("notify"));
        let running = Running::start(
            "qnet-bridge",
            command.stdin(Stdio::null()).stderr(File::create(self.path("log"))?),
        )?;
        ensure!(self.told()? == "READY=1");
        Ok(running)
    }

    /// The next that the service manager is told.
    pub(crate) fn told(&self) -> Result<String> {
        let mut buffer = [0; 100];
        let length =
            self.manager.recv(&mut buffer).with_context(|| format!("nothing is told: {:?}", self.log()))?;
        Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
    }

    pub(crate) fn log(&self) -> Result<String> {
        Ok(fs::read_to_string(self.path("log"))?)
    }

    pub(crate) fn logs(&self, words: &str) -> Result<()> {
        wait_for(words, LIMIT, || Ok(self.log()?.contains(words).then_some(())))
            .with_context(|| self.log().unwrap_or_default())
    }

    pub(crate) fn line(&self) -> Result<BridgeLine> {
        line_of(&self.path("bridge.toml"), &self.log()?)?.context("no line")
    }

    /// Where its users connect to.
    pub(crate) fn address(&self) -> SocketAddr {
        match &self.web {
            Web::Before(_) => self.listen,
            Web::Behind(front) => front.address(),
        }
    }

    pub(crate) fn dialer(&self) -> Result<Dialer> {
        dialer_with(&self.web.certificates().ca)
    }

    /// Makes the process give its sockets to the next, whose number is returned.
    pub(crate) fn upgrade(&self, running: &Running) -> Result<u32> {
        signal(running.pid(), Signal::USR2)?;
        let told = self.told()?;
        Ok(told.strip_prefix("MAINPID=").with_context(|| told.clone())?.parse()?)
    }
}
