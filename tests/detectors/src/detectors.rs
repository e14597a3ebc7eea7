//! The detectors.

pub mod cells;
pub mod encrypted;
pub mod nested;

use crate::detector::Detector;

/// All of them, by number.
#[must_use]
pub fn all() -> Vec<Box<dyn Detector>> {
    vec![Box::new(encrypted::FullyEncrypted), Box::new(nested::Nested), Box::new(cells::Cells)]
}
