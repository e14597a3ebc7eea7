//! TCP segments as they are on loopback: what a censor's tap would have.
//!
//! A raw packet socket (packet(7)) is given every IPv4 packet of this network namespace once, with the time at which the kernel
//! sent it. Without [`super::isolate::ethernet`] loopback's segments are larger than any network's.

use std::collections::HashSet;
use std::io::IoSliceMut;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockProtocol, SockType, recvmsg, setsockopt,
    socket, sockopt,
};
use nix::sys::time::{TimeSpec, TimeVal, TimeValLike};

/// The longest IPv4 header and the longest TCP header, bytes: nothing behind them is looked at.
const HEADERS: usize = 60 + 60;

/// What the kernel may hold for us, bytes: a busy machine's tenths of a second.
const WAITING: usize = 128 << 20;

/// How soon the sniffer notices that nobody wants it any more.
const LOOK: Duration = Duration::from_millis(50);

/// Segments kept: more than a gigabyte's.
const MAX_SEGMENTS: usize = 1 << 20;

/// TCP's flags (RFC 9293, section 3.1).
pub const FIN: u8 = 1;
/// Opens a connection.
pub const SYN: u8 = 2;
/// Ends it abruptly.
pub const RST: u8 = 4;
/// Says that [`Segment::acknowledges`] means something.
pub const ACK: u8 = 16;

/// One TCP segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// When the kernel sent it.
    pub at: Instant,
    /// Who sent it.
    pub from: SocketAddr,
    /// To whom.
    pub to: SocketAddr,
    /// Its sequence number.
    pub sequence: u32,
    /// Its acknowledgement number.
    pub acknowledges: u32,
    /// [`SYN`] and the others, as bits.
    pub flags: u8,
    /// Bytes of payload.
    pub payload: usize,
}

/// A tap on this namespace's loopback, for connections from and to some addresses. Ends when dropped.
#[derive(Debug)]
pub struct Sniffer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    segments: Mutex<Vec<Segment>>,
    addresses: Mutex<HashSet<SocketAddr>>,
    closed: AtomicBool,
}

impl Sniffer {
    /// Begins to note what connections of `addresses`, at either end, send.
    ///
    /// # Errors
    /// The kernel gives no packet socket: that takes `CAP_NET_RAW`, which one has in a namespace of one's own.
    pub fn start(addresses: impl IntoIterator<Item = SocketAddr>) -> Result<Self> {
        let tap = tap().context("no packet socket: the lab needs a network namespace of its own")?;
        let shared = Arc::new(Shared::default());
        lock(&shared.addresses).extend(addresses);
        let (theirs, clock) = (Arc::clone(&shared), Clock::now());
        let thread = thread::spawn(move || {
            while !theirs.closed.load(Ordering::Relaxed) {
                if let Ok(Some(segment)) = next(&tap, &clock) {
                    theirs.note(segment);
                }
            }
        });
        Ok(Self { shared, thread: Some(thread) })
    }

    /// From now on that address's connections, too.
    pub fn watch(&self, address: SocketAddr) {
        lock(&self.shared.addresses).insert(address);
    }

    /// What was seen from that moment on, by time.
    #[must_use]
    pub fn segments(&self, since: Instant) -> Vec<Segment> {
        let segments = lock(&self.shared.segments);
        let before = segments.iter().rposition(|segment| segment.at < since).map_or(0, |last| last + 1);
        segments.get(before..).unwrap_or_default().to_vec()
    }
}

impl Drop for Sniffer {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::Relaxed);
        // A tap that panicked has nothing more to say.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

impl Shared {
    fn note(&self, segment: Segment) {
        let wanted = {
            let addresses = lock(&self.addresses);
            addresses.contains(&segment.from) || addresses.contains(&segment.to)
        };
        let mut segments = lock(&self.segments);
        if wanted && segments.len() < MAX_SEGMENTS {
            segments.push(segment);
        }
    }
}

/// IPv4 alone, so that the kernel hands over each packet once: where it arrives, not where it leaves.
fn tap() -> Result<OwnedFd> {
    let tap = socket(AddressFamily::Packet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, SockProtocol::EthIp)?;
    setsockopt(&tap, sockopt::ReceiveTimestampns, &true)?;
    setsockopt(&tap, sockopt::RcvBufForce, &WAITING)?;
    let look = i64::try_from(LOOK.as_millis())?;
    setsockopt(&tap, sockopt::ReceiveTimeout, &TimeVal::milliseconds(look))?;
    Ok(tap)
}

