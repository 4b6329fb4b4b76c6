//! Memory that comes back while its unit runs: a `kup-pager@UNIT.service` for each, which outlives the restore.

use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::{Duration, Instant};
use std::{io, process};

use anyhow::{Context, Result, bail};
use libsystemd::daemon::{NotifyState, notify};

use super::{Record, UnitState};
use crate::criu::plain;
use crate::pager::{Pager, Service, fdstore, socket};
use crate::paths::Paths;
use crate::store::Memory;
use crate::sys;
use crate::sys::freezer::Freezer;
use crate::systemd::Systemd;
use crate::unit::UnitName;

/// Exit code of a pager that is not to be started again (`RestartPreventExitStatus=`): its unit is dead.
const LOST: i32 = 9;
const POLL: Duration = Duration::from_millis(50);

/// Has somebody listen for the restore of `unit`.
///
/// # Errors
/// When that cannot be.
pub fn listen(systemd: &Systemd, unit: &UnitName) -> Result<()> {
    systemd.start_and_wait(&pager_of(unit), Duration::from_secs(60)).context("nobody can bring its memory")
}

/// Nothing is to be brought to `unit` any more: its restore came to nothing.
pub fn stop(systemd: &Systemd, unit: &UnitName) {
    if let Err(e) = systemd.stop(&pager_of(unit)) {
        tracing::warn!("{unit}: {e:#}");
    }
}

/// Waits until every unit of `record` has all its memory. One whose memory was lost was killed, and needs none.
///
/// # Errors
/// When it takes longer than `timeout`.
pub fn wait(systemd: &Systemd, record: &Record, timeout: Duration) -> Result<()> {
    let deadline = Instant::now() + timeout;
    for name in record.units.iter().filter(|(_, u)| u.state == UnitState::Resumed).map(|(name, _)| name) {
        let pager = pager_of(name);
        while matches!(systemd.status(&pager)?.active.as_str(), "activating" | "active" | "deactivating") {
            if Instant::now() > deadline {
                bail!(
                    "{name} did not have its memory back within {} s; see 'journalctl -u {pager}'",
                    timeout.as_secs()
                );
            }
            std::thread::sleep(POLL);
        }
    }
    Ok(())
}

/// Brings the memory of `unit` back. `kup-pager@UNIT.service` runs it, and systemd once more where it died.
///
/// # Errors
/// When it cannot begin. Where memory cannot be brought, the unit is killed, and so is this process, with a code that says
/// so.
pub fn bring(paths: &Paths, unit: &UnitName) -> Result<()> {
    let kept = sys::fds::kept().context("cannot see what systemd has kept")?;
    let record = Record::load(&paths.record())?.context("no update is under way")?;
    let images = paths.images(record.id.as_str()).join(unit.as_str());
    let may_resume = record.units.get(unit).is_some_and(|u| u.state.may_resume());
    let pager = match Pager::resume_from_fds(kept) {
        Some(pager) => pager,
        None if may_resume => Pager::listen(&images, socket::count_tasks(&images)?)?,
        // All of it was there when the last pager ended.
        None => return Ok(()),
    };
    let sealed = plain::open(&images)?;
    let memory = |pid| -> io::Result<Arc<dyn Memory>> {
        let memory = sealed.process(pid).ok_or_else(|| io::Error::other("nothing is stored of it"))?;
        Ok(memory)
    };
    notify(false, &[NotifyState::Ready])?;
    let service = Service {
        memory: &memory,
        store: &fdstore::Systemd,
        lost: &|e| kill(unit, &e.to_string()),
        fillers: available_parallelism().map_or(1, Into::into),
        huge: Vec::new(),
    };
    match pager.run(&service) {
        Ok(report) => tracing::info!(
            "{unit} has all its memory: {} MiB, {} faults were served first",
            report.filled >> 20,
            report.faults
        ),
        Err(e) => {
            tracing::error!("{unit}: {e}");
            process::exit(LOST);
        }
    }
    Ok(())
}

/// Ends `unit`, whose pager cannot be started any more: without it the unit would read zeros as soon as what systemd has
/// kept is closed. `kup-lost@UNIT.service` runs it.
///
/// # Errors
/// When it cannot be ended.
pub fn lost(paths: &Paths, unit: &UnitName) -> Result<()> {
    if Systemd::connect()?.status(&pager_of(unit))?.active != "failed" {
        tracing::warn!("the pager of {unit} is there again");
        return Ok(());
    }
    let resumed = |record: Record| record.units.get(unit).is_some_and(|u| u.state == UnitState::Resumed);
    // One that was not resumed is looked after by whoever restores it.
    if Record::load(&paths.record())?.is_some_and(resumed) {
        kill(unit, "its pager died again and again");
    }
    let clean = process::Command::new("systemctl").args(["clean", "--what=fdstore", &pager_of(unit)]).status()?;
    if clean.success() { Ok(()) } else { bail!("systemd keeps what {} has left", pager_of(unit)) }
}

fn kill(unit: &UnitName, reason: &str) {
    tracing::error!("{unit} is killed, because its memory cannot be brought back: {reason}");
    let killed = Systemd::connect()
        .and_then(|systemd| systemd.status(unit.as_str()))
        .and_then(|status| Ok(Freezer::of(&status.cgroup).kill()?));
    if let Err(e) = killed {
        tracing::error!("{unit} cannot be killed: {e:#}");
    }
}

fn pager_of(unit: &UnitName) -> String {
    format!("kup-pager@{unit}")
}
