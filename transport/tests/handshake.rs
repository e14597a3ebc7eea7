//! The client's handshake with real servers, and with ones that misbehave.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test's own helpers")]

mod support;

use std::net::SocketAddr;
use std::time::Duration;

use qnet_proto::hello::ClientHello;
use qnet_proto::tls::{Opener, Sealer};
use qnet_proto::token::{self, EchOffer};
use qnet_transport::tls::{Handshake, HandshakeError, Roots, aes_hardware, handshake};
use qnet_wire::error::{Kind, Retry};
use qnet_wire::key::IdentityKey;
use qnet_wire::name::ServerName;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng as _;
use support::{Identity, NAME, PAGE, Site};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(20);

fn name() -> ServerName {
    NAME.parse().unwrap()
}

fn draw() -> (IdentityKey, EchOffer) {
    let mut rng = ChaCha20Rng::from_seed([7; 32]);
    let identity = IdentityKey::generate(&mut rng);
    let offer = token::offer(&mut rng, &identity.public(), &name(), aes_hardware());
    (identity, offer)
}

async fn shake(address: SocketAddr, roots: &Roots) -> (TcpStream, Result<Handshake, HandshakeError>) {
    let mut tcp = TcpStream::connect(address).await.unwrap();
    let (_, offer) = draw();
    let result = timeout(PATIENCE, handshake(&mut tcp, &offer, &name(), roots)).await.unwrap();
    (tcp, result)
}

fn roots(site: &Site) -> Roots {
    Roots::with(Some(&site.ca()), None).unwrap()
}

/// Joins one connection to `to`. What the client sent comes back once both sides are done.
async fn tap(to: SocketAddr) -> (SocketAddr, oneshot::Receiver<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (report, sent) = oneshot::channel();
    tokio::spawn(async move {
        let (mut client, _) = listener.accept().await.unwrap();
        let mut server = TcpStream::connect(to).await.unwrap();
        let (mut client_in, mut client_out) = client.split();
        let (mut server_in, mut server_out) = server.split();
        let up = async {
            let mut sent = Vec::new();
            let mut buffer = vec![0; 65_536];
            while let Ok(count @ 1..) = client_in.read(&mut buffer).await {
                sent.extend_from_slice(&buffer[..count]);
                let _ = server_out.write_all(&buffer[..count]).await;
            }
            let _ = server_out.shutdown().await;
            sent
        };
        let down = async {
            let _ = tokio::io::copy(&mut server_in, &mut client_out).await;
            let _ = client_out.shutdown().await;
        };
        let (sent, ()) = tokio::join!(up, down);
        let _ = report.send(sent);
    });
    (address, sent)
}

/// Types and lengths of the records that `bytes` consists of.
fn records(mut bytes: &[u8]) -> Vec<(u8, usize)> {
    let mut records = Vec::new();
    while let [kind, _, _, high, low, ..] = *bytes {
        let length = usize::from(u16::from_be_bytes([high, low]));
        records.push((kind, length));
        bytes = &bytes[5 + length..];
    }
    assert!(bytes.is_empty());
    records
}

/// An HTTP/2 preface and a request for `/`, by hand: static header fields and a literal `:authority`.
fn request() -> Vec<u8> {
    let mut block = vec![0x82, 0x87, 0x84, 0x01, u8::try_from(NAME.len()).unwrap()];
    block.extend_from_slice(NAME.as_bytes());
    let mut request = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    request.extend_from_slice(&[0, 0, u8::try_from(block.len()).unwrap(), 1, 5, 0, 0, 0, 1]);
    request.extend_from_slice(&block);
    request
}

/// Takes whole frames off the front; returns whether the stream's end was among them.
fn take_frames(frames: &mut Vec<u8>, body: &mut Vec<u8>) -> bool {
    while let [a, b, c, kind, flags, ..] = frames[..] {
        let end = 9 + u32::from_be_bytes([0, a, b, c]) as usize;
        if frames.len() < end {
            break;
        }
        let frame: Vec<u8> = frames.drain(..end).collect();
        assert_ne!(kind, 7, "GOAWAY");
        if kind == 0 {
            body.extend_from_slice(&frame[9..]);
            if flags & 1 != 0 {
                return true;
            }
        }
    }
    false
}

