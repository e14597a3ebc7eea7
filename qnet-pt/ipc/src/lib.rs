//! The pluggable transport protocol, version 1, without I/O: what a managed transport reads from
//! its environment, the lines it writes to its parent, the SOCKS5 it speaks with it, and the
//! Extended ORPort it speaks to a bridge.
//!
//! Nothing here opens a socket, reads a clock or draws randomness by itself: bytes, variables and a
//! generator come in; bytes, lines and events go out.
//!
//! Sources: the pluggable transport specification (`pt-spec`), the Extended ORPort specification
//! (`ext-orport-spec`), RFC 1928, RFC 1929, and what C tor 0.4.9 and Arti 2.7 send and accept.
#![forbid(unsafe_code)]

pub mod args;
pub mod env;
pub mod extor;
pub mod line;
pub mod socks;
pub mod upstream;
