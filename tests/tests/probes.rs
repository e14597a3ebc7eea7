//! Probes against a bridge and its decoy. Wires with one fault each show that the comparison notices.

mod product;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use product::Bridge;
use qnet_tests::support::decoy::{Decoy, NAME, Options, Server};
use qnet_tests::support::flow::End;
use qnet_tests::support::isolate::isolated;
use qnet_tests::support::link::{Act, Editor, Link, Rule, Way, Which};
use qnet_tests::support::probe::{Client, Difference, Probe, Step, Tolerance, catalogue, differences};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

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

/// A bridge is not told apart from its decoy by any probe, the product's own clients' that do not knock rightly included.
fn bridge_is_its_decoy(server: Server) -> Result<()> {
    let decoy = decoy(server)?;
    let bridge = Bridge::start(&decoy)?;
    let mut probes = catalogue::all(NAME)?;
    probes.push(Probe::client("a token under another key", bridge.client(&decoy, false)?, Vec::new()));
    let client = bridge.client(&decoy, true)?;
    probes.extend(replayed(&client, decoy.address())?);
    // A late record is the client's own all the same, and makes a tunnel.
    let spoiled = catalogue::spoiled("a client", &client);
    probes.extend(spoiled.into_iter().filter(|probe| !probe.name.contains("is late")));
    if server == Server::Caddy {
        // Its tasks race for the connection where many answers go out at once.
        let loads = ["a token under another key", "a visitor who asks for everything"];
        probes.retain(|probe| !loads.contains(&probe.name.as_str()));
    }
    ensure!(probes.len() >= 40, "{} probes", probes.len());
    let found = differences(&probes, &|| bridge.address(), decoy.address(), WATCH, Tolerance::default())?;
    ensure!(found.is_empty(), "{} of {} probes differ:\n{}", found.len(), probes.len(), show(&found));
    let counts = bridge.counts();
    ensure!(counts.streams == 0, "{counts:?}");
    // The same client, left alone, has a tunnel: it was the spoiling that made it a visitor.
    client(bridge.address(), WATCH);
    ensure!(bridge.counts().streams == 1, "{:?}", bridge.counts());
    Ok(())
}

/// The bytes of a client's own connection to the decoy, said again: all of them, the first part, the hello and another's rest.
fn replayed(client: &Client, decoy: SocketAddr) -> Result<Vec<Probe>> {
    let record = || -> Result<Vec<Vec<u8>>> {
        let link = Link::start(decoy, Duration::ZERO)?;
        client(link.address(), Duration::from_secs(2));
        let up = link.traces().pop().context("the client did not connect")?.up;
        Ok(up.records().iter().map(|record| up.record_bytes(record).to_vec()).collect())
    };
    let (first, second) = (record()?, record()?);
    let hello = first.first().context("no hello")?;
    let mixed = [&first[..1], second.get(1..).unwrap_or_default()].concat().concat();
    Ok(vec![
        Probe::script("a client's hello", vec![Step::Send(hello.clone())]),
        Probe::script("a client's hello again", vec![Step::Send(hello.clone())]),
        Probe::script("all that a client sent", vec![Step::Send(first.concat())]),
        Probe::script("a client's hello and what another sent", vec![Step::Send(mixed)]),
        Probe::script("a client's hello, then half-close", vec![Step::Send(hello.clone()), Step::HalfClose]),
    ])
}

#[test]
fn a_bridge_is_nginx() -> Result<()> {
    isolated("a_bridge_is_nginx", || bridge_is_its_decoy(Server::Nginx))
}

#[test]
fn a_bridge_is_apache() -> Result<()> {
    isolated("a_bridge_is_apache", || bridge_is_its_decoy(Server::Apache))
}

#[test]
fn a_bridge_is_lighttpd_with_openssl() -> Result<()> {
    isolated("a_bridge_is_lighttpd_with_openssl", || bridge_is_its_decoy(Server::Lighttpd))
}

