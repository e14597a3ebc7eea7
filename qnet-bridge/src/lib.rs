//! The bridge operator's tool.
//!
//! | module | what it holds |
//! |---|---|
//! | [`exit`] | where streams go where no tor stands behind the bridge: exit policy, limits, TCP and UDP |
//! | [`settings`] | the TOML file and the flags of the same names |
//! | `run` | a bridge without tor |
//! | `listeners` | where it listens: before a site, behind a web server, or both |
//! | `serve` | what it does from then on: streams, signals, the end |
//! | `handover` | its sockets, from one process to the next |
//! | `systemd` | what a service manager is told |
//! | `init` | from a fresh server to a bridge |
//! | `metrics` | numbers for Prometheus |
//! | `check` | does a bridge work, from either side? |
//! | `line` | the line for users |
//! | `invite` | who may use a bridge by invitation |
//! | `decoys` | which of several sites is the best decoy? |
//! | [`acme`] | a certificate for it |
//! | [`site`] | the built-in decoy: a static site |
//! | [`findings`] | what a check found, in words and as JSON |
#![forbid(unsafe_code)]

pub mod acme;
mod check;
mod decoys;
pub mod exit;
mod files;
pub mod findings;
mod handover;
mod init;
mod invite;
mod line;
mod listeners;
mod metrics;
mod numbers;
mod run;
mod serve;
pub mod settings;
pub mod site;
mod systemd;

use std::{
    ffi::OsString,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, Result};
use clap::{CommandFactory as _, Parser, Subcommand};
use clap_complete::Shell;
use tracing::level_filters::LevelFilter;

/// Runs and looks after QNet bridges
#[derive(Debug, Parser)]
#[command(name = "qnet-bridge", version, arg_required_else_help = true)]
struct Invocation {
    /// How much to log to standard error; from debug on logs may hold addresses
    #[arg(long, global = true, value_name = "LEVEL", default_value = "info", value_parser = level)]
    log_level: LevelFilter,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Init(Box<init::Init>),
    Run(Box<run::Run>),
    Check(check::Check),
    Line(line::Line),
    Invite(invite::Invite),
    Revoke(invite::Revoke),
    Invited(invite::Invited),
    Decoys(decoys::Decoys),
    /// Print completions for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Write man pages
    Man {
        /// The folder to write them to
        folder: PathBuf,
    },
}

fn level(text: &str) -> Result<LevelFilter, String> {
    match text {
        "error" => Ok(LevelFilter::ERROR),
        "warn" => Ok(LevelFilter::WARN),
        "info" => Ok(LevelFilter::INFO),
        "debug" => Ok(LevelFilter::DEBUG),
        "trace" => Ok(LevelFilter::TRACE),
        _ => Err("it is error, warn, info, debug or trace".to_owned()),
    }
}

/// The program: `args` with its name first.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let invocation = match Invocation::try_parse_from(args) {
        Ok(invocation) => invocation,
        Err(error) => {
            // Help goes to standard output and is no failure; where it cannot be printed nothing can.
            let printed = error.print();
            return if error.use_stderr() || printed.is_err() {
                ExitCode::from(2)
            } else {
                ExitCode::SUCCESS
            };
        }
    };
    let log = tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_ansi(false)
        .with_target(false)
        .with_max_level(invocation.log_level)
        .finish();
    // Fails only if there is a subscriber already, where a program embeds this one.
    let _ = tracing::subscriber::set_global_default(log);
    let outcome = match invocation.verb {
        Verb::Init(init) => run::wait(init.start()),
        Verb::Run(run) => run.start().map(|()| true),
        Verb::Check(check) => run::wait(check.start()),
        Verb::Line(line) => line.start().map(|()| true),
        Verb::Invite(invite) => invite.start().map(|()| true),
        Verb::Revoke(revoke) => revoke.start().map(|()| true),
        Verb::Invited(invited) => invited.start().map(|()| true),
        Verb::Decoys(decoys) => run::wait(decoys.start()),
        Verb::Completions { shell } => completions(shell).map(|()| true),
        Verb::Man { folder } => man(&folder).map(|()| true),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            let _ = writeln!(io::stderr(), "qnet-bridge: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn completions(shell: Shell) -> Result<()> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Invocation::command(), "qnet-bridge", &mut text);
    say(&String::from_utf8_lossy(&text))
}

/// `qnet-bridge.1` and a page for each verb.
fn man(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder)
        .and_then(|()| clap_mangen::generate_to(Invocation::command(), folder))
        .with_context(|| format!("cannot write to {}", folder.display()))
}

/// Writes to standard output.
fn say(text: &str) -> Result<()> {
    io::stdout().write_all(text.as_bytes()).context("cannot write to standard output")
}
