//! The servers' configurations.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::{Certificates, Options, Server, program, write};

/// All that a configuration is made of.
pub(super) struct Config<'a> {
    pub(super) folder: &'a Path,
    pub(super) address: SocketAddr,
    pub(super) certificates: &'a Certificates,
    pub(super) options: &'a Options,
    /// Where a server that reads no files gets the site.
    pub(super) origin: Option<SocketAddr>,
}

impl Config<'_> {
    /// Writes the configuration; gives the command that starts the server in the foreground.
    pub(super) fn write(&self, server: Server) -> Result<Command> {
        match server {
            Server::Nginx => self.nginx(),
            Server::Apache => self.apache(),
            Server::Lighttpd => self.lighttpd("mod_openssl"),
            Server::LighttpdGnutls => self.lighttpd("mod_gnutls"),
            Server::Caddy => self.caddy(),
            Server::Haproxy => self.haproxy(),
            Server::Rustls => bail!("it has no configuration"),
        }
    }

    fn nginx(&self) -> Result<Command> {
        let Self { folder, address, certificates, options, .. } = self;
        let text = format!(
            "daemon off;\nworker_processes 1;\npid {folder}/pid;\nerror_log {folder}/error.log;\n\
             events {{ worker_connections {connections}; }}\n\
             http {{\n{temporary}  types {{ {types} }}\n  access_log {folder}/access.log;\n  server_tokens off;\n\
             keepalive_timeout {idle}ms;\n  keepalive_requests {requests};\n  client_header_timeout {head}ms;\n\
             server {{\n    listen {address} ssl{h2};\n    server_name {names};\n    root {folder}/site;\n\
             ssl_certificate {certificate};\n    ssl_certificate_key {key};\n    ssl_protocols TLSv1.2{tls13};\n\
             {extra}\n  }}\n}}\n",
            folder = folder.display(),
            temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
                .map(|kind| format!("  {kind}_temp_path {}/temp;\n", folder.display()))
                .concat(),
            types = TYPES.map(|(kind, end)| format!("{kind} {end};")).join(" "),
            idle = options.idle.as_millis(),
            head = options.head.as_millis(),
            requests = options.requests,
            connections = options.connections,
            h2 = if options.h2 { " http2" } else { "" },
            names = options.names.join(" "),
            certificate = certificates.certificate.display(),
            key = certificates.key.display(),
            tls13 = if options.tls13 { " TLSv1.3" } else { "" },
            extra = options.extra,
        );
        let mut command = program("nginx");
        command.arg("-p").arg(folder).arg("-c").arg(write(folder, "nginx.conf", &text)?);
        command.arg("-e").arg(folder.join("error.log"));
        Ok(command)
    }

    fn apache(&self) -> Result<Command> {
        let Self { folder, address, certificates, options, .. } = self;
        let modules =
            ["mpm_event", "authz_core", "dir", "mime", "reqtimeout", "socache_shmcb", "ssl", "http2"]
                .map(|name| format!("LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so\n"))
                .concat();
        let text = format!(
            "ServerRoot {folder}\nDefaultRuntimeDir {folder}\nPidFile {folder}/pid\nErrorLog {folder}/error.log\n{modules}\
             User www-data\nGroup www-data\nServerName {name}\nListen {address}\nServerTokens Prod\nMutex file:{folder}\n\
             CustomLog {folder}/access.log \"%h %l %u %t \\\"%r\\\" %>s %b\"\nTypesConfig /dev/null\n{types}\
             KeepAliveTimeout {idle}ms\nMaxKeepAliveRequests {requests}\nTimeout {timeout}\n\
             RequestReadTimeout handshake={head} header={head}\nStartServers 1\n\
             <VirtualHost {address}>\n  ServerName {name}\n  ServerAlias {names}\n  DocumentRoot {folder}/site\n\
             DirectoryIndex index.html\n  SSLEngine on\n  SSLCertificateFile {certificate}\n  SSLCertificateKeyFile {key}\n\
             SSLProtocol -all +TLSv1.2 {tls13}\n  Protocols {h2}http/1.1\n  <Directory {folder}/site>\n\
             Require all granted\n  </Directory>\n{extra}\n</VirtualHost>\n",
            folder = folder.display(),
            name = options.names.first().map_or("", String::as_str),
            names = options.names.join(" "),
            types = TYPES.map(|(kind, end)| format!("AddType {kind} .{end}\n")).concat(),
            idle = options.idle.as_millis(),
            requests = options.requests,
            timeout = options.head.as_secs().max(1),
            head = options.head.as_secs().max(1),
            certificate = certificates.certificate.display(),
            key = certificates.key.display(),
            tls13 = if options.tls13 { "+TLSv1.3" } else { "" },
            h2 = if options.h2 { "h2 " } else { "" },
            extra = options.extra,
        );
        let mut command = program("apache2");
        command.arg("-f").arg(write(folder, "apache.conf", &text)?).arg("-DFOREGROUND");
        Ok(command)
    }

    fn lighttpd(&self, module: &str) -> Result<Command> {
        let Self { folder, address, certificates, options, .. } = self;
        let text = format!(
            "server.modules = (\"{module}\", \"mod_accesslog\")\nserver.document-root = \"{folder}/site\"\n\
             server.bind = \"{ip}\"\nserver.port = {port}\nserver.errorlog = \"{folder}/error.log\"\n\
             accesslog.filename = \"{folder}/access.log\"\nindex-file.names = (\"index.html\")\n\
             mimetype.assign = ({types})\nserver.max-keep-alive-idle = {idle}\n\
             server.max-keep-alive-requests = {requests}\nserver.max-read-idle = {head}\n\
             server.feature-flags = (\"server.h2proto\" => \"{h2}\")\nssl.engine = \"enable\"\n\
             ssl.pemfile = \"{certificate}\"\nssl.privkey = \"{key}\"\n\
             ssl.openssl.ssl-conf-cmd = (\"MinProtocol\" => \"TLSv1.2\"{tls13})\n{extra}\n",
            folder = folder.display(),
            ip = address.ip(),
            port = address.port(),
            types = TYPES.map(|(kind, end)| format!("\".{end}\" => \"{kind}\"")).join(", "),
            idle = options.idle.as_secs().max(1),
            requests = options.requests,
            head = options.head.as_secs().max(1),
            h2 = if options.h2 { "enable" } else { "disable" },
            certificate = certificates.certificate.display(),
            key = certificates.key.display(),
            tls13 = if options.tls13 { "" } else { ", \"MaxProtocol\" => \"TLSv1.2\"" },
            extra = options.extra,
        );
        let mut command = program("lighttpd");
        command.arg("-D").arg("-f").arg(write(folder, "lighttpd.conf", &text)?);
        Ok(command)
    }

    /// Its access log by the global options: a site's own notes only requests whose Host names the port it listens at (Caddy
    /// 2.6), which visitors who come over a wire do not.
    fn caddy(&self) -> Result<Command> {
        let Self { folder, address, certificates, options, .. } = self;
        let text = format!(
            "{{\n  admin off\n  auto_https off\n  storage file_system {folder}\n\
             log access {{\n    output file {folder}/access.log\n    include http.log.access\n  }}\n\
             servers {{\n    protocols h1{h2}\n    timeouts {{\n      idle {idle}ms\n      read_header {head}ms\n    }}\n  }}\n}}\n\
             {names} {{\n  bind {ip}\n  tls {certificate} {key} {{\n    protocols tls1.2 {newest}\n  }}\n\
             root * {folder}/site\n  file_server\n  log\n{extra}\n}}\n",
            folder = folder.display(),
            h2 = if options.h2 { " h2" } else { "" },
            idle = options.idle.as_millis(),
            head = options.head.as_millis(),
            names = options
                .names
                .iter()
                .map(|name| format!("https://{name}:{}", address.port()))
                .collect::<Vec<_>>()
                .join(", "),
            ip = address.ip(),
            certificate = certificates.certificate.display(),
            key = certificates.key.display(),
            newest = if options.tls13 { "tls1.3" } else { "tls1.2" },
            extra = options.extra,
        );
        let mut command = program("caddy");
        command.args(["run", "--adapter", "caddyfile", "--config"]).arg(write(folder, "Caddyfile", &text)?);
        command.env("HOME", folder).env("XDG_DATA_HOME", folder).env("XDG_CONFIG_HOME", folder);
        Ok(command)
    }
    /// Logs are lines as other servers write them.
    fn haproxy(&self) -> Result<Command> {
        let Self { folder, address, certificates, options, .. } = self;
        let text = format!(
            "global\n  maxconn 1000\n  log stdout format raw local0\n  tune.ssl.cachesize 1000\ndefaults\n  mode http\n  log global\n\
             log-format '%ci - - [%T] \"%HM %HP %HV\" %ST %B'\n  timeout connect 5s\n  timeout client {idle}ms\n  timeout server {idle}ms\n\
             timeout http-keep-alive {idle}ms\n  timeout http-request {head}ms\n\
             backend site\n  server site {origin}\nfrontend web\n\
             bind {address} ssl crt {both} alpn {h2}http/1.1 ssl-min-ver TLSv1.2 ssl-max-ver {newest}\n  default_backend site\n{extra}\n",
            idle = options.idle.as_millis(),
            head = options.head.as_millis(),
            both = certificates.both.display(),
            h2 = if options.h2 { "h2," } else { "" },
            newest = if options.tls13 { "TLSv1.3" } else { "TLSv1.2" },
            extra = options.extra,
            origin = self.origin.context("it needs an origin")?,
        );
        let mut command = program("haproxy");
        command.arg("-db").arg("-f").arg(write(folder, "haproxy.cfg", &text)?);
        Ok(command)
    }
}

/// The site's files' types, by their names' ends.
pub(super) const TYPES: [(&str, &str); 6] = [
    ("text/html", "html"),
    ("text/css", "css"),
    ("text/javascript", "js"),
    ("image/png", "png"),
    ("image/x-icon", "ico"),
    ("application/zip", "zip"),
];
