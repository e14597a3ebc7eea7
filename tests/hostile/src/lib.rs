//! What is done with hostile bytes, parser by parser.
//!
//! A body takes any bytes at all and must come back: no panic, no hang, no growth beyond the parser's own bound; what
//! a parser promises (a round trip, the same result however the input was cut) is asserted. libFuzzer drives the
//! bodies by way of `tests/fuzz`; this crate's own test runs them over `seeds/` and over damaged seeds.
//!
//! Where a parser stands behind authentication that an attacker can pass, because a bridge line is public, the body
//! seals the bytes first and so reaches it.
#![forbid(unsafe_code)]
#![expect(clippy::expect_used, clippy::panic, reason = "a broken promise must end the run")]

pub mod carrier;
pub mod held;
pub mod hello;
pub mod http2;
pub mod htx;
pub mod insider;
pub mod mux;
pub mod proxy;
pub mod pt;
pub mod puppet;
pub mod session;
pub mod shape;
pub mod websocket;
pub mod websocket_insider;

use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

/// A parser's body.
pub struct Target {
    /// The target's name: of its file in `tests/fuzz/fuzz_targets/`, of its folder in `seeds/`.
    pub name: &'static str,
    /// What is done with the bytes.
    pub body: fn(&[u8]),
}

/// Every target, by name.
pub const TARGETS: &[Target] = &[
    Target { name: "bridge", body: carrier::bridge },
    Target { name: "bridge_insider", body: insider::bridge },
    Target { name: "bridge_line", body: pt::bridge_line },
    Target { name: "client", body: carrier::client },
    Target { name: "client_hello", body: hello::client },
    Target { name: "client_insider", body: insider::client },
    Target { name: "ech_inner", body: hello::ech_inner },
    Target { name: "env", body: pt::env },
    Target { name: "ext_or", body: pt::ext_or },
    Target { name: "frames", body: htx::frames },
    Target { name: "invited_list", body: pt::invited_list },
    Target { name: "keeper", body: http2::keeper },
    Target { name: "mux_pair", body: mux::pair },
    Target { name: "mux_peer", body: mux::peer },
    Target { name: "noise", body: htx::noise },
    Target { name: "page_load", body: http2::page_load },
    Target { name: "proxy", body: pt::proxy },
    Target { name: "pt_args", body: pt::args },
    Target { name: "proxy_datagram", body: proxy::datagram },
    Target { name: "proxy_http_head", body: proxy::http_head },
    Target { name: "record", body: htx::record },
    Target { name: "server_hello", body: hello::server },
    Target { name: "session_held", body: held::holder },
    Target { name: "session_pair", body: session::pair },
    Target { name: "session_peer", body: session::peer },
    Target { name: "shape_habit", body: shape::habit },
    Target { name: "shape_machine", body: shape::machine },
    Target { name: "shape_profile", body: shape::read },
    Target { name: "socks", body: pt::socks },
    Target { name: "target", body: pt::target },
    Target { name: "tls_record", body: htx::tls_record },
    Target { name: "websocket_bridge", body: websocket_insider::bridge },
    Target { name: "websocket_client", body: websocket_insider::client },
    Target { name: "websocket_http1", body: websocket::http1 },
    Target { name: "websocket_http2", body: websocket::http2 },
    Target { name: "websocket_server", body: websocket::server },
];

/// A generator that gives the same in every run: a crash must repeat.
fn rng() -> ChaCha20Rng {
    ChaCha20Rng::from_seed([7; 32])
}

/// Cuts `data` into pieces whose lengths the first byte chooses: a parser of streams must not care.
fn pieces(data: &[u8]) -> impl Iterator<Item = &[u8]> {
    let (length, rest) =
        data.split_first().map_or((1, data), |(first, rest)| (usize::from(*first) + 1, rest));
    rest.chunks(length)
}
