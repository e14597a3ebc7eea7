//! Both session bodies under programs drawn at random: longer ones than damage makes of a seed.
#![forbid(unsafe_code)]

use qnet_hostile::session;
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

/// Programs for each body; a fuzzer runs more.
const PROGRAMS: u64 = 1_000;

fn bytes(rng: &mut ChaCha8Rng, most: u32) -> Vec<u8> {
    let mut bytes = vec![0; (rng.next_u32() % (most + 1)) as usize];
    rng.fill_bytes(&mut bytes);
    bytes
}

/// A peer's steps, many of which carry a well-formed frame of a stream.
fn peer_program(rng: &mut ChaCha8Rng) -> Vec<u8> {
    let mut program = bytes(rng, 1);
    program.resize(1, 1);
    for _ in 0..rng.next_u32() % 60 {
        let mut content = bytes(rng, 24);
        if let [a, b, c, kind, id, rest @ ..] = &mut content[..]
            && !rng.next_u32().is_multiple_of(3)
        {
            (*a, *b, *c) = (0, 0, 1 + u8::try_from(rest.len()).unwrap_or_default());
            (*kind, *id) = ([1, 1, 2, 5][usize::from(*kind % 4)], *id % 5);
        }
        program.extend([rng.next_u32().to_be_bytes()[0], rng.next_u32().to_be_bytes()[0]]);
        program.push(u8::try_from(content.len()).unwrap_or_default());
        program.extend(content);
    }
    program
}

#[test]
fn random_programs_harm_no_session() {
    for seed in 0..PROGRAMS {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        session::pair(&bytes(&mut rng, 700));
        session::peer(&peer_program(&mut rng));
    }
}
