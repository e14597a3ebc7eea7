//! What becomes of one stream, drawn from its seed, which is all that its two ends have to agree on.

use std::time::Duration;

/// A stream's data each way are fewer bytes than two to this power.
const LONGEST: u32 = 20;

/// Bytes between two places where a side may pause.
const PIECE: u64 = 16 * 1024;

/// SplitMix64 (Steele, Lea and Flood 2014): repeatable, and made for seeds that lie beside each other.
#[derive(Clone, Copy, Debug)]
pub(super) struct Draw(u64);

impl Draw {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }

    /// Most are short, some are empty, few are long: the number of their binary digits is drawn first.
    fn length(&mut self) -> u64 {
        let digits = self.below(u64::from(LONGEST) + 1);
        self.below(1 << digits)
    }
}

/// One end of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Client,
    Far,
}

/// How a stream ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Each side ends what it sends in order, the client always first where `answers`: then the far end says nothing before.
    Whole { answers: bool },
    /// One side closes or, `hard`, resets its connection when it has sent so much.
    Broken { by: Side, after: u64, hard: bool },
}

/// A stream.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub(super) seed: u64,
    /// Bytes from the client and from the far end.
    pub(super) up: u64,
    pub(super) down: u64,
    pub(super) end: End,
}

impl Plan {
    pub(super) fn of(seed: u64) -> Self {
        let mut draw = Draw::new(seed);
        let (up, down) = (draw.length(), draw.length());
        let end = match draw.below(10) {
            0..4 => End::Whole { answers: false },
            4..6 => End::Whole { answers: true },
            turn => {
                let (by, most) = if turn < 8 { (Side::Client, up) } else { (Side::Far, down) };
                End::Broken { by, after: draw.below(most + 1), hard: turn % 2 == 0 }
            }
        };
        Self { seed, up, down, end }
    }

    /// What this side sends if nothing keeps it.
    pub(super) fn sends(&self, side: Side) -> u64 {
        match side {
            Side::Client => self.up,
            Side::Far => self.down,
        }
    }

    /// What it gets then.
    pub(super) fn gets(&self, side: Side) -> u64 {
        self.up + self.down - self.sends(side)
    }

    /// The bytes that a side sends from a place on: others for each stream and way, and not the same at any two places.
    pub(super) fn fill(&self, from: Side, mut at: u64, mut bytes: &mut [u8]) {
        let way = if from == Side::Client { 0 } else { 1 << 63 };
        while !bytes.is_empty() {
            let word = Draw::new(self.seed.rotate_left(17) ^ way ^ (at / 8)).next().to_be_bytes();
            let skip = usize::try_from(at % 8).unwrap_or(0);
            let part = word.get(skip..).unwrap_or_default();
            let count = part.len().min(bytes.len());
            let (now, later) = bytes.split_at_mut(count);
            now.copy_from_slice(part.get(..count).unwrap_or_default());
            at += count as u64;
            bytes = later;
        }
    }

    /// Whether these are the bytes that `from` sends there.
    pub(super) fn matches(&self, from: Side, at: u64, bytes: &[u8]) -> bool {
        let mut expected = vec![0; bytes.len()];
        self.fill(from, at, &mut expected);
        at + bytes.len() as u64 <= self.sends(from) && expected == bytes
    }
}

/// How often a side stops for a while.
#[derive(Debug)]
pub(super) struct Pauses {
    draw: Draw,
    left: u64,
}

impl Pauses {
    pub(super) fn new(seed: u64) -> Self {
        Self { draw: Draw::new(!seed), left: PIECE }
    }

    /// After so many bytes more: for how long now.
    pub(super) fn after(&mut self, count: u64) -> Option<Duration> {
        self.left = self.left.saturating_sub(count);
        if self.left > 0 {
            return None;
        }
        self.left = PIECE;
        match self.draw.below(200) {
            0 => Some(Duration::from_millis(self.draw.below(1_000))),
            1..10 => Some(Duration::from_millis(self.draw.below(30))),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{End, Plan, Side};

    #[test]
    fn every_kind_of_stream_comes_up() {
        let plans: Vec<Plan> = (0..10_000).map(Plan::of).collect();
        let share = |wanted: &dyn Fn(&Plan) -> bool| plans.iter().filter(|plan| wanted(plan)).count();
        assert!(share(&|plan| plan.up == 0) > 300);
        assert!(share(&|plan| plan.down > 500_000) > 100);
        assert!(plans.iter().all(|plan| plan.up.max(plan.down) < 1 << 20));
        for by in [Side::Client, Side::Far] {
            for kind in [true, false] {
                assert!(
                    share(
                        &|plan| matches!(plan.end, End::Broken { by: who, hard, .. } if who == by && hard == kind)
                    ) > 500
                );
                assert!(share(&|plan| plan.end == End::Whole { answers: kind }) > 1_500);
            }
        }
    }

    #[test]
    fn a_byte_has_its_place() {
        let plan = (0..).map(Plan::of).find(|plan| plan.up > 100_000).unwrap();
        let mut bytes = vec![0; 1_000];
        plan.fill(Side::Client, 5, &mut bytes);
        assert!(plan.matches(Side::Client, 5, &bytes));
        assert!(plan.matches(Side::Client, 105, &bytes[100..]));
        for (from, at) in [(Side::Client, 6), (Side::Client, 13), (Side::Far, 5)] {
            assert!(!plan.matches(from, at, &bytes));
        }
        let mut beyond = vec![0; 2];
        plan.fill(Side::Client, plan.up - 1, &mut beyond);
        assert!(!plan.matches(Side::Client, plan.up - 1, &beyond), "more than was sent");
        assert!(!Plan::of(plan.seed + 1).matches(Side::Client, 5, &bytes));
    }
}
