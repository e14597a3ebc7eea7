use proptest::prelude::*;

use super::*;

/// RFC 8448, section 3: the ServerHello of a simple handshake.
const RFC_8448: &str = "020000560303a6af06a4121860dc5e6e60249cd34c95930c8ac5cb1434dac155772ed3e2692800130100\
    002e00330024001d0020c9828876112095fe66762bdbf7c672e156d6cc253b833df1dd69b1b04e751f0f002b00020304";

fn rfc_8448() -> Vec<u8> {
    data_encoding::HEXLOWER.decode(RFC_8448.as_bytes()).unwrap()
}

#[test]
fn the_standards_example_is_read() {
    let hello = ServerHello::parse(rfc_8448()).unwrap();
    assert_eq!(hello.raw(), rfc_8448());
    assert_eq!((hello.is_tls13(), hello.is_hello_retry(), hello.cipher_suite()), (true, false, 0x1301));
}

#[test]
fn a_retry_is_one_by_its_random() {
    use sha2::{Digest, Sha256};
    let mut raw = rfc_8448();
    raw[6..38].copy_from_slice(&Sha256::digest(b"HelloRetryRequest"));
    assert!(ServerHello::parse(raw).unwrap().is_hello_retry());
}

#[test]
fn only_supported_versions_makes_tls_1_3() {
    let mut other = rfc_8448();
    *other.last_mut().unwrap() = 3;
    assert!(!ServerHello::parse(other).unwrap().is_tls13());
    // TLS 1.2 without extensions.
    let bare = [&[2, 0, 0, 38, 3, 3], &[7; 32][..], &[0, 0xc0, 0x2f, 0]].concat();
    let hello = ServerHello::parse(bare).unwrap();
    assert_eq!((hello.is_tls13(), hello.is_hello_retry(), hello.cipher_suite()), (false, false, 0xc02f));
}

#[test]
fn every_cut_and_every_added_byte_is_refused() {
    let raw = rfc_8448();
    for length in 0..raw.len() {
        assert_eq!(ServerHello::parse(raw[..length].to_vec()), None);
    }
    assert_eq!(ServerHello::parse([&raw[..], &[0]].concat()), None);
    let mut long_id = [&[2, 0, 0, 71, 3, 3], &[7; 32][..], &[33], &[9; 33], &[0x13, 1, 0]].concat();
    assert_eq!(ServerHello::parse(long_id.clone()), None);
    long_id.remove(40);
    (long_id[3], long_id[38]) = (70, 32);
    assert!(ServerHello::parse(long_id).is_some());
}

proptest! {
    #[test]
    fn mutated_hellos_never_panic(at: prop::sample::Index, byte: u8, cut: prop::sample::Index) {
        let mut raw = rfc_8448();
        let at = at.index(raw.len());
        raw[at] = byte;
        let _ = ServerHello::parse(raw[..cut.index(raw.len())].to_vec());
        if let Some(hello) = ServerHello::parse(raw.clone()) {
            prop_assert_eq!(hello.raw(), raw);
        }
    }
}
