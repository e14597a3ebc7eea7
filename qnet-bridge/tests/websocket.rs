//! The websocket cover: behind nginx with what `init` wrote, behind Caddy and HAProxy with what the operator's guide says, and beside the
//! built-in site.
#![forbid(unsafe_code)]

mod support;

use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::{Command, Output},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use qnet_tests::support::{
    ca::Certificates,
    decoy::{Decoy, NAME, Options, Server},
    isolate::isolated,
    process::{Running, free_address, wait_for},
    site,
    tunnel::{dialer_with, runtime},
};
use qnet_wire::{bridge_line::BridgeLine, target::Answer};
use serde_json::Value;
use support::{ask, echo, echoes, program, round};
use tempfile::TempDir;

const LIMIT: Duration = Duration::from_secs(30);
/// The path in the operator's guide, in whose place goes the bridge's own.
const DOCUMENTED_PATH: &str = "/a7Ge93kd";
/// Where `init` writes the websocket's address, below the root.
const URL: &str = "var/lib/qnet-bridge/url";
/// How long HAProxy lets a connection be silent that is no websocket.
const SILENCE: Duration = Duration::from_secs(1);

/// The site without TLS, which says the same to everybody.
fn origin() -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        while let Ok((mut tcp, _)) = listener.accept() {
            let answer = b"HTTP/1.1 404 Not Found\r\nContent-Length: 6\r\nConnection: close\r\n\r\norigin";
            // Who only looks whether somebody listens says nothing.
            if tcp.read(&mut [0; 2_048]).is_ok_and(|count| count > 0) {
                drop(tcp.write_all(answer));
            }
        }
    });
    Ok(address)
}

/// Runs the bridge that `init` set up below `root`, for anywhere.
fn run(root: &Path, more: &[&str]) -> Result<Running> {
    let log = root.join("log");
    let mut command = program();
    command.args(["run", "--allow-special", "--exit-policy", "accept *:*", "--config"]);
    command
        .arg(root.join("etc/qnet-bridge/bridge.toml"))
        .arg("--state")
        .arg(root.join("var/lib/qnet-bridge"))
        .arg("--url-file")
        .arg(root.join(URL));
    let running = Running::start("qnet-bridge", command.args(more).stderr(File::create(&log)?))?;
    wait_for("the bridge", LIMIT, || Ok(fs::read_to_string(&log)?.contains("listening").then_some(())))
        .with_context(|| fs::read_to_string(&log).unwrap_or_default())?;
    Ok(running)
}

fn init(root: &Path, address: &str, origin: SocketAddr) -> Result<Output> {
    let mut command = program();
    command.args(["init", "--websocket", "--behind", "web", "--sni", NAME, "--address", address, "--root"]);
    Ok(command.arg(root).args(["--origin", &origin.to_string()]).output()?)
}

/// The files below `root` that have `words` in them, and who may use each.
fn with(root: &Path, words: &str) -> Result<Vec<(String, u32)>> {
    let found = Command::new("grep").args(["-rl", words, "."]).current_dir(root).output()?;
    let mut files = Vec::new();
    for name in String::from_utf8(found.stdout)?.lines() {
        let mode = fs::metadata(root.join(name))?.permissions().mode() & 0o777;
        files.push((name.trim_start_matches("./").to_owned(), mode));
    }
    files.sort();
    Ok(files)
}

/// The lines in what the program said.
fn lines(output: &Output) -> Result<Vec<BridgeLine>> {
    ensure!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout.clone())?;
    text.lines().filter(|line| line.starts_with("Bridge ")).map(|line| Ok(line.parse()?)).collect()
}

/// Checks, and what came of each, with its words.
fn check(args: &[&str], ca: &Path) -> Result<Vec<(String, String, String)>> {
    let output = program().args(["check", "--json"]).args(args).env("SSL_CERT_FILE", ca).output()?;
    let said: Value = serde_json::from_slice(&output.stdout).with_context(|| format!("{output:?}"))?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let findings = said["findings"].as_array().context("findings")?;
    Ok(findings.iter().map(|f| (text(&f["check"]), text(&f["outcome"]), text(&f["words"]))).collect())
}

