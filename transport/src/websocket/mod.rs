//! The websocket cover's shell (docs/protocol.md, section 17): how a client gets to an open websocket, the carrier between
//! TLS and the core, and how a bridge tells clients from visitors.

mod carrier;
mod dial;
mod link;
mod serve;

pub(crate) use carrier::ClientCarrier;
pub(crate) use dial::{Known, Occasion, Opened, open};
pub(crate) use serve::{Caller, join, receive};
