//! Whether a tunnel leads somewhere: a stream through it to a host, and what comes back from there.
//!
//! The host is the site that the bridge stands before, unless the user names another: the bridge opens it whatever its exit policy
//! says, it is there whenever strangers are answered, and where it is the operator's own nobody hears of the bridge by it
//! (docs/decisions/0021). It is told the shortest that every TLS server has to answer. Of a host that the user names nothing else is known than its port: that it was
//! connected to has to do.

use std::time::Duration;

use qnet_transport::Stream;
use qnet_transport::client::{DialError, OpenStreamError, Tunnel};
use qnet_wire::bridge_line::{BridgeLine, Cover};
use qnet_wire::error::{Retry, chain};
use qnet_wire::name::ServerName;
use qnet_wire::target::{ANSWER, Answer, Request, Target, TargetError};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Instant, timeout};

/// How long the first probe of a tunnel may take.
const FIRST_LIMIT: Duration = Duration::from_secs(15);
/// Where a site is asked for.
const HTTPS: u16 = 443;

/// How it is found out that a tunnel leads somewhere.
#[derive(Clone, PartialEq)]
pub(crate) enum Probe {
    /// The bridge's own site has to answer.
    Site,
    /// This host has to be connected to.
    Target(Target),
    /// The far end is one fixed server, which nothing is known of: the tunnel's handshake is all that can be seen.
    Handshake,
}

/// Why there is no tunnel.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UpError {
    #[error("{}", chain(.0))]
    Dial(#[from] DialError),
    #[error(transparent)]
    Open(#[from] OpenStreamError),
    #[error("the tunnel ended at once: {0}")]
    Tunnel(String),
    #[error("the bridge is there, but nothing behind it answers: is it one for tor only?")]
    NoAnswer,
    #[error("the bridge's answer is not understood: {0}")]
    Strange(#[from] TargetError),
    #[error("the bridge is there, but the probe's host is not: {0}")]
    Refused(Answer),
    #[error(
        "the bridge is there, but leads nowhere, not even to its own site: {0}; tell its operator, or use another bridge"
    )]
    NoSite(Answer),
    #[error(
        "the bridge is there, but nothing comes back through it from its own site; tell its operator, or use another bridge"
    )]
    SiteSilent,
    #[error("the bridge is there, but took more than {} seconds to answer", FIRST_LIMIT.as_secs())]
    Slow,
    #[error("the system gives no randomness: {0}")]
    Random(getrandom::Error),
}

impl UpError {
    pub(crate) fn retry(&self) -> Retry {
        match self {
            Self::Dial(error) => error.retry(),
            Self::Open(error) => error.retry(),
            Self::Tunnel(_) | Self::Slow => Retry::Now,
            Self::NoAnswer | Self::Refused(_) | Self::NoSite(_) | Self::SiteSilent | Self::Random(_) => {
                Retry::Later
            }
            Self::Strange(error) => error.retry(),
        }
    }
}

/// The first probe of a tunnel, whose first answer waits for the rest of the handshake: that is not counted.
pub(crate) async fn first(
    tunnel: &Tunnel,
    probe: &Probe,
    lines: &[BridgeLine],
) -> Result<Option<Duration>, UpError> {
    let twice = async {
        let first = measure(tunnel, probe, lines).await?;
        Ok(match (first, probe) {
            (Some(first), Probe::Target(_)) => {
                measure(tunnel, probe, lines).await?.map(|second| first.min(second))
            }
            // Its time begins after an answer of the bridge's.
            _ => first,
        })
    };
    timeout(FIRST_LIMIT, twice).await.map_err(|_| UpError::Slow)?
}

