//! What the end-to-end tests share: real servers as decoys, a private Tor network, a censor's toolbox, and
//! probes that are played against a bridge and against its decoy.
//!
//! Everything here is blocking code on plain threads, so that the harness shares no runtime with what it tests.
//! Nothing leaves the machine: a test runs inside namespaces of its own (see [`support::isolate`]).
#![forbid(unsafe_code)]
#![allow(
    clippy::disallowed_methods,
    reason = "the harness owns its clock, and no executor for a sleep to block"
)]

pub mod ja4;
pub mod support;
