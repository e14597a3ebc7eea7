//! A bridge and a dialer of this process, for tests that want no programs between.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use qnet_transport::admission::Admission;
use qnet_transport::bridge::{BridgeConfig, Listener, WebsocketBridgeConfig};
use qnet_transport::client::{Dialer, DialerConfig};
use qnet_transport::connect::Connect;
use qnet_transport::tls::Roots;
use qnet_wire::bridge_line::BridgeLine;
use qnet_wire::key::IdentityKey;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;
use tokio::io::AsyncWriteExt;

use super::decoy::{Decoy, NAME};
use super::front::{self, Front};
use super::process::free_address;

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
    let (listener, line) = listener_before(decoy, name)?;
    let address = listener.local_addr();
    tokio::spawn(echo_all(listener));
    Ok((address, line))
}

/// A bridge before any server, whose streams are the test's to take, and its line.
///
/// # Errors
/// No port can be had.
pub fn listener_before(decoy: SocketAddr, name: &str) -> Result<(Listener, BridgeLine)> {
    let identity = IdentityKey::generate(&mut ChaCha20Rng::from_seed([7; 32]));
    let key = identity.public();
    let listener = Listener::bind(BridgeConfig {
        listen: "127.0.0.1:0".parse()?,
        identity,
        decoy,
        names: vec![name.parse()?],
        admission: Admission::Open,
        connect: Connect::default(),
        profile: qnet_transport::Profile::default(),
        sessions: qnet_transport::bridge::Sessions::default(),
    })?;
    let line = format!("qnet {} key={key} sni={name}", listener.local_addr()).parse()?;
    Ok((listener, line))
}

async fn echo_all(mut listener: Listener) {
    while let Some(incoming) = listener.accept().await {
        tokio::spawn(async move {
            let (mut read, mut write) = tokio::io::split(incoming.stream);
            tokio::io::copy(&mut read, &mut write).await?;
            write.shutdown().await
        });
    }
}

/// A bridge under the websocket cover behind a front, which answers every stream with what it sent.
pub struct EchoWebsocket {
    /// What stands in front.
    pub front: Front,
    /// The bridge's line, with the front's address.
    pub line: BridgeLine,
    /// What dials it.
    pub dialer: Dialer,
}

/// Such a bridge at this path.
///
/// # Errors
/// No port can be had, or the front does not start.
pub fn echo_websocket(server: front::Server, path: &str, idle: Duration) -> Result<EchoWebsocket> {
    let identity = IdentityKey::generate(&mut ChaCha20Rng::from_seed([7; 32]));
    let key = identity.public();
    let listen = free_address()?;
    let front = Front::start(server, front::Options { idle, ..front::Options::new(path, listen) })?;
    let url = format!("https://{NAME}{path}");
    let listener = Listener::bind_websocket(WebsocketBridgeConfig {
        listen,
        identity,
        url: url.parse()?,
        site: Some(front.site()),
        forwarded: false,
        connect: Connect::default(),
        profile: qnet_transport::Profile::default(),
        sessions: qnet_transport::bridge::Sessions::default(),
    })?;
    tokio::spawn(echo_all(listener));
    let line = format!("qnet {} key={key} url={url}", front.address()).parse()?;
    let dialer = dialer_with(&front.certificates().ca)?;
    Ok(EchoWebsocket { front, line, dialer })
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
