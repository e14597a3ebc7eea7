//! 9. Round trips across layers: TCP's against the time to an answer, since a bridge adds a way of its own to the decoy.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use qnet_tests::support::decoy::{Decoy, NAME, Options};
use qnet_tests::support::link::Link;
use qnet_tests::support::visitor::Visitor;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::detector::{About, Detector, Figure, Role, Threshold, Verdict};
use crate::stage::Field;
use crate::stats::{kolmogorov_smirnov, median};
use crate::transport::{Kind, Transport};

const SOURCE: &str =
    "Xue et al., The Discriminative Power of Cross-layer RTTs in Fingerprinting Proxy Traffic, NDSS 2025";

/// Below this the two do not have one distribution.
const CHANCE: f64 = 1e-3;

/// How much later the positive control answers, each way.
const FARTHER: Duration = Duration::from_millis(1);

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a server answers at once and without any cryptography: no TLS record begins so.
const GARBAGE: &[u8] = &[0xff; 64];

/// The detector.
#[derive(Debug)]
pub struct RoundTrips;

impl Detector for RoundTrips {
    fn about(&self) -> About {
        About {
            number: 9,
            name: "round trips across layers",
            source: SOURCE,
            rule: "From a hello (and from bytes that are none) to the first byte of the answer, less the time in which TCP's handshake was answered. \
                   The bridge with its decoy on the same machine is compared with that decoy behind a plain forwarder there. Measured without a \
                   path between: a real one hides differences well below its own jitter.",
            thresholds: vec![Threshold {
                what: "two-sample Kolmogorov-Smirnov",
                value: "flagged below p 0.001; the medians say by how much".into(),
                source: "set here before the first measurement",
            }],
            gate: false,
        }
    }

    fn examine(&self, field: &Field) -> Result<Vec<Verdict>> {
        let server = field.plan.servers.first().context("the plan names no server")?;
        let decoy = Decoy::start(*server, Options::default())?;
        let sink = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let qnet = Transport::start(Kind::Qnet, &decoy, &field.qnet_pt, sink, Duration::ZERO)?;
        let forwarder = Link::start(decoy.address(), Duration::ZERO)?;
        let farther = Link::start(decoy.address(), FARTHER)?;
        let judged = [
            ("QNet", Role::Subject, qnet.server()),
            ("a forwarder 2 ms farther away", Role::Positive, farther.address()),
            ("the forwarder again", Role::Negative, forwarder.address()),
            ("the decoy itself", Role::Beside, decoy.address()),
        ];
        let addresses: Vec<SocketAddr> = std::iter::once(forwarder.address())
            .chain(judged.iter().map(|(_, _, address)| *address))
            .collect();
        let [hellos, garbage] = [true, false].map(|hello| measure(&addresses, field.plan.times, hello));
        let (hellos, garbage) = (hellos?, garbage?);
        judged
            .into_iter()
            .enumerate()
            .map(|(number, (what, role, _))| {
                let part = |all: &[Vec<f64>]| -> Result<(f64, f64, f64)> {
                    let (model, sample) =
                        (all.first().context("a model")?, all.get(number + 1).context("a sample")?);
                    let (distance, p) = kolmogorov_smirnov(sample, model)?;
                    Ok((distance, p, median(sample) - median(model)))
                };
                let (hello, plain) = (part(&hellos)?, part(&garbage)?);
                let figure = |name: &str, value: f64| Figure { name: name.to_owned(), value };
                Ok(Verdict {
                    what: format!("{what}, {server:?}"),
                    role,
                    flagged: hello.1 < CHANCE || plain.1 < CHANCE,
                    figures: vec![
                        figure("p of hellos", hello.1),
                        figure("their D", hello.0),
                        figure("later by ms", hello.2),
                        figure("p of garbage", plain.1),
                        figure("its D", plain.0),
                        figure("later by ms", plain.2),
                        figure("times each", field.plan.times as f64),
                    ],
                    note: String::new(),
                })
            })
            .collect()
    }
}

/// So many times of each address, in milliseconds. They take turns, in another order each time, so that what else the machine
/// does and what the one before left behind meets all of them.
fn measure(addresses: &[SocketAddr], times: usize, hello: bool) -> Result<Vec<Vec<f64>>> {
    let visitor = Visitor::new(NAME);
    let mut rng = ChaCha20Rng::seed_from_u64(9);
    let mut all = vec![Vec::new(); addresses.len()];
    for _ in 0..times {
        let said = if hello { visitor.hello()? } else { GARBAGE.to_vec() };
        let mut order: Vec<usize> = (0..addresses.len()).collect();
        for left in (1..order.len()).rev() {
            order.swap(left, rng.next_u32() as usize % (left + 1));
        }
        for number in order {
            let (address, times) = (addresses.get(number), all.get_mut(number));
            let (address, times) = address.zip(times).context("an address has a place")?;
            times.push(once(*address, &said)?.as_secs_f64() * 1_000.0);
        }
    }
    Ok(all)
}

fn once(address: SocketAddr, said: &[u8]) -> Result<Duration> {
    let begun = Instant::now();
    let mut tcp = TcpStream::connect(address)?;
    let round_trip = begun.elapsed();
    tcp.set_nodelay(true)?;
    tcp.set_read_timeout(Some(PATIENCE))?;
    let sent = Instant::now();
    tcp.write_all(said)?;
    // An answer or an end: either is what a censor sees.
    let _ = tcp.read(&mut [0; 1]).context("no answer")?;
    Ok(sent.elapsed().saturating_sub(round_trip))
}
