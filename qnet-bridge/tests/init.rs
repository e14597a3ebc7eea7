//! `init` on a folder that stands for a fresh machine, with a real web server, and its unit before systemd's own verifier.
#![forbid(unsafe_code)]

mod support;

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Output},
};

use anyhow::{Context as _, Result, ensure};
use qnet_tests::support::{
    decoy::{Decoy, NAME, Options, Server},
    isolate::isolated,
    site,
};
use support::program;

fn init(root: &Path, decoy: &Decoy, more: &[&str]) -> Result<Output> {
    let mut command = program();
    command.args([
        "init",
        "--address",
        "192.0.2.7:443",
        "--sni",
        NAME,
        "--decoy",
        &decoy.address().to_string(),
    ]);
    command.arg("--root").arg(root).args(more).env("SSL_CERT_FILE", &decoy.certificates().ca);
    Ok(command.output()?)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Every file below `root`: its path, mode and content.
fn tree(root: &Path) -> Result<BTreeMap<String, (u32, Vec<u8>)>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let mode = fs::metadata(&path)?.permissions().mode() & 0o777;
                let name = path.strip_prefix(root)?.display().to_string();
                found.insert(name, (mode, fs::read(&path)?));
            }
        }
    }
    Ok(found)
}

#[test]
fn a_bridge_before_tor_twice_the_same() -> Result<()> {
    isolated("a_bridge_before_tor_twice_the_same", || {
        let decoy = Decoy::start(Server::Nginx, Options::default())?;
        let folder = tempfile::tempdir()?;
        let root = folder.path();
        fs::create_dir_all(root.join("etc/tor"))?;
        fs::write(root.join("etc/tor/torrc"), "Log notice syslog\n")?;
        let flags = ["--behind", "tor", "--nickname", "MyBridge", "--contact", "me at example.com"];
        let output = init(root, &decoy, &flags)?;
        ensure!(output.status.success(), "{output:?}");
        let said = text(&output.stdout);
        ensure!(
            said.contains("systemctl enable --now qnet-bridge") && said.contains("fingerprint yet"),
            "{said}"
        );
        let first = tree(root)?;
        let names: Vec<&str> = first.keys().map(String::as_str).collect();
        assert_eq!(
            names,
            [
                "etc/qnet-bridge/bridge.toml",
                "etc/systemd/system/qnet-bridge.service",
                "etc/tor/qnet.torrc",
                "etc/tor/torrc",
                "var/lib/qnet-bridge/qnet_identity",
            ]
        );
        assert_eq!(first["var/lib/qnet-bridge/qnet_identity"].0, 0o600);
        assert_eq!(text(&first["etc/tor/torrc"].1), "Log notice syslog\n%include /etc/tor/qnet.torrc\n");

        fs::create_dir_all(root.join("var/lib/tor"))?;
        let fingerprint = "A1".repeat(20);
        fs::write(root.join("var/lib/tor/fingerprint"), format!("MyBridge {fingerprint}\n"))?;
        let again = init(root, &decoy, &flags)?;
        let said = text(&again.stdout);
        ensure!(
            again.status.success() && !said.contains("written") && said.matches("unchanged").count() == 5,
            "{said}"
        );
        let line = said.lines().find(|line| line.starts_with("Bridge qnet ")).context("a line")?;
        ensure!(
            line.starts_with(&format!("Bridge qnet 192.0.2.7:443 {fingerprint} key=")) && said.contains('█'),
            "{said}"
        );
        let mut second = tree(root)?;
        second.remove("var/lib/tor/fingerprint");
        ensure!(first == second, "the second time changed something");

        // tor itself takes what was written.
        let torrc = root.join("torrc");
        fs::write(
            &torrc,
            format!(
                "DataDirectory {}\n%include {}\n",
                root.join("data").display(),
                root.join("etc/tor/qnet.torrc").display()
            ),
        )?;
        let verified = Command::new("tor").arg("--verify-config").arg("-f").arg(&torrc).output()?;
        ensure!(verified.status.success(), "{}", text(&verified.stdout));
        Ok(())
    })
}

