//! The censor's active attacks: what he gets from a client or a bridge is what a browser or the decoy would give him, and what
//! travels in a tunnel is never delivered wrong.
#![allow(clippy::disallowed_methods, reason = "a test owns its clock, and blocks only threads of its own")]

mod delay;
mod knocks;
mod redirect;
mod stolen;
mod tamper;
mod withheld;
