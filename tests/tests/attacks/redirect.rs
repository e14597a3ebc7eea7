//! The client's flow is led to the true decoy.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use qnet_proto::Ended;
use qnet_tests::support::attack::held::knock;
use qnet_tests::support::decoy::{Options, Server};
use qnet_tests::support::flow::End;
use qnet_tests::support::isolate::isolated;
use qnet_tests::support::link::{Act, Rule, Way, Which};
use qnet_transport::client::DialError;

use qnet_tests::support::attack::stage::{SOON, Stage, both_ended, newest, seen};
use qnet_tests::support::attack::visit::visit;

/// The client tells its user, sends nothing that a browser whose page is loaded would not, and waits for the decoy's end.
fn led_to(server: Server) -> Result<()> {
    let idle = Duration::from_secs(5);
    let stage = Stage::new(server, Options { idle, head: idle, ..Options::default() })?;
    let (dialer, line) = (stage.dialer("/menu.js")?, stage.line(stage.front.address())?);
    let tunnel = stage.tunnel()?;
    let tunnelled = newest(&stage.front)?;
    drop(tunnel);
    stage.front.set_target(stage.decoy.address());
    let outcome = stage.block_on(dialer.dial(&line));
    ensure!(matches!(outcome, Err(DialError::Tunnel(Ended::NoProof))), "a tunnel, or another reason");
    let told = newest(&stage.front)?;
    ensure!(told.up.end().is_none() && told.down.end().is_none(), "the connection did not go on");
    // Hellos differ in length, as Chrome's do.
    let knocked = seen(&told.up, 1).records;
    ensure!(
        seen(&tunnelled.up, 1).records.starts_with(&knocked),
        "not the same visit: {knocked:?} {:?}",
        tunnelled.up.records()
    );
    let trace = both_ended(&stage.front, 1, idle + SOON)?;
    ensure!(seen(&trace.up, 1).records == knocked, "records after the load: {:?}", trace.up.records());
    let (Some((End::Fin, up)), Some((End::Fin, _))) = (trace.up.end(), trace.down.end()) else {
        bail!("ends: {:?} {:?}", trace.up.end(), trace.down.end());
    };
    // The decoy's goodbye comes first. lighttpd leaves the first FIN to the browser, which answers its GOAWAY before or after
    // lighttpd's alert.
    let goodbye =
        trace.down.records().get(told.down.records().len()).context("the decoy said no goodbye")?.at;
    ensure!(up >= goodbye, "the client was first");
    let idled = goodbye.saturating_sub(told.down.last().unwrap_or_default());
    ensure!(idled + Duration::from_millis(1_500) > idle, "the decoy ended it after {idled:?}");
    Ok(())
}

#[test]
fn a_client_led_to_nginx_is_a_visitor() -> Result<()> {
    isolated("redirect::a_client_led_to_nginx_is_a_visitor", || led_to(Server::Nginx))
}

#[test]
fn a_client_led_to_lighttpd_is_a_visitor() -> Result<()> {
    isolated("redirect::a_client_led_to_lighttpd_is_a_visitor", || led_to(Server::Lighttpd))
}

/// The knock never arrives, so nobody answers it: the user hears of it in time, and the page stays open as a browser's.
#[test]
fn a_knock_without_an_answer_leaves_the_page_open() -> Result<()> {
    isolated("redirect::a_knock_without_an_answer_leaves_the_page_open", || {
        let stage = Stage::new(Server::Nginx, Options::default())?;
        let (number, _) = knock(&stage)?;
        let lost = visit(&stage, stage.bridge, vec![Rule::new(Way::Up, Which::Nth(number), Act::Drop)])?;
        ensure!(matches!(lost.outcome, Err(DialError::TimedOut)), "{}", lost.why());
        let trace = lost.trace()?;
        ensure!(trace.up.records().len() == number + 1, "{:?}", seen(&trace.up, 0));
        ensure!(trace.up.end().is_none() && trace.down.end().is_none(), "{:?}", trace.up.end());
        Ok(())
    })
}
