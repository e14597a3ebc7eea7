//! Frames, records and the inner handshake.

use qnet_proto::aead::{Aead, Algorithm, TAG_LEN};
use qnet_proto::frame::frames as read_frames;
use qnet_proto::noise::{AwaitMessage2, Initiator, MESSAGE1_MAX, MessageReader, Responder};
use qnet_proto::record::{Cipher, MAX_CONTENT, OpenError, RecordOpener, RecordSealer, proof_nonce};
use qnet_proto::tls::{Opener, Sealer, Secret, Suite};
use qnet_wire::key::IdentityKey;

use crate::{pieces, rng};

const KEY: [u8; 32] = [3; 32];
const IV: [u8; 12] = [5; 12];

/// A record's content from a peer.
pub fn frames(data: &[u8]) {
    for frame in read_frames(data).map_while(Result::ok) {
        let mut encoded = Vec::new();
        frame.encode(&mut encoded);
        assert_eq!(encoded.len(), frame.encoded_len());
        let mut again = read_frames(&encoded);
        assert_eq!(again.next(), Some(Ok(frame)));
        assert!(again.next().is_none());
    }
}

/// A record from the wire, a record whose sealed content is `data`, and a record that was sealed and then damaged.
pub fn record(data: &[u8]) {
    let opener = || RecordOpener::new(Cipher::ChaCha20Poly1305, &KEY, IV, 1);
    let mut scratch = Vec::new();
    let _ = proof_nonce(data);
    assert!(opener().open(data, &mut scratch).is_err(), "a record that nobody sealed");
    assert!(opener().open_proof(data, &mut scratch).is_err(), "a proof that nobody sealed");

    let sealed = sealed_record(Algorithm::ChaCha20Poly1305, data);
    match opener().open(&sealed, &mut scratch) {
        Ok((kind, content)) => assert!(
            data.starts_with(content) && data.get(content.len()) == Some(&kind),
            "content and type are what was sealed"
        ),
        Err(error) => assert_ne!(error, OpenError::Sealed),
    }
    let mut in_place = sealed.clone();
    let _ = opener().open_in_place(&mut in_place);

    let mut whole = Vec::new();
    let mut sealer = RecordSealer::new(Cipher::ChaCha20Poly1305, &KEY, IV, 1);
    let start = sealer.begin(&mut whole);
    whole.extend_from_slice(&data[..data.len().min(MAX_CONTENT)]);
    sealer.finish(&mut whole, start, 23, None);
    assert!(opener().open(&whole, &mut scratch).is_ok());
    damage(&mut whole, data);
    assert!(opener().open(&whole, &mut scratch).is_err());
}

/// A decoy's record: from the wire, and with `data` as its sealed inner plaintext.
pub fn tls_record(data: &[u8]) {
    let secret = || Secret::new(Suite::Aes128GcmSha256, &KEY).expect("32 bytes");
    let opener = || Opener::new(Suite::Aes128GcmSha256, secret(), 0, 0);
    let mut scratch = Vec::new();
    assert!(opener().open(data, &mut scratch).is_err(), "a record that nobody sealed");
    let mut sealer = Sealer::new(Suite::Aes128GcmSha256, secret(), 0, 0);
    let content = &data[..data.len().min(MAX_CONTENT)];
    let mut record = Vec::new();
    sealer.seal(23, content, &mut record);
    assert_eq!(opener().open(&record, &mut scratch), Ok(23));
    assert_eq!(scratch, content);
    damage(&mut record, data);
    assert!(opener().open(&record, &mut scratch).is_err());
}

/// Noise messages: made up, authentic with a payload of the attacker's, damaged. The first byte says which, since each
/// costs several key agreements.
pub fn noise(data: &[u8]) {
    let Some((choice, data)) = data.split_first() else { return };
    match choice % 4 {
        0 => made_up(data),
        1 => authentic(data),
        2 => unwritten(data),
        _ => {
            let mut damaged = first_message().0;
            damage(&mut damaged, data);
            assert!(responder().read1(&damaged).is_err());
        }
    }
}

/// Records' contents of a stranger who has the bridge's key, perhaps recorded from somebody else.
fn made_up(data: &[u8]) {
    let mut reader = MessageReader::new(MESSAGE1_MAX);
    for piece in pieces(data) {
        match reader.push(piece) {
            Ok(Some(message)) => {
                let _ = responder().read1(&message);
                return;
            }
            Ok(None) => {}
            Err(_) => return,
        }
    }
}

/// A message 1 that opens, with `data` inside.
fn authentic(data: &[u8]) {
    let Some(message) = authentic_message1(data) else { return };
    let Ok((message1, next)) = responder().read1(&message) else { return };
    assert!(data.ends_with(&message1.early));
    let (_, next) = next.write().expect("the answer can be written");
    assert!(next.read(data).is_err(), "a message 3 that nobody wrote");
}

/// A message 2 of one who is not the bridge.
fn unwritten(data: &[u8]) {
    assert!(first_message().1.read(data).is_err(), "a message 2 that nobody wrote");
}

fn first_message() -> (Vec<u8>, AwaitMessage2) {
    let static_key = IdentityKey::from_bytes([2; 32]);
    let initiator = Initiator::new(&mut rng(), &identity().public(), &static_key, b"fuzz");
    initiator.message1(Cipher::Aes256Gcm, b"").expect("message 1")
}

fn identity() -> IdentityKey {
    IdentityKey::from_bytes([1; 32])
}

fn responder() -> Responder {
    Responder::new(&mut rng(), &identity(), b"fuzz")
}

/// A message 1 by another implementation of Noise, with any payload that fits.
fn authentic_message1(payload: &[u8]) -> Option<Vec<u8>> {
    let pattern = "Noise_XKpsk2_25519_ChaChaPoly_SHA256".parse().expect("a pattern");
    let bridge = identity().public().0;
    let mut noise = snow::Builder::new(pattern)
        .local_private_key(&[2; 32])
        .and_then(|builder| builder.remote_public_key(&bridge))
        .and_then(|builder| builder.prologue(b"fuzz"))
        .and_then(|builder| builder.psk(2, &[0; 32]))
        .expect("a complete builder")
        .fixed_ephemeral_key_for_testing_only(&[4; 32])
        .build_initiator()
        .expect("an initiator");
    let mut message = vec![0; 65_535];
    let length = noise.write_message(payload, &mut message).ok()?;
    message.truncate(length);
    Some(message)
}

/// A record of index 1 whose inner plaintext is `inner`, whatever that is.
fn sealed_record(algorithm: Algorithm, inner: &[u8]) -> Vec<u8> {
    let inner = &inner[..inner.len().min(MAX_CONTENT + 1)];
    let length = u16::try_from(inner.len() + TAG_LEN).expect("below 16,640");
    let [high, low] = length.to_be_bytes();
    let header = [23, 3, 3, high, low];
    let mut body = [inner, &[0; TAG_LEN]].concat();
    Aead::new(algorithm, &KEY, IV).seal(1, &header, &mut body);
    [&header, body.as_slice()].concat()
}

/// Flips one bit, which `choice` names.
fn damage(message: &mut [u8], choice: &[u8]) {
    let place =
        choice.iter().fold(0_usize, |place, byte| place.wrapping_mul(31).wrapping_add(usize::from(*byte)));
    let length = message.len();
    message[place % length] ^= 1 << (place % 8);
}
