//! The page load, both knocks and the keeper against real servers: nginx, Apache and lighttpd, over TLS.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests fail as tests do"
)]
#![allow(clippy::disallowed_methods, reason = "a test owns its clock")]

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use boring::ssl::{SslConnector, SslMethod, SslStream, SslVerifyMode};
use qnet_proto::chrome::CHROME_156;
use qnet_proto::http2::{Keeper, Output, PageLoad};
use qnet_proto::knock::Field;
use qnet_wire::name::ServerName;

const PAGE: &str = "<!doctype html><html><head><title>t</title><link rel=stylesheet href=/style.css></head>\
                    <body><img src=/a.png><img src=/b.png><script src=/app.js></script></body></html>";

/// A server of its own on a loopback port, in a folder of its own, stopped at the end.
struct Server {
    child: Child,
    port: u16,
    folder: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn certificate(folder: &Path) {
    let file = |name: &str| folder.join(name).display().to_string();
    let made = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "2",
        ])
        .args(["-subj", "/CN=www.example.com", "-keyout", &file("key.pem"), "-out", &file("cert.pem")])
        .stderr(Stdio::null())
        .status()
        .expect("openssl runs");
    assert!(made.success());
    let both = [std::fs::read(file("cert.pem")).unwrap(), std::fs::read(file("key.pem")).unwrap()].concat();
    std::fs::write(file("both.pem"), both).unwrap();
}

fn serve(kind: &str) -> Server {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("site");
    std::fs::create_dir(&root).unwrap();
    std::fs::write(root.join("index.html"), PAGE).unwrap();
    for name in ["style.css", "a.png", "b.png", "app.js", "favicon.ico"] {
        std::fs::write(root.join(name), name.repeat(30)).unwrap();
    }
    // The server may drop its privileges.
    for path in [folder.path(), &root] {
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }
    certificate(folder.path());
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let config = folder.path().join("server.conf");
    let text = config_text(kind, port, folder.path());
    std::fs::write(&config, text).unwrap();
    let config = config.display().to_string();
    let mut command = match kind {
        "nginx" => Command::new("/usr/sbin/nginx"),
        "apache" => Command::new("/usr/sbin/apache2"),
        _ => Command::new("/usr/sbin/lighttpd"),
    };
    match kind {
        "nginx" => command.args(["-e", "stderr", "-c", &config]),
        "apache" => command.args(["-X", "-f", &config]),
        _ => command.args(["-D", "-f", &config]),
    };
    let child = command.stderr(Stdio::null()).spawn().expect("the server is installed");
    Server { child, port, folder }
}

