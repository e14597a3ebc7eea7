//! Speed and memory of pluggable transports, measured beside each other in one run.
//!
//! 1. A plugin pair is started as tor would start it ([`plugin`]); instead of tor's ORPort stands a sink and source
//!    of bytes ([`load`]), so that nothing but the transport is measured.
//! 2. One stream carries many bytes up, then as many down; then fresh processes hold several hundred idle
//!    connections ([`measure`]). What the two processes used is read from `/proc` ([`usage`]).
//! 3. Peers take turns within each round, so that what else the machine does meets all of them.
//! 4. Medians, ranges and ratios become a table ([`report`]).
//!
//! Plain threads and blocking calls throughout: the measurement shares no runtime with what it measures.
#![forbid(unsafe_code)]
#![expect(clippy::disallowed_methods, reason = "there is no executor here that a sleep could block")]

pub mod load;
pub mod measure;
pub mod plugin;
pub mod report;
pub mod socks;
pub mod usage;
