//! What is imitated, as data, with its version and the date it was captured.
//!
//! Captured from Debian's Chromium 156, headless, against nginx over loopback, and decrypted with its key log. Where
//! headless Chromium on Linux is known to differ from Chrome with a window on Windows (user agent, brands, platform),
//! the profile holds the latter: Chrome's brand list for a version follows from its number, by the rule in its source
//! (`components/embedder_support/user_agent_utils.cc`), which gives Chromium's captured one too.
//!
//! The vectors in `tests/vectors/chrome156` are the captures; a test builds the same requests from this data.

use std::time::Duration;

/// One browser, as far as its HTTP/2 shows.
#[derive(Debug, Clone, Copy)]
pub struct Profile {
    /// The browser imitated.
    pub product: &'static str,
    /// What was captured, and on which day.
    pub captured: &'static str,
    /// SETTINGS, in order.
    pub settings: &'static [(u16, u32)],
    /// The connection's WINDOW_UPDATE that follows SETTINGS, in bytes.
    pub connection_increment: u32,
    /// `user-agent`.
    pub user_agent: &'static str,
    /// `sec-ch-ua`.
    pub brands: &'static str,
    /// `sec-ch-ua-mobile`.
    pub mobile: &'static str,
    /// `sec-ch-ua-platform`.
    pub platform: &'static str,
    /// `accept-encoding`.
    pub accept_encoding: &'static str,
    /// `accept-language`.
    pub accept_language: &'static str,
    /// `accept` of a navigation.
    pub accept_document: &'static str,
    /// `accept` of an image and of the icon.
    pub accept_image: &'static str,
    /// `accept` of a style sheet.
    pub accept_style: &'static str,
    /// The fields that open a websocket, in order; HTTP/2 (RFC 8441) leaves out those of one connection.
    pub websocket: &'static [(&'static str, Part)],
    /// The HEADERS weight of each priority, most urgent first, as on the wire plus one.
    pub weights: [u16; 5],
    /// Images of a document that are `Low`; those after them are `Lowest`.
    pub early_images: usize,
    /// Requests of `Low` and less in flight while scripts in the head are awaited.
    pub early_limit: usize,
    /// The same, once they have come.
    pub late_limit: usize,
    /// The pauses between the steps of a load.
    pub pauses: Pauses,
    /// From the last answer of a load to the websocket that a page's script opens.
    pub websocket_pause: (Duration, Duration),
    /// A connection that was silent for so long is tried with a PING just before it is used.
    pub ping_after: Duration,
    /// How long a connection without requests stays open.
    pub idle: Duration,
}

/// What a field of a websocket's opening holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// These letters, over HTTP/1.1 and HTTP/2.
    Fixed(&'static str),
    /// These letters, over HTTP/1.1 alone.
    Http1(&'static str),
    /// The host; HTTP/2 has it in `:authority`.
    Host,
    /// [`Profile::user_agent`].
    UserAgent,
    /// The page's origin.
    Origin,
    /// [`Profile::accept_encoding`].
    AcceptEncoding,
    /// [`Profile::accept_language`].
    AcceptLanguage,
    /// The cookies, where there are any: over HTTP/1.1 in one field, over HTTP/2 in one each.
    Cookies,
    /// `Sec-WebSocket-Key`, over HTTP/1.1 alone.
    Key,
}

/// How long Chrome takes between the steps of a load. Each pause is drawn uniformly from its range.
#[derive(Debug, Clone, Copy)]
pub struct Pauses {
    /// From the client's Finished to the connection preface: Chrome hands a connection from one part of it to the next between them.
    pub preface: (Duration, Duration),
    /// From the page's last byte to its first subresource.
    pub parse: (Duration, Duration),
    /// From the answers that block the parser (or, where none do, from the burst) to what waited for them.
    pub release: (Duration, Duration),
    /// From the last answer to the icon.
    pub icon: (Duration, Duration),
    /// From the page's last byte to the icon, on a page without subresources.
    pub icon_alone: (Duration, Duration),
}

const fn micros(low: u64, high: u64) -> (Duration, Duration) {
    (Duration::from_micros(low), Duration::from_micros(high))
}

/// Chrome 156 on Windows.
pub static CHROME_156: Profile = Profile {
    product: "Chrome 156 on Windows",
    captured: "Chromium 156.0.8078.79 (Debian 12, headless), 2026-11-21",
    settings: &[(1, 65_536), (2, 0), (4, 6_291_456), (6, 262_144)],
    connection_increment: 15_663_105,
    user_agent: "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) \
                 Chrome/156.0.0.0 Safari/537.36",
    brands: r#""Not:A-Brand";v="8", "Chromium";v="156", "Google Chrome";v="156""#,
    mobile: "?0",
    platform: r#""Windows""#,
    accept_encoding: "gzip, deflate, br, zstd",
    accept_language: "en-US,en;q=0.9",
    accept_document: "text/html,application/xhtml+xml,application/xml;q=0.9,image/jxl,image/avif,image/webp,\
                      image/apng,*/*;q=0.8,application/signed-exchange;v=b3;q=0.7",
    accept_image: "image/jxl,image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8",
    accept_style: "text/css,*/*;q=0.1",
    websocket: &[
        ("Host", Part::Host),
        ("Connection", Part::Http1("Upgrade")),
        ("Pragma", Part::Fixed("no-cache")),
        ("Cache-Control", Part::Fixed("no-cache")),
        ("User-Agent", Part::UserAgent),
        ("Upgrade", Part::Http1("websocket")),
        ("Origin", Part::Origin),
        ("Sec-WebSocket-Version", Part::Fixed("13")),
        ("Accept-Encoding", Part::AcceptEncoding),
        ("Accept-Language", Part::AcceptLanguage),
        ("Cookie", Part::Cookies),
        ("Sec-WebSocket-Key", Part::Key),
        ("Sec-WebSocket-Extensions", Part::Fixed("permessage-deflate; client_max_window_bits")),
    ],
    weights: [256, 220, 183, 147, 110],
    early_images: 5,
    early_limit: 2,
    late_limit: 10,
    pauses: Pauses {
        preface: micros(600, 3_000),
        parse: micros(18_000, 48_000),
        release: micros(400, 9_000),
        icon: micros(18_000, 50_000),
        icon_alone: micros(70_000, 95_000),
    },
    // A page's own choice rather than Chrome's: a script that has its data opens it, so some time after the load.
    websocket_pause: micros(30_000, 600_000),
    ping_after: Duration::from_secs(10),
    idle: Duration::from_secs(300),
};
