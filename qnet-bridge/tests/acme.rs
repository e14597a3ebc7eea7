//! A bridge that gets its site's certificate itself, through its own port, from an authority that checks everything.
#![forbid(unsafe_code)]

mod support;
#[path = "support/acme.rs"]
mod support_acme;

use std::{
    fs, net::SocketAddr, os::unix::fs::PermissionsExt as _, path::Path, process::Command, time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use qnet_tests::support::{
    decoy::NAME,
    isolate::isolated,
    process::{self, Running, free_address},
    site,
    tunnel::{dialer_with, runtime},
};
use qnet_wire::target::Answer;
use support::{ask, echo, program, round, start};
use support_acme::{Authority, HOST};

/// Lets the authority's name lead here, in this namespace alone.
fn name_the_authority(folder: &Path) -> Result<()> {
    let hosts = folder.join("hosts");
    fs::write(&hosts, format!("127.0.0.1 localhost {HOST}\n"))?;
    let status = Command::new("mount").arg("--bind").arg(&hosts).arg("/etc/hosts").status()?;
    ensure!(status.success(), "no mount");
    Ok(())
}

fn write_config(root: &Path, listen: SocketAddr, directory: &str) -> Result<()> {
    site::write(&root.join("site"))?;
    let text = format!(
        "listen = \"{listen}\"\nstate = \"{0}/state\"\nsite = \"{0}/site\"\ndomain = \"{NAME}\"\nacme-terms-agreed = true\n\
         acme-contact = \"mailto:me@example.com\"\nacme-directory = \"{directory}\"\nexit-policy = [\"accept *:*\"]\n\
         allow-special = true\n",
        root.display()
    );
    fs::write(root.join("bridge.toml"), text)?;
    fs::create_dir_all(root.join("state"))?;
    Ok(())
}

#[test]
fn a_domain_is_enough() -> Result<()> {
    isolated("a_domain_is_enough", || {
        runtime()?.block_on(async {
            let folder = tempfile::tempdir()?;
            let root = folder.path();
            name_the_authority(root)?;
            let listen = free_address()?;
            let authority = Authority::start(root, NAME, listen, 90).await?;
            write_config(root, listen, &authority.directory)?;
            let roots = root.join("roots.pem");
            // Blocking, while the authority works on this runtime's other thread.
            let (mut running, line) = tokio::task::block_in_place(|| start(root, &roots))?;
            assert_eq!(
                authority.counts(),
                (1, 1),
                "one certificate, and one nonce refused and asked for anew"
            );
            let kept = root.join("state/acme").join(format!("{NAME}.pem"));
            for file in [&kept, &root.join("state/acme/account.pem")] {
                assert_eq!(fs::metadata(file)?.permissions().mode() & 0o777, 0o600);
            }

            let tunnel = dialer_with(&root.join("issuer.pem"))?.dial(&line).await?;
            let (stream, said) = ask(&tunnel, &echo().await?.to_string()).await?;
            assert_eq!(said, Answer::Connected);
            ensure!(round(stream, b"through the site").await? == b"through the site");
            // After the order nobody is answered by the challenge's protocol.
            let openssl = Command::new("openssl")
                .args([
                    "s_client",
                    "-alpn",
                    "acme-tls/1",
                    "-servername",
                    NAME,
                    "-connect",
                    &listen.to_string(),
                ])
                .output()?;
            ensure!(!openssl.status.success(), "{openssl:?}");

            // A restart shows what is kept.
            running.stop()?;
            let before = fs::read(&kept)?;
            let (mut running, _) = tokio::task::block_in_place(|| start(root, &roots))?;
            assert_eq!(authority.counts().0, 1);
            ensure!(fs::read(&kept)? == before);
            running.stop()?;
            fs::set_permissions(&kept, fs::Permissions::from_mode(0o644))?;
            let (_running, _) = tokio::task::block_in_place(|| start(root, &roots))?;
            let log = fs::read_to_string(root.join("log"))?;
            ensure!(log.contains("can be read by others") && authority.counts().0 == 2, "{log}");
            Ok(())
        })
    })
}

#[test]
fn a_certificate_that_is_nearly_over_is_renewed() -> Result<()> {
    isolated("a_certificate_that_is_nearly_over_is_renewed", || {
        runtime()?.block_on(async {
            let folder = tempfile::tempdir()?;
            let root = folder.path();
            name_the_authority(root)?;
            let listen = free_address()?;
            let authority = Authority::start(root, NAME, listen, 90).await?;
            write_config(root, listen, &authority.directory)?;
            let roots = root.join("roots.pem");
            let (mut running, _) = tokio::task::block_in_place(|| start(root, &roots))?;
            running.stop()?;
            // Time does not pass here, so the certificate is made anew with most of its time over.
            let kept = root.join("state/acme").join(format!("{NAME}.pem"));
            let old = support_acme::aged(&fs::read(&kept)?, 60, 20)?;
            fs::write(&kept, &old)?;
            let (_running, _) = tokio::task::block_in_place(|| start(root, &roots))?;
            process::wait_for("the renewal", Duration::from_secs(20), || {
                Ok((authority.counts().0 == 2).then_some(()))
            })?;
            process::wait_for("the new file", Duration::from_secs(5), || {
                Ok((fs::read(&kept)? != old).then_some(()))
            })
        })
    })
}

#[test]
fn what_the_authority_says_reaches_the_operator() -> Result<()> {
    isolated("what_the_authority_says_reaches_the_operator", || {
        runtime()?.block_on(async {
            let folder = tempfile::tempdir()?;
            let root = folder.path();
            name_the_authority(root)?;
            // The name leads elsewhere than to the bridge.
            let authority = Authority::start(root, NAME, free_address()?, 90).await?;
            write_config(root, free_address()?, &authority.directory)?;
            let log = root.join("log");
            let mut command = program();
            command
                .args(["run", "--config"])
                .arg(root.join("bridge.toml"))
                .env("SSL_CERT_FILE", root.join("roots.pem"));
            let mut running = Running::start("qnet-bridge", command.stderr(fs::File::create(&log)?))?;
            let said = "could not see that the name is ours: Connection refused";
            tokio::task::block_in_place(|| {
                process::wait_for(said, Duration::from_secs(20), || {
                    Ok(fs::read_to_string(&log)?.contains(said).then_some(()))
                })
            })
            .with_context(|| fs::read_to_string(&log).unwrap_or_default())?;
            // It waits for the next try, and ends when told to.
            ensure!(
                running.ended()?.is_none() && fs::read_to_string(&log)?.contains("tried again in 15 min")
            );
            process::signal(running.pid(), rustix::process::Signal::TERM)?;
            let status = process::wait_for("the end", Duration::from_secs(5), || running.ended())?;
            ensure!(status.success());
            Ok(())
        })
    })
}
