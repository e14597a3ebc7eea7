//! QNet as a pluggable transport: what tor or Arti launches, for a client or for a bridge.
//!
//! The parent speaks through `TOR_PT_*` variables, reads lines from standard output, and ends the process by a
//! signal or by closing standard input ([`qnet_pt_ipc`] has the rules). One process plays one role:
//!
//! - client: a SOCKS5 listener on loopback; each connection becomes a tunnel to the bridge its arguments describe;
//! - server: a bridge in front of a decoy; each tunnel becomes a connection to tor's ORPort.
#![forbid(unsafe_code)]

mod carriers;
mod client;
mod lifetime;
mod logging;
pub mod options;
mod orport;
pub mod output;
mod random;
mod refusal;
mod server;

use crate::lifetime::{Ender, Reasons};
use crate::output::Output;
use qnet_pt_ipc::env::{self, EnvError, Role, Settings};
use qnet_pt_ipc::line::Line;
use std::ffi::OsString;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;
use tracing::level_filters::LevelFilter;

/// The transport's name.
pub const TRANSPORT: &str = qnet_wire::bridge_line::TRANSPORT;

const USAGE: &str = "\
usage: qnet-pt [--log-level error|warn|info|debug|trace]

A pluggable transport, started by tor or Arti from a line such as
  ClientTransportPlugin qnet exec /usr/bin/qnet-pt
  ServerTransportPlugin qnet exec /usr/bin/qnet-pt
Logs go to the parent. From debug on they may hold addresses.
";

/// The program: `args` are those after its name.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    match parse_args(args) {
        Ok(Invocation::Run(level)) => run(level),
        Ok(Invocation::Say(text)) => {
            let said = io::stdout().write_all(text.as_bytes());
            if said.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(message) => {
            // Standard output belongs to the parent, and this is not a line it knows.
            let _ = write!(io::stderr(), "qnet-pt: {message}\n{USAGE}");
            ExitCode::from(2)
        }
    }
}

enum Invocation {
    Run(LevelFilter),
    Say(String),
}

fn parse_args(args: impl IntoIterator<Item = OsString>) -> Result<Invocation, String> {
    let mut level = LevelFilter::INFO;
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        match arg.to_str() {
            Some("--version") => {
                return Ok(Invocation::Say(format!("qnet-pt {}\n", env!("CARGO_PKG_VERSION"))));
            }
            Some("--help" | "-h") => return Ok(Invocation::Say(USAGE.to_owned())),
            Some("--log-level") => {
                let value = args.next().unwrap_or_default();
                level = match value.to_str() {
                    Some("error") => LevelFilter::ERROR,
                    Some("warn") => LevelFilter::WARN,
                    Some("info") => LevelFilter::INFO,
                    Some("debug") => LevelFilter::DEBUG,
                    Some("trace") => LevelFilter::TRACE,
                    _ => return Err(format!("--log-level has no level {}", value.display())),
                };
            }
            _ => return Err(format!("unknown argument {}", arg.display())),
        }
    }
    Ok(Invocation::Run(level))
}

fn run(level: LevelFilter) -> ExitCode {
    let output = match Output::start() {
        Ok(output) => output,
        Err(error) => {
            let _ = writeln!(io::stderr(), "qnet-pt: the system gives no thread: {error}");
            return ExitCode::FAILURE;
        }
    };
    let ended = prepare_and_play(&output, level);
    output.flush();
    if ended { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Allows as many open files as the administrator permits: a bridge needs two for each visitor and three for each client,
/// and the usual limit of 1,024 dates from programs that cannot use more.
#[cfg(unix)]
fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::debug!("the limit of open files stays as it is: {error}");
    }
}

#[cfg(not(unix))]
fn raise_file_limit() {}

/// How long the process stays for its last words, once it has nothing left to do.
const GOODBYE: std::time::Duration = std::time::Duration::from_millis(50);

/// Plays the role asked for until the end; `false` if it could not be played.
fn prepare_and_play(output: &Output, level: LevelFilter) -> bool {
    // Everything that can be wrong is looked at before VERSION: C tor shows an ENV-ERROR only if it comes first.
    let prepared = env::parse(std::env::var_os).map_err(|error| match error {
        EnvError::NoVersion => None,
        error => Some(error.to_string()),
    });
    let prepared = prepared.and_then(|settings| {
        create_state_folder(&settings.state).map_err(Some)?;
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
        Ok((settings, runtime.map_err(|error| Some(format!("the system gives no threads: {error}")))?))
    });
    let (settings, runtime) = match prepared {
        Ok(prepared) => prepared,
        Err(message) => {
            output.line(&message.as_deref().map_or(Line::VersionError, Line::EnvError));
            return false;
        }
    };
    // Fails only if there is a subscriber already, where a program embeds this one.
    let _ = tracing::subscriber::set_global_default(logging::ParentLog::new(output.clone(), level));
    raise_file_limit();
    let ended = runtime.block_on(play(settings, output));
    if ended {
        // Sessions that have just ended tell their bridges, which would keep them otherwise.
        runtime.block_on(async { tokio::time::sleep(GOODBYE).await });
    }
    // Look-ups and reads under way in threads must not keep the process.
    runtime.shutdown_background();
    ended
}

async fn play(settings: Settings, output: &Output) -> bool {
    let reasons = match Reasons::watch(settings.exit_on_stdin_close) {
        Ok(reasons) => reasons,
        Err(error) => {
            output.line(&Line::EnvError(&format!("the system gives no signal handlers or threads: {error}")));
            return false;
        }
    };
    output.line(&Line::Version);
    let (ender, lifetime) = Ender::new();
    let playing = async move {
        let playing = match &settings.role {
            Role::Client(client) => client::start(client, &settings, output, &lifetime).await,
            Role::Server(server) => {
                server::start(server, &settings, output, &lifetime).await;
                true
            }
        };
        if playing {
            let version = env!("CARGO_PKG_VERSION");
            output.status(&[("TYPE", "version"), ("IMPLEMENTATION", "qnet-pt"), ("VERSION", version)]);
        }
        drop(lifetime);
        playing
    };
    let ending = ender.run(reasons);
    tokio::pin!(ending);
    tokio::select! {
        playing = playing => if !playing { return false },
        () = &mut ending => return true,
    }
    ending.await;
    true
}

/// Makes the folder, and those above it, for this user alone; one that exists is left as it is.
fn create_state_folder(path: &Path) -> Result<(), String> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path).map_err(|error| {
        let path = path.display();
        format!("cannot create the state folder {path} (TOR_PT_STATE_LOCATION): {error}; may tor's user write there?")
    })
}
