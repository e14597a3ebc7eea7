//! A scripted parent: launches the real program as tor or Arti would, reads its lines, and plays tor's other parts.
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part of what is shared")]

pub mod extor;
pub mod socks;

use qnet_tests::support::decoy::{self, Decoy, Server};
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long anything that must come may take on a machine under load.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// What a child is launched with.
pub struct Launch {
    env: HashMap<OsString, OsString>,
    wrapper: Vec<String>,
    args: Vec<String>,
    home: Arc<TempDir>,
    decoy: Option<Arc<Decoy>>,
}

impl Launch {
    fn new(env: &[(&str, &str)]) -> Self {
        let home = Arc::new(tempfile::tempdir().unwrap());
        let mut launch = Self { env: HashMap::new(), wrapper: vec![], args: vec![], home, decoy: None };
        launch.env.insert("PATH".into(), std::env::var_os("PATH").unwrap());
        let state = launch.state();
        launch.env("TOR_PT_MANAGED_TRANSPORT_VER", "1").env("TOR_PT_STATE_LOCATION", state);
        for (name, value) in env {
            launch.env(name, value);
        }
        launch
    }

    /// As tor launches a client's transport.
    pub fn client() -> Self {
        Self::new(&[("TOR_PT_CLIENT_TRANSPORTS", "qnet")])
    }

    /// As tor launches a bridge's, with payload for `or_port`.
    pub fn server(or_port: SocketAddr) -> Self {
        let mut launch = Self::new(&[
            ("TOR_PT_SERVER_TRANSPORTS", "qnet"),
            ("TOR_PT_SERVER_BINDADDR", "qnet-127.0.0.1:0"),
            ("TOR_PT_ORPORT", &or_port.to_string()),
            ("TOR_PT_EXTENDED_SERVER_PORT", ""),
            ("TOR_PT_EXIT_ON_STDIN_CLOSE", "1"),
        ]);
        launch.before(&shared_decoy());
        launch
    }

    /// Puts a bridge before this site.
    pub fn before(&mut self, site: &Arc<Decoy>) -> &mut Self {
        self.env("TOR_PT_SERVER_TRANSPORT_OPTIONS", options(site.address(), site.name()));
        self.trust(site)
    }

    /// Adds the CA of this site to those that certificates are checked by, and keeps the site running.
    pub fn trust(&mut self, site: &Arc<Decoy>) -> &mut Self {
        self.decoy = Some(Arc::clone(site));
        self.env("SSL_CERT_FILE", &site.certificates().ca)
    }

