//! obfs4 beside QNet: whether its server tells what was said before, or was spoiled, from random bytes.

use std::net::SocketAddr;
use std::thread;

use anyhow::{Result, anyhow};
use qnet_tests::support::link::Trace;
use qnet_tests::support::probe::{Observation, Probe, Step, play};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::WATCH;
use crate::detector::{Figure, Role, Verdict};
use crate::obfs4::Server;

/// Handshakes of its client: each is played once.
const TIMES: usize = 6;

/// What came of telling it something a few times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Met {
    answered: usize,
    ended: usize,
    of: usize,
}

pub(super) fn verdicts() -> Result<Vec<Verdict>> {
    let mut server = Server::start()?;
    let at = server.address();
    let visits = server.visits(TIMES)?;
    let said: Vec<Vec<u8>> = visits.iter().map(|trace| trace.up.raw().to_vec()).collect();
    let spoiled: Vec<Vec<u8>> = said.iter().map(|said| flipped(said)).collect();
    let mut rng = ChaCha20Rng::seed_from_u64(3);
    let random = |rng: &mut ChaCha20Rng| -> Vec<Vec<u8>> {
        let mut random = said.clone();
        random.iter_mut().for_each(|bytes| rng.fill_bytes(bytes));
        random
    };
    let model = tell(at, &random(&mut rng))?;
    let mut met = vec![
        ("a client's own handshake", Role::Positive, own(&visits)),
        ("random bytes again", Role::Negative, tell(at, &random(&mut rng))?),
        ("a handshake replayed", Role::Beside, tell(at, &said)?),
        ("a handshake with one bit flipped", Role::Beside, tell(at, &spoiled)?),
    ];
    server.restart()?;
    met.push(("a handshake replayed after a restart", Role::Beside, tell(at, &said)?));
    Ok(met.into_iter().map(|(what, role, met)| judge(what, role, met, model)).collect())
}

/// What its client met.
fn own(visits: &[Trace]) -> Met {
    let answered = visits.iter().filter(|trace| trace.down.total() > 0).count();
    let ended = visits.iter().filter(|trace| trace.down.end().is_some()).count();
    Met { answered, ended, of: visits.len() }
}

/// One bit of what comes last, which authenticates all before it.
fn flipped(said: &[u8]) -> Vec<u8> {
    let mut said = said.to_vec();
    said.last_mut().into_iter().for_each(|byte| *byte ^= 1);
    said
}

/// Says each on a connection of its own, all at once.
fn tell(address: SocketAddr, said: &[Vec<u8>]) -> Result<Met> {
    let one = |said: &Vec<u8>| {
        let probe = Probe::script("to obfs4", vec![Step::Send(said.clone())]);
        move || play(&probe, address, WATCH)
    };
    let seen: Result<Vec<Observation>> = thread::scope(|scope| {
        let playing: Vec<_> = said.iter().map(|said| scope.spawn(one(said))).collect();
        let seen = playing.into_iter().map(|one| one.join().map_err(|_| anyhow!("a player panicked"))?);
        seen.collect()
    });
    let seen = seen?;
    Ok(Met {
        answered: seen.iter().filter(|seen| seen.first_at.is_some()).count(),
        ended: seen.iter().filter(|seen| seen.end.is_some()).count(),
        of: seen.len(),
    })
}

fn judge(what: &str, role: Role, met: Met, random: Met) -> Verdict {
    let figure = |name: &str, value: usize| Figure::new(name, value as f64);
    Verdict {
        what: format!("obfs4, {what}"),
        role,
        flagged: met.answered > 0 && random.answered == 0,
        figures: vec![
            figure("answered", met.answered),
            figure("ended", met.ended),
            figure("of", met.of),
            figure("random bytes answered", random.answered),
            figure("random bytes ended", random.ended),
        ],
        note: format!("watched for {} s", WATCH.as_secs()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_random_bytes_do_not_get_is_flagged() {
        let met = |answered| Met { answered, ended: 0, of: TIMES };
        let flags = |one, random| judge("", Role::Beside, met(one), met(random)).flagged;
        assert!(flags(1, 0) && flags(TIMES, 0));
        assert!(!flags(0, 0));
        assert!(!flags(1, 1), "a server that answers anything tells nothing apart so");
    }

    #[test]
    fn one_bit_is_flipped() {
        assert_eq!(flipped(&[1, 2, 3]), [1, 2, 2]);
        assert_eq!(flipped(&[]), Vec::<u8>::new());
    }
}
