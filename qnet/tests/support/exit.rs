//! What stands behind a bridge without tor, as small as a test needs it: streams by docs/protocol.md, section 18.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Result;
use qnet_tests::support::decoy::Decoy;
use qnet_transport::Stream;
use qnet_transport::admission::Admission;
use qnet_transport::bridge::{BridgeConfig, Listener, Sessions};
use qnet_transport::connect::Connect;
use qnet_transport::relay::relay;
use qnet_wire::key::IdentityKey;
use qnet_wire::target::{Answer, Datagram, Host, Request, Target};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};

/// What happens to a stream.
#[derive(Clone)]
pub enum Behind {
    /// It says where to; names are looked up here, and nowhere else.
    Exit(HashMap<&'static str, SocketAddr>),
    /// The same without UDP.
    ExitForTcp(HashMap<&'static str, SocketAddr>),
    /// One fixed server.
    Server(SocketAddr),
}

/// A bridge in this process.
pub struct Exit {
    /// Where it listens.
    pub address: SocketAddr,
    key: String,
    name: String,
    /// Requests for TCP that came, other than for the bridge's own site.
    pub asked: Arc<AtomicUsize>,
}

impl Exit {
    /// Starts one before `decoy`; `seed` makes its key.
    pub fn start(decoy: &Decoy, seed: u8, behind: Behind) -> Result<Self> {
        Self::admitting(Admission::Open, decoy, seed, behind)
    }

    /// The same for these clients.
    pub fn admitting(admission: Admission, decoy: &Decoy, seed: u8, behind: Behind) -> Result<Self> {
        let identity = IdentityKey::generate(&mut ChaCha20Rng::from_seed([seed; 32]));
        let key = identity.public().to_string();
        let mut listener = Listener::bind(BridgeConfig {
            listen: (Ipv4Addr::LOCALHOST, 0).into(),
            identity,
            decoy: decoy.address(),
            names: vec![decoy.name().parse()?],
            admission,
            connect: Connect::default(),
            profile: qnet_transport::Profile::default(),
            sessions: Sessions::default(),
        })?;
        let address = listener.local_addr();
        let asked = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&asked);
        let site = (format!("{}:443", decoy.name()).parse::<Target>()?, decoy.address());
        tokio::spawn(async move {
            while let Some(incoming) = listener.accept().await {
                let (behind, counter, site) = (behind.clone(), Arc::clone(&counter), site.clone());
                tokio::spawn(async move { serve(incoming.stream, behind, &site, &counter).await });
            }
        });
        Ok(Self { address, key, name: decoy.name().to_owned(), asked })
    }

    /// Its line, with the address of a wire to it.
    pub fn line_by(&self, address: SocketAddr) -> String {
        format!("qnet {address} key={} sni={}", self.key, self.name)
    }

    /// Its line.
    pub fn line(&self) -> String {
        self.line_by(self.address)
    }

    /// A shadowsocks plugin's options.
    pub fn options(&self) -> String {
        format!("key={};sni={}", self.key, self.name)
    }
}

async fn serve(
    mut stream: Stream,
    behind: Behind,
    (site, decoy): &(Target, SocketAddr),
    asked: &AtomicUsize,
) -> io::Result<()> {
    let (hosts, udp) = match behind {
        Behind::Server(address) => {
            let mut tcp = TcpStream::connect(address).await?;
            return relay(&mut tcp, &mut stream, |_, _| {}).await;
        }
        Behind::Exit(hosts) => (hosts, true),
        Behind::ExitForTcp(hosts) => (hosts, false),
    };
    let mut bytes = Vec::new();
    let (request, length) = loop {
        if let Some(found) = Request::read(&bytes).map_err(io::Error::other)? {
            break found;
        }
        if stream.read_buf(&mut bytes).await? == 0 {
            return Ok(());
        }
    };
    match request {
        Request::Tcp(target) => {
            let own = target == *site;
            asked.fetch_add(usize::from(!own), Ordering::Relaxed);
            let connected = match if own { Some(*decoy) } else { find(&target, &hosts) } {
                Some(address) => TcpStream::connect(address).await.map_err(|_| Answer::Refused),
                None => Err(Answer::HostUnreachable),
            };
            let mut tcp = match connected {
                Ok(tcp) => tcp,
                Err(answer) => {
                    stream.write_all(&answer.bytes()).await?;
                    return stream.shutdown().await;
                }
            };
            stream.write_all(&Answer::Connected.bytes()).await?;
            tcp.write_all(&bytes[length..]).await?;
            relay(&mut stream, &mut tcp, |_, _| {}).await
        }
        Request::Udp if !udp => {
            stream.write_all(&Answer::Unsupported.bytes()).await?;
            stream.shutdown().await
        }
        Request::Udp => associate(stream, bytes.split_off(length), &hosts).await,
    }
}

fn find(target: &Target, hosts: &HashMap<&'static str, SocketAddr>) -> Option<SocketAddr> {
    match target.host() {
        Host::Ip(ip) => Some(SocketAddr::new(*ip, target.port())),
        Host::Name(name) => hosts.get(name.as_str()).copied(),
    }
}

async fn associate(
    stream: Stream,
    mut bytes: Vec<u8>,
    hosts: &HashMap<&'static str, SocketAddr>,
) -> io::Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let (mut read, mut write) = tokio::io::split(stream);
    write.write_all(&Answer::Connected.bytes()).await?;
    let up = async {
        loop {
            while let Some((datagram, length)) = Datagram::read(&bytes).map_err(io::Error::other)? {
                if let Some(address) = find(&datagram.peer, hosts) {
                    socket.send_to(datagram.payload, address).await?;
                }
                bytes.drain(..length);
            }
            if read.read_buf(&mut bytes).await? == 0 {
                return Ok::<(), io::Error>(());
            }
        }
    };
    let down = async {
        let mut buffer = vec![0; 65_535];
        loop {
            let (count, from) = socket.recv_from(&mut buffer).await?;
            let peer = Target::new(Host::Ip(from.ip()), from.port()).map_err(io::Error::other)?;
            let mut frame = Vec::new();
            Datagram { peer, payload: &buffer[..count] }.write(&mut frame).map_err(io::Error::other)?;
            write.write_all(&frame).await?;
        }
    };
    tokio::select! {
        ended = up => ended,
        ended = down => ended,
    }
}
