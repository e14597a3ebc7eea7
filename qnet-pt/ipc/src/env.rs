//! What the parent says in `TOR_PT_*` environment variables (`pt-spec`, "Pluggable PT environment
//! variables").

use crate::args::{Args, ArgsError, parse_transport_options};
use crate::upstream::{Upstream, UpstreamError};
use qnet_wire::error::{Kind, Retry};
use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

/// The protocol version spoken here.
const VERSION: &str = "1";

/// Everything the parent asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The only folder the transport may write to; it may not exist yet.
    pub state: PathBuf,
    /// Whether the end of standard input means that the parent wants the transport to end.
    pub exit_on_stdin_close: bool,
    /// Source address of outgoing IPv4 connections.
    pub bind_v4: Option<Ipv4Addr>,
    /// Source address of outgoing IPv6 connections.
    pub bind_v6: Option<Ipv6Addr>,
    /// Client or server.
    pub role: Role,
}

/// One process plays one role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// At a user: SOCKS in, the transport out.
    Client(Client),
    /// At a bridge: the transport in, the ORPort out.
    Server(Server),
}

/// What a client side is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client {
    /// Names of the transports wanted, without repeats, in the order given.
    pub transports: Vec<String>,
    /// The upstream proxy, if one is set. Its error is not the environment's: it is told as
    /// [`crate::line::Line::ProxyError`], after the version.
    pub upstream: Option<Result<Upstream, UpstreamError>>,
}

/// What a server side is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// The transports wanted, without repeats, in the order given.
    pub transports: Vec<ServerTransport>,
    /// Where payload goes.
    pub or_port: OrPort,
}

/// One transport a bridge is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerTransport {
    /// Its name.
    pub name: String,
    /// Where to listen. C tor's default is `0.0.0.0:0`, which is to be bound as it stands.
    pub bind: Option<SocketAddr>,
    /// Its options, with repeated keys in the order given.
    pub options: Args,
}

/// Where a bridge's payload goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OrPort {
    /// The ORPort: payload only.
    Plain(SocketAddr),
    /// The Extended ORPort, which is told the client's address and the transport first.
    Extended {
        /// Where it listens.
        address: SocketAddr,
        /// The file with its cookie; tor may write it anew, so it is read for each connection.
        cookie_file: PathBuf,
    },
}

