//! What censors' programs take for a TLS handshake inside a tunnel, to be kept clear of.

/// A model of the bytes in four bursts, the client's first.
struct Model {
    means: [f64; 4],
    /// The inverse of their covariance.
    inverse: [[f64; 4]; 4],
    /// The Mahalanobis distance below which a tunnel is taken for one.
    limit: f64,
    /// The first burst's least length.
    least: f64,
}

/// nDPI's, for Chrome, Firefox with TLS 1.3, and Firefox with TLS 1.2 (`src/lib/protocols/tls.c`, 2025, after Xue et al., USENIX Security
/// 2024).
const MODELS: [Model; 3] = [
    Model {
        means: [1_850.430, 4_903.077, 785.253, 1_051.223],
        inverse: [
            [6.723_744e-6, -2.321_096e-8, 6.671_400e-8, 1.252_632e-8],
            [-2.321_096e-8, 5.646_689e-7, 4.589_636e-8, 6.412_547e-9],
            [6.671_400e-8, 4.589_636e-8, 6.040_578e-7, -9.150_743e-10],
            [1.252_632e-8, 6.412_547e-9, -9.150_743e-10, 1.011_848e-7],
        ],
        limit: 3.0,
        least: 0.0,
    },
    Model {
        means: [640.657, 4_649.303, 448.408, 1_094.201],
        inverse: [
            [3.080_303e-5, 1.161_792e-7, 1.053_567e-7, 3.886_288e-8],
            [1.161_792e-7, 6.931_791e-7, 2.774_132e-8, -3.637_232e-9],
            [1.053_567e-7, 2.774_132e-8, 1.026_095e-6, -1.087_698e-8],
            [3.886_288e-8, -3.637_232e-9, -1.087_698e-8, 8.633_078e-8],
        ],
        limit: 3.0,
        least: 517.0,
    },
    Model {
        means: [212.884, 4_514.712, 107.771, 307.580],
        inverse: [
            [2.924_211e-4, 4.436_776e-7, -5.699_661e-5, -2.181_247e-6],
            [4.436_776e-7, 5.989_550e-7, -3.597_984e-7, 5.716_382e-7],
            [-5.699_661e-5, -3.597_984e-7, 7.689_379e-4, 2.222_785e-5],
            [-2.181_247e-6, 5.716_382e-7, 2.222_785e-5, 5.727_701e-5],
        ],
        limit: 3.5,
        least: 0.0,
    },
];

/// Whether four bursts come nearer to a model than its limit, times `margin`.
pub(super) fn matches(bursts: [f64; 4], margin: f64) -> bool {
    MODELS.iter().any(|Model { means, inverse, limit, least }| {
        let mut off = [0.0; 4];
        for ((off, burst), mean) in off.iter_mut().zip(bursts).zip(means) {
            *off = burst - mean;
        }
        let squared: f64 = inverse
            .iter()
            .zip(off)
            .map(|(row, a)| row.iter().zip(off).map(|(cell, b)| a * cell * b).sum::<f64>())
            .sum();
        bursts[0] >= *least && squared.max(0.0).sqrt() < limit * margin
    })
}
