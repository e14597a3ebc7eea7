//! `qnet-bridge invite`, `revoke` and `invited`, and a bridge that goes by their list.
#![forbid(unsafe_code)]

mod support;

use std::{
    fs,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::Output,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use qnet_proto::Ended;
use qnet_tests::support::{
    decoy::{Decoy, Options, Server},
    isolate::isolated,
    process::{self, Running},
    tunnel::{self, runtime},
};
use qnet_transport::client::DialError;
use qnet_wire::{bridge_line::BridgeLine, target::Answer};
use support::{ask, echo, program, round};
use tempfile::TempDir;

const LIMIT: Duration = Duration::from_secs(30);

/// A folder with a bridge's settings and its key's folder.
struct Files {
    folder: TempDir,
}

impl Files {
    fn new(listen: &str, decoy: &str, sni: &str, more: &str) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        fs::DirBuilder::new().mode(0o700).create(folder.path().join("state"))?;
        let files = Self { folder };
        let text = format!(
            "listen = \"{listen}\"\nstate = \"{}\"\ndecoy = \"{decoy}\"\nsni = [\"{sni}\"]\n{more}\n",
            files.state().display()
        );
        fs::write(files.config(), text)?;
        Ok(files)
    }

    /// By invitation, and with a key.
    fn by_invitation(listen: &str, decoy: &str, sni: &str, more: &str) -> Result<Self> {
        let files = Self::new(listen, decoy, sni, more)?;
        let mut text = fs::read_to_string(files.config())?;
        text.push_str(&format!("invited = \"{}\"\n", files.list().display()));
        fs::write(files.config(), text)?;
        qnet_transport::identity::load_or_create(&files.state())?;
        Ok(files)
    }

    fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    fn config(&self) -> PathBuf {
        self.folder.path().join("bridge.toml")
    }

    fn list(&self) -> PathBuf {
        self.state().join("invited")
    }

    fn call(&self, args: &[&str]) -> Result<Output> {
        let config = self.config();
        let no_tor = self.folder.path().join("no-tor");
        let paths = ["--config".as_ref(), config.as_path()];
        let mut command = program();
        command.args(args).args(paths);
        if args.first() == Some(&"invite") {
            command.arg("--tor-data").arg(no_tor);
        }
        Ok(command.output()?)
    }

    fn invite(&self, name: &str) -> Result<BridgeLine> {
        let output = self.call(&["invite", name, "--plain"])?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?.parse()?)
    }

    /// What is said when something is wrong.
    fn refused(&self, args: &[&str]) -> Result<String> {
        let output = self.call(args)?;
        ensure!(!output.status.success(), "{args:?} was done");
        ensure!(output.stdout.is_empty(), "{args:?} printed something");
        Ok(String::from_utf8(output.stderr)?)
    }
}

/// A bridge that needs no decoy: it is not run.
fn files() -> Result<Files> {
    Files::by_invitation("192.0.2.7:443", "127.0.0.1:8443", "www.example.com", "")
}

#[test]
fn an_invitation_is_a_line_with_a_secret_and_a_public_key_in_the_list() -> Result<()> {
    let files = files()?;
    let (alice, bob) = (files.invite("alice")?, files.invite("bob-2")?);
    let (one, other) = (alice.invitation.clone().context("a secret")?, bob.invitation.context("a secret")?);
    assert!(one != other && alice.key == bob.key && alice.address == "192.0.2.7:443".parse()?);
    let text = fs::read_to_string(files.list())?;
    let (first, second) = (one.key().public(), other.key().public());
    assert_eq!(text, format!("qnet invited clients, version 1\nalice {first}\nbob-2 {second}\n"));
    assert!(!text.contains(one.expose_text().as_str()), "the secret is kept");
    assert_eq!(fs::metadata(files.list())?.permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read_dir(files.state())?.count(), 2, "the key and the list, and nothing else");

    let output = files.call(&["invite", "carol"])?;
    let said = String::from_utf8(output.stdout)?;
    assert!(output.status.success() && said.contains("The line for carol and for nobody else"), "{said}");
    assert!(said.contains(" invite=") && said.contains('█'), "{said}");

    assert!(files.call(&["revoke", "alice"])?.status.success());
    let text = fs::read_to_string(files.list())?;
    assert!(!text.contains("alice") && text.contains("bob-2") && text.contains("carol"), "{text}");
    Ok(())
}

