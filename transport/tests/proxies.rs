//! Connections through real proxies from Debian's packages: microsocks (SOCKS5) and Apache (HTTP CONNECT).

#![allow(clippy::unwrap_used, reason = "a test's own helpers")]

mod support;

use std::net::SocketAddr;
use std::process::Command;

use qnet_transport::connect::{Connect, ConnectError, Hop, Login, Upstream};
use support::{Server, Site, free_address};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

/// Listens, answers each connection with what it says, and closes.
async fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            let mut said = [0; 5];
            tcp.read_exact(&mut said).await.unwrap();
            tcp.write_all(&said).await.unwrap();
        }
    });
    address
}

async fn works(upstream: Upstream) {
    let mut tcp = Connect { upstream, ..Connect::default() }.connect(echo().await).await.unwrap();
    tcp.write_all(b"hello").await.unwrap();
    let mut heard = [0; 5];
    tcp.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"hello");
}

async fn fails(upstream: Upstream, to: SocketAddr) -> ConnectError {
    Connect { upstream, ..Connect::default() }.connect(to).await.unwrap_err()
}

fn login() -> Login {
    Login::new("user", "word").unwrap()
}

fn microsocks(arguments: &[&str]) -> Server {
    let at = free_address();
    let mut command = Command::new("/usr/bin/microsocks");
    command.args(["-i", "127.0.0.1", "-p", &at.port().to_string()]).args(arguments);
    Server::start(command, at)
}

#[tokio::test]
async fn socks5() {
    let open = microsocks(&[]);
    let through = |login| Upstream::Socks5 { addr: open.address, login };
    works(through(None)).await;
    works(through(Some(login()))).await;
    let error = fails(through(None), free_address()).await;
    assert!(matches!(error, ConnectError::Refused { hop: Hop::BeyondProxy }), "{error}");

    let closed = microsocks(&["-u", "user", "-P", "word"]);
    let through = |login| Upstream::Socks5 { addr: closed.address, login };
    works(through(Some(login()))).await;
    let error = fails(through(None), free_address()).await;
    assert!(matches!(error, ConnectError::ProxyWantsLogin), "{error}");
    let error = fails(through(Some(Login::new("user", "wrong").unwrap())), free_address()).await;
    assert!(matches!(error, ConnectError::ProxyLoginRefused), "{error}");
}

#[tokio::test]
async fn http_connect() {
    let to = echo().await;
    let site = Site::ordinary();
    // The password file of `htpasswd -bs`: SHA-1 of "word".
    std::fs::write(site.path().join("users"), "user:{SHA}PLzZCtxLGSqHpiWFC38jHK3fDrM=\n").unwrap();
    let modules = &["proxy", "proxy_connect", "authn_core", "authn_file", "auth_basic", "authz_user"];
    let users = site.path().join("users").display().to_string();
    let rules = format!(
        "ProxyRequests On\nAllowCONNECT {}\n<Proxy *>\nAuthType Basic\nAuthName x\nAuthBasicProvider file
        AuthUserFile {users}\nRequire valid-user\n</Proxy>\n",
        to.port()
    );
    let apache = site.apache_with(modules, &rules);
    let through = |login| Upstream::Http { addr: apache.address, login };
    let mut tcp =
        Connect { upstream: through(Some(login())), ..Connect::default() }.connect(to).await.unwrap();
    tcp.write_all(b"hello").await.unwrap();
    let mut heard = [0; 5];
    tcp.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"hello");
    let error = fails(through(None), to).await;
    assert!(matches!(error, ConnectError::ProxyWantsLogin), "{error}");
    let error = fails(through(Some(Login::new("user", "wrong").unwrap())), to).await;
    assert!(matches!(error, ConnectError::ProxyLoginRefused), "{error}");
    let error = fails(through(Some(login())), free_address()).await;
    assert!(matches!(error, ConnectError::ProxyForbids), "{error}");
}
