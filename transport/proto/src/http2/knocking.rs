//! The load's last request, at exactly the length Chrome's would have, with room for the knock (docs/protocol.md,
//! section 4).

use super::encode::Encoder;
use super::frame::{self, flag, kind};
use super::request::{self, Headers, PRIORITY};
use crate::knock::Field;

/// What gives way, in this order, after the frame's priority. Not `user-agent`, `accept` or `accept-encoding`: they
/// change answers.
const GIVING_WAY: [&str; 4] = ["priority", "sec-ch-ua-platform", "sec-ch-ua-mobile", "sec-ch-ua"];

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
