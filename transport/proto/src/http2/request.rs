//! The requests of a page load, as header lists in Chrome's order.

use super::encode::Encoder;
use super::frame::{self, flag, kind};
use crate::chrome::Profile;

/// What is requested. The order of fields and their values follow from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Resource {
    /// The page itself.
    Document,
    /// The page again, after a redirect: the same fields in another order.
    Redirected,
    /// A style sheet that applies: it blocks rendering.
    Style,
    /// A style sheet for another medium.
    StyleElsewhere,
    /// A script that blocks the parser, before any image.
    Script,
    /// A script that blocks the parser, after an image.
    LateScript,
    /// The same, asked for before the parser has reached it: no more urgent than an image until then.
    EarlyScript,
    /// `defer` or `async`.
    LazyScript,
    /// `type=module`, not `async`, and `rel=modulepreload`.
    Module,
    /// One of the first images.
    Image,
    /// A later image, or one that is preloaded.
    LaterImage,
    /// A preloaded font.
    Font,
    /// The icon.
    Icon,
}

/// Chrome's priorities, most urgent first; also the order in which waiting requests are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    Highest,
    Medium,
    Low,
    Lowest,
    Idle,
}

impl Resource {
    /// The priority in the HEADERS frame.
    pub(crate) fn level(self) -> Level {
        match self {
            Self::Document | Self::Redirected | Self::Style => Level::Highest,
            Self::Script | Self::LateScript | Self::Module | Self::Font | Self::Icon => Level::Medium,
            Self::Image | Self::EarlyScript => Level::Low,
            Self::LazyScript | Self::LaterImage => Level::Lowest,
            Self::StyleElsewhere => Level::Idle,
        }
    }

    /// The `priority` field. A late script keeps that of its first, lower, priority.
    fn urgency(self) -> Option<&'static str> {
        match self {
            Self::Document | Self::Redirected => Some("u=0, i"),
            Self::Style => Some("u=0"),
            Self::StyleElsewhere => Some("u=4"),
            Self::Script | Self::Module | Self::Font => Some("u=1"),
            Self::LateScript | Self::EarlyScript => Some("u=2"),
            Self::LazyScript => None,
            Self::Image => Some("u=2, i"),
            Self::LaterImage => Some("i"),
            Self::Icon => Some("u=1, i"),
        }
    }

    fn mode(self) -> &'static str {
        if self.is_cors() { "cors" } else { "no-cors" }
    }

    fn is_cors(self) -> bool {
        matches!(self, Self::Module | Self::Font)
    }

    fn destination(self) -> &'static str {
        match self {
            Self::Document | Self::Redirected => "document",
            Self::Style | Self::StyleElsewhere => "style",
            Self::Script | Self::LateScript | Self::EarlyScript | Self::LazyScript | Self::Module => "script",
            Self::Image | Self::LaterImage | Self::Icon => "image",
            Self::Font => "font",
        }
    }

    fn accept(self, profile: &Profile) -> &'static str {
        match self {
            Self::Document | Self::Redirected => profile.accept_document,
            Self::Style | Self::StyleElsewhere => profile.accept_style,
            Self::Image | Self::LaterImage | Self::Icon => profile.accept_image,
            Self::Script
            | Self::LateScript
            | Self::EarlyScript
            | Self::LazyScript
            | Self::Module
            | Self::Font => "*/*",
        }
    }
}

/// A header list: names and values in order.
pub(crate) type Headers = Vec<(&'static str, String)>;

/// Where a request is made from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Context<'a> {
    pub(crate) profile: &'static Profile,
    pub(crate) authority: &'a str,
    /// The page's path and query, for `referer`.
    pub(crate) page: &'a str,
    /// `name=value` of each cookie, in order.
    pub(crate) cookies: &'a [String],
}

