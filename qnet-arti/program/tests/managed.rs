//! Arti's own program, which launches `qnet-pt` as a managed transport, on a private network of Debian's tor.

use std::fmt::Write as _;
use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};
use qnet_tests::support::arti;
use qnet_tests::support::decoy::{Decoy, Options, Server};
use qnet_tests::support::isolate::isolated;
use qnet_tests::support::local_http::{FileServer, download};
use qnet_tests::support::process::{self, Running, wait_for};
use qnet_tests::support::pt::Pt;
use qnet_tests::support::tor::Network;

/// What is fetched, bytes.
const FILE: usize = 1_000_000;

/// How long a page may take, the bootstrap included: on a machine that is busy with other work it takes half a minute.
const LIMIT: Duration = Duration::from_secs(180);

#[test]
fn arti_launches_qnet_pt_and_fetches_a_page() -> Result<()> {
    isolated("arti_launches_qnet_pt_and_fetches_a_page", || {
        let decoy = Decoy::start(Server::Nginx, Options::default())?;
        let pt = Pt::qnet(&decoy)?;
        let file = FileServer::start(FILE)?;
        let network = Network::start(file.address().port())?;
        let bridge = network.bridge(&pt, true)?;
        let folder = tempfile::tempdir()?;
        let socks = process::free_address()?;
        let mut config = arti::config(&network, folder.path())?;
        // Who may make namespaces may be root in them.
        writeln!(config, "[application]\nallow_running_as_root = true")?;
        writeln!(config, "[proxy]\nsocks_listen = \"{socks}\"")?;
        writeln!(config, "[bridges]\nenabled = true\nbridges = [{:?}]", bridge.line)?;
        writeln!(config, "[[bridges.transports]]\nprotocols = [{:?}]\npath = {:?}", pt.name, pt.binary)?;
        let log = folder.path().join("arti.log");
        let mut arti = start(folder.path(), &config, &pt, &log)?;
        wait_for("a page through Arti", LIMIT, || {
            if let Some(status) = arti.ended()? {
                anyhow::bail!("Arti ended: {status}");
            }
            Ok(download(socks, &file, |_| Ok(())).ok())
        })
        .with_context(|| process::tail(&log))?;
        anyhow::ensure!(process::children(arti.pid())?.len() == 1, "the transport is Arti's child");
        arti.stop()?;
        network.stop()
    })
}

fn start(folder: &Path, config: &str, pt: &Pt, log: &Path) -> Result<Running> {
    let file = folder.join("arti.toml");
    std::fs::write(&file, config)?;
    let output = File::create(log)?;
    let mut command = Command::new(env!("CARGO_BIN_EXE_arti"));
    command.arg("proxy").arg("--config").arg(&file).envs(pt.environment.iter().cloned());
    command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
    Running::start("arti", &mut command)
}
