//! The built-in site, visited by curl through the bridge's port, as a decoy for a tunnel, and examined as any other.
#![forbid(unsafe_code)]

mod support;

use std::{
    fs,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::Path,
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use qnet_tests::support::{
    ca::Certificates,
    decoy::NAME,
    isolate::isolated,
    process::{self, Running},
    site,
    tunnel::{dialer_with, runtime},
};
use qnet_wire::{bridge_line::BridgeLine, target::Answer};
use rustix::process::Signal;
use support::{ask, echo, program, round, start};
use tempfile::TempDir;

struct Own {
    running: Running,
    line: BridgeLine,
    certificates: Certificates,
    folder: TempDir,
}

impl Own {
    fn start(settings: &str) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let root = folder.path();
        fs::DirBuilder::new().mode(0o700).create(root.join("state"))?;
        site::write(&root.join("site"))?;
        let certificates = Certificates::make(root, &[NAME])?;
        fs::set_permissions(&certificates.key, fs::Permissions::from_mode(0o600))?;
        let at = |name: &str| root.join(name).display().to_string();
        let text = format!(
            "listen = \"127.0.0.1:0\"\nstate = \"{}\"\nsite = \"{}\"\ndomain = \"{NAME}\"\ncertificate = \"{}\"\n\
             certificate-key = \"{}\"\n{settings}\n",
            at("state"),
            at("site"),
            at("site.pem"),
            at("site.key"),
        );
        fs::write(root.join("bridge.toml"), text)?;
        let (running, line) = start(root, &certificates.ca)?;
        Ok(Self { running, line, certificates, folder })
    }

    /// What curl says of a path, and the last line: status, protocol and bytes.
    fn curl(&self, path: &str, more: &[&str]) -> Result<(Vec<u8>, String)> {
        self.curl_with(&self.certificates.ca, path, more)
    }

    fn curl_with(&self, ca: &Path, path: &str, more: &[&str]) -> Result<(Vec<u8>, String)> {
        let body = self.folder.path().join("body");
        let output = Command::new("curl")
            .args(["--silent", "--show-error", "--path-as-is", "--max-time", "20", "--cacert"])
            .arg(ca)
            .args(["--resolve", &format!("{NAME}:{}:127.0.0.1", self.line.address.port()), "--output"])
            .arg(&body)
            .args(["--write-out", "%{http_code} %{http_version} %{content_type}"])
            .args(more)
            .arg(format!("https://{NAME}:{}{path}", self.line.address.port()))
            .output()?;
        ensure!(output.status.success(), "{path} {more:?}: {output:?}");
        let content = fs::read(&body).unwrap_or_default();
        fs::remove_file(&body).ok();
        Ok((content, String::from_utf8(output.stdout)?))
    }
}

#[test]
fn visitors_get_the_site_and_nothing_else() -> Result<()> {
    isolated("visitors_get_the_site_and_nothing_else", || {
        let own = Own::start("")?;
        let file = |name: &str| fs::read(own.folder.path().join("site").join(name));
        let (page, said) = own.curl("/", &["--http2", "--tlsv1.3"])?;
        ensure!(page == file("index.html")? && said == "200 2 text/html; charset=utf-8", "{said}");
        let (page, said) = own.curl("/", &["--http1.1"])?;
        ensure!(page == file("index.html")? && said.starts_with("200 1.1"), "{said}");
        for path in [
            "/../bridge.toml",
            "/%2e%2e/bridge.toml",
            "/..%2fbridge.toml",
            "/%2fetc/passwd",
            "/site.key",
            "/./../site.key",
        ] {
            let (page, said) = own.curl(path, &[])?;
            ensure!(said.starts_with("404 2 text/html") && page.starts_with(b"<!DOCTYPE"), "{path}: {said}");
        }
        let (body, said) = own.curl("/", &["--request", "POST", "--data", "x"])?;
        ensure!(body.is_empty() && said.starts_with("405"), "{said}");
        let (head, _) = own.curl("/", &["--head"])?;
        let head = String::from_utf8(head)?.to_lowercase();
        let length = format!("content-length: {}", file("index.html")?.len());
        ensure!(
            head.contains(&length) && head.contains("last-modified: ") && head.contains("nosniff"),
            "{head}"
        );
        let tag =
            head.lines().find_map(|line| line.strip_prefix("etag: ")).context("a tag")?.trim().to_owned();
        let (body, said) = own.curl("/", &["--header", &format!("If-None-Match: {tag}")])?;
        ensure!(body.is_empty() && said.starts_with("304"), "{said}");

        // A large file, whole, by both protocols.
        let large: Vec<u8> = (0..5_000_000u32).map(|i| (i % 251) as u8).collect();
        fs::write(own.folder.path().join("site/large.zip"), &large)?;
        process::signal(own.running.pid(), Signal::HUP)?;
        process::wait_for("the new file", std::time::Duration::from_secs(10), || {
            Ok(own.curl("/large.zip", &[])?.1.starts_with("200").then_some(()))
        })?;
        for protocol in ["--http2", "--http1.1"] {
            ensure!(own.curl("/large.zip", &[protocol])?.0 == large, "{protocol}");
        }
        Ok(())
    })
}

