//! Who may know whom: a crate depends only on floors below its own (docs/architecture.md).
//!
//! The floor of a crate follows from its folder. Dev-dependencies between our crates count as well: a core whose
//! tests need the shell above it is a core that cannot be tested by itself. Programs alone may test themselves with
//! the harness beside the house.
#![forbid(unsafe_code)]
#![expect(clippy::expect_used, reason = "a check that cannot be made has failed")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

/// Floors by folder, from the ground up. A new folder must be entered here, which is the moment to think.
const FLOORS: &[(&str, Place)] = &[
    ("transport/wire", Place::Floor(0)),
    ("allocator", Place::Floor(0)),
    ("transport/proto", Place::Floor(1)),
    ("qnet-pt/ipc", Place::Floor(1)),
    ("transport", Place::Floor(2)),
    ("qnet-pt", Place::Floor(4)),
    ("qnet-bridge", Place::Floor(4)),
    ("qnet", Place::Floor(4)),
    ("tests", Place::Beside),
    ("tests/detectors", Place::Beside),
    ("tests/hostile", Place::Beside),
    ("bench", Place::Beside),
];

/// The lowest floor that may own sockets, tasks and timers.
const FIRST_WITH_IO: u8 = 2;

/// The floor of the programs, on which nothing else stands.
const PROGRAMS: u8 = 4;

/// What does I/O, or brings an executor; none of it may be reachable from floors 0 and 1, not even in their tests
/// directly.
const IO_CRATES: &[&str] = &["tokio", "mio", "socket2", "async-io", "async-std", "polling", "smol", "hyper"];

/// Sources of randomness that floors 0 and 1 must be given instead.
const RNG_CRATES: &[&str] = &["getrandom", "rand"];

#[derive(Clone, Copy, Debug, PartialEq)]
enum Place {
    Floor(u8),
    /// Tests and measurements: may use everything, used by nobody.
    Beside,
}

/// Every breach in `metadata` (the output of `cargo metadata`), in words.
fn breaches(metadata: &Value) -> Vec<String> {
    let root = metadata["workspace_root"].as_str().expect("workspace_root");
    let packages: BTreeMap<&str, &Value> = list(&metadata["packages"]).map(|p| (text(&p["id"]), p)).collect();
    let ours: BTreeMap<&str, (&str, String)> = packages
        .iter()
        .filter(|(_, p)| p["source"].is_null())
        .map(|(id, p)| (*id, (text(&p["name"]), folder(root, text(&p["manifest_path"])))))
        .collect();
    let mut found = Vec::new();
    for node in list(&metadata["resolve"]["nodes"]) {
        let Some((name, folder)) = ours.get(text(&node["id"])) else { continue };
        let Some(place) = place(folder) else {
            found.push(format!(
                "{name} lives in {folder}/, which has no floor: enter it in tests/tests/floors.rs"
            ));
            continue;
        };
        for dependency in list(&node["deps"]) {
            let Some((other, other_folder)) = ours.get(text(&dependency["pkg"])) else { continue };
            let Some(other_place) = self::place(other_folder) else { continue };
            let for_tests = kinds(dependency).all(|kind| kind == "dev");
            if !(points_down(place, other_place) || for_tests && tests_itself_with(place, other_place)) {
                found.push(format!("{name} ({place:?}) depends on {other} ({other_place:?}): not downwards"));
            }
        }
        if matches!(place, Place::Floor(floor) if floor < FIRST_WITH_IO) {
            found.extend(
                foreign_breaches(metadata, &packages, node).map(|b| format!("{name} ({place:?}) {b}")),
            );
        }
    }
    found
}

