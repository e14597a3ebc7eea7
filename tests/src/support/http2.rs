//! What a client's HTTP/2 shows to a server (RFC 9113), as Akamai's "Passive Fingerprinting of HTTP/2 Clients" (Black Hat Europe
//! 2017) writes it.
//!
//! Written apart from the product's own parser on purpose: what measures must not share mistakes with what is measured.

/// What a connection begins with (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Frame types (section 6), and HEADERS' flags.
pub const DATA: u8 = 0;
/// A request's or an answer's fields.
pub const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const SETTINGS: u8 = 4;
const WINDOW_UPDATE: u8 = 8;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const PADDED: u8 = 8;
const WITH_PRIORITY: u8 = 0x20;

/// A frame of a client's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Its type.
    pub kind: u8,
    /// Its flags.
    pub flags: u8,
    /// Its stream; 0 is the connection.
    pub stream: u32,
    /// What is in it.
    pub payload: Vec<u8>,
}

/// The whole frames of what a client said, after the preface. `None` where it does not begin with one.
#[must_use]
pub fn frames(said: &[u8]) -> Option<Vec<Frame>> {
    Some(bare_frames(said.strip_prefix(PREFACE)?))
}

/// The same of what a server said, who begins with a frame.
#[must_use]
pub fn bare_frames(said: &[u8]) -> Vec<Frame> {
    let mut rest = said;
    let mut frames = Vec::new();
    while let Some(([a, b, c, kind, flags, s, t, u, v], after)) = rest.split_first_chunk() {
        let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
        let Some((payload, next)) = after.split_at_checked(length) else { break };
        let stream = u32::from_be_bytes([*s & 0x7f, *t, *u, *v]);
        frames.push(Frame { kind: *kind, flags: *flags, stream, payload: payload.to_vec() });
        rest = next;
    }
    frames
}

/// Akamai's fingerprint: SETTINGS, the connection's WINDOW_UPDATE, PRIORITY frames, and the order of the first request's
/// pseudo-header fields. `None` where there is no request.
#[must_use]
pub fn akamai(frames: &[Frame]) -> Option<String> {
    let settings = frames.iter().find(|frame| frame.kind == SETTINGS && frame.flags & ACK == 0)?;
    let (settings, _) = settings.payload.as_chunks::<6>();
    let settings = settings
        .iter()
        .map(|[a, b, value @ ..]| format!("{}:{}", u16::from_be_bytes([*a, *b]), u32::from_be_bytes(*value)));
    let update = frames.iter().find(|frame| frame.kind == WINDOW_UPDATE && frame.stream == 0);
    let update = update.and_then(|frame| frame.payload.first_chunk().copied().map(u32::from_be_bytes));
    let priorities: Vec<String> =
        frames.iter().filter(|frame| frame.kind == PRIORITY).filter_map(priority).collect();
    let request = frames.iter().find(|frame| frame.kind == HEADERS)?;
    Some(format!(
        "{}|{}|{}|{}",
        settings.collect::<Vec<_>>().join(";"),
        update.map_or_else(|| "00".into(), |update| update.to_string()),
        if priorities.is_empty() { "0".into() } else { priorities.join(",") },
        pseudo_headers(parts(request)?.1)?.join(",")
    ))
}

/// How the first request is framed: HEADERS' flags, and weight, exclusiveness and parent of its stream where they are there.
#[must_use]
pub fn first_request(frames: &[Frame]) -> Option<String> {
    framing(frames.iter().find(|frame| frame.kind == HEADERS)?)
}

/// The same of the first request that leaves its stream open, as an extended CONNECT does (RFC 8441, section 4).
#[must_use]
pub fn first_connect(frames: &[Frame]) -> Option<String> {
    framing(frames.iter().find(|frame| frame.kind == HEADERS && frame.flags & END_STREAM == 0)?)
}

fn framing(request: &Frame) -> Option<String> {
    let flags = request.flags;
    let Some((parent, weight)) = parts(request)?.0 else {
        return Some(format!("flags {flags:02x}, no priority"));
    };
    let (exclusive, parent) = (parent >> 31, parent & 0x7fff_ffff);
    Some(format!("flags {flags:02x}, parent {parent}, exclusive {exclusive}, weight {weight}"))
}

fn priority(frame: &Frame) -> Option<String> {
    let (parent, weight) = dependency(*frame.payload.first_chunk()?);
    Some(format!("{}:{}:{}:{weight}", frame.stream, parent >> 31, parent & 0x7fff_ffff))
}

/// On which stream one depends, with the exclusive bit, and its weight as a number from 1 on.
fn dependency([parent @ .., weight]: [u8; 5]) -> (u32, u16) {
    (u32::from_be_bytes(parent), u16::from(weight) + 1)
}

