//! A process that holds sessions, and another that asks for them and then says anything.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use qnet_proto::carrier::{Carrier, Close, Side};
use qnet_proto::elsewhere::Holder;
use qnet_proto::frame::Frame;
use qnet_proto::mux::Role;
use qnet_proto::session::{Mode, SharedSessions, lock, lock_sessions};

use crate::session::{HASH, MOST_HELD, STATICS, session};

/// Bytes that a holder may have for its connection: its own limit, one piece of a session beyond, and what grew for them.
const MOST_PENDING: usize = 512 * 1024;

/// The first byte says whether a client's JOIN is asked for first; then steps of an action and a length with so many bytes.
pub fn holder(data: &[u8]) {
    let Some((&choice, mut data)) = data.split_first() else { return };
    let mut now = Instant::now();
    let held = Arc::new(Mutex::new(session(Role::Bridge, now)));
    let sessions = SharedSessions::default();
    lock_sessions(&sessions).insert(&held);
    let mut holder = Holder::new(sessions, now);
    if choice & 1 == 0 {
        feed(&mut holder, &ask(now), now);
        assert!(holder.session().is_some(), "a right JOIN is refused");
    }
    while let [action, length, rest @ ..] = data {
        let (bytes, rest) = rest.split_at(usize::from(*length).min(rest.len()));
        data = rest;
        match action % 4 {
            0 | 1 => feed(&mut holder, bytes, now),
            2 => {
                let count = holder.pending(Side::Link).len().min(usize::from(*length) * 64);
                holder.wrote(Side::Link, count, now);
            }
            _ => {
                now += Duration::from_millis(u64::from(*length) * 50);
                holder.on_timer(now);
                assert!(holder.deadline().is_none_or(|at| at > now), "a deadline that passed stays");
            }
        }
        while holder.poll_event().is_some() {}
        assert!(holder.held() <= MOST_PENDING && lock(&held).held() <= MOST_HELD);
    }
    holder.ended(Side::Link, Close::Reset, now);
    assert!(holder.finished() && holder.session().is_none());
    assert!(lock(&held).ended().is_some() || lock(&held).is_detached().is_some() || choice & 1 == 1);
}

fn feed(holder: &mut Holder, mut bytes: &[u8], now: Instant) {
    while !bytes.is_empty() && holder.wants(Side::Link) {
        let space = holder.space(Side::Link);
        let count = space.len().min(bytes.len());
        let (piece, rest) = bytes.split_at(count);
        space[..count].copy_from_slice(piece);
        bytes = rest;
        holder.filled(Side::Link, count, now);
    }
}

/// What a newer process asks for an honest client.
fn ask(now: Instant) -> Vec<u8> {
    let (_, join) = session(Role::Client, now).join(&HASH, Mode::Replace, now);
    let mut body = [HASH, STATICS.client].concat();
    body.extend_from_slice(&[0; 4]);
    Frame::Join(join).encode(&mut body);
    let [.., a, b, c] = body.len().to_be_bytes();
    [&[a, b, c, 0x80], body.as_slice()].concat()
}
