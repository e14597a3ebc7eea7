//! What is carried: a page by Chromium over HTTPS, by a connection of its own or by a proxy, or Tor's link.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::{Result, anyhow};
use boring::ssl::{
    SslAcceptor, SslConnector, SslFiletype, SslMethod, SslSessionCacheMode, SslStream, SslVerifyMode,
};
use qnet_tests::support::browser::Browser;
use qnet_tests::support::ca::Certificates;
use qnet_tests::support::decoy::Decoy;
use qnet_tests::support::process::wait_for;
use qnet_tests::support::site;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};

/// How long a page may take on a busy machine and a path of 300 ms.
const PAGE_LIMIT: Duration = Duration::from_secs(60);

/// After a page's last file was asked for: its answer, and what a browser does at leisure.
const AFTERWARDS: Duration = Duration::from_millis(1_500);

/// A cell on a link of version 4 or later (tor-spec, section 3), bytes.
const CELL: usize = 514;

/// Cells of the stand-in's download.
const DOWNLOAD: usize = 600;

/// A stream's SENDME answers so many data cells (tor-spec, section 7.4).
const SENDME: usize = 50;

/// What is carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Load {
    /// Headless Chromium loads the page of another site over HTTPS.
    Page,
    /// It visits several pages, a form of 20 kB between them.
    Tour,
    /// It loads that page by the program `qnet proxy`, which an operator's `qnet-bridge run` connects to it.
    Proxied,
    /// It visits the several pages so.
    ProxiedTour,
    /// Without any transport: it loads a page that talks over a websocket of its site.
    Talk,
    /// A stand-in for Tor's link: TLS with cells of 514 bytes in it, as tor sends them while it builds a circuit, asks and
    /// downloads. Scripted, so that it is the same each time and also without any transport.
    Tor,
    /// A client's tor and a bridge's, of a private network: bootstrap and a download.
    RealTor,
}

/// Chromium visits a decoy's page once by `entry`.
///
/// # Errors
/// It does not start, or does not get the page.
pub fn page(decoy: &Decoy, entry: SocketAddr) -> Result<()> {
    visit(decoy.name(), entry, "/", || decoy.access_log(), page_loaded)
}

/// Chromium visits a site once by `entry`, with a profile of its own: its page, or [`site::TOUR`]. Returns when `done`, which is given
/// the site's log, counts more than before.
///
/// # Errors
/// It does not start, or does not get the page.
pub fn visit(
    name: &str,
    entry: SocketAddr,
    path: &str,
    log: impl Fn() -> Result<String>,
    done: impl Fn(&str) -> usize,
) -> Result<()> {
    visit_with(name, entry, path, &[], log, done)
}

/// The same where the browser is told to use a SOCKS5 proxy, which looks for the site's name.
///
/// # Errors
/// As for [`visit`].
pub fn visit_by(
    proxy: SocketAddr,
    name: &str,
    site: SocketAddr,
    path: &str,
    log: impl Fn() -> Result<String>,
    done: impl Fn(&str) -> usize,
) -> Result<()> {
    visit_with(name, site, path, &[&format!("--proxy-server=socks5://{proxy}")], log, done)
}

fn visit_with(
    name: &str,
    entry: SocketAddr,
    path: &str,
    flags: &[&str],
    log: impl Fn() -> Result<String>,
    done: impl Fn(&str) -> usize,
) -> Result<()> {
    let seen = || done(&log().unwrap_or_default());
    let before = seen();
    let flags = [&["--ignore-certificate-errors"], flags].concat();
    let _browser = Browser::open_page(name, entry.port(), path, &flags)?;
    wait_for("the page", PAGE_LIMIT, || Ok((seen() > before).then_some(())))?;
    thread::sleep(AFTERWARDS);
    Ok(())
}

/// The page's last files were asked for. Caddy's log is JSON: only the paths are in all of them.
#[must_use]
pub fn page_loaded(log: &str) -> usize {
    log.matches("/map.png").count().min(log.matches("/menu.js").count())
}

/// The tour or the conversation is over.
#[must_use]
pub fn visit_over(log: &str) -> usize {
    log.matches(site::VISITED).count()
}

