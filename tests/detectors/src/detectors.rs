//! The detectors.

pub mod cells;
pub mod encrypted;
pub mod handshake;
pub mod hellos;
pub mod nested;
pub mod probing;
pub mod round_trips;

use crate::detector::Detector;

/// All of them, by number.
#[must_use]
pub fn all() -> Vec<Box<dyn Detector>> {
    vec![
        Box::new(encrypted::FullyEncrypted),
        Box::new(probing::Probing),
        Box::new(handshake::AfterHandshake),
        Box::new(hellos::Hellos),
        Box::new(nested::Nested),
        Box::new(cells::Cells),
        Box::new(round_trips::RoundTrips),
    ]
}
