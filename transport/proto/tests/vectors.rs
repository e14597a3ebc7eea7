//! Replays the vectors in `vectors/`: RFC 8448's, and those that `vectors/make.py`, a second implementation, made.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use std::collections::HashMap;
use std::convert::Infallible;

use data_encoding::HEXLOWER;
use qnet_proto::noise::{Initiator, Responder, prologue};
use qnet_proto::record::{Cipher, DirectionSecret, RecordOpener, RecordSealer, proof_nonce};
use qnet_proto::tls::{Opener, Sealer, Secret, Suite};
use qnet_wire::key::IdentityKey;
use rand_core::{TryCryptoRng, TryRng};
use zeroize::Zeroizing;

/// The fields of one `[name]` block.
struct Vector(HashMap<&'static str, &'static str>);

impl Vector {
    fn text(&self, field: &str) -> &'static str {
        self.0.get(field).unwrap_or_else(|| panic!("no field {field}"))
    }

    fn bytes(&self, field: &str) -> Vec<u8> {
        HEXLOWER.decode(self.text(field).as_bytes()).unwrap()
    }

    fn array<const N: usize>(&self, field: &str) -> [u8; N] {
        self.bytes(field).try_into().unwrap()
    }

    fn number<T: TryFrom<u64, Error: std::fmt::Debug>>(&self, field: &str) -> T {
        self.text(field).parse::<u64>().unwrap().try_into().unwrap()
    }

    fn cipher(&self) -> Cipher {
        Cipher::from_wire(self.number("cipher")).unwrap()
    }
}

/// All blocks whose name begins so, of which there must be some.
fn vectors(file: &'static str, prefix: &str) -> Vec<Vector> {
    let blocks: Vec<Vector> = file
        .split("\n[")
        .skip(1)
        .filter(|block| block.starts_with(prefix))
        .map(|block| Vector(block.lines().skip(1).filter_map(|line| line.split_once(" = ")).collect()))
        .collect();
    assert!(!blocks.is_empty(), "no vector {prefix}");
    blocks
}

const RFC_8448: &str = include_str!("vectors/rfc8448.txt");
const TLS_13: &str = include_str!("vectors/tls13.txt");
const RECORD: &str = include_str!("vectors/record.txt");
const NOISE: &str = include_str!("vectors/noise.txt");

/// Seals and opens one TLS record at its place, after `generation` key updates.
fn replay_tls(vector: &Vector, suite: Suite, secret: &[u8], generation: u64) {
    // Where the TCP connection stood at the secret's first record is of no weight.
    let base = 40;
    let first = Secret::new(suite, secret).unwrap();
    let next = base + vector.number::<u64>("sequence");
    let (mut sealer, mut opener) =
        (Sealer::new(suite, first.clone(), base, base), Opener::new(suite, first, base, base));
    for _ in 0..generation {
        sealer.key_update();
        opener.key_update();
    }
    let current = sealer.direction().secret().clone();
    assert_eq!(current.as_bytes(), vector.bytes("secret"));
    assert_eq!(opener.direction().secret().as_bytes(), vector.bytes("secret"));
    let (mut sealer, mut opener) =
        (Sealer::new(suite, current.clone(), base, next), Opener::new(suite, current, base, next));

    let record = vector.bytes("record");
    let mut out = Vec::new();
    sealer.seal(vector.number("type"), &vector.bytes("content"), &mut out);
    assert_eq!(out, record);
    let mut content = Vec::new();
    assert_eq!(opener.open(&record, &mut content), Ok(vector.number("type")));
    assert_eq!(content, vector.bytes("content"));
}

#[test]
fn rfc_8448() {
    for vector in vectors(RFC_8448, "") {
        replay_tls(&vector, Suite::Aes128GcmSha256, &vector.bytes("secret"), 0);
    }
}

#[test]
fn tls_13() {
    let all = vectors(TLS_13, "suite");
    assert_eq!(all.len(), 3 * 3 * 4);
    let mut first = Vec::new();
    for vector in all {
        let generation = vector.number("generation");
        if generation == 0 {
            first = vector.bytes("secret");
        }
        let suite = u16::from_str_radix(vector.text("suite"), 16).unwrap();
        replay_tls(&vector, Suite::try_from(suite).unwrap(), &first, generation);
    }
}

