//! HKDF with SHA-256 (RFC 5869) for outputs of constant length, so that nothing can fail.

use hmac::digest::KeyInit;
use hmac::{Hmac, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

/// Bytes of SHA-256's output and of every key here.
const LEN: usize = 32;
/// Bytes of SHA-256's block, to which HMAC pads its key with zeros (RFC 2104, section 2).
const BLOCK: usize = 64;

/// HMAC-SHA256 of the parts one after the other.
pub(super) fn hmac(key: &[u8; LEN], parts: &[&[u8]]) -> Zeroizing<[u8; LEN]> {
    let mut block = Zeroizing::new([0; BLOCK]);
    let (start, _) = block.split_at_mut(LEN);
    start.copy_from_slice(key);
    let mut mac = Hmac::<Sha256>::new((&*block).into());
    for part in parts {
        mac.update(part);
    }
    Zeroizing::new(mac.finalize().into_bytes().into())
}

/// HKDF-Extract.
pub(super) fn extract(salt: &[u8; LEN], ikm: &[u8]) -> Zeroizing<[u8; LEN]> {
    hmac(salt, &[ikm])
}

/// HKDF-Expand. `N` is at most 64 here, two of HMAC's outputs; the standard's bound is 255.
pub(super) fn expand<const N: usize>(prk: &[u8; LEN], info: &[u8]) -> Zeroizing<[u8; N]> {
    const { assert!(N <= 255 * LEN) };
    let mut out = Zeroizing::new([0; N]);
    let mut previous: Option<Zeroizing<[u8; LEN]>> = None;
    for (chunk, counter) in out.chunks_mut(LEN).zip(1_u8..) {
        let earlier = previous.as_ref().map_or(&[][..], |block| &block[..]);
        let block = hmac(prk, &[earlier, info, &[counter]]);
        chunk.copy_from_slice(&block[..chunk.len()]);
        previous = Some(block);
    }
    out
}

#[cfg(test)]
mod tests {
    use data_encoding::HEXLOWER;

    use super::*;

    /// RFC 5869, appendix A.1. Its salt has 13 bytes; HMAC fills its key with zeros, so that those added here change
    /// nothing.
    #[test]
    fn agrees_with_the_standard() {
        let hex = |text: &str| HEXLOWER.decode(text.as_bytes()).unwrap();
        let mut salt = hex("000102030405060708090a0b0c");
        salt.resize(LEN, 0);
        let prk = extract(&salt.try_into().unwrap(), &[0x0b; 22]);
        assert_eq!(prk.to_vec(), hex("077709362c2e32df0ddc3f0dc47bba6390b6c73bb50f9c3122ec844ad7c2b3e5"));
        let okm = expand::<42>(&prk, &hex("f0f1f2f3f4f5f6f7f8f9"));
        let expected = "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865";
        assert_eq!(okm.to_vec(), hex(expected));
    }
}
