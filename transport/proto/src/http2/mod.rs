//! HTTP/2 as Chrome speaks it: the page load that ends with the knock, and what the bridge says to the decoy after
//! HANDOVER (docs/protocol.md, sections 4 and 10).
//!
//! | module | what it holds |
//! |---|---|
//! | `page` | [`PageLoad`]: the client's side, from the preface to the knock |
//! | `extended` | the websocket after a load, as a stream of its connection (RFC 8441) |
//! | `keeper` | [`Keeper`]: the bridge's requests to the decoy |
//! | `request`, `knocking` | header lists in Chrome's order; the last request with room for the knock |
//! | `html`, `url`, `body`, `cookies` | what a page asks for, and what goes with the requests |
//! | `connection`, `send`, `frame` | frames, what every connection owes its peer, and the peer's windows |
//! | `encode`, `decode`, `table`, `huffman` | HPACK, outward as Chrome's encoder |

mod body;
mod connection;
mod cookies;
mod decode;
mod encode;
mod error;
mod extended;
mod frame;
#[cfg(test)]
mod hpack_tests;
mod html;
mod huffman;
mod keeper;
mod knocking;
mod page;
mod plan;
mod request;
mod send;
mod table;
#[cfg(test)]
pub(crate) mod testing;
mod url;
#[cfg(test)]
mod vectors;

pub use decode::HpackError;
pub use error::LoadError;
pub use keeper::{Keeper, KeeperError};
pub use page::{Answer, Output, PageLoad};
