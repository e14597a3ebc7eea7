//! What the tests and the demo share: how an observer on the wire reads what goes by.
#![forbid(unsafe_code)]

pub mod ja4;