#[test]
fn htx_records_and_keys() {
    let mut secret = None;
    let mut generation = 0;
    for vector in vectors(RECORD, "record") {
        let secret =
            secret.get_or_insert_with(|| DirectionSecret::new(Zeroizing::new(vector.array("secret"))));
        if vector.number::<u32>("generation") != generation {
            generation += 1;
            *secret = secret.next();
        }
        let keys = secret.keys();
        assert_eq!(*keys.key, vector.array("key"));
        assert_eq!(keys.iv, vector.array("iv"));

        let index = vector.number("index");
        let (record, content) = (vector.bytes("record"), vector.bytes("content"));
        let mut sealer = RecordSealer::new(vector.cipher(), &keys.key, keys.iv, index);
        let mut out = Vec::new();
        let start = sealer.begin(&mut out);
        out.extend_from_slice(&content);
        sealer.finish(&mut out, start, vector.number("type"), Some(vector.number("length")));
        assert_eq!(out, record);

        let mut opener = RecordOpener::new(vector.cipher(), &keys.key, keys.iv, index);
        let mut scratch = Vec::new();
        assert_eq!(opener.open(&record, &mut scratch), Ok((vector.number("type"), &content[..])));
    }
    assert_eq!(generation, 2);
}

#[test]
fn proofs() {
    for vector in vectors(RECORD, "proof") {
        let cipher = Cipher::ChaCha20Poly1305;
        let (key, iv, index) = (vector.array("key"), vector.array("iv"), vector.number("index"));
        let (record, content) = (vector.bytes("record"), vector.bytes("content"));
        let mut out = Vec::new();
        let mut sealer = RecordSealer::new(cipher, &key, iv, index);
        sealer.seal_proof(&mut out, &vector.array("nonce"), &content, vector.number("length"));
        assert_eq!(out, record);
        assert_eq!(proof_nonce(&record), Some(&vector.array("nonce")));
        let mut scratch = Vec::new();
        let mut opener = RecordOpener::new(cipher, &key, iv, index);
        assert_eq!(opener.open_proof(&record, &mut scratch), Ok(&content[..]));
    }
}

/// Gives the bytes of a vector, in order, all of which must be drawn.
struct Draws(Vec<u8>);

impl TryRng for Draws {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        unreachable!("only bytes are drawn")
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        unreachable!("only bytes are drawn")
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Infallible> {
        out.copy_from_slice(&self.0[..out.len()]);
        self.0.drain(..out.len());
        Ok(())
    }
}

impl TryCryptoRng for Draws {}

#[test]
fn inner_handshake() {
    for vector in vectors(NOISE, "cipher") {
        let bridge = IdentityKey::from_bytes(vector.array("bridge_static"));
        let client = IdentityKey::from_bytes(vector.array("client_static"));
        let (mut client_draws, mut bridge_draws) =
            (Draws(vector.bytes("client_draws")), Draws(vector.bytes("bridge_draws")));
        let early = vector.bytes("early");
        let prologue = prologue(
            &vector.array("salt"),
            &vector.array("token"),
            &vector.bytes("knock_record"),
            &vector.bytes("proof_record"),
        );
        assert_eq!(prologue, vector.bytes("prologue"));

        let initiator = Initiator::new(&mut client_draws, &bridge.public(), &client, &prologue);
        let responder = Responder::new(&mut bridge_draws, &bridge, &prologue);
        assert!(client_draws.0.is_empty() && bridge_draws.0.is_empty());
        let (message1, initiator) = initiator.message1(vector.cipher(), &early).unwrap();
        assert_eq!(message1, vector.bytes("message1"));
        let (got, responder) = responder.read1(&message1).unwrap();
        assert_eq!((got.cipher, got.early), (vector.cipher(), early));
        let (message2, responder) = responder.write().unwrap();
        assert_eq!(message2, vector.bytes("message2"));
        let (message3, of_client) = initiator.read(&message2).unwrap();
        assert_eq!(message3, vector.bytes("message3"));
        let of_bridge = responder.read(&message3).unwrap();

        for side in [&of_client, &of_bridge] {
            assert_eq!(side.handshake_hash, vector.array("handshake_hash"));
            assert_eq!(*side.up.keys().key, vector.array("up_key"));
            assert_eq!(side.up.keys().iv, vector.array("up_iv"));
            assert_eq!(*side.up.next().keys().key, vector.array("up_next_key"));
            assert_eq!(*side.down.keys().key, vector.array("down_key"));
            assert_eq!(side.down.keys().iv, vector.array("down_iv"));
        }
        assert_eq!(of_client.peer_static, bridge.public().0);
        assert_eq!(of_bridge.peer_static, client.public().0);
    }
}
