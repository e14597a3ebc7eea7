//! What the programs hold while it goes.

use anyhow::Result;

use crate::usage;

/// Which processes are looked at.
#[derive(Clone, Copy, Debug)]
pub struct Programs {
    /// The lasting proxy.
    pub client: u32,
    /// The bridge.
    pub bridge: u32,
}

/// The two at one moment, the client first.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sample {
    /// Streams that had ended.
    pub streams: u64,
    /// Resident bytes.
    pub resident: [u64; 2],
    /// Open descriptors.
    pub descriptors: [usize; 2],
}

impl Programs {
    /// How they are now.
    ///
    /// # Errors
    /// One of them is gone.
    pub fn look(&self, streams: u64) -> Result<Sample> {
        let both = [self.client, self.bridge];
        let mut sample = Sample { streams, ..Sample::default() };
        for ((pid, resident), descriptors) in
            both.into_iter().zip(&mut sample.resident).zip(&mut sample.descriptors)
        {
            (*resident, *descriptors) = (usage::resident(pid)?, usage::descriptors(pid)?);
        }
        Ok(sample)
    }
}

/// What is no growth: this part of the second quarter's median, 1/20, and so many bytes.
const SLACK: (u64, u64) = (20, 1 << 20);

/// Whether memory grew: the median of the last quarter of a run beside that of the second, by when all that is made once is there.
#[must_use]
pub(super) fn creeps(resident: &[u64]) -> Option<String> {
    let quarter = resident.len() / 4;
    let median = |from: usize| {
        let mut part = resident.get(from..from + quarter).unwrap_or_default().to_vec();
        part.sort_unstable();
        part.get(part.len() / 2).copied()
    };
    let (early, late) = (median(quarter)?, median(resident.len() - quarter)?);
    let most = early + early / SLACK.0 + SLACK.1;
    (late > most).then(|| {
        let [early, late, most] = [early, late, most].map(|bytes| bytes >> 10);
        format!("{early} KiB in the second quarter, {late} KiB in the last, where {most} KiB are allowed")
    })
}

#[cfg(test)]
mod tests {
    use super::creeps;

    #[test]
    fn growth_is_told_from_noise() {
        let ragged = |at: u64| 40_000_000 + at * 7_919 % 3_000_000;
        let flat: Vec<u64> = (0..200).map(ragged).collect();
        assert_eq!(creeps(&flat), None);
        let growing: Vec<u64> = (0..200).map(|at| ragged(at) + at * 60_000).collect();
        assert!(creeps(&growing).is_some());
        // What comes up in the beginning and stays is no creeping.
        let stepped: Vec<u64> = (0..200).map(|at| if at < 40 { 10_000_000 } else { ragged(at) }).collect();
        assert_eq!(creeps(&stepped), None);
        assert_eq!(creeps(&[1, 2]), None, "too few to say");
    }
}
