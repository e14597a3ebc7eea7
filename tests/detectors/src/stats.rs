//! Two samples, and whether one source can have given both.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, anyhow};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use statrs::distribution::{ChiSquared, ContinuousCDF};
use statrs::stats_tests::NaNPolicy;
use statrs::stats_tests::ks_test::{KSTwoSampleAlternativeMethod, ks_twosample};

/// The chi-squared test's rule of thumb: an expected count below this makes it inexact.
const LEAST_EXPECTED: f64 = 5.0;

/// Divisions tried by a permutation test: the least p-value is one in so many and one.
const PERMUTATIONS: u32 = 9_999;

/// Kolmogorov and Smirnov's statistic for two samples, and its asymptotic two-sided p-value.
///
/// # Errors
/// A sample has fewer than two values.
pub fn kolmogorov_smirnov(one: &[f64], other: &[f64]) -> Result<(f64, f64)> {
    // Between equal samples the statistic is 0, at which the asymptotic series does not converge.
    if sorted(one) == sorted(other) {
        return Ok((0.0, 1.0));
    }
    let method = KSTwoSampleAlternativeMethod::TwoSidedAsymptotic;
    ks_twosample(one.to_vec(), other.to_vec(), method, NaNPolicy::Error).map_err(|error| anyhow!("{error}"))
}

/// The p-value of the chi-squared test that two samples of categories have one distribution. Rare categories are counted as
/// one. It is 1 where all is of one category.
///
/// # Errors
/// None with samples that are not empty.
pub fn chi_squared<T: Ord + Clone>(one: &[T], other: &[T]) -> Result<f64> {
    let mut counts: BTreeMap<T, [f64; 2]> = BTreeMap::new();
    for (which, sample) in [one, other].into_iter().enumerate() {
        for category in sample {
            counts.entry(category.clone()).or_default()[which] += 1.0;
        }
    }
    let sizes = [one.len() as f64, other.len() as f64];
    let all = sizes[0] + sizes[1];
    let smaller = sizes[0].min(sizes[1]) / all;
    let (common, rare): (Vec<_>, Vec<_>) =
        counts.into_values().partition(|both| (both[0] + both[1]) * smaller >= LEAST_EXPECTED);
    let mut cells = common;
    if !rare.is_empty() {
        cells.push(rare.iter().fold([0.0; 2], |sum, both| [sum[0] + both[0], sum[1] + both[1]]));
    }
    if cells.len() < 2 {
        return Ok(1.0);
    }
    let statistic: f64 = cells
        .iter()
        .flat_map(|both| {
            let row = both[0] + both[1];
            [0, 1].map(|which| {
                let expected = row * sizes[which] / all;
                (both[which] - expected).powi(2) / expected
            })
        })
        .sum();
    let freedom = cells.len() as f64 - 1.0;
    Ok(ChiSquared::new(freedom).map_err(|error| anyhow!("{error}"))?.sf(statistic))
}

/// The p-value of a permutation test that two samples have one distribution: how often a random division of all of them into two such
/// samples is at least as far apart as these are. They are as far apart as in the category in which they are most: by the difference between
/// how often a member has it on average, in standard deviations over all members. A member may have categories many times, and what it has
/// need not be independent of each other.
#[must_use]
pub fn permutation<T: Ord>(one: &[Vec<T>], other: &[Vec<T>]) -> f64 {
    let often = |category: &T| {
        let count = |member: &Vec<T>| Some(member.iter().filter(|one| *one == category).count() as f64);
        one.iter().chain(other).map(count).collect()
    };
    let categories: BTreeSet<&T> = one.iter().chain(other).flatten().collect();
    divided(categories.into_iter().map(often), one.len(), other.len())
}

/// A member that showed things of several kinds, each with its category: such as a visit, whose connections are not independent of each other.
pub type Cluster<K, T> = Vec<(K, T)>;

/// What [`permutation`] gives for clusters, which change places as wholes. What counts of a cluster is which part of its things of a kind has a category: how many
/// it has is nothing that tells, and one without any of a kind says nothing of it.
#[must_use]
pub fn clustered<K: Ord, T: Ord>(one: &[Cluster<K, T>], other: &[Cluster<K, T>]) -> f64 {
    let part = |(kind, category): &(K, T)| {
        let of = |cluster: &Cluster<K, T>| {
            let all = cluster.iter().filter(|(its, _)| its == kind);
            let with = all.clone().filter(|(_, its)| its == category).count() as f64;
            let all = all.count() as f64;
            (all > 0.0).then_some(with / all)
        };
        one.iter().chain(other).map(of).collect()
    };
    let categories: BTreeSet<&(K, T)> = one.iter().chain(other).flatten().collect();
    divided(categories.into_iter().map(part), one.len(), other.len())
}

