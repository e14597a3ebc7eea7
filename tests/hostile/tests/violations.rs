//! Peers that are authentic and break the protocol.
#![forbid(unsafe_code)]

use qnet_hostile::puppet::{
    ALERT, FRAMES, NOISE, PuppetBridge, PuppetClient, Script, Stage, Voice, drain, start,
};
use qnet_proto::Ended;
use qnet_proto::admission::Admission;
use qnet_proto::carrier::{Carrier, Event, Side};
use qnet_proto::frame::Frame;
use qnet_proto::session::lock;
use qnet_wire::key::IdentityKey;

fn bridge(stage: Stage, script: Script) -> PuppetClient {
    PuppetClient::new(stage, script, start())
}

fn ended(events: &[Event]) -> Option<Ended> {
    events.iter().find_map(|event| if let Event::Ended(why) = event { Some(*why) } else { None })
}

#[test]
fn a_puppet_client_gets_a_tunnel() {
    let mut puppet = bridge(Stage::Up, Script::default());
    puppet.stream_frame(&Frame::Stream { id: 1, data: b"bread" });
    assert_eq!(puppet.events, [Event::Hello, Event::Proved, Event::Up]);
    assert!(puppet.bridge.session().is_some_and(|session| lock(session).streams().acceptable()));
}

#[test]
fn a_puppet_bridge_gives_a_tunnel() {
    let mut puppet = PuppetBridge::new(Stage::Up, false, start());
    puppet.frame(&Frame::Ping { answer: false, data: [3; 8] });
    assert_eq!(puppet.events, [Event::Proved, Event::Up]);
}

#[test]
fn message_3_must_show_the_invited_key() {
    let (invited, other) = (IdentityKey::from_bytes([21; 32]), IdentityKey::from_bytes([22; 32]));
    let script = |shown| Script {
        admission: Some(Admission::Invited(vec![other.public().0, invited.public().0])),
        invitation: Some(invited.clone()),
        shown,
        ..Script::default()
    };
    assert_eq!(ended(&bridge(Stage::Up, script(None)).events), None);
    // Another one's, even if that one is invited too.
    let puppet = bridge(Stage::Up, script(Some(other.clone())));
    assert_eq!(ended(&puppet.events), Some(Ended::Handshake));
    assert!(!puppet.events.contains(&Event::Up));
}

#[test]
fn frames_where_they_may_not_stand_end_the_tunnel() {
    let stream = Frame::Stream { id: 1, data: b"x" };
    let ping = Frame::Ping { answer: false, data: [0; 8] };
    for (stage, frame) in [
        (Stage::Proved, stream.clone()),
        (Stage::Second, stream.clone()),
        (Stage::Third, stream),
        (Stage::Proved, ping.clone()),
        (Stage::Third, ping),
        (Stage::Proved, Frame::KeyUpdate),
        (Stage::Second, Frame::KeyUpdate),
        (Stage::Third, Frame::KeyUpdate),
        (Stage::Third, Frame::Decoy(b"x")),
        (Stage::Up, Frame::Decoy(b"x")),
        (Stage::Up, Frame::Stream { id: 1, data: b"x" }),
        (Stage::Up, Frame::WindowUpdate { id: 0, increment: 1 }),
        (Stage::Up, Frame::Close { id: 1, code: 1 }),
        (Stage::Up, Frame::Refused),
        (Stage::Third, Frame::Segment { more: false, position: 0, bytes: b"" }),
        (Stage::Up, Frame::Segment { more: false, position: 0, bytes: &[0, 0, 1, 1, 2] }),
        (Stage::Up, Frame::Segment { more: false, position: 0, bytes: &[0, 0, 1, 1, 0] }),
        (Stage::Up, Frame::Ack { position: 1 }),
        (Stage::Proved, Frame::Decoy(b"no TLS")),
        (Stage::Proved, Frame::Shape { profile: 1, version: 2 }),
        (Stage::Second, Frame::Shape { profile: 1, version: 2 }),
        (Stage::Up, Frame::Shape { profile: 1, version: 2 }),
    ] {
        let mut puppet = bridge(stage, Script::default());
        puppet.frame(&frame);
        assert_eq!(ended(&puppet.events), Some(Ended::Violation), "{stage:?} {frame:?}");
        // What follows is dropped, the decoy's connection is ended.
        puppet.frame(&Frame::Padding);
        let _ = drain(&mut puppet.bridge, Side::Decoy, start());
        assert_eq!(puppet.bridge.shutdown(Side::Decoy), Some(qnet_proto::carrier::Close::Fin));
    }
}

