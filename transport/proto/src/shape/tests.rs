use proptest::prelude::*;

use super::models::matches;
use super::*;

const LONGEST: usize = 16_401;

fn shaper(shape: Shape, role: Role, seed: u8) -> Shaper {
    Shaper::new(shape, role, [seed; 32])
}

/// One burst of `bytes` after a question; its length on the wire.
fn burst(shaper: &mut Shaper, bytes: usize) -> usize {
    shaper.heard(217, 200);
    records(shaper, bytes).iter().sum()
}

/// The lengths of its records.
fn records(shaper: &mut Shaper, bytes: usize) -> Vec<usize> {
    let mut sent = Vec::new();
    let mut left = bytes;
    while left > 0 {
        let content = left.min(shaper.room(left, LONGEST - OVERHEAD));
        left -= content;
        sent.push(shaper.length(content, LONGEST, left == 0).unwrap_or(content + OVERHEAD));
    }
    while let Some(length) = shaper.padding(LONGEST) {
        assert!((LEAST_PADDING..=LONGEST).contains(&length));
        sent.push(length);
    }
    sent
}

#[test]
fn a_tls_handshake_inside_is_known_by_its_bursts_without_a_shape_and_not_with_one() {
    // Chrome's hello and a server's flight, the client's Finished with its request, the answer.
    let bare = [1_850.0, 4_900.0, 785.0, 1_050.0];
    assert!(matches(bare, 1.0), "the models find what they were made for");
    for seed in 0..200 {
        let (mut up, mut down) =
            (shaper(Shape::Web, Role::Client, seed), shaper(Shape::Web, Role::Bridge, seed.wrapping_add(1)));
        let mut bursts = Vec::new();
        for (asked, answered) in
            [(1_850, 4_900), (785, 1_050), (640, 4_650), (448, 1_100), (213, 4_500), (108, 308)]
        {
            let question: usize = records(&mut up, asked).iter().sum();
            up.heard(1_000, 900);
            down.heard(question, asked);
            bursts.push(question as f64);
            bursts.push(records(&mut down, answered).iter().sum::<usize>() as f64);
        }
        for window in bursts.windows(4).step_by(2) {
            let window: [f64; 4] = window.try_into().unwrap();
            assert!(!matches(window, 1.0), "{window:?}, seed {seed}");
        }
    }
}

#[test]
fn no_window_matches_as_long_as_there_is_a_budget() {
    for seed in 0..50 {
        let mut down = shaper(Shape::Web, Role::Bridge, seed);
        down.answers = 0;
        // Enough for all of it.
        down.carried = 1 << 40;
        let mut bursts = Vec::new();
        let mut rng = ChaCha8Rng::from_seed([seed; 32]);
        for _ in 0..60 {
            let (question, answer) = (80 + below(&mut rng, 3_000), 80 + below(&mut rng, 9_000));
            down.heard(question, question - 17);
            bursts.push(question as f64);
            bursts.push(records(&mut down, answer).iter().sum::<usize>() as f64);
        }
        for window in bursts.windows(4).step_by(2) {
            let window: [f64; 4] = window.try_into().unwrap();
            assert!(!matches(window, 1.0), "{window:?}, seed {seed}");
        }
    }
}

#[test]
fn the_last_record_tells_nothing_of_cells() {
    // One cell in a TLS record inside, 2,000 times: the lengths are spread over more than a cell.
    let mut shaper = shaper(Shape::Web, Role::Client, 3);
    let lengths: Vec<usize> = (0..300).map(|_| burst(&mut shaper, 536 + 13)).collect();
    let (least, most) = (*lengths.iter().min().unwrap(), *lengths.iter().max().unwrap());
    assert!(most - least > 514, "{least} to {most}");
    let mut near = [0_u32; 8];
    for length in &lengths {
        near[(length - least) * 8 / 642] += 1;
    }
    // Evenly: each eighth within five standard deviations of its share.
    assert!(near.iter().all(|count| (15..=62).contains(count)), "{near:?}");
}

#[test]
fn without_a_budget_left_the_ends_of_bursts_are_cut() {
    let mut shaper = shaper(Shape::Web, Role::Bridge, 4);
    shaper.added = u64::MAX / 2;
    // What eight cells make in one TLS record, again and again.
    let lengths: Vec<usize> = (0..400).flat_map(|_| records(&mut shaper, 8 * 514 + 22 + 13)).collect();
    let mut near = [0_u32; 8];
    for length in &lengths {
        near[length % 514 * 8 / 514] += 1;
    }
    // Uncut, all would stand on one tooth; evenly spread, an eighth on each.
    let most = u32::try_from(lengths.len()).unwrap() / 5;
    assert!(near.iter().all(|count| *count < most), "{near:?}");
}

#[test]
fn a_new_stream_is_shaped_again() {
    let mut down = shaper(Shape::Web, Role::Bridge, 9);
    for _ in 0..20 {
        burst(&mut down, 3_000);
    }
    assert!(burst(&mut down, 3_000) < 4_000, "the first answers are over");
    down.carried = 100_000_000;
    down.opened();
    for _ in 0..WEB.stream_answers {
        assert!(burst(&mut down, 3_000) >= 10_500);
    }
    assert!(burst(&mut down, 3_000) < 4_000);
}

#[test]
fn without_a_shape_nothing_is_added() {
    let mut shaper = shaper(Shape::None, Role::Bridge, 1);
    for bytes in [1_usize, 500, 40_000] {
        let bare = bytes + bytes.div_ceil(LONGEST - OVERHEAD) * OVERHEAD;
        assert_eq!(burst(&mut shaper, bytes), bare);
    }
    assert_eq!(shaper.added(), 0);
}

proptest! {
    #[test]
    fn never_more_is_added_than_allowed(
        bursts in prop::collection::vec((1..60_000usize, any::<bool>()), 1..200),
        seed in any::<u8>(),
    ) {
        let mut shaper = shaper(Shape::Web, Role::Bridge, seed);
        let (mut sent, mut bare) = (0, 0);
        // Where bursts are cut there is another record's overhead, which is not padding.
        let mut overhead = 0;
        for (bytes, opens) in bursts {
            if opens {
                shaper.opened();
            }
            let before = shaper.carried;
            sent += burst(&mut shaper, bytes) as u64;
            overhead += shaper.carried - before - bytes as u64;
            bare += bytes as u64;
        }
        prop_assert_eq!(sent - bare - overhead, shaper.added());
        let share = (bare + overhead) * u64::from(WEB.per_mille) / 1_000;
        prop_assert!(shaper.added() <= u64::from(WEB.allowance) + share);
    }
}
