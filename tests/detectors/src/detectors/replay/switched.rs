//! Records changed, dropped, doubled, swapped and injected in a tunnel, once what it carries is QNet's own.

use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use qnet_tests::support::attack::refusal::{
    Deed, Refusal, deeds, nonsense, objection, refused_by, refused_by_bridge, run,
};
use qnet_tests::support::attack::stage::{SOON, Stage, seen};
use qnet_tests::support::attack::visit::{TRIES, all, made_up, settled};
use qnet_tests::support::decoy::{Options, Server};
use qnet_tests::support::flow::{End, Flow};
use qnet_tests::support::link::{Act, Gate, Link, Rule, Trace, Way, Which};
use qnet_tests::support::visitor::Visitor;

use crate::detector::{Figure, Role, Verdict};

/// Of the ways to change a record, every so manieth is tried in the quick part.
const SOME: usize = 5;

/// Plays at most, and in how many of them what is shown must be none of what the decoy shows: an alert may be lost to the reset that
/// follows it, and a loaded machine is late at times. What stands the first is played on until the second: twice as many of the decoy's
/// plays show more of what differs among themselves.
pub(super) const STAGES: [(usize, usize); 2] = [(TRIES, TRIES - 1), (12, 10)];

/// Cases at once: each has times that are compared.
const WIDTH: usize = 3;

/// How long a visitor's request is on its way, so that the first record of the answer, not one of the server's own before it, is changed.
const ASKS_LATE: Duration = Duration::from_millis(300);

/// A tunnel in which nothing goes on, an upload, and a download, with their controls.
pub(super) fn verdicts(server: Server, delay: Duration, full: bool) -> Result<Vec<Verdict>> {
    let stage = Stage::new(server, Options::default())?.away(delay);
    let step = if full { 1 } else { SOME };
    let nonsense: Vec<_> = nonsense().into_iter().step_by(step).collect();
    let deeds: Vec<_> = deeds().into_iter().step_by(step).collect();
    let all = [silent(&stage, &nonsense)?, busy(&stage, &deeds)?].concat();
    Ok(all.into_iter().map(|found| verdict(found, server, delay)).collect())
}

pub(super) fn verdict((what, role, cases, found): Found, server: Server, delay: Duration) -> Verdict {
    Verdict {
        what: format!("{what}, {server:?}, {} ms", 2 * delay.as_millis()),
        role,
        flagged: !found.is_empty(),
        figures: vec![Figure::new("cases", cases as f64), Figure::new("that tell apart", found.len() as f64)],
        note: found.into_iter().take(3).collect::<Vec<_>>().join("; "),
    }
}

