//! Memory that comes back while its unit runs: a `kup-pager@UNIT.service` for each, which outlives the restore.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread::{self, available_parallelism};
use std::time::{Duration, Instant};
use std::{io, process};

use anyhow::{Context, Result, bail};
use libsystemd::daemon::{NotifyState, notify};
use nix::sys::signal::Signal;

use super::restore_unit::is_placeholder;
use super::{Record, UnitRecord, UnitState, huge, ram};
use crate::criu::plain;
use crate::pager::{Pager, Service, fdstore, socket};
use crate::paths::Paths;
use crate::store::Memory;
use crate::sys;
use crate::sys::freezer::Freezer;
use crate::sys::haste::Haste;
use crate::systemd::Systemd;
use crate::unit::UnitName;

/// Exit code of a pager that is not to be started again (`RestartPreventExitStatus=`): its unit is dead.
const LOST: i32 = 9;
/// What a pager ends by, and is not started again (`SuccessExitStatus=`, `RestartPreventExitStatus=`).
const END: Signal = Signal::SIGUSR1;
const POLL: Duration = Duration::from_millis(50);
/// How often a unit that goes before all others is let do so anew, and how many times. What it does with its processors
/// beyond that is its own affair, and others have theirs to do.
const RENEW: Duration = Duration::from_secs(1);
const RENEWED: usize = 30;
/// How long a pager may take to start (`TimeoutStartSec=`).
const START: Duration = Duration::from_secs(60);

/// Asks for somebody who listens for the restore of `unit`: [`listen`] waits for that, [`stop`] undoes it.
///
/// # Errors
/// What systemd says.
pub fn begin(systemd: &Systemd, unit: &UnitName) -> Result<()> {
    systemd.start(&pager_of(unit))
}

/// Waits until somebody listens for the restore of `unit`, whom [`begin`] need not have asked for.
///
/// # Errors
/// When that cannot be, or takes longer than `timeout`.
pub fn listen(systemd: &Systemd, unit: &UnitName, timeout: Duration) -> Result<()> {
    systemd.start_and_wait(&pager_of(unit), timeout).context("nobody can bring its memory")
}

/// Nothing is to be brought to `unit` any more: its restore came to nothing. The pager's unit cannot be stopped
/// (`RefuseManualStop=`), lest somebody does who does not know what waits for it.
pub fn stop(systemd: &Systemd, unit: &UnitName) {
    if let Err(e) = end(systemd, &pager_of(unit)) {
        tracing::warn!("{unit}: {e:#}");
    }
}

fn end(systemd: &Systemd, pager: &str) -> Result<()> {
    let deadline = Instant::now() + START;
    // One that is only about to start cannot be told.
    while systemd.activity(pager)?.1 && Instant::now() < deadline {
        std::thread::sleep(POLL);
    }
    match systemd.status(pager)?.active.as_str() {
        "activating" | "active" => systemd.signal(pager, END),
        _ => Ok(()),
    }
}

/// Waits until every unit of `record` has all its memory. One whose memory was lost was killed, and needs none.
///
/// # Errors
/// When it takes longer than `timeout`.
pub fn wait(systemd: &Systemd, record: &Record, timeout: Duration) -> Result<()> {
    let names: Vec<_> = record.units_in(UnitState::Resumed).cloned().collect();
    wait_for(systemd, &names, timeout)
}

/// The same for `units`, whatever the record says of them.
///
/// # Errors
/// The same.
pub fn wait_for(systemd: &Systemd, units: &[UnitName], timeout: Duration) -> Result<()> {
    let begun = Instant::now();
    while let Some(name) = first_late(systemd, units)? {
        if begun.elapsed() > timeout {
            bail!("{name} did not have its memory back within {} s", timeout.as_secs());
        }
        std::thread::sleep(POLL);
    }
    Ok(())
}

/// A unit of `record` whose memory is still on its way.
///
/// # Errors
/// When systemd does not answer.
pub fn late<'a>(systemd: &Systemd, record: &'a Record) -> Result<Option<&'a UnitName>> {
    first_late(systemd, record.units_in(UnitState::Resumed))
}

