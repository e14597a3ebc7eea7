//! How a browser loads pages, as the tables that `transport/proto/profiles/web.toml` holds: Chromium visits pages of different make
//! over plain TLS through the lab's wire, and what its bursts and the server's answers were is printed as quantiles, counts of them
//! among these. Each visit goes on to a further page of the site after a while, on the same connection: what it adds is what a new
//! stream of a carrier resembles.
//!
//! ```text
//! cargo run -p qnet-detectors --bin grammar -- [SITES] [VISITS]
//! ```
#![forbid(unsafe_code)]
#![expect(clippy::disallowed_methods, reason = "there is no executor here that a sleep could block")]

use std::fs::{self, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;
use std::{env, thread};

use anyhow::Result;
use qnet_tests::support::browser::Browser;
use qnet_tests::support::decoy::{Decoy, NAME, Options, Server};
use qnet_tests::support::isolate::{Isolated, isolated_program};
use qnet_tests::support::link::{Link, Trace};
use qnet_tests::support::process::wait_for;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};
use tempfile::TempDir;

/// Round trips of the paths, milliseconds.
const ROUND_TRIPS: [u64; 3] = [20, 60, 100];
/// A shorter record is control (SETTINGS, PING, WINDOW_UPDATE), not a request.
const SHORTEST_REQUEST: usize = 56;
/// The client's Finished message as a record.
const FINISHED: usize = 53;
/// A page's last request, in the server's log.
const LOADED: &str = "GET /loaded";
/// How long a visitor stays on the first page, milliseconds.
const STAY_MS: u64 = 3_000;
/// A client's burst after a silence this long begins the further page: longer than any pause within one.
const SILENCE: Duration = Duration::from_secs(2);
/// Requests from which a burst has more records than a TLS client's hello has segments.
const MANY: usize = 4;
/// How long one visit may take.
const LIMIT: Duration = Duration::from_secs(60);
/// What a browser does at leisure.
const AFTERWARDS: Duration = Duration::from_millis(300);
/// Quantiles that are printed, the least and the greatest among them.
const STEPS: usize = 17;

/// Kinds of a page's files: how many there are at most, and their sizes, bytes, from the tenth to the ninetieth percentile of
/// what the HTTP Archive finds (state of the web, desktop, 2024, rounded).
const KINDS: [Kind; 4] = [
    Kind { end: "css", most: 5, sizes: (1_000, 30_000) },
    Kind { end: "js", most: 12, sizes: (1_200, 90_000) },
    Kind { end: "png", most: 24, sizes: (900, 130_000) },
    Kind { end: "json", most: 6, sizes: (300, 20_000) },
];

struct Kind {
    end: &'static str,
    most: usize,
    sizes: (usize, usize),
}

fn main() -> Result<()> {
    match isolated_program(run)? {
        Isolated::Inside(()) => Ok(()),
        Isolated::Outside(status) if status.success() => Ok(()),
        Isolated::Outside(status) => anyhow::bail!("it ended with {status}"),
    }
}

fn run() -> Result<()> {
    let mut numbers = env::args().skip(1).map(|word| word.parse::<u64>());
    let (sites, visits) = (numbers.next().unwrap_or(Ok(16))?, numbers.next().unwrap_or(Ok(2))?);
    let mut seen = Grammar::default();
    for seed in 0..sites {
        let folder = TempDir::new()?;
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755))?;
        write_site(folder.path(), seed)?;
        let extra =
            format!("location / {{ root {}; }} location /loaded {{ return 204; }}", folder.path().display());
        let site = Decoy::start(Server::Nginx, Options { extra, ..Options::default() })?;
        for visit in 0..visits {
            let round_trip = ROUND_TRIPS[usize::try_from(seed + visit)? % ROUND_TRIPS.len()];
            visit_site(&site, Duration::from_millis(round_trip / 2), &mut seen)?;
        }
        writeln!(io::stderr(), "grammar: site {} of {sites}", seed + 1)?;
    }
    seen.print(sites, visits)
}

/// Two pages of a make of their own, the same every time; the first leads to the second.
fn write_site(folder: &Path, seed: u64) -> Result<()> {
    write_page(folder, seed, "index", &format!("setTimeout(() => location = '/next.html', {STAY_MS})"))?;
    write_page(folder, seed.wrapping_add(1 << 32), "next", "")
}

