//! Each record up to a tunnel's first ones, the server's and those of the inner handshake too: one bit flipped, or late.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use qnet_tests::support::attack::refusal::{BEFORE, Deed, Refusal, refused_by, with_more};
use qnet_tests::support::attack::stage::{Payload, SOON, Stage, copy, until};
use qnet_tests::support::attack::visit::{PATH, Shown, all, made_up, settled, visit};
use qnet_tests::support::decoy::{Options, Server};
use qnet_tests::support::flow::End;
use qnet_tests::support::link::{Act, Gate, Link, Rule, Trace, Way, Which};
use qnet_tests::support::visitor::{Visit, Visitor};

use super::switched::{Found, Tail, told, verdict, visited};
use crate::detector::{Role, Verdict, part};

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

/// Records that are tried, by name.
type Places = [(String, Place)];

/// Which record is done something to.
#[derive(Clone, Copy)]
enum Target {
    /// That of this place.
    At(Place),
    /// The first of a direction after data flows in it.
    OfData(Way),
}

/// Flipped bits and late records, over a path with this delay each way; each rule with controls of its own.
pub(super) fn verdicts(server: Server, delay: Duration, full: bool) -> Vec<Verdict> {
    let found = Cases::new(server, delay, full).map(|cases| {
        vec![
            ("a server's records flipped", flipped_before(&cases.stage, &cases.before)),
            ("inner handshakes flipped up", flipped_up(&cases.stage, &cases.up)),
            ("inner handshakes flipped down", flipped_down(&cases.stage, &cases.down)),
            ("late records", late_records(&cases.stage, &cases.late)),
        ]
    });
    let found = found.unwrap_or_else(|error| vec![("each record", Err(error))]);
    parts(found, server, delay)
}

/// The verdicts of each rule, or why there are none.
fn parts(found: Vec<(&str, Result<Vec<Found>>)>, server: Server, delay: Duration) -> Vec<Verdict> {
    let of = |(what, found): (&str, Result<Vec<Found>>)| {
        let found = found.map(|found| found.into_iter().map(|found| verdict(found, server, delay)).collect());
        part(format!("{what}, {server:?}, {} ms", 2 * delay.as_millis()), found)
    };
    found.into_iter().flat_map(of).collect()
}

/// Who is attacked, and which records.
struct Cases {
    stage: Stage,
    /// The server's until the switch.
    before: Vec<(String, Place)>,
    /// The client's in the inner handshake.
    up: Vec<(String, Place)>,
    /// The server's there.
    down: Vec<(String, Place)>,
    /// All of them, but the client's hello.
    late: Vec<(String, Place)>,
}

impl Cases {
    fn new(server: Server, delay: Duration, full: bool) -> Result<Self> {
        let stage = Stage::new(server, Options::default())?.away(delay);
        let visits: Result<Vec<[usize; 2]>> = (0..VISITS).map(|_| lengths(&stage)).collect();
        let [up, down] = least(visits?).context("a visit")?;
        let step = if full { 1 } else { SOME };
        let before: Vec<Place> = (0..down).map(|number| (Way::Down, number)).collect();
        let inner: Vec<Place> =
            [Way::Up, Way::Down].into_iter().flat_map(|way| places_behind(way, [up, down])).collect();
        // The client's own hello may come when it will.
        let late: Vec<Place> = (1..up).map(|number| (Way::Up, number)).chain(before.clone()).collect();
        let some = |places: &[Place]| named(places.iter().copied().step_by(step));
        let (late, inner) = (some(&late), some(&inner));
        let late = [late, inner.clone()].concat();
        let (up, down) = inner.into_iter().partition(|(_, (way, _))| *way == Way::Up);
        Ok(Self { before: some(&before), up, down, late, stage })
    }
}

/// The least number of records in each direction.
fn least(visits: Vec<[usize; 2]>) -> Option<[usize; 2]> {
    visits.into_iter().reduce(|one, other| [0, 1].map(|way| one[way].min(other[way])))
}

