//! The checkpoint: all units under one barrier, while the machine shuts down for a kexec. Runs as `ExecStop=` of
//! `kup-checkpoint.service`, before anything is stopped that they need.

use std::collections::HashMap;
use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, RwLock};
use std::thread;

use anyhow::{Context, Result, bail, ensure};

use super::dump_unit::Plan;
use super::meeting::{Chair, Seat};
use super::precopy::Precopied;
use super::{Event, Lock, Record, State, UnitRecord, UnitState, beside, memory, order, ram, start, trial, undo};
use crate::config::Settings;
use crate::inspect::{Namespace, Protocol, UnitProcs};
use crate::net::links::{self, LINKS};
use crate::net::lock::{self, Connection, LockSpec};
use crate::net::repair;
use crate::paths::Paths;
use crate::store::arena::Arena;
use crate::store::vault::Vault;
use crate::sys::{freezer::Freezer, trust};
use crate::systemd::{DROP_IN, Systemd};
use crate::unit::{self, Storage, UnitName};
use crate::{boot, criu, faults, inspect, kernel, packages};

/// Target that systemd starts for `systemctl kexec`.
pub const KEXEC: &str = "kexec.target";
/// Name of the file beside the images that says what is locked until they are restored.
pub const NETLOCK: &str = "netlock.json";
/// Property of systemd's manager: does it act on `WatchdogSec=`?
const WATCHDOGS: &str = "ServiceWatchdogs";

/// Checkpoints every unit of the armed update, or aborts it.
///
/// # Errors
/// When something of an aborted update could not be put back. That it was aborted is no error: every unit goes on as if
/// nothing had happened, and the record says why.
pub fn run(paths: &Paths) -> Result<()> {
    let systemd = Systemd::connect()?;
    let kexec = systemd.has_job(KEXEC)?;
    let Some(_lock) = lock_record(paths, kexec)? else { return Ok(()) };
    let Some(mut record) = Record::load(&paths.record())? else { return Ok(()) };
    if record.state() != State::Armed {
        // Whoever gave the update up meanwhile unloaded the kernel, and a kexec without one is a reboot.
        if kexec && !kernel::kexec::loaded(paths)? {
            order::call_off(&systemd, Some(&record));
        }
        return Ok(());
    }
    if !kexec {
        undo::abort(paths, &systemd, &mut record, "it was not 'systemctl kexec' that ended the armed update")?;
        return Ok(());
    }
    record.advance(Event::Shutdown, &paths.record())?;
    let Err(e) = checkpoint(paths, &systemd, &mut record) else { return Ok(faults::at("checkpoint.ended")?) };
    undo::call_off(paths, &systemd, &mut record, &format!("{e:#}"))
}

/// The record's lock; none where whoever gives the update up holds it, and stops this unit: nothing is to be done then.
///
/// The shutdown also kills `kup-update.service`, whose clean-up holds the lock for a moment: that one is waited for.
fn lock_record(paths: &Paths, kexec: bool) -> Result<Option<Lock>> {
    if kexec {
        return Lock::wait(&paths.lock(), Lock::MOMENT).map(Some);
    }
    Ok(Lock::take(&paths.lock()).ok())
}

