//! trojan: a password and a target inside TLS, whose server shows strangers a web site.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;
use qnet_tests::support::ca::Certificates;
use qnet_tests::support::decoy::NAME;
use qnet_tests::support::process::free_address;
use serde_json::json;

use super::{installed, listening, write};
use crate::pair::{Contender, Entrance, Pair};

/// Any will do.
const PASSWORD: &str = "bench";

/// Debian's trojan at both ends.
pub struct Trojan {
    program: PathBuf,
}

impl Trojan {
    /// Debian's.
    ///
    /// # Errors
    /// It is not installed.
    pub fn new() -> Result<Self> {
        Ok(Self { program: installed("trojan")? })
    }
}

impl Contender for Trojan {
    fn name(&self) -> &'static str {
        "trojan"
    }

    fn start(&self, far: SocketAddr) -> Result<Pair> {
        let state = tempfile::tempdir()?;
        let certificates = Certificates::make(state.path(), &[NAME])?;
        let (near, middle) = (free_address()?, free_address()?);
        let tcp = json!({ "no_delay": true, "keep_alive": true, "reuse_port": false, "fast_open": false });
        let server = json!({
            "run_type": "server",
            "local_addr": middle.ip(), "local_port": middle.port(),
            // Where strangers go; there are none.
            "remote_addr": far.ip(), "remote_port": far.port(),
            "password": [PASSWORD], "log_level": 3, "tcp": tcp,
            "ssl": { "cert": certificates.certificate, "key": certificates.key, "alpn": ["http/1.1"] },
        });
        let client = json!({
            "run_type": "forward",
            "local_addr": near.ip(), "local_port": near.port(),
            "remote_addr": middle.ip(), "remote_port": middle.port(),
            "target_addr": far.ip(), "target_port": far.port(),
            "password": [PASSWORD], "log_level": 3, "tcp": tcp,
            "ssl": { "verify": true, "verify_hostname": true, "cert": certificates.ca, "sni": NAME, "alpn": ["http/1.1"] },
        });
        let start = |name: &str, settings: &serde_json::Value, address| {
            let file = write(state.path(), &format!("{name}.json"), &settings.to_string())?;
            listening(state.path(), name, Command::new(&self.program).arg("--config").arg(file), address)
        };
        let bridge = start("server", &server, middle)?;
        let client = start("client", &client, near)?;
        let pids = [client.pid(), bridge.pid()];
        Ok(Pair::new(pids, Entrance::Port(near), (client, bridge), state))
    }
}
