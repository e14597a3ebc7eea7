//! Where a bridge's decoy is, as its operator says it.

use std::{
    fmt, io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    str::FromStr,
    time::Duration,
};

use qnet_wire::{
    error::{Kind, Retry},
    name::ServerName,
};
use tokio::time::timeout;

/// How long looking up the decoy's name may take: all of a transport's starting must fit Arti's 30 s.
const LOOKUP: Duration = Duration::from_secs(10);

/// Where the decoy is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// An address.
    Address(SocketAddr),
    /// A name, looked up when the bridge starts, and a port.
    Name(ServerName, u16),
}

impl FromStr for Place {
    type Err = PlaceError;

    fn from_str(text: &str) -> Result<Self, PlaceError> {
        let wrong = || PlaceError::Form(text.to_owned());
        if let Ok(address) = text.parse::<SocketAddr>() {
            return is_usable(address).then_some(Self::Address(address)).ok_or_else(wrong);
        }
        let (name, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(wrong)?;
        Ok(Self::Name(name.parse().map_err(|_| wrong())?, port))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => write!(f, "{address}"),
            Self::Name(name, port) => write!(f, "{name}:{port}"),
        }
    }
}

impl Place {
    /// The decoy's address, which must be this machine's unless `third_party` says that it need not.
    ///
    /// # Errors
    /// See [`PlaceError`].
    pub async fn resolve(&self, third_party: bool) -> Result<SocketAddr, PlaceError> {
        let addresses: Vec<SocketAddr> = match self {
            Self::Address(address) => vec![*address],
            Self::Name(name, port) => timeout(LOOKUP, tokio::net::lookup_host((name.as_str(), *port)))
                .await
                .map_err(|_| PlaceError::Slow(name.clone()))?
                .map_err(|why| PlaceError::Unknown { name: name.clone(), why })?
                .collect(),
        };
        let address = *addresses.first().ok_or(PlaceError::NoAddress)?;
        if !third_party && !addresses.iter().all(|address| is_local(address.ip())) {
            return Err(PlaceError::Foreign(address.ip()));
        }
        Ok(address)
    }
}

/// Why there is no decoy at such a place.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// Not HOST:PORT.
    #[error("{0} is not HOST:PORT")]
    Form(String),
    /// No name server answers.
    #[error("looking up the decoy's name {0} takes too long; give its address, and sni={0}")]
    Slow(ServerName),
    /// No name server knows it.
    #[error("cannot look up the decoy's name {name}: {why}")]
    Unknown {
        /// The name.
        name: ServerName,
        /// The system's reason.
        why: io::Error,
    },
    /// It has no address.
    #[error("the decoy's name has no address")]
    NoAddress,
    /// Somebody else's site, and nobody said that this is meant.
    #[error(
        "the decoy's address {0} is not this machine's: every connection to the bridge would load somebody else's \
         site, which can limit, log or stop it; if that is agreed, add third-party-decoy=1"
    )]
    Foreign(IpAddr),
}

impl PlaceError {
    /// Who is at fault.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Form(_) | Self::NoAddress | Self::Foreign(_) => Kind::Misuse,
            Self::Slow(_) | Self::Unknown { .. } => Kind::Network,
        }
    }

    /// Whether asking again can help.
    #[must_use]
    pub fn retry(&self) -> Retry {
        match self {
            Self::Form(_) | Self::NoAddress | Self::Foreign(_) => Retry::Never,
            Self::Slow(_) | Self::Unknown { .. } => Retry::Later,
        }
    }
}

/// Whether something can be connected to there.
#[must_use]
pub fn is_usable(address: SocketAddr) -> bool {
    address.port() != 0 && !address.ip().is_unspecified() && !address.ip().is_multicast()
}

/// Whether an address is this machine's own: loopback, or one that a socket here can have.
#[must_use]
pub fn is_local(ip: IpAddr) -> bool {
    let ip = match ip.to_canonical() {
        IpAddr::V6(v6) if v6 == Ipv6Addr::UNSPECIFIED => return false,
        ip => ip,
    };
    ip.is_loopback()
        || (!ip.is_unspecified()
            && !ip.is_multicast()
            && std::net::UdpSocket::bind(SocketAddr::new(ip, 0)).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        let name: ServerName = "www.example.com".parse().unwrap();
        assert_eq!("www.example.com:443".parse::<Place>().unwrap(), Place::Name(name, 443));
        for legal in ["127.0.0.1:8443", "[::1]:443", "www.example.com:443"] {
            assert_eq!(legal.parse::<Place>().unwrap().to_string(), legal);
        }
        for bad in [
            "",
            "host",
            "host:",
            ":443",
            "host:0",
            "127.0.0.1",
            "127.0.0.1:0",
            "0.0.0.0:443",
            "::1:443",
            "a b:1",
        ] {
            assert!(matches!(bad.parse::<Place>(), Err(PlaceError::Form(_))), "{bad}");
        }
    }

    #[test]
    fn whose_addresses() {
        for local in ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"] {
            assert!(is_local(local.parse().unwrap()), "{local}");
        }
        for other in ["192.0.2.1", "2001:db8::1", "0.0.0.0", "::", "224.0.0.1", "ff02::1"] {
            assert!(!is_local(other.parse().unwrap()), "{other}");
        }
    }

    #[tokio::test]
    async fn somebody_elses_site_needs_a_word() {
        let place: Place = "192.0.2.1:443".parse().unwrap();
        assert!(matches!(place.resolve(false).await, Err(PlaceError::Foreign(_))));
        assert_eq!(place.resolve(true).await.unwrap(), "192.0.2.1:443".parse().unwrap());
    }
}
