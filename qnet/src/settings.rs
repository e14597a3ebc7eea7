//! Flags and the configuration file, checked together: every wrong value is named with its place and what was expected there.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use qnet_pt_ipc::upstream as ipc;
use qnet_transport::client::profiles;
use qnet_transport::connect::{Login, LoginError, Upstream};
use qnet_wire::bridge_line::{BridgeLine, ProfileName};
use qnet_wire::target::Target;
use serde::Deserialize;
use toml::Spanned;
use tracing::level_filters::LevelFilter;

use crate::cli::Proxy;

/// Where applications connect unless told otherwise.
const LISTEN: u16 = 1_088;
/// Where the status page is unless told otherwise.
const STATUS: u16 = 8_088;
/// Longest configuration file, bytes: a thousand bridges have room.
const MAX_FILE: u64 = 512 * 1024;
/// Most bridges; more is an accident.
pub(crate) const MAX_BRIDGES: usize = 64;
/// Most forwards.
const MAX_FORWARDS: usize = 256;

/// What a proxy is to do; all of it was checked.
#[derive(Clone, PartialEq)]
pub(crate) struct Settings {
    pub(crate) bridges: Vec<BridgeLine>,
    pub(crate) listen: Option<SocketAddr>,
    pub(crate) status: Option<SocketAddr>,
    pub(crate) forwards: Vec<Forward>,
    pub(crate) probe: Option<Target>,
    pub(crate) upstream: Upstream,
    pub(crate) log_level: LevelFilter,
    pub(crate) stdio: Option<Target>,
}

/// A port here that leads to a host there.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Forward {
    pub(crate) listen: SocketAddr,
    pub(crate) target: Target,
}

/// Everything that is wrong, a line each.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Wrong(Vec<String>);

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

/// The file's keys: those of the flags, but for what makes no sense in it.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct File {
    #[serde(default)]
    bridge: Vec<Spanned<String>>,
    listen: Option<Spanned<String>>,
    status: Option<Spanned<String>>,
    #[serde(default)]
    forward: Vec<Spanned<String>>,
    probe: Option<Spanned<String>>,
    upstream: Option<Spanned<String>>,
    profile: Option<Spanned<String>>,
    log_level: Option<Spanned<String>>,
}

/// For people, without addresses and names.
impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let on =
            |address: &Option<SocketAddr>| address.map_or("off".to_owned(), |address| address.to_string());
        let (bridges, forwards) = (self.bridges.len(), self.forwards.len());
        let (listen, status) = (on(&self.listen), on(&self.status));
        write!(f, "bridge lines: {bridges}; listen: {listen}; status: {status}; forwarded ports: {forwards}")
    }
}

impl Settings {
    /// What `flags` and the file they name come to.
    ///
    /// # Errors
    /// Everything that is wrong.
    pub(crate) fn read(flags: &Proxy) -> Result<Self, Wrong> {
        let text = flags.config.as_deref().map(read_file).transpose().map_err(|error| Wrong(vec![error]))?;
        let settings = Self::from(flags, text.as_deref().unwrap_or_default())?;
        let invited = settings.bridges.iter().any(|line| line.invitation.is_some());
        match &flags.config {
            Some(path) if invited && flags.bridge.is_empty() && readable_by_others(path) => {
                Err(Wrong(vec![format!(
                    "{0}: others may read it, and an invite= in it is a secret; run: chmod 600 {0}",
                    path.display()
                )]))
            }
            _ => Ok(settings),
        }
    }

