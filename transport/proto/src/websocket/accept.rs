//! The bridge's end, behind a web server or a CDN: a request that opens the websocket at the secret path is taken;
//! whatever else comes is a visitor's and goes on to the site as it came.

use std::net::IpAddr;

use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::frame::{FrameError, MAX_MESSAGE};
use super::messages::Messages;
use super::upgrade::{self, MAX_FIELDS};

/// Largest head of a request in bytes, as most web servers have it; a larger one is a visitor's.
const MAX_HEAD: usize = 8_192;

/// What a request turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It has not come whole.
    More,
    /// Not for the bridge. All that came, for the site.
    Visitor(Vec<u8>),
    /// The websocket opens with this answer; after the request came these bytes of the websocket.
    Opens {
        /// The whole answer.
        answer: Vec<u8>,
        /// What came behind the request.
        rest: Vec<u8>,
    },
}

/// Reads the first request of a connection.
#[derive(Debug)]
pub struct Accept {
    /// SHA-256 of the secret path, so that the comparison takes the same time whatever comes.
    path: [u8; 32],
    head: Vec<u8>,
    client: Option<IpAddr>,
}

/// What opens a websocket.
struct Opening {
    /// Of the request's head.
    length: usize,
    key: Vec<u8>,
    client: Option<IpAddr>,
}

impl Accept {
    /// Takes websockets at `path` (its query included) only.
    pub fn new(path: &str) -> Self {
        Self { path: Sha256::digest(path).into(), head: Vec::new(), client: None }
    }

    /// Takes what came. After another verdict than [`Verdict::More`] it has no more to say.
    pub fn on_data(&mut self, bytes: &[u8]) -> Verdict {
        self.head.extend_from_slice(bytes);
        match self.judge() {
            None => Verdict::More,
            Some(None) => self.give_up(),
            Some(Some(Opening { length, key, client })) => {
                let rest = self.head.split_off(length);
                self.head.clear();
                self.client = client;
                Verdict::Opens { answer: answer(&key), rest }
            }
        }
    }

    /// After [`Verdict::Opens`]: the last address in `X-Forwarded-For`, which is the one that the server in front added, if it adds
    /// one. From a server that does not, it is whatever the client says.
    pub fn client(&self) -> Option<IpAddr> {
        self.client
    }

    /// The request takes too long: a visitor's.
    pub fn give_up(&mut self) -> Verdict {
        Verdict::Visitor(std::mem::take(&mut self.head))
    }

    /// None: it has not come whole. Some(None): a visitor's.
    fn judge(&self) -> Option<Option<Opening>> {
        let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
        let mut request = httparse::Request::new(&mut fields);
        let length = match request.parse(self.head.get(..MAX_HEAD).unwrap_or(&self.head)) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) if self.head.len() < MAX_HEAD => return None,
            Ok(httparse::Status::Partial) | Err(_) => return Some(None),
        };
        let path: [u8; 32] = Sha256::digest(request.path.unwrap_or_default()).into();
        let here = bool::from(path.ct_eq(&self.path));
        let fields = &*request.headers;
        let mut keys = upgrade::values(fields, "sec-websocket-key");
        let key = keys.next().filter(|key| upgrade::is_key(key) && keys.next().is_none());
        let opens = request.method == Some("GET")
            && request.version == Some(1)
            && upgrade::has_token(fields, "upgrade", "websocket")
            && upgrade::has_token(fields, "connection", "upgrade")
            && upgrade::values(fields, "sec-websocket-version").eq([b"13"]);
        let client = forwarded_for(upgrade::values(fields, "x-forwarded-for"));
        Some(key.filter(|_| here && opens).map(|key| Opening { length, key: key.to_vec(), client }))
    }
}

/// Each server on the way adds the address that it sees, to the field that is there or as another one.
fn forwarded_for<'a>(fields: impl Iterator<Item = &'a [u8]>) -> Option<IpAddr> {
    let last = fields.last()?.rsplit(|byte| *byte == b',').next()?;
    str::from_utf8(last).ok()?.trim().parse().ok()
}

fn answer(key: &[u8]) -> Vec<u8> {
    let accept = upgrade::accept(key);
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\n\r\n"
    )
    .into_bytes()
}

/// An open websocket, the bridge's end.
#[derive(Debug)]
pub struct Server(Messages);

impl Default for Server {
    fn default() -> Self {
        Self(Messages::server())
    }
}