/// Fetches `/` over HTTP/2 with nothing but what the handshake returned.
async fn fetch(tcp: &mut TcpStream, done: &Handshake) -> Vec<u8> {
    let mut sealer =
        Sealer::new(done.tls.suite, done.tls.up_secret.clone(), done.tls.up_records, done.tls.up_records);
    let mut opener = Opener::new(
        done.tls.suite,
        done.tls.down_secret.clone(),
        done.tls.down_records,
        done.tls.down_records,
    );
    let mut record = Vec::new();
    sealer.seal(23, &request(), &mut record);
    tcp.write_all(&record).await.unwrap();

    let mut incoming = done.tls.unread.clone();
    let (mut frames, mut body, mut scratch) = (Vec::new(), Vec::new(), Vec::new());
    loop {
        while let [_, _, _, high, low, ..] = incoming[..] {
            let end = 5 + usize::from(u16::from_be_bytes([high, low]));
            if incoming.len() < end {
                break;
            }
            let record: Vec<u8> = incoming.drain(..end).collect();
            match opener.open(&record, &mut scratch).unwrap() {
                22 => {} // a ticket
                23 => frames.extend_from_slice(&scratch),
                other => panic!("inner type {other}: {scratch:?}"),
            }
        }
        if take_frames(&mut frames, &mut body) {
            return body;
        }
        let count = timeout(PATIENCE, tcp.read_buf(&mut incoming)).await.unwrap().unwrap();
        assert_ne!(count, 0, "closed");
    }
}

async fn whole_visit(address: SocketAddr, roots: &Roots, finished: usize) {
    let (tapped, sent) = tap(address).await;
    let mut tcp = TcpStream::connect(tapped).await.unwrap();
    let (identity, offer) = draw();
    let done = timeout(PATIENCE, handshake(&mut tcp, &offer, &name(), roots)).await.unwrap().unwrap();
    assert_eq!(done.tls.up_records, 1);
    assert_eq!(records(&done.tls.sent), [(20, 1), (23, finished)]);
    assert!(done.tls.down_records >= 1);
    let hello = ClientHello::parse(done.tls.client_hello.clone()).unwrap();
    assert_eq!(hello.sni(), Some(NAME));
    assert!(token::open(&identity, &[name()], &hello) == Some(offer.token));
    assert_eq!(fetch(&mut tcp, &done).await, PAGE);
    drop(tcp);
    let sent = sent.await.unwrap();
    // Nothing but the hello, the two records of `sent`, and the request: no ech_required alert.
    let on_wire = records(&sent);
    assert_eq!(on_wire[..3], [(22, done.tls.client_hello.len()), (20, 1), (23, finished)]);
    assert_eq!(on_wire.len(), 4);
    assert_eq!(sent[5..5 + done.tls.client_hello.len()], done.tls.client_hello);
    assert_eq!(sent[5 + done.tls.client_hello.len()..][..done.tls.sent.len()], done.tls.sent);
}

#[tokio::test]
async fn nginx_with_every_suite() {
    for (suite, finished) in
        [("TLS_AES_128_GCM_SHA256", 53), ("TLS_AES_256_GCM_SHA384", 69), ("TLS_CHACHA20_POLY1305_SHA256", 53)]
    {
        let site = Site::ordinary();
        let server = site.nginx(&format!("ssl_conf_command Ciphersuites {suite};"));
        whole_visit(server.address, &roots(&site), finished).await;
    }
}

#[tokio::test]
async fn lighttpd() {
    let site = Site::ordinary();
    whole_visit(site.lighttpd().address, &roots(&site), 53).await;
}

#[tokio::test]
async fn apache() {
    let site = Site::ordinary();
    whole_visit(site.apache().address, &roots(&site), 53).await;
}

#[tokio::test]
async fn s_server_speaks_the_handshake_too() {
    let site = Site::ordinary();
    let server = site.s_server(&["-alpn", "h2"]);
    let (_, done) = shake(server.address, &roots(&site)).await;
    let done = done.unwrap();
    assert!(done.tls.round_trip > Duration::ZERO);
    assert!(done.certificate.not_after.ends_with("GMT"), "{:?}", done.certificate);
    assert!(!format!("{done:?}").contains("ecret"));
}

/// A server that asks for a client certificate gets an empty one, in the record of the Finished message.
#[tokio::test]
async fn a_certificate_request_is_answered_with_none() {
    let site = Site::ordinary();
    let server = site.nginx("ssl_verify_client optional_no_ca;");
    let (mut tcp, done) = shake(server.address, &roots(&site)).await;
    let done = done.unwrap();
    assert_eq!(fetch(&mut tcp, &done).await, PAGE);
    assert_eq!(done.tls.up_records, 1);
    assert_eq!(records(&done.tls.sent), [(20, 1), (23, 53 + 8)]);
}

