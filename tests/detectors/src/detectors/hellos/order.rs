//! Which of two extensions comes first: Chromium draws their order anew for each hello.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use qnet_tests::ja4::{Hello, is_grease};

use crate::stats::chi_squared;

/// How the orders of two samples of hellos compare, pair by pair.
#[derive(Debug)]
pub(super) struct Order {
    /// Pairs of extensions that all hellos have.
    pub(super) pairs: usize,
    /// The least p-value of any pair.
    pub(super) least: f64,
    /// Of which pair, by number (IANA's "TLS ExtensionType Values").
    pub(super) which: Option<[u16; 2]>,
}

/// Compares, for every two extensions, how often the one comes before the other (chi-squared). GREASE has places of its own.
pub(super) fn compare(hellos: &[Hello], model: &[Hello]) -> Result<Order> {
    let all = || hellos.iter().chain(model);
    let Some(mut common) = all().next().map(kinds) else {
        return Ok(Order { pairs: 0, least: 1.0, which: None });
    };
    for hello in all() {
        let has = kinds(hello);
        common.retain(|kind| has.contains(kind));
    }
    let (ours, theirs) = (places(hellos), places(model));
    let mut order = Order { pairs: 0, least: 1.0, which: None };
    for one in &common {
        for other in common.range(one + 1..) {
            let before = |sample: &[Places]| -> Vec<bool> {
                sample.iter().map(|places| places.get(one) < places.get(other)).collect()
            };
            let p = chi_squared(&before(&ours), &before(&theirs))?;
            order.pairs += 1;
            if p < order.least {
                (order.least, order.which) = (p, Some([*one, *other]));
            }
        }
    }
    Ok(order)
}

/// By number, the place.
type Places = BTreeMap<u16, usize>;

fn places(hellos: &[Hello]) -> Vec<Places> {
    let of = |hello: &Hello| hello.extensions.iter().enumerate().map(|(at, (kind, _))| (*kind, at)).collect();
    hellos.iter().map(of).collect()
}

fn kinds(hello: &Hello) -> BTreeSet<u16> {
    hello.extensions.iter().map(|(kind, _)| *kind).filter(|kind| !is_grease(*kind)).collect()
}

/// A control: these hellos with all their extensions in the order of the first of them, GREASE at its places.
pub(super) fn in_one_order(hellos: &[Hello]) -> Vec<Hello> {
    let order: Vec<u16> = hellos.first().map_or_else(Vec::new, |first| {
        first.extensions.iter().map(|(kind, _)| *kind).filter(|kind| !is_grease(*kind)).collect()
    });
    let ordered = |hello: &Hello| {
        let named = |kind: &u16| hello.extensions.iter().find(|(own, _)| own == kind).cloned();
        let mut others = order.iter().filter_map(named);
        let place = |one: &(u16, Vec<u8>)| {
            if is_grease(one.0) { one.clone() } else { others.next().unwrap_or_else(|| one.clone()) }
        };
        let extensions = hello.extensions.iter().map(place).collect();
        Hello { extensions, ..hello.clone() }
    };
    hellos.iter().map(ordered).collect()
}

/// What every hello of a browser's has, and nothing sets the place of: supported_groups and signature_algorithms (RFC 8446, section 4.2).
const PAIR: [u16; 2] = [10, 13];

/// A control that nothing shows but the order of a pair: these hellos with the one extension always before the other, unless either is
/// the first or the last of all, which would show by itself.
pub(super) fn of_one_pair(hellos: &[Hello]) -> Vec<Hello> {
    let ordered = |hello: &Hello| {
        let mut hello = hello.clone();
        let others = hello.extensions.iter().enumerate().filter(|(_, (kind, _))| !is_grease(*kind));
        let others: Vec<(usize, u16)> = others.map(|(at, (kind, _))| (at, *kind)).collect();
        let inner = others.get(1..others.len().saturating_sub(1)).unwrap_or_default();
        let place = |wanted| inner.iter().find(|(_, kind)| *kind == wanted).map(|(at, _)| *at);
        if let [Some(one), Some(other)] = PAIR.map(place)
            && one > other
        {
            hello.extensions.swap(one, other);
        }
        hello
    };
    hellos.iter().map(ordered).collect()
}

