//! The example configurations are what tor accepts and what the transport understands.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};

fn examples() -> Result<Vec<PathBuf>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../torrc-examples");
    let mut found: Vec<PathBuf> =
        fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
    found.retain(|path| path.extension().is_some_and(|end| end == "torrc"));
    found.sort();
    Ok(found)
}

/// Whether tor takes a configuration without a warning, and what it said. Nothing is read from or written to the
/// system's folders.
fn verify(torrc: &Path) -> Result<(bool, String)> {
    let folder = tempfile::tempdir()?;
    let defaults = folder.path().join("defaults");
    fs::write(&defaults, "")?;
    let mut command = Command::new("tor");
    command.arg("--defaults-torrc").arg(&defaults).arg("-f").arg(torrc).arg("--verify-config");
    let output = command.arg("--DataDirectory").arg(folder.path().join("data")).output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let warned = said.lines().any(|line| line.contains("[warn]") && !line.contains("running Tor as root"));
    Ok((output.status.success() && !warned, said))
}

#[test]
fn tor_accepts_every_example_without_a_warning() -> Result<()> {
    let examples = examples()?;
    ensure!(examples.len() == 6, "{examples:?}");
    for example in examples {
        let (accepted, said) = verify(&example)?;
        ensure!(accepted, "{}: {said}", example.display());
    }
    Ok(())
}

/// What a user may choose from instead, in comments, is right too.
#[test]
fn tor_accepts_what_the_comments_offer() -> Result<()> {
    for example in examples()? {
        let text = fs::read_to_string(&example)?;
        for chosen in
            text.lines().filter(|line| line.starts_with('#') && !line.starts_with("# ") && line.len() > 1)
        {
            let option = chosen.trim_start_matches('#');
            let key = option.split(' ').next().unwrap_or_default();
            let family = |line: &&str| key.starts_with("Socks5") || !line.contains("Proxy");
            let needed = if key == "HTTPSProxyAuthenticator" { "HTTPSProxy 192.0.2.10:3128\n" } else { "" };
            let pair = match key {
                "Socks5ProxyUsername" => "Socks5ProxyPassword x\n",
                "Socks5ProxyPassword" => "Socks5ProxyUsername x\n",
                _ => "",
            };
            let kept: Vec<&str> = text.lines().filter(family).collect();
            let changed = tempfile::NamedTempFile::new()?;
            fs::write(changed.path(), format!("{}\n{needed}{pair}{option}\n", kept.join("\n")))?;
            let (accepted, said) = verify(changed.path())?;
            ensure!(accepted, "{option}: {said}");
        }
    }
    Ok(())
}

#[test]
fn a_mistake_is_noticed() -> Result<()> {
    let changed = tempfile::NamedTempFile::new()?;
    fs::write(changed.path(), "UseBridges 1\nClientTransportPlugin qnet /usr/local/bin/qnet-pt\n")?;
    ensure!(!verify(changed.path())?.0);
    Ok(())
}
