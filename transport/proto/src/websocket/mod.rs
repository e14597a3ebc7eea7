//! Websockets (RFC 6455) as a carrier's outside: opened as Chrome opens them, over HTTP/1.1 or as a stream of HTTP/2
//! (RFC 8441); taken by a bridge behind a web server or a CDN, which turns the latter into the former.
//!
//! | module | what it holds |
//! |---|---|
//! | `channel` | [`Channel`]: the client's end, over either HTTP |
//! | `accept` | [`Accept`]: the bridge's end until it is clear whether this is a client or a visitor; [`Server`] after it |
//! | `client`, `bridge` | [`Client`] and [`Bridge`]: HTX in its messages |
//! | `records` | records, their headers masked, and the first keys |
//! | `upgrade` | the request and its answer |
//! | `messages`, `frame` | messages, what is owed for them, and frames |
//!
//! permessage-deflate is offered, as Chrome offers it, and never used: a server that takes the offer may get messages
//! that are not compressed (RFC 7692, section 6), and one that compresses breaks the connection.

mod accept;
mod bridge;
mod channel;
mod client;
mod error;
mod frame;
mod messages;
mod records;
mod upgrade;

pub use accept::{Accept, Server, Verdict};
pub use bridge::{Bridge, BridgeConfig};
pub use channel::Channel;
pub use client::{Client, Start};
pub use error::WebsocketError;
pub use frame::{FrameError, MAX_MESSAGE};

#[cfg(test)]
mod tests;
