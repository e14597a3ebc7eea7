//! Records changed, dropped, doubled, swapped, injected and cut while a tunnel carries data.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use qnet_tests::support::decoy::{Options, Server};
use qnet_tests::support::flow::End;
use qnet_tests::support::isolate::isolated;
use qnet_tests::support::link::{Act, Editor, Gate, Link, Rule, Trace, Way, Which};

use crate::stage::{ALERT, SOON, Seen, Stage, copy, seen, until};
use crate::visit::{GOODBYE, all, made_up, settled, visit};

/// Payload that flows before the censor begins.
const BEFORE: u64 = 300_000;

/// What the censor does to one record.
#[derive(Clone)]
enum Deed {
    Act(Act),
    /// A copy of an earlier record arrives before it.
    Old,
}

fn deeds() -> Vec<(String, Deed)> {
    let flips: [(isize, u8); 12] =
        [(0, 0), (0, 5), (1, 0), (2, 1), (3, 0), (3, 6), (4, 0), (5, 3), (9, 7), (40, 0), (-16, 0), (-1, 7)];
    let garbage: Vec<u8> = (0..100u8).map(|n| n.wrapping_mul(37) ^ 0x5a).collect();
    let acts = [
        ("dropped", Act::Drop),
        ("doubled", Act::Double),
        ("swapped", Act::Swap),
        ("garbage injected", Act::InjectBefore(garbage)),
        ("a made-up record injected", Act::InjectAfter(made_up(80))),
        ("an alert injected", Act::InjectBefore(vec![21, 3, 3, 0, 2, 2, 40])),
        ("a sealed alert made up", Act::InjectBefore(made_up(19))),
        ("an empty record injected", Act::InjectBefore(vec![23, 3, 3, 0, 0])),
        ("a change of cipher spec injected", Act::InjectBefore(vec![20, 3, 3, 0, 1, 1])),
    ];
    let flips = flips
        .map(|(byte, bit)| (format!("bit {bit} of byte {byte} flipped"), Deed::Act(Act::Flip { byte, bit })));
    flips
        .into_iter()
        .chain(acts.map(|(name, act)| (name.to_owned(), Deed::Act(act))))
        .chain([("an old record again".to_owned(), Deed::Old)])
        .collect()
}

impl Deed {
    /// The rules that do it to the first record after `armed` opens.
    fn rules(&self, way: Way, armed: &Gate) -> Vec<Rule> {
        let once = Which::Once(armed.clone());
        match self {
            Self::Act(act) => vec![Rule::new(way, once, act.clone())],
            Self::Old => {
                let old: Arc<Mutex<Vec<u8>>> = Arc::default();
                let (keep, kept) = (Arc::clone(&old), old);
                let remember = Editor::new(move |record| {
                    *keep.lock().unwrap_or_else(PoisonError::into_inner) = record.clone();
                });
                let repeat = Editor::new(move |record| {
                    let old = kept.lock().unwrap_or_else(PoisonError::into_inner).clone();
                    record.splice(..0, old);
                });
                // In this order: at the record in question the copy is taken from the one before it.
                vec![
                    Rule::new(way, once, Act::Edit(repeat)),
                    Rule::new(way, Which::From(8), Act::Edit(remember)),
                ]
            }
        }
    }
}

/// A tunnel over a wire of its own, with data in one direction, and what is done to it once data flows.
fn run(stage: &Stage, way: Way, deed: &Deed) -> Result<(Trace, crate::stage::Payload)> {
    let link = Link::start(stage.bridge, Duration::from_millis(3))?;
    let armed = Gate::new();
    link.set_rules(deed.rules(way, &armed));
    let tunnel = stage.tunnel_over(&link)?;
    let payload = match way {
        Way::Up => stage.upload(&tunnel)?,
        Way::Down => stage.download(&tunnel)?,
    };
    until("data in the tunnel", SOON, || copy(&payload).right > BEFORE)?;
    armed.open();
    // The bridge keeps the session, and its end of the stream with it; the client's session has no other connection.
    until("the session to end", SOON, || !tunnel.is_open())?;
    if way == Way::Down {
        until("the stream to break", SOON, || copy(&payload).broken || copy(&payload).ended)?;
    }
    let trace = settled(&link, 0)?;
    Ok((trace, copy(&payload)))
}

/// What the decoy says to the same when its page is loaded and records without sense follow.
fn objection(stage: &Stage, deed: &Deed) -> Result<Seen> {
    let visit = visit(stage, stage.decoy.address(), Vec::new())?;
    let before = visit.trace()?.down.records().len();
    let mut bytes = made_up(200);
    match deed {
        Deed::Act(Act::Flip { byte, bit }) if *byte < 5 && *byte >= 0 => {
            if let Some(byte) = bytes.get_mut(byte.unsigned_abs()) {
                *byte ^= 1 << bit;
            }
        }
        Deed::Act(Act::InjectBefore(first)) => bytes = [first.clone(), bytes].concat(),
        Deed::Act(_) | Deed::Old => {}
    }
    visit.link.inject(0, Way::Up, [bytes, made_up(90).repeat(500)].concat(), None);
    Ok(seen(&settled(&visit.link, 0)?.down, before))
}

/// Up: the decoy objects as it does on its own, and what had come through before is right.
fn tampered_up(server: Server) -> Result<()> {
    let stage = Stage::new(server, Options::default())?;
    all(3, &deeds(), |(what, deed)| {
        let (trace, payload) = run(&stage, Way::Up, deed).with_context(|| what.clone())?;
        ensure!(!payload.wrong && !payload.ended && payload.right >= BEFORE, "{what}: {payload:?}");
        let (up, down, there) = (seen(&trace.up, 0), seen(&trace.down, 0), objection(&stage, deed)?);
        ensure!(there.records == [(23, ALERT)] && there.end.is_some(), "{what}: {there:?}");
        ensure!(
            down.content().alerts == 1 && down.records.last() == Some(&(23, ALERT)) && down.end.is_some(),
            "{what}: {down:?}, and the decoy alone: {there:?}"
        );
        ensure!(up.end.is_some(), "{what}: {up:?}");
        Ok(())
    })
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
            let (trace, payload) = run(&stage, Way::Down, deed).with_context(|| what.clone())?;
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
            let (trace, payload) = run(&stage, way, &deed).with_context(|| what.clone())?;
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
            let (dialer, line) = (stage.dialer(crate::visit::PATH)?, stage.line(link.address())?);
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