#[test]
fn the_list_is_told_in_words_and_as_json() -> Result<()> {
    let files = files()?;
    let said = |args: &[&str]| -> Result<String> {
        let output = files.call(args)?;
        ensure!(output.status.success(), "{output:?}");
        Ok(String::from_utf8(output.stdout)?)
    };
    assert!(files.refused(&["invited"])?.contains("there is no list"));
    let (alice, bob) = (files.invite("alice")?, files.invite("bob-2")?);
    let key = |line: &BridgeLine| -> Result<String> {
        Ok(line.invitation.as_ref().context("a secret")?.key().public().to_string())
    };
    let (alice, bob) = (key(&alice)?, key(&bob)?);
    assert_eq!(said(&["invited"])?, format!("alice  {alice}\nbob-2  {bob}\n"));
    let json: serde_json::Value = serde_json::from_str(&said(&["invited", "--json"])?)?;
    let both = serde_json::json!([{ "name": "alice", "key": alice }, { "name": "bob-2", "key": bob }]);
    assert_eq!(json, serde_json::json!({ "clients": both }));
    said(&["revoke", "alice"])?;
    assert_eq!(said(&["invited"])?, format!("bob-2  {bob}\n"));
    said(&["revoke", "bob-2"])?;
    assert_eq!(said(&["invited"])?, "nobody is invited\n");
    assert_eq!(said(&["invited", "--json"])?, "{\n  \"clients\": []\n}\n");
    Ok(())
}

#[test]
fn what_a_careless_operator_does_is_refused_in_words() -> Result<()> {
    let files = files()?;
    files.invite("alice")?;
    let before = fs::read(files.list())?;
    for (args, words) in [
        (
            &["invite", "alice"][..],
            &["alice is invited already", "invited stays as it is", "another name"][..],
        ),
        (&["revoke", "bob"], &["nobody of the name bob is invited", "invited stays as it is"]),
        (&["invite", "al ice"], &["'al ice'", "1 to 32 letters, digits"]),
        (&["invite", "-x"], &["-x"]),
        (&["invite", ""], &["1 to 32 letters"]),
        (&["revoke", "a/b"], &["'a/b'", "1 to 32 letters"]),
        (&["line"], &["by invitation", "`qnet-bridge invite NAME`"]),
    ] {
        let said = files.refused(args)?;
        assert!(words.iter().all(|word| said.contains(word)), "{args:?}: {said}");
        assert_eq!(fs::read(files.list())?, before, "{args:?}");
    }
    // A damaged list: the file, the line and what was expected. It is left as it is.
    let damaged = String::from_utf8(before)?.replace("alice ", "alice");
    fs::write(files.list(), &damaged)?;
    for args in
        [&["invite", "bob"][..], &["revoke", "alice"], &["invited"], &["run", "--check-config"], &["run"]]
    {
        let said = files.refused(args)?;
        let path = files.list().display().to_string();
        for word in [path.as_str(), "line 2", "expected a name, a space and a key of 43 letters"] {
            assert!(said.contains(word), "{args:?}: {said}");
        }
        assert_eq!(fs::read_to_string(files.list())?, damaged, "{args:?}");
    }
    fs::set_permissions(files.list(), fs::Permissions::from_mode(0o666))?;
    assert!(files.refused(&["invite", "bob"])?.contains("chmod 600"));
    // No list at all: `invite` makes one, the others say so.
    fs::remove_file(files.list())?;
    for args in [&["revoke", "alice"][..], &["run"], &["run", "--check-config"]] {
        let said = files.refused(args)?;
        assert!(said.contains("there is no list") && said.contains("`qnet-bridge invite NAME`"), "{said}");
    }
    Ok(())
}

