//! The cookies a decoy sets during the load, as far as Chrome would send them back in the same load (RFC 6265).

/// Cookies kept. Chrome keeps 180 for a site; a page load that sets more than this is no decoy worth having.
const MAX_COOKIES: usize = 20;
/// Longest `name=value` kept, in bytes: with [`MAX_COOKIES`] and the path it keeps a request inside one record. Chrome's own limit is 4,096.
const MAX_LENGTH: usize = 512;

#[derive(Debug)]
struct Cookie {
    path: String,
    /// `name=value`, or `value` alone where the name is empty.
    pair: String,
    name: usize,
}

/// The cookies of one load.
#[derive(Debug, Default)]
pub(crate) struct Jar {
    cookies: Vec<Cookie>,
}

impl Jar {
    /// Takes one `set-cookie` value that came with the answer for `request` (a path) from `host`.
    pub(crate) fn set(&mut self, header: &[u8], host: &str, request: &str) {
        let Ok(header) = std::str::from_utf8(header) else { return };
        let mut parts = header.split(';');
        let pair = parts.next().unwrap_or_default().trim();
        let (name, value) = pair.split_once('=').unwrap_or(("", pair));
        let (name, value) = (name.trim(), value.trim());
        let plain = |text: &str| text.bytes().all(|byte| byte >= b' ' && byte != 0x7f);
        if (name.is_empty() && value.is_empty()) || pair.len() > MAX_LENGTH || !plain(pair) {
            return;
        }
        let (mut path, mut ends) = (default_path(request).to_owned(), false);
        for part in parts {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            let (key, value) = (key.trim().to_ascii_lowercase(), value.trim());
            match key.as_str() {
                "path" if value.starts_with('/') => path = value.to_owned(),
                "domain" if !covers(value, host) => return,
                // A cookie is taken back by an end in the past; dates of the past are all servers use for it.
                "max-age" => ends = value.parse::<i64>().is_ok_and(|age| age <= 0),
                "expires" => ends |= value.contains("1970"),
                _ => {}
            }
        }
        self.cookies.retain(|cookie| cookie.pair.get(..cookie.name) != Some(name) || cookie.path != path);
        if !ends && self.cookies.len() < MAX_COOKIES && path.len() <= MAX_LENGTH {
            let pair = if name.is_empty() { value.to_owned() } else { format!("{name}={value}") };
            self.cookies.push(Cookie { path, pair, name: name.len() });
        }
    }

    /// What is sent with a request for `path`: longer paths first, then in the order of being set.
    pub(crate) fn for_path(&self, path: &str) -> Vec<String> {
        let path = path.split('?').next().unwrap_or_default();
        let mut fitting: Vec<&Cookie> =
            self.cookies.iter().filter(|cookie| matches(&cookie.path, path)).collect();
        fitting.sort_by_key(|cookie| std::cmp::Reverse(cookie.path.len()));
        fitting.into_iter().map(|cookie| cookie.pair.clone()).collect()
    }
}

fn default_path(request: &str) -> &str {
    let path = request.split('?').next().unwrap_or_default();
    match path.rfind('/') {
        None | Some(0) => "/",
        Some(place) => &path[..place],
    }
}

fn covers(domain: &str, host: &str) -> bool {
    let domain = domain.trim_start_matches('.').to_ascii_lowercase();
    host == domain || host.strip_suffix(&domain).is_some_and(|rest| rest.ends_with('.'))
}

fn matches(cookie: &str, path: &str) -> bool {
    path.strip_prefix(cookie)
        .is_some_and(|rest| rest.is_empty() || cookie.ends_with('/') || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jar(headers: &[&str]) -> Jar {
        let mut jar = Jar::default();
        for header in headers {
            jar.set(header.as_bytes(), "www.example.com", "/a/page.html");
        }
        jar
    }

    #[test]
    fn sent_back_where_the_path_fits() {
        let jar = jar(&["sid=abc123; Path=/; Secure; HttpOnly", "b=2", "c=3; path=/other", "bare"]);
        assert_eq!(jar.for_path("/a/x.css?q"), ["b=2", "bare", "sid=abc123"]);
        assert_eq!(jar.for_path("/ab"), ["sid=abc123"]);
    }

    #[test]
    fn replaced_and_taken_back() {
        let jar = jar(&[
            "a=1; path=/",
            "a=2; path=/",
            "b=1",
            "b=; Max-Age=0",
            "c=1",
            "c=; expires=Thu, 01 Jan 1970 00:00:00 GMT",
        ]);
        assert_eq!(jar.for_path("/a/"), ["a=2"]);
    }

    #[test]
    fn foreign_and_hostile_ones_are_dropped() {
        assert!(jar(&["a=1; domain=other.example", "a=\u{1}", "", "=", ";"]).cookies.is_empty());
        assert_eq!(jar(&["a=1; domain=.example.com; path=/"]).for_path("/"), ["a=1"]);
        let many: Vec<String> = (0..100).map(|i| format!("c{i}=1")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(jar(&many).cookies.len(), MAX_COOKIES);
        assert!(jar(&[&format!("a={}", "x".repeat(MAX_LENGTH))]).cookies.is_empty());
    }
}
