//! Two processes of one bridge, of which the newer takes the connections and the older has sessions whose carriers come back.
//!
//! For each carrier that asks the newer one for a session that it does not know it makes a connection to the older, with the
//! client's address in front, and goes on as [`qnet_proto::elsewhere`] says. How connections get from one process to the other is for
//! the caller: nobody but the bridge itself may be at the other end of one, because what is said on it is believed and not encrypted.

use std::{
    io::{self, Write as _},
    net::{IpAddr, Ipv6Addr, SocketAddr},
    os::unix::net::UnixStream as StdStream,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use qnet_proto::carrier::{Carrier, Close, Side};
use tokio::{io::AsyncReadExt as _, net::UnixStream, sync::mpsc, time::timeout};

use crate::driver::now;

/// What the first byte of a connection says. A process of another version is not understood, and has no session for us.
const VERSION: u8 = 1;
/// Bytes before the first word: the version, the client's address, mapped into IPv6 where it is none, and its port.
const PREAMBLE: usize = 1 + 16 + 2;
/// How long they may take. They are written before the connection is handed over.
const PREAMBLE_LIMIT: Duration = Duration::from_secs(10);
/// Connections on their way to the other process at once. All clients of a busy bridge may come back in the second after an
/// upgrade; beyond it they are told that their sessions are gone.
const MAX_WAITING: usize = 4_096;

/// The older processes, the newest last.
#[derive(Clone, Default)]
pub(crate) struct Others(Arc<Mutex<Vec<Other>>>);

struct Other {
    number: u64,
    links: mpsc::Sender<StdStream>,
}

impl Others {
    fn list(&self) -> MutexGuard<'_, Vec<Other>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more; what it is asked over comes out of this.
    pub(crate) fn add(&self) -> mpsc::Receiver<StdStream> {
        let (links, receiver) = mpsc::channel(MAX_WAITING);
        let mut list = self.list();
        let number = list.last().map_or(0, |newest| newest.number + 1);
        list.push(Other { number, links });
        receiver
    }

    /// Whether there is any.
    pub(crate) fn any(&self) -> bool {
        let mut list = self.list();
        list.retain(|other| !other.links.is_closed());
        !list.is_empty()
    }

    /// A connection to the newest of those older than `asked`, for this client's carrier, and which that is.
    pub(crate) fn connect(&self, asked: Option<u64>, client: SocketAddr) -> Option<(Link, u64)> {
        let list = self.list();
        let older = list.iter().rev().filter(|other| asked.is_none_or(|asked| other.number < asked));
        for other in older {
            match connect(&other.links, client) {
                Ok(link) => return Some((link, other.number)),
                Err(error) => tracing::debug!("an older process is not asked: {error}"),
            }
        }
        None
    }
}

fn connect(links: &mpsc::Sender<StdStream>, client: SocketAddr) -> io::Result<Link> {
    let (mut own, its) = StdStream::pair()?;
    own.write_all(&preamble(client))?;
    own.set_nonblocking(true)?;
    links.try_send(its).map_err(|_| io::ErrorKind::BrokenPipe)?;
    Ok(Link::from(UnixStream::from_std(own)?))
}

fn preamble(client: SocketAddr) -> [u8; PREAMBLE] {
    let mut bytes = [0; PREAMBLE];
    let ip = match client.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    let fields = [VERSION].into_iter().chain(ip.octets()).chain(client.port().to_be_bytes());
    for (to, from) in bytes.iter_mut().zip(fields) {
        *to = from;
    }
    bytes
}

/// Takes a connection that another process made. The client's address.
pub(crate) async fn receive(link: StdStream) -> io::Result<(Link, SocketAddr)> {
    link.set_nonblocking(true)?;
    let mut link = UnixStream::from_std(link)?;
    let preamble = async {
        if link.read_u8().await? != VERSION {
            return Err(io::Error::from(io::ErrorKind::InvalidData));
        }
        Ok((Ipv6Addr::from(link.read_u128().await?), link.read_u16().await?))
    };
    let (ip, port) = timeout(PREAMBLE_LIMIT, preamble).await??;
    Ok((Link::from(link), SocketAddr::new(IpAddr::from(ip).to_canonical(), port)))
}

/// A carrier's connection to another process: [`Side::Link`].
pub(crate) struct Link {
    socket: UnixStream,
    /// The other end takes nothing more; what it said before may still be there.
    deaf: bool,
}

impl From<UnixStream> for Link {
    fn from(socket: UnixStream) -> Self {
        Self { socket, deaf: false }
    }
}

/// What a step came to.
pub(crate) enum Moved {
    Nothing,
    Something,
    /// The connection is over, and the core knows.
    Over,
}

impl Link {
    /// Writes and reads as far as it goes without waiting.
    pub(crate) fn step(&mut self, core: &mut dyn Carrier, cx: &mut Context<'_>) -> Moved {
        let wrote = self.write(core, cx);
        if core.shutdown(Side::Link).is_some() {
            return Moved::Over;
        }
        match self.read(core, cx) {
            Ok(read) if wrote || read => Moved::Something,
            Ok(_) => Moved::Nothing,
            Err(_) => {
                core.ended(Side::Link, Close::Fin, now());
                Moved::Over
            }
        }
    }

    fn write(&mut self, core: &mut dyn Carrier, cx: &mut Context<'_>) -> bool {
        let mut moved = false;
        while !self.deaf && !core.pending(Side::Link).is_empty() {
            let written = match self.socket.poll_write_ready(cx) {
                Poll::Pending => break,
                Poll::Ready(ready) => ready.and_then(|()| self.socket.try_write(core.pending(Side::Link))),
            };
            match written {
                Ok(n) => {
                    core.wrote(Side::Link, n, now());
                    moved = true;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => self.deaf = true,
            }
        }
        moved
    }

    /// An error at the end.
    fn read(&self, core: &mut dyn Carrier, cx: &mut Context<'_>) -> io::Result<bool> {
        if !core.wants(Side::Link) || self.socket.poll_read_ready(cx)?.is_pending() {
            return Ok(false);
        }
        match self.socket.try_read(core.space(Side::Link)) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => {
                core.filled(Side::Link, n, now());
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(true),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_newest_is_asked_first_and_each_once() {
        let others = Others::default();
        assert!(!others.any() && others.connect(None, "192.0.2.1:1".parse().unwrap()).is_none());
        let (mut oldest, mut newest) = (others.add(), others.add());
        for client in ["192.0.2.7:443", "[2001:db8::7]:65535"] {
            let client = client.parse().unwrap();
            let (_first, number) = others.connect(None, client).unwrap();
            assert_eq!(receive(newest.try_recv().unwrap()).await.unwrap().1, client);
            let (_second, number) = others.connect(Some(number), client).unwrap();
            assert_eq!(receive(oldest.try_recv().unwrap()).await.unwrap().1, client);
            assert!(others.connect(Some(number), client).is_none());
        }
        drop(newest);
        let client = "192.0.2.7:443".parse().unwrap();
        assert!(others.connect(None, client).is_some_and(|(_, number)| number == 0));
        drop(oldest);
        assert!(others.connect(None, client).is_none() && !others.any());
    }

    #[tokio::test]
    async fn another_version_is_not_understood() {
        let (mut own, its) = StdStream::pair().unwrap();
        let mut bytes = preamble("192.0.2.7:443".parse().unwrap());
        bytes[0] = VERSION + 1;
        own.write_all(&bytes).unwrap();
        assert!(receive(its).await.is_err_and(|error| error.kind() == io::ErrorKind::InvalidData));
    }

    #[tokio::test(start_paused = true)]
    async fn who_says_nothing_is_not_waited_for() {
        let (_own, its) = StdStream::pair().unwrap();
        assert!(receive(its).await.is_err_and(|error| error.kind() == io::ErrorKind::TimedOut));
    }
}
