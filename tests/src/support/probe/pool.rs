//! Judges all probes together, for tells that show only now and then.
//!
//! Of three views of one probe, two of the decoy and one of the bridge, taken at once, at times one is unlike the other two,
//! which agree. Where the bridge is the decoy each of the three is as likely to be that one. So over all probes the number of times
//! that it was the bridge's is as that of throws of a die with three sides; that it is larger by chance is unlikely enough, at some
//! point, to rule chance out. Whatever noise there is, of servers or of a loaded machine, only raises the number of throws.

use super::compare::{Feature, Tolerance};
use super::{Difference, Observation};

/// How unlikely chance must be. There are four features and a handful of servers: some ten thousand runs of all tests for one that is
/// wrong.
const UNLIKELY: f64 = 2e-6;

/// Besides, the bridge must be the odd one in this part of the probes, one in so many: a bridge is one more process that a
/// loaded machine may let wait, now and then, where the decoy is not. A tell that shows in a third of connections is far above.
const AT_LEAST_ONE_IN: usize = 20;

/// Three views taken at once.
#[derive(Clone)]
pub(super) struct Round {
    /// The probe's name.
    pub(super) probe: String,
    /// The decoy's.
    pub(super) decoy: [Observation; 2],
    /// The bridge's.
    pub(super) bridge: Observation,
}

/// How often each of three was the odd one, and an example of the bridge's.
#[derive(Default)]
struct Tally<'a> {
    decoys: usize,
    bridges: usize,
    example: Option<(&'a Round, Vec<String>)>,
}

/// The features in which the bridge is the odd one too often.
pub(super) fn judge(rounds: &[Round], tolerance: Tolerance) -> Vec<Difference> {
    let telling = |feature: &Feature| {
        let tally = tally(rounds, *feature, tolerance);
        let (round, what) = tally.example?;
        let all = tally.decoys + tally.bridges;
        let often = tally.bridges * AT_LEAST_ONE_IN > rounds.len();
        (often && at_least(tally.bridges, all) < UNLIKELY).then(|| Difference {
            probe: format!("all probes together, such as {}", round.probe),
            times: format!(
                "{feature:?}: the odd one of three {} times, a decoy's {}",
                tally.bridges, tally.decoys
            ),
            what,
            decoy: round.decoy[0].clone(),
            bridge: round.bridge.clone(),
        })
    };
    Feature::ALL.iter().filter_map(telling).collect()
}

fn tally(rounds: &[Round], feature: Feature, tolerance: Tolerance) -> Tally<'_> {
    let mut tally = Tally::default();
    for round in rounds {
        let [one, other] = &round.decoy;
        let unlike = |a, b| feature.compare(a, b, tolerance);
        let (decoys, first, second) =
            (unlike(one, other), unlike(one, &round.bridge), unlike(other, &round.bridge));
        match [&decoys, &first, &second].map(Vec::is_empty) {
            [true, false, false] => {
                tally.bridges += 1;
                tally.example.get_or_insert((round, first));
            }
            [false, true, false] | [false, false, true] => tally.decoys += 1,
            // All alike, all different, or a difference just at the tolerance.
            _ => {}
        }
    }
    tally
}

/// The chance that of `all` throws of a die with three sides `count` or more show one given side.
fn at_least(count: usize, all: usize) -> f64 {
    let (mut term, mut sum) = ((2.0f64 / 3.0).powi(i32::try_from(all).unwrap_or(i32::MAX)), 0.0);
    for k in 0..=all {
        if k >= count {
            sum += term;
        }
        term *= (all - k) as f64 / (k + 1) as f64 / 2.0;
    }
    sum
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::compare::tests::some;
    use super::*;

    fn rounds(mut change: impl FnMut(usize, &mut Round)) -> Vec<Round> {
        (0..100)
            .map(|number| {
                let mut round = Round { probe: String::new(), decoy: [some(), some()], bridge: some() };
                change(number, &mut round);
                round
            })
            .collect()
    }

    fn found(change: impl FnMut(usize, &mut Round)) -> usize {
        judge(&rounds(change), Tolerance::default()).len()
    }

    fn late(observation: &mut Observation) {
        observation.last_at = observation.last_at.map(|at| at + Duration::from_millis(100));
    }

    #[test]
    fn the_chance_is_the_binomials() {
        assert!((at_least(0, 10) - 1.0).abs() < 1e-12);
        assert!((at_least(3, 3) - 1.0 / 27.0).abs() < 1e-12);
        assert!((at_least(1, 2) - 5.0 / 9.0).abs() < 1e-12);
        assert!(at_least(13, 13) < UNLIKELY && at_least(11, 11) > UNLIKELY);
    }

    #[test]
    fn a_tell_that_shows_now_and_then_is_found() {
        assert_eq!(
            found(|number, round| if number % 3 == 0 {
                late(&mut round.bridge);
            }),
            1
        );
        assert_eq!(
            found(|number, round| if number % 3 == 0 {
                round.bridge.records.truncate(1);
            }),
            1
        );
    }

    #[test]
    fn noise_that_all_have_is_no_tell() {
        let noise = |number: usize, round: &mut Round| match number % 6 {
            0 => late(&mut round.bridge),
            1 => late(&mut round.decoy[0]),
            2 => late(&mut round.decoy[1]),
            _ => {}
        };
        assert_eq!(found(noise), 0);
        assert_eq!(
            found(|number, round| if number < 5 {
                late(&mut round.bridge);
            }),
            0
        );
        assert_eq!(found(|_, _| {}), 0);
    }
}
