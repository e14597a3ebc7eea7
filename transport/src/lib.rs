//! HTX over tokio: what owns the sockets, the tasks and the timers around [`qnet_proto`].
//!
//! | module | what it holds |
//! |---|---|
//! | [`client`] | dial a bridge, open streams |
//! | [`bridge`] | listen, join clients to the decoy, accept streams |
//! | [`listening`] | the socket it listens on: bound or inherited, with or without a balancer before it |
//! | [`admission`] | who may use a bridge by invitation, in a file |
//! | [`decoy`] | can the site behind a bridge be its decoy? |
//! | [`connect`] | the TCP connection to a bridge, direct or through an upstream proxy |
//! | [`negotiate`] | what a codec is told and answers, before a stream begins |
//! | [`relay`] | copy between a stream and a connection |
//! | [`tls`] | the client's genuine TLS handshake with the decoy: Chrome's ClientHello, the token in it |
//! | [`identity`] | the bridge's key, in a file of its own |
//! | `websocket` | the websocket cover: from the page load to an open websocket, clients and visitors told apart |
#![deny(unsafe_code)] // forbidden in every module but `tls::ffi`, which calls BoringSSL's C API

pub mod admission;
pub mod bridge;
mod budget;
pub mod client;
pub mod connect;
pub mod decoy;
mod descriptors;
mod driver;
mod elsewhere;
pub mod identity;
pub mod listening;
pub mod negotiate;
pub mod relay;
mod seed;
mod session;
mod sessions;
mod stream;
mod timer;
pub mod tls;
mod websocket;

pub use qnet_proto::session::Profile;
pub use qnet_proto::shape::{Counters, Shape};
pub use stream::Stream;
