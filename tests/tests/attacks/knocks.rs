//! Knocks that are not the client's own, and records that mean nothing.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Result, ensure};
use qnet_proto::Ended;
use qnet_tests::support::attack::held::knock;
use qnet_tests::support::decoy::{Options, Server};
use qnet_tests::support::isolate::isolated;
use qnet_tests::support::link::{Act, Editor, Rule, Way, Which};
use qnet_transport::client::DialError;
use qnet_wire::key::IdentityKey;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;

use qnet_tests::support::attack::stage::{Stage, seen};
use qnet_tests::support::attack::visit::{all, same, visit, visit_with};

/// One bit is another, before the field, in it, after it: a bad record, which is the decoy's to answer.
fn flipped(server: Server) -> Result<()> {
    let stage = Stage::new(server, Options::default())?;
    let (number, record) = knock(&stage)?;
    // The field is the 8 bytes before the type byte and the tag of 16.
    ensure!(record.len() > 60, "{} bytes", record.len());
    let bytes: [isize; 14] = [0, 1, 2, 3, 4, 5, 13, -26, -25, -21, -18, -17, -16, -1];
    all(4, &bytes, |&byte| {
        same(
            &stage,
            &format!("a bit of byte {byte} of the knock"),
            &[Rule::new(Way::Up, Which::Nth(number), Act::Flip { byte, bit: 2 })],
        )
    })
}

#[test]
fn a_spoiled_knock_is_a_spoiled_request_to_nginx() -> Result<()> {
    isolated("knocks::a_spoiled_knock_is_a_spoiled_request_to_nginx", || flipped(Server::Nginx))
}

#[test]
fn a_spoiled_knock_is_a_spoiled_request_to_lighttpd() -> Result<()> {
    isolated("knocks::a_spoiled_knock_is_a_spoiled_request_to_lighttpd", || flipped(Server::Lighttpd))
}

/// The knock of another connection, dropped, doubled, and the records before it spoiled.
#[test]
fn a_knock_out_of_place_is_the_decoys_to_answer() -> Result<()> {
    isolated("knocks::a_knock_out_of_place_is_the_decoys_to_answer", || {
        let stage = Stage::new(Server::Nginx, Options::default())?;
        let (number, other) = knock(&stage)?;
        let edit = Editor::new(move |record| record.clone_from(&other));
        let on = |n, act| vec![Rule::new(Way::Up, Which::Nth(n), act)];
        let cases = [
            ("another's knock", on(number, Act::Edit(edit))),
            ("the knock twice", on(number, Act::Double)),
            ("a request before it dropped", on(number - 2, Act::Drop)),
            ("a request before it changed", on(number - 2, Act::Flip { byte: 9, bit: 0 })),
            ("a request before it twice", on(number - 2, Act::Double)),
            ("the knock before its time", on(number - 1, Act::Swap)),
            ("a byte after the knock", on(number, Act::InjectAfter(vec![23]))),
            ("a record after the knock", on(number, Act::InjectAfter(vec![20, 3, 3, 0, 1, 1]))),
        ];
        all(3, &cases, |(what, rules)| same(&stage, what, rules))
    })
}

/// With another bridge's key there is a visit and nothing else.
#[test]
fn the_wrong_key_makes_a_visit() -> Result<()> {
    isolated("knocks::the_wrong_key_makes_a_visit", || {
        let stage = Stage::new(Server::Nginx, Options::default())?;
        let key = IdentityKey::generate(&mut ChaCha20Rng::from_seed([8; 32])).public();
        let wrong = visit_with(&stage, stage.bridge, Vec::new(), |mut line| {
            line.key = key;
            line
        })?;
        let visit = visit(&stage, stage.decoy.address(), Vec::new())?;
        for made in [&wrong, &visit] {
            ensure!(matches!(made.outcome, Err(DialError::Tunnel(Ended::NoProof))), "{}", made.why());
        }
        let (wrong, visit) = (wrong.trace()?, visit.trace()?);
        ensure!(
            seen(&wrong.up, 1) == seen(&visit.up, 1),
            "{:?} {:?}",
            seen(&wrong.up, 1),
            seen(&visit.up, 1)
        );
        let (wrong, visit) = (seen(&wrong.down, 0), seen(&visit.down, 0));
        ensure!(wrong.content() == visit.content(), "{wrong:?} {visit:?}");
        Ok(())
    })
}

