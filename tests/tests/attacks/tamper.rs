//! Records changed, dropped, doubled, swapped, injected and cut while a tunnel carries data.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use qnet_tests::support::attack::refusal::{
    BEFORE, Deed, Refusal, deeds, nonsense, objection, refused_by, refused_by_bridge, run,
};
use qnet_tests::support::attack::stage::{ALERT, SOON, Stage, copy, seen, until};
use qnet_tests::support::attack::visit::{GOODBYE, PATH, TRIES, all, settled, visit};
use qnet_tests::support::decoy::{Options, Server};
use qnet_tests::support::flow::End;
use qnet_tests::support::isolate::isolated;
use qnet_tests::support::link::{Act, Link, Rule, Way, Which};

/// A silent tunnel refuses what makes no sense with the decoy's own records, end and times. An alert may be lost to the reset that
/// follows it, at either: so all that the bridge shows, in two tries or more, must be among what the decoy shows; but for one of
/// [`TRIES`], since a loaded machine is late at times.
fn refused_alike(server: Server) -> Result<()> {
    let stage = Stage::new(server, Options::default())?;
    let cases = nonsense();
    all(3, &cases, |(what, bytes)| {
        let (mut here, mut there) = (Vec::new(), Vec::new());
        for number in 1..=TRIES {
            here.push(refused_by_bridge(&stage, bytes.clone()).with_context(|| what.clone())?);
            there.push(
                refused_by(&stage, stage.decoy.address(), bytes.clone()).with_context(|| what.clone())?,
            );
            let strange = |refusal: &&Refusal| !there.iter().any(|theirs| refusal.same(theirs));
            let allowed = usize::from(number == TRIES);
            if number > 1 && here.iter().filter(strange).count() <= allowed {
                return Ok(());
            }
        }
        bail!("{what}: {here:?} at the bridge, {there:?} at the decoy")
    })
}

#[test]
fn a_silent_tunnel_refuses_nonsense_as_nginx() -> Result<()> {
    isolated("tamper::a_silent_tunnel_refuses_nonsense_as_nginx", || refused_alike(Server::Nginx))
}

#[test]
fn a_silent_tunnel_refuses_nonsense_as_lighttpd() -> Result<()> {
    isolated("tamper::a_silent_tunnel_refuses_nonsense_as_lighttpd", || refused_alike(Server::Lighttpd))
}

/// Up: the decoy objects as it does on its own, and what had come through before is right. It closes as it does on its own where
/// much is unread, or in order: how much of the client's data is unread then is chance. When it objects is compared as well, and
/// a loaded machine is late at times: more tries must be alike than not.
fn tampered_up(server: Server) -> Result<()> {
    let stage = Stage::new(server, Options::default())?;
    all(3, &deeds(), |(what, deed)| {
        let mut strange = Vec::new();
        for number in 1..=TRIES {
            let (here, there) = objected_up(&stage, deed).with_context(|| what.clone())?;
            if !here.same_words(&there) || ![there.end, Some(End::Fin)].contains(&here.end) {
                strange.push((here, there));
            }
            if 2 * strange.len() < number {
                return Ok(());
            }
        }
        bail!("{what}: the bridge's and the decoy's own, where they differ: {strange:?}")
    })
}

/// How the bridge refuses what is tampered with in a tunnel, and how the decoy does.
fn objected_up(stage: &Stage, deed: &Deed) -> Result<(Refusal, Refusal)> {
    let (trace, payload, begun) = run(stage, Way::Up, deed)?;
    ensure!(!payload.wrong && !payload.ended && payload.right >= BEFORE, "{payload:?}");
    let down = seen(&trace.down, 0);
    ensure!(down.content().alerts == 1, "{down:?}");
    ensure!(trace.up.end().is_some(), "{:?}", seen(&trace.up, 0));
    let there = objection(stage, stage.decoy.address(), deed)?;
    ensure!(there.records == [(23, ALERT)] && there.end.is_some(), "{there:?}");
    Ok((Refusal::of(&trace.down, begun), there))
}

#[test]
fn what_is_tampered_with_on_its_way_up_is_nginxs_to_refuse() -> Result<()> {
    isolated("tamper::what_is_tampered_with_on_its_way_up_is_nginxs_to_refuse", || tampered_up(Server::Nginx))
}

#[test]
fn what_is_tampered_with_on_its_way_up_is_lighttpds_to_refuse() -> Result<()> {
    isolated("tamper::what_is_tampered_with_on_its_way_up_is_lighttpds_to_refuse", || {
        tampered_up(Server::Lighttpd)
    })
}

