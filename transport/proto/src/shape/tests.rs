use proptest::prelude::*;

use super::models::matches;
use super::*;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng as _;

mod pair;

const LONGEST: usize = 16_401;

fn web() -> Shape {
    Shape::default()
}

fn none() -> Shape {
    Shape::named("none").unwrap()
}

/// A shaper with a clock of its own.
pub(super) struct Played {
    pub(super) shaper: Shaper,
    pub(super) now: Instant,
    /// The longest that the head of the queue was held.
    pub(super) held: Duration,
}

impl Played {
    #[expect(clippy::disallowed_methods, reason = "any instant will do; only differences count")]
    pub(super) fn new(shape: Shape, role: Role, seed: u8) -> Self {
        Self { shaper: Shaper::new(shape, role, [seed; 32]), now: Instant::now(), held: Duration::ZERO }
    }

    fn heard(&mut self, length: usize, content: usize) {
        self.shaper.heard(length, content, self.now);
    }

    /// The lengths of the records that a burst of `bytes` makes, and whether each ends a segment.
    fn records(&mut self, bytes: usize) -> Vec<(usize, bool)> {
        let (mut sent, mut left, mut since) = (Vec::new(), bytes, self.now);
        loop {
            match self.shaper.next(left, LONGEST - OVERHEAD, LONGEST, self.now) {
                Step::Send { content } => {
                    let content = content.min(left);
                    assert!(content > 0);
                    self.held = self.held.max(self.now - since);
                    since = self.now;
                    left -= content;
                    let length = self.shaper.length(content, LONGEST, left == 0, self.now);
                    let length = length.unwrap_or(content + OVERHEAD);
                    assert!((content + OVERHEAD..=LONGEST).contains(&length), "{content}: {length}");
                    sent.push((length, self.shaper.alone()));
                }
                Step::Pad(length) => {
                    assert!((LEAST_RECORD..=LONGEST).contains(&length));
                    sent.push((length, self.shaper.alone()));
                }
                Step::Hold => {
                    let until = self.shaper.deadline().expect("what is held has a deadline");
                    assert!(until > self.now, "it would spin");
                    self.now = until;
                }
                Step::Rest => break,
            }
        }
        assert_eq!(left, 0);
        sent
    }

    fn lengths(&mut self, bytes: usize) -> Vec<usize> {
        self.records(bytes).into_iter().map(|(length, _)| length).collect()
    }

    /// One burst after a question; its length on the wire.
    fn burst(&mut self, bytes: usize) -> usize {
        self.heard(217, 200);
        self.lengths(bytes).iter().sum()
    }
}

#[test]
fn every_built_in_profile_is_read_and_has_a_name_and_a_number_of_its_own() {
    let mut seen = std::collections::HashSet::new();
    for (file, shape) in profile::FILES.iter().zip(Shape::all()) {
        let profile = Profile::parse(file).unwrap();
        assert_eq!(&profile, shape.profile());
        assert_eq!(Shape::named(&profile.name), Some(shape));
        assert_eq!(Shape::numbered(profile.number, profile.version), Some(shape));
        assert_eq!(Shape::numbered(profile.number, profile.version + 1), None);
        assert!(seen.insert(profile.name) && seen.insert(profile.number.to_string()));
    }
    assert_eq!(Shape::default().profile().name, "web");
}

