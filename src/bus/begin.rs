//! Work that kupd asks the privileged worker for: checks and updates, each a unit that systemd starts.

use std::fs;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use serde::Serialize;
use zbus::{Connection, OwnedObjectPath};

use super::track::Obstacle;
use super::types::{CheckAnswer, check_answer};
use super::{Daemon, Error, UpdateView, kernels, marks, systemd};
use crate::config::{Mode, Settings};
use crate::kernel::running;
use crate::paths::Paths;
use crate::preflight::Report;
use crate::request::{CHECK_REPORT, CHECK_REQUEST, CheckRequest, UPDATE_FAILURE, UPDATE_REQUEST, UpdateRequest};
use crate::sys::atomic;
use crate::unit::UnitName;
use crate::update::{Record, State, UpdateId};

const CHECK_UNIT: &str = "kup-check.service";
const UPDATE_UNIT: &str = "kup-update.service";
const ABORT_UNIT: &str = "kup-abort.service";
const AUTOMATIC_UNIT: &str = "kup-automatic.service";
/// How long a worker may take from its last word to its end.
const ENDS_WITHIN: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(50);

/// What a caller wants of an update.
pub struct Wanted {
    /// The kernel release; the staged one, else the newest where absent.
    pub target: Option<String>,
    /// Units whose cold restart is accepted.
    pub allow_restart: Vec<String>,
    /// Stop when armed.
    pub stage_only: bool,
    /// Go back to the kernel that the last update came from.
    pub rollback: bool,
}

/// Runs kup-check.service and returns what it found.
///
/// # Errors
/// [`Error::InvalidArgument`], [`Error::Failed`] when the check itself fails.
pub async fn check(
    daemon: &Daemon,
    conn: &Connection,
    units: Vec<String>,
    target: Option<String>,
) -> Result<CheckAnswer, Error> {
    let units = units.iter().map(|u| parse_unit(u)).collect::<Result<Vec<_>, _>>()?;
    target.as_deref().map_or(Ok(()), kernels::check_form)?;
    let _checking = daemon.checking.lock().await;
    let report = daemon.paths.run_dir().join(CHECK_REPORT);
    match fs::remove_file(&report) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            return Err(Error::Failed(format!("cannot remove the last check's {}: {e}", report.display())));
        }
        _ => {}
    }
    write_request(&daemon.paths, CHECK_REQUEST, &CheckRequest { units, target })?;
    systemd::run(conn, CHECK_UNIT).await?;
    let text = fs::read(&report).with_context(|| format!("{CHECK_UNIT} left no {}", report.display()))?;
    let report: Report = serde_json::from_slice(&text).with_context(|| format!("{} is damaged", report.display()))?;
    Ok(check_answer(&report))
}

/// Begins an update and returns its object; the worker goes on by itself.
///
/// # Errors
/// [`Error::InvalidArgument`], [`Error::Busy`], [`Error::NoTarget`], [`Error::NotMarked`], [`Error::BadConfiguration`],
/// [`Error::Failed`].
pub async fn update(daemon: &Arc<Daemon>, conn: &Connection, wanted: Wanted) -> Result<OwnedObjectPath, Error> {
    let allow_restart = wanted.allow_restart.iter().map(|u| parse_unit(u)).collect::<Result<Vec<_>, _>>()?;
    wanted.target.as_deref().map_or(Ok(()), kernels::check_form)?;
    let _changing = daemon.changing.lock().await;
    daemon.tracker.refresh(conn).await?;
    // Whoever has heard how the last update ended may ask for the next one.
    let deadline = Instant::now() + ENDS_WITHIN;
    while daemon.tracker.is_ending() && Instant::now() < deadline {
        systemd::sleep(POLL).await;
    }
    match daemon.tracker.obstacle() {
        Some(Obstacle::Busy(update)) => return Err(Error::Busy(busy(&update))),
        Some(Obstacle::BadRecord(why)) => return Err(Error::Failed(why)),
        None => {}
    }
    marks::check_marked(&daemon.paths, &allow_restart)?;
    let (asked, reverses) = if wanted.rollback { rolled_back(daemon)? } else { (wanted.target, None) };
    let target = kernels::target(&daemon.paths, asked.as_deref())?;
    let id = UpdateId::now();
    let request = UpdateRequest { id, target: Some(target), allow_restart, reverses, stage_only: wanted.stage_only };
    write_request(&daemon.paths, UPDATE_REQUEST, &request)?;
    // That of another update, should the worker not even begin.
    let _ = fs::remove_file(daemon.paths.run_dir().join(UPDATE_FAILURE));
    let view = UpdateView::requested(&request, &running(&daemon.paths)?);
    let path = view.path();
    daemon.tracker.worker_started(view);
    daemon.tracker.refresh(conn).await?;
    tracing::info!("update {} to {} begins", request.id, request.target.as_deref().unwrap_or_default());
    let (daemon, conn) = (daemon.clone(), conn.clone());
    let work = async move {
        let ended = systemd::run(&conn, UPDATE_UNIT).await;
        // A refusal is no failure of the unit, and has its reason, too.
        let why = fs::read_to_string(daemon.paths.run_dir().join(UPDATE_FAILURE)).ok();
        let failed = why.or_else(|| ended.err().map(|e| e.message().to_string()));
        if let Some(why) = &failed {
            tracing::error!("update {}: {why}", request.id);
        }
        daemon.tracker.worker_ended(&request.id, failed);
    };
    zruntime::spawn(work).detach();
    Ok(path)
}

