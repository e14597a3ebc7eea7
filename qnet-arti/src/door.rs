//! The stable way in: a SOCKS port on loopback, served by this process.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use arti_client::config::TorClientConfigBuilder;
use qnet_pt_ipc::args::Args;
use qnet_pt_ipc::socks::{self, Reply, Request, Target};
use qnet_transport::Stream;
use qnet_transport::client::Dialer;
use qnet_transport::negotiate;
use qnet_transport::relay::relay;
use qnet_wire::bridge_line::BridgeLine;
use qnet_wire::error::chain;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};

use crate::bridges::{self, Error};

/// How long Arti may take to ask: it is in this process.
const NEGOTIATION: Duration = Duration::from_secs(20);
/// Connections at once. Arti keeps one or two to each bridge; others on this machine may connect too, and must not use up
/// descriptors.
const MAX_CONNECTIONS: usize = 128;
/// How long who was refused has to read why.
const LINGER: Duration = Duration::from_secs(1);
/// Pause after a failed accept, which is mostly a lack of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// The transport, served for as long as this is there. Dropping it ends the connections through it.
#[derive(Debug)]
pub struct Door {
    address: SocketAddr,
    serving: JoinHandle<()>,
}

impl Door {
    /// Where Arti finds it.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// What connections are served by.
struct Served {
    dialer: Dialer,
    lines: Vec<BridgeLine>,
}

/// Serves these bridges from a port of their own, and adds them and it to `config`. Whoever else on this machine finds the port
/// can reach these bridges by it if he knows their lines, and nothing else.
///
/// # Errors
/// See [`Error`]; `config` is unchanged then.
pub async fn serve(
    config: &mut TorClientConfigBuilder,
    lines: &[impl AsRef<str>],
    dialer: Dialer,
) -> Result<Door, Error> {
    let lines = bridges::parse(lines)?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(Error::Listen)?;
    let address = listener.local_addr().map_err(Error::Listen)?;
    bridges::declare(config, &lines, address)?;
    // Arti keeps fingerprints to itself.
    let lines = lines.into_iter().map(|line| BridgeLine { fingerprint: None, ..line }).collect();
    let serving = tokio::spawn(accept(listener, Arc::new(Served { dialer, lines })));
    Ok(Door { address, serving })
}

async fn accept(listener: TcpListener, served: Arc<Served>) {
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    // Its tasks end with it.
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok(place) = Arc::clone(&room).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((tcp, _)) => {
                let served = Arc::clone(&served);
                connections.spawn(async move {
                    if let Err(error) = serve_one(tcp, &served).await {
                        tracing::debug!("a connection of Arti's ended: {error}");
                    }
                    drop(place);
                });
            }
            Err(error) => {
                tracing::error!("cannot accept a connection from Arti: {error}");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve_one(mut tcp: TcpStream, served: &Served) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    let Ok(request) = timeout(NEGOTIATION, negotiate(&mut tcp)).await else { return Ok(()) };
    let Some(request) = request? else { return linger(tcp).await };
    let dialled = tokio::select! {
        dialled = reach(served, &request) => dialled,
        // Arti does not wait any longer: it gives a bridge ten seconds.
        () = gone(&tcp) => return Ok(()),
    };
    let mut answer = Vec::new();
    let mut stream = match dialled {
        Ok(stream) => stream,
        Err(reply) => {
            reply.write(&mut answer);
            tcp.write_all(&answer).await?;
            return linger(tcp).await;
        }
    };
    Reply::Succeeded.write(&mut answer);
    tcp.write_all(&answer).await?;
    stream.write_all(&request.early).await?;
    // The arguments hold the bridge's key.
    drop(request);
    relay(&mut tcp, &mut stream, |_, _| ()).await
}

/// A stream to the bridge that a request names, where it is one of those served.
async fn reach(served: &Served, request: &Request) -> Result<Stream, Reply> {
    let Some(line) = wanted(request).filter(|line| served.lines.contains(line)) else {
        tracing::warn!("somebody asked for a bridge that is not served here");
        return Err(Reply::NotAllowed);
    };
    dial(&served.dialer, &line).await
}

/// Waits until the other end is gone, as far as that is seen before it is read.
async fn gone(tcp: &TcpStream) {
    if matches!(tcp.peek(&mut [0]).await, Ok(1..)) {
        std::future::pending::<()>().await;
    }
}

async fn dial(dialer: &Dialer, line: &BridgeLine) -> Result<Stream, Reply> {
    let tunnel = dialer.dial(line).await.map_err(|error| {
        tracing::warn!("no connection to the bridge: {}", chain(&error));
        Reply::GeneralFailure
    })?;
    tunnel.open().map_err(|_| Reply::GeneralFailure)
}

/// `None`: what came is no request, and what there was to say was said.
async fn negotiate(tcp: &mut TcpStream) -> io::Result<Option<Request>> {
    let mut server = socks::Server::new();
    let outcome = negotiate::negotiate(tcp, |bytes, out| server.on_bytes(bytes, out).outcome()).await?;
    Ok(outcome.ok())
}

/// The bridge that a request describes.
fn wanted(request: &Request) -> Option<BridgeLine> {
    let address = match &request.target {
        Target::Address(address) => *address,
        Target::Name(name, port) => SocketAddr::new(name.parse().ok()?, *port),
    };
    let args = Args::parse_client(&request.args).ok()?;
    BridgeLine::from_pt_args(address, args.iter()).ok()
}

/// Closes so that the last words arrive: bytes left unread would make a reset of the close.
async fn linger(mut tcp: TcpStream) -> io::Result<()> {
    let drained = async {
        tcp.shutdown().await?;
        tokio::io::copy(&mut tcp, &mut tokio::io::sink()).await
    };
    drop(timeout(LINGER, drained).await);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use arti_client::TorClientConfig;
    use qnet_transport::client::DialerConfig;
    use qnet_transport::tls::Roots;
    use tokio::io::AsyncReadExt as _;

    const LINE: &str = "Bridge qnet 127.0.0.1:1 0123456789ABCDEF0123456789ABCDEF01234567 key=AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE sni=www.example.com";

    /// What the door answers to SOCKS5 with these arguments.
    async fn ask(door: &Door, port: u16, args: &str) -> Vec<u8> {
        let mut tcp = TcpStream::connect(door.address()).await.unwrap();
        let mut hello = vec![5, 1, 2, 1, u8::try_from(args.len()).unwrap()];
        hello.extend_from_slice(args.as_bytes());
        hello.extend_from_slice(&[1, 0]);
        tcp.write_all(&hello).await.unwrap();
        tcp.read_exact(&mut [0; 4]).await.unwrap();
        tcp.write_all(&[5, 1, 0, 1, 127, 0, 0, 1]).await.unwrap();
        tcp.write_all(&port.to_be_bytes()).await.unwrap();
        let mut answer = Vec::new();
        tcp.read_to_end(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn only_the_given_bridges_are_served() {
        let mut config = TorClientConfig::builder();
        let dialer = Dialer::new(DialerConfig::new(Roots::with(None, None).unwrap()));
        let door = serve(&mut config, &[LINE], dialer).await.unwrap();
        let args = "key=AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE;sni=www.example.com";
        // Nothing listens on port 1: the known bridge is tried, any other is not.
        assert_eq!(ask(&door, 1, args).await[1], Reply::GeneralFailure as u8);
        assert_eq!(ask(&door, 2, args).await[1], Reply::NotAllowed as u8);
        let other = args.replace("sni=www", "sni=ftp");
        assert_eq!(ask(&door, 1, &other).await[1], Reply::NotAllowed as u8);
        let address = door.address();
        drop(door);
        sleep(Duration::from_millis(50)).await;
        assert!(TcpStream::connect(address).await.is_err());
    }
}
