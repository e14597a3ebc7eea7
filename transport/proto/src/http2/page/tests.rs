use super::*;
use crate::chrome::CHROME_156;
use crate::http2::frame::{flag, kind};
use crate::http2::testing::{Answer, Decoy, Request};
use proptest::prelude::*;

const BASIC: &str = r#"<!doctype html><html><head><title>t</title><link rel="stylesheet" href="/style.css"></head>
    <body><p>hello</p><img src="/a.png"><img src="/b.png"><script src="/app.js"></script></body></html>"#;

#[allow(clippy::disallowed_methods, reason = "a starting point; the tests step time themselves")]
fn start() -> Instant {
    Instant::now()
}

struct Visit {
    load: PageLoad,
    now: Instant,
    /// Everything sent: when, what, and whether it was the knock.
    sent: Vec<(Duration, Vec<u8>, bool)>,
}

impl Visit {
    fn new(path: &str, field: Field, seed: u8) -> Self {
        let name = "www.example.com".parse().unwrap();
        let load = PageLoad::new(&CHROME_156, &name, path, field, [seed; 32]);
        Self { load, now: start(), sent: Vec::new() }
    }

    /// Plays the load against a decoy until the knock's answer is in, or an error. `cut` splits what the decoy sends.
    fn play<F: FnMut(&Request) -> Answer>(
        &mut self,
        decoy: &mut Decoy<F>,
        cut: usize,
    ) -> Result<(), LoadError> {
        let begin = self.now;
        for _ in 0..10_000 {
            while let Some(output) = self.load.poll(self.now) {
                let (record, knock) = match output {
                    Output::Record(record) => (record, false),
                    Output::Knock(record) => (record, true),
                };
                decoy.take(&record);
                self.sent.push((self.now - begin, record, knock));
                self.now += Duration::from_micros(50);
            }
            if let Some(failure) = self.load.failure() {
                return Err(failure.clone());
            }
            if let Some(record) = decoy.out.pop_front() {
                self.now += Duration::from_micros(300);
                for piece in record.chunks(cut) {
                    self.load.on_data(piece, self.now)?;
                }
            } else if self.load.answer_ended() {
                return Ok(());
            } else {
                self.now = self.load.deadline().expect("something is awaited").max(self.now);
            }
        }
        panic!("the load does not end");
    }
}

fn visit(field: Field, answer: impl FnMut(&Request) -> Answer) -> (Visit, Vec<Request>) {
    let mut visit = Visit::new("/", field, 7);
    let mut decoy = Decoy::new(answer);
    visit.play(&mut decoy, usize::MAX).expect("the load reaches its knock");
    (visit, decoy.requests)
}

fn site(page: &'static str) -> impl FnMut(&Request) -> Answer {
    move |request| match request.path() {
        "/" => Answer::html(page),
        _ => Answer::of("text/plain", b"x"),
    }
}

fn paths(requests: &[Request]) -> Vec<&str> {
    requests.iter().map(Request::path).collect()
}

#[test]
fn a_visit_is_chromes() {
    let (visit, requests) = visit(Field::Padding, site(BASIC));
    assert_eq!(paths(&requests), ["/", "/style.css", "/a.png", "/b.png", "/app.js", "/favicon.ico"]);
    // Preface, navigation, SETTINGS acknowledged, the burst, the knock: TLS adds 17 bytes.
    assert_eq!(visit.sent[0].1.len(), 70);
    assert_eq!(visit.sent[2].1.len(), 9);
    assert_eq!(visit.sent.len(), 8);
    assert!(visit.sent.iter().rev().skip(1).all(|(_, _, knock)| !knock));
    let (at, knock, is_knock) = visit.sent.last().unwrap();
    assert!(is_knock);
    let pause = *at - visit.sent[6].0;
    assert!(pause >= CHROME_156.pauses.icon.0 && pause < CHROME_156.pauses.icon.1 + Duration::from_millis(5));
    // 63 on the wire, as captured.
    assert_eq!(knock.len(), 46);
    assert_eq!(knock[4], flag::END_STREAM | flag::END_HEADERS | flag::PADDED);
    assert_eq!(knock[knock.len() - 8..], [0; 8]);
    let last = requests.last().unwrap();
    assert_eq!(last.get("priority"), None);
    assert_eq!(last.get("user-agent"), Some(CHROME_156.user_agent));
    assert_eq!(visit.load.requests(), 6);
}

