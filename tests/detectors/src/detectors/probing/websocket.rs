//! The websocket cover: a bridge behind a web server, against the same site behind the same server without one.

use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use anyhow::{Result, anyhow};
use qnet_tests::support::decoy::NAME;
use qnet_tests::support::flow::End;
use qnet_tests::support::front;
use qnet_tests::support::http2::{DATA, HEADERS, bare_frames};
use qnet_tests::support::link::Link;
use qnet_tests::support::probe::web::{
    Documented, neighbourhood, of_the_path, openings, openings_over_http2,
};
use qnet_tests::support::probe::{Observation, Probe, play};
use qnet_tests::support::talk::TalkServer;

use super::times::{self, Compared};
use super::{Judged, WATCH, judge};
use crate::detector::{Figure, Plot, Role, Verdict, part};
use crate::stage::Field;
use crate::transport::{TalkingSite, Transport};

/// How long a bridge is documented to say nothing to somebody without its key, at least and at most.
const SILENT: [Duration; 2] = [Duration::from_secs(30), Duration::from_secs(90)];

/// Of one in so many of the probes of the path times are compared.
const TIMED: usize = 2;

/// How long the others are watched: a web server answers at once, and its own limits are minutes.
const BRIEFLY: Duration = Duration::from_secs(2);

/// To see all of that, and the end behind it.
const LONG_WATCH: Duration = Duration::from_secs(100);

/// What a busy machine may add to a time.
const LATE: Duration = Duration::from_secs(3);

/// The site behind addresses of one web server, which differ in what is at the end of one path.
struct Stage {
    /// Such a server as any site has, and another.
    talking: [TalkingSite; 2],
    /// A bridge.
    bridge: TalkingSite,
    /// Nobody.
    nobody: TalkingSite,
    /// The path is one of the site's, twice.
    pathless: [TalkingSite; 2],
    /// Another web server: the positive control.
    other: TalkingSite,
    _running: (Vec<TalkServer>, Transport),
}

impl Stage {
    fn set(server: front::Server, field: &Field) -> Result<Self> {
        let (path, elsewhere) = (TalkingSite::PATH, "/somewhere-else");
        let [bridge, nobody, talking, more, pathless, again] =
            TalkingSite::several(server, [path, path, path, path, elsewhere, elsewhere])?;
        let other = TalkingSite::start(match server {
            front::Server::Nginx => front::Server::Haproxy,
            front::Server::Haproxy | front::Server::HaproxyHttp1 => front::Server::Nginx,
        })?;
        let talks = vec![talking.talk()?, more.talk()?, other.talk()?];
        let sink = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let qnet = Transport::behind(&bridge, None, &field.programs.qnet_pt, sink, Duration::ZERO)?;
        let (talking, pathless) = ([talking, more], [pathless, again]);
        Ok(Self { talking, bridge, nobody, pathless, other, _running: (talks, qnet) })
    }
}

/// The same addresses at the end of a path, each over a wire of its own.
struct Places {
    talking: [SocketAddr; 2],
    bridge: SocketAddr,
    nobody: SocketAddr,
    pathless: [SocketAddr; 2],
    other: SocketAddr,
    round_trip: Duration,
    /// For people: the web server, and the path.
    title: String,
    _wires: Vec<Link>,
}

impl Places {
    fn over(stage: &Stage, server: front::Server, round_trip: u64) -> Result<Self> {
        let title = format!("behind {server:?}, {round_trip} ms");
        let round_trip = Duration::from_millis(round_trip);
        let mut wires = Vec::new();
        let mut away = |site: &TalkingSite| -> Result<SocketAddr> {
            let wire = Link::start(site.address(), round_trip / 2)?;
            let address = wire.address();
            wires.push(wire);
            Ok(address)
        };
        let [talking, pathless] = [&stage.talking, &stage.pathless];
        Ok(Self {
            talking: [away(&talking[0])?, away(&talking[1])?],
            bridge: away(&stage.bridge)?,
            nobody: away(&stage.nobody)?,
            pathless: [away(&pathless[0])?, away(&pathless[1])?],
            other: away(&stage.other)?,
            round_trip,
            title,
            _wires: wires,
        })
    }

    /// How long those are watched who are answered at once: a handshake and a request take three round trips of the time.
    fn briefly(&self) -> Duration {
        BRIEFLY + 3 * self.round_trip
    }
}

