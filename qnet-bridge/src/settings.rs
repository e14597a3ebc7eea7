//! What the operator sets: the keys of the TOML file and the flags of the same names. A flag goes before the file.

mod url;

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    num::NonZeroU32,
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use qnet_transport::decoy::{Place, is_local, is_usable};
use qnet_wire::{name::ServerName, url::WebsocketUrl};
use serde::{Deserialize, Deserializer, de};

use crate::acme;
use crate::exit::{Allowed, Destination, limits::Limits, policy::ExitPolicy};

/// Where the key is unless the operator says otherwise; the package's service makes it.
pub const DEFAULT_STATE: &str = "/var/lib/qnet-bridge";
/// Where `init` has the list of invited clients.
pub const DEFAULT_INVITED: &str = "/var/lib/qnet-bridge/invited";
/// Where `init` has the address of the websocket.
pub const DEFAULT_URL_FILE: &str = "/var/lib/qnet-bridge/url";
/// Where the settings are unless the operator says otherwise.
pub const DEFAULT_CONFIG: &str = "/etc/qnet-bridge/bridge.toml";
/// Where a bridge behind a web server listens unless the operator says otherwise.
pub const BEHIND_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8_081);
/// How long streams may go on when the bridge is told to end.
const DEFAULT_DRAIN: u64 = 30;
/// How long connections may go on in a process whose successor runs: visits to the decoy and most downloads are over by then.
const DEFAULT_UPGRADE_DRAIN: u64 = 3_600;
/// Longest drain, seconds: a day. Who wants more wants no drain.
const MAX_DRAIN: u64 = 86_400;

