//! Randomness from the operating system.

use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng as _;
use std::io;

/// A generator with a fresh seed.
///
/// # Errors
/// The operating system gives none.
pub(crate) fn generator() -> io::Result<ChaCha20Rng> {
    ChaCha20Rng::try_from_rng(&mut getrandom::SysRng).map_err(io::Error::other)
}
