//! What kup-update.service, kup-settle.service and kup-checkpoint.service do last (`ExecStopPost=`, which runs even where
//! they were killed): nothing of an update that died half-way may stay loaded, pinned or frozen, and no shutdown go on with
//! services that were not checkpointed.

use std::time::Duration;

use anyhow::Result;

use super::checkpoint::{KEXEC, kill_all};
use super::{Lock, Record, State, order, trial, undo};
use crate::kernel;
use crate::paths::Paths;
use crate::systemd::Systemd;

/// How long `kup abort` may hold the lock.
const PATIENCE: Duration = Duration::from_secs(60);

/// Gives the update up where its worker died before it was armed, or before it had asked for the switch.
///
/// # Errors
/// When something of it could not be put back.
pub fn arming(paths: &Paths) -> Result<()> {
    let systemd = Systemd::connect()?;
    // The shutdown of an armed update kills this unit too: what is to be done from then on is kup-checkpoint.service's,
    // which must not have to wait for the lock.
    let early = |state| matches!(state, State::Checking | State::Arming);
    if systemd.has_job(KEXEC)? && Record::load(&paths.record())?.is_none_or(|r| !early(r.state())) {
        return Ok(());
    }
    let Some((_lock, mut record)) = left_behind(paths)? else { return Ok(()) };
    let reason = "the worker died before the switch";
    match record.state() {
        State::Checking | State::Arming => undo::abort(paths, &systemd, &mut record, reason),
        State::Armed if !record.stage_only && !systemd.has_job(KEXEC)? => {
            undo::abort(paths, &systemd, &mut record, reason)
        }
        _ => Ok(()),
    }
}

/// Gives the update up where the checkpoint did not come to its end, and sees to it that committed units are gone.
///
/// # Errors
/// When something of it could not be put back.
pub fn checkpoint(paths: &Paths) -> Result<()> {
    let systemd = Systemd::connect()?;
    let kexec = systemd.has_job(KEXEC)?;
    // Where it is not even known what was checkpointed, the machine had better stay up.
    let left = left_behind(paths).inspect_err(|_| {
        if kexec {
            order::call_off(&systemd, None);
        }
    });
    let Some((_lock, mut record)) = left? else { return Ok(()) };
    match record.state() {
        State::Switching => {
            trial::begin(paths, &systemd, &record);
            kill_all(&record)
        }
        State::Checkpointing => {
            undo::call_off(paths, &systemd, &mut record, "the checkpoint died before it was complete")
        }
        State::Armed if kexec => undo::call_off(paths, &systemd, &mut record, "the checkpoint did not begin"),
        // As in checkpoint::run().
        _ if kexec && !kernel::kexec::loaded(paths)? => {
            order::call_off(&systemd, Some(&record));
            Ok(())
        }
        _ => Ok(()),
    }
}

/// The record of an update of this boot, where what was to be done for it failed.
fn left_behind(paths: &Paths) -> Result<Option<(Lock, Record)>> {
    // As systemd.exec(5) tells of the commands before: the ordinary case is on the way to the switch, and waits for nothing.
    if std::env::var("SERVICE_RESULT").is_ok_and(|result| result == "success") {
        return Ok(None);
    }
    let lock = Lock::wait(&paths.lock(), PATIENCE)?;
    let Some(record) = Record::load(&paths.record())? else { return Ok(None) };
    Ok((record.source_boot == kernel::boot_id(paths)?).then_some((lock, record)))
}
