//! shadowsocks-rust, whose client leads a port to a fixed host (`sslocal --protocol tunnel`).

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;
use qnet_tests::support::process::free_address;

use super::{installed, listening};
use crate::pair::{Contender, Entrance, Pair};

/// Its own example's; any will do.
const PASSWORD: &str = "barfoo!";

/// shadowsocks by one of its methods.
pub struct Shadowsocks {
    name: &'static str,
    method: &'static str,
    client: PathBuf,
    server: PathBuf,
}

impl Shadowsocks {
    /// With a method from `sslocal --help`.
    ///
    /// # Errors
    /// It is not installed.
    pub fn new(name: &'static str, method: &'static str) -> Result<Self> {
        Ok(Self { name, method, client: installed("sslocal")?, server: installed("ssserver")? })
    }
}

impl Contender for Shadowsocks {
    fn name(&self) -> &'static str {
        self.name
    }

    fn start(&self, far: SocketAddr) -> Result<Pair> {
        let state = tempfile::tempdir()?;
        let (near, middle) = (free_address()?, free_address()?);
        let secret = ["--password", PASSWORD, "--encrypt-method", self.method, "--tcp-no-delay"];
        let mut server = Command::new(&self.server);
        server.args(["--server-addr", &middle.to_string()]).args(secret);
        let bridge = listening(state.path(), "ssserver", &mut server, middle)?;
        let mut client = Command::new(&self.client);
        client.args(["--protocol", "tunnel", "--forward-addr", &far.to_string()]);
        client.args(["--local-addr", &near.to_string(), "--server-addr", &middle.to_string()]).args(secret);
        let client = listening(state.path(), "sslocal", &mut client, near)?;
        let pids = [client.pid(), bridge.pid()];
        Ok(Pair::new(pids, Entrance::Port(near), (client, bridge), state))
    }
}
