//! Chromium's own requests, captured, against what is built here (`tests/vectors/chrome156`).

use super::PageLoad;
use super::decode::Decoder;
use super::encode::Encoder;
use super::request::{self, Context, Dependencies, Level, Resource};
use crate::chrome::{CHROME_156, Profile};
use crate::knock::Field;
use crate::websocket::Channel;

const CAPTURES: [(&str, &str, usize); 13] = [
    ("basic", include_str!("../../tests/vectors/chrome156/basic.txt"), 6),
    ("plain", include_str!("../../tests/vectors/chrome156/plain.txt"), 2),
    ("many", include_str!("../../tests/vectors/chrome156/many.txt"), 13),
    ("cookie", include_str!("../../tests/vectors/chrome156/cookie.txt"), 6),
    ("redir", include_str!("../../tests/vectors/chrome156/redir.txt"), 7),
    ("misc", include_str!("../../tests/vectors/chrome156/misc.txt"), 15),
    ("font", include_str!("../../tests/vectors/chrome156/font.txt"), 6),
    ("imgs", include_str!("../../tests/vectors/chrome156/imgs.txt"), 10),
    ("query", include_str!("../../tests/vectors/chrome156/query.txt"), 10),
    ("table65536", include_str!("../../tests/vectors/chrome156/table65536.txt"), 2),
    ("table200", include_str!("../../tests/vectors/chrome156/table200.txt"), 6),
    ("table0", include_str!("../../tests/vectors/chrome156/table0.txt"), 6),
    ("websocket", include_str!("../../tests/vectors/chrome156/websocket.txt"), 4),
];

/// What the captures were made with, beside [`CHROME_156`]: the headless one on Linux.
static HEADLESS: Profile = Profile {
    user_agent: "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) \
                 HeadlessChrome/156.0.0.0 Safari/537.36",
    brands: r#""Not:A-Brand";v="8", "Chromium";v="156""#,
    platform: r#""Linux""#,
    ..CHROME_156
};

#[derive(Debug)]
struct Captured {
    /// The decoy's SETTINGS_HEADER_TABLE_SIZE, where it came just before this request.
    table: Option<u32>,
    weight: u16,
    kind: String,
    fields: Vec<(String, String)>,
    block: Vec<u8>,
}

fn read(text: &str) -> Vec<Captured> {
    let (mut all, mut table, mut request) = (Vec::new(), None, None);
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        if let Some(size) = line.strip_prefix("table ") {
            table = Some(size.parse().unwrap());
        } else if let Some(rest) = line.strip_prefix("request ") {
            let words: Vec<&str> = rest.split(' ').collect();
            let [_, _, weight, kind] = words[..] else { panic!("{line}") };
            request = Some((weight.parse().unwrap(), kind.to_owned(), Vec::new()));
        } else if let Some(hex) = line.strip_prefix("block ") {
            let (weight, kind, fields) = request.take().unwrap();
            let block = data_encoding::HEXLOWER.decode(hex.as_bytes()).unwrap();
            all.push(Captured { table: table.take(), weight, kind, fields, block });
        } else {
            // A pseudo-header field's name begins with a colon.
            let (name, value) = line[1..].split_once(": ").unwrap();
            let fields = &mut request.as_mut().unwrap().2;
            fields.push((line[..1].to_owned() + name, value.to_owned()));
        }
    }
    all
}

fn resource(kind: &str) -> Option<Resource> {
    Some(match kind {
        "Document" => Resource::Document,
        "Redirected" => Resource::Redirected,
        "Style" => Resource::Style,
        "StyleElsewhere" => Resource::StyleElsewhere,
        "Script" => Resource::Script,
        "LateScript" => Resource::LateScript,
        "LazyScript" => Resource::LazyScript,
        "Module" => Resource::Module,
        "Image" => Resource::Image,
        "LaterImage" => Resource::LaterImage,
        "Font" => Resource::Font,
        "Icon" => Resource::Icon,
        _ => return None,
    })
}

#[test]
fn blocks_are_chromiums_byte_for_byte_through_a_whole_visit() {
    for (name, text, requests) in CAPTURES {
        let captured = read(text);
        assert_eq!(captured.len(), requests, "{name}");
        let mut encoder = Encoder::new();
        for (place, request) in captured.iter().enumerate() {
            if let Some(size) = request.table {
                encoder.set_table_size(size);
            }
            let mut block = Vec::new();
            encoder.begin(&mut block);
            for (field, value) in &request.fields {
                encoder.field(field, value, &mut block);
            }
            assert_eq!(block, request.block, "{name}, request {place}");
        }
    }
}

