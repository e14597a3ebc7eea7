//! The parts of the harness.

pub mod browser;
pub mod ca;
pub mod censor;
pub mod decoy;
pub mod dns;
pub mod flow;
pub mod front;
pub mod hello;
pub mod http2;
pub mod isolate;
pub mod link;
pub mod local_http;
pub mod odd;
pub mod probe;
pub mod process;
pub mod proxy;
pub mod pt;
pub mod site;
pub mod sniff;
pub mod socks;
pub mod strangers;
pub mod talk;
pub mod tap;
pub mod tor;
pub mod tunnel;
pub mod visitor;
