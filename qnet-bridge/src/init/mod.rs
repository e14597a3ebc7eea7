//! `qnet-bridge init`: from a fresh server to a bridge that only has to be switched on.
//!
//! 1. What is missing among the flags is asked for, on a terminal.
//! 2. The site is examined: one that cannot be a decoy, or that the service could not serve, is refused before anything is written, and
//!    so is a port that another program has. Behind a web server its origin must answer.
//! 3. The key is made, if there is none; settings, service and, with tor, its configuration are written. A file that is there and
//!    says something else is left alone, unless `--replace` says otherwise; then the old one is kept beside.
//!    For websockets a secret path is made, once, and for nginx what hands it on; what holds it is for the service and for root alone.
//! 4. What to run next is printed, or with `--start` is run, and the line for users.
//!
//! The bridge is a service of its own that may listen on ports under 1024 and do little else. tor, where there is one, stands
//! behind it with its ORPort on loopback: it starts no program, so its own service and AppArmor profile stay as they are.

mod ask;
mod holder;
mod look;
mod start;
mod websocket;

use std::{
    fmt::Write as _,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use clap::{Args, ValueEnum};
use qnet_transport::{decoy::Place, identity};
use qnet_wire::{name::ServerName, url::WebsocketUrl};

use crate::{
    acme,
    files::{self, File, Written},
    invite,
    line::{self, Fingerprints, TOR_DATA},
    settings::{
        BEHIND_LISTEN, DEFAULT_CONFIG, DEFAULT_INVITED, DEFAULT_STATE, DEFAULT_URL_FILE, Decoy, Plan,
        Settings,
    },
};

/// Where tor's ORPort is, for the bridge alone.
const OR_PORT: &str = "127.0.0.1:9001";
/// tor's configuration on Debian, and the part of it that is written here. tor's AppArmor profile lets it read that folder.
const TORRC: &str = "/etc/tor/torrc";
pub(crate) const TORRC_PART: &str = "/etc/tor/qnet.torrc";
const SERVICE: &str = "/etc/systemd/system/qnet-bridge.service";
/// Longest nickname of a relay (tor's dir-spec, `nickname`).
const MAX_NICKNAME: usize = 19;

/// Make this machine a bridge: key, settings, service, tor's configuration, and the line for users
#[derive(Args, Clone, Debug)]
pub(crate) struct Init {
    /// Where users connect to: this machine's public address and the port, 443 unless there is a reason
    #[arg(long, value_name = "ADDRESS:PORT")]
    address: Option<SocketAddr>,
    /// The web site that answers strangers, as the bridge reaches it, such as 127.0.0.1:8443
    #[arg(long, value_name = "HOST:PORT")]
    decoy: Option<Place>,
    /// The site's name, as in its certificate; may be given several times
    #[arg(long, value_name = "NAME")]
    sni: Vec<ServerName>,
    /// The site is somebody else's, who agrees
    #[arg(long)]
    third_party_decoy: bool,
    /// A folder with a static site that the bridge serves itself, instead of --decoy; below /var/www as a rule
    #[arg(long, value_name = "FOLDER", requires = "domain", conflicts_with_all = ["decoy", "sni", "third_party_decoy"])]
    site: Option<PathBuf>,
    /// With --site: its name, which leads to this machine
    #[arg(long, value_name = "NAME", requires = "site")]
    domain: Option<ServerName>,
    /// With --site: get its certificate from Let's Encrypt, and agree to the terms at <https://letsencrypt.org/repository/>
    #[arg(long, requires = "site")]
    acme_terms_agreed: bool,
    /// With --acme-terms-agreed: how the authority may reach you, such as mailto:you@example.com
    #[arg(long, value_name = "URL", requires = "acme_terms_agreed")]
    acme_contact: Option<acme::Contact>,
    /// With --acme-terms-agreed: another authority than Let's Encrypt, by its directory; the terms are its own then
    #[arg(long, value_name = "URL", requires = "acme_terms_agreed")]
    acme_directory: Option<acme::DirectoryUrl>,
    /// Let clients open websockets at a secret path of the site, which is made here. With --site: there, too. Otherwise this machine's
    /// web server or a CDN stands in front of the bridge, --address is theirs, and --sni the site's name
    #[arg(long, conflicts_with_all = ["decoy", "third_party_decoy"])]
    websocket: bool,
    /// With --websocket behind a web server: its site without TLS, on this machine, such as 127.0.0.1:8080
    #[arg(long, value_name = "ADDRESS:PORT", requires = "websocket", conflicts_with = "site")]
    origin: Option<SocketAddr>,
    /// What is behind the bridge
    #[arg(long, value_enum)]
    behind: Option<Behind>,
    /// With tor: the relay's name, up to 19 letters and digits
    #[arg(long, value_name = "NAME", default_value = "Unnamed", value_parser = nickname)]
    nickname: String,
    /// With tor: how tor's people may reach you
    #[arg(long, value_name = "WORDS", value_parser = contact)]
    contact: Option<String>,
    /// Let in invited clients alone, of whom each gets a line of its own by `qnet-bridge invite`
    #[arg(long, conflicts_with = "websocket")]
    by_invitation: bool,
    /// Write files although they are there and say something else; the old ones are kept beside as NAME.old
    #[arg(long)]
    replace: bool,
    /// Look at nothing beforehand: not at the site, its names, the port or whether there is a tor
    #[arg(long)]
    unchecked: bool,
    /// Then switch it all on, tor included, and check it
    #[arg(long)]
    start: bool,
    /// Write all files below this folder, for a machine that is not this one
    #[arg(long, value_name = "FOLDER", default_value = "/", conflicts_with = "start")]
    root: PathBuf,
}

/// What is behind a bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Behind {
    /// tor, as a bridge relay
    Tor,
    /// nothing: the bridge connects to the web itself
    Web,
}

