//! What is done to a living client on its way.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use qnet_tests::support::decoy::{Decoy, Options, Server};
use qnet_tests::support::link::{Act, Gate, Link, Rule, Way, Which};
use qnet_tests::support::probe::{Client, Difference, Probe, Step, Tolerance, differences};
use qnet_tests::support::tunnel::{dialer, echo_bridge};
use qnet_wire::bridge_line::BridgeLine;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Runtime;

use super::ROUND_TRIPS;

/// How long the client whose hello was used may take afterwards, and its hello to come.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long each use of a held hello is watched: clients give up after half a minute, and what differs is played six times.
const HELD: Duration = Duration::from_secs(2);

/// Numbers up to and around what TLS stacks bear of records that carry nothing (OpenSSL: 32 in a row).
const NOTHINGS: [usize; 11] = [1, 2, 4, 8, 16, 31, 32, 33, 48, 63, 64];

/// Of the probes with such records every so manieth is played in the quick part: three at each place, each of another kind.
const SOME_NOTHINGS: usize = 11;

/// A change of cipher spec, as a client sends it before its Finished.
const CHANGE: [u8; 6] = [20, 3, 3, 0, 1, 1];

/// The knock, record `number` of the client's, spoiled in every part, lost, doubled, out of its place, and with something behind it.
pub(super) fn knocks(client: &Client, number: usize) -> Vec<Probe> {
    // The field is the 8 bytes before the type byte and the tag of 16.
    let flips = [0, 1, 3, 4, 5, 13, -26, -25, -21, -18, -17, -16, -1]
        .map(|byte| (format!("a knock whose byte {byte} is spoiled"), number, Act::Flip { byte, bit: 2 }));
    let others = [
        ("a knock that is lost", number, Act::Drop),
        ("a knock that comes twice", number, Act::Double),
        ("a knock before the request before it", number - 1, Act::Swap),
        ("a knock without the request before it", number - 1, Act::Drop),
        ("a knock with a byte behind it", number, Act::InjectAfter(vec![23])),
        ("a knock with a record behind it", number, Act::InjectAfter(CHANGE.to_vec())),
    ];
    let others = others.map(|(name, number, act)| (name.to_owned(), number, act));
    flips.into_iter().chain(others).map(|(name, number, act)| probe(name, client, number, act)).collect()
}

/// One bit flipped in each of the client's records after its hello, up to the knock.
pub(super) fn flips(client: &Client, knock: usize) -> Vec<Probe> {
    let flip = |number| {
        let act = Act::Flip { byte: -3, bit: 1 };
        probe(format!("a client whose record {number} of {knock} has a bit flipped"), client, number, act)
    };
    (1..=knock).map(flip).collect()
}

/// Records that carry nothing before Finished and before the knock; all of them, or some.
pub(super) fn nothings(client: &Client, knock: usize, full: bool) -> Vec<Probe> {
    let kinds: [(&str, &[u8]); 3] = [
        ("changes of cipher spec", &CHANGE),
        ("empty records", &[23, 3, 3, 0, 0]),
        ("empty handshake records", &[22, 3, 3, 0, 0]),
    ];
    let mut probes = Vec::new();
    for (place, number) in [("Finished", 2), ("the knock", knock)] {
        for count in NOTHINGS {
            for (kind, record) in kinds {
                let act = Act::InjectBefore(record.repeat(count));
                probes.push(probe(format!("{count} {kind} before {place}"), client, number, act));
            }
        }
    }
    probes.into_iter().step_by(if full { 1 } else { SOME_NOTHINGS }).collect()
}

fn probe(name: String, client: &Client, number: usize, act: Act) -> Probe {
    Probe::client(name, Arc::clone(client), vec![Rule::new(Way::Up, Which::Nth(number), act)])
}

