//! Programs that know nothing of QNet, and what each sees at an address.

use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use boring::x509::X509;

use super::ca::Certificates;
use super::process::wait_for;

/// How long Chromium may take; it does much besides the visit when it starts.
const CHROMIUM_LIMIT: Duration = Duration::from_secs(60);

/// What a stranger saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sight {
    /// The server's certificate, DER.
    pub certificate: Vec<u8>,
    /// The protocol ALPN chose.
    pub alpn: String,
    /// The TLS version, as the program writes it.
    pub version: String,
    /// The page.
    pub page: String,
}

/// Whom to visit.
#[derive(Clone, Copy, Debug)]
pub struct Visited<'a> {
    /// Where.
    pub address: SocketAddr,
    /// By which name.
    pub name: &'a str,
    /// The site's certificates: all but Chromium check that the server's comes from this CA.
    pub certificates: &'a Certificates,
}

impl Visited<'_> {
    /// curl over h2.
    ///
    /// # Errors
    /// curl (package curl) is missing, or fails.
    pub fn curl(self) -> Result<Sight> {
        let at = format!("{}:{}", self.name, self.address.port());
        let mut command = Command::new("curl");
        command.args([
            "-sv",
            "--http2",
            "--max-time",
            "20",
            "--resolve",
            &format!("{at}:{}", self.address.ip()),
        ]);
        command.arg("--cacert").arg(&self.certificates.ca);
        command.args(["-w", "%{stderr}\nversion=%{http_version}\n%{certs}", &format!("https://{at}/")]);
        let output = succeeded(command.output(), "curl")?;
        let said = String::from_utf8_lossy(&output.stderr);
        let version = after(&said, "SSL connection using ")?.split(' ').next().unwrap_or_default().to_owned();
        let alpn = match after(&said, "\nversion=")? {
            "2" => "h2".to_owned(),
            other => format!("http/{other}"),
        };
        Ok(Sight { certificate: first_certificate(&said)?, alpn, version, page: text(&output) })
    }

    /// openssl's client, over HTTP/1.1.
    ///
    /// # Errors
    /// openssl (package openssl) is missing, or fails.
    pub fn openssl(self) -> Result<Sight> {
        let mut command = Command::new("openssl");
        command.args([
            "s_client",
            "-connect",
            &self.address.to_string(),
            "-servername",
            self.name,
            "-ign_eof",
        ]);
        command.args(["-alpn", "http/1.1", "-verify_return_error", "-verify_hostname", self.name, "-CAfile"]);
        command
            .arg(&self.certificates.ca)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().context("openssl does not start: is it installed?")?;
        let request = format!("GET / HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.name);
        child.stdin.take().context("its input")?.write_all(request.as_bytes())?;
        let output = succeeded(child.wait_with_output(), "openssl")?;
        let said = text(&output);
        let page = said.find("<!DOCTYPE").and_then(|from| said.get(from..)).context("no page")?;
        let end = page.find("</html>\n").context("the page has no end")? + "</html>\n".len();
        Ok(Sight {
            certificate: first_certificate(&said)?,
            alpn: after(&said, "ALPN protocol: ")?.to_owned(),
            version: after(&said, "New, ")?.split(',').next().unwrap_or_default().to_owned(),
            page: page.get(..end).unwrap_or_default().to_owned(),
        })
    }

    /// Headless Chromium, whose page is as its scripts left it.
    ///
    /// # Errors
    /// chromium (package chromium) is missing, or fails.
    pub fn chromium(self) -> Result<Sight> {
        let folder = tempfile::tempdir()?;
        let log = folder.path().join("net.json");
        let output = self.run_chromium(folder.path(), &log)?;
        let log = std::fs::read_to_string(log)?;
        let certificate = after(&log, "\"certificates\":[\"")?.replace("\\n", "\n");
        let quoted = |key: &str| {
            let value =
                after(&log, &format!("\"{key}\":\"")).map(|rest| rest.split('"').next().unwrap_or_default());
            value.map(str::to_owned)
        };
        Ok(Sight {
            certificate: first_certificate(&certificate)?,
            alpn: quoted("next_proto")?,
            version: quoted("version")?,
            page: text(&output),
        })
    }

    fn run_chromium(self, folder: &Path, log: &Path) -> Result<Output> {
        let spki = boring::base64::encode_block(&self.certificates.spki_sha256);
        let mut command = Command::new("chromium");
        command.env("HOME", folder).args(["--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]);
        command.args(["--disable-background-networking", "--disable-component-update", "--no-first-run"]);
        command.arg(format!("--user-data-dir={}", folder.join("profile").display()));
        command.arg(format!("--log-net-log={}", log.display()));
        command.arg(format!("--ignore-certificate-errors-spki-list={spki}"));
        command.arg(format!("--host-resolver-rules=MAP {}:443 {}, MAP * ~NOTFOUND", self.name, self.address));
        command.arg(format!("https://{}/", self.name)).stdin(Stdio::null());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let child = child.as_mut().map_err(|error| anyhow::anyhow!("chromium does not start: {error}"))?;
        let drained = [
            child.stdout.take().map(|out| thread::spawn(move || drain(out))),
            child.stderr.take().map(|err| thread::spawn(move || drain(err))),
        ];
        let status = wait_for("Chromium's end", CHROMIUM_LIMIT, || Ok(child.try_wait()?));
        if status.is_err() {
            child.kill()?;
            child.wait()?;
        }
        let [stdout, stderr] =
            drained.map(|reader| reader.and_then(|reader| reader.join().ok()).unwrap_or_default());
        succeeded(Ok(Output { status: status?, stdout, stderr }), "chromium")
    }
}

fn drain(mut from: impl std::io::Read) -> Vec<u8> {
    let mut all = Vec::new();
    from.read_to_end(&mut all).ok();
    all
}

fn succeeded(output: std::io::Result<Output>, program: &str) -> Result<Output> {
    let output = output.with_context(|| format!("{program} does not start: is it installed?"))?;
    ensure!(
        output.status.success(),
        "{program}: {}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(output)
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What follows `mark`, to the line's end.
fn after<'a>(said: &'a str, mark: &str) -> Result<&'a str> {
    let (_, rest) = said.split_once(mark).with_context(|| format!("no {mark:?} in:\n{said}"))?;
    Ok(rest.split('\n').next().unwrap_or_default())
}

/// The first certificate in PEM, DER.
fn first_certificate(said: &str) -> Result<Vec<u8>> {
    const END: &str = "-----END CERTIFICATE-----";
    let from = said.find("-----BEGIN CERTIFICATE-----").context("no certificate was shown")?;
    let rest = said.get(from..).unwrap_or_default();
    let pem = rest.get(..rest.find(END).context("half a certificate was shown")? + END.len());
    Ok(X509::from_pem(pem.unwrap_or_default().as_bytes())?.to_der()?)
}
