//! The two plaintext hellos: reassembled from records, then read (docs/protocol.md, sections 2 and 3).
//!
//! A bridge forwards every byte before it looks at it, so nothing here answers a peer: what is not understood is a
//! visitor's, and the decoy deals with it. Parsers therefore give `None` and no reason.

mod assembler;
mod client;
mod inner;
mod reader;
mod server;
#[cfg(test)]
pub(crate) mod vectors;

pub use assembler::{Assembler, MAX_MESSAGE, Progress};
pub use client::{ClientHello, Ech, Extension};
pub(crate) use inner::inner_server_name;
pub use server::ServerHello;

/// TLS extension types that are looked at.
mod extension {
    /// RFC 6066, section 3.
    pub(super) const SERVER_NAME: u16 = 0;
    /// RFC 8446, section 4.2.1.
    pub(super) const SUPPORTED_VERSIONS: u16 = 43;
    /// RFC 9849, section 5.
    pub(super) const ENCRYPTED_CLIENT_HELLO: u16 = 0xfe0d;
}
