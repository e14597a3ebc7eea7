//! Web servers from Debian's packages as what a websocket bridge stands behind: TLS ends here, one path goes on to the
//! bridge, everything else to the site.

use std::fs::{self, File, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use tempfile::TempDir;

use super::ca::Certificates;
use super::decoy::{NAME, program, write};
use super::process::{self, Running};
use super::site;

/// How long a server may take to listen.
const START_LIMIT: Duration = Duration::from_secs(20);

/// What stands in front.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Server {
    /// nginx (package nginx), which takes websockets over HTTP/1.1 alone.
    Nginx,
    /// HAProxy (package haproxy), which takes them as streams of HTTP/2 too (RFC 8441).
    Haproxy,
    /// HAProxy, told not to.
    HaproxyHttp1,
}

/// What a test may want otherwise than usual.
#[derive(Clone, Debug)]
pub struct Options {
    /// The path that goes to the bridge, with its query, of which the servers take no notice.
    pub path: String,
    /// Where the bridge listens.
    pub bridge: SocketAddr,
    /// How long a websocket may be silent.
    pub idle: Duration,
    /// The site's page in place of the usual one.
    pub page: Option<String>,
    /// Further addresses of the same server, and what path leads where on each: what is compared with each other meets the same
    /// load, and the same files.
    pub doors: Vec<(String, SocketAddr)>,
}

impl Options {
    /// The usual ones: nginx's own limit of a minute.
    #[must_use]
    pub fn new(path: &str, bridge: SocketAddr) -> Self {
        Self { path: path.to_owned(), bridge, idle: Duration::from_secs(60), page: None, doors: Vec::new() }
    }
}

/// A running front and, behind it, the site as a plain origin. Both end when this is dropped.
#[derive(Debug)]
pub struct Front {
    server: Server,
    options: Options,
    running: Option<Running>,
    origin: Running,
    site: SocketAddr,
    /// With TLS; HTTP/2 in the clear; HTTP/1.1 in the clear (the latter two HAProxy's alone).
    listens: [SocketAddr; 3],
    /// The further addresses, with TLS.
    doors: Vec<SocketAddr>,
    certificates: Certificates,
    folder: TempDir,
}

