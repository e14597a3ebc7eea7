//! `qnet-bridge decoys`: which of several sites is the best decoy for a bridge here?

use std::{
    cmp::Reverse,
    fmt::Write as _,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use boring::ssl::{SslConnector, SslMethod, SslVerifyMode};
use clap::Args;
use qnet_transport::{
    bridge::client_network,
    connect::Connect,
    decoy::{self, DecoyError, Examined, Facts, Resolver, is_local},
    tls::Roots,
};
use qnet_wire::{error::chain, name::ServerName};
use serde::Serialize;
use tokio::{net::TcpStream, time::timeout};

/// Names looked at in one call: each is visited some six times, and nobody should be able to make this a scanner.
const MOST: usize = 100;
/// How long a look-up or a handshake may take.
const LIMIT: Duration = Duration::from_secs(10);
/// The group X25519MLKEM768 (draft-ietf-tls-ecdhe-mlkem), which current browsers and servers agree on.
const HYBRID: u16 = 0x11ec;
/// Below this a page load has less of a shape to hide in: bytes.
const SMALL_PAGE: usize = 50_000;
/// Above this every new connection costs its user a wait: bytes.
const LARGE_PAGE: usize = 3_000_000;
/// From here on the decoy is so far that its distance shows in every visitor's round trip.
const FAR: Duration = Duration::from_millis(10);
/// An idle limit under which a quiet tunnel needs many requests or new connections.
const SHORT_IDLE: Duration = Duration::from_secs(15);

/// Rank sites by how good a decoy each would be for a bridge on this machine, and say why
#[derive(Args, Debug)]
pub(crate) struct Decoys {
    /// Names, or files with a name a line; what has a slash or is a file here is taken for a file
    #[arg(value_name = "FILE|NAME", required = true)]
    sites: Vec<String>,
    /// The bridge's public address, to compare networks with
    #[arg(long, value_name = "ADDRESS")]
    address: Option<IpAddr>,
    /// Where all the sites are, instead of where their names lead
    #[arg(long, value_name = "ADDRESS:PORT")]
    at: Option<SocketAddr>,
    /// Also measure how long each keeps an idle connection: up to ten minutes, all at once
    #[arg(long)]
    idle: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// A site and what speaks for it and against it.
#[derive(Debug, Serialize)]
struct Candidate {
    name: String,
    usable: bool,
    /// More is better; nothing else is promised about it.
    points: i32,
    round_trip_ms: Option<f64>,
    load_bytes: Option<usize>,
    hybrid_key_exchange: Option<bool>,
    idle_s: Option<u64>,
    reasons: Vec<String>,
}

impl Decoys {
    /// Whether one at least is usable.
    pub(crate) async fn start(self) -> Result<bool> {
        let names = self.names()?;
        let roots = Roots::load().context("the certificates to check sites by")?;
        let mut candidates = Vec::new();
        let mut tasks = Vec::new();
        // One after the other, so that they do not take each other's time; waiting for idle ends is done at once.
        for name in &names {
            let (candidate, address) = self.judge(name, &roots).await;
            if let (true, true, Some(address)) = (self.idle, candidate.usable, address) {
                let (name, roots) = (name.clone(), roots.clone());
                let wait = tokio::spawn(async move { decoy::measure_idle(address, &name, &roots).await });
                tasks.push((candidates.len(), wait));
            }
            candidates.push(candidate);
        }
        for (at, task) in tasks {
            let measured = task.await.context("an idle limit was not measured")?;
            if let Some(candidate) = candidates.get_mut(at) {
                candidate.add_idle(measured.map(|idle| idle.limit));
            }
        }
        candidates.sort_by_key(|candidate| Reverse((candidate.usable, candidate.points)));
        let text =
            if self.json { format!("{:#}\n", serde_json::json!(candidates)) } else { table(&candidates) };
        crate::say(&text)?;
        Ok(candidates.iter().any(|candidate| candidate.usable))
    }

    fn names(&self) -> Result<Vec<ServerName>> {
        let mut names = Vec::new();
        for site in &self.sites {
            let path = PathBuf::from(site);
            if !site.contains('/') && !path.is_file() {
                names.push(
                    site.parse().with_context(|| format!("`{site}` is neither a file nor a host name"))?,
                );
                continue;
            }
            let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {site}"))?;
            for (at, line) in text.lines().enumerate() {
                let line = line.split('#').next().unwrap_or_default().trim();
                if !line.is_empty() {
                    let name = line
                        .parse()
                        .with_context(|| format!("{site}, line {}: `{line}` is no host name", at + 1))?;
                    names.push(name);
                }
            }
        }
        names.sort();
        names.dedup();
        ensure!(!names.is_empty(), "no names are given");
        ensure!(
            names.len() <= MOST,
            "{} names are more than {MOST}: choose, since each is visited several times",
            names.len()
        );
        Ok(names)
    }

    async fn judge(&self, name: &ServerName, roots: &Roots) -> (Candidate, Option<SocketAddr>) {
        let mut candidate = Candidate::new(name);
        let address = match self.at {
            Some(address) => address,
            None => match look_up(name).await {
                Ok(address) => address,
                Err(error) => {
                    candidate.reasons.push(format!("cannot be looked up: {error:#}"));
                    return (candidate, None);
                }
            },
        };
        let resolver = Resolver::system(Connect::default());
        match decoy::examine(address, name, roots, &resolver).await {
            Ok(examined) => candidate.add(&examined),
            Err(error) => {
                candidate.reasons.push(refused(&error));
                return (candidate, None);
            }
        }
        candidate.add_group(group(address, name).await);
        candidate.add_network(address.ip(), self.address);
        (candidate, Some(address))
    }
}

fn refused(error: &DecoyError) -> String {
    format!("cannot be a decoy: {}", chain(error))
}

async fn look_up(name: &ServerName) -> Result<SocketAddr> {
    let found = timeout(LIMIT, tokio::net::lookup_host((format!("{name}."), 443)))
        .await
        .context("no name server answers")?;
    found?.next().context("it has no address")
}

/// The key exchange the site agrees on with a client that offers what browsers do.
async fn group(address: SocketAddr, name: &ServerName) -> Option<u16> {
    let work = async {
        let mut connector = SslConnector::builder(SslMethod::tls()).ok()?;
        connector.set_verify(SslVerifyMode::NONE);
        connector.set_curves_list("X25519MLKEM768:X25519:P-256").ok()?;
        let config = connector.build().configure().ok()?;
        let tcp = TcpStream::connect(address).await.ok()?;
        tokio_boring::connect(config, name.as_str(), tcp).await.ok()?.ssl().curve()
    };
    timeout(LIMIT, work).await.ok().flatten()
}

impl Candidate {
    fn new(name: &ServerName) -> Self {
        Self {
            name: name.to_string(),
            usable: false,
            points: 0,
            round_trip_ms: None,
            load_bytes: None,
            hybrid_key_exchange: None,
            idle_s: None,
            reasons: Vec::new(),
        }
    }

    fn because(&mut self, points: i32, why: impl Into<String>) {
        self.points += points;
        self.reasons.push(why.into());
    }

    fn add(&mut self, examined: &Examined) {
        self.usable = true;
        let Facts { round_trip, load_bytes, requests, limited, .. } = examined.facts;
        self.round_trip_ms = Some(round_trip.as_secs_f64() * 1e3);
        self.load_bytes = Some(load_bytes);
        let ms = round_trip.as_millis();
        if round_trip < FAR {
            self.because(30, format!("near: {ms} ms"));
        } else {
            // A point less for each 2 ms, down to what the other reasons together may outweigh.
            let less = i32::try_from(ms / 2).unwrap_or(i32::MAX).min(60);
            self.because(
                -less,
                format!("{ms} ms away, which adds to every visitor's round trip and may show"),
            );
        }
        match load_bytes {
            ..SMALL_PAGE => self
                .because(-10, format!("a page of {} kB, with little shape to hide in", load_bytes / 1_000)),
            SMALL_PAGE..LARGE_PAGE => self.because(10, format!("a page of {} kB", load_bytes / 1_000)),
            _ => self.because(
                -10,
                format!("a page of {} kB, for which users wait at every new connection", load_bytes / 1_000),
            ),
        }
        if limited {
            self.because(0, format!("{requests} requests on a connection"));
        }
        for warning in &examined.warnings {
            self.because(-5, warning.to_string());
        }
    }

    fn add_group(&mut self, group: Option<u16>) {
        self.hybrid_key_exchange = group.map(|group| group == HYBRID);
        match self.hybrid_key_exchange {
            Some(true) => self.because(15, "X25519MLKEM768, as most large sites today"),
            Some(false) => self.because(0, "no X25519MLKEM768"),
            None => {}
        }
    }

    fn add_network(&mut self, site: IpAddr, bridge: Option<IpAddr>) {
        if is_local(site) {
            self.because(50, "on this machine: its name leads to the bridge");
        } else if let Some(bridge) = bridge {
            if site == bridge {
                self.because(50, "its name leads to the bridge's address");
            } else if client_network(site) == client_network(bridge) {
                self.because(30, "in the bridge's own network");
            } else if neighbours(site, bridge) {
                self.because(10, "in the bridge's neighbourhood");
            } else {
                self.because(-20, "in another network than the bridge, which a comparison with DNS shows");
            }
        }
    }

    fn add_idle(&mut self, measured: Result<Duration, DecoyError>) {
        match measured {
            Ok(limit) => {
                self.idle_s = Some(limit.as_secs());
                let less = if limit < SHORT_IDLE { -15 } else { 5 };
                self.because(less, format!("keeps an idle connection for {} s", limit.as_secs()));
            }
            Err(error) => {
                self.usable = false;
                self.reasons.push(refused(&error));
            }
        }
    }
}

/// One /16 or /32: what one provider often has in one place.
fn neighbours(a: IpAddr, b: IpAddr) -> bool {
    match (a.to_canonical(), b.to_canonical()) {
        (IpAddr::V4(a), IpAddr::V4(b)) => a.to_bits() >> 16 == b.to_bits() >> 16,
        (IpAddr::V6(a), IpAddr::V6(b)) => a.to_bits() >> 96 == b.to_bits() >> 96,
        _ => false,
    }
}

fn table(candidates: &[Candidate]) -> String {
    let mut text = String::new();
    for (at, candidate) in candidates.iter().enumerate() {
        let rank = if candidate.usable { format!("{:>3}.", at + 1) } else { "  no".to_owned() };
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{rank} {}", candidate.name);
        for reason in &candidate.reasons {
            let _ = writeln!(text, "       {reason}");
        }
    }
    text.push_str("\nA site of your own is better than any of these; somebody else's needs his consent.\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use qnet_proto::knock::Field;
    use qnet_proto::shape::Habit;

    fn site(round_trip: u64, load_bytes: usize) -> Candidate {
        let facts = Facts {
            field: Field::Padding,
            requests: 1_000,
            limited: true,
            largest_record: 16_401,
            habit: Habit::default(),
            load_bytes,
            round_trip: Duration::from_millis(round_trip),
            idle: None,
            lifetime: None,
        };
        let mut candidate = Candidate::new(&"www.example.com".parse().unwrap());
        candidate.add(&Examined { facts, warnings: Vec::new() });
        candidate
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn what_is_nearer_larger_and_more_usual_is_better() {
        assert!(site(2, 400_000).points > site(20, 400_000).points);
        assert!(site(20, 400_000).points > site(80, 400_000).points);
        assert!(site(20, 400_000).points > site(20, 4_000).points);
        assert!(site(20, 400_000).points > site(20, 9_000_000).points);
        let with = |group| {
            let mut candidate = site(20, 400_000);
            candidate.add_group(group);
            candidate
        };
        assert!(with(Some(HYBRID)).points > with(Some(29)).points);
        assert_eq!(with(None).hybrid_key_exchange, None);
        let idle = |seconds| {
            let mut candidate = site(20, 400_000);
            candidate.add_idle(Ok(Duration::from_secs(seconds)));
            candidate.points
        };
        assert!(idle(75) > idle(5));
    }

    #[test]
    fn the_network_counts() {
        let at = |address: &str| {
            let mut candidate = site(20, 400_000);
            candidate.add_network(ip(address), Some(ip("192.0.2.7")));
            candidate.points
        };
        let order = ["192.0.2.7", "192.0.2.99", "192.0.99.1", "198.51.100.1"].map(at);
        assert!(order.is_sorted_by(|nearer, further| nearer > further), "{order:?}");
        assert!(
            neighbours(ip("2001:db8:1::1"), ip("2001:db8:2::1"))
                && !neighbours(ip("2001:db8::1"), ip("192.0.2.7"))
        );
    }

    #[test]
    fn a_list_may_have_comments_and_says_where_it_is_wrong() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("names");
        let names = |text: &str| {
            std::fs::write(&file, text).unwrap();
            let sites = vec![file.display().to_string(), "a.example".to_owned()];
            Decoys { sites, address: None, at: None, idle: false, json: false }.names()
        };
        let found: Vec<String> = names("# mine\nb.example # the best\n\nA.example\n")
            .unwrap()
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(found, ["a.example", "b.example"]);
        let error = format!("{:#}", names("b.example\n-c.example\n").unwrap_err());
        assert!(error.contains("line 2") && error.contains("`-c.example`"), "{error}");
        let many: String = (0..MOST).map(|i| format!("n{i}.example\n")).collect();
        assert!(names(&many).is_err());
    }
}