/// How often a random division into `one` and `other` members is as far apart as the one that is given. Of each category, what all members have of it, in order;
/// nothing where it cannot be said of a member.
fn divided(categories: impl Iterator<Item = Vec<Option<f64>>>, one: usize, other: usize) -> f64 {
    let scaled: Vec<Vec<Option<f64>>> = categories.filter_map(|often| in_deviations(&often)).collect();
    let mut order: Vec<usize> = (0..one + other).collect();
    let apart = |order: &[usize]| scaled.iter().map(|often| apart(often, order, one)).fold(0.0, f64::max);
    let found = apart(&order);
    let mut rng = ChaCha20Rng::seed_from_u64(0);
    let mut as_far = 0;
    for _ in 0..PERMUTATIONS {
        for left in (1..order.len()).rev() {
            order.swap(left, rng.next_u32() as usize % (left + 1));
        }
        // What differs by rounding alone is as far apart.
        as_far += u32::from(apart(&order) >= found - 1e-9);
    }
    f64::from(as_far + 1) / f64::from(PERMUTATIONS + 1)
}

/// In units of the standard deviation; nothing where all are equal.
fn in_deviations(often: &[Option<f64>]) -> Option<Vec<Option<f64>>> {
    let size = often.iter().flatten().count() as f64;
    let mean = often.iter().flatten().sum::<f64>() / size;
    let deviation = (often.iter().flatten().map(|one| (one - mean).powi(2)).sum::<f64>() / size).sqrt();
    (deviation > 0.0).then(|| often.iter().map(|one| one.map(|one| one / deviation)).collect())
}

/// How far apart the first `one` members in this order and the rest are, in standard errors of the difference of their means; not at all where either says nothing.
fn apart(often: &[Option<f64>], order: &[usize], one: usize) -> f64 {
    let (these, those) = order.split_at(one);
    let mean = |part: &[usize]| {
        let said = part.iter().filter_map(|place| often.get(*place).copied().flatten());
        let (sum, count) = said.fold((0.0, 0.0), |(sum, count), one| (sum + one, count + 1.0));
        (count > 0.0).then_some((sum / count, count))
    };
    match (mean(these), mean(those)) {
        (Some((one, of)), Some((other, of_those))) => {
            (one - other).abs() / f64::sqrt(1.0 / of + 1.0 / of_those)
        }
        _ => 0.0,
    }
}

/// The least p-value that [`permutation`] can give for samples of these sizes: one in the number of divisions, of which two are as far
/// apart where both samples have one size.
#[must_use]
pub fn least_permutation(one: usize, other: usize) -> f64 {
    let all = one + other;
    let divisions: f64 = (1..=one.min(other)).map(|k| (all + 1 - k) as f64 / k as f64).product();
    let alike = if one == other { 2.0 } else { 1.0 };
    (alike / divisions).max(1.0 / f64::from(PERMUTATIONS + 1))
}

/// The middle value; 0 of none.
#[must_use]
pub fn median(sample: &[f64]) -> f64 {
    let sorted = sorted(sample);
    sorted.get(sorted.len() / 2).copied().unwrap_or(0.0)
}

