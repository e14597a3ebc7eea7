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
use qnet_tests::ja4::{Hello, extension};
use qnet_tests::support::browser::Browser;
use qnet_tests::support::hello::{constants, plain};
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
        let _browser = Browser::open(NAME, port, &["--ignore-certificate-errors"]).unwrap();
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
        let _browser = Browser::open(NAME, listener.local_addr().unwrap().port(), flags).unwrap();
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
