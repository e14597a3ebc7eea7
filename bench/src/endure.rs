//! `./dev bench soak`: the table, the plot and the judgement.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::time::Duration;
use std::{env, fs};

use anyhow::{Context, Result, bail, ensure};
use qnet_bench::peers::built;
use qnet_bench::report::machine;
use qnet_bench::soak::{self, Amount, Report};
use serde_json::json;

/// Where `--write` puts the result, and the plot.
const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/benchmarks-endurance.md");
const PLOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/images/benchmarks-endurance.svg");

const EXPLAINED: &str = "\
# Endurance

Written by `./dev bench soak --write`. Random streams go through one `qnet-bridge run` before nginx: by one `qnet proxy` that lasts and
two that are ended and replaced every 4 to 12 seconds. A stream carries 0 bytes to 1 MB each way, short ones far more often than long
ones; 4 of 10 are broken off or reset by either side at a random place, the others end in order; both sides pause
at random. Every 12 to 36 seconds all carriers are reset, and carriers freeze after 30 to 400 MiB. Both ends check every byte by its
place in the stream. A stream is stuck if it has not ended after 90 seconds. Memory is flat if the median of the last quarter's samples,
one a second, is at most that of the second quarter's, a twentieth of it and 1 MiB.

A session whose proxy ended without a word, since its carrier was frozen or cut just then, is kept by the bridge for half an hour, in case the
client comes back, and so are the connections that its streams led to: their far ends are stuck. What is left is looked at after a rest in which
nothing happens, which is longer than that by default. No near end of a stream was stuck where no numbers are named.
";

pub(crate) fn run(mut arguments: impl Iterator<Item = String>) -> Result<()> {
    let minutes = |count: u64| Duration::from_secs(60 * count);
    let mut amount = Amount { streams: 1_000_000, time: minutes(30), at_once: 64, rest: minutes(32) };
    let mut write = false;
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().with_context(|| format!("{argument} needs a value"));
        match argument.as_str() {
            "--streams" => amount.streams = value()?.parse()?,
            "--minutes" => amount.time = minutes(value()?.parse()?),
            "--rest" => amount.rest = minutes(value()?.parse()?),
            "--at-once" => amount.at_once = value()?.parse()?,
            "--write" => write = true,
            other => bail!("unknown argument {other}; --help lists them"),
        }
    }
    ensure!(amount.streams > 0 && amount.at_once > 0, "streams must be above zero");
    let programs = [built("qnet")?, built("qnet-bridge")?];
    let report = soak::run(programs, amount, |sample| {
        // Nothing is left to be told where standard error is closed.
        let [client, bridge] = sample.resident.map(|bytes| bytes >> 10);
        let _ = write!(
            io::stderr(),
            "\rbench: {} streams; client {client} KiB, bridge {bridge} KiB  ",
            sample.streams
        );
    })?;
    let _ = writeln!(io::stderr());
    let data = env::current_exe()?.with_file_name("soak.json");
    fs::write(&data, as_json(&report).to_string())
        .with_context(|| format!("cannot write {}", data.display()))?;
    let mut faults = report.faults();
    faults.extend(report.creeping());
    let result = format!("{}\n\n{}", machine(), said(&report, amount.rest, &faults));
    writeln!(io::stdout(), "{result}")?;
    if write {
        let page =
            format!("{EXPLAINED}\n{result}\n![Memory over streams](images/benchmarks-endurance.svg)\n");
        fs::write(PAGE, page).with_context(|| format!("cannot write {PAGE}"))?;
        fs::write(PLOT, plot(&report)).with_context(|| format!("cannot write {PLOT}"))?;
        writeln!(io::stderr(), "bench: written to docs/benchmarks-endurance.md")?;
    }
    ensure!(faults.is_empty(), "{}", faults.join("; "));
    Ok(())
}

