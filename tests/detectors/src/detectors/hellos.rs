//! 6. Fingerprints: hello, HTTP/2 and the visit's records against Chromium's of the same run; the answer against the decoy's.

mod answers;
mod http2;
mod visits;
mod websocket;

use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use qnet_proto::token;
use qnet_tests::ja4::{Hello, is_grease};
use qnet_tests::support::browser::Browser;
use qnet_tests::support::decoy::{Decoy, NAME, Options, Server};
use qnet_tests::support::front;
use qnet_tests::support::hello::constants;
use qnet_tests::support::visitor::Visitor;
use qnet_transport::tls::{Roots, aes_hardware, handshake};
use qnet_wire::key::IdentityKey;
use qnet_wire::name::ServerName;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;

use crate::detector::{About, Detector, Figure, Role, Threshold, Verdict};
use crate::stage::Field;
use crate::stats::chi_squared;

const SOURCE: &str = "FoxIO, JA4 and JA4S; Shuster et al., Akamai, Passive Fingerprinting of HTTP/2 Clients, Black Hat Europe 2017; Frolov and Wustrow, The use of TLS in Censorship Circumvention, NDSS 2019; RFC 8701 (GREASE)";

/// All distributions together; each gets its part of it (Bonferroni).
const CHANCE: f64 = 1e-3;

/// How long Chromium may take to send its hellos.
const LIMIT: Duration = Duration::from_secs(120);

/// How long a connection may take to send its hello.
const PATIENCE: Duration = Duration::from_secs(10);

/// Fetches that Chromium's page makes at once: as many connections as it opens to one host.
const AT_ONCE: usize = 6;

/// The detector.
#[derive(Debug)]
pub struct Hellos;

impl Detector for Hellos {
    fn about(&self) -> About {
        About {
            number: 6,
            name: "fingerprints",
            source: SOURCE,
            rule: "Every field that is equal in all of Chromium's hellos must be equal in all of ours, JA4 with them. What differs from hello \
                   to hello (GREASE values, which extension is first and last, which of two comes first, classes of the ECH payload, its config \
                   id) is compared as a distribution. The bridge's answer (JA4S) must be one that the decoy gives. SETTINGS, WINDOW_UPDATE, PRIORITY and the \
                   order of pseudo-header fields, read by a server that ends TLS, must be Chromium's, and so must be how the first request is framed. \
                   The lengths of the records that a client sends while it visits the decoy, up to the knock, are compared as distributions with those \
                   of Chromium's visits, which says that it is the browser that QNet imitates. Of the websocket cover the hellos of both connections, or of the one \
                   where websockets ride in HTTP/2, HTTP/2 as above, and the request that opens the websocket must be those of Chromium, whose page opens one.",
            thresholds: vec![
                Threshold { what: "fields", value: "flagged if one differs".into(), source: SOURCE },
                Threshold {
                    what: "JA4S and HTTP/2",
                    value: "flagged if unlike all that the model shows".into(),
                    source: SOURCE,
                },
                Threshold {
                    what: "lengths of a visit's records (a permutation test over visits)",
                    value: format!("flagged below p {}", visits::CHANCE),
                    source: "set here before the first measurement",
                },
                Threshold {
                    what: "distributions (chi-squared, Bonferroni)",
                    value: "flagged below p 0.001 for all of them together".into(),
                    source: "set here before the first measurement",
                },
            ],
            gate: true,
        }
    }

    fn needs_captures(&self) -> bool {
        false
    }

    fn examine(&self, field: &Field) -> Result<Vec<Verdict>> {
        let wanted = field.plan.hellos;
        let chromiums = chromiums(2 * wanted)?;
        let (model, again) = chromiums.split_at(wanted);
        let ours = ours(wanted)?;
        let others = (0..wanted).map(|_| {
            let hello = Visitor::new(NAME).hello()?;
            Hello::parse(&hello).context("a visitor's hello")
        });
        let others = others.collect::<Result<Vec<_>>>()?;
        let mut verdicts = vec![
            judge("hello: BoringSSL as it comes", Role::Positive, &others, model)?,
            judge("hello: Chromium again", Role::Negative, again, model)?,
            judge("hello: QNet", Role::Subject, &ours, model)?,
        ];
        for server in &field.plan.servers {
            verdicts.extend(answers::verdicts(*server)?);
        }
        verdicts.extend(http2::verdicts()?);
        for front in [front::Server::HaproxyHttp1, front::Server::Haproxy] {
            verdicts.extend(websocket::verdicts(front)?);
        }
        for server in &field.plan.servers {
            verdicts.extend(visits::verdicts(*server, field.plan.visits)?);
        }
        Ok(verdicts)
    }
}

