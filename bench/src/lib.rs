//! Speed and memory of pluggable transports and other tunnels, measured beside each other in one run.
//!
//! 1. A client and a bridge are started, pluggable transports as tor would ([`plugin`]), the rest by their own settings
//!    ([`peers`]); to the load each is a [`pair`] with an entrance. Behind the bridge stands a sink and source of bytes
//!    ([`load`]), so that nothing but the transport is measured.
//! 2. One stream carries many bytes up, then as many down; then fresh processes hold several hundred idle
//!    connections ([`measure`]); for peers there are many streams at once and short ones, too ([`streams`]). What the two
//!    processes used is read from the kernel ([`usage`]).
//! 3. Peers take turns within each round, so that what else the machine does meets all of them.
//! 4. One stream goes over long paths, beside plain TCP ([`slow`]).
//! 5. Streams without end go through a bridge, and nothing may be lost, stick or creep ([`soak`]).
//! 6. Medians, ranges and ratios become a table ([`report`]).
//!
//! Plain threads and blocking calls: the measurement shares no runtime with what it measures. Where ten thousands of connections are
//! the load it is a process by itself, with a runtime of its own ([`scale`]).
#![forbid(unsafe_code)]
#![expect(clippy::disallowed_methods, reason = "there is no executor here that a sleep could block")]

pub mod goals;
pub mod limit;
pub mod load;
pub mod measure;
pub mod pair;
pub mod peers;
pub mod plugin;
pub mod report;
pub mod scale;
pub mod slow;
pub mod soak;
pub mod socks;
pub mod streams;
pub mod usage;
