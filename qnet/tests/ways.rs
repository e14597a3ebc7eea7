//! The other ways in: a UDP association, a forwarded port, git over ssh by standard input and output, shadowsocks' plugin
//! protocol, a browser.

mod support;

use std::collections::HashMap;
use std::fs;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use qnet_tests::support::decoy::{Decoy, Options, Server};
use qnet_tests::support::dns::{NameServer, Says};
use qnet_tests::support::isolate::isolated;
use qnet_tests::support::process::{Running, free_address, tail, wait_for, wait_listening};
use qnet_tests::support::tunnel::runtime;
use support::exit::{Behind, Exit};
use support::{CONNECT_LIMIT, Proxy, curl, qnet};
use tempfile::TempDir;

/// Names that only the exit knows.
const WEB: &str = "www.example.com";
const DNS: &str = "dns.example";
const SSH: &str = "ssh.example";

/// A decoy and a bridge before it, in a runtime that must be kept.
fn bridge(hosts: HashMap<&'static str, SocketAddr>) -> Result<(tokio::runtime::Runtime, Decoy, Exit)> {
    let runtime = runtime()?;
    let inside = runtime.enter();
    let decoy = Decoy::start(Server::Nginx, Options::default())?;
    let hosts = HashMap::from([(WEB, decoy.address())]).into_iter().chain(hosts).collect();
    let exit = Exit::start(&decoy, 1, Behind::Exit(hosts))?;
    drop(inside);
    Ok((runtime, decoy, exit))
}

/// A DNS question for the address of `example.com`, as resolvers send it.
const QUESTION: &[u8] =
    b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x07example\x03com\x00\x00\x41\x00\x01";

#[test]
fn dns_goes_by_udp_and_comes_back() -> Result<()> {
    isolated("dns_goes_by_udp_and_comes_back", || {
        let server = NameServer::start(Says::Http2)?;
        let (_runtime, decoy, exit) = bridge(HashMap::from([(DNS, server.address())]))?;
        let proxy = Proxy::connected(&decoy.certificates().ca, &[exit.line()], &[])?;
        let mut control = TcpStream::connect(proxy.listen)?;
        control.write_all(&[5, 1, 0, 5, 3, 0, 1, 0, 0, 0, 0, 0, 0])?;
        let mut answer = [0; 12];
        control.read_exact(&mut answer)?;
        ensure!(answer[..6] == [5, 0, 5, 0, 0, 1], "{answer:?}");
        let relay = SocketAddr::from(([127, 0, 0, 1], u16::from_be_bytes([answer[10], answer[11]])));
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        socket.set_read_timeout(Some(Duration::from_secs(10)))?;
        let ask = |head: &[u8]| -> Result<(Vec<u8>, SocketAddr)> {
            socket.send_to(&[head, QUESTION].concat(), relay)?;
            let mut buffer = [0; 1_500];
            let (count, from) = socket.recv_from(&mut buffer)?;
            Ok((buffer[..count].to_vec(), from))
        };
        let by_name = [b"\0\0\0\x03\x0b", DNS.as_bytes(), &53_u16.to_be_bytes()].concat();
        let port = server.address().port().to_be_bytes();
        let by_address = [b"\0\0\0\x01\x7f\0\0\x01", port.as_slice()].concat();
        for head in [by_name, by_address.clone()] {
            let (datagram, from) = ask(&head)?;
            ensure!(from == relay && datagram.starts_with(&by_address), "{datagram:?} from {from}");
            // The question's number, an answer, without an error, with one record.
            ensure!(datagram[10..18] == [0x12, 0x34, 0x81, 0x80, 0, 1, 0, 1], "{datagram:?}");
        }
        // Strangers at the same port are not heard, and fragments are not put together.
        let stranger = UdpSocket::bind("127.0.0.1:0")?;
        stranger.send_to(&[&by_address[..], QUESTION].concat(), relay)?;
        socket.send_to(&[b"\0\0\x01", &by_address[3..], QUESTION].concat(), relay)?;
        ask(&by_address)?;
        ensure!(server.asked() == 3, "{} questions", server.asked());
        drop(control);
        wait_for("the association ends", Duration::from_secs(5), || Ok(UdpSocket::bind(relay).ok()))?;
        Ok(())
    })
}

