//! The request that opens a websocket and its answer (RFC 6455, section 4), the request in Chrome's words.

use data_encoding::BASE64;
use subtle::ConstantTimeEq as _;

use super::error::WebsocketError;
use crate::chrome::{Part, Profile};

/// Largest answer's head, in bytes: twice what web servers send with every field they know.
pub(super) const MAX_ANSWER: usize = 16_384;
/// Most fields of a head, on either side: web servers' own limit (Apache and HAProxy: 100 or so).
pub(super) const MAX_FIELDS: usize = 100;
/// RFC 6455, section 1.3.
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// What is offered, and so all that may be taken.
const EXTENSION: &str = "permessage-deflate";

/// The random bytes of `Sec-WebSocket-Key`.
pub(super) type Nonce = [u8; 16];

/// The key's text for `Sec-WebSocket-Key`.
pub(super) fn key(nonce: &Nonce) -> String {
    BASE64.encode(nonce)
}

/// Whether a text is such a key.
pub(super) fn is_key(text: &[u8]) -> bool {
    BASE64.decode(text).is_ok_and(|nonce| nonce.len() == size_of::<Nonce>())
}

/// The `Sec-WebSocket-Accept` that answers a key.
pub(super) fn accept(key: &[u8]) -> String {
    BASE64.encode(&boring::sha::sha1(&[key, GUID.as_bytes()].concat()))
}

/// Where a websocket is opened from.
#[derive(Debug, Clone, Copy)]
pub(super) struct From<'a> {
    pub(super) profile: &'static Profile,
    pub(super) host: &'a str,
    /// `name=value` of each cookie, in order.
    pub(super) cookies: &'a [String],
}

impl From<'_> {
    /// The request over HTTP/1.1, to go in one record.
    pub(super) fn request(&self, path: &str, nonce: &Nonce) -> Vec<u8> {
        let mut text = format!("GET {path} HTTP/1.1\r\n");
        for (name, part) in self.profile.websocket {
            let value = match part {
                Part::Http1(value) => (*value).to_owned(),
                Part::Host => self.host.to_owned(),
                Part::Key => key(nonce),
                Part::Cookies if self.cookies.is_empty() => continue,
                Part::Cookies => self.cookies.join("; "),
                shared => self.shared(*shared),
            };
            text.extend([name, ": ", &value, "\r\n"]);
        }
        text.push_str("\r\n");
        text.into_bytes()
    }

    /// The fields of the extended CONNECT (RFC 8441, section 4), but for pseudo-header fields.
    pub(super) fn fields(&self) -> Vec<(String, String)> {
        let mut list = Vec::new();
        for (name, part) in self.profile.websocket {
            let name = name.to_ascii_lowercase();
            match part {
                Part::Http1(_) | Part::Host | Part::Key => {}
                Part::Cookies => {
                    list.extend(self.cookies.iter().map(|cookie| (name.clone(), cookie.clone())));
                }
                shared => list.push((name, self.shared(*shared))),
            }
        }
        list
    }

    fn shared(&self, part: Part) -> String {
        let p = self.profile;
        match part {
            Part::Fixed(value) | Part::Http1(value) => value.to_owned(),
            Part::UserAgent => p.user_agent.to_owned(),
            Part::Origin => format!("https://{}", self.host),
            Part::AcceptEncoding => p.accept_encoding.to_owned(),
            Part::AcceptLanguage => p.accept_language.to_owned(),
            Part::Host | Part::Cookies | Part::Key => String::new(),
        }
    }
}

/// Looks for a whole answer over HTTP/1.1 at the start of `bytes`: its length, where it opens the websocket.
pub(super) fn answer(bytes: &[u8], nonce: &Nonce) -> Result<Option<usize>, WebsocketError> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut response = httparse::Response::new(&mut fields);
    let parsed = response.parse(bytes.get(..MAX_ANSWER).unwrap_or(bytes));
    let length = match parsed {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) if bytes.len() < MAX_ANSWER => return Ok(None),
        Ok(httparse::Status::Partial) => return Err(WebsocketError::Answer("its head is too long")),
        Err(_) => return Err(WebsocketError::Answer("it is no HTTP/1.1")),
    };
    if response.code != Some(101) {
        return Err(WebsocketError::Refused(response.code.unwrap_or_default()));
    }
    let values = |name: &'static str| values(response.headers, name);
    if !values("upgrade").any(|value| value.eq_ignore_ascii_case(b"websocket")) {
        return Err(WebsocketError::Answer("no Upgrade"));
    }
    if !has_token(response.headers, "connection", "upgrade") {
        return Err(WebsocketError::Answer("no Connection"));
    }
    let mut accepts = values("sec-websocket-accept");
    let right = accept(key(nonce).as_bytes());
    let first = accepts.next().ok_or(WebsocketError::Answer("no Sec-WebSocket-Accept"))?;
    if !bool::from(first.ct_eq(right.as_bytes())) || accepts.next().is_some() {
        return Err(WebsocketError::Answer("a wrong Sec-WebSocket-Accept"));
    }
    agreed(values("sec-websocket-extensions"), values("sec-websocket-protocol").next().is_some())?;
    Ok(Some(length))
}

