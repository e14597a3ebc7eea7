//! Two sessions without carriers between them: what one packs, the other is given, or not.

mod basics;
mod claims;
mod hostile;
mod time;

use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use super::*;
use crate::frame::frames;
use crate::mux::{Read, StreamId};
use crate::noise::Established;
use crate::record::{Cipher, DirectionSecret};

const STATICS: Statics = Statics { client: [3; 32], bridge: [4; 32] };
const HASH: [u8; 32] = [9; 32];
const RECORD: usize = 16_384;
const ROUND_TRIP: Duration = Duration::from_millis(100);

fn established(seed: u8) -> Established {
    let secret = |byte| DirectionSecret::new(Zeroizing::new([byte; 32]));
    Established {
        up: secret(seed),
        down: secret(2),
        cipher: Cipher::Aes256Gcm,
        peer_static: [0; 32],
        handshake_hash: [5; 32],
    }
}

#[expect(clippy::disallowed_methods, reason = "any instant will do; only differences count")]
pub(super) fn any_instant() -> Instant {
    Instant::now()
}

/// Both ends and the time. Side 0 is the client.
struct Pair {
    ends: [Session; 2],
    now: Instant,
    carrier: CarrierNumber,
}

impl Pair {
    fn new() -> Self {
        Self::with(&Profile::default())
    }

    fn with(profile: &Profile) -> Self {
        let now = any_instant();
        let mut ends = [Role::Client, Role::Bridge].map(|role| Session::new(role, profile.clone(), now));
        for end in &mut ends {
            end.establish(&established(1), STATICS, now);
            end.set_round_trip(CarrierNumber(0), ROUND_TRIP);
        }
        Self { ends, now, carrier: CarrierNumber(0) }
    }

    fn client(&mut self) -> &mut Session {
        &mut self.ends[0]
    }

    fn bridge(&mut self) -> &mut Session {
        &mut self.ends[1]
    }

    /// One record of a side's, if it has something to send.
    fn pack(&mut self, side: usize, room: usize) -> Option<Vec<u8>> {
        self.pack_on(self.carrier, side, room)
    }

    fn pack_on(&mut self, carrier: CarrierNumber, side: usize, room: usize) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        let packed = self.ends[side].pack(carrier, room, &mut out, self.now);
        assert_eq!(packed, out.len());
        assert!(packed <= room);
        (packed > 0).then_some(out)
    }

    /// All records of a side's.
    fn pack_all(&mut self, side: usize, room: usize) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| self.pack(side, room)).collect()
    }

    /// Gives a record to a side.
    fn give(&mut self, side: usize, record: &[u8]) -> Result<(), Violation> {
        self.give_on(self.carrier, side, record)
    }

    fn give_on(&mut self, carrier: CarrierNumber, side: usize, record: &[u8]) -> Result<(), Violation> {
        for frame in frames(record) {
            self.ends[side].on_frame(carrier, &frame.expect("well formed"), self.now)?;
        }
        Ok(())
    }

    /// A segment of our own making, for a side.
    fn segment(&mut self, side: usize, position: u64, bytes: &[u8]) -> Result<(), Violation> {
        self.give(side, &encoded(&Frame::Segment { more: false, position, bytes }))
    }

    /// Moves everything there is, both ways, on the present carrier.
    fn settle(&mut self) {
        while (0..2).any(|side| {
            let record = self.pack(side, RECORD);
            record.is_some_and(|record| {
                self.give(1 - side, &record).expect("an honest peer");
                true
            })
        }) {}
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        for end in &mut self.ends {
            end.on_timer(self.now);
        }
    }

    /// Time in which everything due is said.
    fn rest(&mut self) {
        self.pass(Duration::from_secs(5));
        self.settle();
    }

    /// Joins by a new carrier.
    fn join(&mut self, mode: Mode) {
        let now = self.now;
        let (number, join) = self.client().join(&HASH, mode, now);
        let (admitted, answer) = self.bridge().admit(&join, &HASH, &STATICS.client, now).expect("admitted");
        assert_eq!(admitted, number);
        self.client().joined(&answer, &HASH, now).expect("joined");
        self.carrier = number;
    }

    fn write(&mut self, side: usize, id: StreamId, data: &[u8]) {
        assert_eq!(self.ends[side].streams().write(id, data), Ok(data.len()));
    }

    fn read(&mut self, side: usize, id: StreamId) -> Vec<u8> {
        let mut all = Vec::new();
        let mut buffer = [0; 4_096];
        while let Ok(Read::Data(count)) = self.ends[side].streams().read(id, &mut buffer) {
            all.extend_from_slice(&buffer[..count]);
        }
        all
    }

    /// A stream that both know.
    fn stream(&mut self) -> StreamId {
        let id = self.client().streams().open().expect("a stream");
        self.settle();
        assert_eq!(self.bridge().streams().accept(), Some(id));
        id
    }
}

/// Bytes that repeat late.
fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| u8::try_from(at * 31 % 251).expect("below 251")).collect()
}

fn encoded(frame: &Frame<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    frame.encode(&mut out);
    out
}