/// Down: the client sends an alert and closes, as Chrome does, and what its user got before is right.
#[test]
fn what_is_tampered_with_on_its_way_down_is_refused_as_chrome_refuses_it() -> Result<()> {
    isolated("tamper::what_is_tampered_with_on_its_way_down_is_refused_as_chrome_refuses_it", || {
        let stage = Stage::new(Server::Nginx, Options::default())?;
        all(3, &deeds(), |(what, deed)| {
            let (trace, payload, _) = run(&stage, Way::Down, deed).with_context(|| what.clone())?;
            ensure!(!payload.wrong && !payload.ended && payload.right >= BEFORE, "{what}: {payload:?}");
            let up = seen(&trace.up, 0);
            ensure!(
                up.content().alerts == 1 && up.records.last() == Some(&(23, ALERT)) && up.end.is_some(),
                "{what}: {up:?}"
            );
            Ok(())
        })
    })
}

/// A direction or the connection ends in the middle of a record: the far side learns of it as it is.
#[test]
fn what_is_cut_ends_as_it_was_cut() -> Result<()> {
    isolated("tamper::what_is_cut_ends_as_it_was_cut", || {
        let stage = Stage::new(Server::Nginx, Options::default())?;
        let cases: Vec<(Way, usize, End)> = [Way::Up, Way::Down]
            .into_iter()
            .flat_map(|way| [0, 3, 5, 60].map(|keep| (way, keep)))
            .flat_map(|(way, keep)| [End::Fin, End::Rst].map(|end| (way, keep, end)))
            .collect();
        all(3, &cases, |&(way, keep, end)| {
            let what = format!("{way:?} cut at {keep} with {end:?}");
            let deed = Deed::Act(Act::Cut { keep, end });
            let (trace, payload, _) = run(&stage, way, &deed).with_context(|| what.clone())?;
            ensure!(!payload.wrong && !payload.ended, "{what}: {payload:?}");
            ensure!(payload.broken == (way == Way::Down), "{what}: {payload:?}");
            let back = trace.flow(if way == Way::Up { Way::Down } else { Way::Up });
            ensure!(back.end().is_some(), "{what}: the far side went on");
            ensure!(seen(back, 0).content().alerts == 0, "{what}: {:?}", seen(back, 0));
            Ok(())
        })
    })
}

/// Every single record after the page's, spoiled in turn: proof, inner handshake, HANDOVER, and a little after.
#[test]
fn every_record_of_the_inner_handshake_may_be_spoiled() -> Result<()> {
    isolated("tamper::every_record_of_the_inner_handshake_may_be_spoiled", || {
        let stage = Stage::new(Server::Nginx, Options::default())?;
        let plain = visit(&stage, stage.decoy.address(), Vec::new())?.trace()?;
        let (up, down) = (plain.up.records().len(), plain.down.records().len());
        let cases: Vec<(Way, usize)> =
            (up..up + 9).map(|n| (Way::Up, n)).chain((down - 1..down + 8).map(|n| (Way::Down, n))).collect();
        all(3, &cases, |&(way, number)| {
            let what = format!("record {number} {way:?} ({up} up and {down} down in a visit)");
            let link = Link::start(stage.bridge, Duration::from_millis(3))?;
            link.set_rules(vec![Rule::new(way, Which::Nth(number), Act::Flip { byte: -3, bit: 1 })]);
            let (dialer, line) = (stage.dialer(PATH)?, stage.line(link.address())?);
            if let Ok(tunnel) = stage.block_on(dialer.dial(&line)) {
                let (sent, got) = (stage.upload(&tunnel)?, stage.download(&tunnel)?);
                until("the tunnel to end", SOON, || copy(&got).broken)?;
                for payload in [copy(&sent), copy(&got)] {
                    ensure!(!payload.wrong && !payload.ended, "{what}: {payload:?}");
                }
            }
            let trace = settled(&link, 0)?;
            let (up, down) = (seen(&trace.up, 1), seen(&trace.down, 0));
            let (refused, last) = match way {
                Way::Up => (&down, GOODBYE),
                Way::Down => (&up, ALERT),
            };
            ensure!(
                refused.content().alerts == 1 && refused.records.last() == Some(&(23, ALERT)),
                "{what}: {refused:?}"
            );
            // Where data follows what was spoiled, the decoy's reset may be faster than the client's answer to its alert.
            ensure!(
                up.records.last() == Some(&(23, last))
                    || [up.end, down.end].contains(&Some(End::Rst)) && way == Way::Up,
                "{what}: up {up:?}, down {down:?}"
            );
            ensure!(up.end.is_some() && down.end.is_some(), "{what}: up {up:?}, down {down:?}");
            Ok(())
        })
    })
}