#[test]
fn a_tunnel_goes_through_it_and_the_check_finds_nothing() -> Result<()> {
    isolated("a_tunnel_goes_through_it_and_the_check_finds_nothing", || {
        runtime()?.block_on(async {
            let echo = echo().await?;
            let own = Own::start("allow-special = true\nexit-policy = [\"accept *:*\"]")?;
            let tunnel = dialer_with(&own.certificates.ca)?.dial(&own.line).await?;
            let (stream, said) = ask(&tunnel, &echo.to_string()).await?;
            assert_eq!(said, Answer::Connected);
            let data = vec![3; 2_000_000];
            ensure!(round(stream, &data).await? == data);
            let checked = program()
                .args(["check", &own.line.to_string()])
                .env("SSL_CERT_FILE", &own.certificates.ca)
                .output()?;
            let text = String::from_utf8(checked.stdout)?;
            ensure!(checked.status.success() && text.contains("ok       tunnel"), "{text}");
            Ok(())
        })
    })
}

#[test]
fn a_renewed_certificate_is_shown_after_a_reload() -> Result<()> {
    isolated("a_renewed_certificate_is_shown_after_a_reload", || {
        let own = Own::start("")?;
        let other = tempfile::tempdir()?;
        let renewed = Certificates::make(other.path(), &[NAME])?;
        fs::write(&own.certificates.certificate, "nonsense")?;
        process::signal(own.running.pid(), Signal::HUP)?;
        let log = || Ok(fs::read_to_string(own.folder.path().join("log"))?);
        let logs = |words: &str| {
            process::wait_for(words, std::time::Duration::from_secs(10), || -> Result<_> {
                Ok(log()?.contains(words).then_some(()))
            })
        };
        let log: &dyn Fn() -> Result<String> = &log;
        logs("its certificate stays as it is")?;
        ensure!(own.curl("/", &[])?.1.starts_with("200"), "{}", log()?);
        fs::copy(&renewed.certificate, &own.certificates.certificate)?;
        fs::copy(&renewed.key, &own.certificates.key)?;
        fs::set_permissions(&own.certificates.key, fs::Permissions::from_mode(0o600))?;
        process::signal(own.running.pid(), Signal::HUP)?;
        logs("the site and its certificate were read again")?;
        ensure!(own.curl_with(&renewed.ca, "/", &[])?.1.starts_with("200"));
        ensure!(own.curl("/", &[]).is_err(), "the old certificate is still shown");
        Ok(())
    })
}

#[test]
fn what_run_would_refuse_the_look_at_its_settings_finds() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let root = folder.path();
    let pages = root.join("site");
    site::write(&pages)?;
    let Certificates { certificate, key, .. } = Certificates::make(root, &[NAME])?;
    fs::DirBuilder::new().mode(0o700).create(root.join("state"))?;
    qnet_transport::identity::load_or_create(&root.join("state"))?;
    let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode));
    let run = |more: &[&str]| {
        let mut command = program();
        command.args(["run", "--listen", "127.0.0.1:0", "--domain", NAME, "--site"]).arg(&pages);
        command.arg("--certificate").arg(&certificate).arg("--certificate-key").arg(&key);
        command.arg("--state").arg(root.join("state")).args(more).output()
    };
    let refused = |why: &str| {
        for more in [&["--check-config"][..], &[]] {
            let output = run(more)?;
            let said = String::from_utf8(output.stderr)?;
            ensure!(output.status.code() == Some(1) && said.contains(why), "{more:?}, {why}: {said}");
        }
        anyhow::Ok(())
    };
    mode(&key, 0o644)?;
    refused("chmod o= ")?;
    mode(&key, 0o600)?;
    mode(&root.join("state/qnet_identity"), 0o644)?;
    refused("chmod 600 ")?;
    mode(&root.join("state/qnet_identity"), 0o600)?;
    fs::rename(&pages, root.join("elsewhere"))?;
    refused("cannot read the site")?;
    fs::rename(root.join("elsewhere"), &pages)?;
    let whole = fs::read(&certificate)?;
    fs::write(&certificate, "nonsense")?;
    refused("there is no certificate")?;
    fs::remove_file(&certificate)?;
    refused("site.pem: No such file")?;
    fs::write(&certificate, whole)?;
    let right = run(&["--check-config"])?;
    ensure!(right.status.success(), "{right:?}");
    Ok(())
}
