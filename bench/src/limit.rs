//! What one core makes of full records, in this process: AEAD passes by the library that QNet has, without which no tunnel can do,
//! and frames.

use std::hint::black_box;
use std::time::{Duration, Instant};

use qnet_proto::aead::{Aead, Algorithm, TAG_LEN};
use qnet_proto::frame::{Frame, frames};

/// The longest plaintext of a record (RFC 8446, section 5.1).
const RECORD: usize = 16_384;

/// How long each is measured.
const SPAN: Duration = Duration::from_millis(500);

/// Records between two looks at the clock.
const BATCH: u64 = 64;

/// Seconds that a record takes.
pub struct Passes {
    /// Sealing and opening it with AES-256-GCM.
    pub aes: [f64; 2],
    /// The same with ChaCha20-Poly1305.
    pub chacha: [f64; 2],
    /// Writing it as one frame into a buffer, and reading the frame.
    pub frame: f64,
}

impl Passes {
    /// Measured now; takes three seconds.
    #[must_use]
    pub fn measured() -> Self {
        Self { aes: aead(Algorithm::Aes256Gcm), chacha: aead(Algorithm::ChaCha20Poly1305), frame: frame() }
    }
}

/// Seconds a gigabyte, from seconds a record.
#[must_use]
pub fn per_gigabyte(seconds: f64) -> f64 {
    seconds * 1e9 / RECORD as f64
}

/// GiB a second, from seconds a record.
#[must_use]
pub fn gibibytes(seconds: f64) -> f64 {
    RECORD as f64 / f64::from(1 << 30) / seconds
}

fn aead(algorithm: Algorithm) -> [f64; 2] {
    let mut aead = Aead::new(algorithm, &[7; 32], [1; 12]);
    let mut record = vec![0; RECORD + TAG_LEN];
    let mut index = 0;
    let sealing = each(|| {
        aead.seal(index, &[0; 5], black_box(&mut record));
        index += 1;
    });
    let mut sealed = vec![0; RECORD + TAG_LEN];
    aead.seal(0, &[0; 5], &mut sealed);
    let copying = each(|| black_box(&mut record).copy_from_slice(black_box(&sealed)));
    // Opening works in place, so that it needs the record anew each time.
    let opening = each(|| {
        record.copy_from_slice(black_box(&sealed));
        black_box(aead.open(0, &[0; 5], &mut record).is_some());
    });
    [sealing, (opening - copying).max(0.0)]
}

fn frame() -> f64 {
    let data = vec![7; RECORD - 16];
    let mut out = Vec::with_capacity(RECORD);
    each(|| {
        out.clear();
        Frame::Stream { id: 4, data: black_box(&data) }.encode(&mut out);
        black_box(frames(&out).all(|frame| frame.is_ok()));
    })
}

#[expect(clippy::cast_precision_loss, reason = "half a second's records")]
fn each(mut one: impl FnMut()) -> f64 {
    let start = Instant::now();
    let mut records = 0_u64;
    while start.elapsed() < SPAN {
        (0..BATCH).for_each(|_| one());
        records += BATCH;
    }
    start.elapsed().as_secs_f64() / records as f64
}

#[cfg(test)]
mod tests {
    use super::Passes;

    #[test]
    fn everything_takes_time() {
        let Passes { aes, chacha, frame } = Passes::measured();
        for seconds in [aes, chacha, [frame; 2]].concat() {
            assert!((0.0..1.0).contains(&seconds), "{seconds}");
        }
        assert!(frame > 0.0 && aes[0] > 0.0 && chacha[0] > 0.0);
    }
}
