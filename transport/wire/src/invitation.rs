//! Bridges by invitation: the secret that a client is given in its line, and the bridge's list of those it invited
//! (docs/protocol.md, sections 3 and 12).
//!
//! ```text
//! qnet invited clients, version 1
//! alice <43 letters>
//! bob <43 letters>
//! ```
//!
//! The list holds public keys only: who steals it learns whom the bridge serves and can pass for none of them.

use std::fmt;
use std::str::FromStr;

use data_encoding::BASE64URL_NOPAD;
use rand_core::CryptoRng;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::error::{Kind, Retry};
use crate::key::{BridgeKey, IdentityKey, KEY_LETTERS, KeyError, decode_32};

/// Clients that a bridge may invite. Each costs it a key derivation for every hello that holds a token and two MACs for every
/// record that follows, measured at 0.5 and 0.4 µs on a processor with SHA instructions: a full list doubles what such a hello
/// costs, and a page load of twenty records costs 2 ms.
pub const MAX_INVITED: usize = 256;
/// Most letters of an invited client's name: enough to know somebody by.
pub const MAX_CLIENT_NAME: usize = 32;
/// Longest list in bytes: [`MAX_INVITED`] lines of the longest name and a key, and the first line.
pub const MAX_LIST: usize = 64 + MAX_INVITED * (MAX_CLIENT_NAME + 1 + KEY_LETTERS + 1);

/// First line of a list, up to the version. It never changes, so that a newer version is told from another file.
const HEADER: &str = "qnet invited clients, version ";
/// The one version there is.
const VERSION: &str = "1";

/// What an invited client proves itself by: an X25519 secret of 32 bytes, wiped when dropped. Its public half stands in the
/// bridge's list.
#[derive(Clone)]
pub struct Invitation(IdentityKey);

impl Invitation {
    /// A fresh one.
    pub fn generate(rng: &mut impl CryptoRng) -> Self {
        Self(IdentityKey::generate(rng))
    }

    /// The client's static key on every carrier to the bridge.
    pub fn key(&self) -> &IdentityKey {
        &self.0
    }

    /// The form it has in a bridge line, [`KEY_LETTERS`] letters of base64url.
    pub fn expose_text(&self) -> Zeroizing<String> {
        Zeroizing::new(BASE64URL_NOPAD.encode(self.0.expose()))
    }
}

impl PartialEq for Invitation {
    fn eq(&self, other: &Self) -> bool {
        self.0.expose().ct_eq(other.0.expose()).into()
    }
}

impl Eq for Invitation {}

impl fmt::Debug for Invitation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Invitation([redacted])")
    }
}

impl FromStr for Invitation {
    type Err = InvitationError;

    /// Parses the form it has in a bridge line.
    ///
    /// # Errors
    /// [`InvitationError`]
    fn from_str(text: &str) -> Result<Self, InvitationError> {
        match decode_32(text.as_bytes()) {
            Ok(bytes) => Ok(Self(IdentityKey::from_bytes(*bytes))),
            Err(KeyError::Length(letters)) => Err(InvitationError::Length(letters)),
            Err(KeyError::Letter) => Err(InvitationError::Letter),
            Err(KeyError::Damaged | KeyError::LowOrder) => Err(InvitationError::Damaged),
        }
    }
}

/// Why a text is not an invitation. None of it says what the text was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvitationError {
    /// Another number of bytes than [`KEY_LETTERS`].
    #[error("an invitation has {KEY_LETTERS} letters, this one has {0}; copy the line again")]
    Length(usize),
    /// Something else than `A-Z a-z 0-9 - _`.
    #[error("an invitation holds only letters, digits, - and _; copy the line again")]
    Letter,
    /// Letters that spell no 32 bytes.
    #[error("the invitation is damaged; copy the line again")]
    Damaged,
}

impl InvitationError {
    /// Who is at fault.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Length(_) | Self::Letter | Self::Damaged => Kind::Misuse,
        }
    }

    /// Whether trying again helps.
    pub fn retry(&self) -> Retry {
        match self {
            Self::Length(_) | Self::Letter | Self::Damaged => Retry::Never,
        }
    }
}

/// What an operator calls an invited client: 1 to [`MAX_CLIENT_NAME`] letters, digits and `-` `_` `.`, the first of them a
/// letter or a digit. For the operator alone; it never leaves the bridge.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientName(String);

impl ClientName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ClientName {
    type Err = ClientNameError;

    fn from_str(text: &str) -> Result<Self, ClientNameError> {
        let letter = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        let fits = text.len() <= MAX_CLIENT_NAME && text.bytes().all(letter);
        let begins = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
        if fits && begins { Ok(Self(text.to_owned())) } else { Err(ClientNameError) }
    }
}

impl fmt::Display for ClientName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whom a bridge serves is nothing for logs.
impl fmt::Debug for ClientName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientName([redacted])")
    }
}

/// A text is not an invited client's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a client's name has 1 to {MAX_CLIENT_NAME} letters, digits and - _ . and begins with a letter or a digit, as in alice-2"
)]
pub struct ClientNameError;

impl ClientNameError {
    /// Who is at fault.
    pub fn kind(self) -> Kind {
        Kind::Misuse
    }

    /// Whether trying again helps.
    pub fn retry(self) -> Retry {
        Retry::Never
    }
}

/// The clients a bridge invited, by name, in the order of their invitations: at most [`MAX_INVITED`], no name twice, no key twice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InvitedList(Vec<(ClientName, BridgeKey)>);

impl InvitedList {
    /// The names and public keys.
    pub fn clients(&self) -> impl ExactSizeIterator<Item = (&ClientName, &BridgeKey)> {
        self.0.iter().map(|(name, key)| (name, key))
    }