/// How it failed against a server, and what the client sent.
async fn failure(address: SocketAddr, roots: &Roots) -> (HandshakeError, Vec<(u8, usize)>) {
    let (tapped, sent) = tap(address).await;
    let (tcp, result) = shake(tapped, roots).await;
    drop(tcp);
    (result.unwrap_err(), records(&sent.await.unwrap()))
}

#[tokio::test]
async fn tls_1_2_is_refused_without_a_word() {
    let site = Site::ordinary();
    let server = site.s_server(&["-tls1_2", "-alpn", "h2"]);
    let (error, sent) = failure(server.address, &roots(&site)).await;
    assert!(matches!(error, HandshakeError::OldTls), "{error}");
    assert_eq!((error.kind(), error.retry()), (Kind::PeerIncompatible, Retry::Never));
    assert_eq!(sent.len(), 1);
}

#[tokio::test]
async fn a_hello_retry_is_answered_and_then_refused() {
    let site = Site::ordinary();
    let server = site.s_server(&["-groups", "P-256", "-alpn", "h2"]);
    let (error, sent) = failure(server.address, &roots(&site)).await;
    assert!(matches!(error, HandshakeError::HelloRetry), "{error}");
    // As Chrome: ChangeCipherSpec moves before the second hello.
    let kinds: Vec<u8> = sent.iter().map(|(kind, _)| *kind).collect();
    assert_eq!(kinds, [22, 20, 22, 23]);
}

#[tokio::test]
async fn without_http_2_it_is_refused() {
    let site = Site::ordinary();
    let server = site.s_server(&[]);
    let (error, _) = failure(server.address, &roots(&site)).await;
    assert!(matches!(error, HandshakeError::NoHttp2(None)), "{error}");
    let server = site.s_server(&["-alpn", "http/1.1"]);
    let (error, _) = failure(server.address, &roots(&site)).await;
    assert!(matches!(&error, HandshakeError::NoHttp2(Some(chosen)) if chosen == "http/1.1"), "{error}");
}

async fn certificate_failure(identity: &Identity, authority: &Identity) -> String {
    let site = Site::new(identity, authority);
    let server = site.s_server(&["-alpn", "h2"]);
    let (error, sent) = failure(server.address, &roots(&site)).await;
    assert!(matches!(error, HandshakeError::Certificate { .. }), "{error}");
    assert_eq!((error.kind(), error.retry()), (Kind::PeerMisbehaved, Retry::Later));
    // BoringSSL's alert for a bad certificate, sealed, as Chrome sends it.
    assert_eq!(sent[1..], [(20, 1), (23, 19)]);
    let HandshakeError::Certificate { name, names, .. } = &error else { panic!("{error}") };
    assert_eq!(name.reveal(), NAME);
    let names = names.reveal();
    // What a log gets to see.
    let said = format!("{error} {error:?}");
    assert!(!said.contains(NAME) && !names.iter().any(|name| said.contains(name)), "{said}");
    format!("{error} {names:?}")
}

#[tokio::test]
async fn certificates_are_checked_as_a_browser_does() {
    let authority = Identity::authority();
    let other = Identity::new(&["other.example", "third.example"], (-1, 30), Some(&authority));
    let why = certificate_failure(&other, &authority).await;
    assert!(
        why.contains("it is for another name") && why.contains(r#"["other.example", "third.example"]"#),
        "{why}"
    );
    let old = Identity::new(&[NAME], (-9, -1), Some(&authority));
    assert!(certificate_failure(&old, &authority).await.contains("expired"));
    let early = Identity::new(&[NAME], (1, 9), Some(&authority));
    assert!(certificate_failure(&early, &authority).await.contains("not yet valid"));
    let stranger = Identity::new(&[NAME], (-1, 30), Some(&Identity::authority()));
    let why = certificate_failure(&stranger, &authority).await;
    assert!(why.contains("signature failure") || why.contains("issuer"), "{why}");
    let own = Identity::new(&[NAME], (-1, 30), None);
    let why = certificate_failure(&own, &authority).await;
    assert!(why.contains("self"), "{why}");
    // The inner name, which only the token's holder knows, must never be what the certificate is checked against.
    let inner = draw().1.token.inner_name();
    let inner = Identity::new(&[&inner], (-1, 30), Some(&authority));
    let why = certificate_failure(&inner, &authority).await;
    assert!(why.contains("it is for another name") || why.contains("it names no host"), "{why}");
}

#[tokio::test]
async fn a_wildcard_certificate_will_do() {
    let authority = Identity::authority();
    let site = Site::new(&Identity::new(&["*.example.com"], (-1, 30), Some(&authority)), &authority);
    let server = site.s_server(&["-alpn", "h2"]);
    assert!(shake(server.address, &roots(&site)).await.1.is_ok());
}

/// A server that answers the hello with fixed bytes and closes.
async fn scripted(answer: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            let mut header = [0; 5];
            tcp.read_exact(&mut header).await.unwrap();
            let mut body = vec![0; usize::from(u16::from_be_bytes([header[3], header[4]]))];
            tcp.read_exact(&mut body).await.unwrap();
            tcp.write_all(answer).await.unwrap();
            tcp.shutdown().await.unwrap();
            let _ = tcp.read_to_end(&mut body).await;
        }
    });
    address
}

