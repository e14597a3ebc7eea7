//! An application that speaks SOCKS5.

use std::io;

use qnet_pt_ipc::socks::{self, Command, Reply, SocksError};
use qnet_transport::negotiate;
use qnet_wire::target::{Answer, Host, Request, Target, TargetError};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{NEGOTIATION, Service, refuse, udp};
use crate::pool::OpenError;

pub(super) async fn serve(service: &Service, mut tcp: TcpStream) -> io::Result<()> {
    let request = match timeout(NEGOTIATION, negotiate(&mut tcp)).await?? {
        Ok(request) => request,
        Err(error) => {
            tracing::warn!("an application's request was refused: {error}");
            return refuse(tcp, &[]).await;
        }
    };
    match request.command {
        Command::Connect => connect(service, tcp, &request).await,
        Command::Udp => udp::serve(service, tcp).await,
    }
}

async fn negotiate(tcp: &mut TcpStream) -> io::Result<Result<socks::Request, SocksError>> {
    let mut server = socks::Server::with_udp();
    negotiate::negotiate(tcp, |bytes, out| server.on_bytes(bytes, out).outcome()).await
}

async fn connect(service: &Service, mut tcp: TcpStream, request: &socks::Request) -> io::Result<()> {
    let target = match target(&request.target) {
        Ok(target) => target,
        Err(error) => {
            tracing::warn!("an application asks for what is no host: {error}");
            return refuse(tcp, &reply(Reply::AddressTypeNotSupported)).await;
        }
    };
    match service.open(Some(&Request::Tcp(target))).await {
        Ok(mut far) => {
            tcp.write_all(&reply(Reply::Succeeded)).await?;
            far.stream().write_all(&request.early).await?;
            service.carry(&mut tcp, &mut far).await;
            Ok(())
        }
        Err(error) => refuse(tcp, &reply(reply_to(&error))).await,
    }
}

fn target(asked: &socks::Target) -> Result<Target, TargetError> {
    match asked {
        socks::Target::Address(address) => Target::new(Host::Ip(address.ip()), address.port()),
        // Some applications send addresses as names.
        socks::Target::Name(name, port) => match name.parse() {
            Ok(ip) => Target::new(Host::Ip(ip), *port),
            Err(_) => Target::new(name.parse()?, *port),
        },
    }
}

fn reply(reply: Reply) -> Vec<u8> {
    let mut out = Vec::new();
    reply.write(&mut out);
    out
}

/// The same reason in SOCKS's words (RFC 1928, section 6).
pub(super) fn reply_to(error: &OpenError) -> Reply {
    match error {
        OpenError::NoBridge(_) => Reply::GeneralFailure,
        OpenError::Refused(answer) => match answer {
            Answer::Connected | Answer::Failed | Answer::TooManyStreams => Reply::GeneralFailure,
            Answer::NotAllowed => Reply::NotAllowed,
            Answer::NetworkUnreachable => Reply::NetworkUnreachable,
            Answer::HostUnreachable => Reply::HostUnreachable,
            Answer::Refused => Reply::ConnectionRefused,
            Answer::TimedOut => Reply::TtlExpired,
            Answer::Unsupported => Reply::CommandNotSupported,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_come_as_names_are_addresses() {
        let name =
            |name: &str| target(&socks::Target::Name(name.to_owned(), 80)).map(|target| target.to_string());
        assert_eq!(name("192.0.2.7"), Ok("192.0.2.7:80".to_owned()));
        assert_eq!(name("2001:db8::7"), Ok("[2001:db8::7]:80".to_owned()));
        assert_eq!(name("Example.com."), Ok("example.com:80".to_owned()));
        assert!(name("127.1").is_err() && name("").is_err() && name("a b").is_err());
        assert!(target(&socks::Target::Address("192.0.2.7:0".parse().unwrap())).is_err());
    }
}
