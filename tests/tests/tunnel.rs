//! A tunnel through a real web server: data both ways, and what the decoy is left with.

use std::time::Duration;

use anyhow::{Context, Result};
use qnet_tests::support::decoy::{Decoy, NAME, Options, Server};
use qnet_tests::support::isolate::isolated;
use qnet_tests::support::odd::{OddServer, Quirk};
use qnet_tests::support::tunnel::{dialer, dialer_with, echo_bridge, echo_bridge_before, runtime};
use qnet_transport::client::{DialError, Dialer};
use qnet_wire::bridge_line::BridgeLine;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

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
        let decoy = Decoy::start(server, Options::default())?;
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

#[test]
fn a_decoy_that_refuses_padding_is_learned_of() -> Result<()> {
    isolated("a_decoy_that_refuses_padding_is_learned_of", || {
        runtime()?.block_on(async {
            let decoy = OddServer::start(Quirk::RefusesPadding, NAME)?;
            let (_, line) = echo_bridge_before(decoy.address(), NAME).await?;
            let dialer = dialer_with(&decoy.certificates().ca)?;
            let refused = dialer.dial(&line).await.err().context("padding was taken")?;
            assert!(matches!(refused, DialError::Tunnel(qnet_proto::Ended::NoProof)), "{refused}");
            echo(&dialer, &line, 10_000).await?;
            echo(&dialer, &line, 10_000).await
        })
    })
}