#[test]
fn what_is_there_is_never_overwritten() -> Result<()> {
    isolated("what_is_there_is_never_overwritten", || {
        let decoy = Decoy::start(Server::Nginx, Options::default())?;
        let folder = tempfile::tempdir()?;
        let root = folder.path();
        ensure!(init(root, &decoy, &["--behind", "web"])?.status.success());
        let before = tree(root)?;
        let other = init(root, &decoy, &["--behind", "tor"])?;
        ensure!(
            !other.status.success()
                && text(&other.stderr).contains("bridge.toml is there and says something else"),
            "{other:?}"
        );
        ensure!(tree(root)? == before, "something was written");
        let replaced = init(root, &decoy, &["--behind", "tor", "--replace"])?;
        ensure!(replaced.status.success(), "{replaced:?}");
        let after = tree(root)?;
        let (key, config) = ("var/lib/qnet-bridge/qnet_identity", "etc/qnet-bridge/bridge.toml");
        ensure!(after[key] == before[key], "the key was changed");
        ensure!(after["etc/qnet-bridge/bridge.toml.old"].1 == before[config].1);

        let key = root.join(key);
        fs::set_permissions(&key, fs::Permissions::from_mode(0o640))?;
        let open = init(root, &decoy, &["--behind", "tor"])?;
        ensure!(!open.status.success() && text(&open.stderr).contains("chmod 600"), "{open:?}");
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600))?;
        fs::write(&key, "damaged")?;
        let damaged = init(root, &decoy, &["--behind", "tor"])?;
        ensure!(!damaged.status.success() && fs::read(&key)? == b"damaged", "{damaged:?}");
        Ok(())
    })
}

#[test]
fn nothing_is_written_for_a_site_that_cannot_be_a_decoy() -> Result<()> {
    isolated("nothing_is_written_for_a_site_that_cannot_be_a_decoy", || {
        let decoy = Decoy::start(Server::Nginx, Options { tls13: false, ..Options::default() })?;
        let folder = tempfile::tempdir()?;
        let output = init(folder.path(), &decoy, &["--behind", "web"])?;
        ensure!(!output.status.success() && text(&output.stderr).contains("no TLS 1.3"), "{output:?}");
        ensure!(tree(folder.path())?.is_empty());
        let flags = init(folder.path(), &decoy, &[])?;
        ensure!(text(&flags.stderr).contains("--behind tor|web"), "{flags:?}");
        ensure!(init(folder.path(), &decoy, &["--behind", "web", "--unchecked"])?.status.success());
        // What was written runs: the settings are taken.
        let config = folder.path().join("etc/qnet-bridge/bridge.toml");
        let checked = program().args(["run", "--check-config", "--config"]).arg(&config).output()?;
        ensure!(checked.status.success(), "{checked:?}");
        Ok(())
    })
}