#[test]
fn a_second_handover_or_message_ends_the_tunnel() {
    let handover = qnet_proto::frame::Handover {
        suite: 0x1301,
        requests: 1,
        up_first: 1,
        down_first: 1,
        up_secret: vec![1; 32].into(),
        down_secret: vec![2; 32].into(),
    };
    let mut puppet = bridge(Stage::Up, Script::default());
    puppet.frame(&Frame::Handover(handover.clone()));
    assert_eq!(ended(&puppet.events), Some(Ended::Violation));
    let mut puppet = bridge(Stage::Third, Script::default());
    puppet.frame(&Frame::Handover(qnet_proto::frame::Handover { up_first: 99, ..handover }));
    assert_eq!(ended(&puppet.events), Some(Ended::Violation), "more records than there were");
    for stage in [Stage::Third, Stage::Up] {
        let mut puppet = bridge(stage, Script::default());
        puppet.htx(NOISE, &[0, 1, 7]);
        assert!(ended(&puppet.events).is_some());
    }
    let mut puppet = bridge(Stage::Up, Script::default());
    puppet.htx(24, b"");
    assert_eq!(ended(&puppet.events), Some(Ended::Violation));
}

#[test]
fn a_client_may_claim_any_number_of_requests() {
    for requests in [0, 999, 1_000, u32::MAX - 1, u32::MAX] {
        let mut puppet = bridge(Stage::Up, Script { requests, ..Script::default() });
        puppet.stream_frame(&Frame::Stream { id: 1, data: b"x" });
        puppet.bridge.flush(start());
        let mut now = start();
        for _ in 0..50 {
            now += std::time::Duration::from_millis(100);
            puppet.bridge.on_timer(now);
        }
        assert_eq!(ended(&puppet.events), None);
    }
}

#[test]
fn a_shape_may_be_asked_for_once_and_answered_once() {
    for profile in [0, 1, 200] {
        let shape = Frame::Shape { profile, version: 1 };
        let mut puppet = bridge(Stage::Third, Script::default());
        puppet.frame(&shape);
        assert_eq!(ended(&puppet.events), None);
        puppet.frame(&shape);
        assert_eq!(ended(&puppet.events), Some(Ended::Violation));
        let mut puppet = PuppetBridge::new(Stage::Up, false, start());
        puppet.frame(&shape);
        assert_eq!(ended(&puppet.events), None, "{profile}");
        puppet.frame(&shape);
        assert_eq!(ended(&puppet.events), Some(Ended::Violation));
    }
}

#[test]
fn early_data_is_one_segment_alone() {
    let encode = |frames: &[Frame<'_>]| {
        let mut out = Vec::new();
        frames.iter().for_each(|frame| frame.encode(&mut out));
        out
    };
    let streams = encode(&[Frame::Stream { id: 1, data: b"early" }, Frame::Close { id: 1, code: 0 }]);
    let stream = Frame::Segment { more: false, position: 0, bytes: &streams };
    let good = encode(std::slice::from_ref(&stream));
    let puppet = bridge(Stage::Second, Script { early: good, ..Script::default() });
    assert_eq!(ended(&puppet.events), None);
    assert!(puppet.bridge.session().is_some_and(|session| lock(session).streams().acceptable()));
    for bad in [
        encode(&[Frame::Close { id: 0, code: 0 }]),
        encode(&[Frame::Stream { id: 1, data: b"bare" }]),
        encode(&[Frame::Segment { more: false, position: 9, bytes: &streams }]),
        encode(&[stream.clone(), Frame::KeyUpdate]),
        encode(&[Frame::Decoy(b"x")]),
        encode(&[Frame::Ping { answer: false, data: [0; 8] }]),
        vec![1, 2, 3],
    ] {
        let puppet = bridge(Stage::Second, Script { early: bad, ..Script::default() });
        assert_eq!(ended(&puppet.events), Some(Ended::Violation));
    }
}

