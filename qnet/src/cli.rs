//! The command line. What flags and the configuration file say is checked together, in `settings`.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueHint};
use clap_complete::Shell;

/// The user's node: a proxy on this machine whose traffic leaves through a QNet bridge.
#[derive(Parser)]
#[command(name = "qnet", version, disable_help_subcommand = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// What to do.
#[derive(Subcommand)]
pub enum Verb {
    /// Serve SOCKS5 and HTTP on this machine, through the bridges given
    Proxy(Box<Proxy>),
    /// Print completions for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Write man pages
    Man {
        /// The folder to write them to
        #[arg(value_hint = ValueHint::DirPath)]
        folder: PathBuf,
    },
}

/// Flags of `qnet proxy`. Each has a key of the same name in the file that `--config` names; a flag goes before the file.
#[derive(Args, Clone, Default)]
#[command(after_help = "\
Applications: SOCKS5 with remote DNS (socks5h://127.0.0.1:1088), or an HTTP proxy at the same address.
ssh: ProxyCommand qnet proxy --config FILE --stdio %h:%p
Without arguments and with SS_REMOTE_HOST set, qnet is a SIP003 plugin for shadowsocks.")]
pub struct Proxy {
    /// A bridge line: 'qnet 192.0.2.7:443 key=… sni=…'. May be given several times; the fastest is used
    #[arg(long, value_name = "LINE")]
    pub bridge: Vec<String>,
    /// Where applications connect, an address of this machine's loopback and a port, or 'off' [default: 127.0.0.1:1088]
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<String>,
    /// Where the status page is, or 'off' [default: 127.0.0.1:8088]
    #[arg(long, value_name = "ADDRESS")]
    pub status: Option<String>,
    // As an attribute: rustdoc takes the brackets for a link.
    #[arg(
        long,
        value_name = "FORWARD",
        help = "Listen on a port here, and connect from the bridge: [ADDRESS:]PORT:HOST:PORT. May be given several times"
    )]
    #[expect(missing_docs, reason = "the help says it")]
    pub forward: Vec<String>,
    /// A host and port that answer when all is well, connected to now and then [default: the site that the bridge stands before]
    #[arg(long, value_name = "HOST:PORT")]
    pub probe: Option<String>,
    #[arg(
        long,
        value_name = "URL",
        help = "A proxy that this machine has to use: socks5://…, socks4a://… or http://[user:password@]ip:port"
    )]
    #[expect(missing_docs, reason = "the help says it")]
    pub upstream: Option<String>,
    /// What the traffic is to look like, whatever the bridge lines say: web, none, … [default: what a line says, or web]
    #[arg(long, value_name = "NAME")]
    pub profile: Option<String>,
    /// What is logged: error, warn, info, debug or trace; from debug on with addresses [default: info]
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// A TOML file with these settings; read again when it changes, and on SIGHUP
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub config: Option<PathBuf>,
    /// Say whether the settings are right, and end
    #[arg(long)]
    pub check: bool,
    /// Carry one connection to this host and port over standard input and output, for ssh's ProxyCommand; nothing listens
    #[arg(long, value_name = "HOST:PORT")]
    pub stdio: Option<String>,
}
