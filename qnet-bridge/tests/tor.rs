//! What `init` makes for a bridge before tor, used as it is: tor by its torrc, the bridge by its settings, a tor client by its line.
#![forbid(unsafe_code)]

mod support;
#[path = "support/findings.rs"]
mod support_findings;

use std::{fs, path::Path, process::Output};

use anyhow::{Context as _, Result, ensure};
use qnet_tests::support::{
    decoy::{Decoy, NAME, Options, Server},
    isolate::isolated,
    local_http::{FileServer, download},
    pt::Pt,
    tor::Network,
};
use support::{mounted, program, start};
use support_findings::{names, outcomes};

/// Where users connect to; the bridge listens at that port of all addresses.
const ADDRESS: &str = "127.0.0.1:443";
/// What is downloaded through tor, bytes.
const FILE: usize = 1_000_000;

fn run(decoy: &Decoy, args: &[&str]) -> Result<Output> {
    Ok(program().args(args).env("SSL_CERT_FILE", &decoy.certificates().ca).output()?)
}

/// `init` with a torrc as Debian has it, and what was made put in its place.
fn set_up(root: &Path, decoy: &Decoy) -> Result<()> {
    fs::create_dir_all(root.join("etc/tor"))?;
    fs::create_dir_all(root.join("var/lib/tor"))?;
    fs::write(root.join("etc/tor/torrc"), "## Configuration file for a typical Tor user\n")?;
    let (place, folder) = (decoy.address().to_string(), root.display().to_string());
    let flags =
        ["--address", ADDRESS, "--decoy", &place, "--sni", NAME, "--behind", "tor", "--root", &folder];
    let made = run(decoy, &[&["init"], &flags[..]].concat())?;
    ensure!(made.status.success(), "{made:?}");
    mounted(&root.join("etc/tor"), "/etc/tor")?;
    mounted(&root.join("var/lib"), "/var/lib")
}

#[test]
fn tor_bootstraps_through_what_init_made() -> Result<()> {
    isolated("tor_bootstraps_through_what_init_made", || {
        let decoy = Decoy::start(Server::Nginx, Options::default())?;
        let file = FileServer::start(FILE)?;
        let network = Network::start(file.address().port())?;
        let folder = tempfile::tempdir()?;
        let root = folder.path();
        set_up(root, &decoy)?;
        let mut relay = network.relay_of(Path::new("/etc/tor/torrc"), Path::new("/var/lib/tor"))?;
        let settings = root.join("etc/qnet-bridge");
        let (_bridge, _) = start(&settings, &decoy.certificates().ca)?;
        let config = settings.join("bridge.toml").display().to_string();

        let printed = run(&decoy, &["line", "--config", &config, "--address", ADDRESS])?;
        let said = String::from_utf8(printed.stdout)?;
        let line = said.lines().next().context("a line")?;
        let fingerprint = fs::read_to_string("/var/lib/tor/fingerprint")?;
        let fingerprint = fingerprint.split_whitespace().nth(1).context("a fingerprint")?;
        ensure!(line.starts_with(&format!("Bridge qnet {ADDRESS} {fingerprint} key=")), "{said}");
        let client = network.client(&Pt::qnet(&decoy)?, line)?;
        download(client.socks, &file, |_| Ok(()))?;

        let users = || outcomes(&run(&decoy, &["check", "--json", line])?);
        let own = || outcomes(&run(&decoy, &["check", "--json", "--config", &config])?);
        let (whole, findings) = users()?;
        ensure!(whole && names(&findings).last() == Some(&("tor", "ok")), "{findings:?}");
        let (whole, findings) = own()?;
        ensure!(whole && names(&findings).last() == Some(&("behind", "ok")), "{findings:?}");
        let words = findings.last().map(|(.., words)| words.as_str());
        ensure!(words == Some("tor's ORPort answers at 127.0.0.1:9001"), "{words:?}");
        relay.stop()?;
        let (whole, findings) = users()?;
        ensure!(!whole && names(&findings).last() == Some(&("tor", "failed")), "{findings:?}");
        let (whole, findings) = own()?;
        ensure!(!whole && names(&findings).last() == Some(&("behind", "failed")), "{findings:?}");
        Ok(())
    })
}
