//! Both carriers as a whole: client, bridge and a simulated decoy in virtual time, over links that delay, cut and join
//! as a seed says, and with an attacker on the wire between client and bridge.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]
#![allow(clippy::cast_possible_truncation, reason = "patterns and small numbers")]

mod attacks;
mod counted;
mod decoy;
mod hellos;
mod honest;
mod invited;
mod options;
mod records;
mod shapes;
mod standstill;
mod strangers;
mod user;
mod world;
