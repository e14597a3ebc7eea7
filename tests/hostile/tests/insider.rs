//! Both carriers under programs drawn at random: longer ones than damage makes of a seed.
#![forbid(unsafe_code)]

use qnet_hostile::insider;
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

/// Programs for each carrier; a fuzzer runs more.
const PROGRAMS: u64 = 400;
/// Most steps of one.
const STEPS: u32 = 80;

/// Frames that are well formed, so that streams and credit are reached.
const FRAMES: [&[u8]; 9] = [
    &[0, 0, 5, 1, 1, 1, 2, 3, 4],
    &[0, 0, 5, 1, 2, 1, 2, 3, 4],
    &[0, 0, 3, 2, 1, 0x44, 0],
    &[0, 0, 3, 2, 0, 0x7f, 0xff],
    &[0, 0, 9, 3, 0, 1, 2, 3, 4, 5, 6, 7, 8],
    &[0, 0, 0, 4],
    &[0, 0, 2, 5, 1, 0],
    &[0, 0, 2, 5, 0, 0],
    &[0, 0, 6, 6, 23, 3, 3, 0, 17, 1],
];

/// A byte up to this one.
fn byte(rng: &mut ChaCha8Rng, most: u8) -> u8 {
    u8::try_from(rng.next_u32() % (u32::from(most) + 1)).unwrap_or(most)
}

fn program(rng: &mut ChaCha8Rng) -> Vec<u8> {
    let mut program = vec![byte(rng, 255)];
    // Most programs get through to late stages, where most states are.
    if rng.next_u32().is_multiple_of(2) {
        program[0] = program[0] / 7 * 7 % 252 + 6;
    }
    for _ in 0..rng.next_u32() % STEPS {
        let action = byte(rng, 15);
        let mut bytes = vec![0; rng.next_u32() as usize % 40];
        rng.fill_bytes(&mut bytes);
        if action == 2 && !rng.next_u32().is_multiple_of(8) {
            bytes.clear();
            for _ in 0..=rng.next_u32() % 5 {
                bytes.extend(FRAMES[rng.next_u32() as usize % FRAMES.len()]);
            }
        }
        // What ends everything comes seldom.
        if matches!(action, 0 | 3 | 4 | 9 | 13) && !rng.next_u32().is_multiple_of(6) {
            continue;
        }
        program.push(action);
        program.push(u8::try_from(bytes.len()).unwrap_or(u8::MAX));
        program.extend(bytes);
    }
    program
}

#[test]
fn random_programs_harm_neither_carrier() {
    for seed in 0..PROGRAMS {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        insider::bridge(&program(&mut rng));
        insider::client(&program(&mut rng));
    }
}
