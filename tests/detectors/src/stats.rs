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
pub fn permutation<T: Ord + Clone>(one: &[Vec<T>], other: &[Vec<T>]) -> f64 {
    stratified(&[(one, other)])
}

/// Two samples: their members, and the categories that each has.
pub type Pair<'a, T> = (&'a [Vec<T>], &'a [Vec<T>]);

/// What [`permutation`] gives, for pairs of samples, each pair of a kind of its own: members change places within their pair alone, so that kinds may differ
/// from each other. What counts is the pair that is furthest apart, in standard errors.
#[must_use]
pub fn stratified<T: Ord + Clone>(pairs: &[Pair<'_, T>]) -> f64 {
    let mut strata: Vec<Stratum> = pairs.iter().map(|(one, other)| Stratum::new(one, other)).collect();
    let apart = |strata: &[Stratum]| strata.iter().map(Stratum::apart).fold(0.0, f64::max);
    let found = apart(&strata);
    let mut rng = ChaCha20Rng::seed_from_u64(0);
    let mut as_far = 0;
    for _ in 0..PERMUTATIONS {
        strata.iter_mut().for_each(|stratum| stratum.shuffle(&mut rng));
        // What differs by rounding alone is as far apart.
        as_far += u32::from(apart(&strata) >= found - 1e-9);
    }
    f64::from(as_far + 1) / f64::from(PERMUTATIONS + 1)
}

/// Two samples, and a division of all their members into two such.
struct Stratum {
    /// By category, how often each member has it, in units of that category's standard deviation.
    scaled: Vec<Vec<f64>>,
    /// The members' places; the first so many are the one sample.
    order: Vec<usize>,
    one: usize,
}

impl Stratum {
    fn new<T: Ord>(one: &[Vec<T>], other: &[Vec<T>]) -> Self {
        let members = || one.iter().chain(other);
        let size = one.len() + other.len();
        let scaled = |category: &T| {
            let often: Vec<f64> =
                members().map(|member| member.iter().filter(|one| *one == category).count() as f64).collect();
            let mean = often.iter().sum::<f64>() / size as f64;
            let deviation = (often.iter().map(|one| (one - mean).powi(2)).sum::<f64>() / size as f64).sqrt();
            (deviation > 0.0).then(|| often.iter().map(|one| one / deviation).collect())
        };
        let categories: BTreeSet<&T> = members().flatten().collect();
        let scaled = categories.into_iter().filter_map(scaled).collect();
        Self { scaled, order: (0..size).collect(), one: one.len() }
    }

    fn shuffle(&mut self, rng: &mut ChaCha20Rng) {
        for left in (1..self.order.len()).rev() {
            self.order.swap(left, rng.next_u32() as usize % (left + 1));
        }
    }

    /// How far apart the two are, in standard errors of the difference of their means.
    fn apart(&self) -> f64 {
        let (these, those) = self.order.split_at(self.one);
        let mean = |category: &[f64], part: &[usize]| {
            part.iter().filter_map(|place| category.get(*place)).sum::<f64>() / part.len() as f64
        };
        let difference = |category: &Vec<f64>| (mean(category, these) - mean(category, those)).abs();
        let error = (1.0 / these.len() as f64 + 1.0 / those.len() as f64).sqrt();
        self.scaled.iter().map(difference).fold(0.0, f64::max) / error
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

    #[test]
    fn kinds_may_differ_from_each_other_and_not_within() {
        let pages = |count: usize| vec![vec!["page"]; count];
        let talks = |count: usize, what: &'static str| vec![vec![what]; count];
        // All of one kind here and of another there: no difference within a kind.
        let (page, talk) = (pages(7), talks(7, "talk"));
        assert!(stratified(&[(&page, &page), (&talk, &talk)]) > 0.9);
        assert!(permutation(&page, &talk) < 0.001, "and together they differ");
        // One kind that differs is found beside one that does not.
        let other = talks(7, "another");
        assert!(stratified(&[(&page, &page), (&talk, &other)]) < 0.001);
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
