//! The installed Chromium and our client send the same, captured side by side: the ClientHello field by field, and
//! what follows it where the site asks again, is not to be trusted, or is fine.
//!
//! When this fails after an upgrade of Chromium, Chrome has moved on: capture again and make a new profile of
//! `qnet_transport::tls::chrome`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test's own helpers")]

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use qnet_proto::token;
use qnet_tests::ja4::{Hello, extension, is_grease};
use qnet_transport::tls::chrome::CHROME_156;
use qnet_transport::tls::{Roots, aes_hardware, handshake};
use qnet_wire::key::IdentityKey;
use qnet_wire::name::ServerName;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng as _;
use tempfile::TempDir;

const NAME: &str = "www.example.com";
const PATIENCE: Duration = Duration::from_secs(30);
/// Captures of each client: 12 show only one of the four ECH classes once in 4 million runs.
const CAPTURES: usize = 12;

/// A headless Chromium that opens one page, ended when dropped.
struct Browser {
    child: Child,
    _profile: TempDir,
}

impl Browser {
    fn open(port: u16, extra: &[&str]) -> Self {
        let profile = TempDir::new().unwrap();
        let child = Command::new("/usr/bin/chromium")
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"])
            .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
            .args(extra)
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg(format!("--host-resolver-rules=MAP {NAME} 127.0.0.1"))
            .arg(format!("https://{NAME}:{port}/"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("Debian's package `chromium` is installed");
        Self { child, _profile: profile }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Not SIGKILL, which would leave its children behind.
        let _ = Command::new("/bin/kill").arg(self.child.id().to_string()).status();
        let _ = self.child.wait();
    }
}

/// Reads one record; `None` at an end before it is whole.
fn read_record(tcp: &mut TcpStream) -> Option<Vec<u8>> {
    let mut record = vec![0; 5];
    tcp.read_exact(&mut record).ok()?;
    let length = usize::from(u16::from_be_bytes([record[3], record[4]]));
    record.resize(5 + length, 0);
    tcp.read_exact(&mut record[5..]).ok()?;
    Some(record)
}

/// Takes `count` hellos from whoever connects, closing after each.
fn collect(listener: &TcpListener, count: usize) -> Vec<Hello> {
    let mut hellos = Vec::new();
    while hellos.len() < count {
        let (mut tcp, _) = listener.accept().unwrap();
        tcp.set_read_timeout(Some(PATIENCE)).unwrap();
        // A connection opened ahead and closed unused says nothing.
        hellos.extend(read_record(&mut tcp).map(|record| Hello::parse(&record).expect("a ClientHello")));
    }
    hellos
}

fn chromiums() -> Vec<Hello> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut hellos = Vec::new();
    while hellos.len() < CAPTURES {
        let _browser = Browser::open(port, &["--ignore-certificate-errors"]);
        hellos.extend(collect(&listener, 4)); // it tries a failing site more often than that
    }
    hellos
}

/// Connects our client to `address`; whatever comes of it.
fn visit(address: SocketAddr, seed: u64, roots: &Roots) {
    let mut rng = ChaCha20Rng::seed_from_u64(seed);
    let name: ServerName = NAME.parse().unwrap();
    let key = IdentityKey::generate(&mut rng).public();
    let offer = token::offer(&mut rng, &key, &name, aes_hardware());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut tcp = tokio::net::TcpStream::connect(address).await.unwrap();
        let _ = tokio::time::timeout(PATIENCE, handshake(&mut tcp, &offer, &name, roots)).await.unwrap();
    });
}

fn ours() -> Vec<Hello> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let collector = thread::spawn(move || collect(&listener, CAPTURES));
    let roots = Roots::with(None, None).unwrap();
    (0..CAPTURES as u64).for_each(|seed| visit(address, seed, &roots));
    collector.join().unwrap()
}

/// All GREASE values as one, so that lists compare.
fn plain(list: impl IntoIterator<Item = u16>) -> Vec<u16> {
    list.into_iter().map(|number| if is_grease(number) { 0x0a0a } else { number }).collect()
}

