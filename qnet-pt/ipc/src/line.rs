//! The lines a managed transport writes to its parent's pipe (`pt-spec`, "Pluggable PT
//! configuration messages"). ASCII, one line each, ended by LF.

use crate::args::Args;
use std::fmt::{self, Write as _};
use std::net::SocketAddr;

/// Longest message kept in a line, in bytes. Parents show these to people; what is longer is a
/// mistake somewhere below, and must not flood the parent's log.
pub const MAX_MESSAGE: usize = 1_000;

/// One line. `Display` writes it whole, with its LF.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line<'a> {
    /// Version 1 was agreed on.
    Version,
    /// No common version.
    VersionError,
    /// The environment is wrong. C tor shows it only if it comes before [`Line::Version`].
    EnvError(&'a str),
    /// The upstream proxy asked for will be used.
    ProxyDone,
    /// The upstream proxy asked for cannot be used.
    ProxyError(&'a str),
    /// A client transport's SOCKS5 listener is ready.
    Cmethod {
        /// The transport.
        name: &'a str,
        /// Where its SOCKS5 listener is.
        address: SocketAddr,
    },
    /// A client transport cannot be started.
    CmethodError {
        /// The transport.
        name: &'a str,
        /// Why.
        message: &'a str,
    },
    /// No more [`Line::Cmethod`].
    CmethodsDone,
    /// A server transport is ready.
    Smethod {
        /// The transport.
        name: &'a str,
        /// Where clients connect to; never with port 0.
        address: SocketAddr,
        /// What clients need to know; it is published.
        args: &'a Args,
    },
    /// A server transport cannot be started.
    SmethodError {
        /// The transport.
        name: &'a str,
        /// Why.
        message: &'a str,
    },
    /// No more [`Line::Smethod`].
    SmethodsDone,
    /// Something for the parent's log.
    Log {
        /// How grave.
        severity: Severity,
        /// What.
        message: &'a str,
    },
    /// A transport's state, as pairs of which the first should be `TRANSPORT` or `TYPE`.
    Status(&'a [(&'a str, &'a str)]),
}

/// How grave a log line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Something does not work.
    Error,
    /// Something will not work unless somebody looks at it.
    Warning,
    /// What a user may want to see once.
    Notice,
    /// What an operator may want to see.
    Info,
    /// What a programmer may want to see; it may name addresses.
    Debug,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Notice => "notice",
            Self::Info => "info",
            Self::Debug => "debug",
        })
    }
}

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version => f.write_str("VERSION 1")?,
            Self::VersionError => f.write_str("VERSION-ERROR no-version")?,
            Self::EnvError(message) => write!(f, "ENV-ERROR {}", Plain(message))?,
            Self::ProxyDone => f.write_str("PROXY DONE")?,
            Self::ProxyError(message) => write!(f, "PROXY-ERROR {}", Plain(message))?,
            Self::Cmethod { name, address } => write!(f, "CMETHOD {} socks5 {address}", Plain(name))?,
            Self::CmethodError { name, message } => {
                write!(f, "CMETHOD-ERROR {} {}", Plain(name), Plain(message))?;
            }
            Self::CmethodsDone => f.write_str("CMETHODS DONE")?,
            Self::Smethod { name, address, args } => {
                write!(f, "SMETHOD {} {address}", Plain(name))?;
                if !args.is_empty() {
                    write!(f, " ARGS:{}", Plain(&args.to_smethod()))?;
                }
            }
            Self::SmethodError { name, message } => {
                write!(f, "SMETHOD-ERROR {} {}", Plain(name), Plain(message))?;
            }
            Self::SmethodsDone => f.write_str("SMETHODS DONE")?,
            Self::Log { severity, message } => {
                write!(f, "LOG SEVERITY={severity} MESSAGE={}", Quoted(message))?;
            }
            Self::Status(pairs) => {
                f.write_str("STATUS")?;
                for (key, value) in *pairs {
                    write!(f, " {}={}", Plain(key), Value(value))?;
                }
            }
        }
        f.write_char('\n')
    }
}

/// Text that must stay on its line and be ASCII: other letters become `?`.
struct Plain<'a>(&'a str);

impl fmt::Display for Plain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for letter in self.0.chars().take(MAX_MESSAGE) {
            f.write_char(match letter {
                ' '..='~' => letter,
                '\n' | '\r' | '\t' => ' ',
                _ => '?',
            })?;
        }
        Ok(())
    }
}

