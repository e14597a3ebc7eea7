//! A pluggable transport's process, started over the PT protocol (pt-spec, version 1) as tor starts it.

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use qnet_tests::support::decoy::Decoy;

use crate::peers;

/// How long a plugin may take until it has said that all its methods are there.
const START_LIMIT: Duration = Duration::from_secs(30);

/// How long a plugin may take to end after its standard input closed.
const END_LIMIT: Duration = Duration::from_secs(3);

/// What is needed to start either side of a transport.
pub struct Kind {
    /// What the table calls it.
    pub name: &'static str,
    /// The transport's name.
    pub transport: &'static str,
    /// Added to the arguments that the server announces.
    pub client_args: Vec<(String, String)>,
    /// The plugin's executable.
    pub program: PathBuf,
    /// `TOR_PT_SERVER_TRANSPORT_OPTIONS`, escaped, or empty.
    pub server_options: String,
    /// Further environment of both processes.
    pub environment: Vec<(String, PathBuf)>,
}

impl Kind {
    /// QNet with this program, before `decoy`.
    #[must_use]
    pub fn qnet(program: PathBuf, decoy: &Decoy) -> Self {
        let address = decoy.address().to_string().replace(':', r"\:");
        Self {
            name: "qnet",
            transport: "qnet",
            client_args: Vec::new(),
            program,
            server_options: format!("qnet:decoy={address};qnet:sni={}", decoy.name()),
            environment: vec![("SSL_CERT_FILE".into(), decoy.certificates().ca.clone())],
        }
    }

    /// Debian's obfs4proxy.
    ///
    /// # Errors
    /// It is not installed.
    pub fn obfs4() -> Result<Self> {
        Ok(Self {
            name: "obfs4",
            transport: "obfs4",
            client_args: Vec::new(),
            program: peers::installed("obfs4proxy")?,
            server_options: String::new(),
            environment: Vec::new(),
        })
    }

    /// The same called `name`, by this profile.
    #[must_use]
    pub fn by_profile(self, name: &'static str, profile: &str) -> Self {
        Self { name, client_args: vec![("profile".into(), profile.into())], ..self }
    }
}

/// What a server announced, and a client needs.
#[derive(Clone, Debug, PartialEq)]
pub struct Method {
    /// Where it listens.
    pub address: SocketAddr,
    /// Its arguments, unescaped, in order.
    pub args: Vec<(String, String)>,
}

/// A running plugin; ends when dropped.
pub struct Plugin {
    child: Child,
    stdin: Option<ChildStdin>,
}

impl Plugin {
    /// Starts `kind` as a server that passes payload on to `orport`, at a port that the kernel chooses.
    ///
    /// # Errors
    /// The process does not start, or does not announce its method in time.
    pub fn server(kind: &Kind, state: &Path, orport: SocketAddr) -> Result<(Self, Method)> {
        Self::server_at(kind, state, orport, SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
    }

    /// The same at an address of one's own.
    ///
    /// # Errors
    /// As for [`Plugin::server`].
    pub fn server_at(
        kind: &Kind,
        state: &Path,
        orport: SocketAddr,
        bind: SocketAddr,
    ) -> Result<(Self, Method)> {
        let mut command = command(kind, state);
        command
            .env("TOR_PT_SERVER_TRANSPORTS", kind.transport)
            .env("TOR_PT_SERVER_BINDADDR", format!("{}-{bind}", kind.transport))
            .env("TOR_PT_ORPORT", orport.to_string())
            .env("TOR_PT_EXTENDED_SERVER_PORT", "");
        if !kind.server_options.is_empty() {
            command.env("TOR_PT_SERVER_TRANSPORT_OPTIONS", &kind.server_options);
        }
        let (plugin, said) = Self::start(&mut command, "SMETHODS DONE")?;
        Ok((plugin, announced(&said, "SMETHOD", kind.transport)?))
    }

    /// Starts `kind` as a client and returns the address of its SOCKS5 port.
    ///
    /// # Errors
    /// As [`Plugin::server`].
    pub fn client(kind: &Kind, state: &Path) -> Result<(Self, SocketAddr)> {
        let mut command = command(kind, state);
        command.env("TOR_PT_CLIENT_TRANSPORTS", kind.transport);
        let (plugin, said) = Self::start(&mut command, "CMETHODS DONE")?;
        Ok((plugin, announced(&said, "CMETHOD", kind.transport)?.address))
    }

    /// The process's number, for `/proc`.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    fn start(command: &mut Command, last: &str) -> Result<(Self, Vec<String>)> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", command.get_program().display()))?;
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().context("the plugin has no standard output")?;
        let plugin = Self { child, stdin };
        let (sender, lines) = channel();
        // Reads to the end, so that the plugin never blocks on what it logs later.
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                // After the start nobody listens any more.
                let _ = sender.send(line);
            }
        });
        let said = read_until(&lines, last)?;
        Ok((plugin, said))
    }
}

