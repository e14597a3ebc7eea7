//! The demo from beginning to end: who starts when, and what is compared.

use std::fs;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use qnet_tests::support::link::{Link, Trace};
use tempfile::TempDir;

use crate::actor::Actor;
use crate::report::{self, Facts, Visits};
use crate::roles::{RECEIVED, SITE_NAME};
use crate::seen::{Seen, pieces_of};

/// What every byte on the wire waits, each way: as if the bridge were in the next country.
const DELAY: Duration = Duration::from_millis(15);

/// How long a connection may take to begin or to end.
const LIMIT: Duration = Duration::from_secs(20);

/// What to do after a failure; a context of the error.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Advice {
    /// Nothing has run yet.
    Setting,
    /// Everybody runs, and something broke off.
    Running,
    /// It ran, and what came out is wrong.
    Outcome,
}

impl Advice {
    /// In words for who ran the demo.
    pub(crate) fn to_do(self) -> &'static str {
        match self {
            Self::Setting => {
                "What to do: see that the loopback interface is up (`ip link set lo up`) and that the temporary\n\
                 folder (TMPDIR, otherwise /tmp) can be written and has 50 MB left; then run it again."
            }
            Self::Running => {
                "What to do: run it again; a machine that is very busy may be too slow for it. If it fails again,\n\
                 please report it with the lines above."
            }
            Self::Outcome => {
                "What to do: this is a defect in QNet, not in your machine. Please report it with the lines above\n\
                 and with what `./dev demo --keep FOLDER` leaves in FOLDER."
            }
        }
    }
}

impl std::fmt::Display for Advice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Setting => "the five did not start",
            Self::Running => "the page was not fetched",
            Self::Outcome => "the outcome is not as it should be",
        })
    }
}

/// Plays it; gives the report. `keep` is where to leave the page and the wire's bytes.
///
/// # Errors
/// Anything that is not as it should be, with an [`Advice`].
pub(crate) fn play(keep: Option<&Path>) -> Result<String> {
    let mut stage = Stage::set().context(Advice::Setting)?;
    let (facts, trace) = stage.run().context(Advice::Running)?;
    if let Some(folder) = keep {
        let kept =
            [(RECEIVED, facts.page.as_slice()), ("up.bin", trace.up.raw()), ("down.bin", trace.down.raw())];
        fs::create_dir_all(folder)
            .and_then(|()| kept.iter().try_for_each(|(name, bytes)| fs::write(folder.join(name), bytes)))
            .with_context(|| format!("cannot write to {}", folder.display()))?;
    }
    check(&facts, &trace).context(Advice::Outcome)?;
    Ok(report::text(&facts))
}

/// Those who run all the time.
struct Stage {
    site: Actor,
    site_address: String,
    news: Actor,
    _bridge: Actor,
    key: String,
    link: Link,
    // Last, so that those who use it have ended when it goes.
    folder: TempDir,
}

impl Stage {
    fn set() -> Result<Self> {
        // Without it everything would start, and nobody reach anybody.
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        TcpStream::connect(listener.local_addr()?).context("the loopback interface does not work")?;
        let folder = tempfile::Builder::new().prefix("qnet-demo-").tempdir()?;
        let mut site = Actor::start("site", &[path(&folder)?])?;
        let mut news = Actor::start("news", &[])?;
        let site_address = site.expect("address")?;
        let mut bridge = Actor::start("bridge", &[&site_address, &news.expect("address")?])?;
        let key = bridge.expect("key")?;
        let link = Link::start(bridge.expect("address")?.parse()?, DELAY)?;
        Ok(Self { site, site_address, news, _bridge: bridge, key, link, folder })
    }

    /// The client's fetch and, while its connection is there, the censor's own visit.
    fn run(&mut self) -> Result<(Facts, Trace)> {
        let wire = self.link.address().to_string();
        let line = format!("qnet {wire} key={} sni={SITE_NAME}", self.key);
        let folder = path(&self.folder)?;
        let mut client = Actor::start("client", &[&line, folder])?;
        // The first connection on the wire is the client's if nobody else dials before it.
        self.link.wait("the client dials", 0, LIMIT, |trace| trace.up.total() > 0).or_else(|late| {
            // Where the client gave up, that is what to say.
            client.expect("tunnel").and(Err(late))
        })?;
        let mut visitor = Actor::start("visitor", &[&wire, &self.site_address, folder])?;
        let [at_bridge, at_site] = ["bridge", "site"].map(|place| visitor.expect_words::<3>(place));
        let (at_bridge, at_site) = (at_bridge?, at_site?);

        let tunnel_ms = client.expect("tunnel")?;
        let [received, page_ms] = client.expect_words("page")?;
        let [request_bytes, answer_bytes] = client.expect_words("payload")?;
        let [served, _] = self.news.expect_words("served")?;
        client.cue()?;
        let closed = |trace: &Trace| trace.up.end().is_some() && trace.down.end().is_some();
        let trace = self.link.wait("the client's connection closes", 0, LIMIT, closed)?;
        let [requests, agent] = self.visit_by_browser()?;
        let seen = Seen::read(&trace)?;
        let page = fs::read(self.folder.path().join(RECEIVED))?;
        let found = pieces_of(&page, trace.up.raw()) + pieces_of(&page, trace.down.raw());
        let visits = Visits { at_bridge, at_site };
        let payload = [request_bytes, answer_bytes];
        let facts = Facts {
            seen,
            page,
            found,
            served,
            received,
            payload,
            tunnel_ms,
            page_ms,
            visits,
            requests,
            agent,
        };
        Ok((facts, trace))
    }

    /// What the site's log tells of the client's visit: that of the only one that named its program.
    fn visit_by_browser(&mut self) -> Result<[String; 2]> {
        loop {
            let visit: [String; 2] = self.site.expect_words("visit")?;
            if !visit[1].is_empty() {
                return Ok(visit);
            }
        }
    }
}

fn path(folder: &TempDir) -> Result<&str> {
    folder.path().to_str().context("the temporary folder's name is not UTF-8")
}

/// Whether it came out as this program says it does.
fn check(facts: &Facts, trace: &Trace) -> Result<()> {
    let Facts { served, received, visits, seen, .. } = facts;
    ensure!(
        served == received,
        "the page was not received as served:\nserved   {served}\nreceived {received}"
    );
    for flow in [&trace.up, &trace.down] {
        ensure!(
            flow.raw().len() == flow.total() && flow.not_tls().is_empty(),
            "not all was TLS, or not all was kept"
        );
    }
    ensure!(facts.found == 0, "{} pieces of the page were readable on the wire", facts.found);
    ensure!(seen.name == SITE_NAME, "the server name on the wire was {}", seen.name);
    let Visits { at_bridge, at_site } = visits;
    ensure!(
        at_bridge == at_site,
        "a visitor got one thing from the bridge and another from the site: {visits:?}"
    );
    Ok(())
}
