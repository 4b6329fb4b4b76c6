//! Ending an update that did not end by itself: the machine came up without the switch, or restore was cut short.

use anyhow::Result;

use super::{Event, Lock, Record, State, UnitState, bless, restore, undo};
use crate::net;
use crate::paths::Paths;
use crate::systemd::Systemd;

/// Ends an unfinished update of an earlier boot. Units that were not resumed start cold. `kup-settle.service` runs it.
///
/// # Errors
/// When the record cannot be read or written.
pub fn run(paths: &Paths) -> Result<()> {
    let _lock = Lock::take(&paths.lock())?;
    let Some(mut record) = Record::load(&paths.record())?.filter(|r| !r.state().is_final()) else { return Ok(()) };
    let reason = match record.state() {
        State::Restoring => "the restore was cut short",
        State::Assessing => "it was not assessed before the machine went down again",
        _ => "the machine came up without having switched kernels",
    };
    tracing::error!("update {} failed: {reason}", record.id);
    for unit in record.units.values_mut().filter(|u| u.state == UnitState::Imaged) {
        unit.state = UnitState::Cold { reason: reason.into() };
    }
    record.reason = Some(reason.into());
    let switched = matches!(record.state(), State::Switching | State::Restoring | State::Assessing);
    if !switched {
        // Nothing was committed: the units' memory was lost with the machine, not by the update.
        undo::unpin(paths, &record).unwrap_or_else(|e| tracing::error!("{e:#}"));
    }
    record.advance(if switched { Event::Fail } else { Event::Abort }, &paths.record())?;
    if let Err(e) = net::lock::unlock() {
        tracing::error!("{e:#}");
    }
    bless::finish(paths, &record)?;
    restore::settle_units(&Systemd::connect()?, &record)
}
