//! How the installed Chromium opens a page's websocket, captured, against how we do: over a connection of its own where the
//! site's SETTINGS do not take websockets, as a stream of the page's connection where they do. HAProxy says which.
//!
//! When this fails after an upgrade of Chromium, Chrome has moved on: see `fingerprint`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test's own helpers")]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use qnet_proto::chrome::{CHROME_156, Profile};
use qnet_proto::http2::{Output, PageLoad};
use qnet_proto::knock::Field;
use qnet_proto::websocket::{Accept, Channel, Server, Verdict};
use qnet_tests::ja4::{Hello, extension};
use qnet_tests::support::browser::Browser;
use qnet_tests::support::ca::Certificates;
use qnet_tests::support::decoy::NAME;
use qnet_tests::support::front::{self, Front};
use qnet_tests::support::hello::constants;
use qnet_tests::support::isolate::isolated;
use qnet_tests::support::process::wait_for;
use qnet_tests::support::tap::{Tap, Tapped};
use qnet_transport::tls::{Purpose, Roots, Ticket, connect};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const PATH: &str = "/secret/path?x=1";

/// A page that has said nothing for so long is loaded: its last request comes 50 ms after the last answer.
const SILENT: Duration = Duration::from_millis(500);
const PATIENCE: Duration = Duration::from_secs(60);
/// The page's script sends these two messages and closes when they are back.
const MESSAGES: [usize; 2] = [10, 40_000];
const PAGE: &str = "<!doctype html><title>x</title><link rel=stylesheet href=/style.css><script>
    const ws = new WebSocket('wss://' + location.host + '/secret/path?x=1'); ws.binaryType = 'arraybuffer';
    ws.onopen = () => { ws.send(new Uint8Array(10)); ws.send(new Uint8Array(40000)); };
    let got = 0; ws.onmessage = (e) => { got += e.data.byteLength; if (got == 40010) ws.close(); };</script>";

/// A script that opens its websocket again when it is lost, and asks for nothing else.
const RECONNECTING: &str = "<!doctype html><title>x</title><link rel=stylesheet href=/style.css><script>
    function open() { const ws = new WebSocket('wss://' + location.host + '/secret/path?x=1');
    ws.onopen = () => ws.send(new Uint8Array(10)); ws.onclose = () => setTimeout(open, 300); } open();</script>";

/// The headless Chromium on Linux, which says so where Chrome with a window does not.
static HEADLESS: Profile = Profile {
    user_agent: "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) \
                 HeadlessChrome/156.0.0.0 Safari/537.36",
    ..CHROME_156
};

/// What the bridge's end saw of one websocket.
struct Seen {
    /// The request as the front handed it on.
    head: String,
    /// How many bytes of messages came before the close.
    bytes: usize,
}

/// A bridge's end that says every message back.
fn bridge() -> (SocketAddr, Receiver<Seen>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (tell, told) = mpsc::channel();
    thread::spawn(move || listener.incoming().flatten().for_each(|tcp| serve(tcp, &tell)));
    (address, told)
}

fn serve(mut tcp: TcpStream, tell: &Sender<Seen>) {
    let (mut accept, mut head, mut room) = (Accept::new(PATH), Vec::new(), vec![0; 65_536]);
    let (answer, rest) = loop {
        let count = tcp.read(&mut room).unwrap_or(0);
        if count == 0 {
            return;
        }
        head.extend_from_slice(&room[..count]);
        match accept.on_data(&room[..count]) {
            Verdict::More => {}
            Verdict::Visitor(_) => panic!("{}", String::from_utf8_lossy(&head)),
            Verdict::Opens { answer, rest } => break (answer, rest),
        }
    };
    tcp.write_all(&answer).unwrap();
    let (mut server, mut bytes, mut came) = (Server::default(), 0, rest);
    while !server.is_over() {
        let (mut payload, mut out) = (Vec::new(), Vec::new());
        server.on_data(&came, &mut payload, &mut out).unwrap();
        bytes += payload.len();
        if !payload.is_empty() {
            server.send(&payload, &mut out);
        }
        tcp.write_all(&out).unwrap();
        let count = if server.is_over() { 0 } else { tcp.read(&mut room).unwrap_or(0) };
        if count == 0 {
            break;
        }
        came = room[..count].to_vec();
    }
    let head = String::from_utf8(head).unwrap();
    tell.send(Seen { head: head.split_once("\r\n\r\n").unwrap().0.to_owned(), bytes }).ok();
}

