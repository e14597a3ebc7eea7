//! QNet for people without Tor: a proxy on this machine whose connections leave through a QNet bridge.
//!
//! | module | what it does |
//! |---|---|
//! | [`cli`] | the command line |
//! | `settings` | flags and the configuration file, checked |
//! | `pool` | the bridges: tunnels to them, the fastest first, the next where one fails |
//! | `front` | applications: SOCKS5 with UDP, HTTP, forwarded ports |
//! | [`http_head`], [`datagram`] | what they send, read without I/O |
//! | `stdio`, `sip003` | one connection for ssh; a plugin for shadowsocks |
//! | `status` | the status page |
//! | `run` | all of it together, from start to end |
#![forbid(unsafe_code)]

pub mod cli;
pub mod datagram;
mod front;
pub mod http_head;
mod logging;
mod pages;
mod pool;
mod run;
mod settings;
mod sip003;
mod status;
mod stdio;
mod traffic;

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::Parser as _;

use crate::cli::{Cli, Verb};
use crate::settings::Settings;

/// What a wrong command line or setting ends with, as clap's own errors do.
const USAGE: u8 = 2;

/// The program, its own name first among `args`.
#[must_use]
pub fn main(args: Vec<OsString>) -> ExitCode {
    // A plugin of shadowsocks is started without arguments, and finds the rest in its environment (SIP003).
    if args.len() == 1 && std::env::var_os(sip003::REMOTE_HOST).is_some() {
        return sip003::main();
    }
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version come this way too, for standard output.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(USAGE) } else { ExitCode::SUCCESS };
        }
    };
    match cli.verb {
        Verb::Proxy(flags) => match Settings::read(&flags) {
            Ok(settings) if flags.check => say(&format!("the settings are right: {settings}\n")),
            Ok(settings) => run::main(*flags, settings),
            Err(wrong) => complain(&wrong.to_string(), USAGE),
        },
        Verb::Completions { shell } => say(&pages::completions(shell)),
        Verb::Man { folder } => match pages::man(&folder) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => complain(&format!("the man pages cannot be written: {error}"), 1),
        },
    }
}

fn say(text: &str) -> ExitCode {
    let said = io::stdout().write_all(text.as_bytes());
    if said.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn complain(text: &str, code: u8) -> ExitCode {
    // Nobody is left to tell where that fails.
    let _ = writeln!(io::stderr(), "qnet: {}", text.replace('\n', "\nqnet: "));
    ExitCode::from(code)
}
