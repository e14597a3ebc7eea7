//! Makes the visits, in rounds that are kept as files: a run that was cut short goes on where it ended, and what was captured of
//! programs that have not changed since is not captured again.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use qnet_tests::support::decoy::{Decoy, Options, Server};
use qnet_tests::support::isolate::ethernet;
use qnet_tests::support::link::Link;
use qnet_transport::Shape;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};

use super::pages::{self, Sites};
use super::road::{Behind, Road};
use crate::capture::{Connection, Way};
use crate::transport::Kind;
use qnet_tests::support::devtools::{Browser, Page};

/// What QNet is made of.
const TRANSPORT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../transport");

/// One way.
pub(super) const DELAY: Duration = Duration::from_millis(10);

/// How long one page may take on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

/// How often a page is tried: a run of hours is not to end with one connection that failed.
const TRIES: usize = 3;

/// A visit is over when the wire has been silent for so long, or after so much more than the page took: what a transport says
/// after a page belongs to what a censor sees of it.
const SILENT: Duration = Duration::from_millis(100);
const LINGER: Duration = Duration::from_secs(2);

/// How often the wire is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// By what the pages are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Means {
    /// The transport.
    pub(super) kind: Kind,
    /// QNet's profile, where the bridge line names one.
    pub(super) profile: Option<Shape>,
    /// Whether each visit has a client, and so a connection, of its own; or all visits of a round share them as a user's do.
    pub(super) fresh: bool,
}

impl Means {
    /// For people, and as a folder's name.
    pub(super) fn name(&self) -> String {
        let mut name = format!("{:?}", self.kind).to_lowercase();
        if let Some(profile) = self.profile {
            name.push_str(&format!(" {}", profile.profile().name));
        }
        match (self.kind, self.fresh) {
            (Kind::Qnet | Kind::QnetWebsocket, true) => name.push_str(", a carrier for each visit"),
            (Kind::Qnet | Kind::QnetWebsocket, false) => name.push_str(", one carrier for many visits"),
            _ => {}
        }
        name
    }
}

/// One visit: its packets on all its connections, and how long the page took.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Visit {
    /// Which page.
    pub(super) page: usize,
    /// Seconds since the visit began, and payload, bytes, negative where the server sent it.
    pub(super) packets: Vec<(f64, i64)>,
    /// Until the page was loaded, seconds.
    pub(super) took: f64,
}

/// What visits are made with, whatever the means.
pub(super) struct Visitor {
    sites: Sites,
    pages: usize,
    decoy: Decoy,
    behind: Behind,
    browser: Browser,
    qnet_pt: PathBuf,
    kept: PathBuf,
}

impl Visitor {
    /// Starts the sites, a decoy and the browser; rounds are kept in `kept`.
    pub(super) fn start(pages: usize, qnet_pt: &Path, kept: &Path) -> Result<Self> {
        ethernet()?;
        let sites = Sites::start(pages)?;
        Ok(Self {
            behind: Behind::start(sites.address())?,
            sites,
            pages,
            decoy: Decoy::start(Server::Nginx, Options { idle: LIMIT * 10, ..Options::default() })?,
            browser: Browser::start(&format!("MAP *.{} 127.0.0.1", pages::DOMAIN))?,
            qnet_pt: qnet_pt.to_owned(),
            kept: kept.to_owned(),
        })
    }