/// A front that records what clients say to it, and the bridge's end behind it.
struct Stage {
    front: Front,
    tap: Tap,
    told: Receiver<Seen>,
}

impl Stage {
    fn set(server: front::Server, page: &str) -> Self {
        let (address, told) = bridge();
        let options = front::Options { page: Some(page.to_owned()), ..front::Options::new(PATH, address) };
        let front = Front::start(server, options).unwrap();
        let [http2, http1] = front.in_the_clear();
        let tap = Tap::start(front.certificates(), http2, http1).unwrap();
        Self { front, tap, told }
    }

    /// A visit of Chromium's, to the close of its websocket.
    fn chromium(&self) -> (Vec<Tapped>, Seen) {
        let _browser =
            Browser::open(NAME, self.tap.address().port(), &["--ignore-certificate-errors"]).unwrap();
        let seen = self.told.recv_timeout(PATIENCE).expect("Chromium's websocket");
        assert_eq!(seen.bytes, MESSAGES.iter().sum::<usize>());
        (self.tap.seen(), seen)
    }

    /// The request without the port, which a test's site has and a bridge's has not.
    fn plain(&self, text: &str) -> String {
        text.replace(&format!(":{}", self.tap.address().port()), "")
    }
}

/// The hellos of our own two connections.
fn ours(tap: &Tap, certificates: &Certificates) -> [Hello; 2] {
    let before = tap.seen().len();
    let roots = Roots::with(Some(&certificates.ca), None).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let ticket = first(tap.address(), &roots).await;
        let mut tcp = tokio::net::TcpStream::connect(tap.address()).await.unwrap();
        let purpose = Purpose::Websocket(Some(ticket));
        let connected = connect(&mut tcp, purpose, &NAME.parse().unwrap(), &roots).await.unwrap();
        assert!(connected.tls.resumed());
    });
    let seen = wait_for("our connections at the tap", PATIENCE, || {
        let seen = tap.seen();
        Ok((seen.len() == before + 2).then_some(seen))
    });
    let [page, websocket] = &seen.unwrap()[before..] else { panic!("two connections") };
    [page.hello.clone(), websocket.hello.clone()]
}

/// The page's connection, as far as the ticket that it gives.
async fn first(address: SocketAddr, roots: &Roots) -> Ticket {
    let mut tcp = tokio::net::TcpStream::connect(address).await.unwrap();
    let mut connected = connect(&mut tcp, Purpose::Page(None), &NAME.parse().unwrap(), roots).await.unwrap();
    assert!(!connected.tls.resumed());
    // A server may keep its tickets until it has something to say.
    let mut load = PageLoad::new(&HEADLESS, &NAME.parse().unwrap(), "/", Field::Padding, [1; 32]);
    // Chrome's pause before it is of no account here.
    assert_eq!(load.poll(Instant::now()), None);
    let begins = load.deadline().expect("the preface's time");
    let Some(Output::Record(preface)) = load.poll(begins) else { panic!("no preface") };
    let mut out = Vec::new();
    connected.tls.write(&preface, &mut out).unwrap();
    tcp.write_all(&out).await.unwrap();
    let mut came = std::mem::take(&mut connected.unread);
    loop {
        connected.tls.read(&came, &mut Vec::new(), &mut Vec::new()).unwrap();
        if let Some(ticket) = connected.tls.ticket() {
            return ticket;
        }
        came.clear();
        assert!(tcp.read_buf(&mut came).await.unwrap() > 0, "no ticket");
    }
}

