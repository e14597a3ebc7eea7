//! QNet's ground floor: what every other crate has to agree on, without I/O.
//!
//! | module | what it holds |
//! |---|---|
//! | [`bridge_line`] | the line a bridge operator gives to a user |
//! | [`error`] | who is at fault, and whether trying again helps |
//! | [`invitation`] | what invited clients prove themselves by, and the bridge's list of them |
//! | [`key`] | a bridge's identity: the secret half, the public half, the file it is kept in |
//! | [`name`] | host names that may stand in a TLS server name |
//! | [`proxy`] | what a TCP balancer says of whose connection it is |
//! | [`redact`] | values that must not reach a log |
//! | [`target`] | what a stream says first where no tor stands behind the bridge: where to |
//! | [`url`] | the address of a websocket bridge |
#![forbid(unsafe_code)]

pub mod bridge_line;
pub mod error;
pub mod invitation;
pub mod key;
pub mod name;
pub mod proxy;
pub mod redact;
pub mod target;
pub mod url;