/// `outside` is what is played without TLS, or to its handshake. Without a path first, as before decoys.
pub(super) fn verdicts(
    server: front::Server,
    outside: &[Probe],
    field: &Field,
    plots: &mut Vec<Plot>,
) -> Result<Vec<Verdict>> {
    let stage = Stage::set(server, field)?;
    let paths = std::iter::once(0).chain(field.plan.round_trips.iter().copied());
    let over = |round_trip| {
        let found = Places::over(&stage, server, round_trip)
            .and_then(|places| over_a_path(&places, server, outside, field, plots));
        part(format!("behind {server:?}, {round_trip} ms"), found)
    };
    Ok(paths.flat_map(over).collect())
}

fn over_a_path(
    places: &Places,
    server: front::Server,
    outside: &[Probe],
    field: &Field,
    plots: &mut Vec<Plot>,
) -> Result<Vec<Verdict>> {
    let mut verdicts = strangers(places, outside)?;
    let known = of_the_path(NAME, TalkingSite::PATH);
    verdicts.extend(who_know_the_path(places, &known)?);
    let watch = if field.plan.all_probes { LONG_WATCH } else { WATCH };
    verdicts.extend(who_open_it(places, server, watch)?);
    let compared = Compared {
        what: "QNet's websocket",
        qnet: places.bridge,
        decoy: places.pathless[0],
        again: ("the site again", places.pathless[1]),
    };
    let name = format!("its path {}", places.title);
    let some: Vec<Probe> = known.into_iter().step_by(TIMED).collect();
    verdicts.extend(times::verdicts(&name, &some, &compared, field.plan.rounds, plots)?);
    Ok(verdicts)
}

/// One after the other: TLS handshakes are work, and a machine that has much of it lets some wait.
fn one_by_one(judged: &[Judged<'_>]) -> Result<Vec<Verdict>> {
    let judge = |one: &Judged<'_>| {
        // What it is compared with is met behind a wire, where a bridge is one program more. Here both are the web server.
        let wire = Link::start(one.address, Duration::ZERO)?;
        judge(&Judged { what: one.what.clone(), address: wire.address(), ..*one })
    };
    judged.iter().map(judge).collect()
}

/// Who do not know the path.
fn strangers(places: &Places, outside: &[Probe]) -> Result<Vec<Verdict>> {
    let near = neighbourhood(NAME, TalkingSite::PATH);
    let all = [outside, &near].concat();
    let ([talking, again], bridge) = (places.talking, places.bridge);
    let one = |what: &str, role, probes, address, decoy| {
        let what = format!("strangers: {what}, {}", places.title);
        Judged { what, role, probes, address, decoy, watch: places.briefly() }
    };
    one_by_one(&[
        one("QNet's websocket beside a talking server", Role::Subject, &all, bridge, talking),
        one("QNet's websocket beside nobody", Role::Subject, &near, bridge, places.nobody),
        one("another web server", Role::Positive, &near, places.other, talking),
        one("a talking server again", Role::Negative, &all, again, talking),
    ])
}

/// Who know it and open no websocket there.
fn who_know_the_path(places: &Places, probes: &[Probe]) -> Result<Vec<Verdict>> {
    let [pathless, again] = places.pathless;
    let one = |what: &str, role, address| {
        let what = format!("its path: {what}, {}", places.title);
        Judged { what, role, probes, address, decoy: pathless, watch: places.briefly() }
    };
    one_by_one(&[
        one("QNet's websocket", Role::Subject, places.bridge),
        one("a talking server", Role::Positive, places.talking[0]),
        one("the site again", Role::Negative, again),
    ])
}

