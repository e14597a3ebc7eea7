//! Sessions: a hostile peer, and an honest pair over carriers that are lost and replaced.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use qnet_proto::frame::{Frame, frames};
use qnet_proto::mux::Role;
use qnet_proto::noise::Established;
use qnet_proto::record::{Cipher, DirectionSecret};
use qnet_proto::session::{CarrierNumber, CarrierState, MAX_UNACKED, Mode, Profile, Session, Statics};

use crate::mux::{User, check_users};

/// The streams' most (see the mux's body), what is unacknowledged, and what came out of order.
pub(crate) const MOST_HELD: usize = (64 << 20) + 2 * MAX_UNACKED;

/// Carriers of a pair at once.
const CARRIERS: usize = 3;

pub(crate) const STATICS: Statics = Statics { client: [3; 32], bridge: [4; 32] };
pub(crate) const HASH: [u8; 32] = [9; 32];

fn established() -> Established {
    Established {
        up: DirectionSecret::new([1; 32].into()),
        down: DirectionSecret::new([2; 32].into()),
        cipher: Cipher::Aes256Gcm,
        peer_static: [0; 32],
        handshake_hash: HASH,
    }
}

pub(crate) fn session(role: Role, now: Instant) -> Session {
    let mut session = Session::new(role, Profile::default(), now);
    session.establish(&established(), STATICS, now);
    session
}

fn mode(byte: u8) -> Mode {
    match byte % 5 {
        0 => Mode::Replace,
        1 => Mode::Gently,
        count => Mode::Striped(count),
    }
}

/// An authentic peer that does as it likes: steps of an action, a number and a length with so many bytes.
pub fn peer(data: &[u8]) {
    let Some((&choice, mut data)) = data.split_first() else { return };
    let role = if choice & 1 == 0 { Role::Client } else { Role::Bridge };
    let mut now = Instant::now();
    let mut session = session(role, now);
    // Whoever shares the secret can make another's JOIN.
    let mut accomplice = self::session(Role::Client, now);
    let mut user = User::default();
    let mut carrier = CarrierNumber(0);
    let mut next = 0_u64;
    while let [action, number, length, rest @ ..] = data {
        let (bytes, rest) = rest.split_at(usize::from(*length).min(rest.len()));
        data = rest;
        let more = action & 0x80 != 0;
        match action % 8 {
            0 => {
                for frame in frames(bytes).map_while(Result::ok) {
                    let _ = session.on_frame(carrier, &frame, now);
                }
            }
            1 | 2 => {
                let _ = session.on_frame(carrier, &Frame::Segment { more, position: next, bytes }, now);
                next += bytes.len() as u64;
            }
            3 => {
                let position = (next + u64::from(*number) * 97).saturating_sub(64 * 97);
                let _ = session.on_frame(carrier, &Frame::Segment { more, position, bytes }, now);
            }
            4 => {
                let position = u64::from(*number) * u64::from(*length);
                let _ = session.on_frame(carrier, &Frame::Ack { position }, now);
            }
            5 => carrier = change(&mut session, &mut accomplice, role, carrier, *number, now),
            6 => {
                now += Duration::from_millis(u64::from(*number) * 50);
                session.tick(now);
                session.on_timer(now);
                assert!(session.deadline().is_none_or(|at| at > now), "a deadline that passed stays");
            }
            _ => user.act_unchecked(session.streams(), *number, usize::from(*length)),
        }
        let mut out = Vec::new();
        let room = usize::from(*number) * 9;
        let packed = session.pack(carrier, room, &mut out, now);
        assert!(packed == out.len() && packed <= room);
        assert!(frames(&out).all(|frame| frame.is_ok()));
        assert!(session.held() <= MOST_HELD);
    }
}

/// The carrier is lost, or another comes, as the number says.
fn change(
    session: &mut Session,
    accomplice: &mut Session,
    role: Role,
    carrier: CarrierNumber,
    number: u8,
    now: Instant,
) -> CarrierNumber {
    if number.is_multiple_of(3) {
        session.lost(carrier, now);
    }
    if role == Role::Client {
        // Unanswered: the bridge's word would need its secret.
        return if number & 0x40 == 0 { session.join(&HASH, mode(number), now).0 } else { carrier };
    }
    let (_, mut join) = accomplice.join(&HASH, mode(number), now);
    if number & 0x40 != 0 {
        join.mac[0] ^= 1;
        assert!(session.admit(&join, &HASH, &STATICS.client, now).is_err(), "a forged JOIN");
        return carrier;
    }
    session.admit(&join, &HASH, &STATICS.client, now).map_or(carrier, |(number, _)| number)
}

/// A carrier of an honest pair: what is on its way, by sender.
struct Link {
    number: CarrierNumber,
    ways: [VecDeque<Vec<u8>>; 2],
}

/// Two honest ends whose carriers come and go: neither finds fault with the other, and what is read is what was
/// written, in order.
pub fn pair(data: &[u8]) {
    let mut now = Instant::now();
    let mut ends = [Role::Client, Role::Bridge].map(|role| session(role, now));
    let mut users = [User::default(), User::default()];
    let mut links = vec![Link { number: CarrierNumber(0), ways: Default::default() }];
    for step in data.chunks_exact(2) {
        let (action, size) = (step[0], usize::from(step[1]));
        let side = usize::from(action >> 7);
        let (which, room_for_more) = (size % links.len().max(1), links.len() < CARRIERS);
        match ((action >> 4) & 7, links.get_mut(which)) {
            (0 | 1, _) => users[side].act(ends[side].streams(), action & 0xf, size),
            (2 | 3, Some(link)) => {
                let mut out = Vec::new();
                let room = 30 + size * 17;
                assert!(ends[side].pack(link.number, room, &mut out, now) <= room);
                link.ways[side].push_back(out);
            }
            (4 | 5, Some(link)) => {
                let record = link.ways[side].pop_front().unwrap_or_default();
                for frame in frames(&record) {
                    let frame = frame.expect("a frame as it was packed");
                    ends[1 - side].on_frame(link.number, &frame, now).expect("an honest peer");
                }
            }
            (6, Some(link)) if action & 1 == 0 => {
                let number = link.number;
                ends.iter_mut().for_each(|end| end.lost(number, now));
                links.remove(which);
            }
            (6, _) if room_for_more => links.extend(join(&mut ends, step[1], now)),
            _ => {
                now += Duration::from_millis(size as u64 * 20);
                ends.iter_mut().for_each(|end| end.on_timer(now));
            }
        }
        links.retain(|link| {
            let kept = ends.iter().all(|end| end.state_of(link.number) != CarrierState::Retired);
            if !kept {
                ends.iter_mut().for_each(|end| end.lost(link.number, now));
            }
            kept
        });
    }
    check_users(&users);
}

fn join([client, bridge]: &mut [Session; 2], byte: u8, now: Instant) -> Option<Link> {
    let (number, join) = client.join(&HASH, mode(byte), now);
    let (_, answer) = bridge.admit(&join, &HASH, &STATICS.client, now).ok()?;
    client.joined(&answer, &HASH, now).expect("the bridge's answer");
    Some(Link { number, ways: Default::default() })
}
