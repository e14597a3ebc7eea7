//! The example configurations mean to this program what they say.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed step is a failed test")]

use qnet_pt::options::{Decoy, Options};
use qnet_wire::bridge_line::BridgeLine;
use std::path::Path;

/// The values of an option in all examples.
fn values(option: &str) -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../torrc-examples");
    let texts =
        std::fs::read_dir(folder).unwrap().map(|entry| std::fs::read_to_string(entry.unwrap().path()));
    let lines: Vec<String> =
        texts.flat_map(|text| text.unwrap().lines().map(str::to_owned).collect::<Vec<_>>()).collect();
    lines.iter().filter_map(|line| line.strip_prefix(&format!("{option} "))).map(str::to_owned).collect()
}

#[test]
fn bridge_lines_are_bridge_lines() {
    let lines = values("Bridge");
    assert_eq!(lines.len(), 2);
    for line in lines {
        let parsed: BridgeLine = line.parse().unwrap();
        assert_eq!(parsed.to_string(), format!("Bridge {line}"));
    }
}

#[test]
fn server_options_are_understood() {
    let options = values("ServerTransportOptions");
    assert_eq!(options.len(), 2);
    for line in options {
        let pairs = line.strip_prefix("qnet ").unwrap().split(' ').map(|pair| pair.split_once('=').unwrap());
        let parsed = Options::parse(&pairs.collect()).unwrap();
        assert_eq!(parsed.decoy, Decoy::Address("127.0.0.1:8443".parse().unwrap()));
        assert_eq!(parsed.names[0].as_str(), "www.example.com");
    }
}

#[test]
fn plugin_lines_name_the_transport() {
    for option in ["ClientTransportPlugin", "ServerTransportPlugin"] {
        let lines = values(option);
        assert_eq!(lines.len(), 2, "{option}");
        for line in lines {
            assert_eq!(line, format!("{} exec /usr/local/bin/qnet-pt", qnet_pt::TRANSPORT));
        }
    }
}
