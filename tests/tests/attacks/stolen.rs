//! A censor uses what a client said, before the client or after it.

use anyhow::{Context, Result, ensure};
use qnet_tests::support::decoy::{Options, Server};
use qnet_tests::support::flow::End;
use qnet_tests::support::isolate::isolated;
use qnet_tests::support::link::{Act, Gate, Rule, Way, Which};

use qnet_tests::support::attack::stage::{SOON, Stage, newest};
use qnet_tests::support::attack::visit::{all, made_up, say, settled, visit};

/// A change of cipher spec, as a client sends it before its Finished.
const CHANGE: [u8; 6] = [20, 3, 3, 0, 1, 1];
/// A fatal alert in clear: handshake_failure.
const ALERT: [u8; 7] = [21, 3, 3, 0, 2, 2, 40];

/// What follows the stolen hello.
fn spoiled(hello: &[u8]) -> Vec<(Vec<Vec<u8>>, Option<End>)> {
    let finished = [&CHANGE[..], &made_up(53)].concat();
    vec![
        (vec![], Some(End::Fin)),
        (vec![finished.clone()], None),
        (vec![[&finished[..], &made_up(87), &made_up(200)].concat()], None),
        (vec![finished, made_up(87), made_up(200)], Some(End::Fin)),
        (vec![CHANGE.to_vec(), made_up(19)], None),
        (vec![ALERT.to_vec()], None),
        (vec![hello.to_vec()], None),
        (vec![b"GET / HTTP/1.1\r\nHost: www.example.com\r\n\r\n".to_vec()], None),
        (vec![vec![0xff; 4_000]], Some(End::Fin)),
    ]
}

/// The hello is held on its way, and used by the censor; then it goes on.
fn first(server: Server) -> Result<()> {
    let stage = Stage::new(server, Options::default())?;
    let gate = Gate::new();
    stage.front.set_rules(vec![Rule::new(Way::Up, Which::Nth(0), Act::Hold(gate.clone()))]);
    let (dialer, line) = (stage.dialer("/")?, stage.line(stage.front.address())?);
    let dial = stage.spawn(async move {
        let tunnel = dialer.dial(&line).await?;
        tunnel.established().await?;
        anyhow::Ok(tunnel)
    });
    let held = stage.front.wait("a hello", 0, SOON, |trace| {
        trace.up.records().first().is_some_and(|hello| hello.present == hello.length)
    })?;
    let hello = held.up.raw().to_vec();
    all(4, &spoiled(&hello), |(pieces, end)| {
        let pieces: Vec<Vec<u8>> = std::iter::once(hello.clone()).chain(pieces.iter().cloned()).collect();
        let (bridge, decoy) = (say(stage.bridge, &pieces, *end)?, say(stage.decoy.address(), &pieces, *end)?);
        ensure!(bridge == decoy, "{bridge:?} at the bridge, {decoy:?} at the decoy, for {pieces:?}");
        ensure!(!bridge.records.is_empty(), "no answer to the hello");
        Ok(())
    })?;
    ensure!(!dial.is_finished(), "the client did not wait");
    gate.open();
    let tunnel = stage.block_on(dial)?.context("the client whose hello was used before")?;
    let payload = stage.download(&tunnel)?;
    qnet_tests::support::attack::stage::until("a download", SOON, || {
        qnet_tests::support::attack::stage::copy(&payload).right > 100_000
    })?;
    ensure!(!qnet_tests::support::attack::stage::copy(&payload).wrong);
    Ok(())
}

#[test]
fn a_stolen_hello_is_worth_nothing_before_nginx() -> Result<()> {
    isolated("stolen::a_stolen_hello_is_worth_nothing_before_nginx", || first(Server::Nginx))
}

#[test]
fn a_stolen_hello_is_worth_nothing_before_lighttpd() -> Result<()> {
    isolated("stolen::a_stolen_hello_is_worth_nothing_before_lighttpd", || first(Server::Lighttpd))
}

/// Everything a client of a tunnel said is said again, at once or in its records.
#[test]
fn a_whole_connection_said_again_is_worth_nothing() -> Result<()> {
    isolated("stolen::a_whole_connection_said_again_is_worth_nothing", || {
        let stage = Stage::new(Server::Nginx, Options::default())?;
        let visit = visit(&stage, stage.bridge, Vec::new())?;
        ensure!(visit.outcome.is_ok(), "{}", visit.why());
        let trace = settled(&visit.link, 0)?;
        let up = &trace.up;
        ensure!(up.records().len() > 8, "no Noise message");
        let records: Vec<Vec<u8>> =
            up.records().iter().map(|record| up.record_bytes(record).to_vec()).collect();
        let (hello, rest) = records.split_first().context("no records")?;
        let flights = vec![hello.clone(), rest.concat()];
        let cases = [vec![up.raw().to_vec()], flights, records];
        all(3, &cases, |pieces| {
            let (bridge, decoy) =
                (say(stage.bridge, pieces, None)?, say(stage.decoy.address(), pieces, None)?);
            ensure!(bridge == decoy, "{bridge:?} at the bridge, {decoy:?} at the decoy");
            Ok(())
        })?;
        ensure!(newest(&stage.back)?.down.total() > 0);
        Ok(())
    })
}