/// As captured over paths of 20, 100 and 300 ms: the small picture last, the script as urgent as a picture until the parser is
/// there, and then two PRIORITY frames, the second for the script.
#[test]
fn a_script_behind_pictures_becomes_urgent_while_it_is_awaited() {
    const PAGE: &str = r#"<link rel="stylesheet" href="/style.css"><img src="/boat.png" width="96" height="96">
        <img src="/map.png" width="160" height="160"><script src="/menu.js"></script>"#;
    let mut visit = Visit::new("/", Field::Padding, 1);
    let mut decoy = Decoy::new(site(PAGE));
    let (mut sent, mut deaf) = (Vec::new(), false);
    for _ in 0..100 {
        while let Some(Output::Record(record)) = visit.load.poll(visit.now) {
            decoy.take(&record);
            sent.push(record);
            // From the first of the files on nothing is answered.
            deaf |= decoy.requests.len() > 1;
        }
        match decoy.out.pop_front() {
            Some(record) if !deaf => visit.load.on_data(&record, visit.now).unwrap(),
            _ => visit.now += Duration::from_millis(1),
        }
    }
    assert_eq!(paths(&decoy.requests), ["/", "/style.css", "/map.png", "/menu.js", "/boat.png"]);
    let weight = |record: &Vec<u8>| u16::from(record[13]) + 1;
    let requests: Vec<_> =
        sent.iter().filter(|record| record[3] == kind::HEADERS && record[4] != 0).collect();
    assert_eq!(requests[1..].iter().map(|one| weight(one)).collect::<Vec<_>>(), [256, 183, 183, 147]);
    let [.., first, second] = &sent[..] else { panic!("{} records", sent.len()) };
    assert_eq!(first[..], [0, 0, 5, kind::PRIORITY, 0, 0, 0, 0, 9, 0x80, 0, 0, 5, 146]);
    assert_eq!(second[..], [0, 0, 5, kind::PRIORITY, 0, 0, 0, 0, 7, 0x80, 0, 0, 3, 219]);
    // One that is answered at once is never hurried.
    let (visit, _) = self::visit(Field::Padding, site(PAGE));
    assert!(visit.sent.iter().all(|(_, record, _)| record[3] != kind::PRIORITY));
}

#[test]
fn nothing_follows_the_knock_until_given_up() {
    let (mut visit, _) = visit(Field::Padding, site(BASIC));
    let mut ping = Vec::new();
    frame::header(kind::PING, 0, 0, 8, &mut ping);
    ping.extend_from_slice(b"12345678");
    visit.load.on_data(&ping, visit.now).unwrap();
    assert_eq!(visit.load.poll(visit.now), None);
    assert_eq!(visit.load.deadline(), None);
    visit.load.give_up();
    let Some(Output::Record(answer)) = visit.load.poll(visit.now) else { panic!("a PING is answered") };
    assert_eq!((answer[3], answer[4], &answer[9..]), (kind::PING, flag::ACK, &b"12345678"[..]));
    assert_eq!(visit.load.poll(visit.now), None);
    assert_eq!(visit.load.deadline(), Some(visit.now + Duration::from_secs(300)));
}

/// A visit that has said its preface, after Chrome's pause, and has asked for its page.
fn begun(seed: u8, mut take: impl FnMut(&[u8])) -> Visit {
    let mut visit = Visit::new("/", Field::Padding, seed);
    assert_eq!(visit.load.poll(visit.now), None, "no preface yet");
    let at = visit.load.deadline().unwrap();
    let (least, most) = CHROME_156.pauses.preface;
    assert!((least..=most).contains(&at.duration_since(visit.now)));
    visit.now = at;
    let mut records = 0;
    while let Some(Output::Record(record)) = visit.load.poll(visit.now) {
        assert_eq!(record.starts_with(frame::PREFACE), records == 0);
        take(&record);
        records += 1;
    }
    assert_eq!(records, 2);
    visit
}

