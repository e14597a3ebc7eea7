//! `tracing` events become the parent's LOG lines.

use crate::output::Output;
use qnet_pt_ipc::line::Severity;
use std::fmt::{Debug, Write as _};
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// Sends events of `level` and graver ones to the parent; spans are not shown.
pub(crate) struct ParentLog {
    output: Output,
    level: LevelFilter,
}

impl ParentLog {
    pub(crate) fn new(output: Output, level: LevelFilter) -> Self {
        Self { output, level }
    }
}

impl Subscriber for ParentLog {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && *metadata.level() <= self.level
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.level)
    }

    fn event(&self, event: &Event<'_>) {
        let severity = match *event.metadata().level() {
            Level::ERROR => Severity::Error,
            Level::WARN => Severity::Warning,
            // Tor shows its user what is a notice; `info` is for debugging there.
            Level::INFO => Severity::Notice,
            Level::DEBUG => Severity::Info,
            Level::TRACE => Severity::Debug,
        };
        let mut text = Text::default();
        event.record(&mut text);
        self.output.log(severity, &(text.message + &text.fields));
    }

    fn new_span(&self, _span: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _span: &Id, _values: &Record<'_>) {}
    fn record_follows_from(&self, _span: &Id, _follows: &Id) {}
    fn enter(&self, _span: &Id) {}
    fn exit(&self, _span: &Id) {}
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

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        let _ = write!(self.fields, " {}={}", field.name(), qnet_wire::error::chain(value));
    }
}
