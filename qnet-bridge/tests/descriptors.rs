//! A bridge to which more connections come than it may have files open.
#![forbid(unsafe_code)]

mod support;

use anyhow::{Result, ensure};
use qnet_tests::support::{isolate::isolated, tunnel::runtime};
use qnet_wire::target::Answer;
use support::{Bridge, ask, echo, echoes};
use tokio::net::TcpStream;

/// Files that it may have open: 112 connections then, at three each and some besides.
const FILES: u64 = 400;
/// Connections that come. At two files each they would be more than all.
const CROWD: usize = 300;
/// Streams that a client who is there opens meanwhile.
const STREAMS: usize = 60;

#[test]
fn streams_find_descriptors_when_connections_find_none() -> Result<()> {
    isolated("streams_find_descriptors_when_connections_find_none", || {
        runtime()?.block_on(async {
            let echo = echo().await?;
            let policy =
                format!("exit-policy = [\"accept 127.0.0.1:{}\"]\nallow-special = true", echo.port());
            let bridge = Bridge::limited(FILES, &policy)?;
            let tunnel = bridge.dial().await?;
            tunnel.established().await.map_err(|why| anyhow::anyhow!("{why}"))?;
            let mut crowd = Vec::new();
            for _ in 0..CROWD {
                crowd.push(TcpStream::connect(bridge.line.address).await?);
            }
            bridge.logs("112 connections are open, as many as the limit of open files")?;
            let mut streams = Vec::new();
            for number in 0..STREAMS {
                let (stream, said) = ask(&tunnel, &echo.to_string()).await?;
                ensure!(said == Answer::Connected, "stream {number}: {said:?}");
                streams.push(stream);
            }
            for stream in &mut streams {
                echoes(stream, b"there is room").await?;
            }
            drop(crowd);
            let another = bridge.dial().await?;
            let (mut stream, said) = ask(&another, &echo.to_string()).await?;
            ensure!(said == Answer::Connected, "{said:?}");
            echoes(&mut stream, b"and again").await?;
            let log = bridge.log()?;
            ensure!(!log.contains("cannot accept"), "{log}");
            ensure!(log.matches("others wait").count() == 1, "{log}");
            Ok(())
        })
    })
}