#[test]
fn blocks_are_read_back() {
    for (name, text, _) in CAPTURES {
        let mut decoder = Decoder::new();
        for request in read(text) {
            let mut fields = Vec::new();
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            decoder.decode(&request.block, |n, v| fields.push((text(n), text(v)))).unwrap();
            assert_eq!(fields, request.fields, "{name}");
        }
    }
}

#[test]
fn header_lists_and_weights_are_chromiums() {
    let mut compared = 0;
    for (name, text, _) in CAPTURES {
        let mut page = String::new();
        for request in read(text) {
            let Some(resource) = resource(&request.kind) else { continue };
            let get =
                |wanted: &str| request.fields.iter().find(|(n, _)| n == wanted).map(|(_, v)| v.as_str());
            let path = get(":path").unwrap();
            match resource {
                Resource::Document | Resource::Redirected => page = path.to_owned(),
                // What a style sheet asks for names the sheet; it is not asked for here.
                _ if get("referer") != Some(&format!("https://www.example.com{page}")) => continue,
                _ => {}
            }
            let cookies: Vec<String> = get("cookie").map(str::to_owned).into_iter().collect();
            let context =
                Context { profile: &HEADLESS, authority: "www.example.com", page: &page, cookies: &cookies };
            let built: Vec<(String, String)> =
                context.headers(resource, path).into_iter().map(|(n, v)| (n.to_owned(), v)).collect();
            assert_eq!(built, request.fields, "{name}, {path}");
            assert_eq!(HEADLESS.weights[resource.level() as usize], request.weight, "{name}, {path}");
            compared += 1;
        }
    }
    assert!(compared > 60, "{compared}");
}

#[test]
fn a_frame_is_chromiums() {
    let captured = read(CAPTURES[0].1);
    let frame = request::headers_frame(5, 3, captured[2].weight, &captured[2].block);
    // 124 on the wire, 107 without TLS.
    assert_eq!(frame.len(), 107);
    assert_eq!(frame[..14], [0, 0, 98, 1, 0x25, 0, 0, 0, 5, 0x80, 0, 0, 3, 182]);
}

#[test]
fn dependencies_are_chromiums() {
    // As captured: streams still open when the next is made, their weights and parents.
    let mut many = Dependencies::default();
    let parents = [
        (3, Level::Highest, 0),
        (5, Level::Medium, 3),
        (7, Level::Medium, 5),
        (9, Level::Low, 7),
        (11, Level::Low, 9),
    ];
    for (stream, level, parent) in parents {
        assert_eq!(many.add(stream, level), parent);
    }
    let mut cookie = Dependencies::default();
    for (stream, level, parent) in
        [(3, Level::Highest, 0), (5, Level::Low, 3), (7, Level::Low, 5), (9, Level::Medium, 3)]
    {
        assert_eq!(cookie.add(stream, level), parent);
    }
    for stream in [3, 5, 7, 9] {
        cookie.remove(stream);
    }
    assert_eq!(cookie.add(11, Level::Medium), 0);
}

#[test]
#[allow(clippy::disallowed_methods, reason = "a starting point for a clock that does not run")]
fn a_websockets_request_is_chromiums() {
    let captured = read(CAPTURES[12].1);
    let (now, name) = (std::time::Instant::now(), "www.example.com".parse().unwrap());
    let mut load = PageLoad::new(&HEADLESS, &name, "/", Field::Padding, [1; 32]);
    load.poll(now);
    load.requests = 2;
    let mut block = Vec::new();
    for request in &captured[..2] {
        let encoder = &mut load.connection.as_mut().unwrap().encoder;
        encoder.begin(&mut block);
        request.fields.iter().for_each(|(field, value)| encoder.field(field, value, &mut block));
    }
    let mut channel = Channel::http2(load, &HEADLESS, &name, "/secret/path?x=1", [1; 32], now);
    let frame = channel.poll(now).unwrap();
    assert_eq!(frame[..14], [0, 0, 167, 1, 0x24, 0, 0, 0, 5, 0x80, 0, 0, 0, 146]);
    assert_eq!(frame[14..], captured[2].block);
    assert_eq!(captured[2].weight, 147);
}
