//! Which pluggable transport a test drives: everything that differs between one and another.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::decoy::Decoy;

/// A transport as tor is told about it.
#[derive(Clone, Debug)]
pub struct Pt {
    /// The name in `ClientTransportPlugin`, `ServerTransportPlugin` and `Bridge` lines.
    pub name: String,
    /// The program.
    pub binary: PathBuf,
    /// `ServerTransportOptions`, each `key=value`.
    pub server_options: Vec<String>,
    /// Arguments a bridge line needs besides those the bridge itself publishes, each `key=value`.
    pub bridge_args: Vec<String>,
    /// Environment of the bridge's and the client's tor, handed on to the transport.
    pub environment: Vec<(String, String)>,
}

impl Pt {
    /// Debian's obfs4proxy: the peer that proves the harness itself.
    #[must_use]
    pub fn obfs4() -> Self {
        Self {
            name: "obfs4".into(),
            binary: "/usr/bin/obfs4proxy".into(),
            server_options: Vec::new(),
            bridge_args: Vec::new(),
            environment: Vec::new(),
        }
    }

    /// QNet before `decoy`.
    ///
    /// # Errors
    /// The program does not build.
    pub fn qnet(decoy: &Decoy) -> Result<Self> {
        Ok(Self::qnet_by(qnet_pt()?, decoy))
    }

    /// The same by a program that is there.
    #[must_use]
    pub fn qnet_by(binary: PathBuf, decoy: &Decoy) -> Self {
        Self {
            name: "qnet".into(),
            binary,
            server_options: vec![format!("decoy={}", decoy.address()), format!("sni={}", decoy.name())],
            bridge_args: Vec::new(),
            environment: vec![("SSL_CERT_FILE".into(), decoy.certificates().ca.display().to_string())],
        }
    }
}

/// The line a client uses, from the text of the file `bridgelines` that a bridge's tor writes.
///
/// tor writes `Bridge <name> <address it guesses> <fingerprint> <args>`, and separates the args by spaces.
///
/// # Errors
/// The file holds no line for this transport.
pub fn bridge_line(pt: &Pt, bridgelines: &str) -> Result<String> {
    let prefix = format!("Bridge {} ", pt.name);
    let line = bridgelines.lines().find(|line| line.starts_with(&prefix));
    let mut line = line.with_context(|| format!("no line of `{prefix}` in {bridgelines:?}"))?.to_owned();
    for arg in &pt.bridge_args {
        line.push(' ');
        line.push_str(arg);
    }
    Ok(line)
}

/// The pluggable transport, built from this source now.
///
/// # Errors
/// It does not build.
pub fn qnet_pt() -> Result<PathBuf> {
    built("qnet-pt")
}

/// A program of this workspace, built from this source now: what tests of another program may meet and not depend on.
///
/// # Errors
/// It does not build.
pub fn built(package: &str) -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = Command::new(cargo)
        .args(["build", "--quiet", "--locked", "--offline", "--package", package])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .status()
        .context("cargo does not start")?;
    ensure!(built.success(), "{package} does not build");
    // This test is in `deps` of the folder that the program is in.
    let exe = std::env::current_exe()?;
    let folder = exe.parent().and_then(Path::parent).context("a test has a folder")?;
    Ok(folder.join(package))
}