impl Context<'_> {
    /// The header list of a request.
    pub(crate) fn headers(&self, resource: Resource, path: &str) -> Headers {
        let p = self.profile;
        let mut list: Headers = vec![
            (":method", "GET".into()),
            (":authority", self.authority.into()),
            (":scheme", "https".into()),
            (":path", path.into()),
        ];
        match resource {
            Resource::Document => {
                list.extend(self.brands());
                list.extend(self.navigation());
            }
            Resource::Redirected => {
                list.extend(self.navigation());
                list.extend(self.brands());
            }
            _ => self.subresource(resource, &mut list),
        }
        let mut add = |name, value: &str| list.push((name, value.to_owned()));
        add("accept-encoding", p.accept_encoding);
        add("accept-language", p.accept_language);
        for cookie in self.cookies {
            add("cookie", cookie);
        }
        if let Some(urgency) = resource.urgency() {
            add("priority", urgency);
        }
        list
    }

    fn brands(&self) -> Headers {
        let p = self.profile;
        [("sec-ch-ua", p.brands), ("sec-ch-ua-mobile", p.mobile), ("sec-ch-ua-platform", p.platform)]
            .map(|(name, value)| (name, value.to_owned()))
            .to_vec()
    }

    fn navigation(&self) -> Headers {
        [
            ("upgrade-insecure-requests", "1"),
            ("user-agent", self.profile.user_agent),
            ("accept", self.profile.accept_document),
            ("sec-fetch-site", "none"),
            ("sec-fetch-mode", "navigate"),
            ("sec-fetch-user", "?1"),
            ("sec-fetch-dest", "document"),
        ]
        .map(|(name, value)| (name, value.to_owned()))
        .to_vec()
    }

    fn subresource(&self, resource: Resource, list: &mut Headers) {
        let p = self.profile;
        let origin = format!("https://{}", self.authority);
        if resource.is_cors() {
            list.push(("origin", origin.clone()));
        }
        let fixed = [
            ("sec-ch-ua-platform", p.platform),
            ("user-agent", p.user_agent),
            ("sec-ch-ua", p.brands),
            ("sec-ch-ua-mobile", p.mobile),
            ("accept", resource.accept(p)),
            ("sec-fetch-site", "same-origin"),
            ("sec-fetch-mode", resource.mode()),
            ("sec-fetch-dest", resource.destination()),
        ];
        list.extend(fixed.map(|(name, value)| (name, value.to_owned())));
        list.push(("referer", origin + self.page));
    }
}

/// Appends a header list as one block.
pub(crate) fn encode(encoder: &mut Encoder, headers: &Headers, out: &mut Vec<u8>) {
    encoder.begin(out);
    for (name, value) in headers {
        encoder.field(name, value, out);
    }
}

/// Length of the priority part of HEADERS (RFC 9113, section 6.2).
pub(crate) const PRIORITY: usize = 5;

/// The HEADERS frame of a request without a body, as Chrome sends it.
pub(crate) fn headers_frame(stream: u32, depends_on: u32, weight: u16, block: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(frame::HEADER + PRIORITY + block.len());
    headers(stream, flag::END_STREAM | flag::END_HEADERS, (depends_on, weight), block, &mut out);
    out
}

/// Appends a HEADERS frame as Chrome sends it: priority (the stream it depends on and its weight) with the exclusive bit, no
/// padding, the whole block.
pub(crate) fn headers(
    stream: u32,
    flags: u8,
    (depends_on, weight): (u32, u16),
    block: &[u8],
    out: &mut Vec<u8>,
) {
    frame::header(kind::HEADERS, flags | flag::PRIORITY, stream, PRIORITY + block.len(), out);
    out.extend_from_slice(&(0x8000_0000 | depends_on).to_be_bytes());
    out.push((weight - 1).min(255) as u8);
    out.extend_from_slice(block);
}

/// Which stream a new one depends on, as Chrome reckons: the latest open one of its priority or, without one, of
/// the next more urgent priority that has one.
#[derive(Debug, Default)]
pub(crate) struct Dependencies {
    open: Vec<(u32, Level)>,
}

impl Dependencies {
    /// Adds a stream and gives the one it depends on, 0 for none.
    pub(crate) fn add(&mut self, stream: u32, level: Level) -> u32 {
        let above = self.open.iter().filter(|(_, other)| *other <= level);
        // The least urgent of them wins, and among equals the latest.
        let parent = above.max_by_key(|(id, other)| (*other, *id)).map_or(0, |(id, _)| *id);
        self.open.push((stream, level));
        parent
    }

    /// Gives an open stream another level: the streams whose place changes, each with what it depends on and its level, in the
    /// order in which Chrome says so (`net/spdy/http2_priority_dependencies.cc`). None for a stream that has ended.
    pub(crate) fn change(&mut self, stream: u32, level: Level) -> Vec<(u32, u32, Level)> {
        let Some(at) = self.open.iter().position(|(id, _)| *id == stream) else { return Vec::new() };
        let (_, before) = self.open.remove(at);
        // What depends on each other is one chain: the most urgent first, and among equals the earliest.
        let key = |(id, level): &(u32, Level)| (*level, *id);
        let old_parent =
            self.open.iter().filter(|other| key(other) < (before, stream)).max_by_key(|other| key(other));
        let child =
            self.open.iter().filter(|other| key(other) > (before, stream)).min_by_key(|other| key(other));
        let new_parent = self.open.iter().filter(|(_, other)| *other <= level).max_by_key(|other| key(other));
        let id = |found: Option<&(u32, Level)>| found.map_or(0, |(id, _)| *id);
        let mut changes = Vec::new();
        if id(new_parent) != id(old_parent)
            && let Some((child, level)) = child
        {
            changes.push((*child, id(old_parent), *level));
        }
        changes.push((stream, id(new_parent), level));
        self.open.push((stream, level));
        changes
    }

    /// Forgets a stream that has ended.
    pub(crate) fn remove(&mut self, stream: u32) {
        self.open.retain(|(id, _)| *id != stream);
    }
}