    /// Visits every page so many times by each of these means. A round is one visit to each page, in another order each time, and rounds take
    /// turns with those of other means: what changes with time tells neither pages nor means apart.
    pub(super) fn visits(&mut self, means: &[Means], rounds: usize) -> Result<Vec<Vec<Visit>>> {
        let folders = means.iter().map(|means| self.folder(means)).collect::<Result<Vec<_>>>()?;
        let files = |round: usize| folders.iter().map(move |folder| kept(folder, round));
        let mut left = (0..rounds).flat_map(files).filter(|file| !file.exists()).count();
        if left > 0 {
            self.estimate(means, &folders, rounds)?;
        }
        let (begun, mut made) = (Instant::now(), 0u32);
        let mut all = vec![Vec::new(); means.len()];
        for round in 0..rounds {
            for ((means, file), visits) in means.iter().zip(files(round)).zip(&mut all) {
                if let Ok(kept) = fs::read(&file) {
                    visits.extend(serde_json::from_slice::<Vec<Visit>>(&kept).context("a kept round")?);
                    continue;
                }
                let found = self.round(means, round)?;
                // Whole or not at all.
                let unfinished = file.with_extension("unfinished");
                fs::write(&unfinished, serde_json::to_vec(&found)?)?;
                fs::rename(&unfinished, &file)?;
                visits.extend(found);
                (made, left) = (made + 1, left.saturating_sub(1));
            }
            let each = begun.elapsed() / made.max(1);
            tell(&format!(
                "round {} of {rounds}, {:.2} s a visit, about {} minutes to go",
                round + 1,
                each.as_secs_f64() / self.pages as f64,
                (each * u32::try_from(left).unwrap_or(u32::MAX)).as_secs().div_ceil(60)
            ));
        }
        Ok(all)
    }

    /// Visits one page by each of the means that have rounds to make, and says how long a visit takes by each, and how long all
    /// will.
    fn estimate(&mut self, means: &[Means], folders: &[PathBuf], rounds: usize) -> Result<()> {
        let mut all = Duration::ZERO;
        for (means, folder) in means.iter().zip(folders) {
            let missing = (0..rounds).filter(|round| !kept(folder, *round).exists()).count();
            if missing == 0 {
                continue;
            }
            let mut begun = Instant::now();
            let road = self.road(means)?;
            if !means.fresh {
                // All visits of a round share it.
                begun = Instant::now();
            }
            let visit = self.visit(&road, 0, means.fresh)?;
            drop(road);
            let took = begun.elapsed();
            let visits = u32::try_from(missing * self.pages)?;
            all += took * visits;
            tell(&format!(
                "a visit takes {:.2} s ({:.2} s of them the page): {visits} visits, {}",
                took.as_secs_f64(),
                visit.took,
                means.name()
            ));
        }
        tell(&format!("about {} minutes for all visits that are missing", all.as_secs().div_ceil(60)));
        Ok(())
    }

    /// Where rounds by these means are kept.
    fn folder(&self, means: &Means) -> Result<PathBuf> {
        let name = means.name().replace(", ", "-").replace(' ', "-");
        let folder = self.kept.join(format!("{name}-{:016x}", self.key(means)?));
        fs::create_dir_all(&folder)?;
        Ok(folder)
    }

    /// What the visits depend on: programs, sites and the path.
    fn key(&self, means: &Means) -> Result<u64> {
        let mut hasher = DefaultHasher::new();
        (pages::VERSION, self.pages, DELAY, SILENT).hash(&mut hasher);
        let mut programs = vec![PathBuf::from("/usr/lib/chromium/chromium")];
        match means.kind {
            Kind::Qnet | Kind::QnetWebsocket => hash_sources(Path::new(TRANSPORT), &mut hasher)?,
            Kind::Obfs4 => programs.extend(qnet_bench::peers::find("obfs4proxy")),
            _ => {}
        }
        for program in programs {
            // A quarter of a gigabyte, where it is the browser's: its length and when it was installed say enough.
            let known = fs::metadata(&program).and_then(|file| Ok((file.len(), file.modified()?)));
            known.with_context(|| program.display().to_string())?.hash(&mut hasher);
        }
        Ok(hasher.finish())
    }

