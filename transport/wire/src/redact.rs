//! Values that must not reach a log.
//!
//! Addresses, names and keys are wrapped in [`Redacted`] where they are logged below debug level, so that forgetting is
//! a type error and not a leak.

use std::fmt;

/// A value whose `Debug` and `Display` print `[redacted]`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Redacted<T>(pub T);

impl<T> Redacted<T> {
    /// The value itself.
    pub fn reveal(&self) -> &T {
        &self.0
    }
}

impl<T> From<T> for Redacted<T> {
    fn from(value: T) -> Self {
        Self(value)
    }
}

impl<T> fmt::Debug for Redacted<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl<T> fmt::Display for Redacted<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_form_shows_the_value() {
        let value = Redacted("192.0.2.7");
        assert_eq!(format!("{value} {value:?} {value:#?}"), "[redacted] [redacted] [redacted]");
        assert_eq!(*value.reveal(), "192.0.2.7");
    }
}
