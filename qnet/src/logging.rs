//! `tracing` events on standard error, one line each.

use std::io;

use tracing::level_filters::LevelFilter;

/// Logs events of `level` and graver ones from now on.
pub(crate) fn start(level: LevelFilter) {
    let log = tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_ansi(false)
        .with_target(false)
        .with_max_level(level)
        .finish();
    // Fails only if there is a subscriber already, where a program embeds this one.
    let _ = tracing::subscriber::set_global_default(log);
}
