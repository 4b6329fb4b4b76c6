//! What kup-checkpoint.service does last (`ExecStopPost=`, which runs even where the checkpoint was killed): nothing of a
//! checkpoint that died half-way may stay frozen, and no shutdown go on with services that were not checkpointed.

use std::time::Duration;

use anyhow::Result;

use super::checkpoint::{KEXEC, kill_all};
use super::{Lock, Record, State, trial, undo};
use crate::kernel;
use crate::paths::Paths;
use crate::systemd::Systemd;

/// How long `kup abort` may hold the lock.
const PATIENCE: Duration = Duration::from_secs(60);

/// Gives the update up where the checkpoint did not come to its end, and sees to it that committed units are gone.
///
/// # Errors
/// When something of it could not be put back.
pub fn run(paths: &Paths) -> Result<()> {
    // As systemd.exec(5) tells of the commands before: the ordinary case is on the way to the switch, and waits for nothing.
    if std::env::var("SERVICE_RESULT").is_ok_and(|result| result == "success") {
        return Ok(());
    }
    let _lock = Lock::wait(&paths.lock(), PATIENCE)?;
    let Some(mut record) = Record::load(&paths.record())? else { return Ok(()) };
    if record.source_boot != kernel::boot_id(paths)? {
        return Ok(());
    }
    let systemd = Systemd::connect()?;
    let kexec = systemd.has_job(KEXEC)?;
    match record.state() {
        State::Switching => {
            trial::begin(paths, &systemd, &record);
            kill_all(&record)
        }
        State::Checkpointing => give_up(paths, &systemd, &mut record, "the checkpoint died before it was complete"),
        State::Armed if kexec => give_up(paths, &systemd, &mut record, "the checkpoint did not begin"),
        // Whoever gave the update up unloaded the kernel, and a kexec without one is a reboot.
        _ if kexec && !kernel::kexec::loaded(paths)? => systemd.cancel_jobs(),
        _ => Ok(()),
    }
}

fn give_up(paths: &Paths, systemd: &Systemd, record: &mut Record, reason: &str) -> Result<()> {
    if let Err(e) = systemd.cancel_jobs() {
        tracing::error!("the shutdown cannot be called off: {e:#}");
    }
    undo::abort(paths, systemd, record, reason)
}