fn config_text(kind: &str, port: u16, folder: &Path) -> String {
    let f = folder.display();
    match kind {
        "nginx" => format!(
            "daemon off; master_process off; pid {f}/pid; error_log stderr crit; events {{}}
             http {{ types {{ text/html html; text/css css; }} client_body_temp_path {f}/t1;
             proxy_temp_path {f}/t2; fastcgi_temp_path {f}/t3; uwsgi_temp_path {f}/t4; scgi_temp_path {f}/t5;
             log_format all '$request_method $status $request_uri'; access_log {f}/access.log all;
             server {{ listen 127.0.0.1:{port} ssl http2; ssl_certificate {f}/cert.pem;
             ssl_certificate_key {f}/key.pem; root {f}/site; }} }}"
        ),
        "apache" => format!(
            "ServerRoot {f}\nServerName www.example.com\nListen 127.0.0.1:{port}\nPidFile {f}/pid\nErrorLog {f}/error.log
             {}\nTypesConfig /etc/mime.types\nProtocols h2\nSSLEngine on\nSSLCertificateFile {f}/cert.pem
             SSLCertificateKeyFile {f}/key.pem\nDocumentRoot {f}/site\nDirectoryIndex index.html
             LogFormat \"%m %s %U\" all\nCustomLog {f}/access.log all\nUser www-data\nGroup www-data\n<Directory {f}/site>\nRequire all granted\n</Directory>\n",
            ["mpm_event", "authz_core", "authz_host", "dir", "mime", "ssl", "http2", "unixd", "log_config"]
                .map(|name| {
                    let file = format!("/usr/lib/apache2/modules/mod_{name}.so");
                    if Path::new(&file).exists() { format!("LoadModule {name}_module {file}\n") } else { String::new() }
                })
                .concat()
        ),
        _ => format!(
            "server.modules = (\"mod_openssl\", \"mod_accesslog\", \"mod_indexfile\", \"mod_staticfile\")
             server.document-root = \"{f}/site\"\nserver.port = {port}\nserver.bind = \"127.0.0.1\"
             index-file.names = (\"index.html\")\nmimetype.assign = (\".html\" => \"text/html\", \"\" => \"text/plain\")
             accesslog.filename = \"{f}/access.log\"\naccesslog.format = \"%m %s %U\"\nssl.engine = \"enable\"\nssl.pemfile = \"{f}/both.pem\"\nserver.errorlog = \"{f}/error.log\"\n"
        ),
    }
}

fn connect(server: &Server) -> SslStream<TcpStream> {
    let begin = Instant::now();
    let tcp = loop {
        match TcpStream::connect(("127.0.0.1", server.port)) {
            Ok(tcp) => break tcp,
            Err(error) => assert!(begin.elapsed() < Duration::from_secs(20), "{error}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let mut connector = SslConnector::builder(SslMethod::tls()).unwrap();
    connector.set_verify(SslVerifyMode::NONE);
    connector.set_alpn_protos(b"\x02h2").unwrap();
    let mut config = connector.build().configure().unwrap();
    config.set_verify_hostname(false);
    let stream = config.connect("www.example.com", tcp).expect("a TLS handshake");
    assert_eq!(stream.ssl().selected_alpn_protocol(), Some(&b"h2"[..]));
    stream.get_ref().set_read_timeout(Some(Duration::from_millis(5))).unwrap();
    stream
}

/// Reads what has come; empty, nothing yet.
fn read(stream: &mut SslStream<TcpStream>) -> Vec<u8> {
    let mut buffer = vec![0; 16_384];
    match stream.read(&mut buffer) {
        Ok(0) => panic!("the server closed the connection"),
        Ok(got) => buffer.truncate(got),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => buffer.clear(),
        Err(error) => panic!("{error}"),
    }
    buffer
}

/// Loads the page and knocks; gives the connection back, with the number of requests.
fn load(server: &Server, field: Field) -> (SslStream<TcpStream>, u32) {
    let name: ServerName = "www.example.com".parse().unwrap();
    let mut stream = connect(server);
    let mut load = PageLoad::new(&CHROME_156, &name, "/", field, [9; 32]);
    let begin = Instant::now();
    while !load.answer_ended() {
        assert!(begin.elapsed() < Duration::from_secs(20), "the load ends");
        while let Some(output) = load.poll(Instant::now()) {
            let record = match output {
                Output::Record(record) => record,
                Output::Knock(mut record) => {
                    let at = record.len() - field.len();
                    match field {
                        // As random as a knock is.
                        Field::Padding => record[at..].copy_from_slice(b"\xa7\x00\x13\xff\x0a\x80\x0d\x7f"),
                        Field::Cookie => record[at..].copy_from_slice(b"aZ09-_!#$%&"),
                    }
                    record
                }
            };
            stream.write_all(&record).unwrap();
        }
        assert_eq!(load.failure(), None);
        let data = read(&mut stream);
        if !data.is_empty() {
            load.on_data(&data, Instant::now()).expect("the server speaks HTTP/2");
        }
    }
    assert!(!load.gone_away());
    assert_eq!(load.requests(), 6);
    (stream, load.requests())
}

fn keep(stream: &mut SslStream<TcpStream>, requests: u32) {
    let name: ServerName = "www.example.com".parse().unwrap();
    let mut keeper = Keeper::new(requests, &name, "/");
    let mut out = Vec::new();
    keeper.find_frames(*b"8 random", &mut out);
    for _ in 0..20 {
        keeper.request(&mut out);
        stream.write_all(&out).unwrap();
        out.clear();
        let begin = Instant::now();
        while keeper.outstanding() > 0 {
            assert!(begin.elapsed() < Duration::from_secs(10), "an answer comes");
            keeper.on_data(&read(stream), &mut out).unwrap();
        }
    }
    assert_eq!(keeper.requests(), requests + 20);
    assert!(!keeper.going_away());
}

fn play(kind: &str) {
    let server = serve(kind);
    for field in [Field::Padding, Field::Cookie] {
        let (mut stream, requests) = load(&server, field);
        keep(&mut stream, requests);
        drop(stream);
    }
    // Both knocks drew the icon, and every request of the keeper the page. Servers write their logs late.
    let begin = Instant::now();
    loop {
        let log = std::fs::read_to_string(server.folder.path().join("access.log")).unwrap_or_default();
        let count = |line: &str| log.lines().filter(|have| have.starts_with(line)).count();
        let (icons, heads) = (count("GET 200 /favicon.ico"), count("HEAD 200 /"));
        if (icons, heads) == (2, 40) {
            return;
        }
        assert!(begin.elapsed() < Duration::from_secs(20), "{icons} icons, {heads} pages:\n{log}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn nginx_answers_all() {
    play("nginx");
}

#[test]
fn apache_answers_all() {
    play("apache");
}

#[test]
fn lighttpd_answers_all() {
    play("lighttpd");
}