/// The settings of `run`, each of which may be missing.
#[derive(Args, Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Settings {
    /// Where to listen [default: 0.0.0.0:443; behind a web server 127.0.0.1:8081]
    #[arg(long, value_name = "ADDRESS:PORT")]
    #[serde(default, deserialize_with = "text")]
    pub listen: Option<SocketAddr>,

    /// Take connections from this balancer alone, each with a PROXY header of version 2; may be given several times
    #[arg(long, value_name = "ADDRESS")]
    #[serde(default, deserialize_with = "texts")]
    pub proxy_protocol: Vec<IpAddr>,

    /// The folder with the bridge's key [default: /var/lib/qnet-bridge]
    #[arg(long, value_name = "FOLDER")]
    pub state: Option<PathBuf>,

    /// The web site that answers strangers, on this machine
    #[arg(long, value_name = "HOST:PORT")]
    #[serde(default, deserialize_with = "text")]
    pub decoy: Option<Place>,

    /// A name the site has, as in its certificate; may be given several times
    #[arg(long, value_name = "NAME")]
    #[serde(default, deserialize_with = "texts")]
    pub sni: Vec<ServerName>,

    /// The site is somebody else's, who agrees
    #[arg(long, num_args = 0..=1, default_missing_value = "true", value_name = "true|false")]
    pub third_party_decoy: Option<bool>,

    /// A folder with a static site that the bridge serves itself, instead of --decoy
    #[arg(long, value_name = "FOLDER", conflicts_with_all = ["decoy", "sni", "third_party_decoy"])]
    pub site: Option<PathBuf>,

    /// With --site: the name of the site, which must lead to this machine
    #[arg(long, value_name = "NAME")]
    #[serde(default, deserialize_with = "text")]
    pub domain: Option<ServerName>,

    /// With --site: its certificate with the chain, PEM
    #[arg(long, value_name = "FILE")]
    pub certificate: Option<PathBuf>,

    /// With --site: the certificate's key, PEM
    #[arg(long, value_name = "FILE")]
    pub certificate_key: Option<PathBuf>,

    /// With --site: get its certificate by ACME, and agree to the authority's terms
    #[arg(long, num_args = 0..=1, default_missing_value = "true", value_name = "true|false")]
    pub acme_terms_agreed: Option<bool>,

    /// With --site: how the authority may reach you, such as mailto:you@example.com
    #[arg(long, value_name = "URL")]
    #[serde(default, deserialize_with = "text")]
    pub acme_contact: Option<acme::Contact>,

    /// With --site: the authority's directory [default: Let's Encrypt's]
    #[arg(long, value_name = "URL")]
    #[serde(default, deserialize_with = "text")]
    pub acme_directory: Option<acme::DirectoryUrl>,

    /// Where clients open websockets: a secret path of the web server's site that this bridge stands behind, or of the site with --site
    #[arg(long, value_name = "https://NAME/PATH", conflicts_with_all = ["decoy", "sni", "third_party_decoy", "invited"])]
    #[serde(default, deserialize_with = "text")]
    pub url: Option<WebsocketUrl>,

    /// A file with that address instead, which the bridge and root alone may read
    #[arg(long, value_name = "FILE", conflicts_with_all = ["url", "decoy", "sni", "third_party_decoy", "invited"])]
    pub url_file: Option<PathBuf>,

    /// With --url or --url-file behind a web server: its site without TLS, on this machine, for whoever asks for the path and is no client
    #[arg(long, value_name = "ADDRESS:PORT", conflicts_with = "site")]
    #[serde(default, deserialize_with = "text")]
    pub origin: Option<SocketAddr>,

    /// With --origin: the web server says in X-Forwarded-For whose a websocket is, for the limits of one client
    #[arg(long, num_args = 0..=1, default_missing_value = "true", value_name = "true|false")]
    pub forwarded_for: Option<bool>,

    /// Serve the clients of this list alone, whom `qnet-bridge invite` adds [default: whoever has the bridge's line]
    #[arg(long, value_name = "FILE")]
    pub invited: Option<PathBuf>,

    /// Where clients may connect to, in Tor's syntax; several are joined [default: accept *:80, accept *:443, reject *:*]
    #[arg(long, value_name = "RULES")]
    #[serde(default)]
    pub exit_policy: Vec<String>,

    /// Leave private and other special addresses, and this machine's own, to the exit policy
    #[arg(long, num_args = 0..=1, default_missing_value = "true", value_name = "true|false")]
    pub allow_special: Option<bool>,

    /// Serve UDP, too, to the addresses and ports of the exit policy
    #[arg(long, num_args = 0..=1, default_missing_value = "true", value_name = "true|false")]
    pub udp: Option<bool>,

    /// Forward every stream there instead of where clients say
    #[arg(long, value_name = "HOST:PORT", conflicts_with_all = ["exit_policy", "allow_special", "udp"])]
    #[serde(default, deserialize_with = "text")]
    pub upstream: Option<Place>,

    /// Streams at once [default: 8192]
    #[arg(long, value_name = "NUMBER")]
    pub max_streams: Option<usize>,

    /// Streams at once of one client, which is a /24 or a /64 [default: 1024]
    #[arg(long, value_name = "NUMBER")]
    pub max_streams_per_client: Option<usize>,

    /// New streams a second of one client, ten times as many at once; 0: any number [default: 50]
    #[arg(long, value_name = "NUMBER")]
    pub stream_rate_per_client: Option<u32>,

    /// Bytes a second, both directions together; 0: any number [default: 0]
    #[arg(long, value_name = "BYTES")]
    pub bandwidth: Option<u32>,

    /// Bytes a second of one client; 0: any number [default: 0]
    #[arg(long, value_name = "BYTES")]
    pub bandwidth_per_client: Option<u32>,

    /// Where Prometheus may ask for numbers, on loopback
    #[arg(long, value_name = "ADDRESS:PORT")]
    #[serde(default, deserialize_with = "text")]
    pub metrics: Option<SocketAddr>,

    /// Seconds that streams may go on when the bridge is told to end [default: 30]
    #[arg(long, value_name = "SECONDS")]
    pub drain: Option<u64>,

    /// Seconds that connections may go on when a new process has taken over, after SIGUSR2 [default: 3600]
    #[arg(long, value_name = "SECONDS")]
    pub upgrade_drain: Option<u64>,
}

/// A string of the file, parsed as the flag's value is.
fn text<'de, D: Deserializer<'de>, T: FromStr<Err: fmt::Display>>(from: D) -> Result<Option<T>, D::Error> {
    parse(&String::deserialize(from)?).map(Some)
}

