//! Logging: the journal where systemd runs us, standard error elsewhere.

use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::prelude::*;

/// Starts logging as `identifier`. A second call does nothing.
pub fn init(identifier: &str) {
    let journal = std::env::var_os("JOURNAL_STREAM")
        .and_then(|_| tracing_journald::layer().ok())
        .map(|layer| layer.with_syslog_identifier(identifier.into()));
    let stderr =
        journal.is_none().then(|| tracing_subscriber::fmt::layer().with_writer(std::io::stderr).without_time());
    let layers = tracing_subscriber::registry().with(journal).with(stderr).with(LevelFilter::INFO);
    let _ = layers.try_init();
}
