//! 5. Redirection: the censor leads the client to the true decoy, and looks at what it does there.

use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::{Error, Result, bail};
use qnet_tests::support::decoy::{Decoy, NAME, Options, Server};
use qnet_tests::support::front;
use qnet_tests::support::link::{Link, Trace};
use qnet_tests::support::visitor::Visitor;

use crate::capture::H2_OFFERED;
use crate::detector::{About, Detector, Figure, Role, Threshold, Verdict, part};
use crate::load;
use crate::stage::{Field, suitable};
use crate::transport::{Kind, TalkingSite, Transport};

const SOURCE: &str = "Frolov, Wampler and Wustrow, NDSS 2020, on servers that only a right client finds; REALITY's documentation on redirection";

/// How long the client is watched where it was led: as long as a browser surely still idles on its connection.
const WATCHED: Duration = Duration::from_secs(8);

/// What no page of a site leads to, and for how long it is asked for.
const NOTHING: &str = "/nothing-here";
const STAY: Duration = Duration::from_secs(3);

/// The decoy's log is quiet when nothing is added to it for so long; and how often that is tried.
const QUIET: Duration = Duration::from_secs(2);
const QUIET_TRIES: usize = 20;

/// The detector.
#[derive(Debug)]
pub struct Redirection;

impl Detector for Redirection {
    fn about(&self) -> About {
        About {
            number: 5,
            name: "redirection to the true decoy",
            source: SOURCE,
            rule: "The client's connection is led to the decoy itself, which is watched: a browser's visit ends with answers of 2xx or 3xx only, \
                   and with a connection that idles. A client that speaks another protocol draws an error, or gives up. The websocket cover's client is led \
                   to another address of its own site, which only whoever has the site's certificate can do: there a talking server is in the bridge's \
                   place, or nobody.",
            thresholds: vec![
                Threshold {
                    what: "answers of 4xx or 5xx, or none at all",
                    value: "flagged at one".into(),
                    source: SOURCE,
                },
                Threshold {
                    what: "connections that carried a page and were ended by the client",
                    value: "flagged if within 8 s".into(),
                    source: "Chromium keeps an idle connection for minutes",
                },
            ],
            gate: true,
        }
    }

    fn needs_captures(&self) -> bool {
        false
    }

    fn examine(&self, field: &Field) -> Result<Vec<Verdict>> {
        let mut verdicts = Vec::new();
        for server in &field.plan.servers {
            for round_trip in &field.plan.round_trips {
                let found = before(*server, *round_trip, field);
                verdicts.extend(part(format!("{server:?}, {round_trip} ms"), found));
            }
        }
        for server in &field.plan.fronts {
            for round_trip in &field.plan.round_trips {
                let found = behind(*server, *round_trip, field);
                verdicts.extend(part(format!("behind {server:?}, {round_trip} ms"), found));
            }
        }
        Ok(verdicts)
    }
}

/// The clients of a bridge and of obfs4 led to the decoy, and Chromium there, over a path of so many milliseconds.
fn before(server: Server, round_trip: u64, field: &Field) -> Result<Vec<Verdict>> {
    let delay = Duration::from_millis(round_trip / 2);
    let title = |who: &str| format!("{who}, {server:?}, {round_trip} ms");
    let mut verdicts = Vec::new();
    for (kind, role) in [(Kind::Qnet, Role::Subject), (Kind::Obfs4, Role::Positive)] {
        let decoy = suitable(server, Options::default())?;
        let sink = TcpListener::bind("127.0.0.1:0")?;
        let transport = Transport::start(kind, &decoy, &field.programs.qnet_pt, sink.local_addr()?, delay)?;
        let before = when_quiet(&decoy)?;
        transport.link().set_target(decoy.address());
        let load = TcpStream::connect(transport.entry())?;
        thread::sleep(WATCHED);
        let traces = transport.link().traces();
        drop(load);
        verdicts.push(judge(title(&format!("{kind:?}")), role, &log_after(&decoy, before)?, &traces));
    }
    let decoy = suitable(server, Options::default())?;
    let link = Link::start(decoy.address(), delay)?;
    load::page(&decoy, link.address())?;
    // The browser has ended by now, and with it its connections: only what it drew is looked at.
    verdicts.push(judge(title("Chromium"), Role::Negative, &log_after(&decoy, 0)?, &[]));
    Ok(verdicts)
}

/// The client of a bridge behind a web server, led to where the site is and the bridge is not; and Chromium there; over a path.
fn behind(server: front::Server, round_trip: u64, field: &Field) -> Result<Vec<Verdict>> {
    let delay = Duration::from_millis(round_trip / 2);
    let [bridge, talking, nobody] = TalkingSite::several(server, [TalkingSite::PATH; 3])?;
    let site = &bridge.front;
    let _talk = talking.talk()?;
    let sink = TcpListener::bind("127.0.0.1:0")?;
    let mut verdicts = Vec::new();
    for (place, led) in [("a talking server", &talking), ("nobody", &nobody)] {
        let transport = Transport::behind(&bridge, None, &field.programs.qnet_pt, sink.local_addr()?, delay)?;
        let before = site.access_log()?.len();
        transport.link().set_target(led.address());
        let load = TcpStream::connect(transport.entry())?;
        thread::sleep(WATCHED);
        let traces = transport.link().traces();
        drop(load);
        let since = |before| Ok::<_, Error>(site.access_log()?.get(before..).unwrap_or_default().to_owned());
        let what = format!("QNet's websocket led to {place}, behind {server:?}, {round_trip} ms");
        verdicts.push(judge(what, Role::Subject, &since(before)?, &traces));
        drop(transport);
        let (link, before) = (Link::start(led.address(), delay)?, site.access_log()?.len());
        load::visit(NAME, link.address(), "/", || site.access_log(), load::page_loaded)?;
        let what = format!("Chromium led to {place}, behind {server:?}, {round_trip} ms");
        verdicts.push(judge(what, Role::Negative, &since(before)?, &[]));
    }
    let (link, before) = (Link::start(talking.address(), delay)?, site.access_log()?.len());
    let visitor = Visitor { paths: vec![NOTHING.into()], ..Visitor::new(NAME) };
    visitor.visit(link.address(), STAY)?;
    let log = site.access_log()?.get(before..).unwrap_or_default().to_owned();
    let what = format!("who asks for what is not there, behind {server:?}, {round_trip} ms");
    verdicts.push(judge(what, Role::Positive, &log, &[]));
    Ok(verdicts)
}