/// A C string in quotes. Only the escapes both parents understand are used: Arti refuses a line with
/// an octal escape and reads a hexadecimal one wrong, so what is not ASCII becomes `?`.
struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        for letter in self.0.chars().take(MAX_MESSAGE) {
            match letter {
                '\\' | '"' => {
                    f.write_char('\\')?;
                    f.write_char(letter)?;
                }
                '\n' => f.write_str("\\n")?,
                '\r' => f.write_str("\\r")?,
                '\t' => f.write_str("\\t")?,
                ' '..='~' => f.write_char(letter)?,
                _ => f.write_char('?')?,
            }
        }
        f.write_char('"')
    }
}

/// A status value: bare where it can be, else quoted. An empty bare value is a parse error in Arti.
struct Value<'a>(&'a str);

impl fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bare = |letter: char| {
            letter.is_ascii_alphanumeric() || matches!(letter, '.' | '-' | '_' | ':' | '/' | '+')
        };
        if !self.0.is_empty() && self.0.len() <= MAX_MESSAGE && self.0.chars().all(bare) {
            f.write_str(self.0)
        } else {
            Quoted(self.0).fmt(f)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_line_as_specified() {
        let address: SocketAddr = "127.0.0.1:4711".parse().unwrap();
        let args: Args = [("key", "abc"), ("sni", "www.example.com")].into_iter().collect();
        let none = Args::new();
        let cases = [
            (Line::Version, "VERSION 1\n"),
            (Line::VersionError, "VERSION-ERROR no-version\n"),
            (Line::EnvError("no\nway \u{e9}"), "ENV-ERROR no way ?\n"),
            (Line::ProxyDone, "PROXY DONE\n"),
            (Line::ProxyError("bad"), "PROXY-ERROR bad\n"),
            (Line::Cmethod { name: "qnet", address }, "CMETHOD qnet socks5 127.0.0.1:4711\n"),
            (Line::CmethodError { name: "qnet", message: "why" }, "CMETHOD-ERROR qnet why\n"),
            (Line::CmethodsDone, "CMETHODS DONE\n"),
            (
                Line::Smethod { name: "qnet", address, args: &args },
                "SMETHOD qnet 127.0.0.1:4711 ARGS:key=abc,sni=www.example.com\n",
            ),
            (Line::Smethod { name: "qnet", address, args: &none }, "SMETHOD qnet 127.0.0.1:4711\n"),
            (Line::SmethodError { name: "qnet", message: "why" }, "SMETHOD-ERROR qnet why\n"),
            (Line::SmethodsDone, "SMETHODS DONE\n"),
            (
                Line::Log { severity: Severity::Warning, message: "a \"b\" \\ c\nd\te \u{e9}\u{7}" },
                "LOG SEVERITY=warning MESSAGE=\"a \\\"b\\\" \\\\ c\\nd\\te ??\"\n",
            ),
            (
                Line::Status(&[("TRANSPORT", "qnet"), ("CONNECT", "it failed"), ("EMPTY", "")]),
                "STATUS TRANSPORT=qnet CONNECT=\"it failed\" EMPTY=\"\"\n",
            ),
        ];
        for (line, expected) in cases {
            assert_eq!(line.to_string(), expected);
        }
    }

    proptest! {
        #[test]
        fn always_one_bounded_ascii_line(text in any::<String>(), long in 0usize..3_000) {
            let text = text + &"\u{10ffff}\"".repeat(long);
            let args: Args = [(text.as_str(), text.as_str())].into_iter().collect();
            let address: SocketAddr = "[::1]:1".parse().unwrap();
            for line in [
                Line::EnvError(&text), Line::ProxyError(&text),
                Line::CmethodError { name: "qnet", message: &text },
                Line::Smethod { name: "qnet", address, args: &args },
                Line::Log { severity: Severity::Error, message: &text },
                Line::Status(&[("TRANSPORT", "qnet"), ("WHY", &text)]),
            ] {
                let line = line.to_string();
                prop_assert!(line.ends_with('\n') && line.is_ascii());
                prop_assert!(line.len() <= 2 * MAX_MESSAGE + 60);
                prop_assert!(line[..line.len() - 1].bytes().all(|b| (b' '..=b'~').contains(&b)));
            }
        }
    }
}
