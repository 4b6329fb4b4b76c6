//! After the switch: bring every unit back in the new boot, or, where that came to nothing, in the old kernel's.

use std::collections::HashMap;
use std::sync::{Arc, mpsc};
use std::thread::{self, Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::time::{ClockId, clock_gettime};

use super::hurry::Hurry;
use super::network::Network;
use super::restore_all::{self, RestoreAll, Resumed};
use super::restore_unit::is_placeholder;
use super::{
    Event, Lock, Record, State, ThisBoot, UnitRecord, UnitState, bless, encryption, manifest, memory, network,
    now_usec, ram, start, trial,
};
use crate::config::Settings;
use crate::paths::Paths;
use crate::sys::trust;
use crate::systemd::{Start, Systemd};
use crate::unit::{Fallback, UnitName};
use crate::{criu, faults, kernel, watchdog};

/// How long PID 1 may take to see that units have other main processes: it may be reading all units again.
const HANDED_OVER_WITHIN: Duration = Duration::from_secs(180);

/// Restores every unit of the update that led to this boot. `kup-restore.service` runs it.
///
/// # Errors
/// When the record cannot be read or written, and when a unit cannot be restored that the old kernel may still bring back:
/// no unit has been resumed then, and `kup-settle.service` goes back. On the way back a unit that cannot be restored is no
/// error: it starts cold, and the record says why.
pub fn run(paths: &Paths) -> Result<()> {
    let settings = Settings::load(paths)?;
    let _lock = Lock::wait(&paths.lock(), Lock::MOMENT)?;
    let Some(mut record) = Record::load(&paths.record())? else { return Ok(()) };
    let back = match (ThisBoot::look(paths, &record)?, record.state()) {
        (ThisBoot::Restore, State::Switching) => false,
        (ThisBoot::FallBack, State::Switching | State::Restoring) => true,
        (_, state) => {
            tracing::info!("the update is {}: nothing to restore", state.as_str());
            return Ok(());
        }
    };
    begin(paths, &mut record, back)?;
    faults::at("restore.begun")?;
    let systemd = Systemd::connect()?;
    // A reverse update is a way back as well: there is nowhere else to go.
    let last_chance = back || record.reverses.is_some();
    let units = resumable(&record);
    let hurry = Hurry::begin(paths);
    let resumed = thread::scope(|scope| {
        let ((_enough, wanted), (_going_on, ended)) = (mpsc::channel::<()>(), mpsc::channel::<()>());
        let (systemd, units, hurry) = (&systemd, &units, &hurry);
        scope.spawn(move || hurry.end_in_time(units.iter().map(|(unit, _)| unit), &ended));
        scope.spawn(move || start::start_all(systemd, units, &wanted));
        let warm = scope.spawn(criu::warm);
        unlock_images(paths, &mut record, last_chance)?;
        verify_images(scope, paths, systemd, &mut record);
        let (waiting, phase) = (record.begin("network"), record.begin("restore"));
        let network = Arc::new(Network::needed(paths, &record));
        let there = scope.spawn({
            let (network, timeout) = (Arc::clone(&network), Duration::from_secs(settings.address_timeout_sec));
            move || network.watch(timeout)
        });
        // Whatever came of it: CRIU finds out for itself what it does not know.
        let _ = warm.join();
        let resumed = RestoreAll::new(paths, systemd, &settings, &network, hurry, last_chance).run(&mut record)?;
        record.end(phase);
        record.end_at(waiting, there.join().unwrap_or_else(|_| now_usec()));
        Ok::<_, anyhow::Error>(resumed)
    })?;
    finish(paths, &systemd, record, resumed)
}

/// Goes on where a restore was cut short after its units had been written down as resumed: they may still be frozen, and
/// no image is left for another try.
///
/// # Errors
/// As [`run`].
pub fn complete(paths: &Paths, systemd: &Systemd, mut record: Record) -> Result<()> {
    tracing::warn!("the restore of update {} was cut short; its units go on from where it stopped", record.id);
    record.end_open_phases();
    let resumed = restore_all::found(systemd, &mut record);
    record.save(&paths.record())?;
    finish(paths, systemd, record, resumed)
}

/// What follows once tasks run.
fn finish(paths: &Paths, systemd: &Systemd, mut record: Record, resumed: Vec<Resumed>) -> Result<()> {
    let back = record.state() == State::FallingBack;
    let _ = faults::at("restore.released");
    let phase = record.begin("unlock");
    network::unlock(paths, &record, &resumed);
    record.end(phase);
    let phase = record.begin("hand-over");
    hand_over(systemd, resumed, Instant::now() + HANDED_OVER_WITHIN);
    record.end(phase);
    if back {
        if let Err(e) = memory::wait(systemd, &record, bless::MEMORY_WITHIN) {
            tracing::error!("{e:#}");
        }
        // Nobody assesses here, and until now nothing has restarted them.
        note_ended(systemd, &mut record);
    }
    record.advance(Event::Restored, &paths.record())?;
    faults::at("restore.ended")?;
    settle_units(systemd, &record)?;
    if !back {
        return Ok(());
    }
    trial::end(paths, systemd, &record);
    bless::finish(paths, &mut record)
}

/// Units that did not stay up start cold.
fn note_ended(systemd: &Systemd, record: &mut Record) {
    for (name, unit) in record.units.iter_mut().filter(|(_, u)| u.state == UnitState::Resumed) {
        match systemd.status(name.as_str()) {
            Ok(status) if status.main_pid != unit.main_pid => {
                let reason = format!("it was restored but did not stay up (it is {})", status.active);
                tracing::error!("{name} starts cold: {reason}");
                unit.state = UnitState::Cold { reason };
            }
            Ok(_) => {}
            Err(e) => tracing::warn!("{name}: {e:#}"),
        }
    }
}

/// Writes down that units are being restored in this boot.
fn begin(paths: &Paths, record: &mut Record, back: bool) -> Result<()> {
    let boot = Some(kernel::boot_id(paths)?);
    if record.restore_boot == boot {
        record.end_open_phases();
    } else {
        record.enter_boot(now_usec().saturating_sub(since_boot()?));
    }
    record.restore_boot = boot;
    if !back {
        return Ok(record.advance(Event::NewKernel, &paths.record())?);
    }
    let here = kernel::running(paths)?;
    let why = if watchdog::has_fired(paths).unwrap_or(false) {
        "hung, and the watchdog reset the machine"
    } else {
        "did not come up"
    };
    let reason = record.reason.take().unwrap_or_else(|| format!("kernel {} {why}", record.target.release));
    tracing::error!("update {} falls back to kernel {here}: {reason}", record.id);
    record.reason = Some(reason);
    for unit in record.units.values_mut().filter(|u| u.state.may_resume() && u.fallback == Fallback::None) {
        unit.state = UnitState::Cold { reason: "the new kernel did not bring it back, and KUPFallback=none".into() };
    }
    Ok(record.advance(Event::OldKernel, &paths.record())?)
}

/// Microseconds since this kernel began.
fn since_boot() -> Result<u64> {
    let time = clock_gettime(ClockId::CLOCK_BOOTTIME).context("the kernel does not tell how long it runs")?;
    Ok(Duration::from(time).as_micros() as u64)
}

/// Units whose images may still be used, and when their sandboxes may be built.
fn resumable(record: &Record) -> Vec<(UnitName, Option<Start>)> {
    let units = record.units.iter().filter(|(_, u)| u.state.may_resume());
    units.map(|(name, unit)| (name.clone(), unit.start.clone())).collect()
}

/// Encrypted images are made readable. Where they cannot be, the other kernel may still manage to; after that they are as
/// good as lost.
fn unlock_images(paths: &Paths, record: &mut Record, last_chance: bool) -> Result<()> {
    let Err(e) = encryption::unlock(paths, record) else { return Ok(()) };
    if !last_chance {
        record.reason = Some(format!("{e:#}"));
        record.save(&paths.record())?;
        return Err(e);
    }
    let units: Vec<UnitName> = record.units.keys().cloned().collect();
    for name in units {
        lose(record, &name, format!("{e:#}"));
    }
    Ok(())
}

/// A unit whose image is damaged has lost its memory, here and everywhere. Pagers start meanwhile, in `scope`: they take
/// nothing for sound that they have not verified.
fn verify_images<'scope>(
    scope: &'scope Scope<'scope, '_>,
    paths: &Paths,
    systemd: &'scope Systemd,
    record: &mut Record,
) {
    let phase = record.begin("verify");
    let (images, top) = (paths.images(record.id.as_str()), paths.state_dir());
    let sound = |name: &UnitName, unit: &UnitRecord| {
        let manifest = unit.manifest.as_deref().context("its image was never sealed")?;
        manifest::verify(&images.join(name.as_str()), manifest)
    };
    let mut pagers = HashMap::new();
    let lost: Vec<(UnitName, String)> = thread::scope(|verifying| {
        let mut verdicts: Vec<(UnitName, Result<()>)> = Vec::new();
        let mut threads = Vec::new();
        for (name, unit) in record.units.iter().filter(|(_, u)| u.state.may_resume()) {
            let trusted = trust::only_ours(&images.join(name.as_str()), &top);
            if let Err(e) = trusted.context("its image is not to be trusted") {
                verdicts.push((name.clone(), Err(e)));
                continue;
            }
            threads.push((name, verifying.spawn(move || sound(name, unit))));
            // PID 1 takes its time to answer.
            let asked = name.clone();
            pagers.insert(name.clone(), scope.spawn(move || begin_pager(systemd, &asked)));
        }
        // Meanwhile: the kernel takes a moment to make devices of what came over.
        let kept = ram::frames(paths, record).map(|frames| frames.is_some()).map_err(|e| format!("{e:#}"));
        for (name, thread) in threads {
            let sound = thread.join().unwrap_or_else(|_| bail!("its image cannot be verified: a thread broke"));
            verdicts.push((name.clone(), sound.and_then(|()| ram::verify(&images.join(name.as_str()), &kept))));
        }
        verdicts.into_iter().filter_map(|(name, verdict)| Some((name, format!("{:#}", verdict.err()?)))).collect()
    });
    for (name, reason) in lost {
        let _ = pagers.remove(&name).map(ScopedJoinHandle::join);
        memory::stop(systemd, &name);
        lose(record, &name, reason);
    }
    record.end(phase);
}

