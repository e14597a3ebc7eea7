//! Streams: a hostile peer, and an honest pair over a carrier that cuts as it likes.

use std::collections::BTreeMap;

use qnet_proto::frame::frames;
use qnet_proto::mux::{Mux, Read, Role, StreamId};

/// Both windows and both send limits, with room for segments that are partly filled: what a peer can make a side hold.
const MOST_HELD: usize = 64 << 20;

/// Streams a pair opens at most; more would only make runs slower.
const MOST_OPEN: usize = 8;

/// Frames from a peer that knows the format and nothing else; the user reads and answers what comes.
pub fn peer(data: &[u8]) {
    let Some((&choice, data)) = data.split_first() else { return };
    let role = if choice & 1 == 0 { Role::Client } else { Role::Bridge };
    let mut mux = Mux::new(role);
    let mut ours = mux.open().into_iter().collect::<Vec<_>>();
    let mut out = Vec::new();
    for frame in frames(data).map_while(Result::ok) {
        if mux.on_frame(&frame).is_err() {
            return;
        }
        while let Some(id) = mux.accept() {
            ours.push(id);
        }
        while let Some((id, _)) = mux.take_wake() {
            let read = mux.read(id, &mut [0; 100]);
            if choice & 2 != 0 {
                let _ = mux.write(id, b"answer");
            }
            if choice & 4 != 0 && !matches!(read, Ok(Read::Data(_))) {
                mux.release(id);
                ours.retain(|open| *open != id);
            }
        }
        out.clear();
        let packed = mux.pack(200, &mut out);
        assert!(packed == out.len() && packed <= 200);
        assert!(frames(&out).all(|frame| frame.is_ok()));
        assert!(mux.buffered() <= MOST_HELD && mux.allocated() <= MOST_HELD);
    }
    ours.into_iter().for_each(|id| mux.release(id));
}

/// What the user of one side of an honest pair does and knows.
#[derive(Default)]
pub(crate) struct User {
    open: Vec<StreamId>,
    /// Bytes written to and read from each stream, which are numbered from 0 on.
    written: BTreeMap<u64, u64>,
    read: BTreeMap<u64, u64>,
}

impl User {
    /// One act of the user's.
    pub(crate) fn act(&mut self, mux: &mut Mux, action: u8, size: usize) {
        let chosen = self.open.get(size % self.open.len().max(1)).copied();
        match (action % 6, chosen) {
            (0, _) if self.open.len() < MOST_OPEN => self.open.extend(mux.open()),
            (1 | 2, Some(id)) => {
                let from = self.written.entry(id.get()).or_default();
                let bytes: Vec<u8> = (*from..*from + size as u64 * 37).map(byte_at).collect();
                *from += mux.write(id, &bytes).unwrap_or(0) as u64;
            }
            (3, Some(id)) => self.take(mux, id, size + 1),
            (4, Some(id)) => mux.finish(id),
            (5, Some(id)) => {
                mux.release(id);
                self.open.retain(|open| *open != id);
            }
            _ => {}
        }
        while let Some(id) = mux.accept() {
            self.open.push(id);
        }
        while mux.take_wake().is_some() {}
    }

    /// The same towards a peer whose bytes are its own business.
    pub(crate) fn act_unchecked(&mut self, mux: &mut Mux, action: u8, size: usize) {
        match self.open.first() {
            Some(&id) if action % 6 == 3 => drop(mux.read(id, &mut vec![0; size + 1])),
            _ => self.act(mux, action, size),
        }
    }

    /// Reads, and checks each byte's place.
    fn take(&mut self, mux: &mut Mux, id: StreamId, room: usize) {
        let mut buffer = vec![0; room];
        if let Ok(Read::Data(length)) = mux.read(id, &mut buffer) {
            let at = self.read.entry(id.get()).or_default();
            assert!(
                buffer[..length].iter().zip(*at..).all(|(byte, place)| *byte == byte_at(place)),
                "a wrong byte"
            );
            *at += length as u64;
        }
    }
}

/// The byte at a place of any stream.
fn byte_at(place: u64) -> u8 {
    (place % 251) as u8
}

/// What is read was written.
pub(crate) fn check_users(users: &[User; 2]) {
    let [client, bridge] = users;
    for (from, to) in [(client, bridge), (bridge, client)] {
        assert!(to.read.iter().all(|(id, read)| from.written.get(id).is_some_and(|written| read <= written)));
    }
}

/// Two honest ends: whatever their users do and however little the carrier takes at a time, neither finds fault with
/// the other, and what is read is what was written, in order.
pub fn pair(data: &[u8]) {
    let mut ends = [Mux::new(Role::Client), Mux::new(Role::Bridge)];
    let mut users = [User::default(), User::default()];
    for step in data.chunks_exact(2) {
        let (action, size) = (step[0], usize::from(step[1]));
        let side = usize::from(action >> 7);
        if action & 0x40 == 0 {
            users[side].act(&mut ends[side], action & 0x3f, size);
        } else {
            let mut carried = Vec::new();
            assert!(ends[side].pack(size * 64, &mut carried) <= size * 64);
            for frame in frames(&carried) {
                ends[1 - side].on_frame(&frame.expect("a frame as it was packed")).expect("an honest peer");
            }
        }
    }
    check_users(&users);
}
