//! The end of an update in the new boot: health, then the new kernel becomes the default, and nothing of the update stays.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::{
    Event, History, HistoryLine, Lock, Record, State, UnitState, ballast, encryption, memory, ram, trial, undo,
};
use crate::config::Settings;
use crate::paths::Paths;
use crate::systemd::Systemd;
use crate::unit::{self, UnitName};
use crate::{boot, faults, kernel};

/// How long the last of a unit's memory may be on its way, less than `TimeoutStartSec=` of those who wait for it.
pub const MEMORY_WITHIN: Duration = Duration::from_secs(400);

/// The phase of the assessment.
const ASSESS: &str = "assess";

/// Has the assessment of this update passed?
pub fn has_passed(record: &Record) -> bool {
    record.reason.is_none() && record.phases.iter().any(|phase| phase.name == ASSESS && phase.end > 0)
}

/// Asks every restored unit how it is, once the machine is up. `kup-assess.service` runs it, before boot-complete.target.
///
/// # Errors
/// When a unit is not well: boot-complete.target is not reached then, and `kup-settle.service` goes back.
pub fn assess(paths: &Paths) -> Result<()> {
    let settings = Settings::load(paths)?;
    // Without the lock: it may take its time.
    if let Some(record) = Record::load(&paths.record())?.filter(|r| r.state() == State::Assessing) {
        let systemd = Systemd::connect()?;
        if memory::late(&systemd, &record)?.is_some() {
            // The machine is up: it is no hang that is waited for, and nothing may reset it because there is much memory.
            trial::end(paths, &systemd, &record);
        }
        memory::wait(&systemd, &record, MEMORY_WITHIN)?;
    }
    let _lock = Lock::wait(&paths.lock(), Lock::MOMENT)?;
    let Some(mut record) = Record::load(&paths.record())?.filter(|r| r.state() == State::Assessing) else {
        return Ok(());
    };
    faults::at("assess.begun")?;
    let phase = record.begin(ASSESS);
    let verdict = ask_units(paths, &record, Duration::from_secs(settings.health_timeout_sec));
    record.end(phase);
    if let Err(e) = &verdict {
        record.reason = Some(format!("{e:#}"));
    }
    record.save(&paths.record())?;
    // On the way back there is nowhere else to go: what is wrong is said, and that is all.
    if record.reverses.is_some() { Ok(()) } else { verdict }
}

/// Makes the kernel that runs the default, and ends the update. `kup-bless.service` runs it, behind boot-complete.target.
///
/// # Errors
/// When the boot loader could not be set; the old kernel stays the default then.
pub fn run(paths: &Paths) -> Result<()> {
    let _lock = Lock::wait(&paths.lock(), Lock::MOMENT)?;
    let Some(mut record) = Record::load(&paths.record())?.filter(|r| r.state() == State::Assessing) else {
        return Ok(());
    };
    faults::at("bless.begun")?;
    // What has come so far does not hang, and to be reset for a slow disk would cost all state.
    trial::end(paths, &Systemd::connect()?, &record);
    let phase = record.begin("bless");
    let blessed = make_default(paths, &mut record).and_then(|()| kernel::Staged::remove(paths));
    record.end(phase);
    faults::at("bless.blessed")?;
    let event = match (&blessed, &record.reverses) {
        (Ok(()), None) => Event::Bless,
        (Ok(()), Some(_)) => Event::Return,
        (Err(e), _) => {
            record.reason = Some(format!("{e:#}"));
            Event::Fail
        }
    };
    record.advance(event, &paths.record())?;
    finish(paths, &mut record)?;
    blessed
}

/// Makes the kernel that runs what boots by default, and takes all pins away. On the way back from an update that failed
/// the pin stays, as after every other one that went wrong: until one goes well, or the administrator ends that.
///
/// # Errors
/// When the boot loader cannot be set.
pub fn make_default(paths: &Paths, record: &mut Record) -> Result<()> {
    let pin = record.whole_pin().context("the record does not say how the boot loader was pinned")?;
    let (loader, release) = (boot::of(&pin, paths)?, &record.target.release);
    // `kup rollback` takes back an update that went well, and so has left no pin.
    if record.reverses.is_some() && record.earlier_pin.is_some() {
        if loader.default_release()?.as_deref() != Some(release) {
            loader.pin(&pin, release)?;
        }
        (record.pin, record.earlier_pin) = (Some(pin), None);
        return Ok(());
    }
    loader.bless(&pin, release)?;
    // Of a time when another boot loader booted this machine.
    if let Some(other) = record.earlier_pin.as_ref().filter(|earlier| earlier.loader != pin.loader) {
        let unpinned = boot::of(other, paths).and_then(|loader| loader.unpin(other));
        unpinned.unwrap_or_else(|e| tracing::warn!("{} stays pinned: {e:#}", other.loader));
    }
    (record.pin, record.earlier_pin) = (None, None);
    Ok(())
}

/// What every ended update does: history line, images gone, and that written down; a boot that does not find it so does
/// it again.
///
/// # Errors
/// When one of them fails.
pub fn finish(paths: &Paths, record: &mut Record) -> Result<()> {
    History::append(&paths.history(), &HistoryLine::from(&*record))?;
    encryption::end(paths, record)?;
    ram::end(paths, record)?;
    undo::wipe(&paths.images_root())?;
    let _ = ballast::throw(&paths.record());
    record.wiped = true;
    Ok(record.save(&paths.record())?)
}

fn ask_units(paths: &Paths, record: &Record, timeout: Duration) -> Result<()> {
    let systemd = Systemd::connect()?;
    for (name, unit) in record.units.iter().filter(|(_, u)| u.state == UnitState::Resumed) {
        let status = systemd.status(name.as_str())?;
        if status.main_pid != unit.main_pid {
            let (is, was) = (status.main_pid, unit.main_pid);
            bail!("{name} was restored but did not stay up (it is {} as process {is} and was {was})", status.active);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_health_check_is_not_waited_for_for_ever() {
        let name = "a".parse().unwrap();
        let check = |command: &str, seconds| {
            let verdict = run_health_check(&name, command, Duration::from_secs(seconds));
            verdict.map_err(|e| e.to_string())
        };
        assert_eq!(check("true", 60), Ok(()));
        let why = check("exit 3", 60).unwrap_err();
        assert!(why.contains("health check of a.service failed") && why.contains("exit 3"), "{why}");
        let begun = Instant::now();
        let why = check("exec sleep 1000", 0).unwrap_err();
        assert!(why.contains("a.service did not end within 0 s: exec sleep 1000"), "{why}");
        assert!(begun.elapsed() < Duration::from_secs(500), "it was waited for");
    }
}
