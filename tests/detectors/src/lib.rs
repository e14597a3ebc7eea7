//! The detectors' lab: what a censor would run against QNet, run by ourselves beside plain TLS and obfs4.
//!
//! 1. The lab makes its own captures ([`stage`]): a client, a wire with a delay ([`qnet_tests::support::link`]) and a
//!    server, all on loopback; through the wire goes a transport ([`transport`]) with a load in it ([`load`]).
//! 2. A capture keeps what a censor beside the client can see ([`capture`]): the TCP segments that client and server sent, by a
//!    tap ([`qnet_tests::support::sniff`]), the TLS records in them, and the first bytes.
//! 3. A detector ([`detector`]) says its source and its thresholds before anything is measured, and judges captures. It
//!    must flag its positive control and must not flag its negative control; else it proves nothing and has failed.
//! 4. Verdicts are data ([`report`]): a table, JSON, and a page with plots.
//!
//! Plain threads and blocking calls, but for the TLS tunnel that is a control and no product.
#![forbid(unsafe_code)]
#![expect(clippy::disallowed_methods, reason = "there is no executor here that a sleep could block")]

pub mod capture;
pub mod detector;
pub mod detectors;
pub mod load;
mod obfs4;
pub mod programs;
pub mod report;
pub mod stage;
pub mod stats;
pub mod transport;
mod tunnel;