fn checkpoint(paths: &Paths, systemd: &Systemd, record: &mut Record) -> Result<()> {
    faults::at("checkpoint.begun")?;
    still_possible(paths, record)?;
    let settings = Settings::load(paths)?;
    let criu = criu::program().context("criu is not installed any more")?;
    let units: Vec<UnitName> = record.units_in(UnitState::Running).cloned().collect();
    let phase = record.begin("prepare");
    let images = make_images(paths, record, &units)?;
    save_links(paths, record, &images);
    keep_systemd_calm(paths, systemd, record, &units)?;
    let arena = ram::arena(paths, record)?;
    let mut targets = HashMap::new();
    let plan = |unit| plan(paths, systemd, unit, record, &settings, arena.as_ref(), &mut targets);
    let plans = units.iter().map(plan).collect::<Result<Vec<_>>>()?;
    for plan in &plans {
        // Known from before anything is frozen, so that it can be thawed whatever happens.
        record.units.entry(plan.unit.clone()).or_default().cgroup = plan.status.cgroup.clone();
    }
    memory::all_there(systemd, record)?;
    record.end(phase);
    record.save(&paths.record())?;
    faults::at("checkpoint.prepared")?;

    let phase = record.begin("pre-copy");
    let stored = precopy_all(&plans, &criu, &images)?;
    // While the last units are looked at and the network is locked, each unit's CRIU is started, and waits.
    let (held, gate) = (Mutex::new(LockSpec::default()), RwLock::new(false));
    let mut open = gate.write().expect("no poison");
    let (chair, seats) = Chair::call(units.iter().cloned());
    let failures: Vec<(UnitName, String)> = thread::scope(|scope| {
        let threads: Vec<_> = plans
            .iter()
            .zip(stored)
            .zip(seats)
            .map(|((plan, stored), seat)| {
                let (criu, images, held, gate) = (&criu, images.join(plan.unit.as_str()), &held, &gate);
                scope.spawn(move || dump_one(plan, criu, &images, stored, held, gate, seat))
            })
            .collect();
        let locked = lock_all(paths, record, &plans, &held, phase);
        *open = locked.is_ok();
        drop(open);
        let ready = all_ready(&chair, record);
        let verdict = locked.and_then(|phase| {
            ready?;
            stays(record, arena.as_deref())?;
            beside::write(record, &images, NETLOCK, &*held.lock().expect("no poison"))?;
            commit(paths, record, &images, phase)
        });
        let go = verdict.is_ok();
        if go {
            trial::begin(paths, systemd, record);
            // Past the commit there are no errors, only deaths.
            let _ = faults::at("checkpoint.committed");
        } else {
            void_all(paths, record);
        }
        chair.decide(|_| go);
        let failures = threads.into_iter().filter_map(|t| t.join().ok().flatten()).collect();
        verdict.map(|()| failures)
    })?;
    for (unit, reason) in failures {
        tracing::warn!("{unit}: {reason}, after its image was complete");
    }
    // Past the commit nothing is given up any more: what is frozen now will not run again under this kernel.
    if let Err(e) = kill_all(record) {
        tracing::error!("{e:#}");
    }
    Ok(())
}

/// Ends the phase `before` and locks the network for `plans`, at which the next one begins, which is returned.
fn lock_all(
    paths: &Paths,
    record: &mut Record,
    plans: &[Plan],
    held: &Mutex<LockSpec>,
    before: usize,
) -> Result<usize> {
    // Behind the pre-copy, which takes its time: what was connected meanwhile counts, too.
    let procs = plans.iter().map(Plan::look_at_processes).collect::<Result<Vec<_>>>()?;
    let lock = procs.iter().filter(|p| is_in_host_network(p)).map(lock_spec).fold(LockSpec::default(), LockSpec::merge);
    record.addresses = procs.iter().filter(|p| is_in_host_network(p)).flat_map(|p| p.addresses()).collect();
    record.addresses.sort();
    record.addresses.dedup();
    record.end(before);
    let phase = record.begin("freeze and dump");
    record.save(&paths.record())?;
    // New connections wait from here on: one that is made but not accepted yet could not be dumped.
    lock::lock(&lock)?;
    *held.lock().expect("no poison") = lock;
    Ok(phase)
}

/// Ends what is still there of units whose images are committed: CRIU may have died before it had killed all of them.
/// They are frozen, so none has run since.
///
/// # Errors
/// When a task does not die.
pub(super) fn kill_all(record: &Record) -> Result<()> {
    for (name, unit) in record.units.iter().filter(|(_, u)| u.state == UnitState::Imaged) {
        Freezer::of(&unit.cgroup).kill().with_context(|| format!("{name} cannot be ended"))?;
    }
    Ok(())
}

/// Lets the units of an update that is given up run on. Their images are void by then.
///
/// # Errors
/// When one cannot be thawed; the others are.
pub(super) fn thaw_all(record: &Record) -> Result<()> {
    let thawed = record
        .units
        .iter()
        .filter(|(_, u)| !u.cgroup.is_empty())
        .map(|(name, unit)| Freezer::of(&unit.cgroup).thaw().with_context(|| format!("{name} stays frozen")));
    thawed.collect::<Vec<_>>().into_iter().collect()
}

/// A CRIU that was killed has not put back what it did to connections.
pub(super) fn repair_all(record: &Record) {
    for (name, unit) in record.units.iter().filter(|(_, u)| !u.cgroup.is_empty()) {
        match repair::leave(Freezer::of(&unit.cgroup).dir()) {
            0 => {}
            n => tracing::warn!("{name}: {n} connections were left in repair mode, and go on"),
        }
    }
}

