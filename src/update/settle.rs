//! Ending an update that did not end by itself: the machine came up without the switch, a step was cut short, or the new
//! kernel was found wanting.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::{
    Event, Lock, Record, RecordError, State, ThisBoot, UnitState, arm, bless, fall_back, memory, restore, trial, undo,
};
use crate::net;
use crate::paths::Paths;
use crate::systemd::Systemd;

/// How long whoever assesses may hold the lock (`TimeoutStartSec=` of kup-assess.service).
const ASSESSED_WITHIN: Duration = Duration::from_secs(600);
/// How long systemd may take from a passed assessment to boot-complete.target.
const COMPLETE_WITHIN: Duration = Duration::from_secs(30);
/// Memory that is on its way comes, or its unit is killed: pagers see to that.
const FOREVER: Duration = Duration::MAX;
/// Ends an update well.
const BLESS: &str = "kup-bless.service";
const POLL: Duration = Duration::from_millis(500);

/// Does what is left to do for an unfinished update: goes back to the old kernel, if that can still save something, and
/// else ends it; units that were not resumed start cold then. `kup-settle.service` runs it.
///
/// # Errors
/// When the record cannot be read or written, or the way back cannot be begun.
pub fn run(paths: &Paths) -> Result<()> {
    let lock = Lock::wait(&paths.lock(), ASSESSED_WITHIN)?;
    let Some(mut record) = Record::load(&paths.record()).or_else(|e| unreadable(paths, e))? else { return Ok(()) };
    if record.state().is_final() && record.wiped {
        return Ok(());
    }
    let systemd = Systemd::connect()?;
    if record.state().is_final() {
        let finished = bless::finish(paths, &mut record);
        // Placeholders may still stand in for what starts cold.
        restore::settle_units(&systemd, &record)?;
        return finished;
    }
    let (images, resumed) = (has(&record, &UnitState::Imaged), has(&record, &UnitState::Resumed));
    // A reverse update is itself the way back: from there is no other one.
    let first = record.reverses.is_none();
    match (ThisBoot::look(paths, &record)?, record.state()) {
        // Its own steps see to it.
        (ThisBoot::Ordinary, _) => Ok(()),
        (ThisBoot::Restore, State::Switching | State::Restoring) if images && first => {
            fall_back::leave(paths, &systemd, &record)
        }
        (ThisBoot::Restore | ThisBoot::FallBack, State::Restoring | State::FallingBack) if resumed => {
            restore::complete(paths, &systemd, record)
        }
        (ThisBoot::Bless, State::Assessing) if first => {
            if memory::late(&systemd, &record)?.is_some() {
                // The boot is late for that alone. Whoever assesses waits for it, too.
                drop(lock);
                memory::wait(&systemd, &record, FOREVER)?;
                return systemd.start(BLESS);
            }
            if bless::has_passed(&record) && completes(&systemd)? {
                return systemd.start(BLESS);
            }
            let reason = record.reason.clone().unwrap_or_else(|| "the new boot did not complete".into());
            end(paths, &systemd, &mut record, &reason)?;
            drop(lock);
            arm::reverse(paths, &record, &reason)
        }
        (ThisBoot::Settle, State::Switching | State::Restoring) if !record.fall_back_boots.is_empty() => {
            end(paths, &systemd, &mut record, "boot after boot of the old kernel ended before they were restored")
        }
        (ThisBoot::Restore | ThisBoot::FallBack, State::Switching) => {
            end(paths, &systemd, &mut record, "the restore did not begin")
        }
        (_, State::Restoring | State::FallingBack) => end(paths, &systemd, &mut record, "the restore was cut short"),
        (_, State::Assessing) => {
            end(paths, &systemd, &mut record, "the machine went down again before the new kernel was blessed")
        }
        _ => end(paths, &systemd, &mut record, "the machine came up without having switched kernels"),
    }
}

/// The assessment passed when the boot was late already: is it complete now, or soon?
fn completes(systemd: &Systemd) -> Result<bool> {
    let begun = Instant::now();
    loop {
        let complete = systemd.activity("boot-complete.target")?.0 == "active";
        if complete || begun.elapsed() > COMPLETE_WITHIN {
            return Ok(complete);
        }
        std::thread::sleep(POLL);
    }
}

fn has(record: &Record, state: &UnitState) -> bool {
    record.units.values().any(|u| u.state == *state)
}

/// Ends it as it is.
fn end(paths: &Paths, systemd: &Systemd, record: &mut Record, reason: &str) -> Result<()> {
    tracing::error!("update {} failed: {reason}", record.id);
    // Nobody comes any more to whom they could bring memory.
    for name in record.units_in(UnitState::Imaged) {
        memory::stop(systemd, name);
    }
    let same_boot = record.restore_boot.as_deref() == Some(crate::kernel::boot_id(paths)?.as_str());
    for unit in record.units.values_mut().filter(|u| is_lost(&u.state, same_boot)) {
        unit.state = UnitState::Cold { reason: reason.into() };
    }
    record.reason = Some(reason.into());
    let switched = !matches!(record.state(), State::Checking | State::Arming | State::Armed | State::Checkpointing);
    if switched {
        trial::end(paths, systemd, record);
    } else {
        // Nothing was committed: the units' memory was lost with the machine, not by the update.
        undo::unpin(paths, record).unwrap_or_else(|e| tracing::error!("{e:#}"));
    }
    let written = record.advance(if switched { Event::Fail } else { Event::Abort }, &paths.record());
    if written.is_err() {
        void(paths)?;
    }
    if let Err(e) = net::lock::unlock() {
        tracing::error!("{e:#}");
    }
    let finished = written.map_err(Into::into).and_then(|()| bless::finish(paths, record));
    restore::settle_units(systemd, record)?;
    finished
}

/// Of units that still run by the record of another boot nothing is left, nor of what was resumed in another boot.
fn is_lost(state: &UnitState, same_boot: bool) -> bool {
    match state {
        UnitState::Running | UnitState::Imaged | UnitState::Void => true,
        UnitState::Resumed => !same_boot,
        _ => false,
    }
}

/// Services start cold in a boot whose generator could not read the record, and wait for this: what was to bring them back
/// must never be used any more, also where the record can be read again.
fn unreadable(paths: &Paths, error: RecordError) -> Result<Option<Record>> {
    void(paths)?;
    Err(error.into())
}

/// Images whose end cannot be written down must not be there when services start cold.
fn void(paths: &Paths) -> Result<()> {
    undo::wipe(&paths.images_root()).context(
        "services that live through updates stay down, because their images can neither be used nor removed: make the disk \
         writable, then run: systemctl start kup-settle.service",
    )
}
