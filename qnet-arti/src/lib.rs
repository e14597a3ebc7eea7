//! QNet's transport inside a process that embeds Arti: no child process, no program to install.
//!
//! Two ways lead to the same bridges:
//!
//! - [`serve`], by Arti's stable interfaces: a SOCKS port on loopback, which Arti takes for an unmanaged pluggable transport. It
//!   serves the bridges it was given, and nothing else, for as long as the [`Door`] lives.
//! - with the feature `manager`, [`bootstrap`]: the transport as Arti's manager of pluggable transports. No port is opened. Arti
//!   calls this interface experimental: it may change with any release.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use arti_client::{TorClient, TorClientConfig};
//!
//! let mut config = TorClientConfig::builder();
//! let line = "Bridge qnet 192.0.2.7:443 <fingerprint> key=… sni=www.example.com";
//! let _door = qnet_arti::serve(&mut config, &[line], qnet_arti::dialer()?).await?;
//! let tor = TorClient::create_bootstrapped(config.build()?).await?;
//! let stream = tor.connect(("example.com", 80)).await?;
//! # Ok(()) }
//! ```
//!
//! Arti, unlike tor, takes no bridge's line without a fingerprint.

mod bridges;
mod door;
#[cfg(feature = "manager")]
mod gate;
#[cfg(feature = "manager")]
mod manager;

pub use self::bridges::{Error, dialer};
pub use self::door::{Door, serve};
#[cfg(feature = "manager")]
pub use self::manager::{Wire, add_bridges, bootstrap};