/// The far side of the stand-in for Tor's link, at a loopback port until the process ends.
///
/// # Errors
/// The certificates cannot be read, or no port can be had.
pub fn relay(certificates: &Certificates) -> Result<SocketAddr> {
    let mut acceptor = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls())?;
    acceptor.set_certificate_chain_file(&certificates.certificate)?;
    acceptor.set_private_key_file(&certificates.key, SslFiletype::PEM)?;
    // tor resumes no sessions.
    acceptor.set_session_cache_mode(SslSessionCacheMode::OFF);
    let acceptor = acceptor.build();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        for tcp in listener.incoming().flatten() {
            let acceptor = acceptor.clone();
            thread::spawn(move || {
                tcp.set_nodelay(true)?;
                let tls = acceptor.accept(tcp).map_err(|error| anyhow!("no handshake: {error}"))?;
                play(Link { tls, rng: ChaCha20Rng::seed_from_u64(1) }, Side::Relay)
            });
        }
    });
    Ok(address)
}

/// The near side: connects by `entry` and plays the script to its end.
///
/// # Errors
/// The connection or the handshake fails, or ends early.
pub fn tor(entry: SocketAddr, seed: u64) -> Result<()> {
    let tcp = TcpStream::connect(entry)?;
    tcp.set_nodelay(true)?;
    tcp.set_read_timeout(Some(PAGE_LIMIT))?;
    let mut connector = SslConnector::builder(SslMethod::tls())?;
    connector.set_verify(SslVerifyMode::NONE);
    let config = connector.build().configure()?.verify_hostname(false);
    let tls =
        config.connect("www.rfhtwzfi5kxe.com", tcp).map_err(|error| anyhow!("no handshake: {error}"))?;
    play(Link { tls, rng: ChaCha20Rng::seed_from_u64(seed) }, Side::Client)
}

#[derive(Clone, Copy, PartialEq)]
enum Side {
    Client,
    Relay,
}

/// One step of the script.
enum Step {
    /// The client sends so many bytes in one TLS record.
    Up(usize),
    /// The relay does.
    Down(usize),
    /// The relay sends cells, as many to a record as wait at that moment.
    Stream(usize),
    /// Nobody sends anything for so many milliseconds.
    Quiet(u64),
}

/// The link's handshake (VERSIONS; VERSIONS, CERTS, AUTH_CHALLENGE, NETINFO; NETINFO: tor-spec, section 4), a circuit of
/// three hops, three rounds of a stream opened, asked and answered, and a download.
fn script() -> Vec<Step> {
    let mut steps = vec![Step::Up(11), Step::Down(11 + 940 + 41 + CELL), Step::Up(CELL)];
    for _hop in 0..3 {
        steps.extend([Step::Up(CELL), Step::Down(CELL)]);
    }
    for cells in [1, 3, 9, 20] {
        steps.extend([
            Step::Quiet(200),
            Step::Up(CELL),
            Step::Down(CELL),
            Step::Up(2 * CELL),
            Step::Stream(cells),
        ]);
    }
    steps.extend([Step::Quiet(300), Step::Up(CELL)]);
    for _window in 0..DOWNLOAD / SENDME {
        steps.extend([Step::Stream(SENDME), Step::Up(CELL)]);
    }
    steps
}

struct Link {
    tls: SslStream<TcpStream>,
    rng: ChaCha20Rng,
}

fn play(mut link: Link, side: Side) -> Result<()> {
    for step in script() {
        match step {
            Step::Up(bytes) => link.pass(bytes, side == Side::Client)?,
            Step::Down(bytes) => link.pass(bytes, side == Side::Relay)?,
            Step::Quiet(time) => thread::sleep(Duration::from_millis(time)),
            Step::Stream(mut cells) => {
                while side == Side::Relay && cells > 0 {
                    // Cells come from the circuit's next hop in handfuls.
                    let waiting = cells.min(1 + link.draw(7));
                    link.pass(waiting * CELL, true)?;
                    cells -= waiting;
                    thread::sleep(Duration::from_millis(link.draw(4) as u64));
                }
                link.pass(cells * CELL, false)?;
            }
        }
    }
    link.tls.shutdown().ok();
    Ok(())
}

impl Link {
    /// Sends so many bytes, or reads them.
    fn pass(&mut self, bytes: usize, send: bool) -> Result<()> {
        let mut cells = vec![0; bytes];
        if send {
            self.tls.write_all(&cells)?;
            self.tls.flush()?;
        } else {
            self.tls.read_exact(&mut cells)?;
        }
        Ok(())
    }

    fn draw(&mut self, below: usize) -> usize {
        self.rng.next_u32() as usize % below
    }
}