/// A page and its files. `then`: what its script does at last.
fn write_page(folder: &Path, seed: u64, page_name: &str, then: &str) -> Result<()> {
    let mut rng = ChaCha20Rng::seed_from_u64(seed);
    let mut draw = |below: usize| rng.next_u32() as usize % below.max(1);
    let (mut head, mut body, mut later) = (String::new(), String::new(), Vec::new());
    for kind in &KINDS {
        for number in 0..draw(kind.most + 1) {
            let name = format!("{}{number}.{}", ["a", "assets-", "static-v2-"][draw(3)], kind.end);
            let (low, high) = (kind.sizes.0 as f64, kind.sizes.1 as f64);
            #[expect(clippy::cast_possible_truncation, reason = "between two lengths")]
            let size = (low * (high / low).powf(draw(1_001) as f64 / 1_000.0)) as usize;
            let bytes: Vec<u8> = match kind.end {
                // Comments, so that they do nothing.
                "css" | "js" => [b"/*".as_slice(), &vec![b'x'; size], b"*/"].concat(),
                _ => (0..size).map(|_| draw(256).to_le_bytes()[0]).collect(),
            };
            fs::write(folder.join(&name), bytes)?;
            match kind.end {
                "css" => head.push_str(&format!("<link rel=stylesheet href=/{name}>")),
                "js" => head.push_str(&format!("<script defer src=/{name}></script>")),
                "png" => body.push_str(&format!("<img src=/{name} width=9 height=9>")),
                _ => later.push(format!("'/{name}'")),
            }
        }
    }
    let text: String =
        (0..2_000 + draw(60_000)).map(|_| char::from(b'a' + draw(26).to_le_bytes()[0])).collect();
    let script = format!(
        "onload = async () => {{ for (const one of [{}]) await (await fetch(one)).arrayBuffer(); await fetch('/loaded?{page_name}'); {then} }}",
        later.join(",")
    );
    let page =
        format!("<!doctype html><title>{seed}</title>{head}<p>{text}</p>{body}<script>{script}</script>");
    fs::write(folder.join(format!("{page_name}.html")), page)?;
    Ok(())
}

fn visit_site(site: &Decoy, delay: Duration, seen: &mut Grammar) -> Result<()> {
    let link = Link::start(site.address(), delay)?;
    let loaded = || site.access_log().unwrap_or_default().matches(LOADED).count();
    let before = loaded();
    let browser = Browser::open(NAME, link.address().port(), &["--ignore-certificate-errors"])?;
    wait_for("both pages", LIMIT, || Ok((loaded() > before + 1).then_some(())))?;
    thread::sleep(AFTERWARDS);
    drop(browser);
    for trace in link.traces() {
        seen.add(&trace, delay);
    }
    Ok(())
}

/// What was seen of page loads.
#[derive(Default)]
struct Grammar {
    /// Lengths of the client's records that are requests.
    requests: Vec<usize>,
    burst_bytes: Vec<usize>,
    burst_records: Vec<usize>,
    /// Milliseconds from the last byte of an answer to the next burst, at the client.
    gaps: Vec<usize>,
    answers: Vec<usize>,
    exchanges: Vec<usize>,
    /// Exchanges of a further page on a connection that has loaded one.
    further: Vec<usize>,
}

impl Grammar {
    fn add(&mut self, trace: &Trace, delay: Duration) {
        // At the client: what comes down is later there by the path's delay.
        let up = trace.up.records().iter().filter(|record| record.kind == 23 && record.length != FINISHED);
        let up = up
            .filter(|record| record.length >= SHORTEST_REQUEST)
            .map(|record| (record.at, true, record.length));
        let down = trace.down.records().iter().filter(|record| record.kind == 23);
        let down = down.map(|record| (record.at + delay, false, record.length));
        let mut all: Vec<(Duration, bool, usize)> = up.chain(down).collect();
        all.sort_by_key(|(at, ..)| *at);
        // The server's part of the handshake is no answer.
        let first = all.iter().position(|(_, up, _)| *up).unwrap_or(all.len());
        let (mut exchanges, mut further) = (0, 0);
        let mut heard: Option<Duration> = None;
        for run in all[first..].chunk_by(|one, other| one.1 == other.1) {
            let bytes = run.iter().map(|(_, _, length)| length + 5).sum();
            let (Some(begin), Some(end)) = (run.first(), run.last()) else { continue };
            let gap = heard.map(|heard| begin.0.saturating_sub(heard));
            if further > 0 || begin.1 && gap.is_some_and(|gap| gap >= SILENCE) {
                further += usize::from(begin.1);
            } else if begin.1 {
                exchanges += 1;
                self.requests.extend(run.iter().map(|(_, _, length)| *length));
                self.burst_bytes.push(bytes);
                self.burst_records.push(run.len());
                self.gaps.extend(gap.map(|gap| usize::try_from(gap.as_millis()).unwrap_or(usize::MAX)));
            } else {
                self.answers.push(bytes);
                heard = Some(end.0);
            }
        }
        self.exchanges.extend(Some(exchanges).filter(|exchanges| *exchanges > 0));
        self.further.extend(Some(further).filter(|further| *further > 0));
    }

    fn print(self, sites: u64, visits: u64) -> Result<()> {
        let mut out = io::stdout();
        let many: Vec<usize> = self.burst_records.iter().copied().filter(|count| *count >= MANY).collect();
        writeln!(
            out,
            "# {sites} pages, {visits} visits each, paths of {ROUND_TRIPS:?} ms, nginx, Chromium over plain TLS."
        )?;
        for (name, values) in [
            ("request records, bytes", self.requests),
            ("client bursts, bytes with headers", self.burst_bytes),
            ("records of a client's burst", self.burst_records),
            ("the same of bursts of four and more", many),
            ("gaps before a burst, ms", self.gaps),
            ("answers, bytes with headers", self.answers),
            ("exchanges of a connection", self.exchanges),
            ("exchanges of a further page on it", self.further),
        ] {
            writeln!(out, "# {name}: {} values\n{:?}", values.len(), quantiles(values))?;
        }
        Ok(())
    }
}

fn quantiles(mut values: Vec<usize>) -> Vec<usize> {
    values.sort_unstable();
    let last = values.len().saturating_sub(1);
    (0..STEPS).filter_map(|step| values.get(step * last / (STEPS - 1)).copied()).collect()
}
