//! Arti, with the transport inside it, on a private network of Debian's tor: three authorities that are also relays and exits,
//! and a bridge with `qnet-pt`.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use qnet_tests::support::arti;
use qnet_tests::support::decoy::{Decoy, Options, Server};
use qnet_tests::support::isolate::isolated;
use qnet_tests::support::local_http::FileServer;
use qnet_tests::support::pt::Pt;
use qnet_tests::support::tor::Network;
use sha2::{Digest as _, Sha256};

/// What is fetched, bytes.
const FILE: usize = 1_000_000;

/// How long a fetch may take, the bootstrap included: on a machine that is busy with other work it takes a minute.
const LIMIT_SECONDS: &str = "180";

#[test]
fn arti_fetches_a_page_by_the_socks_port() -> Result<()> {
    isolated("arti_fetches_a_page_by_the_socks_port", || fetch("fetch"))
}

#[cfg(feature = "manager")]
#[test]
fn arti_fetches_a_page_by_the_manager() -> Result<()> {
    isolated("arti_fetches_a_page_by_the_manager", || fetch("fetch_by_manager"))
}

/// Fetches the file by this example, and looks at what came.
fn fetch(name: &str) -> Result<()> {
    let decoy = Decoy::start(Server::Nginx, Options::default())?;
    let pt = Pt::qnet(&decoy)?;
    let file = FileServer::start(FILE)?;
    let network = Network::start(file.address().port())?;
    let bridge = network.bridge(&pt, true)?;
    let folder = tempfile::tempdir()?;
    let config = folder.path().join("arti.toml");
    std::fs::write(&config, arti::config(&network, folder.path())?)?;
    let fetched = Command::new("timeout")
        .arg(LIMIT_SECONDS)
        .arg(example(name)?)
        .args([&bridge.line, &file.address().to_string(), "/file"])
        .arg(&config)
        .envs(pt.environment.iter().cloned())
        .output()?;
    ensure!(fetched.status.success(), "{}: {}", fetched.status, String::from_utf8_lossy(&fetched.stderr));
    let head = fetched.stdout.windows(4).position(|four| four == b"\r\n\r\n").context("an answer")?;
    let body = fetched.stdout.get(head + 4..).unwrap_or_default();
    ensure!(Sha256::digest(body)[..] == file.sha256(), "{} bytes, and not the file", body.len());
    network.stop()
}

/// An example, which cargo has built beside this test.
fn example(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let folder = own.parent().and_then(Path::parent).context("a test has a folder")?;
    Ok(folder.join("examples").join(name))
}
