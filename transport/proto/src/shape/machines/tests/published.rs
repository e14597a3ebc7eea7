//! That the defences do what their papers say.

use super::super::defences::Defence;
use super::super::maybenot::Load;
use super::*;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

fn defence(text: &str) -> Defence {
    let defence: Defence = toml::from_str(text).unwrap();
    defence.check().unwrap();
    defence
}

/// When padding goes after something was heard and, once, a record of data was queued; for that long. Data goes when it may.
fn times(defence: &Defence, seed: u8, data: bool, until: Duration) -> (Vec<Duration>, Vec<Duration>) {
    let begun = some_instant();
    let mut rng = ChaCha8Rng::from_seed([seed; 32]);
    let mut load = Load::of(defence.machines(&mut rng).unwrap().into(), [seed; 32], begun).unwrap();
    load.heard(begun);
    if data {
        load.found_waiting(1, begun);
    }
    let (mut now, mut padded, mut sent, mut left) = (begun, Vec::new(), Vec::new(), data);
    loop {
        load.advance(now);
        while load.take_padding() {
            padded.push(now - begun);
            load.advance(now);
        }
        if left && load.held_until(now).is_none() {
            left = false;
            load.data_went(100, now);
            sent.push(now - begun);
            load.advance(now);
        }
        match load.next().filter(|at| *at <= begun + until) {
            Some(at) => now = at,
            None => return (padded, sent),
        }
    }
}

#[test]
fn front_pads_by_a_rayleigh_distribution() {
    let front = defence("[front]\nrecords = [40, 40]\nwindow_ms = [500, 500]\nsteps = 8\n");
    let (mut all, loads) = (Vec::new(), 60);
    for seed in 0..loads {
        let (padded, _) = times(&front, seed, false, Duration::from_secs(10));
        assert_eq!(padded.len(), 40);
        all.extend(padded);
    }
    all.sort();
    // The scale times the root of twice the logarithm of one over the rest.
    for (part, scales) in [(0.1, 0.459), (0.25, 0.759), (0.5, 1.177), (0.75, 1.665)] {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index")]
        let at = all[(part * all.len() as f64) as usize].as_secs_f64() / 0.5;
        assert!((at - scales).abs() < 0.12, "{part} of the padding after {at} scales, not {scales}");
    }
}

#[test]
fn front_draws_its_padding_and_its_window_for_each_load() {
    let front = defence("[front]\nrecords = [5, 40]\nwindow_ms = [100, 2000]\nsteps = 4\n");
    let counts: std::collections::HashSet<usize> =
        (0..40).map(|seed| times(&front, seed, false, Duration::from_secs(20)).0.len()).collect();
    assert!(counts.len() > 15 && counts.iter().all(|count| (5..=40).contains(count)), "{counts:?}");
}

#[test]
fn tamaraw_sends_evenly_and_a_multiple() {
    for (multiple, stop_ms) in [(25, 200), (7, 81), (1, 95)] {
        let text = format!("[tamaraw]\nslot_us = 10000\nmultiple = {multiple}\nstop_ms = {stop_ms}\n");
        let (padded, sent) = times(&defence(&text), 1, true, Duration::from_secs(10));
        let mut all = [padded, sent].concat();
        all.sort();
        assert_eq!(all.len() % multiple, 0, "{} records", all.len());
        let gaps: std::collections::HashSet<Duration> = all.windows(2).map(|two| two[1] - two[0]).collect();
        assert_eq!(gaps, [Duration::from_millis(10)].into());
        let least = usize::try_from(stop_ms / 10).unwrap();
        assert!((least..=least + multiple + 1).contains(&all.len()), "{} records", all.len());
    }
}

#[test]
fn regulator_sends_in_a_surge_whose_rate_falls() {
    let text = "[regulator-bridge]\nrate = 200\ndecay_per_mille = 200\nsurge_tenths = 3\nrecords = 2000\nfirst = 3\nfirst_rate = 50\nsteps = 16\n";
    let (mut all, sent) = times(&defence(text), 1, true, Duration::from_secs(3));
    all.extend(sent);
    all.sort();
    let count = |from: u64, to: u64| {
        let within = Duration::from_millis(from)..Duration::from_millis(to);
        all.iter().filter(|at| within.contains(at)).count()
    };
    assert_eq!(count(0, 61), 3, "fifty a second at first: {all:?}");
    let by_halves = [count(61, 561), count(561, 1_061), count(1_061, 1_561)];
    // 200 a second falling to a fifth in each second: 69, 31 and 14 in half a second each.
    for (got, wanted) in by_halves.into_iter().zip([69, 31, 14]) {
        assert!(got.abs_diff(wanted) <= wanted / 4, "{by_halves:?}");
    }
}

