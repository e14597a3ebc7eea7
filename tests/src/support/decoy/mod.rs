//! Real web servers from Debian's packages as decoys, each on a loopback port, from a generated configuration in a
//! folder of its own, with a certificate from a CA of its own.

mod config;
mod rust;

use std::fs::{self, File, Permissions};
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use tempfile::TempDir;

use super::ca::Certificates;
use super::process::{self, Running};
use super::site;
use rust::RustServer;

/// How long a server may take to listen.
const START_LIMIT: Duration = Duration::from_secs(20);

/// The name decoys have unless a test says otherwise.
pub const NAME: &str = "www.example.com";

/// A web server and its TLS stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Server {
    /// nginx with OpenSSL (package nginx).
    Nginx,
    /// Apache with OpenSSL, `mpm_event` and `mod_http2` (package apache2).
    Apache,
    /// lighttpd with OpenSSL (packages lighttpd and lighttpd-mod-openssl).
    Lighttpd,
    /// lighttpd with GnuTLS (packages lighttpd and lighttpd-mod-gnutls).
    LighttpdGnutls,
    /// Caddy with Go's TLS and HTTP/2 (package caddy).
    Caddy,
    /// HAProxy with OpenSSL (package haproxy) before a plain origin.
    Haproxy,
    /// A server of this process: rustls and hyper.
    Rustls,
}

impl Server {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Nginx,
        Self::Apache,
        Self::Lighttpd,
        Self::LighttpdGnutls,
        Self::Caddy,
        Self::Haproxy,
        Self::Rustls,
    ];
}

/// What a test may want otherwise than usual. A server that has no such setting ignores it; the fields say which.
#[derive(Clone, Debug)]
pub struct Options {
    /// The site's names; the first is in the certificate's subject.
    pub names: Vec<String>,
    /// How long a connection may idle between requests.
    pub idle: Duration,
    /// How long the TLS handshake and a request's head may take. lighttpd applies it while idle, too; Caddy: the head only.
    pub head: Duration,
    /// How many requests a connection serves (nginx, Apache, lighttpd over HTTP/1.1).
    pub requests: u32,
    /// How many connections it takes at once (nginx). More need descriptors, too.
    pub connections: u32,
    /// Whether h2 is offered.
    pub h2: bool,
    /// Whether TLS 1.3 is; TLS 1.2 always is.
    pub tls13: bool,
    /// Lines added to the server's own block, in its own language (HAProxy: the frontend's, after which sections may
    /// follow; rustls: has none).
    pub extra: String,
    /// Where to listen; a free loopback port if `None`.
    pub listen: Option<SocketAddr>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            names: vec![NAME.to_owned()],
            idle: Duration::from_secs(75),
            head: Duration::from_secs(60),
            requests: 1_000,
            connections: 1_024,
            h2: true,
            tls13: true,
            extra: String::new(),
            listen: None,
        }
    }
}

/// What a decoy consists of.
#[derive(Debug)]
enum Program {
    /// A server's process.
    Child(Running),
    /// A server of this process.
    Inside(#[expect(dead_code, reason = "held for its drop")] RustServer),
}

/// A running decoy. Ends when dropped.
#[derive(Debug)]
pub struct Decoy {
    running: Vec<Program>,
    server: Server,
    options: Options,
    address: SocketAddr,
    certificates: Certificates,
    folder: TempDir,
}

impl Decoy {
    /// Writes site, certificates and configuration, and starts the server.
    ///
    /// # Errors
    /// Its package is not installed, or it does not listen; with the end of its log.
    pub fn start(server: Server, options: Options) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("qnet-decoy-").tempdir()?;
        // Servers started by root read the site as a user without rights.
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755))?;
        site::write(&folder.path().join("site"))?;
        let names: Vec<&str> = options.names.iter().map(String::as_str).collect();
        let certificates = Certificates::make(folder.path(), &names)?;
        let address = options.listen.map_or_else(process::free_address, Ok)?;
        let mut decoy = Self { running: Vec::new(), server, options, address, certificates, folder };
        decoy.restart()?;
        Ok(decoy)
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The site's first name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.options.names.first().map_or(NAME, String::as_str)
    }

    /// The CA's and the site's certificates.
    #[must_use]
    pub fn certificates(&self) -> &Certificates {
        &self.certificates
    }

    /// The processes that it started itself; servers may have started more.
    #[must_use]
    pub fn processes(&self) -> Vec<u32> {
        let child = |program: &Program| match program {
            Program::Child(child) => Some(child.pid()),
            Program::Inside(_) => None,
        };
        self.running.iter().filter_map(child).collect()
    }

    /// The bytes of one of the site's files.
    ///
    /// # Errors
    /// There is none of this name.
    pub fn file(&self, path: &str) -> Result<Vec<u8>> {
        Ok(fs::read(self.folder.path().join("site").join(path))?)
    }

    /// What the server has logged of requests, one a line (not Caddy: JSON).
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn access_log(&self) -> Result<String> {
        match fs::read_to_string(self.folder.path().join("access.log")) {
            // Caddy makes the file when it has something to say.
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(String::new()),
            log => Ok(log?),
        }
    }

    /// Ends the server. [`Self::restart`] starts it again at the same address.
    ///
    /// # Errors
    /// The kernel's.
    pub fn stop(&mut self) -> Result<()> {
        for program in self.running.drain(..) {
            if let Program::Child(mut child) = program {
                child.stop()?;
            }
        }
        Ok(())
    }

    /// Starts the server, after ending it where it runs.
    ///
    /// # Errors
    /// As for [`Self::start`].
    pub fn restart(&mut self) -> Result<()> {
        self.stop()?;
        if self.server == Server::Rustls {
            let server =
                RustServer::with_tls(self.address, self.folder.path(), &self.certificates, &self.options)?;
            self.running.push(Program::Inside(server));
            return Ok(());
        }
        let origin = if self.server == Server::Haproxy {
            let origin = process::free_address()?;
            self.running.push(Program::Inside(RustServer::plain(origin, self.folder.path())?));
            Some(origin)
        } else {
            None
        };
        let config = config::Config {
            folder: self.folder.path(),
            address: self.address,
            certificates: &self.certificates,
            options: &self.options,
            origin,
        };
        let mut command = config.write(self.server)?;
        // HAProxy has no files for its logs: it says them.
        let log = self.folder.path().join("stderr");
        let said = if origin.is_some() { self.folder.path().join("access.log") } else { log.clone() };
        command.stdin(Stdio::null()).stdout(File::create(&said)?).stderr(File::create(&log)?);
        let mut running = Running::start(&format!("{:?}", self.server), &mut command)?;
        process::wait_listening(&mut running, self.address, START_LIMIT, &log)
            .with_context(|| process::tail(&self.folder.path().join("error.log")))?;
        self.running.push(Program::Child(running));
        Ok(())
    }
}

/// Writes `text` to `name` in `folder`.
pub(super) fn write(folder: &Path, name: &str, text: &str) -> Result<PathBuf> {
    let path = folder.join(name);
    fs::write(&path, text)?;
    Ok(path)
}

/// A program of Debian's, whose folder may not be on a user's path.
pub(super) fn program(name: &str) -> Command {
    let in_sbin = Path::new("/usr/sbin").join(name);
    if in_sbin.exists() { Command::new(in_sbin) } else { Command::new(name) }
}
