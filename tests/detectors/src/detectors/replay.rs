//! 3. Replay and tamper: what a client said is said again, and what it says is spoiled on the way.

mod ends;
mod live;
mod obfs4s;
mod records;
mod switched;

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use qnet_tests::support::decoy::{Decoy, Options, Server};
use qnet_tests::support::link::{Act, Link, Rule, Way, Which};
use qnet_tests::support::probe::{Client, Difference, Probe, Step, Tolerance, catalogue, differences};
use qnet_tests::support::tunnel::{dialer, echo_bridge, runtime};
use qnet_wire::bridge_line::BridgeLine;
use tokio::io::AsyncWriteExt;

use crate::detector::{About, Detector, Figure, Role, Threshold, Verdict, part};
use crate::stage::Field;

const SOURCE: &str = "Alice et al., How China Detects and Blocks Shadowsocks, IMC 2020 (replay); Wang et al., Seeing through Network-Protocol Obfuscation, CCS 2015";

/// How long each probe is watched: beyond the decoy's own limits.
const WATCH: Duration = Duration::from_secs(5);

/// The decoy's limits.
const DECOY_LIMIT: Duration = Duration::from_secs(2);

/// A visit's round trips up to the knock and its answer, at most: by these it is watched for longer over a path.
const ROUND_TRIPS: u32 = 8;

/// What is said again after a pause, and after which: in the quick part, and in the full one.
const LATER: &str = "QNet, replays later";
const PAUSES: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(60)];

/// How long a client whose bytes are wanted may speak.
const RECORDED: Duration = Duration::from_secs(2);

/// Of the ways to spoil a record, every so manieth is tried in the quick part.
const SOME: usize = 4;

/// Probes for the positive control: those that tell two apart are played again and again, which takes time.
const FEW: usize = 6;

/// The detector.
#[derive(Debug)]
pub struct Replay;

impl Detector for Replay {
    fn about(&self) -> About {
        About {
            number: 3,
            name: "replay and tamper",
            source: SOURCE,
            rule: "What QNet's client sent is sent again to bridge and decoy: its hello, twice and followed by a half-close, everything (to the \
                   decoy, and of a whole tunnel), one hello with another's rest; at once, after a pause, and to a bridge that was started anew with \
                   the same key. A hello is held on its way and used first, with a spoiled Finished and other things behind it; its client must still get \
                   its tunnel. Records of a living client (ChangeCipherSpec, Finished, preface, request, knock) are flipped, dropped, doubled, \
                   swapped, cut, or given neighbours on the way; one bit is flipped in each record up to the knock, in each of the \
                   server's until then, and in each of the inner handshake, both ways; each is late by a second; 1 to 64 records that carry \
                   nothing go before Finished and knock. All of this goes without a path and over each path. Bridge and decoy are compared as in detector 2. Honest knocks \
                   are held so that they come around the decoy's idle close, finer the nearer to it; a client's records are withheld during a \
                   download for twice its idle limit and more (without a path: what counts is the decoy's own clock). In a tunnel, silent or with data in it, records are flipped, dropped, doubled, \
                   swapped and injected: what is shown must be what the decoy shows of records without sense after its page, and, on the way \
                   down, what a visitor with Chrome's TLS stack shows whose download is treated so. obfs4, which has no decoy, is asked whether it answers \
                   what its client said before, or that with a bit flipped, rather than as many random bytes.",
            thresholds: thresholds(),
            gate: true,
        }
    }

    fn needs_captures(&self) -> bool {
        false
    }

