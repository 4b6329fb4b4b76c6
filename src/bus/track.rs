//! Follows the record and shows it as an object on the bus.

use std::borrow::Cow;
use std::fs;
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use zbus::fdo::Properties;
use zbus::names::InterfaceName;
use zbus::object_server::{InterfaceRef, SignalEmitter};
use zbus::{Connection, OwnedObjectPath};

use super::manager::{Manager, ManagerSignals};
use super::update::UpdateObject;
use super::{PATH, UpdateView};
use crate::paths::Paths;
use crate::update::{Record, UpdateId};

/// A record that nobody wrote to for so long belongs to a worker that is gone; it does not keep kupd running.
const STALE: Duration = Duration::from_secs(600);

/// The worker that was asked to start.
#[derive(Debug, Clone)]
enum Worker {
    /// Its job is under way.
    Running(UpdateView),
    /// It ended without having written a record.
    Failed(UpdateView),
}

#[derive(Default)]
struct Inner {
    /// What is on the bus.
    shown: Option<UpdateView>,
    /// Who is expected to write the next record.
    worker: Option<Worker>,
    /// The record file when it was last read: modification time and inode.
    seen: Option<(SystemTime, u64)>,
    /// What it said; `Err` holds why it cannot be used.
    record: Option<Result<UpdateView, String>>,
}

/// Follows the record. There is one per kupd.
pub struct Tracker {
    paths: Paths,
    inner: Mutex<Inner>,
    /// Held while the bus is brought up to date, so that two callers do not mix their changes.
    showing: zruntime::lock::Mutex<()>,
}

impl Tracker {
    /// Follows the record of `paths`; nothing is read before the first [`Tracker::refresh`].
    pub fn new(paths: Paths) -> Self {
        Self { paths, inner: Mutex::default(), showing: zruntime::lock::Mutex::new(()) }
    }

    /// What is on the bus.
    pub fn shown(&self) -> Option<UpdateView> {
        self.lock().shown.clone()
    }

    /// The path of what is on the bus.
    pub fn path(&self) -> Option<OwnedObjectPath> {
        self.lock().shown.as_ref().map(UpdateView::path)
    }

    /// Why no update can begin now; `None` when one can.
    pub fn obstacle(&self) -> Option<Obstacle> {
        let inner = self.lock();
        match (&inner.worker, &inner.record) {
            // While the worker runs, systemd would take the request to start it as met.
            (Some(Worker::Running(view)), _) => Some(Obstacle::Busy(inner.current().unwrap_or_else(|| view.clone()))),
            (_, Some(Ok(view))) if !view.state.is_final() => Some(Obstacle::Busy(view.clone())),
            (_, Some(Err(why))) => Some(Obstacle::BadRecord(why.clone())),
            _ => None,
        }
    }

    /// Whether a worker is under way that was asked to start here.
    pub fn has_worker(&self) -> bool {
        self.lock().has_worker()
    }

    /// Whether the worker has written its last, and is about to end.
    pub fn is_ending(&self) -> bool {
        let inner = self.lock();
        match (&inner.worker, &inner.record) {
            (Some(Worker::Running(asked)), Some(Ok(view))) => view.id == asked.id && view.state.is_final(),
            _ => false,
        }
    }

    /// Whether something is under way that clients want to hear about: kupd stays.
    pub fn is_live(&self) -> bool {
        let inner = self.lock();
        let fresh = |t: SystemTime| t.elapsed().map_or(true, |age| age < STALE);
        inner.has_worker()
            || (inner.shown.as_ref().is_some_and(|v| !v.rests()) && inner.seen.is_some_and(|(t, _)| fresh(t)))
    }

    /// A worker is being asked to start for `view`.
    pub fn worker_started(&self, view: UpdateView) {
        self.lock().worker = Some(Worker::Running(view));
    }