    pub fn env(&mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> &mut Self {
        self.env.insert(name.as_ref().to_owned(), value.as_ref().to_owned());
        self
    }

    pub fn unset(&mut self, name: &str) -> &mut Self {
        self.env.remove(OsStr::new(name));
        self
    }

    pub fn bytes(&mut self, name: &str, value: &[u8]) -> &mut Self {
        self.env(name, OsString::from_vec(value.to_vec()))
    }

    /// A command that gets the program as its last arguments.
    pub fn under(&mut self, wrapper: &[&str]) -> &mut Self {
        self.wrapper = wrapper.iter().map(|word| (*word).to_owned()).collect();
        self
    }

    pub fn args(&mut self, args: &[&str]) -> &mut Self {
        self.args = args.iter().map(|word| (*word).to_owned()).collect();
        self
    }

    /// The folder everything of this launch is in; also where the child runs.
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    pub fn state(&self) -> PathBuf {
        self.home.path().join("state")
    }

    pub fn start(&self) -> Pt {
        let words = self.wrapper.iter().map(String::as_str).chain([env!("CARGO_BIN_EXE_qnet-pt")]);
        let words: Vec<&str> = words.chain(self.args.iter().map(String::as_str)).collect();
        let mut child = Command::new(words[0])
            .args(&words[1..])
            .env_clear()
            .envs(&self.env)
            .current_dir(self.home())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let lines = read_lines(child.stdout.take().unwrap());
        Pt { child, lines, seen: vec![], _kept: (Arc::clone(&self.home), self.decoy.clone()) }
    }

    /// Starts what must end by itself without having begun: its lines, after a failure's exit code.
    pub fn fails(&self) -> Vec<String> {
        let mut pt = self.start();
        assert!(!pt.exit().success());
        pt.all()
    }
}

fn read_lines(stdout: impl Read + Send + 'static) -> Receiver<Vec<u8>> {
    let (sender, lines) = channel();
    std::thread::spawn(move || {
        let mut stdout = BufReader::new(stdout);
        loop {
            let mut line = Vec::new();
            match stdout.read_until(b'\n', &mut line) {
                Ok(count) if count > 0 && sender.send(line).is_ok() => {}
                _ => return,
            }
        }
    });
    lines
}

/// A running transport.
pub struct Pt {
    child: Child,
    lines: Receiver<Vec<u8>>,
    /// Every line so far.
    pub seen: Vec<String>,
    /// Its folder and its site stay as long as it runs.
    _kept: (Arc<TempDir>, Option<Arc<Decoy>>),
}

impl Pt {
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The next line, which must be a line as the specification has them.
    pub fn next(&mut self, limit: Duration) -> Option<String> {
        let line = self.lines.recv_timeout(limit).ok()?;
        let text = String::from_utf8(line).expect("a line is text");
        let text = text.strip_suffix('\n').expect("a line ends in LF").to_owned();
        assert!(text.bytes().all(|b| (b' '..=b'~').contains(&b)), "not plain ASCII: {text:?}");
        self.seen.push(text.clone());
        Some(text)
    }

    /// Waits for a line that begins so, past others.
    pub fn line(&mut self, start: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.next(deadline.saturating_duration_since(Instant::now())) {
                Some(line) if line.starts_with(start) => return line,
                Some(_) => {}
                None => panic!("no line {start}; there were {:#?}", self.seen),
            }
        }
    }

    /// All lines until none comes any more, after the end of the process.
    pub fn all(&mut self) -> Vec<String> {
        while self.next(PATIENCE).is_some() {}
        self.seen.clone()
    }

    /// The lines of the configuration protocol up to its end.
    pub fn configured(&mut self) -> Vec<String> {
        let deadline = Instant::now() + Duration::from_secs(30);
        while let Some(line) = self.next(deadline.saturating_duration_since(Instant::now())) {
            if line == "CMETHODS DONE" || line == "SMETHODS DONE" {
                return self.seen.clone();
            }
        }
        panic!("the configuration does not end; there were {:#?}", self.seen);
    }

    /// Where the SOCKS listener of a client is.
    pub fn cmethod(&mut self) -> SocketAddr {
        self.line("CMETHOD qnet socks5 ").rsplit_once(' ').unwrap().1.parse().unwrap()
    }

    /// A bridge's address and arguments.
    pub fn smethod(&mut self) -> (SocketAddr, String) {
        let line = self.line("SMETHOD qnet ");
        let words: Vec<&str> = line.split(' ').collect();
        (words[2].parse().unwrap(), words[3].strip_prefix("ARGS:").unwrap().to_owned())
    }

    pub fn close_stdin(&mut self) {
        drop(self.child.stdin.take());
    }

    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args([&format!("-{name}"), &self.id().to_string()]).status();
        assert!(status.unwrap().success());
    }

    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Waits for the end.
    pub fn exit(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(status) = self.ended() {
                return status;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("it does not end; its lines were {:#?}", self.seen);
    }
}