#[test]
fn a_bridge_is_lighttpd_with_gnutls() -> Result<()> {
    isolated("a_bridge_is_lighttpd_with_gnutls", || bridge_is_its_decoy(Server::LighttpdGnutls))
}

#[test]
fn a_bridge_is_caddy() -> Result<()> {
    isolated("a_bridge_is_caddy", || bridge_is_its_decoy(Server::Caddy))
}

#[test]
fn a_bridge_is_haproxy() -> Result<()> {
    isolated("a_bridge_is_haproxy", || bridge_is_its_decoy(Server::Haproxy))
}

#[test]
fn a_bridge_is_rustls() -> Result<()> {
    isolated("a_bridge_is_rustls", || bridge_is_its_decoy(Server::Rustls))
}

/// The harness's own measure: a wire that does nothing is not told apart either.
#[test]
fn a_plain_wire_is_nginx() -> Result<()> {
    isolated("a_plain_wire_is_nginx", || {
        let decoy = decoy(Server::Nginx)?;
        let wire = Link::start(decoy.address(), Duration::ZERO)?;
        let probes = catalogue::all(NAME)?;
        let found = differences(&probes, &|| wire.address(), decoy.address(), WATCH, Tolerance::default())?;
        ensure!(found.is_empty(), "{} of {} probes differ:\n{}", found.len(), probes.len(), show(&found));
        Ok(())
    })
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
    differences(probes, &|| forwarder.address(), decoy, WATCH, Tolerance::default())
}

/// The other negative control: so is one that has a fault only in a third of its connections.
#[test]
fn a_forwarder_that_is_faulty_now_and_then_is_caught() -> Result<()> {
    isolated("a_forwarder_that_is_faulty_now_and_then_is_caught", || {
        let decoy = decoy(Server::Nginx)?;
        let probes: Vec<Probe> = catalogue::all(NAME)?.into_iter().step_by(2).collect();
        let every = |which, act| vec![Rule::new(Way::Down, which, act)];
        let record = [&[23, 3, 3, 0, 26][..], &[7; 26]].concat();
        let faults = [
            ("is late by 100 ms", every(Which::From(0), Act::Delay(Duration::from_millis(100)))),
            ("adds a record", every(Which::Nth(0), Act::InjectAfter(record))),
            (
                "resets where the decoy ends in order",
                every(Which::AtEnd, Act::Cut { keep: 0, end: End::Rst }),
            ),
            ("ends a second late", every(Which::AtEnd, Act::Delay(Duration::from_secs(1)))),
            ("has no fault", Vec::new()),
        ];
        thread::scope(|scope| {
            let (probes, decoy) = (&probes, decoy.address());
            let examined: Vec<_> = faults
                .into_iter()
                .map(|(fault, rules)| {
                    let faulty = !rules.is_empty();
                    (fault, faulty, scope.spawn(move || now_and_then_faulty(probes, decoy, rules)))
                })
                .collect();
            for (fault, faulty, found) in examined {
                let found = found.join().unwrap_or_else(|_| anyhow::bail!("a player panicked"))?;
                ensure!(found.is_empty() != faulty, "a forwarder that {fault}:\n{}", show(&found));
            }
            Ok(())
        })
    })
}

/// What the probes say of a forwarder with these rules for a third of its connections.
fn now_and_then_faulty(probes: &[Probe], decoy: SocketAddr, rules: Vec<Rule>) -> Result<Vec<Difference>> {
    let (plain, faulty) = (Link::start(decoy, Duration::ZERO)?, Link::start(decoy, Duration::ZERO)?);
    faulty.set_rules(rules);
    let mut seed = ChaCha20Rng::from_seed([3; 32]);
    let dice: Vec<bool> = (0..probes.len() * 8).map(|_| seed.next_u32().is_multiple_of(3)).collect();
    let thrown = AtomicUsize::new(0);
    let address = || {
        let number = thrown.fetch_add(1, Ordering::Relaxed);
        if dice.get(number).copied().unwrap_or_default() { faulty.address() } else { plain.address() }
    };
    differences(probes, &address, decoy, WATCH, Tolerance::default())
}
