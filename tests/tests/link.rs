//! The censor's wire, between plain sockets.
#![allow(clippy::disallowed_methods, reason = "a test owns its clock")]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use qnet_tests::support::flow::End;
use qnet_tests::support::isolate::{ethernet, isolated};
use qnet_tests::support::link::{Act, Gate, Link, Rule, Way, Which};
use qnet_tests::support::sniff::SYN;

/// Two records, of types 22 and 23.
const RECORDS: [&[u8]; 2] = [&[22, 3, 1, 0, 1, 7], &[23, 3, 3, 0, 2, 8, 9]];

/// A client and the far end of a link with these rules.
fn joined(delay: Duration, rules: Vec<Rule>) -> Result<(Link, TcpStream, TcpStream)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let link = Link::start(listener.local_addr()?, delay)?;
    link.set_rules(rules);
    let client = TcpStream::connect(link.address())?;
    let (server, _) = listener.accept()?;
    for side in [&client, &server] {
        side.set_read_timeout(Some(Duration::from_secs(5)))?;
    }
    Ok((link, client, server))
}

#[test]
fn a_delay_is_kept_in_each_direction() -> Result<()> {
    for delay in [Duration::ZERO, Duration::from_millis(10), Duration::from_millis(40)] {
        let (_link, mut client, mut server) = joined(delay, Vec::new())?;
        let started = Instant::now();
        client.write_all(b"?")?;
        server.read_exact(&mut [0])?;
        server.write_all(b"!")?;
        client.read_exact(&mut [0])?;
        let took = started.elapsed();
        ensure!(took >= delay * 2 && took < delay * 2 + Duration::from_millis(100), "{took:?} for {delay:?}");
    }
    Ok(())
}

#[test]
fn bytes_come_whole_and_in_order_both_ways() -> Result<()> {
    let (link, client, server) = joined(Duration::from_millis(1), Vec::new())?;
    let sent: Vec<u8> = (0..3_000_000u32).map(|n| n.to_be_bytes()[3] ^ n.to_be_bytes()[2]).collect();
    let both = [(&client, &server), (&server, &client)];
    thread::scope(|scope| {
        let readers = both.map(|(mut from, mut to)| {
            let sent = &sent;
            scope.spawn(move || from.write_all(sent).and_then(|()| from.shutdown(Shutdown::Write)));
            scope.spawn(move || {
                let mut got = Vec::new();
                to.read_to_end(&mut got).map(|_| got)
            })
        });
        for reader in readers {
            let got = reader.join().ok().context("a reader panicked")??;
            ensure!(got == sent, "{} of {} bytes", got.len(), sent.len());
        }
        Ok(())
    })?;
    let trace = link.traces().pop().context("one connection")?;
    ensure!(trace.up.total() == sent.len() && trace.up.end().is_some_and(|(end, _)| end == End::Fin));
    Ok(())
}

#[test]
fn a_gate_holds_a_record_and_what_follows_it() -> Result<()> {
    let gate = Gate::new();
    let hold = Rule::new(Way::Up, Which::Nth(1), Act::Hold(gate.clone()));
    let (link, mut client, mut server) = joined(Duration::ZERO, vec![hold])?;
    client.write_all(&RECORDS.concat())?;
    client.shutdown(Shutdown::Write)?;
    let mut first = [0; 6];
    server.read_exact(&mut first)?;
    server.set_read_timeout(Some(Duration::from_millis(200)))?;
    ensure!(server.read(&mut [0]).is_err(), "the second record was not held");
    gate.open();
    let mut rest = Vec::new();
    server.read_to_end(&mut rest)?;
    ensure!(first == RECORDS[0] && rest == RECORDS[1], "{rest:?}");
    ensure!(link.traces()[0].up.records().len() == 2, "the trace shows what the client sent");
    Ok(())
}

#[test]
fn ends_arrive_as_they_are_or_as_a_rule_says() -> Result<()> {
    let abrupt = |stream: &mut TcpStream| stream.read(&mut [0]).is_err_and(|e| e.raw_os_error() == Some(104));
    let rst = || Act::Cut { keep: 0, end: End::Rst };
    let (_link, mut client, server) = joined(Duration::ZERO, Vec::new())?;
    drop(server);
    ensure!(client.read(&mut [0])? == 0, "FIN");
    let (_link, mut client, server) = joined(Duration::ZERO, Vec::new())?;
    socket2::SockRef::from(&server).set_linger(Some(Duration::ZERO))?;
    drop(server);
    ensure!(abrupt(&mut client), "RST");
    let (_link, mut client, server) =
        joined(Duration::ZERO, vec![Rule::new(Way::Down, Which::AtEnd, rst())])?;
    drop(server);
    ensure!(abrupt(&mut client), "RST in FIN's place");
    let cut = Rule::new(Way::Up, Which::Nth(1), rst());
    let (_link, mut client, mut server) = joined(Duration::ZERO, vec![cut])?;
    client.write_all(&RECORDS.concat())?;
    let mut got = Vec::new();
    ensure!(
        server.read_to_end(&mut got).is_err() && abrupt(&mut client),
        "RST both ways at the second record"
    );
    Ok(())
}

#[test]
fn a_tap_sees_the_segments_that_each_side_sent() -> Result<()> {
    isolated("a_tap_sees_the_segments_that_each_side_sent", || {
        ethernet()?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let link = Link::watched(listener.local_addr()?, Duration::from_millis(10))?;
        let mut client = TcpStream::connect(link.address())?;
        let (mut server, _) = listener.accept()?;
        client.set_nodelay(true)?;
        for piece in [100, 100, 3_000] {
            client.write_all(&vec![1; piece])?;
        }
        server.read_exact(&mut [0; 3_200])?;
        server.write_all(&[2; 1_449])?;
        client.read_exact(&mut [0; 1_449])?;
        let traces = link.watched_traces(0)?;
        let sent = |way: Way| -> Vec<usize> {
            let segments = traces.iter().flat_map(|trace| &trace.segments);
            let of_way = segments.filter(|(of, segment)| *of == way && segment.payload > 0);
            of_way.map(|(_, segment)| segment.payload).collect()
        };
        ensure!(sent(Way::Up) == [100, 100, 1_448, 1_448, 104], "{:?}", sent(Way::Up));
        ensure!(sent(Way::Down) == [1_448, 1], "{:?}", sent(Way::Down));
        let first = traces.first().and_then(|trace| trace.segments.first()).context("no segment")?;
        ensure!(first.0 == Way::Up && first.1.flags == SYN, "{first:?}");
        // Those of a later connection alone: a run of many visits does not look at all of them again after each.
        let mut later = TcpStream::connect(link.address())?;
        let (mut server, _) = listener.accept()?;
        later.write_all(&[3; 700])?;
        server.read_exact(&mut [0; 700])?;
        let traces = link.watched_traces(1)?;
        let [trace] = &traces[..] else { bail!("{} connections", traces.len()) };
        let paid: Vec<_> = trace.segments.iter().filter(|(_, segment)| segment.payload > 0).collect();
        ensure!(paid.len() == 1 && paid[0].1.payload == 700, "{paid:?}");
        ensure!(trace.segments[0].1.flags == SYN && link.connections() == 2 && link.sent_from(1) == 700);
        Ok(())
    })
}