fn sorted(sample: &[f64]) -> Vec<f64> {
    let mut sorted = sample.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_sources_pass_and_unequal_do_not() {
        let even: Vec<usize> = (0..400).map(|number| number % 4).collect();
        let shifted: Vec<usize> = (0..400).map(|number| (number + 1) % 4).collect();
        let skewed: Vec<usize> =
            (0..400).map(|number| if number % 8 == 0 { 3 } else { number % 4 }).collect();
        assert!(chi_squared(&even, &shifted).unwrap() > 0.9);
        assert!(chi_squared(&even, &skewed).unwrap() < 0.001);
        let times: Vec<f64> = (0..200).map(f64::from).collect();
        let later: Vec<f64> = times.iter().map(|time| time + 60.0).collect();
        assert!(kolmogorov_smirnov(&times, &times).unwrap().1 > 0.9);
        assert!(kolmogorov_smirnov(&times, &later).unwrap().1 < 1e-6);
    }

    #[test]
    fn a_permutation_finds_what_differs_and_nothing_else() {
        let visits = |last: usize| -> Vec<Vec<usize>> {
            (0..30)
                .map(|number| vec![87, 460 + number % 3, if number % 2 == 0 { last } else { 60 }])
                .collect()
        };
        assert!(permutation(&visits(60), &visits(60)) > 0.9);
        assert!(permutation(&visits(60), &visits(61)) < 0.001);
        let shorter: Vec<Vec<usize>> = visits(60).into_iter().map(|mut visit| visit.split_off(1)).collect();
        assert!(permutation(&visits(60), &shorter) < 0.001);
    }

    /// Two more records for a change of priorities, which some visits have: what tells is how often, not that one has them or lacks them.
    #[test]
    fn a_variant_that_is_as_frequent_is_no_difference_and_a_habit_is() {
        let visits = |of: usize, percent: usize| -> Vec<Vec<usize>> {
            let visit = |number| {
                let changes = number * 100 < of * percent;
                if changes { vec![53, 87, 488, 31, 31, 63] } else { vec![53, 87, 488, 63] }
            };
            (0..of).map(visit).collect()
        };
        assert!(permutation(&visits(10, 60), &visits(10, 60)) > 0.9);
        assert!(permutation(&visits(100, 57), &visits(100, 62)) > 0.1);
        assert!(permutation(&visits(10, 100), &visits(10, 60)) > 0.05, "ten visits are too few for that");
        assert!(permutation(&visits(100, 98), &visits(100, 62)) < 0.001, "a hundred are not");
        assert!(permutation(&visits(10, 100), &visits(10, 0)) < 0.001);
    }

    #[test]
    fn kinds_may_differ_from_each_other_and_not_within() {
        let visits = |count: usize, page: &'static str, talk: &'static str| -> Vec<Cluster<bool, &str>> {
            vec![vec![(true, page), (false, talk)]; count]
        };
        let model = visits(14, "joined", "apart");
        assert!(clustered(&visits(7, "joined", "apart"), &model) > 0.9);
        assert!(clustered(&visits(7, "joined", "joined"), &model) < 0.001, "one kind differs");
        assert!(clustered(&visits(7, "apart", "apart"), &model) < 0.001, "the other does");
    }

    #[test]
    fn what_one_visit_shows_many_times_counts_once() {
        // Each visit shows one of two things, in four connections: half of the visits here the one, of those there every fourth.
        let visits = |count: usize, every: usize, connections: usize| -> Vec<Cluster<bool, bool>> {
            (0..count).map(|number| vec![(true, number % every == 0); connections]).collect()
        };
        let as_visits = clustered(&visits(10, 2, 4), &visits(20, 4, 4));
        let single: Vec<_> = visits(40, 2, 1);
        let as_if_independent = clustered(&single, &visits(80, 4, 1));
        assert!(as_visits > 0.1 && as_if_independent < 0.02, "{as_visits} {as_if_independent}");
    }

    #[test]
    fn how_many_connections_a_visit_makes_is_no_difference() {
        let visits = |count: usize, connections: usize| vec![vec![(true, "joined"); connections]; count];
        assert!(clustered(&visits(7, 1), &visits(14, 3)) > 0.9);
        // Nor is one that lacks a kind.
        let with: Vec<Cluster<bool, &str>> = vec![vec![(true, "joined"), (false, "apart")]; 14];
        assert!(clustered(&visits(7, 1), &with) > 0.9);
    }

    #[test]
    fn few_members_bound_the_least_chance() {
        // 15, 495 and 924 divisions; 18,564 are more than are tried.
        for (one, other, least) in
            [(2, 4, 1.0 / 15.0), (4, 8, 1.0 / 495.0), (6, 6, 2.0 / 924.0), (6, 12, 1e-4)]
        {
            assert!((least_permutation(one, other) - least).abs() < 1e-9, "{one} {other}");
            let sample = |size: usize, what: u8| vec![vec![what]; size];
            let found = permutation(&sample(one, 1), &sample(other, 2));
            assert!((found - least).abs() < 0.01 + least / 4.0, "{one} {other}: {found}");
        }
        assert!((least_permutation(0, 3) - 1.0).abs() < 1e-9);
    }

    /// Fisher's textbook example's size: 10 of 20 against 18 of 20; chi-squared 7.6 with one degree of freedom, p 0.0058.
    #[test]
    fn chi_squared_is_the_textbooks() {
        let sample = |yes: usize| (0..20).map(|number| number < yes).collect::<Vec<_>>();
        let p = chi_squared(&sample(10), &sample(18)).unwrap();
        assert!((p - 0.005_8).abs() < 0.000_3, "{p}");
    }
}
