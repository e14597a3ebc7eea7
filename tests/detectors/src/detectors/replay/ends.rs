//! What a censor does about the decoy's idle limit: knocks that are held back until it is due, and uploads that he withholds beyond it.

use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Result, anyhow};
use qnet_tests::support::attack::held::{answers_at_end, closing, held, knock, places};
use qnet_tests::support::attack::stage::{Content, Stage, seen};
use qnet_tests::support::attack::standstill::{Standstill, cut_short, of_decoy, of_tunnel};
use qnet_tests::support::attack::visit::{all, made_up};
use qnet_tests::support::decoy::{Options, Server};
use qnet_tests::support::link::{Act, Link, Rule, Way, Which};

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

/// An honest knock, held so that it comes around the decoy's end: by QNet's client to the bridge and to the decoy, and to a wire that
/// answers where the decoy closes.
pub(super) fn held_knocks(server: Server, delay: Duration, full: bool) -> Result<Vec<Verdict>> {
    let (mut subject, mut positive, mut negative) = (Held::default(), Held::default(), Held::default());
    for round_trip in ROUND_TRIPS[usize::from(full)] {
        let options = Options { idle: IDLE, head: IDLE, ..Options::default() };
        let stage = Stage::with_delay(server, options, Duration::from_millis(round_trip / 2))?.away(delay);
        let (number, _) = knock(&stage)?;
        // What is let go then is on its way for as long as the path is.
        let close = closing(&stage, number, IDLE)?.saturating_sub(stage.distance);
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
    let title = |what: &str| format!("{what}, {server:?}, {} ms", 2 * delay.as_millis());
    Ok(vec![
        subject.verdict(title("QNet, knocks held to the decoy's end"), Role::Subject),
        positive.verdict(title("a wire that answers where the decoy ends"), Role::Positive),
        negative.verdict(title("the decoy, knocks held to its end"), Role::Negative),
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

/// A client's records are withheld during a download, for longer than the decoy bears idleness: what still comes, and when and how the
/// connection ends, must be as with the decoy, whose visitor's words do not come through either.
pub(super) fn withheld(server: Server) -> Result<Vec<Verdict>> {
    let options = Options { idle: SHORT_IDLE, head: SHORT_IDLE, ..Options::default() };
    let stage = Stage::new(server, options)?;
    let [decoy, again, faulty, bridge] = thread::scope(|scope| {
        let stage = &stage;
        [
            scope.spawn(move || of_decoy(stage, WITHHELD)),
            scope.spawn(move || of_decoy(stage, WITHHELD)),
            scope.spawn(move || cut_short(stage, EARLY, WITHHELD)),
            scope.spawn(move || of_tunnel(stage, WITHHELD)),
        ]
        .map(|one| one.join().unwrap_or_else(|_| Err(anyhow!("a player panicked"))))
    });
    let decoy = decoy?;
    let verdict = |what: &str, role, shown: &Standstill| {
        let after = |shown: &Standstill| shown.end.map_or(f64::INFINITY, |(_, at)| at.as_secs_f64());
        let lengths =
            |shown: &Standstill| shown.records.iter().map(|(length, _)| *length).collect::<Vec<_>>();
        Verdict {
            what: format!("{what}, {server:?}"),
            role,
            flagged: !shown.same(&decoy, NEAR),
            figures: vec![
                Figure::new("watched, s", WITHHELD.as_secs_f64()),
                Figure::new("its end after, s", after(shown)),
                Figure::new("the decoy's, s", after(&decoy)),
            ],
            note: format!(
                "records {:?}, ends: {:?}; the decoy's {:?}, {:?}",
                lengths(shown),
                shown.end.map(|(end, _)| end),
                lengths(&decoy),
                decoy.end.map(|(end, _)| end)
            ),
        }
    };
    Ok(vec![
        verdict("QNet, upload withheld during a download", Role::Subject, &bridge?),
        verdict("a wire that ends a download early", Role::Positive, &faulty?),
        verdict("the decoy again, during a download", Role::Negative, &again?),
    ])
}
