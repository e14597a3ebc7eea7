//! Runs a test inside network, process and mount namespaces of its own.
//!
//! 1. The test starts its own binary again under `unshare`, asking for itself alone.
//! 2. The copy is process 1 of its namespaces: only `lo` exists, and when it ends the kernel ends everything it
//!    started, however it ended.
//! 3. The copy watches its standard input and exits when that closes, so that killing the outer test kills it too.
//!
//! Root needs nothing else; other users need user namespaces, which Debian allows by default.

use std::fs::{File, Permissions};
use std::io::{Read, Write as _};
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, ExitStatus, Stdio};
use std::thread;

use anyhow::{Context, Result, bail};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::process::Running;

/// Set in the copy; holds the name of the test it was started for.
const INSIDE: &str = "QNET_TESTS_INSIDE";

/// Runs `body` in namespaces of its own. `test` is the test's full name as the test runner prints it.
///
/// # Errors
/// Those of `body`, with everything the copy printed; or that namespaces cannot be made here.
pub fn isolated(test: &str, body: impl FnOnce() -> Result<()>) -> Result<()> {
    if std::env::var_os(INSIDE).is_some_and(|inside| inside == test) {
        enter()?;
        return body();
    }
    let mut child = unshare()
        .arg("--")
        .arg(std::env::current_exe()?)
        .args(["--exact", test, "--nocapture", "--test-threads=1", "--include-ignored"])
        .env(INSIDE, test)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("`unshare` (package util-linux) does not start")?;
    let held = child.stdin.take();
    let output = child.wait_with_output()?;
    drop(held);
    let said = format!("{}{}", text(&output.stdout), text(&output.stderr));
    if !output.status.success() {
        bail!("{test} failed inside its namespaces ({}):\n{said}{}", output.status, hint(&said));
    }
    if !said.contains("1 passed") {
        bail!("no test is called {test}:\n{said}");
    }
    Ok(())
}

/// Runs a program's `body` in namespaces of its own: the program starts itself again in them, with the same arguments and
/// the same terminal, and ends as the copy did.
///
/// # Errors
/// Those of `body` in the copy; out here, that namespaces cannot be made.
pub fn isolated_program<T>(body: impl FnOnce() -> Result<T>) -> Result<Isolated<T>> {
    let whole = "the whole program";
    if std::env::var_os(INSIDE).is_some_and(|inside| inside == whole) {
        enter()?;
        return body().map(Isolated::Inside);
    }
    let mut child = unshare()
        .arg("--")
        .arg(std::env::current_exe()?)
        .args(std::env::args_os().skip(1))
        .env(INSIDE, whole)
        .stdin(Stdio::piped())
        .spawn()
        .context("`unshare` (package util-linux) does not start")?;
    let held = child.stdin.take();
    let status = child.wait()?;
    drop(held);
    Ok(Isolated::Outside(status))
}

/// Which side of the namespaces' wall a program finds itself on.
#[derive(Debug)]
pub enum Isolated<T> {
    /// In the copy: what the body gave.
    Inside(T),
    /// In the program itself: how the copy ended.
    Outside(ExitStatus),
}

/// Makes loopback's segments as long as Ethernet's (1,500 bytes with their headers), one in each packet: inside a namespace of
/// one's own, before any connection is there.
///
/// # Errors
/// `ip` is missing or may not.
pub fn ethernet() -> Result<()> {
    let words = ["link", "set", "lo", "mtu", "1500", "gso_max_segs", "1"];
    let done = Command::new("ip").args(words).status().context("`ip` (package iproute2) does not start")?;
    match done.success() {
        true => Ok(()),
        false => bail!("loopback's segments cannot be made Ethernet's"),
    }
}

/// Makes these names loopback's for all programs that ask the system: inside a mount namespace of one's own, where a file of hosts lies
/// over the machine's until it ends.
///
/// # Errors
/// `mount` is missing or may not, or no file can be written.
pub fn hosts(names: &[&str]) -> Result<()> {
    let mut file = tempfile::NamedTempFile::new()?;
    writeln!(file, "127.0.0.1 localhost {}", names.join(" "))?;
    // Servers started by root read it as users without rights.
    file.as_file().set_permissions(Permissions::from_mode(0o644))?;
    let mut mount = Command::new("mount");
    mount.arg("--bind").arg(file.path()).arg("/etc/hosts");
    // What is mounted stays when its name is gone.
    match mount.status().context("`mount` (package mount) does not start")?.success() {
        true => Ok(()),
        false => bail!("no file can be laid over /etc/hosts"),
    }
}

/// A network namespace with loopback alone, and the process that holds it open: it ends when that is dropped.
///
/// # Errors
/// It cannot be made here.
pub fn network() -> Result<Running> {
    let mut command = Command::new("unshare");
    command.args(["--net", "sh", "-c", "ip link set lo up && echo up && exec sleep infinity"]);
    let mut running = Running::start("a namespace", command.stdin(Stdio::null()).stdout(Stdio::piped()))?;
    let mut said = [0; 3];
    running.stdout().context("its output is a pipe")?.read_exact(&mut said).context("no namespace")?;
    Ok(running)
}

/// A listener on a free loopback port inside `network`, for use out here: a socket stays where it was made.
///
/// # Errors
/// The namespace is gone, or entering it is not allowed.
pub fn listener_in(network: &Running) -> Result<TcpListener> {
    let namespace = File::open(format!("/proc/{}/ns/net", network.pid()))?;
    // A thread of its own enters, and never comes back.
    let entered = thread::spawn(move || -> Result<TcpListener> {
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
        Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?)
    });
    entered.join().unwrap_or_else(|_| bail!("the thread panicked"))
}

fn unshare() -> Command {
    let mut command = Command::new("unshare");
    command.args(["--net", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child"]);
    if !rustix::process::geteuid().is_root() {
        // As the user himself, not as a root who cannot become another: Apache would try.
        command.args(["--user", "--map-current-user", "--keep-caps"]);
    }
    command
}

/// What the copy does before the test's body.
fn enter() -> Result<()> {
    thread::spawn(|| {
        let mut sink = [0; 16];
        while !matches!(std::io::stdin().read(&mut sink), Ok(0) | Err(_)) {}
        std::process::exit(1);
    });
    let up = Command::new("ip").args(["link", "set", "lo", "up"]).status();
    match up.context("`ip` (package iproute2) does not start")?.success() {
        true => Ok(()),
        false => bail!("the loopback interface does not come up"),
    }
}

fn hint(said: &str) -> &'static str {
    if said.contains("unshare failed") || said.contains("uid_map") {
        "Namespaces are not allowed here. Run the tests as root, or allow user namespaces \
         (sysctl kernel.unprivileged_userns_clone=1, or kernel.apparmor_restrict_unprivileged_userns=0).\n"
    } else {
        ""
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
