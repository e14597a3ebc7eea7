//! Several bridges: the faster is used, and where one is lost its place is taken within three seconds.
#![allow(clippy::disallowed_methods, reason = "a user waits between two requests")]

mod support;

use std::collections::HashMap;
use std::net::TcpListener;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use qnet_tests::support::decoy::{Decoy, Options, Server};
use qnet_tests::support::isolate::isolated;
use qnet_tests::support::link::Link;
use qnet_tests::support::process::wait_for;
use qnet_tests::support::tunnel::runtime;
use support::exit::{Behind, Exit};
use support::wire::{Wire, wire};
use support::{CONNECT_LIMIT, Proxy, curl};

const NAME: &str = "www.example.com";
/// Within this a lost bridge's place is taken.
const LIMIT: Duration = Duration::from_secs(3);

/// The bridge `first` is the nearer one.
fn two(decoy: &Decoy) -> Result<(Exit, Exit, Link)> {
    let hosts = Behind::Exit(HashMap::from([(NAME, decoy.address())]));
    let first = Exit::start(decoy, 1, hosts.clone())?;
    let second = Exit::start(decoy, 2, hosts)?;
    let far = Link::start(second.address, Duration::from_millis(60))?;
    Ok((first, second, far))
}

fn get(proxy: &Proxy, decoy: &Decoy) -> Result<Duration> {
    let began = Instant::now();
    let url = format!("https://{NAME}:{}/", decoy.address().port());
    let ca = decoy.certificates().ca.display().to_string();
    let way = format!("socks5h://{}", proxy.listen);
    let got = curl(&["--cacert", &ca, "--proxy", &way, &url])?;
    ensure!(got.into_bytes() == decoy.file("index.html")?);
    Ok(began.elapsed())
}

