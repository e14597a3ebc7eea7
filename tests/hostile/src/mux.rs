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

/// One side of an honest pair.
struct Side {
    mux: Mux,
    open: Vec<StreamId>,
    /// Bytes written to and read from each stream, which are numbered from 0 on.
    written: BTreeMap<u64, u64>,
    read: BTreeMap<u64, u64>,
}

impl Side {
    fn new(role: Role) -> Self {
        Self { mux: Mux::new(role), open: Vec::new(), written: BTreeMap::new(), read: BTreeMap::new() }
    }

    /// One act of the user's.
    fn act(&mut self, action: u8, size: usize) {
        let chosen = self.open.get(size % self.open.len().max(1)).copied();
        match (action % 6, chosen) {
            (0, _) if self.open.len() < MOST_OPEN => self.open.extend(self.mux.open()),
            (1 | 2, Some(id)) => {
                let from = self.written.entry(id.get()).or_default();
                let bytes: Vec<u8> = (*from..*from + size as u64 * 37).map(byte_at).collect();
                *from += self.mux.write(id, &bytes).unwrap_or(0) as u64;
            }
            (3, Some(id)) => self.take(id, size + 1),
            (4, Some(id)) => self.mux.finish(id),
            (5, Some(id)) => {
                self.mux.release(id);
                self.open.retain(|open| *open != id);
            }
            _ => {}
        }
        while let Some(id) = self.mux.accept() {
            self.open.push(id);
        }
        while self.mux.take_wake().is_some() {}
    }

    /// Reads, and checks each byte's place.
    fn take(&mut self, id: StreamId, room: usize) {
        let mut buffer = vec![0; room];
        if let Ok(Read::Data(length)) = self.mux.read(id, &mut buffer) {
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

/// Two honest ends: whatever their users do and however little the carrier takes at a time, neither finds fault with
/// the other, and what is read is what was written, in order.
pub fn pair(data: &[u8]) {
    let mut sides = [Side::new(Role::Client), Side::new(Role::Bridge)];
    for step in data.chunks_exact(2) {
        let (action, size) = (step[0], usize::from(step[1]));
        let [client, bridge] = &mut sides;
        let (from, to) = if action & 0x80 == 0 { (client, bridge) } else { (bridge, client) };
        if action & 0x40 == 0 {
            from.act(action & 0x3f, size);
        } else {
            let mut carried = Vec::new();
            assert!(from.mux.pack(size * 64, &mut carried) <= size * 64);
            for frame in frames(&carried) {
                to.mux.on_frame(&frame.expect("a frame as it was packed")).expect("an honest peer");
            }
        }
    }
    let [client, bridge] = sides;
    for (from, to) in [(&client, &bridge), (&bridge, &client)] {
        assert!(to.read.iter().all(|(id, read)| from.written.get(id).is_some_and(|written| read <= written)));
    }
}
