//! Records changed, dropped, doubled, swapped, injected and cut while a tunnel carries data.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use qnet_tests::support::decoy::{Options, Server};
use qnet_tests::support::flow::{End, Flow, Record};
use qnet_tests::support::isolate::isolated;
use qnet_tests::support::link::{Act, Editor, Gate, Link, Rule, Trace, Way, Which};

use crate::stage::{ALERT, SOON, Seen, Stage, copy, seen, until};
use crate::visit::{DISTANCE, GOODBYE, TRIES, all, made_up, settled, visit};

/// Payload that flows before the censor begins.
const BEFORE: u64 = 300_000;

/// By how much the same may come sooner or later: twice the time after which the wire looks for what is injected. (Measured: 4 to
/// 70 ms from there to the alert, at bridge and decoy alike, and then less than a millisecond or two to the end.)
const NEAR: Duration = Duration::from_millis(100);

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

/// A tunnel over a wire of its own, with data in one direction, and what is done to it once data flows; and since when.
fn run(stage: &Stage, way: Way, deed: &Deed) -> Result<(Trace, crate::stage::Payload, Instant)> {
    let link = Link::start(stage.bridge, DISTANCE)?;
    let armed = Gate::new();
    link.set_rules(deed.rules(way, &armed));
    let tunnel = stage.tunnel_over(&link)?;
    let payload = match way {
        Way::Up => stage.upload(&tunnel)?,
        Way::Down => stage.download(&tunnel)?,
    };
    until("data in the tunnel", SOON, || copy(&payload).right > BEFORE)?;
    armed.open();
    let begun = Instant::now();
    // The bridge keeps the session, and its end of the stream with it; the client's session has no other connection.
    until("the session to end", SOON, || !tunnel.is_open())?;
    if way == Way::Down {
        until("the stream to break", SOON, || copy(&payload).broken || copy(&payload).ended)?;
    }
    let trace = settled(&link, 0)?;
    Ok((trace, copy(&payload), begun))
}

/// How somebody refuses what he cannot read.
#[derive(Clone, Debug)]
struct Refusal {
    /// The records from the alert on.
    records: Vec<(u8, usize)>,
    end: Option<End>,
    /// From the first of it to the alert.
    alert_after: Option<Duration>,
    /// From there to the end.
    end_after: Option<Duration>,
}

impl Refusal {
    /// What `down` shows of it after `begun`.
    fn of(down: &Flow, begun: Instant) -> Self {
        let since = begun.saturating_duration_since(down.started());
        let is_alert = |record: &&Record| record.at >= since && (record.kind, record.length) == (23, ALERT);
        let number = down.records().iter().position(|record| is_alert(&record));
        let alert = number.and_then(|number| down.records().get(number)).map(|record| record.at);
        let Seen { records, end } = seen(down, number.unwrap_or(down.records().len()));
        Self {
            records,
            end,
            alert_after: alert.map(|at| at.saturating_sub(since)),
            end_after: alert.zip(down.end()).map(|(alert, (_, at))| at.saturating_sub(alert)),
        }
    }

    /// Whether an observer cannot tell the two apart but for how they end.
    fn same_words(&self, other: &Self) -> bool {
        let near = |a: Option<Duration>, b: Option<Duration>| match (a, b) {
            (Some(a), Some(b)) => a.abs_diff(b) <= NEAR,
            (a, b) => a == b,
        };
        self.records == other.records
            && near(self.alert_after, other.alert_after)
            && near(self.end_after, other.end_after)
    }

    fn same(&self, other: &Self) -> bool {
        self.same_words(other) && self.end == other.end
    }
}

/// What arrives without sense, alone or with much behind it: then a server closes before it has read all, which makes an RST of
/// its FIN.
fn with_more(bytes: &[u8], more: bool) -> Vec<u8> {
    if more { [bytes, &made_up(90).repeat(500)].concat() } else { bytes.to_vec() }
}

