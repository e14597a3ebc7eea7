//! What Debian's tor and qnet-pt say to each other: every line is understood on both sides, the upstream proxy is used
//! and nothing beside it, and the transport ends with its tor.
//!
//! The tors here have no network. A bridge accepts clients from its start on, and a client that has reached its
//! bridge's tor says so long before it has a consensus.
#![allow(clippy::disallowed_methods, reason = "a test owns its clock")]

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use qnet_tests::support::decoy::{Decoy, Options, Server};
use qnet_tests::support::isolate::{isolated, listener_in, network};
use qnet_tests::support::process::{self, signal, wait_for};
use qnet_tests::support::proxy::{Asked, Kind, Proxy};
use qnet_tests::support::pt::{self, Pt};
use qnet_tests::support::tor::Tor;
use qnet_wire::bridge_line::BridgeLine;
use rustix::process::Signal;

/// How long anything may take here; a second or two is usual.
const LIMIT: Duration = Duration::from_secs(40);

/// What tor logs when the bridge's tor has answered through the transport.
const REACHED: &str = "Bootstrapped 15% (handshake_done)";

#[test]
fn tor_and_the_transport_understand_each_other() -> Result<()> {
    isolated("tor_and_the_transport_understand_each_other", || {
        let decoy = Decoy::start(Server::Nginx, Options::default())?;
        let pt = Pt::qnet(&decoy)?;
        let folder = tempfile::tempdir()?;
        let (bridge, line) = start_bridge(&folder.path().join("bridge"), &pt)?;
        a_client_that_is_told_why(&folder.path().join("client"), &pt, &line, decoy.address())?;
        through_proxies(folder.path(), &pt, &line)?;
        no_complaints(&bridge)?;
        ends_with_tor(bridge, Signal::TERM)
    })
}

/// Rows 29, 30, 32 and 34: tor's own default address, an Extended ORPort, and the line that tor writes for users.
fn start_bridge(folder: &Path, pt: &Pt) -> Result<(Tor, BridgeLine)> {
    let or = process::free_address()?;
    let torrc = format!(
        "Nickname bridge\nAddress 127.0.0.1\nORPort {or} IPv4Only\nSocksPort 0\nAssumeReachable 1\nContactInfo test\n\
         BridgeRelay 1\nPublishServerDescriptor 0\nBridgeDistribution none\nExtORPort auto\n\
         ServerTransportPlugin {} exec {}\nServerTransportOptions {} {}\n",
        pt.name,
        pt.binary.display(),
        pt.name,
        pt.server_options.join(" "),
    );
    let mut tor = Tor::alone(folder, "bridge", &torrc, pt, None)?;
    let lines = folder.join("bridgelines");
    let line: BridgeLine = wait_for("the bridge's line", LIMIT, || {
        let text = fs::read_to_string(&lines).unwrap_or_default();
        pt::bridge_line(pt, &text).ok().map(|line| Ok(line.parse()?)).transpose()
    })
    .with_context(|| tor.logged().unwrap_or_default())?;
    ensure!(line.address.port() != 0 && line.fingerprint.is_some(), "{line}");
    let pid = tor.transport()?.context("the transport runs")?;
    let environment = String::from_utf8(fs::read(format!("/proc/{pid}/environ"))?)?;
    let given = |name: &str| {
        environment
            .split('\0')
            .find_map(|entry| entry.strip_prefix(name)?.strip_prefix('='))
            .unwrap_or_default()
    };
    ensure!(given("TOR_PT_EXTENDED_SERVER_PORT").starts_with("127.0.0.1:"), "{environment:?}");
    ensure!(given("TOR_PT_SERVER_BINDADDR") == "qnet-0.0.0.0:0", "{environment:?}");
    tor.wait_logged("Registered server transport 'qnet'", LIMIT)?;
    let address = SocketAddr::from(([127, 0, 0, 1], line.address.port()));
    Ok((tor, BridgeLine { address, ..line }))
}