/// A list of such strings.
fn texts<'de, D: Deserializer<'de>, T: FromStr<Err: fmt::Display>>(from: D) -> Result<Vec<T>, D::Error> {
    Vec::<String>::deserialize(from)?.iter().map(|text| parse(text)).collect()
}

fn parse<T: FromStr<Err: fmt::Display>, E: de::Error>(text: &str) -> Result<T, E> {
    text.parse().map_err(|error| E::custom(format!("`{text}`: {error}")))
}

/// What answers strangers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decoy {
    /// A web server.
    Server {
        /// Where it is.
        place: Place,
        /// It may be elsewhere than on this machine.
        third_party: bool,
    },
    /// This program.
    Site {
        /// The folder with the site.
        folder: PathBuf,
        /// Where its certificate comes from.
        certificate: Certificate,
        /// Where it takes websockets for the bridge, too.
        url: Option<WebsocketUrl>,
    },
    /// A web server in front of the bridge, which hands it the websockets of one path.
    Front(Front),
}

/// A web server that a bridge stands behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Front {
    /// Where clients open websockets.
    pub url: WebsocketUrl,
    /// Its site without TLS.
    pub origin: SocketAddr,
    /// Whether it says in `X-Forwarded-For` whose a websocket is.
    pub forwarded: bool,
}

impl Decoy {
    /// Where clients open websockets, if they do.
    #[must_use]
    pub fn url(&self) -> Option<&WebsocketUrl> {
        match self {
            Self::Server { .. } => None,
            Self::Site { url, .. } => url.as_ref(),
            Self::Front(front) => Some(&front.url),
        }
    }
}

/// Where the built-in site's certificate comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Certificate {
    /// Files, which somebody else renews.
    Files {
        /// The certificate with its chain, PEM.
        chain: PathBuf,
        /// Its key, PEM.
        key: PathBuf,
    },
    /// An authority, asked by this program.
    Acme(acme::Settings),
}

/// What `run` goes by, whole and checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Where to listen.
    pub listen: SocketAddr,
    /// The balancers that alone may connect, and say whose each connection is; none: anybody connects.
    pub balancers: Vec<IpAddr>,
    /// The folder with the key.
    pub state: PathBuf,
    /// The decoy.
    pub decoy: Decoy,
    /// Its names: at least one, but none behind a web server.
    pub names: Vec<ServerName>,
    /// The list of those who alone may use the bridge; `None`: whoever has its line.
    pub invited: Option<PathBuf>,
    /// Where streams go.
    pub destination: Destination,
    /// What clients may use.
    pub limits: Limits,
    /// Where numbers are told, if they are.
    pub metrics: Option<SocketAddr>,
    /// How long streams may go on at the end.
    pub drain: Duration,
    /// How long connections may go on once another process has taken over.
    pub upgrade_drain: Duration,
}

impl Plan {
    /// What the site that answers strangers is called: behind a web server as that is.
    #[must_use]
    pub fn site_names(&self) -> Vec<ServerName> {
        match &self.decoy {
            Decoy::Front(front) => vec![front.url.host().clone()],
            Decoy::Server { .. } | Decoy::Site { .. } => self.names.clone(),
        }
    }
}

