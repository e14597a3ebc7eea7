//! Everything in a network namespace of its own: a bridge before nginx, an echo behind it, and the load, each a process of its own.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;
use std::{env, thread};

use anyhow::{Context as _, Result, ensure};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use qnet_tests::support::decoy::{Decoy, Options, Server};
use qnet_tests::support::process::{Running, children, free_address, tail, wait_for};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tempfile::TempDir;

use crate::peers::{START_LIMIT, listening};
use crate::usage;

/// The decoy's idle limit and requests: no connection ends by it while it is measured.
const DECOY_IDLE: Duration = Duration::from_secs(3_600);
const DECOY_REQUESTS: u32 = 1_000_000;
/// Connections that the decoy takes.
const DECOY_CONNECTIONS: u32 = 131_072;

/// Streams that the bridge takes.
const STREAMS: &str = "200000";

/// How long what a step left behind has to be freed before memory is read.
pub(super) const SETTLE: Duration = Duration::from_secs(4);

/// What a process holds.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Held {
    /// Resident memory, bytes.
    pub resident: u64,
    /// Resident memory by its share of what it shares, bytes.
    pub proportional: u64,
    /// Open descriptors.
    pub descriptors: usize,
}

/// Seconds on a processor.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Used {
    /// The bridge's.
    pub bridge: f64,
    /// The load's.
    pub client: f64,
    /// The decoy's.
    pub decoy: f64,
}

/// A running bridge and what it needs.
pub struct Lab {
    // In the order in which they end.
    client: Running,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
    bridge: Running,
    _far: Running,
    decoy: Decoy,
    state: TempDir,
}

/// Makes the namespace's network and this process's limits large enough, and gives how many descriptors a process may have. To be
/// called once, inside.
///
/// # Errors
/// It is not allowed.
pub fn prepare() -> Result<u64> {
    // Addresses of 10.0.0.0/8 are this machine's, and a connection to one comes from the same.
    let words = ["route", "add", "local", "10.0.0.0/8", "dev", "lo"];
    let done = Command::new("ip").args(words).status().context("`ip` (package iproute2) does not start")?;
    ensure!(done.success(), "no route can be added");
    // What a connection to a busy bridge would lose would come again a second later.
    fs::write("/proc/sys/net/core/somaxconn", "65535").context("net.core.somaxconn")?;
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let most = fs::read_to_string("/proc/sys/fs/nr_open")?.trim().parse::<u64>()?;
    // Only root may have more than was given to him.
    setrlimit(Resource::RLIMIT_NOFILE, most, most)
        .or_else(|_| setrlimit(Resource::RLIMIT_NOFILE, hard, hard))?;
    Ok(getrlimit(Resource::RLIMIT_NOFILE)?.0)
}

impl Lab {
    /// Starts it: the programs that Cargo built beside `programs`, one of which is `qnet-bench`.
    ///
    /// # Errors
    /// A program is missing or does not start.
    pub fn start(programs: &Path) -> Result<Self> {
        let state = tempfile::tempdir()?;
        let own = programs.join("qnet-bench");
        let decoy = Decoy::start(
            Server::Nginx,
            Options {
                idle: DECOY_IDLE,
                requests: DECOY_REQUESTS,
                connections: DECOY_CONNECTIONS,
                ..Options::default()
            },
        )?;
        let far_address = free_address()?;
        let mut far = Command::new(&own);
        far.args(["scale-far", &far_address.to_string()]);
        let far = listening(state.path(), "far", &mut far, far_address)?;
        let listen = free_address()?;
        let bridge = bridge(programs, state.path(), listen, &decoy, far_address)?;
        let log = state.path().join("bridge.log");
        let key = wait_for("the bridge's key", START_LIMIT, || {
            let said = fs::read_to_string(&log)?;
            Ok(said.split_whitespace().find_map(|word| word.strip_prefix("key=")).map(str::to_owned))
        })
        .with_context(|| tail(&log))?;
        let line = format!("qnet 10.0.0.1:{} key={key} sni={}", listen.port(), decoy.name());
        let mut client = Command::new(&own);
        client.arg("scale-generator").arg(line).arg(&decoy.certificates().ca);
        client.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut client = Running::start("the load", &mut client)?;
        let orders = client.stdin().context("its input is a pipe")?;
        let answers = BufReader::new(client.stdout().context("its output is a pipe")?);
        Ok(Self { client, orders, answers, bridge, _far: far, decoy, state })
    }

