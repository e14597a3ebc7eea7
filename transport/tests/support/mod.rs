//! Certificates of a test's own, and real servers from Debian's packages that show them.

#![allow(dead_code, reason = "each test binary uses its own part")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test's own scaffolding")]

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use boring::asn1::Asn1Time;
use boring::bn::BigNum;
use boring::ec::{EcGroup, EcKey};
use boring::hash::MessageDigest;
use boring::nid::Nid;
use boring::pkey::{PKey, Private};
use boring::x509::extension::{BasicConstraints, ExtendedKeyUsage, SubjectAlternativeName};
use boring::x509::{X509, X509NameBuilder};
use tempfile::TempDir;

/// The page that every server here serves.
pub(crate) const PAGE: &[u8] = b"<!doctype html><title>An ordinary site</title><p>Nothing to see here.\n";
/// The name on ordinary certificates here.
pub(crate) const NAME: &str = "www.example.com";

/// A certificate with its key.
pub(crate) struct Identity {
    pub(crate) certificate: X509,
    pub(crate) key: PKey<Private>,
}

impl Identity {
    /// A certificate for `names` (none: an authority's), valid from and until so many days from now, signed by
    /// `issuer` or by itself.
    pub(crate) fn new(names: &[&str], days: (i64, i64), issuer: Option<&Identity>) -> Self {
        let curve = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
        let key = PKey::from_ec_key(EcKey::generate(&curve).unwrap()).unwrap();
        let mut subject = X509NameBuilder::new().unwrap();
        subject.append_entry_by_text("CN", names.first().unwrap_or(&"QNet test authority")).unwrap();
        let subject = subject.build();
        let mut builder = X509::builder().unwrap();
        builder.set_version(2).unwrap();
        let mut serial = [0; 8];
        boring::rand::rand_bytes(&mut serial).unwrap();
        serial[0] |= 1;
        builder.set_serial_number(&BigNum::from_slice(&serial).unwrap().to_asn1_integer().unwrap()).unwrap();
        builder.set_subject_name(&subject).unwrap();
        builder.set_issuer_name(issuer.map_or(&subject, |by| by.certificate.subject_name())).unwrap();
        builder.set_pubkey(&key).unwrap();
        builder.set_not_before(&day(days.0)).unwrap();
        builder.set_not_after(&day(days.1)).unwrap();
        if names.is_empty() {
            builder.append_extension(&BasicConstraints::new().critical().ca().build().unwrap()).unwrap();
        } else {
            builder.append_extension(&ExtendedKeyUsage::new().server_auth().build().unwrap()).unwrap();
            let mut alternatives = SubjectAlternativeName::new();
            names.iter().for_each(|name| {
                alternatives.dns(name);
            });
            let alternatives = alternatives.build(&builder.x509v3_context(None, None)).unwrap();
            builder.append_extension(&alternatives).unwrap();
        }
        builder.sign(issuer.map_or(&key, |by| &by.key), MessageDigest::sha256()).unwrap();
        Self { certificate: builder.build(), key }
    }

    /// An authority.
    pub(crate) fn authority() -> Self {
        Self::new(&[], (-1, 30), None)
    }
}

#[allow(clippy::disallowed_methods)] // certificates are dated by the wall clock
fn day(days: i64) -> Asn1Time {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    Asn1Time::from_unix(i64::try_from(now).unwrap() + days * 86_400).unwrap()
}

/// A folder with the files that servers want, and `ca.pem` for the client.
pub(crate) struct Site {
    folder: TempDir,
}

impl Site {
    /// A site with `identity`, whose authority is `authority`.
    pub(crate) fn new(identity: &Identity, authority: &Identity) -> Self {
        let folder = TempDir::new().unwrap();
        let path = folder.path();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap(); // servers drop root
        fs::create_dir(path.join("page")).unwrap();
        fs::write(path.join("page/index.html"), PAGE).unwrap();
        let mut both = identity.key.private_key_to_pem_pkcs8().unwrap();
        fs::write(path.join("key.pem"), &both).unwrap();
        both.extend(identity.certificate.to_pem().unwrap());
        fs::write(path.join("both.pem"), both).unwrap();
        fs::write(path.join("cert.pem"), identity.certificate.to_pem().unwrap()).unwrap();
        fs::write(path.join("ca.pem"), authority.certificate.to_pem().unwrap()).unwrap();
        Self { folder }
    }

