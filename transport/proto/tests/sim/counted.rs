//! How many instructions fixed pieces of work take, so that what makes the cores slower is seen where times would hide it.
//!
//! valgrind's callgrind counts them, on a processor of its own that is the same everywhere: those between a call of a core and its
//! return, so that the simulated decoy, users and wires count for nothing. They hold for one compiler and one kind of machine.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::hint::black_box;
use std::io::Write as _;
use std::process::Command;
use std::{env, fs};

use qnet_proto::record::{Cipher, MAX_CONTENT, RecordOpener, RecordSealer};
use qnet_proto::shape::Shape;

use crate::user::Plan;
use crate::world::{Options, World};

/// The counts that are kept, with the compiler they hold for.
const KEPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/sim/instructions.txt");

/// By how much a count may differ, thousandths. Hash tables take a few more or fewer from run to run.
const TOLERANCE: u64 = 30;

/// Where the counts of this run go, in the same form.
const FOUND: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/instructions.txt");

/// Each piece of work is a test of its own, which callgrind runs alone.
const WORK: [&str; 6] = [
    "comes_up",
    "carries_4_mib_down",
    "carries_4_mib_up",
    "carries_4_mib_down_unshaped",
    "carries_300_streams",
    "seals_and_opens_1000_records",
];

/// Whatever is done in a core goes through here, which is how callgrind finds it.
#[inline(never)]
pub(crate) fn in_core<T>(work: impl FnOnce() -> T) -> T {
    work()
}

fn carried(plans: Vec<Plan>, shape: &str) {
    let shape = Shape::named(shape).unwrap();
    let mut world = World::new(Options { plans, shape, ..Options::default() });
    world.run_through();
}

#[test]
fn comes_up() {
    World::new(Options::default()).run_until_up();
}

#[test]
fn carries_4_mib_down() {
    carried(vec![Plan { up: 100, down: 4 << 20 }], "web");
}

#[test]
fn carries_4_mib_up() {
    carried(vec![Plan { up: 4 << 20, down: 100 }], "web");
}

#[test]
fn carries_4_mib_down_unshaped() {
    carried(vec![Plan { up: 100, down: 4 << 20 }], "none");
}

#[test]
fn carries_300_streams() {
    carried(vec![Plan { up: 300, down: 3_000 }; 300], "web");
}

#[test]
fn seals_and_opens_1000_records() {
    in_core(seal_and_open);
}

fn seal_and_open() {
    let content = vec![7; MAX_CONTENT];
    let mut out = Vec::new();
    for cipher in [Cipher::ChaCha20Poly1305, Cipher::Aes256Gcm] {
        let mut sealer = RecordSealer::new(cipher, &[1; 32], [2; 12], 0);
        let mut opener = RecordOpener::new(cipher, &[1; 32], [2; 12], 0);
        for _ in 0..500 {
            out.clear();
            let start = sealer.begin(&mut out);
            out.extend_from_slice(&content);
            sealer.finish(&mut out, start, 23, None);
            assert!(black_box(opener.open_in_place(&mut out)).is_ok());
        }
    }
}

/// The instructions of the test `name` in the cores.
fn counted(name: &str) -> u64 {
    let file = format!("{}/{name}.callgrind", env!("CARGO_TARGET_TMPDIR"));
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--quiet", "--toggle-collect=sim::counted::in_core*"])
        .arg(format!("--callgrind-out-file={file}"))
        .arg(env::current_exe().unwrap())
        .args(["--exact", &format!("counted::{name}"), "--test-threads=1"])
        .output()
        .expect("valgrind is installed");
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    let said = fs::read_to_string(&file).unwrap();
    fs::remove_file(&file).unwrap();
    let totals = said.lines().find_map(|line| line.strip_prefix("totals: ")).unwrap();
    let count = totals.trim().parse().unwrap();
    assert!(count > 0, "{name}: callgrind saw no core");
    count
}

/// What the counts hold for: a compiler, a valgrind, and a processor that has what the libraries look for.
fn made_by() -> String {
    let version = |program: &str| {
        let output = Command::new(program).arg("--version").output();
        let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    };
    let processor = if hardware() { "with AES and AVX2" } else { "without AES or AVX2" };
    format!("{}, {}, {} {processor}", version("rustc"), version("valgrind"), env::consts::ARCH)
}

#[cfg(target_arch = "x86_64")]
fn hardware() -> bool {
    is_x86_feature_detected!("aes") && is_x86_feature_detected!("avx2")
}

#[cfg(not(target_arch = "x86_64"))]
fn hardware() -> bool {
    false
}

#[test]
fn the_work_takes_the_instructions_that_it_took() {
    let kept = fs::read_to_string(KEPT).unwrap_or_default();
    let (by, kept) = kept.split_once('\n').unwrap_or_default();
    let kept: BTreeMap<&str, u64> = kept
        .lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(name, count)| (name, count.parse().unwrap()))
        .collect();
    let (mut found, mut differing) = (format!("{}\n", made_by()), Vec::new());
    for name in WORK {
        let count = counted(name);
        writeln!(found, "{name} {count}").unwrap();
        let was = kept.get(name).copied().unwrap_or_default();
        if count.abs_diff(was) * 1_000 > was * TOLERANCE {
            differing.push(format!("{name}: {count} instead of {was}"));
        }
    }
    fs::write(FOUND, found).unwrap();
    if by != made_by() {
        let said = format!("instructions are not compared: they hold for {by}, and here is {}", made_by());
        std::io::stderr().write_all(said.as_bytes()).unwrap();
        return;
    }
    assert!(
        differing.is_empty(),
        "not the instructions of {KEPT}. If that is meant, put {FOUND} in its place.\n{}",
        differing.join("\n")
    );
}