/// Records that carry nothing, in numbers around what TLS stacks bear (OpenSSL: 32 in a row).
fn nothings() -> Vec<(String, Vec<u8>)> {
    let kinds: [(&str, &[u8]); 3] = [
        ("changes of cipher spec", &[20, 3, 3, 0, 1, 1]),
        ("empty records", &[23, 3, 3, 0, 0]),
        ("empty handshake records", &[22, 3, 3, 0, 0]),
    ];
    kinds
        .iter()
        .flat_map(|(name, record)| {
            [1, 32, 33, 64].map(|count| (format!("{count} {name}"), record.repeat(count)))
        })
        .collect()
}

/// Such records on their way to the decoy, before Finished and before the knock.
fn nothings_up(server: Server) -> Result<()> {
    let stage = Stage::new(server, Options::default())?;
    let (number, _) = knock(&stage)?;
    let cases: Vec<(String, Vec<Rule>)> = nothings()
        .into_iter()
        .flat_map(|(name, bytes)| {
            [2, number].map(|place| {
                let inject = Act::InjectBefore(bytes.clone());
                (format!("{name} before record {place}"), vec![Rule::new(Way::Up, Which::Nth(place), inject)])
            })
        })
        .collect();
    all(8, &cases, |(what, rules)| same(&stage, what, rules))
}

#[test]
fn records_that_carry_nothing_change_nothing_before_nginx() -> Result<()> {
    isolated("knocks::records_that_carry_nothing_change_nothing_before_nginx", || nothings_up(Server::Nginx))
}

/// Such records on their way to the client: what it makes of them is what it makes of them before the decoy, or a tunnel
/// comes about where it takes no notice.
#[test]
fn records_that_carry_nothing_tell_nothing_of_a_client() -> Result<()> {
    isolated("knocks::records_that_carry_nothing_tell_nothing_of_a_client", || {
        let stage = Stage::new(Server::Nginx, Options::default())?;
        let cases: Vec<(String, Vec<u8>, usize)> = nothings()
            .into_iter()
            .flat_map(|(name, bytes)| [1, 8].map(|place| (name.clone(), bytes.clone(), place)))
            .collect();
        let tunnels = Arc::new(Mutex::new(0));
        all(8, &cases, |(name, bytes, place)| {
            let what = format!("{name} before record {place} down");
            let rules = vec![Rule::new(Way::Down, Which::Nth(*place), Act::InjectBefore(bytes.clone()))];
            let ours = visit(&stage, stage.bridge, rules.clone())?;
            let theirs = visit(&stage, stage.decoy.address(), rules)?;
            let (up, up_there) = (ours.trace()?.up, theirs.trace()?.up);
            let (mut seen_up, mut there) = (seen(&up, 1), seen(&up_there, 1));
            (seen_up.end, there.end) = (seen_up.ended(), there.ended());
            if ours.outcome.is_ok() {
                *tunnels.lock().unwrap_or_else(PoisonError::into_inner) += 1;
                ensure!(seen_up.records.starts_with(&there.records), "{what}: {seen_up:?} not as {there:?}");
                ensure!(theirs.why().contains("did not prove itself"), "{what}: {}", theirs.why());
            } else {
                ensure!(seen_up == there, "{what}: {seen_up:?} not as {there:?}");
                ensure!(ours.why() == theirs.why(), "{what}: {} not as {}", ours.why(), theirs.why());
            }
            Ok(())
        })?;
        let tunnels = *tunnels.lock().unwrap_or_else(PoisonError::into_inner);
        ensure!(tunnels > 0 && tunnels < cases.len(), "{tunnels} of {}", cases.len());
        Ok(())
    })
}
