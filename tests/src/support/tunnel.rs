//! A bridge and a dialer of this process, for tests that want no programs between.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::Result;
use qnet_transport::bridge::{BridgeConfig, Listener};
use qnet_transport::client::{Dialer, DialerConfig};
use qnet_transport::connect::Connect;
use qnet_transport::tls::Roots;
use qnet_wire::bridge_line::BridgeLine;
use qnet_wire::key::IdentityKey;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;
use tokio::io::AsyncWriteExt;

use super::decoy::Decoy;

/// A bridge before `decoy` that answers every stream with what it sent, and its line.
///
/// # Errors
/// No port can be had.
pub async fn echo_bridge(decoy: &Decoy) -> Result<(SocketAddr, BridgeLine)> {
    echo_bridge_before(decoy.address(), decoy.name()).await
}

/// The same before any server.
///
/// # Errors
/// No port can be had.
pub async fn echo_bridge_before(decoy: SocketAddr, name: &str) -> Result<(SocketAddr, BridgeLine)> {
    let identity = IdentityKey::generate(&mut ChaCha20Rng::from_seed([7; 32]));
    let key = identity.public();
    let mut listener = Listener::bind(BridgeConfig {
        listen: "127.0.0.1:0".parse()?,
        identity,
        decoy,
        names: vec![name.parse()?],
        invited: Vec::new(),
        connect: Connect::default(),
        profile: qnet_transport::Profile::default(),
    })?;
    let address = listener.local_addr();
    tokio::spawn(async move {
        while let Some(incoming) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = tokio::io::split(incoming.stream);
                tokio::io::copy(&mut read, &mut write).await?;
                write.shutdown().await
            });
        }
    });
    let line = format!("qnet {address} key={key} sni={name}").parse()?;
    Ok((address, line))
}

/// What dials with the decoy's CA among its roots.
///
/// # Errors
/// The CA's certificate cannot be read.
pub fn dialer(decoy: &Decoy) -> Result<Dialer> {
    dialer_with(&decoy.certificates().ca)
}

/// The same with a CA's certificate of one's own.
///
/// # Errors
/// It cannot be read.
pub fn dialer_with(ca: &Path) -> Result<Dialer> {
    let roots = Roots::with(Some(ca), None)?;
    Ok(Dialer::new(DialerConfig::new(roots)))
}

/// A runtime with two threads.
///
/// # Errors
/// The system gives no threads.
pub fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?)
}