/// Another control: these hellos with the first one's GREASE value among all their ciphers.
pub(super) fn of_one_grease(hellos: &[Hello]) -> Vec<Hello> {
    let value = hellos.first().and_then(|first| first.ciphers.first().copied());
    let same = |hello: &Hello| {
        let mut hello = hello.clone();
        if let (Some(first), Some(value)) = (hello.ciphers.first_mut(), value) {
            *first = value;
        }
        hello
    };
    hellos.iter().map(same).collect()
}

#[cfg(test)]
mod tests {
    use rand_chacha::ChaCha20Rng;
    use rand_chacha::rand_core::{Rng, SeedableRng};

    use super::super::{CHANCE, FEATURES};
    use super::*;

    const KINDS: [u16; 10] = [0, 5, 10, 11, 13, 16, 18, 23, 27, 35];

    /// Hellos with these extensions in any order that `allowed` lets pass, GREASE before and behind them.
    fn drawn(seed: u64, allowed: impl Fn(&[u16]) -> bool) -> Vec<Hello> {
        let mut rng = ChaCha20Rng::seed_from_u64(seed);
        let mut hello = || {
            let mut kinds = KINDS;
            loop {
                for left in (1..kinds.len()).rev() {
                    kinds.swap(left, rng.next_u32() as usize % (left + 1));
                }
                if allowed(&kinds) {
                    break;
                }
            }
            let grease = [0x0a0a, 0x1a1a].map(|value| value + 0x1010 * (rng.next_u32() % 8) as u16);
            let all = [&grease[..1], &kinds, &grease[1..]].concat();
            Hello {
                record_version: 0x0301,
                legacy_version: 0x0303,
                session_id: Vec::new(),
                ciphers: vec![grease[0], 0x1301],
                compression: vec![0],
                extensions: all.into_iter().map(|kind| (kind, Vec::new())).collect(),
                length: 0,
            }
        };
        (0..200).map(|_| hello()).collect()
    }

    #[test]
    fn a_pair_that_is_not_drawn_is_found() {
        let model = drawn(1, |_| true);
        let same = compare(&drawn(2, |_| true), &model).unwrap();
        assert_eq!(same.pairs, KINDS.len() * (KINDS.len() - 1) / 2);
        assert!(same.least > 1e-3 / same.pairs as f64, "{same:?}");
        let place = |kinds: &[u16], kind| kinds.iter().position(|one| *one == kind);
        let before = compare(&drawn(3, |kinds| place(kinds, 10) < place(kinds, 13)), &model).unwrap();
        assert!(before.least < 1e-9 && before.which == Some([10, 13]), "{before:?}");
    }

    #[test]
    fn one_pair_in_order_is_found_by_its_order_alone() {
        let (model, own) = (drawn(1, |_| true), drawn(2, |_| true));
        let ordered = of_one_pair(&own);
        let found = compare(&ordered, &model).unwrap();
        // A third of the hellos have one of ten at an end, and keep their order.
        let bound = CHANCE / (FEATURES.len() + found.pairs) as f64;
        assert!(found.least < bound && found.which == Some(PAIR), "{found:?}");
        for (ordered, own) in ordered.iter().zip(&own) {
            assert_eq!(kinds(ordered), kinds(own));
            let ends = |hello: &Hello| {
                let [first, second, .., before, last] = &hello.extensions[..] else { return None };
                Some([first, second, before, last].map(Clone::clone))
            };
            assert_eq!(ends(ordered), ends(own));
        }
    }

    #[test]
    fn one_order_is_found_and_its_extensions_are_the_same() {
        let model = drawn(1, |_| true);
        let own = drawn(2, |_| true);
        let ordered = in_one_order(&own);
        assert!(compare(&ordered, &model).unwrap().least < 1e-9);
        for (ordered, own) in ordered.iter().zip(&own) {
            assert_eq!(kinds(ordered), kinds(own));
            let ends = |hello: &Hello| (hello.extensions.first().cloned(), hello.extensions.last().cloned());
            assert_eq!(ends(ordered), ends(own));
        }
        let values: BTreeSet<u16> = of_one_grease(&own).iter().map(|hello| hello.ciphers[0]).collect();
        assert_eq!(values.len(), 1);
    }
}