fn names(findings: &[(String, String, String)]) -> Vec<(&str, &str)> {
    findings.iter().map(|(check, outcome, _)| (check.as_str(), outcome.as_str())).collect()
}

/// Status and body of a request by curl.
fn curl(at: SocketAddr, ca: &Path, path: &str, more: &[&str]) -> Result<(String, String)> {
    let host = format!("{NAME}:{}", at.port());
    let output = Command::new("curl")
        .args(["--silent", "--max-time", "20", "--write-out", "%{stderr}%{http_code}", "--cacert"])
        .arg(ca)
        .args(["--resolve", &format!("{host}:127.0.0.1")])
        .args(more)
        .arg(format!("https://{host}{path}"))
        .output()?;
    Ok((String::from_utf8(output.stderr)?, String::from_utf8(output.stdout)?))
}

/// Asks for a websocket as far as curl does: the opening, which a bridge takes or does not.
fn upgrade(at: SocketAddr, ca: &Path, path: &str, key: &str) -> Result<(String, String)> {
    let key = format!("Sec-WebSocket-Key: {key}");
    let more = [
        "--http1.1",
        "-H",
        "Connection: Upgrade",
        "-H",
        "Upgrade: websocket",
        "-H",
        "Sec-WebSocket-Version: 13",
    ];
    curl(at, ca, path, &[&more[..], &["-H", &key, "--max-time", "2"]].concat())
}

/// An address of this machine to which connections come from itself, as another network's client, and any free port of all addresses.
fn another_network() -> Result<SocketAddr> {
    let status = Command::new("ip").args(["address", "add", &format!("{OTHER}/32"), "dev", "lo"]).status()?;
    ensure!(status.success());
    Ok(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), free_address()?.port()))
}

const OTHER: &str = "10.9.9.9";

/// The line with its bridge at this address.
fn at(line: &BridgeLine, ip: &str, port: u16) -> Result<BridgeLine> {
    Ok(BridgeLine { address: SocketAddr::new(ip.parse()?, port), ..line.clone() })
}

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

#[test]
fn behind_nginx_with_what_init_wrote() -> Result<()> {
    isolated("behind_nginx_with_what_init_wrote", || {
        let (folder, origin) = (tempfile::tempdir()?, origin()?);
        let root = folder.path();
        let first = init(root, "192.0.2.7:443", origin)?;
        let made = lines(&first)?;
        ensure!(String::from_utf8(first.stdout)?.contains("include /etc/qnet-bridge/nginx.conf;"));
        let again = init(root, "192.0.2.7:443", origin)?;
        ensure!(
            lines(&again)? == made && !String::from_utf8(again.stdout)?.contains("written"),
            "another path"
        );

        let path = made[0].to_string().split_once(NAME).context("a path")?.1.to_owned();
        assert_eq!(
            with(root, &path)?,
            [("etc/qnet-bridge/nginx.conf".to_owned(), 0o600), (URL.to_owned(), 0o600)]
        );

        let extra = format!("include {};", root.join("etc/qnet-bridge/nginx.conf").display());
        let listen = Some(another_network()?);
        let front = Decoy::start(Server::Nginx, Options { extra, listen, ..Options::default() })?;
        let (ca, port) = (&front.certificates().ca, front.address().port());
        let line = at(&made[0], "127.0.0.1", port)?;
        let _bridge = run(root, &["--max-streams-per-client", "1"])?;
        runtime()?.block_on(async {
            let echo = echo().await?;
            let tunnel = dialer_with(ca)?.dial(&line).await?;
            let (stream, said) = ask(&tunnel, &echo.to_string()).await?;
            assert_eq!(said, Answer::Connected);
            assert_eq!(ask(&tunnel, &echo.to_string()).await?.1, Answer::TooManyStreams);
            // The web server says whose a websocket is, so this is not the same client.
            let other = dialer_with(ca)?.dial(&at(&line, OTHER, port)?).await?;
            assert_eq!(ask(&other, &echo.to_string()).await?.1, Answer::Connected);
            let data = vec![3; 2_000_000];
            ensure!(round(stream, &data).await? == data);
            anyhow::Ok(())
        })?;

        let own = [("port", "ok"), ("websocket", "ok"), ("knock", "ok"), ("tunnel", "ok")];
        let text = line.to_string();
        let findings = check(&[&text], ca)?;
        ensure!(names(&findings) == own, "{findings:?}");
        let findings = check(&[&text.replace(&path, "/elsewhere")], ca)?;
        ensure!(names(&findings) == [("port", "ok"), ("websocket", "failed")], "{findings:?}");
        ensure!(findings[1].2.contains("is the path right"), "{findings:?}");
        let findings = check(&[&text.replace(NAME, "other.example.com")], ca)?;
        ensure!(names(&findings) == [("port", "ok"), ("site", "failed")], "{findings:?}");

        // Who asks for the path and is no client gets the origin's answer.
        for answer in [curl(front.address(), ca, &path, &[])?, upgrade(front.address(), ca, &path, "short")?]
        {
            assert_eq!(answer, ("404".to_owned(), "origin".to_owned()));
        }
        assert_eq!(upgrade(front.address(), ca, &path, KEY)?.0, "101");

        own_check(root, ca)
    })
}

