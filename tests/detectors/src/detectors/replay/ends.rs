//! What a censor does about the decoy's idle limit: knocks that are held back until it is due, and uploads that he withholds beyond it.

use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use qnet_tests::support::attack::held::{answers_at_end, closing, held, knock, places};
use qnet_tests::support::attack::stage::{Content, SOON, Stage, copy, seen, until};
use qnet_tests::support::attack::visit::{all, made_up};
use qnet_tests::support::decoy::{Options, Server};
use qnet_tests::support::flow::{End, Flow};
use qnet_tests::support::link::{Act, Gate, Link, Rule, Way, Which};
use qnet_tests::support::visitor::Visitor;

use crate::detector::{Figure, Role, Verdict};

/// The decoy's idle limit: as small as servers take it.
const IDLE: Duration = Duration::from_secs(1);

/// Tries with a held knock, each path's: in the quick part and in the full one. So many at once.
const TRIES: [u32; 2] = [12, 60];
const WIDTH: usize = 30;

/// Round trips between bridge and decoy, milliseconds, likewise.
const ROUND_TRIPS: [&[u64]; 2] = [&[0], &[0, 10, 40]];

/// Of the tries so many in a hundred may end as none of the decoy's own did: on a busy machine an end comes between others.
pub(super) const STRANGE_PERCENT: usize = 10;

/// By how much answers' lengths vary in one visit, bytes: dates and tags are Huffman coded.
const VARIES: usize = 64;

/// The decoy's idle limit where uploads are withheld, how long they are, and by how much ends may differ. A bridge that does not know the
/// limit yet keeps its connection to the decoy busy every two seconds, so that a limit of no more would be met by chance.
const SHORT_IDLE: Duration = Duration::from_secs(5);
const WITHHELD: Duration = Duration::from_secs(12);
const EARLY: Duration = Duration::from_secs(2);
const NEAR: Duration = Duration::from_secs(1);

/// Bytes that show that a download flows. A visitor who grants no window beyond HTTP/2's first gets 65,535 bytes of a file.
const FLOWS: u64 = 200_000;
const FLOWS_TO_VISITOR: usize = 60_000;

/// An honest knock, held so that it comes around the decoy's end: by QNet's client to the bridge and to the decoy, and to a wire that
/// answers where the decoy closes.
pub(super) fn held_knocks(server: Server, full: bool) -> Result<Vec<Verdict>> {
    let (mut subject, mut positive, mut negative) = (Held::default(), Held::default(), Held::default());
    for round_trip in ROUND_TRIPS[usize::from(full)] {
        let options = Options { idle: IDLE, head: IDLE, ..Options::default() };
        let stage = Stage::with_delay(server, options, Duration::from_millis(round_trip / 2))?;
        let (number, _) = knock(&stage)?;
        let close = closing(&stage, number, IDLE)?;
        let places = places(server, close, IDLE, TRIES[usize::from(full)]);
        // As far from its visitors as behind the bridge.
        let decoy = stage.back.address();
        let faulty = Link::start(decoy, Duration::ZERO)?;
        faulty.set_rules(vec![Rule::new(Way::Down, Which::AtEnd, Act::InjectBefore(made_up(80)))]);
        let plays = |target: SocketAddr| -> Result<Vec<Tried>> {
            let shown = Mutex::new(Vec::new());
            all(WIDTH, &places, |time| {
                let (trace, tunnel) = held(&stage, target, number, *time)?;
                let beside = answers_at_end(&trace.down, IDLE);
                let one = Tried { content: seen(&trace.down, 0).content(), beside, tunnel };
                shown.lock().unwrap_or_else(PoisonError::into_inner).push(one);
                Ok(())
            })?;
            Ok(shown.into_inner().unwrap_or_else(PoisonError::into_inner))
        };
        let (own, bridge) = (plays(decoy)?, plays(stage.bridge)?);
        subject.add(&bridge, &own);
        negative.add(&plays(decoy)?, &own);
        positive.add(&plays(faulty.address())?, &own);
    }
    Ok(vec![
        subject.verdict(format!("QNet, knocks held to the decoy's end, {server:?}"), Role::Subject),
        positive.verdict(format!("a wire that answers where the decoy ends, {server:?}"), Role::Positive),
        negative.verdict(format!("the decoy, knocks held to its end, {server:?}"), Role::Negative),
    ])
}

/// One held knock.
struct Tried {
    content: Content,
    /// Whether an answer came beside the end.
    beside: bool,
    /// Whether a tunnel came of it: then there is more than the decoy's own.
    tunnel: bool,
}

impl Tried {
    fn ends_as(&self, own: &Self) -> bool {
        let end = |one: &Self| (one.content.alerts, one.content.last, one.content.end);
        let rest = self.content.others == own.content.others
            && self.content.inside.abs_diff(own.content.inside) <= VARIES;
        end(self) == end(own) && (self.tunnel || rest)
    }
}

/// What held knocks came to.
#[derive(Default)]
struct Held {
    tries: usize,
    /// Those of which a tunnel came.
    tunnels: usize,
    /// Those that ended while they were watched.
    ended: usize,
    /// Of these, those with an answer beside the end where the decoy has none.
    beside: usize,
    /// And those that ended as none of the decoy's own did; one of them.
    strange: usize,
    note: String,
}