    /// The same with the file's text.
    fn from(flags: &Proxy, text: &str) -> Result<Self, Wrong> {
        let path = flags.config.as_deref().unwrap_or(Path::new("the configuration"));
        let file: File = toml::from_str(text).map_err(|error| {
            let at = error.span().map(|span| position(text, span.start)).unwrap_or_default();
            Wrong(vec![format!("{}{at}: {}", path.display(), error.message())])
        })?;
        let mut reader = Reader { path, text, wrong: Vec::new() };
        let mut settings = Self {
            bridges: reader.many("bridge", &flags.bridge, file.bridge, MAX_BRIDGES, |text| {
                text.parse::<BridgeLine>().map_err(|error| error.to_string())
            }),
            listen: reader.one("listen", &flags.listen, file.listen, address).unwrap_or(Some(local(LISTEN))),
            status: reader.one("status", &flags.status, file.status, address).unwrap_or(Some(local(STATUS))),
            forwards: reader.many("forward", &flags.forward, file.forward, MAX_FORWARDS, forward),
            probe: reader.one("probe", &flags.probe, file.probe, target),
            upstream: reader.one("upstream", &flags.upstream, file.upstream, proxy).unwrap_or_default(),
            log_level: reader
                .one("log-level", &flags.log_level, file.log_level, level)
                // Under ssh, standard error is the user's terminal.
                .unwrap_or(if flags.stdio.is_some() { LevelFilter::WARN } else { LevelFilter::INFO }),
            stdio: reader.one("stdio", &flags.stdio, None, target),
        };
        if let Some(profile) = reader.one("profile", &flags.profile, file.profile, profile) {
            settings.bridges.iter_mut().for_each(|line| line.profile = Some(profile.clone()));
        }
        if settings.bridges.is_empty() && reader.wrong.is_empty() {
            reader.wrong.push(
                "bridge: there is none; give --bridge 'qnet 192.0.2.7:443 key=… sni=…', or `bridge = [\"qnet …\"]` in the \
                 file that --config names"
                    .to_owned(),
            );
        }
        if reader.wrong.is_empty() { Ok(settings) } else { Err(Wrong(reader.wrong)) }
    }
}

/// Takes each setting from its flag or else from the file, and collects what is wrong with it.
struct Reader<'a> {
    path: &'a Path,
    text: &'a str,
    wrong: Vec<String>,
}

impl Reader<'_> {
    fn one<T>(
        &mut self,
        name: &str,
        flag: &Option<String>,
        key: Option<Spanned<String>>,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        let flags: Vec<String> = flag.iter().cloned().collect();
        self.many(name, &flags, key.into_iter().collect(), 1, parse).pop()
    }

    fn many<T>(
        &mut self,
        name: &str,
        flags: &[String],
        keys: Vec<Spanned<String>>,
        most: usize,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Vec<T> {
        let given: Vec<(String, String)> = if flags.is_empty() {
            let place = |key: &Spanned<String>| {
                format!("{}{}: {name}", self.path.display(), position(self.text, key.span().start))
            };
            keys.into_iter().map(|key| (place(&key), key.into_inner())).collect()
        } else {
            let place = |index| {
                if flags.len() == 1 { format!("--{name}") } else { format!("--{name}, number {}", index + 1) }
            };
            flags.iter().enumerate().map(|(index, text)| (place(index), text.clone())).collect()
        };
        if given.len() > most {
            self.wrong.push(format!("{name}: there are {}, and {most} at most are expected", given.len()));
            return Vec::new();
        }
        let mut parsed = Vec::new();
        for (place, text) in given {
            match parse(&text) {
                Ok(value) => parsed.push(value),
                Err(error) => self.wrong.push(format!("{place}: {error}")),
            }
        }
        parsed
    }
}

/// `:line:column` of a place in the file, both from 1.
fn position(text: &str, offset: usize) -> String {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.chars().rev().take_while(|letter| *letter != '\n').count() + 1;
    format!(":{line}:{column}")
}

fn read_file(path: &Path) -> Result<String, String> {
    let told =
        |error: &dyn fmt::Display| format!("{}: {error}; a TOML file is expected there", path.display());
    let length = std::fs::metadata(path).map_err(|error| told(&error))?.len();
    if length > MAX_FILE {
        return Err(format!("{}: {length} bytes; {MAX_FILE} at most are expected", path.display()));
    }
    std::fs::read_to_string(path).map_err(|error| told(&error))
}

#[cfg(unix)]
fn readable_by_others(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o077 != 0)
}

#[cfg(not(unix))]
fn readable_by_others(_path: &Path) -> bool {
    false
}

