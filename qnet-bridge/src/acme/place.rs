//! What the operator sets about the authority: how it may reach him, and where it is.

use std::{fmt, str::FromStr};

use hyper::Uri;
use qnet_wire::name::ServerName;
use thiserror::Error;

/// Longest mail address, letters (RFC 5321, section 4.5.3.1.3, less the angle brackets), and what is before its @ (4.5.3.1.1).
const MAX_MAIL: usize = 254;
const MAX_LOCAL: usize = 64;
/// Besides letters and digits before the @: what a mailto URL has as it is (RFC 6068, section 2).
const MARKS: &[u8] = b".+-_!$'*~";

/// A mail address, kept as the URL that an account has (RFC 8555, section 7.3): no second address, no header fields.
#[derive(Clone, PartialEq, Eq)]
pub struct Contact(String);

/// It is not a [`Contact`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a mail address is expected, as in mailto:you@example.com")]
pub struct NoContact;

impl Contact {
    /// The URL.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.0
    }
}

/// Whose it is is nobody's business: settings get into logs.
impl fmt::Debug for Contact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Contact(…)")
    }
}

impl FromStr for Contact {
    type Err = NoContact;

    /// With `mailto:` or without.
    fn from_str(text: &str) -> Result<Self, NoContact> {
        let mail = text.strip_prefix("mailto:").unwrap_or(text);
        let (local, host) = mail.split_once('@').ok_or(NoContact)?;
        let good = |byte: u8| byte.is_ascii_alphanumeric() || MARKS.contains(&byte);
        let dots = local.split('.').all(|part| !part.is_empty());
        if mail.len() > MAX_MAIL || local.len() > MAX_LOCAL || !dots || !local.bytes().all(good) {
            return Err(NoContact);
        }
        let host: ServerName = host.parse().map_err(|_| NoContact)?;
        Ok(Self(format!("mailto:{local}@{host}")))
    }
}

/// The address of an authority's directory (RFC 8555, section 7.1.1): HTTPS alone (section 6.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectoryUrl(Uri);

/// It is not a [`DirectoryUrl`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("an https URL is expected, as in https://acme-v02.api.letsencrypt.org/directory")]
pub struct NoDirectory;

impl DirectoryUrl {
    /// Let's Encrypt's.
    #[must_use]
    pub fn lets_encrypt() -> Self {
        Self(Uri::from_static("https://acme-v02.api.letsencrypt.org/directory"))
    }

    pub(super) fn uri(&self) -> &Uri {
        &self.0
    }
}

impl fmt::Display for DirectoryUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for DirectoryUrl {
    type Err = NoDirectory;

    fn from_str(text: &str) -> Result<Self, NoDirectory> {
        let uri: Uri = text.parse().map_err(|_| NoDirectory)?;
        let authority = uri.authority().ok_or(NoDirectory)?;
        let port = authority.as_str().len() == authority.host().len() || uri.port_u16().is_some();
        let login = authority.as_str().contains('@');
        if login || uri.scheme_str() != Some("https") || uri.host().is_none_or(str::is_empty) || !port {
            return Err(NoDirectory);
        }
        Ok(Self(uri))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_mail_address_with_or_without_its_scheme() {
        for text in ["me@example.com", "mailto:me@Example.com"] {
            assert_eq!(text.parse::<Contact>().unwrap().url(), "mailto:me@example.com");
        }
        assert!("mailto:A.b+acme@a-b.example".parse::<Contact>().is_ok());
        let long = format!("{}@example.com", "a".repeat(MAX_LOCAL + 1));
        for wrong in [
            "",
            "me",
            "@example.com",
            "me@",
            "me@@example.com",
            "me@192.0.2.7",
            "mailto:me@example.com?subject=x",
            "a@example.com,b@example.com",
            "a..b@example.com",
            "me @example.com",
            "mailto:mailto:me@example.com",
            "https://example.com/me@example.com",
            "<me@example.com>",
            &long,
        ] {
            assert_eq!(wrong.parse::<Contact>(), Err(NoContact), "{wrong}");
        }
    }

    #[test]
    fn a_directory_is_asked_by_https_alone() {
        for text in ["https://acme.example/directory", "https://acme.example:14000/dir", "https://[::1]:9/d"]
        {
            assert_eq!(text.parse::<DirectoryUrl>().unwrap().uri().to_string(), text);
        }
        for wrong in [
            "",
            "acme.example",
            "/directory",
            "http://acme.example/directory",
            "https://",
            "https:///directory",
            "https://:443/directory",
            "https://acme.example:99999/",
            "https://me@acme.example/",
            "https://me@acme.example:443/",
            "https://acme example/",
        ] {
            assert_eq!(wrong.parse::<DirectoryUrl>(), Err(NoDirectory), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn what_is_taken_is_one_word_of_ascii(text in "(mailto:)?[ -~é]{0,12}@[ -~é]{0,12}") {
            if let Ok(contact) = text.parse::<Contact>() {
                let url = contact.url();
                prop_assert_eq!(url.parse::<Contact>(), Ok(contact.clone()));
                prop_assert!(url.bytes().all(|byte| byte.is_ascii_graphic()) && url.matches('@').count() == 1);
                prop_assert!(!url.contains(['?', ',', '%', '#', '/']), "{}", url);
            }
        }
    }
}
