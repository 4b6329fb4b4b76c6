//! After the switch: bring every unit back, or start it cold and say so.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::meeting::{Chair, Seat};
use super::restore_unit::Placeholder;
use super::{Event, Lock, Record, State, UnitRecord, UnitState, affinity, now_usec, timers};
use crate::net::{self, lock::Connection};
use crate::paths::Paths;
use crate::systemd::Systemd;
use crate::unit::UnitName;

/// A unit whose tasks run again.
struct Resumed {
    unit: UnitName,
    placeholder: Placeholder,
    pid: i32,
}

/// Restores every unit of the update whose id is on the kernel's command line. `kup-restore.service` runs it.
///
/// # Errors
/// When the record cannot be read or written. A unit that cannot be restored is no error: it starts cold, and the
/// record says why.
pub fn run(paths: &Paths) -> Result<()> {
    let settings = crate::config::Settings::load(paths)?;
    let _lock = Lock::take(&paths.lock())?;
    let Some(mut record) = Record::load(&paths.record())? else { return Ok(()) };
    if record.state() != State::Switching {
        tracing::info!("the update is {}: nothing to restore", record.state().as_str());
        return Ok(());
    }
    record.end_open_phases();
    record.advance(Event::NewKernel, &paths.record())?;
    let systemd = Systemd::connect()?;
    start_all(&systemd, &record);
    wait_for_network(paths, &mut record, Duration::from_secs(settings.address_timeout_sec));
    let phase = record.begin("restore");
    let deadline = Instant::now() + Duration::from_secs(settings.restore_timeout_sec);
    let resumed = restore_all(paths, &systemd, &mut record, deadline)?;
    record.end(phase);
    let phase = record.begin("unlock");
    unlock_network(paths, &record, &resumed);
    record.end(phase);
    let phase = record.begin("hand-over");
    hand_over(&systemd, resumed, Instant::now() + Duration::from_secs(30));
    record.end(phase);
    record.advance(Event::Restored, &paths.record())?;
    settle_units(&systemd, &record)
}

/// Has systemd build the sandboxes, while the network comes up. A unit need not be enabled: what ran before the switch
/// runs after it.
fn start_all(systemd: &Systemd, record: &Record) {
    for (name, _) in record.units.iter().filter(|(_, u)| u.state.may_resume()) {
        if let Err(e) = systemd.start(name.as_str()) {
            tracing::error!("{name}: {e:#}");
        }
    }
}

/// TCP sockets can be restored once their own address is there, and connections once their peer can be reached.
fn wait_for_network(paths: &Paths, record: &mut Record, timeout: Duration) {
    let phase = record.begin("network");
    let begun = Instant::now();
    match net::addresses::wait(&record.addresses, timeout) {
        Ok(missing) if missing.is_empty() => {}
        Ok(missing) => tracing::warn!("these addresses did not come up within {timeout:?}: {missing:?}"),
        Err(e) => tracing::warn!("{e:#}"),
    }
    let images = paths.images(record.id.as_str());
    let units = record.units.iter().filter(|(_, u)| u.state.may_resume() && !u.namespaces.iter().any(|n| n == "net"));
    let connections: Vec<Connection> = units
        .flat_map(|(name, _)| net::images::connections(&images.join(name.as_str())).unwrap_or_default())
        .map(|c| Connection { local: c.local, remote: c.remote })
        .collect();
    let missing = net::addresses::wait_for_routes(&connections, timeout.saturating_sub(begun.elapsed()));
    if !missing.is_empty() {
        tracing::warn!("there is no route for these connections: {missing:?}");
    }
    record.end(phase);
}