impl Drop for Pt {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A web server that the tests of this process share. It ends with the last transport that uses it: what is held
/// to the end of the process would outlive it.
pub fn shared_decoy() -> Arc<Decoy> {
    static SHARED: Mutex<Weak<Decoy>> = Mutex::new(Weak::new());
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    shared.upgrade().unwrap_or_else(|| {
        let decoy = Arc::new(new_decoy(decoy::Options::default()));
        *shared = Arc::downgrade(&decoy);
        decoy
    })
}

/// A web server of this test's own.
pub fn new_decoy(options: decoy::Options) -> Decoy {
    Decoy::start(Server::Nginx, options).unwrap()
}

/// Server options that name a decoy.
pub fn options(decoy: SocketAddr, name: &str) -> String {
    format!("qnet:decoy={};qnet:sni={name}", decoy.to_string().replace(':', "\\:"))
}

/// Runs the test of this name once more in a network namespace of its own, with loopback and what `setup` adds.
/// There it returns true; where it was called it returns false once that is done.
pub fn in_own_network(test: &str, setup: &str) -> bool {
    const INSIDE: &str = "QNET_TEST_IN_OWN_NETWORK";
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let script = format!("ip link set lo up && {setup} && exec \"$0\" --exact {test} --nocapture");
    // A web server started by root changes its user, which a user namespace of one user does not allow.
    let root = rustix::process::geteuid().is_root();
    let status = Command::new("unshare")
        .args([if root { "-n" } else { "-rn" }, "sh", "-c", &script])
        .arg(std::env::current_exe().unwrap())
        .env(INSIDE, "1")
        .status();
    assert!(status.unwrap().success());
    false
}

/// A listener on loopback.
pub fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// A port of loopback where nobody listens.
pub fn closed_port() -> SocketAddr {
    listener().1
}

/// The next connection, or none within the time.
pub fn accept_within(listener: &TcpListener, limit: Duration) -> Option<TcpStream> {
    listener.set_nonblocking(true).unwrap();
    let deadline = Instant::now() + limit;
    while Instant::now() < deadline {
        if let Ok((tcp, _)) = listener.accept() {
            tcp.set_nonblocking(false).unwrap();
            tcp.set_read_timeout(Some(PATIENCE)).unwrap();
            return Some(tcp);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    None
}

pub fn accept(listener: &TcpListener) -> TcpStream {
    accept_within(listener, PATIENCE).expect("nobody connects")
}

pub fn read_exact<const N: usize>(tcp: &mut TcpStream) -> [u8; N] {
    let mut bytes = [0; N];
    tcp.read_exact(&mut bytes).unwrap();
    bytes
}

/// Checks that bytes go through, both ways.
pub fn talk(a: &mut TcpStream, b: &mut TcpStream) {
    a.write_all(b"from a").unwrap();
    assert_eq!(&read_exact::<6>(b), b"from a");
    b.write_all(b"from b").unwrap();
    assert_eq!(&read_exact::<6>(a), b"from b");
}

/// A client and a bridge with an ORPort behind it.
pub struct Tunnel {
    pub client: Pt,
    pub server: Pt,
    pub or_port: TcpListener,
    pub socks: SocketAddr,
    pub bridge: SocketAddr,
    pub args: String,
    server_launch: Launch,
    client_launch: Launch,
}

impl Tunnel {
    pub fn new() -> Self {
        Self::with(|_| {}, |_| {})
    }

    /// The same with more in the environment of either.
    pub fn with(client: impl FnOnce(&mut Launch), server: impl FnOnce(&mut Launch)) -> Self {
        let (or_port, or_address) = listener();
        let (mut server_launch, mut client_launch) = (Launch::server(or_address), Launch::client());
        client_launch.trust(&shared_decoy());
        server(&mut server_launch);
        client(&mut client_launch);
        let mut server = server_launch.start();
        let mut client = client_launch.start();
        let (bridge, args) = server.smethod();
        let socks = client.cmethod();
        // On an SMETHOD line commas part what semicolons part in a SOCKS login.
        let args = args.replace(',', ";");
        Self { client, server, or_port, socks, bridge, args, server_launch, client_launch }
    }

    /// Opens a connection, at the user's end.
    pub fn open(&self) -> Result<TcpStream, u8> {
        socks::connect(self.socks, self.bridge, &self.args)
    }

    /// Opens a connection: both ends.
    pub fn ends(&self) -> (TcpStream, TcpStream) {
        let user = self.open().unwrap();
        (user, accept(&self.or_port))
    }
}
