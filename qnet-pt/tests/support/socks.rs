//! The SOCKS5 a parent speaks.

use super::PATIENCE;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};

pub fn dial(socks: SocketAddr) -> TcpStream {
    let tcp = TcpStream::connect(socks).unwrap();
    tcp.set_read_timeout(Some(PATIENCE)).unwrap();
    tcp
}

/// Asks for a connection as C tor does; the code of a failure.
pub fn connect(socks: SocketAddr, target: SocketAddr, args: &str) -> Result<TcpStream, u8> {
    let bytes = args.as_bytes();
    let (user, password) = if bytes.len() <= 255 { (bytes, &[0][..]) } else { bytes.split_at(255) };
    connect_with(socks, target, user, password)
}

/// The same with the login's halves given.
pub fn connect_with(
    socks: SocketAddr,
    target: SocketAddr,
    user: &[u8],
    password: &[u8],
) -> Result<TcpStream, u8> {
    let mut tcp = dial(socks);
    log_in(&mut tcp, user, password);
    tcp.write_all(&request(target)).unwrap();
    reply(tcp)
}

/// Greeting and login.
pub fn log_in(tcp: &mut TcpStream, user: &[u8], password: &[u8]) {
    tcp.write_all(&[5, 1, 2]).unwrap();
    assert_eq!(super::read_exact::<2>(tcp), [5, 2]);
    let length = |half: &[u8]| u8::try_from(half.len()).unwrap();
    let login = [&[1, length(user)], user, &[length(password)], password].concat();
    tcp.write_all(&login).unwrap();
    assert_eq!(super::read_exact::<2>(tcp), [1, 0]);
}

pub fn request(target: SocketAddr) -> Vec<u8> {
    let (kind, ip) = match target.ip() {
        IpAddr::V4(ip) => (1, ip.octets().to_vec()),
        IpAddr::V6(ip) => (4, ip.octets().to_vec()),
    };
    [&[5, 1, 0, kind][..], &ip, &target.port().to_be_bytes()].concat()
}

pub fn reply(mut tcp: TcpStream) -> Result<TcpStream, u8> {
    let reply = super::read_exact::<10>(&mut tcp);
    assert_eq!((reply[0], reply[2], reply[3]), (5, 0, 1));
    if reply[1] == 0 {
        return Ok(tcp);
    }
    assert_eq!(tcp.read(&mut [0]).unwrap(), 0, "a refused connection ends without a reset");
    Err(reply[1])
}