/// Who open the websocket, as a CDN or somebody who ends TLS can, and have no key.
fn who_open_it(places: &Places, server: front::Server, watch: Duration) -> Result<Vec<Verdict>> {
    let mut openings = openings(NAME, TalkingSite::PATH);
    if server == front::Server::Haproxy {
        openings.extend(openings_over_http2(NAME, TalkingSite::PATH));
    }
    let of = |address| play_all(&openings, address, watch);
    let (ours, theirs) = (of(places.bridge)?, of(places.talking[0])?);
    let title = |what: &str| format!("an open websocket: {what}, {}", places.title);
    let mut verdicts = Vec::new();
    for (what, role, seen) in
        [("QNet's", Role::Subject, &ours), ("a talking server's", Role::Positive, &theirs)]
    {
        let otherwise: Vec<String> = openings
            .iter()
            .zip(seen)
            .filter_map(|((probe, wanted), seen)| Some(format!("{}: {}", probe.name, departs(wanted, seen)?)))
            .collect();
        let ends = seen.iter().filter_map(|seen| seen.ended_at).map(|at| at.as_secs_f64());
        let late: Vec<f64> = ends.filter(|at| *at > WATCH.as_secs_f64()).collect();
        let mut figures = vec![
            Figure::new("ways to go on", openings.len() as f64),
            Figure::new("otherwise than documented", otherwise.len() as f64),
            Figure::new("watched, s", watch.as_secs_f64()),
        ];
        if !late.is_empty() {
            figures.extend(Figure::range("late ends, s", &late));
        }
        let note = if otherwise.is_empty() {
            "opens, and says nothing to who has no key; answers pings and closes; ends what RFC 6455 forbids, and text".to_owned()
        } else {
            otherwise.join("; ")
        };
        verdicts.push(Verdict { what: title(what), role, flagged: !otherwise.is_empty(), figures, note });
    }
    let telling: Vec<&str> = openings
        .iter()
        .zip(ours.iter().zip(&theirs))
        .filter(|(_, (ours, theirs))| told(ours) != told(theirs))
        .map(|((probe, _), _)| probe.name.as_str())
        .collect();
    verdicts.push(Verdict {
        what: title("QNet's beside a talking server's"),
        role: Role::Beside,
        flagged: !telling.is_empty(),
        figures: vec![Figure::new("that tell apart", telling.len() as f64)],
        note: format!("docs/threat-model.md: he can tell that something is there; by {}", telling.join(", ")),
    });
    Ok(verdicts)
}

fn play_all(
    openings: &[(Probe, Documented)],
    address: SocketAddr,
    watch: Duration,
) -> Result<Vec<Observation>> {
    thread::scope(|scope| {
        let running: Vec<_> =
            openings.iter().map(|(probe, _)| scope.spawn(move || play(probe, address, watch))).collect();
        running
            .into_iter()
            .map(|one| one.join().unwrap_or_else(|_| Err(anyhow!("a player panicked"))))
            .collect()
    })
}

/// What an answer to an opening that takes it begins with, over either HTTP: `:status` 200 is one byte (RFC 7541, appendix A).
const TAKEN: [&[u8]; 2] = [b"http/1.1 101", &[0x88]];

/// The answer's head, letters small, and what was said over the websocket.
fn parts(seen: &Observation) -> Option<(Vec<u8>, Vec<u8>)> {
    if seen.plain.starts_with(b"HTTP/1.1 ") {
        let end = seen.plain.windows(4).position(|four| four == b"\r\n\r\n")?;
        let (head, said) = seen.plain.split_at_checked(end + 4)?;
        return Some((head.to_ascii_lowercase(), said.to_vec()));
    }
    let frames = bare_frames(&seen.plain);
    let head = frames.iter().find(|frame| frame.kind == HEADERS)?.payload.clone();
    let data = frames.into_iter().filter(|frame| frame.kind == DATA);
    Some((head, data.flat_map(|frame| frame.payload).collect()))
}

/// In what somebody was met otherwise than documented, if in anything.
fn departs(wanted: &Documented, seen: &Observation) -> Option<String> {
    let Some((head, said)) = parts(seen) else { return Some("no answer".into()) };
    let extension = b"sec-websocket-extensions";
    let taken = TAKEN.iter().any(|taken| head.starts_with(taken));
    if !taken || head.windows(extension.len()).any(|part| part == extension) {
        return Some(format!("the answer was {:?}", String::from_utf8_lossy(&head)));
    }
    let (answer, lasting) = match wanted {
        Documented::Silence => (&[][..], true),
        Documented::Answer(answer) => (answer.as_slice(), true),
        Documented::Last(answer) => (answer.as_slice(), false),
    };
    let Some(rest) = said.strip_prefix(answer) else { return Some(format!("it said {}", shown(&said))) };
    match (seen.ended_at, lasting) {
        (None, false) => Some("it did not end".into()),
        (Some(at), true) if at < SILENT[0] || at > SILENT[1] + LATE => Some(format!("it ended after {at:?}")),
        // Its end may begin with a close.
        _ if rest.is_empty() || lasting && rest == [0x88, 0] => None,
        _ => Some(format!("it said {}", shown(&said))),
    }
}