/// The bridge's own check: from its own end, since the site's name leads nowhere in here.
fn own_check(root: &Path, ca: &Path) -> Result<()> {
    let config = root.join("etc/qnet-bridge/bridge.toml");
    let url = root.join(URL);
    let mut text = fs::read_to_string(&config)?.replace(&format!("/{URL}"), &url.display().to_string());
    text.push_str(&format!("state = \"{}\"\n", root.join("var/lib/qnet-bridge").display()));
    fs::write(&config, &text)?;
    let config = config.display().to_string();
    let findings = check(&["--config", &config], ca)?;
    let own = [("key", "ok"), ("port", "ok"), ("path", "ok"), ("origin", "ok"), ("site", "warning")];
    ensure!(names(&findings) == own, "{findings:?}");
    fs::write(&url, format!("https://{NAME}/elsewhere"))?;
    let findings = check(&["--config", &config], ca)?;
    ensure!(names(&findings).last() == Some(&("path", "failed")), "{findings:?}");
    Ok(())
}

#[test]
fn init_writes_nothing_where_no_origin_answers() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let refused = init(folder.path(), "192.0.2.7:443", free_address()?)?;
    let said = String::from_utf8(refused.stderr)?;
    ensure!(!refused.status.success() && said.contains("--origin 127.0.0.1"), "{said}");
    ensure!(fs::read_dir(folder.path())?.next().is_none(), "something was written");
    let mut command = program();
    command.args(["init", "--websocket", "--behind", "web", "--address", "192.0.2.7:443"]);
    let said = String::from_utf8(command.output()?.stderr)?;
    ensure!(said.contains("--origin ADDRESS:PORT, --sni NAME"), "{said}");
    Ok(())
}

/// The lines that the operator's guide has for this web server, with the path of `line`.
fn documented(server: &str, line: &BridgeLine) -> Result<Vec<String>> {
    let guide = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/operator.md"))?;
    let row = guide.lines().find_map(|row| row.strip_prefix(&format!("| {server} | ")));
    let row = row.with_context(|| format!("no lines for {server}"))?;
    ensure!(row.contains(DOCUMENTED_PATH), "{row}");
    let line = line.to_string();
    let path = line.split_once(NAME).context("a path")?.1;
    // What is between backticks.
    let code = row.split('`').skip(1).step_by(2);
    Ok(code.map(|code| code.replace(DOCUMENTED_PATH, path)).collect())
}

