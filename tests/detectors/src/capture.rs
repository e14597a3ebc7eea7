//! What a censor beside the client saw.

use std::ops::Range;
use std::time::Duration;

use qnet_tests::support::flow::HEADER;
use qnet_tests::support::link::{self, Trace};
use qnet_tests::support::sniff::Segment;
use serde::{Deserialize, Serialize};

use crate::load::Load;
use crate::transport::Kind;

/// The longest payload of a TCP segment with timestamps on Ethernet, bytes (1,500 - 20 - 20 - 12).
pub const SEGMENT: usize = 1_448;

/// The protocol's name where a hello offers it (RFC 7301, section 3.1).
pub(crate) const H2_OFFERED: &[u8] = b"\x02h2";

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
    /// In which of the capture's plays of its load it was made, from 0: what one visit makes is not independent.
    pub visit: usize,
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
            let segments: Vec<&Segment> = segments.collect();
            // The first is the SYN. Where two processors handed theirs to the tap, their order there means nothing, and what is sent
            // again may be cut otherwise: what counts is which bytes are new.
            let opening = segments.first().map_or(0, |syn| syn.sequence.wrapping_add(1));
            let place = |segment: &Segment| segment.sequence.wrapping_sub(opening) as usize;
            let (first, mut seen) = (packets.len(), Vec::new());
            for segment in segments {
                let at = (segment.at.saturating_duration_since(begun) + late).as_secs_f64();
                let new = take_new(&mut seen, place(segment)..place(segment) + segment.payload);
                let again = segment.payload > 0 && new.is_empty();
                events.push(Event { at, way, flags: segment.flags, bytes: segment.payload, again });
                packets.extend(new.into_iter().map(|new| Packet {
                    at,
                    way,
                    bytes: new.len(),
                    offset: new.start,
                }));
            }
            let packets = packets.get_mut(first..).unwrap_or_default();
            packets.sort_by_key(|packet| packet.offset);
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
        Self { visit: 0, packets, records, events, first, first_packet }
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

