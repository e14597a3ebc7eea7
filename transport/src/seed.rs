//! Randomness from the system, for the generators below this floor.

/// The system's generator failed.
#[derive(Debug, thiserror::Error)]
#[error("this machine's random generator failed ({0}); nothing can be encrypted without it")]
pub struct SeedError(getrandom::Error);

/// 32 bytes from the system's generator.
pub(crate) fn seed() -> Result<[u8; 32], SeedError> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(SeedError)?;
    Ok(seed)
}
