//! Both carriers before a peer who holds the keys: from any stage on, any sequence of what that peer, a decoy, a user
//! and time can do.

use std::time::{Duration, Instant};

use qnet_proto::carrier::{Carrier, Close, Side};
use qnet_proto::mux::{Read, StreamId};
use qnet_proto::session::lock;

use crate::puppet::{ALERT, FRAMES, NOISE, PuppetBridge, PuppetClient, Script, Stage, Voice, drain, start};

/// What a carrier may hold: both windows, and what a fuzzer's input can make of them.
const MOST_HELD: usize = 64 << 20;
/// Timers that may be due at one instant.
const MOST_TIMERS: usize = 20;
/// Bytes written at once are at most 255; a written piece is repeated so often, so that queues fill.
const REPEATED: usize = 200;

/// One step: what to do, and bytes to do it with.
struct Step<'a> {
    action: u8,
    bytes: &'a [u8],
}

fn steps(mut data: &[u8]) -> impl Iterator<Item = Step<'_>> {
    std::iter::from_fn(move || {
        let [action, length, ref rest @ ..] = *data else { return None };
        let (bytes, rest) = rest.split_at(usize::from(length).min(rest.len()));
        data = rest;
        Some(Step { action, bytes })
    })
}

/// A bridge before a client and a decoy that may do anything.
pub fn bridge(data: &[u8]) {
    let Some((&stage, data)) = data.split_first() else { return };
    let mut now = start();
    let mut puppet = PuppetClient::new(Stage::of(stage), Script::default(), now);
    let mut streams = Vec::new();
    for step in steps(data) {
        match step.action % 16 {
            0 => puppet.peer(step.bytes),
            1 => puppet.from_decoy(step.bytes),
            2 => puppet.htx(FRAMES, step.bytes),
            3 => puppet.htx(NOISE, step.bytes),
            4 => puppet.htx(ALERT, step.bytes),
            5 => puppet.decoy_record(23, step.bytes),
            6 => puppet.decoy_record(22, step.bytes),
            7 => puppet.decoy_record(21, step.bytes),
            8 => puppet.bridge.judge(step.bytes.len() % 2 == 0),
            other => common(&mut puppet.bridge, other, step.bytes, &mut streams, &mut now),
        }
        settle(&mut puppet.bridge, &mut now);
        assert!(puppet.bridge.held() < MOST_HELD);
    }
}

/// A client before a bridge and a decoy that may do anything.
pub fn client(data: &[u8]) {
    let Some((&stage, data)) = data.split_first() else { return };
    let mut puppet = PuppetBridge::new(Stage::of(stage), stage >= 128, start());
    let mut now = puppet.now;
    let mut streams = Vec::new();
    for step in steps(data) {
        match step.action % 16 {
            0 | 1 | 8 => puppet.from_bridge(step.bytes),
            2 => puppet.htx(FRAMES, step.bytes),
            3 => puppet.htx(NOISE, step.bytes),
            4 => puppet.htx(ALERT, step.bytes),
            5 => puppet.decoy_record(23, step.bytes),
            6 => puppet.decoy_record(22, step.bytes),
            7 => puppet.decoy_record(21, step.bytes),
            other => common(&mut puppet.client, other, step.bytes, &mut streams, &mut now),
        }
        puppet.now = now;
        settle(&mut puppet.client, &mut now);
        assert!(puppet.client.held() < MOST_HELD);
    }
}

/// What sockets, users and time do with either.
fn common(core: &mut dyn Carrier, action: u8, bytes: &[u8], streams: &mut Vec<StreamId>, now: &mut Instant) {
    let choice = bytes.first().copied().unwrap_or_default();
    let side = if choice & 1 == 0 { Side::Peer } else { Side::Decoy };
    match action {
        9 => core.ended(side, if choice & 2 == 0 { Close::Fin } else { Close::Reset }, *now),
        10 => *now += Duration::from_millis(u64::from(choice) * 20),
        11 => *now += Duration::from_secs(u64::from(choice) * 10),
        12 => use_streams(core, bytes, streams),
        13 => core.close(*now),
        14 => {
            let n = core.pending(side).len().min(bytes.len());
            core.wrote(side, n, *now);
        }
        _ => {
            let _ = (core.shutdown(Side::Peer), core.shutdown(Side::Decoy));
            let _ = drain(core, Side::Peer, *now);
            let _ = drain(core, Side::Decoy, *now);
        }
    }
}

fn use_streams(core: &mut dyn Carrier, bytes: &[u8], streams: &mut Vec<StreamId>) {
    let Some(mut session) = core.session().map(lock) else { return };
    let mux = session.streams();
    streams.extend(mux.accept());
    if streams.len() < 8 {
        streams.extend(mux.open());
    }
    for id in streams.iter() {
        let _ = mux.write(*id, &bytes.repeat(REPEATED));
        let _: Result<Read, _> = mux.read(*id, &mut [0; 500]);
    }
    if bytes.len() % 5 == 4
        && let Some(id) = streams.pop()
    {
        mux.finish(id);
        mux.release(id);
    }
}

/// Everything that is due happens, and then nothing is.
fn settle(core: &mut dyn Carrier, now: &mut Instant) {
    core.flush(*now);
    while core.poll_event().is_some() {}
    let mut timers = 0;
    while let Some(at) = core.deadline().filter(|at| at <= now) {
        core.on_timer((*now).max(at));
        timers += 1;
        assert!(timers < MOST_TIMERS, "a timer that is always due");
    }
    while core.poll_event().is_some() {}
    let _ = (core.wants(Side::Peer), core.wants(Side::Decoy), core.finished());
}