/// What must be equal in every hello of a browser, in words that a failing test prints.
fn constants(hello: &Hello) -> Vec<(&'static str, String)> {
    let ech = hello.ech().expect("an outer ECH");
    let bodies: BTreeSet<_> = hello
        .extensions
        .iter()
        .filter(|(kind, _)| !is_grease(*kind))
        .map(|(kind, body)| match *kind {
            // Random, or with GREASE inside; looked at one by one below.
            extension::ECH
            | extension::KEY_SHARE
            | extension::SIGNATURE_ALGORITHMS
            | extension::SUPPORTED_GROUPS
            | extension::SUPPORTED_VERSIONS => (*kind, None),
            _ => (*kind, Some(body.clone())),
        })
        .collect();
    let kinds = plain(hello.extensions.iter().map(|(kind, _)| *kind));
    let grease: Vec<_> = (kinds.iter().zip(&hello.extensions).enumerate())
        .filter(|(_, (kind, _))| **kind == 0x0a0a)
        .map(|(at, (_, (_, body)))| (at, body.clone()))
        .collect();
    let shares = hello.key_shares().unwrap();
    vec![
        ("record version", format!("{:04x}", hello.record_version)),
        ("legacy version", format!("{:04x}", hello.legacy_version)),
        ("session id length", hello.session_id.len().to_string()),
        ("ciphers", format!("{:04x?}", plain(hello.ciphers.clone()))),
        ("compression methods", format!("{:?}", hello.compression)),
        ("extensions and their bodies", format!("{bodies:02x?}")),
        ("number of extensions", kinds.len().to_string()),
        ("places and bodies of GREASE extensions", format!("{grease:?}")),
        ("groups", format!("{:04x?}", plain(hello.groups().unwrap()))),
        ("key shares", format!("{:04x?}", plain(shares.iter().map(|(group, _)| *group)))),
        ("key share lengths", format!("{:?}", shares.iter().map(|(_, length)| *length).collect::<Vec<_>>())),
        ("versions", format!("{:04x?}", plain(hello.versions().unwrap()))),
        ("signature algorithms", format!("{:04x?}", plain(hello.signature_algorithms().unwrap()))),
        ("server name", format!("{:?}", hello.server_name())),
        ("protocols", format!("{:?}", hello.protocols().map(|list| list.concat()))),
        ("ECH suite", format!("{:04x} {:04x}", ech.kdf, ech.aead)),
        ("ECH enc length", ech.enc.to_string()),
        ("length without the ECH payload", (hello.length - ech.payload).to_string()),
        ("trust anchors length", format!("{:?}", hello.extension(extension::TRUST_ANCHORS).map(<[u8]>::len))),
        ("GREASE group and share agree", (hello.groups().unwrap()[0] == shares[0].0).to_string()),
        ("GREASE extensions differ", {
            let (first, last) = (hello.extensions.first(), hello.extensions.last());
            (first.map(|(kind, _)| kind) != last.map(|(kind, _)| kind)).to_string()
        }),
        ("JA4", hello.ja4()),
    ]
}

/// What must differ between the hellos of a browser.
fn check_variety(whose: &str, hellos: &[Hello]) {
    fn distinct<T: Ord>(items: impl Iterator<Item = T>) -> usize {
        items.collect::<BTreeSet<_>>().len()
    }
    let order = |hello: &Hello| plain(hello.extensions.iter().map(|(kind, _)| *kind));
    assert_eq!(distinct(hellos.iter().map(order)), hellos.len(), "{whose}: orders of extensions");
    assert!(distinct(hellos.iter().map(|hello| hello.ciphers[0])) > 1, "{whose}: GREASE ciphers");
    assert!(distinct(hellos.iter().map(|hello| hello.groups().unwrap()[0])) > 1, "{whose}: GREASE groups");
    assert_eq!(
        distinct(hellos.iter().map(|hello| hello.session_id.clone())),
        hellos.len(),
        "{whose}: session ids"
    );
    let ech = |hello: &Hello| hello.ech().unwrap();
    assert!(distinct(hellos.iter().map(|hello| ech(hello).config_id)) > 1, "{whose}: ECH config ids");
    assert!(distinct(hellos.iter().map(|hello| ech(hello).payload)) > 1, "{whose}: ECH classes");
    let classes = [144, 176, 208, 240];
    assert!(hellos.iter().all(|hello| classes.contains(&ech(hello).payload)), "{whose}: ECH classes");
}

#[test]
fn our_hello_is_chromes() {
    let (chromiums, ours) = (chromiums(), ours());
    check_variety("Chromium", &chromiums);
    check_variety("QNet", &ours);
    let model = constants(&chromiums[0]);
    for (whose, hello) in
        chromiums.iter().map(|hello| ("Chromium", hello)).chain(ours.iter().map(|hello| ("QNet", hello)))
    {
        for ((field, wanted), (_, found)) in model.iter().zip(constants(hello)) {
            assert_eq!(*wanted, found, "{field} of {whose}");
        }
    }
    assert_eq!(ours[0].ja4(), CHROME_156.ja4);
}

/// A TLS server with a certificate of its own in a folder of its own, ended when dropped.
struct Server {
    child: Child,
    address: SocketAddr,
    folder: TempDir,
}