fn local(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// An address to listen on, or nothing for `off`. Only loopback: whoever reaches the proxy uses the bridges, and whoever
/// reaches the status page sees how.
fn address(text: &str) -> Result<Option<SocketAddr>, String> {
    if text == "off" {
        return Ok(None);
    }
    let address: SocketAddr = text.parse().map_err(|_| {
        format!("`{}` is no address; one such as 127.0.0.1:1088, or `off`, is expected", shown(text))
    })?;
    if address.ip().is_loopback() {
        Ok(Some(address))
    } else {
        Err(format!(
            "{address} is not of this machine alone; a loopback address such as 127.0.0.1 is expected"
        ))
    }
}

fn target(text: &str) -> Result<Target, String> {
    text.parse().map_err(|error| format!("`{}`: {error}", shown(text)))
}

/// `[ADDRESS:]PORT:HOST:PORT`, as ssh's -L has it.
fn forward(text: &str) -> Result<Forward, String> {
    let told = |reason: &dyn fmt::Display| {
        let text = shown(text);
        format!("`{text}`: {reason}; [ADDRESS:]PORT:HOST:PORT is expected, as in 8022:server.example:22")
    };
    let (listen, target) = split_forward(text).ok_or_else(|| told(&"it has too few parts"))?;
    let listen = match listen.parse::<u16>() {
        Ok(port) => local(port),
        Err(_) => listen.parse().map_err(|_| told(&"it begins with no port and no address with a port"))?,
    };
    if !listen.ip().is_loopback() {
        return Err(told(&"it would listen for other machines"));
    }
    Ok(Forward { listen, target: target.parse().map_err(|error| told(&error))? })
}

/// The colon before the host: the second from the right, not counting those in brackets.
fn split_forward(text: &str) -> Option<(&str, &str)> {
    let (rest, _port) = text.rsplit_once(':')?;
    let colon = match rest.strip_suffix(']') {
        Some(inner) => inner.rfind('[')?.checked_sub(1)?,
        None => rest.rfind(':')?,
    };
    let (listen, target) = text.split_at_checked(colon)?;
    Some((listen, target.strip_prefix(':')?))
}

fn level(text: &str) -> Result<LevelFilter, String> {
    match text {
        "error" => Ok(LevelFilter::ERROR),
        "warn" => Ok(LevelFilter::WARN),
        "info" => Ok(LevelFilter::INFO),
        "debug" => Ok(LevelFilter::DEBUG),
        "trace" => Ok(LevelFilter::TRACE),
        _ => Err(format!("`{}` is no level; error, warn, info, debug or trace is expected", shown(text))),
    }
}

/// A traffic profile that this program knows.
fn profile(text: &str) -> Result<ProfileName, String> {
    let known = profiles();
    let name = text.parse().ok().filter(|_| known.split(", ").any(|name| name == text));
    name.ok_or_else(|| format!("`{}` is no traffic profile; one of {known} is expected", shown(text)))
}

fn proxy(text: &str) -> Result<Upstream, String> {
    // Its errors name the variable that a pluggable transport has it from.
    let told = |error: ipc::UpstreamError| error.to_string().replace("TOR_PT_PROXY", "the value");
    let parsed: ipc::Upstream = text.parse().map_err(told)?;
    let with = |login: &Option<ipc::Login>| {
        login.as_ref().map(|login| Login::new(login.user.as_str(), login.password.as_str())).transpose()
    };
    let upstream = || -> Result<Upstream, LoginError> {
        Ok(match &parsed {
            ipc::Upstream::Socks5 { address, login } => {
                Upstream::Socks5 { addr: *address, login: with(login)? }
            }
            ipc::Upstream::Socks4a { address, user } => {
                Upstream::Socks4a { addr: *address, user: user.clone() }
            }
            ipc::Upstream::Http { address, login } => Upstream::Http { addr: *address, login: with(login)? },
        })
    };
    upstream().map_err(|error| error.to_string())
}

/// What is shown of a wrong value: the beginning, without what a terminal takes for commands.
fn shown(text: &str) -> String {
    const MOST: usize = 60;
    let short: String = text.chars().take(MOST).flat_map(char::escape_debug).collect();
    if text.chars().count() > MOST { short + "…" } else { short }
}

#[cfg(test)]
mod tests;
