//! Who may join, and who may not.

use super::*;
use crate::mux::Role::{Bridge, Client};

type Forge = fn(&mut Join);

#[test]
fn a_join_is_of_its_session_its_carrier_and_its_sender() {
    let mut pair = Pair::new();
    let now = pair.now;
    let (_, join) = pair.client().join(&HASH, Mode::Replace, now);
    let forged: [Forge; 6] = [
        |join| join.mode = 1,
        |join| join.id[15] ^= 1,
        |join| join.carrier += 1,
        |join| join.next += 1,
        |join| join.mac[0] ^= 1,
        |join| join.mac[31] ^= 0x80,
    ];
    for (at, forge) in forged.into_iter().enumerate() {
        let mut other = join.clone();
        forge(&mut other);
        let result = pair.bridge().admit(&other, &HASH, &STATICS.client, now);
        assert_eq!(result, Err(JoinError::Forged), "forgery {at}");
    }
    let bridge = pair.bridge();
    assert_eq!(
        bridge.admit(&join, &[8; 32], &STATICS.client, now),
        Err(JoinError::Forged),
        "another handshake"
    );
    assert_eq!(bridge.admit(&join, &HASH, &[7; 32], now), Err(JoinError::Forged), "another client");
    assert_eq!(bridge.state_of(CarrierNumber(0)), CarrierState::Active, "nothing has changed");
    assert!(bridge.admit(&join, &HASH, &STATICS.client, now).is_ok());
    assert_eq!(bridge.admit(&join, &HASH, &STATICS.client, now), Err(JoinError::Number), "once");
}

#[test]
fn a_join_of_another_session_is_refused() {
    let mut pair = Pair::new();
    let now = pair.now;
    let mut stranger = Session::new(Client, Profile::default(), now);
    stranger.establish(&established(7), STATICS, now);
    assert_ne!(stranger.id(), pair.client().id());
    let (_, mut join) = stranger.join(&HASH, Mode::Replace, now);
    assert_eq!(pair.bridge().admit(&join, &HASH, &STATICS.client, now), Err(JoinError::Forged));
    join.id = pair.client().id().unwrap().0;
    assert_eq!(
        pair.bridge().admit(&join, &HASH, &STATICS.client, now),
        Err(JoinError::Forged),
        "a stolen id"
    );
    let mut young = Session::new(Bridge, Profile::default(), now);
    assert_eq!(young.admit(&join, &HASH, &STATICS.client, now), Err(JoinError::Unknown));
}

#[test]
fn numbers_go_up() {
    let mut pair = Pair::new();
    pair.join(Mode::Replace);
    pair.join(Mode::Replace);
    let now = pair.now;
    let secret = pair.client().secret.as_ref().unwrap();
    let id = secret.id().0;
    let mut old = Join { mode: 0, id, carrier: 1, next: 0, mac: [0; 32] };
    old.mac = secret.mac(Client, &old, &HASH);
    assert_eq!(pair.bridge().admit(&old, &HASH, &STATICS.client, now), Err(JoinError::Number));
    let secret = pair.client().secret.as_ref().unwrap();
    let mut far = Join { carrier: u64::from(u32::MAX) + 1, ..old };
    far.mac = secret.mac(Client, &far, &HASH);
    assert_eq!(pair.bridge().admit(&far, &HASH, &STATICS.client, now), Err(JoinError::Number));
}

#[test]
fn an_answer_is_the_bridges_own() {
    let mut pair = Pair::new();
    let now = pair.now;
    let (number, join) = pair.client().join(&HASH, Mode::Replace, now);
    assert_eq!(pair.client().joined(&join, &HASH, now), Err(JoinError::Forged), "its own JOIN");
    let (_, answer) = pair.bridge().admit(&join, &HASH, &STATICS.client, now).unwrap();
    assert_eq!(pair.client().joined(&answer, &[8; 32], now), Err(JoinError::Forged));
    let mut other = answer.clone();
    other.mode = 1;
    let secret = pair.bridge().secret.as_ref().unwrap();
    other.mac = secret.mac(Bridge, &other, &HASH);
    assert_eq!(pair.client().joined(&other, &HASH, now), Err(JoinError::Unknown), "another mode");
    pair.client().joined(&answer, &HASH, now).unwrap();
    assert_eq!(pair.client().state_of(number), CarrierState::Active);
    assert_eq!(pair.client().joined(&answer, &HASH, now), Err(JoinError::Number), "once");
}

#[test]
fn expecting_what_was_never_sent_ends_the_session() {
    for side in 0..2 {
        let mut pair = Pair::new();
        let now = pair.now;
        let (_, join) = pair.client().join(&HASH, Mode::Replace, now);
        let (join, role) = if side == 1 {
            (join, Client)
        } else {
            (pair.bridge().admit(&join, &HASH, &STATICS.client, now).unwrap().1, Bridge)
        };
        let mut liar = Join { next: join.next + 1, ..join };
        liar.mac = pair.ends[1 - side].secret.as_ref().unwrap().mac(role, &liar, &HASH);
        if side == 1 {
            assert!(pair.bridge().admit(&liar, &HASH, &STATICS.client, now).is_err());
        } else {
            assert!(pair.client().joined(&liar, &HASH, now).is_err());
        }
        assert_eq!(pair.ends[side].ended(), Some(Ended::Violation));
    }
}

/// What came over the old carrier between a JOIN and its answer is acknowledged too.
#[test]
fn what_comes_while_a_join_is_on_its_way_is_acknowledged() {
    for mode in [Mode::Gently, Mode::Replace] {
        let mut pair = Pair::new();
        let id = pair.stream();
        pair.rest();
        let now = pair.now;
        let (number, join) = pair.client().join(&HASH, mode, now);
        pair.write(1, id, b"between");
        let record = pair.pack(1, RECORD).unwrap();
        pair.give(0, &record).unwrap();
        let (_, answer) = pair.bridge().admit(&join, &HASH, &STATICS.client, now).unwrap();
        pair.client().joined(&answer, &HASH, now).unwrap();
        pair.carrier = number;
        pair.settle();
        assert_eq!(pair.read(0, id), b"between");
        assert!(pair.bridge().log.is_empty());
    }
}

#[test]
fn a_refusal_ends_the_clients_session() {
    let mut pair = Pair::new();
    let now = pair.now;
    let (number, _) = pair.client().join(&HASH, Mode::Replace, now);
    pair.client().refused(now);
    assert_eq!(pair.client().ended(), Some(Ended::Forgotten));
    assert!(!pair.client().wants_to_send(number));
}

#[test]
fn nothing_secret_is_printed() {
    let mut pair = Pair::new();
    let now = pair.now;
    let (_, join) = pair.client().join(&HASH, Mode::Replace, now);
    let id = pair.client().id().unwrap();
    for text in
        [format!("{:?}", pair.client()), format!("{join:?}"), format!("{id:?}"), format!("{STATICS:?}")]
    {
        let first = format!("{}, {}", id.0[0], id.0[1]);
        assert!(!text.contains(&first) && !text.contains("3, 3"), "{text}");
        assert!(!text.contains("mac") && !text.contains("secret"), "{text}");
    }
}
