//! 9. Round trips across layers: TCP's against the time to an answer, since a bridge adds a way of its own to the decoy.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use boring::ssl::{SslConnector, SslMethod, SslVerifyMode};
use qnet_tests::support::decoy::{NAME, Options, Server};
use qnet_tests::support::front;
use qnet_tests::support::link::{Link, Trace};
use qnet_tests::support::probe::web::opening;
use qnet_tests::support::probe::{Probe, Step, play};
use qnet_tests::support::tunnel::runtime;
use qnet_tests::support::visitor::Visitor;
use qnet_transport::client::{Dialer, DialerConfig};
use qnet_transport::tls::Roots;
use qnet_wire::bridge_line::BridgeLine;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::detector::{About, Detector, Figure, Plot, Role, Threshold, Verdict, part};
use crate::obfs4;
use crate::stage::{Field, suitable};
use crate::stats::{kolmogorov_smirnov, median};
use crate::transport::{Kind, TalkingSite, Transport};

const SOURCE: &str =
    "Xue et al., The Discriminative Power of Cross-layer RTTs in Fingerprinting Proxy Traffic, NDSS 2025";

/// Below this the two do not have one distribution.
const CHANCE: f64 = 1e-3;

/// How much later the positive control answers, each way.
const FARTHER: Duration = Duration::from_millis(1);

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long obfs4 is listened to: its peers answer in milliseconds.
const SILENCE: Duration = Duration::from_secs(3);

/// Handshakes of obfs4's own client.
const OBFS4S: usize = 20;

/// What a server answers at once and without any cryptography: no TLS record begins so.
const GARBAGE: &[u8] = &[0xff; 64];

/// A request over HTTP/1.1.
const REQUEST: &[u8] = b"GET /style.css HTTP/1.1\r\nHost: www.example.com\r\n\r\n";

/// What is answered.
#[derive(Clone, Copy, Debug)]
enum Asked {
    /// A visitor's hello.
    Hello,
    /// The hello of a client of this very bridge, whose token it opens.
    Token,
    /// Bytes that are none.
    Garbage,
    /// A visitor's request, when his handshake is over.
    Request,
    /// The request that opens the websocket, likewise.
    Opening,
}

impl Asked {
    /// Of a bridge before a decoy.
    const BEFORE: [Self; 4] = [Self::Hello, Self::Token, Self::Garbage, Self::Request];
    /// Of one behind a web server, who ends TLS and answers the rest without it.
    const BEHIND: [Self; 3] = [Self::Hello, Self::Request, Self::Opening];

    fn name(self) -> &'static str {
        match self {
            Self::Hello => "hellos",
            Self::Token => "clients' hellos",
            Self::Garbage => "garbage",
            Self::Request => "requests",
            Self::Opening => "websockets' openings",
        }
    }
}

/// The detector.
#[derive(Debug)]
pub struct RoundTrips;

impl Detector for RoundTrips {
    fn about(&self) -> About {
        About {
            number: 9,
            name: "round trips across layers",
            source: SOURCE,
            rule: "From a hello (a visitor's; a client's, whose token the bridge opens; bytes that are none) to the first byte of the answer, and from \
                   a request over TLS to the first byte of its answer, less the time in which TCP's handshake was answered. The bridge with its \
                   decoy on the same machine is compared with that decoy behind a plain forwarder there; the websocket cover, behind a web server, with \
                   another address of that server where a site's own talking server is in the bridge's place, from the request that opens a websocket as \
                   well. Measured without a path between: a real one hides differences well below its own jitter.",
            thresholds: vec![Threshold {
                what: "two-sample Kolmogorov-Smirnov",
                value: format!(
                    "flagged below p {CHANCE} for the samples of an address ({} before a decoy, {} behind a web server) together (Bonferroni); the medians say by how much",
                    Asked::BEFORE.len(),
                    Asked::BEHIND.len()
                ),
                source: "set here before the first measurement",
            }],
            gate: false,
        }
    }

    fn needs_captures(&self) -> bool {
        false
    }

    fn examine(&self, field: &Field) -> Result<Vec<Verdict>> {
        Ok(self.examine_and_plot(field)?.0)
    }

    fn examine_and_plot(&self, field: &Field) -> Result<(Vec<Verdict>, Vec<Plot>)> {
        let (mut verdicts, mut plots) = (part("obfs4", obfs4s()), Vec::new());
        let before = field.plan.servers.iter().map(|server| (before(*server, field), format!("{server:?}")));
        let behind =
            field.plan.fronts.iter().map(|server| (behind(*server, field), format!("behind {server:?}")));
        for (found, server) in before.chain(behind) {
            match found {
                Ok((found, drawn)) => {
                    verdicts.extend(found);
                    plots.extend(drawn);
                }
                Err(error) => verdicts.push(Verdict::none(server, format!("{error:#}"))),
            }
        }
        Ok((verdicts, plots))
    }
}

