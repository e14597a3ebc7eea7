//! `./dev bench scale`: how cost grows, as figures, tables and plots.

use std::fs;
use std::io::{self, Write as _};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use qnet_bench::load;
use qnet_bench::pair::Contender;
use qnet_bench::peers::{Qnet, Relay};
use qnet_bench::report::machine;
use qnet_bench::scale::lab::{self, Lab};
use qnet_bench::scale::ladder::{self, Climb, Load};
use qnet_bench::scale::{Outcome, goals, page, streams};
use qnet_tests::support::decoy::{self, Decoy, Server};
use qnet_tests::support::isolate::{Isolated, isolated_program};

pub(crate) const HELP: &str = "\
qnet-bench scale [--connections LIST] [--streams LIST] [--rounds N] [--rate N] [--limit N] [--minute] [--only PARTS] [--write]
  --connections  how many there are at each step, comma-separated, growing (100,1000,10000). 100000 take more
                 descriptors than systems give by default, and some 10 GB of memory
  --streams      in one session (1,10,100,1000,10000)
  --rounds       of each size of writes, in turns (3)
  --rate         echoes a second at each step, of all connections together (1000)
  --limit        minutes for which connections are added, at most (60)
  --minute       at the last step a byte a minute of each connection, for two minutes
  --only         these alone, comma-separated: connections, streams, writes; the others' figures stay those of the last run
  --write        put tables and plots into docs/benchmarks-scale.md. The figures go beside the programs as scale.json in any case
";

/// Where `--write` puts the result, and the plot.
const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/benchmarks-scale.md");
const PLOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/images/benchmarks-scale.svg");

/// Where the figures go, beside the programs.
const DATA: &str = "scale.json";

/// Bytes of an echo: a small request and a small answer.
const MESSAGE: usize = 1_024;

/// How long a step's load takes, seconds.
const SECONDS: u64 = 20;

/// The decoy's idle limit where one stream is written to.
const DECOY_IDLE: Duration = Duration::from_secs(600);

struct Options {
    connections: Vec<usize>,
    streams: Vec<usize>,
    rounds: usize,
    rate: u32,
    limit: Duration,
    minute: bool,
    only: Option<String>,
    write: bool,
}

impl Options {
    /// `None` where help was asked for.
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Option<Self>> {
        let mut options = Self {
            connections: vec![100, 1_000, 10_000],
            streams: vec![1, 10, 100, 1_000, 10_000],
            rounds: 3,
            rate: 1_000,
            limit: Duration::from_secs(3_600),
            minute: false,
            only: None,
            write: false,
        };
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().with_context(|| format!("{argument} needs a value"));
            match argument.as_str() {
                "--connections" => options.connections = list(&value()?)?,
                "--streams" => options.streams = list(&value()?)?,
                "--rounds" => options.rounds = value()?.parse()?,
                "--rate" => options.rate = value()?.parse()?,
                "--limit" => options.limit = Duration::from_secs(value()?.parse::<u64>()? * 60),
                "--minute" => options.minute = true,
                "--only" => options.only = Some(value()?),
                "--write" => options.write = true,
                "--help" | "-h" => return Ok(None),
                other => bail!("unknown argument {other}; scale --help lists them"),
            }
        }
        ensure!(options.rate > 0 && options.rounds > 0, "rate and rounds must be above zero");
        Ok(Some(options))
    }

    fn wanted(&self, part: &str) -> bool {
        crate::wanted(self.only.as_deref(), part)
    }
}

fn list(text: &str) -> Result<Vec<usize>> {
    let list = text.split(',').map(str::parse).collect::<Result<Vec<usize>, _>>();
    let list = list.with_context(|| format!("{text} is no list of numbers"))?;
    ensure!(
        list.is_sorted_by(|one, next| one < next) && list.first() > Some(&0),
        "{text} does not grow from 1"
    );
    Ok(list)
}

/// Measures, in namespaces of its own.
pub(crate) fn run(arguments: impl Iterator<Item = String>) -> Result<()> {
    let Some(options) = Options::parse(arguments)? else {
        return Ok(io::stdout().write_all(HELP.as_bytes())?);
    };
    match isolated_program(|| measure(&options))? {
        Isolated::Inside(()) => Ok(()),
        Isolated::Outside(status) => {
            ensure!(status.success(), "it ended with {status}");
            Ok(())
        }
    }
}