/// What a crate of floors 0 and 1 reaches that it must not, by whatever way.
fn foreign_breaches<'a>(
    metadata: &'a Value,
    packages: &'a BTreeMap<&str, &Value>,
    node: &'a Value,
) -> impl Iterator<Item = String> + 'a {
    let reached = reachable(metadata, text(&node["id"]));
    let by_any_way = reached
        .into_iter()
        .map(|id| text(&packages[id]["name"]))
        .filter(|name| IO_CRATES.contains(name))
        .map(|name| format!("reaches {name}: floors 0 and 1 do no I/O"));
    let by_itself = list(&node["deps"]).filter_map(move |dependency| {
        let name = text(&packages[text(&dependency["pkg"])]["name"]);
        let needed_to_run = kinds(dependency).any(|kind| kind != "dev");
        if IO_CRATES.contains(&name) && !needed_to_run {
            Some(format!("tests itself with {name}: floors 0 and 1 are tested without I/O"))
        } else if RNG_CRATES.contains(&name) && needed_to_run {
            Some(format!("depends on {name}: floors 0 and 1 are given their generator"))
        } else {
            None
        }
    });
    by_any_way.chain(by_itself)
}

/// Everything `from` needs to be built and to run, tests aside, itself included.
fn reachable<'a>(metadata: &'a Value, from: &'a str) -> BTreeSet<&'a str> {
    let nodes: BTreeMap<&str, &Value> =
        list(&metadata["resolve"]["nodes"]).map(|n| (text(&n["id"]), n)).collect();
    let mut seen = BTreeSet::from([from]);
    let mut next = vec![from];
    while let Some(id) = next.pop() {
        for dependency in list(&nodes[id]["deps"]) {
            let other = text(&dependency["pkg"]);
            if kinds(dependency).any(|kind| kind != "dev") && seen.insert(other) {
                next.push(other);
            }
        }
    }
    seen
}

/// Strictly down: two crates of one floor do not know each other either. What is beside may use all floors.
fn points_down(from: Place, to: Place) -> bool {
    match (from, to) {
        (Place::Beside, _) => true,
        (Place::Floor(_), Place::Beside) => false,
        (Place::Floor(from), Place::Floor(to)) => from > to,
    }
}

/// A program is tested from outside, against the real servers that the harness starts. The floors below are not.
fn tests_itself_with(from: Place, to: Place) -> bool {
    from == Place::Floor(PROGRAMS) && to == Place::Beside
}

fn place(folder: &str) -> Option<Place> {
    FLOORS.iter().find(|(known, _)| *known == folder).map(|(_, place)| *place)
}

fn folder(root: &str, manifest: &str) -> String {
    let folder = Path::new(manifest).parent().expect("a manifest has a folder");
    folder.strip_prefix(root).unwrap_or(folder).display().to_string()
}

/// "normal", "build" or "dev", as often as the dependency is declared.
fn kinds(dependency: &Value) -> impl Iterator<Item = &str> {
    list(&dependency["dep_kinds"]).map(|kind| kind["kind"].as_str().unwrap_or("normal"))
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().expect("a list").iter()
}

fn text(value: &Value) -> &str {
    value.as_str().expect("a string")
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().expect("the toolchain runs");
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

fn metadata() -> Value {
    // Only this machine's part of the tree: the rest need not have been downloaded.
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".into());
    let version = run(&rustc, &["-vV"]);
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).expect("rustc names its host");
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml");
    let manifest = std::fs::canonicalize(manifest).expect("the workspace is there");
    let manifest = manifest.to_str().expect("UTF-8");
    let arguments = [
        "metadata",
        "--format-version=1",
        "--locked",
        "--filter-platform",
        host,
        "--manifest-path",
        manifest,
    ];
    serde_json::from_str(&run(env!("CARGO"), &arguments)).expect("cargo metadata is JSON")
}

