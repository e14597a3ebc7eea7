//! The arithmetic of the figures.

/// The smallest of some sorted values that is not below this share of them (nearest rank); `None` of nothing.
#[must_use]
pub fn percentile(sorted: &[u32], share: f64) -> Option<u32> {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a rank among millions at most"
    )]
    let rank = (share.clamp(0.0, 1.0) * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied()
}

/// What each of so many takes, where so much was there before any; below nothing where less was there after.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "memory of a run is far below 2^52 bytes")]
pub fn each(before: u64, after: u64, count: usize) -> f64 {
    (after as f64 - before as f64) / count.max(1) as f64
}

/// How evenly something is shared, from one over their number to one (Jain, Chiu and Hawe, DEC-TR-301, 1984).
#[must_use]
pub fn jain(shares: &[f64]) -> f64 {
    let sum: f64 = shares.iter().sum();
    let squares: f64 = shares.iter().map(|share| share * share).sum();
    #[expect(clippy::cast_precision_loss, reason = "thousands")]
    let count = shares.len() as f64;
    sum * sum / (count * squares)
}

#[cfg(test)]
mod tests {
    use super::{each, jain, percentile};

    #[test]
    fn percentiles_are_of_the_nearest_rank() {
        let hundred: Vec<u32> = (1..=100).collect();
        assert_eq!(percentile(&hundred, 0.5), Some(50));
        assert_eq!(percentile(&hundred, 0.99), Some(99));
        assert_eq!(percentile(&hundred, 1.0), Some(100));
        assert_eq!(percentile(&hundred, 0.0), Some(1));
        assert_eq!(percentile(&[7], 0.99), Some(7));
        assert_eq!(percentile(&[1, 1_000], 0.99), Some(1_000));
        assert_eq!(percentile(&[], 0.5), None);
    }

    #[test]
    fn what_each_takes_is_the_difference_shared() {
        assert!((each(1_000, 17_000, 16) - 1_000.0).abs() < 1e-9);
        assert!((each(5, 1, 2) + 2.0).abs() < 1e-9);
        assert!(each(0, 7, 0).is_finite());
    }

    #[test]
    fn an_even_share_is_one_and_a_lone_one_its_part() {
        assert!((jain(&[3.0; 64]) - 1.0).abs() < 1e-9);
        assert!((jain(&[5.0, 0.0, 0.0, 0.0]) - 0.25).abs() < 1e-9);
    }
}