/// The kernel that the last update came from, and that update.
fn rolled_back(daemon: &Daemon) -> Result<(Option<String>, Option<UpdateId>), Error> {
    let done = daemon.tracker.shown().filter(|u| u.state == State::Done);
    let done = done.ok_or_else(|| {
        Error::NoTarget("there is nothing to roll back: the last update was not done, or there was none".into())
    });
    done.map(|u| (Some(u.source), Some(u.id)))
}

fn busy(update: &UpdateView) -> String {
    let id = &update.id;
    match update.state {
        State::Armed => format!("update {id} to {} is armed; 'kup abort' gives it up", update.target),
        state => format!("update {id} is under way ({}); 'kup status' shows it", state.as_str()),
    }
}

/// Did the last update end with the boot loader pinned?
fn leaves_a_pin(daemon: &Daemon) -> bool {
    matches!(Record::load(&daemon.paths.record()), Ok(Some(record)) if record.pin_left().is_some())
}

/// Gives up the armed update, or takes away the pin that the last one has left.
///
/// # Errors
/// [`Error::InvalidArgument`] when there is none to give up, [`Error::Busy`] when it is too late, [`Error::Failed`].
pub async fn abort(daemon: &Daemon, conn: &Connection) -> Result<(), Error> {
    let _changing = daemon.changing.lock().await;
    daemon.tracker.refresh(conn).await?;
    match daemon.tracker.shown() {
        Some(update) if update.state == State::Armed => {}
        // Whoever armed it is gone, or holds the lock.
        Some(update) if matches!(update.state, State::Checking | State::Arming) && !daemon.tracker.has_worker() => {}
        // The worker knows whether the switch is still under way.
        Some(update) if update.state == State::Switching => {}
        Some(update) if !update.state.is_final() => return Err(Error::Busy(busy(&update))),
        Some(_) if leaves_a_pin(daemon) => {}
        _ => return Err(Error::InvalidArgument("no update is armed".into())),
    }
    systemd::run(conn, ABORT_UNIT).await?;
    Ok(daemon.tracker.refresh(conn).await?)
}

/// Stages an installed kernel and, in automatic mode, starts the unit that updates once the package manager is done.
/// Says whether the staged kernel changed.
///
/// # Errors
/// [`Error::InvalidArgument`], [`Error::NoTarget`], [`Error::BadConfiguration`], [`Error::Failed`].
pub async fn kernel_installed(daemon: &Daemon, conn: &Connection, release: &str) -> Result<bool, Error> {
    let _changing = daemon.changing.lock().await;
    let changed = kernels::stage(&daemon.paths, release)?;
    tracing::info!("kernel {release} is {}", if changed { "staged" } else { "staged already" });
    if mode(&daemon.paths)? == Mode::Automatic {
        systemd::start(conn, AUTOMATIC_UNIT).await?;
    }
    Ok(changed)
}

/// Gives an armed update up that needs the removed kernel `release`: without the running one there is no way back, and
/// the target, though loaded, would find no modules. The caller changes nothing else meanwhile.
///
/// # Errors
/// [`Error::Failed`].
pub async fn kernel_removed(daemon: &Daemon, conn: &Connection, release: &str) -> Result<(), Error> {
    daemon.tracker.refresh(conn).await?;
    let needs = |u: &UpdateView| u.state == State::Armed && [&u.source, &u.target].iter().any(|k| *k == release);
    let Some(update) = daemon.tracker.shown().filter(needs) else { return Ok(()) };
    tracing::warn!("update {} is given up: kernel {release} was removed", update.id);
    systemd::run(conn, ABORT_UNIT).await?;
    Ok(daemon.tracker.refresh(conn).await?)
}

/// What an installed kernel does, as kup.toml says.
///
/// # Errors
/// [`Error::BadConfiguration`].
pub fn mode(paths: &Paths) -> Result<Mode, Error> {
    Settings::load(paths).map(|s| s.mode).map_err(|e| Error::BadConfiguration(e.to_string()))
}

/// A unit name from outside.
///
/// # Errors
/// [`Error::InvalidArgument`].
pub fn parse_unit(name: &str) -> Result<UnitName, Error> {
    name.parse().map_err(|e: crate::unit::BadUnitName| Error::InvalidArgument(e.to_string()))
}

fn write_request(paths: &Paths, name: &str, request: &impl Serialize) -> Result<(), Error> {
    let path = paths.run_dir().join(name);
    let text = serde_json::to_vec(request).map_err(|e| anyhow!(e))?;
    Ok(atomic::write(&path, &text, 0o600).with_context(|| format!("cannot write {}", path.display()))?)
}
