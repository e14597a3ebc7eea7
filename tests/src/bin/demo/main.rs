//! `./dev demo`: one page through a bridge on this machine, and what a censor on the wire saw of it.
//!
//! ```text
//! client ──▶ the censor's wire ──▶ bridge ──▶ site (the decoy: TLS 1.3, h2)
//!                                        └──▶ news (plain HTTP: what the censor would block)
//! visitor ─▶ the censor's wire ──▶ bridge      and, to compare, straight to the site
//! ```
//!
//! Each of the five is a process of its own: this program again, with a role as its argument. The wire is in the first
//! process, which plays the censor, compares and prints.
#![forbid(unsafe_code)]

mod actor;
mod play;
mod report;
mod roles;
mod seen;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};

use play::Advice;

const HELP: &str = "\
demo [--keep FOLDER]
  --keep    leave in FOLDER the page (page.html) and what passed on the wire in each direction (up.bin, down.bin)
";

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let first = arguments.next();
    if first.as_deref() == Some(actor::ROLE) {
        return role(&arguments.collect::<Vec<_>>());
    }
    let done = options(first.into_iter().chain(arguments)).and_then(|options| match options {
        Some(keep) => play::play(keep.as_deref()).and_then(|text| print(&text)),
        None => print(HELP),
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            writeln!(io::stderr(), "demo failed: {error:#}").ok();
            if let Some(advice) = error.downcast_ref::<Advice>() {
                writeln!(io::stderr(), "{}", advice.to_do()).ok();
            }
            ExitCode::FAILURE
        }
    }
}

/// Plays one of the five; `arguments` are the role and what it needs.
fn role(arguments: &[String]) -> ExitCode {
    match roles::run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let name = arguments.first().map_or("nobody", String::as_str);
            writeln!(io::stderr(), "demo: the {name} says: {error:#}").ok();
            ExitCode::FAILURE
        }
    }
}

/// The folder to keep things in, if wanted; `None` where help was asked for.
fn options(mut arguments: impl Iterator<Item = String>) -> Result<Option<Option<PathBuf>>> {
    let mut keep = None;
    while let Some(argument) = arguments.next() {
        match (argument.as_str(), arguments.next()) {
            ("--keep", Some(folder)) => keep = Some(PathBuf::from(folder)),
            ("--help" | "-h", _) => return Ok(None),
            _ => bail!("{argument} is not understood; --help shows what is"),
        }
    }
    Ok(Some(keep))
}

fn print(text: &str) -> Result<()> {
    Ok(io::stdout().write_all(text.as_bytes())?)
}