/// How the decoy itself refuses `bytes` on a connection whose page is loaded.
fn refused_by_decoy(stage: &Stage, bytes: Vec<u8>) -> Result<Refusal> {
    let visit = visit(stage, stage.decoy.address(), Vec::new())?;
    visit.trace()?;
    refused(&visit.link, bytes)
}

/// How they are refused on a tunnel in which nothing goes on.
fn refused_by_bridge(stage: &Stage, bytes: Vec<u8>) -> Result<Refusal> {
    let link = Link::start(stage.bridge, DISTANCE)?;
    let tunnel = stage.tunnel_over(&link)?;
    settled(&link, 0)?;
    let refusal = refused(&link, bytes);
    drop(tunnel);
    refusal
}

fn refused(link: &Link, bytes: Vec<u8>) -> Result<Refusal> {
    let begun = Instant::now();
    link.inject(0, Way::Up, bytes, None);
    Ok(Refusal::of(&settled(link, 0)?.down, begun))
}

/// A silent tunnel refuses what makes no sense with the decoy's own records, end and times. An alert may be lost to the reset that
/// follows it, at either: so all that the bridge shows, in two tries or more, must be among what the decoy shows; but for one of
/// [`TRIES`], since a loaded machine is late at times.
fn refused_alike(server: Server) -> Result<()> {
    let stage = Stage::new(server, Options::default())?;
    let garbage: Vec<u8> = (0..100u8).map(|n| n.wrapping_mul(37) ^ 0x5a).collect();
    let nonsense = [
        ("a made-up record", made_up(80)),
        ("a made-up alert", made_up(19)),
        ("garbage", garbage),
        ("an alert in clear", vec![21, 3, 3, 0, 2, 2, 40]),
        ("an empty record", vec![23, 3, 3, 0, 0]),
    ];
    let cases: Vec<(String, Vec<u8>)> = nonsense
        .iter()
        .flat_map(|(name, bytes)| [false, true].map(|more| (name, with_more(bytes, more), more)))
        .map(|(name, bytes, more)| {
            (if more { format!("{name} and more") } else { (*name).to_owned() }, bytes)
        })
        .collect();
    all(3, &cases, |(what, bytes)| {
        let (mut here, mut there) = (Vec::new(), Vec::new());
        for number in 1..=TRIES {
            here.push(refused_by_bridge(&stage, bytes.clone()).with_context(|| what.clone())?);
            there.push(refused_by_decoy(&stage, bytes.clone()).with_context(|| what.clone())?);
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

/// What the decoy says to the same when its page is loaded and records without sense follow.
fn objection(stage: &Stage, deed: &Deed) -> Result<Refusal> {
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
    refused_by_decoy(stage, with_more(&bytes, true))
}

/// Up: the decoy objects as it does on its own, and what had come through before is right. It closes as it does on its own where
/// much is unread, or in order: how much of the client's data is unread then is chance.
fn tampered_up(server: Server) -> Result<()> {
    let stage = Stage::new(server, Options::default())?;
    all(3, &deeds(), |(what, deed)| {
        let (trace, payload, begun) = run(&stage, Way::Up, deed).with_context(|| what.clone())?;
        ensure!(!payload.wrong && !payload.ended && payload.right >= BEFORE, "{what}: {payload:?}");
        let (here, there) = (Refusal::of(&trace.down, begun), objection(&stage, deed)?);
        ensure!(there.records == [(23, ALERT)] && there.end.is_some(), "{what}: {there:?}");
        ensure!(
            here.same_words(&there) && [there.end, Some(End::Fin)].contains(&here.end),
            "{what}: {here:?}, and the decoy alone: {there:?}"
        );
        ensure!(seen(&trace.down, 0).content().alerts == 1, "{what}: {:?}", seen(&trace.down, 0));
        ensure!(trace.up.end().is_some(), "{what}: {:?}", seen(&trace.up, 0));
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
