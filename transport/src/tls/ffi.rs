//! The calls of BoringSSL's C API that the safe wrapper lacks. The only unsafe code of this crate.

use std::ffi::c_int;

use boring::error::ErrorStack;
use boring::ssl::{SslContextBuilder, SslRef};

use super::tickets::Ticket;
use foreign_types::ForeignTypeRef as _;

fn check(result: c_int) -> Result<(), ErrorStack> {
    if result == 1 { Ok(()) } else { Err(ErrorStack::get()) }
}

/// Sends the `trust_anchors` extension with `ids`: a series of ids, each with one byte of length before it.
pub(super) fn request_trust_anchors(context: &mut SslContextBuilder, ids: &[u8]) -> Result<(), ErrorStack> {
    // SAFETY: `as_ptr` is a live SSL_CTX that `context` owns and that we borrow mutably; BoringSSL reads
    // `ids.len()` bytes at `ids` and copies them before it returns.
    check(unsafe {
        boring_sys::SSL_CTX_set1_requested_trust_anchors(context.as_ptr(), ids.as_ptr(), ids.len())
    })
}

/// Offers application settings (ALPS) for `protocol`, ours being empty, under the code point that Chrome uses.
pub(super) fn offer_application_settings(ssl: &mut SslRef, protocol: &str) -> Result<(), ErrorStack> {
    let protocol = protocol.as_bytes();
    let settings: &[u8] = &[];
    // SAFETY: `as_ptr` is a live SSL that we borrow mutably; BoringSSL reads `protocol.len()` bytes at `protocol` and
    // none at `settings`, whose pointer is aligned and not null, and copies what it read before it returns.
    check(unsafe {
        boring_sys::SSL_add_application_settings(
            ssl.as_ptr(),
            protocol.as_ptr(),
            protocol.len(),
            settings.as_ptr(),
            settings.len(),
        )
    })?;
    // SAFETY: `as_ptr` is a live SSL that we borrow mutably, still before its handshake; the call sets one flag in it.
    unsafe { boring_sys::SSL_set_alps_use_new_codepoint(ssl.as_ptr(), 1) };
    Ok(())
}

/// Whether the server asked for a client certificate (RFC 8446, section 4.3.2), while its handshake is not freed: until `ssl`
/// has completed one, which a client whose ECH is rejected never does.
pub(super) fn wants_client_certificate(ssl: &SslRef) -> bool {
    // SAFETY: `as_ptr` is a live SSL that we borrow; BoringSSL reads it and returns a pointer that we only compare.
    // It is null without a CertificateRequest and a list, which may be empty, with one.
    unsafe { !boring_sys::SSL_get0_server_requested_CAs(ssl.as_ptr()).is_null() }
}

/// Offers to resume `ticket`'s session. One from another context is not offered.
pub(super) fn resume(ssl: &mut SslRef, ticket: &Ticket) -> Result<(), ErrorStack> {
    if ssl.ssl_context().as_ptr() != ticket.context.as_ptr() {
        return Ok(());
    }
    // SAFETY: the session was made by a connection of the same context, as the pointers show: the ticket holds a reference
    // to its context, so that no other can have taken its place in memory.
    unsafe { ssl.set_session(&ticket.session) }
}

/// Whether this machine has AES instructions, as BoringSSL sees it.
pub(super) fn has_aes_hardware() -> bool {
    // SAFETY: no arguments, no preconditions; it reads what BoringSSL noted about the CPU when it was loaded.
    unsafe { boring_sys::EVP_has_aes_hardware() != 0 }
}