/// obfs4 is asked as well, and answers no stranger: there is no time to compare. How soon it answers its own clients is told beside that.
fn obfs4s() -> Result<Vec<Verdict>> {
    let server = obfs4::Server::start()?;
    let visits = server.visits(OBFS4S)?;
    let took = |trace: &Trace| Some((trace.down.first()?.saturating_sub(trace.up.first()?)).as_secs_f64());
    let took: Vec<f64> = visits.iter().filter_map(took).map(|seconds| seconds * 1_000.0).collect();
    let what = "obfs4";
    for asked in [Asked::Hello, Asked::Garbage] {
        let said = if matches!(asked, Asked::Hello) { Visitor::new(NAME).hello()? } else { GARBAGE.to_vec() };
        let seen = play(&Probe::script(asked.name(), vec![Step::Send(said)]), server.address(), SILENCE)?;
        if let Some(time) = seen.first_at.or(seen.ended_at) {
            return Ok(vec![Verdict::none(what, format!("it answers {} after {time:?}", asked.name()))]);
        }
    }
    let why = format!(
        "it answered neither hellos nor garbage within {} s, and requests need TLS: there is no time to compare",
        SILENCE.as_secs()
    );
    let figures = vec![
        Figure::new("its own clients' handshakes", took.len() as f64),
        Figure::new("answered after ms", median(&took)),
    ];
    Ok(vec![Verdict { figures, ..Verdict::inapplicable(what, why) }])
}

/// The bridge before one web server.
fn before(server: Server, field: &Field) -> Result<(Vec<Verdict>, Vec<Plot>)> {
    let decoy = suitable(server, Options::default())?;
    let sink = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let qnet = Transport::start(Kind::Qnet, &decoy, &field.programs.qnet_pt, sink, Duration::ZERO)?;
    let forwarder = Link::start(decoy.address(), Duration::ZERO)?;
    let farther = Link::start(decoy.address(), FARTHER)?;
    Scene {
        server: format!("{server:?}"),
        model: ("the forwarder", forwarder.address()),
        judged: &[
            ("QNet", Role::Subject, qnet.server()),
            ("a forwarder 2 ms farther away", Role::Positive, farther.address()),
            ("the forwarder again", Role::Negative, forwarder.address()),
            ("the decoy itself", Role::Beside, decoy.address()),
        ],
        asked: &Asked::BEFORE,
        token: token(&qnet)?,
    }
    .play(field.plan.times)
}

/// The bridge behind one web server.
fn behind(server: front::Server, field: &Field) -> Result<(Vec<Verdict>, Vec<Plot>)> {
    let [bridge, talking, again] = TalkingSite::several(server, [TalkingSite::PATH; 3])?;
    let sink = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let _running = (
        Transport::behind(&bridge, None, &field.programs.qnet_pt, sink, Duration::ZERO)?,
        [talking.talk()?, again.talk()?],
    );
    let farther = Link::start(talking.address(), FARTHER)?;
    Scene {
        server: format!("behind {server:?}"),
        model: ("a talking server", talking.address()),
        judged: &[
            ("QNet's websocket", Role::Subject, bridge.address()),
            ("a talking server 2 ms farther away", Role::Positive, farther.address()),
            ("a talking server again", Role::Negative, again.address()),
        ],
        asked: &Asked::BEHIND,
        token: Vec::new(),
    }
    .play(field.plan.times)
}

/// Addresses that are asked in turn, and the one with which they are compared.
struct Scene<'a> {
    server: String,
    model: (&'static str, SocketAddr),
    judged: &'a [(&'static str, Role, SocketAddr)],
    asked: &'a [Asked],
    /// What [`Asked::Token`] says.
    token: Vec<u8>,
}

impl Scene<'_> {
    fn play(&self, times: usize) -> Result<(Vec<Verdict>, Vec<Plot>)> {
        let Self { server, model, judged, asked, token } = self;
        let addresses: Vec<SocketAddr> =
            std::iter::once(model.1).chain(judged.iter().map(|(_, _, address)| *address)).collect();
        let samples = asked.iter().map(|asked| Ok((*asked, measure(&addresses, times, *asked, token)?)));
        let samples = samples.collect::<Result<Vec<_>>>()?;
        let verdicts = judged.iter().enumerate().map(|(number, (what, role, _))| {
            let mut verdict = Verdict {
                what: format!("{what}, {server}"),
                role: *role,
                flagged: false,
                figures: vec![Figure::new("times each", times as f64)],
                note: String::new(),
            };
            for (one, all) in &samples {
                let (model, sample) =
                    (all.first().context("a model")?, all.get(number + 1).context("a sample")?);
                let (distance, p) = kolmogorov_smirnov(sample, model)?;
                verdict.flagged |= p < CHANCE / asked.len() as f64;
                verdict.figures.extend([
                    Figure::new(format!("p of {}", one.name()), p),
                    Figure::new("D", distance),
                    Figure::new("later by ms", median(sample) - median(model)),
                ]);
            }
            Ok(verdict)
        });
        let verdicts = verdicts.collect::<Result<Vec<_>>>()?;
        let plots = samples.into_iter().map(|(asked, all)| {
            let names = std::iter::once(model.0).chain(judged.iter().map(|(what, _, _)| *what));
            let samples = names.map(str::to_owned).zip(all).collect();
            Plot::Distributions {
                title: format!("{}, {server}: milliseconds to the answer", asked.name()),
                samples,
            }
        });
        Ok((verdicts, plots.collect()))
    }
}