/// How long an answer from the other end takes, where there can be one.
pub(crate) async fn measure(
    tunnel: &Tunnel,
    probe: &Probe,
    lines: &[BridgeLine],
) -> Result<Option<Duration>, UpError> {
    match probe {
        Probe::Handshake => {
            tunnel.established().await.map_err(|why| UpError::Tunnel(why.to_string()))?;
            Ok(None)
        }
        Probe::Target(target) => {
            let began = Instant::now();
            match open(tunnel, target.clone()).await? {
                (_, Answer::Connected) => Ok(Some(began.elapsed())),
                (_, refused) => Err(UpError::Refused(refused)),
            }
        }
        Probe::Site => {
            // A bridge has at least one line, and a line one name.
            let name = lines.iter().find_map(site).ok_or(UpError::SiteSilent)?;
            let target = format!("{name}:{HTTPS}").parse()?;
            match open(tunnel, target).await? {
                (stream, Answer::Connected) => greet(tunnel, stream, name).await.map(Some),
                (_, refused) => Err(UpError::NoSite(refused)),
            }
        }
    }
}

/// What the site is called that the bridge of this line stands before, or behind.
fn site(line: &BridgeLine) -> Option<&ServerName> {
    match &line.cover {
        Cover::Mirror(names) => names.first(),
        Cover::Websocket(url) => Some(url.host()),
    }
}

/// Asks for a host, and waits for the answer.
async fn open(tunnel: &Tunnel, target: Target) -> Result<(Stream, Answer), UpError> {
    let mut stream = tunnel.open()?;
    match ask(&mut stream, &Request::Tcp(target)).await {
        Ok(answer) => Ok((stream, answer)),
        Err(AskError::Io(error)) => Err(ended(tunnel, &error, UpError::NoAnswer)),
        Err(AskError::Strange(error)) => Err(error.into()),
    }
}

/// Why a stream ended: with its tunnel, or by itself.
fn ended(tunnel: &Tunnel, error: &std::io::Error, alone: UpError) -> UpError {
    if tunnel.is_open() { alone } else { UpError::Tunnel(error.to_string()) }
}

/// Says to the site what it answers, and measures how long that takes.
async fn greet(tunnel: &Tunnel, mut stream: Stream, name: &ServerName) -> Result<Duration, UpError> {
    let mut random = [0; RANDOM + SESSION];
    getrandom::fill(&mut random).map_err(UpError::Random)?;
    let began = Instant::now();
    let answered = async {
        stream.write_all(&hello(name, &random)).await?;
        let mut answer = [0; ANSWERED];
        stream.read_exact(&mut answer).await.map(|_| answer)
    };
    match answered.await {
        Ok(answer) if is_answer(answer) => Ok(began.elapsed()),
        Ok(_) => Err(UpError::SiteSilent),
        Err(error) => Err(ended(tunnel, &error, UpError::SiteSilent)),
    }
}

/// Bytes of the hello's random.
const RANDOM: usize = 32;
/// Bytes of a session id as clients of TLS 1.3 send it.
const SESSION: usize = 32;
/// What is read of the site's answer, bytes: the header of a record, or HTTP's first word.
const ANSWERED: usize = 5;

/// A ClientHello (RFC 8446, section 4.1.2) that names groups for the key exchange and brings a key for none: a server of TLS 1.3
/// then asks for one (HelloRetryRequest, section 4.2.8), which takes some 100 bytes, and no certificate goes back and forth. Others
/// send an alert.
///
/// A server without TLS, which a bridge behind a web server has as its site, finds a request line that is none: the number of the
/// extension `supported_groups`, 10, ends a line.
fn hello(name: &ServerName, random: &[u8; RANDOM + SESSION]) -> Vec<u8> {
    let (random, session) = random.split_at(RANDOM);
    let extension = |number: u16, content: &[u8]| [&number.to_be_bytes()[..], &counted(content)].concat();
    let host_name = [&[0][..], &counted(name.as_str().as_bytes())].concat();
    let extensions = [
        extension(0, &counted(&host_name)),
        // supported_groups: x25519, secp256r1
        extension(10, &counted(&[0x00, 0x1d, 0x00, 0x17])),
        // signature_algorithms: with ECDSA and RSA, as certificates of web sites have them
        extension(13, &counted(&[0x04, 0x03, 0x08, 0x04, 0x08, 0x05, 0x04, 0x01])),
        // supported_versions: TLS 1.3
        extension(43, &[2, 0x03, 0x04]),
        // key_share: none
        extension(51, &counted(&[])),
    ]
    .concat();
    let body = [
        &[0x03, 0x03][..],
        random,
        &[32],
        session,
        // The cipher suites of TLS 1.3, and no compression.
        &counted(&[0x13, 0x01, 0x13, 0x02, 0x13, 0x03]),
        &[1, 0],
        &counted(&extensions),
    ]
    .concat();
    // Lengths of a message have three bytes.
    let message = [&[1, 0][..], &counted(&body)].concat();
    [&[22, 0x03, 0x01][..], &counted(&message)].concat()
}

