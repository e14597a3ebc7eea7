//! A TLS server that notes each client's hello and what it says inside TLS, and hands that on in the clear.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};
use boring::ssl::{AlpnError, Ssl, SslContext, SslFiletype, SslMethod, select_next_proto};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

use super::ca::Certificates;
use crate::ja4::Hello;

const PROTOCOLS: &[u8] = b"\x02h2\x08http/1.1";
/// Most of a record: a TLS library's read never gives more than one record's content.
const RECORD: usize = 16_384;

/// One connection, as far as it has come.
#[derive(Clone, Debug)]
pub struct Tapped {
    /// Its ClientHello.
    pub hello: Hello,
    /// The protocol chosen.
    pub protocol: Vec<u8>,
    /// Whether it resumed an earlier connection's session.
    pub resumed: bool,
    /// The contents of the records that the client sent after its handshake.
    pub records: Vec<Vec<u8>>,
}

/// The server, until it is dropped.
#[derive(Debug)]
pub struct Tap {
    address: SocketAddr,
    tapped: Arc<Mutex<Vec<Tapped>>>,
    _runtime: Runtime,
}

impl Tap {
    /// Listens on a loopback port with the site's certificate; HTTP/2 goes on to `http2`, anything else to `http1`.
    ///
    /// # Errors
    /// No port, or BoringSSL's.
    pub fn start(certificates: &Certificates, http2: SocketAddr, http1: SocketAddr) -> Result<Self> {
        let mut context = SslContext::builder(SslMethod::tls())?;
        context.set_certificate_file(&certificates.certificate, SslFiletype::PEM)?;
        context.set_private_key_file(&certificates.key, SslFiletype::PEM)?;
        context.set_alpn_select_callback(|_, offered| {
            select_next_proto(PROTOCOLS, offered).ok_or(AlpnError::ALERT_FATAL)
        });
        let context = context.build();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))?;
        let address = listener.local_addr()?;
        let tapped: Arc<Mutex<Vec<Tapped>>> = Arc::default();
        let all = Arc::clone(&tapped);
        runtime.spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                // Connections that a browser opens ahead and drops are none.
                drop(tokio::spawn(join(tcp, context.clone(), [http2, http1], Arc::clone(&all))));
            }
        });
        Ok(Self { address, tapped, _runtime: runtime })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The connections so far, in the order in which their handshakes ended.
    #[must_use]
    pub fn seen(&self) -> Vec<Tapped> {
        lock(&self.tapped).clone()
    }
}

fn lock(tapped: &Mutex<Vec<Tapped>>) -> MutexGuard<'_, Vec<Tapped>> {
    tapped.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn join(
    tcp: TcpStream,
    context: SslContext,
    [http2, http1]: [SocketAddr; 2],
    all: Arc<Mutex<Vec<Tapped>>>,
) -> Result<()> {
    tcp.set_nodelay(true)?;
    let hello = hello(&tcp).await?;
    let accepting = tokio_boring::SslStreamBuilder::new(Ssl::new(&context)?, tcp).accept();
    let tls = accepting.await.map_err(|error| anyhow::anyhow!("no handshake: {error}"))?;
    let protocol = tls.ssl().selected_alpn_protocol().unwrap_or_default().to_vec();
    let resumed = tls.ssl().session_reused();
    let to = if protocol == b"h2" { http2 } else { http1 };
    let place = {
        let mut all = lock(&all);
        all.push(Tapped { hello, protocol, resumed, records: Vec::new() });
        all.len() - 1
    };
    let (mut site_from, mut site_to) = TcpStream::connect(to).await?.into_split();
    let (mut from, mut to) = tokio::io::split(tls);
    let down = tokio::spawn(async move {
        tokio::io::copy(&mut site_from, &mut to).await.ok();
        to.shutdown().await.ok();
    });
    let mut record = vec![0; RECORD];
    loop {
        let count = from.read(&mut record).await.unwrap_or(0);
        let Some(content) = record.get(..count).filter(|content| !content.is_empty()) else { break };
        if let Some(tapped) = lock(&all).get_mut(place) {
            tapped.records.push(content.to_vec());
        }
        site_to.write_all(content).await?;
    }
    site_to.shutdown().await.ok();
    down.await.ok();
    Ok(())
}

/// The first record, left where it is.
async fn hello(tcp: &TcpStream) -> Result<Hello> {
    let mut record = vec![0; 5 + RECORD];
    loop {
        let count = tcp.peek(&mut record).await?;
        anyhow::ensure!(count > 0, "it ended before its hello");
        let length = 5 + usize::from(u16::from_be_bytes([record[3], record[4]]));
        if count >= 5 && count >= length {
            return Hello::parse(record.get(..length).unwrap_or_default()).context("no ClientHello");
        }
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
}
