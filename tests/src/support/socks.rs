//! Just enough of a SOCKS5 client (RFC 1928) to ask tor for a stream.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Result, bail};

/// tor answers a SOCKS request within its own two minutes; a test gives up before.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A connection to `target` through the proxy.
///
/// # Errors
/// The proxy cannot be reached, or refuses (its code is in the message), or nothing moves for a minute.
pub fn connect(proxy: SocketAddr, target: SocketAddr) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(proxy)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    let IpAddr::V4(ip) = target.ip() else { bail!("{target}: only IPv4 targets are needed here") };
    stream.write_all(&[5, 1, 0])?;
    let mut choice = [0; 2];
    stream.read_exact(&mut choice)?;
    if choice != [5, 0] {
        bail!("the proxy at {proxy} answers {choice:02x?} to the greeting");
    }
    let mut request = vec![5, 1, 0, 1];
    request.extend(ip.octets());
    request.extend(target.port().to_be_bytes());
    stream.write_all(&request)?;
    let mut reply = [0; 10];
    stream.read_exact(&mut reply)?;
    match reply {
        [5, 0, ..] => Ok(stream),
        [_, code, ..] => bail!("the proxy at {proxy} refuses {target} with code {code}"),
    }
}