fn nickname(text: &str) -> Result<String, String> {
    let good =
        (1..=MAX_NICKNAME).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if good { Ok(text.to_owned()) } else { Err(format!("it has 1 to {MAX_NICKNAME} letters and digits")) }
}

/// One line: a second one would be another setting of tor's.
fn contact(text: &str) -> Result<String, String> {
    let good =
        !text.is_empty() && !text.contains(|letter: char| letter.is_control() || "#\"\\".contains(letter));
    if good { Ok(text.to_owned()) } else { Err("it is one line without quotes, # and \\".to_owned()) }
}

/// Whose files are other than before.
#[derive(Default)]
struct Changes {
    bridge: bool,
    tor: bool,
}

/// All that has been decided.
struct Decided {
    plan: Plan,
    config: String,
    behind: Behind,
    address: SocketAddr,
}

impl Init {
    pub(crate) async fn start(self) -> Result<bool> {
        let init = ask::missing(self)?;
        let decided = init.decide()?;
        if !init.unchecked {
            look::look(&init, &decided)
                .await
                .map_err(|why| anyhow!("{why:#}; nothing was written (--unchecked goes on all the same)"))?;
        }
        let (mut text, changes) = init.write(&decided)?;
        let fingerprints = init.fingerprints(decided.behind)?;
        if !init.start {
            text.push_str(&init.next_steps(&decided, fingerprints.as_ref())?);
            crate::say(&text)?;
            return Ok(true);
        }
        crate::say(&text)?;
        let findings = start::start(&decided, &changes).await?;
        let fingerprints = init.fingerprints(decided.behind)?;
        let users = init.users(&decided, fingerprints.as_ref())?;
        let remaining = match (init.behind_server(), init.by_invitation) {
            (true, _) => "\nNow run:\n  nginx -t && systemctl reload nginx\n  qnet-bridge check\n",
            (false, true) => "\nNow run:\n",
            (false, false) => "",
        };
        crate::say(&format!("\n{findings}{}{remaining}{users}", init.include(&decided)))?;
        Ok(findings.good())
    }

    fn decide(&self) -> Result<Decided> {
        let (Some(address), Some(behind)) = (self.address, self.behind) else {
            bail!("--address and --behind are needed where there is no terminal to ask on")
        };
        ensure!(
            !address.ip().is_unspecified() && address.port() != 0,
            "--address {address}: users cannot connect there; give this machine's public address and a port"
        );
        // On all addresses of the same family: the public one may be the router's.
        let any = if address.is_ipv4() { "0.0.0.0" } else { "[::]" };
        let listen = if self.behind_server() {
            BEHIND_LISTEN.to_string()
        } else {
            format!("{any}:{}", address.port())
        };
        let config = self.config(&listen, behind);
        let settings: Settings = toml::from_str(&config).context("the settings that were made")?;
        // The file that the settings name for it is not written yet.
        let settings = Settings { url: self.url()?, url_file: None, ..settings };
        let state = self.below(DEFAULT_STATE);
        let plan = Plan { state, ..settings.plan()? };
        Ok(Decided { plan, config, behind, address })
    }

