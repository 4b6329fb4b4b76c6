//! `org.kup1.Manager`: thin methods; each checks the caller, then its arguments, then delegates.

use std::sync::Arc;

use zbus::message::Header;
use zbus::object_server::SignalEmitter;
use zbus::{Connection, ObjectPath, OwnedObjectPath};

use super::auth::{Action, allow, allow_root_only};
use super::options::{Dict, Options};
use super::types::{CheckAnswer, UnitEntry};
use super::{Daemon, Error, NO_OBJECT, begin, kernels, marks};
use crate::config::Mode;
use crate::kernel::{Staged, running};
use crate::update::History;

type Result<T> = std::result::Result<T, Error>;

/// The object at `/org/kup1`.
pub struct Manager {
    daemon: Arc<Daemon>,
}

impl Manager {
    pub(super) fn new(daemon: Arc<Daemon>) -> Self {
        Self { daemon }
    }
}

/// Marks units, checks them, and starts updates.
#[zbus::interface(name = "org.kup1.Manager")]
impl Manager {
    /// Marks a unit for preservation. Options: "adjust" (as), changes to the unit that only the administrator can decide
    /// on (no-io-uring, private-ipc); "health-check" (s), a command that tells whether the unit is well after an update;
    /// "fallback" (s), disk or none; "storage" (s), auto, disk or ram. The note says, a line each, what applies from the unit's
    /// next start on.
    #[zbus(out_args("note"))]
    async fn preserve(
        &self,
        unit: &str,
        options: Dict,
        #[zbus(connection)] conn: &Connection,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<String> {
        let _open = self.daemon.open_call();
        allow(conn, &header, Action::Mark).await?;
        let mut options = Options::new(options);
        let wanted = marks::Wanted {
            adjust: options.strings("adjust")?.unwrap_or_default(),
            health_check: options.string("health-check")?,
            fallback: options.string("fallback")?,
            storage: options.string("storage")?,
        };
        options.end()?;
        marks::preserve(&self.daemon, conn, unit, wanted).await
    }

    /// Takes the mark of a unit away. The note says what applies from the unit's next start on.
    #[zbus(out_args("note"))]
    async fn release(
        &self,
        unit: &str,
        #[zbus(connection)] conn: &Connection,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<String> {
        let _open = self.daemon.open_call();
        allow(conn, &header, Action::Mark).await?;
        marks::release(&self.daemon, conn, unit).await
    }

    /// The marked units: name, the file that marks it, the adjustments that it gets, its active state; and what is wrong
    /// with marks that cannot be used.
    #[zbus(out_args("units", "errors"))]
    async fn list_units(&self, #[zbus(connection)] conn: &Connection) -> Result<(Vec<UnitEntry>, Vec<String>)> {
        let _open = self.daemon.open_call();
        Ok(marks::list(&self.daemon, conn).await)
    }

    /// Asks whether units can be preserved on this machine; all marked ones where none is named. Options: "target" (s),
    /// the kernel release to switch to. Answers with the target (empty when there is none), the units that were looked
    /// at, and the findings: unit (empty for the machine), id, severity (note, warning, blocker), message, fix.
    #[zbus(out_args("target", "units", "findings"))]
    async fn check(
        &self,
        units: Vec<String>,
        options: Dict,
        #[zbus(connection)] conn: &Connection,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<CheckAnswer> {
        let _open = self.daemon.open_call();
        allow(conn, &header, Action::Check).await?;
        let mut options = Options::new(options);
        let target = options.string("target")?;
        options.end()?;
        begin::check(&self.daemon, conn, units, target).await
    }

    /// Begins an update and returns its object at once. Options: "target" (s), the kernel release to switch to, the
    /// staged one where it is absent; "allow-restart" (as), marked units whose cold restart is accepted; "stage-only"
    /// (b), prepare everything and leave "systemctl kexec" to the administrator; "rollback" (b), go back to the kernel
    /// that the last update came from, in the place of "target".
    #[zbus(out_args("update"))]
    async fn update(
        &self,
        options: Dict,
        #[zbus(connection)] conn: &Connection,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<OwnedObjectPath> {
        let _open = self.daemon.open_call();
        let mut options = Options::new(options);
        let wanted = begin::Wanted {
            target: options.string("target")?,
            allow_restart: options.strings("allow-restart")?.unwrap_or_default(),
            stage_only: options.boolean("stage-only")?,
            rollback: options.boolean("rollback")?,
        };
        options.end()?;
        allow(conn, &header, if wanted.stage_only { Action::Stage } else { Action::Update }).await?;
        begin::update(&self.daemon, conn, wanted).await
    }

