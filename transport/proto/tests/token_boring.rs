//! Tokens sealed by BoringSSL itself, configured as Chrome is, and opened by the bridge.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};

use boring::ssl::{Ssl, SslContext, SslMethod, SslVersion};
use qnet_proto::hello::{Assembler, ClientHello, Progress};
use qnet_proto::token::{self, EchOffer, Token};
use qnet_wire::key::IdentityKey;
use qnet_wire::name::ServerName;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;

/// Keeps what is written and never has anything to read.
#[derive(Debug, Default)]
struct Sink(Vec<u8>);

impl Read for Sink {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::WouldBlock.into())
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.extend(bytes);
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

/// BoringSSL's first flight: the record of its ClientHello.
fn client_hello(context: &SslContext, offer: Option<&EchOffer>, name: &str) -> Vec<u8> {
    let mut ssl = Ssl::new(context).unwrap();
    ssl.set_enable_ech_grease(true);
    ssl.set_hostname(name).unwrap();
    if let Some(offer) = offer {
        ssl.set_ech_config_list(&offer.config_list).unwrap();
    }
    let blocked = ssl.setup_connect(Sink::default()).handshake().unwrap_err();
    let boring::ssl::HandshakeError::WouldBlock(blocked) = blocked else { panic!("{blocked}") };
    blocked.get_ref().0.clone()
}

fn parse(flight: &[u8]) -> ClientHello {
    let Progress::Message { raw, end } = Assembler::client().push(flight) else { panic!("no hello") };
    assert_eq!(end, flight.len());
    ClientHello::parse(raw).unwrap()
}

#[test]
fn boringssl_seals_what_the_bridge_opens_in_every_class_and_suite() {
    let mut rng = ChaCha20Rng::from_seed([1; 32]);
    let identity = IdentityKey::generate(&mut rng);
    let names: Vec<ServerName> = ["www.example.com", "b.example"].map(|name| name.parse().unwrap()).into();
    let context = chrome_like();
    let mut seen = BTreeSet::new();
    for round in 0..64 {
        let name = &names[round % 2];
        let aes = round % 4 < 2;
        let offer = token::offer(&mut rng, &identity.public(), name, aes);
        let hello = parse(&client_hello(&context, Some(&offer), &offer.token.inner_name()));
        assert_eq!(hello.sni(), Some(name.as_str()));
        assert_eq!(token::open(&identity, &names, &hello), Some(offer.token));
        let ech = hello.ech().unwrap();
        seen.insert((ech.suite.1, ech.payload.len()));
    }
    let expected = [1, 3].map(|aead| [144, 176, 208, 240].map(|length| (aead, length)));
    assert_eq!(seen, expected.concat().into_iter().collect());
}