    /// Adds a client.
    ///
    /// # Errors
    /// The name or the key is there already, or the list is full. Then nothing is changed.
    pub fn invite(&mut self, name: ClientName, key: BridgeKey) -> Result<(), InvitedError> {
        if self.0.iter().any(|(known, _)| *known == name) {
            return Err(InvitedError::NameTaken(name));
        }
        if self.0.iter().any(|(_, known)| *known == key) {
            return Err(InvitedError::KeyTaken(name));
        }
        if self.0.len() >= MAX_INVITED {
            return Err(InvitedError::Full);
        }
        self.0.push((name, key));
        Ok(())
    }

    /// Removes a client and returns its key.
    ///
    /// # Errors
    /// There is none of this name.
    pub fn revoke(&mut self, name: &ClientName) -> Result<BridgeKey, InvitedError> {
        match self.0.iter().position(|(known, _)| known == name) {
            Some(at) => Ok(self.0.remove(at).1),
            None => Err(InvitedError::Unknown(name.clone())),
        }
    }

    /// The text of the file it is kept in.
    pub fn to_file_text(&self) -> String {
        let lines = self.0.iter().map(|(name, key)| format!("{name} {key}\n"));
        std::iter::once(format!("{HEADER}{VERSION}\n")).chain(lines).collect()
    }

    /// Reads what [`to_file_text`](Self::to_file_text) wrote. Line ends may be LF or CRLF.
    ///
    /// # Errors
    /// [`InvitedError`], with the line.
    pub fn parse_file_text(text: &str) -> Result<Self, InvitedError> {
        let mut lines = text.lines().enumerate().map(|(index, line)| (index + 1, line));
        let version = lines.next().and_then(|(_, line)| line.strip_prefix(HEADER));
        let version = version.ok_or(InvitedError::NotAList)?;
        if version != VERSION {
            return Err(InvitedError::Version);
        }
        let mut list = Self::default();
        for (number, line) in &mut lines {
            let (name, key) =
                line.split_once(' ').ok_or(InvitedError::Line { number, fault: LineFault::Words })?;
            let name =
                name.parse().map_err(|error| InvitedError::Line { number, fault: LineFault::Name(error) })?;
            let key =
                key.parse().map_err(|error| InvitedError::Line { number, fault: LineFault::Key(error) })?;
            list.invite(name, key).map_err(|error| match error {
                InvitedError::NameTaken(_) => InvitedError::Line { number, fault: LineFault::NameTwice },
                InvitedError::KeyTaken(_) => InvitedError::Line { number, fault: LineFault::KeyTwice },
                other => other,
            })?;
        }
        if text.ends_with('\n') { Ok(list) } else { Err(InvitedError::CutOff) }
    }
}

/// Why a list is none, or does not take a change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvitedError {
    /// The first line is not a list's.
    #[error("line 1: expected `{HEADER}{VERSION}`; this is not a list of invited clients")]
    NotAList,
    /// Written by another version of QNet.
    #[error("line 1: expected `{HEADER}{VERSION}`; this list was written by a newer qnet")]
    Version,
    /// A line that is wrong.
    #[error("line {number}: {fault}")]
    Line {
        /// Which, from 1.
        number: usize,
        /// What is wrong with it.
        fault: LineFault,
    },
    /// The last line has no end.
    #[error("the last line has no end, so something is missing; put the list back from a copy")]
    CutOff,
    /// A client of that name is there.
    #[error("{0} is invited already; revoke that invitation first, or take another name")]
    NameTaken(ClientName),
    /// A client of that key is there.
    #[error("the key for {0} is in the list already, under another name")]
    KeyTaken(ClientName),
    /// [`MAX_INVITED`] are there.
    #[error("{MAX_INVITED} clients are invited already, and a bridge takes no more; revoke some")]
    Full,
    /// No client of that name is there.
    #[error("nobody of the name {0} is invited")]
    Unknown(ClientName),
}

/// What is wrong with a line of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LineFault {
    /// No two words.
    #[error("expected a name, a space and a key of {KEY_LETTERS} letters")]
    Words,
    /// The first word is no name.
    #[error("expected a name, a space and a key: {0}")]
    Name(ClientNameError),
    /// The second word is no public key.
    #[error("expected a name, a space and a key of {KEY_LETTERS} letters: {}", key_fault(.0))]
    Key(KeyError),
    /// The name stands further up, too.
    #[error("expected a name that is not further up, too")]
    NameTwice,
    /// The key stands further up, too.
    #[error("expected a key that is not further up, too")]
    KeyTwice,
}

/// A client's key is none of a bridge's, which is what the error's own words are about.
fn key_fault(error: &KeyError) -> String {
    match error {
        KeyError::Length(letters) => format!("this one has {letters}"),
        KeyError::Letter => "it holds only letters, digits, - and _".to_owned(),
        KeyError::Damaged | KeyError::LowOrder => "these letters are no client's key".to_owned(),
    }
}

impl InvitedError {
    /// Who is at fault.
    pub fn kind(&self) -> Kind {
        match self {
            Self::NotAList | Self::Version => Kind::Misuse,
            Self::NameTaken(_) | Self::KeyTaken(_) | Self::Full | Self::Unknown(_) => Kind::Misuse,
            Self::Line { .. } | Self::CutOff => Kind::Local,
        }
    }

    /// Whether trying again helps.
    pub fn retry(&self) -> Retry {
        match self {
            Self::NotAList | Self::Version | Self::Line { .. } | Self::CutOff => Retry::Never,
            Self::NameTaken(_) | Self::KeyTaken(_) | Self::Full | Self::Unknown(_) => Retry::Never,
        }
    }
}

#[cfg(test)]
mod tests;
