//! A headless Chromium that opens one page.

use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};
use tempfile::TempDir;

/// A headless Chromium that opens one page, ended when dropped.
#[derive(Debug)]
pub struct Browser {
    child: Child,
    _profile: TempDir,
}

impl Browser {
    /// Opens `https://name:port/`, `name` being looked for on loopback, with further flags.
    ///
    /// # Errors
    /// Debian's package `chromium` is not installed.
    pub fn open(name: &str, port: u16, flags: &[&str]) -> Result<Self> {
        Self::open_page(name, port, "/", flags)
    }

    /// The same with another path.
    ///
    /// # Errors
    /// As for [`Self::open`].
    pub fn open_page(name: &str, port: u16, path: &str, flags: &[&str]) -> Result<Self> {
        let profile = TempDir::new()?;
        let child = Command::new("/usr/bin/chromium")
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"])
            .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
            .args(flags)
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg(format!("--host-resolver-rules=MAP {name} 127.0.0.1"))
            .arg(format!("https://{name}:{port}{path}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("chromium does not start: is it installed?")?;
        Ok(Self { child, _profile: profile })
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Not SIGKILL, which would leave its children behind.
        let _ = Command::new("/bin/kill").arg(self.child.id().to_string()).status();
        let _ = self.child.wait();
    }
}
