//! Random numbers that take little room while nobody draws them.

use std::fmt;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// A generator, or the seed of one: idle carriers are many, and a generator is ten times as large.
pub(super) struct Draws {
    seed: [u8; 32],
    rng: Option<Box<ChaCha8Rng>>,
}

impl Draws {
    pub(super) fn new(seed: [u8; 32]) -> Self {
        Self { seed, rng: None }
    }

    pub(super) fn rng(&mut self) -> &mut ChaCha8Rng {
        let seed = self.seed;
        self.rng.get_or_insert_with(|| Box::new(ChaCha8Rng::from_seed(seed)))
    }

    /// Gives the generator's memory back. What is drawn afterwards follows from what was not drawn before.
    pub(super) fn rest(&mut self) {
        if let Some(mut rng) = self.rng.take() {
            rng.fill_bytes(&mut self.seed);
        }
    }
}

impl fmt::Debug for Draws {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Draws")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rest_repeats_nothing() {
        let mut draws = Draws::new([7; 32]);
        let first = draws.rng().next_u64();
        draws.rest();
        let second = draws.rng().next_u64();
        draws.rest();
        draws.rest();
        let third = draws.rng().next_u64();
        assert!(first != second && second != third && first != third);
        // Without a rest it is the seed's own sequence.
        assert_eq!(first, ChaCha8Rng::from_seed([7; 32]).next_u64());
    }
}
