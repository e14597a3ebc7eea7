//! The head of an application's HTTP/1.1 request to its proxy, without I/O: CONNECT (RFC 9110, section 9.3.6), or a plain request
//! with the whole URL (RFC 9112, section 3.2.2).
//!
//! A plain request is passed on in origin form with `Connection: close`: the connection is that server's alone, and what
//! follows the head is its body, whatever its framing.

use qnet_wire::target::Target;

/// Longest head of a request, bytes: what servers take of one, cookies included.
pub const MAX_HEAD: usize = 64 * 1024;
/// Most fields of one: browsers send 20.
const MAX_FIELDS: usize = 128;

/// Fields that are between an application and its proxy (RFC 9110, section 7.6.1; `Proxy-Connection` is older).
const HOP_BY_HOP: [&str; 6] =
    ["connection", "proxy-connection", "proxy-authorization", "proxy-authenticate", "keep-alive", "te"];

/// What a head asks for.
#[derive(Debug, PartialEq, Eq)]
pub struct Asked {
    /// Where to connect.
    pub target: Target,
    /// The head to send to the target; none for CONNECT.
    pub head: Option<Vec<u8>>,
    /// Bytes of the request's own head.
    pub length: usize,
}

/// A status line and the words under it.
#[derive(Debug, PartialEq, Eq)]
pub struct Status(pub &'static str, pub String);

/// Reads a head from the front of `bytes`: `None` while it is not whole.
///
/// # Errors
/// What to answer instead of a tunnel: it is no request of those two kinds, or longer than [`MAX_HEAD`].
pub fn parse(bytes: &[u8]) -> Result<Option<Asked>, Status> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut request = httparse::Request::new(&mut fields);
    let length = match request.parse(bytes) {
        Ok(httparse::Status::Complete(length)) if length <= MAX_HEAD => length,
        Ok(httparse::Status::Partial) if bytes.len() < MAX_HEAD => return Ok(None),
        Ok(_) | Err(httparse::Error::TooManyHeaders) => {
            return Err(Status(
                "431 Request Header Fields Too Large",
                "The request's head is too long.".into(),
            ));
        }
        Err(error) => return Err(bad(&format!("This is no HTTP request: {error}."))),
    };
    let (Some(method), Some(uri)) = (request.method, request.path) else { return Ok(None) };
    if method == "CONNECT" {
        let target =
            uri.parse().map_err(|error| bad(&format!("CONNECT needs a host and a port: {error}.")))?;
        return Ok(Some(Asked { target, head: None, length }));
    }
    let Some(rest) = strip_scheme(uri) else {
        return Err(bad(
            "This is an HTTP and SOCKS5 proxy, not a web site. Set it as your browser's proxy; its status page is at another port.",
        ));
    };
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    // RFC 9110, section 4.2.4: a user name there is deprecated, and of no use here.
    let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let port = if has_port(authority) { "" } else { ":80" };
    let target = format!("{authority}{port}").parse();
    let target = target.map_err(|error| bad(&format!("The URL's host cannot be used: {error}.")))?;
    let head = origin_form(method, authority, path, request.headers);
    Ok(Some(Asked { target, head: Some(head), length }))
}

fn strip_scheme(uri: &str) -> Option<&str> {
    const HTTP: &str = "http://";
    uri.split_at_checked(HTTP.len())
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case(HTTP))
        .map(|(_, rest)| rest)
}

/// Whether something follows the host: a colon after the last bracket.
fn has_port(authority: &str) -> bool {
    authority.rsplit_once(']').map_or(authority, |(_, rest)| rest).contains(':')
}