fn measure(options: &Options) -> Result<()> {
    let descriptors = lab::prepare()?;
    let programs = lab::programs()?;
    let mut outcome = Outcome { machine: machine(), ..last(&programs, options)? };
    if options.wanted("writes") {
        let idle = decoy::Options { idle: DECOY_IDLE, ..decoy::Options::default() };
        let decoy = Decoy::start(Server::Nginx, idle)?;
        let qnet = Qnet::new(&decoy)?;
        let contenders: [&dyn Contender; 2] = [&Relay, &qnet];
        outcome.writes = streams::writes(&contenders, load::start()?, options.rounds)?;
    }
    if options.wanted("streams") {
        outcome.streams = streams::streams(&mut Lab::start(&programs)?, &options.streams)?;
    }
    if options.wanted("connections") {
        let load = Load { rate: options.rate, bytes: MESSAGE, seconds: SECONDS };
        outcome.ladders = Vec::new();
        for brief in [false, true] {
            let to = options.connections.clone();
            let climb = Climb { to, brief, descriptors, load, minute: options.minute, limit: options.limit };
            outcome.ladders.push(ladder::climb(&mut Lab::start(&programs)?, &climb)?);
        }
    }
    report(&outcome, options)
}

/// What the last run measured of what is not measured now.
fn last(programs: &Path, options: &Options) -> Result<Outcome> {
    let data = programs.join(DATA);
    if options.only.is_none() || !data.exists() {
        return Ok(Outcome::default());
    }
    serde_json::from_slice(&fs::read(&data)?).with_context(|| format!("{} is not to be read", data.display()))
}

fn report(outcome: &Outcome, options: &Options) -> Result<()> {
    let goals = goals::judge(&outcome.ladders, &outcome.streams);
    let tables = page::tables(outcome, &goals);
    writeln!(io::stdout(), "{tables}")?;
    let data = lab::programs()?.join(DATA);
    fs::write(&data, serde_json::to_vec_pretty(outcome)?)
        .with_context(|| format!("cannot write {}", data.display()))?;
    if options.write {
        let text = format!(
            "# Benchmarks of scale\n\nWritten by `./dev bench scale --write`. {EXPLAINED}\n\n{tables}\n![How cost grows](images/benchmarks-scale.svg)\n"
        );
        fs::write(PAGE, text).with_context(|| format!("cannot write {PAGE}"))?;
        fs::write(PLOT, page::plot(outcome)).with_context(|| format!("cannot write {PLOT}"))?;
        writeln!(io::stderr(), "bench: written to docs/benchmarks-scale.md")?;
    }
    Ok(())
}

const EXPLAINED: &str = "One bridge (`qnet-bridge run`), nginx with one worker as its decoy (RSA 2048), the load and an echo behind the bridge share one machine, over loopback in a namespace of their own; the system's port range is as it came. The load is one process that holds every session by the transport's own interface, from as many networks (/24) as there are connections, up to 65,536. Connections are added step by step and stay. Memory is `Rss` of `smaps_rollup`, less what it was with no connection; CPU is the processes' own clocks. nginx keeps connections for an hour and any number of requests. [What follows from it](scale.md).";

#[cfg(test)]
mod tests {
    use super::{Options, list};

    #[test]
    fn lists_grow() {
        assert_eq!(list("1,10,100").unwrap(), [1, 10, 100]);
        for wrong in ["", "0,1", "10,1", "1,1", "1,x"] {
            assert!(list(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn parts_are_all_or_those_named() {
        let parse = |words: &[&str]| Options::parse(words.iter().map(|word| (*word).to_owned()));
        let all = parse(&[]).unwrap().unwrap();
        assert!(["connections", "streams", "writes"].iter().all(|part| all.wanted(part)));
        let one = parse(&["--only", "writes", "--minute"]).unwrap().unwrap();
        assert!(one.wanted("writes") && !one.wanted("streams") && one.minute);
        assert!(parse(&["--help"]).unwrap().is_none());
        assert!(parse(&["--rate", "0"]).is_err() && parse(&["--rate"]).is_err() && parse(&["x"]).is_err());
    }
}
