//! Peers that break the rules, and peers that only look as if.

use proptest::prelude::*;

use super::super::{MAX_STREAMS, Violation, code};
use super::*;

fn stream(id: u64, data: &[u8]) -> Frame<'_> {
    Frame::Stream { id, data }
}

fn update(id: u64, increment: u64) -> Frame<'static> {
    Frame::WindowUpdate { id, increment }
}

fn close(id: u64, code: u8) -> Frame<'static> {
    Frame::Close { id, code }
}

/// A bridge whose peer opened stream 1 and that opened stream 2 itself.
fn bridge() -> (Mux, StreamId, StreamId) {
    let mut mux = Mux::new(Role::Bridge);
    mux.on_frame(&stream(1, b"hello")).unwrap();
    let theirs = mux.accept().unwrap();
    let ours = mux.open().unwrap();
    drain(&mut mux);
    (mux, theirs, ours)
}

/// Packs everything away; returns how many bytes that was.
fn drain(mux: &mut Mux) -> usize {
    let mut all = 0;
    while mux.wants_to_send() {
        let packed = mux.pack(RECORD, &mut Vec::new());
        if packed == 0 {
            break;
        }
        all += packed;
    }
    check(mux);
    all
}

/// Repeats a frame; returns after how many it was a violation.
fn flood(mux: &mut Mux, mut frame: impl FnMut(usize) -> Frame<'static>) -> Option<usize> {
    (0..100_000).find(|&n| {
        let result = mux.on_frame(&frame(n));
        assert!(result.is_ok() || result == Err(Violation::Flood), "{result:?}");
        result.is_err()
    })
}

#[test]
fn what_no_honest_peer_sends() {
    let big = vec![0; RECORD];
    let cases: Vec<(Vec<Frame<'_>>, Violation)> = vec![
        (vec![stream(0, b"x")], Violation::NeverOpened(0)),
        (vec![stream(4, b"x")], Violation::NeverOpened(4)),
        (vec![update(4, 1)], Violation::NeverOpened(4)),
        (vec![close(4, 0)], Violation::NeverOpened(4)),
        (vec![close(4, 1)], Violation::NeverOpened(4)),
        (vec![update(3, 1)], Violation::NeverOpened(3)),
        (vec![close(3, 0)], Violation::NeverOpened(3)),
        (vec![close(3, 1)], Violation::NeverOpened(3)),
        (vec![update(0, 0)], Violation::EmptyIncrement),
        (vec![update(1, 0)], Violation::EmptyIncrement),
        (vec![update(0, (1 << 31) - 1)], Violation::WindowTooLarge),
        (vec![update(1, (1 << 31) - 1)], Violation::WindowTooLarge),
        (vec![update(2, (1 << 62) - 1)], Violation::WindowTooLarge),
        (vec![close(1, 0), stream(1, b"x")], Violation::AfterClose(1)),
        (vec![close(1, 0), stream(1, b"")], Violation::AfterClose(1)),
        (vec![close(1, 0), close(1, 0)], Violation::AfterClose(1)),
        (vec![close(1, 1), close(1, 0)], Violation::AfterClose(1)),
        (vec![close(1, 1), close(1, 1)], Violation::AfterClose(1)),
        (vec![close(1, 3), stream(1, b"x")], Violation::AfterClose(1)),
        (vec![stream(1, &big); 16], Violation::BeyondCredit),
        (vec![Frame::Padding], Violation::Misplaced),
        (vec![Frame::KeyUpdate], Violation::Misplaced),
        (vec![Frame::Decoy(b"x")], Violation::Misplaced),
        (vec![Frame::Ping { answer: false, data: [0; 8] }], Violation::Misplaced),
    ];
    for (frames, violation) in cases {
        let (mut mux, ..) = bridge();
        let (last, before) = frames.split_last().unwrap();
        for frame in before {
            assert_eq!(mux.on_frame(frame), Ok(()), "{frame:?} before {violation:?}");
        }
        assert_eq!(mux.on_frame(last), Err(violation), "{last:?}");
    }
}

#[test]
fn a_stream_not_yet_announced_is_not_the_peers_to_use() {
    for frame in [stream(4, b""), update(4, 1), close(4, 0), close(4, 1)] {
        let (mut mux, ..) = bridge();
        assert_eq!(mux.open().unwrap().get(), 4);
        assert_eq!(mux.on_frame(&frame), Err(Violation::NeverOpened(4)));
    }
}

#[test]
fn the_window_is_exact() {
    let (mut mux, id, _) = bridge();
    let rest = vec![0; 262_144 - 5];
    mux.on_frame(&stream(1, &rest)).unwrap();
    assert_eq!(mux.on_frame(&stream(1, b"x")), Err(Violation::BeyondCredit));
    // An empty frame needs no credit.
    mux.on_frame(&stream(1, b"")).unwrap();
    mux.release(id);
}