/// Whether what the server chose was offered.
pub(super) fn agreed<'a>(
    extensions: impl Iterator<Item = &'a [u8]>,
    protocol: bool,
) -> Result<(), WebsocketError> {
    if protocol {
        return Err(WebsocketError::Answer("a protocol that was not offered"));
    }
    let mut chosen = 0;
    for extension in extensions.flat_map(|value| value.split(|byte| *byte == b',')) {
        let name = extension.split(|byte| *byte == b';').next().unwrap_or_default();
        if !name.trim_ascii().eq_ignore_ascii_case(EXTENSION.as_bytes()) {
            return Err(WebsocketError::Answer("an extension that was not offered"));
        }
        chosen += 1;
    }
    if chosen > 1 { Err(WebsocketError::Answer("an extension twice")) } else { Ok(()) }
}

/// The values of the fields of this name.
pub(super) fn values<'a>(
    fields: &'a [httparse::Header<'a>],
    name: &'a str,
) -> impl Iterator<Item = &'a [u8]> {
    fields
        .iter()
        .filter(move |field| field.name.eq_ignore_ascii_case(name))
        .map(|field| field.value.trim_ascii())
}

/// Whether a field that is a list has this item.
pub(super) fn has_token(fields: &[httparse::Header<'_>], name: &str, token: &str) -> bool {
    values(fields, name)
        .flat_map(|value| value.split(|byte| *byte == b','))
        .any(|item| item.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::chrome::CHROME_156;

    /// RFC 6455, section 1.3.
    const NONCE: Nonce = *b"the sample nonce";
    const GOOD: &str = "HTTP/1.1 101 Switching Protocols\r\nServer: nginx\r\nUPGRADE: WebSocket\r\n\
                        Connection: keep-alive, Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

    #[test]
    fn the_standards_example() {
        assert_eq!(key(&NONCE), "dGhlIHNhbXBsZSBub25jZQ==");
        assert!(is_key(key(&NONCE).as_bytes()) && !is_key(b"dGhlIHNhbXBsZSBub25jZQ") && !is_key(b"AAAA"));
        assert_eq!(accept(key(&NONCE).as_bytes()), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(answer(format!("{GOOD}rest").as_bytes(), &NONCE), Ok(Some(GOOD.len())));
    }

    /// Captured from Chromium 156.0.8078.79 (Debian 12, headless) with `new WebSocket`, 2026-11-21; host and agent are
    /// those of the profile.
    #[test]
    fn the_request_is_chromes() {
        let cookies = ["sid=abc".to_owned(), "t=1".to_owned()];
        let from = From { profile: &CHROME_156, host: "www.example.com", cookies: &cookies };
        let request = String::from_utf8(from.request("/secret/path?x=1", &NONCE)).unwrap();
        let wanted = "GET /secret/path?x=1 HTTP/1.1\r\nHost: www.example.com\r\nConnection: Upgrade\r\n\
            Pragma: no-cache\r\nCache-Control: no-cache\r\nUser-Agent: Mozilla/5.0 (Windows NT 10.0; Win64; x64) \
            AppleWebKit/537.36 (KHTML, like Gecko) Chrome/156.0.0.0 Safari/537.36\r\nUpgrade: websocket\r\n\
            Origin: https://www.example.com\r\nSec-WebSocket-Version: 13\r\nAccept-Encoding: gzip, deflate, br, zstd\r\n\
            Accept-Language: en-US,en;q=0.9\r\nCookie: sid=abc; t=1\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
            Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n";
        assert_eq!(request, wanted);
        let fields = From { cookies: &[], ..from }.fields();
        let names: Vec<&str> = fields.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(
            names,
            [
                "pragma",
                "cache-control",
                "user-agent",
                "origin",
                "sec-websocket-version",
                "accept-encoding",
                "accept-language",
                "sec-websocket-extensions"
            ]
        );
    }

    #[test]
    fn answers_that_do_not_open_are_told_apart() {
        use WebsocketError::{Answer, Refused};
        let with = |from: &str, to: &str| GOOD.replace(from, to);
        for (text, error) in [
            ("SSH-2.0-OpenSSH\r\n\r\n".to_owned(), Answer("it is no HTTP/1.1")),
            (with("101 Switching Protocols", "404 Not Found"), Refused(404)),
            (with("UPGRADE: WebSocket\r\n", ""), Answer("no Upgrade")),
            (with("keep-alive, Upgrade", "close"), Answer("no Connection")),
            (with("Sec-WebSocket-Accept", "X"), Answer("no Sec-WebSocket-Accept")),
            (with("s3pP", "t3pP"), Answer("a wrong Sec-WebSocket-Accept")),
            (with("Server: nginx", "Sec-WebSocket-Protocol: x"), Answer("a protocol that was not offered")),
            (
                with("Server: nginx", "Sec-WebSocket-Extensions: x"),
                Answer("an extension that was not offered"),
            ),
            (
                with("Server: nginx", "Sec-WebSocket-Extensions: permessage-deflate, permessage-deflate"),
                Answer("an extension twice"),
            ),
        ] {
            assert_eq!(answer(text.as_bytes(), &NONCE), Err(error), "{text}");
        }
        let taken =
            with("Server: nginx", "Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=12");
        assert_eq!(answer(taken.as_bytes(), &NONCE), Ok(Some(taken.len())));
        let endless = format!("HTTP/1.1 101 x\r\nA: {}", "a".repeat(MAX_ANSWER));
        assert_eq!(answer(endless.as_bytes(), &NONCE), Err(Answer("its head is too long")));
    }

    proptest! {
        #[test]
        fn a_part_of_an_answer_is_waited_on(cut in 0..GOOD.len()) {
            prop_assert_eq!(answer(&GOOD.as_bytes()[..cut], &NONCE), Ok(None));
        }

        #[test]
        fn any_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = answer(&bytes, &NONCE);
            let _ = is_key(&bytes);
        }
    }
}