/// One moment by both clocks: the kernel stamps packets by the day's.
struct Clock {
    day: SystemTime,
    steady: Instant,
}

impl Clock {
    fn now() -> Self {
        Self { day: SystemTime::now(), steady: Instant::now() }
    }

    fn at(&self, stamp: TimeSpec) -> Instant {
        let since_epoch = Duration::from(stamp);
        let day = self.day.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        match since_epoch.checked_sub(day) {
            Some(later) => self.steady + later,
            None => self.steady.checked_sub(day.saturating_sub(since_epoch)).unwrap_or(self.steady),
        }
    }
}

/// The next packet, or `None` where it is no TCP segment or none came for a moment.
fn next(tap: &OwnedFd, clock: &Clock) -> Result<Option<Segment>> {
    let mut packet = [0; HEADERS];
    let mut control = nix::cmsg_space!(TimeSpec);
    let mut pieces = [IoSliceMut::new(&mut packet)];
    let flags = MsgFlags::empty();
    let (length, stamp) = match recvmsg::<()>(tap.as_raw_fd(), &mut pieces, Some(&mut control), flags) {
        Ok(message) => {
            let stamp = message.cmsgs()?.find_map(|one| match one {
                ControlMessageOwned::ScmTimestampns(stamp) => Some(stamp),
                _ => None,
            });
            (message.bytes, stamp)
        }
        Err(Errno::EAGAIN | Errno::EINTR) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let at = clock.at(stamp.context("a packet without a time")?);
    Ok(parse(packet.get(..length).unwrap_or_default(), at))
}

/// An IPv4 packet (RFC 791, section 3.1) with TCP (RFC 9293, section 3.1) in it.
fn parse(packet: &[u8], at: Instant) -> Option<Segment> {
    let first = *packet.first()?;
    if first >> 4 != 4 || *packet.get(9)? != 6 {
        return None;
    }
    let header = usize::from(first & 15) * 4;
    let tcp = packet.get(header..)?;
    let short =
        |from: &[u8], place: usize| Some(u16::from_be_bytes([*from.get(place)?, *from.get(place + 1)?]));
    let long = |place: usize| Some(u32::from(short(tcp, place)?) << 16 | u32::from(short(tcp, place + 2)?));
    let address = |place: usize, port: usize| {
        let [a, b, c, d] = *packet.get(place..place + 4)? else { return None };
        Some(SocketAddr::from((Ipv4Addr::new(a, b, c, d), short(tcp, port)?)))
    };
    let headers = header + usize::from(*tcp.get(12)? >> 4) * 4;
    Some(Segment {
        at,
        from: address(12, 0)?,
        to: address(16, 2)?,
        sequence: long(4)?,
        acknowledges: long(8)?,
        flags: *tcp.get(13)?,
        payload: usize::from(short(packet, 2)?).saturating_sub(headers),
    })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_is_read_and_cut_ones_are_not() {
        let mut packet = vec![0x45, 0, 0, 45, 0, 0, 0, 0, 64, 6, 0, 0, 127, 0, 0, 1, 127, 0, 0, 2];
        packet.extend([0x1f, 0x90, 0x20, 0xfb, 0, 1, 0, 2, 0, 3, 0, 4, 0x50, 0x18, 0, 0, 0, 0, 0, 0]);
        let at = Instant::now();
        let segment = parse(&packet, at).unwrap();
        assert_eq!(segment.from, "127.0.0.1:8080".parse().unwrap());
        assert_eq!(segment.to, "127.0.0.2:8443".parse().unwrap());
        assert_eq!((segment.sequence, segment.acknowledges), (0x1_0002, 0x3_0004));
        assert_eq!((segment.flags, segment.payload), (ACK | 8, 5));
        for cut in 0..34 {
            assert_eq!(parse(&packet[..cut], at), None, "cut at {cut}");
        }
        packet[9] = 17;
        assert_eq!(parse(&packet, at), None);
    }
}
