//! Makes the captures.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Error, Result, bail};
use qnet_tests::support::decoy::{Decoy, NAME, Options, Server};
use qnet_tests::support::front;
use qnet_tests::support::isolate::{ethernet, hosts};
use qnet_tests::support::link::{Link, Trace};
use qnet_tests::support::local_http::{FileServer, download};
use qnet_tests::support::pt::Pt;
use qnet_tests::support::site;
use qnet_tests::support::tor::{Network, at_address};
use qnet_transport::Shape;

use crate::capture::{Capture, Connection};
use crate::load::{self, Load};
use crate::programs::Programs;
use crate::transport::{Kind, TalkingSite, Transport};

/// The name of the site that is read through a transport: not the decoy's.
const INNER: &str = "news.example.net";

/// So many direct visits for each by a transport.
pub(crate) const DIRECT: u64 = 2;

/// What is downloaded through real tors, bytes.
const DOWNLOAD: usize = 1_000_000;

/// What is captured.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The web servers before which the bridge stands; each is visited directly as well.
    pub servers: Vec<Server>,
    /// Round trips, milliseconds.
    pub round_trips: Vec<u64>,
    /// How often a capture is tried at most: a run of hours is not to end with one load that failed.
    pub tries: usize,
    /// Page loads of each transport, server and round trip; direct ones are more.
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
    /// QNet's profiles that captures are made with; where none is named, the one that it follows by itself. Websites are
    /// fingerprinted under these, or under all.
    pub profiles: Vec<Shape>,
    /// Whether every probe is played, or some.
    pub all_probes: bool,
    /// The web servers behind which the bridge stands, under its websocket cover.
    pub fronts: Vec<front::Server>,
    /// Whether a network of real tors is started: a quarter of a minute, and half as long for each capture.
    pub real_tor: bool,
}

impl Plan {
    /// One server, the shortest path, few of everything. What judges by lengths alone runs with the tests, in less than five minutes.
    #[must_use]
    pub fn quick() -> Self {
        Self {
            servers: vec![Server::Nginx],
            round_trips: vec![20],
            tries: 2,
            pages: 2,
            links: 1,
            hellos: 200,
            visits: 10,
            times: 100,
            rounds: 30,
            closed_world: (5, 6),
            profiles: Vec::new(),
            all_probes: false,
            fronts: vec![front::Server::Nginx],
            real_tor: true,
        }
    }

    /// All servers and three paths.
    #[must_use]
    pub fn full() -> Self {
        Self {
            servers: vec![
                Server::Nginx,
                Server::Apache,
                Server::Lighttpd,
                Server::Haproxy,
                Server::Caddy,
                Server::Rustls,
            ],
            round_trips: vec![20, 100, 300],
            tries: 3,
            // More than the 7 that detector 4 takes for both its controls: a visit may leave a connection unused.
            pages: 10,
            links: 2,
            hellos: 1_000,
            visits: 100,
            times: 500,
            rounds: 60,
            closed_world: (20, 60),
            profiles: Vec::new(),
            all_probes: true,
            fronts: vec![front::Server::Nginx, front::Server::Haproxy],
            real_tor: true,
        }
    }

    /// These shows, QNet's once with each profile.
    fn with_profiles(&self, shows: &[(Kind, Load)]) -> Vec<(Kind, Load, Option<String>)> {
        let named = || self.profiles.iter().map(|shape| Some(shape.profile().name.clone()));
        let profiles = |kind| match kind {
            Kind::Qnet | Kind::QnetWebsocket if !self.profiles.is_empty() => named().collect(),
            _ => vec![None],
        };
        let each = |&(kind, load)| profiles(kind).into_iter().map(move |profile| (kind, load, profile));
        shows.iter().flat_map(each).collect()
    }
}

