//! The line a bridge's operator gives to a user.
//!
//! ```text
//! Bridge qnet 192.0.2.7:443 0123456789ABCDEF0123456789ABCDEF01234567 key=<43 letters> sni=www.example.com
//! Bridge qnet 192.0.2.7:443 0123456789ABCDEF0123456789ABCDEF01234567 key=<43 letters> url=https://www.example.com/path
//! ```
//!
//! `Bridge` and the relay's fingerprint may be missing. A line has one cover: `sni` is the mirror's and may come several
//! times, each a name the bridge knows; `url` is the websocket's and comes once. `profile=` may name what the traffic is to look
//! like; which names there are is not this floor's to know. `invite=` is one client's secret, on a bridge by invitation under the
//! mirror cover: such a line is for that client alone. Commas are not used, because tor's own
//! record of bridge lines takes them for spaces.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use crate::error::{Kind, Retry};
use crate::invitation::{Invitation, InvitationError};
use crate::key::{BridgeKey, KeyError};
use crate::name::{NameError, ServerName};
use crate::url::{UrlError, WebsocketUrl};

/// Longest line in bytes, `Bridge` and fingerprint included: a SOCKS client has 255 bytes for what follows the
/// address before it must cut them in two, and users paste lines into chats.
pub const MAX_LEN: usize = 250;
/// The transport's name.
pub const TRANSPORT: &str = "qnet";
/// Letters in a relay's fingerprint: 20 bytes in hexadecimal.
const FINGERPRINT_LETTERS: usize = 40;

/// What a client has to know of a bridge.
#[derive(Clone, PartialEq, Eq)]
pub struct BridgeLine {
    /// Where the bridge listens.
    pub address: SocketAddr,
    /// The relay behind the bridge, 40 letters of upper-case hexadecimal; tor checks it, HTX does not use it.
    pub fingerprint: Option<String>,
    /// The bridge's public key.
    pub key: BridgeKey,
    /// What its carriers look like.
    pub cover: Cover,
    /// The traffic profile that its operator suggests, by name; unknown ones among them.
    pub profile: Option<ProfileName>,
    /// What one client proves itself by to a bridge by invitation. Under the mirror cover alone.
    pub invitation: Option<Invitation>,
}

/// Most letters of a traffic profile's name: few, as the line has room for few.
pub const MAX_PROFILE: usize = 24;

/// A traffic profile's name: 1 to [`MAX_PROFILE`] small letters, digits and hyphens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProfileName(String);

impl ProfileName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ProfileName {
    type Err = ProfileNameError;

    fn from_str(text: &str) -> Result<Self, ProfileNameError> {
        let letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let fits = (1..=MAX_PROFILE).contains(&text.len()) && text.bytes().all(letter);
        if fits { Ok(Self(text.to_owned())) } else { Err(ProfileNameError) }
    }
}

impl fmt::Display for ProfileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A text is not a traffic profile's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a traffic profile's name has 1 to {MAX_PROFILE} small letters, digits and hyphens")]
pub struct ProfileNameError;

impl ProfileNameError {
    /// Who is at fault.
    pub fn kind(self) -> Kind {
        Kind::Misuse
    }

    /// Whether trying again helps.
    pub fn retry(self) -> Retry {
        Retry::Never
    }
}

/// What a bridge's carriers look like from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cover {
    /// A visit to the decoy behind the bridge. Its names, at least one; the dialer picks one.
    Mirror(Vec<ServerName>),
    /// A websocket of a site that the bridge stands behind.
    Websocket(WebsocketUrl),
}

impl BridgeLine {
    /// The decoy's names under the mirror cover; none under another.
    pub fn names(&self) -> &[ServerName] {
        match &self.cover {
            Cover::Mirror(names) => names,
            Cover::Websocket(_) => &[],
        }
    }

