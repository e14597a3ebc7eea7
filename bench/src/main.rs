//! `./dev bench`: QNet beside Debian's obfs4proxy, and beside other tunnels.
#![forbid(unsafe_code)]

mod apart;
mod beside;
mod endure;
mod grow;

use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;
use std::{env, fs, io};

use anyhow::{Context, Result, bail, ensure};
use qnet_allocator as _;
use qnet_bench::load;
use qnet_bench::measure::{self, Amount, Figure, SPEEDS};
use qnet_bench::pair::Contender;
use qnet_bench::peers::{self, relay};
use qnet_bench::plugin::Kind;
use qnet_bench::report::{Series, machine, ratios, table};
use qnet_bench::scale::{far, generator};
use qnet_tests::support::decoy::{self, Decoy, Server};

const HELP: &str = "\
qnet-bench [peers | slow | soak | scale] [--rounds N] [--megabytes N] [--connections N] [--only NAME] [--write] [--gate]
  scale          how cost grows with connections, streams and sizes of writes; scale --help says more
  peers          beside shadowsocks-rust, trojan, stunnel and a relay without cryptography as well, with more figures
  slow           one stream over long paths beside plain TCP
  soak           random streams through a bridge; takes --streams N (1,000,000), --minutes N (30), --at-once N (64),
                 --rest MINUTES (32; until it is looked what is left), --write
  --rounds       how often each transport is measured, in turns (5)
  --megabytes    payload each way, in one stream (512)
  --connections  idle connections at once (150)
  --only         measure these alone, comma-separated: obfs4, qnet, qnet-none (without shaping); of peers:
                 relay, qnet, qnet-pt, obfs4, ss-chacha20, ss-aes-128, trojan, stunnel; of slow: \"100 ms, no rate\" and the
                 like, with semicolons between
  --write        put the result into docs/benchmarks.md
  --gate         fail where the default profile's throughput is below 95 % of that without shaping, by medians: of qnet and
                 qnet-none alone, unless --only names more. On a machine that does other things at the time it may fail
                 without reason: rounds are interleaved, but a median of five still moves by several per cent
";

/// Where `--write` puts the result.
const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/benchmarks.md");

/// QNet without shaping, as the table calls it: what the default profile is compared with.
const UNSHAPED: &str = "qnet-none";

/// The default profile's throughput as a share of that, at least.
const LEAST_THROUGHPUT: f64 = 0.95;

/// The decoy's idle limit. A carrier ends with its decoy's connection, and none may end while it is measured.
const DECOY_IDLE: Duration = Duration::from_secs(600);

struct Options {
    rounds: usize,
    amount: Amount,
    only: Option<String>,
    write: bool,
    gate: bool,
}