/// What is wrong with the environment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvError {
    /// The parent speaks no version spoken here: told as `VERSION-ERROR`, all else as `ENV-ERROR`.
    #[error("no common version of the pluggable transport protocol")]
    NoVersion,
    /// A variable that must be set is not, or is empty.
    #[error("{0} is not set; this program is meant to be started by tor or Arti")]
    Missing(&'static str),
    /// A variable is not text.
    #[error("{0} is not UTF-8 text")]
    NotText(&'static str),
    /// Both roles or none.
    #[error("{0}")]
    Roles(&'static str),
    /// A transport's name that no parent may send.
    #[error("{variable} has the transport name \"{name}\"; names match [a-zA-Z_][a-zA-Z0-9_]*")]
    Name {
        /// The variable.
        variable: &'static str,
        /// The name.
        name: String,
    },
    /// Something that should be an address.
    #[error("{variable} has \"{value}\" where {expected} is expected")]
    Address {
        /// The variable.
        variable: &'static str,
        /// What stands there.
        value: String,
        /// What should stand there.
        expected: &'static str,
    },
    /// Two bind addresses for one transport.
    #[error("TOR_PT_SERVER_BINDADDR has two addresses for \"{0}\"; one is allowed")]
    TwoAddresses(String),
    /// Options that cannot be parsed.
    #[error("TOR_PT_SERVER_TRANSPORT_OPTIONS: {0}")]
    Options(#[from] ArgsError),
}

impl EnvError {
    /// Who is at fault.
    pub fn kind(&self) -> Kind {
        match self {
            Self::NoVersion => Kind::PeerIncompatible,
            Self::Missing(_)
            | Self::NotText(_)
            | Self::Roles(_)
            | Self::Name { .. }
            | Self::Address { .. }
            | Self::TwoAddresses(_)
            | Self::Options(_) => Kind::Misuse,
        }
    }

    /// Whether the same can succeed later.
    pub fn retry(&self) -> Retry {
        match self {
            Self::NoVersion
            | Self::Missing(_)
            | Self::NotText(_)
            | Self::Roles(_)
            | Self::Name { .. }
            | Self::Address { .. }
            | Self::TwoAddresses(_)
            | Self::Options(_) => Retry::Never,
        }
    }
}

/// Reads the environment through `get`, which returns a variable's value.
///
/// # Errors
/// [`EnvError`]; whoever calls tells the parent and ends.
pub fn parse(get: impl Fn(&'static str) -> Option<OsString>) -> Result<Settings, EnvError> {
    let text = |name| match get(name).map(OsString::into_string) {
        None => Ok(None),
        Some(Ok(value)) => Ok(Some(value)),
        Some(Err(_)) => Err(EnvError::NotText(name)),
    };
    let needed = |name| text(name)?.filter(|value| !value.is_empty()).ok_or(EnvError::Missing(name));

    if !needed("TOR_PT_MANAGED_TRANSPORT_VER")?.split(',').any(|version| version.trim() == VERSION) {
        return Err(EnvError::NoVersion);
    }
    let state = get("TOR_PT_STATE_LOCATION").filter(|path| !path.is_empty());
    let state = state.ok_or(EnvError::Missing("TOR_PT_STATE_LOCATION"))?.into();
    let exit_on_stdin_close = text("TOR_PT_EXIT_ON_STDIN_CLOSE")?.as_deref() == Some("1");
    let (bind_v4, bind_v6) = bind_addresses(&text)?;
    let role = match (text("TOR_PT_CLIENT_TRANSPORTS")?, text("TOR_PT_SERVER_TRANSPORTS")?) {
        (Some(_), Some(_)) => {
            return Err(EnvError::Roles(
                "both TOR_PT_CLIENT_TRANSPORTS and TOR_PT_SERVER_TRANSPORTS are set; one process plays one role",
            ));
        }
        (None, None) => {
            return Err(EnvError::Roles(
                "neither TOR_PT_CLIENT_TRANSPORTS nor TOR_PT_SERVER_TRANSPORTS is set; one is needed",
            ));
        }
        (Some(list), None) => Role::Client(client(&list, get("TOR_PT_PROXY"))?),
        (None, Some(list)) => Role::Server(server(&list, &text, &get)?),
    };
    Ok(Settings { state, exit_on_stdin_close, bind_v4, bind_v6, role })
}

type Variable<'a> = &'a dyn Fn(&'static str) -> Result<Option<String>, EnvError>;

fn bind_addresses(text: Variable<'_>) -> Result<(Option<Ipv4Addr>, Option<Ipv6Addr>), EnvError> {
    const V4: &str = "TOR_PT_OUTBOUND_BIND_ADDRESS_V4";
    const V6: &str = "TOR_PT_OUTBOUND_BIND_ADDRESS_V6";
    let wrong =
        |variable, value: &str, expected| EnvError::Address { variable, value: value.to_owned(), expected };
    let v4 = match text(V4)?.as_deref() {
        None | Some("") => None,
        Some(value) => Some(value.parse().map_err(|_| wrong(V4, value, "an IPv4 address"))?),
    };
    let v6 = match text(V6)?.as_deref() {
        None | Some("") => None,
        Some(value) => {
            let bare = value.strip_prefix('[').and_then(|v| v.strip_suffix(']')).unwrap_or(value);
            Some(bare.parse().map_err(|_| wrong(V6, value, "an IPv6 address in brackets"))?)
        }
    };
    Ok((v4, v6))
}

fn names(variable: &'static str, list: &str) -> Result<Vec<String>, EnvError> {
    let mut names: Vec<String> = Vec::new();
    for name in list.split(',') {
        let mut letters = name.bytes();
        let first = letters.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
        if !first || !letters.all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            return Err(EnvError::Name { variable, name: name.to_owned() });
        }
        if !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

fn client(list: &str, proxy: Option<OsString>) -> Result<Client, EnvError> {
    let transports = names("TOR_PT_CLIENT_TRANSPORTS", list)?;
    let upstream = proxy
        .filter(|url| !url.is_empty())
        .map(|url| url.into_string().map_err(|_| UpstreamError::NotUrl).and_then(|url| url.parse()));
    Ok(Client { transports, upstream })
}

fn server(
    list: &str,
    text: Variable<'_>,
    get: &dyn Fn(&'static str) -> Option<OsString>,
) -> Result<Server, EnvError> {
    let mut transports: Vec<ServerTransport> = names("TOR_PT_SERVER_TRANSPORTS", list)?
        .into_iter()
        .map(|name| ServerTransport { name, bind: None, options: Args::new() })
        .collect();
    for (name, address) in server_addresses(&text("TOR_PT_SERVER_BINDADDR")?.unwrap_or_default())? {
        if let Some(transport) = transports.iter_mut().find(|t| t.name == name)
            && transport.bind.replace(address).is_some()
        {
            return Err(EnvError::TwoAddresses(name));
        }
    }
    let options = text("TOR_PT_SERVER_TRANSPORT_OPTIONS")?.unwrap_or_default();
    for (name, key, value) in parse_transport_options(&options)? {
        if let Some(transport) = transports.iter_mut().find(|t| t.name == name) {
            transport.options.push(key, value);
        }
    }
    Ok(Server { transports, or_port: or_port(text, get)? })
}

/// `name-address,name-address`. A name holds no hyphen and an address no comma.
fn server_addresses(list: &str) -> Result<Vec<(String, SocketAddr)>, EnvError> {
    let wrong = |item: &str| EnvError::Address {
        variable: "TOR_PT_SERVER_BINDADDR",
        value: item.to_owned(),
        expected: "NAME-IP:PORT",
    };
    if list.is_empty() {
        return Ok(Vec::new());
    }
    list.split(',')
        .map(|item| {
            let (name, address) = item.split_once('-').ok_or_else(|| wrong(item))?;
            Ok((name.to_owned(), address.parse().map_err(|_| wrong(item))?))
        })
        .collect()
}

fn or_port(text: Variable<'_>, get: &dyn Fn(&'static str) -> Option<OsString>) -> Result<OrPort, EnvError> {
    const PLAIN: &str = "TOR_PT_ORPORT";
    const EXTENDED: &str = "TOR_PT_EXTENDED_SERVER_PORT";
    const COOKIE: &str = "TOR_PT_AUTH_COOKIE_FILE";
    let address = |variable| -> Result<Option<SocketAddr>, EnvError> {
        let Some(value) = text(variable)?.filter(|value| !value.is_empty()) else { return Ok(None) };
        match value.parse::<SocketAddr>() {
            Ok(address) if address.port() != 0 => Ok(Some(reachable(address))),
            _ => Err(EnvError::Address { variable, value, expected: "IP:PORT" }),
        }
    };
    if let Some(address) = address(EXTENDED)? {
        let cookie_file =
            get(COOKIE).filter(|path| !path.is_empty()).ok_or(EnvError::Missing(COOKIE))?.into();
        return Ok(OrPort::Extended { address, cookie_file });
    }
    address(PLAIN)?.map(OrPort::Plain).ok_or(EnvError::Missing(PLAIN))
}

/// A listener on every address is reached on loopback.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    address
}

#[cfg(test)]
mod tests;