    /// The line that a PT's SOCKS arguments and target give: tor sends the arguments, unescaped here, and the address,
    /// but keeps the fingerprint to itself.
    ///
    /// # Errors
    /// [`BridgeLineError`], the same as for the line's text.
    pub fn from_pt_args<'a>(
        address: SocketAddr,
        args: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self, BridgeLineError> {
        if address.port() == 0 {
            return Err(BridgeLineError::Address);
        }
        let (mut key, mut sni, mut url, mut profile) = (None, Vec::new(), None, None);
        let (mut invitation, mut length) = (None, 0_usize);
        for (name, value) in args {
            length = length.saturating_add(name.len()).saturating_add(value.len()).saturating_add(2);
            if length > MAX_LEN {
                return Err(BridgeLineError::TooLong);
            }
            match name {
                "key" if key.is_some() => return Err(BridgeLineError::TwoKeys),
                "key" => key = Some(value.parse().map_err(BridgeLineError::Key)?),
                "sni" => sni.push(value.parse().map_err(BridgeLineError::Name)?),
                "url" if url.is_some() => return Err(BridgeLineError::TwoUrls),
                "url" => url = Some(value.parse().map_err(BridgeLineError::Url)?),
                "profile" if profile.is_some() => return Err(BridgeLineError::TwoProfiles),
                "profile" => profile = Some(value.parse().map_err(BridgeLineError::Profile)?),
                "invite" if invitation.is_some() => return Err(BridgeLineError::TwoInvitations),
                "invite" => invitation = Some(value.parse().map_err(BridgeLineError::Invitation)?),
                _ => return Err(BridgeLineError::Unknown(name.to_owned())),
            }
        }
        let key = key.ok_or(BridgeLineError::NoKey)?;
        let cover = match url {
            None if sni.is_empty() => return Err(BridgeLineError::NoCover),
            None => Cover::Mirror(sni),
            Some(url) if sni.is_empty() && invitation.is_none() => Cover::Websocket(url),
            Some(_) if sni.is_empty() => return Err(BridgeLineError::InvitedByUrl),
            Some(_) => return Err(BridgeLineError::TwoCovers),
        };
        Ok(Self { address, fingerprint: None, key, cover, profile, invitation })
    }

    /// The arguments as they stand in the line and in a PT's `SMETHOD … ARGS`, before any escaping. The invitation is not among
    /// them: what a bridge announces is for all its clients.
    pub fn pt_args(&self) -> impl Iterator<Item = (&'static str, String)> + '_ {
        let names = self.names().iter().map(|name| ("sni", name.to_string()));
        let url = match &self.cover {
            Cover::Mirror(_) => None,
            Cover::Websocket(url) => Some(("url", url.to_string())),
        };
        let profile = self.profile.as_ref().map(|name| ("profile", name.to_string()));
        std::iter::once(("key", self.key.to_string())).chain(names).chain(url).chain(profile)
    }
}

/// The whole line, which is what its user pastes: a secret where it has an invitation, and never for logs.
impl fmt::Display for BridgeLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bridge {TRANSPORT} {}", self.address)?;
        if let Some(fingerprint) = &self.fingerprint {
            write!(f, " {fingerprint}")?;
        }
        self.pt_args().try_for_each(|(name, value)| write!(f, " {name}={value}"))?;
        match &self.invitation {
            Some(invitation) => write!(f, " invite={}", *invitation.expose_text()),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for BridgeLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BridgeLine([redacted])")
    }
}

impl FromStr for BridgeLine {
    type Err = BridgeLineError;

    fn from_str(text: &str) -> Result<Self, BridgeLineError> {
        let text = text.trim();
        if text.len() > MAX_LEN {
            return Err(BridgeLineError::TooLong);
        }
        let mut words = text.split_ascii_whitespace().peekable();
        words.next_if(|word| word.eq_ignore_ascii_case("bridge"));
        if words.next() != Some(TRANSPORT) {
            return Err(BridgeLineError::Transport);
        }
        let address = words.next().and_then(|word| word.parse().ok()).ok_or(BridgeLineError::Address)?;
        let fingerprint = match words.next_if(|word| !word.contains('=')) {
            Some(word) if is_fingerprint(word) => Some(word.to_ascii_uppercase()),
            Some(_) => return Err(BridgeLineError::Fingerprint),
            None => None,
        };
        let args: Vec<_> = words
            .map(|word| word.split_once('=').ok_or_else(|| BridgeLineError::Unknown(word.to_owned())))
            .collect::<Result<_, _>>()?;
        Ok(Self { fingerprint, ..Self::from_pt_args(address, args)? })
    }
}

