//! The client side: SOCKS from the parent, a tunnel to the bridge.

use crate::TRANSPORT;
use crate::carriers::{self, Dialer};
use crate::lifetime::Lifetime;
use crate::output::Output;
use crate::refusal::{Refusal, retry_word};
use qnet_pt_ipc::args::Args;
use qnet_pt_ipc::env::{Client, Settings};
use qnet_pt_ipc::line::Line;
use qnet_pt_ipc::socks::{self, Reply, Request, SocksError, Target};
use qnet_transport::negotiate;
use qnet_transport::relay::relay;
use qnet_wire::bridge_line::BridgeLine;
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

/// How long the parent may take to ask, from this same machine.
const NEGOTIATION: Duration = Duration::from_secs(20);
/// Connections that have not asked yet. The parent asks at once; others on this machine may connect too, and must not
/// use up what the parent needs: file descriptors, of which there may be 1,024.
const MAX_UNDECIDED: usize = 256;
/// How long a refused parent has to read why before the connection closes.
const LINGER: Duration = Duration::from_secs(1);
/// Pause after a failed accept, which is mostly a lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Starts what was asked for and tells the parent. `false`: the upstream proxy cannot be used, and the process ends.
pub(crate) async fn start(
    client: &Client,
    settings: &Settings,
    output: &Output,
    lifetime: &Lifetime,
) -> bool {
    let upstream = match &client.upstream {
        Some(Err(error)) => {
            output.line(&Line::ProxyError(&error.to_string()));
            return false;
        }
        Some(Ok(upstream)) => {
            output.line(&Line::ProxyDone);
            Some(upstream)
        }
        None => None,
    };
    if client.transports.iter().any(|name| name == TRANSPORT) {
        match listen(upstream, settings).await {
            Ok((listener, address, dialer)) => {
                output.line(&Line::Cmethod { name: TRANSPORT, address });
                tokio::spawn(accept(listener, Arc::new(dialer), output.clone(), lifetime.clone()));
            }
            Err(message) => output.line(&Line::CmethodError { name: TRANSPORT, message: &message }),
        }
    }
    output.line(&Line::CmethodsDone);
    true
}

async fn listen(
    upstream: Option<&qnet_pt_ipc::upstream::Upstream>,
    settings: &Settings,
) -> Result<(TcpListener, SocketAddr, Dialer), String> {
    let dialer = carriers::dialer(upstream, settings)?;
    let bound = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
    let listener = bound.map_err(|error| format!("cannot listen on 127.0.0.1: {error}"))?;
    let address = listener.local_addr().map_err(|error| error.to_string())?;
    Ok((listener, address, dialer))
}

