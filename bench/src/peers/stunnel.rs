//! stunnel: a connection inside one of TLS, one to one.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;
use qnet_tests::support::ca::Certificates;
use qnet_tests::support::decoy::NAME;
use qnet_tests::support::process::free_address;

use super::{installed, listening, write};
use crate::pair::{Contender, Entrance, Pair};

/// stunnel 5 at both ends.
pub struct Stunnel {
    program: PathBuf,
}

impl Stunnel {
    /// Debian's.
    ///
    /// # Errors
    /// It is not installed.
    pub fn new() -> Result<Self> {
        Ok(Self { program: installed("stunnel4")? })
    }
}

impl Contender for Stunnel {
    fn name(&self) -> &'static str {
        "stunnel"
    }

    fn start(&self, far: SocketAddr) -> Result<Pair> {
        let state = tempfile::tempdir()?;
        let certificates = Certificates::make(state.path(), &[NAME])?;
        let (near, middle) = (free_address()?, free_address()?);
        // In the foreground, and silent.
        let common =
            "foreground = yes\npid =\ndebug = err\nsocket = l:TCP_NODELAY=1\nsocket = r:TCP_NODELAY=1\n";
        let server = format!(
            "{common}[bench]\naccept = {middle}\nconnect = {far}\ncert = {}\n",
            certificates.both.display()
        );
        let client = format!(
            "{common}[bench]\nclient = yes\naccept = {near}\nconnect = {middle}\nCAfile = {}\nverifyChain = yes\ncheckHost = {NAME}\n",
            certificates.ca.display()
        );
        let start = |name: &str, settings: &str, address| {
            let file = write(state.path(), &format!("{name}.conf"), settings)?;
            listening(state.path(), name, Command::new(&self.program).arg(file), address)
        };
        let bridge = start("server", &server, middle)?;
        let client = start("client", &client, near)?;
        let pids = [client.pid(), bridge.pid()];
        Ok(Pair::new(pids, Entrance::Port(near), (client, bridge), state))
    }
}
