//! The user's proxy and the operator's bridge, as programs: a page, DNS, and a bridge that is killed and started again.

use std::fs::{self, DirBuilder, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use qnet_tests::support::decoy::{Decoy, Options, Server};
use qnet_tests::support::dns::{NameServer, Says};
use qnet_tests::support::isolate::isolated;
use qnet_tests::support::process::{Running, free_address, signal, wait_for};
use qnet_tests::support::pt::built;
use rustix::process::Signal;

/// How long a program may take until it is ready on a busy machine.
const LIMIT: Duration = Duration::from_secs(40);

/// The two programs, built before the test has no network.
struct Programs {
    bridge: PathBuf,
    proxy: PathBuf,
}

fn log_of(folder: &Path, name: &str) -> String {
    fs::read_to_string(folder.join(name)).unwrap_or_default()
}

fn start_bridge(
    programs: &Programs,
    folder: &Path,
    decoy: &Decoy,
    listen: SocketAddr,
) -> Result<(Running, String)> {
    let mut command = Command::new(&programs.bridge);
    command.args(["run", "--listen", &listen.to_string(), "--decoy", &decoy.address().to_string()]);
    command.args(["--sni", decoy.name(), "--state"]).arg(folder.join("state"));
    // All there is in the test is on loopback.
    command.args(["--exit-policy", "accept *:*", "--allow-special", "true", "--udp", "true"]);
    command.env("SSL_CERT_FILE", &decoy.certificates().ca).stdin(Stdio::null());
    command.stdout(Stdio::null()).stderr(File::create(folder.join("bridge.log"))?);
    let mut running = Running::start("qnet-bridge", &mut command)?;
    let line = wait_for("the bridge's line", LIMIT, || {
        if let Some(status) = running.ended()? {
            bail!("the bridge ended ({status}): {}", log_of(folder, "bridge.log"));
        }
        let log = log_of(folder, "bridge.log");
        let line = log.lines().find_map(|line| line.split_once("Bridge qnet "));
        Ok(line.map(|(_, line)| format!("qnet {line}")))
    })?;
    Ok((running, line))
}

fn curl(arguments: &[&str]) -> Result<Vec<u8>> {
    let output = Command::new("curl")
        .args(["--silent", "--show-error", "--max-time", "60", "--insecure"])
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .context("curl does not start")?;
    ensure!(output.status.success(), "curl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(output.stdout)
}

/// Asks `server` for a record by way of the proxy's UDP.
fn ask_dns(proxy: SocketAddr, server: SocketAddr) -> Result<Vec<u8>> {
    let mut control = TcpStream::connect(proxy)?;
    control.write_all(&[5, 1, 0, 5, 3, 0, 1, 0, 0, 0, 0, 0, 0])?;
    let mut answer = [0; 12];
    control.read_exact(&mut answer)?;
    ensure!(answer[..6] == [5, 0, 5, 0, 0, 1], "{answer:?}");
    let relay = SocketAddr::from(([127, 0, 0, 1], u16::from_be_bytes([answer[10], answer[11]])));
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.set_read_timeout(Some(Duration::from_secs(10)))?;
    let question = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x07example\x03com\x00\x00\x41\x00\x01";
    let head = [b"\0\0\0\x01\x7f\0\0\x01".as_slice(), &server.port().to_be_bytes()].concat();
    socket.send_to(&[&head[..], question].concat(), relay)?;
    let mut buffer = [0; 1_500];
    let (count, _) = socket.recv_from(&mut buffer)?;
    buffer.get(head.len()..count).map(<[u8]>::to_vec).context("a short datagram")
}

fn both(programs: &Programs) -> Result<()> {
    let decoy = Decoy::start(Server::Nginx, Options::default())?;
    let folder = tempfile::tempdir()?;
    DirBuilder::new().mode(0o700).create(folder.path().join("state"))?;
    let (listen, status, at) = (free_address()?, free_address()?, free_address()?);
    let (bridge, line) = start_bridge(programs, folder.path(), &decoy, at)?;
    let mut command = Command::new(&programs.proxy);
    command.args([
        "proxy",
        "--bridge",
        &line,
        "--listen",
        &listen.to_string(),
        "--status",
        &status.to_string(),
    ]);
    command.env("SSL_CERT_FILE", &decoy.certificates().ca).stdin(Stdio::null());
    let _proxy = Running::start("qnet", command.stderr(File::create(folder.path().join("proxy.log"))?))?;
    let report = format!("http://{status}/status.json");
    wait_for("connected", LIMIT, || {
        let report = curl(&[&report]).ok().map(|report| String::from_utf8_lossy(&report).into_owned());
        Ok(report.filter(|report| report.contains(r#""state":"connected""#)))
    })
    .with_context(|| log_of(folder.path(), "proxy.log"))?;

    let page = decoy.file("index.html")?;
    let url = format!("https://{}/", decoy.address());
    for way in ["socks5h", "http"] {
        ensure!(curl(&["--proxy", &format!("{way}://{listen}"), &url])? == page, "{way}");
    }
    let server = NameServer::start(Says::Http2)?;
    let answer = ask_dns(listen, server.address())?;
    ensure!(answer.starts_with(&[0x12, 0x34, 0x81, 0x80, 0, 1, 0, 1]), "{answer:?}");

    // Another process with the same key knows nothing of the session: the stream is asked for again.
    signal(bridge.pid(), Signal::KILL)?;
    drop(bridge);
    let (_bridge, again) = start_bridge(programs, folder.path(), &decoy, at)?;
    ensure!(again == line, "the key is another: {again}");
    let got = curl(&["--proxy", &format!("socks5h://{listen}"), &url]);
    ensure!(got.with_context(|| log_of(folder.path(), "proxy.log"))? == page);
    Ok(())
}

#[test]
fn the_proxy_and_the_bridge_work_together() -> Result<()> {
    let programs = Programs { bridge: built("qnet-bridge")?, proxy: built("qnet")? };
    isolated("the_proxy_and_the_bridge_work_together", || both(&programs))
}
