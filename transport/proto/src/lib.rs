//! HTX, QNet's cover transport, without I/O.
//!
//! No socket, no task, no clock and no global generator: bytes, instants and a seed come in; bytes and events go
//! out. The wire is described in `docs/protocol.md`; module documentation names its sections.
//!
//! | module | what it holds |
//! |---|---|
//! | [`hello`] | reassembling and reading the two plaintext hellos |
//! | [`token`] | the token in the Encrypted Client Hello: made, and opened |
//! | [`knock`] | the key both sides share after the hellos, the knock, and the tokens that knocked |
//! | [`aead`] | one AEAD under one key |
//! | [`tls`] | TLS 1.3's record protection from traffic secrets |
//! | [`decoy_tls`] | TLS with the decoy after its handshake |
//! | [`http2`] | what Chrome sends over HTTP/2: the page load, HPACK, the last request |
//! | [`chrome`] | what is imitated, as data, with its version and date |
//! | [`noise`] | the inner handshake and the key schedule |
//! | [`record`] | HTX records |
//! | [`frame`] | frames |
//! | [`mux`] | streams with flow control |
//! | [`session`] | what outlives carriers: positions, acknowledgements, who carries what |
//! | [`elsewhere`] | a session in one process, its carriers in another |
//! | [`shape`] | what a carrier's traffic looks like |
//! | [`client`] | the client's carrier |
//! | [`admission`] | who may use a bridge |
//! | [`bridge`] | the bridge's carrier |
//! | [`websocket`] | websockets as Chrome opens them, and as a bridge takes them |
//! | [`carrier`] | the contract both carriers keep with their shell |
#![forbid(unsafe_code)]

pub mod admission;
pub mod aead;
pub mod bridge;
mod buffer;
pub mod carrier;
pub mod chrome;
pub mod client;
pub mod decoy_tls;
pub mod elsewhere;
mod ended;
pub mod frame;
pub mod hello;
pub mod http2;
mod kdf;
pub mod knock;
pub mod mux;
pub mod noise;
pub mod record;
mod scan;
pub mod session;
pub mod shape;
mod sizes;
pub mod tls;
pub mod token;
mod tunnel;
pub mod websocket;

pub use ended::Ended;