/// Two bridges, one of which is no bridge but the site itself: tor's user reads why.
fn a_client_that_is_told_why(folder: &Path, pt: &Pt, line: &BridgeLine, site: SocketAddr) -> Result<()> {
    let false_line = BridgeLine { address: site, fingerprint: None, ..line.clone() };
    let torrc = client_torrc(pt, &[line, &false_line], "");
    let mut tor = Tor::alone(folder, "client", &torrc, pt, None)?;
    tor.wait_logged(REACHED, LIMIT)?;
    tor.wait_logged("the bridge did not prove itself: check the key", LIMIT)?;
    no_complaints(&tor)?;
    let said = tor.pt_log()?;
    for line in [
        "VERSION 1",
        "CMETHOD qnet socks5 127.0.0.1:",
        "CMETHODS DONE",
        "STATUS TYPE=version IMPLEMENTATION=qnet-pt",
    ] {
        ensure!(
            said.contains(&format!("Got a line from managed proxy '{}': ({line}", pt.binary.display())),
            "{line}: {said}"
        );
    }
    ensure!(!said.contains("PROXY"), "a proxy that nobody set: {said}");
    ends_with_tor(tor, Signal::KILL)
}

fn client_torrc(pt: &Pt, lines: &[&BridgeLine], more: &str) -> String {
    let bridges: String = lines.iter().map(|line| format!("{line}\n")).collect();
    format!(
        "SocksPort 0\nUseBridges 1\nClientTransportPlugin {} exec {}\n{bridges}ClientRejectInternalAddresses 0\n{more}",
        pt.name,
        pt.binary.display(),
    )
}

/// Rows 18 to 21: each kind of proxy that tor can be told of, in a network from which nothing else can be reached.
fn through_proxies(folder: &Path, pt: &Pt, line: &BridgeLine) -> Result<()> {
    let office = network()?;
    // A password that would not survive as a part of a URL.
    let kinds = [
        (
            Kind::Socks5,
            "Socks5Proxy {}\nSocks5ProxyUsername us\nSocks5ProxyPassword er:p@ss/%41\n",
            "us:er:p@ss/%41",
        ),
        (
            Kind::Http,
            "HTTPSProxy {}\nHTTPSProxyAuthenticator alice:correct-horse\n",
            "YWxpY2U6Y29ycmVjdC1ob3JzZQ==",
        ),
        (Kind::Socks4, "Socks4Proxy {}\n", ""),
    ];
    let mut running = Vec::new();
    for (kind, options, login) in kinds {
        let proxy = Proxy::start(kind, listener_in(&office)?)?;
        let torrc = client_torrc(pt, &[line], &options.replace("{}", &proxy.address().to_string()));
        let folder = folder.join(format!("{kind:?}"));
        running.push((proxy, login, Tor::alone(&folder, "client", &torrc, pt, Some(&office))?));
    }
    for (proxy, login, mut tor) in running {
        tor.wait_logged(REACHED, LIMIT)?;
        let expected = Asked { target: line.address, login: login.to_owned() };
        ensure!(proxy.asked().iter().all(|asked| *asked == expected), "{:?}", proxy.asked());
        let said = tor.pt_log()?;
        ensure!(said.contains("(PROXY DONE)"), "{said}");
        ensure!(!said.contains("p@ss") && !said.contains("horse"), "the login is in a log: {said}");
        no_complaints(&tor)?;
        ends_with_tor(tor, Signal::TERM)?;
    }
    Ok(())
}

/// tor has understood every line, and warned of nothing but what the transport itself told its user.
fn no_complaints(tor: &Tor) -> Result<()> {
    let said = tor.pt_log()?;
    // There is no name server in this test's network.
    let ours = |line: &&str| {
        ["no connection to the bridge: ", "could not check that the DNS of"]
            .iter()
            .any(|own| line.contains(own))
    };
    let complaints: Vec<&str> = said
        .lines()
        .filter(|line| {
            ["[warn]", "[err]"].iter().any(|level| line.contains(level))
                || ["Unknown line", "invalid", "malformed", "without", "multiple TYPE", "too few", "missing"]
                    .iter()
                    .any(|word| line.contains(word))
        })
        // tor has no use for a transport's own STATUS lines, but for those of its version; controllers do.
        .filter(|line| !ours(line) && !line.contains("[debug] handle_status_message(): Managed proxy"))
        .collect();
    ensure!(complaints.is_empty(), "{complaints:#?}");
    ensure!(said.contains("changed state: Configured -> Completed"), "{said}");
    Ok(())
}

/// Rows 12 and 13: a tor that ends closes standard input and sends SIGTERM; one that is killed does neither.
fn ends_with_tor(mut tor: Tor, how: Signal) -> Result<()> {
    let pid = tor.transport()?.context("the transport runs")?;
    signal(tor.pid(), how)?;
    tor.stop()?;
    wait_for("the transport's end", Duration::from_secs(8), || Ok((!process::runs(pid)).then_some(())))
}
