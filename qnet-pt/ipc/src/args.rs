//! Arguments: `key=value` pairs as they come through SOCKS and the environment, and as they are
//! published on an `SMETHOD` line. Each place escapes differently.

use qnet_wire::error::{Kind, Retry};
use std::fmt;

/// The letters that part and escape client arguments (`pt-spec`, "per-connection arguments").
const CLIENT_ESCAPED: &[char] = &['\\', ';', '='];
/// The letters that part and escape an `SMETHOD` line's `ARGS:`.
const SMETHOD_ESCAPED: &[char] = &['\\', ',', '='];

/// Pairs in the order they came; a key may come more than once. `Debug` shows keys only, because
/// values may be a bridge's secrets.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Args(Vec<(String, String)>);

impl Args {
    /// No arguments.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a pair at the end.
    pub fn push(&mut self, key: impl Into<String>, value: impl Into<String>) {
        self.0.push((key.into(), value.into()));
    }

    /// All pairs, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// All values of one key, in order.
    pub fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.iter().filter(move |(k, _)| *k == key).map(|(_, value)| value)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Reads what a client's parent sends through SOCKS: `k=v;k=v`, where a backslash takes the
    /// next letter as it is. A raw `=` or `,` in a value is legal, keys may repeat, and nothing at
    /// all is no arguments. Both halves of the login must have been joined before, since the cut
    /// can fall inside an escape.
    ///
    /// # Errors
    /// See [`ArgsError`].
    pub fn parse_client(bytes: &[u8]) -> Result<Self, ArgsError> {
        let text = std::str::from_utf8(bytes).map_err(|_| ArgsError::NotText)?;
        let mut args = Self::new();
        let mut rest = text;
        if rest.is_empty() {
            return Ok(args);
        }
        loop {
            let more;
            let (key, value);
            (key, rest) = key_before(rest, '=', &[';'])?;
            (value, more, rest) = value_until(rest, ';')?;
            args.push(key, value);
            if !more {
                return Ok(args);
            }
        }
    }

    /// Writes what [`Self::parse_client`] reads.
    pub fn to_client(&self) -> String {
        self.join(';', CLIENT_ESCAPED)
    }

    /// Writes the part of an `SMETHOD` line after `ARGS:`: `k=v,k=v` with `\`, `=` and `,` escaped.
    pub fn to_smethod(&self) -> String {
        self.join(',', SMETHOD_ESCAPED)
    }

    fn join(&self, separator: char, escaped: &[char]) -> String {
        let mut out = String::new();
        for (key, value) in self.iter() {
            if !out.is_empty() {
                out.push(separator);
            }
            escape(key, escaped, &mut out);
            out.push('=');
            escape(value, escaped, &mut out);
        }
        out
    }
}

impl fmt::Debug for Args {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.iter().map(|(key, _)| key)).finish()
    }
}

impl<'a> FromIterator<(&'a str, &'a str)> for Args {
    fn from_iter<T: IntoIterator<Item = (&'a str, &'a str)>>(pairs: T) -> Self {
        Self(pairs.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect())
    }
}

/// Reads `TOR_PT_SERVER_TRANSPORT_OPTIONS`: `name:key=value;name:key=value`, where a backslash takes
/// the next letter as it is. In a value raw `:` and `=` are legal. Returns `(transport, key, value)`.
///
/// # Errors
/// See [`ArgsError`].
pub fn parse_transport_options(text: &str) -> Result<Vec<(String, String, String)>, ArgsError> {
    let mut options = Vec::new();
    let mut rest = text;
    if rest.is_empty() {
        return Ok(options);
    }
    loop {
        let more;
        let (name, key, value);
        (name, rest) = key_before(rest, ':', &[';', '='])?;
        (key, rest) = key_before(rest, '=', &[';'])?;
        (value, more, rest) = value_until(rest, ';')?;
        options.push((name, key, value));
        if !more {
            return Ok(options);
        }
    }
}

/// What is wrong with arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ArgsError {
    /// The bytes are not UTF-8.
    #[error("the arguments are not text")]
    NotText,
    /// A pair without its separator: `=`, or `:` after a transport's name.
    #[error("an argument has no `{0}`")]
    NoSeparator(char),
    /// Nothing before the separator.
    #[error("an argument has an empty key")]
    EmptyKey,
    /// The last letter is a backslash that escapes nothing.
    #[error("the arguments end in a backslash")]
    DanglingBackslash,
}

impl ArgsError {
    /// Who is at fault.
    pub fn kind(&self) -> Kind {
        match self {
            Self::NotText | Self::NoSeparator(_) | Self::EmptyKey | Self::DanglingBackslash => Kind::Misuse,
        }
    }

    /// Whether the same can succeed later.
    pub fn retry(&self) -> Retry {
        match self {
            Self::NotText | Self::NoSeparator(_) | Self::EmptyKey | Self::DanglingBackslash => Retry::Never,
        }
    }
}