    /// Gives up the update that is armed: the target is unloaded and the boot loader is as it was before. After one that
    /// ended and left the boot loader pinned to the old kernel, takes that back.
    async fn abort(&self, #[zbus(connection)] conn: &Connection, #[zbus(header)] header: Header<'_>) -> Result<()> {
        let _open = self.daemon.open_call();
        allow(conn, &header, Action::Stage).await?;
        begin::abort(&self.daemon, conn).await
    }

    /// The updates that ended, oldest first, each as a line of JSON.
    #[zbus(out_args("lines"))]
    fn history(&self) -> Result<Vec<String>> {
        let path = self.daemon.paths.history();
        let history =
            History::load(&path).map_err(|e| Error::Failed(format!("cannot read {}: {e}", path.display())))?;
        Ok(history.0.iter().filter_map(|line| serde_json::to_string(line).ok()).collect())
    }

    /// For the package hook, root only: a kernel was installed. It becomes the target of the next update; in automatic
    /// mode that update begins once the package manager is done.
    async fn kernel_installed(
        &self,
        release: &str,
        #[zbus(connection)] conn: &Connection,
        #[zbus(header)] header: Header<'_>,
        #[zbus(signal_emitter)] emitter: SignalEmitter<'_>,
    ) -> Result<()> {
        let _open = self.daemon.open_call();
        allow_root_only(conn, &header).await?;
        if begin::kernel_installed(&self.daemon, conn, release).await? {
            self.staged_kernel_changed(&emitter).await?;
        }
        Ok(())
    }

    /// For the package hook, root only: a kernel was removed. It is not the target any more, and an armed update that needs
    /// it is given up.
    async fn kernel_removed(
        &self,
        release: &str,
        #[zbus(connection)] conn: &Connection,
        #[zbus(header)] header: Header<'_>,
        #[zbus(signal_emitter)] emitter: SignalEmitter<'_>,
    ) -> Result<()> {
        let _open = self.daemon.open_call();
        allow_root_only(conn, &header).await?;
        let _changing = self.daemon.changing.lock().await;
        if kernels::unstage(&self.daemon.paths, release)? {
            self.staged_kernel_changed(&emitter).await?;
        }
        begin::kernel_removed(&self.daemon, conn, release).await
    }

    /// The version of kup.
    #[zbus(property(emits_changed_signal = "const"))]
    fn version(&self) -> &str {
        env!("CARGO_PKG_VERSION")
    }

    /// The kernel release that an update would go to; empty where none is staged.
    #[zbus(property)]
    fn staged_kernel(&self) -> zbus::fdo::Result<String> {
        let staged = Staged::read(&self.daemon.paths).map_err(|e| zbus::fdo::Error::Failed(format!("{e:#}")))?;
        Ok(staged.map(|s| s.release).unwrap_or_default())
    }

    /// The release of the running kernel.
    #[zbus(property(emits_changed_signal = "const"))]
    fn running_kernel(&self) -> String {
        running(&self.daemon.paths).unwrap_or_default()
    }

    /// The update that is under way or, where none is, the last one; "/" where there was none.
    #[zbus(property)]
    fn current_update(&self) -> OwnedObjectPath {
        self.daemon.tracker.path().unwrap_or_else(|| ObjectPath::from_static_str_unchecked(NO_OBJECT).into())
    }

    /// What an installed kernel does: "manual" (it is staged) or "automatic" (the update begins by itself).
    #[zbus(property(emits_changed_signal = "false"))]
    fn mode(&self) -> zbus::fdo::Result<&str> {
        let mode = begin::mode(&self.daemon.paths);
        mode.map(Mode::as_str).map_err(|e| zbus::fdo::Error::Failed(e.message().into()))
    }

    /// An update began.
    #[zbus(signal)]
    async fn update_new(emitter: &SignalEmitter<'_>, update: OwnedObjectPath) -> zbus::Result<()>;

    /// An update ended as refused, done, aborted, fell-back or failed. Its object stays to be read until the next one begins.
    #[zbus(signal)]
    async fn update_removed(emitter: &SignalEmitter<'_>, update: OwnedObjectPath, result: &str) -> zbus::Result<()>;
}
