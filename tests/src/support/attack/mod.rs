//! A censor's attacks on a tunnel that is there: what is done to it, what the wire shows of it, and what it shows of the same done to a
//! visit to the decoy.

pub mod held;
pub mod refusal;
pub mod stage;
pub mod standstill;
pub mod visit;
