//! What else carries a connection from here to there: other people's tunnels, and a relay without any cryptography, which is
//! the limit.
//!
//! Each is two programs and a port that leads to the far end, with settings as their documentation gives them.

mod qnet;
mod relay;
mod shadowsocks;
mod stunnel;
mod trojan;

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use std::{env, fs};

use anyhow::{Context, Result};
use qnet_tests::support::process::{Running, wait_listening};

pub use self::qnet::Qnet;
pub use self::relay::{Relay, relay};
pub use self::shadowsocks::Shadowsocks;
pub use self::stunnel::Stunnel;
pub use self::trojan::Trojan;

/// How long a program may take until it listens.
pub(crate) const START_LIMIT: Duration = Duration::from_secs(30);

/// A folder for programs to be found in: the first of `PATH` that holds `program`.
#[must_use]
pub fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|folder| folder.join(program)).find(|file| Path::is_file(file))
}

/// A program that `./dev` installs.
///
/// # Errors
/// It is not there.
pub fn installed(program: &str) -> Result<PathBuf> {
    find(program).with_context(|| format!("{program} is not there; ./dev bench installs it"))
}

/// What Cargo built beside this program.
///
/// # Errors
/// It is not there.
pub fn built(program: &str) -> Result<PathBuf> {
    let file = env::current_exe()?.with_file_name(program);
    anyhow::ensure!(file.is_file(), "{} is not there; ./dev bench builds it", file.display());
    Ok(file)
}

/// Starts a program that is to listen at `address`; what it says goes to a file in `folder`.
pub(crate) fn listening(
    folder: &Path,
    name: &str,
    command: &mut Command,
    address: SocketAddr,
) -> Result<Running> {
    let log = folder.join(format!("{name}.log"));
    let file = File::create(&log)?;
    command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
    let mut running = Running::start(name, command)?;
    wait_listening(&mut running, address, START_LIMIT, &log)?;
    Ok(running)
}

fn write(folder: &Path, name: &str, text: &str) -> Result<PathBuf> {
    let file = folder.join(name);
    fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
    Ok(file)
}