    /// A path of the machine that is set up.
    fn below(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// A web server stands in front of the bridge.
    fn behind_server(&self) -> bool {
        self.websocket && self.site.is_none()
    }

    /// Where clients open websockets, if they do.
    fn url(&self) -> Result<Option<WebsocketUrl>> {
        if !self.websocket {
            return Ok(None);
        }
        let host = match (&self.domain, self.sni.as_slice()) {
            (Some(domain), _) => domain,
            (None, [name]) => name,
            (None, _) => {
                bail!("--websocket needs one --sni: the name of the site at which clients open websockets")
            }
        };
        websocket::url(&self.below(DEFAULT_URL_FILE), &self.below(DEFAULT_CONFIG), host).map(Some)
    }

    /// The settings for websockets.
    fn websockets(&self) -> String {
        if !self.websocket {
            return String::new();
        }
        let mut text = format!(
            "# The address at which clients open websockets. Whoever knows it is let in, so it stands in a file for the service alone.\n\
             url-file = \"{DEFAULT_URL_FILE}\"\n"
        );
        if let Some(origin) = &self.origin {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "origin = \"{origin}\"\nforwarded-for = true");
        }
        text
    }

    fn config(&self, listen: &str, behind: Behind) -> String {
        let names: Vec<String> = self.sni.iter().map(|name| format!("\"{name}\"")).collect();
        let mut text = format!(
            "# Settings of qnet-bridge, each also a flag of `qnet-bridge run`; see `qnet-bridge run --help`.\n\
             # `systemctl reload qnet-bridge` takes changes of limits and of where streams go; the rest needs a restart.\n\n\
             listen = \"{listen}\"\n"
        );
        // Writing to a string cannot fail.
        if let Some(decoy) = &self.decoy {
            let _ = writeln!(text, "decoy = \"{decoy}\"");
        }
        if let (Some(site), Some(domain)) = (&self.site, &self.domain) {
            // Quoted as TOML wants it: a path may hold anything.
            let site = toml::Value::from(site.display().to_string());
            let _ = writeln!(
                text,
                "site = {site}\ndomain = \"{domain}\"\nacme-terms-agreed = {}",
                self.acme_terms_agreed
            );
            if let Some(contact) = &self.acme_contact {
                let _ = writeln!(text, "acme-contact = \"{}\"", contact.url());
            }
            if let Some(directory) = &self.acme_directory {
                let _ = writeln!(text, "acme-directory = {}", toml::Value::from(directory.to_string()));
            }
        }
        text.push_str(&self.websockets());
        if !names.is_empty() && !self.websocket {
            let _ = writeln!(text, "sni = [{}]", names.join(", "));
        }
        if self.third_party_decoy {
            text.push_str("third-party-decoy = true\n");
        }
        if self.by_invitation {
            let _ = writeln!(text, "invited = \"{DEFAULT_INVITED}\"");
        }
        match behind {
            Behind::Tor => {
                let _ = writeln!(text, "\n# tor's ORPort.\nupstream = \"{OR_PORT}\"");
            }
            Behind::Web => {
                let _ = writeln!(
                    text,
                    "\n# Where clients may connect to, in Tor's syntax; private addresses never."
                );
                // Address translation may keep the bridge from knowing its public address as its own.
                let own = self.address.map_or_else(String::new, |address| {
                    let ip = address.ip();
                    let ip = if ip.is_ipv6() { format!("[{ip}]") } else { ip.to_string() };
                    format!("\"reject {ip}:*\", ")
                });
                let _ = writeln!(text, "exit-policy = [{own}\"{}\"]", crate::exit::policy::DEFAULT);
            }
        }
        text
    }

