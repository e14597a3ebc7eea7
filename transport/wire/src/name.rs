//! Host names that may stand in a TLS server name.
//!
//! The rules are the intersection of what the places a name goes to accept: the SNI extension (RFC 6066, section 3:
//! no IP address, no trailing dot) and an ECHConfig's `public_name` (RFC 9849, section 4: letters, digits and hyphens,
//! and a last label that no parser takes for an IPv4 address).

use std::fmt;
use std::str::FromStr;

use crate::error::{Kind, Retry};

/// Longest name in letters: RFC 1035, section 2.3.4, without the root's empty label.
pub const MAX_NAME: usize = 253;
/// Longest label in letters: RFC 1035, section 2.3.4.
pub const MAX_LABEL: usize = 63;

/// A DNS host name: lower case, at most [`MAX_NAME`] letters, labels of letters, digits and inner hyphens, not an IP
/// address, no trailing dot.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerName(Box<str>);

impl ServerName {
    /// The name, in lower case.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for ServerName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ServerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for ServerName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        check(text)?;
        Ok(Self(text.to_ascii_lowercase().into()))
    }
}

/// The rules of a [`ServerName`].
pub(crate) fn check(text: &str) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    if text.len() > MAX_NAME {
        return Err(NameError::TooLong);
    }
    // First, so that somebody who gives an address is told so, and not that a colon is no letter.
    let unbracketed = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    if unbracketed.parse::<std::net::IpAddr>().is_ok() {
        return Err(NameError::Address);
    }
    text.split('.').try_for_each(check_label)?;
    if text.rsplit('.').next().is_some_and(looks_like_ipv4_part) {
        return Err(NameError::Address);
    }
    Ok(())
}

fn check_label(label: &str) -> Result<(), NameError> {
    if label.is_empty() || label.len() > MAX_LABEL {
        return Err(NameError::Label);
    }
    if !label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        return Err(NameError::Letter);
    }
    if label.starts_with('-') || label.ends_with('-') {
        return Err(NameError::Label);
    }
    Ok(())
}

/// RFC 9849, section 4, after the WHATWG URL standard: a name whose last label is a decimal or hexadecimal number
/// would be read as an IPv4 address.
fn looks_like_ipv4_part(label: &str) -> bool {
    let hex = label.strip_prefix("0x").or_else(|| label.strip_prefix("0X"));
    label.bytes().all(|b| b.is_ascii_digit()) || hex.is_some_and(|d| d.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// Why a text is not a host name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// No letters at all.
    #[error("the name is empty")]
    Empty,
    /// More than [`MAX_NAME`] letters.
    #[error("the name is longer than {MAX_NAME} letters")]
    TooLong,
    /// An IP address, or what some parsers would take for one.
    #[error("the name is an IP address; a host name such as www.example.com is needed")]
    Address,
    /// A label is empty, too long, or begins or ends with a hyphen.
    #[error(
        "each part of the name between dots must have 1 to {MAX_LABEL} letters and no hyphen at its ends"
    )]
    Label,
    /// Something else than a letter, digit, hyphen or dot.
    #[error(
        "a name holds only ASCII letters, digits, hyphens and dots (write other scripts in their xn-- form)"
    )]
    Letter,
}

impl NameError {
    /// Who is at fault.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Empty | Self::TooLong | Self::Address | Self::Label | Self::Letter => Kind::Misuse,
        }
    }

    /// Whether trying again helps.
    pub fn retry(&self) -> Retry {
        match self {
            Self::Empty | Self::TooLong | Self::Address | Self::Label | Self::Letter => Retry::Never,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Result<String, NameError> {
        text.parse::<ServerName>().map(|name| name.as_str().to_owned())
    }

    #[test]
    fn accepts_host_names_in_lower_case() {
        for (text, name) in [
            ("www.example.com", "www.example.com"),
            ("WWW.Example.COM", "www.example.com"),
            ("localhost", "localhost"),
            ("xn--bcher-kva.example", "xn--bcher-kva.example"),
            ("1.2.3.4.example", "1.2.3.4.example"),
            ("4chan.0xg", "4chan.0xg"),
            ("a-b.c--d.e", "a-b.c--d.e"),
        ] {
            assert_eq!(parse(text), Ok(name.to_owned()));
        }
    }

    #[test]
    fn refuses_what_no_tls_stack_would_send() {
        for (text, error) in [
            ("", NameError::Empty),
            (".", NameError::Label),
            ("example.com.", NameError::Label),
            (".example.com", NameError::Label),
            ("a..b", NameError::Label),
            ("-a.b", NameError::Label),
            ("a-.b", NameError::Label),
            ("a_b.c", NameError::Letter),
            ("a b.c", NameError::Letter),
            ("bücher.example", NameError::Letter),
            ("a\0b", NameError::Letter),
            ("example.com:443", NameError::Letter),
            ("192.0.2.7", NameError::Address),
            ("2001:db8::1", NameError::Address),
            ("[2001:db8::1]", NameError::Address),
            ("example.123", NameError::Address),
            ("example.0x7f", NameError::Address),
            ("example.0x", NameError::Address),
            ("1.2.3", NameError::Address),
        ] {
            assert_eq!(parse(text), Err(error), "{text:?}");
        }
    }

    #[test]
    fn bounds_are_exact() {
        let label = "a".repeat(63);
        let longest = format!("{label}.{label}.{label}.{}", "a".repeat(61));
        assert_eq!(longest.len(), MAX_NAME);
        assert!(parse(&longest).is_ok());
        assert_eq!(parse(&format!("{longest}a")), Err(NameError::TooLong));
        assert_eq!(parse(&format!("{label}a.b")), Err(NameError::Label));
    }

    proptest! {
        #[test]
        fn anything_else_is_an_error_and_never_a_panic(text in "\\PC{0,300}") {
            if let Ok(name) = text.parse::<ServerName>() {
                prop_assert_eq!(name.as_str(), text.to_ascii_lowercase());
                prop_assert_eq!(&name.to_string().parse::<ServerName>(), &Ok(name));
            }
        }

        #[test]
        fn names_made_by_the_rules_parse(text in "([a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?\\.){0,4}[a-z]{2,10}") {
            prop_assert_eq!(parse(&text), Ok(text));
        }
    }
}