    /// An ordinary one.
    pub(crate) fn ordinary() -> Self {
        let authority = Identity::authority();
        Self::new(&Identity::new(&[NAME], (-1, 30), Some(&authority)), &authority)
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn ca(&self) -> PathBuf {
        self.path().join("ca.pem")
    }

    /// Writes a configuration and returns its path.
    fn config(&self, text: &str) -> PathBuf {
        let file = self.path().join("server.conf");
        fs::write(&file, text).unwrap();
        file
    }

    /// nginx, with `extra` lines in its server block.
    pub(crate) fn nginx(&self, extra: &str) -> Server {
        let (dir, at) = (self.path().display(), free_address());
        let file = self.config(&format!(
            "daemon off; master_process off; pid {dir}/pid; error_log {dir}/log; events {{ worker_connections 512; }}
            http {{ access_log off; client_body_temp_path {dir}/t1; proxy_temp_path {dir}/t2;
              fastcgi_temp_path {dir}/t3; uwsgi_temp_path {dir}/t4; scgi_temp_path {dir}/t5;
              server {{ listen {at} ssl http2; root {dir}/page; ssl_certificate {dir}/cert.pem;
                ssl_certificate_key {dir}/key.pem; ssl_protocols TLSv1.2 TLSv1.3; {extra} }} }}"
        ));
        let mut command = Command::new("/usr/sbin/nginx");
        command.arg("-e").arg(self.path().join("log")).arg("-c").arg(file);
        Server::start(command, at)
    }

    /// lighttpd.
    pub(crate) fn lighttpd(&self) -> Server {
        let (dir, at) = (self.path().display(), free_address());
        let file = self.config(&format!(
            "server.document-root = \"{dir}/page\"\nserver.port = {}\nserver.bind = \"127.0.0.1\"
            server.modules = ( \"mod_openssl\" )\nserver.errorlog = \"{dir}/log\"
            index-file.names = ( \"index.html\" )\nmimetype.assign = ( \".html\" => \"text/html\" )
            ssl.engine = \"enable\"\nssl.pemfile = \"{dir}/both.pem\"\n",
            at.port()
        ));
        let mut command = Command::new("/usr/sbin/lighttpd");
        command.arg("-D").arg("-f").arg(file);
        Server::start(command, at)
    }

    /// Apache with this site.
    pub(crate) fn apache(&self) -> Server {
        let dir = self.path().display();
        self.apache_with(
            &["dir", "socache_shmcb", "ssl", "http2"],
            &format!(
                "DocumentRoot {dir}/page\nProtocols h2 http/1.1\nDirectoryIndex index.html
                <Directory {dir}/page>\nRequire all granted\n</Directory>
                SSLEngine on\nSSLCertificateFile {dir}/cert.pem\nSSLCertificateKeyFile {dir}/key.pem\n"
            ),
        )
    }

    /// Apache with more modules and with a configuration of its own.
    pub(crate) fn apache_with(&self, modules: &[&str], rules: &str) -> Server {
        let (dir, at) = (self.path().display(), free_address());
        let modules: String = ["mpm_event", "authz_core"]
            .iter()
            .chain(modules)
            .map(|name| format!("LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so\n"))
            .collect();
        let file = self.config(&format!(
            "ServerRoot {dir}\nServerName {NAME}\nListen {at}\nPidFile {dir}/pid\nErrorLog {dir}/log
            {modules}\nUser www-data\nGroup www-data\nDefaultRuntimeDir {dir}\n{rules}"
        ));
        let mut command = Command::new("/usr/sbin/apache2");
        command.arg("-X").arg("-f").arg(file);
        Server::start(command, at)
    }

    /// `openssl s_server -www`, with more arguments.
    pub(crate) fn s_server(&self, arguments: &[&str]) -> Server {
        let at = free_address();
        let mut command = Command::new("/usr/bin/openssl");
        command.args(["s_server", "-www", "-quiet", "-accept"]).arg(at.to_string());
        command.arg("-cert").arg(self.path().join("cert.pem")).arg("-key").arg(self.path().join("key.pem"));
        command.args(arguments);
        Server::start(command, at)
    }
}

/// An address on loopback that nobody listens on just now.
pub(crate) fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// A server in a process of its own, ended when dropped.
pub(crate) struct Server {
    child: Child,
    pub(crate) address: SocketAddr,
}

impl Server {
    /// Starts it and waits until it listens, 20 seconds at most.
    pub(crate) fn start(mut command: Command, address: SocketAddr) -> Self {
        let child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn();
        let mut server =
            Self { child: child.unwrap_or_else(|error| panic!("{command:?}: {error}")), address };
        for _ in 0..1000 {
            if TcpStream::connect(address).is_ok() {
                return server;
            }
            if let Some(status) = server.child.try_wait().unwrap() {
                panic!("{command:?} ended: {status}");
            }
            std::thread::park_timeout(Duration::from_millis(20));
        }
        panic!("{command:?} does not listen");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