#[tokio::test]
async fn other_ends_have_words_of_their_own() {
    let site = Site::ordinary();
    let roots = roots(&site);
    let (error, sent) = failure(scripted(b"").await, &roots).await;
    assert!(matches!(error, HandshakeError::Closed { answered: false }), "{error}");
    assert_eq!(sent.len(), 1);
    let (error, _) = failure(scripted(b"\x16\x03\x03\x00").await, &roots).await;
    assert!(matches!(error, HandshakeError::Closed { answered: true }), "{error}");
    let (error, sent) = failure(scripted(b"\x15\x03\x03\x00\x02\x02\x28").await, &roots).await;
    assert!(matches!(error, HandshakeError::Alert { number: 40, .. }), "{error}");
    assert!(error.to_string().contains("handshake failure (40)"), "{error}");
    assert_eq!(sent.len(), 1);
    for garbage in [
        &b"HTTP/1.1 400 Bad Request\r\n\r\n"[..],
        b"\x16\x03\x03\x00\x04\x02\x00\x00\x00",
        b"\x16\x03\x03\xff\xff",
        b"\x17\x03\x03\x00\x10aaaaaaaaaaaaaaaa",
        b"\x16\x03\x03\x00\x04\x02\xff\xff\xff",
    ] {
        let (error, _) = failure(scripted(garbage).await, &roots).await;
        assert!(matches!(error, HandshakeError::Malformed(_)), "{garbage:?}: {error}");
    }
}

#[tokio::test]
async fn roots_say_what_is_wrong_with_a_path() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing.pem");
    let error = Roots::with(Some(&missing), None).unwrap_err();
    assert!(error.to_string().contains("missing.pem") && error.to_string().contains("SSL_CERT_FILE"));
    let error = Roots::with(None, Some(missing.as_os_str())).unwrap_err();
    assert_eq!((error.kind(), error.retry()), (Kind::Misuse, Retry::Never));
    let empty = folder.path().join("empty.pem");
    std::fs::write(&empty, "no certificate").unwrap();
    assert!(Roots::with(Some(&empty), None).unwrap_err().to_string().contains("no PEM certificate"));

    let site = Site::ordinary();
    let plain = Roots::with(None, None).unwrap();
    assert!(plain.count() > 100);
    assert_eq!(Roots::with(Some(&site.ca()), None).unwrap().count(), plain.count() + 1);
    // A directory may hold other things too.
    std::fs::copy(site.ca(), folder.path().join("ca.pem")).unwrap();
    let both = std::env::join_paths([folder.path(), folder.path()]).unwrap();
    assert_eq!(Roots::with(Some(&site.ca()), Some(&both)).unwrap().count(), plain.count() + 1);
}

#[tokio::test]
async fn an_offer_for_another_name_is_refused() {
    let site = Site::ordinary();
    let server = site.s_server(&["-alpn", "h2"]);
    let mut rng = ChaCha20Rng::from_seed([9; 32]);
    let key = IdentityKey::generate(&mut rng).public();
    let offer = token::offer(&mut rng, &key, &"other.example".parse().unwrap(), aes_hardware());
    let mut tcp = TcpStream::connect(server.address).await.unwrap();
    let error = handshake(&mut tcp, &offer, &name(), &roots(&site)).await.unwrap_err();
    assert!(
        matches!(error, HandshakeError::WrongOffer { .. } | HandshakeError::Certificate { .. }),
        "{error}"
    );
}
