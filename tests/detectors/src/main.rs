//! `./dev detect`: what a censor would run against QNet, run by ourselves.
#![forbid(unsafe_code)]

use std::fmt::Debug;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;
use std::{env, fs};

use anyhow::{Context, Result, bail, ensure};
use qnet_detectors::detectors;
use qnet_detectors::programs::Programs;
use qnet_detectors::report::Report;
use qnet_detectors::stage::{Field, Plan};
use qnet_tests::support::decoy::Server;
use qnet_tests::support::front;
use qnet_tests::support::isolate::{Isolated, isolated_program};
use qnet_transport::Shape;

const HELP: &str = "\
qnet-detectors [--full] [--server NAME,NAME] [--front NAME,NAME] [--paths MS,MS] [--world PAGESxVISITS]
                [--profile NAME,NAME] [--only N,N] [--out FOLDER]
  --full   six web servers, paths of 20, 100 and 300 ms, a real Tor, 20 pages with 60 visits each (hours; visits are
           kept in target/detect/visits, and a run that was cut short goes on there)
  --server the web servers before which the bridge stands: nginx (unless told otherwise), apache, lighttpd, haproxy,
           caddy, rustls
  --front  the web servers behind which it stands under its websocket cover: nginx, haproxy, haproxyhttp1; none for no such cover
  --paths  these round trips alone, milliseconds
  --world  for detector 10: so many pages, so many visits of each by each transport, 5 at least
  --profile  QNet under these profiles: captures are made with each, and detector 10 visits by these alone. Otherwise
           captures are made with the one that QNet follows by itself, and detector 10 visits by all:
           {profiles}
  --only   these detectors alone, by number
  --out    where report.html, report.json and captures.json go (target/detect)
";

/// Where the report goes unless told otherwise.
const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/detect");

/// What may stand in front.
const FRONTS: [front::Server; 3] =
    [front::Server::Nginx, front::Server::Haproxy, front::Server::HaproxyHttp1];

struct Options {
    full: bool,
    servers: Vec<Server>,
    fronts: Option<Vec<front::Server>>,
    paths: Vec<u64>,
    world: Option<(usize, usize)>,
    profiles: Vec<Shape>,
    only: Vec<u8>,
    out: PathBuf,
}

impl Options {
    /// `None` where help was asked for.
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Option<Self>> {
        let mut options = Self {
            full: false,
            servers: Vec::new(),
            fronts: None,
            paths: Vec::new(),
            world: None,
            profiles: Vec::new(),
            only: Vec::new(),
            out: FOLDER.into(),
        };
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--full" => options.full = true,
                "--server" => {
                    let names = arguments.next().context("--server needs names")?;
                    options.servers =
                        names.split(',').map(|name| named(&Server::ALL, name)).collect::<Result<_>>()?;
                }
                "--front" => {
                    let names = arguments.next().context("--front needs names")?;
                    let named = || names.split(',').map(|name| named(&FRONTS, name)).collect::<Result<_>>();
                    options.fronts = Some(if names == "none" { Vec::new() } else { named()? });
                }
                "--paths" => {
                    let paths = arguments.next().context("--paths needs round trips")?;
                    options.paths = paths.split(',').map(str::parse).collect::<Result<_, _>>()?;
                }
                "--world" => {
                    let world = arguments.next().context("--world needs two numbers, such as 20x60")?;
                    let (pages, visits) = world.split_once('x').context("--world is such as 20x60")?;
                    options.world = Some((pages.parse()?, visits.parse()?));
                }
                "--profile" => {
                    let names = arguments.next().context("--profile needs names")?;
                    let more = names.split(',').map(profile).collect::<Result<Vec<_>>>()?;
                    options.profiles.extend(more);
                }
                "--only" => {
                    let numbers = arguments.next().context("--only needs numbers")?;
                    options.only = numbers.split(',').map(str::parse).collect::<Result<_, _>>()?;
                }
                "--out" => options.out = arguments.next().context("--out needs a folder")?.into(),
                "--help" | "-h" => return Ok(None),
                other => bail!("unknown argument {other}; --help lists them"),
            }
        }
        Ok(Some(options))
    }
}

fn main() -> ExitCode {
    let outcome = Options::parse(env::args().skip(1)).and_then(|options| match options {
        Some(options) => match isolated_program(|| run(&options))? {
            Isolated::Inside(well) => Ok(well),
            Isolated::Outside(status) => Ok(status.success()),
        },
        None => Ok(io::stdout().write_all(help().as_bytes()).map(|()| true)?),
    });
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            // Nothing is left to be told where standard error is closed.
            let _ = writeln!(io::stderr(), "detect: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn named<T: Copy + Debug>(all: &[T], name: &str) -> Result<T> {
    let found = all.iter().copied().find(|server| format!("{server:?}").eq_ignore_ascii_case(name));
    found.with_context(|| format!("no web server is called {name}"))
}

fn profile(name: &str) -> Result<Shape> {
    Shape::named(name).with_context(|| format!("no profile is called {name}; --help lists them"))
}

fn help() -> String {
    let names: Vec<&str> = Shape::all().map(|shape| shape.profile().name.as_str()).collect();
    HELP.replace("{profiles}", &names.join(", "))
}

/// Whether all is well.
fn run(options: &Options) -> Result<bool> {
    // Cargo puts all programs of a build into one folder.
    let programs = Programs::in_folder(env::current_exe()?.parent().context("a program has a folder")?)?;
    let mut plan = if options.full { Plan::full() } else { Plan::quick() };
    if !options.servers.is_empty() {
        plan.servers.clone_from(&options.servers);
    }
    if let Some(fronts) = &options.fronts {
        plan.fronts.clone_from(fronts);
    }
    if !options.paths.is_empty() {
        plan.round_trips.clone_from(&options.paths);
    }
    plan.profiles.clone_from(&options.profiles);
    plan.closed_world = options.world.unwrap_or(plan.closed_world);
    let mut chosen = detectors::all();
    chosen.retain(|one| options.only.is_empty() || options.only.contains(&one.about().number));
    ensure!(!chosen.is_empty(), "no detector has such a number");
    let begun = Instant::now();
    let tell = |what: &str| {
        let _ = writeln!(io::stderr(), "detect: {:7.1} s: {what}", begun.elapsed().as_secs_f64());
    };
    let field = if chosen.iter().any(|one| one.needs_captures()) {
        Field::capture(plan, programs, |what| tell(&format!("capturing {what}")))?
    } else {
        Field::without_captures(plan, programs)
    };
    let report = Report::of(&chosen, &field, |what| tell(what));
    tell("all judged");
    report.write(&options.out, &field.captures)?;
    writeln!(io::stdout(), "{}", report.table())?;
    let failures = report.failures();
    for failure in &failures {
        writeln!(io::stdout(), "FAILED: {failure}")?;
    }
    writeln!(io::stdout(), "The report: {}", fs::canonicalize(&options.out)?.join("report.html").display())?;
    Ok(failures.is_empty())
}