/// A client's hello is held on its way, and used by the censor meanwhile; then it goes on, and its client must get its tunnel. Gives how many
/// probes there were, and those that told bridge and decoy apart. The decoy is one that waits for a hello longer than they take. Everything
/// goes over paths with this delay each way.
pub(super) fn stolen(runtime: &Runtime, server: Server, delay: Duration) -> Result<(usize, Vec<Difference>)> {
    let decoy = Decoy::start(server, Options::default())?;
    let (bridge, line) = runtime.block_on(echo_bridge(&decoy))?;
    let link = Link::start(line.address, delay)?;
    let (away, decoys) = (Link::start(bridge, delay)?, Link::start(decoy.address(), delay)?);
    let gate = Gate::new();
    link.set_rules(vec![Rule::new(Way::Up, Which::Nth(0), Act::Hold(gate.clone()))]);
    let (dialer, line) = (dialer(&decoy)?, BridgeLine { address: link.address(), ..line });
    let client = runtime.spawn(async move {
        let mut stream = dialer.dial(&line).await?.open()?;
        stream.write_all(b"?").await?;
        ensure!(stream.read_u8().await? == b'?', "another byte came back");
        anyhow::Ok(())
    });
    let held = link.wait("a hello", 0, PATIENCE, |trace| {
        trace.up.records().first().is_some_and(|hello| hello.present == hello.length)
    })?;
    let probes = used(held.up.raw());
    let found = differences(
        &probes,
        &|| away.address(),
        decoys.address(),
        HELD + ROUND_TRIPS * 2 * delay,
        Tolerance::default(),
    )?;
    gate.open();
    let done = runtime.block_on(async { tokio::time::timeout(PATIENCE, client).await });
    done.context("the client whose hello was used waits for ever")??
        .context("the client whose hello was used")?;
    Ok((probes.len(), found))
}

/// What may follow a hello of which nothing but its bytes is known.
fn used(hello: &[u8]) -> Vec<Probe> {
    let made_up = |length: u8| -> Vec<u8> {
        let content = (0..length).map(|n| n.wrapping_mul(167).wrapping_add(13));
        [23, 3, 3, 0, length].into_iter().chain(content).collect()
    };
    let finished = [&CHANGE[..], &made_up(53)].concat();
    let follow = [
        ("nothing", Vec::new()),
        ("a made-up Finished", finished.clone()),
        ("a made-up Finished and requests", [&finished[..], &made_up(87), &made_up(200)].concat()),
        ("a made-up alert", [&CHANGE[..], &made_up(19)].concat()),
        ("an alert in the clear", vec![21, 3, 3, 0, 2, 2, 40]),
        ("itself", hello.to_vec()),
        ("plain HTTP", b"GET / HTTP/1.1\r\nHost: www.example.com\r\n\r\n".to_vec()),
        ("garbage", vec![0xff; 4_000]),
    ];
    let mut probes = Vec::new();
    for (name, bytes) in follow {
        let steps = vec![Step::Send([hello, &bytes].concat())];
        probes.push(Probe::script(format!("a stolen hello, then {name}"), steps.clone()));
        let ended = [steps, vec![Step::HalfClose]].concat();
        probes.push(Probe::script(format!("a stolen hello, {name} and an end"), ended));
    }
    probes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_that_carry_nothing_come_in_every_number_and_at_the_knock_in_the_quick_part_too() {
        let client: Client = Arc::new(|_, _| {});
        let names = |full| nothings(&client, 7, full).into_iter().map(|probe| probe.name).collect::<Vec<_>>();
        let (all, some) = (names(true), names(false));
        for kind in ["changes of cipher spec", "empty records", "empty handshake records"] {
            for count in [1, 2, 4, 8, 16, 31, 32, 33, 48, 63, 64] {
                for place in ["Finished", "the knock"] {
                    let wanted = format!("{count} {kind} before {place}");
                    assert!(all.contains(&wanted), "{wanted}");
                }
            }
            for place in ["Finished", "the knock"] {
                let one = some.iter().any(|name| name.contains(kind) && name.ends_with(place));
                assert!(one, "{kind} before {place}: {some:?}");
            }
        }
        assert_eq!((all.len(), some.len()), (66, 6));
    }
}
