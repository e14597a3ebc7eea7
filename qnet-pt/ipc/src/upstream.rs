//! `TOR_PT_PROXY`: the upstream proxy every outgoing connection must pass.

use qnet_wire::error::{Kind, Retry};
use std::fmt;
use std::net::SocketAddr;
use zeroize::Zeroizing;

/// Longest user name or password RFC 1929 can carry, in bytes.
const MAX_LOGIN: usize = 255;

/// An upstream proxy. `Debug` hides the login.
#[derive(Clone, PartialEq, Eq)]
pub enum Upstream {
    /// `socks5://[user:password@]ip:port`
    Socks5 {
        /// Where it listens.
        address: SocketAddr,
        /// User name and password for RFC 1929.
        login: Option<Login>,
    },
    /// `socks4a://[user@]ip:port`
    Socks4a {
        /// Where it listens.
        address: SocketAddr,
        /// The user id field.
        user: Option<Zeroizing<String>>,
    },
    /// `http://[user:password@]ip:port`, for CONNECT with Basic authentication.
    Http {
        /// Where it listens.
        address: SocketAddr,
        /// User name and password.
        login: Option<Login>,
    },
}

/// A user name and its password.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// The user name.
    pub user: Zeroizing<String>,
    /// The password.
    pub password: Zeroizing<String>,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, address) = match self {
            Self::Socks5 { address, .. } => ("socks5", address),
            Self::Socks4a { address, .. } => ("socks4a", address),
            Self::Http { address, .. } => ("http", address),
        };
        write!(f, "{scheme}://{address}")
    }
}

impl std::str::FromStr for Upstream {
    type Err = UpstreamError;

    /// Reads a proxy URL. The login ends at the **last** `@` and is taken as it is, not
    /// percent-encoded, and parts at its **first** colon, because that is what C tor sends:
    /// `socks5://us:er:p@ss@127.0.0.1:9`.
    fn from_str(url: &str) -> Result<Self, UpstreamError> {
        let (scheme, rest) = url.split_once("://").ok_or(UpstreamError::NotUrl)?;
        let (login, host) = match rest.rsplit_once('@') {
            Some((login, host)) => (Some(login), host),
            None => (None, rest),
        };
        match scheme {
            "socks5" => {
                let login = login.map(parse_login).transpose()?;
                if login.as_ref().is_some_and(|l| l.password.is_empty()) {
                    return Err(UpstreamError::Login("SOCKS5 needs a user name and a password, or neither"));
                }
                Ok(Self::Socks5 { address: parse_host(host)?, login })
            }
            "socks4a" => {
                let user = login.map(|user| Zeroizing::new(user.to_owned()));
                if user.as_ref().is_some_and(|u| u.contains(['\0', ':'])) {
                    return Err(UpstreamError::Login("SOCKS4a has a user name only"));
                }
                Ok(Self::Socks4a { address: parse_host(host)?, user })
            }
            "http" => {
                Ok(Self::Http { address: parse_host(host)?, login: login.map(parse_login).transpose()? })
            }
            _ => Err(UpstreamError::Scheme),
        }
    }
}

/// Why a proxy URL is refused. No message repeats the URL: it may hold a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UpstreamError {
    /// It has no `://`, or is not text.
    #[error("TOR_PT_PROXY is not a URL; expected socks5://, socks4a:// or http:// and IP:PORT")]
    NotUrl,
    /// Another kind of proxy.
    #[error("TOR_PT_PROXY names a kind of proxy that is not supported; use socks5, socks4a or http")]
    Scheme,
    /// Something after the port.
    #[error("TOR_PT_PROXY has a path, query or fragment; it must end after IP:PORT")]
    Trailing,
    /// A name instead of an IP address.
    #[error("TOR_PT_PROXY has a host name; give the proxy's IP address (names are never looked up)")]
    HostName,
    /// No port, or port 0.
    #[error("TOR_PT_PROXY has no usable port; it must end in IP:PORT")]
    Port,
    /// The login cannot be sent.
    #[error("TOR_PT_PROXY has a login that cannot be used: {0}")]
    Login(&'static str),
}

impl UpstreamError {
    /// Who is at fault.
    pub fn kind(&self) -> Kind {
        match self {
            Self::NotUrl | Self::Scheme | Self::Trailing | Self::HostName | Self::Port | Self::Login(_) => {
                Kind::Misuse
            }
        }
    }

    /// Whether the same can succeed later.
    pub fn retry(&self) -> Retry {
        match self {
            Self::NotUrl | Self::Scheme | Self::Trailing | Self::HostName | Self::Port | Self::Login(_) => {
                Retry::Never
            }
        }
    }
}