/// All that detectors may look at.
#[derive(Debug)]
pub struct Field {
    /// What was captured.
    pub captures: Vec<Capture>,
    /// Servers before which QNet will not stand, and what it says of them.
    pub refused: Vec<(String, String)>,
    /// What could not be captured, and why.
    pub missing: Vec<(String, String)>,
    /// What was tried again, and why: one for each try that failed before the last.
    pub retried: Vec<(String, String)>,
    /// The programs that are judged.
    pub programs: Programs,
    /// What was captured, and what detectors that go out themselves should do.
    pub plan: Plan,
}

impl Field {
    /// For detectors that all go out themselves.
    #[must_use]
    pub fn without_captures(plan: Plan, programs: Programs) -> Self {
        let (captures, refused, missing, retried) = Default::default();
        Self { captures, refused, missing, retried, programs, plan }
    }

    /// Captures everything in `plan`, telling `tell` what it is at. Transports without a decoy of their own, and `qnet proxy`, are
    /// captured once for each path, not once for each server. What cannot be captured in a few tries is noted as missing, and each try that failed
    /// before the last is noted too.
    ///
    /// # Errors
    /// What all captures need does not start.
    pub fn capture(plan: Plan, programs: Programs, mut tell: impl FnMut(&str)) -> Result<Self> {
        ethernet()?;
        // The bridge of `qnet proxy` looks for names as the system does.
        hosts(&[INNER])?;
        let site = decoy(Server::Nginx, INNER)?;
        let relay = load::relay(site.certificates())?;
        let mut field = Self::without_captures(plan, programs);
        let tors = field.plan.real_tor.then(Tors::start);
        let tors = tors.and_then(|tors| field.or_missing("what a network of real tors carries", tors));
        for (number, server) in field.plan.servers.clone().into_iter().enumerate() {
            let decoy = decoy(server, NAME);
            let Some(decoy) = field.or_missing(&format!("anything before {server:?}"), decoy) else {
                continue;
            };
            let scene = Scene { before: Before::Decoy(&decoy), site: &site, relay, tors: tors.as_ref() };
            let mut shows = SHOWS.to_vec();
            shows.retain(|(kind, load)| {
                (number == 0 || !is_elsewhere(*kind, *load))
                    && (scene.tors.is_some() || *load != Load::RealTor)
            });
            field.play(&scene, &format!("{server:?}"), &shows, &mut tell);
        }
        for server in field.plan.fronts.clone() {
            let site_in_front = TalkingSite::start(server);
            let what = format!("anything behind {server:?}");
            let Some(talking) = field.or_missing(&what, site_in_front) else { continue };
            let scene = Scene { before: Before::Site(&talking), site: &site, relay, tors: None };
            field.play(&scene, &format!("behind {server:?}"), &BEHIND, &mut tell);
        }
        Ok(field)
    }

    /// What was made, or a note that it could not be.
    fn or_missing<T>(&mut self, what: &str, made: Result<T>) -> Option<T> {
        made.map_err(|error| self.missing.push((what.to_owned(), format!("{error:#}")))).ok()
    }

    /// Plays these shows on every path. Where QNet will not stand before the server, nothing else is played with it there.
    fn play(&mut self, scene: &Scene<'_>, server: &str, shows: &[(Kind, Load)], tell: &mut impl FnMut(&str)) {
        for round_trip_ms in self.plan.round_trips.clone() {
            for (transport, load, profile) in self.plan.with_profiles(shows) {
                if transport == Kind::Qnet && self.refused.iter().any(|(refused, _)| refused == server) {
                    continue;
                }
                let (server, connections) = (server.to_owned(), Vec::new());
                let capture = Capture { transport, profile, server, load, round_trip_ms, connections };
                tell(&capture.title());
                let times = match load {
                    // Direct visits are what the others are compared with.
                    Load::Page | Load::Talk if transport == Kind::Plain => DIRECT * self.plan.pages,
                    Load::Page | Load::Proxied | Load::Talk => self.plan.pages,
                    Load::Tour | Load::ProxiedTour => self.plan.pages.div_ceil(2),
                    Load::Tor => self.plan.links,
                    Load::RealTor => 1,
                };
                let tried = tried(self.plan.tries, || scene.play(&capture, &self.programs, times));
                self.note(capture, tried);
            }
        }
    }