fn compare(chromiums: &Hello, ours: &Hello) {
    for ((field, wanted), (_, found)) in constants(chromiums).iter().zip(constants(ours)) {
        assert_eq!(*wanted, found, "{field}");
    }
}

/// A masked frame's header (RFC 6455, section 5.2), as the first bytes of a message of this length have it.
fn header(length: usize) -> Vec<u8> {
    let mut header = vec![0x82];
    match u16::try_from(length).unwrap() {
        short @ 0..126 => header.push(0x80 | u8::try_from(short).unwrap()),
        long => header.extend([&[0x80 | 126][..], &long.to_be_bytes()].concat()),
    }
    header
}

#[test]
fn over_a_connection_of_its_own() {
    isolated("over_a_connection_of_its_own", || {
        let stage = Stage::set(front::Server::HaproxyHttp1, PAGE);
        let (chromiums, _) = stage.chromium();
        let page = chromiums.iter().find(|one| !one.records.is_empty() && one.protocol == b"h2").unwrap();
        let own = chromiums.iter().find(|one| one.protocol == b"http/1.1").expect("a second connection");
        assert!(own.resumed && own.hello.extension(extension::PRE_SHARED_KEY).is_some());
        let [ours_page, ours_own] = ours(&stage.tap, stage.front.certificates());
        compare(&page.hello, &ours_page);
        compare(&own.hello, &ours_own);

        let request = stage.plain(std::str::from_utf8(&own.records[0]).unwrap());
        let now = Instant::now();
        let mut channel = Channel::http1(&HEADLESS, &NAME.parse().unwrap(), PATH, &[], [1; 32]);
        let ours = String::from_utf8(channel.poll(now).unwrap()).unwrap();
        let without_key = |text: &str| {
            let lines =
                text.split("\r\n").map(|line| line.split_once("-Key: ").map_or(line, |(name, _)| name));
            lines.map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(without_key(&request), without_key(&ours));

        // Each message in records of its own, full ones first; then a close without a code.
        let lengths: Vec<usize> = own.records[1..].iter().map(Vec::len).collect();
        assert_eq!(lengths, [2 + 4 + 10, 16_384, 16_384, 8 + 40_000 - 2 * 16_384, 6]);
        assert!(own.records[1].starts_with(&header(10)) && own.records[2].starts_with(&header(40_000)));
        assert_eq!(own.records[5][..2], [0x88, 0x80]);
        Ok(())
    })
    .unwrap();
}

#[test]
fn as_a_stream_of_the_pages_connection() {
    isolated("as_a_stream_of_the_pages_connection", || {
        let stage = Stage::set(front::Server::Haproxy, PAGE);
        let (chromiums, seen) = stage.chromium();
        assert!(chromiums.iter().all(|one| one.protocol == b"h2"), "no further connection for it");
        let page = chromiums.iter().find(|one| !one.records.is_empty()).unwrap();
        compare(&page.hello, &ours(&stage.tap, stage.front.certificates())[0]);

        // The front keeps the fields' order; it adds what HTTP/1.1 needs, and x-forwarded and the like it was not told to.
        let head = stage.plain(&seen.head);
        let added = ["host", "connection", "upgrade", "sec-websocket-key"];
        let fields: Vec<(&str, &str)> =
            head.split("\r\n").skip(1).map(|line| line.split_once(": ").unwrap()).collect();
        let fields: Vec<_> = fields
            .into_iter()
            .filter(|(name, _)| !added.contains(&name.to_ascii_lowercase().as_str()))
            .collect();
        let mut channel = Channel::http1(&HEADLESS, &NAME.parse().unwrap(), PATH, &[], [1; 32]);
        let ours = String::from_utf8(channel.poll(Instant::now()).unwrap()).unwrap();
        let wanted: Vec<(String, &str)> = ours
            .trim_end()
            .split("\r\n")
            .skip(1)
            .map(|line| line.split_once(": ").unwrap())
            .map(|(name, value)| (name.to_ascii_lowercase(), value))
            .filter(|(name, _)| !added.contains(&name.as_str()))
            .collect();
        assert_eq!(fields, wanted.iter().map(|(name, value)| (name.as_str(), *value)).collect::<Vec<_>>());

        // HEADERS with END_HEADERS and PRIORITY, exclusive, of the least weight but one; the method is a literal.
        let connect =
            page.records.iter().position(|one| one.get(3..5) == Some(&[1, 0x24])).expect("the request");
        let frame = &page.records[connect];
        assert_eq!((frame[9] & 0x80, frame[13]), (0x80, 146));
        assert_eq!(frame[14..23], *b"\x02\x07CONNECT");
        let stream = &frame[5..9];
        let data: Vec<&Vec<u8>> =
            page.records[connect + 1..].iter().filter(|one| one[3] == 0 && one[5..9] == *stream).collect();
        let lengths: Vec<usize> = data.iter().map(|one| one.len()).collect();
        assert_eq!(lengths, [9 + 16, 16_384, 16_384, 9 + 8 + 40_000 - 2 * 16_375, 9 + 6]);
        assert!(data[0][9..].starts_with(&header(10)) && data[1][9..].starts_with(&header(40_000)));
        Ok(())
    })
    .unwrap();
}

/// What Chromium does when the connection that carried a websocket is lost and the page's script opens it again: one
/// connection for it alone, over HTTP/1.1 even where the lost one was HTTP/2, and no word of the page.
#[test]
fn again_without_the_page() {
    isolated("again_without_the_page", || {
        for server in [front::Server::HaproxyHttp1, front::Server::Haproxy] {
            let mut stage = Stage::set(server, RECONNECTING);
            let port = stage.tap.address().port();
            let _browser = Browser::open(NAME, port, &["--ignore-certificate-errors"]).unwrap();
            let open = |records: &[Vec<u8>]| {
                let text = |one: &Vec<u8>| one.windows(11).any(|part| part == b"/secret/pat");
                records.iter().any(|one| one.get(3..5) == Some(&[1, 0x24]) || text(one))
            };
            // A browser opens connections ahead that it may never use.
            let used =
                |tap: &Tap| tap.seen().into_iter().filter(|one| !one.records.is_empty()).collect::<Vec<_>>();
            // And the page's icon, which would be asked for over a connection of its own once the first is lost.
            let (mut said, mut since) = (0, Instant::now());
            let before = wait_for("the first websocket, and then silence", PATIENCE, || {
                let seen = used(&stage.tap);
                let now = seen.iter().map(|one| one.records.len()).sum();
                if now != said {
                    (said, since) = (now, Instant::now());
                }
                let rests = since.elapsed() > SILENT && seen.iter().any(|one| open(&one.records));
                Ok(rests.then_some(seen.len()))
            })
            .unwrap();
            let all = stage.tap.seen().len();
            stage.front.restart().unwrap();
            let after = wait_for("the next websocket", PATIENCE, || {
                let new = used(&stage.tap).split_off(before);
                Ok(new.iter().any(|one| open(&one.records)).then_some(new))
            })
            .unwrap();
            // The script tries while the front is still away, too; each try takes a ticket, and the last may have none left.
            for one in &after {
                let said = String::from_utf8_lossy(&one.records[0]);
                assert!(one.protocol == b"http/1.1" && said.starts_with("GET /secret/path?x=1 "), "{said}");
            }
            let tries = stage.tap.seen().split_off(all);
            assert!(tries.iter().any(|one| one.protocol == b"http/1.1" && one.resumed), "no ticket was used");
        }
        Ok(())
    })
    .unwrap();
}