/// The bytes behind their number, which takes two bytes. A hello is as long as its longest name at most, and 200 bytes.
fn counted(bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    [&length.to_be_bytes()[..], bytes].concat()
}

/// Whether something begins so that a web server said: a record of TLS with an alert or of the handshake, or HTTP.
fn is_answer(beginning: [u8; ANSWERED]) -> bool {
    matches!(beginning, [21 | 22, 0x03, ..]) || beginning == *b"HTTP/"
}

/// Why a stream has no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    Strange(#[from] TargetError),
}

/// Sends a request on a fresh stream and waits for its answer.
pub(crate) async fn ask(stream: &mut Stream, request: &Request) -> Result<Answer, AskError> {
    let mut bytes = Vec::new();
    request.write(&mut bytes);
    stream.write_all(&bytes).await?;
    let mut answer = [0; ANSWER];
    stream.read_exact(&mut answer).await?;
    // All of its bytes are there.
    Ok(Answer::read(&answer)?.unwrap_or(Answer::Failed))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is within a length of two bytes, and what follows it.
    fn split(bytes: &[u8]) -> (&[u8], &[u8]) {
        let (length, rest) = bytes.split_first_chunk().unwrap();
        rest.split_at(usize::from(u16::from_be_bytes(*length)))
    }

    #[test]
    fn a_hello_is_one_record_with_all_its_lengths_right() {
        for name in ["a.example".to_owned(), format!("{0}.{0}.{0}.example", "x".repeat(63))] {
            let hello = hello(&name.parse().unwrap(), &std::array::from_fn(|i| u8::try_from(i).unwrap()));
            assert_eq!(hello[..3], [22, 3, 1]);
            let (message, after) = split(&hello[3..]);
            assert_eq!((message[..2].to_vec(), after), (vec![1, 0], &[][..]));
            let (body, after) = split(&message[2..]);
            assert!(after.is_empty() && body[..5] == [3, 3, 0, 1, 2] && body[34..37] == [32, 32, 33]);
            let (suites, rest) = split(&body[67..]);
            assert_eq!((suites.len(), &rest[..2]), (6, &[1, 0][..]));
            let (mut extensions, after) = split(&rest[2..]);
            assert!(after.is_empty());
            let mut numbers = Vec::new();
            while let Some((number, rest)) = extensions.split_first_chunk() {
                numbers.push(u16::from_be_bytes(*number));
                extensions = split(rest).1;
            }
            assert_eq!(numbers, [0, 10, 13, 43, 51]);
            assert!(hello.windows(name.len()).any(|part| part == name.as_bytes()));
            assert!(hello.contains(&b'\n'), "a server without TLS would wait for a line's end");
        }
    }

    #[test]
    fn only_what_a_web_server_says_is_an_answer() {
        for answer in [b"\x16\x03\x03\0\x58", b"\x15\x03\x01\0\x02", b"HTTP/"] {
            assert!(is_answer(*answer));
        }
        for other in [b"SSH-2", b"\x17\x03\x03\0\x10", b"\x16\x02\0\0\0", b"\0\0\0\0\0"] {
            assert!(!is_answer(*other));
        }
    }
}
