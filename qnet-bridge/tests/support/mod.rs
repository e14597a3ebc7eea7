//! A bridge in a process of its own before a real web server, and what dials it.
#![allow(dead_code, reason = "each test file is a program of its own and uses its part")]

pub(crate) mod installed;

use std::{
    fs::{self, File},
    net::SocketAddr,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use qnet_tests::support::{
    decoy::{Decoy, NAME, Options, Server},
    process::{self, Running},
    tunnel,
};
use qnet_transport::{
    Stream,
    client::{Dialer, Tunnel},
};
use qnet_wire::{
    bridge_line::BridgeLine,
    target::{ANSWER, Answer, Request},
};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const LIMIT: Duration = Duration::from_secs(30);

/// The program.
pub(crate) fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_qnet-bridge"));
    command.stdin(Stdio::null());
    command
}

/// Runs it to its end.
pub(crate) fn output(args: &[&str]) -> Result<Output> {
    Ok(program().args(args).output()?)
}

/// A running bridge with its decoy. Ends when dropped.
pub(crate) struct Bridge {
    pub(crate) running: Running,
    pub(crate) line: BridgeLine,
    pub(crate) decoy: Decoy,
    pub(crate) folder: TempDir,
}

/// Starts `run` with the configuration and the key in `folder`, and waits for its line.
pub(crate) fn start(folder: &Path, ca: &Path) -> Result<(Running, BridgeLine)> {
    start_by(program(), folder, ca)
}

fn start_by(mut command: Command, folder: &Path, ca: &Path) -> Result<(Running, BridgeLine)> {
    let log = File::create(folder.join("log"))?;
    command.args(["run", "--config"]).arg(folder.join("bridge.toml")).env("SSL_CERT_FILE", ca).stderr(log);
    let mut running = Running::start("qnet-bridge", &mut command)?;
    let line = process::wait_for("the bridge's line", LIMIT, || {
        let log = fs::read_to_string(folder.join("log"))?;
        if let Some(status) = running.ended()? {
            bail!("the bridge ended ({status}): {log}");
        }
        line_of(&folder.join("bridge.toml"), &log)
    })?;
    Ok((running, line))
}

/// The line of a bridge that logged this, once it is ready: one with a secret path is not in there.
pub(crate) fn line_of(config: &Path, log: &str) -> Result<Option<BridgeLine>> {
    let line = |text: &str| {
        text.lines().find_map(|line| Some(format!("qnet {}", line.split_once("Bridge qnet ")?.1)))
    };
    if let Some(line) = line(log) {
        return Ok(Some(line.parse()?));
    }
    let listening =
        log.lines().find_map(|line| line.split_once("listening at ")?.1.split_once(" for websockets"));
    let Some((address, _)) = listening else { return Ok(None) };
    let output = program().args(["line", "--address", "192.0.2.7:443", "--config"]).arg(config).output()?;
    let line = line(&String::from_utf8(output.stdout)?).context("no line")?;
    let (_, path) =
        line.split_once("url=https://").and_then(|(_, url)| url.split_once('/')).context("a path")?;
    ensure!(!log.contains(path), "the secret path is in the log: {log}");
    Ok(Some(BridgeLine { address: address.parse()?, ..line.parse()? }))
}

impl Bridge {
    /// Starts one with these lines in its configuration.
    pub(crate) fn start(settings: &str) -> Result<Self> {
        Self::start_by(program(), settings)
    }

    /// Starts one that may have so many files open.
    pub(crate) fn limited(files: u64, settings: &str) -> Result<Self> {
        let mut command = Command::new("prlimit");
        command.arg(format!("--nofile={files}")).arg(program().get_program()).stdin(Stdio::null());
        Self::start_by(command, settings)
    }

    fn start_by(command: Command, settings: &str) -> Result<Self> {
        let decoy = Decoy::start(Server::Nginx, Options::default())?;
        let folder = tempfile::tempdir()?;
        fs::DirBuilder::new().mode(0o700).create(folder.path().join("state"))?;
        write_config(folder.path(), &decoy, settings)?;
        let (running, line) = start_by(command, folder.path(), &decoy.certificates().ca)?;
        Ok(Self { running, line, decoy, folder })
    }

