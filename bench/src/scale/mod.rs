//! How cost grows: with connections, with streams in a session, with the size of writes.
//!
//! 1. In a network namespace of its own one bridge stands before nginx, with an echo behind it ([`far`]); a process by itself is the load
//!    ([`generator`]), which holds every session by the transport's own interface ([`lab`]).
//! 2. Connections are added step by step ([`ladder`]); at each step the same load in total is shared among all of them.
//! 3. One session gets more and more streams, and one stream is written to in pieces of other sizes, beside a plain relay ([`streams`]).
//! 4. Figures are data (JSON), tables and plots ([`page`]), and judged ([`goals`]).

pub mod far;
pub mod figures;
pub mod generator;
pub mod goals;
pub mod lab;
pub mod ladder;
mod many;
pub mod page;
pub mod streams;

use serde::{Deserialize, Serialize};

/// All figures of a run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Outcome {
    /// What was measured on.
    pub machine: String,
    /// Connections: with streams that stay, and with one for each message.
    pub ladders: Vec<ladder::Ladder>,
    /// Streams.
    pub streams: Vec<streams::Streams>,
    /// Writes.
    pub writes: Vec<streams::Writes>,
}
