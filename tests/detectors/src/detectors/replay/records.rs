//! Each record up to a tunnel's first ones, the server's and those of the inner handshake too: one bit flipped, or late.

use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use qnet_tests::support::attack::refusal::{BEFORE, Deed, Refusal, refused_by, with_more};
use qnet_tests::support::attack::stage::{SOON, Stage, copy, until};
use qnet_tests::support::attack::visit::{PATH, Shown, all, made_up, settled, visit};
use qnet_tests::support::decoy::{Options, Server};
use qnet_tests::support::flow::End;
use qnet_tests::support::link::{Act, Gate, Link, Rule, Trace, Way, Which};
use qnet_tests::support::visitor::Visitor;

use super::switched::{Found, Tail, told, verdict, visited};
use crate::detector::{Role, Verdict};

/// Visits by which records are counted: a server cuts its answers into now more, now fewer.
const VISITS: usize = 3;

/// Records after the page's that are tried in each direction: the proof, the inner handshake, what follows it.
const INNER: usize = 8;

/// Of the records, every so manieth is tried in the quick part.
const SOME: usize = 6;

/// How late a record is: more than any path, less than anybody waits.
const LATE: Duration = Duration::from_secs(1);

/// How long a connection is watched after its late record has come.
const AFTERWARDS: Duration = Duration::from_secs(1);

/// Late records at once: nearly all of the time is waiting.
const WIDTH: usize = 8;

/// Payload in a tunnel that shows that it goes on.
const GOES_ON: u64 = 100_000;

/// The last byte of a record: its tag's where it is protected.
const SPOILED: Act = Act::Flip { byte: -1, bit: 1 };

/// One record, counted from 0 in its direction.
type Place = (Way, usize);

/// Flipped bits and late records, over a path with this delay each way.
pub(super) fn verdicts(server: Server, delay: Duration, full: bool) -> Result<Vec<Verdict>> {
    let stage = Stage::new(server, Options::default())?.away(delay);
    let visits: Result<Vec<[usize; 2]>> = (0..VISITS).map(|_| lengths(&stage)).collect();
    let [up, down] = visits?
        .into_iter()
        .reduce(|one, other| [0, 1].map(|way| one[way].min(other[way])))
        .context("a visit")?;
    let step = if full { 1 } else { SOME };
    let before: Vec<Place> = (0..down).map(|number| (Way::Down, number)).collect();
    let inner: Vec<Place> =
        [Way::Up, Way::Down].into_iter().flat_map(|way| places_behind(way, [up, down])).collect();
    // The client's own hello may come when it will.
    let late: Vec<Place> = (1..up).map(|number| (Way::Up, number)).chain(before.clone()).collect();
    let some = |places: &[Place]| named(places.iter().copied().step_by(step));
    let flipped = [flipped_before(&stage, &some(&before))?, flipped_inside(&stage, &some(&inner))?].concat();
    let late = late_records(&stage, &[some(&late), some(&inner)].concat())?;
    Ok([flipped, late].concat().into_iter().map(|found| verdict(found, server, delay)).collect())
}

/// How many records a visit to the decoy has up, the knock being the last, and down until that.
fn lengths(stage: &Stage) -> Result<[usize; 2]> {
    let plain = visit(stage, stage.decoy.address(), Vec::new())?.trace()?;
    // A bridge answers the knock with more than the decoy.
    let knocked = plain.up.records().last().context("the client said nothing")?.at;
    let down = plain.down.records().iter().filter(|record| record.at < knocked).count();
    Ok([plain.up.records().len(), down])
}

/// The places right behind so many records up and down: of a visit up to the knock, and to its answer.
fn places_behind(way: Way, [up, down]: [usize; 2]) -> impl Iterator<Item = Place> {
    let first = if way == Way::Up { up } else { down };
    (first..first + INNER).map(move |number| (way, number))
}

fn named(places: impl Iterator<Item = Place>) -> Vec<(String, Place)> {
    places.map(|(way, number)| (format!("record {number} {way:?}"), (way, number))).collect()
}

fn rule((way, number): Place, act: Act) -> Rule {
    Rule::new(way, Which::Nth(number), act)
}