/// How long the decoy's log is once nothing has been added for a while: a bridge examines its decoy when it starts.
fn when_quiet(decoy: &Decoy) -> Result<usize> {
    let mut length = decoy.access_log()?.len();
    for _ in 0..QUIET_TRIES {
        thread::sleep(QUIET);
        let now = decoy.access_log()?.len();
        if now == length {
            return Ok(length);
        }
        length = now;
    }
    bail!("the decoy is still asked for something after {QUIET_TRIES} times {QUIET:?}")
}

fn log_after(decoy: &Decoy, before: usize) -> Result<String> {
    Ok(decoy.access_log()?.get(before..).unwrap_or_default().to_owned())
}

fn judge(what: String, role: Role, log: &str, traces: &[Trace]) -> Verdict {
    let statuses: Vec<&str> = log.lines().filter_map(status).collect();
    // Browsers ask for an icon that a site may lack, but this one has it.
    let errors = statuses.iter().filter(|status| status.starts_with(['4', '5'])).count();
    let ended = |trace: &&Trace| trace.down.total() > 0 && trace.up.end().is_some();
    let given_up = traces.iter().filter(ended).filter(|trace| for_a_page(trace)).count();
    let spoke = traces.iter().any(|trace| trace.up.total() > 0);
    let figure = |name: &str, value: usize| Figure { name: name.to_owned(), value: value as f64 };
    let figures = vec![
        figure("answers", statuses.len()),
        figure("errors", errors),
        figure("given up", given_up),
        figure("connections", traces.len()),
    ];
    // An empty log says of a control that nobody came, unless the wire has seen him speak.
    if role == Role::Positive && errors == 0 && !spoke {
        return Verdict {
            figures,
            ..Verdict::none(what, "it drew no error, and was not seen to say anything")
        };
    }
    let flagged = statuses.is_empty() || errors + given_up > 0;
    Verdict { what, role, flagged, figures, note: String::new() }
}

/// Whether it is one that pages are loaded over: a websocket's own, whose hello offers no HTTP/2, may end when it has failed.
fn for_a_page(trace: &Trace) -> bool {
    let hello = trace.up.records().first().map(|record| trace.up.record_bytes(record));
    hello.is_some_and(|hello| hello.windows(H2_OFFERED.len()).any(|offer| offer == H2_OFFERED))
}

/// The status in a line of the common log format, where it follows the quoted request, or of Caddy's log, which is JSON.
fn status(line: &str) -> Option<&str> {
    let Some((_, after)) = line.split_once("\"status\":") else {
        return line.split('"').nth(2)?.split_whitespace().next();
    };
    after.split([',', '}']).next()
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    const FOUND: &str = r#"127.0.0.1 - - [21/Nov/2026] "GET / HTTP/2.0" 200 15 "-" "a""#;
    const NOT_FOUND: &str = r#"127.0.0.1 - - [21/Nov/2026] "GET /nothing-here HTTP/2.0" 404 15 "-" "a""#;

    #[test]
    fn a_control_of_which_nothing_was_seen_shows_nothing() {
        let judged = |role, log: &str, traces: &[Trace]| {
            let verdict = judge("somebody".into(), role, log, traces);
            (verdict.role, verdict.flagged)
        };
        for log in ["", FOUND] {
            assert_eq!(judged(Role::Positive, log, &[]), (Role::Unjudged, false), "{log}");
        }
        assert_eq!(judged(Role::Positive, NOT_FOUND, &[]), (Role::Positive, true));
        let silent = Trace::new(Instant::now());
        assert_eq!(judged(Role::Positive, "", std::slice::from_ref(&silent)).0, Role::Unjudged);
        let mut spoke = silent;
        spoke.up.push(b"no hello", Instant::now());
        assert_eq!(judged(Role::Positive, "", &[spoke]), (Role::Positive, true), "it drew nothing at all");
        assert_eq!(judged(Role::Negative, "", &[]), (Role::Negative, true));
        assert_eq!(judged(Role::Negative, FOUND, &[]), (Role::Negative, false));
        assert_eq!(judged(Role::Subject, "", &[]), (Role::Subject, true));
    }

    #[test]
    fn statuses_are_found_in_both_logs() {
        assert_eq!(status(FOUND), Some("200"));
        assert_eq!(status(r#"{"request":{"uri":"/"},"bytes_read":0,"status":404,"size":5}"#), Some("404"));
        assert_eq!(status("begun"), None);
    }
}