    /// The worker for `id` has ended; `why` it failed, where it did.
    pub fn worker_ended(&self, id: &UpdateId, why: Option<String>) {
        let mut inner = self.lock();
        // What the worker wrote last may not have been read yet.
        read_record(&self.paths, &mut inner);
        let wrote = matches!(&inner.record, Some(Ok(v)) if v.id == *id);
        inner.worker = match inner.worker.take() {
            Some(Worker::Running(view)) if view.id == *id && !wrote => {
                let why = why.unwrap_or_else(|| "the worker ended without having begun".into());
                Some(Worker::Failed(view.failed(why)))
            }
            Some(Worker::Running(view)) if view.id == *id => None,
            other => other,
        };
    }

    /// Reads the record where it changed and shows what there is now.
    ///
    /// # Errors
    /// When the bus is lost.
    pub async fn refresh(&self, conn: &Connection) -> zbus::Result<()> {
        let _showing = self.showing.lock().await;
        let (before, now) = {
            let mut inner = self.lock();
            read_record(&self.paths, &mut inner);
            let now = inner.current();
            (std::mem::replace(&mut inner.shown, now.clone()), now)
        };
        match (before, now) {
            (Some(before), Some(now)) if before.id == now.id => announce_changes(conn, &before, now).await,
            (before, now) => self.replace(conn, before, now).await,
        }
    }

    async fn replace(&self, conn: &Connection, old: Option<UpdateView>, new: Option<UpdateView>) -> zbus::Result<()> {
        if old.is_none() && new.is_none() {
            return Ok(());
        }
        if let Some(old) = &old {
            conn.object_server().remove::<UpdateObject, _>(old.path()).await?;
        }
        if let Some(new) = &new {
            conn.object_server().at(new.path(), UpdateObject { view: new.clone() }).await?;
        }
        let manager: InterfaceRef<Manager> = conn.object_server().interface(PATH).await?;
        manager.get().await.current_update_changed(manager.signal_emitter()).await?;
        match new.filter(|v| !v.state.is_final()) {
            Some(new) => manager.update_new(new.path()).await,
            None => Ok(()),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// Why an update cannot begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Obstacle {
    /// This one is under way.
    Busy(UpdateView),
    /// The record cannot be used.
    BadRecord(String),
}

impl Inner {
    fn has_worker(&self) -> bool {
        matches!(self.worker, Some(Worker::Running(_)))
    }

    /// What is to be shown: the record once the expected worker wrote it, until then what was asked for.
    fn current(&self) -> Option<UpdateView> {
        let record = self.record.as_ref().and_then(|r| r.as_ref().ok());
        match &self.worker {
            Some(Worker::Running(v) | Worker::Failed(v)) if record.is_none_or(|r| r.id != v.id) => Some(v.clone()),
            _ => record.cloned(),
        }
    }
}

/// Reads the record again where its file is another than the one that was read last. It is always replaced by rename.
fn read_record(paths: &Paths, inner: &mut Inner) {
    use std::os::unix::fs::MetadataExt;
    let path = paths.record();
    let now = fs::metadata(&path).ok().and_then(|m| Some((m.modified().ok()?, m.ino())));
    if now == inner.seen && (now.is_some() || inner.record.is_none()) {
        return;
    }
    inner.seen = now;
    inner.record = match Record::load(&path) {
        Ok(record) => record.map(|r| Ok(UpdateView::of(paths, &r))),
        Err(e) => {
            tracing::error!("{e}");
            Some(Err(e.to_string()))
        }
    };
}

/// Puts `now` on the bus in the place of `before`, the same update: one PropertiesChanged, and the end of the update.
async fn announce_changes(conn: &Connection, before: &UpdateView, now: UpdateView) -> zbus::Result<()> {
    let changes = now.changes(before);
    if changes.is_empty() {
        return Ok(());
    }
    let ended = (now.state.is_final() && !before.state.is_final()).then(|| now.state.as_str());
    let path = now.path();
    let object: InterfaceRef<UpdateObject> = conn.object_server().interface(&path).await?;
    object.get_mut().await.view = now;
    let name = InterfaceName::from_static_str_unchecked("org.kup1.Update");
    Properties::properties_changed(object.signal_emitter(), name, changes, Cow::Borrowed(&[])).await?;
    match ended {
        Some(result) => SignalEmitter::new(conn, PATH)?.update_removed(path, result).await,
        None => Ok(()),
    }
}
