//! How servers cut long answers into TLS records: curl loads the decoy's page, its 20 MB file, and after a pause the file again, over
//! one connection through the lab's wire. What is printed are runs of records, by how much the connection had carried.
//!
//! ```text
//! cargo run -p qnet-detectors --bin bulk -- [PAUSE, seconds]
//! ```
#![forbid(unsafe_code)]

use std::io::{self, Write as _};
use std::process::{Command, Stdio};
use std::time::Duration;
use std::{env, iter};

use anyhow::{Context as _, Result, ensure};
use qnet_tests::support::decoy::{Decoy, NAME, Options, Server};
use qnet_tests::support::flow::Record;
use qnet_tests::support::isolate::{Isolated, isolated_program};
use qnet_tests::support::link::Link;

/// The path's delay one way.
const DELAY: Duration = Duration::from_millis(10);
/// What is loaded at once before the file.
const PAGE: [&str; 3] = ["index.html", "map.png", "boat.png"];
/// The file.
const FILE: &str = "tours.zip";
/// Where the connection's bytes are cut for the table: a segment's records, Go's and Apache's limits, and the rest.
const STEPS: [usize; 9] =
    [8_192, 32_768, 65_536, 131_072, 262_144, 524_288, 1_048_576, 2_097_152, usize::MAX];

fn main() -> Result<()> {
    match isolated_program(run)? {
        Isolated::Inside(()) => Ok(()),
        Isolated::Outside(status) if status.success() => Ok(()),
        Isolated::Outside(status) => anyhow::bail!("it ended with {status}"),
    }
}

fn run() -> Result<()> {
    let pause = env::args().nth(1).map_or(Ok(3), |word| word.parse::<u64>())?;
    for server in Server::ALL {
        let decoy = Decoy::start(server, Options::default())?;
        let link = Link::start(decoy.address(), DELAY)?;
        download(&decoy, link.address().port(), pause)?;
        let traces = link.traces();
        let trace = traces.first().context("nothing came by")?;
        let records: Vec<Record> =
            trace.down.records().iter().filter(|record| record.kind == 23).cloned().collect();
        writeln!(io::stdout(), "{server:?}")?;
        let quiet = Duration::from_secs(pause) / 3;
        // The page's load and the first download, then the second.
        for part in records.chunk_by(|one, next| next.at.saturating_sub(one.at) < quiet) {
            print(part)?;
        }
    }
    Ok(())
}

fn download(decoy: &Decoy, port: u16, pause: u64) -> Result<()> {
    let urls = |paths: &[&str]| -> Vec<String> {
        paths.iter().map(|path| format!("https://{NAME}:{port}/{path}")).collect()
    };
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--http2", "--insecure", "--rate", &format!("{}/m", 60 / pause.max(1))]);
    curl.args(["--resolve", &format!("{NAME}:{port}:127.0.0.1")]);
    let all = [urls(&PAGE), urls(&[FILE, FILE])].concat();
    curl.args(all.iter().flat_map(|url| ["--output", "/dev/null", url]));
    let status = curl.stdin(Stdio::null()).status().context("curl")?;
    ensure!(status.success(), "{:?}: curl ended with {status}", decoy.address());
    Ok(())
}

fn print(records: &[Record]) -> Result<()> {
    let mut out = io::stdout();
    let mut begin = 0;
    let mut carried = 0;
    let mut left = records;
    for step in STEPS {
        let here = left
            .iter()
            .take_while(|record| {
                let whole = carried < step;
                carried += if whole { record.length } else { 0 };
                whole
            })
            .count();
        let (part, rest) = left.split_at(here);
        left = rest;
        let mut lengths: Vec<usize> = part.iter().map(|record| record.length).collect();
        lengths.sort_unstable();
        let (Some(most), Some(middle)) = (lengths.last(), lengths.get(lengths.len() / 2)) else { continue };
        let first: Vec<usize> = part.iter().map(|record| record.length).take(12).collect();
        writeln!(out, "  from {begin}: {} records, middle {middle}, longest {most}; {first:?}", part.len())?;
        begin = step;
    }
    writeln!(out, "  {} bytes{}", carried, iter::repeat_n('-', 8).collect::<String>())?;
    Ok(())
}