fn is_fingerprint(word: &str) -> bool {
    word.len() == FINGERPRINT_LETTERS && word.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Why a text is not a bridge line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BridgeLineError {
    /// More than [`MAX_LEN`] bytes.
    #[error("the bridge line is longer than {MAX_LEN} bytes; is it one line only?")]
    TooLong,
    /// It does not begin with `qnet` or `Bridge qnet`.
    #[error("this is not a qnet bridge line: it must begin with `Bridge qnet`")]
    Transport,
    /// No address, or one without a port.
    #[error("the bridge line needs an address such as 192.0.2.7:443 or [2001:db8::7]:443 after `qnet`")]
    Address,
    /// The word after the address is neither a fingerprint nor an argument.
    #[error("the fingerprint must have {FINGERPRINT_LETTERS} hexadecimal letters; copy the line again")]
    Fingerprint,
    /// No `key=`.
    #[error("the bridge line has no `key=`; copy the whole line")]
    NoKey,
    /// More than one `key=`.
    #[error("the bridge line has two keys; paste one line at a time")]
    TwoKeys,
    /// The value of `key=` is not a key.
    #[error("in `key=`: {0}")]
    Key(KeyError),
    /// Neither `sni=` nor `url=`.
    #[error("the bridge line has neither `sni=` nor `url=`; copy the whole line")]
    NoCover,
    /// Both `sni=` and `url=`.
    #[error("the bridge line has both `sni=` and `url=`: a bridge has one of them; paste one line at a time")]
    TwoCovers,
    /// More than one `url=`.
    #[error("the bridge line has two `url=`; paste one line at a time")]
    TwoUrls,
    /// The value of `sni=` is not a host name.
    #[error("in `sni=`: {0}")]
    Name(NameError),
    /// The value of `url=` is not a websocket bridge's address.
    #[error("in `url=`: {0}")]
    Url(UrlError),
    /// The value of `profile=` is not a name.
    #[error("in `profile=`: {0}")]
    Profile(ProfileNameError),
    /// More than one `profile=`.
    #[error("the bridge line has two `profile=`; one is allowed")]
    TwoProfiles,
    /// The value of `invite=` is not an invitation.
    #[error("in `invite=`: {0}")]
    Invitation(InvitationError),
    /// More than one `invite=`.
    #[error("the bridge line has two `invite=`; paste one line at a time")]
    TwoInvitations,
    /// `invite=` beside `url=`.
    #[error(
        "the bridge line has both `url=` and `invite=`: bridges with `url=` invite nobody; copy the line again"
    )]
    InvitedByUrl,
    /// Something that this version does not know.
    #[error("{} is unknown to this version of qnet; is there a newer one?", shown(.0))]
    Unknown(String),
}

/// Longest unknown argument that an error shows.
const MAX_SHOWN: usize = 20;

/// What may stand in a log: an argument's name, but nothing that may be a key, a host name or an address in its place.
fn shown(word: &str) -> String {
    if word.len() > MAX_SHOWN || word.contains(['.', ':']) {
        "an argument of the line".into()
    } else {
        format!("`{}`", word.escape_debug())
    }
}

impl BridgeLineError {
    /// Who is at fault.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Key(error) => error.kind(),
            Self::Name(error) => error.kind(),
            Self::Url(error) => error.kind(),
            Self::Profile(error) => error.kind(),
            Self::Invitation(error) => error.kind(),
            Self::TooLong | Self::Transport | Self::Address | Self::Fingerprint => Kind::Misuse,
            Self::NoKey | Self::TwoKeys | Self::Unknown(_) => Kind::Misuse,
            Self::NoCover | Self::TwoCovers | Self::TwoUrls | Self::TwoProfiles => Kind::Misuse,
            Self::TwoInvitations | Self::InvitedByUrl => Kind::Misuse,
        }
    }

    /// Whether trying again helps.
    pub fn retry(&self) -> Retry {
        match self {
            Self::Key(error) => error.retry(),
            Self::Name(error) => error.retry(),
            Self::Url(error) => error.retry(),
            Self::Profile(error) => error.retry(),
            Self::Invitation(error) => error.retry(),
            Self::TooLong | Self::Transport | Self::Address | Self::Fingerprint => Retry::Never,
            Self::NoKey | Self::TwoKeys | Self::Unknown(_) => Retry::Never,
            Self::NoCover | Self::TwoCovers | Self::TwoUrls | Self::TwoProfiles => Retry::Never,
            Self::TwoInvitations | Self::InvitedByUrl => Retry::Never,
        }
    }
}

#[cfg(test)]
mod tests;
