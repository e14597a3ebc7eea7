//! 2. Active probing: whoever connects to the bridge must meet the decoy, and nothing but the decoy.

mod times;
mod websocket;

use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use anyhow::{Result, anyhow};
use qnet_tests::support::decoy::{NAME, Options, Server};
use qnet_tests::support::link::{Act, Link, Rule, Way, Which};
use qnet_tests::support::probe::{Probe, Step, Tolerance, catalogue, differences};
use qnet_tests::support::visitor::Visitor;

use self::times::Compared;
use crate::detector::{About, Detector, Figure, Plot, Role, Threshold, Verdict, part};
use crate::stage::{Field, suitable};
use crate::transport::{Kind, Transport};

const SOURCE: &str = "Frolov, Wampler and Wustrow, Detecting Probe-resistant Proxies, NDSS 2020; Alice et al., How China Detects and Blocks Shadowsocks, IMC 2020";

/// How long each probe is watched: beyond the decoy's own limits.
const WATCH: Duration = Duration::from_secs(5);

/// The decoy's limits, short so that a probe need not wait for a minute to see the end.
const DECOY_LIMIT: Duration = Duration::from_secs(2);

/// Limits as long as servers have them unless they are told otherwise, and a watch beyond them: what a bridge does by a clock of its
/// own within them shows then.
const USUAL_IDLE: Duration = Duration::from_secs(75);
const USUAL_HEAD: Duration = Duration::from_secs(60);
const LONG_WATCH: Duration = Duration::from_secs(90);

/// By how much the end is late of the positive control: more than servers that look at their timers now and then vary by.
const LATE_END: Duration = Duration::from_secs(4);

/// Probes for the positive control: those that tell two apart are played again and again, which takes time.
const FEW: usize = 6;

/// The detector.
#[derive(Debug)]
pub struct Probing;

impl Detector for Probing {
    fn about(&self) -> About {
        let tolerance = Tolerance::default();
        About {
            number: 2,
            name: "active probing",
            source: SOURCE,
            rule: "Each probe (silence, ladders of random lengths, other protocols, odd and damaged records and hellos, visitors) is played against \
                   the bridge and against the decoy, without a path between and over each path; in the full choice silence, half a hello and \
                   a page's visitor who stays once more, with limits of 60 and 75 s and a watch of 90 s. What comes back, record by record, how the connection ends (FIN, RST or \
                   not at all) and when must be what the decoy gives; where it differs at first, it is played again, and the two are told \
                   apart if most of what the bridge shows is none of what the decoy shows. Beside it obfs4 and a plain wire to the decoy. Then \
                   a few probes, with a ladder of lengths, are played many times, and the kinds of end (with alerts), and the times of first byte \
                   and end, are compared as distributions with the decoy's. The websocket cover stands behind a web server: to who does \
                   not know its path it must be the same site with a talking server there, and with nobody there; what opens no websocket at its \
                   path must get what a front gets that knows no such path, at the same times. Who opens the websocket and has no key, which is what \
                   a CDN can do, tells it from a talking server; that it does what docs/protocol.md says (section 17), and no more, is what is judged.",
            thresholds: vec![
                Threshold {
                    what: "probes that tell bridge and decoy apart",
                    value: "flagged at one".into(),
                    source: SOURCE,
                },
                Threshold {
                    what: "times of events",
                    value: format!(
                        "differ by more than {:?} on connections that began together; detector 9 looks closer",
                        tolerance.time
                    ),
                    source: "set for a busy machine",
                },
                Threshold {
                    what: "kinds of end (chi-squared) and times (two-sample Kolmogorov-Smirnov)",
                    value: format!(
                        "flagged below p {} for all tests of a server together (Bonferroni); times only where medians differ by more than {:?}",
                        times::CHANCE,
                        times::NOTICEABLE
                    ),
                    source: "set here before the first measurement",
                },
            ],
            gate: true,
        }
    }

    fn needs_captures(&self) -> bool {
        false
    }

    fn examine(&self, field: &Field) -> Result<Vec<Verdict>> {
        Ok(self.examine_and_plot(field)?.0)
    }

    fn examine_and_plot(&self, field: &Field) -> Result<(Vec<Verdict>, Vec<Plot>)> {
        let probes = probes(field.plan.all_probes)?;
        let (mut verdicts, mut plots) = (Vec::new(), Vec::new());
        for server in &field.plan.servers {
            verdicts.extend(part(format!("{server:?}"), before(*server, &probes, field, &mut plots)));
        }
        for server in &field.plan.fronts {
            let found = websocket::verdicts(*server, &probes, field, &mut plots);
            verdicts.extend(part(format!("behind {server:?}"), found));
        }
        Ok((verdicts, plots))
    }
}

/// Before one decoy, over each path; without a path first: there times show most.
fn before(server: Server, probes: &[Probe], field: &Field, plots: &mut Vec<Plot>) -> Result<Vec<Verdict>> {
    let limits = Options { idle: DECOY_LIMIT, head: DECOY_LIMIT, ..Options::default() };
    let decoy = suitable(server, limits)?;
    let sink = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let start = |kind| Transport::start(kind, &decoy, &field.programs.qnet_pt, sink, Duration::ZERO);
    let place = Place {
        decoy: decoy.address(),
        qnet: start(Kind::Qnet)?,
        obfs4: start(Kind::Obfs4)?,
        probes,
        rounds: field.plan.rounds,
    };
    let paths = std::iter::once(0).chain(field.plan.round_trips.iter().copied());
    let over = |round_trip| {
        let path = format!("{server:?}, {round_trip} ms");
        let found = place.verdicts(&path, Duration::from_millis(round_trip / 2), plots);
        part(path, found)
    };
    let mut verdicts: Vec<Verdict> = paths.flat_map(over).collect();
    if field.plan.all_probes {
        verdicts.extend(part(format!("{server:?}, usual limits"), with_usual_limits(server, field)));
    }
    Ok(verdicts)
}

