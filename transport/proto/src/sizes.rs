//! Lengths that records of our own may take: those of the page load they follow.

use rand_core::Rng;

use crate::shape::Habit;

/// How many of the newest record lengths of a direction are remembered.
const REMEMBERED: usize = 16;
/// A record shorter than this is control (SETTINGS, PING, WINDOW_UPDATE, alerts), not a piece of an answer or a request.
const SHORTEST: usize = 56;
/// What HTTP/2's control frames make: SETTINGS acknowledged, WINDOW_UPDATE, PING or GOAWAY.
const CONTROL: [usize; 3] = [26, 30, 34];
/// The inner type byte and the AEAD tag.
const OVERHEAD: usize = 17;

/// The newest lengths of protected records in one direction.
#[derive(Clone, Default)]
pub(crate) struct Lengths {
    seen: [u16; REMEMBERED],
    count: usize,
    /// What all of them show, short ones included.
    habit: Habit,
}

impl Lengths {
    pub(crate) fn note(&mut self, length: usize) {
        self.habit.note(length);
        if length < SHORTEST {
            return;
        }
        self.seen[self.count % REMEMBERED] = u16::try_from(length).unwrap_or(u16::MAX);
        self.count += 1;
    }

    /// How the one who sent them cuts long answers.
    pub(crate) fn habit(&self) -> Habit {
        self.habit
    }

    /// One of the noted lengths of at least `least`, or one a little above `least` if there is none.
    pub(crate) fn draw(&self, least: usize, rng: &mut impl Rng) -> usize {
        let known = &self.seen[..self.count.min(REMEMBERED)];
        let fitting = known.iter().filter(|&&l| usize::from(l) >= least).count();
        if fitting == 0 {
            return least + below(rng, least / 4 + 16);
        }
        let pick = below(rng, fitting);
        known.iter().map(|&l| usize::from(l)).filter(|&l| l >= least).nth(pick).unwrap_or(least)
    }

    /// A length for a record with a piece of a message that may be cut anywhere.
    pub(crate) fn piece(&self, rng: &mut impl Rng) -> usize {
        self.draw(SHORTEST, rng).max(OVERHEAD + 1)
    }
}

/// The length for a record that carries only control frames.
pub(crate) fn control_length(content: usize) -> Option<usize> {
    CONTROL.into_iter().find(|&length| content + OVERHEAD <= length)
}

/// A number below `bound`, 0 for 0. The bias of a modulo over 32 bits does not matter for lengths.
pub(crate) fn below(rng: &mut impl Rng, bound: usize) -> usize {
    if bound == 0 { 0 } else { rng.next_u32() as usize % bound }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::{ChaCha20Rng, rand_core::SeedableRng};

    #[test]
    fn pieces_take_noted_lengths() {
        let mut rng = ChaCha20Rng::from_seed([1; 32]);
        let mut lengths = Lengths::default();
        for length in [465, 118, 125, 63, 26] {
            lengths.note(length);
        }
        for _ in 0..100 {
            assert!([465, 118, 125, 63].contains(&lengths.piece(&mut rng)));
        }
    }

    #[test]
    fn without_history_lengths_still_vary() {
        let mut rng = ChaCha20Rng::from_seed([2; 32]);
        let lengths = Lengths::default();
        let drawn: std::collections::HashSet<_> = (0..64).map(|_| lengths.draw(80, &mut rng)).collect();
        assert!(drawn.len() > 8);
        assert!(drawn.iter().all(|&l| l >= 80));
    }

    #[test]
    fn control_records_take_the_lengths_of_http2() {
        assert_eq!(
            [1, 9, 10, 13, 14, 17, 18].map(control_length),
            [26, 26, 30, 30, 34, 34, 0].map(|l| (l > 0).then_some(l))
        );
    }
}