    /// Writes its configuration anew and tells it.
    pub(crate) fn reload(&self, settings: &str) -> Result<()> {
        write_config(self.folder.path(), &self.decoy, settings)?;
        process::signal(self.running.pid(), rustix::process::Signal::HUP)
    }

    pub(crate) fn log(&self) -> Result<String> {
        Ok(fs::read_to_string(self.folder.path().join("log"))?)
    }

    /// Waits until its log has this.
    pub(crate) fn logs(&self, words: &str) -> Result<()> {
        process::wait_for(words, LIMIT, || Ok(self.log()?.contains(words).then_some(())))
    }

    pub(crate) fn dialer(&self) -> Result<Dialer> {
        tunnel::dialer(&self.decoy)
    }

    pub(crate) async fn dial(&self) -> Result<Tunnel> {
        Ok(self.dialer()?.dial(&self.line).await?)
    }
}

fn write_config(folder: &Path, decoy: &Decoy, settings: &str) -> Result<PathBuf> {
    let path = folder.join("bridge.toml");
    let text = format!(
        "listen = \"127.0.0.1:0\"\nstate = \"{}\"\ndecoy = \"{}\"\nsni = [\"{}\"]\n{settings}\n",
        folder.join("state").display(),
        decoy.address(),
        decoy.name(),
    );
    fs::write(&path, text)?;
    Ok(path)
}

/// Shows `what` at `place`, in this namespace alone.
pub(crate) fn mounted(what: &Path, place: &str) -> Result<()> {
    let status = Command::new("mount").arg("--bind").arg(what).arg(place).status()?;
    ensure!(status.success(), "nothing can be mounted at {place}");
    Ok(())
}

/// Lets the decoy's name lead there, in this namespace alone. `folder` is for the file that says so.
pub(crate) fn name_leads_to(ip: &str, folder: &Path) -> Result<()> {
    let hosts = folder.join("hosts");
    // The system's resolver takes names from this file to the letter, and programs ask for whole ones, with the last dot.
    fs::write(&hosts, format!("127.0.0.1 localhost\n{ip} {NAME} {NAME}.\n"))?;
    mounted(&hosts, "/etc/hosts")
}

/// Asks for a connection and returns the stream with the bridge's answer.
pub(crate) async fn ask(tunnel: &Tunnel, target: &str) -> Result<(Stream, Answer)> {
    request(tunnel, &Request::Tcp(target.parse()?)).await
}

pub(crate) async fn request(tunnel: &Tunnel, request: &Request) -> Result<(Stream, Answer)> {
    let mut stream = tunnel.open()?;
    let mut head = Vec::new();
    request.write(&mut head);
    stream.write_all(&head).await?;
    let answer = answer(&mut stream).await?;
    Ok((stream, answer))
}

pub(crate) async fn answer(stream: &mut Stream) -> Result<Answer> {
    let mut bytes = [0; ANSWER];
    let read = tokio::time::timeout(LIMIT, stream.read_exact(&mut bytes));
    read.await.context("no answer")?.context("the stream ended")?;
    Answer::read(&bytes)?.context("not an answer")
}

/// A TCP server that sends back what it gets, in this process.
pub(crate) async fn echo() -> Result<SocketAddr> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = tcp.split();
                tokio::io::copy(&mut read, &mut write).await?;
                write.shutdown().await
            });
        }
    });
    Ok(address)
}

/// Sends, ends and gets everything back.
pub(crate) async fn round(mut stream: Stream, data: &[u8]) -> Result<Vec<u8>> {
    let mut back = Vec::new();
    stream.write_all(data).await?;
    stream.shutdown().await?;
    tokio::time::timeout(LIMIT, stream.read_to_end(&mut back)).await.context("too slow")??;
    Ok(back)
}

/// A few bytes there and back.
pub(crate) async fn echoes(stream: &mut Stream, data: &[u8]) -> Result<()> {
    let mut back = vec![0; data.len()];
    let there_and_back = async {
        stream.write_all(data).await?;
        stream.read_exact(&mut back).await
    };
    tokio::time::timeout(LIMIT, there_and_back).await.context("no echo")??;
    ensure!(back == data);
    Ok(())
}
