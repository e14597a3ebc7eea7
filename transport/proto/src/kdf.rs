//! HMAC (RFC 2104) and HKDF (RFC 5869) with secrets of at most one digest, where they cannot fail.

use hmac::digest::{Key, OutputSizeUser};
use hmac::{EagerHash, Hmac, KeyInit, Mac};
use sha2::Sha256;
use zeroize::{Zeroize, Zeroizing};

/// The longest digest here, SHA-384's.
const MAX_DIGEST: usize = 48;

/// HMAC-SHA256 of the pieces one after the other.
pub(crate) fn hmac(key: &[u8; 32], pieces: &[&[u8]]) -> Zeroizing<[u8; 32]> {
    let mut mac = keyed::<Sha256>(key);
    pieces.iter().for_each(|piece| mac.update(piece));
    let mut out = Zeroizing::new([0; 32]);
    finish(mac, &mut *out);
    out
}

/// `HKDF-Extract(salt, ikm)` with SHA-256.
pub(crate) fn extract(salt: &[u8; 32], ikm: &[u8]) -> Zeroizing<[u8; 32]> {
    hmac(salt, &[ikm])
}

/// Writes `HKDF-Expand(prk, info, out.len())`, `info` being the concatenation of its pieces.
///
/// `prk` is one digest long. `out` is at most two here; the standard's bound is 255, and what is beyond that stays as it is.
pub(crate) fn expand<D: EagerHash>(prk: &[u8], info: &[&[u8]], out: &mut [u8])
where
    Hmac<D>: KeyInit + Mac,
{
    let digest = <Hmac<D> as OutputSizeUser>::output_size();
    let mut previous = Zeroizing::new([0; MAX_DIGEST]);
    for (block, counter) in out.chunks_mut(digest).zip(1u8..) {
        let mut mac = keyed::<D>(prk);
        if counter > 1 {
            mac.update(previous.get(..digest).unwrap_or_default());
        }
        info.iter().for_each(|piece| mac.update(piece));
        mac.update(&[counter]);
        finish(mac, block);
        if let Some(previous) = previous.get_mut(..block.len()) {
            previous.copy_from_slice(block);
        }
    }
}

/// HMAC-SHA256 over the concatenation of pieces.
pub(crate) fn mac(key: &[u8; 32], pieces: &[&[u8]]) -> [u8; 32] {
    let mut mac = keyed::<Sha256>(key);
    for piece in pieces {
        mac.update(piece);
    }
    let mut out = [0; 32];
    finish(mac, &mut out);
    out
}

/// HMAC with a key of at most one block.
fn keyed<D: EagerHash>(key: &[u8]) -> Hmac<D>
where
    Hmac<D>: KeyInit,
{
    let mut block = Key::<Hmac<D>>::default();
    debug_assert!(key.len() <= block.len());
    for (to, from) in block.iter_mut().zip(key) {
        *to = *from;
    }
    let mac = <Hmac<D> as KeyInit>::new(&block);
    block.as_mut_slice().zeroize();
    mac
}

fn finish(mac: impl Mac, out: &mut [u8]) {
    let mut digest = mac.finalize().into_bytes();
    debug_assert!(out.len() <= digest.len());
    for (to, from) in out.iter_mut().zip(digest.iter()) {
        *to = *from;
    }
    digest.as_mut_slice().zeroize();
}

#[cfg(test)]
mod tests {
    use data_encoding::HEXLOWER;
    use hkdf::Hkdf;
    use sha2::{Sha256, Sha384};

    use super::{expand, extract};

    #[test]
    fn agrees_with_the_hkdf_crate() {
        let prk: Vec<u8> = (0..48).collect();
        for length in [12, 31, 32, 33, 44, 64, 200] {
            let (mut ours, mut theirs) = (vec![0; length], vec![0; length]);
            expand::<Sha256>(&prk[..32], &[b"one", b" two"], &mut ours);
            Hkdf::<Sha256>::from_prk(&prk[..32]).unwrap().expand(b"one two", &mut theirs).unwrap();
            assert_eq!(ours, theirs);
            expand::<Sha384>(&prk, &[b"label"], &mut ours);
            Hkdf::<Sha384>::from_prk(&prk).unwrap().expand(b"label", &mut theirs).unwrap();
            assert_eq!(ours, theirs);
        }
        let (theirs, _) = Hkdf::<Sha256>::extract(Some(&[5; 32]), &prk);
        assert_eq!(extract(&[5; 32], &prk)[..], theirs[..]);
    }

    /// RFC 5869, appendix A.1. Its salt has 13 bytes; HMAC fills its key with zeros, so that those added here change
    /// nothing.
    #[test]
    fn agrees_with_the_standard() {
        let hex = |text: &str| HEXLOWER.decode(text.as_bytes()).unwrap();
        let mut salt = hex("000102030405060708090a0b0c");
        salt.resize(32, 0);
        let prk = extract(&salt.try_into().unwrap(), &[0x0b; 22]);
        assert_eq!(prk.to_vec(), hex("077709362c2e32df0ddc3f0dc47bba6390b6c73bb50f9c3122ec844ad7c2b3e5"));
        let mut okm = [0; 42];
        expand::<Sha256>(&*prk, &[&hex("f0f1f2f3f4f5f6f7f8f9")], &mut okm);
        let expected = "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865";
        assert_eq!(okm.to_vec(), hex(expected));
    }
}
