//! `fetch` by the other way in: no port, and Arti's experimental interface.
use anyhow::{Context as _, Result};
use arti_client::TorClient;
use arti_client::config::TorClientConfigBuilder;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

#[tokio::main]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let line = arguments.next().context("which bridge?")?;
    let host = arguments.next().context("which host and port?")?;
    let path = arguments.next().context("which path?")?;
    let mut config: TorClientConfigBuilder = match arguments.next() {
        Some(file) => toml::from_str(&std::fs::read_to_string(file)?)?,
        None => TorClientConfigBuilder::default(),
    };
    // What Arti speaks to relays by. A program with other TLS needs no such line.
    boring_rustls_provider::provider().install_default().ok().context("another provider is there")?;
    qnet_arti::add_bridges(&mut config, &[line])?;
    let builder = TorClient::builder().config(config.build()?);
    let tor = qnet_arti::bootstrap(builder, qnet_arti::dialer()?).await?;
    let mut stream = tor.connect(host.as_str()).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    stream.flush().await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    tokio::io::stdout().write_all(&answer).await?;
    Ok(())
}