    /// What came of a capture. A bridge that will not stand before a server says so in every try, and in the same words.
    fn note(&mut self, mut capture: Capture, Tried { outcome, failed }: Tried<Vec<Connection>>) {
        self.retried.extend(failed.iter().map(|why| (capture.title(), format!("{why:#}"))));
        match outcome {
            Ok(connections) => {
                capture.connections = connections;
                self.captures.push(capture);
            }
            Err(last) => {
                let why =
                    refusal(&last).filter(|why| failed.iter().all(|one| refusal(one).as_ref() == Some(why)));
                match why {
                    Some(why) if capture.transport == Kind::Qnet => self.refused.push((capture.server, why)),
                    _ => self.missing.push((capture.title(), format!("{last:#}"))),
                }
            }
        }
    }
}

/// What came of a few tries.
struct Tried<T> {
    /// The last one's outcome.
    outcome: Result<T>,
    /// Why those before it failed.
    failed: Vec<Error>,
}

/// Tries until all is well, so many times at most, but once.
fn tried<T>(tries: usize, mut attempt: impl FnMut() -> Result<T>) -> Tried<T> {
    let mut failed = Vec::new();
    loop {
        match attempt() {
            Err(error) if failed.len() + 1 < tries => failed.push(error),
            outcome => return Tried { outcome, failed },
        }
    }
}

/// What is shown with a decoy. Only QNet has all loads: the others are there to be compared with it.
const SHOWS: [(Kind, Load); 14] = [
    (Kind::Plain, Load::Page),
    (Kind::Plain, Load::Tour),
    (Kind::Plain, Load::Tor),
    (Kind::Qnet, Load::Page),
    (Kind::Qnet, Load::Tour),
    (Kind::Qnet, Load::Tor),
    (Kind::Qnet, Load::Proxied),
    (Kind::Qnet, Load::ProxiedTour),
    (Kind::Qnet, Load::RealTor),
    (Kind::Obfs4, Load::Page),
    (Kind::Obfs4, Load::Tor),
    (Kind::Obfs4, Load::RealTor),
    (Kind::Tunnel, Load::Page),
    (Kind::Tunnel, Load::Tor),
];

/// What is shown before one decoy alone: what has none of its own, and `qnet proxy`, whose visits are those of every other load.
fn is_elsewhere(kind: Kind, load: Load) -> bool {
    matches!(kind, Kind::Obfs4 | Kind::Tunnel) || matches!(load, Load::Proxied | Load::ProxiedTour)
}

/// What is shown with a site in front.
const BEHIND: [(Kind, Load); 4] = [
    (Kind::Plain, Load::Talk),
    (Kind::QnetWebsocket, Load::Page),
    (Kind::QnetWebsocket, Load::Tour),
    (Kind::QnetWebsocket, Load::Tor),
];

/// What the bridge says where it will not stand before this decoy.
fn refusal(error: &Error) -> Option<String> {
    let said = format!("{error:#}");
    said.find("SMETHOD-ERROR").and_then(|at| said.get(at..)).map(str::to_owned)
}

/// A decoy that QNet takes.
///
/// # Errors
/// It does not start.
pub(crate) fn suitable(server: Server, mut options: Options) -> Result<Decoy> {
    if server == Server::Caddy {
        // Its answers are too short for a bridge without a header that not all of them have: docs/protocol.md, section 4.
        options.extra += "header /favicon.ico Cache-Control \"public, max-age=604800, immutable\"";
    }
    Decoy::start(server, options)
}

