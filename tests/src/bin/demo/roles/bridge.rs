//! The bridge: everybody's bytes go to the site; the streams of those who knock go where they want, which is the news here.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use qnet_transport::admission::Admission;
use qnet_transport::bridge::{BridgeConfig, Listener};
use qnet_transport::connect::Connect;
use qnet_wire::key::IdentityKey;
use tokio::io::copy_bidirectional;
use tokio::net::TcpStream;

use super::SITE_NAME;
use crate::actor::say;

pub(super) async fn run(decoy: SocketAddr, news: SocketAddr) -> Result<()> {
    let mut secret = [0; 32];
    boring::rand::rand_bytes(&mut secret)?;
    let identity = IdentityKey::from_bytes(secret);
    let key = identity.public();
    let names = vec![SITE_NAME.parse()?];
    let listen = "127.0.0.1:0".parse()?;
    let mut listener = Listener::bind(BridgeConfig {
        listen,
        identity,
        decoy,
        names,
        admission: Admission::Open,
        connect: Connect::default(),
        profile: qnet_transport::Profile::default(),
        sessions: qnet_transport::bridge::Sessions::default(),
    })?;
    say("key", key)?;
    say("address", listener.local_addr())?;
    loop {
        let mut incoming = listener.accept().await.context("the listener ended")?;
        tokio::spawn(async move {
            let mut tcp = TcpStream::connect(news).await?;
            copy_bidirectional(&mut incoming.stream, &mut tcp).await
        });
    }
}
