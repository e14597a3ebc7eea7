//! What a censor beside the client saw.

use std::time::Duration;

use qnet_tests::support::flow::HEADER;
use qnet_tests::support::link::{self, Trace};
use qnet_tests::support::sniff::Segment;
use serde::{Deserialize, Serialize};

use crate::load::Load;
use crate::transport::Kind;

/// The longest payload of a TCP segment with timestamps on Ethernet, bytes (1,500 - 20 - 20 - 12).
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

/// A packet with payload that is not sent again.
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

/// Any TCP segment, those without payload and those that are sent again included.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Event {
    /// As a packet's.
    pub at: f64,
    /// Who sent it.
    pub way: Way,
    /// TCP's flags, as [`qnet_tests::support::sniff`] names them.
    pub flags: u8,
    /// Payload, bytes.
    pub bytes: usize,
    /// Whether all of its payload was sent before.
    pub again: bool,
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
    /// All segments of both directions, by time.
    #[serde(skip)]
    pub events: Vec<Event>,
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
    /// The profile that QNet's bridge line named.
    pub profile: Option<String>,
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
    /// From a watched link's trace whose down direction took `delay` more to reach the client.
    ///
    /// Up are the client's segments, down the server's: what the wire sends on to either has lost where one ended. The wire
    /// notes both directions where they come in; a censor beside the client sees what the server says later.
    #[must_use]
    pub fn from_trace(trace: &Trace, delay: Duration) -> Self {
        let begun = trace.segments.first().map_or(trace.begun(), |(_, segment)| segment.at);
        let (mut packets, mut records, mut events) = (Vec::new(), Vec::new(), Vec::new());
        for (way, of, late) in [(Way::Up, link::Way::Up, Duration::ZERO), (Way::Down, link::Way::Down, delay)]
        {
            let segments = trace.segments.iter().filter(|(way, _)| *way == of).map(|(_, segment)| segment);
            let mut segments: Vec<&Segment> = segments.collect();
            // The first is the SYN. Where two processors handed theirs to the tap, their order there means nothing.
            let opening = segments.first().map_or(0, |syn| syn.sequence.wrapping_add(1));
            let place = |segment: &Segment| segment.sequence.wrapping_sub(opening) as usize;
            segments.sort_by_key(|segment| place(segment));
            let (first, mut end) = (packets.len(), 0);
            for segment in segments {
                let at = (segment.at.saturating_duration_since(begun) + late).as_secs_f64();
                // The link's tap saw to it that nothing is missing, so what is not new overlaps the end.
                let new = (place(segment) + segment.payload).saturating_sub(end).min(segment.payload);
                let again = segment.payload > 0 && new == 0;
                events.push(Event { at, way, flags: segment.flags, bytes: segment.payload, again });
                if new > 0 {
                    packets.push(Packet { at, way, bytes: new, offset: end });
                    end += new;
                }
            }
            let packets = packets.get(first..).unwrap_or_default();
            records.extend(trace.flow(of).records().iter().filter_map(|record| {
                let last = record.offset + HEADER + record.present;
                let whole = packets.partition_point(|packet| packet.offset + packet.bytes < last);
                let at = packets.get(whole)?.at;
                Some(Record { at, way, kind: record.kind, length: record.length, offset: record.offset })
            }));
        }
        packets.sort_by(|one, other| one.at.total_cmp(&other.at));
        records.sort_by(|one, other| one.at.total_cmp(&other.at));
        events.sort_by(|one, other| one.at.total_cmp(&other.at));
        let first = trace.up.raw().iter().take(FIRST_BYTES).copied().collect();
        let first_packet =
            packets.iter().find(|packet| packet.way == Way::Up).map_or(0, |packet| packet.bytes);
        Self { packets, records, events, first, first_packet }
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
            Kind::QnetWebsocket => "QNet's websocket",
            Kind::Obfs4 => "obfs4",
            Kind::Tunnel => "TLS tunnel",
        };
        let load = match self.load {
            Load::Page => "a page",
            Load::Tour => "several pages and a form",
            Load::Talk => "a page's websocket",
            Load::Tor => "Tor's link",
            Load::RealTor => "a real Tor",
        };
        let profile = self.profile.iter().map(|name| format!(" {name}")).collect::<String>();
        format!("{transport}{profile}, {load}, {}, {} ms", self.server, self.round_trip_ms)
    }
}