/// A decoy whose connections last: a load is not cut short by an idle limit.
fn decoy(server: Server, name: &str) -> Result<Decoy> {
    let idle = Duration::from_secs(600);
    suitable(server, Options { names: vec![name.to_owned()], idle, ..Options::default() })
}

/// Which of ours the censor sees visited.
#[derive(Clone, Copy)]
enum Before<'a> {
    Decoy(&'a Decoy),
    Site(&'a TalkingSite),
}

struct Scene<'a> {
    before: Before<'a>,
    site: &'a Decoy,
    relay: SocketAddr,
    tors: Option<&'a Tors>,
}

impl Scene<'_> {
    /// Plays the load so many times and gives the connections it took. Each time both programs are new, so that no session and
    /// no ticket is left from the time before.
    fn play(&self, capture: &Capture, programs: &Programs, times: u64) -> Result<Vec<Connection>> {
        let delay = Duration::from_millis(capture.round_trip_ms / 2);
        let mut connections = Vec::new();
        for (visit, number) in (0..times).enumerate() {
            let traces = if let (Load::RealTor, Before::Decoy(decoy)) = (capture.load, self.before) {
                let tors = self.tors.context("no network of tors was planned")?;
                tors.play(capture, decoy, programs, delay)?
            } else {
                let transport = self.transport(capture, programs, delay)?;
                self.carry(capture, transport.entry(), number)?;
                transport.link().watched_traces(0)?
            };
            // A browser opens connections ahead that it may never use.
            let used = traces.iter().filter(|trace| trace.up.total() > 0);
            connections
                .extend(used.map(|trace| Connection { visit, ..Connection::from_trace(trace, delay) }));
        }
        Ok(connections)
    }

    fn transport(&self, capture: &Capture, programs: &Programs, delay: Duration) -> Result<Transport> {
        let target = match (capture.load, capture.transport, self.before) {
            (Load::Tor, _, _) => self.relay,
            (_, Kind::Plain, Before::Decoy(decoy)) => decoy.address(),
            _ => self.site.address(),
        };
        let profile = capture.profile.as_deref();
        match self.before {
            Before::Decoy(decoy) if matches!(capture.load, Load::Proxied | Load::ProxiedTour) => {
                Transport::proxy(decoy, profile, programs, delay)
            }
            Before::Decoy(decoy) => {
                Transport::start_with(capture.transport, profile, decoy, &programs.qnet_pt, target, delay)
            }
            Before::Site(site) if capture.transport == Kind::Plain => Transport::talking(site, delay),
            Before::Site(site) => Transport::behind(site, profile, &programs.qnet_pt, target, delay),
        }
    }

    fn carry(&self, capture: &Capture, entry: SocketAddr, number: u64) -> Result<()> {
        let visited = match self.before {
            Before::Decoy(decoy) if capture.transport == Kind::Plain => decoy,
            _ => self.site,
        };
        let log = || visited.access_log();
        match (capture.load, self.before) {
            (Load::Page, _) => load::page(visited, entry),
            (Load::Tour, _) => load::visit(visited.name(), entry, site::TOUR, log, load::visit_over),
            (Load::Proxied, _) => {
                load::visit_by(entry, INNER, self.site.address(), "/", log, load::page_loaded)
            }
            (Load::ProxiedTour, _) => {
                load::visit_by(entry, INNER, self.site.address(), site::TOUR, log, load::visit_over)
            }
            (Load::Talk, Before::Site(site)) => {
                load::visit(NAME, entry, "/", || site.front.access_log(), load::visit_over)
            }
            (Load::Tor, _) => load::tor(entry, number),
            (Load::Talk | Load::RealTor, _) => bail!("{:?} is not carried so", capture.load),
        }
    }
}

/// A private network of tors, and a file to download.
struct Tors {
    network: Network,
    file: FileServer,
}

impl Tors {
    fn start() -> Result<Self> {
        let file = FileServer::start(DOWNLOAD)?;
        Ok(Self { network: Network::start(file.address().port())?, file })
    }