/// The head as the server itself wants it.
fn origin_form(method: &str, authority: &str, path: &str, fields: &[httparse::Header<'_>]) -> Vec<u8> {
    let path = path.split('#').next().unwrap_or_default();
    let slash = if path.starts_with('/') { "" } else { "/" };
    let path = if method == "OPTIONS" && path.is_empty() { "*".to_owned() } else { format!("{slash}{path}") };
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {authority}\r\n").into_bytes();
    let listed: Vec<String> = fields
        .iter()
        .filter(|field| field.name.eq_ignore_ascii_case("connection"))
        .flat_map(|field| {
            String::from_utf8_lossy(field.value)
                .split(',')
                .map(|name| name.trim().to_owned())
                .collect::<Vec<_>>()
        })
        .collect();
    for field in fields {
        let is = |name: &str| field.name.eq_ignore_ascii_case(name);
        // The URL's host goes before the field's (RFC 9112, section 3.2.2).
        if is("host") || HOP_BY_HOP.into_iter().any(is) || listed.iter().any(|name| is(name)) {
            continue;
        }
        head.extend_from_slice(field.name.as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(field.value);
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(b"Connection: close\r\n\r\n");
    head
}

fn bad(words: &str) -> Status {
    Status("400 Bad Request", words.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn asked(text: &str) -> (String, String) {
        let asked = parse(text.as_bytes()).unwrap().unwrap();
        assert_eq!(asked.length, text.find("\r\n\r\n").unwrap() + 4);
        (asked.target.to_string(), String::from_utf8(asked.head.unwrap_or_default()).unwrap())
    }

    #[test]
    fn connect_names_host_and_port() {
        for host in ["www.example.com:443", "192.0.2.7:22", "[2001:db8::7]:443"] {
            assert_eq!(
                asked(&format!("CONNECT {host} HTTP/1.1\r\nHost: x\r\n\r\nrest")),
                (host.into(), String::new())
            );
        }
        for host in ["www.example.com", "/", "a b:1", "http://www.example.com/"] {
            let refused = parse(format!("CONNECT {host} HTTP/1.1\r\n\r\n").as_bytes()).unwrap_err();
            assert_eq!(refused.0, "400 Bad Request", "{host}");
        }
    }

    #[test]
    fn a_plain_request_goes_on_in_origin_form() {
        let text = "GET http://User@Example.com/a?b#c HTTP/1.1\r\nhost: other\r\nProxy-Connection: keep-alive\r\n\
                    Proxy-Authorization: Basic eA==\r\nConnection: X-Own, keep-alive\r\nX-Own: 1\r\nCookie: d=e\r\n\r\nbody";
        let head = "GET /a?b HTTP/1.1\r\nHost: Example.com\r\nCookie: d=e\r\nConnection: close\r\n\r\n";
        assert_eq!(asked(text), ("example.com:80".into(), head.into()));
        for (uri, target, first) in [
            ("http://a.example", "a.example:80", "GET / HTTP/1.1\r\nHost: a.example\r\n"),
            ("HTTP://a.example:8080?q", "a.example:8080", "GET /?q HTTP/1.1\r\nHost: a.example:8080\r\n"),
            ("http://[2001:db8::7]/x", "[2001:db8::7]:80", "GET /x HTTP/1.1\r\nHost: [2001:db8::7]\r\n"),
        ] {
            let (to, head) = asked(&format!("GET {uri} HTTP/1.0\r\n\r\n"));
            assert!(to == target && head.starts_with(first), "{to} {head}");
        }
    }

    #[test]
    fn a_page_that_asks_the_proxy_for_itself_is_told() {
        let told = parse(b"GET / HTTP/1.1\r\nHost: 127.0.0.1:1088\r\n\r\n").unwrap_err();
        assert!(told.0.starts_with("400") && told.1.contains("proxy, not a web site"), "{told:?}");
        assert!(parse(b"GET https://a.example/ HTTP/1.1\r\n\r\n").is_err());
    }

    #[test]
    fn heads_are_bounded() {
        let long = format!("GET http://a.example/{} ", "x".repeat(MAX_HEAD));
        assert!(parse(long.as_bytes()).unwrap_err().0.starts_with("431"));
        let many = format!("GET http://a.example/ HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(MAX_FIELDS + 1));
        assert!(parse(many.as_bytes()).unwrap_err().0.starts_with("431"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_request_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn what_is_passed_on_is_one_head(
            uri in "http://[a-z@:\\[\\]0-9.]{1,20}[/?#a-z]{0,9}", field in "[a-z-]{1,12}: [ -~]{0,20}",
        ) {
            if let Ok(Some(asked)) = parse(format!("GET {uri} HTTP/1.1\r\n{field}\r\n\r\n").as_bytes()) {
                let head = String::from_utf8(asked.head.unwrap()).unwrap();
                prop_assert_eq!(head.find("\r\n\r\n"), Some(head.len() - 4));
                let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
                prop_assert!(httparse::Request::new(&mut fields).parse(head.as_bytes()).unwrap().is_complete());
            }
        }
    }
}