fn parse_login(login: &str) -> Result<Login, UpstreamError> {
    let (user, password) = login.split_once(':').unwrap_or((login, ""));
    if user.len() > MAX_LOGIN || password.len() > MAX_LOGIN {
        return Err(UpstreamError::Login("user name or password longer than 255 bytes"));
    }
    if login.contains(char::is_control) {
        return Err(UpstreamError::Login("it holds a control character"));
    }
    if user.is_empty() {
        return Err(UpstreamError::Login("the user name is empty"));
    }
    Ok(Login { user: Zeroizing::new(user.to_owned()), password: Zeroizing::new(password.to_owned()) })
}

fn parse_host(host: &str) -> Result<SocketAddr, UpstreamError> {
    if host.contains(['/', '?', '#']) {
        return Err(UpstreamError::Trailing);
    }
    match host.parse::<SocketAddr>() {
        Ok(address) if address.port() == 0 => Err(UpstreamError::Port),
        Ok(address) => Ok(address),
        Err(_) if host.parse::<std::net::IpAddr>().is_ok() => Err(UpstreamError::Port),
        Err(_) => match host.rsplit_once(':') {
            Some((name, port)) if port.parse::<u16>().is_ok() && !name.is_empty() => {
                Err(UpstreamError::HostName)
            }
            _ => Err(UpstreamError::Port),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn login(user: &str, password: &str) -> Option<Login> {
        Some(Login { user: Zeroizing::new(user.to_owned()), password: Zeroizing::new(password.to_owned()) })
    }

    #[test]
    fn legal_urls() {
        let address: SocketAddr = "127.0.0.1:9".parse().unwrap();
        let cases = [
            ("socks5://127.0.0.1:9", Upstream::Socks5 { address, login: None }),
            ("socks5://us:er:p@ss@127.0.0.1:9", Upstream::Socks5 { address, login: login("us", "er:p@ss") }),
            ("socks5://a/?#%40:b@127.0.0.1:9", Upstream::Socks5 { address, login: login("a/?#%40", "b") }),
            ("socks4a://127.0.0.1:9", Upstream::Socks4a { address, user: None }),
            (
                "socks4a://me@127.0.0.1:9",
                Upstream::Socks4a { address, user: Some(Zeroizing::new("me".to_owned())) },
            ),
            ("http://127.0.0.1:9", Upstream::Http { address, login: None }),
            ("http://u:p@127.0.0.1:9", Upstream::Http { address, login: login("u", "p") }),
            ("http://u@127.0.0.1:9", Upstream::Http { address, login: login("u", "") }),
        ];
        for (url, expected) in cases {
            assert_eq!(url.parse::<Upstream>(), Ok(expected), "{url}");
        }
        assert!("socks5://[::1]:9".parse::<Upstream>().is_ok());
    }

    #[test]
    fn refused_urls() {
        let cases = [
            ("127.0.0.1:9", UpstreamError::NotUrl),
            ("https://127.0.0.1:9", UpstreamError::Scheme),
            ("socks4://127.0.0.1:9", UpstreamError::Scheme),
            ("socks5://127.0.0.1:9/", UpstreamError::Trailing),
            ("socks5://127.0.0.1:9?a", UpstreamError::Trailing),
            ("socks5://127.0.0.1:9#a", UpstreamError::Trailing),
            ("socks5://proxy.example:9", UpstreamError::HostName),
            ("socks5://127.0.0.1", UpstreamError::Port),
            ("socks5://[::1]", UpstreamError::Port),
            ("socks5://proxy.example", UpstreamError::Port),
            ("socks5://127.0.0.1:0", UpstreamError::Port),
            ("socks5://127.0.0.1:70000", UpstreamError::Port),
            ("socks5://", UpstreamError::Port),
            (
                "socks5://user@127.0.0.1:9",
                UpstreamError::Login("SOCKS5 needs a user name and a password, or neither"),
            ),
            ("http://:b@127.0.0.1:9", UpstreamError::Login("the user name is empty")),
            ("socks5://:b@127.0.0.1:9", UpstreamError::Login("the user name is empty")),
            ("socks4a://a:b@127.0.0.1:9", UpstreamError::Login("SOCKS4a has a user name only")),
            ("http://a\r\n:b@127.0.0.1:9", UpstreamError::Login("it holds a control character")),
        ];
        for (url, expected) in cases {
            assert_eq!(url.parse::<Upstream>(), Err(expected), "{url}");
        }
        let long = format!("http://{}:b@127.0.0.1:9", "a".repeat(256));
        assert!(matches!(long.parse::<Upstream>(), Err(UpstreamError::Login(_))));
    }

    #[test]
    fn debug_hides_the_login() {
        let upstream: Upstream = "socks5://alice:secret@127.0.0.1:9".parse().unwrap();
        let shown = format!("{upstream:?}");
        assert!(shown.contains("127.0.0.1:9") && !shown.contains("alice") && !shown.contains("secret"));
    }

    proptest! {
        #[test]
        fn anything_parses_or_fails(url in ".{0,80}", tail in ".{0,40}") {
            let _ = url.parse::<Upstream>();
            let _ = format!("socks5://{url}@{tail}").parse::<Upstream>();
        }
    }
}