    /// A bridge and a client of their own, from the client's first byte to the download's last.
    fn play(
        &self,
        capture: &Capture,
        decoy: &Decoy,
        programs: &Programs,
        delay: Duration,
    ) -> Result<Vec<Trace>> {
        let pt = match capture.transport {
            Kind::Qnet => Pt::qnet_by(programs.qnet_pt.clone(), decoy),
            Kind::Obfs4 => Pt::obfs4(),
            other => bail!("{other:?} is not run by tor here"),
        };
        let bridge = self.network.bridge(&pt, false)?;
        let link = Link::watched(bridge.listen, delay)?;
        let profile = capture.profile.iter().map(|name| format!(" profile={name}")).collect::<String>();
        let line = at_address(&bridge.line, link.address())? + &profile;
        let client = self.network.client(&pt, &line)?;
        download(client.socks, &self.file, |_| Ok(()))?;
        link.watched_traces(0)
    }
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    /// What is noted of a capture whose tries fail with these words, the one after them being well.
    fn noted(tries: usize, words: &[&'static str]) -> Field {
        let mut field = Field::without_captures(Plan { tries, ..Plan::quick() }, Programs::default());
        let mut words = words.iter();
        let tried = tried(field.plan.tries, || words.next().map_or(Ok(Vec::new()), |why| Err(anyhow!(*why))));
        let capture = Capture {
            transport: Kind::Qnet,
            profile: None,
            server: "Nginx".to_owned(),
            load: Load::Page,
            round_trip_ms: 20,
            connections: Vec::new(),
        };
        field.note(capture, tried);
        field
    }

    #[test]
    fn a_load_that_fails_is_tried_again_and_each_failure_is_kept() {
        let counts = |field: &Field| [field.captures.len(), field.retried.len(), field.missing.len()];
        assert_eq!(counts(&noted(3, &[])), [1, 0, 0]);
        let late = noted(3, &["no page", "no browser"]);
        assert_eq!(counts(&late), [1, 2, 0]);
        let why = |kept: &[(String, String)]| kept.iter().map(|(_, why)| why.clone()).collect::<Vec<_>>();
        assert_eq!(why(&late.retried), ["no page", "no browser"]);
        assert_eq!(late.retried[0].0, late.captures[0].title());
        let never = noted(2, &["no page", "no browser", "no tap"]);
        assert_eq!((counts(&never), why(&never.missing)), ([0, 1, 1], vec!["no browser".to_owned()]));
    }

    #[test]
    fn what_is_refused_once_is_tried_again_and_refused_only_if_always_and_alike() {
        let short = "qnet-pt: SMETHOD-ERROR qnet answers too short";
        let passing = noted(2, &[short]);
        assert!(passing.captures.len() == 1 && passing.refused.is_empty(), "{passing:?}");
        let always = noted(2, &[short; 2]);
        let said = ("Nginx".to_owned(), "SMETHOD-ERROR qnet answers too short".to_owned());
        assert!(always.refused == [said] && always.missing.is_empty(), "{always:?}");
        for other in ["qnet-pt: SMETHOD-ERROR qnet no decoy", "no page"] {
            for words in [[short, other], [other, short]] {
                let field = noted(2, &words);
                assert!(field.refused.is_empty() && field.missing.len() == 1, "{words:?}: {field:?}");
            }
        }
    }

    #[test]
    fn what_is_not_there_is_noted() {
        let mut field = Field::without_captures(Plan::quick(), Programs::default());
        assert_eq!(field.or_missing("a decoy", Ok(1)), Some(1));
        assert_eq!(field.or_missing::<u8>("a decoy", Err(anyhow!("no nginx").context("start"))), None);
        assert_eq!(field.missing, [("a decoy".to_owned(), "start: no nginx".to_owned())]);
    }
}
