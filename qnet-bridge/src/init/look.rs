//! What is looked at before anything is written: what would keep the bridge from working is an error, what only may a warning.

use std::{
    fs,
    io::ErrorKind,
    net::{SocketAddr, TcpListener},
    os::unix::fs::PermissionsExt as _,
    path::{Component, Path, PathBuf},
};

use anyhow::{Context as _, Result, bail, ensure};
use qnet_transport::{connect::Connect, decoy::Place, decoy::Resolver, tls::Roots};
use qnet_wire::{error::chain, name::ServerName};

use super::{Behind, Decided, Init, holder};
use crate::{
    check,
    findings::{Findings, Outcome},
    run,
    settings::{Certificate, Decoy, Front},
    site::files::Files,
};

/// What the service does not see of the machine, by its unit's `ProtectHome=` and `PrivateTmp=` (systemd.exec(5)).
const HIDDEN: [&str; 5] = ["/home", "/root", "/run/user", "/tmp", "/var/tmp"];
/// Where packages and administrators put tor.
const TOR: [&str; 3] = ["/usr/bin/tor", "/usr/sbin/tor", "/usr/local/bin/tor"];
/// Where a certificate authority looks for the name (RFC 8737, section 3).
const ACME_PORT: u16 = 443;

/// Refuses what cannot work.
pub(super) async fn look(init: &Init, decided: &Decided) -> Result<()> {
    // The ports and the names of another machine cannot be seen from here.
    let here = init.root == Path::new("/");
    if here {
        port(decided.plan.listen)?;
    }
    match &decided.plan.decoy {
        Decoy::Server { place, third_party } => {
            examine(place, *third_party, &decided.plan.names).await?;
        }
        Decoy::Front(front) => reach(front).await?,
        Decoy::Site { folder, certificate, .. } => {
            site(init, folder)?;
            ensure!(
                matches!(certificate, Certificate::Files { .. }) || decided.address.port() == ACME_PORT,
                "--address {}: Let's Encrypt looks for the site at port {ACME_PORT}, where the bridge must be to get its certificate",
                decided.address
            );
        }
    }
    names(decided, here).await;
    if decided.behind == Behind::Tor && !TOR.iter().any(|place| init.below(place).exists()) {
        tracing::warn!("there is no tor here, which is to stand behind the bridge; run: apt install tor");
    }
    Ok(())
}

/// Refuses a port that another program has; a bridge that runs here already may have it.
fn port(listen: SocketAddr) -> Result<()> {
    match TcpListener::bind(listen) {
        Err(error) if error.kind() == ErrorKind::AddrInUse => {}
        // What else there is the service says when it starts, as another user than this one.
        Ok(_) | Err(_) => return Ok(()),
    }
    let programs = holder::of(listen.port());
    // The bridge itself, or systemd for it, by its socket unit.
    if programs.iter().any(|program| [holder::BRIDGE, holder::SYSTEMD].contains(&program.as_str())) {
        return Ok(());
    }
    let who = if programs.is_empty() { "another program".to_owned() } else { programs.join(", ") };
    bail!(
        "{who} has port {} already: a web server moves to loopback, for nginx by `listen 127.0.0.1:8443 ssl`",
        listen.port()
    )
}

/// Refuses a folder that the service could not serve.
fn site(init: &Init, folder: &Path) -> Result<()> {
    ensure!(
        folder.is_absolute(),
        "--site {}: give the whole path, which begins with a slash",
        folder.display()
    );
    let there = init.below(folder);
    Files::read(&there)?;
    let real = there.canonicalize().with_context(|| format!("cannot read {}", there.display()))?;
    let root = init.root.canonicalize().with_context(|| format!("cannot read {}", init.root.display()))?;
    for path in [plain(folder), Path::new("/").join(real.strip_prefix(&root).unwrap_or(&real))] {
        if let Some(hidden) = HIDDEN.iter().find(|hidden| path.starts_with(hidden)) {
            bail!(
                "--site {}: the service cannot see {hidden}; copy the site, to /var/www as a rule",
                folder.display()
            );
        }
    }
    // Up to the machine's root; what is above the one of another machine is not its.
    let above = real.ancestors().skip(1).take_while(|path| path.starts_with(&root));
    for path in above {
        let mode = fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?;
        if path != root && mode.permissions().mode() & 0o001 == 0 {
            tracing::warn!("{CLOSED} {0}; run: chmod o+x {0}", path.display());
        }
    }
    if let Some(closed) = closed(&real)? {
        tracing::warn!("{CLOSED} {}; run: chmod -R o+rX {}", closed.display(), folder.display());
    }
    Ok(())
}

/// Root sees what the service does not.
const CLOSED: &str = "the service has a user of its own, who may not read";

/// The path without `.` and `..`, as a reader takes it.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                plain.pop();
            }
            Component::CurDir => {}
            part => plain.push(part),
        }
    }
    plain
}

/// The first file or folder of a site that users other than its own and its group's cannot read. [`Files::read`] has seen that the site
/// has an end.
fn closed(path: &Path) -> Result<Option<PathBuf>> {
    let metadata = fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?;
    let needed = if metadata.is_dir() { 0o005 } else { 0o004 };
    if metadata.permissions().mode() & needed != needed {
        return Ok(Some(path.to_owned()));
    }
    if !metadata.is_dir() {
        return Ok(None);
    }
    for entry in fs::read_dir(path).with_context(|| format!("cannot read {}", path.display()))? {
        let entry = entry?;
        if !entry.file_name().as_encoded_bytes().starts_with(b".")
            && let Some(found) = closed(&entry.path())?
        {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// Warns where the site's names lead elsewhere.
async fn names(decided: &Decided, here: bool) {
    let mut findings = Findings::default();
    for name in &decided.plan.names {
        check::dns(name, decided.address.ip(), here, &mut findings).await;
    }
    for finding in findings.0.iter().filter(|finding| finding.outcome != Outcome::Ok) {
        tracing::warn!("{}", finding.words);
    }
}

/// Refuses an origin at which nothing answers.
async fn reach(front: &Front) -> Result<()> {
    run::reach(front.origin).await.with_context(|| {
        format!("nothing answers at --origin {}, where the web server has the site without TLS", front.origin)
    })
}

/// Refuses a site that cannot be a decoy.
async fn examine(place: &Place, third_party: bool, names: &[ServerName]) -> Result<()> {
    let address = place.resolve(third_party).await?;
    let roots = Roots::load().context("the certificates to check sites by")?;
    let resolver = Resolver::system(Connect::default());
    match qnet_transport::decoy::examine_all(address, names, &roots, &resolver).await {
        Ok(examined) => {
            for warning in examined.warnings {
                tracing::warn!("{warning}");
            }
            Ok(())
        }
        Err(refusal) => bail!("{}", chain(&refusal)),
    }
}
