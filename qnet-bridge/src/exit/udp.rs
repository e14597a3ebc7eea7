//! A UDP association: datagrams of one stream through sockets of their own.

use std::{
    cell::RefCell,
    collections::HashSet,
    future::pending,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use qnet_wire::target::{Datagram, Host, MAX_FRAME, MAX_PAYLOAD, Target};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::UdpSocket,
    time::timeout,
};

use super::{Allowed, Exit};

/// How long an association may be without a datagram: longer than a resolver or QUIC is silent, and NATs keep less.
const IDLE_LIMIT: Duration = Duration::from_secs(180);
/// Addresses that one association may have sent to, and so hear from: more than an honest program needs.
const MAX_PEERS: usize = 1_024;
/// Read from the stream at once.
const CHUNK: usize = 16 * 1024;

/// One socket a family, made when first needed.
#[derive(Default)]
struct Sockets {
    v4: Option<UdpSocket>,
    v6: Option<UdpSocket>,
    peers: HashSet<SocketAddr>,
}

/// Serves the association to its end. `inbox`: what came with the request.
pub(super) async fn associate<S>(
    stream: S,
    mut inbox: Vec<u8>,
    allowed: &Allowed,
    exit: &Exit,
) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut read, mut write) = tokio::io::split(stream);
    let mut sockets = Sockets::default();
    let mut out = Vec::new();
    loop {
        while let Some((datagram, length)) = Datagram::read(&inbox).map_err(io::Error::other)? {
            // What is not allowed or cannot be sent is lost, as on any network.
            if let Ok(addresses) = exit.addresses(&datagram.peer, allowed).await
                && let Some(address) = addresses.first()
            {
                sockets.send(datagram.payload, *address).await;
            }
            inbox.drain(..length);
        }
        inbox.reserve(CHUNK.min(MAX_FRAME.saturating_sub(inbox.len())));
        let event = async {
            tokio::select! {
                count = read.read_buf(&mut inbox) => count.map(|count| if count == 0 { Event::End } else { Event::Up }),
                () = readable(sockets.v4.as_ref()) => Ok(Event::Down(sockets.v4.as_ref())),
                () = readable(sockets.v6.as_ref()) => Ok(Event::Down(sockets.v6.as_ref())),
            }
        };
        match timeout(IDLE_LIMIT, event).await.unwrap_or(Ok(Event::End))? {
            Event::End => return write.shutdown().await,
            Event::Up => {}
            Event::Down(socket) => {
                hear(socket, &sockets.peers, &mut out);
                write.write_all(&out).await?;
            }
        }
    }
}

thread_local! {
    /// Where datagrams are received, so that an association at rest holds no buffer. Nothing stays in it.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; MAX_PAYLOAD].into_boxed_slice());
}

enum Event<'a> {
    /// Something of the client's.
    Up,
    /// This socket has something.
    Down(Option<&'a UdpSocket>),
    End,
}

async fn readable(socket: Option<&UdpSocket>) {
    match socket {
        // An error is heard of again where the datagram is read.
        Some(socket) => drop(socket.readable().await),
        None => pending().await,
    }
}

/// What came, as it goes down; nothing where it is not from one that was sent to, or is an error about something sent before.
fn hear(socket: Option<&UdpSocket>, peers: &HashSet<SocketAddr>, out: &mut Vec<u8>) {
    out.clear();
    SCRATCH.with_borrow_mut(|scratch| {
        let Some((count, from)) = socket.and_then(|socket| socket.try_recv_from(scratch).ok()) else {
            return;
        };
        let peer = Target::new(Host::Ip(from.ip()), from.port());
        if let (Ok(peer), Some(payload), true) = (peer, scratch.get(..count), peers.contains(&from)) {
            // A payload of the scratch's length fits.
            Datagram { peer, payload }.write(out).unwrap_or_default();
        }
    });
}

impl Sockets {
    async fn send(&mut self, payload: &[u8], to: SocketAddr) {
        let (slot, any): (_, IpAddr) = match to {
            SocketAddr::V4(_) => (&mut self.v4, Ipv4Addr::UNSPECIFIED.into()),
            SocketAddr::V6(_) => (&mut self.v6, Ipv6Addr::UNSPECIFIED.into()),
        };
        if self.peers.len() >= MAX_PEERS && !self.peers.contains(&to) {
            return;
        }
        if slot.is_none() {
            *slot = UdpSocket::bind((any, 0)).await.ok();
        }
        let Some(socket) = slot else { return };
        if socket.send_to(payload, to).await.is_ok() {
            self.peers.insert(to);
        }
    }
}
