//! What a bridge's operator says in `ServerTransportOptions`.

use qnet_pt_ipc::args::Args;
use qnet_transport::Shape;
use qnet_transport::client::profiles;
use qnet_transport::decoy::{Place, is_usable};
use qnet_wire::bridge_line::ProfileName;
use qnet_wire::name::{NameError, ServerName};
use qnet_wire::url::{UrlError, WebsocketUrl};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// The torrc line shown wherever options are wrong.
const EXAMPLE: &str = "ServerTransportOptions qnet decoy=127.0.0.1:8443 sni=www.example.com";

/// The same for a bridge behind a web server.
const WEBSOCKET_EXAMPLE: &str =
    "ServerTransportOptions qnet url=https://www.example.com/a7Ge93kd site=127.0.0.1:8080";

/// A bridge's options, of which it has one kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Options {
    /// It stands before a web site.
    Mirror(Mirror),
    /// It stands behind a web server or a CDN.
    Websocket(Websocket),
}

/// The options of a bridge before a web site.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    /// The web site that answers strangers.
    pub decoy: Place,
    /// The names clients may ask it for: at least one.
    pub names: Vec<ServerName>,
    /// The operator knows that the decoy is not on this machine.
    pub third_party: bool,
    /// The list of those who alone may use the bridge; `None`: whoever has its line.
    pub invited: Option<PathBuf>,
    /// The traffic profile that clients are to follow.
    pub profile: Option<ProfileName>,
}

/// The options of a bridge behind a web server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Websocket {
    /// The address at which the web server takes websockets for the bridge.
    pub url: WebsocketUrl,
    /// The site as a plain web server, for whatever else comes that way.
    pub site: SocketAddr,
    /// The traffic profile that clients are to follow.
    pub profile: Option<ProfileName>,
}

/// What is wrong with the options.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OptionsError {
    /// No decoy, and no address of a websocket either.
    #[error("no decoy is set: name the web site that answers strangers; add to torrc: {EXAMPLE}")]
    NoDecoy,
    /// An option that may come once.
    #[error("{0}= is given twice; one is allowed")]
    Twice(&'static str),
    /// Options of both kinds.
    #[error(
        "decoy=, sni=, third-party-decoy= and invited= are for a bridge before a web site, url= and site= for one behind a web \
         server; a bridge is one of them: {EXAMPLE}, or {WEBSOCKET_EXAMPLE}"
    )]
    Both,
    /// `site=` alone.
    #[error(
        "site= needs url=, the address at which the web server takes websockets; an example: {WEBSOCKET_EXAMPLE}"
    )]
    NoUrl,
    /// `url=` alone.
    #[error("url= needs site=, the plain web server that answers visitors; an example: {WEBSOCKET_EXAMPLE}")]
    NoSite,
    /// Not an address of a websocket.
    #[error("url={0}: {1}")]
    Url(String, UrlError),
    /// Not ADDRESS:PORT.
    #[error("site={0} is not ADDRESS:PORT; an example: {WEBSOCKET_EXAMPLE}")]
    Site(String),
    /// Not HOST:PORT.
    #[error("decoy={0} is not HOST:PORT; an example: {EXAMPLE}")]
    Decoy(String),
    /// No name and none to take it from.
    #[error("decoy= is an address, so sni= must say which name its certificate has; an example: {EXAMPLE}")]
    NoName,
    /// A name no certificate can have.
    #[error("sni={0}: {1}")]
    Name(String, NameError),
    /// Not 0 or 1.
    #[error("third-party-decoy={0}: it is 1 or 0")]
    ThirdParty(String),
    /// Not a path from the root on.
    #[error(
        "invited={0}: it is the whole path of the list of invited clients, as in invited=/var/lib/tor/pt_state/invited"
    )]
    Invited(String),
    /// Not a known traffic profile.
    #[error("profile={0} is none of those that this version knows: {known}", known = profiles())]
    Profile(String),
    /// Something else.
    #[error(
        "unknown option {0}; known are decoy, sni, third-party-decoy and invited, or url and site, and profile; an example: {EXAMPLE}"
    )]
    Unknown(String),
}