/// Much may have been done to the machine since the update was armed: both kernels must be there, one of them loaded, and a
/// reset must still lead to the old one.
fn still_possible(paths: &Paths, record: &Record) -> Result<()> {
    if let Some(reason) = undo::lost_kernel(paths, record)? {
        bail!(reason);
    }
    ensure!(kernel::kexec::loaded(paths)?, "the target kernel is not loaded any more");
    let pin = record.pin.as_ref().context("the record does not say how the boot loader was pinned")?;
    boot::holds(pin, paths, record.old_kernel())?;
    ensure!(!packages::are_changing(paths), "a package manager is at work; the switch would cut it short");
    Ok(())
}

fn make_images(paths: &Paths, record: &Record, units: &[UnitName]) -> Result<PathBuf> {
    let images = paths.images(record.id.as_str());
    if record.handover.is_some() {
        ensure!(
            Vault::new(paths, &record.id).is_open(),
            "the encrypted file system for its images is not mounted any more"
        );
    } else {
        // Whatever lies there is nobody's, and may not be root's alone.
        undo::wipe(&paths.images_root())?;
    }
    let mut builder = DirBuilder::new();
    builder.mode(0o700).recursive(true);
    for unit in units {
        let dir = images.join(unit.as_str());
        builder.create(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    }
    builder.create(&images)?;
    trust::only_ours(&images, &paths.state_dir())?;
    Ok(images)
}

/// Without them the restore waits until the network is configured anew.
fn save_links(paths: &Paths, record: &mut Record, images: &Path) {
    let saved = links::look(paths).and_then(|links| beside::write(record, images, LINKS, &links));
    if let Err(e) = saved {
        tracing::warn!("the restore will wait for the network: {e:#}");
    }
}

/// A dump ends with the death of the main process: systemd is to take it as it is, without ExecStop= commands for a
/// service that is not there, and without a restart; nor is anybody to start it, beside the image. While units stand
/// still, they tell no watchdog of systemd's that they are well.
fn keep_systemd_calm(paths: &Paths, systemd: &Systemd, record: &mut Record, units: &[UnitName]) -> Result<()> {
    for unit in units {
        let dir = drop_in_dir(unit);
        fs::create_dir_all(&dir)?;
        let file = dir.join(DROP_IN);
        let text = format!(
            "# Made by kup for the moment of the checkpoint.\n[Unit]\nConditionPathExists=!{}\n\
             [Service]\nRestart=no\nExecStop=\nExecStopPost=\n",
            file.display()
        );
        fs::write(file, text)?;
    }
    record.service_watchdogs = systemd.manager_property(WATCHDOGS).map(Some)?;
    record.save(&paths.record())?;
    systemd.set_manager_property(WATCHDOGS, false.into())?;
    systemd.reload()
}

/// Undoes [`keep_systemd_calm`].
///
/// # Errors
/// When systemd refuses.
pub fn release_systemd(systemd: &Systemd, record: &Record) -> Result<()> {
    if let Some(on) = record.service_watchdogs {
        systemd.set_manager_property(WATCHDOGS, on.into())?;
    }
    for unit in record.units.keys() {
        let _ = fs::remove_file(drop_in_dir(unit).join(DROP_IN));
        let _ = fs::remove_dir(drop_in_dir(unit));
    }
    systemd.reload()
}

fn drop_in_dir(unit: &UnitName) -> PathBuf {
    Path::new("/run/systemd/system").join(format!("{unit}.d"))
}

/// What is in RAM has to be where the new kernel is told to find it.
fn stays(record: &Record, arena: Option<&Arena>) -> Result<()> {
    let (Some(handed), Some(arena)) = (&record.ram, arena) else { return Ok(()) };
    Ok(arena.check(&handed.runs)?)
}

fn plan(
    paths: &Paths,
    systemd: &Systemd,
    unit: &UnitName,
    record: &Record,
    settings: &Settings,
    arena: Option<&Arc<Arena>>,
    targets: &mut HashMap<String, Vec<String>>,
) -> Result<Plan> {
    let spec = unit::PreserveSpec::of(&unit::load(paths, unit)?)?;
    let armed = record.units.get(unit).and_then(|unit| unit.start.clone());
    Ok(Plan {
        fallback: ram::fallback(&spec, settings),
        arena: arena.filter(|_| ram::storage(&spec, settings) != Storage::Disk).cloned(),
        unit: unit.clone(),
        status: systemd.status(unit.as_str())?,
        service: inspect::service(unit)?,
        volatile: systemd.volatile(unit.as_str())?,
        start: start::earliest(systemd, unit, targets).zip(armed).map(|(now, armed)| armed.and(now)),
        pid_floor: record.pid_floor,
        ghost_limit: settings.ghost_limit_bytes(),
    })
}

/// Stores the memory of all units in advance, of all at the same time.
fn precopy_all(plans: &[Plan], criu: &Path, images: &Path) -> Result<Vec<Precopied>> {
    thread::scope(|scope| {
        let precopy = |plan: &Plan| {
            let stored = plan.precopy(criu, &images.join(plan.unit.as_str()));
            stored.with_context(|| format!("{} cannot be checkpointed", plan.unit))
        };
        let threads: Vec<_> = plans.iter().map(|plan| scope.spawn(move || precopy(plan))).collect();
        threads.into_iter().map(|t| t.join().unwrap_or_else(|_| bail!("a thread broke"))).collect()
    })
}

/// Dumps one unit; the reason, where it failed after everyone had agreed to go on.
fn dump_one(
    plan: &Plan,
    criu: &Path,
    images: &Path,
    stored: Precopied,
    held: &Mutex<LockSpec>,
    gate: &RwLock<bool>,
    mut seat: Seat<UnitRecord>,
) -> Option<(UnitName, String)> {
    let mut agreed = false;
    let begin = || {
        ensure!(*gate.read().expect("no poison"), "the network could not be locked");
        Ok(())
    };
    let frozen = |procs: &UnitProcs| if is_in_host_network(procs) { lock_more(held, lock_spec(procs)) } else { Ok(()) };
    let result = plan.run(criu, images, stored, begin, frozen, |found| {
        agreed = seat.ready(found);
        agreed
    });
    let reason = format!("{:#}", result.err()?);
    seat.fail(reason.clone());
    agreed.then(|| (plan.unit.clone(), reason))
}

/// Hears every unit; what they found goes into the record.
fn all_ready(chair: &Chair<UnitRecord>, record: &mut Record) -> Result<()> {
    let mut reasons = Vec::new();
    for report in chair.hear() {
        match report.word {
            Ok(found) => {
                record.units.insert(report.unit, UnitRecord { state: UnitState::Imaged, ..found });
            }
            Err(reason) => reasons.push(format!("{} cannot be checkpointed: {reason}", report.unit)),
        }
    }
    if reasons.is_empty() { Ok(()) } else { bail!(reasons.join("; ")) }
}

/// All images are on disk before the record says so, and the record says so before any task is killed.
fn commit(paths: &Paths, record: &mut Record, images: &Path, phase: usize) -> Result<()> {
    faults::at("checkpoint.imaged")?;
    crate::sys::syncfs(&File::open(images)?).context("the images cannot be synced")?;
    record.end(phase);
    record.begin("switch");
    Ok(record.advance(Event::Committed, &paths.record())?)
}

/// The tasks go on: their images must never be resumed. Written before they do; where that cannot be written, the images
/// are removed, which is as good.
pub(super) fn void_all(paths: &Paths, record: &mut Record) {
    for unit in record.units.values_mut().filter(|u| u.state == UnitState::Imaged) {
        unit.state = UnitState::Void;
    }
    if let Err(e) = record.save(&paths.record()) {
        tracing::error!("{e}");
        let images = paths.images(record.id.as_str());
        let removed = undo::wipe(&images).and_then(|()| {
            let parent = File::open(paths.images_root())?;
            Ok(crate::sys::syncfs(&parent)?)
        });
        removed.unwrap_or_else(|e| tracing::error!("{e:#}"));
    }
}

fn is_in_host_network(procs: &UnitProcs) -> bool {
    !procs.processes.iter().any(|p| p.namespaces.contains(&Namespace::Net))
}

/// Locks what a unit has opened since it was looked at, before CRIU looks at it: what a peer sends after that is in no image.
fn lock_more(held: &Mutex<LockSpec>, more: LockSpec) -> Result<()> {
    let mut held = held.lock().expect("no poison");
    let all = held.clone().merge(more);
    if all != *held {
        lock::lock(&all)?;
        *held = all;
    }
    Ok(())
}

/// Which packets have to wait until this unit is back.
fn lock_spec(procs: &UnitProcs) -> LockSpec {
    let tcp = || procs.inet.iter().filter(|s| s.protocol == Protocol::Tcp);
    let connected = tcp().filter(|s| s.is_connected()).map(|s| Connection { local: s.local, remote: s.remote });
    LockSpec::new(tcp().filter(|s| s.is_listening()).map(|s| s.local), connected)
}
