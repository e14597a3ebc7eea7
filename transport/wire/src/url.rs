//! The address of a websocket bridge, as a bridge line names it: `https://` host `/` path, and perhaps a query.
//!
//! The alphabet is what reaches a web server unchanged through browsers, tor's torrc and arguments, nginx and CDNs:
//! no percent-encoding, no empty or dotted segments, which some of them would rewrite.

use std::fmt;
use std::str::FromStr;

use crate::error::{Kind, Retry};
use crate::name::{NameError, ServerName};

/// Longest path, query included, in bytes: what a bridge line has room for beside the shortest of the rest.
pub const MAX_PATH: usize = 128;

const SCHEME: &str = "https://";

/// Host and path of a websocket bridge. The path is what tells the bridge's users from the site's visitors, so it does
/// not show in `Debug`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct WebsocketUrl {
    host: ServerName,
    path: Box<str>,
}

impl WebsocketUrl {
    /// The host: server name, certificate's name and `Host` at once.
    pub fn host(&self) -> &ServerName {
        &self.host
    }

    /// The path with its query, from the first `/` on, 2 to [`MAX_PATH`] bytes.
    pub fn path(&self) -> &str {
        &self.path
    }
}

impl fmt::Display for WebsocketUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}{}", self.host, self.path)
    }
}

impl fmt::Debug for WebsocketUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WebsocketUrl([redacted])")
    }
}

impl FromStr for WebsocketUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        let rest = text
            .split_at_checked(SCHEME.len())
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case(SCHEME))
            .map(|(_, rest)| rest)
            .ok_or(UrlError::Scheme)?;
        let (host, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        if host.contains('@') {
            return Err(UrlError::User);
        }
        if host.rsplit_once(':').is_some_and(|(_, port)| port.bytes().all(|b| b.is_ascii_digit())) {
            return Err(UrlError::Port);
        }
        let host = host.parse().map_err(UrlError::Host)?;
        check_path(path)?;
        Ok(Self { host, path: path.into() })
    }
}

fn check_path(path: &str) -> Result<(), UrlError> {
    if path.len() > MAX_PATH {
        return Err(UrlError::TooLong);
    }
    let (before, query) = path.split_once('?').unwrap_or((path, ""));
    let Some(segments) = before.strip_prefix('/').filter(|segments| !segments.is_empty()) else {
        return Err(UrlError::NoPath);
    };
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    if !before.bytes().all(|byte| byte == b'/' || plain(byte))
        || !query.bytes().all(|byte| plain(byte) || b"/=&".contains(&byte))
    {
        return Err(UrlError::Letter);
    }
    let mut segments = segments.split('/').peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        if matches!(segment, "." | "..") || (segment.is_empty() && !last) {
            return Err(UrlError::Segment);
        }
    }
    Ok(())
}

/// Why a text is not the address of a websocket bridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// It does not begin with `https://`.
    #[error("the address must begin with `https://`, such as https://www.example.com/some/path")]
    Scheme,
    /// A user name before the host.
    #[error("the address must not hold a user name")]
    User,
    /// A port after the host.
    #[error("the address must not hold a port: the line's own address has it")]
    Port,
    /// The host is no host name.
    #[error("the address's host: {0}")]
    Host(NameError),
    /// No path, or `/` alone.
    #[error("the address needs a path that visitors do not guess, such as https://www.example.com/a7Ge93kd")]
    NoPath,
    /// A path of more than [`MAX_PATH`] bytes.
    #[error("the address's path is longer than {MAX_PATH} bytes")]
    TooLong,
    /// Something in the path that may not arrive as it was sent.
    #[error("the address's path may hold letters, digits and - . _ ~ / only, and = & after a question mark")]
    Letter,
    /// An empty segment, `.` or `..`.
    #[error("the address's path must not hold `//`, `/./` or `/../`, which servers rewrite")]
    Segment,
}

impl UrlError {
    /// Who is at fault.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Scheme | Self::User | Self::Port | Self::NoPath => Kind::Misuse,
            Self::TooLong | Self::Letter | Self::Segment => Kind::Misuse,
            Self::Host(error) => error.kind(),
        }
    }

    /// Whether trying again helps.
    pub fn retry(&self) -> Retry {
        match self {
            Self::Scheme | Self::User | Self::Port | Self::NoPath => Retry::Never,
            Self::TooLong | Self::Letter | Self::Segment => Retry::Never,
            Self::Host(error) => error.retry(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Result<WebsocketUrl, UrlError> {
        text.parse()
    }

    #[test]
    fn host_and_path_come_apart() {
        for (text, host, path) in [
            ("https://cdn.example/path", "cdn.example", "/path"),
            ("HTTPS://CDN.Example/Path/", "cdn.example", "/Path/"),
            ("https://a.b/x/y.z-_~?v=1&w=/2", "a.b", "/x/y.z-_~?v=1&w=/2"),
        ] {
            let url = parse(text).unwrap();
            assert_eq!((url.host().as_str(), url.path()), (host, path));
            assert_eq!(format!("{url:?}"), "WebsocketUrl([redacted])");
        }
    }

    #[test]
    fn each_fault_has_its_own_message() {
        for (text, error) in [
            ("", UrlError::Scheme),
            ("wss://a.b/x", UrlError::Scheme),
            ("http://a.b/x", UrlError::Scheme),
            ("https:/a.b/x", UrlError::Scheme),
            ("https:\u{e9}/a", UrlError::Scheme),
            ("https://me@a.b/x", UrlError::User),
            ("https://a.b:443/x", UrlError::Port),
            ("https:///x", UrlError::Host(NameError::Empty)),
            ("https://192.0.2.7/x", UrlError::Host(NameError::Address)),
            ("https://a_b/x", UrlError::Host(NameError::Letter)),
            ("https://a.b", UrlError::NoPath),
            ("https://a.b/", UrlError::NoPath),
            ("https://a.b?x", UrlError::NoPath),
            ("https://a.b/?x", UrlError::NoPath),
            ("https://a.b/x y", UrlError::Letter),
            ("https://a.b/x,y", UrlError::Letter),
            ("https://a.b/%41", UrlError::Letter),
            ("https://a.b/x#y", UrlError::Letter),
            ("https://a.b/x?y?z", UrlError::Letter),
            ("https://a.b//x", UrlError::Segment),
            ("https://a.b/x//", UrlError::Segment),
            ("https://a.b/x/../y", UrlError::Segment),
            ("https://a.b/.", UrlError::Segment),
        ] {
            assert_eq!(parse(text), Err(error), "{text:?}");
        }
        let longest = format!("https://a.b/{}", "x".repeat(MAX_PATH - 1));
        assert!(parse(&longest).is_ok());
        assert_eq!(parse(&format!("{longest}x")), Err(UrlError::TooLong));
    }

    proptest! {
        #[test]
        fn anything_else_is_an_error_and_never_a_panic(text in "(https://)?\\PC{0,200}") {
            if let Ok(url) = parse(&text) {
                prop_assert_eq!(parse(&url.to_string()), Ok(url));
            }
        }

        #[test]
        fn addresses_made_by_the_rules_parse(
            host in "[a-z]{1,10}\\.example", path in "(/[A-Za-z0-9_~-]{1,9}){1,4}/?", query in "(\\?[a-z0-9=&]{0,20})?",
        ) {
            let text = format!("https://{host}{path}{query}");
            prop_assert_eq!(parse(&text).unwrap().to_string(), text);
        }
    }
}