#[test]
fn behind_caddy() -> Result<()> {
    isolated("behind_caddy", || {
        let (folder, origin) = (tempfile::tempdir()?, origin()?);
        let root = folder.path();
        let made = lines(&init(root, "192.0.2.7:443", origin)?)?;
        let extra = documented("Caddy", &made[0])?.join("\n");
        let listen = Some(another_network()?);
        let front = Decoy::start(Server::Caddy, Options { extra, listen, ..Options::default() })?;
        let (ca, port) = (&front.certificates().ca, front.address().port());
        let line = at(&made[0], "127.0.0.1", port)?;
        let _bridge = run(root, &["--max-streams-per-client", "1"])?;
        runtime()?.block_on(async {
            let echo = echo().await?;
            let tunnel = dialer_with(ca)?.dial(&line).await?;
            let (stream, said) = ask(&tunnel, &echo.to_string()).await?;
            assert_eq!(said, Answer::Connected);
            let other = dialer_with(ca)?.dial(&at(&line, OTHER, port)?).await?;
            assert_eq!(ask(&other, &echo.to_string()).await?.1, Answer::Connected);
            let data = vec![3; 500_000];
            ensure!(round(stream, &data).await? == data);
            Ok(())
        })
    })
}

#[test]
fn behind_haproxy() -> Result<()> {
    isolated("behind_haproxy", || {
        let (folder, origin) = (tempfile::tempdir()?, origin()?);
        let root = folder.path();
        let made = lines(&init(root, "192.0.2.7:443", origin)?)?;
        let extra = documented("HAProxy", &made[0])?.join("\n");
        let listen = Some(another_network()?);
        let front =
            Decoy::start(Server::Haproxy, Options { extra, listen, idle: SILENCE, ..Options::default() })?;
        let (ca, port) = (&front.certificates().ca, front.address().port());
        let line = at(&made[0], "127.0.0.1", port)?;
        let path = line.to_string().split_once(NAME).context("a path")?.1.to_owned();
        let _bridge = run(root, &["--max-streams-per-client", "1"])?;
        runtime()?.block_on(async {
            let echo = echo().await?;
            let tunnel = dialer_with(ca)?.dial(&line).await?;
            let (mut stream, said) = ask(&tunnel, &echo.to_string()).await?;
            assert_eq!(said, Answer::Connected);
            assert_eq!(ask(&tunnel, &echo.to_string()).await?.1, Answer::TooManyStreams);
            let other = dialer_with(ca)?.dial(&at(&line, OTHER, port)?).await?;
            assert_eq!(ask(&other, &echo.to_string()).await?.1, Answer::Connected);
            echoes(&mut stream, b"before").await?;
            tokio::time::sleep(3 * SILENCE).await;
            echoes(&mut stream, b"after").await?;
            // It says what a connection was for when that ends.
            let log = front.access_log()?;
            ensure!(!log.contains(&path), "a silent websocket was closed: {log}");
            let data = vec![3; 2_000_000];
            ensure!(round(stream, &data).await? == data);
            anyhow::Ok(())
        })?;
        for answer in
            [curl(front.address(), ca, &path, &[])?, curl(front.address(), ca, &path, &["--http1.1"])?]
        {
            assert_eq!(answer, ("404".to_owned(), "origin".to_owned()));
        }
        // HAProxy itself refuses an opening that is none, at any path.
        let refused = upgrade(front.address(), ca, &path, "short")?;
        assert_eq!((refused.0.as_str(), &refused), ("400", &upgrade(front.address(), ca, "/", "short")?));
        assert_eq!(upgrade(front.address(), ca, &path, KEY)?.0, "101");
        ensure!(front.access_log()?.contains(&path), "what a connection was for is not said");
        Ok(())
    })
}

/// A bridge with the built-in site, which takes websockets as well.
struct Beside {
    _running: Running,
    folder: TempDir,
    certificates: Certificates,
    address: SocketAddr,
}

