//! Plays a probe against an address.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::{Client, Driver, Observation, Probe, Seen, Step, inside};
use crate::support::flow::{End, Flow};
use crate::support::link::{Act, Link, Rule, Way, Which};

/// How long a reset is waited for after bytes were sent to a side that has ended.
const RESET_LIMIT: Duration = Duration::from_millis(250);

/// What lies between two records of a client: more than a server needs to take up the first.
const SPACE: Duration = Duration::from_millis(8);

/// Plays a probe and watches until the connection ends or `limit` is over. A client's records arrive one by one, as on a slower
/// path: of what arrives together a server takes up now more, now less at once, and answers accordingly.
///
/// # Errors
/// The address cannot be connected to.
pub fn play(probe: &Probe, address: SocketAddr, limit: Duration) -> Result<Observation> {
    match &probe.driver {
        Driver::Script(steps) => script(steps, address, limit),
        Driver::Inside(visitor, steps) => inside::play(visitor, steps, address, limit),
        Driver::Client(client, rules) => {
            let space = Rule::new(Way::Up, Which::From(1), Act::Delay(SPACE));
            let rules = rules.iter().cloned().chain([space]).collect();
            through_link(client, rules, address, limit)
        }
    }
    .with_context(|| format!("{} against {address}", probe.name))
}

fn script(steps: &[Step], address: SocketAddr, limit: Duration) -> Result<Observation> {
    let started = Instant::now();
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    let mut flow = Flow::new(started);
    let resets = thread::scope(|scope| {
        let writer = scope.spawn(|| write(&stream, steps, started + limit));
        read(&stream, &mut flow, started + limit)?;
        // A peer that does not read would keep the writer for ever.
        let in_order = flow.end().is_some_and(|(end, _)| end == End::Fin);
        if !in_order {
            stream.shutdown(Shutdown::Both).ok();
        }
        let open = writer.join().unwrap_or(false);
        anyhow::Ok((in_order && open).then(|| answers_with_reset(&stream)))
    })?;
    Ok(observe(&flow, resets))
}

/// Performs the steps as far as the far side lets it; tells whether more could be sent.
fn write(mut stream: &TcpStream, steps: &[Step], until: Instant) -> bool {
    let mut open = true;
    for step in steps {
        if Instant::now() >= until {
            return false;
        }
        open = open
            && match step {
                Step::Send(bytes) => stream.write_all(bytes).is_ok(),
                Step::Drip(bytes, piece, pause) => bytes.chunks((*piece).max(1)).all(|piece| {
                    thread::sleep(*pause);
                    Instant::now() < until && stream.write_all(piece).is_ok()
                }),
                Step::Wait(time) => {
                    thread::sleep(*time);
                    true
                }
                Step::HalfClose => {
                    stream.shutdown(Shutdown::Write).ok();
                    false
                }
            };
    }
    open
}

fn read(mut stream: &TcpStream, flow: &mut Flow, until: Instant) -> Result<()> {
    let mut piece = vec![0; 65_536];
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        stream.set_read_timeout(Some(left))?;
        let outcome = stream.read(&mut piece);
        let now = Instant::now();
        match outcome {
            Ok(0) => {
                flow.ended(End::Fin, now);
                return Ok(());
            }
            Ok(n) => flow.push(piece.get(..n).unwrap_or_default(), now),
            Err(error)
                if matches!(
                    error.kind(),
                    std::io::ErrorKind::WouldBlock | std::io::ErrorKind::Interrupted
                ) => {}
            Err(_) => {
                flow.ended(End::Rst, now);
                return Ok(());
            }
        }
    }
}

/// Sends bytes to a side that has ended, to see whether it still takes them.
fn answers_with_reset(mut stream: &TcpStream) -> bool {
    let end = Instant::now() + RESET_LIMIT;
    while Instant::now() < end {
        if stream.write_all(&[0]).is_err() {
            return true;
        }
        thread::sleep(RESET_LIMIT / 5);
    }
    false
}

fn through_link(
    client: &Client,
    rules: Vec<Rule>,
    address: SocketAddr,
    limit: Duration,
) -> Result<Observation> {
    let link = Link::start(address, Duration::ZERO)?;
    link.set_rules(rules);
    let dial = link.address();
    thread::scope(|scope| {
        let running = scope.spawn(|| client(dial, limit));
        let ended = link.wait("the probe's end", 0, limit, |trace| trace.down.end().is_some());
        let trace = ended.ok().or_else(|| link.traces().into_iter().next());
        // Without the link the client has nothing to wait for.
        drop(link);
        running.join().ok();
        Ok(observe(&trace.context("the client did not connect")?.down, None))
    })
}

fn observe(flow: &Flow, then_resets: Option<bool>) -> Observation {
    let records = flow.records().iter().map(|record| {
        let bytes = flow.record_bytes(record);
        let alert = match *bytes {
            [21, _, _, 0, 2, level, description] => Some((level, description)),
            _ => None,
        };
        Seen {
            kind: record.kind,
            version: record.version,
            length: record.length,
            whole: record.present == record.length,
            alert,
        }
    });
    Observation {
        records: records.collect(),
        plain: flow.not_tls().to_vec(),
        end: flow.end().map(|(end, _)| end),
        ended_at: flow.end().map(|(_, at)| at),
        first_at: flow.first(),
        last_at: flow.last(),
        then_resets,
    }
}
