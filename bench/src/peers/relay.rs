//! The limit: two relays of the same shape, one after the other, that copy and do nothing else.

use std::env;
use std::io::Write as _;
use std::net::SocketAddr;
use std::process::Command;

use anyhow::Result;
use qnet_tests::support::process::free_address;
use tokio::io::copy_bidirectional_with_sizes;
use tokio::net::{TcpListener, TcpStream};

use super::listening;
use crate::pair::{Contender, Entrance, Pair};

/// What each side of a connection may have under way. Larger pieces made it no faster.
const BUFFER: usize = 64 * 1024;

/// This program's own relay, twice.
pub struct Relay;

impl Contender for Relay {
    fn name(&self) -> &'static str {
        "relay"
    }

    fn start(&self, far: SocketAddr) -> Result<Pair> {
        let state = tempfile::tempdir()?;
        let (near, middle) = (free_address()?, free_address()?);
        let start = |name: &str, listen: SocketAddr, to: SocketAddr| {
            let mut command = Command::new(env::current_exe()?);
            command.args(["relay", &listen.to_string(), &to.to_string()]);
            listening(state.path(), name, &mut command, listen)
        };
        let bridge = start("bridge", middle, far)?;
        let client = start("client", near, middle)?;
        let pids = [client.pid(), bridge.pid()];
        Ok(Pair::new(pids, Entrance::Port(near), (client, bridge), state))
    }
}

/// Relays whatever connects to `listen` to `to`, until it is ended.
///
/// # Errors
/// It cannot listen there.
pub fn relay(listen: SocketAddr, to: SocketAddr) -> Result<()> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
        let listener = TcpListener::bind(listen).await?;
        loop {
            let (mut near, _) = listener.accept().await?;
            tokio::spawn(async move {
                if let Err(error) = carry(&mut near, to).await {
                    // The load ends its connections as it likes, and hears of what went wrong by itself.
                    let _ = writeln!(std::io::stderr(), "relay: {error}");
                }
            });
        }
    })
}

async fn carry(near: &mut TcpStream, to: SocketAddr) -> std::io::Result<()> {
    let mut far = TcpStream::connect(to).await?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    copy_bidirectional_with_sizes(near, &mut far, BUFFER, BUFFER).await.map(drop)
}