impl Server {
    /// Takes what came; appends the messages' bytes to `payload` and what is owed in return to `out`.
    ///
    /// # Errors
    /// [`FrameError`]: the connection is good for nothing more.
    pub fn on_data(
        &mut self,
        bytes: &[u8],
        payload: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> Result<(), FrameError> {
        self.0.read(bytes, payload, out)
    }

    /// Appends one message, of at most [`MAX_MESSAGE`] bytes (the rest goes into further ones).
    pub fn send(&mut self, message: &[u8], out: &mut Vec<u8>) {
        message.chunks(MAX_MESSAGE).for_each(|message| self.0.message(message, out));
    }

    /// Appends a close, unless one went out.
    pub fn close(&mut self, out: &mut Vec<u8>) {
        self.0.close(out);
    }

    /// The client closed: nothing more comes.
    pub fn is_over(&self) -> bool {
        self.0.is_over()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const REQUEST: &str = "GET /secret?x=1 HTTP/1.1\r\nHost: a.b\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\
                           Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

    fn judge(bytes: &[u8]) -> Verdict {
        Accept::new("/secret?x=1").on_data(bytes)
    }

    #[test]
    fn the_secret_path_opens() {
        let Verdict::Opens { answer, rest } = judge(format!("{REQUEST}rest").as_bytes()) else { panic!() };
        let answer = String::from_utf8(answer).unwrap();
        assert!(
            answer.contains("\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"),
            "{answer}"
        );
        assert_eq!(rest, b"rest");
    }

    #[test]
    fn the_last_server_says_whose_it_is() {
        for (fields, client) in [
            ("", None),
            ("X-Forwarded-For: 192.0.2.1\r\n", Some("192.0.2.1")),
            ("x-forwarded-for: 10.0.0.1, 192.0.2.1\r\n", Some("192.0.2.1")),
            ("X-Forwarded-For: 10.0.0.1\r\nX-Forwarded-For: 2001:db8::1\r\n", Some("2001:db8::1")),
            ("X-Forwarded-For: 192.0.2.1,\r\n", None),
            ("X-Forwarded-For: 192.0.2.1, unknown\r\n", None),
            ("X-Forwarded-For: \u{e9}\r\n", None),
        ] {
            let mut accept = Accept::new("/secret?x=1");
            let request = REQUEST.replace("Upgrade: websocket", &format!("{fields}Upgrade: websocket"));
            assert!(matches!(accept.on_data(request.as_bytes()), Verdict::Opens { .. }), "{request}");
            assert_eq!(accept.client(), client.map(|client| client.parse().unwrap()), "{request}");
        }
    }

    #[test]
    fn everything_else_goes_on_as_it_came() {
        for (from, to) in [
            ("/secret?x=1", "/"),
            ("/secret?x=1", "/secret"),
            ("/secret?x=1", "/secret?x=12"),
            ("/secret?x=1", "/Secret?x=1"),
            ("/secret?x=1", "http://a.b/secret?x=1"),
            ("GET", "POST"),
            ("HTTP/1.1", "HTTP/1.0"),
            ("Upgrade: websocket", "Upgrade: h2c"),
            ("Connection: upgrade", "Connection: close"),
            ("Version: 13", "Version: 12"),
            ("Key: dGhl", "Key: dGh"),
            ("Host: a.b", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="),
            ("GET /", "\u{16}\u{3}\u{1}"),
        ] {
            let text = REQUEST.replace(from, to) + "and more";
            assert_eq!(judge(text.as_bytes()), Verdict::Visitor(text.clone().into_bytes()), "{text}");
        }
        let long = format!("GET / HTTP/1.1\r\nA: {}", "a".repeat(MAX_HEAD));
        assert_eq!(judge(&long.as_bytes()[..MAX_HEAD - 1]), Verdict::More);
        assert_eq!(judge(long.as_bytes()), Verdict::Visitor(long.into_bytes()));
    }

    proptest! {
        #[test]
        fn cuts_make_no_difference(cut in 1..REQUEST.len()) {
            let mut accept = Accept::new("/secret?x=1");
            prop_assert_eq!(accept.on_data(&REQUEST.as_bytes()[..cut]), Verdict::More);
            let opens = matches!(accept.on_data(&REQUEST.as_bytes()[cut..]), Verdict::Opens { .. });
            prop_assert!(opens);
        }

        #[test]
        fn any_bytes_never_panic(pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..60), 0..5)) {
            let mut accept = Accept::new("/secret");
            for (place, piece) in pieces.iter().enumerate() {
                match accept.on_data(piece) {
                    Verdict::More => {}
                    Verdict::Visitor(all) => {
                        prop_assert_eq!(all, pieces[..=place].concat());
                        return Ok(());
                    }
                    Verdict::Opens { .. } => prop_assert!(false),
                }
            }
        }
    }
}
