//! The hellos and the token against BoringSSL itself: what a client of it sends, what a server of it answers.
#![allow(clippy::unwrap_used, clippy::panic)] // clippy knows test functions, but not the helpers of a test crate

use std::collections::BTreeSet;
use std::io::{self, Read, Write};

use boring::asn1::Asn1Time;
use boring::bn::BigNum;
use boring::ec::{EcGroup, EcKey};
use boring::hash::MessageDigest;
use boring::hpke::HpkeKey;
use boring::nid::Nid;
use boring::pkey::PKey;
use boring::ssl::{HandshakeError, MidHandshakeSslStream, NameType, Ssl, SslContext, SslContextBuilder};
use boring::ssl::{SslEchKeys, SslMethod, SslVersion};
use boring::x509::{X509, X509Name};
use qnet_proto::hello::{Assembler, ClientHello, Progress, ServerHello};
use qnet_proto::token::{self, EchOffer, Sealed};
use qnet_wire::key::IdentityKey;
use qnet_wire::name::ServerName;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;

/// A stream whose far end is nobody: what was put in is read, what is written is kept.
#[derive(Debug, Default)]
struct Memory {
    input: Vec<u8>,
    output: Vec<u8>,
}

impl Read for Memory {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = buffer.len().min(self.input.len());
        if length == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        buffer[..length].copy_from_slice(&self.input[..length]);
        self.input.drain(..length);
        Ok(length)
    }
}

