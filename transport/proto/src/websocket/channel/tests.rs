use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::chrome::CHROME_156;
use crate::http2::testing::{Answer, Decoy, Request};
use crate::knock::Field;
use crate::websocket::{Accept, Server, Verdict};

const PATH: &str = "/secret";

#[allow(clippy::disallowed_methods, reason = "a starting point; the tests step time themselves")]
fn start() -> Instant {
    Instant::now()
}

fn name() -> ServerName {
    "www.example.com".parse().unwrap()
}

/// A bridge's end that says everything back.
#[derive(Default)]
struct Echo {
    server: Server,
    payload: Vec<u8>,
}

impl Echo {
    fn take(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        self.server.on_data(bytes, &mut self.payload, &mut out).unwrap();
        let payload = std::mem::take(&mut self.payload);
        if !payload.is_empty() {
            self.server.send(&payload, &mut out);
        }
        out
    }
}

/// Opens a channel over HTTP/1.1 and gives it with the bridge's end.
fn http1(now: Instant) -> (Channel, Echo) {
    let mut channel = Channel::http1(&CHROME_156, &name(), PATH, &[], [5; 32]);
    channel.send(b"early");
    let request = channel.poll(now).unwrap();
    assert_eq!(channel.poll(now), None, "nothing follows the request before its answer");
    let Verdict::Opens { answer, rest } = Accept::new(PATH).on_data(&request) else { panic!() };
    assert!(rest.is_empty());
    let mut payload = Vec::new();
    channel.on_data(&answer, &mut payload, now).unwrap();
    assert!(channel.is_open() && payload.is_empty());
    (channel, Echo::default())
}

#[test]
fn over_http1_messages_go_and_come() {
    let now = start();
    let (mut channel, mut echo) = http1(now);
    let sent = vec![7; 100_000];
    channel.send(&sent);
    let mut got = Vec::new();
    let mut lengths = Vec::new();
    while let Some(record) = channel.poll(now) {
        lengths.push(record.len());
        channel.on_data(&echo.take(&record), &mut got, now).unwrap();
    }
    assert_eq!(got, [b"early".as_slice(), &sent].concat());
    // A short frame, and two long ones cut into full records, as captured.
    assert_eq!(lengths, [11, 16_384, 16_384, 16_384, 16_384, 14, 16_384, 16_384, 1_704]);
    channel.close();
    let close = channel.poll(now).unwrap();
    assert_eq!(close.len(), 6);
    channel.on_data(&echo.take(&close), &mut got, now).unwrap();
    assert!(channel.is_over() && channel.poll(now).is_none());
}

#[test]
fn over_http1_a_refusal_is_told() {
    let now = start();
    let mut channel = Channel::http1(&CHROME_156, &name(), PATH, &[], [5; 32]);
    channel.poll(now);
    let answer = b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(channel.on_data(answer, &mut Vec::new(), now), Err(WebsocketError::Refused(502)));
}

/// A page load of a site that takes websockets, to its end.
fn load<F: FnMut(&Request) -> Answer>(decoy: &mut Decoy<F>, page: &str, now: &mut Instant) -> PageLoad {
    let mut load = PageLoad::new(&CHROME_156, &name(), page, Field::Padding, [7; 32]).without_knock();
    decoy.settings.push((8, 1));
    for _ in 0..10_000 {
        while let Some(output) = load.poll(*now) {
            let Output::Record(record) = output else { panic!("no knock here") };
            decoy.take(&record);
        }
        if let Some(record) = decoy.out.pop_front() {
            *now += Duration::from_micros(300);
            load.on_data(&record, *now).unwrap();
        } else if let Some(pause) = load.conclude() {
            assert!(pause >= CHROME_156.websocket_pause.0 && pause < CHROME_156.websocket_pause.1);
            assert!(load.takes_websockets());
            return load;
        } else {
            *now = load.deadline().unwrap().max(*now);
        }
    }
    panic!("the load does not end");
}

fn site(request: &Request) -> Answer {
    match (request.get(":method"), request.path()) {
        (Some("CONNECT"), PATH) => Answer::open(200),
        (Some("CONNECT"), _) => Answer::open(403),
        (_, "/") => Answer::html("<link rel=stylesheet href=/s.css><script src=/a.js></script>")
            .with("set-cookie", "sid=abc; Path=/"),
        (_, "/bare") => Answer::html("<link rel=icon href='data:,'>"),
        _ => Answer::of("text/plain", b"x"),
    }
}

fn exchange<F: FnMut(&Request) -> Answer>(
    channel: &mut Channel,
    decoy: &mut Decoy<F>,
    got: &mut Vec<u8>,
    now: Instant,
) {
    while let Some(record) = channel.poll(now) {
        decoy.take(&record);
        while let Some(record) = decoy.out.pop_front() {
            channel.on_data(&record, got, now).unwrap();
        }
    }
}

