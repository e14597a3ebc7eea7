//! `./dev bench slow`: the tables and the goals.

use std::fs;
use std::io::{self, Write as _};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use qnet_bench::peers::Qnet;
use qnet_bench::report::{Series, machine, table};
use qnet_bench::slow::{self, Case, Needed};
use qnet_tests::support::decoy::{self, Decoy, Server};

use crate::{DECOY_IDLE, Options};

/// Where `--write` puts the result.
const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/benchmarks-slow.md");

const EXPLAINED: &str = "\
# Benchmarks over long paths

Written by `./dev bench slow --write`. Plain TCP and QNet (`qnet proxy` to `qnet-bridge run` before nginx) take turns (where segments
are lost, and both are mostly waiting, they go at once; so do paths with a rate, without and with losses) over a path in user space that delays every byte by half the round trip each way and does what the sender's TCP would on such a path: a window that
begins with ten segments of 1,460 bytes, doubles each round trip, ends at 6 MiB (the most that Linux's receivers grant unless told
otherwise), is paced by the rate where there is one. Of segments \"lost\", drawn one by one, each makes the path stand still for a round
trip and halves the window. So it is a model of a path, not a path; it is the same for both. A stream is \"under way\" after 25 round
trips; the first connection of QNet makes its session, of the further ones every TCP connection is a new one and QNet's a new
stream of that session.
";

/// What a case came to.
struct Measured {
    plain: Series,
    qnet: Series,
    /// In each round.
    needed: Vec<Needed>,
}

/// All paths.
pub(crate) fn run(options: &Options) -> Result<()> {
    let decoy =
        Decoy::start(Server::Nginx, decoy::Options { idle: DECOY_IDLE, ..decoy::Options::default() })?;
    let qnet = Qnet::new(&decoy)?;
    let cases: Vec<Case> =
        slow::cases().into_iter().filter(|case| chosen(options.only.as_deref(), case.name)).collect();
    ensure!(!cases.is_empty(), "no such path; --help names them");
    // Little of each is work: paths of a kind take turns, and the kinds go at once.
    let kind = |case: &Case| {
        (case.path.rate, if case.path.lost > 0 { case.path.round_trip } else { Duration::ZERO })
    };
    let mut kinds: Vec<Vec<Case>> = Vec::new();
    for case in cases {
        match kinds.iter_mut().find(|same| same.first().is_some_and(|first| kind(first) == kind(&case))) {
            Some(same) => same.push(case),
            None => kinds.push(vec![case]),
        }
    }
    let (rounds, qnet) = (options.rounds, &qnet);
    let measured = thread::scope(|scope| {
        let one = |case: &Case| Ok((case.name, measure(case, rounds, qnet)?));
        let running: Vec<_> = kinds
            .iter()
            .map(|cases| scope.spawn(move || cases.iter().map(one).collect::<Result<Vec<_>>>()))
            .collect();
        let ended =
            running.into_iter().map(|one| one.join().map_err(|_| anyhow!("a measurement panicked"))?);
        ended.collect::<Result<Vec<_>>>()
    })?;
    let measured: Vec<_> = measured.into_iter().flatten().collect();
    let result = said(&measured);
    writeln!(io::stdout(), "{result}")?;
    if options.write {
        fs::write(PAGE, format!("{EXPLAINED}\n{result}")).with_context(|| format!("cannot write {PAGE}"))?;
        writeln!(io::stderr(), "bench: written to docs/benchmarks-slow.md")?;
    }
    Ok(())
}

/// Names hold commas.
fn chosen(only: Option<&str>, name: &str) -> bool {
    only.is_none_or(|only| only.split(';').any(|one| one.trim() == name))
}

fn measure(case: &Case, rounds: usize, qnet: &Qnet) -> Result<Measured> {
    let empty = |name: &str| Series { name: name.into(), rounds: Vec::new() };
    let mut measured = Measured { plain: empty("plain TCP"), qnet: empty("qnet"), needed: Vec::new() };
    for round in 1..=rounds {
        writeln!(io::stderr(), "bench: round {round} of {rounds}: {}", case.name)?;
        let ([plain, tunnelled], needed) =
            slow::round(case, round, qnet).with_context(|| format!("{}, round {round}", case.name))?;
        measured.plain.rounds.push(plain);
        measured.qnet.rounds.push(tunnelled);
        measured.needed.push(needed);
    }
    Ok(measured)
}

fn said(measured: &[(&str, Measured)]) -> String {
    let mut text = format!("{}\n", machine());
    for (name, Measured { plain, qnet, needed }) in measured {
        let most = |side: usize| needed.iter().map(|one| one.memory[side] >> 20).max().unwrap_or(0);
        let (client, bridge) = (most(0), most(1));
        let carriers: Vec<String> = needed.iter().map(|one| one.carriers.to_string()).collect();
        text += &format!(
            "\n## {name}\n\n{}\nResident at the most: client {client} MiB, bridge {bridge} MiB. Carriers in each round: {}.\n",
            table(&[plain.clone(), qnet.clone()]),
            carriers.join(", ")
        );
    }
    text += "\n| goal | measured | |\n|---|--:|---|\n";
    for (name, Measured { plain, qnet, .. }) in measured {
        for goal in slow::judge(name, plain, qnet) {
            let holds = if goal.holds { "holds" } else { "**does not hold**" };
            text += &format!("| {} | {} | {holds} |\n", goal.what, goal.measured);
        }
    }
    text
}
