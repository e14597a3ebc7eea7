//! The parts of the harness.

pub mod isolate;
pub mod local_http;
pub mod process;
pub mod pt;
pub mod socks;
pub mod tor;