/// A stream's dependency where it has one, and a header block.
type Parts<'a> = (Option<(u32, u16)>, &'a [u8]);

/// What is in a HEADERS frame, without padding.
fn parts(frame: &Frame) -> Option<Parts<'_>> {
    let mut rest = &frame.payload[..];
    if frame.flags & PADDED != 0 {
        let (padding, after) = rest.split_first()?;
        rest = after.get(..after.len().checked_sub(usize::from(*padding))?)?;
    }
    if frame.flags & WITH_PRIORITY == 0 {
        return Some((None, rest));
    }
    let (first, block) = rest.split_first_chunk()?;
    Some((Some(dependency(*first)), block))
}

/// The first letters of a connection's first block's pseudo-header fields, in order. Their names are all in HPACK's static table (RFC 7541,
/// appendix A) and come before any other field's, so nothing else of HPACK is needed.
fn pseudo_headers(block: &[u8]) -> Option<Vec<&'static str>> {
    let mut rest = block;
    let mut found = Vec::new();
    while let Some(first) = rest.first() {
        let (bits, literal) = match first {
            0x80.. => (7, false),
            0x40.. => (6, true),
            0x20.. => {
                rest = integer(rest, 5)?.1;
                continue;
            }
            _ => (4, true),
        };
        let (index, after) = integer(rest, bits)?;
        let name = match index {
            1 => "a",
            2 | 3 => "m",
            4 | 5 => "p",
            6 | 7 => "s",
            _ => break,
        };
        found.push(name);
        rest = after;
        if literal {
            let (length, after) = integer(rest, 7)?;
            rest = after.get(length..)?;
        }
    }
    Some(found)
}

/// HPACK's integer with a prefix of so many bits (RFC 7541, section 5.1), of two bytes of continuation at most.
fn integer(bytes: &[u8], bits: u32) -> Option<(usize, &[u8])> {
    let most = (1usize << bits) - 1;
    let (first, mut rest) = bytes.split_first()?;
    let mut value = usize::from(*first) & most;
    if value < most {
        return Some((value, rest));
    }
    for shift in [0, 7] {
        let (next, after) = rest.split_first()?;
        value += usize::from(next & 0x7f) << shift;
        rest = after;
        if next & 0x80 == 0 {
            return Some((value, rest));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
        let length = u8::try_from(payload.len()).unwrap();
        [&[0, 0, length, kind, flags, 0, 0, 0, stream][..], payload].concat()
    }

    /// Written by hand from RFC 9113 and RFC 7541: two settings, an update of 15,663,105, a PRIORITY, and a padded request with priority
    /// whose authority is "ab".
    fn said() -> Vec<u8> {
        let request = [
            &[2, 0x80, 0, 0, 0, 255][..],
            &[0x82, 0x41, 2, b'a', b'b', 0x87, 0x84, 0x40, 1, b'x', 1, b'y'],
            &[0, 0],
        ]
        .concat();
        [
            PREFACE.to_vec(),
            frame(SETTINGS, 0, 0, &[0, 1, 0, 1, 0, 0, 0, 4, 0, 0x60, 0, 0]),
            frame(WINDOW_UPDATE, 0, 0, &15_663_105u32.to_be_bytes()),
            frame(PRIORITY, 0, 3, &[0, 0, 0, 0, 200]),
            frame(HEADERS, 0x2d, 1, &request),
        ]
        .concat()
    }

    #[test]
    fn a_client_is_read() {
        let frames = frames(&said()).unwrap();
        assert_eq!(akamai(&frames).unwrap(), "1:65536;4:6291456|15663105|3:0:0:201|m,a,s,p");
        assert_eq!(first_request(&frames).unwrap(), "flags 2d, parent 0, exclusive 1, weight 256");
        assert_eq!(first_connect(&frames), None);
        let open = [said(), frame(HEADERS, 0x24, 3, &[0x80, 0, 0, 0, 146, 0x82])].concat();
        let connect = first_connect(&super::frames(&open).unwrap());
        assert_eq!(connect.unwrap(), "flags 24, parent 0, exclusive 1, weight 147");
    }

    #[test]
    fn what_is_cut_anywhere_is_read_as_far_as_it_goes() {
        let said = said();
        for end in 0..said.len() {
            if let Some(frames) = frames(&said[..end]) {
                assert!(akamai(&frames).is_none() && frames.len() < 4, "{end}");
            }
        }
    }

    #[test]
    fn long_integers_are_the_rfcs() {
        // RFC 7541, appendix C.1.
        assert_eq!(integer(&[0x0a], 5), Some((10, &[][..])));
        assert_eq!(integer(&[0x1f, 0x9a, 0x0a], 5), Some((1_337, &[][..])));
        assert_eq!(integer(&[0x1f, 0xff, 0xff, 0xff], 5), None);
    }
}