fn lost(how: Wire) -> Result<()> {
    let runtime = runtime()?;
    let _inside = runtime.enter();
    let decoy = Decoy::start(Server::Nginx, Options::default())?;
    let (first, second, far) = two(&decoy)?;
    let (address, state) = runtime.block_on(wire(first.address))?;
    // The far one is named first: the order is not what counts.
    let lines = [second.line_by(far.address()), first.line_by(address)];
    let proxy = Proxy::connected(&decoy.certificates().ca, &lines, &[])?;
    wait_for("both are connected", CONNECT_LIMIT, || {
        Ok((proxy.report()?.matches(r#""round_trip_ms":null"#).count() == 0).then_some(()))
    })?;
    for _ in 0..3 {
        get(&proxy, &decoy)?;
    }
    let asked = || (first.asked.load(Ordering::Relaxed), second.asked.load(Ordering::Relaxed));
    ensure!(asked() == (3, 0), "the nearer bridge is not the one used: {:?}\n{}", asked(), proxy.report()?);

    state.send_replace(how);
    let took = get(&proxy, &decoy)?;
    ensure!(took < LIMIT, "{how:?}: it took {took:?}\n{}", proxy.log());
    // From then on nobody waits for the lost one.
    thread::sleep(Duration::from_secs(5));
    let took = get(&proxy, &decoy)?;
    ensure!(took < Duration::from_millis(1_200), "{how:?}: later it took {took:?}\n{}", proxy.log());
    ensure!(proxy.report()?.contains(r#""failed":0"#), "{}", proxy.report()?);

    // It comes back, and is used again.
    state.send_replace(Wire::Whole);
    let before = asked().0;
    wait_for("the nearer bridge is used again", CONNECT_LIMIT, || {
        get(&proxy, &decoy)?;
        thread::sleep(Duration::from_millis(500));
        Ok((asked().0 > before).then_some(()))
    })
}

#[test]
fn a_bridge_that_closes_is_replaced_in_time() -> Result<()> {
    isolated("a_bridge_that_closes_is_replaced_in_time", || lost(Wire::Cut))
}

#[test]
fn a_bridge_that_falls_silent_is_replaced_in_time() -> Result<()> {
    isolated("a_bridge_that_falls_silent_is_replaced_in_time", || lost(Wire::Silent))
}

#[test]
fn three_bridges_are_connected_to_and_the_fourth_when_one_fails() -> Result<()> {
    isolated("three_bridges_are_connected_to_and_the_fourth_when_one_fails", || {
        let runtime = runtime()?;
        let _inside = runtime.enter();
        let decoy = Decoy::start(Server::Nginx, Options::default())?;
        let exits: Vec<Exit> = (1..=4)
            .map(|seed| Exit::start(&decoy, seed, Behind::Exit(HashMap::new())))
            .collect::<Result<_>>()?;
        let (address, state) = runtime.block_on(wire(exits[1].address))?;
        let mut lines: Vec<String> = exits.iter().map(Exit::line).collect();
        lines[1] = exits[1].line_by(address);
        let proxy = Proxy::connected(&decoy.certificates().ca, &lines, &[])?;
        let states = |report: &str| {
            ["connected", "standby"]
                .map(|state| report.matches(&format!(r#""profile":"web","state":"{state}""#)).count())
        };
        wait_for("three", CONNECT_LIMIT, || Ok((states(&proxy.report()?) == [3, 1]).then_some(())))?;
        thread::sleep(Duration::from_secs(2));
        ensure!(states(&proxy.report()?) == [3, 1], "{}", proxy.report()?);
        state.send_replace(Wire::Cut);
        // Nobody used it: that it is lost shows when something is sent. Connecting anew is one occasion.
        let page = curl(&[&format!("http://{}/", proxy.status)])?;
        let token = page.split("name=\"token\" content=\"").nth(1).and_then(|rest| rest.split('"').next());
        let header = format!("X-Qnet-Token: {}", token.unwrap_or_default());
        curl(&["--request", "POST", "--header", &header, &format!("http://{}/reconnect", proxy.status)])?;
        wait_for("the fourth", CONNECT_LIMIT, || Ok((states(&proxy.report()?) == [3, 0]).then_some(())))
    })
}

#[test]
fn a_request_waits_for_the_only_bridge_to_come_back() -> Result<()> {
    isolated("a_request_waits_for_the_only_bridge_to_come_back", || {
        let runtime = runtime()?;
        let _inside = runtime.enter();
        let decoy = Decoy::start(Server::Nginx, Options::default())?;
        let hosts = Behind::Exit(HashMap::from([(NAME, decoy.address())]));
        let exit = Exit::start(&decoy, 1, hosts)?;
        let (address, state) = runtime.block_on(wire(exit.address))?;
        state.send_replace(Wire::Cut);
        let proxy = Proxy::start(&decoy.certificates().ca, &[exit.line_by(address)], &[])?;
        proxy.wait_for(r#""state":"offline""#)?;
        ensure!(proxy.report()?.contains("try later"), "{}", proxy.report()?);
        thread::spawn(move || {
            thread::sleep(Duration::from_secs(3));
            state.send_replace(Wire::Whole);
        });
        get(&proxy, &decoy)?;
        Ok(())
    })
}

#[test]
fn a_bridge_for_tor_alone_is_called_that() -> Result<()> {
    isolated("a_bridge_for_tor_alone_is_called_that", || {
        let runtime = runtime()?;
        let _inside = runtime.enter();
        let decoy = Decoy::start(Server::Nginx, Options::default())?;
        // tor's ORPort closes on what is no TLS hello.
        let orport = TcpListener::bind("127.0.0.1:0")?;
        let exit = Exit::start(&decoy, 1, Behind::Server(orport.local_addr()?))?;
        thread::spawn(move || orport.incoming().for_each(drop));
        let proxy = Proxy::start(&decoy.certificates().ca, &[exit.line()], &[])?;
        proxy.wait_for("is it one for tor only?")?;
        ensure!(!proxy.report()?.contains(r#""state":"connected""#));
        Ok(())
    })
}
