//! What tells Arti, Tor in Rust, of a private network instead of the public one.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Result, ensure};

use super::tor::Network;

/// Arti's configuration for this network, with what it keeps in `folder`: the part that a client and Arti's own program read alike.
///
/// # Errors
/// The network has no authorities.
pub fn config(network: &Network, folder: &Path) -> Result<String> {
    let authorities = network.authorities().split_whitespace();
    let idents: Vec<_> = authorities.filter_map(|word| word.strip_prefix("v3ident=")).collect();
    ensure!(!idents.is_empty(), "a consensus is signed by authorities");
    let mut text = String::new();
    writeln!(text, "[address_filter]\nallow_local_addrs = true")?;
    writeln!(
        text,
        "[storage]\ncache_dir = {:?}\nstate_dir = {:?}",
        folder.join("cache"),
        folder.join("state")
    )?;
    writeln!(text, "[storage.permissions]\ndangerously_trust_everyone = true")?;
    // All relays are at one address.
    writeln!(text, "[path_rules]\nipv4_subnet_family_prefix = 33\nipv6_subnet_family_prefix = 129")?;
    // The directory comes from the bridge, and from nowhere else.
    writeln!(text, "[tor_network]\nfallback_caches = []")?;
    writeln!(
        text,
        "[tor_network.authorities]\nv3idents = {idents:?}\nuploads = []\ndownloads = []\nvotes = []"
    )?;
    Ok(text)
}