#[test]
fn a_profile_that_may_cost_too_much_or_contradicts_itself_is_refused() {
    let web = profile::FILES[1];
    assert!(Profile::parse(web).is_ok());
    for (from, to) in [
        ("per_mille = 6", "per_mille = 3001"),
        ("allowance = 196_608", "allowance = 4194305"),
        ("hold_ms = 100", "hold_ms = 251"),
        ("held_per_mille = 0", "held_per_mille = 1001"),
        ("tail = 640", "tail = 16402"),
        ("short = [57, ", "short = [90, "),
        ("short = [57, ", "short = [56, "),
        (" 126]", " 399]"),
        ("longest = 1_300", "longest = 300"),
        ("gaps_ms = [2, ", "gaps_ms = [] #"),
        ("name = \"web\"", "name = \"Web\""),
        ("machine = \"web\"", "machine = \"none\""),
        ("[web]", "[wep]"),
        ("first_gaps = [3, ", "other = 1\nfirst_gaps = [3, "),
        ("first_gaps = [3, ", "first_gaps = [9, "),
        ("first_answers = [4, ", "first_answers = [] #"),
        (" 7, 8, 8]", " 7, 8, 257]"),
        ("stream_answers = [3, ", "stream_answers = 3 #"),
        ("hello_segments = [7, ", "hello_segments = [3, "),
        (" 10, 10, 10]", " 10, 10, 11]"),
    ] {
        assert!(web.contains(from), "{from}");
        assert!(Profile::parse(&web.replace(from, to)).is_err(), "{to}");
    }
    assert_eq!(Profile::parse(&" ".repeat(profile::MAX_FILE + 1)), Err(ProfileError::TooLong));
}

