//! A proxy's user name and password.
#![forbid(unsafe_code)]

use std::fmt;

use zeroize::Zeroizing;

/// Longest user name, and longest password, in bytes: the length fields of RFC 1929.
pub(super) const MAX_PART: usize = 255;

/// A user name and a password, wiped when dropped and never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    user: Zeroizing<String>,
    password: Zeroizing<String>,
}

impl Login {
    /// A login. Both parts are taken as they are; nothing is percent-decoded.
    ///
    /// # Errors
    /// An empty user name, or a part longer than 255 bytes. An empty password is one that some proxies have.
    pub fn new(user: impl Into<String>, password: impl Into<String>) -> Result<Self, LoginError> {
        let (user, password) = (Zeroizing::new(user.into()), Zeroizing::new(password.into()));
        if user.is_empty() {
            return Err(LoginError::NoUser);
        }
        if user.len() > MAX_PART || password.len() > MAX_PART {
            return Err(LoginError::TooLong);
        }
        Ok(Self { user, password })
    }

    /// The user name.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// The password.
    pub fn password(&self) -> &str {
        &self.password
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Login([redacted])")
    }
}

/// Why a text is not a login.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LoginError {
    /// The user name is empty.
    #[error("the proxy's user name is empty")]
    NoUser,
    /// More than 255 bytes (RFC 1929).
    #[error("the proxy's user name or password is longer than {MAX_PART} bytes")]
    TooLong,
}

impl LoginError {
    /// Who is at fault.
    pub fn kind(&self) -> qnet_wire::error::Kind {
        match self {
            Self::NoUser | Self::TooLong => qnet_wire::error::Kind::Misuse,
        }
    }

    /// Whether trying again helps.
    pub fn retry(&self) -> qnet_wire::error::Retry {
        match self {
            Self::NoUser | Self::TooLong => qnet_wire::error::Retry::Never,
        }
    }
}