    fn examine(&self, field: &Field) -> Result<Vec<Verdict>> {
        let mut verdicts = part("obfs4, replays", obfs4s::verdicts());
        let ended = "the web server's own TLS meets what is replayed and spoiled: the bridge sees none of it";
        let fronts = field.plan.fronts.iter();
        verdicts.extend(fronts.map(|front| {
            Verdict::inapplicable(format!("QNet's websocket, replays, behind {front:?}"), ended)
        }));
        for server in &field.plan.servers {
            let full = field.plan.all_probes;
            for round_trip in std::iter::once(0).chain(field.plan.round_trips.iter().copied()) {
                let delay = Duration::from_millis(round_trip / 2);
                for (what, found) in [
                    ("replays", replayed(*server, delay, full)),
                    ("held knocks", ends::held_knocks(*server, delay, full)),
                    ("tampering after the switch", switched::verdicts(*server, delay, full)),
                ] {
                    verdicts.extend(part(format!("{what}, {server:?}, {round_trip} ms"), found));
                }
                verdicts.extend(records::verdicts(*server, delay, full));
            }
            verdicts.extend(part(format!("withheld uploads, {server:?}"), ends::withheld(*server)));
        }
        Ok(verdicts)
    }
}

fn thresholds() -> Vec<Threshold> {
    let ours = "set here before the first measurement";
    vec![
        Threshold {
            what: "probes that tell bridge and decoy apart",
            value: "flagged at one".into(),
            source: SOURCE,
        },
        Threshold {
            what: "obfs4's answers",
            value: "flagged if it answers what was replayed or spoiled, and never random bytes of the same length".into(),
            source: SOURCE,
        },
        Threshold {
            what: "held knocks",
            value: format!(
                "flagged at one record as long as an answer within a quarter of the idle limit before the end, where the decoy has none, or if more than {} % end \
                 as none of the decoy's own did",
                ends::STRANGE_PERCENT
            ),
            source: ours,
        },
        Threshold {
            what: "withheld uploads",
            value: "flagged if after the standstill other records come than from the decoy, the connection ends otherwise, or either is more than a second from when the decoy's does".into(),
            source: ours,
        },
        Threshold {
            what: "late records",
            value: "flagged if with one no tunnel comes about, or it ends, in two plays".into(),
            source: ours,
        },
        Threshold {
            what: "tampering after the switch, and with each record before it",
            value: switched::STAGES.map(|(tries, most)| format!("{most} of {tries}")).join(", and then ")
                + " plays show what none of the decoy's (or the visitor's) do, in one case",
            source: ours,
        },
    ]
}

/// What was said is said again, and spoiled up to the knock; over paths with this delay each way.
fn replayed(server: Server, delay: Duration, full: bool) -> Result<Vec<Verdict>> {
    let mut verdicts = Vec::new();
    let limits = Options { idle: DECOY_LIMIT, head: DECOY_LIMIT, ..Options::default() };
    let decoy = Decoy::start(server, limits)?;
    let runtime = Arc::new(runtime()?);
    let (bridge, line) = runtime.block_on(echo_bridge(&decoy))?;
    let client = client(&runtime, &decoy, line)?;
    let (probes, replays) = probes(&client, bridge, decoy.address(), full)?;
    // The same key, and nothing remembered.
    let (restarted, _) = runtime.block_on(echo_bridge(&decoy))?;
    let (used, found) = live::stolen(&runtime, server, delay)?;
    let title = |what: &str| format!("{what}, {server:?}, {} ms", 2 * delay.as_millis());
    verdicts.push(verdict(title("QNet, a hello used first"), Role::Subject, used, &found));
    let away = |address| Link::start(address, delay);
    let (bridge, restarted) = (away(bridge)?, away(restarted)?);
    let (own, wire, faulty) = (away(decoy.address())?, away(decoy.address())?, away(decoy.address())?);
    faulty.set_rules(vec![Rule::new(Way::Down, Which::AtEnd, Act::InjectBefore(vec![0]))]);
    let few = probes.get(..FEW).unwrap_or_default();
    let examined = [
        ("QNet", Role::Subject, &bridge, &probes[..]),
        ("QNet, restarted", Role::Subject, &restarted, &replays[..]),
        ("a wire that adds a byte at the end", Role::Positive, &faulty, few),
        ("a plain wire", Role::Negative, &wire, &probes[..]),
        (LATER, Role::Subject, &bridge, &replays[..]),
    ];
    // One after the other: what they are compared by is times, which a busy machine spoils.
    for (what, role, address, probes) in examined {
        if what == LATER {
            thread::sleep(PAUSES[usize::from(full)]);
        }
        let (address, watch) = (address.address(), WATCH + ROUND_TRIPS * 2 * delay);
        let found = differences(probes, &move || address, own.address(), watch, Tolerance::default())?;
        verdicts.push(verdict(title(what), role, probes.len(), &found));
    }
    Ok(verdicts)
}

