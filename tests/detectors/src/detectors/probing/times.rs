//! Ends and times of a few probes, each played many times, compared as distributions.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use qnet_tests::support::decoy::NAME;
use qnet_tests::support::link::Link;
use qnet_tests::support::probe::{Observation, Probe, Step, play};
use qnet_tests::support::visitor::Visitor;

use super::WATCH;
use crate::detector::{Figure, Plot, Role, Verdict};
use crate::stats::{chi_squared, kolmogorov_smirnov, median};

/// All tests of one server together; each gets its part of it (Bonferroni).
pub(super) const CHANCE: f64 = 1e-3;

/// Times count only where their medians differ by more: a bridge is one hop more, which detector 9 looks at, and a real path hides
/// differences below its own jitter.
pub(super) const NOTICEABLE: Duration = Duration::from_millis(5);

/// By how much the positive control is later, each way.
const FARTHER: Duration = Duration::from_millis(5);

/// Rounds begin so far apart: what a server does by its own clock, such as looking at its timers once a second, is met at all phases.
const APART: Duration = Duration::from_millis(730);

/// Probes of one round begin so far apart: 14 on four addresses at once keep each other waiting.
const SPREAD: Duration = Duration::from_millis(40);

/// So many times the rounds of the plan at most: the busier the machine, the more of them it takes to see that the positive control is
/// late. Nothing is judged by fewer rounds than show that.
const PATIENCE: usize = 4;

/// Tests of one probe: its end's kind, when it ended, when its first byte came.
const TESTS: usize = 3;

/// What is played before a decoy: a ladder of lengths, and what a server answers or waits for.
pub(super) fn probes() -> Result<Vec<Probe>> {
    let hello = Visitor::new(NAME).hello()?;
    let half = hello.get(..hello.len() / 2).unwrap_or_default().to_vec();
    let ladder = [1, 5, 11, 100, 517, 1_460, 16_384].map(|length| {
        // No TLS record begins so.
        Probe::script(format!("{length} bytes of garbage"), vec![Step::Send(vec![0xff; length])])
    });
    let mut probes = vec![
        Probe::script("silence", Vec::new()),
        Probe::script("half-close at once", vec![Step::HalfClose]),
        Probe::script("half a hello", vec![Step::Send(half)]),
        Probe::script("a hello", vec![Step::Send(hello.clone())]),
        Probe::script("a hello, then half-close", vec![Step::Send(hello.clone()), Step::HalfClose]),
        Probe::script("a hello and garbage", vec![Step::Send([&hello[..], &[0xff; 64]].concat())]),
        Probe::script("HTTP/1.1", vec![Step::Send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec())]),
    ];
    probes.extend(ladder);
    Ok(probes)
}

/// What one probe drew from one address, each time.
#[derive(Default)]
struct Drawn {
    ends: Vec<String>,
    ended: Vec<f64>,
    first: Vec<f64>,
}

impl Drawn {
    fn extend(&mut self, later: Self) {
        self.ends.extend(later.ends);
        self.ended.extend(later.ended);
        self.first.extend(later.first);
    }

    fn add(&mut self, seen: &Observation) {
        let alerts: Vec<_> = seen.records.iter().filter_map(|record| record.alert).collect();
        self.ends.push(format!("{:?} {:?} {alerts:?}", seen.end, seen.then_resets));
        let milliseconds = |time: Option<Duration>| time.map(|time| time.as_secs_f64() * 1_000.0);
        self.ended.extend(milliseconds(seen.ended_at));
        self.first.extend(milliseconds(seen.first_at));
    }
}