/// The hello of a client of this bridge.
fn token(bridge: &Transport) -> Result<Vec<u8>> {
    let line: BridgeLine = bridge.line().context("it has no line")?.parse()?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let line = BridgeLine { address: listener.local_addr()?, ..line };
    let runtime = runtime()?;
    let dialer = Dialer::new(DialerConfig::new(Roots::with(None, None)?));
    runtime.spawn(async move { dialer.dial(&line).await.map(drop) });
    let (mut tcp, _) = listener.accept()?;
    tcp.set_read_timeout(Some(PATIENCE))?;
    let mut record = vec![0; 5];
    tcp.read_exact(&mut record)?;
    let length = record.iter().skip(3).fold(0, |length, byte| length << 8 | usize::from(*byte));
    record.resize(5 + length, 0);
    tcp.read_exact(record.get_mut(5..).unwrap_or_default())?;
    Ok(record)
}

/// So many times of each address, in milliseconds. They take turns, in another order each time, so that what else the machine
/// does and what the one before left behind meets all of them.
fn measure(addresses: &[SocketAddr], times: usize, asked: Asked, token: &[u8]) -> Result<Vec<Vec<f64>>> {
    let visitor = Visitor::new(NAME);
    let mut rng = ChaCha20Rng::seed_from_u64(9);
    let mut all = vec![Vec::new(); addresses.len()];
    for _ in 0..times {
        let said = match asked {
            Asked::Hello => visitor.hello()?,
            Asked::Token => token.to_vec(),
            Asked::Garbage => GARBAGE.to_vec(),
            Asked::Request => REQUEST.to_vec(),
            Asked::Opening => opening(NAME, TalkingSite::PATH),
        };
        let inside = matches!(asked, Asked::Request | Asked::Opening);
        let mut order: Vec<usize> = (0..addresses.len()).collect();
        for left in (1..order.len()).rev() {
            order.swap(left, rng.next_u32() as usize % (left + 1));
        }
        for number in order {
            let (address, times) = (addresses.get(number), all.get_mut(number));
            let (address, times) = address.zip(times).context("an address has a place")?;
            let took = if inside { request(*address, &said)? } else { once(*address, &said)? };
            times.push(took * 1_000.0);
        }
    }
    Ok(all)
}

/// Connects; gives how long that took, too.
fn connect(address: SocketAddr) -> Result<(TcpStream, Duration)> {
    let begun = Instant::now();
    let tcp = TcpStream::connect(address)?;
    let round_trip = begun.elapsed();
    tcp.set_nodelay(true)?;
    tcp.set_read_timeout(Some(PATIENCE))?;
    Ok((tcp, round_trip))
}

/// Seconds from these bytes to what comes back, less TCP's round trip: below 0 where that was slower.
fn once(address: SocketAddr, said: &[u8]) -> Result<f64> {
    let (mut tcp, round_trip) = connect(address)?;
    let sent = Instant::now();
    tcp.write_all(said)?;
    // An answer or an end: either is what a censor sees.
    let _ = tcp.read(&mut [0; 1]).context("no answer")?;
    Ok(sent.elapsed().as_secs_f64() - round_trip.as_secs_f64())
}

/// The same from a request over TLS to the first byte of its answer.
fn request(address: SocketAddr, said: &[u8]) -> Result<f64> {
    let (tcp, round_trip) = connect(address)?;
    let mut connector = SslConnector::builder(SslMethod::tls())?;
    connector.set_verify(SslVerifyMode::NONE);
    let config = connector.build().configure()?.verify_hostname(false);
    let mut tls = config.connect(NAME, tcp).map_err(|error| anyhow!("no handshake: {error}"))?;
    let sent = Instant::now();
    tls.write_all(said)?;
    let count = tls.read(&mut [0; 1]).context("no answer")?;
    ensure!(count == 1, "an end in place of an answer");
    Ok(sent.elapsed().as_secs_f64() - round_trip.as_secs_f64())
}
