//! The client's TLS handshake with the decoy (docs/protocol.md, sections 1 and 2).
//!
//! A BoringSSL client, set up as Chrome sets it up ([`chrome`]), handshakes over a pair of buffers; this module moves
//! the bytes between those buffers and the socket, because what goes out, and in which write, is part of what an
//! observer sees:
//!
//! 1. The ClientHello goes out in one write. Its Encrypted Client Hello is real, made for the bridge's key.
//! 2. The decoy's records go in one at a time, so that nothing after its Finished is ever consumed.
//! 3. The certificate is checked against the decoy's name, which is the ECHConfig's public name.
//! 4. ChangeCipherSpec and Finished go out in one write. BoringSSL then reports that ECH was not accepted, as it must,
//!    and writes an `ech_required` alert: that write is thrown away. A client that had sent GREASE, as Chrome does to
//!    a site without ECH, would send nothing there.
//! 5. The traffic secrets, from the key log callback, and the record counts are what the caller goes on with;
//!    BoringSSL's state is freed.
//!
//! The websocket cover hides nothing in its hellos: [`connect`] makes them as Chrome's with GREASE in place of ECH, and
//! BoringSSL stays.
//!
//! Where the handshake fails, what BoringSSL writes (an alert) goes out first, as Chrome's would, and the caller closes.

pub mod chrome;
mod engine;
mod error;
#[expect(unsafe_code, reason = "calls of BoringSSL's C API that the safe wrapper lacks")]
mod ffi;
mod handshake;
mod keylog;
mod plain;
mod roots;
mod tickets;
pub(crate) mod wire;

pub use error::{HandshakeError, RootsError};
pub(crate) use handshake::handshake_with_any_issuer;
pub use handshake::{Certificate, Handshake, MAX_SERVER_FLIGHT, handshake};
pub use plain::{Connected, Purpose, Tls, connect};
pub use roots::{Roots, authorities};
pub use tickets::Ticket;

/// Whether this machine has AES instructions: what Chrome's GREASE goes by when it chooses the cipher of its ECH, and so
/// what [`qnet_proto::token::offer`] has to be told.
pub fn aes_hardware() -> bool {
    ffi::has_aes_hardware()
}