    /// Tells the load something, and waits for its answer.
    ///
    /// # Errors
    /// The load has ended.
    pub fn tell(&mut self, command: &Value) -> Result<Value> {
        writeln!(self.orders, "{command}")?;
        let mut answer = String::new();
        let read = self.answers.read_line(&mut answer)?;
        ensure!(
            read > 0,
            "the load has ended; the bridge {} runs; {}",
            if self.bridge.ended()?.is_none() { "still" } else { "no longer" },
            tail(&self.state.path().join("bridge.log"))
        );
        Ok(serde_json::from_str(&answer)?)
    }

    /// Ends the bridge, as it may end in the middle of everything.
    ///
    /// # Errors
    /// The kernel's.
    pub fn stop_bridge(&mut self) -> Result<()> {
        self.bridge.stop()
    }

    /// What bridge, load and decoy have used so far.
    ///
    /// # Errors
    /// One of them is gone.
    pub fn used(&self) -> Result<Used> {
        let decoy = self.decoy_processes()?.into_iter().map(usage::cpu).sum::<Result<Duration>>()?;
        Ok(Used {
            bridge: usage::cpu(self.bridge.pid())?.as_secs_f64(),
            client: usage::cpu(self.client.pid())?.as_secs_f64(),
            decoy: decoy.as_secs_f64(),
        })
    }

    /// What bridge, load and decoy hold.
    ///
    /// # Errors
    /// One of them is gone.
    pub fn held(&self) -> Result<[Held; 3]> {
        let decoy = self.decoy_processes()?.into_iter().map(held).sum::<Result<Held>>()?;
        Ok([held(self.bridge.pid())?, held(self.client.pid())?, decoy])
    }

    /// What the bridge says that is wrong: the lines of its log that are warnings or worse, each once.
    ///
    /// # Errors
    /// Its log cannot be read.
    pub fn warnings(&self) -> Result<Vec<String>> {
        let said = fs::read_to_string(self.state.path().join("bridge.log"))?;
        let mut lines: Vec<String> = said
            .lines()
            .filter_map(|line| line.split_once("WARN").or_else(|| line.split_once("ERROR")))
            .map(|(_, what)| what.trim().to_owned())
            .collect();
        lines.sort_unstable();
        lines.dedup();
        Ok(lines)
    }

    fn decoy_processes(&self) -> Result<Vec<u32>> {
        let masters = self.decoy.processes();
        let mut all = masters.clone();
        for master in masters {
            all.extend(children(master)?);
        }
        Ok(all)
    }
}

impl std::iter::Sum for Held {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |sum, one| Self {
            resident: sum.resident + one.resident,
            proportional: sum.proportional + one.proportional,
            descriptors: sum.descriptors + one.descriptors,
        })
    }
}

fn held(pid: u32) -> Result<Held> {
    Ok(Held {
        resident: usage::resident(pid)?,
        proportional: usage::proportional(pid)?,
        descriptors: usage::descriptors(pid)?,
    })
}

fn bridge(
    programs: &Path,
    state: &Path,
    listen: SocketAddr,
    decoy: &Decoy,
    far: SocketAddr,
) -> Result<Running> {
    let folder = state.join("state");
    fs::DirBuilder::new().mode(0o700).create(&folder)?;
    let mut command = Command::new(programs.join("qnet-bridge"));
    let everywhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, listen.port()));
    command.args(["run", "--listen", &everywhere.to_string(), "--decoy", &decoy.address().to_string()]);
    command.args(["--sni", decoy.name(), "--upstream", &far.to_string(), "--state"]).arg(&folder);
    // All streams of one session are one client's.
    command.args(["--stream-rate-per-client", "0", "--max-streams", STREAMS]);
    command.args(["--max-streams-per-client", STREAMS]);
    command.env("SSL_CERT_FILE", &decoy.certificates().ca);
    listening(state, "bridge", &mut command, listen)
}

/// The folder with what Cargo built beside this program.
///
/// # Errors
/// It cannot be told.
pub fn programs() -> Result<std::path::PathBuf> {
    let own = env::current_exe()?;
    Ok(own.parent().context("a program has a folder")?.to_owned())
}

/// Waits until what was there for a moment is gone.
pub(super) fn settle() {
    thread::sleep(SETTLE);
}

/// Memory that programs could still have, and the kernel's own for what they opened, bytes.
///
/// # Errors
/// `/proc` cannot be read.
pub(super) fn system() -> Result<[u64; 2]> {
    let said = fs::read_to_string("/proc/meminfo")?;
    let find = |label: &str| {
        usage::kilobytes(&said, label)
            .map(|kilobytes| kilobytes * 1_024)
            .context("an unreadable /proc/meminfo")
    };
    Ok([find("MemAvailable:")?, find("Slab:")?])
}