/// What differs from hello to hello, as categories.
type Feature = (&'static str, fn(&Hello) -> Vec<u16>);

const FEATURES: [Feature; 8] = [
    ("GREASE cipher", |hello| hello.ciphers.iter().take(1).copied().collect()),
    ("GREASE group", |hello| hello.groups().unwrap_or_default().into_iter().take(1).collect()),
    ("GREASE version", |hello| hello.versions().unwrap_or_default().into_iter().take(1).collect()),
    ("GREASE extensions", |hello| {
        // Both at once are 240 classes: their sum tells as much of how they are drawn from a thousand.
        let found = hello.extensions.iter().filter(|(kind, _)| is_grease(*kind));
        vec![found.map(|(kind, _)| kind >> 12).sum()]
    }),
    ("first extension", |hello| hello.extensions.iter().skip(1).take(1).map(|(kind, _)| *kind).collect()),
    ("last extension", |hello| {
        hello.extensions.iter().rev().skip(1).take(1).map(|(kind, _)| *kind).collect()
    }),
    ("ECH payload", |hello| {
        hello.ech().map(|ech| u16::try_from(ech.payload).unwrap_or(u16::MAX)).into_iter().collect()
    }),
    ("ECH config id", |hello| hello.ech().map(|ech| u16::from(ech.config_id >> 4)).into_iter().collect()),
];

fn judge(what: &str, role: Role, hellos: &[Hello], model: &[Hello]) -> Result<Verdict> {
    let wanted = fields(model.first().context("Chromium sent no hello")?);
    let mut differing: Vec<&str> = hellos
        .iter()
        .flat_map(|hello| {
            let found = fields(hello);
            let fields = wanted.iter().zip(found).filter(|((_, wanted), (_, found))| wanted != found);
            fields.map(|((name, _), _)| *name).collect::<Vec<_>>()
        })
        .collect();
    differing.sort_unstable();
    differing.dedup();
    let mut verdict = Verdict {
        what: what.to_owned(),
        role,
        flagged: !differing.is_empty(),
        figures: vec![
            Figure { name: "hellos".into(), value: hellos.len() as f64 },
            Figure { name: "fields that differ".into(), value: differing.len() as f64 },
        ],
        note: differing.join(", "),
    };
    for (name, feature) in FEATURES {
        let sample = |hellos: &[Hello]| hellos.iter().map(feature).collect::<Vec<_>>();
        let p = chi_squared(&sample(hellos), &sample(model))?;
        verdict.flagged |= p < CHANCE / FEATURES.len() as f64;
        verdict.figures.push(Figure { name: format!("p of {name}"), value: p });
    }
    Ok(verdict)
}

/// The constant fields; of a hello that lacks what browsers send, that it does.
fn fields(hello: &Hello) -> Vec<(&'static str, String)> {
    let complete =
        hello.ech().is_some() && hello.key_shares().is_some() && hello.signature_algorithms().is_some();
    if complete { constants(hello) } else { vec![("what browsers send", "is not all there".into())] }
}

/// Takes `count` hellos from whoever connects, closing after each.
fn collect(listener: &TcpListener, count: usize) -> Result<Vec<Hello>> {
    let end = Instant::now() + LIMIT;
    let mut hellos = Vec::new();
    while hellos.len() < count {
        ensure!(Instant::now() < end, "{} of {count} hellos in {LIMIT:?}", hellos.len());
        let (mut tcp, _) = listener.accept()?;
        tcp.set_read_timeout(Some(PATIENCE))?;
        // A connection opened ahead and closed unused says nothing.
        hellos.extend(read_record(&mut tcp).and_then(|record| Hello::parse(&record)));
    }
    Ok(hellos)
}

fn read_record(tcp: &mut TcpStream) -> Option<Vec<u8>> {
    let mut record = vec![0; 5];
    tcp.read_exact(&mut record).ok()?;
    let length = match *record {
        [.., high, low] => usize::from(u16::from_be_bytes([high, low])),
        _ => 0,
    };
    record.resize(5 + length, 0);
    tcp.read_exact(record.get_mut(5..)?).ok()?;
    Some(record)
}

/// Hellos of Chromium, from a page that fetches from a port where nobody answers one.
fn chromiums(count: usize) -> Result<Vec<Hello>> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let port = listener.local_addr()?.port();
    let script = format!(
        "<script>const go = async () => {{ for (let i = 0; i < {count}; i++) try {{ \
         await fetch(\"https://{NAME}:{port}/?\" + i, {{ mode: \"no-cors\", cache: \"no-store\" }}); }} catch (e) {{}} }}; \
         for (let n = 0; n < {AT_ONCE}; n++) go();</script>"
    );
    let extra = format!("location = / {{ default_type text/html; return 200 '{script}'; }}");
    let page = Decoy::start(Server::Nginx, Options { extra, ..Options::default() })?;
    let _browser = Browser::open(NAME, page.address().port(), &["--ignore-certificate-errors"])?;
    collect(&listener, count)
}

/// Hellos of QNet's client, each with another token for another bridge.
fn ours(count: usize) -> Result<Vec<Hello>> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    let collector = thread::spawn(move || collect(&listener, count));
    let roots = Roots::with(None, None)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    for seed in 0..count as u64 {
        runtime.block_on(visit(address, seed, &roots))?;
    }
    collector.join().map_err(|_| anyhow::anyhow!("the collector panicked"))?
}

async fn visit(address: SocketAddr, seed: u64, roots: &Roots) -> Result<()> {
    let mut rng = ChaCha20Rng::seed_from_u64(seed);
    let name: ServerName = NAME.parse()?;
    let key = IdentityKey::generate(&mut rng).public();
    let offer = token::offer(&mut rng, &key, &name, aes_hardware());
    let mut tcp = tokio::net::TcpStream::connect(address).await?;
    // Nobody answers: only the hello counts.
    let _ = tokio::time::timeout(PATIENCE, handshake(&mut tcp, &offer, &name, roots)).await?;
    Ok(())
}
