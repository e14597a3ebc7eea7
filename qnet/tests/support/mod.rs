//! A bridge with an exit behind it, a wire to it that can be cut, and the program under test.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part")]

pub mod browser;
pub mod exit;
pub mod wire;

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use qnet_tests::support::process::{Running, free_address, tail, wait_for};
use tempfile::TempDir;

/// How long a proxy may take to connect on a busy machine.
pub const CONNECT_LIMIT: Duration = Duration::from_secs(40);

/// The program.
pub fn qnet() -> Command {
    Command::new(env!("CARGO_BIN_EXE_qnet"))
}

/// A running `qnet proxy`.
pub struct Proxy {
    /// The process.
    pub running: Running,
    /// Where applications connect.
    pub listen: SocketAddr,
    /// Where the status page is.
    pub status: SocketAddr,
    folder: TempDir,
}

impl Proxy {
    /// Starts it with these lines and further arguments, on free ports, trusting `ca`.
    pub fn start(ca: &Path, lines: &[String], arguments: &[&str]) -> Result<Self> {
        let bridges = lines.iter().flat_map(|line| ["--bridge", line.as_str()]);
        Self::start_with(ca, &bridges.chain(arguments.iter().copied()).collect::<Vec<_>>())
    }

    /// The same with nothing but these arguments and the ports.
    pub fn start_with(ca: &Path, arguments: &[&str]) -> Result<Self> {
        let (listen, status, folder) = (free_address()?, free_address()?, TempDir::new()?);
        let mut command = qnet();
        command.args(["proxy", "--listen", &listen.to_string(), "--status", &status.to_string()]);
        command.args(arguments).env("SSL_CERT_FILE", ca).stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(File::create(folder.path().join("stderr"))?);
        let running = Running::start("qnet", &mut command)?;
        Ok(Self { running, listen, status, folder })
    }

    /// The same, once it is connected.
    pub fn connected(ca: &Path, lines: &[String], arguments: &[&str]) -> Result<Self> {
        let proxy = Self::start(ca, lines, arguments)?;
        proxy.wait_for(r#""state":"connected""#)?;
        Ok(proxy)
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    fn log_path(&self) -> PathBuf {
        self.folder.path().join("stderr")
    }

    /// The status page's data.
    pub fn report(&self) -> Result<String> {
        curl(&[&format!("http://{}/status.json", self.status)])
    }

    /// Waits until the report holds `words`.
    pub fn wait_for(&self, words: &str) -> Result<()> {
        wait_for(words, CONNECT_LIMIT, || Ok(self.report().ok().filter(|report| report.contains(words))))
            .map(drop)
            .with_context(|| format!("{}\n{}", self.report().unwrap_or_default(), tail(&self.log_path())))
    }
}

/// Runs curl and returns what it got.
pub fn curl(arguments: &[&str]) -> Result<String> {
    let output = curl_output(arguments)?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "curl {arguments:?}: {}: {said}", output.status);
    Ok(String::from_utf8(output.stdout)?)
}

/// Runs curl, whatever comes of it. No proxy but the one given, and a minute at most.
pub fn curl_output(arguments: &[&str]) -> Result<Output> {
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--max-time", "60"]).args(arguments);
    command.env_remove("http_proxy").env_remove("https_proxy").env_remove("all_proxy").stdin(Stdio::null());
    command.output().context("curl does not start")
}
