//! `tracing` events on standard error, one line each.

use std::fmt::{Debug, Write as _};
use std::io::{self, Write as _};
use std::time::SystemTime;

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// Writes events of `level` and graver ones; spans are not shown.
struct StderrLog {
    level: LevelFilter,
}

/// Logs from now on. Where a program has a subscriber already, that one stays.
pub(crate) fn start(level: LevelFilter) {
    let _ = tracing::subscriber::set_global_default(StderrLog { level });
}

impl Subscriber for StderrLog {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && *metadata.level() <= self.level
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.level)
    }

    fn event(&self, event: &Event<'_>) {
        let level = match *event.metadata().level() {
            Level::ERROR => "error: ",
            Level::WARN => "warning: ",
            Level::INFO => "",
            Level::DEBUG => "debug: ",
            Level::TRACE => "trace: ",
        };
        let mut text = Text::default();
        event.record(&mut text);
        let time = time_of_day(SystemTime::now());
        // In one write, so that lines of several threads do not mix. Nobody is left to tell where it fails.
        let line = format!("{time} qnet: {level}{}{}\n", text.message, text.fields);
        let _ = io::stderr().write_all(line.as_bytes());
    }

    fn new_span(&self, _span: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _span: &Id, _values: &Record<'_>) {}
    fn record_follows_from(&self, _span: &Id, _follows: &Id) {}
    fn enter(&self, _span: &Id) {}
    fn exit(&self, _span: &Id) {}
}

/// Hours, minutes and seconds of UTC. A day's log needs no more, and journals have their own time.
fn time_of_day(now: SystemTime) -> String {
    let seconds = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs()) % 86_400;
    format!("{:02}:{:02}:{:02}Z", seconds / 3_600, seconds / 60 % 60, seconds % 60)
}

/// An event in one line: its message, then its fields.
#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        // Writing to a string cannot fail.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}

/// An error and what caused it, in one line. A cause that its effect already told is not told twice.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let words = cause.to_string();
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_time_is_utc_of_day() {
        assert_eq!(time_of_day(SystemTime::UNIX_EPOCH + Duration::from_secs(86_400 + 3_723)), "01:02:03Z");
    }

    #[test]
    fn a_chain_is_one_line_and_says_nothing_twice() {
        #[derive(Debug, thiserror::Error)]
        #[error("outer")]
        struct Outer(#[source] io::Error);
        assert_eq!(chain(&Outer(io::Error::other("inner"))), "outer: inner");
        assert_eq!(chain(&Outer(io::Error::other("outer"))), "outer");
    }
}