impl Options {
    /// `None` where help was asked for.
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Option<Self>> {
        let mut options = Self {
            rounds: 5,
            // Well under the hellos that a bridge opens for one network at once.
            amount: Amount { bytes: 512_000_000, connections: 150 },
            only: None,
            write: false,
            gate: false,
        };
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().with_context(|| format!("{argument} needs a value"));
            match argument.as_str() {
                "--rounds" => options.rounds = value()?.parse()?,
                "--megabytes" => options.amount.bytes = value()?.parse::<u64>()? * 1_000_000,
                "--connections" => options.amount.connections = value()?.parse()?,
                "--only" => options.only = Some(value()?),
                "--write" => options.write = true,
                "--gate" => options.gate = true,
                "--help" | "-h" => return Ok(None),
                other => bail!("unknown argument {other}; --help lists them"),
            }
        }
        ensure!(
            options.rounds > 0 && options.amount.bytes > 0 && options.amount.connections > 0,
            "rounds, megabytes and connections must be above zero"
        );
        if options.gate {
            options.only.get_or_insert_with(|| format!("qnet,{UNSHAPED}"));
        }
        Ok(Some(options))
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let outcome = match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["relay", listen, to] => both(listen, to).and_then(|(listen, to)| relay(listen, to)),
        ["scale-far", listen] => listen.parse().map_err(Into::into).and_then(far::run),
        ["scale-generator", line, ca] => generator::run(line, Path::new(ca)),
        ["scale", ..] => grow::run(arguments.into_iter().skip(1)),
        ["peers", ..] => told(arguments.into_iter().skip(1), beside::run),
        ["soak", ..] => endure::run(arguments.into_iter().skip(1)),
        ["slow", ..] => told(arguments.into_iter().skip(1), apart::run),
        _ => told(arguments.into_iter(), run),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nothing is left to be told where standard error is closed.
            let _ = writeln!(io::stderr(), "bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn both(listen: &str, to: &str) -> Result<(SocketAddr, SocketAddr)> {
    Ok((listen.parse()?, to.parse()?))
}

fn told(arguments: impl Iterator<Item = String>, run: impl Fn(&Options) -> Result<()>) -> Result<()> {
    match Options::parse(arguments)? {
        Some(options) => run(&options),
        None => Ok(io::stdout().write_all(HELP.as_bytes())?),
    }
}

fn run(options: &Options) -> Result<()> {
    let decoy =
        Decoy::start(Server::Nginx, decoy::Options { idle: DECOY_IDLE, ..decoy::Options::default() })?;
    let kinds = kinds(options.only.as_deref(), &decoy)?;
    let contenders: Vec<&dyn Contender> = kinds.iter().map(|kind| kind as &dyn Contender).collect();
    let series =
        rounds(&contenders, options, |contender, far| measure::round(contender, far, options.amount))?;
    let mut result = format!("{}\n\n{}", machine(), table(&series));
    let found = |name: &str| series.iter().find(|series| series.name == name).cloned();
    let compared = found(UNSHAPED).zip(found("qnet"));
    if let Some((unshaped, shaped)) = &compared {
        result += &format!(
            "\nWhat the default profile costs, from the same rounds:\n\n{}",
            table(&[unshaped.clone(), shaped.clone()])
        );
    }
    writeln!(io::stdout(), "{result}")?;
    if options.write {
        fs::write(PAGE, page(&result, options)).with_context(|| format!("cannot write {PAGE}"))?;
        writeln!(io::stderr(), "bench: written to docs/benchmarks.md")?;
    }
    if options.gate {
        let (unshaped, shaped) = compared.context("the gate needs qnet and qnet-none")?;
        gate(&shaped, &unshaped)?;
    }
    Ok(())
}

/// What a shape may take of the throughput.
fn gate(shaped: &Series, unshaped: &Series) -> Result<()> {
    let ratios = ratios(shaped, unshaped, &SPEEDS);
    ensure!(ratios.len() == SPEEDS.len(), "not every throughput was measured: {ratios:?}");
    for (what, ratio) in ratios {
        ensure!(
            ratio >= LEAST_THROUGHPUT,
            "{what}: {ratio:.3} of what it is without shaping, where {LEAST_THROUGHPUT} are due"
        );
    }
    Ok(())
}

/// The contenders take turns.
fn rounds(
    contenders: &[&dyn Contender],
    options: &Options,
    measure: impl Fn(&dyn Contender, SocketAddr) -> Result<Vec<Figure>>,
) -> Result<Vec<Series>> {
    let far = load::start()?;
    let mut series: Vec<_> =
        contenders.iter().map(|one| Series { name: one.name().into(), rounds: Vec::new() }).collect();
    for round in 1..=options.rounds {
        for (contender, series) in contenders.iter().zip(&mut series) {
            let name = contender.name();
            writeln!(io::stderr(), "bench: round {round} of {}: {name}", options.rounds)?;
            let figures = measure(*contender, far).with_context(|| format!("{name}, round {round}"))?;
            series.rounds.push(figures);
        }
    }
    Ok(series)
}

/// What is measured, in the table's order; the first is what the others are compared with. qnet alone needs the decoy.
fn kinds(only: Option<&str>, decoy: &Decoy) -> Result<Vec<Kind>> {
    let wanted = |name: &str| wanted(only, name);
    let mut kinds = Vec::new();
    if wanted("obfs4") {
        kinds.push(Kind::obfs4()?);
    }
    if wanted("qnet") || wanted(UNSHAPED) {
        let program = peers::built("qnet-pt")?;
        let qnet = || Kind::qnet(program.clone(), decoy);
        kinds.extend(wanted("qnet").then(qnet));
        kinds.extend(wanted(UNSHAPED).then(|| qnet().by_profile(UNSHAPED, "none")));
    }
    ensure!(!kinds.is_empty(), "no such transport; --help names them");
    Ok(kinds)
}

fn wanted(only: Option<&str>, name: &str) -> bool {
    only.is_none_or(|only| only.split(',').any(|one| one == name))
}

fn page(result: &str, options: &Options) -> String {
    format!(
        "# Benchmarks\n\nWritten by `./dev bench --write`. Client and bridge run as tor would start them, on one machine \
         over loopback, with a sink\nand source of bytes in the place of tor's ORPort; transports take turns within each round. \
         One stream carries {} MB each\nway; then fresh processes hold {} idle connections.\n\n{result}",
        options.amount.bytes / 1_000_000,
        options.amount.connections,
    )
}