#[test]
fn an_open_bridge_invites_nobody_and_says_how_it_would() -> Result<()> {
    let files = Files::new("192.0.2.7:443", "127.0.0.1:8443", "www.example.com", "")?;
    for args in [&["invite", "alice"][..], &["revoke", "alice"], &["invited"]] {
        let said = files.refused(args)?;
        assert!(said.contains("set invited = ") && said.contains("bridge.toml"), "{said}");
    }
    assert_eq!(fs::read_dir(files.state())?.count(), 0);
    // A name that leaves no room in the line: nothing is written.
    let long = ["a".repeat(60), "b".repeat(60), "example".to_owned()].join(".");
    let files = Files::by_invitation("192.0.2.7:443", "127.0.0.1:8443", &long, "")?;
    let said = files.refused(&["invite", "alice"])?;
    assert!(said.contains("longer than 250 bytes"), "{said}");
    assert!(!files.list().exists());
    Ok(())
}

#[test]
fn a_bridge_that_tor_starts_has_its_line_from_tor_and_its_list_where_it_is_said() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (tor, list, none) =
        (folder.path().join("tor"), folder.path().join("invited"), folder.path().join("bridge.toml"));
    fs::create_dir(&tor)?;
    let fingerprint = "0123456789ABCDEF0123456789ABCDEF01234567";
    fs::write(tor.join("fingerprint"), format!("Unnamed {fingerprint}\n"))?;
    let key = qnet_wire::key::IdentityKey::from_bytes([7; 32]).public();
    let line = format!("Bridge qnet 192.0.2.7:443 {fingerprint} key={key} sni=www.example.com");
    fs::write(tor.join("bridgelines"), format!("# some words\n{line}\n"))?;
    let call = |verb: &str, more: &[&Path]| {
        let mut command = program();
        command.args([verb, "alice", "--config"]).arg(&none).arg("--invited").arg(&list).args(more);
        command.output()
    };
    let invited = call("invite", &["--plain".as_ref(), "--tor-data".as_ref(), &tor])?;
    let said = String::from_utf8(invited.stdout)?;
    assert!(said.starts_with(&format!("{line} invite=")), "{said}{}", String::from_utf8(invited.stderr)?);
    assert_eq!(qnet_transport::admission::read(&list)?.clients().len(), 1);
    assert!(call("revoke", &[])?.status.success());
    assert_eq!(qnet_transport::admission::read(&list)?.clients().len(), 0);
    // Behind a web server there is nothing to invite to.
    let line =
        format!("Bridge qnet 192.0.2.7:443 {fingerprint} key={key} url=https://www.example.com/a7Ge93kd");
    fs::write(tor.join("bridgelines"), format!("{line}\n"))?;
    let refused = call("invite", &["--tor-data".as_ref(), &tor])?;
    let said = String::from_utf8(refused.stderr)?;
    assert!(!refused.status.success() && said.contains("with url=, invites nobody"), "{said}");
    Ok(())
}

#[test]
fn invitations_at_the_same_time_are_all_kept() -> Result<()> {
    let files = files()?;
    let all: Vec<_> = (0..8)
        .map(|number| {
            let mut command = program();
            command.args(["invite", &format!("client-{number}"), "--plain", "--tor-data"]);
            command.arg(files.folder.path().join("no-tor")).arg("--config").arg(files.config());
            command.stdout(std::process::Stdio::null()).spawn()
        })
        .collect::<Result<_, _>>()?;
    for mut child in all {
        ensure!(child.wait()?.success());
    }
    assert_eq!(qnet_transport::admission::read(&files.list())?.clients().len(), 8);
    Ok(())
}

#[test]
fn a_list_belongs_to_whom_its_folder_belongs_to() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        // Only root can give a file away.
        return Ok(());
    }
    let files = files()?;
    std::os::unix::fs::chown(files.state(), Some(12_345), Some(12_346))?;
    files.invite("alice")?;
    let list = fs::metadata(files.list())?;
    assert_eq!((list.uid(), list.gid()), (12_345, 12_346));
    // One that is there keeps its owner and mode.
    std::os::unix::fs::chown(files.list(), Some(0), Some(12_346))?;
    fs::set_permissions(files.list(), fs::Permissions::from_mode(0o640))?;
    files.invite("bob")?;
    let list = fs::metadata(files.list())?;
    assert_eq!((list.uid(), list.gid(), list.mode() & 0o777), (0, 12_346, 0o640));
    Ok(())
}

