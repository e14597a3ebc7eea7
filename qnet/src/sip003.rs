//! As a plugin of shadowsocks (SIP003): `SS_REMOTE_HOST` and its companions say where to listen and which bridge to use; what
//! the bridge does with the streams is its own business, so they begin with no request.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU16;
use std::process::ExitCode;
use std::sync::Arc;

use qnet_pt_ipc::args::Args;
use qnet_transport::connect::Upstream;
use qnet_wire::bridge_line::BridgeLine;
use tracing::level_filters::LevelFilter;

use crate::front::{self, Service};
use crate::logging;
use crate::pool::{Pool, Probe};
use crate::run::{dialer, in_runtime};
use crate::traffic::Traffic;

/// Set where shadowsocks starts a plugin.
pub(crate) const REMOTE_HOST: &str = "SS_REMOTE_HOST";
const REMOTE_PORT: &str = "SS_REMOTE_PORT";
const LOCAL_HOST: &str = "SS_LOCAL_HOST";
const LOCAL_PORT: &str = "SS_LOCAL_PORT";
const OPTIONS: &str = "SS_PLUGIN_OPTIONS";

/// What the environment asks for.
struct Asked {
    bridge: BridgeLine,
    listen: SocketAddr,
}

/// Runs until a signal.
pub(crate) fn main() -> ExitCode {
    let asked = match ask(|name| std::env::var(name).ok()) {
        Ok(asked) => asked,
        Err(error) => return crate::complain(&error, crate::USAGE),
    };
    logging::start(LevelFilter::INFO);
    in_runtime(async |begun| {
        let dialer = dialer(Upstream::Direct)?;
        let pool = Pool::start(dialer, &[asked.bridge], Probe::Handshake);
        begun.set(Arc::clone(&pool)).ok();
        let listener = front::listen(asked.listen, LOCAL_PORT).await?;
        Service::new(pool, Arc::new(Traffic::default())).forward(listener, None).await;
        Ok(())
    })
}

fn ask(get: impl Fn(&str) -> Option<String>) -> Result<Asked, String> {
    let port = |name: &str| {
        let text = get(name).ok_or_else(|| format!("{name} is not set; a port is expected"))?;
        let port = text.parse::<NonZeroU16>().map(NonZeroU16::get);
        port.map_err(|_| format!("{name} is no port; one from 1 to 65535 is expected"))
    };
    let host = |name: &str, usual: Option<IpAddr>| match get(name) {
        Some(text) => text.parse::<IpAddr>().map_err(|_| {
            format!("{name} is no IP address; the bridge's own is expected (names are never looked up)")
        }),
        None => usual.ok_or_else(|| format!("{name} is not set; an IP address is expected")),
    };
    let remote = SocketAddr::new(host(REMOTE_HOST, None)?, port(REMOTE_PORT)?);
    let listen = SocketAddr::new(host(LOCAL_HOST, Some(Ipv4Addr::LOCALHOST.into()))?, port(LOCAL_PORT)?);
    let options = get(OPTIONS).unwrap_or_default();
    let expected = "options such as key=…;sni=www.example.com are expected";
    let args =
        Args::parse_client(options.as_bytes()).map_err(|error| format!("{OPTIONS}: {error}; {expected}"))?;
    let bridge =
        BridgeLine::from_pt_args(remote, args.iter()).map_err(|error| format!("{OPTIONS}: {error}"))?;
    Ok(Asked { bridge, listen })
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8";

    fn ask_with(changes: &[(&str, Option<&str>)]) -> Result<Asked, String> {
        let options = format!("key={KEY};sni=www.example.com");
        ask(|name| {
            let usual = match name {
                REMOTE_HOST => "192.0.2.7",
                REMOTE_PORT => "443",
                LOCAL_HOST => "127.0.0.1",
                LOCAL_PORT => "8388",
                OPTIONS => &options,
                _ => return None,
            };
            let changed = changes.iter().find(|(changed, _)| *changed == name);
            changed.map_or(Some(usual), |(_, value)| *value).map(str::to_owned)
        })
    }

    #[test]
    fn the_environment_is_a_bridge_line_and_a_port() {
        let asked = ask_with(&[]).unwrap();
        let line = format!("qnet 192.0.2.7:443 key={KEY} sni=www.example.com");
        assert!(asked.bridge == line.parse().unwrap() && asked.listen == "127.0.0.1:8388".parse().unwrap());
        assert!(ask_with(&[(LOCAL_HOST, None)]).unwrap().listen == asked.listen);
    }

    #[test]
    fn what_is_wrong_names_its_variable() {
        for (name, value) in [
            (REMOTE_HOST, Some("bridge.example")),
            (REMOTE_PORT, None),
            (REMOTE_PORT, Some("x")),
            (REMOTE_PORT, Some("0")),
            (LOCAL_PORT, Some("0")),
            (LOCAL_PORT, Some("70000")),
            (OPTIONS, Some("key")),
            (OPTIONS, Some("key=short;sni=a.example")),
            (OPTIONS, None),
        ] {
            let Err(error) = ask_with(&[(name, value)]) else { panic!("{name} {value:?}") };
            assert!(error.starts_with(name), "{error}");
        }
    }
}