/// What comes with SETTINGS is read before they are acknowledged, as in Chromium.
#[test]
fn settings_are_acknowledged_behind_the_answer_that_comes_with_them() {
    for seed in 0..20 {
        let mut decoy = Decoy::new(site(BASIC));
        let mut visit = begun(seed, |record| decoy.take(record));
        let start = visit.now;
        let later = |at: Option<Instant>| at.expect("something is owed").duration_since(start);
        while let Some(record) = decoy.out.pop_front() {
            visit.load.on_data(&record, visit.now).unwrap();
            assert_eq!(visit.load.poll(visit.now), None);
            visit.now += Duration::from_micros(20);
        }
        let waits = later(visit.load.deadline());
        assert!((READING.0..READING.1).contains(&waits), "{waits:?}");
        visit.now = start + waits;
        let Some(Output::Record(record)) = visit.load.poll(visit.now) else { panic!("nothing is owed") };
        assert_eq!((record[3], record[4]), (kind::SETTINGS, flag::ACK));
    }
}

/// A decoy on the same machine may be heard before the preface has gone: nothing is said, and nothing is asked to be woken for, before it.
#[test]
fn a_decoy_that_speaks_first_waits_for_the_preface() {
    let mut visit = Visit::new("/", Field::Padding, 1);
    assert_eq!(visit.load.poll(visit.now), None);
    let at = visit.load.deadline().unwrap();
    let mut settings = Vec::new();
    frame::settings(&[], &mut settings);
    visit.load.on_data(&settings, visit.now).unwrap();
    assert_eq!((visit.load.poll(visit.now), visit.load.deadline()), (None, Some(at)));
    visit.now = at + READING.1;
    let said: Vec<_> = std::iter::from_fn(|| visit.load.poll(visit.now)).collect();
    let [Output::Record(first), Output::Record(_), Output::Record(last)] = &said[..] else {
        panic!("{said:?}")
    };
    assert!(first.starts_with(frame::PREFACE));
    assert_eq!((last[3], last[4]), (kind::SETTINGS, flag::ACK));
}

#[test]
fn the_knock_waits_until_settings_are_acknowledged() {
    let mut load = Visit::new("/", Field::Padding, 1);
    let mut decoy = Decoy::new(site("<p>plain"));
    // Everything but the decoy's acknowledgement.
    let mut withheld = None;
    for _ in 0..50 {
        while let Some(output) = load.load.poll(load.now) {
            let Output::Record(record) = output else { panic!("knocked while SETTINGS were open") };
            decoy.take(&record);
        }
        match decoy.out.pop_front() {
            Some(record) if record[3] == kind::SETTINGS && record[4] == flag::ACK => withheld = Some(record),
            Some(record) => load.load.on_data(&record, load.now).unwrap(),
            None => load.now += Duration::from_millis(10),
        }
    }
    load.load.on_data(&withheld.unwrap(), load.now).unwrap();
    assert!(matches!(load.load.poll(load.now), Some(Output::Knock(_))));
}

#[test]
fn cookies_go_back_and_the_knock_keeps_its_length() {
    let answer = |request: &Request| match request.path() {
        "/" => Answer::html(BASIC).with("set-cookie", "sid=abc123; Path=/"),
        _ => Answer::of("text/plain", b"x"),
    };
    let (visit, requests) = visit(Field::Padding, answer);
    assert!(requests[1..].iter().all(|request| request.get("cookie") == Some("sid=abc123")));
    assert_eq!(visit.sent.last().unwrap().1.len(), 47, "captured: 64 on the wire");
}

#[test]
fn a_knock_as_a_cookie_is_of_chromes_length_too() {
    for page in [BASIC, "<p>plain"] {
        let (with_padding, _) = visit(Field::Padding, site(page));
        let (with_cookie, requests) = visit(Field::Cookie, site(page));
        let knock = &with_cookie.sent.last().unwrap().1;
        assert_eq!(knock.len(), with_padding.sent.last().unwrap().1.len(), "{page}");
        assert_eq!(knock[knock.len() - 11..], *b"AAAAAAAAAAA");
        let cookie = requests.last().unwrap().get("cookie").unwrap();
        assert!(cookie.ends_with("=AAAAAAAAAAA"), "{cookie}");
    }
}