    /// One visit to each page.
    fn round(&mut self, means: &Means, number: usize) -> Result<Vec<Visit>> {
        let mut order: Vec<usize> = (0..self.pages).collect();
        let mut rng = ChaCha20Rng::seed_from_u64(number as u64);
        for left in (1..order.len()).rev() {
            order.swap(left, rng.next_u32() as usize % (left + 1));
        }
        let mut running = None;
        order
            .into_iter()
            .map(|page| {
                if means.fresh {
                    running = None;
                }
                let mut tries = 0;
                loop {
                    let road = match running.take() {
                        Some(road) => road,
                        None => self.road(means)?,
                    };
                    tries += 1;
                    match self.visit(&road, page, means.fresh) {
                        Ok(visit) => {
                            running = Some(road);
                            return Ok(visit);
                        }
                        Err(error) if tries == TRIES => return Err(error.context(means.name())),
                        // With all new.
                        Err(_) => {}
                    }
                }
            })
            .collect()
    }

    fn road(&self, means: &Means) -> Result<Road> {
        let sites = self.sites.address();
        match means.kind {
            Kind::Qnet => Road::qnet(&self.decoy, means.profile, sites, !means.fresh),
            Kind::QnetWebsocket => Road::websocket(&self.behind, !means.fresh),
            other => Road::other(other, &self.decoy, &self.qnet_pt, sites),
        }
    }

    /// One visit, which may be the only one on this road.
    fn visit(&mut self, road: &Road, page: usize, only: bool) -> Result<Visit> {
        let begun = Instant::now();
        let loaded = self.browser.open(&Sites::url(page, road.entry().port()), LIMIT)?;
        silence(road.link());
        let packets = packets(road.link(), begun)?;
        self.browser.close(&loaded)?;
        if !only {
            // What ends is not the next visit's.
            silence(road.link());
        }
        let Page { took, .. } = loaded;
        Ok(Visit { page, packets, took: took.as_secs_f64() })
    }
}

/// Where a round is kept.
fn kept(folder: &Path, round: usize) -> PathBuf {
    folder.join(format!("{round:03}.json"))
}

fn tell(what: &str) {
    // Who reads a terminal that is gone needs no estimate.
    let _ = writeln!(io::stderr(), "detect: {what}");
}

/// All of Rust below a folder, in the order of its names.
fn hash_sources(folder: &Path, hasher: &mut DefaultHasher) -> Result<()> {
    let mut entries = fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    entries.sort();
    for entry in entries {
        if entry.is_dir() {
            hash_sources(&entry, hasher)?;
        } else if entry.extension().is_some_and(|end| end == "rs" || end == "toml") {
            (entry.file_name(), fs::read(&entry)?).hash(hasher);
        }
    }
    Ok(())
}

/// Waits until nothing passes any more.
fn silence(link: &Link) {
    let (begun, mut since, mut known) = (Instant::now(), Instant::now(), link.passed());
    while since.elapsed() < SILENT && begun.elapsed() < LINGER {
        thread::sleep(LOOK);
        let now = link.passed();
        if now != known {
            (known, since) = (now, Instant::now());
        }
    }
}

/// What passed since, on all connections.
fn packets(link: &Link, begun: Instant) -> Result<Vec<(f64, i64)>> {
    let mut packets: Vec<(f64, i64)> = Vec::new();
    for trace in link.watched_traces(0)? {
        let later = trace.begun().saturating_duration_since(begun).as_secs_f64();
        let earlier = begun.saturating_duration_since(trace.begun()).as_secs_f64();
        let connection = Connection::from_trace(&trace, DELAY);
        let since = connection.packets.iter().filter(|packet| packet.at >= earlier);
        packets.extend(since.map(|packet| {
            let bytes = i64::try_from(packet.bytes).unwrap_or(i64::MAX);
            (packet.at + later - earlier, if packet.way == Way::Up { bytes } else { -bytes })
        }));
    }
    packets.sort_by(|one, other| one.0.total_cmp(&other.0));
    ensure!(!packets.is_empty(), "the tap saw nothing of the visit");
    Ok(packets)
}