    /// Writes what is to be written and says what was done.
    fn write(&self, decided: &Decided) -> Result<(String, Changes)> {
        let mut files = Vec::new();
        // First: older settings hold the path themselves, and once they are replaced it must not be lost.
        if let Some(url) = decided.plan.decoy.url() {
            files.push(File { secret: true, ..self.file(DEFAULT_URL_FILE, format!("{url}\n")) });
        }
        files.push(self.file(DEFAULT_CONFIG, decided.config.clone()));
        files.push(self.file(SERVICE, include_str!("qnet-bridge.service").to_owned()));
        if let Decoy::Front(front) = &decided.plan.decoy {
            // nginx reads it as root.
            files.push(File { secret: true, ..self.file(websocket::FILE, websocket::nginx(&front.url)) });
        }
        let tors = (decided.behind == Behind::Tor).then(|| self.file(TORRC_PART, self.torrc()));
        // Before anything is written: half a set of files is worse than none.
        files::check(files.iter().chain(&tors), self.replace)?;
        let mut changes = Changes::default();
        let mut text = String::new();
        let key = self.key(&decided.plan.state)?;
        let _ = writeln!(text, "{key}");
        if self.by_invitation {
            let _ = writeln!(text, "{}", invite::begin(&self.below(DEFAULT_INVITED))?);
        }
        for file in &files {
            let written = files::write(file)?;
            changes.bridge |= written.changed();
            let _ = writeln!(text, "{written}");
        }
        if let Some(part) = &tors {
            let include = format!("%include {TORRC_PART}");
            for written in [files::write(part)?, files::add_line(&self.below(TORRC), &include)?] {
                changes.tor |= written.changed();
                let _ = writeln!(text, "{written}");
            }
        }
        Ok((text, changes))
    }

    fn file(&self, path: &str, text: String) -> File {
        File { path: self.below(path), text, secret: false }
    }

    fn key(&self, state: &Path) -> Result<Written> {
        files::private_folder(state)?;
        let path = state.join(identity::FILE);
        let had = identity::load(state)?.is_some();
        identity::load_or_create(state)?;
        Ok(if had { Written::Unchanged(path) } else { Written::New(path) })
    }

    fn torrc(&self) -> String {
        let contact =
            self.contact.as_ref().map(|contact| format!("ContactInfo {contact}\n")).unwrap_or_default();
        format!(
            "# What stands behind qnet-bridge: a bridge relay that nothing but qnet-bridge connects to.\n\
             BridgeRelay 1\nBridgeDistribution none\nPublishServerDescriptor 0\n\
             ORPort {OR_PORT}\nAssumeReachable 1\nExitPolicy reject *:*\nNickname {}\n{contact}",
            self.nickname
        )
    }

    /// What tor has made by now.
    fn fingerprints(&self, behind: Behind) -> Result<Option<Fingerprints>> {
        match behind {
            Behind::Tor => Fingerprints::read(&self.below(TOR_DATA)),
            Behind::Web => Ok(None),
        }
    }

    fn next_steps(&self, decided: &Decided, fingerprints: Option<&Fingerprints>) -> Result<String> {
        let mut text = self.include(decided);
        text.push_str("\nNow run:\n");
        if self.behind_server() {
            text.push_str("  nginx -t && systemctl reload nginx\n");
        }
        if decided.behind == Behind::Tor {
            text.push_str("  systemctl restart tor@default\n");
        }
        text.push_str(
            "  systemctl daemon-reload\n  systemctl enable --now qnet-bridge\n  qnet-bridge check\n",
        );
        let address = decided.address;
        if decided.behind == Behind::Tor && fingerprints.is_none() && !self.by_invitation {
            let _ = write!(
                text,
                "  qnet-bridge line --qr --address {address}\n\nThe last prints the line for users: tor has not made the relay's \
                 fingerprint yet, which belongs in it.\n",
            );
            return Ok(text);
        }
        text.push_str(&self.users(decided, fingerprints)?);
        Ok(text)
    }

    /// What the operator of a web server in front has to write.
    fn include(&self, decided: &Decided) -> String {
        let Decoy::Front(front) = &decided.plan.decoy else { return String::new() };
        format!(
            "\nWrite into the server block of {} in nginx (for other web servers see docs/operator.md):\n  include {};\n",
            front.url.host(),
            websocket::FILE
        )
    }

    /// How users get in.
    fn users(&self, decided: &Decided, fingerprints: Option<&Fingerprints>) -> Result<String> {
        if self.by_invitation {
            return Ok(format!(
                "  qnet-bridge invite NAME --address {}\n\nThe last prints the line for one client, whom you call NAME. Until \
                 somebody is invited the bridge is the web site and nothing else.\n",
                decided.address
            ));
        }
        let mut text = String::from("\nThe line for users:\n\n");
        for line in line::own(&decided.plan, fingerprints, Some(decided.address))? {
            // Writing to a string cannot fail.
            let _ = write!(text, "{line}\n\n{}", line::code(&line)?);
        }
        Ok(text)
    }
}