fn first_late<'a>(systemd: &Systemd, units: impl IntoIterator<Item = &'a UnitName>) -> Result<Option<&'a UnitName>> {
    for name in units {
        let active = systemd.status(&pager_of(name))?.active;
        if matches!(active.as_str(), "activating" | "active" | "deactivating") {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

/// Fails unless every unit of `record` that is to be checkpointed has all its memory: what is not there would not be in the
/// image either, and be zeros after the next switch.
///
/// # Errors
/// Names the unit.
pub fn all_there(systemd: &Systemd, record: &Record) -> Result<()> {
    for name in record.units_in(UnitState::Running) {
        // What a failed pager has left, systemd still holds.
        if systemd.status(&pager_of(name))?.active != "inactive" {
            bail!("{name} is still waiting for memory of the last update; see 'systemctl status {}'", pager_of(name));
        }
    }
    Ok(())
}

/// Has the pager of `unit` given up?
pub fn is_lost(systemd: &Systemd, unit: &UnitName) -> bool {
    systemd.status(&pager_of(unit)).is_ok_and(|status| status.active == "failed")
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
        None => {
            Haste::end(&paths.weight(unit.as_str()));
            return Ok(notify(false, &[NotifyState::Ready]).map(drop)?);
        }
    };
    // Without it, what is on the disk has to do.
    let frames = ram::frames(paths, &record).unwrap_or_else(|e| {
        tracing::error!("what was kept in RAM cannot be read: {e:#}");
        None
    });
    let from = if frames.is_some() && images.join(plain::RAM).exists() { "RAM" } else { "the disk" };
    let sealed = plain::open(&images, frames)?;
    let memory = |pid| -> io::Result<Arc<dyn Memory>> {
        let memory = sealed.process(pid).ok_or_else(|| io::Error::other("nothing is stored of it"))?;
        Ok(memory)
    };
    let known = record.units.get(unit).map(|u| u.cgroup.clone()).unwrap_or_default();
    notify(false, &[NotifyState::Ready])?;
    let service = Service {
        memory: &memory,
        store: &fdstore::Systemd,
        lost: &|e| kill(unit, &cgroup_of(unit, &known), &e.to_string()),
        fillers: available_parallelism().map_or(1, Into::into),
        huge: huge::read(&images),
    };
    let result = thread::scope(|scope| {
        let (_running, ended) = mpsc::channel();
        scope.spawn(move || keep_haste(&paths.weight(unit.as_str()), &ended));
        pager.run(&service)
    });
    match result {
        Ok(report) => tracing::info!(
            "{unit} has all its memory: {} MiB, {} faults were served first, {} huge pages, from {from}",
            report.filled >> 20,
            report.faults,
            report.huge
        ),
        Err(e) => {
            tracing::error!("{unit}: {e}");
            process::exit(LOST);
        }
    }
    Ok(())
}

/// Ends `unit`, whose pager cannot be started any more: without it the unit would wait for ever, or read zeros as soon as
/// what systemd has kept is closed. `kup-lost@UNIT.service` runs it.
///
/// # Errors
/// When systemd does not answer.
pub fn lost(paths: &Paths, unit: &UnitName) -> Result<()> {
    let systemd = Systemd::connect()?;
    if !is_lost(&systemd, unit) {
        tracing::warn!("the pager of {unit} is there again");
        return Ok(());
    }
    Haste::end(&paths.weight(unit.as_str()));
    let record = Record::load(&paths.record())?;
    let waiting = record.as_ref().and_then(|r| r.units.get(unit));
    let status = systemd.status(unit.as_str())?;
    // The pager may have ended it, and systemd have started a fresh one since.
    let same = |u: &UnitRecord| status.main_pid == u.main_pid || is_placeholder(status.main_pid);
    if waiting.is_some_and(|u| (u.state.may_resume() || u.state == UnitState::Resumed) && same(u)) {
        kill(unit, &status.cgroup, "its pager died again and again");
    }
    for verb in [["reset-failed"].as_slice(), &["clean", "--what=fdstore"]] {
        let done = process::Command::new("systemctl").args(verb).arg(pager_of(unit)).status()?;
        if !done.success() {
            bail!("systemd keeps what {} has left", pager_of(unit));
        }
    }
    Ok(())
}

/// The restore has let a unit go before all others, as is noted at `weight`. That goes on until whoever holds the other end
/// of `ended` lets go of it, so that a client waits for memory alone; a restore ends with a reload.
fn keep_haste(weight: &Path, ended: &Receiver<()>) {
    let mut renewed = 0;
    while renewed < RENEWED && ended.recv_timeout(RENEW) == Err(RecvTimeoutError::Timeout) {
        renewed += usize::from(Haste::renew(weight));
    }
    Haste::end(weight);
}

/// The control group of `unit`; the one that it had `before`, where PID 1 does not tell.
fn cgroup_of(unit: &UnitName, before: &str) -> String {
    let told = Systemd::connect().and_then(|systemd| systemd.status(unit.as_str()));
    told.map(|status| status.cgroup).ok().filter(|cgroup| !cgroup.is_empty()).unwrap_or_else(|| before.into())
}

/// Kills every task, and does not return before: what is closed then is of dead processes. Those that wait for memory wait
/// on meanwhile.
fn kill(unit: &UnitName, cgroup: &str, reason: &str) {
    tracing::error!("{unit} is killed, because its memory cannot be brought back: {reason}");
    while let Err(e) = Freezer::of(cgroup).kill() {
        tracing::error!("{unit} cannot be killed: {e:#}");
        std::thread::sleep(Duration::from_secs(1));
    }
}

fn pager_of(unit: &UnitName) -> String {
    format!("kup-pager@{unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How a pager ends, and what systemd is to make of it, is said in two places.
    #[test]
    fn the_unit_knows_how_a_pager_ends() {
        let unit = include_str!("../../units/kup-pager@.service");
        let has = |line: &str| unit.lines().any(|l| l == line);
        assert!(has(&format!("SuccessExitStatus={END}")) && has(&format!("RestartPreventExitStatus={LOST} {END}")));
        assert!(has("RefuseManualStop=yes"));
    }
}
