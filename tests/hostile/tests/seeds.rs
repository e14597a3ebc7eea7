//! Every fuzz target's body, over its seeds and over what little damage makes of them: what a fuzzer finds in its
//! first second is found by `cargo test` too.
#![forbid(unsafe_code)]
#![expect(clippy::expect_used, reason = "a check that cannot be made has failed")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use qnet_hostile::TARGETS;

/// Places of a seed that are tried: enough for all of a short one, a sample of a long one.
const PLACES: usize = 100;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn seeds(target: &str) -> Vec<Vec<u8>> {
    let entries = fs::read_dir(folder("seeds").join(target)).expect("a folder of seeds");
    entries.map(|entry| fs::read(entry.expect("an entry").path()).expect("a seed")).collect()
}

fn places(length: usize) -> impl Iterator<Item = usize> {
    (0..length).step_by(length.div_ceil(PLACES).max(1))
}

#[test]
fn every_body_takes_its_seeds_and_their_damage() {
    for target in TARGETS {
        (target.body)(&[]);
        let seeds = seeds(target.name);
        assert!(!seeds.is_empty(), "{} has no seed", target.name);
        for seed in seeds {
            (target.body)(&seed);
            for place in places(seed.len()) {
                (target.body)(&seed[..place]);
                for change in [0x01, 0x80, 0xff] {
                    let mut changed = seed.clone();
                    changed[place] ^= change;
                    (target.body)(&changed);
                }
            }
        }
    }
}

#[test]
fn every_target_is_registered() {
    let listed: BTreeSet<String> = TARGETS.iter().map(|target| target.name.to_owned()).collect();
    let manifest = fs::read_to_string(folder("../fuzz/Cargo.toml")).expect("the manifest");
    let bins = manifest.split("[[bin]]\nname = \"").skip(1).filter_map(|bin| bin.split_once('"'));
    assert_eq!(bins.map(|(name, _)| name.to_owned()).collect::<BTreeSet<_>>(), listed);
    for target in &listed {
        let file = fs::read_to_string(folder("../fuzz/fuzz_targets").join(format!("{target}.rs")))
            .expect("the target's file");
        assert!(file.contains("qnet_hostile::"), "{target} drives no body");
    }
}