impl Held {
    fn add(&mut self, shown: &[Tried], own: &[Tried]) {
        let ended = || shown.iter().filter(|one| one.content.end.is_some());
        self.tries += shown.len();
        self.tunnels += shown.iter().filter(|one| one.tunnel).count();
        self.ended += ended().count();
        // A server that closes gracefully may itself answer what came meanwhile.
        let answers = own.iter().any(|own| own.beside);
        self.beside += ended().filter(|one| one.beside && !answers).count();
        let strange = || ended().filter(|one| !own.iter().any(|own| one.ends_as(own)));
        self.strange += strange().count();
        if self.note.is_empty() {
            let told = |one: &Tried| format!("for example, tunnel {}: {:?}", one.tunnel, one.content);
            self.note = strange().next().map(told).unwrap_or_default();
        }
    }

    fn verdict(&self, what: String, role: Role) -> Verdict {
        let figure = |name: &str, value: usize| Figure::new(name, value as f64);
        Verdict {
            what,
            role,
            flagged: self.beside > 0 || self.strange * 100 > self.tries * STRANGE_PERCENT,
            figures: vec![
                figure("tries", self.tries),
                figure("tunnels", self.tunnels),
                figure("that ended", self.ended),
                figure("with an answer beside the end", self.beside),
                figure("that ended strangely", self.strange),
            ],
            note: self.note.clone(),
        }
    }
}

/// A client's records are withheld during a download, for longer than the decoy bears idleness: when and how the connection ends must
/// be as with the decoy, whose visitor says nothing during a download.
pub(super) fn withheld(server: Server) -> Result<Vec<Verdict>> {
    let options = Options { idle: SHORT_IDLE, head: SHORT_IDLE, ..Options::default() };
    let stage = Stage::new(server, options)?;
    let [decoy, again, faulty, bridge] = thread::scope(|scope| {
        let stage = &stage;
        [
            scope.spawn(move || stalled(stage, false)),
            scope.spawn(move || stalled(stage, false)),
            scope.spawn(move || stalled(stage, true)),
            scope.spawn(move || silenced(stage)),
        ]
        .map(|one| one.join().unwrap_or_else(|_| Err(anyhow!("a player panicked"))))
    });
    let decoy = decoy?;
    let verdict = |what: &str, role, shown: Option<(End, Duration)>| {
        let same = match (shown, decoy) {
            (Some(shown), Some(decoy)) => shown.0 == decoy.0 && shown.1.abs_diff(decoy.1) <= NEAR,
            (shown, decoy) => shown == decoy,
        };
        let after = |end: Option<(End, Duration)>| end.map_or(f64::INFINITY, |(_, at)| at.as_secs_f64());
        Verdict {
            what: format!("{what}, {server:?}"),
            role,
            flagged: !same,
            figures: vec![
                Figure::new("watched, s", WITHHELD.as_secs_f64()),
                Figure::new("its end after, s", after(shown)),
                Figure::new("the decoy's, s", after(decoy)),
            ],
            note: format!(
                "ends: {:?}, the decoy's {:?}",
                shown.map(|(end, _)| end),
                decoy.map(|(end, _)| end)
            ),
        }
    };
    Ok(vec![
        verdict("QNet, upload withheld during a download", Role::Subject, bridge?),
        verdict("a wire that ends a download early", Role::Positive, faulty?),
        verdict("the decoy again, during a download", Role::Negative, again?),
    ])
}

/// How a download from the decoy ends whose visitor says nothing more, and how long after it stood still; by a wire that ends it
/// before any server does, if it is to.
fn stalled(stage: &Stage, faulty: bool) -> Result<Option<(End, Duration)>> {
    let inner = Link::start(stage.decoy.address(), Duration::ZERO)?;
    let link = Link::start(inner.address(), Duration::ZERO)?;
    let visitor = Visitor { paths: vec!["/tours.zip".into()], ..Visitor::new(stage.decoy.name()) };
    let address = link.address();
    // It ends with the wire, or when its time is over.
    thread::spawn(move || visitor.visit(address, SOON + WITHHELD).is_ok());
    link.wait("a download", 0, SOON, |trace| trace.down.total() > FLOWS_TO_VISITOR)?;
    let began = Instant::now();
    if faulty {
        let early = watch(&link, began, EARLY)?;
        ensure!(early.is_none(), "the decoy ended a download after {early:?}");
        inner.inject(0, Way::Down, made_up(30), Some(End::Fin));
    }
    watch(&link, began, WITHHELD)
}

/// The same of a tunnel's.
fn silenced(stage: &Stage) -> Result<Option<(End, Duration)>> {
    let link = Link::start(stage.bridge, Duration::ZERO)?;
    let (arm, release) = (Gate::new(), Gate::new());
    link.set_rules(vec![Rule::new(Way::Up, Which::Once(arm.clone()), Act::Hold(release.clone()))]);
    let tunnel = stage.tunnel_over(&link)?;
    let payload = stage.download(&tunnel)?;
    until("a download", SOON, || copy(&payload).right > FLOWS)?;
    arm.open();
    let end = watch(&link, Instant::now(), WITHHELD);
    release.open();
    end
}

/// How the server ended the connection, and how long after `began`, within `limit` of that.
fn watch(link: &Link, began: Instant, limit: Duration) -> Result<Option<(End, Duration)>> {
    loop {
        let trace = link.traces().pop().context("no connection")?;
        let end = |flow: &Flow| {
            flow.end().map(|(end, at)| (end, (flow.started() + at).saturating_duration_since(began)))
        };
        if let Some(end) = end(&trace.down) {
            return Ok(Some(end));
        }
        if began.elapsed() > limit {
            return Ok(None);
        }
        thread::sleep(Duration::from_millis(50));
    }
}
