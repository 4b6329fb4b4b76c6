//! kupd's life: serve, follow the record, leave when nobody needs it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use libsystemd::daemon::{NotifyState, notify};
use zbus::Connection;
use zruntime::SharedRuntime;
use zruntime::lock::Mutex;

use super::manager::Manager;
use super::track::Tracker;
use super::{Logs, NAME, PATH, kernels};
use crate::paths::Paths;

/// kupd exits after so long without a message, an open call or an update under way.
pub const IDLE: Duration = Duration::from_secs(15);
/// The record is looked at so often.
const TICK: Duration = Duration::from_millis(200);
/// After the name is released, the bus is quiet for so long before kupd closes its connection.
const QUIET: Duration = Duration::from_millis(100);

/// What the interfaces of one kupd share.
pub struct Daemon {
    /// Where everything lies.
    pub paths: Paths,
    /// The update on the bus.
    pub(super) tracker: Tracker,
    /// Held while a check runs: its request and its report are files of fixed names.
    pub(super) checking: Mutex<()>,
    /// Held while an update is being begun or given up, and while marks and the staged kernel change.
    pub(super) changing: Mutex<()>,
    open_calls: AtomicUsize,
}

/// An open call; kupd stays while there is one.
pub(super) struct OpenCall<'a>(&'a AtomicUsize);

impl Drop for OpenCall<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Daemon {
    /// A kupd for the tree of `paths`.
    pub fn new(paths: Paths) -> Arc<Self> {
        let tracker = Tracker::new(paths.clone());
        let open_calls = AtomicUsize::new(0);
        Arc::new(Self { paths, tracker, checking: Mutex::new(()), changing: Mutex::new(()), open_calls })
    }

    /// Counts a call as open until the returned guard is dropped.
    pub(super) fn open_call(&self) -> OpenCall<'_> {
        self.open_calls.fetch_add(1, Ordering::SeqCst);
        OpenCall(&self.open_calls)
    }

    /// Serves the system bus until nobody has needed it for `idle`.
    ///
    /// # Errors
    /// When the bus cannot be reached or is lost, or the name is taken.
    pub async fn serve(self: Arc<Self>, logs: Logs, idle: Duration) -> Result<()> {
        kernels::take_pending(&self.paths);
        let conn = zbus::connection::Builder::system()
            .serve_at(PATH, Manager::new(self.clone()))
            .serve_at("/org/freedesktop/LogControl1", logs)
            .build()
            .await
            .context("cannot reach the system bus")?;
        self.tracker.refresh(&conn).await?;
        conn.request_name(NAME).await.with_context(|| format!("cannot get the name {NAME}"))?;
        tell_systemd(NotifyState::Ready);
        tracing::debug!("serving {NAME}");
        self.until_idle(&conn, idle).await?;
        // systemd then holds back a request to start until this process is gone, rather than thinking that it runs.
        tell_systemd(NotifyState::Stopping);
        conn.release_name(NAME).await.with_context(|| format!("cannot release the name {NAME}"))?;
        self.drain(&conn).await?;
        conn.close().await.context("cannot close the connection to the bus")
    }

    async fn until_idle(&self, conn: &Connection, idle: Duration) -> Result<()> {
        let runtime = SharedRuntime::current().context("no runtime")?;
        let mut last_used = Instant::now();
        while last_used.elapsed() < idle {
            let used = runtime.timeout(TICK, conn.monitor_activity()).await.is_ok();
            self.tracker.refresh(conn).await?;
            if conn.is_closed() {
                anyhow::bail!("the bus closed the connection");
            }
            if used || self.open_calls.load(Ordering::SeqCst) > 0 || self.tracker.is_live() {
                last_used = Instant::now();
            }
        }
        Ok(())
    }

    /// Answers the calls that were on their way when the name was released.
    async fn drain(&self, conn: &Connection) -> Result<()> {
        let runtime = SharedRuntime::current().context("no runtime")?;
        loop {
            let used = runtime.timeout(QUIET, conn.monitor_activity()).await.is_ok();
            if !used && self.open_calls.load(Ordering::SeqCst) == 0 {
                return Ok(());
            }
        }
    }
}

/// Tells the service manager, where there is one.
fn tell_systemd(state: NotifyState) {
    if let Err(e) = notify(false, &[state]) {
        tracing::warn!("systemd cannot be told of kupd's state: {e}");
    }
}