#[test]
fn the_connections_window_is_exact_over_many_streams() {
    let mut mux = Mux::new(Role::Bridge);
    for id in [1, 3, 5, 7] {
        mux.on_frame(&stream(id, &vec![0; 262_144])).unwrap();
    }
    assert_eq!(mux.on_frame(&stream(9, b"x")), Err(Violation::BeyondCredit));
    assert_eq!(mux.buffered(), 1 << 20);
}

/// We cancelled; what the peer sent before it knew is legal, counts against the connection and is given back.
#[test]
fn late_frames_of_a_cancelled_stream_are_absorbed() {
    let (mut mux, id, ours) = bridge();
    mux.cancel(id, code::CANCELLED);
    mux.cancel(ours, code::CANCELLED);
    for packed in [false, true] {
        for id in [1, 2] {
            mux.on_frame(&stream(id, &[0; 10_000])).unwrap();
            mux.on_frame(&update(id, 5)).unwrap();
            assert_eq!(mux.buffered(), 0);
        }
        if !packed {
            assert!(drain(&mut mux) > 0);
        }
    }
    mux.release(id);
    mux.release(ours);
    for id in [1, 2] {
        mux.on_frame(&stream(id, &[0; 10_000])).unwrap();
        mux.on_frame(&close(id, 0)).unwrap();
        mux.on_frame(&close(id, 1)).unwrap();
    }
    check_gone(&mut mux);
    assert_eq!(mux.granted.left(), (1 << 20) - 60_000 - 5);
    // Without end it still works, and the connection's credit comes back each time.
    for _ in 0..1_000 {
        mux.on_frame(&stream(1, &[0; RECORD])).unwrap();
        mux.on_frame(&stream(2, &[0; RECORD])).unwrap();
        drain(&mut mux);
    }
    check_gone(&mut mux);
}

#[test]
fn a_cancelled_streams_own_window_still_binds() {
    let (mut mux, id, _) = bridge();
    mux.cancel(id, code::CANCELLED);
    let rest = vec![0; 262_144 - 5];
    mux.on_frame(&stream(1, &rest)).unwrap();
    assert_eq!(mux.on_frame(&stream(1, b"x")), Err(Violation::BeyondCredit));
}

#[test]
fn a_reset_that_crossed_our_end_changes_nothing() {
    let (mut mux, id, _) = bridge();
    mux.on_frame(&close(1, 0)).unwrap();
    mux.finish(id);
    drain(&mut mux);
    mux.on_frame(&close(1, 1)).unwrap();
    assert_eq!(mux.read(id, &mut [0; 9]), Ok(Read::Data(5)));
    assert_eq!(mux.read(id, &mut [0; 9]), Ok(Read::End));
}

#[test]
fn an_id_is_never_used_twice() {
    let (mut mux, id, _) = bridge();
    mux.on_frame(&close(1, 1)).unwrap();
    mux.release(id);
    mux.on_frame(&stream(5, b"x")).unwrap();
    assert_eq!(mux.accept().map(StreamId::get), Some(5));
    // Absorbed as late frames are; neither 1, which was used, nor 3, which was passed over, comes to life.
    for id in [1, 3] {
        mux.on_frame(&stream(id, b"again")).unwrap();
        assert!(!mux.acceptable());
    }
    assert_eq!(mux.streams.keys().copied().collect::<Vec<_>>(), [2, 5]);
    mux.on_frame(&stream((1 << 62) - 1, b"x")).unwrap();
    assert!(mux.acceptable());
}

#[test]
fn too_many_streams_are_a_violation() {
    let mut mux = Mux::new(Role::Bridge);
    for n in 0..MAX_STREAMS as u64 {
        mux.on_frame(&stream(2 * n + 1, b"x")).unwrap();
    }
    let next = 2 * MAX_STREAMS as u64 + 1;
    assert!(mux.allocated() <= MAX_STREAMS * 4_096);
    // One that ends makes place for one.
    mux.on_frame(&close(1, 1)).unwrap();
    mux.on_frame(&stream(next, b"")).unwrap();
    assert_eq!(mux.on_frame(&stream(next + 2, b"")), Err(Violation::TooManyStreams));
}

#[test]
fn a_user_who_does_not_keep_up_bounds_the_entries() {
    let mut mux = Mux::new(Role::Bridge);
    let (mut held, mut refused) = (Vec::new(), 0);
    for n in 0..5_000u64 {
        let id = 2 * n + 1;
        mux.on_frame(&stream(id, b"x")).unwrap();
        match mux.accept() {
            Some(id) => held.push(id),
            None => refused += 1,
        }
        mux.on_frame(&close(id, 1)).unwrap();
        assert_eq!(mux.refused.len(), 0, "the peer's own CLOSE answers for the refusal");
    }
    assert_eq!(held.len(), 2 * MAX_STREAMS);
    assert_eq!(refused, 5_000 - held.len());
    assert_eq!(mux.streams.len(), held.len());
    for id in held {
        mux.release(id);
    }
    drain(&mut mux);
    check_gone(&mut mux);
}