fn said(report: &Report, rest: Duration, faults: &[String]) -> String {
    let median = |side: usize, from: usize| {
        let quarter = report.samples.len() / 4;
        let part = report.samples.get(from * quarter..(from + 1) * quarter).unwrap_or_default();
        let mut memory: Vec<u64> = part.iter().map(|sample| sample.resident[side]).collect();
        memory.sort_unstable();
        memory.get(memory.len() / 2).map_or(0, |bytes| bytes >> 10)
    };
    let [before, after] = report.rest;
    let mut text = String::from("| | |\n|---|--:|\n");
    let mut row = |what: &str, figure: String| {
        let _ = writeln!(text, "| {what} | {figure} |");
    };
    row("streams", report.streams.to_string());
    row("time (s)", report.took.as_secs().to_string());
    row("rest before it was looked what is left (s)", rest.as_secs().to_string());
    row("payload planned, both ways (MB)", (report.bytes / 1_000_000).to_string());
    row("ended in order, every byte right", report.whole.to_string());
    row("broken off as planned, every byte up to there right", report.broken.to_string());
    row("ended with their proxy", report.ended_with_proxy.to_string());
    row("lost with an error in a session that lasted", report.lost.to_string());
    row("ended early without an error in a session that lasted", report.silent.to_string());
    row("with a wrong byte", report.corrupt.to_string());
    row("stuck", report.stuck.to_string());
    row("proxies that came and went", report.sessions.to_string());
    row("carriers in all", report.carriers.to_string());
    row("carriers cut", report.cut.to_string());
    row("carriers frozen", report.frozen.to_string());
    for (side, name) in ["client", "bridge"].into_iter().enumerate() {
        let quarters: Vec<String> = (0..4).map(|from| median(side, from).to_string()).collect();
        row(&format!("{name}: resident, medians of the four quarters (KiB)"), quarters.join(", "));
        let memory = [before, after].map(|sample| (sample.resident[side] >> 10).to_string());
        row(&format!("{name}: resident at rest, before and after (KiB)"), memory.join(", "));
        let descriptors = [before, after].map(|sample| sample.descriptors[side].to_string());
        row(&format!("{name}: descriptors at rest, before and after"), descriptors.join(", "));
    }
    text.push('\n');
    if faults.is_empty() {
        text.push_str(
            "All of it holds: no wrong byte, none lost, none stuck, memory flat, descriptors as before.\n",
        );
    }
    for fault in faults {
        let _ = writeln!(text, "- **does not hold**: {fault}");
    }
    text
}

fn as_json(report: &Report) -> serde_json::Value {
    let sample = |sample: &soak::Sample| json!({ "streams": sample.streams, "resident": sample.resident, "descriptors": sample.descriptors });
    json!({
        "streams": report.streams,
        "seconds": report.took.as_secs_f64(),
        "bytes": report.bytes,
        "whole": report.whole,
        "broken": report.broken,
        "ended_with_proxy": report.ended_with_proxy,
        "lost": report.lost,
        "silent": report.silent,
        "corrupt": report.corrupt,
        "stuck": report.stuck,
        "wrong": report.wrong,
        "sessions": report.sessions,
        "carriers": report.carriers,
        "cut": report.cut,
        "frozen": report.frozen,
        "rest": report.rest.iter().map(sample).collect::<Vec<_>>(),
        "samples": report.samples.iter().map(sample).collect::<Vec<_>>(),
    })
}

/// Both programs' memory over the streams that had ended, as SVG.
#[expect(clippy::cast_precision_loss, reason = "a plot has fewer pixels")]
fn plot(report: &Report) -> String {
    let streams = report.streams.max(1) as f64;
    let most = report.samples.iter().flat_map(|sample| sample.resident).max().unwrap_or(1) as f64;
    let mut body = String::new();
    for (side, (name, colour)) in [("client", "#9a5a1a"), ("bridge", "#2a6fb0")].into_iter().enumerate() {
        let points: Vec<String> = report
            .samples
            .iter()
            .map(|sample| {
                let x = 60.0 + 620.0 * sample.streams as f64 / streams;
                let y = 280.0 - 250.0 * sample.resident[side] as f64 / most;
                format!("{x:.1},{y:.1}")
            })
            .collect();
        let _ = writeln!(
            body,
            r#"<polyline points="{}" fill="none" stroke="{colour}"/><text x="{}" y="18" fill="{colour}">{name}</text>"#,
            points.join(" "),
            60 + 80 * side
        );
    }
    let _ = writeln!(
        body,
        concat!(
            r##"<path d="M60 30V280H680" fill="none" stroke="#222"/><text x="54" y="34" text-anchor="end">{:.0} MiB</text>"##,
            r##"<text x="54" y="284" text-anchor="end">0</text><text x="680" y="298" text-anchor="end">{} streams</text>"##
        ),
        most / f64::from(1 << 20),
        report.streams
    );
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 720 310\" font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n{body}</svg>\n"
    )
}
