//! Makes the captures.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use qnet_tests::support::decoy::{Decoy, Options, Server};

use crate::capture::{Capture, Connection};
use crate::load::{self, Load};
use crate::transport::{Kind, Transport};

/// The name of the site that is read through a transport: not the decoy's.
const INNER: &str = "news.example.net";

/// What is captured.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The web servers before which the bridge stands; each is visited directly as well.
    pub servers: Vec<Server>,
    /// Round trips, milliseconds.
    pub round_trips: Vec<u64>,
    /// Page loads of each transport, server and round trip.
    pub pages: u64,
    /// Tor links, likewise.
    pub links: u64,
    /// Hellos of each client.
    pub hellos: usize,
    /// Visits whose records' lengths are compared, of each client and server.
    pub visits: usize,
    /// Times measured of each address.
    pub times: usize,
    /// How often probes whose times are compared are played.
    pub rounds: usize,
    /// Pages and visits of each by each transport, for fingerprinting websites.
    pub closed_world: (usize, usize),
    /// Whether every probe is played, or some.
    pub all_probes: bool,
}

impl Plan {
    /// What fits into a minute or two: one server, the shortest path.
    #[must_use]
    pub fn quick() -> Self {
        Self {
            servers: vec![Server::Nginx],
            round_trips: vec![20],
            pages: 2,
            links: 1,
            hellos: 200,
            visits: 10,
            times: 100,
            rounds: 20,
            closed_world: (5, 6),
            all_probes: false,
        }
    }

    /// Three servers and three paths. Not Caddy: Chromium's direct visits to it are not yet seen to end here.
    #[must_use]
    pub fn full() -> Self {
        Self {
            servers: vec![Server::Nginx, Server::Apache, Server::Lighttpd],
            round_trips: vec![20, 100, 300],
            pages: 8,
            links: 2,
            hellos: 1_000,
            visits: 100,
            times: 500,
            rounds: 60,
            closed_world: (20, 60),
            all_probes: true,
        }
    }
}

/// All that detectors may look at.
#[derive(Debug)]
pub struct Field {
    /// What was captured.
    pub captures: Vec<Capture>,
    /// The program that is judged.
    pub qnet_pt: PathBuf,
    /// What was captured, and what detectors that go out themselves should do.
    pub plan: Plan,
}

impl Field {
    /// For detectors that all go out themselves.
    #[must_use]
    pub fn without_captures(plan: Plan, qnet_pt: PathBuf) -> Self {
        Self { captures: Vec::new(), qnet_pt, plan }
    }

    /// Captures everything in `plan`, telling `tell` what it is at. Transports without a decoy of their own are captured once for
    /// each path, not once for each server.
    ///
    /// # Errors
    /// Something that is needed does not start, or a load does not come through.
    pub fn capture(plan: Plan, qnet_pt: PathBuf, mut tell: impl FnMut(&str)) -> Result<Self> {
        let site = decoy(Server::Nginx, INNER)?;
        let relay = load::relay(site.certificates())?;
        let mut captures = Vec::new();
        for (number, server) in plan.servers.iter().enumerate() {
            let decoy = decoy(*server, qnet_tests::support::decoy::NAME)?;
            for round_trip in &plan.round_trips {
                for transport in Kind::ALL {
                    if number > 0 && matches!(transport, Kind::Obfs4 | Kind::Tunnel) {
                        continue;
                    }
                    for load in [Load::Page, Load::Tor] {
                        let scene = Scene { decoy: &decoy, site: &site, relay, qnet_pt: &qnet_pt };
                        let mut capture = Capture {
                            transport,
                            server: format!("{server:?}"),
                            load,
                            round_trip_ms: *round_trip,
                            connections: Vec::new(),
                        };
                        tell(&capture.title());
                        let times = if load == Load::Page { plan.pages } else { plan.links };
                        capture.connections = scene.play(&capture, times).with_context(|| capture.title())?;
                        captures.push(capture);
                    }
                }
            }
        }
        Ok(Self { captures, qnet_pt, plan })
    }
}

/// A decoy whose connections last: a load is not cut short by an idle limit.
fn decoy(server: Server, name: &str) -> Result<Decoy> {
    let idle = Duration::from_secs(600);
    Decoy::start(server, Options { names: vec![name.to_owned()], idle, ..Options::default() })
}

struct Scene<'a> {
    decoy: &'a Decoy,
    site: &'a Decoy,
    relay: std::net::SocketAddr,
    qnet_pt: &'a std::path::Path,
}

impl Scene<'_> {
    /// Plays the load so many times and gives the connections it took. Each time both programs are new, so that no session and
    /// no ticket is left from the time before.
    fn play(&self, capture: &Capture, times: u64) -> Result<Vec<Connection>> {
        let delay = Duration::from_millis(capture.round_trip_ms / 2);
        let visited = if capture.transport == Kind::Plain { self.decoy } else { self.site };
        let target = if capture.load == Load::Tor { self.relay } else { visited.address() };
        let mut connections = Vec::new();
        for number in 0..times {
            let transport = Transport::start(capture.transport, self.decoy, self.qnet_pt, target, delay)?;
            match capture.load {
                Load::Page => load::page(visited, transport.entry())?,
                Load::Tor => load::tor(transport.entry(), number)?,
            }
            let traces = transport.link().traces();
            // A browser opens connections ahead that it may never use.
            let used = traces.iter().filter(|trace| trace.up.total() > 0);
            connections.extend(used.map(|trace| Connection::from_trace(trace, delay)));
        }
        Ok(connections)
    }
}