impl Options {
    /// Reads the options of one transport.
    ///
    /// # Errors
    /// [`OptionsError`]
    pub fn parse(args: &Args) -> Result<Self, OptionsError> {
        let (mut decoy, mut third_party, mut url, mut site, mut profile) = (None, None, None, None, None);
        let mut invited = None;
        let mut names: Vec<ServerName> = Vec::new();
        for (key, value) in args.iter() {
            match key {
                "decoy" => {
                    let place = value.parse().map_err(|_| OptionsError::Decoy(value.to_owned()))?;
                    once("decoy", &mut decoy, place)?;
                }
                "sni" => {
                    let name = value.parse().map_err(|error| OptionsError::Name(value.to_owned(), error))?;
                    if !names.contains(&name) {
                        names.push(name);
                    }
                }
                "third-party-decoy" => {
                    third_party = match value {
                        "1" => Some(true),
                        "0" => Some(false),
                        _ => return Err(OptionsError::ThirdParty(value.to_owned())),
                    }
                }
                "url" => {
                    let parsed = value.parse().map_err(|error| OptionsError::Url(value.to_owned(), error))?;
                    once("url", &mut url, parsed)?;
                }
                "site" => {
                    let parsed = value.parse().ok().filter(|address| is_usable(*address));
                    once("site", &mut site, parsed.ok_or_else(|| OptionsError::Site(value.to_owned()))?)?;
                }
                "invited" => once("invited", &mut invited, parse_path(value)?)?,
                "profile" => once("profile", &mut profile, parse_profile(value)?)?,
                _ => return Err(OptionsError::Unknown(key.to_owned())),
            }
        }
        let mirror = decoy.is_some() || !names.is_empty() || third_party.is_some() || invited.is_some();
        match (url, site) {
            (None, None) => {
                let third_party = third_party.unwrap_or(false);
                let mirror = mirror_of(decoy, names)?;
                Ok(Self::Mirror(Mirror { third_party, invited, profile, ..mirror }))
            }
            _ if mirror => Err(OptionsError::Both),
            (Some(url), Some(site)) => Ok(Self::Websocket(Websocket { url, site, profile })),
            (Some(_), None) => Err(OptionsError::NoSite),
            (None, Some(_)) => Err(OptionsError::NoUrl),
        }
    }
}

fn parse_path(text: &str) -> Result<PathBuf, OptionsError> {
    // tor starts this program in a folder that nobody thinks of.
    let path = Path::new(text);
    if path.is_absolute() { Ok(path.to_owned()) } else { Err(OptionsError::Invited(text.to_owned())) }
}

fn parse_profile(text: &str) -> Result<ProfileName, OptionsError> {
    let known = text.parse().ok().filter(|_| Shape::named(text).is_some());
    known.ok_or_else(|| OptionsError::Profile(text.to_owned()))
}

fn once<T>(name: &'static str, place: &mut Option<T>, value: T) -> Result<(), OptionsError> {
    if place.replace(value).is_some() { Err(OptionsError::Twice(name)) } else { Ok(()) }
}