/// Reads up to the first unescaped `end`; meeting one of `never` or the text's end first is an error.
fn key_before<'a>(text: &'a str, end: char, never: &[char]) -> Result<(String, &'a str), ArgsError> {
    let mut key = String::new();
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '\\' => key.push(letters.next().ok_or(ArgsError::DanglingBackslash)?),
            _ if letter == end && key.is_empty() => return Err(ArgsError::EmptyKey),
            _ if letter == end => return Ok((key, letters.as_str())),
            _ if never.contains(&letter) => break,
            _ => key.push(letter),
        }
    }
    Err(ArgsError::NoSeparator(end))
}

/// Reads up to the first unescaped `end` or the text's end; says whether the separator was there.
fn value_until(text: &str, end: char) -> Result<(String, bool, &str), ArgsError> {
    let mut value = String::new();
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '\\' => value.push(letters.next().ok_or(ArgsError::DanglingBackslash)?),
            _ if letter == end => return Ok((value, true, letters.as_str())),
            _ => value.push(letter),
        }
    }
    Ok((value, false, ""))
}

fn escape(text: &str, escaped: &[char], out: &mut String) {
    for letter in text.chars() {
        if escaped.contains(&letter) {
            out.push('\\');
        }
        out.push(letter);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pairs(text: &[u8]) -> Result<Vec<(String, String)>, ArgsError> {
        Args::parse_client(text).map(|args| args.0)
    }

    fn owned(list: &[(&str, &str)]) -> Vec<(String, String)> {
        list.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn client_args_as_c_tor_and_arti_send_them() {
        assert_eq!(pairs(b""), Ok(Vec::new()));
        assert_eq!(pairs(b"key=a=b,c;sni=x"), Ok(owned(&[("key", "a=b,c"), ("sni", "x")])));
        assert_eq!(pairs(br"k\;e\=y=v\\1\;2\=3"), Ok(owned(&[("k;e=y", r"v\1;2=3")])));
        assert_eq!(pairs(b"sni=a;sni=b;sni="), Ok(owned(&[("sni", "a"), ("sni", "b"), ("sni", "")])));
    }

    #[test]
    fn client_args_that_are_wrong() {
        assert_eq!(pairs(b"key"), Err(ArgsError::NoSeparator('=')));
        assert_eq!(pairs(b"key;a=b"), Err(ArgsError::NoSeparator('=')));
        assert_eq!(pairs(b"a=b;"), Err(ArgsError::NoSeparator('=')));
        assert_eq!(pairs(b"=v"), Err(ArgsError::EmptyKey));
        assert_eq!(pairs(b"a=b;=v"), Err(ArgsError::EmptyKey));
        assert_eq!(pairs(b"a=b\\"), Err(ArgsError::DanglingBackslash));
        assert_eq!(pairs(b"a\\"), Err(ArgsError::DanglingBackslash));
        assert_eq!(pairs(&[b'a', b'=', 0xff]), Err(ArgsError::NotText));
    }

    #[test]
    fn transport_options_as_c_tor_sends_them() {
        let parsed = parse_transport_options(r"qnet:decoy=[\:\:1]\:443;other:x=a:b=c;qnet:sni=a\\\;b");
        let expected = [("qnet", "decoy", "[::1]:443"), ("other", "x", "a:b=c"), ("qnet", "sni", r"a\;b")];
        assert_eq!(parsed, Ok(expected.map(|(n, k, v)| (n.to_owned(), k.to_owned(), v.to_owned())).to_vec()));
        assert_eq!(parse_transport_options(""), Ok(Vec::new()));
        assert_eq!(parse_transport_options("qnet"), Err(ArgsError::NoSeparator(':')));
        assert_eq!(parse_transport_options("qnet=a:b"), Err(ArgsError::NoSeparator(':')));
        assert_eq!(parse_transport_options("qnet:decoy"), Err(ArgsError::NoSeparator('=')));
        assert_eq!(parse_transport_options("qnet:=x"), Err(ArgsError::EmptyKey));
        assert_eq!(parse_transport_options(":a=x"), Err(ArgsError::EmptyKey));
        assert_eq!(parse_transport_options("qnet:a=x\\"), Err(ArgsError::DanglingBackslash));
    }

    #[test]
    fn smethod_args_escape_what_parts_them() {
        let args: Args = [("key", "a=b"), ("sni", r"x,y\z")].into_iter().collect();
        assert_eq!(args.to_smethod(), r"key=a\=b,sni=x\,y\\z");
    }

    #[test]
    fn debug_hides_values() {
        let args: Args = [("key", "hidden")].into_iter().collect();
        assert_eq!(format!("{args:?}"), r#"{"key"}"#);
    }

    proptest! {
        #[test]
        fn client_args_round_trip(list in prop::collection::vec((".{1,8}", ".{0,8}"), 0..6)) {
            let args = Args(list);
            prop_assert_eq!(Args::parse_client(args.to_client().as_bytes()), Ok(args));
        }

        #[test]
        fn anything_parses_or_fails(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let _ = Args::parse_client(&bytes);
            let _ = parse_transport_options(&String::from_utf8_lossy(&bytes));
        }
    }
}