/// The parts of `segment` that are not in `seen`, which are in it afterwards. What was seen is apart, and in order.
fn take_new(seen: &mut Vec<Range<usize>>, segment: Range<usize>) -> Vec<Range<usize>> {
    if segment.is_empty() {
        return Vec::new();
    }
    let touches = |old: &Range<usize>| old.start <= segment.end && segment.start <= old.end;
    let (mut new, mut at, mut joined) = (Vec::new(), segment.start, segment.clone());
    for old in seen.iter().filter(|old| touches(old)) {
        if old.start > at {
            new.push(at..old.start);
        }
        at = at.max(old.end);
        joined = joined.start.min(old.start)..joined.end.max(old.end);
    }
    if at < segment.end {
        new.push(at..segment.end);
    }
    seen.retain(|old| !touches(old));
    seen.insert(seen.partition_point(|old| old.start < joined.start), joined);
    new
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
            Load::Proxied => "a page by its proxy",
            Load::ProxiedTour => "several pages and a form by its proxy",
            Load::Talk => "a page's websocket",
            Load::Tor => "Tor's link",
            Load::RealTor => "a real Tor",
        };
        let profile = self.profile.iter().map(|name| format!(" {name}")).collect::<String>();
        format!("{transport}{profile}, {load}, {}, {} ms", self.server, self.round_trip_ms)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use qnet_tests::support::sniff::{ACK, FIN, SYN};

    use super::*;

    /// Near the end of the numbers, so that they begin anew.
    const FIRST: u32 = u32::MAX - 7;

    /// A connection in the making.
    struct Made(Trace);

    impl Made {
        fn new() -> Self {
            let mut made = Self(Trace::new(Instant::now()));
            made.segment(link::Way::Up, 0, -1, 0, SYN);
            made.segment(link::Way::Down, 0, -1, 0, SYN | ACK);
            made
        }

        /// A segment so many milliseconds after the beginning, at this place of the direction's bytes.
        fn segment(&mut self, way: link::Way, at: u64, place: i32, payload: usize, flags: u8) {
            let [client, server] = [1, 2].map(|port| ([127, 0, 0, 1], port).into());
            let (from, to) = if way == link::Way::Up { (client, server) } else { (server, client) };
            let at = self.0.begun() + Duration::from_millis(at);
            let sequence = FIRST.wrapping_add_signed(place);
            self.0.segments.push((way, Segment { at, from, to, sequence, acknowledges: 0, flags, payload }));
        }

        fn up(&mut self, at: u64, place: i32, payload: usize) {
            self.segment(link::Way::Up, at, place, payload, ACK);
        }

        fn connection(&self) -> Connection {
            Connection::from_trace(&self.0, Duration::from_millis(100))
        }
    }

    /// Time in milliseconds, bytes and place of each packet of this direction.
    fn packets(connection: &Connection, way: Way) -> Vec<(f64, usize, usize)> {
        let of = connection.packets.iter().filter(|packet| packet.way == way);
        of.map(|packet| ((packet.at * 1_000.0).round(), packet.bytes, packet.offset)).collect()
    }

    #[test]
    fn what_is_sent_again_is_an_event_and_no_packet() {
        let mut made = Made::new();
        made.up(10, 0, 20);
        made.up(20, 20, 30);
        made.up(250, 0, 20);
        made.up(260, 20, 30);
        made.up(300, 50, 5);
        made.segment(link::Way::Up, 310, 55, 0, FIN | ACK);
        let seen = made.connection();
        assert_eq!(packets(&seen, Way::Up), [(10.0, 20, 0), (20.0, 30, 20), (300.0, 5, 50)]);
        assert_eq!(seen.first_packet, 20);
        let up: Vec<bool> =
            seen.events.iter().filter(|event| event.way == Way::Up).map(|event| event.again).collect();
        assert_eq!(up, [false, false, false, true, true, false, false], "SYN, two, both again, one, FIN");
    }

    #[test]
    fn of_an_overlap_only_what_is_new_counts() {
        let mut made = Made::new();
        made.up(10, 0, 20);
        // Half of it old; then one that holds all so far and more, and one out of its order at the tap.
        made.up(20, 10, 20);
        made.up(30, 0, 40);
        made.up(41, 50, 10);
        made.up(42, 40, 10);
        let seen = made.connection();
        assert_eq!(
            packets(&seen, Way::Up),
            [(10.0, 20, 0), (20.0, 10, 20), (30.0, 10, 30), (41.0, 10, 50), (42.0, 10, 40)]
        );
        assert!(seen.events.iter().all(|event| !event.again));
    }

    /// The kernel joins what it sends again where that fits into one segment.
    #[test]
    fn what_is_sent_again_joined_or_in_part_changes_no_packet() {
        let mut made = Made::new();
        made.up(10, 0, 20);
        made.up(20, 20, 30);
        made.up(250, 0, 50);
        made.up(260, 10, 25);
        // Half a segment again, with what is new behind it.
        made.up(270, 40, 15);
        let seen = made.connection();
        assert_eq!(packets(&seen, Way::Up), [(10.0, 20, 0), (20.0, 30, 20), (270.0, 5, 50)]);
    }

    #[test]
    fn a_record_is_there_with_its_last_byte() {
        let mut made = Made::new();
        let begun = made.0.begun();
        // Three records, of 15, 5 and 25 bytes with their headers, of which the last is not whole.
        let bytes =
            [&[22, 3, 1, 0, 10][..], &[7; 10], &[20, 3, 3, 0, 0], &[23, 3, 3, 0, 20], &[8; 15]].concat();
        for (way, flow) in [(link::Way::Up, &mut made.0.up), (link::Way::Down, &mut made.0.down)] {
            let count = if way == link::Way::Up { bytes.len() } else { 15 };
            flow.push(&bytes[..count], begun);
        }
        made.up(10, 0, 14);
        made.up(20, 14, 6);
        made.up(30, 20, 20);
        // The first segment again, later than the record that it begins was whole.
        made.up(40, 0, 14);
        made.segment(link::Way::Down, 5, 0, 15, ACK);
        let seen = made.connection();
        let records: Vec<_> = (seen.records.iter())
            .map(|one| (one.way, one.kind, one.length, one.offset, (one.at * 1_000.0).round()))
            .collect();
        assert_eq!(
            records,
            [
                (Way::Up, 22, 10, 0, 20.0),
                (Way::Up, 20, 0, 15, 20.0),
                (Way::Up, 23, 20, 20, 30.0),
                // The path's delay later than where it was sent.
                (Way::Down, 22, 10, 0, 105.0),
            ]
        );
        assert_eq!(seen.first, bytes);
        assert_eq!(seen.change_cipher(Way::Up), Some(15));
    }
}
