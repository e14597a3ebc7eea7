//! What `qnet proxy` calls connected: something came back through the bridge from the site that it stands before.
#![forbid(unsafe_code)]

mod support;

use std::{
    fs::{self, File},
    net::SocketAddr,
    os::unix::fs::DirBuilderExt as _,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use qnet_tests::support::{
    decoy::NAME,
    front,
    isolate::isolated,
    process::{Running, free_address, wait_for, wait_listening},
    pt::built,
    tunnel::runtime,
};
use qnet_transport::Stream;
use qnet_wire::target::Answer;
use support::{Bridge, ask};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const LIMIT: Duration = Duration::from_secs(40);

/// A running `qnet proxy`.
struct Proxy {
    _running: Running,
    listen: SocketAddr,
    status: SocketAddr,
    _folder: TempDir,
}

impl Proxy {
    fn start(qnet: &Path, line: &str, ca: &Path) -> Result<Self> {
        let (listen, status, folder) = (free_address()?, free_address()?, tempfile::tempdir()?);
        let mut command = Command::new(qnet);
        command.args(["proxy", "--bridge", line, "--listen", &listen.to_string()]);
        command.args(["--status", &status.to_string()]).env("SSL_CERT_FILE", ca);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(folder.path().join("log"))?);
        Ok(Self { _running: Running::start("qnet", &mut command)?, listen, status, _folder: folder })
    }

    fn report(&self) -> Result<String> {
        let url = format!("http://{}/status.json", self.status);
        Ok(String::from_utf8(Command::new("curl").args(["--silent", &url]).output()?.stdout)?)
    }

    fn says(&self, words: &str) -> Result<()> {
        wait_for(words, LIMIT, || Ok(self.report()?.contains(words).then_some(())))
            .with_context(|| self.report().unwrap_or_default())
    }

    /// Waits until it says that there is no way, and why.
    fn is_not_connected(&self, why: &str) -> Result<()> {
        self.says(why)?;
        let report = self.report()?;
        ensure!(report.contains(r#""state":"offline""#) && !report.contains(CONNECTED), "{report}");
        Ok(())
    }

    /// Has an application ask for something, which looks at the bridge.
    fn ask(&self) -> Result<()> {
        let proxy = format!("socks5h://{}", self.listen);
        Command::new("curl")
            .args(["--silent", "--max-time", "5", "--proxy", &proxy, "http://192.0.2.1/"])
            .output()?;
        Ok(())
    }
}

const CONNECTED: &str = r#""state":"connected""#;

/// Everything that comes after these words.
async fn said_to(mut stream: Stream, words: &[u8]) -> Result<Vec<u8>> {
    stream.write_all(words).await?;
    let mut back = Vec::new();
    tokio::time::timeout(LIMIT, stream.read_to_end(&mut back)).await.context("too slow")??;
    Ok(back)
}

#[test]
fn the_bridges_own_site_is_opened_whatever_the_policy_says_and_nothing_beside_it() -> Result<()> {
    let qnet = built("qnet")?;
    isolated("the_bridges_own_site_is_opened_whatever_the_policy_says_and_nothing_beside_it", || {
        let bridge = Bridge::start("exit-policy = [\"reject *:*\"]")?;
        let proxy = Proxy::start(&qnet, &bridge.line.to_string(), &bridge.decoy.certificates().ca)?;
        proxy.says(CONNECTED)?;
        runtime()?.block_on(async {
            let tunnel = bridge.dial().await?;
            for other in
                [bridge.decoy.address().to_string(), format!("{NAME}:80"), "localhost:443".to_owned()]
            {
                assert_eq!(ask(&tunnel, &other).await?.1, Answer::NotAllowed, "{other}");
            }
            let site = format!("{}:443", NAME.to_uppercase());
            let (stream, said) = ask(&tunnel, &site).await?;
            assert_eq!(said, Answer::Connected);
            // A handshake message that is none: an alert.
            let back = said_to(stream, b"\x16\x03\x01\0\x04\xff\0\0\0").await?;
            ensure!(back.starts_with(&[21, 3]), "{back:?}");
            // nginx would say that this is not for a port with TLS.
            let (mut stream, _) = ask(&tunnel, &site).await?;
            stream.write_all(b"GET / HTTP/1.1\r\nHost: other\r\n\r\n").await?;
            let read = tokio::time::timeout(LIMIT, stream.read(&mut [0; 9])).await.context("too slow")?;
            ensure!(read.is_err(), "{read:?}");
            Ok(())
        })
    })
}

#[test]
fn without_its_site_a_bridge_is_not_connected() -> Result<()> {
    let qnet = built("qnet")?;
    isolated("without_its_site_a_bridge_is_not_connected", || {
        let mut bridge = Bridge::start("")?;
        let proxy = Proxy::start(&qnet, &bridge.line.to_string(), &bridge.decoy.certificates().ca)?;
        proxy.says(CONNECTED)?;
        bridge.decoy.stop()?;
        proxy.ask()?;
        proxy.is_not_connected("try later")?;
        bridge.decoy.restart()?;
        proxy.ask()?;
        proxy.says(CONNECTED)
    })
}

/// The settings of a bridge behind a web server.
fn behind(folder: &Path, listen: SocketAddr, origin: SocketAddr) -> Result<()> {
    let state = folder.join("state");
    fs::DirBuilder::new().mode(0o700).create(&state)?;
    let text = format!(
        "listen = \"{listen}\"\nstate = \"{}\"\nurl = \"https://{NAME}{PATH}\"\norigin = \"{origin}\"\n",
        state.display()
    );
    Ok(fs::write(folder.join("bridge.toml"), text)?)
}

const PATH: &str = "/f0/secret-path";

/// A web server as an origin: what it serves does not matter.
fn without_tls(server: &str, address: SocketAddr) -> Result<(Running, TempDir)> {
    let folder = tempfile::tempdir()?;
    let at = folder.path().display();
    let (text, arguments) = match server {
        "nginx" => (
            format!(
                "daemon off; pid {at}/pid; events {{}} http {{ access_log off; server {{ listen {address}; }} }}"
            ),
            vec!["-e", "stderr", "-c"],
        ),
        "apache2" => (
            format!(
                "ServerRoot /usr/lib/apache2\nLoadModule mpm_event_module modules/mod_mpm_event.so\nLoadModule authz_core_module \
                 modules/mod_authz_core.so\nListen {address}\nServerName {NAME}\nErrorLog {at}/log\nPidFile {at}/pid\n\
                 DefaultRuntimeDir {at}\n"
            ),
            vec!["-X", "-f"],
        ),
        "lighttpd" => (
            format!(
                "server.document-root = \"{at}\"\nserver.bind = \"{}\"\nserver.port = {}\n",
                address.ip(),
                address.port()
            ),
            vec!["-D", "-f"],
        ),
        "caddy" => (
            format!("{{\nadmin off\n}}\nhttp://:{} {{\nbind 127.0.0.1\nrespond site\n}}\n", address.port()),
            vec!["run", "--adapter", "caddyfile", "--config"],
        ),
        _ => (
            format!("defaults\nmode http\ntimeout client 9s\nfrontend site\nbind {address}\n"),
            vec!["-db", "-f"],
        ),
    };
    let (config, log) = (folder.path().join("config"), folder.path().join("said"));
    fs::write(&config, text)?;
    let in_sbin = Path::new("/usr/sbin").join(server);
    let mut command = Command::new(if in_sbin.exists() { in_sbin } else { server.into() });
    command.args(arguments).arg(config).env("HOME", folder.path()).stdin(Stdio::null());
    let mut running = Running::start(server, command.stdout(Stdio::null()).stderr(File::create(&log)?))?;
    wait_listening(&mut running, address, LIMIT, &log)?;
    Ok((running, folder))
}

/// Behind a web server clients come in all the same; where the site behind it is gone, the bridge leads nowhere.
#[test]
fn behind_a_web_server_the_site_without_tls_has_to_answer() -> Result<()> {
    let qnet = built("qnet")?;
    isolated("behind_a_web_server_the_site_without_tls_has_to_answer", || {
        let (folder, listen, origin) = (tempfile::tempdir()?, free_address()?, free_address()?);
        behind(folder.path(), listen, origin)?;
        let front = front::Front::start(front::Server::Nginx, front::Options::new(PATH, listen))?;
        let ca = &front.certificates().ca;
        let (_bridge, line) = support::start(folder.path(), ca)?;
        let line = line.to_string().replace(&listen.to_string(), &front.address().to_string());
        let proxy = Proxy::start(&qnet, &line, ca)?;
        proxy
            .is_not_connected("not even to its own site: nothing listens on that port; tell its operator")?;
        drop(proxy);
        for server in ["nginx", "apache2", "lighttpd", "caddy", "haproxy"] {
            let proxy = Proxy::start(&qnet, &line, ca)?;
            let _site = without_tls(server, origin)?;
            proxy.ask()?;
            proxy.says(CONNECTED).context(server)?;
        }
        Ok(())
    })
}

#[test]
fn a_bridge_whose_way_out_is_dead_is_not_connected() -> Result<()> {
    let qnet = built("qnet")?;
    isolated("a_bridge_whose_way_out_is_dead_is_not_connected", || {
        let bridge = Bridge::start(&format!("upstream = \"{}\"", free_address()?))?;
        let proxy = Proxy::start(&qnet, &bridge.line.to_string(), &bridge.decoy.certificates().ca)?;
        proxy.is_not_connected("nothing behind it answers")
    })
}
