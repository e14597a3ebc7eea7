//! Probes against a bridge and its decoy.
//!
//! Until there is a bridge, a wire that only forwards stands in for it; wires with one fault each show that the
//! comparison notices.

use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use qnet_tests::support::decoy::{Decoy, NAME, Options, Server};
use qnet_tests::support::flow::End;
use qnet_tests::support::isolate::isolated;
use qnet_tests::support::link::{Act, Editor, Link, Rule, Way, Which};
use qnet_tests::support::probe::{Difference, Driver, Probe, Tolerance, catalogue, differences};

/// How long each probe is watched: beyond the decoys' own limits.
const WATCH: Duration = Duration::from_secs(5);

/// A decoy that ends what idles soon.
fn decoy(server: Server) -> Result<Decoy> {
    let limit = Duration::from_secs(2);
    Decoy::start(server, Options { idle: limit, head: limit, ..Options::default() })
}

fn show(found: &[Difference]) -> String {
    found.iter().map(ToString::to_string).collect()
}

/// A forwarder is not told apart from its decoy by any probe.
fn forwarder_is_invisible(server: Server) -> Result<()> {
    let decoy = decoy(server)?;
    let forwarder = Link::start(decoy.address(), Duration::ZERO)?;
    let mut probes = catalogue::all(NAME)?;
    if server == Server::Caddy {
        // After the handshake several of its tasks write to a connection, and race: it never does the same twice.
        probes.retain(|probe| matches!(probe.driver, Driver::Script(_)));
    }
    ensure!(probes.len() >= 40, "{} probes", probes.len());
    let found = differences(&probes, forwarder.address(), decoy.address(), WATCH, Tolerance::default())?;
    ensure!(found.is_empty(), "{} of {} probes differ:\n{}", found.len(), probes.len(), show(&found));
    Ok(())
}

#[test]
fn a_forwarder_is_nginx() -> Result<()> {
    isolated("a_forwarder_is_nginx", || forwarder_is_invisible(Server::Nginx))
}

#[test]
fn a_forwarder_is_apache() -> Result<()> {
    isolated("a_forwarder_is_apache", || forwarder_is_invisible(Server::Apache))
}

#[test]
fn a_forwarder_is_lighttpd_with_gnutls() -> Result<()> {
    isolated("a_forwarder_is_lighttpd_with_gnutls", || forwarder_is_invisible(Server::LighttpdGnutls))
}

#[test]
fn a_forwarder_is_lighttpd_with_openssl() -> Result<()> {
    isolated("a_forwarder_is_lighttpd_with_openssl", || forwarder_is_invisible(Server::Lighttpd))
}

#[test]
fn a_forwarder_is_caddy() -> Result<()> {
    isolated("a_forwarder_is_caddy", || forwarder_is_invisible(Server::Caddy))
}

/// The negative control: a forwarder with any one of these faults is caught.
#[test]
fn a_faulty_forwarder_is_caught() -> Result<()> {
    isolated("a_faulty_forwarder_is_caught", || {
        let decoy = decoy(Server::Nginx)?;
        let mut probes = catalogue::silent();
        probes.extend(catalogue::random().into_iter().step_by(4));
        probes.extend(catalogue::visitors(NAME)?.into_iter().take(2));
        let every = |which, act| vec![Rule::new(Way::Down, which, act)];
        let untouched = Editor::new(|_| ());
        let faults = [
            ("answers a byte itself", every(Which::AtEnd, Act::InjectBefore(vec![0]))),
            (
                "resets where the decoy ends in order",
                every(Which::AtEnd, Act::Cut { keep: 0, end: End::Rst }),
            ),
            ("keeps open what the decoy ends", every(Which::AtEnd, Act::Drop)),
            (
                "adds a record to the page",
                every(Which::NthData(4), Act::InjectAfter(vec![23, 3, 3, 0, 1, 0])),
            ),
            ("is slow to answer", every(Which::From(0), Act::Delay(Duration::from_secs(1)))),
            ("ends late", every(Which::AtEnd, Act::Delay(Duration::from_secs(2)))),
            ("does not pass on a half-close", vec![Rule::new(Way::Up, Which::AtEnd, Act::Drop)]),
            (
                "withholds what is not a whole record",
                vec![Rule::new(Way::Up, Which::From(0), Act::Edit(untouched))],
            ),
        ];
        thread::scope(|scope| {
            let (probes, decoy) = (&probes, decoy.address());
            let examined: Vec<_> = faults
                .into_iter()
                .map(|(fault, rules)| scope.spawn(move || (fault, faulty(probes, decoy, rules))))
                .collect();
            for fault in examined {
                let (fault, found) = fault.join().unwrap_or_else(|_| ("panics", Ok(Vec::new())));
                ensure!(!found?.is_empty(), "no probe notices a forwarder that {fault}");
            }
            Ok(())
        })
    })
}

/// What the probes say of a forwarder with these rules.
fn faulty(probes: &[Probe], decoy: SocketAddr, rules: Vec<Rule>) -> Result<Vec<Difference>> {
    let forwarder = Link::start(decoy, Duration::ZERO)?;
    forwarder.set_rules(rules);
    differences(probes, forwarder.address(), decoy, WATCH, Tolerance::default())
}
