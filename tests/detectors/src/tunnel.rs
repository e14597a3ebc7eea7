//! A TLS tunnel without any disguise of what is in it: the control that detectors of nested TLS must flag.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use boring::ssl::{SslAcceptor, SslConnector, SslFiletype, SslMethod, SslVerifyMode};
use qnet_tests::support::ca::Certificates;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

/// What the client says of itself and of where to go before the load's first bytes, in the same record as they: a hash in
/// hexadecimal, a line's end, command, address, port, a line's end, as long as Trojan's is for an IPv4 address.
const GREETING: usize = 56 + 2 + 1 + 1 + 4 + 2 + 2;

/// Bytes read at once of the load: a TLS record's most.
const PIECE: usize = 16_384;

/// A running tunnel's server, and its clients.
pub(crate) struct Tunnel {
    runtime: Runtime,
    server: SocketAddr,
}

impl Tunnel {
    /// Starts a server that passes on to `target`.
    pub(crate) fn start(certificates: &Certificates, target: SocketAddr) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let mut acceptor = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls())?;
        acceptor.set_certificate_chain_file(&certificates.certificate)?;
        acceptor.set_private_key_file(&certificates.key, SslFiletype::PEM)?;
        let acceptor = acceptor.build();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
        let server = listener.local_addr()?;
        runtime.spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                tokio::spawn(serve(acceptor.clone(), tcp, target));
            }
        });
        Ok(Self { runtime, server })
    }

    /// Where the server listens.
    pub(crate) fn server(&self) -> SocketAddr {
        self.server
    }

    /// Starts a client that carries what connects to it to the server at `address`; gives its own address.
    pub(crate) fn client(&self, address: SocketAddr) -> Result<SocketAddr> {
        let listener = self.runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
        let entry = listener.local_addr()?;
        self.runtime.spawn(async move {
            while let Ok((load, _)) = listener.accept().await {
                tokio::spawn(carry(load, address));
            }
        });
        Ok(entry)
    }
}

async fn serve(acceptor: SslAcceptor, tcp: TcpStream, target: SocketAddr) -> Result<()> {
    tcp.set_nodelay(true)?;
    let tls = tokio_boring::accept(&acceptor, tcp).await;
    let mut tls = tls.map_err(|error| anyhow::anyhow!("no handshake: {error}"))?;
    tls.read_exact(&mut [0; GREETING]).await?;
    let mut far = TcpStream::connect(target).await?;
    far.set_nodelay(true)?;
    tokio::io::copy_bidirectional_with_sizes(&mut tls, &mut far, PIECE, PIECE).await?;
    Ok(())
}

async fn carry(mut load: TcpStream, server: SocketAddr) -> Result<()> {
    let tcp = TcpStream::connect(server).await?;
    for stream in [&load, &tcp] {
        stream.set_nodelay(true)?;
    }
    let mut connector = SslConnector::builder(SslMethod::tls())?;
    connector.set_verify(SslVerifyMode::NONE);
    let config = connector.build().configure()?.verify_hostname(false);
    let tls = tokio_boring::connect(config, "www.example.com", tcp).await;
    let mut tls = tls.map_err(|error| anyhow::anyhow!("no handshake: {error}"))?;
    let mut first = vec![b'0'; GREETING + PIECE];
    let count = load.read(first.get_mut(GREETING..).context("room for the load")?).await?;
    tls.write_all(first.get(..GREETING + count).context("what was read is there")?).await?;
    tokio::io::copy_bidirectional_with_sizes(&mut load, &mut tls, PIECE, PIECE).await?;
    Ok(())
}
