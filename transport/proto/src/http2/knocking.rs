//! The load's last request, at exactly the length Chrome's would have, with room for the knock (docs/protocol.md,
//! section 4).

use super::encode::Encoder;
use super::frame::{self, flag, kind};
use super::request::{self, Headers, PRIORITY};
use crate::knock::Field;

/// What gives way, in this order, after the frame's priority. Not `user-agent`, `accept` or `accept-encoding`: they
/// change answers. The last one is needed only where Chrome's own request has no `priority`.
const GIVING_WAY: [&str; 5] =
    ["priority", "sec-ch-ua-platform", "sec-ch-ua-mobile", "sec-ch-ua", "sec-fetch-dest"];

/// Names for the knock's cookie: ordinary ones, one for each length from 1.
const NAMES: [&str; 12] = [
    "s",
    "id",
    "sid",
    "csrf",
    "token",
    "visitr",
    "session",
    "deviceid",
    "sessionid",
    "csrf_token",
    "visitor_uid",
    "session_info",
];
/// The cookie's name where the request cannot be of Chrome's length without a cookie.
const NAME: &str = "sid";

/// The HEADERS frame. For [`Field::Padding`] its last 8 bytes are padding, zero; for [`Field::Cookie`] its last 11 are
/// the cookie's letters, `A`.
///
/// With padding the length is Chrome's, or None: no room. With a cookie it is Chrome's or, where there is no room, that
/// of Chrome's request with a cookie set on the way.
pub(crate) fn frame(
    encoder: &Encoder,
    headers: &Headers,
    stream: u32,
    depends_on: u32,
    weight: u16,
    field: Field,
) -> Option<Vec<u8>> {
    let whole = block(encoder, headers);
    let goal = PRIORITY + whole.len();
    (0..=GIVING_WAY.len())
        .find_map(|given| {
            let left: Headers =
                headers.iter().filter(|(name, _)| !GIVING_WAY[..given].contains(name)).cloned().collect();
            let block = block(encoder, &left);
            match field {
                Field::Padding => padded(stream, goal, &block),
                Field::Cookie => with_cookie(encoder, stream, goal, &block),
            }
        })
        .or_else(|| match field {
            Field::Padding => None,
            Field::Cookie => {
                let mut block = whole;
                add_cookie(encoder, NAME, &mut block);
                Some(request::headers_frame(stream, depends_on, weight, &block))
            }
        })
}

fn block(encoder: &Encoder, headers: &Headers) -> Vec<u8> {
    let mut out = Vec::new();
    request::encode(&mut encoder.clone(), headers, &mut out);
    out
}

fn padded(stream: u32, goal: usize, block: &[u8]) -> Option<Vec<u8>> {
    let padding = goal.checked_sub(1 + block.len())?;
    let length = u8::try_from(padding).ok().filter(|_| padding >= Field::Padding.len())?;
    let mut out = Vec::with_capacity(frame::HEADER + goal);
    let flags = flag::END_STREAM | flag::END_HEADERS | flag::PADDED;
    frame::header(kind::HEADERS, flags, stream, goal, &mut out);
    out.push(length);
    out.extend_from_slice(block);
    out.resize(frame::HEADER + goal, 0);
    Some(out)
}

fn with_cookie(encoder: &Encoder, stream: u32, goal: usize, block: &[u8]) -> Option<Vec<u8>> {
    NAMES.iter().find_map(|name| {
        let mut block = block.to_vec();
        add_cookie(encoder, name, &mut block);
        (block.len() == goal).then(|| {
            let mut out = Vec::with_capacity(frame::HEADER + goal);
            frame::header(kind::HEADERS, flag::END_STREAM | flag::END_HEADERS, stream, goal, &mut out);
            out.extend_from_slice(&block);
            out
        })
    })
}

fn add_cookie(encoder: &Encoder, name: &str, block: &mut Vec<u8>) {
    let mut value = format!("{name}=").into_bytes();
    value.resize(value.len() + Field::Cookie.len(), b'A');
    encoder.plain_field("cookie", &value, block);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chrome::CHROME_156;
    use crate::http2::request::{Context, Resource};

    /// For every kind of last request, after a visit in which `before` were made, and with a cookie or without: the
    /// encoder, the request, and Chrome's frame for it.
    fn each(mut check: impl FnMut(&Encoder, &Headers, &[u8], &str)) {
        let all = [
            Resource::Icon,
            Resource::Style,
            Resource::StyleElsewhere,
            Resource::Script,
            Resource::LateScript,
            Resource::LazyScript,
            Resource::Module,
            Resource::Image,
            Resource::LaterImage,
            Resource::Font,
        ];
        for cookie in [&[][..], &["sid=abc123".to_owned()][..]] {
            let context =
                Context { profile: &CHROME_156, authority: "www.example.com", page: "/", cookies: cookie };
            for last in all {
                let befores = [
                    &[][..],
                    &[Resource::Style],
                    &[Resource::Style, Resource::Image, Resource::Script],
                    &[last],
                ];
                for before in befores {
                    let mut encoder = Encoder::new();
                    for resource in [Resource::Document].iter().chain(before) {
                        request::encode(&mut encoder, &context.headers(*resource, "/"), &mut Vec::new());
                    }
                    let headers = context.headers(last, "/favicon.ico");
                    let chromes = request::headers_frame(9, 0, 220, &block(&encoder, &headers));
                    check(&encoder, &headers, &chromes, &format!("{last:?} after {before:?}, {cookie:?}"));
                }
            }
        }
    }

    #[test]
    fn with_padding_the_length_is_always_chromes() {
        each(|encoder, headers, chromes, case| {
            let frame = frame(encoder, headers, 9, 0, 220, Field::Padding).expect(case);
            assert_eq!(frame.len(), chromes.len(), "{case}");
            assert_eq!(frame[..3], chromes[..3]);
            // At least the knock's 8 bytes, all of them padding.
            assert!(
                frame[9] >= 8 && frame[frame.len() - usize::from(frame[9])..].iter().all(|byte| *byte == 0)
            );
        });
    }

    #[test]
    fn with_a_cookie_the_length_is_chromes_or_chromes_with_a_cookie() {
        each(|encoder, headers, chromes, case| {
            let frame = frame(encoder, headers, 9, 0, 220, Field::Cookie).expect(case);
            assert!(frame.ends_with(b"=AAAAAAAAAAA"), "{case}");
            let longer = chromes.len() + 2 + NAME.len() + 1 + Field::Cookie.len();
            assert!([chromes.len(), longer].contains(&frame.len()), "{case}");
            // The usual last request, the load's first with its `priority`, has room.
            if case.starts_with("Icon") && !case.contains("[Icon]") {
                assert_eq!(frame.len(), chromes.len(), "{case}");
            }
        });
    }

    #[test]
    fn what_changes_answers_stays() {
        for kept in
            ["user-agent", "accept", "accept-encoding", "accept-language", "cookie", ":path", "referer"]
        {
            assert!(!GIVING_WAY.contains(&kept));
        }
        assert!(NAMES.iter().enumerate().all(|(place, name)| name.len() == place + 1));
    }
}
