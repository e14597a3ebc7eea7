//! A SOCKS5 UDP association (RFC 1928, section 7): datagrams between an application's socket and a stream.
//!
//! The association lives as long as the TCP connection that asked for it. Datagrams are taken from the application's address
//! alone, the first sender's of those that have the TCP connection's. What the tunnel does not take in time is lost, as datagrams are.

use std::io;
use std::net::SocketAddr;
use std::sync::OnceLock;

use qnet_pt_ipc::socks::Reply;
use qnet_wire::target::{Datagram, Request};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};

use super::socks::reply_to;
use super::{Service, refuse};

/// Two reserved bytes and a fragment's number before the address.
const HEADER: usize = 3;
/// Longest datagram that is read, header included; UDP has no longer ones.
const MAX_DATAGRAM: usize = 65_535;

pub(super) async fn serve(service: &Service, mut tcp: TcpStream) -> io::Result<()> {
    let mut answer = Vec::new();
    let mut far = match service.open(Some(&Request::Udp)).await {
        Ok(far) => far,
        Err(error) => {
            reply_to(&error).write(&mut answer);
            return refuse(tcp, &answer).await;
        }
    };
    let application = tcp.peer_addr()?;
    let socket = UdpSocket::bind(SocketAddr::new(tcp.local_addr()?.ip(), 0)).await?;
    Reply::Succeeded.write_bound(socket.local_addr()?, &mut answer);
    tcp.write_all(&answer).await?;
    let association = Association { service, socket, application, sender: OnceLock::new() };
    let (read, write) = tokio::io::split(far.stream());
    let mut sink = tokio::io::sink();
    tokio::select! {
        ended = association.up(write) => ended,
        ended = association.down(read) => ended,
        // Nothing is expected on it but its end.
        ended = tokio::io::copy(&mut tcp, &mut sink) => ended.map(drop),
    }
}

struct Association<'a> {
    service: &'a Service,
    socket: UdpSocket,
    application: SocketAddr,
    /// Where the application sends from, once it has.
    sender: OnceLock<SocketAddr>,
}

impl Association<'_> {
    async fn up(&self, mut stream: impl AsyncWrite + Unpin) -> io::Result<()> {
        let (mut buffer, mut frame) = (vec![0; MAX_DATAGRAM], Vec::new());
        loop {
            let (count, from) = self.socket.recv_from(&mut buffer).await?;
            if from.ip() != self.application.ip() || from != *self.sender.get_or_init(|| from) {
                continue;
            }
            frame.clear();
            if !to_frame(buffer.get(..count).unwrap_or_default(), &mut frame) {
                tracing::debug!(
                    "an application's datagram was dropped: its SOCKS header is wrong, or it is a fragment"
                );
                continue;
            }
            stream.write_all(&frame).await?;
            self.service.traffic.moved(frame.len() as u64, 0);
        }
    }

    async fn down(&self, mut stream: impl AsyncRead + Unpin) -> io::Result<()> {
        let mut bytes = Vec::new();
        let mut datagram = Vec::new();
        loop {
            let mut used = 0;
            while let Some(length) = from_frame(bytes.get(used..).unwrap_or_default(), &mut datagram)? {
                used += length;
                self.service.traffic.moved(0, length as u64);
                if let Some(sender) = self.sender.get() {
                    // The application may have closed its socket; its TCP connection says when it is done.
                    let _ = self.socket.send_to(&datagram, sender).await;
                }
            }
            bytes.drain(..used);
            // What is left is less than one datagram, so less than 65,537 bytes.
            if stream.read_buf(&mut bytes).await? == 0 {
                return Ok(());
            }
        }
    }
}

/// An application's datagram as the stream carries it; `false` if it is not one. Fragments are optional to do, and nobody does.
fn to_frame(datagram: &[u8], frame: &mut Vec<u8>) -> bool {
    let Some(([0, 0, 0], body)) = datagram.split_first_chunk::<HEADER>() else { return false };
    let Ok(length) = u16::try_from(body.len()) else { return false };
    frame.extend(length.to_be_bytes());
    frame.extend(body);
    // The address is SOCKS's own in both.
    matches!(Datagram::read(frame), Ok(Some(_)))
}

/// The first datagram of a stream's bytes as the application wants it, and how many bytes it was; `None` while it is not whole.
fn from_frame(bytes: &[u8], datagram: &mut Vec<u8>) -> io::Result<Option<usize>> {
    let invalid = |error| io::Error::new(io::ErrorKind::InvalidData, error);
    let Some((_, length)) = Datagram::read(bytes).map_err(invalid)? else { return Ok(None) };
    datagram.clear();
    datagram.extend([0; HEADER]);
    datagram.extend(bytes.get(2..length).unwrap_or_default());
    Ok(Some(length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datagram_goes_there_and_back() {
        let datagram = b"\0\0\0\x03\x0bexample.com\0\x35query";
        let (mut frame, mut back) = (Vec::new(), Vec::new());
        assert!(to_frame(datagram, &mut frame));
        assert_eq!(frame[..2], [0, 20]);
        frame.extend(b"next");
        assert_eq!(from_frame(&frame, &mut back).unwrap(), Some(frame.len() - 4));
        assert_eq!(back, datagram);
        assert!(from_frame(&frame[..10], &mut back).unwrap().is_none());
        assert!(from_frame(b"\0\x02\x01\x7f", &mut back).is_err());
    }

    #[test]
    fn what_is_no_datagram_is_dropped() {
        for datagram in [
            b"".as_slice(),
            b"\0\0",
            b"\0\0\0",
            b"\0\0\x01\x01\x7f\0\0\x01\0\x35x",
            b"\0\x01\0\x01\x7f\0\0\x01\0\x35x",
            b"\0\0\0\x01\x7f\0\0\x01\0\0x",
            b"\0\0\0\x01\x7f\0\0",
        ] {
            assert!(!to_frame(datagram, &mut Vec::new()), "{datagram:?}");
        }
    }
}