impl Drop for Plugin {
    fn drop(&mut self) {
        self.stdin = None;
        let limit = Instant::now() + END_LIMIT;
        while Instant::now() < limit {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
        // It may have ended meanwhile: either way it is gone after this.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command(kind: &Kind, state: &Path) -> Command {
    let mut command = Command::new(&kind.program);
    command
        .env("TOR_PT_MANAGED_TRANSPORT_VER", "1")
        .env("TOR_PT_STATE_LOCATION", state)
        .env("TOR_PT_EXIT_ON_STDIN_CLOSE", "1")
        .envs(kind.environment.iter().map(|(name, value)| (name, value)));
    command
}

fn read_until(lines: &Receiver<String>, last: &str) -> Result<Vec<String>> {
    let limit = Instant::now() + START_LIMIT;
    let mut said = Vec::new();
    loop {
        match lines.recv_timeout(limit.saturating_duration_since(Instant::now())) {
            Ok(line) if line == last => return Ok(said),
            Ok(line) => said.push(line),
            Err(RecvTimeoutError::Timeout) => bail!("no {last} in {START_LIMIT:?}; it said: {said:?}"),
            Err(RecvTimeoutError::Disconnected) => bail!("the plugin ended before {last}; it said: {said:?}"),
        }
    }
}

/// The method of `transport` among what a plugin said.
fn announced(said: &[String], keyword: &str, transport: &str) -> Result<Method> {
    said.iter()
        .find_map(|line| method(line, keyword, transport))
        .ok_or_else(|| anyhow!("no usable {keyword} line for {transport}; it said: {said:?}"))
}

fn method(line: &str, keyword: &str, transport: &str) -> Option<Method> {
    let mut words = line.split(' ');
    if words.next() != Some(keyword) || words.next() != Some(transport) {
        return None;
    }
    if keyword == "CMETHOD" && words.next() != Some("socks5") {
        return None;
    }
    let address = words.next()?.parse().ok()?;
    let args = words.find_map(|word| word.strip_prefix("ARGS:")).map_or_else(Vec::new, unescape);
    Some(Method { address, args })
}

/// `k=v,k2=v2` with `\` before a `,`, `=` or `\` that is meant literally.
fn unescape(args: &str) -> Vec<(String, String)> {
    let mut pairs = vec![(String::new(), None::<String>)];
    let mut letters = args.chars();
    while let Some(letter) = letters.next() {
        let Some((key, value)) = pairs.last_mut() else { continue };
        match letter {
            ',' => pairs.push((String::new(), None)),
            '=' if value.is_none() => *value = Some(String::new()),
            _ => {
                let literal = if letter == '\\' { letters.next() } else { Some(letter) };
                value.as_mut().unwrap_or(key).extend(literal);
            }
        }
    }
    pairs.into_iter().filter_map(|(key, value)| Some((key, value?))).collect()
}

#[cfg(test)]
mod tests {
    use super::{Method, method};

    #[test]
    fn reads_the_lines_that_plugins_print() {
        let args = vec![("cert".to_owned(), "a+/=,\\b".to_owned()), ("iat-mode".to_owned(), "0".to_owned())];
        let address = "127.0.0.1:1234".parse().unwrap();
        let line = r"SMETHOD obfs4 127.0.0.1:1234 ARGS:cert=a+/\=\,\\b,iat-mode=0";
        assert_eq!(method(line, "SMETHOD", "obfs4"), Some(Method { address, args }));
        let line = "CMETHOD obfs4 socks5 127.0.0.1:1234";
        assert_eq!(method(line, "CMETHOD", "obfs4"), Some(Method { address, args: Vec::new() }));
        assert_eq!(method("CMETHOD obfs4 socks4 127.0.0.1:1234", "CMETHOD", "obfs4"), None);
        assert_eq!(method("SMETHOD qnet 127.0.0.1:1234", "SMETHOD", "obfs4"), None);
        assert_eq!(method("SMETHOD obfs4 nowhere", "SMETHOD", "obfs4"), None);
    }
}