#[test]
fn a_site_of_the_bridges_own_needs_only_a_domain() -> Result<()> {
    isolated("a_site_of_the_bridges_own_needs_only_a_domain", || {
        let root = tempfile::tempdir()?;
        let (root, site) = (root.path(), "/var/www/si\"te");
        let there = root.join(&site[1..]);
        site::write(&there)?;
        let run = |more: &[&str]| {
            let mut command = program();
            let flags = ["--address", "192.0.2.7:443", "--behind", "web", "--domain", NAME, "--site", site];
            command.arg("init").args(flags).arg("--root").arg(root).args(more).output()
        };
        let refused = run(&[])?;
        ensure!(
            !refused.status.success() && text(&refused.stderr).contains("acme-terms-agreed = true"),
            "{refused:?}"
        );
        ensure!(!root.join("etc").exists());
        let mail = run(&["--acme-contact", "me@example.com"])?;
        ensure!(!mail.status.success() && text(&mail.stderr).contains("--acme-terms-agreed"), "{mail:?}");
        let authority = ["--acme-contact", "me@example.com", "--acme-directory", "https://ca.example/dir"];
        let made = run(&[&["--acme-terms-agreed"], &authority[..]].concat())?;
        ensure!(made.status.success(), "{made:?}");
        let config = fs::read_to_string(root.join("etc/qnet-bridge/bridge.toml"))?;
        for setting in
            ["acme-contact = \"mailto:me@example.com\"", "acme-directory = \"https://ca.example/dir\""]
        {
            ensure!(config.lines().any(|line| line == setting), "{config}");
        }
        let made = run(&["--acme-terms-agreed", "--replace"])?;
        ensure!(made.status.success() && text(&made.stdout).contains(&format!("sni={NAME}")), "{made:?}");
        let config = root.join("etc/qnet-bridge/bridge.toml");
        let check = |more: &[&str]| {
            let mut command = program();
            command.args(["run", "--check-config", "--config"]).arg(&config).args(more).output()
        };
        // On this machine the site is not where the settings have it.
        let elsewhere = check(&[])?;
        let said = text(&elsewhere.stderr);
        ensure!(!elsewhere.status.success() && said.contains(&format!("the site {site}")), "{said}");
        let checked = check(&["--site", there.to_str().context("UTF-8")?])?;
        ensure!(checked.status.success(), "{checked:?}");
        ensure!(fs::read_to_string(&config)?.contains("\"reject 192.0.2.7:*\", \"accept *:80"));
        Ok(())
    })
}

#[test]
fn a_path_that_everybody_could_read_is_kept_and_closed() -> Result<()> {
    // Its look at where the name leads must not leave this machine.
    isolated("a_path_that_everybody_could_read_is_kept_and_closed", || {
        let folder = tempfile::tempdir()?;
        let root = folder.path();
        let pages = root.join("var/www/html");
        site::write(&pages)?;
        let flags = [
            "--behind",
            "web",
            "--domain",
            NAME,
            "--site",
            "/var/www/html",
            "--acme-terms-agreed",
            "--websocket",
        ];
        let run = |more: &[&str]| {
            let mut command = program();
            command.args(["init", "--address", "192.0.2.7:443", "--root"]).arg(root);
            command.args(flags).args(more).output()
        };
        // As an older version had it.
        let config = root.join("etc/qnet-bridge/bridge.toml");
        fs::create_dir_all(root.join("etc/qnet-bridge"))?;
        let site = "site = \"/var/www/html\"\nacme-terms-agreed = true";
        fs::write(&config, format!("{site}\ndomain = \"{NAME}\"\nurl = \"https://{NAME}/mine\"\n"))?;
        let other = run(&[])?;
        ensure!(!other.status.success() && text(&other.stderr).contains("says something else"), "{other:?}");
        let made = run(&["--replace"])?;
        ensure!(
            made.status.success() && text(&made.stdout).contains(&format!("url=https://{NAME}/mine")),
            "{made:?}"
        );
        let files = tree(root)?;
        let holders: Vec<(&str, u32)> = files
            .iter()
            .filter(|(_, (_, content))| text(content).contains("/mine"))
            .map(|(name, (mode, _))| (name.as_str(), *mode))
            .collect();
        assert_eq!(holders, [("etc/qnet-bridge/bridge.toml.old", 0o640), ("var/lib/qnet-bridge/url", 0o600)]);
        // What was written is taken, by whoever may read all of it.
        let checked = |url: &Path| {
            let mut command = program();
            command
                .args(["run", "--check-config", "--config"])
                .arg(&config)
                .arg("--url-file")
                .arg(url)
                .arg("--site")
                .arg(&pages)
                .output()
        };
        let url = root.join("var/lib/qnet-bridge/url");
        ensure!(checked(&url)?.status.success());
        fs::set_permissions(&url, fs::Permissions::from_mode(0o644))?;
        let open = checked(&url)?;
        ensure!(!open.status.success() && text(&open.stderr).contains("chmod o="), "{open:?}");
        let closed = run(&[])?;
        ensure!(text(&closed.stdout).contains(&format!("changed    {}", url.display())), "{closed:?}");
        ensure!(checked(&url)?.status.success() && tree(root)? == files);
        Ok(())
    })
}

