//! nDPI's models of a handshake's bursts.

use crate::capture::{Burst, Way};

/// A ClientHello fills no more packets than this.
const HELLO_PACKETS: usize = 3;

/// The smallest ClientHello of the TLS 1.3 model, bytes.
const HELLO_13: usize = 517;

/// A model of the first four bursts of a handshake: the mean of their bytes, and the inverse of their covariance, of which
/// the upper triangle is written, row by row. The figures are nDPI's, to six digits.
pub(super) struct Model {
    pub(super) name: &'static str,
    pub(super) mean: [f64; 4],
    pub(super) inverse: [f64; 10],
    pub(super) distance: f64,
    pub(super) least: usize,
}

pub(super) const MODELS: [Model; 3] = [
    Model {
        name: "Chrome",
        mean: [1_850.43, 4_903.08, 785.253, 1_051.22],
        inverse: [
            6.72374e-6,
            -2.32110e-8,
            6.67140e-8,
            1.25263e-8,
            5.64669e-7,
            4.58964e-8,
            6.41255e-9,
            6.04058e-7,
            -9.15074e-10,
            1.01185e-7,
        ],
        distance: 3.0,
        least: 0,
    },
    Model {
        name: "TLS 1.3",
        mean: [640.657, 4_649.30, 448.408, 1_094.20],
        inverse: [
            3.08030e-5,
            1.16179e-7,
            1.05357e-7,
            3.88629e-8,
            6.93179e-7,
            2.77413e-8,
            -3.63723e-9,
            1.02610e-6,
            -1.08770e-8,
            8.63308e-8,
        ],
        distance: 3.0,
        least: HELLO_13,
    },
    Model {
        name: "TLS 1.2",
        mean: [212.884, 4_514.71, 107.771, 307.580],
        inverse: [
            2.92421e-4,
            4.43678e-7,
            -5.69966e-5,
            -2.18125e-6,
            5.98955e-7,
            -3.59798e-7,
            5.71638e-7,
            7.68938e-4,
            2.22278e-5,
            5.72770e-5,
        ],
        distance: 3.5,
        least: 0,
    },
];

/// How far four bursts are from a model; nothing where they cannot be a handshake's at all.
pub(super) fn distance(model: &Model, window: &[Burst]) -> Option<f64> {
    let [hello, ..] = window else { return None };
    if hello.way == Way::Down || hello.packets > HELLO_PACKETS || hello.bytes < model.least {
        return None;
    }
    let off: Vec<f64> =
        window.iter().zip(model.mean).map(|(burst, mean)| burst.bytes as f64 - mean).collect();
    let (mut sum, mut entries) = (0.0, model.inverse.iter());
    for (row, one) in off.iter().enumerate() {
        for (column, other) in off.iter().enumerate().skip(row) {
            let weight = if row == column { 1.0 } else { 2.0 };
            sum += weight * one * other * entries.next()?;
        }
    }
    Some(sum.max(0.0).sqrt())
}
