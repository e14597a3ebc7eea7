//! Child processes that end with their owner.

use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal};

/// How long a child may take to end after SIGTERM before it is killed.
const GRACE: Duration = Duration::from_secs(3);

/// Between two looks at a condition.
const POLL: Duration = Duration::from_millis(20);

/// A child process that is ended and reaped when this is dropped.
#[derive(Debug)]
pub struct Running {
    name: String,
    child: Child,
}

impl Running {
    /// Starts `command`; `name` is for messages.
    ///
    /// # Errors
    /// The program is missing or cannot be started.
    pub fn start(name: &str, command: &mut Command) -> Result<Self> {
        let child = command.spawn().with_context(|| {
            format!("{name} does not start: is {} installed?", command.get_program().display())
        })?;
        Ok(Self { name: name.to_owned(), child })
    }

    /// The process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where it is told things, once, where its standard input is a pipe.
    pub fn stdin(&mut self) -> Option<ChildStdin> {
        self.child.stdin.take()
    }

    /// What it prints, once, where its standard output is a pipe.
    pub fn stdout(&mut self) -> Option<ChildStdout> {
        self.child.stdout.take()
    }

    /// How it ended, or `None` while it runs.
    ///
    /// # Errors
    /// The kernel's.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Asks it to end, waits a short time, then kills it.
    ///
    /// # Errors
    /// The kernel's.
    pub fn stop(&mut self) -> Result<()> {
        if self.ended()?.is_some() {
            return Ok(());
        }
        signal(self.pid(), Signal::TERM)?;
        let end = Instant::now() + GRACE;
        while Instant::now() < end {
            if self.ended()?.is_some() {
                return Ok(());
            }
            thread::sleep(POLL);
        }
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.stop().is_err() {
            self.child.kill().ok();
        }
    }
}

impl std::fmt::Display for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} (process {})", self.name, self.pid())
    }
}

/// Sends `signal` to one process.
///
/// # Errors
/// There is no such process, or it is not ours.
pub fn signal(pid: u32, signal: Signal) -> Result<()> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).context("not a process id")?;
    rustix::process::kill_process(pid, signal)?;
    Ok(())
}

/// The children of process `parent`, zombies left out.
///
/// # Errors
/// `/proc` cannot be read.
pub fn children(parent: u32) -> Result<Vec<u32>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        // A process may end between the listing and the reading.
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        // The second field is the program's name in parentheses, which may hold spaces and parentheses.
        let Some((_, rest)) = stat.rsplit_once(')') else { continue };
        let mut fields = rest.split_whitespace();
        if fields.next() != Some("Z") && fields.next() == Some(&parent.to_string()) {
            found.push(pid);
        }
    }
    Ok(found)
}

/// Whether process `pid` runs: a zombie does not.
#[must_use]
pub fn runs(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
}

/// Looks at `condition` until it gives something.
///
/// # Errors
/// Its own error, or that `limit` has passed, naming `what` was awaited.
pub fn wait_for<T>(
    what: &str,
    limit: Duration,
    mut condition: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let end = Instant::now() + limit;
    loop {
        if let Some(value) = condition()? {
            return Ok(value);
        }
        if Instant::now() >= end {
            bail!("{what}: not within {limit:?}");
        }
        thread::sleep(POLL);
    }
}

/// A loopback address that nothing listens on at the moment, and that was not given to anybody in this process before, who may not
/// listen yet.
///
/// # Errors
/// The kernel's.
pub fn free_address() -> Result<SocketAddr> {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    loop {
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
        if given.len() >= MOST_GIVEN {
            given.clear();
        }
        if given.insert(address.port()) {
            return Ok(address);
        }
    }
}

/// Addresses that are remembered as given: few beside the ten thousands of ports that the kernel has to choose from.
const MOST_GIVEN: usize = 1_000;

/// Waits until something accepts connections at `address`.
///
/// # Errors
/// `server` ended, or `limit` has passed; with the end of the file `log`.
pub fn wait_listening(server: &mut Running, address: SocketAddr, limit: Duration, log: &Path) -> Result<()> {
    let what = format!("{server} listens at {address}");
    wait_for(&what, limit, || {
        if let Some(status) = server.ended()? {
            bail!("{server} ended: {status}");
        }
        Ok(TcpStream::connect(address).ok())
    })
    .map(drop)
    .with_context(|| tail(log))
}

/// The last lines of a log, for an error message.
#[must_use]
pub fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let from = lines.len().saturating_sub(20);
    format!("{} ends with:\n{}", log.display(), lines.get(from..).unwrap_or_default().join("\n"))
}