#[test]
fn a_port_is_forwarded_and_a_browser_shows_a_page() -> Result<()> {
    isolated("a_port_is_forwarded_and_a_browser_shows_a_page", || {
        let (_runtime, decoy, exit) = bridge(HashMap::new())?;
        let (ca, port) = (&decoy.certificates().ca, free_address()?);
        let forward = format!("{}:{WEB}:443", port);
        let proxy = Proxy::connected(ca, &[exit.line()], &["--forward", &forward])?;
        let (ca, host) = (ca.display().to_string(), format!("{WEB}:{}", port.port()));
        let page = String::from_utf8(decoy.file("index.html")?)?;
        let resolve = format!("{host}:127.0.0.1");
        let got = curl(&["--cacert", &ca, "--resolve", &resolve, &format!("https://{host}/")])?;
        ensure!(got == page, "{got}");

        let profile = TempDir::new()?;
        let dom = Command::new("/usr/bin/chromium")
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"])
            .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
            .args(["--ignore-certificate-errors", "--dump-dom", "--timeout=20000"])
            .arg(format!("--proxy-server=socks5://{}", proxy.listen))
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg(format!("https://{WEB}/"))
            .stdin(Stdio::null())
            .output()
            .context("chromium does not start: is it installed?")?;
        let dom = String::from_utf8_lossy(&dom.stdout).into_owned();
        let title =
            page.split("<title>").nth(1).and_then(|rest| rest.split('<').next()).context("a title")?;
        ensure!(dom.contains(title), "{dom}");
        Ok(())
    })
}

#[test]
fn a_proxy_that_ends_leaves_nothing_open_behind_the_bridge() -> Result<()> {
    isolated("a_proxy_that_ends_leaves_nothing_open_behind_the_bridge", || {
        let far = TcpListener::bind("127.0.0.1:0")?;
        let (_runtime, decoy, exit) = bridge(HashMap::from([(SSH, far.local_addr()?)]))?;
        let near = free_address()?;
        let forward = format!("{near}:{SSH}:22");
        let arguments = ["--forward", forward.as_str()];
        let mut proxy = Proxy::connected(&decoy.certificates().ca, &[exit.line()], &arguments)?;
        let mut application = TcpStream::connect(near)?;
        application.write_all(b"held")?;
        let (mut held, _) = far.accept()?;
        let mut bytes = [0; 4];
        held.read_exact(&mut bytes)?;
        proxy.running.stop()?;
        // Without the proxy's word the bridge would keep the session, and this connection, for half an hour.
        held.set_read_timeout(Some(Duration::from_secs(5)))?;
        let ended = match held.read(&mut bytes) {
            Ok(count) => count == 0,
            Err(error) => error.kind() == ErrorKind::ConnectionReset,
        };
        ensure!(ended, "the connection behind the bridge is still open");
        Ok(())
    })
}

#[test]
fn a_bridge_without_udp_is_used_and_says_so() -> Result<()> {
    isolated("a_bridge_without_udp_is_used_and_says_so", || {
        let runtime = runtime()?;
        let _inside = runtime.enter();
        let decoy = Decoy::start(Server::Nginx, Options::default())?;
        let exit = Exit::start(&decoy, 1, Behind::ExitForTcp(HashMap::new()))?;
        let proxy = Proxy::connected(&decoy.certificates().ca, &[exit.line()], &[])?;
        let mut control = TcpStream::connect(proxy.listen)?;
        control.write_all(&[5, 1, 0, 5, 3, 0, 1, 0, 0, 0, 0, 0, 0])?;
        let mut answer = Vec::new();
        control.read_to_end(&mut answer)?;
        ensure!(answer == [5, 0, 5, 7, 0, 1, 0, 0, 0, 0, 0, 0], "{answer:?}");
        Ok(())
    })
}

