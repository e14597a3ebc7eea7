//! What no tunnel can do without: one AEAD pass over the bytes at each end, at the speed of the library that QNet has.

use std::hint::black_box;
use std::time::{Duration, Instant};

use qnet_proto::aead::{Aead, Algorithm, TAG_LEN};

/// The longest plaintext of a record (RFC 8446, section 5.1).
const RECORD: usize = 16_384;

/// How long each pass is measured.
const SPAN: Duration = Duration::from_millis(500);

/// Records between two looks at the clock.
const BATCH: u64 = 64;

/// Seconds that one core takes to seal a gigabyte in full records, and to open it.
#[must_use]
pub fn passes(algorithm: Algorithm) -> [f64; 2] {
    let mut aead = Aead::new(algorithm, &[7; 32], [1; 12]);
    let mut record = vec![0; RECORD + TAG_LEN];
    let mut index = 0;
    let sealing = per_gigabyte(|| {
        aead.seal(index, &[0; 5], black_box(&mut record));
        index += 1;
    });
    let plain = vec![0; RECORD + TAG_LEN];
    let mut sealed = plain.clone();
    aead.seal(0, &[0; 5], &mut sealed);
    let copying = per_gigabyte(|| record.copy_from_slice(black_box(&sealed)));
    // Opening works in place, so that it needs the record anew each time.
    let opening = per_gigabyte(|| {
        record.copy_from_slice(black_box(&sealed));
        black_box(aead.open(0, &[0; 5], &mut record).is_some());
    });
    [sealing, (opening - copying).max(0.0)]
}

#[expect(clippy::cast_precision_loss, reason = "half a second's records")]
fn per_gigabyte(mut one: impl FnMut()) -> f64 {
    let start = Instant::now();
    let mut records = 0_u64;
    while start.elapsed() < SPAN {
        (0..BATCH).for_each(|_| one());
        records += BATCH;
    }
    start.elapsed().as_secs_f64() / (records as f64 * RECORD as f64) * 1e9
}

#[cfg(test)]
mod tests {
    use qnet_proto::aead::Algorithm;

    #[test]
    fn a_pass_takes_time() {
        let [sealing, opening] = super::passes(Algorithm::Aes256Gcm);
        assert!(sealing > 0.0 && sealing.is_finite() && opening.is_finite());
    }
}
