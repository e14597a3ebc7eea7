//! A TLS server that notes each client's hello and what it says inside TLS, and hands that on in the clear.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use anyhow::{Context, Result};
use boring::ssl::{AlpnError, Ssl, SslContext, SslFiletype, SslMethod, select_next_proto};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

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

/// Which way a record goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From the client.
    Up,
    /// To the client.
    Down,
}

/// What the tap does to what goes through HTTP/1.1 connections, read by read; the number counts them each way from 0.
type Edit = dyn Fn(Way, usize, &mut Vec<u8>) + Send + Sync;

/// The server, until it is dropped.
pub struct Tap {
    address: SocketAddr,
    shared: Arc<Shared>,
    /// Its thread ends when this is dropped.
    _running: oneshot::Sender<()>,
}

#[derive(Default)]
struct Shared {
    tapped: Mutex<Vec<Tapped>>,
    edit: Mutex<Option<Arc<Edit>>>,
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
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let shared: Arc<Shared> = Arc::default();
        let (running, stop) = oneshot::channel();
        let all = Arc::clone(&shared);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        thread::spawn(move || {
            runtime.block_on(async {
                let Ok(listener) = TcpListener::from_std(listener) else { return };
                let accept = async {
                    while let Ok((tcp, _)) = listener.accept().await {
                        // Connections that a browser opens ahead and drops are none.
                        tokio::spawn(join(tcp, context.clone(), [http2, http1], Arc::clone(&all)));
                    }
                };
                tokio::select! {
                    () = accept => {}
                    _ = stop => {}
                }
            });
        });
        Ok(Self { address, shared, _running: running })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The connections so far, in the order in which their handshakes ended.
    #[must_use]
    pub fn seen(&self) -> Vec<Tapped> {
        lock(&self.shared.tapped).clone()
    }

    /// Alters what goes through HTTP/1.1 connections from here on.
    pub fn edit(&self, edit: impl Fn(Way, usize, &mut Vec<u8>) + Send + Sync + 'static) {
        *lock(&self.shared.edit) = Some(Arc::new(edit));
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn join(
    tcp: TcpStream,
    context: SslContext,
    [http2, http1]: [SocketAddr; 2],
    shared: Arc<Shared>,
) -> Result<()> {
    tcp.set_nodelay(true)?;
    let hello = hello(&tcp).await?;
    let accepting = tokio_boring::SslStreamBuilder::new(Ssl::new(&context)?, tcp).accept();
    let tls = accepting.await.map_err(|error| anyhow::anyhow!("no handshake: {error}"))?;
    let protocol = tls.ssl().selected_alpn_protocol().unwrap_or_default().to_vec();
    let resumed = tls.ssl().session_reused();
    let edit = lock(&shared.edit).clone().filter(|_| protocol != b"h2");
    let to = if protocol == b"h2" { http2 } else { http1 };
    let place = {
        let mut all = lock(&shared.tapped);
        all.push(Tapped { hello, protocol, resumed, records: Vec::new() });
        all.len() - 1
    };
    let (site_from, site_to) = TcpStream::connect(to).await?.into_split();
    let (from, to) = tokio::io::split(tls);
    let down = tokio::spawn(pass(Way::Down, site_from, to, edit.clone(), |_| {}));
    let note = |content: &[u8]| {
        if let Some(tapped) = lock(&shared.tapped).get_mut(place) {
            tapped.records.push(content.to_vec());
        }
    };
    pass(Way::Up, from, site_to, edit, note).await;
    down.await.ok();
    Ok(())
}

/// Passes one direction on, to its end.
async fn pass(
    way: Way,
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    edit: Option<Arc<Edit>>,
    note: impl Fn(&[u8]),
) {
    let mut room = vec![0; RECORD];
    for number in 0.. {
        let count = from.read(&mut room).await.unwrap_or(0);
        let mut content = room.get(..count).unwrap_or_default().to_vec();
        if content.is_empty() {
            break;
        }
        note(&content);
        if let Some(edit) = &edit {
            edit(way, number, &mut content);
        }
        if to.write_all(&content).await.is_err() {
            break;
        }
    }
    to.shutdown().await.ok();
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