impl Settings {
    /// The settings of a file; an error names the key, the line and what was expected.
    ///
    /// # Errors
    /// It cannot be read, is no TOML, or has a key or a value that does not exist.
    pub fn read(path: &std::path::Path) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read the configuration {}", path.display()))?;
        toml::from_str(&text).with_context(|| format!("in the configuration {}", path.display()))
    }

    /// These settings, and the file's where these have none.
    #[must_use]
    pub fn over(self, file: Self) -> Self {
        let list = |own: Vec<_>, other| if own.is_empty() { other } else { own };
        // A destination on the command line replaces the file's as a whole: the two kinds do not go together.
        let directed = !self.exit_policy.is_empty() || self.allow_special.is_some() || self.udp.is_some();
        let file = self.instead_of(file);
        let file = match (&self.upstream, directed) {
            (Some(_), _) => Self { exit_policy: Vec::new(), allow_special: None, udp: None, ..file },
            (None, true) => Self { upstream: None, ..file },
            (None, false) => file,
        };
        Self {
            listen: self.listen.or(file.listen),
            proxy_protocol: if self.proxy_protocol.is_empty() {
                file.proxy_protocol
            } else {
                self.proxy_protocol
            },
            state: self.state.or(file.state),
            decoy: self.decoy.or(file.decoy),
            sni: if self.sni.is_empty() { file.sni } else { self.sni },
            third_party_decoy: self.third_party_decoy.or(file.third_party_decoy),
            site: self.site.or(file.site),
            domain: self.domain.or(file.domain),
            certificate: self.certificate.or(file.certificate),
            certificate_key: self.certificate_key.or(file.certificate_key),
            acme_terms_agreed: self.acme_terms_agreed.or(file.acme_terms_agreed),
            acme_contact: self.acme_contact.or(file.acme_contact),
            acme_directory: self.acme_directory.or(file.acme_directory),
            url: self.url.or(file.url),
            url_file: self.url_file.or(file.url_file),
            origin: self.origin.or(file.origin),
            forwarded_for: self.forwarded_for.or(file.forwarded_for),
            invited: self.invited.or(file.invited),
            exit_policy: list(self.exit_policy, file.exit_policy),
            allow_special: self.allow_special.or(file.allow_special),
            udp: self.udp.or(file.udp),
            upstream: self.upstream.or(file.upstream),
            max_streams: self.max_streams.or(file.max_streams),
            max_streams_per_client: self.max_streams_per_client.or(file.max_streams_per_client),
            stream_rate_per_client: self.stream_rate_per_client.or(file.stream_rate_per_client),
            bandwidth: self.bandwidth.or(file.bandwidth),
            bandwidth_per_client: self.bandwidth_per_client.or(file.bandwidth_per_client),
            metrics: self.metrics.or(file.metrics),
            drain: self.drain.or(file.drain),
            upgrade_drain: self.upgrade_drain.or(file.upgrade_drain),
        }
    }

    /// The file without what answers strangers there, where these settings say something else of that.
    fn instead_of(&self, file: Self) -> Self {
        let file = if self.url.is_some() || self.url_file.is_some() {
            Self { url: None, url_file: None, ..file }
        } else {
            file
        };
        if self.site.is_none() && self.decoy.is_none() && self.origin.is_none() {
            return file;
        }
        let own = if self.site.is_some() {
            file
        } else {
            Self {
                site: None,
                domain: None,
                certificate: None,
                certificate_key: None,
                acme_terms_agreed: None,
                acme_contact: None,
                acme_directory: None,
                ..file
            }
        };
        let before = if self.decoy.is_some() {
            own
        } else {
            Self { decoy: None, sni: Vec::new(), third_party_decoy: None, ..own }
        };
        match (&self.origin, &self.site) {
            (Some(_), _) => before,
            (None, Some(_)) => Self { origin: None, forwarded_for: None, ..before },
            (None, None) => Self { url: None, url_file: None, origin: None, forwarded_for: None, ..before },
        }
    }

    /// The settings with what is missing filled in.
    ///
    /// # Errors
    /// There is no decoy or no name, two settings contradict each other, or the file with the websocket's address cannot be used.
    pub fn plan(mut self) -> Result<Plan> {
        if let Some(file) = self.url_file.take() {
            ensure!(self.url.is_none(), "url and url-file say the same: remove one or the other");
            self.url = Some(url::read(&file)?);
        }
        let destination = self.destination()?;
        let limits = self.limits()?;
        let drain = seconds("drain", self.drain, DEFAULT_DRAIN)?;
        let upgrade_drain = seconds("upgrade-drain", self.upgrade_drain, DEFAULT_UPGRADE_DRAIN)?;
        if let Some(metrics) = self.metrics.filter(|metrics| !metrics.ip().is_loopback()) {
            bail!(
                "metrics is {metrics}: the numbers are for this machine alone, on an address such as 127.0.0.1:9435"
            );
        }
        let (decoy, names) = self.decoy()?;
        Ok(Plan {
            listen: self.listen(&decoy)?,
            balancers: self.proxy_protocol.clone(),
            state: self.state(),
            decoy,
            names,
            invited: self.invited,
            destination,
            limits,
            metrics: self.metrics,
            drain,
            upgrade_drain,
        })
    }

    fn listen(&self, decoy: &Decoy) -> Result<SocketAddr> {
        let usual = match decoy {
            Decoy::Front(_) => BEHIND_LISTEN,
            Decoy::Server { .. } | Decoy::Site { .. } => SocketAddr::from(([0, 0, 0, 0], 443)),
        };
        let listen = self.listen.unwrap_or(usual);
        if matches!(decoy, Decoy::Front(_)) && !listen.ip().is_loopback() {
            bail!(
                "listen is {listen}: a bridge behind a web server, which ends TLS, listens on loopback alone, as in listen = \"{BEHIND_LISTEN}\""
            );
        }
        Ok(listen)
    }

    fn decoy(&self) -> Result<(Decoy, Vec<ServerName>)> {
        if self.origin.is_none() && self.forwarded_for.is_some() {
            bail!("forwarded-for is for a bridge behind a web server, with url and origin");
        }
        if self.url.is_some() && self.invited.is_some() {
            bail!(
                "url lets in whoever knows its path, so invited would do nothing beside it: remove one or the other"
            );
        }
        if self.site.is_some() || self.domain.is_some() {
            return self.own_site();
        }
        let files = self.certificate.is_some() || self.certificate_key.is_some();
        let acme =
            self.acme_terms_agreed.is_some() || self.acme_contact.is_some() || self.acme_directory.is_some();
        if files || acme {
            bail!(
                "certificate, certificate-key and what begins with acme are for a bridge with site and domain: a web server \
                 has its own"
            );
        }
        if self.url.is_some() || self.origin.is_some() {
            return Ok((Decoy::Front(self.front()?), Vec::new()));
        }
        let Some(place) = self.decoy.clone() else {
            bail!(
                "no decoy is set: name the web site that answers strangers, as in: decoy = \"127.0.0.1:8443\" and \
                 sni = [\"www.example.com\"] (flags: --decoy, --sni); or let the bridge serve one: site and domain"
            );
        };
        let names = match &place {
            Place::Name(name, _) if self.sni.is_empty() => vec![name.clone()],
            Place::Address(_) if self.sni.is_empty() => {
                bail!(
                    "decoy is an address, so sni must say which name its certificate has, as in: sni = [\"www.example.com\"]"
                )
            }
            _ => self.sni.clone(),
        };
        Ok((Decoy::Server { place, third_party: self.third_party_decoy.unwrap_or(false) }, names))
    }

    fn front(&self) -> Result<Front> {
        let (Some(url), Some(origin)) = (self.url.clone(), self.origin) else {
            bail!(
                "url (or url-file) and origin belong together: url = \"https://www.example.com/a7Ge93kd\", a path of your web server's site that \
                 nobody guesses, and origin = \"127.0.0.1:8080\", the same site without TLS (or let the bridge serve one: site and domain)"
            )
        };
        if self.decoy.is_some() || !self.sni.is_empty() || self.third_party_decoy.is_some() {
            bail!(
                "decoy, sni and third-party-decoy are for a bridge before a web site, url and origin for one behind it: remove one or the other"
            );
        }
        if !is_usable(origin) || !is_local(origin.ip()) {
            bail!(
                "origin is {origin}, which is not this machine's: what visitors say would cross the network in the clear; give a \
                 web server of this machine, as in origin = \"127.0.0.1:8080\""
            );
        }
        Ok(Front { url, origin, forwarded: self.forwarded_for.unwrap_or(false) })
    }

    fn own_site(&self) -> Result<(Decoy, Vec<ServerName>)> {
        let (Some(folder), Some(domain)) = (self.site.clone(), self.domain.clone()) else {
            bail!(
                "site and domain belong together: site = \"/var/www/html\" and domain = \"www.example.com\""
            )
        };
        if self.decoy.is_some() || !self.sni.is_empty() || self.third_party_decoy.is_some() {
            bail!(
                "site is served by the bridge, so decoy, sni and third-party-decoy would do nothing beside it: remove one or the other"
            );
        }
        if let Some(url) = self.url.as_ref().filter(|url| *url.host() != domain) {
            bail!("url is at {}, and the site's domain is {domain}: make them the same", url.host());
        }
        if self.origin.is_some() {
            bail!(
                "site is served by the bridge, so origin would do nothing beside it: remove one or the other"
            );
        }
        let certificate = match (self.certificate.clone(), self.certificate_key.clone()) {
            (Some(chain), Some(key)) if self.acme_terms_agreed.is_none() => Certificate::Files { chain, key },
            (Some(_), Some(_)) => {
                bail!(
                    "certificate and acme-terms-agreed are two ways to a certificate: remove one or the other"
                )
            }
            (None, None) => Certificate::Acme(self.acme(&domain)?),
            _ => bail!("certificate and certificate-key belong together"),
        };
        Ok((Decoy::Site { folder, certificate, url: self.url.clone() }, vec![domain]))
    }

    fn acme(&self, domain: &ServerName) -> Result<acme::Settings> {
        if self.acme_terms_agreed != Some(true) {
            bail!(
                "site needs a certificate for {domain}: say acme-terms-agreed = true to get one from Let's Encrypt, to whose terms \
                 (https://letsencrypt.org/repository/) you then agree, or give certificate and certificate-key"
            );
        }
        Ok(acme::Settings {
            directory: self.acme_directory.clone().unwrap_or_else(acme::DirectoryUrl::lets_encrypt),
            contact: self.acme_contact.clone(),
            folder: self.state().join("acme"),
            name: domain.clone(),
        })
    }

    fn state(&self) -> PathBuf {
        self.state.clone().unwrap_or_else(|| DEFAULT_STATE.into())
    }

    fn destination(&self) -> Result<Destination> {
        if let Some(upstream) = &self.upstream {
            if !self.exit_policy.is_empty() || self.allow_special.is_some() || self.udp.is_some() {
                bail!(
                    "upstream takes every stream, so exit-policy, allow-special and udp would do nothing beside it: remove one or the other"
                );
            }
            return Ok(Destination::Upstream(upstream.clone()));
        }
        let policy = match self.exit_policy.as_slice() {
            [] => ExitPolicy::default(),
            rules => rules.join("\n").parse().context("in exit-policy")?,
        };
        let (special, udp) = (self.allow_special.unwrap_or(false), self.udp.unwrap_or(false));
        Ok(Destination::Anywhere(Allowed { policy, special, udp }))
    }

    fn limits(&self) -> Result<Limits> {
        let usual = Limits::default();
        let count = |name: &str, value: Option<usize>, usual| match value {
            Some(0) => bail!(
                "{name} is 0, which would let nobody in: give a number from 1 on, or leave it out for {usual}"
            ),
            value => Ok(value.unwrap_or(usual)),
        };
        let rate = |value: Option<u32>, usual| value.map_or(usual, NonZeroU32::new);
        Ok(Limits {
            streams: count("max-streams", self.max_streams, usual.streams)?,
            streams_per_client: count(
                "max-streams-per-client",
                self.max_streams_per_client,
                usual.streams_per_client,
            )?,
            rate_per_client: rate(self.stream_rate_per_client, usual.rate_per_client),
            bandwidth: rate(self.bandwidth, usual.bandwidth),
            bandwidth_per_client: rate(self.bandwidth_per_client, usual.bandwidth_per_client),
        })
    }
}

fn seconds(name: &str, value: Option<u64>, usual: u64) -> Result<Duration> {
    let value = value.unwrap_or(usual);
    if value > MAX_DRAIN {
        bail!("{name} is {value}: it is a number of seconds up to {MAX_DRAIN}");
    }
    Ok(Duration::from_secs(value))
}

#[cfg(test)]
mod tests;
