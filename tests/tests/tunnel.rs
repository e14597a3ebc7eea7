//! A tunnel through a real web server: data both ways, and what the decoy is left with.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result};
use qnet_tests::support::{
    decoy::{self, Decoy, Options, Server},
    isolate::isolated,
};
use qnet_transport::{
    bridge::{BridgeConfig, Listener},
    client::{Dialer, DialerConfig},
    connect::Connect,
    tls::Roots,
};
use qnet_wire::{bridge_line::BridgeLine, key::IdentityKey};
use rand_chacha::{ChaCha20Rng, rand_core::SeedableRng};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// A bridge before `decoy` that answers every stream with what it sent.
async fn echo_bridge(decoy: &Decoy) -> Result<(SocketAddr, BridgeLine)> {
    let identity = IdentityKey::generate(&mut ChaCha20Rng::from_seed([7; 32]));
    let key = identity.public();
    let mut listener = Listener::bind(BridgeConfig {
        listen: "127.0.0.1:0".parse()?,
        identity,
        decoy: decoy.address(),
        names: vec![decoy.name().parse()?],
        invited: Vec::new(),
        connect: Connect::default(),
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
    let line = format!("qnet {address} key={key} sni={}", decoy.name()).parse()?;
    Ok((address, line))
}

fn dialer(decoy: &Decoy) -> Result<Dialer> {
    let roots = Roots::with(Some(&decoy.certificates().ca), None)?;
    Ok(Dialer::new(DialerConfig::new(roots)))
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?)
}

async fn echo(dialer: &Dialer, line: &BridgeLine, bytes: usize) -> Result<()> {
    let tunnel = dialer.dial(line).await?;
    let stream = tunnel.open()?;
    let (mut read, mut write) = tokio::io::split(stream);
    let data: Vec<u8> = (0..bytes).map(|i| (i * 31 % 251).to_le_bytes()[0]).collect();
    let expected = Sha256::digest(&data);
    let writer = tokio::spawn(async move {
        write.write_all(&data).await?;
        write.shutdown().await
    });
    let mut back = Vec::new();
    read.read_to_end(&mut back).await?;
    writer.await??;
    assert_eq!(back.len(), bytes);
    assert_eq!(Sha256::digest(&back), expected);
    Ok(())
}

fn through(server: Server) -> Result<()> {
    runtime()?.block_on(async {
        let decoy = Decoy::start(server, Options { names: vec![decoy::NAME.into()], ..Options::default() })?;
        let (_, line) = echo_bridge(&decoy).await?;
        let dialer = dialer(&decoy)?;
        for bytes in [1, 1_000, 3_000_000] {
            tokio::time::timeout(Duration::from_secs(60), echo(&dialer, &line, bytes))
                .await
                .context("too slow")?
                .with_context(|| format!("{bytes} bytes through {server:?}"))?;
        }
        Ok(())
    })
}

#[test]
fn data_goes_both_ways_through_nginx() -> Result<()> {
    isolated("data_goes_both_ways_through_nginx", || through(Server::Nginx))
}

#[test]
fn data_goes_both_ways_through_apache() -> Result<()> {
    isolated("data_goes_both_ways_through_apache", || through(Server::Apache))
}

#[test]
fn data_goes_both_ways_through_lighttpd_with_gnutls() -> Result<()> {
    isolated("data_goes_both_ways_through_lighttpd_with_gnutls", || through(Server::LighttpdGnutls))
}
