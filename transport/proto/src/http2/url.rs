//! References in a page, resolved as far as a page load needs it: to a path of the same origin, or to none.

/// Longest path and query that is requested, in bytes. A longer one is passed over: the request would not look like a
/// small record, and a page could make requests as large as it likes.
pub(crate) const MAX_PATH: usize = 2_048;
/// Longest reference that is looked at.
const MAX_REFERENCE: usize = 4 * MAX_PATH;

/// What references are relative to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Base<'a> {
    authority: &'a str,
    /// None: another origin (`<base href>`).
    path: Option<String>,
}

impl<'a> Base<'a> {
    /// A page of `https://authority` + `path`.
    pub(crate) fn new(authority: &'a str, path: &str) -> Self {
        Self { authority, path: Some(path.to_owned()) }
    }

    /// What `<base href>` makes of it.
    pub(crate) fn rebase(&self, href: &str) -> Self {
        Self { authority: self.authority, path: self.resolve(href) }
    }

    /// The path and query a reference stands for, percent-encoded as browsers do (URL standard, sections 4.4 and 5).
    /// None: another origin, another scheme, nothing at all, or too long.
    pub(crate) fn resolve(&self, reference: &str) -> Option<String> {
        if reference.len() > MAX_REFERENCE {
            return None;
        }
        let reference: String = reference
            .trim_matches(|letter: char| letter <= ' ')
            .chars()
            .filter(|letter| !matches!(letter, '\t' | '\n' | '\r'))
            .collect();
        let reference = reference.split('#').next().unwrap_or_default();
        let (rest, absolute) = match scheme(reference) {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => (rest, true),
            Some(_) => return None,
            None => (reference, false),
        };
        let (before, query) = match rest.split_once('?') {
            Some((before, query)) => (before, Some(query)),
            None => (rest, None),
        };
        let before = before.replace('\\', "/");
        let path = if let Some(rest) = before.strip_prefix("//") {
            let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            let authority = authority.strip_suffix(":443").unwrap_or(authority);
            if !authority.eq_ignore_ascii_case(self.authority) {
                return None;
            }
            path.to_owned()
        } else if absolute || rest.is_empty() {
            return None;
        } else if before.starts_with('/') {
            before
        } else {
            let base = self.path.as_deref()?;
            let base = base.split('?').next().unwrap_or_default();
            if before.is_empty() { base.to_owned() } else { directory(base).to_owned() + &before }
        };
        // A path from the root is this origin's only where the base is.
        if self.path.is_none() && !rest.starts_with("//") && !rest.starts_with("\\\\") {
            return None;
        }
        let mut out = without_dots(&path);
        if let Some(query) = query {
            out.push('?');
            escape(query, b"\"#<>'", &mut out);
        }
        (out.len() <= MAX_PATH).then_some(out)
    }
}

fn scheme(reference: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = reference.split_once(':')?;
    let mut letters = scheme.bytes();
    let starts = letters.next().is_some_and(|letter| letter.is_ascii_alphabetic());
    let goes_on = letters.all(|letter| letter.is_ascii_alphanumeric() || b"+-.".contains(&letter));
    (starts && goes_on).then_some((scheme, rest))
}

fn directory(path: &str) -> &str {
    path.rfind('/').map_or("/", |place| &path[..=place])
}

fn without_dots(path: &str) -> String {
    let mut segments: Vec<&str> = Vec::new();
    let mut parts = path.strip_prefix('/').unwrap_or(path).split('/').peekable();
    while let Some(part) = parts.next() {
        let last = parts.peek().is_none();
        match part.to_ascii_lowercase().as_str() {
            "." | "%2e" => {
                if last {
                    segments.push("");
                }
            }
            ".." | ".%2e" | "%2e." | "%2e%2e" => {
                segments.pop();
                if last {
                    segments.push("");
                }
            }
            _ => segments.push(part),
        }
    }
    let mut out = String::with_capacity(path.len() + 1);
    for segment in segments {
        out.push('/');
        escape(segment, b"\"#<>?`{}^", &mut out);
    }
    if out.is_empty() {
        out.push('/');
    }
    out
}

/// Appends text with controls, spaces, what is not ASCII and `special` percent-encoded.
fn escape(text: &str, special: &[u8], out: &mut String) {
    for byte in text.bytes() {
        if byte <= b' ' || byte >= 0x7f || special.contains(&byte) {
            const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
            out.push('%');
            out.push(char::from(DIGITS[usize::from(byte >> 4)]));
            out.push(char::from(DIGITS[usize::from(byte & 0xf)]));
        } else {
            out.push(char::from(byte));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn references() {
        let base = Base::new("www.example.com", "/a/b/page.html?q=1");
        for (reference, path) in [
            ("x.css", Some("/a/b/x.css")),
            (" /x.css\n", Some("/x.css")),
            ("../x.css?v=2#f", Some("/a/x.css?v=2")),
            ("../../../x.css", Some("/x.css")),
            ("./", Some("/a/b/")),
            ("..", Some("/a/")),
            ("?v=3", Some("/a/b/page.html?v=3")),
            ("//WWW.example.com/x", Some("/x")),
            ("//www.example.com:443", Some("/")),
            ("https://www.example.com/x y", Some("/x%20y")),
            ("https://www.example.com?q", Some("/?q")),
            ("/\u{e9}.png", Some("/%C3%A9.png")),
            ("\\x\\y.png", Some("/x/y.png")),
            ("//other.example/x", None),
            ("http://www.example.com/x", None),
            ("data:image/png;base64,AA==", None),
            ("javascript:1", None),
            ("", None),
            ("#top", None),
        ] {
            assert_eq!(base.resolve(reference).as_deref(), path, "{reference}");
        }
    }

    #[test]
    fn a_base_element_moves_references() {
        let base = Base::new("www.example.com", "/page.html");
        assert_eq!(base.rebase("/assets/").resolve("x.css").as_deref(), Some("/assets/x.css"));
        let away = base.rebase("https://cdn.example/");
        assert_eq!(away.resolve("/x.css"), None);
        assert_eq!(away.resolve("x.css"), None);
        assert_eq!(away.resolve("//www.example.com/x.css").as_deref(), Some("/x.css"));
    }

    #[test]
    fn what_is_too_long_is_passed_over() {
        let base = Base::new("www.example.com", "/");
        assert!(base.resolve(&"x".repeat(MAX_PATH - 1)).is_some());
        assert_eq!(base.resolve(&"x".repeat(MAX_PATH)), None);
        assert_eq!(base.resolve(&"\u{e9}".repeat(MAX_PATH / 2)), None);
    }

    proptest! {
        #[test]
        fn results_are_paths(reference in ".{0,60}") {
            if let Some(path) = Base::new("www.example.com", "/a/b").resolve(&reference) {
                prop_assert!(path.starts_with('/'));
                prop_assert!(path.bytes().all(|byte| byte > b' ' && byte < 0x7f));
            }
        }
    }
}
