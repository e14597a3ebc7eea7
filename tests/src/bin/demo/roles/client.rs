//! The client: dials the bridge, fetches the page through a stream of its tunnel, and closes when told to.

use std::fs;
use std::future::pending;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use qnet_transport::client::{Dialer, DialerConfig};
use qnet_transport::tls::Roots;
use qnet_wire::bridge_line::BridgeLine;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;

use super::{AUTHORITY, NEWS_NAME, RECEIVED, head_length, sha256};
use crate::actor::say;

pub(super) async fn run(line: &BridgeLine, folder: &Path, close: &Notify) -> Result<()> {
    let dialer = Dialer::new(DialerConfig::new(Roots::with(Some(&folder.join(AUTHORITY)), None)?));
    let begun = Instant::now();
    let tunnel = dialer.dial(line).await?;
    tunnel.established().await?;
    say("tunnel", begun.elapsed().as_millis())?;

    let begun = Instant::now();
    let mut stream = tunnel.open()?;
    let request = format!("GET / HTTP/1.1\r\nHost: {NEWS_NAME}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    stream.shutdown().await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.context("the page broke off")?;
    let head = head_length(&answer).context("what came is no answer of HTTP")?;
    let (head, page) = answer.split_at(head);
    ensure!(head.starts_with(b"HTTP/1.1 200 "), "the answer is not a page");
    fs::write(folder.join(RECEIVED), page)?;
    say("page", format_args!("{} {}", sha256(page), begun.elapsed().as_millis()))?;
    say("payload", format_args!("{} {}", request.len(), answer.len()))?;

    close.notified().await;
    drop((stream, tunnel));
    // The connection closes in order, in a task of the tunnel's; this process ends when its parent says so.
    pending().await
}