fn data(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

#[test]
fn over_http2_a_stream_of_the_loads_connection_carries_it() {
    let mut now = start();
    let mut decoy = Decoy::new(site);
    let load = load(&mut decoy, "/", &mut now);
    let stream = load.requests() * 2 + 1;
    let mut channel = Channel::http2(load, &CHROME_156, &name(), PATH, [5; 32], now);
    channel.send(&vec![9; 100_000]);
    let mut got = Vec::new();
    exchange(&mut channel, &mut decoy, &mut got, now);
    assert!(channel.is_open());
    let connect = decoy.requests.last().unwrap();
    let names: Vec<&str> = connect.fields.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        names[..7],
        [":method", ":authority", ":scheme", ":path", ":protocol", "pragma", "cache-control"]
    );
    assert_eq!((connect.get(":protocol"), connect.get("cookie")), (Some("websocket"), Some("sid=abc")));

    // The server's window of 65,536 bytes is used to its end and not beyond.
    let sent: Vec<Vec<u8>> =
        decoy.others.drain(..).filter(|frame| frame.0 == 0).map(|frame| frame.2).collect();
    assert_eq!(sent.iter().map(Vec::len).collect::<Vec<_>>(), [16_375, 16_375, 16_375, 16_375, 36]);
    assert!(channel.waiting() > 0);
    let credit = data(8, 0, stream, &200_000_u32.to_be_bytes());
    channel.on_data(&credit, &mut got, now).unwrap();
    exchange(&mut channel, &mut decoy, &mut got, now);
    assert_eq!(channel.waiting(), 0);
    let more = decoy.others.drain(..).filter(|frame| frame.0 == 0).map(|frame| frame.2);
    let bytes: Vec<u8> = sent.into_iter().chain(more).flatten().collect();
    let back = Echo::default().take(&bytes);
    for piece in back.chunks(10_000) {
        channel.on_data(&data(0, 0, stream, piece), &mut got, now).unwrap();
    }
    assert_eq!(got, vec![9; 100_000]);

    // After ten silent seconds a PING goes first, as Chrome's; not again before an answer.
    now += Duration::from_secs(11);
    channel.send(b"a");
    assert_eq!(channel.poll(now).unwrap(), data(6, 0, 0, &1_u64.to_be_bytes()));
    assert_eq!(channel.poll(now).unwrap().len(), 9 + 7);
    channel.send(b"a");
    assert_eq!(channel.poll(now).unwrap().len(), 9 + 7);
    channel.on_data(&data(6, 1, 0, &1_u64.to_be_bytes()), &mut got, now).unwrap();

    channel.close();
    assert_eq!(channel.poll(now).unwrap().len(), 9 + 6);
    channel.on_data(&data(0, 1, stream, &[0x88, 0]), &mut got, now).unwrap();
    assert!(channel.is_over() && channel.cancel().is_none());
}

#[test]
fn over_http2_a_refusal_a_reset_and_a_cancel() {
    let mut now = start();
    let mut decoy = Decoy::new(site);
    let refused = load(&mut decoy, "/bare", &mut now);
    let mut channel = Channel::http2(refused, &CHROME_156, &name(), "/other", [5; 32], now);
    decoy.take(&channel.poll(now).unwrap());
    let answer = decoy.out.pop_front().unwrap();
    assert_eq!(channel.on_data(&answer, &mut Vec::new(), now), Err(WebsocketError::Refused(403)));

    let mut decoy = Decoy::new(site);
    let load = load(&mut decoy, "/bare", &mut now);
    let stream = load.requests() * 2 + 1;
    let mut channel = Channel::http2(load, &CHROME_156, &name(), PATH, [5; 32], now);
    exchange(&mut channel, &mut decoy, &mut Vec::new(), now);
    assert_eq!(channel.cancel(), Some(data(3, 0, stream, &8_u32.to_be_bytes())));
    let reset = channel.on_data(&data(3, 0, stream, &2_u32.to_be_bytes()), &mut Vec::new(), now);
    assert_eq!(reset, Err(WebsocketError::Reset(2)));
}

proptest! {
    #[test]
    fn answers_cut_anywhere_open_it(cut in 1_usize..200) {
        let now = start();
        let mut channel = Channel::http1(&CHROME_156, &name(), PATH, &[], [5; 32]);
        let request = channel.poll(now).unwrap();
        let Verdict::Opens { mut answer, .. } = Accept::new(PATH).on_data(&request) else { panic!() };
        answer.extend_from_slice(b"\x82\x05Hello");
        let mut got = Vec::new();
        for piece in answer.chunks(cut) {
            channel.on_data(piece, &mut got, now).unwrap();
        }
        prop_assert_eq!(got, b"Hello");
    }

    #[test]
    fn any_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let now = start();
        let (mut channel, _) = http1(now);
        let _ = channel.on_data(&bytes, &mut Vec::new(), now);
        while channel.poll(now).is_some() {}
    }
}
