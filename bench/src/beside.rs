//! `./dev bench peers`: the table, the goals and the plot.

use std::io::{self, Write as _};
use std::{env, fs};

use anyhow::{Context, Result};
use qnet_bench::goals::{self, Goal};
use qnet_bench::limit::{Passes, per_gigabyte};
use qnet_bench::measure;
use qnet_bench::pair::Contender;
use qnet_bench::peers::{Qnet, Relay, Shadowsocks, Stunnel, Trojan, built};
use qnet_bench::plugin::Kind;
use qnet_bench::report::{beside, machine, plot};
use qnet_bench::streams;
use qnet_tests::support::decoy::{self, Decoy, Server};

use crate::{DECOY_IDLE, Options, rounds, wanted};

/// Where `--write` puts the result, and the plot.
const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/benchmarks-peers.md");
const PLOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/images/benchmarks-peers.svg");

/// All contenders in turns, with all figures.
pub(crate) fn run(options: &Options) -> Result<()> {
    let decoy =
        Decoy::start(Server::Nginx, decoy::Options { idle: DECOY_IDLE, ..decoy::Options::default() })?;
    let contenders = contenders(options.only.as_deref(), &decoy)?;
    let all: Vec<&dyn Contender> = contenders.iter().map(AsRef::as_ref).collect();
    let series = rounds(&all, options, |contender, far| {
        let mut figures = measure::round(contender, far, options.amount)?;
        figures.extend(streams::round(contender, far)?);
        Ok(figures)
    })?;
    let passes = Passes::measured();
    let goals = goals::judge(&series, &passes);
    let result = format!("{}\n\n{}\n{}", machine(), beside(&series), said(&goals, &passes));
    writeln!(io::stdout(), "{result}")?;
    if options.write {
        let page = format!(
            "# Benchmarks beside other tunnels\n\nWritten by `./dev bench peers --write`. {}\n\n{result}\n![CPU and speed](images/benchmarks-peers.svg)\n",
            explained(options)
        );
        fs::write(PAGE, page).with_context(|| format!("cannot write {PAGE}"))?;
        fs::write(PLOT, plot(&series)).with_context(|| format!("cannot write {PLOT}"))?;
        writeln!(io::stderr(), "bench: written to docs/benchmarks-peers.md")?;
    }
    Ok(())
}

type Maker<'a> = &'a dyn Fn() -> Result<Box<dyn Contender>>;

/// In the table's order.
fn contenders(only: Option<&str>, decoy: &Decoy) -> Result<Vec<Box<dyn Contender>>> {
    let makers: [(&str, Maker); 8] = [
        ("relay", &|| Ok(Box::new(Relay))),
        ("qnet", &|| Ok(Box::new(Qnet::new(decoy)?))),
        ("qnet-pt", &|| Ok(Box::new(Kind { name: "qnet-pt", ..Kind::qnet(built("qnet-pt")?, decoy) }))),
        ("obfs4", &|| Ok(Box::new(Kind::obfs4()?))),
        ("ss-chacha20", &|| Ok(Box::new(Shadowsocks::new("ss-chacha20", "chacha20-ietf-poly1305")?))),
        ("ss-aes-128", &|| Ok(Box::new(Shadowsocks::new("ss-aes-128", "aes-128-gcm")?))),
        ("trojan", &|| Ok(Box::new(Trojan::new()?))),
        ("stunnel", &|| Ok(Box::new(Stunnel::new()?))),
    ];
    let chosen: Vec<_> = makers.iter().filter(|(name, _)| wanted(only, name)).collect();
    anyhow::ensure!(!chosen.is_empty(), "no such contender; --help names them");
    chosen.into_iter().map(|(_, make)| make()).collect()
}

fn said(goals: &[Goal], passes: &Passes) -> String {
    let [sealing, opening] = passes.aes.map(per_gigabyte);
    let mut text = format!(
        "Sealing a gigabyte in records of 16 KiB takes one core {sealing:.3} s, opening it {opening:.3} s (AES-256-GCM, by the \
         library that QNet has).\n\n| goal | measured | |\n|---|--:|---|\n"
    );
    for goal in goals {
        text += &format!(
            "| {} | {} | {} |\n",
            goal.what,
            goal.measured,
            if goal.holds { "holds" } else { "**does not hold**" }
        );
    }
    text
}

fn explained(options: &Options) -> String {
    format!(
        "Client and server of each are on one machine over loopback, with a sink and source of bytes behind; they take turns within \
         each round. `relay` is two relays that copy and do nothing else; `qnet` is `qnet proxy` and `qnet-bridge run`, whose streams \
         share a session, `qnet-pt` and `obfs4` are what tor starts, one session a connection. shadowsocks is shadowsocks-rust, the rest \
         Debian's. One stream carries {} MB each way, 64 streams go down for two seconds; {} connections (streams of `qnet`) rest.",
        options.amount.bytes / 1_000_000,
        options.amount.connections,
    )
}
