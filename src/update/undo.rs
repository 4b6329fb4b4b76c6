//! Giving an update up before the switch: everything that was changed is put back.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::{Event, Record, State, UnitState, bless, checkpoint, order, restore, trial};
use crate::paths::Paths;
use crate::systemd::Systemd;
use crate::{boot, kernel, net};

/// The unit that checkpoints while it is stopped in a shutdown.
pub const CHECKPOINT_UNIT: &str = "kup-checkpoint.service";
/// Directory of the drop-in that gives it its turn.
pub const ORDER_DIR: &str = "/run/systemd/system/kup-checkpoint.service.d";

/// Aborts the update: network unlocked, kernel unloaded, boot loader as before, images and drop-ins gone. Goes on when
/// one of these fails, and reports all failures together. The caller holds the lock.
///
/// # Errors
/// What could not be put back; the record says `aborted` all the same.
pub fn abort(paths: &Paths, systemd: &Systemd, record: &mut Record, reason: &str) -> Result<()> {
    tracing::warn!("update {} is aborted: {reason}", record.id);
    let mut failures = Vec::new();
    let mut step = |what: &str, result: Result<()>| {
        if let Err(e) = result {
            tracing::error!("{what}: {e:#}");
            failures.push(format!("{what}: {e:#}"));
        }
    };
    checkpoint::void_all(paths, record);
    checkpoint::repair_all(record);
    step("units stay frozen", checkpoint::thaw_all(record));
    step("the network stays locked", net::lock::unlock());
    step("the watchdog stays prepared", trial::undo(paths, systemd, record));
    step("a small initrd stays", kernel::initrd::clear(paths));
    step("the target kernel stays loaded", kernel::kexec::unload(paths).map_err(Into::into));
    step("the boot loader stays pinned", unpin(paths, record));
    step("drop-ins stay", checkpoint::release_systemd(systemd, record));
    step("kup-checkpoint.service stays", release_checkpoint_unit(systemd));
    if record.state() != State::Switching {
        // Those whose restart was accepted go on as well.
        let accepted = record.units.values_mut().filter(|u| matches!(u.state, UnitState::Cold { .. }));
        accepted.for_each(|unit| unit.state = UnitState::Running);
    }
    record.reason = Some(reason.into());
    let event = if record.state() == State::Switching { Event::Fail } else { Event::Abort };
    record.advance(event, &paths.record())?;
    step("images or the history's line", bless::finish(paths, record));
    if failures.is_empty() { Ok(()) } else { Err(anyhow::anyhow!("{}", failures.join("; "))) }
}

/// Gives up an update whose shutdown was cancelled behind the point of no return. Its units have ended, and start cold: that
/// is written before they do.
///
/// # Errors
/// As [`abort`]; also when a unit cannot be started.
pub fn give_up_switch(paths: &Paths, systemd: &Systemd, record: &mut Record, reason: &str) -> Result<()> {
    for unit in record.units.values_mut().filter(|u| u.state == UnitState::Imaged) {
        unit.state = UnitState::Cold { reason: reason.into() };
    }
    record.save(&paths.record())?;
    trial::end(paths, systemd, record);
    let aborted = abort(paths, systemd, record, reason);
    restore::settle_units(systemd, record)?;
    aborted
}

/// Aborts the update in the middle of the shutdown: that is called off, and what it has stopped is started again, behind the
/// preserved services.
///
/// # Errors
/// As [`abort`].
pub fn call_off(paths: &Paths, systemd: &Systemd, record: &mut Record, reason: &str) -> Result<()> {
    order::call_off(systemd, None);
    let aborted = abort(paths, systemd, record, reason);
    order::start_again(systemd, record);
    aborted
}

/// Which kernel, or initrd, that the update needs was removed, as a reason to give it up. apt's autoremove spares the
/// running kernel, but whoever removes it by name is free to do so.
///
/// # Errors
/// When /boot cannot be read.
pub fn lost_kernel(paths: &Paths, record: &Record) -> Result<Option<String>> {
    let installed = kernel::discover(paths)?;
    let lost = |release: &str| match installed.iter().find(|k| k.release == release) {
        None => Some("was removed"),
        // Whoever boots one kernel through an initrd boots the other one so, too.
        Some(k) if k.initrd.is_none() && record.target.initrd.is_some() => Some("has lost its initrd"),
        Some(_) => None,
    };
    let needed = [(&record.source, "the way back"), (&record.target.release, "the target")];
    let reason = |(release, what): (&String, &str)| Some(format!("kernel {release}, {what}, {}", lost(release)?));
    Ok(needed.into_iter().find_map(reason))
}

/// Takes the record's pin away; a record without one is of an update that had not come to that. What an update before this
/// one has left is in force again. The caller saves the record; doing it twice is fine.
///
/// # Errors
/// As [`boot::BootLoader::unpin`].
pub fn unpin(paths: &Paths, record: &mut Record) -> Result<()> {
    if let Some(pin) = &record.pin {
        boot::of(pin, paths)?.unpin(pin)?;
    }
    record.pin = record.earlier_in_force().cloned();
    record.earlier_pin = None;
    Ok(())
}

/// Gives the boot loader its own choice back, after an update that ended and left it pinned.
///
/// # Errors
/// As [`unpin`].
pub fn let_go(paths: &Paths, record: &mut Record) -> Result<()> {
    while record.pin.is_some() {
        unpin(paths, record)?;
        record.save(&paths.record())?;
    }
    Ok(())
}

/// Stops kup-checkpoint.service, which finds nothing to do, and forgets its ordering.
fn release_checkpoint_unit(systemd: &Systemd) -> Result<()> {
    remove_dir(Path::new(ORDER_DIR))?;
    systemd.stop(CHECKPOINT_UNIT)
}

/// Removes checkpoints. Images hold secrets, but overwriting them would tell flash storage nothing: they are unlinked.
///
/// # Errors
/// When something stays.
pub fn wipe(images: &Path) -> Result<()> {
    remove_dir(images)
}

/// Removes what is in `dir`; it may be a mount point.
///
/// # Errors
/// When something stays.
pub fn empty(dir: &Path) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))? {
        let (path, kind) = entry.and_then(|e| Ok((e.path(), e.file_type()?)))?;
        let removed = if kind.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.with_context(|| format!("cannot remove {}", path.display()))?;
    }
    Ok(())
}

fn remove_dir(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(e).with_context(|| format!("cannot remove {}", dir.display()))
        }
        _ => Ok(()),
    }
}
