//! The end of an update in the new boot: health, then the new kernel becomes the default, and nothing of the update stays.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::{Event, History, HistoryLine, Lock, Record, State, UnitState, undo};
use crate::config::Settings;
use crate::paths::Paths;
use crate::systemd::Systemd;
use crate::unit::{self, UnitName};
use crate::{boot, kernel};

/// Assesses the restored units and blesses the new kernel. `kup-bless.service` runs it.
///
/// # Errors
/// When a health check failed or the boot loader could not be set; the old kernel stays the default then.
pub fn run(paths: &Paths) -> Result<()> {
    let settings = Settings::load(paths)?;
    let _lock = Lock::take(&paths.lock())?;
    let Some(mut record) = Record::load(&paths.record())? else { return Ok(()) };
    if record.state() != State::Assessing {
        return Ok(());
    }
    let phase = record.begin("assess");
    let verdict = assess(paths, &record, Duration::from_secs(settings.health_timeout_sec));
    record.end(phase);
    let verdict = verdict.and_then(|()| {
        let phase = record.begin("bless");
        let pin = record.pin.as_ref().context("the record does not say how the boot loader was pinned")?;
        boot::of(pin, paths)?.bless(pin, &record.target.release)?;
        kernel::Staged::remove(paths)?;
        record.end(phase);
        Ok(())
    });
    let event = if verdict.is_ok() { Event::Bless } else { Event::Fail };
    record.reason = verdict.as_ref().err().map(|e| format!("{e:#}"));
    record.advance(event, &paths.record())?;
    finish(paths, &record)?;
    verdict
}

/// What every ended update does: history line, images gone.
///
/// # Errors
/// When one of them fails.
pub fn finish(paths: &Paths, record: &Record) -> Result<()> {
    History::append(&paths.history(), &HistoryLine::from(record))?;
    undo::wipe(&paths.images(record.id.as_str()))
}

fn assess(paths: &Paths, record: &Record, timeout: Duration) -> Result<()> {
    let systemd = Systemd::connect()?;
    for (name, unit) in record.units.iter().filter(|(_, u)| u.state == UnitState::Resumed) {
        let status = systemd.status(name.as_str())?;
        if status.main_pid != unit.main_pid {
            bail!("{name} was restored but did not stay up (it is {})", status.active);
        }
        if let Some(command) = health_check(paths, name)? {
            run_health_check(name, &command, timeout)?;
        }
    }
    Ok(())
}

fn health_check(paths: &Paths, name: &UnitName) -> Result<Option<String>> {
    Ok(unit::PreserveSpec::of(&unit::load(paths, name)?)?.health_check)
}

fn run_health_check(name: &UnitName, command: &str, timeout: Duration) -> Result<()> {
    let mut child = Command::new("/bin/sh")
        .args(["-c", command])
        .stdin(Stdio::null())
        .spawn()
        .with_context(|| format!("cannot start the health check of {name}"))?;
    let deadline = Instant::now() + timeout;
    loop {
        match child.try_wait()? {
            Some(status) if status.success() => return Ok(()),
            Some(status) => bail!("the health check of {name} failed ({status}): {command}"),
            None if Instant::now() > deadline => {
                let _ = child.kill();
                let _ = child.wait();
                bail!("the health check of {name} did not end within {} s: {command}", timeout.as_secs());
            }
            None => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}
