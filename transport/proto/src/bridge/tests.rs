use super::*;
use crate::admission::Admission;

fn bridge() -> Bridge {
    let config = BridgeConfig {
        door: Door::new(&IdentityKey::from_bytes([7; 32]), &Admission::Open),
        identity: IdentityKey::from_bytes([7; 32]),
        names: vec!["www.example.com".parse().unwrap()],
        facts: RwLock::default(),
        knocked: Mutex::new(KnockedTokens::new(8)),
        sessions: SharedSessions::default(),
        profile: Profile::default(),
    };
    Bridge::new(Arc::new(config), [1; 32])
}

fn last_words(bridge: &mut Bridge, count: usize, now: Instant) {
    bridge.space(Side::Decoy)[..count].fill(b'x');
    bridge.filled(Side::Decoy, count, now);
    bridge.ended(Side::Decoy, Close::Fin, now);
}

#[test]
fn a_visitor_who_never_closes_is_not_waited_for_for_ever() {
    #[expect(clippy::disallowed_methods, reason = "a test owns its clock")]
    let start = Instant::now();
    let mut bridge = bridge();
    last_words(&mut bridge, 100, start);
    bridge.wrote(Side::Peer, 100, start);
    assert_eq!(bridge.shutdown(Side::Peer), Some(Close::Fin));
    bridge.on_timer(start + LINGER - Duration::from_millis(1));
    assert!(!bridge.finished());
    assert!(bridge.deadline().is_some_and(|at| at <= start + LINGER));
    bridge.on_timer(start + LINGER);
    assert!(bridge.finished());
}

#[test]
fn who_still_reads_is_waited_for_and_who_stops_is_not() {
    #[expect(clippy::disallowed_methods, reason = "a test owns its clock")]
    let start = Instant::now();
    let mut bridge = bridge();
    last_words(&mut bridge, 1_000, start);
    for step in 1..4 {
        let now = start + step * LINGER;
        bridge.wrote(Side::Peer, 10, now);
        bridge.on_timer(now);
        assert!(!bridge.finished(), "step {step}");
    }
    bridge.on_timer(start + 4 * LINGER);
    assert!(bridge.finished());
}
