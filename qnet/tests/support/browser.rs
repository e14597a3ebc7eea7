//! Chromium, driven by playwright-core: `tests/browser/page.js` has what is looked at.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use super::Proxy;

/// Where `./dev test` installs what the lockfile in `tests/browser` names: beside this build.
fn modules() -> Result<PathBuf> {
    let test = std::env::current_exe()?;
    let target = test.ancestors().nth(3).context("a test is in a build's folder")?;
    let modules = target.join("browser/node_modules");
    ensure!(modules.is_dir(), "{} is not there: ./dev test makes it", modules.display());
    Ok(modules)
}

fn command(check: &str, proxy: &Proxy, more: &[&str]) -> Result<Command> {
    let mut command = Command::new("node");
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/browser/page.js"));
    command.args([check, &format!("http://{}/", proxy.status)]).args(more);
    command.env("NODE_PATH", modules()?);
    Ok(command)
}

/// Has a look at the proxy's page in a browser.
pub fn look(check: &str, proxy: &Proxy, more: &[&str]) -> Result<()> {
    let output = command(check, proxy, more)?.stdin(Stdio::null()).output();
    let output = output.context("node (package nodejs) does not start")?;
    ensure!(output.status.success(), "{check} {more:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// A page that is looked at over time.
pub struct Watched {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Watched {
    /// Opens it. `more`: what it is to say first, next and so on; each, several words joined by `|`.
    pub fn open(proxy: &Proxy, more: &[&str]) -> Result<Self> {
        let mut child = command("follows", proxy, more)?
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("node (package nodejs) does not start")?;
        let input = child.stdin.take().context("its input is a pipe")?;
        let output = BufReader::new(child.stdout.take().context("its output is a pipe")?);
        Ok(Self { child, input, output })
    }

    /// Waits until it says what is next.
    pub fn says(&mut self, words: &str) -> Result<()> {
        let mut said = String::new();
        self.output.read_line(&mut said)?;
        ensure!(said.trim_end() == words, "the page does not say {words}: {said}");
        Ok(())
    }

    /// Lets it look for the next.
    pub fn go_on(&mut self) -> Result<()> {
        Ok(self.input.write_all(b"\n")?)
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
