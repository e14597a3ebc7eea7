//! The two plaintext hellos and the Encrypted Client Hello in the first.

use hpke::aead::AesGcm128;
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256;
use hpke::{Deserializable, Kem, OpModeS, Serializable};
use qnet_proto::hello::{Assembler, ClientHello, Progress, ServerHello};
use qnet_proto::token;
use qnet_wire::key::IdentityKey;
use qnet_wire::name::ServerName;

use crate::{pieces, rng};

const NAME: &str = "www.example.com";

/// A stranger's first bytes at a bridge, up to the attempt to open a token.
pub fn client(data: &[u8]) {
    let Some((raw, _)) = assemble(Assembler::client, data) else { return };
    let Some(hello) = ClientHello::parse(raw) else { return };
    let _ = (hello.session_id(), hello.cipher_suites().count(), hello.extensions().count());
    let _ = token::open(&identity(), &names(), &hello);
}

/// A decoy's first bytes.
pub fn server(data: &[u8]) {
    let Some((raw, _)) = assemble(Assembler::server, data) else { return };
    let Some(hello) = ServerHello::parse(raw) else { return };
    let _ = (hello.is_hello_retry(), hello.is_tls13(), hello.cipher_suite());
}

/// Joins a message twice, whole and in pieces, which must not differ.
fn assemble(new: fn() -> Assembler, data: &[u8]) -> Option<(Vec<u8>, usize)> {
    let whole: Vec<u8> = pieces(data).flatten().copied().collect();
    let at_once = new().push(&whole);
    let mut assembler = new();
    let mut in_pieces = Progress::More;
    for piece in pieces(data) {
        in_pieces = assembler.push(piece);
        if in_pieces != Progress::More {
            break;
        }
    }
    assert_eq!(at_once, in_pieces);
    match at_once {
        Progress::Message { raw, end } => {
            assert!(raw.len() <= end && end <= whole.len());
            Some((raw, end))
        }
        Progress::More | Progress::NotTls => None,
    }
}

/// A well-formed hello whose sealed inner part is `data`: what anybody with a bridge line can send.
pub fn ech_inner(data: &[u8]) {
    let hello = ClientHello::parse(sealed_hello(data)).expect("the outer hello is well formed");
    if let Some(token) = token::open(&identity(), &names(), &hello) {
        let name = token.inner_name();
        assert!(
            data.windows(name.len()).any(|window| window == name.as_bytes()),
            "a token that is not in the hello"
        );
    }
}

pub(crate) fn identity() -> IdentityKey {
    IdentityKey::generate(&mut rng())
}

pub(crate) fn names() -> Vec<ServerName> {
    vec![NAME.parse().expect("a name")]
}

/// A hello with a token for this bridge, in its record, as somebody on the wire took it down.
pub(crate) fn stolen_hello() -> Vec<u8> {
    include_bytes!("../seeds/client_hello/one-record")[1..].to_vec()
}

/// A ClientHello with a server name and an ECH of `inner`, cut or filled with zeros to a size the config allows.
fn sealed_hello(inner: &[u8]) -> Vec<u8> {
    let mut rng = rng();
    let key = identity().public();
    let offer = token::offer(&mut rng, &key, &names()[0], true);
    let config = &offer.config_list[2..];
    // Version, length, then the id; after the id the KEM, the key, the suites, and the name length (RFC 9849, section 4).
    let (id, maximum_name_length) = (config[4], config[4 + 1 + 2 + 34 + 6]);
    let mut plaintext = inner.to_vec();
    plaintext.resize(usize::from(maximum_name_length) + 101, 0);
    let public = <X25519HkdfSha256 as Kem>::PublicKey::from_bytes(&key.0).expect("a key");
    let info = [b"tls ech\0", config].concat();
    let (enc, mut context) = hpke::setup_sender_with_rng::<AesGcm128, HkdfSha256, X25519HkdfSha256>(
        &OpModeS::Base,
        &public,
        &info,
        &mut rng,
    )
    .expect("HPKE");
    let hello = |payload: &[u8]| body(&ech(id, &enc.to_bytes(), payload));
    let aad = hello(&vec![0; plaintext.len() + 16]);
    let payload = context.seal(&plaintext, &aad).expect("HPKE");
    let body = hello(&payload);
    [&[1, 0], &u16::try_from(body.len()).expect("a short hello").to_be_bytes()[..], &body].concat()
}

fn ech(id: u8, enc: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut ech = vec![0, 0, 1, 0, 1, id];
    ech.extend(vector16(enc));
    ech.extend(vector16(payload));
    ech
}

/// A ClientHello without its handshake header (RFC 8446, section 4.1.2).
fn body(ech: &[u8]) -> Vec<u8> {
    let name = vector16(&[&[0], &vector16(NAME.as_bytes())[..]].concat());
    let extensions = [&[0, 0], &vector16(&name)[..], &[0xfe, 0x0d], &vector16(ech)].concat();
    let mut body = vec![3, 3];
    body.extend([9; 32]);
    body.extend([0, 0, 2, 0x13, 0x01, 1, 0]);
    body.extend(vector16(&extensions));
    body
}

fn vector16(bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).expect("short vectors only");
    [&length.to_be_bytes(), bytes].concat()
}
