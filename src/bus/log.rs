//! kupd's log, and `org.freedesktop.LogControl1` to turn it up and down (`systemctl service-log-level kupd debug`).

use std::io;

use anyhow::{Context, Result};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Registry, reload};
use zbus::Connection;
use zbus::message::Header;

use super::auth;

/// syslog(3)'s names, as org.freedesktop.LogControl1(5) asks for, and the filter that comes nearest.
const LEVELS: [(&str, LevelFilter); 8] = [
    ("emerg", LevelFilter::OFF),
    ("alert", LevelFilter::ERROR),
    ("crit", LevelFilter::ERROR),
    ("err", LevelFilter::ERROR),
    ("warning", LevelFilter::WARN),
    ("notice", LevelFilter::INFO),
    ("info", LevelFilter::INFO),
    ("debug", LevelFilter::DEBUG),
];

/// The log, set up; also the object at `/org/freedesktop/LogControl1`.
pub struct Logs {
    filter: reload::Handle<LevelFilter, Registry>,
    level: &'static str,
    target: &'static str,
}

impl Logs {
    /// Logs from now on to the journal where systemd started this process, to stderr otherwise.
    ///
    /// # Errors
    /// When a log was set up before.
    pub fn start() -> Result<Self> {
        let (filter, handle) = reload::Layer::new(LevelFilter::INFO);
        let journal = match std::env::var_os("JOURNAL_STREAM") {
            Some(_) => tracing_journald::layer().ok().map(|l| l.with_syslog_identifier("kupd".into())),
            None => None,
        };
        let target = if journal.is_some() { "journal" } else { "console" };
        let console = match journal {
            Some(_) => None,
            None => Some(tracing_subscriber::fmt::layer().with_writer(io::stderr).without_time().with_ansi(false)),
        };
        let logs = tracing_subscriber::registry().with(filter).with(journal).with(console);
        logs.try_init().context("the log was set up before")?;
        Ok(Self { filter: handle, level: "info", target })
    }
}

/// How kupd logs.
#[zbus::interface(name = "org.freedesktop.LogControl1", introspection_docs = false)]
impl Logs {
    #[zbus(property)]
    fn log_level(&self) -> &str {
        self.level
    }

    #[zbus(property)]
    async fn set_log_level(
        &mut self,
        level: &str,
        #[zbus(connection)] conn: &Connection,
        #[zbus(header)] header: Option<Header<'_>>,
    ) -> zbus::fdo::Result<()> {
        if let Some(header) = header {
            let denied = |e: super::Error| zbus::fdo::Error::AccessDenied(e.message().into());
            auth::allow_root_only(conn, &header).await.map_err(denied)?;
        }
        let Some((name, filter)) = LEVELS.into_iter().find(|(name, _)| *name == level) else {
            return Err(zbus::fdo::Error::InvalidArgs(format!("there is no log level '{level}'")));
        };
        self.filter.reload(filter).map_err(|e| zbus::fdo::Error::Failed(e.to_string()))?;
        self.level = name;
        Ok(())
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn log_target(&self) -> &str {
        self.target
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn syslog_identifier(&self) -> &str {
        "kupd"
    }
}