/// The real tree with one more dependency of `from` on `to`.
fn with_edge(mut metadata: Value, from: &str, to: &str, kind: &str) -> Value {
    let id = |name: &str| {
        let packages = list(&metadata["packages"]);
        text(&packages.into_iter().find(|p| p["name"] == name).expect("a known crate")["id"]).to_owned()
    };
    let (from, to) = (id(from), id(to));
    let nodes = metadata["resolve"]["nodes"].as_array_mut().expect("nodes");
    let node = nodes.iter_mut().find(|n| n["id"] == *from).expect("a node");
    node["deps"]
        .as_array_mut()
        .expect("deps")
        .push(json!({"pkg": to, "dep_kinds": [{"kind": Some(kind).filter(|kind| *kind != "normal")}]}));
    metadata
}

#[test]
fn every_dependency_points_down() {
    assert_eq!(breaches(&metadata()), Vec::<String>::new());
}

#[test]
fn every_workspace_member_is_looked_at() {
    let metadata = metadata();
    let nodes: BTreeSet<&str> = list(&metadata["resolve"]["nodes"]).map(|n| text(&n["id"])).collect();
    assert!(list(&metadata["workspace_members"]).all(|member| nodes.contains(text(member))));
}

#[test]
fn a_made_up_edge_is_found() {
    let metadata = metadata();
    let breaches_with = |from, to, kind| breaches(&with_edge(metadata.clone(), from, to, kind));
    let sideways = "qnet-proto (Floor(1)) depends on qnet-pt-ipc (Floor(1)): not downwards";
    let upwards = "qnet-wire (Floor(0)) depends on qnet-proto (Floor(1)): not downwards";
    assert_eq!(breaches_with("qnet-wire", "qnet-proto", "normal"), [upwards]);
    assert_eq!(breaches_with("qnet-wire", "qnet-proto", "dev"), [upwards]);
    assert_eq!(breaches_with("qnet-wire", "qnet-proto", "build"), [upwards]);
    assert_eq!(breaches_with("qnet-proto", "qnet-pt-ipc", "normal"), [sideways]);
    let beside = "qnet-transport (Floor(2)) depends on qnet-tests (Beside): not downwards";
    assert_eq!(breaches_with("qnet-transport", "qnet-tests", "dev"), [beside]);
    let a_program = "qnet-pt (Floor(4)) depends on qnet-bench (Beside): not downwards";
    assert_eq!(breaches_with("qnet-pt", "qnet-bench", "normal"), [a_program]);
    let downwards: [String; 0] = [];
    assert_eq!(breaches_with("qnet-tests", "qnet-pt", "normal"), downwards);
    assert_eq!(breaches_with("qnet-pt", "qnet-bench", "dev"), downwards);
}

#[test]
fn io_in_a_core_is_found_by_whatever_way_it_comes() {
    let metadata = metadata();
    let breaches_with = |from, to, kind| breaches(&with_edge(metadata.clone(), from, to, kind));
    let direct = breaches_with("qnet-wire", "socket2", "normal");
    assert!(direct.contains(&"qnet-wire (Floor(0)) reaches socket2: floors 0 and 1 do no I/O".to_owned()));
    assert!(direct.contains(&"qnet-proto (Floor(1)) reaches socket2: floors 0 and 1 do no I/O".to_owned()));
    let tests = breaches_with("qnet-proto", "tokio", "dev");
    assert_eq!(
        tests,
        ["qnet-proto (Floor(1)) tests itself with tokio: floors 0 and 1 are tested without I/O"]
    );
    let generator = breaches_with("qnet-proto", "getrandom", "normal");
    assert_eq!(
        generator,
        ["qnet-proto (Floor(1)) depends on getrandom: floors 0 and 1 are given their generator"]
    );
}

#[test]
fn a_folder_without_a_floor_is_found() {
    let mut metadata = metadata();
    let packages = metadata["packages"].as_array_mut().expect("packages");
    let package = packages.iter_mut().find(|p| p["name"] == "qnet-bench").expect("the bench");
    let moved = text(&package["manifest_path"]).replace("/bench/", "/attic/");
    package["manifest_path"] = json!(moved);
    let expected = "qnet-bench lives in attic/, which has no floor: enter it in tests/tests/floors.rs";
    assert_eq!(breaches(&metadata), [expected]);
}