/// Who was judged and why, in how many cases, and what was found.
pub(super) type Found = (&'static str, Role, usize, Vec<String>);

/// What makes no sense, where nothing goes on: in a tunnel, and after a page.
fn silent(stage: &Stage, nonsense: &[(String, Vec<u8>)]) -> Result<Vec<Found>> {
    let decoy = stage.decoy.address();
    let (wire, faulty) = (Link::start(decoy, Duration::ZERO)?, Link::start(decoy, Duration::ZERO)?);
    faulty.set_rules(vec![Rule::new(Way::Down, Which::AtEnd, Act::InjectBefore(made_up(80)))]);
    let said_to = |target: SocketAddr| move |bytes: &Vec<u8>| refused_by(stage, target, bytes.clone());
    let found = |target| told(nonsense, said_to(target), said_to(decoy), Refusal::same);
    let bridge =
        told(nonsense, |bytes| refused_by_bridge(stage, bytes.clone()), said_to(decoy), Refusal::same)?;
    let cases = nonsense.len();
    Ok(vec![
        ("QNet, nonsense in a silent tunnel", Role::Subject, cases, bridge),
        ("a wire that adds a record to a refusal", Role::Positive, cases, found(faulty.address())?),
        ("a plain wire, nonsense after a page", Role::Negative, cases, found(wire.address())?),
    ])
}

/// What is done to records of a tunnel with data in it, and to those of a visitor's download.
fn busy(stage: &Stage, deeds: &[(String, Deed)]) -> Result<Vec<Found>> {
    let uploading = |deed: &Deed| {
        let (trace, _, begun) = run(stage, Way::Up, deed)?;
        Ok(Refusal::of(&trace.down, begun))
    };
    let decoy = stage.decoy.address();
    let (wire, faulty) = (Link::start(decoy, Duration::ZERO)?, Link::start(decoy, Duration::ZERO)?);
    faulty.set_rules(vec![Rule::new(Way::Down, Which::AtEnd, Act::InjectBefore(made_up(80)))]);
    let objection_of = |target: SocketAddr| move |deed: &Deed| objection(stage, target, deed);
    // How much of the client's data is unread when it closes is chance.
    let alike = |here: &Refusal, there: &Refusal| {
        here.same_words(there) && [there.end, Some(End::Fin)].contains(&here.end)
    };
    let objecting = |target| told(deeds, objection_of(target), objection_of(decoy), alike);
    let downloading = |deed: &Deed| Ok(Tail::of(&run(stage, Way::Down, deed)?.0.up));
    let visiting = |deed: &Deed| visited(stage, deed, None);
    let adding = |deed: &Deed| visited(stage, deed, Some(made_up(80)));
    let cases = deeds.len();
    Ok(vec![
        (
            "QNet, an upload tampered with",
            Role::Subject,
            cases,
            told(deeds, uploading, objection_of(decoy), alike)?,
        ),
        (
            "a wire that adds a record, an upload tampered with",
            Role::Positive,
            cases,
            objecting(faulty.address())?,
        ),
        ("a plain wire, an upload tampered with", Role::Negative, cases, objecting(wire.address())?),
        (
            "QNet, a download tampered with",
            Role::Subject,
            cases,
            told(deeds, downloading, visiting, Tail::eq)?,
        ),
        (
            "a visitor who says more, a download tampered with",
            Role::Positive,
            cases,
            told(deeds, adding, visiting, Tail::eq)?,
        ),
        (
            "a visitor again, a download tampered with",
            Role::Negative,
            cases,
            told(deeds, visiting, visiting, Tail::eq)?,
        ),
    ])
}

/// How a client ends what it cannot read: its last record, the records as long as an alert's, and whether it ends the
/// connection. FIN or RST depends on what was left unread in its socket.
#[derive(Debug, PartialEq)]
pub(super) struct Tail {
    last: Option<(u8, usize)>,
    alerts: usize,
    ended: bool,
}

impl Tail {
    pub(super) fn of(up: &Flow) -> Self {
        let seen = seen(up, 0);
        Self { last: seen.records.last().copied(), alerts: seen.content().alerts, ended: seen.end.is_some() }
    }
}

/// What a visitor with Chrome's TLS stack shows who downloads from the decoy, when that is done to the download; on a wire that adds
/// something to the end of what he says, where there is something to add.
pub(super) fn visited(stage: &Stage, deed: &Deed, added: Option<Vec<u8>>) -> Result<Tail> {
    let link = Link::start(stage.decoy.address(), stage.distance)?;
    let armed = Gate::new();
    // A visitor's download is short: what was said before is said again at once.
    let deed = if matches!(deed, Deed::Old) { &Deed::Act(Act::Double) } else { deed };
    let request = Rule::new(Way::Up, Which::NthData(1), Act::Delay(ASKS_LATE));
    link.set_rules([deed.rules(Way::Down, &armed), vec![request]].concat());
    let visitor = Visitor { paths: vec!["/tours.zip".into()], ..Visitor::new(stage.decoy.name()) };
    let own = Link::start(link.address(), Duration::ZERO)?;
    let adds = added.map(|bytes| Rule::new(Way::Up, Which::AtEnd, Act::InjectBefore(bytes)));
    own.set_rules(adds.into_iter().collect());
    let address = own.address();
    std::thread::spawn(move || visitor.visit(address, SOON).is_ok());
    let asked = |trace: &Trace| trace.up.records().iter().filter(|record| record.kind == 23).count() > 1;
    link.wait("a request", 0, SOON, asked)?;
    armed.open();
    Ok(Tail::of(&settled(&link, 0)?.up))
}

/// The cases in which what is shown here is, all but once or twice ([`STAGES`]), none of what is shown there.
pub(super) fn told<C: Sync, S: std::fmt::Debug>(
    cases: &[(String, C)],
    here: impl Fn(&C) -> Result<S> + Sync,
    there: impl Fn(&C) -> Result<S> + Sync,
    alike: impl Fn(&S, &S) -> bool + Sync,
) -> Result<Vec<String>> {
    let found = Mutex::new(Vec::new());
    all(WIDTH, cases, |(what, case)| {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        let strange = |ours: &[S], theirs: &[S]| {
            ours.iter().filter(|one| !theirs.iter().any(|other| alike(one, other))).count()
        };
        for (tries, most) in STAGES {
            while ours.len() < tries && strange(&ours, &theirs) + tries - ours.len() >= most {
                ours.push(here(case).with_context(|| what.clone())?);
                theirs.push(there(case).with_context(|| what.clone())?);
            }
            if strange(&ours, &theirs) < most {
                return Ok(());
            }
        }
        let told = format!("{what}: {:?}, not {:?}", ours.last(), theirs.last());
        found.lock().unwrap_or_else(PoisonError::into_inner).push(told);
        Ok(())
    })?;
    Ok(found.into_inner().unwrap_or_else(PoisonError::into_inner))
}