/// Restores all units at the same time, up to the point before their tasks run; then writes down that they run, and
/// lets them.
fn restore_all(paths: &Paths, systemd: &Systemd, record: &mut Record, deadline: Instant) -> Result<Vec<Resumed>> {
    let units: Vec<(UnitName, UnitRecord)> =
        record.units.iter().filter(|(_, u)| u.state.may_resume()).map(|(n, u)| (n.clone(), u.clone())).collect();
    let images = paths.images(record.id.as_str());
    let (chair, seats) = Chair::call(units.iter().map(|(n, _)| n.clone()));
    thread::scope(|scope| {
        let threads: Vec<_> = units
            .iter()
            .zip(seats)
            .map(|((name, unit), seat)| {
                let images = images.join(name.as_str());
                scope.spawn(move || restore_one(systemd, name, unit, &images, seat, deadline))
            })
            .collect();
        for report in chair.hear() {
            let Some(unit) = record.units.get_mut(&report.unit) else { continue };
            unit.state = match report.word {
                Ok(()) => UnitState::Resumed,
                Err(reason) => {
                    tracing::error!("{} cannot be restored and starts cold: {reason}", report.unit);
                    UnitState::Cold { reason }
                }
            };
        }
        // From here on no image may be used again: this is written, and synced, before a single task runs.
        let written = record.save(&paths.record());
        let go = written.is_ok();
        chair.decide(|_| go);
        let resumed = threads.into_iter().filter_map(|t| t.join().ok().flatten()).collect::<Vec<_>>();
        written.context("no unit was resumed, because that could not be written down")?;
        for name in units.iter().map(|(n, _)| n) {
            let missing = !resumed.iter().any(|r| r.unit == *name);
            if let Some(unit) = record.units.get_mut(name).filter(|u| missing && u.state == UnitState::Resumed) {
                unit.state = UnitState::Cold { reason: "its tasks died as they were resumed".into() };
            }
        }
        Ok(resumed)
    })
}

fn restore_one(
    systemd: &Systemd,
    name: &UnitName,
    unit: &UnitRecord,
    images: &std::path::Path,
    mut seat: Seat<()>,
    deadline: Instant,
) -> Option<Resumed> {
    let result = (|| {
        let placeholder = Placeholder::wait(systemd, name, deadline)?;
        let begun = now_usec();
        let pid = placeholder.restore(unit, images, || {
            affinity::restore(&unit.cpus);
            let go = match timers::rearm(&unit.timers) {
                Ok(()) => seat.ready(()),
                Err(e) => {
                    seat.fail(format!("{e:#}"));
                    false
                }
            };
            if !go {
                // CRIU resumes what it restored whatever it is told (its pre-resume action cannot fail).
                placeholder.kill_others();
            }
            go
        })?;
        if unit.mdwe {
            deny_write_execute(name, unit);
        }
        tracing::info!("{name} runs again as {pid}, {} ms after its sandbox was there", (now_usec() - begun) / 1000);
        Ok::<_, anyhow::Error>(Resumed { unit: name.clone(), placeholder, pid })
    })();
    result.inspect_err(|e| seat.fail(format!("{e:#}"))).ok()
}

/// Lets packets through, and asks peers that have backed off to try again now: what counts is what a client sees.
fn unlock_network(paths: &Paths, record: &Record, resumed: &[Resumed]) {
    if let Err(e) = net::lock::unlock() {
        tracing::error!("{e:#}");
    }
    let images = paths.images(record.id.as_str());
    let mut segments = Vec::new();
    for unit in resumed.iter().map(|r| &r.unit) {
        match net::images::connections(&images.join(unit.as_str())) {
            Ok(connections) => segments.extend(connections.iter().flat_map(net::nudge::Outstanding::of)),
            Err(e) => tracing::warn!("{unit}: its peers wait for their own timers: {e}"),
        }
    }
    if let Err(e) = net::nudge::nudge(&segments, net::nudge::ROUNDS) {
        tracing::warn!("peers wait for their own timers: {e:#}");
    }
}

/// MemoryDenyWriteExecute= is the one restriction that CRIU does not bring back.
fn deny_write_execute(name: &UnitName, unit: &UnitRecord) {
    for pid in &unit.pids {
        match crate::sys::mdwe::set(*pid) {
            Err(e) if e.raw_os_error() != Some(nix::libc::ESRCH) => {
                tracing::error!("{name}: process {pid} runs without MemoryDenyWriteExecute=: {e}");
            }
            _ => {}
        }
    }
}

fn hand_over(systemd: &Systemd, resumed: Vec<Resumed>, deadline: Instant) {
    thread::scope(|scope| {
        for r in &resumed {
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
        if matches!(unit.state, UnitState::Cold { .. }) {
            systemd.restart(name.as_str()).with_context(|| format!("cannot start {name}"))?;
        }
    }
    Ok(())
}