/// The server's records before the switch: QNet's client cannot know yet who answers, and must take them as it takes the decoy's.
fn flipped_before(stage: &Stage, places: &[(String, Place)]) -> Result<Vec<Found>> {
    let decoy = stage.decoy.address();
    let faulty = Link::start(decoy, Duration::ZERO)?;
    // The client ends such a connection itself: what came at its end would not be seen.
    faulty.set_rules(vec![rule((Way::Down, 1), Act::InjectBefore(made_up(80)))]);
    let shown = |target: SocketAddr| move |place: &Place| Shown::of(stage, target, &[rule(*place, SPOILED)]);
    let found = |target| told(places, shown(target), shown(decoy), Shown::eq);
    let cases = places.len();
    Ok(vec![
        ("QNet, a server's records flipped", Role::Subject, cases, found(stage.bridge)?),
        ("a wire that adds a record, records flipped", Role::Positive, cases, found(faulty.address())?),
        ("the decoy again, its records flipped", Role::Negative, cases, found(decoy)?),
    ])
}

/// The proof and the inner handshake: what is spoiled is refused as the decoy refuses what makes no sense after its page, and as a visitor
/// refuses a spoiled download.
fn flipped_inside(stage: &Stage, places: &[(String, Place)]) -> Result<Vec<Found>> {
    let of = |way| places.iter().filter(|(_, place)| place.0 == way).cloned().collect::<Vec<_>>();
    let (up, down) = (of(Way::Up), of(Way::Down));
    let refusing = |place: &Place| {
        let trace = opened(stage, *place)?;
        let spoiled = trace.up.records().get(place.1).context("the client said less")?;
        Ok(vec![Refusal::of(&trace.down, trace.up.started() + spoiled.at)])
    };
    // How much of the client's data is unread when the decoy closes is chance.
    let decoys = |_: &Place| {
        [false, true]
            .map(|more| refused_by(stage, stage.decoy.address(), with_more(&made_up(200), more)))
            .into_iter()
            .collect()
    };
    let like = |one: &Refusal, other: &Refusal| {
        one.same_words(other) && [other.end, Some(End::Fin)].contains(&one.end)
    };
    let alike = |here: &Vec<Refusal>, there: &Vec<Refusal>| {
        here.iter().all(|one| there.iter().any(|other| like(one, other)))
    };
    let ending = |place: &Place| Ok(Tail::of(&opened(stage, *place)?.up));
    let spoiled = Deed::Act(SPOILED);
    let visitors = |_: &Place| visited(stage, &spoiled, None);
    Ok(vec![
        ("QNet, inner handshake flipped up", Role::Subject, up.len(), told(&up, refusing, decoys, alike)?),
        (
            "QNet, inner handshake flipped down",
            Role::Subject,
            down.len(),
            told(&down, ending, visitors, Tail::eq)?,
        ),
    ])
}

/// What the wire shows of a tunnel of which that record is flipped, used both ways if it comes about.
fn opened(stage: &Stage, place: Place) -> Result<Trace> {
    let link = Link::start(stage.bridge, stage.distance)?;
    link.set_rules(vec![rule(place, SPOILED)]);
    let (dialer, line) = (stage.dialer(PATH)?, stage.line(link.address())?);
    if let Ok(tunnel) = stage.block_on(dialer.dial(&line)) {
        // A tunnel that has ended meanwhile takes no more streams.
        if let (Ok(_), Ok(got)) = (stage.upload(&tunnel), stage.download(&tunnel)) {
            until("the tunnel to end", SOON, || copy(&got).broken)?;
        }
    }
    settled(&link, 0)
}