#[test]
fn a_page_without_an_icon_of_its_own_knocks_with_its_last_subresource() {
    for icon in ["data:,", "https://other.example/favicon.ico"] {
        let page = format!(r#"<link rel=icon href="{icon}"><link rel=stylesheet href=s.css><img src=a.png>"#);
        let (_, requests) = visit(Field::Padding, |request| match request.path() {
            "/" => Answer::html(&page),
            _ => Answer::of("text/plain", b"x"),
        });
        assert_eq!(paths(&requests), ["/", "/s.css", "/a.png"]);
    }
    let mut nothing = Visit::new("/", Field::Padding, 1);
    let outcome = nothing.play(&mut Decoy::new(site("<link rel=icon href=data:,>")), usize::MAX);
    assert_eq!(outcome, Err(LoadError::NothingToKnockWith));
}

#[test]
fn a_last_request_without_priority_has_room_too() {
    for field in [Field::Padding, Field::Cookie] {
        let page = "<link rel=icon href=data:,><script defer src=a.js></script>";
        let (_, requests) = visit(field, site(page));
        assert_eq!(paths(&requests), ["/", "/a.js"]);
    }
}

#[test]
fn what_waits_for_the_parser_comes_after_its_answers() {
    let page = r#"<link rel=stylesheet href=s.css><script src=j.js></script><script defer src=d.js></script>
        <img src=1.png><img src=2.png><img src=3.png><script src=l.js></script>"#;
    let (visit, requests) = visit(Field::Padding, site(page));
    let wanted = ["/", "/s.css", "/j.js", "/1.png", "/2.png", "/l.js", "/3.png", "/d.js", "/favicon.ico"];
    assert_eq!(paths(&requests), wanted);
    // Four in the burst, then the answers, then the rest: no stream of the burst is depended on any more.
    let depends = |record: &[u8]| u32::from_be_bytes(record[9..13].try_into().unwrap()) & 0x7fff_ffff;
    let parents: Vec<u32> = visit.sent[3..10].iter().map(|(_, record, _)| depends(record)).collect();
    assert_eq!(parents, [0, 3, 5, 7, 0, 11, 13]);
}

#[test]
fn a_decoy_that_allows_few_streams_gets_no_more() {
    let page: String = (0..30).map(|i| format!("<img src=/{i}.png>")).collect();
    let mut visit = Visit::new("/", Field::Padding, 1);
    let mut decoy = Decoy::new(|request: &Request| match request.path() {
        "/" => Answer::html(&page),
        _ => Answer::of("text/plain", b"x"),
    });
    let mut most = 0;
    while !visit.load.answer_ended() {
        while let Some(Output::Record(record) | Output::Knock(record)) = visit.load.poll(visit.now) {
            let first = decoy.out.len();
            decoy.take(&record);
            if first == 0
                && let Some(settings) = decoy.out.front_mut()
                && settings[3] == kind::SETTINGS
                && settings[4] == 0
            {
                // MAX_CONCURRENT_STREAMS is the first setting.
                settings[11..15].copy_from_slice(&3u32.to_be_bytes());
            }
        }
        most = most.max(visit.load.open());
        let next = decoy.out.pop_front();
        match next {
            Some(record) => visit.load.on_data(&record, visit.now).unwrap(),
            None => visit.now = visit.load.deadline().expect("never a standstill").max(visit.now),
        }
    }
    assert_eq!(decoy.requests.len(), 32);
    assert!(most <= 3, "{most}");
}

#[test]
fn redirects_of_the_same_host_are_followed() {
    let answer = |request: &Request| match request.path() {
        "/" => Answer::redirect("https://www.example.com/home/"),
        "/home/" => Answer::html("<img src=a.png>"),
        "/home/a.png" => Answer::redirect("/b.png"),
        _ => Answer::of("text/plain", b"x"),
    };
    let (visit, requests) = visit(Field::Padding, answer);
    assert_eq!(paths(&requests), ["/", "/home/", "/home/a.png", "/b.png", "/favicon.ico"]);
    assert_eq!(requests[2].get("referer"), Some("https://www.example.com/home/"));
    assert_eq!(visit.sent[3].1.len(), 9 + 5 + 23, "two bytes of path in place of one");
    for (to, error) in [
        ("https://other.example/", LoadError::RedirectedAway),
        ("http://www.example.com/", LoadError::RedirectedAway),
        ("/again", LoadError::RedirectLoop),
    ] {
        let mut away = Visit::new("/", Field::Padding, 1);
        assert_eq!(away.play(&mut Decoy::new(|_: &Request| Answer::redirect(to)), usize::MAX), Err(error));
    }
}

#[test]
fn pages_that_are_not_200_or_not_html() {
    let missing = |request: &Request| match request.path() {
        "/" => Answer { status: 404, ..Answer::html("<img src=a.png>") },
        _ => Answer { status: 404, ..Answer::of("text/plain", b"") },
    };
    assert_eq!(paths(&visit(Field::Padding, missing).1), ["/", "/a.png", "/favicon.ico"]);
    let text = |_: &Request| Answer::of("text/plain", b"<img src=a.png>");
    assert_eq!(paths(&visit(Field::Padding, text).1), ["/", "/favicon.ico"]);
}

#[test]
fn a_decoy_that_ends_or_breaks_the_connection() {
    let begin = |bytes: &[u8]| {
        let mut visit = begun(1, |_| {});
        let mut all = Vec::new();
        frame::settings(&[], &mut all);
        all.extend_from_slice(bytes);
        visit.load.on_data(&all, visit.now)
    };
    let framed = |kind, flags, stream, payload: &[u8]| {
        let mut out = Vec::new();
        frame::header(kind, flags, stream, payload.len(), &mut out);
        out.extend_from_slice(payload);
        out
    };
    assert_eq!(begin(&framed(kind::GOAWAY, 0, 0, &[0; 8])), Err(LoadError::GoneAway));
    assert_eq!(begin(&framed(kind::RST_STREAM, 0, 1, &[0, 0, 0, 7])), Err(LoadError::Refused(7)));
    assert!(matches!(begin(&framed(kind::PUSH_PROMISE, 4, 1, &[0; 4])), Err(LoadError::Protocol(_))));
    assert!(matches!(begin(&framed(kind::CONTINUATION, 4, 1, &[])), Err(LoadError::Protocol(_))));
    let broken = [framed(kind::HEADERS, 0, 1, &[0x88]), framed(kind::PING, 0, 0, &[0; 8])].concat();
    assert!(matches!(begin(&broken), Err(LoadError::Protocol(_))));
    let joined = [framed(kind::HEADERS, 0, 1, &[0x88]), framed(kind::CONTINUATION, 4, 1, &[0x88])].concat();
    assert_eq!(begin(&joined), Ok(()));
    let endless = std::iter::once(framed(kind::HEADERS, 0, 1, &[0; 16_384]))
        .chain((0..20).map(|_| framed(kind::CONTINUATION, 0, 1, &[0; 16_384])))
        .collect::<Vec<_>>()
        .concat();
    assert!(matches!(begin(&endless), Err(LoadError::Headers(_))));
    let flood = framed(kind::PING, 0, 0, &[0; 8]).repeat(1000);
    assert!(matches!(begin(&flood), Err(LoadError::Protocol(_))));
}

#[test]
fn a_load_without_end_is_given_up() {
    let mut visit = begun(1, |_| {});
    visit.now = visit.load.deadline().unwrap();
    assert_eq!(visit.load.poll(visit.now), None);
    assert!(matches!(visit.load.failure(), Some(LoadError::TooSlow(_))));
    assert!(visit.load.on_data(&[], visit.now).is_err());
}

#[test]
fn a_huge_answer_is_not_kept_and_gets_its_credit() {
    let body = vec![b'x'; 9 << 20];
    let mut decoy = Decoy::new(|request: &Request| match request.path() {
        "/" => Answer::of("text/html", &body),
        _ => Answer::of("text/plain", b"x"),
    });
    let mut visit = Visit::new("/", Field::Padding, 1);
    visit.play(&mut decoy, usize::MAX).unwrap();
    let updates: Vec<&(u8, u8, Vec<u8>)> =
        decoy.others.iter().filter(|(kind, ..)| *kind == kind::WINDOW_UPDATE).skip(1).collect();
    // Half of 6 MiB twice, half of 15 MiB once: 3,145,728 is passed with the next 8,192 bytes.
    let increments: Vec<u32> =
        updates.iter().map(|u| u32::from_be_bytes(u.2[..].try_into().unwrap())).collect();
    assert_eq!(increments, [3_153_920, 3_153_920, 7_864_320 + 8_192]);
}

#[test]
fn a_load_without_a_knock_ends_with_chromes_own_request_of_the_same_length() {
    let plain = {
        let mut visit = Visit::new("/", Field::Padding, 7);
        visit.load = visit.load.without_knock();
        visit.play(&mut Decoy::new(site(BASIC)), usize::MAX).unwrap();
        visit
    };
    let (knocked, _) = visit(Field::Padding, site(BASIC));
    assert!(plain.sent.iter().all(|(.., knock)| !knock));
    let (last, knock) = (&plain.sent.last().unwrap().1, &knocked.sent.last().unwrap().1);
    assert_eq!(last.len(), knock.len());
    assert_eq!(last[4] & (flag::PRIORITY | flag::PADDED), flag::PRIORITY);
    assert_eq!(knock[4] & (flag::PRIORITY | flag::PADDED), flag::PADDED);
    assert_eq!(plain.load.requests(), knocked.load.requests());
    assert_eq!((plain.load.answers(), plain.load.last_request_made()), (plain.load.requests(), true));
}

#[test]
fn the_last_answer_is_described() {
    let (visit, _) = visit(Field::Padding, |request| match request.path() {
        "/" => Answer::html(BASIC),
        "/favicon.ico" => Answer { status: 404, ..Answer::of("text/plain", &[b'x'; 9_000]) }.with("age", "1"),
        _ => Answer::of("text/plain", b"x"),
    });
    let expected = super::Answer { status: 404, fields: 3, body: 9_000, reset: None };
    assert_eq!(visit.load.answer(), expected);
}

#[test]
fn an_alternative_service_is_noted_wherever_it_is_named() {
    let named = |value: &'static str| {
        move |request: &Request| match request.path() {
            "/" => Answer::html(BASIC),
            "/a.png" => Answer::of("image/png", b"x").with("alt-svc", value),
            _ => Answer::of("text/plain", b"x"),
        }
    };
    let noted = |value| visit(Field::Padding, named(value)).0.load.alternative().map(<[u8]>::to_vec);
    assert_eq!(noted(r#"h3=":443""#).as_deref(), Some(&br#"h3=":443""#[..]));
    assert_eq!(noted("clear"), None);

    let (mut visit, _) = visit(Field::Padding, site(BASIC));
    assert_eq!(visit.load.alternative(), None);
    let mut out = Vec::new();
    frame::header(kind::ALTSVC, 0, 0, 11, &mut out);
    out.extend_from_slice(b"\0\0h3=\":443\"");
    visit.load.on_data(&out, visit.now).unwrap();
    assert_eq!(visit.load.alternative(), Some(&b"\0\0h3=\":443\""[..]));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn split_anywhere_the_load_is_the_same(cut in 1usize..64, seed in any::<u8>()) {
        let play = |cut| {
            let mut visit = Visit::new("/", Field::Padding, seed);
            visit.play(&mut Decoy::new(site(BASIC)), cut).unwrap();
            visit.sent.into_iter().map(|(_, record, knock)| (record, knock)).collect::<Vec<_>>()
        };
        prop_assert_eq!(play(cut), play(usize::MAX));
    }

    #[test]
    fn damaged_answers_never_panic(
        place in 0usize..2000,
        value in any::<u8>(),
        noise in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        let mut visit = Visit::new("/", Field::Padding, 3);
        let mut decoy = Decoy::new(site(BASIC));
        let mut seen = 0;
        for _ in 0..200 {
            while let Some(Output::Record(record) | Output::Knock(record)) = visit.load.poll(visit.now) {
                decoy.take(&record);
            }
            let Some(mut record) = decoy.out.pop_front() else {
                visit.now += Duration::from_millis(20);
                continue;
            };
            if (seen..seen + record.len()).contains(&place) {
                record[place - seen] = value;
            }
            seen += record.len();
            if visit.load.on_data(&record, visit.now).is_err() {
                return Ok(());
            }
        }
        let _ = visit.load.on_data(&noise, visit.now);
    }
}
