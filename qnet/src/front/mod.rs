//! Where applications connect: SOCKS5 and HTTP at one port, told apart by the first byte.

mod http;
mod socks;
mod udp;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use qnet_transport::Stream;
use qnet_transport::relay::relay;
use qnet_wire::target::{Request, Target};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use crate::pool::{OpenError, Opened, Pool};
use crate::traffic::{Counted, Traffic};

/// Connections of applications at once. The usual limit of open files is 1,024, and an association takes two.
const MAX_CONNECTIONS: usize = 480;
/// How long an application may take to say what it wants.
const NEGOTIATION: Duration = Duration::from_secs(20);
/// How long a refused application has to read why.
const LINGER: Duration = Duration::from_secs(1);
/// Pause after a failed accept, which is mostly a lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// SOCKS version 5 begins with it.
const SOCKS5: u8 = 5;
/// SOCKS version 4 begins with it.
const SOCKS4: u8 = 4;

/// What all connections share.
#[derive(Clone)]
pub(crate) struct Service {
    pub(crate) pool: Arc<Pool>,
    pub(crate) traffic: Arc<Traffic>,
    slots: Arc<Semaphore>,
}

/// A stream that is counted.
pub(crate) struct Counting {
    opened: Opened,
    _counted: Counted,
}

impl Service {
    pub(crate) fn new(pool: Arc<Pool>, traffic: Arc<Traffic>) -> Self {
        Self { pool, traffic, slots: Arc::new(Semaphore::new(MAX_CONNECTIONS)) }
    }

    /// Opens a stream and counts it, or that there is none.
    pub(crate) async fn open(&self, request: Option<&Request>) -> Result<Counting, OpenError> {
        match self.pool.open(request).await {
            Ok(opened) => Ok(Counting { opened, _counted: self.traffic.opened() }),
            Err(error) => {
                self.traffic.failed();
                tracing::info!("a connection was not made: {error}");
                Err(error)
            }
        }
    }

    /// Carries both directions to their ends.
    pub(crate) async fn carry<S: AsyncRead + AsyncWrite + Unpin>(&self, near: &mut S, far: &mut Counting) {
        let traffic = &self.traffic;
        if let Err(error) = relay(near, far.stream(), |up, down| traffic.moved(up, down)).await {
            tracing::debug!("a connection ended: {error}");
        }
    }

    /// Accepts for ever; `serve` has each connection.
    async fn accept<F: Future<Output = ()> + Send + 'static>(
        self,
        listener: TcpListener,
        serve: impl Fn(Self, TcpStream) -> F,
    ) {
        loop {
            // Those who come while all are taken wait in the kernel's queue.
            if self.slots.available_permits() == 0 {
                tracing::warn!("{MAX_CONNECTIONS} connections of applications are open; others wait");
            }
            let Ok(slot) = Arc::clone(&self.slots).acquire_owned().await else { return };
            match listener.accept().await {
                Ok((tcp, _)) => {
                    let serving = serve(self.clone(), tcp);
                    tokio::spawn(async move {
                        serving.await;
                        drop(slot);
                    });
                }
                Err(error) => {
                    tracing::error!("cannot accept a connection: {error}");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Serves applications that speak SOCKS5 or HTTP.
    pub(crate) async fn proxy(self, listener: TcpListener) {
        self.accept(listener, |service, tcp| async move {
            if let Err(error) = service.negotiate(tcp).await {
                tracing::debug!("an application's connection ended: {error}");
            }
        })
        .await;
    }

    /// Carries every connection to `target`; to the far end's fixed server where there is none.
    pub(crate) async fn forward(self, listener: TcpListener, target: Option<Target>) {
        let request = target.map(Request::Tcp);
        self.accept(listener, move |service, mut tcp| {
            let request = request.clone();
            async move {
                // Where it does not open, the close is all there is to say.
                if let Ok(mut far) = service.open(request.as_ref()).await {
                    service.carry(&mut tcp, &mut far).await;
                }
            }
        })
        .await;
    }

    async fn negotiate(&self, tcp: TcpStream) -> io::Result<()> {
        tcp.set_nodelay(true)?;
        let mut first = [0];
        let peeked = timeout(NEGOTIATION, tcp.peek(&mut first)).await?;
        match (peeked?, first) {
            (0, _) => Ok(()),
            (_, [SOCKS5]) => socks::serve(self, tcp).await,
            (_, [SOCKS4]) => {
                tracing::warn!(
                    "an application speaks SOCKS version 4; set it to SOCKS5, with names looked up by the proxy"
                );
                Ok(())
            }
            (_, [first]) if first.is_ascii_alphabetic() => http::serve(self, tcp).await,
            _ => {
                tracing::warn!("an application speaks neither SOCKS5 nor HTTP; set it to one of them");
                Ok(())
            }
        }
    }
}

impl Counting {
    pub(crate) fn stream(&mut self) -> &mut Stream {
        &mut self.opened.stream
    }
}

/// Binds a port of this machine, or says what to do.
pub(crate) async fn listen(address: SocketAddr, setting: &str) -> Result<TcpListener, String> {
    TcpListener::bind(address).await.map_err(|error| {
        let advice = match error.kind() {
            io::ErrorKind::AddrInUse => {
                "another program listens there, perhaps another qnet; stop it or set another port"
            }
            io::ErrorKind::PermissionDenied => {
                "this user may not listen on ports under 1024; set a higher one"
            }
            _ => "set an address of this machine",
        };
        format!("{setting}: cannot listen on {address}: {error}; {advice}")
    })
}

/// Writes the last words and closes so that they arrive: bytes left unread would make a reset of the close.
async fn refuse(mut tcp: TcpStream, words: &[u8]) -> io::Result<()> {
    tcp.write_all(words).await?;
    tcp.shutdown().await?;
    let _ = timeout(LINGER, tokio::io::copy(&mut tcp, &mut tokio::io::sink())).await;
    Ok(())
}
