//! 5. Redirection: the censor leads the client to the true decoy, and looks at what it does there.

use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::{Result, bail};
use qnet_tests::support::decoy::{Decoy, Options};
use qnet_tests::support::link::{Link, Trace};

use crate::detector::{About, Detector, Figure, Role, Threshold, Verdict};
use crate::load;
use crate::stage::Field;
use crate::transport::{Kind, Transport};

const SOURCE: &str = "Frolov, Wampler and Wustrow, NDSS 2020, on servers that only a right client finds; REALITY's documentation on redirection";

/// How long the client is watched where it was led: as long as a browser surely still idles on its connection.
const WATCHED: Duration = Duration::from_secs(8);

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
                   and with a connection that idles. A client that speaks another protocol draws an error, or gives up.",
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
            for (kind, role) in [(Kind::Qnet, Role::Subject), (Kind::Obfs4, Role::Positive)] {
                let decoy = Decoy::start(*server, Options::default())?;
                let sink = TcpListener::bind("127.0.0.1:0")?;
                let transport =
                    Transport::start(kind, &decoy, &field.qnet_pt, sink.local_addr()?, Duration::ZERO)?;
                let before = when_quiet(&decoy)?;
                transport.link().set_target(decoy.address());
                let load = TcpStream::connect(transport.entry())?;
                thread::sleep(WATCHED);
                let traces = transport.link().traces();
                drop(load);
                verdicts.push(judge(
                    format!("{kind:?}, {server:?}"),
                    role,
                    &log_after(&decoy, before)?,
                    &traces,
                ));
            }
            let decoy = Decoy::start(*server, Options::default())?;
            let link = Link::start(decoy.address(), Duration::ZERO)?;
            load::page(&decoy, link.address())?;
            let what = format!("Chromium, {server:?}");
            // The browser has ended by now, and with it its connections: only what it drew is looked at.
            let mut traces = link.traces();
            traces.clear();
            verdicts.push(judge(what, Role::Negative, &log_after(&decoy, 0)?, &traces));
        }
        Ok(verdicts)
    }
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
    let given_up = traces.iter().filter(|trace| trace.down.total() > 0 && trace.up.end().is_some()).count();
    let figure = |name: &str, value: usize| Figure { name: name.to_owned(), value: value as f64 };
    Verdict {
        what,
        role,
        flagged: statuses.is_empty() || errors + given_up > 0,
        figures: vec![
            figure("answers", statuses.len()),
            figure("errors", errors),
            figure("given up", given_up),
            figure("connections", traces.len()),
        ],
        note: String::new(),
    }
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
    use super::status;

    #[test]
    fn statuses_are_found_in_both_logs() {
        assert_eq!(status(r#"127.0.0.1 - - [21/Nov/2026] "GET / HTTP/2.0" 200 15 "-" "a""#), Some("200"));
        assert_eq!(status(r#"{"request":{"uri":"/"},"bytes_read":0,"status":404,"size":5}"#), Some("404"));
        assert_eq!(status("begun"), None);
    }
}
