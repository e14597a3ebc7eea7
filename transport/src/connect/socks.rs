//! SOCKS5 (RFC 1928, RFC 1929) and SOCKS4a, client side. All answers have fixed or one-byte lengths and are read to the
//! byte, so that nothing of what follows is lost.
#![forbid(unsafe_code)]

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use zeroize::Zeroizing;

use super::error::{ConnectError, Hop, ProxyReply};
use super::login::Login;

const VERSION_5: u8 = 5;
const NO_LOGIN: u8 = 0;
const PASSWORD: u8 = 2;
const NOTHING_ACCEPTABLE: u8 = 0xff;
const CONNECT: u8 = 1;
const GRANTED_4: u8 = 90;

/// Asks a SOCKS5 proxy for a connection to `to`.
pub(super) async fn connect5(
    tcp: &mut TcpStream,
    login: Option<&Login>,
    to: SocketAddr,
) -> Result<(), ConnectError> {
    let methods: &[u8] =
        if login.is_some() { &[VERSION_5, 2, NO_LOGIN, PASSWORD] } else { &[VERSION_5, 1, NO_LOGIN] };
    let [version, method] = ask(tcp, methods).await?;
    if version != VERSION_5 {
        return Err(ConnectError::ProxyMisbehaved("no SOCKS5 answer"));
    }
    match (method, login) {
        (NO_LOGIN, _) => {}
        (PASSWORD, Some(login)) => sign_in(tcp, login).await?,
        (NOTHING_ACCEPTABLE, None) => return Err(ConnectError::ProxyWantsLogin),
        (NOTHING_ACCEPTABLE, Some(_)) => {
            return Err(ConnectError::ProxyUnable("neither a user name with password, nor none"));
        }
        _ => return Err(ConnectError::ProxyMisbehaved("it chose a SOCKS5 method that was not offered")),
    }
    let mut request = vec![VERSION_5, CONNECT, 0];
    match to {
        SocketAddr::V4(to) => {
            request.push(1);
            request.extend_from_slice(&to.ip().octets());
        }
        SocketAddr::V6(to) => {
            request.push(4);
            request.extend_from_slice(&to.ip().octets());
        }
    }
    request.extend_from_slice(&to.port().to_be_bytes());
    let [version, reply, _, kind] = ask(tcp, &request).await?;
    if version != VERSION_5 {
        return Err(ConnectError::ProxyMisbehaved("no SOCKS5 answer"));
    }
    granted5(reply)?;
    // The address it connects from is of no use, but has to be read.
    let address = match kind {
        1 => 4,
        4 => 16,
        3 => usize::from(read::<1>(tcp).await?[0]),
        _ => return Err(ConnectError::ProxyMisbehaved("a SOCKS5 answer with an unknown address type")),
    };
    let mut rest = [0; 255 + 2];
    let rest = rest.get_mut(..address + 2).unwrap_or_default();
    tcp.read_exact(rest).await.map_err(ConnectError::talking)?;
    Ok(())
}

/// RFC 1929.
async fn sign_in(tcp: &mut TcpStream, login: &Login) -> Result<(), ConnectError> {
    let (user, password) = (login.user().as_bytes(), login.password().as_bytes());
    let length = |part: &[u8]| {
        u8::try_from(part.len()).map_err(|_| ConnectError::BadLogin("a part is over 255 bytes"))
    };
    let mut request = Zeroizing::new(Vec::with_capacity(3 + user.len() + password.len()));
    request.extend_from_slice(&[1, length(user)?]);
    request.extend_from_slice(user);
    request.push(length(password)?);
    request.extend_from_slice(password);
    // The answer's version should be 1; some proxies send 5.
    let [_, status] = ask(tcp, &request).await?;
    if status == 0 { Ok(()) } else { Err(ConnectError::ProxyLoginRefused) }
}

fn granted5(reply: u8) -> Result<(), ConnectError> {
    let hop = Hop::BeyondProxy;
    Err(match reply {
        0 => return Ok(()),
        2 => ConnectError::ProxyForbids,
        3 => ConnectError::NetworkUnreachable { hop },
        4 => ConnectError::HostUnreachable { hop },
        5 => ConnectError::Refused { hop },
        6 => ConnectError::TimedOut { hop },
        7 => ConnectError::ProxyUnable("outgoing connections"),
        8 => ConnectError::ProxyUnable("addresses of the bridge's family"),
        other => ConnectError::ProxyFailed(ProxyReply::Socks5(other)),
    })
}

/// Asks a SOCKS4 proxy for a connection to `to`.
pub(super) async fn connect4(tcp: &mut TcpStream, user: &str, to: SocketAddr) -> Result<(), ConnectError> {
    if user.len() > super::login::MAX_PART || user.contains('\0') {
        return Err(ConnectError::BadLogin("a SOCKS4 user id has at most 255 bytes, none of them zero"));
    }
    let mut request = vec![4, CONNECT];
    request.extend_from_slice(&to.port().to_be_bytes());
    match to {
        SocketAddr::V4(to) => request.extend_from_slice(&to.ip().octets()),
        SocketAddr::V6(_) => request.extend_from_slice(&[0, 0, 0, 1]), // 4a: a name follows the user id
    }
    request.extend_from_slice(user.as_bytes());
    request.push(0);
    if let SocketAddr::V6(to) = to {
        request.extend_from_slice(to.ip().to_string().as_bytes());
        request.push(0);
    }
    let [version, reply, ..] = ask::<8>(tcp, &request).await?;
    match (version, reply) {
        (0, GRANTED_4) => Ok(()),
        (0, 92 | 93) => Err(ConnectError::ProxyLoginRefused),
        (0, other) => Err(ConnectError::ProxyFailed(ProxyReply::Socks4(other))),
        _ => Err(ConnectError::ProxyMisbehaved("no SOCKS4 answer")),
    }
}

/// Sends a request in one write and reads an answer of `N` bytes.
async fn ask<const N: usize>(tcp: &mut TcpStream, request: &[u8]) -> Result<[u8; N], ConnectError> {
    tcp.write_all(request).await.map_err(ConnectError::talking)?;
    read(tcp).await
}

async fn read<const N: usize>(tcp: &mut TcpStream) -> Result<[u8; N], ConnectError> {
    let mut answer = [0; N];
    tcp.read_exact(&mut answer).await.map_err(ConnectError::talking)?;
    Ok(answer)
}