impl Write for Memory {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.output.extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// As much of Chrome's configuration as the safe interface has; what is left out changes the outer hello only.
fn chrome_like() -> SslContext {
    let mut context = SslContext::builder(SslMethod::tls()).unwrap();
    context.set_grease_enabled(true);
    context.set_permute_extensions(true);
    context.set_min_proto_version(Some(SslVersion::TLS1_2)).unwrap();
    context.set_max_proto_version(Some(SslVersion::TLS1_3)).unwrap();
    context.set_cipher_list("ALL:!aPSK:!ECDSA+SHA1:!3DES").unwrap();
    context.set_curves_list("X25519MLKEM768:X25519:P-256:P-384").unwrap();
    context.set_alpn_protos(b"\x02h2\x08http/1.1").unwrap();
    context.enable_ocsp_stapling();
    context.enable_signed_cert_timestamps();
    context.build()
}

/// A server with a certificate that nobody trusts.
fn server() -> SslContextBuilder {
    let key = EcKey::generate(&EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap()).unwrap();
    let key = PKey::from_ec_key(key).unwrap();
    let mut name = X509Name::builder().unwrap();
    name.append_entry_by_text("CN", "www.example.com").unwrap();
    let name = name.build();
    let mut certificate = X509::builder().unwrap();
    certificate.set_version(2).unwrap();
    certificate.set_serial_number(&BigNum::from_u32(1).unwrap().to_asn1_integer().unwrap()).unwrap();
    certificate.set_subject_name(&name).unwrap();
    certificate.set_issuer_name(&name).unwrap();
    certificate.set_pubkey(&key).unwrap();
    certificate.set_not_before(&Asn1Time::days_from_now(0).unwrap()).unwrap();
    certificate.set_not_after(&Asn1Time::days_from_now(1).unwrap()).unwrap();
    certificate.sign(&key, MessageDigest::sha256()).unwrap();
    let mut context = SslContext::builder(SslMethod::tls()).unwrap();
    context.set_certificate(&certificate.build()).unwrap();
    context.set_private_key(&key).unwrap();
    context
}

fn blocked(
    result: Result<boring::ssl::SslStream<Memory>, HandshakeError<Memory>>,
) -> MidHandshakeSslStream<Memory> {
    match result {
        Err(HandshakeError::WouldBlock(stream)) => stream,
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("finished"),
    }
}

/// A client's first flight, the record of its ClientHello: with a token's config, or with GREASE.
fn client_flight(context: &SslContext, offer: Option<&EchOffer>, name: &str) -> Vec<u8> {
    let mut ssl = Ssl::new(context).unwrap();
    ssl.set_enable_ech_grease(true);
    ssl.set_hostname(name).unwrap();
    if let Some(offer) = offer {
        ssl.set_ech_config_list(&offer.config_list).unwrap();
    }
    blocked(ssl.setup_connect(Memory::default()).handshake()).get_ref().output.clone()
}

/// What a server has done after a client's first flight.
fn server_after(context: &SslContext, flight: &[u8]) -> MidHandshakeSslStream<Memory> {
    let memory = Memory { input: flight.to_vec(), output: Vec::new() };
    blocked(Ssl::new(context).unwrap().setup_accept(memory).handshake())
}

fn client_hello(flight: &[u8]) -> ClientHello {
    let Progress::Message { raw, end } = Assembler::client().push(flight) else { panic!("no hello") };
    assert_eq!(end, flight.len());
    ClientHello::parse(raw).unwrap()
}

fn names() -> Vec<ServerName> {
    ["www.example.com", "b.example"].map(|name| name.parse().unwrap()).into()
}

#[test]
fn a_boringssl_client_seals_what_the_bridge_opens_in_every_class_and_suite() {
    let mut rng = ChaCha20Rng::from_seed([1; 32]);
    let (identity, names, context) = (IdentityKey::generate(&mut rng), names(), chrome_like());
    let mut seen = BTreeSet::new();
    for round in 0..64 {
        let name = &names[round % 2];
        let offer = token::offer(&mut rng, &identity.public(), name, round % 4 < 2);
        let hello = client_hello(&client_flight(&context, Some(&offer), &offer.token.inner_name()));
        assert_eq!(hello.sni(), Some(name.as_str()));
        assert_eq!(token::open(&identity, &names, &hello), Some(offer.token));
        let ech = hello.ech().unwrap();
        seen.insert((ech.suite.1, ech.payload.len()));
    }
    let expected = [1, 3].map(|aead| [144, 176, 208, 240].map(|length| (aead, length)));
    assert_eq!(seen, expected.concat().into_iter().collect());
}

/// The config is a correct one: a BoringSSL server that has it accepts, and sees the token as the server name.
#[test]
fn a_boringssl_server_accepts_the_same_config() {
    let mut rng = ChaCha20Rng::from_seed([2; 32]);
    let (identity, names, context) = (IdentityKey::generate(&mut rng), names(), chrome_like());
    for aes in [true, false] {
        let offer = token::offer(&mut rng, &identity.public(), &names[0], aes);
        let inner = offer.token.inner_name();
        let flight = client_flight(&context, Some(&offer), &inner);
        let server = server();
        let mut keys = SslEchKeys::builder().unwrap();
        // Named after P-256, it takes an X25519 key.
        let key = HpkeKey::dhkem_p256_sha256(identity.expose()).unwrap();
        keys.add_key(true, &offer.config_list[2..], key).unwrap();
        let server = server.build();
        server.set_ech_keys(&keys.build()).unwrap();
        let accepted = server_after(&server, &flight);
        assert!(accepted.ssl().ech_accepted());
        assert_eq!(accepted.ssl().servername(NameType::HOST_NAME), Some(inner.as_str()));
    }
}

/// GREASE has the same form, so that the operation is spent on it, and holds nothing.
#[test]
fn a_boringssl_client_without_a_config_sends_what_does_not_open() {
    let identity = IdentityKey::from_bytes([3; 32]);
    let (names, context) = (names(), chrome_like());
    for _ in 0..32 {
        let hello = client_hello(&client_flight(&context, None, "www.example.com"));
        let sealed = Sealed::find(&names, &hello).unwrap();
        assert_eq!(sealed.open(&identity), None);
    }
}

#[test]
fn a_boringssl_servers_answer_is_read() {
    let flight = client_flight(&chrome_like(), None, "www.example.com");
    for (curves, retry) in [("X25519MLKEM768", false), ("X25519", false), ("P-384", true)] {
        let mut server = server();
        server.set_max_proto_version(Some(SslVersion::TLS1_3)).unwrap();
        server.set_curves_list(curves).unwrap();
        let answer = server_after(&server.build(), &flight).get_ref().output.clone();
        let Progress::Message { raw, end } = Assembler::server().push(&answer) else { panic!("no hello") };
        assert_eq!(end, 5 + raw.len());
        assert!(answer.len() > end);
        let hello = ServerHello::parse(raw.clone()).unwrap();
        assert_eq!(hello.raw(), raw);
        assert_eq!((hello.is_tls13(), hello.is_hello_retry()), (true, retry));
        assert!((0x1301..=0x1303).contains(&hello.cipher_suite()));
    }
}

/// TLS 1.2 puts more messages into ServerHello's record; either way it is nothing that can carry a tunnel.
#[test]
fn a_boringssl_server_of_tls_1_2_makes_a_visitor() {
    let mut server = server();
    server.set_max_proto_version(Some(SslVersion::TLS1_2)).unwrap();
    let flight = client_flight(&chrome_like(), None, "www.example.com");
    let answer = server_after(&server.build(), &flight).get_ref().output.clone();
    match Assembler::server().push(&answer) {
        Progress::NotTls => {}
        Progress::Message { raw, .. } => assert!(!ServerHello::parse(raw).unwrap().is_tls13()),
        Progress::More => panic!("a whole flight"),
    }
}