/// Who says nothing, or no more, before a decoy with its usual limits.
fn with_usual_limits(server: Server, field: &Field) -> Result<Vec<Verdict>> {
    let decoy = suitable(server, Options { idle: USUAL_IDLE, head: USUAL_HEAD, ..Options::default() })?;
    let sink = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let qnet = Transport::start(Kind::Qnet, &decoy, &field.programs.qnet_pt, sink, Duration::ZERO)?;
    let wire = Link::start(decoy.address(), Duration::ZERO)?;
    let late = Link::start(decoy.address(), Duration::ZERO)?;
    late.set_rules(vec![Rule::new(Way::Down, Which::AtEnd, Act::Delay(LATE_END))]);
    let probes = waiting()?;
    let judged = [
        ("QNet", Role::Subject, qnet.server()),
        ("a wire that ends late", Role::Positive, late.address()),
        ("a plain wire", Role::Negative, wire.address()),
    ];
    judge_all(&judged.map(|(what, role, address)| Judged {
        what: format!("{what}, {server:?}, usual limits"),
        role,
        probes: &probes,
        address,
        decoy: decoy.address(),
        watch: LONG_WATCH,
    }))
}

/// Silence at the beginning, in the midst of a hello, and after a page.
fn waiting() -> Result<Vec<Probe>> {
    let hello = Visitor::new(NAME).hello()?;
    let half = hello.get(..hello.len() / 2).unwrap_or_default().to_vec();
    Ok(vec![
        Probe::script("silence", Vec::new()),
        Probe::script("half a hello", vec![Step::Send(half)]),
        Probe::client("a page's visitor who stays", catalogue::client(Visitor::new(NAME)), Vec::new()),
    ])
}

/// What stands before one decoy.
struct Place<'a> {
    decoy: SocketAddr,
    qnet: Transport,
    obfs4: Transport,
    probes: &'a [Probe],
    rounds: usize,
}

impl Place<'_> {
    /// Everything reached over a path with this delay each way.
    fn verdicts(&self, path: &str, delay: Duration, plots: &mut Vec<Plot>) -> Result<Vec<Verdict>> {
        let away = |address| Link::start(address, delay);
        let (qnet, obfs4) = (away(self.qnet.server())?, away(self.obfs4.server())?);
        let (decoy, wire) = (away(self.decoy)?, away(self.decoy)?);
        let examined = [
            ("QNet", Role::Subject, &qnet),
            ("obfs4", Role::Positive, &obfs4),
            ("a plain wire", Role::Negative, &wire),
        ];
        let judged = examined.map(|(what, role, link)| Judged {
            what: format!("{what}, {path}"),
            role,
            probes: self.probes,
            address: link.address(),
            decoy: decoy.address(),
            watch: WATCH,
        });
        let mut verdicts = judge_all(&judged)?;
        let compared = Compared {
            what: "QNet",
            qnet: qnet.address(),
            decoy: decoy.address(),
            again: ("a plain wire", wire.address()),
        };
        verdicts.extend(times::verdicts(path, &times::probes()?, &compared, self.rounds, plots)?);
        Ok(verdicts)
    }
}

/// All probes, or a choice that takes seconds.
fn probes(all: bool) -> Result<Vec<Probe>> {
    if all {
        return catalogue::all(NAME);
    }
    let mut probes = catalogue::silent();
    probes.extend(catalogue::random().into_iter().step_by(3));
    probes.extend(catalogue::other_protocols().into_iter().step_by(2));
    probes.extend(catalogue::records().into_iter().step_by(2));
    probes.extend(catalogue::visitors(NAME)?.into_iter().take(2));
    Ok(probes)
}

/// An address that is compared with another by some probes.
struct Judged<'a> {
    what: String,
    role: Role,
    probes: &'a [Probe],
    address: SocketAddr,
    decoy: SocketAddr,
    watch: Duration,
}

/// All of them at once.
fn judge_all(judged: &[Judged<'_>]) -> Result<Vec<Verdict>> {
    thread::scope(|scope| {
        let running: Vec<_> = judged.iter().map(|one| scope.spawn(|| judge(one))).collect();
        running
            .into_iter()
            .map(|one| one.join().unwrap_or_else(|_| Err(anyhow!("a player panicked"))))
            .collect()
    })
}

fn judge(judged: &Judged<'_>) -> Result<Verdict> {
    let Judged { what, role, probes, address, decoy, watch } = judged;
    let probes = probes.get(..FEW).filter(|_| *role == Role::Positive).unwrap_or(probes);
    let found = differences(probes, &|| *address, *decoy, *watch, Tolerance::default())?;
    let figure = |name: &str, value: usize| Figure { name: name.to_owned(), value: value as f64 };
    let told: Vec<String> = found
        .iter()
        .take(3)
        .map(|difference| format!("{}: {}", difference.probe, difference.what.join(", ")))
        .collect();
    Ok(Verdict {
        what: what.clone(),
        role: *role,
        flagged: !found.is_empty(),
        figures: vec![figure("probes", probes.len()), figure("that tell apart", found.len())],
        note: told.join("; "),
    })
}
