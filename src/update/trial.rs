//! What is in force while a new kernel is on trial: a panic resets the machine, and so does a hang where there is a
//! watchdog; and the boot loader boots the old kernel.

use anyhow::Result;

use super::Record;
use crate::config::Settings;
use crate::kernel::panic::{self, PanicSettings};
use crate::paths::Paths;
use crate::systemd::Systemd;
use crate::watchdog::Deadman;

/// Prepares the trial of the record's target and writes down how it is undone; gives the words that the target's command
/// line needs. A machine without a usable watchdog is one whose hangs somebody has to end: the check has said so.
///
/// # Errors
/// When the record cannot be written.
pub fn prepare(
    paths: &Paths,
    systemd: &Systemd,
    settings: &Settings,
    record: &mut Record,
    given: &[&str],
) -> Result<Vec<String>> {
    let mut words = panic::words(given.iter().copied());
    record.panic = PanicSettings::read(paths).inspect_err(|e| tracing::warn!("{e}")).ok();
    record.deadman = Deadman::plan(paths, systemd, settings.deadman_sec, &record.target.release)
        .inspect_err(|e| tracing::warn!("nothing ends a hang of the new kernel: {e:#}"))
        .unwrap_or_default();
    record.save(&paths.record())?;
    let Some(deadman) = record.deadman.clone() else { return Ok(words) };
    match deadman.prepare(paths, systemd) {
        Ok(()) => words.extend(deadman.words.iter().cloned()),
        Err(e) => {
            tracing::warn!("nothing ends a hang of the new kernel: {e:#}");
            record.deadman = None;
        }
    }
    Ok(words)
}

/// Starts the watchdog, behind the point of no return.
pub fn begin(paths: &Paths, systemd: &Systemd, record: &Record) {
    if let Some(deadman) = &record.deadman
        && let Err(e) = deadman.start(paths, systemd)
    {
        tracing::error!("nothing ends a hang of the new kernel: {e:#}");
    }
}

/// Takes the preparations back, before the switch.
///
/// # Errors
/// When the watchdog cannot be put back.
pub fn undo(paths: &Paths, systemd: &Systemd, record: &Record) -> Result<()> {
    record.deadman.as_ref().map_or(Ok(()), |deadman| deadman.undo(paths, systemd))
}

/// Ends the trial, whatever came of it.
pub fn end(paths: &Paths, systemd: &Systemd, record: &Record) {
    if let Some(deadman) = &record.deadman
        && let Err(e) = deadman.disarm(paths, systemd)
    {
        tracing::error!("{e:#}");
    }
    if let Some(Err(e)) = record.panic.map(|panic| panic.put_back(paths)) {
        tracing::error!("{e}");
    }
}