#[test]
fn refusals_that_cannot_be_sent_are_bounded() {
    let mut mux = Mux::new(Role::Bridge);
    // A user who holds all there may be: what comes from here on is refused.
    let held = 2 * MAX_STREAMS as u64;
    for n in 0..held {
        mux.on_frame(&stream(2 * n + 1, b"x")).unwrap();
        mux.accept().unwrap();
        mux.on_frame(&close(2 * n + 1, 1)).unwrap();
    }
    for n in held..held + MAX_STREAMS as u64 {
        mux.on_frame(&stream(2 * n + 1, b"x")).unwrap();
    }
    assert_eq!(mux.refused.len(), MAX_STREAMS);
    let next = stream(2 * (held + MAX_STREAMS as u64) + 1, b"x");
    assert_eq!(mux.on_frame(&next), Err(Violation::TooManyStreams));
}

#[test]
fn floods_of_frames_that_bring_nothing_end_the_tunnel() {
    type Make = fn(usize) -> Frame<'static>;
    let cases: [(&str, Make); 6] = [
        ("empty data", |_| stream(1, b"")),
        ("empty data of a closed stream", |_| stream(3, b"")),
        ("small updates", |_| update(1, 1)),
        ("small updates of the connection", |_| update(0, 1)),
        ("updates of a closed stream", |_| update(3, 1)),
        ("closes of a closed stream", |_| close(3, 1)),
    ];
    for (name, frame) in cases {
        let (mut mux, ..) = bridge();
        mux.on_frame(&stream(3, b"")).unwrap();
        mux.on_frame(&close(3, 1)).unwrap();
        let after = flood(&mut mux, frame);
        assert!(after.is_some_and(|after| (4_000..5_000).contains(&after)), "{name}: {after:?}");
    }
}

#[test]
fn opening_and_resetting_in_a_loop_ends_the_tunnel() {
    let mut mux = Mux::new(Role::Bridge);
    let after = flood(&mut mux, |n| {
        let id = n as u64 / 2 * 2 + 1;
        if n % 2 == 0 { stream(id, b"") } else { close(id, 1) }
    });
    assert!(after.is_some());
    assert!(mux.streams.len() <= 1);
}

#[test]
fn tiny_data_frames_cost_what_their_bytes_cost() {
    let mut mux = Mux::new(Role::Bridge);
    for _ in 0..262_144 {
        mux.on_frame(&stream(1, b"x")).unwrap();
    }
    assert_eq!(mux.buffered(), 262_144);
    assert_eq!(mux.allocated(), 262_144);
}

#[test]
fn an_honest_peer_with_a_reader_of_single_bytes_is_no_flood() {
    let mut pair = Pair::new();
    let id = pair.open(0);
    for _ in 0..4 {
        pair.ends[0].write(id, &vec![0; 60_000]).unwrap();
        pair.settle();
        for _ in 0..60_000 {
            assert_eq!(pair.ends[1].read(id, &mut [0]), Ok(Read::Data(1)));
            pair.pack(1, RECORD);
            pair.deliver(1);
        }
    }
}

#[test]
fn honest_streams_without_data_that_both_sides_cancel_are_no_flood() {
    let mut pair = Pair::new();
    for _ in 0..10_000 {
        let id = pair.open(0);
        for end in &mut pair.ends {
            end.release(id);
        }
        // Both CLOSE frames are on their way at once, and each comes for a stream that is gone.
        for side in 0..2 {
            pair.pack(side, RECORD);
        }
        pair.settle();
    }
    for end in &mut pair.ends {
        check_gone(end);
    }
}

/// Any frame, of few streams, so that they meet.
fn frame() -> impl Strategy<Value = (u8, u64, u64, usize)> {
    (0..4u8, 0..9u64, prop_oneof![0..4u64, 1 << 20..1u64 << 32, Just((1 << 62) - 1)], 0..20_000usize)
}

proptest! {
    #[test]
    fn any_frames_leave_a_sound_state_or_a_violation(
        frames in prop::collection::vec((frame(), 0..6u8), 1..200),
        client in any::<bool>(),
    ) {
        let mut mux = Mux::new(if client { Role::Client } else { Role::Bridge });
        let (mut held, data) = (vec![mux.open().unwrap(), mux.open().unwrap()], vec![0; 20_000]);
        drain(&mut mux);
        for ((kind, id, number, length), action) in frames {
            let frame = match kind {
                0 | 1 => stream(id, &data[..length]),
                2 => update(id, number),
                _ => close(id, u8::try_from(number % 6).unwrap()),
            };
            // Past the end a carrier has: what nobody should do does no harm either.
            let _ = mux.on_frame(&frame);
            held.extend(mux.accept());
            let one = held[length % held.len()];
            match action {
                0 => { let _ = mux.read(one, &mut [0; 3_000]); }
                1 => { let _ = mux.write(one, &data); }
                2 => mux.finish(one),
                3 => mux.cancel(one, 1),
                4 => mux.release(one),
                _ => { drain(&mut mux); }
            }
            prop_assert!(mux.streams.len() <= 12);
            prop_assert!(mux.buffered() <= 16 << 20);
        }
        while let Some(id) = mux.accept() {
            held.push(id);
        }
        for id in held {
            mux.release(id);
        }
    }
}