impl Server {
    fn start(arguments: &[&str]) -> Self {
        let folder = TempDir::new().unwrap();
        let made = Command::new("/usr/bin/openssl")
            .current_dir(folder.path())
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"])
            .args(["-days", "9", "-keyout", "key.pem", "-out", "cert.pem", "-subj", "/CN=site"])
            .args(["-addext", &format!("subjectAltName=DNS:{NAME}")])
            .stderr(Stdio::null())
            .status();
        assert!(made.unwrap().success());
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let child = Command::new("/usr/bin/openssl")
            .current_dir(folder.path())
            .args(["s_server", "-www", "-quiet", "-cert", "cert.pem", "-key", "key.pem", "-alpn", "h2"])
            .args(["-accept", &address.to_string()])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let server = Self { child, address, folder };
        for _ in 0..1000 {
            if TcpStream::connect(address).is_ok() {
                return server;
            }
            thread::park_timeout(Duration::from_millis(20));
        }
        panic!("openssl s_server does not listen");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Joins one connection to `to` and returns the records its client sent, hellos parsed, up to `most` of them.
fn watch(listener: &TcpListener, to: SocketAddr, most: usize) -> Vec<Vec<u8>> {
    let (mut client, _) = listener.accept().unwrap();
    let mut server = TcpStream::connect(to).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    let (mut down_from, mut down_to) = (server.try_clone().unwrap(), client.try_clone().unwrap());
    let down = thread::spawn(move || {
        let _ = std::io::copy(&mut down_from, &mut down_to);
        let _ = down_to.shutdown(std::net::Shutdown::Write);
    });
    let mut records = Vec::new();
    while records.len() < most
        && let Some(record) = read_record(&mut client)
    {
        if server.write_all(&record).is_err() {
            break;
        }
        records.push(record);
    }
    drop(server.shutdown(std::net::Shutdown::Both));
    drop(client.shutdown(std::net::Shutdown::Both));
    down.join().unwrap();
    records
}

/// What both clients send to `server`: `most` records of Chromium's and all of ours. Chromium is told to overlook what is wrong with
/// the certificate where `trusting`; we are told to believe in it.
fn side_by_side(server: &Server, trusting: bool, most: usize) -> [Vec<Vec<u8>>; 2] {
    let flags: &[&str] = if trusting { &["--ignore-certificate-errors"] } else { &[] };
    let chromiums = (0..20).map(|_| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let _browser = Browser::open(listener.local_addr().unwrap().port(), flags);
        watch(&listener, server.address, most)
    });
    // It opens two connections at once and may drop either at any point: that one shows nothing, and about half are such.
    let chromiums =
        chromiums.into_iter().find(|records| records.len() == most).expect("a connection that goes on");

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let to = server.address;
    // One more than Chromium sends is one too many, so it is waited for.
    let watcher = thread::spawn(move || watch(&listener, to, most + 1));
    let certificate = server.folder.path().join("cert.pem");
    let roots = Roots::with(trusting.then_some(certificate.as_path()), None).unwrap();
    visit(address, 3, &roots);
    [chromiums, watcher.join().unwrap()]
}

/// Types and lengths after the first hello.
fn after_hello(records: &[Vec<u8>]) -> Vec<(u8, usize)> {
    records.iter().skip(1).map(|record| (record[0], record.len() - 5)).collect()
}

#[test]
fn what_follows_the_hello_is_chromes() {
    let server = Server::start(&[]);
    let [chromiums, ours] = side_by_side(&server, true, 3);
    assert_eq!(after_hello(&chromiums), [(20, 1), (23, 53)]);
    assert_eq!(after_hello(&ours), after_hello(&chromiums));
}

#[test]
fn what_follows_a_hello_retry_is_chromes() {
    let server = Server::start(&["-groups", "P-256"]);
    let [chromiums, ours] = side_by_side(&server, true, 4);
    for (whose, records) in [("Chromium", &chromiums), ("QNet", &ours)] {
        let kinds: Vec<u8> = records.iter().map(|record| record[0]).collect();
        assert_eq!(kinds, [22, 20, 22, 23], "{whose}");
        let (first, second) = (Hello::parse(&records[0]).unwrap(), Hello::parse(&records[2]).unwrap());
        let key_share = |hello: &Hello| hello.key_shares().unwrap();
        assert_eq!(key_share(&second), [(0x0017, 65)], "{whose}");
        assert_eq!(first.extension(extension::ECH), second.extension(extension::ECH), "{whose}");
        let order = |hello: &Hello| hello.extensions.iter().map(|(kind, _)| *kind).collect::<Vec<_>>();
        assert_eq!(order(&first), order(&second), "{whose}");
        assert_eq!(second.length, first.length - 1263 + 71, "{whose}");
    }
    assert_eq!(chromiums[3].len(), ours[3].len());
}

#[test]
fn what_follows_a_bad_certificate_is_chromes() {
    let server = Server::start(&[]);
    let [chromiums, ours] = side_by_side(&server, false, 3);
    assert_eq!(after_hello(&ours), after_hello(&chromiums));
}
