//! HKDF (RFC 5869) with secrets and outputs of at most one digest, where it cannot fail.

use hmac::digest::Key;
use hmac::{EagerHash, Hmac, KeyInit, Mac};
use sha2::Sha256;
use zeroize::{Zeroize, Zeroizing};

/// `HKDF-Extract(salt, ikm)` with SHA-256.
pub(crate) fn extract(salt: &[u8; 32], ikm: &[u8]) -> Zeroizing<[u8; 32]> {
    let mut prk = Zeroizing::new([0; 32]);
    let mut mac = keyed::<Sha256>(salt);
    mac.update(ikm);
    finish(mac, &mut *prk);
    prk
}

/// Writes `HKDF-Expand(prk, info, out.len())`, `info` being the concatenation of its pieces.
///
/// `prk` is one digest long. `out` is at most that: all that is derived here is, so the expansion is one HMAC.
/// Whatever is longer stays as it is, which no caller asks for.
pub(crate) fn expand<D: EagerHash>(prk: &[u8], info: &[&[u8]], out: &mut [u8])
where
    Hmac<D>: KeyInit + Mac,
{
    let mut mac = keyed::<D>(prk);
    for piece in info {
        mac.update(piece);
    }
    mac.update(&[1]);
    finish(mac, out);
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
    use hkdf::Hkdf;
    use sha2::{Sha256, Sha384};

    use super::{expand, extract};

    #[test]
    fn agrees_with_the_hkdf_crate() {
        let prk: Vec<u8> = (0..48).collect();
        let mut ours = [0; 32];
        let mut theirs = [0; 32];
        expand::<Sha256>(&prk[..32], &[b"one", b" two"], &mut ours);
        Hkdf::<Sha256>::from_prk(&prk[..32]).unwrap().expand(b"one two", &mut theirs).unwrap();
        assert_eq!(ours, theirs);

        let mut ours = [0; 48];
        let mut theirs = [0; 48];
        expand::<Sha384>(&prk, &[b"label"], &mut ours);
        Hkdf::<Sha384>::from_prk(&prk).unwrap().expand(b"label", &mut theirs).unwrap();
        assert_eq!(ours, theirs);

        let (theirs, _) = Hkdf::<Sha256>::extract(Some(&[5; 32]), &prk);
        assert_eq!(extract(&[5; 32], &prk)[..], theirs[..]);
    }
}