fn shown(said: &[u8]) -> String {
    let first: Vec<String> = said.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    format!("{} bytes, {} ...", said.len(), first.join(" "))
}

/// What somebody can go by who does not look into messages, which are random on both sides: whether it opened, which kinds of
/// frames came, with what a control frame holds, and how it ended.
fn told(seen: &Observation) -> (bool, Vec<Vec<u8>>, Option<End>) {
    let (head, said) = parts(seen).unwrap_or_default();
    let opened = TAKEN.iter().any(|taken| head.starts_with(taken));
    let mut rest = &said[..];
    let mut frames = Vec::new();
    while let Some((frame, after)) = frame(rest) {
        frames.push(frame);
        rest = after;
    }
    // How often it speaks is a matter of how often it was spoken to.
    frames.dedup();
    (opened, frames, seen.end)
}

/// A server's first frame, its payload where it is a control frame's, and what follows.
fn frame(said: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let (first, after) = said.split_first()?;
    let (short, after) = after.split_first()?;
    let (length, after) = match short {
        0..126 => (usize::from(*short), after),
        126 => {
            let (length, after) = after.split_first_chunk()?;
            (usize::from(u16::from_be_bytes(*length)), after)
        }
        _ => {
            let (length, after) = after.split_first_chunk()?;
            (usize::try_from(u64::from_be_bytes(*length)).ok()?, after)
        }
    };
    let (payload, after) = after.split_at_checked(length)?;
    let content = if first & 8 == 0 { &[] } else { payload };
    Some(([&[*first], content].concat(), after))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(said: &[u8], ended: Option<u64>) -> Observation {
        Observation {
            records: Vec::new(),
            plain: [b"HTTP/1.1 101 Switching Protocols\r\nDate: now\r\n\r\n", said].concat(),
            end: ended.map(|_| End::Fin),
            ended_at: ended.map(Duration::from_secs),
            first_at: None,
            last_at: None,
            then_resets: None,
        }
    }

    #[test]
    fn what_is_not_documented_is_found() {
        use Documented::{Answer, Last, Silence};
        let close = vec![0x88, 0];
        for (wanted, said, ended, departed) in [
            (Silence, &[][..], None, false),
            (Silence, &[], Some(40), false),
            (Silence, &close, Some(90), false),
            (Silence, &[], Some(5), true),
            (Silence, &[], Some(99), true),
            (Silence, &[0x82, 1, 7], None, true),
            (Answer(vec![0x8a, 0]), &[0x8a, 0], None, false),
            (Answer(vec![0x8a, 0]), &[], None, true),
            (Answer(vec![0x8a, 0]), &[0x8a, 0], Some(1), true),
            (Last(close.clone()), &close, Some(1), false),
            (Last(close.clone()), &close, None, true),
            (Last(close.clone()), &[], Some(1), true),
            (Last(Vec::new()), &close, Some(1), true),
        ] {
            let found = departs(&wanted, &seen(said, ended));
            assert_eq!(found.is_some(), departed, "{wanted:?} {said:?} {ended:?}: {found:?}");
        }
        let over_http2 = |said: &[u8]| {
            let length = u8::try_from(said.len()).unwrap();
            let data = [&[0, 0, length, 0, 0, 0, 0, 0, 1][..], said].concat();
            let plain = [&[0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 1, 1, 4, 0, 0, 0, 1, 0x88][..], &data].concat();
            Observation { plain, ..seen(&[], None) }
        };
        assert!(departs(&Answer(vec![0x8a, 0]), &over_http2(&[0x8a, 0])).is_none());
        assert!(departs(&Silence, &over_http2(&[0x82, 1, 7])).is_some());
        let refused = Observation { plain: b"HTTP/1.1 404 Not Found\r\n\r\n".to_vec(), ..seen(&[], None) };
        assert!(departs(&Silence, &refused).is_some());
    }

    #[test]
    fn messages_count_once_and_by_kind() {
        let one = seen(&[0x82, 2, 1, 2, 0x82, 1, 9, 0x88, 2, 3, 0xe8], Some(1));
        let other = seen(&[0x82, 3, 4, 5, 6, 0x88, 2, 3, 0xe8], Some(1));
        let another = seen(&[0x82, 3, 4, 5, 6, 0x88, 2, 3, 0xe9], Some(1));
        assert_eq!(told(&one), told(&other));
        assert_ne!(told(&one), told(&another));
        assert_ne!(told(&one), told(&seen(&[], None)));
    }
}