/// Whose times are compared.
pub(super) struct Compared {
    /// QNet, as the report calls it.
    pub(super) what: &'static str,
    /// Where it is.
    pub(super) qnet: SocketAddr,
    /// What it is compared with.
    pub(super) decoy: SocketAddr,
    /// The same once more: the negative control.
    pub(super) again: (&'static str, SocketAddr),
}

pub(super) fn verdicts(
    server: &str,
    probes: &[Probe],
    compared: &Compared,
    rounds: usize,
    plots: &mut Vec<Plot>,
) -> Result<Vec<Verdict>> {
    let Compared { what, qnet, decoy, again } = *compared;
    let far = Link::start(decoy, FARTHER)?;
    let judged = [
        ("a wire 10 ms longer", Role::Positive, far.address()),
        (again.0, Role::Negative, again.1),
        (what, Role::Subject, qnet),
    ];
    let addresses: Vec<SocketAddr> =
        std::iter::once(decoy).chain(judged.iter().map(|(_, _, address)| *address)).collect();
    let (drawn, rounds) = draw_enough(probes, &addresses, rounds)?;
    let model = drawn.first().context("a model")?;
    let names =
        || std::iter::once("the decoy").chain(judged.iter().map(|(what, _, _)| *what)).map(str::to_owned);
    plots.extend([("ends", false), ("first bytes", true)].map(|(what, first)| {
        let times = |all: &Vec<Drawn>| {
            all.iter().flat_map(|one| if first { &one.first } else { &one.ended }).copied().collect()
        };
        let title = format!("{what} of {} probes, {server}: milliseconds", probes.len());
        Plot::Distributions { title, samples: names().zip(drawn.iter().map(times)).collect() }
    }));
    judged
        .into_iter()
        .zip(drawn.iter().skip(1))
        .map(|((what, role, _), drawn)| {
            judge(format!("times: {what}, {server}"), role, probes, drawn, model, rounds)
        })
        .collect()
}

/// Plays rounds until those so far show that the positive control, the second address, is late, and says how many they were. What QNet
/// shows has no part in that.
fn draw_enough(
    probes: &[Probe],
    addresses: &[SocketAddr],
    rounds: usize,
) -> Result<(Vec<Vec<Drawn>>, usize)> {
    let mut all = draw(probes, addresses, rounds)?;
    for times in 1.. {
        let [model, control, ..] = &all[..] else { break };
        let control = judge(String::new(), Role::Positive, probes, control, model, times * rounds)?;
        if control.flagged || times == PATIENCE {
            return Ok((all, times * rounds));
        }
        let more = draw(probes, addresses, rounds)?;
        for (drawn, more) in all.iter_mut().flatten().zip(more.into_iter().flatten()) {
            drawn.extend(more);
        }
    }
    bail!("a model and a positive control are needed")
}

/// Plays every probe against every address so often; one probe of a round on all addresses at once, and rounds one after the other. Who
/// is first in a round is each in turn: on a busy machine the first are served before the last.
fn draw(probes: &[Probe], addresses: &[SocketAddr], rounds: usize) -> Result<Vec<Vec<Drawn>>> {
    let seen: Result<Vec<_>> = thread::scope(|scope| {
        let mut running = Vec::new();
        for round in 0..rounds {
            let begun = Instant::now();
            for (number, probe) in probes.iter().enumerate() {
                for turn in 0..addresses.len() {
                    let place = (turn + round) % addresses.len();
                    let Some(address) = addresses.get(place) else { continue };
                    running.push((place, number, scope.spawn(move || play(probe, *address, WATCH))));
                }
                thread::sleep(SPREAD);
            }
            thread::sleep(APART.saturating_sub(begun.elapsed()));
        }
        let joined = running.into_iter().map(|(place, number, player)| {
            let seen = player.join().unwrap_or_else(|_| Err(anyhow!("a player panicked")))?;
            Ok((place, number, seen))
        });
        joined.collect()
    });
    let mut drawn: BTreeMap<(usize, usize), Drawn> = BTreeMap::new();
    for (place, number, seen) in seen? {
        drawn.entry((place, number)).or_default().add(&seen);
    }
    let mut all: Vec<Vec<Drawn>> = addresses.iter().map(|_| Vec::new()).collect();
    for ((place, _), drawn) in drawn {
        all.get_mut(place).context("an address")?.push(drawn);
    }
    Ok(all)
}

fn judge(
    what: String,
    role: Role,
    probes: &[Probe],
    drawn: &[Drawn],
    model: &[Drawn],
    rounds: usize,
) -> Result<Verdict> {
    let bound = CHANCE / (TESTS * probes.len()) as f64;
    let (mut least, mut least_time, mut latest) = (1.0f64, 1.0f64, 0.0f64);
    let mut told = Vec::new();
    for ((probe, drawn), model) in probes.iter().zip(drawn).zip(model) {
        let p = chi_squared(&drawn.ends, &model.ends)?;
        least = least.min(p);
        if p < bound {
            told.push(format!("{}: another end, p {p:.1e}", probe.name));
        }
        for (which, times, theirs) in
            [("end", &drawn.ended, &model.ended), ("first byte", &drawn.first, &model.first)]
        {
            if times.len().min(theirs.len()) < 2 {
                continue;
            }
            let (_, p) = kolmogorov_smirnov(times, theirs)?;
            let later = median(times) - median(theirs);
            if later.abs() > latest.abs() {
                latest = later;
            }
            least_time = least_time.min(p);
            if p < bound && later.abs() > NOTICEABLE.as_secs_f64() * 1_000.0 {
                told.push(format!("{}: {which} {later:.1} ms later, p {p:.1e}", probe.name));
            }
        }
    }
    Ok(Verdict {
        what,
        role,
        flagged: !told.is_empty(),
        figures: vec![
            Figure::new("probes", probes.len() as f64),
            Figure::new("times each", rounds as f64),
            Figure::new("least p of ends", least),
            Figure::new("least p of times", least_time),
            Figure::new("greatest difference of medians, ms", latest),
            Figure::new("bound of p", bound),
        ],
        note: told.into_iter().take(4).collect::<Vec<_>>().join("; "),
    })
}
