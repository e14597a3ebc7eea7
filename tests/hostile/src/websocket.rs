//! What a web server or CDN sends over a websocket, and what anybody sends to the bridge behind it.

use std::time::{Duration, Instant};

use qnet_proto::chrome::CHROME_156;
use qnet_proto::http2::PageLoad;
use qnet_proto::knock::Field;
use qnet_proto::websocket::{Accept, Channel, Server, Verdict};
use qnet_wire::name::ServerName;
use qnet_wire::url::WebsocketUrl;

use crate::pieces;

const PATH: &str = "/secret?x=1";
/// Largest head that is waited on, at either end.
const MAX_HEAD: usize = 16_384;

fn name() -> ServerName {
    "www.example.com".parse().expect("a name")
}

/// The bridge's end: the request, and frames where a request was let in.
pub fn server(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(url) = text.parse::<WebsocketUrl>()
    {
        let again = url.to_string().parse::<WebsocketUrl>().expect("what is written can be read");
        assert!(again == url);
    }
    let (mut accept, mut given) = (Accept::new(PATH), Vec::new());
    for piece in pieces(data) {
        given.extend_from_slice(piece);
        match accept.on_data(piece) {
            Verdict::More => assert!(given.len() < MAX_HEAD),
            Verdict::Visitor(all) => {
                assert_eq!(all, given, "a visitor's bytes go on as they came");
                break;
            }
            Verdict::Opens { rest, .. } => {
                assert!(given.ends_with(&rest));
                break;
            }
        }
    }
    let (mut server, mut payload, mut out) = (Server::default(), Vec::new(), Vec::new());
    let mut taken = 0;
    for piece in pieces(data) {
        taken += piece.len();
        let broken = server.on_data(piece, &mut payload, &mut out).is_err();
        // An empty ping of six bytes draws an answer of two.
        assert!(payload.len() <= taken && out.len() <= taken);
        if broken {
            break;
        }
    }
}

/// The client's end over HTTP/1.1: an answer, and frames after a good one.
pub fn http1(data: &[u8]) {
    let now = Instant::now();
    let open = || Channel::http1(&CHROME_156, &name(), PATH, &[], [7; 32]);
    let mut refused = open();
    let request = refused.poll(now).expect("the request");
    let _ = pieces(data).try_for_each(|piece| refused.on_data(piece, &mut Vec::new(), now));
    let mut opened = open();
    opened.poll(now);
    let Verdict::Opens { answer, .. } = Accept::new(PATH).on_data(&request) else {
        panic!("our own request is let in")
    };
    opened.on_data(&answer, &mut Vec::new(), now).expect("our own answer opens");
    drive(&mut opened, data, now);
}

/// The client's end as a stream of the connection that the page was loaded over; the load's answers are in `data` too.
pub fn http2(data: &[u8]) {
    let mut now = Instant::now();
    let mut load = PageLoad::new(&CHROME_156, &name(), "/", Field::Padding, [7; 32]).without_knock();
    let mut taken = 1;
    while load.poll(now).is_some() {}
    for piece in pieces(data) {
        taken += piece.len();
        if load.on_data(piece, now).is_err() {
            return;
        }
        while load.poll(now).is_some() {}
        let later = now + Duration::from_secs(1);
        now = load.deadline().map_or(later, |deadline| deadline.clamp(now, later));
        while load.poll(now).is_some() {}
        if load.conclude().is_some() && load.takes_websockets() {
            let mut channel = Channel::http2(load, &CHROME_156, &name(), PATH, [7; 32], now);
            // The piece length stays the first byte's.
            let rest = [&data[..1], &data[taken..]].concat();
            return drive(&mut channel, &rest, now);
        }
    }
}

fn drive(channel: &mut Channel, data: &[u8], now: Instant) {
    channel.send(&[1; 100_000]);
    let (mut payload, mut taken) = (Vec::new(), 0);
    while channel.poll(now).is_some() {}
    for piece in pieces(data) {
        taken += piece.len();
        if channel.on_data(piece, &mut payload, now).is_err() {
            break;
        }
        assert!(payload.len() <= taken);
        while channel.poll(now).is_some() {}
    }
    assert!(channel.held() <= 2 * (100_000 + 14 * taken) + 65_536);
    channel.close();
    while channel.poll(now).is_some() {}
    let _ = (channel.is_open(), channel.is_over(), channel.cancel());
}