#[test]
fn a_bridge_by_invitation_begins_with_nobody_and_keeps_its_list() -> Result<()> {
    let root = tempfile::tempdir()?;
    let run = |verb: &[&str]| program().args(verb).arg("--root").arg(root.path()).output();
    let flags = [
        "init",
        "--address",
        "192.0.2.7:443",
        "--behind",
        "web",
        "--decoy",
        "127.0.0.1:8443",
        "--sni",
        NAME,
        "--unchecked",
        "--by-invitation",
    ];
    let made = run(&flags)?;
    let said = text(&made.stdout);
    ensure!(
        made.status.success() && said.contains("qnet-bridge invite NAME --address 192.0.2.7:443"),
        "{made:?}"
    );
    ensure!(!said.contains("Bridge qnet "), "a line that nobody can use: {said}");
    let first = tree(root.path())?;
    let list = "var/lib/qnet-bridge/invited";
    assert_eq!(first[list], (0o600, b"qnet invited clients, version 1\n".to_vec()));
    let config = text(&first["etc/qnet-bridge/bridge.toml"].1);
    ensure!(config.contains("\ninvited = \"/var/lib/qnet-bridge/invited\"\n"), "{config}");
    // Who was invited since stays so.
    let list = root.path().join(list);
    let config = root.path().join("etc/qnet-bridge/bridge.toml");
    let state = root.path().join("var/lib/qnet-bridge");
    let here = text(&fs::read(&config)?).replace("/var/lib/qnet-bridge/invited", &list.display().to_string())
        + &format!("state = \"{}\"\n", state.display());
    let elsewhere = root.path().join("bridge.toml");
    fs::write(&elsewhere, here)?;
    let invite = ["invite", "alice", "--plain", "--address", "192.0.2.7:443", "--tor-data", "/nowhere"];
    let invited = program().args(invite).arg("--config").arg(&elsewhere).output()?;
    ensure!(invited.status.success() && text(&invited.stdout).contains(" invite="), "{invited:?}");
    let before = fs::read(&list)?;
    let again = run(&flags)?;
    ensure!(again.status.success() && !text(&again.stdout).contains("written"), "{again:?}");
    ensure!(fs::read(&list)? == before, "the list was changed");
    // A damaged list is left as it is, and said.
    fs::write(&list, "damaged\n")?;
    let damaged = run(&flags)?;
    ensure!(!damaged.status.success() && fs::read(&list)? == b"damaged\n", "{damaged:?}");
    Ok(())
}

#[test]
fn systemd_finds_nothing_wrong_with_the_unit_and_little_exposed() -> Result<()> {
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/init/qnet-bridge.service");
    // The program is not installed here: a shell that is there stands in for it.
    let folder = tempfile::tempdir()?;
    let copy = folder.path().join("qnet-bridge.service");
    fs::write(&copy, fs::read_to_string(&unit)?.replace("/usr/bin/qnet-bridge", "/bin/sh"))?;
    let verified = Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&copy).output()?;
    let about_us = text(&verified.stderr).lines().any(|line| line.contains("qnet-bridge.service"));
    ensure!(!about_us, "{}", text(&verified.stderr));
    // Its own scale goes from 0 to 10, less is better; "OK" ends at 5.
    let security = Command::new("systemd-analyze")
        .args(["security", "--offline=true", "--threshold=20"])
        .arg(&copy)
        .output()?;
    ensure!(security.status.success(), "{}", text(&security.stdout));
    Ok(())
}