/// `run`, until it listens.
fn run(files: &Files, decoy: &Decoy) -> Result<Running> {
    let log = files.folder.path().join("log");
    let mut command = program();
    command.args(["run", "--config"]).arg(files.config());
    command.env("SSL_CERT_FILE", &decoy.certificates().ca).stderr(fs::File::create(&log)?);
    let mut running = Running::start("qnet-bridge", &mut command)?;
    process::wait_for("the bridge", LIMIT, || {
        let said = fs::read_to_string(&log)?;
        ensure!(running.ended()?.is_none(), "the bridge ended: {said}");
        Ok(said.contains("for invited clients").then_some(()))
    })?;
    Ok(running)
}

fn logs(log: &Path, words: &str) -> Result<()> {
    process::wait_for(words, LIMIT, || Ok(fs::read_to_string(log)?.contains(words).then_some(())))
}

#[test]
fn a_bridge_that_runs_goes_by_the_list_as_it_changes() -> Result<()> {
    isolated("a_bridge_that_runs_goes_by_the_list_as_it_changes", || {
        runtime()?.block_on(async {
            let (decoy, echo) = (Decoy::start(Server::Nginx, Options::default())?, echo().await?.to_string());
            let files = Files::by_invitation(
                &process::free_address()?.to_string(),
                &decoy.address().to_string(),
                decoy.name(),
                "allow-special = true\nexit-policy = [\"accept *:*\"]",
            )?;
            let alice = files.invite("alice")?;
            let bridge = run(&files, &decoy)?;
            let dialer = tunnel::dialer(&decoy)?;
            let bob = files.invite("bob")?;
            let log = files.folder.path().join("log");
            logs(&log, "read again: 2 clients; 0 sessions")?;
            let (alices, bobs) = (dialer.dial(&alice).await?, dialer.dial(&bob).await?);
            let (mut stream, said) = ask(&alices, &echo).await?;
            assert_eq!(said, Answer::Connected);
            let plain = BridgeLine { invitation: None, ..alice.clone() };
            let stranger = dialer.dial(&plain).await.err().context("a stranger is let in")?;
            assert!(matches!(stranger, DialError::Tunnel(Ended::NoProof)), "{stranger}");

            assert!(files.call(&["revoke", "alice"])?.status.success());
            let begun = Instant::now();
            let why =
                tokio::time::timeout(LIMIT, alices.closed()).await.context("alice's session goes on")?;
            assert_eq!(why, Ended::PeerClosed);
            assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
            assert!(tokio::io::AsyncWriteExt::write_all(&mut stream, b"?").await.is_err());
            let refused = dialer.dial(&alice).await.err().context("a revoked client is let in")?;
            assert!(matches!(refused, DialError::Tunnel(Ended::NoProof)), "{refused}");
            let (stream, _) = ask(&bobs, &echo).await?;
            assert_eq!(round(stream, b"bob is still there").await?, b"bob is still there");

            // A list damaged by hand changes nothing, and is named; SIGHUP reads it at once.
            fs::write(files.list(), "qnet invited clients, version 1\nbob\n")?;
            process::signal(bridge.pid(), rustix::process::Signal::HUP)?;
            logs(&log, "who is invited stays as it was: in the list of invited clients")?;
            assert_eq!(ask(&bobs, &echo).await?.1, Answer::Connected);
            let said = fs::read_to_string(&log)?;
            let secret = bob.invitation.as_ref().context("a secret")?.expose_text();
            for word in ["alice", "bob", secret.as_str()] {
                assert!(!said.contains(word), "{word} is in the log: {said}");
            }
            // The operator's own check cannot knock, and says so.
            let mut check = program();
            check.args(["check", "--config"]).arg(files.config());
            let checked = check.env("SSL_CERT_FILE", &decoy.certificates().ca).output()?;
            let said = String::from_utf8(checked.stdout)?;
            for words in
                ["in the list of invited clients", "line 2", "not tried: the bridge is by invitation"]
            {
                assert!(said.contains(words), "{said}");
            }
            Ok(())
        })
    })
}