/// Whoever is late is not refused: a tunnel comes about and goes on, as a visitor gets his page. A record that is lost instead is the
/// positive control.
fn late_records(stage: &Stage, places: &[(String, Place)]) -> Result<Vec<Found>> {
    let late = Act::Delay(LATE);
    let streams: Vec<(String, Way)> =
        [Way::Up, Way::Down].map(|way| (format!("a record of data {way:?}"), way)).into();
    let qnet = [
        lost(places, |place| goes_on(stage, rule(*place, late.clone()), None))?,
        lost(&streams, |way| {
            let armed = Gate::new();
            goes_on(stage, Rule::new(*way, Which::Once(armed.clone()), late.clone()), Some((*way, armed)))
        })?,
    ];
    let dropped =
        lost(places.get(..1).unwrap_or_default(), |place| goes_on(stage, rule(*place, Act::Drop), None))?;
    let visitors = lost(places, |place| gets_the_page(stage, rule(*place, late.clone())))?;
    let cases = places.len();
    Ok(vec![
        ("QNet, late records", Role::Subject, cases + streams.len(), qnet.concat()),
        ("QNet, a lost record", Role::Positive, 1, dropped),
        ("a visitor, late records", Role::Negative, cases, visitors),
    ])
}

/// The cases that do not go well, with the reason.
fn lost<C: Sync>(cases: &[(String, C)], goes: impl Fn(&C) -> Result<()> + Sync) -> Result<Vec<String>> {
    let found = Mutex::new(Vec::new());
    all(WIDTH, cases, |(what, case)| {
        // Once more, since a busy machine is late by itself.
        if goes(case).is_err() {
            let again = goes(case).map_err(|error| format!("{what}: {error:#}"));
            found.lock().unwrap_or_else(PoisonError::into_inner).extend(again.err());
        }
        Ok(())
    })?;
    Ok(found.into_inner().unwrap_or_else(PoisonError::into_inner))
}

/// A tunnel over a wire with this rule, armed once data flows where a gate says so: data must come on, and nobody end.
fn goes_on(stage: &Stage, rule: Rule, armed: Option<(Way, Gate)>) -> Result<()> {
    let link = Link::start(stage.bridge, stage.distance)?;
    link.set_rules(vec![rule]);
    let tunnel = stage.tunnel_over(&link)?;
    let payload = match armed {
        Some((Way::Up, _)) => stage.upload(&tunnel)?,
        _ => stage.download(&tunnel)?,
    };
    until("data in the tunnel", SOON, || copy(&payload).right > BEFORE)?;
    if let Some((_, gate)) = armed {
        gate.open();
    }
    thread::sleep(LATE + AFTERWARDS);
    let so_far = copy(&payload).right;
    until("data after the late record", SOON, || copy(&payload).right > so_far + GOES_ON)?;
    ensure!(!copy(&payload).wrong, "other bytes came than were sent");
    nobody_ends(&link)
}

/// The decoy's visitor under this rule.
fn gets_the_page(stage: &Stage, rule: Rule) -> Result<()> {
    let link = Link::start(stage.decoy.address(), stage.distance)?;
    link.set_rules(vec![rule]);
    let visitor = Visitor { paths: vec![PATH.into()], ..Visitor::new(stage.decoy.name()) };
    let (address, stays) = (link.address(), 3 * LATE + 6 * stage.distance);
    thread::scope(|scope| {
        let visit = scope.spawn(move || visitor.visit(address, stays));
        thread::sleep(stays.saturating_sub(AFTERWARDS));
        nobody_ends(&link)?;
        let visit = visit.join().ok().context("panicked")??;
        ensure!(!visit.answer.is_empty(), "no page");
        Ok(())
    })
}

fn nobody_ends(link: &Link) -> Result<()> {
    let trace = link.traces().into_iter().next().context("nobody came")?;
    ensure!(trace.up.end().is_none() && trace.down.end().is_none(), "the connection ended");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_twice_is_told_and_what_fails_once_is_not() {
        let cases = named(places_behind(Way::Down, [3, 7]));
        assert_eq!(cases.first(), Some(&("record 7 Down".to_owned(), (Way::Down, 7))));
        assert_eq!(cases.len(), INNER);
        let tries = Mutex::new(vec![0; 20]);
        let found = lost(&cases, |(_, number)| {
            let mut tries = tries.lock().unwrap();
            tries[*number] += 1;
            ensure!(*number > 8 || *number == 8 && tries[*number] > 1, "no tunnel");
            Ok(())
        });
        assert_eq!(found.unwrap(), ["record 7 Down: no tunnel"]);
    }
}
