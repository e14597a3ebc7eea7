//! A SOCKS5 client (RFC 1928) that passes a bridge's arguments as its login (RFC 1929), as tor does.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Result, bail, ensure};

use crate::plugin::Method;

/// The longest a plugin may take to connect, or a transfer to stand still.
const PATIENCE: Duration = Duration::from_secs(60);

/// RFC 1929: one byte holds the length of each half of the login.
const HALF_LOGIN: usize = 255;

/// Connects to `bridge` through the SOCKS port of a client plugin; returns when the tunnel is up.
///
/// # Errors
/// The plugin is not there, or refuses, or answers something that is not SOCKS5.
pub fn connect(plugin: SocketAddr, bridge: &Method) -> Result<TcpStream> {
    let mut stream = patient(TcpStream::connect(plugin)?)?;
    stream.write_all(&[5, 1, 2])?;
    expect(&mut stream, [5, 2], "does not take a login")?;
    stream.write_all(&login(&bridge.args)?)?;
    expect(&mut stream, [1, 0], "refused the bridge's arguments")?;
    let SocketAddr::V4(address) = bridge.address else { bail!("{} is not IPv4", bridge.address) };
    let mut request = vec![5, 1, 0, 1];
    request.extend_from_slice(&address.ip().octets());
    request.extend_from_slice(&address.port().to_be_bytes());
    stream.write_all(&request)?;
    let mut answer = [0; 10];
    stream.read_exact(&mut answer)?;
    let [version, status, _, kind, ..] = answer;
    ensure!(version == 5 && kind == 1, "the plugin answers no SOCKS5: {answer:?}");
    ensure!(status == 0, "the plugin could not connect: SOCKS status {status}");
    Ok(stream)
}

/// Nothing is held back to be sent together, and nothing waited for without end.
///
/// # Errors
/// The kernel's.
pub(crate) fn patient(stream: TcpStream) -> Result<TcpStream> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn expect(stream: &mut TcpStream, wanted: [u8; 2], otherwise: &str) -> Result<()> {
    let mut answer = [0; 2];
    stream.read_exact(&mut answer)?;
    ensure!(answer == wanted, "the plugin {otherwise}: {answer:?}");
    Ok(())
}

/// The arguments as `k=v;k2=v2`, cut into user name and password; a password of one NUL means none.
fn login(args: &[(String, String)]) -> Result<Vec<u8>> {
    let escape = |text: &str| text.replace('\\', r"\\").replace(';', r"\;");
    let joined: Vec<_> = args
        .iter()
        .map(|(key, value)| format!("{}={}", escape(key).replace('=', r"\="), escape(value)))
        .collect();
    let joined = joined.join(";").into_bytes();
    ensure!(!joined.is_empty() && joined.len() <= 2 * HALF_LOGIN, "{} bytes of arguments", joined.len());
    let (user, password) = joined.split_at(joined.len().min(HALF_LOGIN));
    let password = if password.is_empty() { &[0][..] } else { password };
    let mut message = vec![1, u8::try_from(user.len())?];
    message.extend_from_slice(user);
    message.push(u8::try_from(password.len())?);
    message.extend_from_slice(password);
    Ok(message)
}

#[cfg(test)]
mod tests {
    use super::login;

    #[test]
    fn arguments_are_escaped_and_cut() {
        let one = |value: &str| login(&[("k".to_owned(), value.to_owned())]);
        assert_eq!(one(r"a=b;c\d").unwrap(), b"\x01\x0bk=a=b\\;c\\\\d\x01\0");
        let long = one(&"x".repeat(300)).unwrap();
        assert_eq!((long[1], long[2 + 255]), (255, 47));
        assert_eq!(long.len(), 1 + 1 + 255 + 1 + 47);
        assert!(one(&"x".repeat(600)).is_err());
        assert!(login(&[]).is_err());
    }
}