fn verdict(what: String, role: Role, probes: usize, found: &[Difference]) -> Verdict {
    let figure = |name: &str, value: usize| Figure { name: name.to_owned(), value: value as f64 };
    let told: Vec<String> = found
        .iter()
        .take(3)
        .map(|difference| format!("{}: {}", difference.probe, difference.what.join(", ")))
        .collect();
    Verdict {
        what,
        role,
        flagged: !found.is_empty(),
        figures: vec![figure("probes", probes), figure("that tell apart", found.len())],
        note: told.join("; "),
    }
}

/// All probes, and those among them that replay what was said before.
fn probes(
    client: &Client,
    bridge: SocketAddr,
    decoy: SocketAddr,
    all: bool,
) -> Result<(Vec<Probe>, Vec<Probe>)> {
    let (first, second) = (recorded(client, decoy)?, recorded(client, decoy)?);
    let tunnel = recorded(client, bridge)?;
    let hello = first.first().context("the client sent no hello")?;
    let mixed = [&first[..1], second.get(1..).unwrap_or_default()].concat().concat();
    let replays = vec![
        Probe::script("a client's hello", vec![Step::Send(hello.clone())]),
        Probe::script("a client's hello again", vec![Step::Send(hello.clone())]),
        Probe::script("all that a client sent", vec![Step::Send(first.concat())]),
        Probe::script("a client's hello and what another sent", vec![Step::Send(mixed)]),
        Probe::script("a client's hello, then half-close", vec![Step::Send(hello.clone()), Step::HalfClose]),
        Probe::script("all of a tunnel", vec![Step::Send(tunnel.concat())]),
    ];
    // A late record is the client's own all the same, and makes a tunnel.
    let spoiled =
        catalogue::spoiled("a client", client).into_iter().filter(|probe| !probe.name.contains("is late"));
    let knock = first.len() - 1;
    let probes = replays.iter().cloned().chain(spoiled.step_by(if all { 1 } else { SOME }));
    let knocks = live::knocks(client, knock).into_iter().step_by(if all { 1 } else { SOME });
    let nothings = live::nothings(client, knock, all);
    Ok((probes.chain(knocks).chain(live::flips(client, knock)).chain(nothings).collect(), replays))
}

/// The records that a client sends to the decoy itself.
fn recorded(client: &Client, decoy: SocketAddr) -> Result<Vec<Vec<u8>>> {
    let link = Link::start(decoy, Duration::ZERO)?;
    client(link.address(), RECORDED);
    let up = link.traces().pop().context("the client did not connect")?.up;
    Ok(up.records().iter().map(|record| up.record_bytes(record).to_vec()).collect())
}

/// QNet's client as a probe's: it dials where it is told, says a byte in a stream, and holds on until the time is up.
fn client(runtime: &Arc<tokio::runtime::Runtime>, decoy: &Decoy, line: BridgeLine) -> Result<Client> {
    let (runtime, dialer) = (Arc::clone(runtime), dialer(decoy)?);
    Ok(Arc::new(move |address, limit| {
        let line = BridgeLine { address, ..line.clone() };
        runtime.block_on(async {
            let end = tokio::time::Instant::now() + limit;
            let stream = tokio::time::timeout_at(end, async {
                let mut stream = dialer.dial(&line).await.ok()?.open().ok()?;
                stream.write_all(b"?").await.ok().map(|()| stream)
            });
            let stream = stream.await;
            tokio::time::sleep_until(end + Duration::from_millis(100)).await;
            drop(stream);
        });
    }))
}