#[test]
fn a_bridge_that_breaks_the_rules_loses_its_client() {
    let stream = Frame::Stream { id: 2, data: b"x" };
    for (stage, frame) in [
        (Stage::Proved, stream.clone()),
        (Stage::Proved, Frame::KeyUpdate),
        (Stage::Second, stream),
        (Stage::Second, Frame::Decoy(b"no TLS")),
        (Stage::Up, Frame::Decoy(&[23, 3, 3, 0, 30])),
        (Stage::Up, Frame::Stream { id: 2, data: b"x" }),
        (Stage::Up, Frame::Segment { more: false, position: 0, bytes: &[0, 0, 2, 1, 1, 7] }),
        (Stage::Up, Frame::Refused),
        (Stage::Up, Frame::Ack { position: 1 << 40 }),
    ] {
        let mut puppet = PuppetBridge::new(stage, false, start());
        puppet.frame(&frame);
        assert_eq!(ended(&puppet.events), Some(Ended::Violation), "{stage:?} {frame:?}");
        assert_eq!(puppet.client.shutdown(Side::Peer), Some(qnet_proto::carrier::Close::Fin));
    }
    let mut puppet = PuppetBridge::new(Stage::Proved, false, start());
    puppet.htx(NOISE, &[0, 1, 7]);
    assert!(ended(&puppet.events).is_some(), "message 2 before message 1");
    let mut puppet = PuppetBridge::new(Stage::Up, false, start());
    puppet.htx(NOISE, &[0, 1, 7]);
    assert!(ended(&puppet.events).is_some(), "Noise after the handshake");
}

#[test]
fn decoy_frames_are_kept_only_until_a_record_is_whole() {
    let mut puppet = PuppetBridge::new(Stage::Proved, false, start());
    for _ in 0..10_000 {
        puppet.frame(&Frame::Decoy(&[23, 3, 3, 0x40, 0, 1, 2, 3]));
    }
    assert!(puppet.client.held() < 200_000, "{}", puppet.client.held());
    let mut puppet = bridge(Stage::Proved, Script::default());
    for _ in 0..10_000 {
        puppet.frame(&Frame::Decoy(&[23, 3, 3, 0x40, 0, 1, 2, 3]));
        let _ = drain(&mut puppet.bridge, Side::Decoy, start());
    }
    assert!(puppet.bridge.held() < 400_000, "{}", puppet.bridge.held());
}

#[test]
fn many_alerts_and_tiny_records_of_a_decoys_do_no_harm() {
    let mut puppet = bridge(Stage::Up, Script::default());
    let mut alerts = Vec::new();
    for _ in 0..5_000 {
        puppet.decoy.seal(ALERT, &[2, 20], &mut alerts);
    }
    puppet.from_decoy(&alerts);
    assert_eq!(ended(&puppet.events), Some(Ended::DecoyEnded));
    // While the client keeps silent, what does not fit is held back, not without bound.
    let mut puppet = bridge(Stage::Proved, Script::default());
    for _ in 0..20_000 {
        puppet.decoy_record(23, b"");
        let _ = drain(&mut puppet.bridge, Side::Peer, start());
    }
    assert!(puppet.bridge.held() < 400_000, "{}", puppet.bridge.held());
}

#[test]
fn a_client_whose_bridge_let_go_before_message_1_asks_for_no_time() {
    let mut puppet = PuppetBridge::new(Stage::Proved, true, start());
    puppet.decoy_record(23, &[0, 0, 0, 4, 1, 0, 0, 0, 0]);
    assert_eq!(ended(&puppet.events), Some(Ended::Tampered));
    puppet.client.on_timer(puppet.now + std::time::Duration::from_secs(2));
    assert_eq!(puppet.client.deadline(), None);
}

#[test]
fn the_decoy_is_not_heard_before_the_knock_has_gone_on_to_it() {
    let mut puppet = bridge(Stage::Knocked, Script::default());
    assert!(!puppet.bridge.wants(Side::Decoy), "the knock waits for its socket");
    let _ = drain(&mut puppet.bridge, Side::Decoy, start());
    assert!(puppet.bridge.wants(Side::Decoy));
}

#[test]
fn what_nobody_sealed_is_no_proof() {
    // After the knock, what nobody sealed is no proof.
    let mut puppet = PuppetBridge::new(Stage::Knocked, false, start());
    puppet.htx(FRAMES, &[9; 200]);
    assert!(!puppet.events.contains(&Event::Proved));
    assert_eq!(ended(&puppet.events), Some(Ended::Tampered));
}