#[test]
fn a_probe_that_is_not_answered_is_no_connection() -> Result<()> {
    isolated("a_probe_that_is_not_answered_is_no_connection", || {
        let (_runtime, decoy, exit) = bridge(HashMap::new())?;
        let ca = &decoy.certificates().ca;
        let proxy = Proxy::start(ca, &[exit.line()], &["--probe", "nowhere.example:443"])?;
        proxy.wait_for("the probe's host is not: the exit finds no such host")?;
        ensure!(!proxy.report()?.contains(r#""state":"connected""#), "{}", proxy.report()?);
        drop(proxy);
        let probe = format!("{WEB}:{}", decoy.address().port());
        Proxy::connected(ca, &[exit.line()], &["--probe", &probe])?;
        ensure!(exit.asked.load(Ordering::Relaxed) >= 2);
        Ok(())
    })
}

#[test]
fn every_site_answers_the_probe() -> Result<()> {
    isolated("every_site_answers_the_probe", || {
        let runtime = runtime()?;
        let _inside = runtime.enter();
        for server in Server::ALL {
            let decoy = Decoy::start(server, Options::default())?;
            let exit = Exit::start(&decoy, 1, Behind::Exit(HashMap::new()))?;
            Proxy::connected(&decoy.certificates().ca, &[exit.line()], &[])
                .with_context(|| format!("{server:?}"))?;
            ensure!(exit.asked.load(Ordering::Relaxed) == 0, "{server:?}: other hosts were asked for");
        }
        Ok(())
    })
}

/// An sshd that lets this user in with a key, and what a client needs.
struct Ssh {
    _server: Running,
    address: SocketAddr,
}

impl Ssh {
    fn start(folder: &Path) -> Result<Self> {
        for name in ["host", "user"] {
            let mut keygen = Command::new("ssh-keygen");
            keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(folder.join(name));
            ensure!(keygen.status()?.success(), "ssh-keygen failed");
        }
        fs::copy(folder.join("user.pub"), folder.join("authorized"))?;
        fs::set_permissions(folder.join("authorized"), fs::Permissions::from_mode(0o600))?;
        // Where sshd confines itself before a login.
        fs::create_dir_all("/run/sshd")?;
        let address = free_address()?;
        let at = folder.display();
        let config = format!(
            "ListenAddress {address}\nHostKey {at}/host\nAuthorizedKeysFile {at}/authorized\nStrictModes no\nUsePAM no\n\
             PasswordAuthentication no\nPidFile none\n"
        );
        fs::write(folder.join("config"), config)?;
        let log = folder.join("log");
        let mut command = Command::new("/usr/sbin/sshd");
        command.args(["-D", "-E"]).arg(&log).arg("-f").arg(folder.join("config"));
        let mut server = Running::start("sshd (package openssh-server)", command.stdin(Stdio::null()))?;
        wait_listening(&mut server, address, Duration::from_secs(10), &log)?;
        Ok(Self { _server: server, address })
    }
}

fn git(folder: &Path, arguments: &[&str]) -> Result<()> {
    let mut command = Command::new("git");
    command.current_dir(folder).args(arguments).stdin(Stdio::null());
    let who = [("NAME", "A"), ("EMAIL", "a@example.com")];
    for (name, value) in who {
        command.env(format!("GIT_AUTHOR_{name}"), value).env(format!("GIT_COMMITTER_{name}"), value);
    }
    let output = command.output().context("git does not start")?;
    ensure!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

#[test]
fn git_clones_over_ssh_by_standard_input_and_output() -> Result<()> {
    isolated("git_clones_over_ssh_by_standard_input_and_output", || {
        let folder = TempDir::new()?;
        let at = folder.path();
        let ssh = Ssh::start(at)?;
        let (_runtime, decoy, exit) = bridge(HashMap::from([(SSH, ssh.address)]))?;
        let origin = at.join("origin");
        fs::create_dir(&origin)?;
        git(&origin, &["init", "--quiet"])?;
        let file: Vec<u8> =
            (0..400_000_u32).flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
        fs::write(origin.join("file"), &file)?;
        git(&origin, &["add", "file"])?;
        git(&origin, &["commit", "--quiet", "--message", "one"])?;
        // The command ssh runs has the bridge line in a file: %h and %p are ssh's own.
        let settings = at.join("qnet.toml");
        fs::write(&settings, format!("bridge = [\"{}\"]\n", exit.line()))?;
        let proxy_command = format!(
            "env SSL_CERT_FILE={} {} proxy --config {} --stdio %h:%p",
            decoy.certificates().ca.display(),
            env!("CARGO_BIN_EXE_qnet"),
            settings.display()
        );
        let config = format!(
            "Host {SSH}\nUser {}\nIdentityFile {}/user\nIdentitiesOnly yes\nStrictHostKeyChecking no\nUserKnownHostsFile /dev/null\n\
             LogLevel ERROR\nProxyCommand {proxy_command}\n",
            std::env::var("USER").unwrap_or_else(|_| "root".to_owned()),
            at.display()
        );
        fs::write(at.join("ssh_config"), config)?;
        let ssh_command = format!("core.sshCommand=ssh -F {}/ssh_config", at.display());
        let url = format!("ssh://{SSH}{}", origin.display());
        git(at, &["-c", &ssh_command, "clone", "--quiet", &url, "copy"])?;
        ensure!(fs::read(at.join("copy/file"))? == file, "another file came");
        Ok(())
    })
}

#[test]
fn without_a_connection_standard_input_and_output_say_why() -> Result<()> {
    isolated("without_a_connection_standard_input_and_output_say_why", || {
        let (_runtime, decoy, exit) = bridge(HashMap::new())?;
        let mut command = qnet();
        command.args(["proxy", "--bridge", &exit.line(), "--stdio", "nowhere.example:22"]);
        let output = command.env("SSL_CERT_FILE", &decoy.certificates().ca).stdin(Stdio::null()).output()?;
        let said = String::from_utf8(output.stderr)?;
        ensure!(output.status.code() == Some(1) && said == "qnet: the exit finds no such host\n", "{said}");
        Ok(())
    })
}

/// A program of shadowsocks-libev that listens at `address`.
fn shadowsocks(program: &str, folder: &Path, address: SocketAddr, arguments: &[&str]) -> Result<Running> {
    let log = folder.join(program);
    let file = fs::File::create(&log)?;
    let mut command = Command::new(program);
    command.args(["-m", "aes-256-gcm", "-k", "a password of two sides"]).args(arguments);
    command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
    let mut running = Running::start(&format!("{program} (package shadowsocks-libev)"), &mut command)?;
    wait_listening(&mut running, address, CONNECT_LIMIT, &log)?;
    Ok(running)
}

#[test]
fn a_page_comes_through_shadowsocks() -> Result<()> {
    isolated("a_page_comes_through_shadowsocks", || {
        let runtime = runtime()?;
        let _inside = runtime.enter();
        let decoy = Decoy::start(Server::Nginx, Options::default())?;
        let (folder, server, local) = (TempDir::new()?, free_address()?, free_address()?);
        let exit = Exit::start(&decoy, 1, Behind::Server(server))?;
        let (server_port, local_port) = (server.port().to_string(), local.port().to_string());
        let ends = ["-s", "127.0.0.1", "-p", &server_port];
        let _server = shadowsocks("ss-server", folder.path(), server, &ends)?;
        // It hands its environment on to the plugin.
        let plugin = folder.path().join("plugin");
        let script = format!(
            "#!/bin/sh\nSSL_CERT_FILE={} exec {}\n",
            decoy.certificates().ca.display(),
            env!("CARGO_BIN_EXE_qnet")
        );
        fs::write(&plugin, script)?;
        fs::set_permissions(&plugin, fs::Permissions::from_mode(0o755))?;
        let (bridge_port, plugin) = (exit.address.port().to_string(), plugin.display().to_string());
        let ends = ["-s", "127.0.0.1", "-p", &bridge_port, "-b", "127.0.0.1", "-l", &local_port];
        let options = exit.options();
        let by_plugin = ["--plugin", &plugin, "--plugin-opts", &options];
        let _local = shadowsocks("ss-local", folder.path(), local, &[ends.as_slice(), &by_plugin].concat())?;
        let page = String::from_utf8(decoy.file("index.html")?)?;
        let url = format!("https://{}/", decoy.address());
        // ss-local does not wait for its plugin.
        let got = wait_for("the page", CONNECT_LIMIT, || {
            Ok(curl(&["--insecure", "--proxy", &format!("socks5h://{local}"), &url]).ok())
        });
        ensure!(got.with_context(|| tail(&folder.path().join("ss-local")))? == page);
        Ok(())
    })
}

#[test]
fn a_plugin_adds_nothing_and_takes_nothing() -> Result<()> {
    isolated("a_plugin_adds_nothing_and_takes_nothing", || {
        let runtime = runtime()?;
        let _inside = runtime.enter();
        let decoy = Decoy::start(Server::Nginx, Options::default())?;
        let server = TcpListener::bind("127.0.0.1:0")?;
        let exit = Exit::start(&decoy, 1, Behind::Server(server.local_addr()?))?;
        let local = free_address()?;
        let folder = TempDir::new()?;
        let log = folder.path().join("log");
        let mut command = qnet();
        command
            .env("SS_REMOTE_HOST", exit.address.ip().to_string())
            .env("SS_REMOTE_PORT", exit.address.port().to_string())
            .env("SS_LOCAL_HOST", local.ip().to_string())
            .env("SS_LOCAL_PORT", local.port().to_string())
            .env("SS_PLUGIN_OPTIONS", exit.options())
            .env("SSL_CERT_FILE", &decoy.certificates().ca)
            .stdin(Stdio::null())
            .stderr(fs::File::create(&log)?);
        let mut plugin = Running::start("qnet", &mut command)?;
        wait_listening(&mut plugin, local, CONNECT_LIMIT, &log)?;
        // What shadowsocks sends is its own: no byte is added, none taken.
        let mut client = TcpStream::connect(local)?;
        client.write_all(b"\x05\x01opaque")?;
        let (mut far, _) = server.accept()?;
        // The look whether it listens was a connection too, and sent nothing.
        let mut got = Vec::new();
        while got.len() < 8 {
            let mut buffer = [0; 64];
            match far.read(&mut buffer)? {
                0 => far = server.accept()?.0,
                count => got.extend_from_slice(&buffer[..count]),
            }
        }
        ensure!(got == b"\x05\x01opaque", "{got:?}");
        far.write_all(b"back")?;
        let mut back = [0; 4];
        client.read_exact(&mut back)?;
        ensure!(&back == b"back");
        Ok(())
    })
}