#[test]
fn regulators_client_sends_one_record_for_some_that_come() {
    let client = defence("[regulator-client]\nratio_tenths = 40\nwait_ms = 15\n");
    let begun = some_instant();
    let mut rng = ChaCha8Rng::from_seed([1; 32]);
    let mut load = Load::of(client.machines(&mut rng).unwrap().into(), [1; 32], begun).unwrap();
    load.found_waiting(1, begun);
    load.advance(begun);
    assert!(load.held_until(begun).is_some());
    let first = begun + Duration::from_millis(15);
    load.advance(first);
    assert_eq!(load.held_until(first), None, "it has waited enough");
    load.data_went(100, first);
    load.advance(first);
    let mut padded = 0;
    for step in 1..=400 {
        let now = first + Duration::from_micros(step * 100);
        load.heard(now);
        load.advance(now);
        while load.take_padding() {
            padded += 1;
            load.advance(now);
        }
    }
    assert!((95..=101).contains(&padded), "{padded} records for 400");
}

#[test]
fn break_pads_bridge_pads_when_it_was_asked_and_has_said_nothing() {
    let text = "[break-pad-bridge]\nrun_tenths = 10\nrun_shape_tenths = 22\nburst_tenths = 12\nburst_shape_tenths = 25\nburst_most = 12\ngap_us = [100, 3000]\nrecords = 30\nshare_per_mille = 300\n";
    let defence = defence(text);
    let mut bursts = Vec::new();
    for seed in 0..100 {
        let begun = some_instant();
        let mut rng = ChaCha8Rng::from_seed([seed; 32]);
        let mut load = Load::of(defence.machines(&mut rng).unwrap().into(), [seed; 32], begun).unwrap();
        let mut padded = 0;
        for step in 0..3 {
            let now = begun + Duration::from_millis(step * 50);
            load.heard(now);
            for micros in (0..45_000).step_by(100) {
                let now = now + Duration::from_micros(micros);
                load.advance(now);
                padded += usize::from(load.take_padding());
            }
        }
        bursts.push(padded);
    }
    let some = bursts.iter().filter(|padded| **padded > 0).count();
    assert!(some >= 60, "after a run of one to three: {some} of 100");
    assert!(bursts.iter().all(|padded| *padded <= 24));
}

#[test]
fn interspace_pads_on_one_side_only_after_the_other_has() {
    let text = "[interspace-client]\ngap_us = [200, 3000]\ngap_most_us = 25000\nburst_tenths = [5, 20]\nburst_most = 5\nfake_ms = [20, 300]\nrecords = 10\nshare_per_mille = 300\n";
    let (padded, _) = times(&defence(text), 1, true, Duration::from_secs(5));
    assert_eq!(padded, [], "nothing before the bridge's first padding");
}

#[test]
fn figures_out_of_bounds_are_refused() {
    for text in [
        "[front]\nrecords = [0, 40]\nwindow_ms = [500, 500]\nsteps = 8\n",
        "[front]\nrecords = [40, 4]\nwindow_ms = [500, 500]\nsteps = 8\n",
        "[front]\nrecords = [4, 2001]\nwindow_ms = [500, 500]\nsteps = 8\n",
        "[front]\nrecords = [4, 40]\nwindow_ms = [9, 500]\nsteps = 8\n",
        "[front]\nrecords = [4, 40]\nwindow_ms = [500, 500]\nsteps = 17\n",
        "[front]\nrecords = [4, 40]\nwindow_ms = [500, 500]\nsteps = 0\n",
        "[regulator-client]\nratio_tenths = 9\nwait_ms = 15\n",
        "[regulator-client]\nratio_tenths = 40\nwait_ms = 51\n",
        "[tamaraw]\nslot_us = 50001\nmultiple = 25\nstop_ms = 200\n",
        "[tamaraw]\nslot_us = 999\nmultiple = 25\nstop_ms = 200\n",
        "[tamaraw]\nslot_us = 10000\nmultiple = 0\nstop_ms = 200\n",
        "[tamaraw]\nslot_us = 10000\nmultiple = 25\nstop_ms = 80\n",
    ] {
        let defence: Defence = toml::from_str(text).unwrap();
        assert!(defence.check().is_err(), "{text}");
    }
}