/// How many records a visit to the decoy has up, the knock being the last, and down until that.
fn lengths(stage: &Stage) -> Result<[usize; 2]> {
    let plain = visit(stage, stage.decoy.address(), Vec::new())?.trace()?;
    // A bridge answers the knock with more than the decoy.
    let knocked = plain.up.records().last().context("the client said nothing")?.at;
    let down = plain.down.records().iter().filter(|record| record.at < knocked).count();
    Ok([plain.up.records().len(), down])
}

/// Whether there is a record at this place, and all of it has come: only then a rule for it has done anything.
fn met(trace: &Trace, (way, number): Place) -> bool {
    trace.flow(way).records().get(number).is_some_and(|record| record.present == record.length)
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
fn flipped_before(stage: &Stage, places: &Places) -> Result<Vec<Found>> {
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

/// The proof and the inner handshake: what is spoiled is refused as the decoy refuses what makes no sense after its page.
fn flipped_up(stage: &Stage, places: &Places) -> Result<Vec<Found>> {
    let refusing = |target: SocketAddr| {
        move |place: &Place| {
            let trace = opened(stage, target, *place)?;
            let spoiled = trace.up.records().get(place.1).context("the client said less")?;
            Ok(vec![Refusal::of(&trace.down, trace.up.started() + spoiled.at)])
        }
    };
    // How much of the client's data is unread when the decoy closes is chance.
    let decoys = |target: SocketAddr| {
        move |_: &Place| {
            [false, true]
                .map(|more| refused_by(stage, target, with_more(&made_up(200), more)))
                .into_iter()
                .collect::<Result<Vec<Refusal>>>()
        }
    };
    let like = |one: &Refusal, other: &Refusal| {
        one.same_words(other) && [other.end, Some(End::Fin)].contains(&one.end)
    };
    let alike = |here: &Vec<Refusal>, there: &Vec<Refusal>| {
        here.iter().all(|one| there.iter().any(|other| like(one, other)))
    };
    let decoy = stage.decoy.address();
    let (wire, faulty) = (Link::start(decoy, Duration::ZERO)?, Link::start(stage.bridge, Duration::ZERO)?);
    faulty.set_rules(vec![Rule::new(Way::Down, Which::AtEnd, Act::InjectBefore(made_up(80)))]);
    let (first, cases) = (places.get(..1).unwrap_or_default(), places.len());
    let qnet = told(places, refusing(stage.bridge), decoys(decoy), alike)?;
    let adding = told(first, refusing(faulty.address()), decoys(decoy), alike)?;
    let again = told(places, decoys(wire.address()), decoys(decoy), alike)?;
    Ok(vec![
        ("QNet, inner handshake flipped up", Role::Subject, cases, qnet),
        ("a wire that adds a record, inner handshake flipped up", Role::Positive, first.len(), adding),
        ("a plain wire, nonsense for a handshake flipped up", Role::Negative, cases, again),
    ])
}

/// The other way: it is refused as a visitor refuses a spoiled download.
fn flipped_down(stage: &Stage, places: &Places) -> Result<Vec<Found>> {
    let ending = |place: &Place| Ok(Tail::of(&opened(stage, stage.bridge, *place)?.up));
    let spoiled = Deed::Act(SPOILED);
    let visitors = |_: &Place| visited(stage, &spoiled, None);
    let adding = |_: &Place| visited(stage, &spoiled, Some(made_up(80)));
    let (first, cases) = (places.get(..1).unwrap_or_default(), places.len());
    let qnet = told(places, ending, visitors, Tail::eq)?;
    let adding = told(first, adding, visitors, Tail::eq)?;
    let again = told(places, visitors, visitors, Tail::eq)?;
    Ok(vec![
        ("QNet, inner handshake flipped down", Role::Subject, cases, qnet),
        ("a visitor who says more, for a handshake flipped down", Role::Positive, first.len(), adding),
        ("a visitor again, for a handshake flipped down", Role::Negative, cases, again),
    ])
}

/// What the wire shows of a tunnel, led to `target`, of which that record is flipped; it is used both ways if it comes about.
fn opened(stage: &Stage, target: SocketAddr, place: Place) -> Result<Trace> {
    let link = Link::start(target, stage.distance)?;
    link.set_rules(vec![rule(place, SPOILED)]);
    let (dialer, line) = (stage.dialer(PATH)?, stage.line(link.address())?);
    if let Ok(tunnel) = stage.block_on(dialer.dial(&line)) {
        // A tunnel that has ended meanwhile takes no more streams.
        if let (Ok(_), Ok(got)) = (stage.upload(&tunnel), stage.download(&tunnel)) {
            until("the tunnel to end", SOON, || copy(&got).broken)?;
        }
    }
    let trace = settled(&link, 0)?;
    ensure!(met(&trace, place), "there was no record {} {:?} to flip", place.1, place.0);
    Ok(trace)
}

/// Whoever is late is not refused: a tunnel comes about and goes on, as a visitor gets his page. A record that is lost instead is the
/// positive control.
fn late_records(stage: &Stage, places: &Places) -> Result<Vec<Found>> {
    let late = Act::Delay(LATE);
    let streams: Vec<(String, Way)> =
        [Way::Up, Way::Down].map(|way| (format!("a record of data {way:?}"), way)).into();
    let of_data = lost(&streams, |way| goes_on(stage, Target::OfData(*way), late.clone()))?.all_met()?;
    let qnet = lost(places, |place| goes_on(stage, Target::At(*place), late.clone()))?.all_met()?;
    let first = places.get(..1).unwrap_or_default();
    let dropped = lost(first, |place| goes_on(stage, Target::At(*place), Act::Drop))?.all_met()?;
    let theirs = existing(places, visitors_lengths(stage)?);
    let visitors = lost(&theirs, |place| gets_the_page(stage, rule(*place, late.clone()), *place))?;
    // What is late may be what makes a server cut its answer in more records or fewer.
    let visitors_cases = theirs.len() - visitors.unmet.len();
    ensure!(visitors_cases > 0, "of a visitor's records none was late: {}", visitors.unmet.join("; "));
    Ok(vec![
        ("QNet, late records", Role::Subject, places.len() + streams.len(), [qnet, of_data].concat()),
        ("QNet, a lost record", Role::Positive, first.len(), dropped),
        ("a visitor, late records", Role::Negative, visitors_cases, visitors.found),
    ])
}

/// The places of records that somebody says, or is told, who has so many up and down.
fn existing(places: &Places, [up, down]: [usize; 2]) -> Vec<(String, Place)> {
    let exists = |(_, (way, number)): &&(String, Place)| *number < if *way == Way::Up { up } else { down };
    places.iter().filter(exists).cloned().collect()
}

/// One play with a rule.
struct Played {
    /// Whether the rule has met its record: otherwise it shows nothing.
    met: bool,
    /// Whether all went well, or why not.
    well: Result<()>,
}

/// What came of cases, each of which was played twice where it did not go well.
#[derive(Default)]
struct Lost {
    /// Those that do not go well, with the reason.
    found: Vec<String>,
    /// Those whose rule met no record.
    unmet: Vec<String>,
}

impl Lost {
    /// What was found, where every rule has met its record.
    fn all_met(self) -> Result<Vec<String>> {
        ensure!(self.unmet.is_empty(), "no such record came: {}", self.unmet.join("; "));
        Ok(self.found)
    }
}

fn lost<C: Sync>(cases: &[(String, C)], plays: impl Fn(&C) -> Result<Played> + Sync) -> Result<Lost> {
    let lost = Mutex::new(Lost::default());
    all(WIDTH, cases, |(what, case)| {
        let mut played = plays(case)?;
        if !played.met || played.well.is_err() {
            // Once more, since a busy machine is late by itself.
            played = plays(case)?;
        }
        let mut lost = lost.lock().unwrap_or_else(PoisonError::into_inner);
        let why = played.well.err().map(|error| format!("{what}: {error:#}"));
        if played.met {
            lost.found.extend(why);
        } else {
            lost.unmet.push(why.unwrap_or_else(|| what.clone()));
        }
        Ok(())
    })?;
    Ok(lost.into_inner().unwrap_or_else(PoisonError::into_inner))
}

/// A tunnel over a wire on which that is done to a record: data must come on, and nobody end.
fn goes_on(stage: &Stage, target: Target, act: Act) -> Result<Played> {
    let (link, armed) = (Link::start(stage.bridge, stage.distance)?, Gate::new());
    link.set_rules(vec![match target {
        Target::At(place) => rule(place, act),
        Target::OfData(way) => Rule::new(way, Which::Once(armed.clone()), act),
    }]);
    let up = matches!(target, Target::OfData(Way::Up));
    let begun = stage.tunnel_over(&link).and_then(|tunnel| {
        let payload = if up { stage.upload(&tunnel)? } else { stage.download(&tunnel)? };
        until("data in the tunnel", SOON, || copy(&payload).right > BEFORE)?;
        Ok((tunnel, payload))
    });
    let place = match target {
        Target::At(place) => place,
        // One may be under way, which is let through.
        Target::OfData(way) => (way, first(&link).map_or(0, |trace| trace.flow(way).records().len()) + 1),
    };
    armed.open();
    if begun.is_ok() {
        thread::sleep(LATE + AFTERWARDS);
    }
    let met = first(&link).is_ok_and(|trace| met(&trace, place));
    Ok(Played { met, well: begun.and_then(|(_tunnel, payload)| comes_on(&link, &payload)) })
}

/// More data comes, the right one, and nobody ends.
fn comes_on(link: &Link, payload: &Arc<Mutex<Payload>>) -> Result<()> {
    let so_far = copy(payload).right;
    until("data after the late record", SOON, || copy(payload).right > so_far + GOES_ON)?;
    ensure!(!copy(payload).wrong, "other bytes came than were sent");
    nobody_ends(link)
}

/// The decoy's visitor under this rule, which is for the record of that place.
fn gets_the_page(stage: &Stage, rule: Rule, place: Place) -> Result<Played> {
    let (trace, ends, visit) = visitor(stage, vec![rule])?;
    let well = visit.and_then(|visit| {
        ensure!(!visit.answer.is_empty(), "no page");
        ends
    });
    Ok(Played { met: trace.is_ok_and(|trace| met(&trace, place)), well })
}

/// How many records the decoy's visitor has up and down, before he goes.
fn visitors_lengths(stage: &Stage) -> Result<[usize; 2]> {
    let visits = Mutex::new(Vec::new());
    all(VISITS, &[(); VISITS], |()| {
        let trace = visitor(stage, Vec::new())?.0?;
        let lengths = [&trace.up, &trace.down].map(|flow| flow.records().len());
        visits.lock().unwrap_or_else(PoisonError::into_inner).push(lengths);
        Ok(())
    })?;
    least(visits.into_inner().unwrap_or_else(PoisonError::into_inner)).context("a visit")
}

/// What the wire shows of the decoy's visitor a while before he goes, whether nobody has ended by then, and his visit.
fn visitor(stage: &Stage, rules: Vec<Rule>) -> Result<(Result<Trace>, Result<()>, Result<Visit>)> {
    let link = Link::start(stage.decoy.address(), stage.distance)?;
    link.set_rules(rules);
    let visitor = Visitor { paths: vec![PATH.into()], ..Visitor::new(stage.decoy.name()) };
    let (address, stays) = (link.address(), 3 * LATE + 6 * stage.distance);
    thread::scope(|scope| {
        let visit = scope.spawn(move || visitor.visit(address, stays));
        thread::sleep(stays.saturating_sub(AFTERWARDS));
        let (trace, ends) = (first(&link), nobody_ends(&link));
        Ok((trace, ends, visit.join().map_err(|_| anyhow!("panicked"))?))
    })
}

fn first(link: &Link) -> Result<Trace> {
    link.traces().into_iter().next().context("nobody came")
}

fn nobody_ends(link: &Link) -> Result<()> {
    let trace = first(link)?;
    ensure!(trace.up.end().is_none() && trace.down.end().is_none(), "the connection ended");
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn what_fails_twice_is_told_and_what_fails_once_is_not() {
        let cases = named(places_behind(Way::Down, [3, 7]));
        assert_eq!(cases.first(), Some(&("record 7 Down".to_owned(), (Way::Down, 7))));
        assert_eq!(cases.len(), INNER);
        let tries = Mutex::new(vec![0; 20]);
        let lost = lost(&cases, |(_, number)| {
            let mut tries = tries.lock().unwrap();
            tries[*number] += 1;
            let well = *number > 8 || *number == 8 && tries[*number] > 1;
            // The last two have no such record, of which one comes in the second play.
            let met = *number < 13 || *number == 13 && tries[*number] > 1;
            Ok(Played { met, well: if well { Ok(()) } else { Err(anyhow!("no tunnel")) } })
        });
        let lost = lost.unwrap();
        assert_eq!(
            (&lost.found[..], &lost.unmet[..]),
            (&["record 7 Down: no tunnel".to_owned()][..], &["record 14 Down".to_owned()][..])
        );
        assert!(lost.all_met().is_err());
        assert_eq!(Lost { found: vec!["one".into()], unmet: Vec::new() }.all_met().unwrap(), ["one"]);
    }

    #[test]
    fn a_rule_has_met_a_record_that_has_come_whole() {
        let mut trace = Trace::new(Instant::now());
        trace.up.push(&[23, 3, 3, 0, 2, 1, 2, 23, 3, 3, 0, 2, 1], Instant::now());
        assert!(met(&trace, (Way::Up, 0)));
        assert!(!met(&trace, (Way::Up, 1)), "a byte is missing");
        trace.up.push(&[2], Instant::now());
        assert!(met(&trace, (Way::Up, 1)) && !met(&trace, (Way::Up, 2)) && !met(&trace, (Way::Down, 0)));
    }

    #[test]
    fn a_visitor_is_late_with_what_he_has() {
        let all = named([(Way::Up, 1), (Way::Up, 4), (Way::Down, 4), (Way::Down, 9)].into_iter());
        let lengths = least(vec![[4, 9], [5, 8]]).unwrap();
        let names: Vec<_> = existing(&all, lengths).into_iter().map(|(name, _)| name).collect();
        assert_eq!((lengths, &names[..]), ([4, 8], &["record 1 Up".to_owned(), "record 4 Down".into()][..]));
    }

    #[test]
    fn each_rule_needs_controls_of_its_own() {
        let found = |role| ("who", role, 1, Vec::new());
        let well = || vec![found(Role::Subject), found(Role::Positive), found(Role::Negative)];
        let told = |second: Result<Vec<Found>>| {
            let verdicts = parts(vec![("up", Ok(well())), ("down", second)], Server::Nginx, Duration::ZERO);
            let unjudged = verdicts.into_iter().filter(|one| one.role == Role::Unjudged);
            unjudged.map(|one| (one.what, one.note)).collect::<Vec<_>>()
        };
        let down = |note: &str| vec![("down, Nginx, 0 ms".to_owned(), note.to_owned())];
        assert_eq!(told(Ok(well())), []);
        assert_eq!(told(Ok(well()[..2].to_vec())), down("no negative control"), "up has one");
        assert_eq!(told(Err(anyhow!("no bridge"))), down("no bridge"));
    }
}