async fn accept(listener: TcpListener, dialer: Arc<Dialer>, output: Output, lifetime: Lifetime) {
    let undecided = Undecided::default();
    loop {
        let accepted = tokio::select! {
            () = lifetime.ending() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((tcp, _)) => {
                let asking = undecided.admit();
                let (dialer, output, token) = (Arc::clone(&dialer), output.clone(), lifetime.token());
                tokio::spawn(async move {
                    serve(tcp, asking, &dialer, &output).await;
                    drop(token);
                });
            }
            Err(error) => {
                tracing::error!("cannot accept a connection from tor: {error}");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// The connections that have not asked yet: where there are too many, the oldest goes.
#[derive(Clone, Default)]
struct Undecided(Arc<Mutex<Waiting>>);

#[derive(Default)]
struct Waiting {
    /// By age, oldest first.
    connections: BTreeMap<u64, oneshot::Sender<()>>,
    next: u64,
}

impl Undecided {
    /// Enters one connection more.
    fn admit(&self) -> Asking {
        let mut waiting = self.waiting();
        if waiting.connections.len() >= MAX_UNDECIDED {
            waiting.connections.pop_first();
        }
        let (number, (sender, turned_out)) = (waiting.next, oneshot::channel());
        waiting.next += 1;
        waiting.connections.insert(number, sender);
        Asking { list: self.clone(), number, turned_out }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection's place among those that have not asked yet. Dropped when it has asked: an entry that stayed would keep its
/// page of memory.
struct Asking {
    list: Undecided,
    number: u64,
    turned_out: oneshot::Receiver<()>,
}

impl Asking {
    /// Waits until the connection has to go.
    async fn turned_out(&mut self) {
        // The sender is dropped for that, and for nothing else.
        let _ = (&mut self.turned_out).await;
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.list.waiting().connections.remove(&self.number);
    }
}

/// One connection of the parent's, from greeting to end.
async fn serve(mut tcp: TcpStream, mut asking: Asking, dialer: &Dialer, output: &Output) {
    let negotiated = tokio::select! {
        negotiated = timeout(NEGOTIATION, negotiate(&mut tcp)) => negotiated,
        () = asking.turned_out() => return,
    };
    drop(asking);
    let request = match negotiated {
        Ok(Ok(Ok(request))) => request,
        Ok(Ok(Err(error))) => {
            tracing::warn!("a SOCKS connection was refused: {error}");
            return linger(tcp).await;
        }
        // Silent, or gone: nobody to tell.
        Ok(Err(_)) | Err(_) => return,
    };
    let mut early = request.early.clone();
    let connected = tokio::select! {
        connected = connect(&request, dialer) => connected,
        // Who asked does not wait any longer.
        () = gone(&tcp, &mut early) => return,
    };
    // The arguments are not needed any more, and hold the bridge's key.
    drop(request);
    let mut answer = Vec::new();
    let mut carrier = match connected {
        Ok(carrier) => carrier,
        Err(refusal) => {
            report(&refusal, output);
            refusal.reply().write(&mut answer);
            let _ = tcp.write_all(&answer).await;
            return linger(tcp).await;
        }
    };
    output.status(&[("TRANSPORT", TRANSPORT), ("CONNECT", "Success")]);
    Reply::Succeeded.write(&mut answer);
    let relayed = async {
        tcp.write_all(&answer).await?;
        carrier.write_all(&early).await?;
        drop((answer, early));
        relay(&mut tcp, &mut carrier, |_, _| ()).await
    };
    if let Err(error) = relayed.await {
        tracing::debug!("a connection ended: {error}");
    }
}

fn report(refusal: &Refusal, output: &Output) {
    let reason = refusal.to_string();
    tracing::warn!("no connection to the bridge: {reason}");
    let retry = retry_word(refusal.retry());
    output.status(&[("TRANSPORT", TRANSPORT), ("CONNECT", "Failed"), ("RETRY", retry), ("REASON", &reason)]);
}

async fn negotiate(tcp: &mut TcpStream) -> io::Result<Result<Request, SocksError>> {
    tcp.set_nodelay(true)?;
    let mut server = socks::Server::new();
    negotiate::negotiate(tcp, |bytes, out| server.on_bytes(bytes, out).outcome()).await
}

async fn connect(request: &Request, dialer: &Dialer) -> Result<qnet_transport::Stream, Refusal> {
    let line = bridge_line(request)?;
    Ok(dialer.dial(&line).await?)
}

fn bridge_line(request: &Request) -> Result<BridgeLine, Refusal> {
    let address = match &request.target {
        Target::Address(address) => *address,
        Target::Name(name, port) => {
            SocketAddr::new(name.parse::<IpAddr>().map_err(|_| Refusal::HostName)?, *port)
        }
    };
    // Arti sends 0.0.0.1:1 where the bridge line has no address.
    let dummy = match address.ip() {
        IpAddr::V4(ip) => ip.octets()[0] == 0,
        IpAddr::V6(ip) => ip.is_unspecified(),
    };
    if dummy {
        return Err(Refusal::NoAddress);
    }
    let args = Args::parse_client(&request.args)?;
    Ok(BridgeLine::from_pt_args(address, args.iter())?)
}

/// Waits until the parent is gone. What it sends before it may goes to `early`, as far as that has room; then
/// nothing more is read, and its end goes unseen until the dial ends.
async fn gone(tcp: &TcpStream, early: &mut Vec<u8>) {
    let mut buffer = [0; 1_024];
    while early.len() < socks::MAX_PENDING {
        let ready = tcp.readable().await.and_then(|()| tcp.try_read(&mut buffer));
        match ready {
            Ok(0) => return,
            Ok(count) => early.extend_from_slice(buffer.get(..count).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
    std::future::pending::<()>().await;
}

/// Closes so that the last words arrive: bytes left unread would make a reset of the close.
async fn linger(mut tcp: TcpStream) {
    let drained = async {
        tcp.shutdown().await?;
        tokio::io::copy(&mut tcp, &mut tokio::io::sink()).await
    };
    let _ = timeout(LINGER, drained).await;
}
