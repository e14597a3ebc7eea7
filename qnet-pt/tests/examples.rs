//! The example configurations mean to this program what they say.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed step is a failed test")]

use qnet_pt::options::Options;
use qnet_transport::decoy::Place;
use qnet_wire::bridge_line::BridgeLine;
use qnet_wire::bridge_line::Cover;
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
    assert_eq!(lines.len(), 3);
    let mut websockets = 0;
    for line in lines {
        let parsed: BridgeLine = line.parse().unwrap();
        assert_eq!(parsed.to_string(), format!("Bridge {line}"));
        websockets += usize::from(matches!(parsed.cover, Cover::Websocket(_)));
    }
    assert_eq!(websockets, 1);
}

#[test]
fn server_options_are_understood() {
    let options = values("ServerTransportOptions");
    assert_eq!(options.len(), 3);
    let mut websockets = 0;
    for line in options {
        let pairs = line.strip_prefix("qnet ").unwrap().split(' ').map(|pair| pair.split_once('=').unwrap());
        match Options::parse(&pairs.collect()).unwrap() {
            Options::Mirror(mirror) => {
                assert_eq!(mirror.decoy, Place::Address("127.0.0.1:8443".parse().unwrap()));
                assert_eq!(mirror.names[0].as_str(), "www.example.com");
            }
            Options::Websocket(websocket) => {
                websockets += 1;
                assert_eq!(websocket.url.host().as_str(), "www.example.com");
                assert_eq!(websocket.site, "127.0.0.1:8080".parse().unwrap());
            }
        }
    }
    assert_eq!(websockets, 1);
}

/// nginx's lines in the comments send the path of `url=` to the address that the bridge listens on, and the site is where
/// `site=` says.
#[test]
fn the_web_servers_lines_fit_the_bridges() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../torrc-examples/bridge-websocket.torrc");
    let text = std::fs::read_to_string(path).unwrap();
    let options = text.lines().find_map(|line| line.strip_prefix("ServerTransportOptions qnet ")).unwrap();
    let pairs = options.split(' ').map(|pair| pair.split_once('=').unwrap());
    let Options::Websocket(websocket) = Options::parse(&pairs.collect()).unwrap() else {
        panic!("{options}")
    };
    let listen = text.lines().find_map(|line| line.strip_prefix("ServerTransportListenAddr qnet ")).unwrap();
    for line in [
        format!("location = {} {{", websocket.url.path()),
        format!("proxy_pass http://{listen};"),
        format!("listen {};", websocket.site),
    ] {
        assert!(
            text.lines().any(|text| text.starts_with('#') && text.trim_start_matches(['#', ' ']) == line),
            "{line}"
        );
    }
}

#[test]
fn plugin_lines_name_the_transport() {
    for option in ["ClientTransportPlugin", "ServerTransportPlugin"] {
        let lines = values(option);
        assert_eq!(lines.len(), 3, "{option}");
        for line in lines {
            assert_eq!(line, format!("{} exec /usr/local/bin/qnet-pt", qnet_pt::TRANSPORT));
        }
    }
}