impl Front {
    /// Writes site, certificates and configurations, and starts both.
    ///
    /// # Errors
    /// A package is not installed, or a server does not listen; with the end of its log.
    pub fn start(server: Server, options: Options) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("qnet-front-").tempdir()?;
        // Servers started by root read the site as a user without rights.
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755))?;
        let pages = folder.path().join("site");
        site::write(&pages)?;
        if let Some(page) = &options.page {
            fs::write(pages.join("index.html"), page)?;
        }
        let certificates = Certificates::make(folder.path(), &[NAME])?;
        let site = process::free_address()?;
        let origin = origin(&folder, site)?;
        let listens = [process::free_address()?, process::free_address()?, process::free_address()?];
        let doors = options.doors.iter().map(|_| process::free_address()).collect::<Result<_>>()?;
        let mut front =
            Self { server, options, running: None, origin, site, listens, doors, certificates, folder };
        front.restart()?;
        Ok(front)
    }

    /// Where it listens with TLS.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.listens[0]
    }

    /// Where it listens besides, with TLS, in the options' order.
    #[must_use]
    pub fn doors(&self) -> &[SocketAddr] {
        &self.doors
    }

    /// Where HAProxy listens for HTTP/2 and for HTTP/1.1 in the clear.
    #[must_use]
    pub fn in_the_clear(&self) -> [SocketAddr; 2] {
        [self.listens[1], self.listens[2]]
    }

    /// The site's plain origin: what a bridge hands visitors on to.
    #[must_use]
    pub fn site(&self) -> SocketAddr {
        self.site
    }

    /// The CA's and the site's certificates.
    #[must_use]
    pub fn certificates(&self) -> &Certificates {
        &self.certificates
    }

    /// The bytes of one of the site's files.
    ///
    /// # Errors
    /// There is none of this name.
    pub fn file(&self, path: &str) -> Result<Vec<u8>> {
        Ok(fs::read(self.folder.path().join("site").join(path))?)
    }

    /// What the site was asked for, one request a line.
    ///
    /// # Errors
    /// There is no such log.
    pub fn access_log(&self) -> Result<String> {
        Ok(fs::read_to_string(self.folder.path().join("origin.access"))?)
    }

    /// The origin's process.
    #[must_use]
    pub fn origin(&self) -> &Running {
        &self.origin
    }

    /// Ends the front; [`Self::restart`] starts it again at the same address.
    ///
    /// # Errors
    /// The kernel's.
    pub fn stop(&mut self) -> Result<()> {
        self.running.take().map_or(Ok(()), |mut running| running.stop())
    }

    /// Starts the front, after ending it where it runs.
    ///
    /// # Errors
    /// As for [`Self::start`].
    pub fn restart(&mut self) -> Result<()> {
        self.stop()?;
        let command = match self.server {
            Server::Nginx => self.nginx()?,
            Server::Haproxy | Server::HaproxyHttp1 => self.haproxy()?,
        };
        self.running = Some(run(command, &format!("{:?}", self.server), &self.folder, self.listens[0])?);
        Ok(())
    }

    /// Every address with TLS, the path that leads elsewhere there, without its query, which servers leave out when they match, and
    /// where it leads.
    fn ways(&self) -> impl Iterator<Item = (SocketAddr, &str, SocketAddr)> {
        let first = (self.address(), self.options.path.as_str(), self.options.bridge);
        let doors = self.doors.iter().zip(&self.options.doors);
        let further = doors.map(|(listen, (path, bridge))| (*listen, path.as_str(), *bridge));
        std::iter::once(first)
            .chain(further)
            .map(|(listen, path, bridge)| (listen, path.split('?').next().unwrap_or_default(), bridge))
    }

    fn nginx(&self) -> Result<Command> {
        let servers = self.ways().map(|(address, path, bridge)| format!(
            "  server {{\n    listen {address} ssl http2;\n    server_name {NAME};\n\
             ssl_certificate {certificate};\n    ssl_certificate_key {key};\n    ssl_protocols TLSv1.2 TLSv1.3;\n\
             location = {path} {{\n      proxy_pass http://{bridge};\n      proxy_http_version 1.1;\n\
             proxy_set_header Host $host;\n      proxy_set_header Upgrade $http_upgrade;\n\
             proxy_set_header Connection $connection_upgrade;\n      proxy_read_timeout {idle}ms;\n    }}\n\
             location / {{ proxy_pass http://{site}; proxy_set_header Host $host; }}\n  }}\n",
            certificate = self.certificates.certificate.display(),
            key = self.certificates.key.display(),
            idle = self.options.idle.as_millis(),
            site = self.site,
        ));
        let map = "map $http_upgrade $connection_upgrade { default upgrade; '' close; }\n".to_owned();
        nginx(&self.folder, "front", &std::iter::once(map).chain(servers).collect::<String>())
    }

    fn haproxy(&self) -> Result<Command> {
        let [_, http2, http1] = self.listens;
        let mut text = format!(
            "global\n  maxconn 1000\n{global}defaults\n  mode http\n  timeout connect 5s\n  timeout client {idle}ms\n\
             timeout server {idle}ms\n  timeout tunnel {idle}ms\n  timeout http-request 10s\n\
             backend site\n  server site {site}\n",
            global = match self.server {
                Server::HaproxyHttp1 => "  h2-workaround-bogus-websocket-clients\n",
                Server::Nginx | Server::Haproxy => "",
            },
            idle = self.options.idle.as_millis(),
            site = self.site,
        );
        for (number, (tls, path, bridge)) in self.ways().enumerate() {
            let clear = if number == 0 {
                format!("  bind {http2} proto h2\n  bind {http1}\n")
            } else {
                String::new()
            };
            text.push_str(&format!(
                "frontend web{number}\n  bind {tls} ssl crt {both} alpn h2,http/1.1\n{clear}\
                 use_backend bridge{number} if {{ path {path} }}\n  default_backend site\n\
                 backend bridge{number}\n  http-reuse never\n  server bridge {bridge}\n",
                both = self.certificates.both.display(),
            ));
        }
        let mut command = program("haproxy");
        command.arg("-db").arg("-f").arg(write(self.folder.path(), "haproxy.cfg", &text)?);
        Ok(command)
    }
}

/// The site as a plain origin.
fn origin(folder: &TempDir, address: SocketAddr) -> Result<Running> {
    let root = folder.path().join("site");
    let text =
        format!("server {{ listen {address}; server_name {NAME}; root {root}; }}\n", root = root.display());
    run(nginx(folder, "origin", &text)?, "the site", folder, address)
}

fn nginx(folder: &TempDir, name: &str, servers: &str) -> Result<Command> {
    // One connection of each address at a time would let those wait whose address is called more often.
    let path = folder.path().display();
    let text = format!(
        "daemon off;\nworker_processes 1;\npid {path}/{name}.pid;\nerror_log {path}/{name}.log;\n\
         events {{ worker_connections 1024; multi_accept on; }}\nhttp {{\n{temporary}  access_log {path}/{name}.access;\n  server_tokens off;\n\
         types {{ text/html html; text/css css; text/javascript js; image/png png; image/x-icon ico; }}\n{servers}}}\n",
        temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("  {kind}_temp_path {path}/{name}-temp;\n"))
            .concat(),
    );
    let mut command = program("nginx");
    command.arg("-p").arg(folder.path()).arg("-c").arg(write(folder.path(), &format!("{name}.conf"), &text)?);
    command.arg("-e").arg(folder.path().join(format!("{name}.log")));
    Ok(command)
}

fn run(mut command: Command, name: &str, folder: &TempDir, address: SocketAddr) -> Result<Running> {
    let log = folder.path().join(format!("{name}.stderr"));
    let out = File::create(&log)?;
    command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
    let mut running = Running::start(name, &mut command)?;
    process::wait_listening(&mut running, address, START_LIMIT, &log)
        .context("a front's or its site's log")?;
    Ok(running)
}
