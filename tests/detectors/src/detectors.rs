//! The detectors.

pub mod cells;
pub mod encrypted;
pub mod handshake;
pub mod hellos;
pub mod nested;
pub mod probing;
pub mod redirection;
pub mod replay;
pub mod round_trips;
pub mod websites;

use crate::detector::Detector;

/// All of them, by number.
#[must_use]
pub fn all() -> Vec<Box<dyn Detector>> {
    let mut all = without_visits();
    all.push(Box::new(websites::Websites));
    all
}

/// All but the one that needs hundreds of visits and a Python of its own.
#[must_use]
pub fn without_visits() -> Vec<Box<dyn Detector>> {
    vec![
        Box::new(encrypted::FullyEncrypted),
        Box::new(probing::Probing),
        Box::new(replay::Replay),
        Box::new(handshake::AfterHandshake),
        Box::new(redirection::Redirection),
        Box::new(hellos::Hellos),
        Box::new(nested::Nested),
        Box::new(cells::Cells),
        Box::new(round_trips::RoundTrips),
    ]
}