const PATH: &str = "/f0/secret-path";

impl Beside {
    fn start(settings: &str) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let root = folder.path();
        fs::DirBuilder::new().mode(0o700).create(root.join("state"))?;
        site::write(&root.join("site"))?;
        let certificates = Certificates::make(root, &[NAME])?;
        fs::set_permissions(&certificates.key, fs::Permissions::from_mode(0o600))?;
        let (at, address) = (|name: &str| root.join(name).display().to_string(), another_network()?);
        let text = format!(
            "listen = \"{address}\"\nstate = \"{}\"\nsite = \"{}\"\ndomain = \"{NAME}\"\ncertificate = \"{}\"\n\
             certificate-key = \"{}\"\nurl = \"https://{NAME}{PATH}\"\nallow-special = true\n\
             exit-policy = [\"accept *:*\"]\n{settings}\n",
            at("state"),
            at("site"),
            at("site.pem"),
            at("site.key"),
        );
        fs::write(root.join("bridge.toml"), text)?;
        let (running, _) = support::start(root, &certificates.ca)?;
        Ok(Self { _running: running, certificates, address, folder })
    }

    fn config(&self) -> PathBuf {
        self.folder.path().join("bridge.toml")
    }
}

#[test]
fn beside_the_built_in_site() -> Result<()> {
    isolated("beside_the_built_in_site", || {
        let bridge = Beside::start("max-streams-per-client = 1")?;
        let ca = &bridge.certificates.ca;
        let config = bridge.config().display().to_string();
        let address = format!("127.0.0.1:{}", bridge.address.port());
        let lines = lines(&program().args(["line", "--config", &config, "--address", &address]).output()?)?;
        let [mirror, websocket] = lines.as_slice() else { anyhow::bail!("{}", lines.len()) };
        ensure!(websocket.to_string().ends_with(&format!("url=https://{NAME}{PATH}")), "{websocket}");
        runtime()?.block_on(async {
            let echo = echo().await?.to_string();
            let tunnel = dialer_with(ca)?.dial(websocket).await?;
            let (stream, said) = ask(&tunnel, &echo).await?;
            assert_eq!(said, Answer::Connected);
            // The same client by either way, and another one.
            let again = dialer_with(ca)?.dial(mirror).await?;
            assert_eq!(ask(&again, &echo).await?.1, Answer::TooManyStreams);
            let other = dialer_with(ca)?.dial(&at(websocket, OTHER, bridge.address.port())?).await?;
            assert_eq!(ask(&other, &echo).await?.1, Answer::Connected);
            let data = vec![3; 2_000_000];
            ensure!(round(stream, &data).await? == data);
            anyhow::Ok(())
        })?;

        // Whatever is no client's is the site's to answer, as it answers for any name that it does not have.
        let missing = curl(bridge.address, ca, "/no/such/page", &[])?;
        assert_eq!(missing.0, "404");
        for more in [&[][..], &["--http1.1"], &["--http1.1", "--request", "POST"]] {
            let elsewhere = curl(bridge.address, ca, "/no/such/page", more)?;
            assert_eq!(curl(bridge.address, ca, PATH, more)?, elsewhere, "{more:?}");
        }
        assert_eq!(upgrade(bridge.address, ca, PATH, "short")?, missing);
        assert_eq!(upgrade(bridge.address, ca, "/no/such/page", KEY)?, missing);
        assert_eq!(upgrade(bridge.address, ca, PATH, KEY)?.0, "101");

        let findings = check(&["--config", &config], ca)?;
        let steps = names(&findings);
        ensure!(steps.iter().all(|(_, outcome)| *outcome != "failed"), "{findings:?}");
        let tunnels =
            [("knock", "ok"), ("tunnel", "ok"), ("websocket", "ok"), ("knock", "ok"), ("tunnel", "ok")];
        ensure!(steps.ends_with(&tunnels), "{findings:?}");
        Ok(())
    })
}