/// Whoever waits for the pager asks for it once more.
fn begin_pager(systemd: &Systemd, unit: &UnitName) {
    if let Err(e) = memory::begin(systemd, unit) {
        tracing::warn!("{unit}: {e:#}");
    }
}

fn lose(record: &mut Record, name: &UnitName, reason: String) {
    if let Some(unit) = record.units.get_mut(name).filter(|unit| unit.state.may_resume()) {
        tracing::error!("{name} starts cold: {reason}");
        unit.state = UnitState::Cold { reason };
    }
}

fn hand_over(systemd: &Systemd, resumed: Vec<Resumed>, deadline: Instant) {
    thread::scope(|scope| {
        for r in resumed {
            scope.spawn(move || {
                if let Err(e) = r.placeholder.hand_over(systemd, &r.unit, r.pid, deadline) {
                    tracing::error!("{}: {e:#}", r.unit);
                }
            });
        }
    });
}

/// Takes our drop-ins away (the generator makes none for units that are not to be restored) and starts what is cold.
///
/// # Errors
/// When systemd refuses.
pub fn settle_units(systemd: &Systemd, record: &Record) -> Result<()> {
    systemd.reload()?;
    for (name, unit) in &record.units {
        if !matches!(unit.state, UnitState::Cold { .. }) {
            continue;
        }
        // A unit that no placeholder stands in for may have been started cold already.
        let stands_in = systemd.status(name.as_str()).is_ok_and(|s| is_placeholder(s.main_pid));
        let started = if stands_in { systemd.restart(name.as_str()) } else { systemd.start(name.as_str()) };
        started.with_context(|| format!("cannot start {name}"))?;
    }
    Ok(())
}
