//! Fetches a page over Tor through a QNet bridge, without any other program:
//! `cargo run --example fetch -- 'Bridge qnet 192.0.2.7:443 … key=… sni=…' example.com / [arti.toml]`
use anyhow::{Context as _, Result};
use arti_client::TorClient;
use arti_client::config::TorClientConfigBuilder;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

#[tokio::main]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let line = arguments.next().context("which bridge?")?;
    let host = arguments.next().context("which host?")?;
    let path = arguments.next().unwrap_or_else(|| "/".to_owned());
    let mut config: TorClientConfigBuilder = match arguments.next() {
        Some(file) => toml::from_str(&std::fs::read_to_string(file)?)?,
        None => TorClientConfigBuilder::default(),
    };
    let _door = qnet_arti::serve(&mut config, &[line], qnet_arti::dialer()?).await?;
    let tor = TorClient::create_bootstrapped(config.build()?).await?;
    let port = host.rsplit_once(':').map_or(Ok(80), |(_, port)| port.parse())?;
    let name = host.split(':').next().unwrap_or_default();
    let mut stream = tor.connect((name, port)).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    stream.flush().await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    tokio::io::stdout().write_all(&answer).await?;
    Ok(())
}
