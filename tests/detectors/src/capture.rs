//! What a censor beside the client saw.

use std::time::Duration;

use qnet_tests::support::link::Trace;
use serde::{Deserialize, Serialize};

use crate::load::Load;
use crate::transport::Kind;

/// A TCP segment's payload on an Ethernet path with timestamps, bytes (1,500 - 20 - 20 - 12). Loopback's segments are
/// larger: what was read at once is cut into such pieces, as a path would have.
pub const SEGMENT: usize = 1_448;

/// Bytes kept of what the client sends first: more than any rule looks at.
const FIRST_BYTES: usize = 4_096;

/// Who sent something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    /// The client.
    Up,
    /// The server.
    Down,
}

/// A packet with payload.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Packet {
    /// Seconds since the connection began, at the client's end of the wire.
    pub at: f64,
    /// Who sent it.
    pub way: Way,
    /// Payload, bytes.
    pub bytes: usize,
    /// Its place in the direction's bytes.
    pub offset: usize,
}

/// A TLS record.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Seconds since the connection began until its last byte was there, at the client's end of the wire.
    pub at: f64,
    /// Who sent it.
    pub way: Way,
    /// The content type: 20 change cipher spec, 21 alert, 22 handshake, 23 application data.
    pub kind: u8,
    /// The length in its header, bytes.
    pub length: usize,
    /// Where its header begins in the direction's bytes.
    pub offset: usize,
}

/// One TCP connection.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Connection {
    /// Packets of both directions, by time.
    pub packets: Vec<Packet>,
    /// Records of both directions, by time; none where it is not TLS.
    pub records: Vec<Record>,
    /// The first bytes that the client sent.
    #[serde(skip)]
    pub first: Vec<u8>,
    /// Bytes of the first of the client's packets.
    pub first_packet: usize,
}

/// What one transport showed under one load.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Capture {
    /// Which transport.
    pub transport: Kind,
    /// The web server before which the bridge stands, or that was visited.
    pub server: String,
    /// What was carried.
    pub load: Load,
    /// The path's round trip, milliseconds.
    pub round_trip_ms: u64,
    /// Its connections, in the order in which they began.
    pub connections: Vec<Connection>,
}

impl Connection {
    /// From a trace whose down direction took `delay` more to reach the client.
    ///
    /// The wire notes both directions where they come in; a censor beside the client sees what the server says later.
    #[must_use]
    pub fn from_trace(trace: &Trace, delay: Duration) -> Self {
        let (mut packets, mut records) = (Vec::new(), Vec::new());
        for (way, flow, late) in [(Way::Up, &trace.up, Duration::ZERO), (Way::Down, &trace.down, delay)] {
            let mut offset = 0;
            for (at, bytes) in flow.reads() {
                let mut left = *bytes;
                while left > 0 {
                    let taken = left.min(SEGMENT);
                    packets.push(Packet { at: (*at + late).as_secs_f64(), way, bytes: taken, offset });
                    offset += taken;
                    left -= taken;
                }
            }
            records.extend(flow.records().iter().map(|record| Record {
                at: (record.at + late).as_secs_f64(),
                way,
                kind: record.kind,
                length: record.length,
                offset: record.offset,
            }));
        }
        packets.sort_by(|one, other| one.at.total_cmp(&other.at));
        records.sort_by(|one, other| one.at.total_cmp(&other.at));
        let first = trace.up.raw().iter().take(FIRST_BYTES).copied().collect();
        let first_packet =
            packets.iter().find(|packet| packet.way == Way::Up).map_or(0, |packet| packet.bytes);
        Self { packets, records, first, first_packet }
    }

    /// The records of one direction that carry application data by their outer type.
    pub fn data(&self, way: Way) -> impl Iterator<Item = &Record> {
        self.records.iter().filter(move |record| record.way == way && record.kind == 23)
    }

    /// Where the direction's ChangeCipherSpec begins (RFC 8446, appendix D.4), or its first protected record where there is
    /// none: what comes after it is all that the outer handshake leaves to look at.
    #[must_use]
    pub fn change_cipher(&self, way: Way) -> Option<usize> {
        let mut records = self.records.iter().filter(|record| record.way == way);
        records.find(|record| matches!(record.kind, 20 | 23)).map(|record| record.offset)
    }
}

/// Bytes and packets that went one way until the other side spoke.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Burst {
    /// Who sent it.
    pub way: Way,
    /// Payload, bytes.
    pub bytes: usize,
    /// How many packets.
    pub packets: usize,
}

/// Joins packets into bursts.
#[must_use]
pub fn bursts(packets: impl IntoIterator<Item = (Way, usize)>) -> Vec<Burst> {
    let mut bursts: Vec<Burst> = Vec::new();
    for (way, bytes) in packets {
        match bursts.last_mut().filter(|burst| burst.way == way) {
            Some(burst) => {
                burst.bytes += bytes;
                burst.packets += 1;
            }
            None => bursts.push(Burst { way, bytes, packets: 1 }),
        }
    }
    bursts
}

impl Capture {
    /// For people: what was captured.
    #[must_use]
    pub fn title(&self) -> String {
        let transport = match self.transport {
            Kind::Plain => "plain TLS",
            Kind::Qnet => "QNet",
            Kind::Obfs4 => "obfs4",
            Kind::Tunnel => "TLS tunnel",
        };
        let load = match self.load {
            Load::Page => "a page",
            Load::Tor => "Tor's link",
        };
        format!("{transport}, {load}, {}, {} ms", self.server, self.round_trip_ms)
    }
}