#[test]
fn a_tls_handshake_inside_is_known_by_its_bursts_without_a_shape_and_not_with_one() {
    // Chrome's hello and a server's flight, the client's Finished with its request, the answer.
    let bare = [1_850.0, 4_900.0, 785.0, 1_050.0];
    assert!(matches(bare, 1.0), "the models find what they were made for");
    for seed in 0..200 {
        let mut up = Played::new(web(), Role::Client, seed);
        let mut down = Played::new(web(), Role::Bridge, seed.wrapping_add(1));
        let mut bursts = Vec::new();
        for (asked, answered) in
            [(1_850, 4_900), (785, 1_050), (640, 4_650), (448, 1_100), (213, 4_500), (108, 308)]
        {
            let question: usize = up.lengths(asked).iter().sum();
            up.heard(1_000, 900);
            down.heard(question, asked);
            bursts.push(question as f64);
            bursts.push(down.lengths(answered).iter().sum::<usize>() as f64);
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
        let mut down = Played::new(web(), Role::Bridge, seed);
        // Enough for all of it.
        down.shaper.budget.carried(1 << 40);
        for _ in 0..8 {
            down.burst(100);
        }
        let mut bursts = Vec::new();
        let mut rng = ChaCha8Rng::from_seed([seed; 32]);
        for _ in 0..60 {
            let (question, answer) = (80 + below(&mut rng, 3_000), 80 + below(&mut rng, 9_000));
            down.heard(question, question - 17);
            bursts.push(question as f64);
            bursts.push(down.lengths(answer).iter().sum::<usize>() as f64);
        }
        for window in bursts.windows(4).step_by(2) {
            let window: [f64; 4] = window.try_into().unwrap();
            assert!(!matches(window, 1.0), "{window:?}, seed {seed}");
        }
    }
}

#[test]
fn the_last_record_tells_nothing_of_cells() {
    // One cell in a TLS record inside, 300 times: the lengths are spread over more than a cell.
    let mut shaper = Played::new(web(), Role::Bridge, 3);
    for _ in 0..8 {
        shaper.burst(64);
    }
    shaper.shaper.budget.carried(1 << 30);
    let lengths: Vec<usize> = (0..300).map(|_| shaper.burst(536 + 13)).collect();
    let (least, most) = (*lengths.iter().min().unwrap(), *lengths.iter().max().unwrap());
    assert!(most - least > 514, "{least} to {most}");
    let mut near = [0_u32; 8];
    for length in &lengths {
        near[(length - least) * 8 / (most - least + 1)] += 1;
    }
    // Evenly: each eighth within five standard deviations of its share.
    assert!(near.iter().all(|count| (10..=67).contains(count)), "{near:?}");
}

#[test]
fn without_a_budget_left_the_ends_of_bursts_are_cut() {
    let mut shaper = Played::new(web(), Role::Bridge, 4);
    shaper.shaper.budget.add(usize::MAX / 2);
    // What eight cells make in one TLS record, again and again.
    let lengths: Vec<usize> = (0..400).flat_map(|_| shaper.lengths(8 * 514 + 22 + 13)).collect();
    let mut near = [0_u32; 8];
    for length in &lengths {
        near[length % 514 * 8 / 514] += 1;
    }
    // Uncut, all would stand on one tooth; evenly spread, an eighth on each.
    let most = u32::try_from(lengths.len()).unwrap() / 5;
    assert!(near.iter().all(|count| *count < most), "{near:?}");
}

#[test]
fn what_leaves_the_schedule_or_the_budget_is_counted() {
    let after = |name: &str, spend: fn(&mut Budget)| {
        let mut shaper = Played::new(Shape::named(name).unwrap(), Role::Bridge, 5);
        spend(&mut shaper.shaper.budget);
        for bytes in [300, 60_000, 9_000] {
            shaper.burst(bytes);
        }
        let Counters { off_schedule, over_budget, .. } = shaper.shaper.take_counters();
        assert_eq!(shaper.shaper.take_counters(), Counters::default(), "what was taken is not told again");
        (off_schedule > 0, over_budget > 0)
    };
    for name in ["web", "tamaraw", "winding"] {
        assert_eq!(after(name, |_| ()), (false, false), "{name} has enough");
        assert!(after(name, |budget| budget.add(usize::MAX / 2)).1, "{name} without bytes");
    }
    for name in ["tamaraw", "winding"] {
        assert!(after(name, |budget| budget.held(Duration::from_secs(1_000_000))).0, "{name} without time");
    }
}

#[test]
fn a_new_stream_is_shaped_again() {
    let (mut long, mut shaped, mut later) = (0, 0, 0);
    for seed in 0..50 {
        let mut down = Played::new(web(), Role::Bridge, seed);
        for _ in 0..20 {
            down.burst(100);
        }
        later += usize::from(down.burst(100) > 9_000);
        down.shaper.budget.carried(100_000_000);
        down.shaper.opened(down.now);
        let (answers, _) = down.shaper.web.as_ref().unwrap().left();
        shaped += usize::from(answers);
        for _ in 0..answers {
            long += usize::from(down.burst(100) > 9_000);
        }
        later += usize::from(down.burst(100) > 9_000);
    }
    // Otherwise only what comes near a model grows.
    assert!(later < 10, "{later} of 100 answers are long");
    // Six of eleven steps of the table are above that.
    assert!((shaped / 3..shaped * 11 / 15).contains(&long), "{long} of {shaped} answers are long");
}

/// What a new carrier's side draws: answers, pauses, first bursts, and what a stream and its first burst draw anew.
fn counts(role: Role, seed: u8) -> [usize; 5] {
    let mut side = Played::new(web(), role, seed);
    let left = |side: &Played| {
        let (answers, gaps) = side.shaper.web.as_ref().unwrap().left();
        let (hellos, pieces) = side.shaper.segments.as_ref().map_or((0, 0), Segments::left);
        [answers.into(), gaps.into(), hellos.into(), pieces]
    };
    let [answers, gaps, hellos, _] = left(&side);
    for _ in 0..20 {
        side.burst(100);
    }
    side.shaper.opened(side.now);
    let [stream_answers, ..] = left(&side);
    // More than a hello's least, of which a part has gone out.
    side.heard(4_000, 3_983);
    let step = side.shaper.next(2_000, LONGEST - OVERHEAD, LONGEST, side.now);
    assert!(matches!(step, Step::Send { .. }));
    let [.., pieces] = left(&side);
    [answers, gaps, hellos, stream_answers, pieces]
}

#[test]
fn counts_are_drawn_from_the_whole_of_their_tables() {
    let Plan::Web(data) = &web().profile().plan else { panic!("web is a page's") };
    let bursts = web().profile().bursts.as_ref().unwrap();
    for (role, at, table) in [
        (Role::Bridge, 0, &data.first_answers),
        (Role::Client, 1, &data.first_gaps),
        (Role::Client, 2, &bursts.hellos),
        (Role::Bridge, 3, &data.stream_answers),
        (Role::Client, 4, &bursts.hello_segments),
    ] {
        let drawn: std::collections::BTreeSet<usize> = (0..=255)
            .map(|seed| {
                let counts = counts(role, seed);
                assert_eq!(counts, self::counts(role, seed), "the same seed draws the same");
                // A burst's first piece is no longer among those that are left.
                counts[at] + usize::from(at == 4)
            })
            .collect();
        let all: Vec<usize> = (table.least() as usize..=table.greatest() as usize).collect();
        assert_eq!(drawn.into_iter().collect::<Vec<_>>(), all, "{at}");
    }
}

#[test]
fn each_side_draws_only_what_it_shapes() {
    for seed in 0..20 {
        let ([answers, .., pieces], [_, gaps, ..]) = (counts(Role::Client, seed), counts(Role::Bridge, seed));
        assert!((answers, gaps) == (0, 0) && pieces > 0);
    }
}

#[test]
fn without_a_shape_nothing_is_added_and_nothing_waits() {
    for role in [Role::Client, Role::Bridge] {
        let mut shaper = Played::new(none(), role, 1);
        for bytes in [65_usize, 500, 40_000] {
            let bare = bytes + bytes.div_ceil(LONGEST - OVERHEAD) * OVERHEAD;
            assert_eq!(shaper.burst(bytes), bare);
        }
        assert_eq!((shaper.shaper.budget.spent().1, shaper.held), (0, Duration::ZERO));
    }
}

#[test]
fn never_three_long_segments_in_a_row_but_in_bulk() {
    for seed in 0..100 {
        let mut up = Played::new(web(), Role::Client, seed);
        let mut rng = ChaCha8Rng::from_seed([seed; 32]);
        let mut segments = vec![0];
        for _ in 0..40 {
            // A burst from 32 KiB on is bulk; none grows that long without an answer.
            up.heard(4_000, 3_983);
            let most = [300, 600, 2_000, 20_000][below(&mut rng, 4)];
            for (length, alone) in up.records(1 + below(&mut rng, most)) {
                assert!(alone && length + RECORD_HEADER <= 1_400, "{length} in a segment");
                segments.push(length + RECORD_HEADER);
            }
        }
        // What a websocket adds must not make them long either.
        for around in [0, 48] {
            let long = |segments: &[usize]| segments.iter().all(|length| *length + around >= 411);
            assert!(!segments.windows(3).any(long), "seed {seed}: {segments:?}");
        }
    }
}

#[test]
fn bulk_is_not_cut() {
    let mut up = Played::new(web(), Role::Client, 5);
    let records = up.records(4 << 20);
    let full = records.iter().filter(|(length, _)| *length == LONGEST).count();
    assert!(full >= 254, "{full} of {}", records.len());
    assert!(!records.iter().any(|(_, alone)| *alone));
}

#[test]
fn bulk_has_its_servers_beat() {
    let beat = Beat { every: 2, length: 53 };
    let mut down = Played::new(web(), Role::Bridge, 6);
    down.shaper.follow(Some(beat));
    down.heard(217, 200);
    let lengths = down.lengths(40 * (LONGEST - OVERHEAD));
    let pattern = [LONGEST, LONGEST, 53].repeat(20);
    assert_eq!(lengths[..59], pattern[..59]);
    // It is paid for: without a budget it is left out, and data goes on.
    down.shaper.budget.add(usize::MAX / 2);
    down.heard(217, 200);
    assert!(!down.lengths(40 * (LONGEST - OVERHEAD)).contains(&53));
    // A shape that promises nothing follows nothing.
    let mut none = Played::new(none(), Role::Bridge, 6);
    none.shaper.follow(Some(beat));
    assert_eq!(none.lengths(4 * (LONGEST - OVERHEAD)), [LONGEST; 4]);
}

#[test]
fn a_record_of_bulk_lacks_nothing() {
    let mut down = Played::new(web(), Role::Bridge, 7);
    down.heard(217, 200);
    let step = down.shaper.next(1 << 20, LONGEST - OVERHEAD, LONGEST, down.now);
    assert_eq!(step, Step::Send { content: LONGEST - OVERHEAD });
    for missing in 1..=8 {
        let length = down.shaper.length(LONGEST - OVERHEAD - missing, LONGEST, false, down.now);
        assert_eq!(length, Some(LONGEST));
    }
}

#[test]
fn a_long_answer_waits_a_moment_before_it_is_cut() {
    let mut down = Played::new(web(), Role::Bridge, 8);
    let room = LONGEST - OVERHEAD;
    down.heard(217, 200);
    assert_eq!(down.shaper.next(room + 100, room, LONGEST, down.now), Step::Send { content: room });
    down.shaper.length(room, LONGEST, false, down.now);
    assert_eq!(down.shaper.next(100, room, LONGEST, down.now), Step::Hold);
    let until = down.shaper.deadline().unwrap();
    assert_eq!(until, down.now + MORE);
    // More comes in time, or not at all.
    assert_eq!(down.shaper.next(room, room, LONGEST, down.now), Step::Send { content: room });
    down.shaper.length(room, LONGEST, false, down.now);
    assert_eq!(down.shaper.next(100, room, LONGEST, down.now), Step::Hold);
    assert!(matches!(down.shaper.next(100, room, LONGEST, until), Step::Send { .. }));
    down.shaper.length(100, LONGEST, true, until);
    assert_eq!(down.shaper.deadline(), None);
    // What is no long answer does not wait.
    assert!(matches!(down.shaper.next(100, room, LONGEST, until), Step::Send { .. }));
}

#[test]
fn a_hello_takes_more_segments_than_the_models_know() {
    for seed in 0..100 {
        let mut up = Played::new(web(), Role::Client, seed);
        for bytes in [1_850, 700, 300] {
            let records = up.records(bytes);
            assert!(records.len() > 3, "{bytes}: {records:?}");
            up.heard(4_000, 3_983);
        }
    }
}

#[test]
fn a_look_shortly_before_a_hold_ends_does_not_put_its_end_off() {
    let mut up = Played::new(web(), Role::Client, 3);
    up.shaper.set_round_trip(Duration::from_millis(100));
    assert_eq!(up.shaper.next(300, LONGEST, LONGEST, up.now), Step::Hold);
    let end = up.shaper.deadline().unwrap();
    up.now = end - Duration::from_micros(300);
    assert_eq!(up.shaper.next(300, LONGEST, LONGEST, up.now), Step::Hold);
    assert_eq!(up.shaper.deadline(), Some(end));
}

#[test]
fn pauses_cost_a_round_trip_at_most() {
    for (round_trip, seed) in [(0, 1), (5, 2), (60, 3), (300, 4)] {
        let round_trip = Duration::from_millis(round_trip);
        let mut up = Played::new(web(), Role::Client, seed);
        up.shaper.set_round_trip(round_trip);
        let begin = up.now;
        for _ in 0..20 {
            up.burst(300);
        }
        let held = up.now - begin;
        assert!(held <= round_trip, "{held:?} of {round_trip:?}");
        assert_eq!(up.shaper.take_counters().held, held);
    }
}

#[test]
fn on_a_download_of_ten_megabytes_less_than_three_per_cent_are_added() {
    let beats = [None, Some(Beat { every: 1, length: 26 }), Some(Beat { every: 2, length: 53 })];
    for (seed, beat) in (0..30).zip(beats.into_iter().cycle()) {
        let mut down = Played::new(web(), Role::Bridge, seed);
        down.shaper.follow(beat);
        let (mut sent, mut rng) = (0, ChaCha8Rng::from_seed([seed; 32]));
        let mut left: usize = 10_000_000;
        let most = [1_000, 20_000, 400_000, 10_000_000][usize::from(seed) % 4];
        while left > 0 {
            let burst = (1 + below(&mut rng, most)).min(left);
            sent += down.burst(burst);
            left -= burst;
        }
        // Padding's own headers among them.
        let Counters { padding, padding_records, .. } = down.shaper.take_counters();
        let added = padding + padding_records * RECORD_HEADER as u64;
        assert!(added > 0 && added * 1_000 <= 30 * 10_000_000, "{added} of {sent}, {beat:?}");
    }
}

#[test]
fn cover_keeps_its_budget_and_rests_without_a_stream() {
    let shape = Shape::named("web-idle").unwrap();
    let per_hour = shape.profile().idle.as_ref().unwrap().per_hour as usize;
    for seed in 0..5 {
        let mut up = Played::new(shape, Role::Client, seed);
        let mut down = Played::new(shape, Role::Bridge, seed);
        let begin = up.now;
        assert!(up.lengths(0).is_empty() && up.shaper.deadline().is_none(), "no stream, no cover");
        up.shaper.streams(true);
        let (mut asked, mut answered, mut pauses, mut whole) = (0, 0, 0, 0);
        assert!(up.lengths(0).is_empty(), "first a pause");
        while up.now - begin < Duration::from_secs(3_600) {
            let at = up.shaper.deadline().expect("cover goes on as long as a stream is open");
            assert!(at > up.now, "it would spin");
            pauses += 1;
            whole += usize::from((at - up.now).subsec_millis() == 0);
            up.now = at;
            for length in up.lengths(0) {
                asked += length;
                down.now = at;
                down.heard(length, 4);
                let answer: usize = down.lengths(0).iter().sum();
                answered += answer;
                assert!(down.shaper.deadline().is_none(), "a bridge begins nothing");
                if answer > 0 {
                    up.heard(answer, 4);
                }
            }
        }
        assert!(asked > 1_000 && asked <= per_hour, "{asked}");
        assert!(answered > 100_000 && answered <= per_hour, "{answered}");
        assert!(whole * 10 < pauses, "{whole} of {pauses} pauses are whole seconds");
        let counters = down.shaper.take_counters();
        assert_eq!((counters.cover, counters.padding), (answered as u64, 0));
        up.shaper.streams(false);
        assert!(up.lengths(0).is_empty() && up.shaper.deadline().is_none());
    }
}

proptest! {
    #[test]
    fn never_more_is_added_or_held_than_allowed(
        bursts in prop::collection::vec((1..60_000usize, any::<bool>(), 0..400u64), 1..200),
        seed in any::<u8>(),
        shape in 0..profile::FILES.len(),
        client in any::<bool>(),
    ) {
        let shape = Shape::all().nth(shape).unwrap();
        let role = if client { Role::Client } else { Role::Bridge };
        let mut played = Played::new(shape, role, seed);
        played.shaper.set_round_trip(Duration::from_millis(u64::from(seed)));
        let (mut sent, mut bare) = (0, 0);
        let bounds = shape.profile().bounds;
        for (bytes, opens, pause) in bursts {
            if opens {
                played.shaper.opened(played.now);
            }
            played.now += Duration::from_millis(pause);
            sent += played.burst(bytes) as u64;
            bare += bytes as u64;
        }
        let counters = played.shaper.take_counters();
        let (carried, added) = played.shaper.budget.spent();
        prop_assert_eq!((counters.carried, counters.padding), (carried, added));
        // What is as short as control has control's lengths, which is not the budget's.
        prop_assert!(counters.cover == 0 && sent >= carried + added && sent <= carried + added + 16 * counters.records);
        prop_assert!(carried >= bare);
        prop_assert!(added <= u64::from(bounds.allowance) + carried * u64::from(bounds.per_mille) / 1_000);
        prop_assert!(played.held <= MAX_HOLD.min(Duration::from_millis(bounds.hold_ms.into())));
    }

    #[test]
    fn reading_a_profile_never_panics_and_bounds_what_it_may_cost(
        lines in prop::collection::vec((0..60usize, 0..60usize, any::<u32>()), 0..8),
        file in 0..profile::FILES.len(),
    ) {
        let mut text: Vec<String> = profile::FILES[file].lines().map(str::to_owned).collect();
        for (at, with, value) in lines {
            let (at, with) = (at % text.len(), with % text.len());
            if value % 3 == 0 {
                text.swap(at, with);
            } else if let Some((name, _)) = text[at].split_once('=') {
                text[at] = format!("{name}= {value}");
            }
        }
        if let Ok(profile) = Profile::parse(&text.join("\n")) {
            prop_assert!(profile.bounds.per_mille <= profile::MAX_PER_MILLE);
            prop_assert!(profile.bounds.allowance <= profile::MAX_ALLOWANCE);
            prop_assert!(u128::from(profile.bounds.hold_ms) <= MAX_HOLD.as_millis());
        }
    }
}
