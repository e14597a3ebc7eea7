//! A SOCKS5 UDP association (RFC 1928, section 7): datagrams between an application's socket and a stream.
//!
//! The association lives as long as the TCP connection that asked for it. Datagrams are taken from the application's address
//! alone, the first sender's of those that have the TCP connection's. What the tunnel does not take in time is lost, as datagrams are.

use std::io;
use std::net::SocketAddr;
use std::sync::OnceLock;

use qnet_pt_ipc::socks::Reply;
use qnet_wire::target::Request;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};

use super::socks::reply_to;
use super::{Service, refuse};
use crate::datagram::{from_frame, to_frame};

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