fn mirror_of(decoy: Option<Place>, mut names: Vec<ServerName>) -> Result<Mirror, OptionsError> {
    let decoy = decoy.ok_or(OptionsError::NoDecoy)?;
    if names.is_empty() {
        match &decoy {
            Place::Name(name, _) => names.push(name.clone()),
            Place::Address(_) => return Err(OptionsError::NoName),
        }
    }
    Ok(Mirror { decoy, names, third_party: false, invited: None, profile: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(pairs: &[(&str, &str)]) -> Result<Options, OptionsError> {
        Options::parse(&pairs.iter().copied().collect())
    }

    fn name(text: &str) -> ServerName {
        text.parse().unwrap()
    }

    #[test]
    fn legal() {
        let options = parse(&[
            ("decoy", "127.0.0.1:8443"),
            ("sni", "a.example"),
            ("sni", "b.example"),
            ("sni", "a.example"),
        ]);
        let expected = Mirror {
            decoy: Place::Address("127.0.0.1:8443".parse().unwrap()),
            names: vec![name("a.example"), name("b.example")],
            third_party: false,
            invited: None,
            profile: None,
        };
        assert_eq!(options, Ok(Options::Mirror(expected)));
        let options = parse(&[("decoy", "www.example.com:443"), ("third-party-decoy", "1")]).unwrap();
        let Options::Mirror(options) = options else { panic!("{options:?}") };
        assert_eq!(options.decoy, Place::Name(name("www.example.com"), 443));
        assert_eq!(options.names, [name("www.example.com")]);
        assert!(options.third_party);
        assert!(parse(&[("decoy", "[::1]:443"), ("sni", "a.example")]).is_ok());
        let options = parse(&[("decoy", "www.example.com:443"), ("profile", "none")]).unwrap();
        let Options::Mirror(options) = options else { panic!("{options:?}") };
        assert_eq!(options.profile.as_ref().map(ProfileName::as_str), Some("none"));
    }

    #[test]
    fn refused() {
        let decoy = |value| parse(&[("decoy", value), ("sni", "a.example")]);
        assert_eq!(parse(&[]), Err(OptionsError::NoDecoy));
        assert_eq!(parse(&[("decoy", "127.0.0.1:1")]), Err(OptionsError::NoName));
        let twice = [("decoy", "127.0.0.1:1"), ("decoy", "127.0.0.1:2")];
        assert_eq!(parse(&twice), Err(OptionsError::Twice("decoy")));
        for bad in ["", "host", "127.0.0.1:0"] {
            assert_eq!(decoy(bad), Err(OptionsError::Decoy(bad.to_owned())), "{bad}");
        }
        assert!(matches!(parse(&[("decoy", "127.0.0.1:1"), ("sni", "..")]), Err(OptionsError::Name(..))));
        assert!(matches!(parse(&[("third-party-decoy", "yes")]), Err(OptionsError::ThirdParty(_))));
        let profile = |value| parse(&[("decoy", "www.example.com:443"), ("profile", value)]);
        for bad in ["", "Web", "unheard-of"] {
            let error = profile(bad).unwrap_err();
            assert_eq!(error, OptionsError::Profile(bad.to_owned()));
            assert!(error.to_string().contains("none, web"), "{error}");
        }
        let invited = |value| parse(&[("decoy", "www.example.com:443"), ("invited", value)]);
        let Ok(Options::Mirror(options)) = invited("/var/lib/tor/invited") else { panic!("refused") };
        assert_eq!(options.invited.as_deref(), Some(Path::new("/var/lib/tor/invited")));
        for bad in ["", "invited", "../invited"] {
            assert_eq!(invited(bad), Err(OptionsError::Invited(bad.to_owned())));
        }
        let twice = [("invited", "/a"), ("invited", "/a"), ("decoy", "www.example.com:443")];
        assert_eq!(parse(&twice), Err(OptionsError::Twice("invited")));
        let twice = [("profile", "web"), ("profile", "none"), ("decoy", "www.example.com:443")];
        assert_eq!(parse(&twice), Err(OptionsError::Twice("profile")));
        assert!(matches!(parse(&[("decoi", "127.0.0.1:1")]), Err(OptionsError::Unknown(_))));
    }

    #[test]
    fn behind_a_web_server() {
        let (url, site) = (("url", "https://www.example.com/a7?b=c"), ("site", "127.0.0.1:8080"));
        let expected =
            Websocket { url: url.1.parse().unwrap(), site: site.1.parse().unwrap(), profile: None };
        assert_eq!(parse(&[url, site]), Ok(Options::Websocket(expected)));
        assert_eq!(parse(&[url]), Err(OptionsError::NoSite));
        assert_eq!(parse(&[site]), Err(OptionsError::NoUrl));
        assert_eq!(parse(&[url, site, url]), Err(OptionsError::Twice("url")));
        assert_eq!(parse(&[site, site, url]), Err(OptionsError::Twice("site")));
        for mirrors in
            [("decoy", "127.0.0.1:1"), ("sni", "a.example"), ("third-party-decoy", "0"), ("invited", "/a")]
        {
            assert_eq!(parse(&[url, site, mirrors]), Err(OptionsError::Both));
        }
        for bad in ["", "127.0.0.1", "localhost:80", "0.0.0.0:80", "127.0.0.1:0"] {
            assert_eq!(parse(&[url, ("site", bad)]), Err(OptionsError::Site(bad.to_owned())), "{bad}");
        }
        assert!(matches!(
            parse(&[("url", "www.example.com"), site]),
            Err(OptionsError::Url(_, UrlError::Scheme))
        ));
    }

    #[test]
    fn the_message_shows_the_line_to_add() {
        assert!(
            OptionsError::NoDecoy.to_string().contains("ServerTransportOptions qnet decoy=127.0.0.1:8443")
        );
    }
}
