//! The part of an update that happens while everything runs: check, pin the boot loader, load the target kernel.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use super::{Event, Lock, Record, State, TargetKernel, UnitRecord, UnitState, UpdateId, trial};
use super::{ballast, bless, encryption, memory};
use super::{order, ram, start, undo};
use crate::config::{Initrd, Settings};
use crate::kernel::cmdline::{Direction, Ours};
use crate::kernel::initrd;
use crate::paths::Paths;
use crate::preflight::{self, Report};
use crate::request::{UPDATE_REPORT, UpdateRequest};
use crate::systemd::Systemd;
use crate::unit::UnitName;
use crate::{boot, criu, faults, kernel, packages, sys};

/// The check found something that rules the update out; nothing was touched. The record says it, too.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Refused(String);

/// Checks and arms the update that `request` asks for, and starts the shutdown unless it is to be left to the
/// administrator. `kup-update.service` runs it.
///
/// # Errors
/// [`Refused`]; otherwise when the update was aborted: the record says why.
pub fn run(paths: &Paths, request: &UpdateRequest) -> Result<()> {
    let mut settings = Settings::load(paths)?;
    let lock = Lock::wait(&paths.lock(), Lock::MOMENT)?;
    let old = Record::load(&paths.record())?;
    match &old {
        Some(old) if !old.state().is_final() => {
            bail!("update {} is still {}; 'kup abort' gives it up", old.id, old.state().as_str());
        }
        // Whatever made it fail: an initrd of our own is what can be left out.
        Some(old) if matches!(old.state(), State::FellBack | State::Failed) => settings.initrd = Initrd::Stock,
        _ => {}
    }
    let target = choose_target(paths, request.target.as_deref())?;
    let mut record = Record::new(request.id.clone(), kernel::running(paths)?, kernel::boot_id(paths)?, target);
    record.stage_only = request.stage_only;
    record.reverses = request.reverses.clone();
    record.earlier_pin = old.and_then(|old| old.pin_to_inherit());
    let running = fs::read_to_string(paths.cmdline())?;
    go(paths, &settings, lock, record, &running, &|unit| request.allow_restart.contains(unit))
}

/// Takes `failed`, an update whose new kernel was found wanting after its units had been resumed, back: a new checkpoint
/// of the living units, and a switch to the kernel that they came from. A unit that cannot live through it starts cold.
///
/// # Errors
/// When the reverse update was refused or aborted: the units go on under the new kernel.
pub fn reverse(paths: &Paths, failed: &Record, reason: &str) -> Result<()> {
    let mut settings = Settings { initrd: Initrd::Stock, ..Settings::load(paths)? };
    // As the old kernel was booted: what was added to that may be what is wrong with the new one.
    settings.kernel_arguments = kernel::cmdline::common(&settings.kernel_arguments, &failed.cmdline).join(" ");
    let lock = Lock::wait(&paths.lock(), Lock::MOMENT)?;
    // What is still on its way cannot be stored again.
    memory::wait(&Systemd::connect()?, failed, bless::MEMORY_WITHIN)?;
    let target = choose_target(paths, Some(&failed.source))?;
    let mut record = Record::new(UpdateId::now(), kernel::running(paths)?, kernel::boot_id(paths)?, target);
    record.reverses = Some(failed.id.clone());
    record.earlier_pin = failed.pin_to_inherit();
    record.reason = Some(reason.into());
    tracing::error!("update {} takes update {} back: {reason}", record.id, failed.id);
    go(paths, &settings, lock, record, &failed.cmdline, &|_| true)
}

/// The way that every update goes: check, arm, and the switch, unless that is left to the administrator. The target is
/// booted with the words of `cmdline`.
fn go(
    paths: &Paths,
    settings: &Settings,
    lock: Lock,
    mut record: Record,
    cmdline: &str,
    may_restart: &dyn Fn(&UnitName) -> bool,
) -> Result<()> {
    check(paths, settings, &mut record, may_restart)?;
    let systemd = Systemd::connect()?;
    let armed = arm(paths, settings, &systemd, &mut record, cmdline);
    // Arming takes a while, and others may install packages one after the other.
    let armed = armed.and_then(|()| {
        ensure!(record.stage_only || !packages::are_changing(paths), "a package manager has begun to work");
        Ok(())
    });
    if let Err(e) = armed {
        undo::abort(paths, &systemd, &mut record, &format!("{e:#}"))?;
        return Err(e);
    }
    drop(lock);
    if record.stage_only { Ok(()) } else { switch(paths, &systemd) }
}

/// Asks all questions, and refuses the update where one has a blocker for an answer that is not accepted.
fn check(
    paths: &Paths,
    settings: &Settings,
    record: &mut Record,
    may_restart: &dyn Fn(&UnitName) -> bool,
) -> Result<()> {
    ballast::take(&paths.record()).context("there is no room to write down how the update goes")?;
    record.save(&paths.record())?;
    let phase = record.begin("check");
    let report = preflight::run(paths, settings, &[], Some(&record.target.release))?;
    sys::atomic::write(&paths.run_dir().join(UPDATE_REPORT), &serde_json::to_vec(&report)?, 0o600)?;
    record.end(phase);
    let accepted = accept(&report, record, may_restart);
    if let Err(e) = accepted.and_then(|()| memory::all_there(&Systemd::connect()?, record)) {
        let reason = format!("{e:#}");
        record.reason = Some(reason.clone());
        record.pin = record.earlier_pin.take();
        record.advance(Event::Refuse, &paths.record())?;
        bless::finish(paths, record)?;
        return Err(Refused(reason).into());
    }
    Ok(record.advance(Event::Pass, &paths.record())?)
}

/// The kernel that an update would go to.
///
/// # Errors
/// When there is none; says what to install.
pub fn choose_target(paths: &Paths, asked: Option<&str>) -> Result<TargetKernel> {
    let staged = kernel::Staged::read(paths)?.map(|s| s.release);
    let installed = kernel::discover(paths)?;
    Ok(kernel::choose_target(&installed, staged.as_deref(), asked, &kernel::running(paths)?)?)
}

/// Fills in the units, or says why the update is refused.
fn accept(report: &Report, record: &mut Record, may_restart: &dyn Fn(&UnitName) -> bool) -> Result<()> {
    let mut reasons: Vec<String> = blockers(&report.machine).map(|m| format!("this machine: {m}")).collect();
    for (name, findings) in &report.units {
        let why: Vec<&str> = blockers(findings).collect();
        let state = match (why.is_empty(), may_restart(name)) {
            (true, _) if findings.iter().any(|f| f.id == preflight::NOT_RUNNING) => continue,
            (true, _) => UnitState::Running,
            (false, true) => UnitState::Cold { reason: format!("accepted: {}", why.join("; ")) },
            (false, false) => {
                reasons.push(format!("{name}: {}", why.join("; ")));
                continue;
            }
        };
        record.units.insert(name.clone(), UnitRecord { state, ..UnitRecord::default() });
    }
    if reasons.is_empty() { Ok(()) } else { bail!("{}", reasons.join("; ")) }
}

fn blockers(findings: &[preflight::Finding]) -> impl Iterator<Item = &str> {
    findings.iter().filter(|f| f.severity == preflight::Severity::Blocker).map(|f| f.message.as_str())
}

fn arm(paths: &Paths, settings: &Settings, systemd: &Systemd, record: &mut Record, cmdline: &str) -> Result<()> {
    let phase = record.begin("arm");
    record.cmdline = fs::read_to_string(paths.cmdline())?;
    record.pid_floor = kernel::pid_floor(&pids_in_use()?);
    pin(paths, record)?;
    faults::at("arm.pinned")?;
    let mut extra = kernel::cmdline::split(&settings.kernel_arguments);
    let given = [kernel::cmdline::own(cmdline), extra.clone()].concat();
    let trial = trial::prepare(paths, systemd, settings, record, &given)?;
    extra.extend(trial.iter().map(String::as_str));
    let secret = if settings.encryption { encryption::prepare(paths, record)? } else { Vec::new() };
    extra.extend(secret.iter().map(String::as_str));
    load(paths, settings, record, cmdline, &extra)?;
    faults::at("arm.loaded")?;
    criu::warm();
    let mut targets = HashMap::new();
    for (name, unit) in record.units.iter_mut().filter(|(_, unit)| unit.state == UnitState::Running) {
        unit.start = start::earliest(systemd, name, &mut targets);
    }
    order::arrange(systemd, record)?;
    record.end(phase);
    record.advance(Event::Armed, &paths.record())?;
    Ok(faults::at("arm.armed")?)
}

/// Loads the target, with memory set aside for what stays in RAM.
fn load(paths: &Paths, settings: &Settings, record: &mut Record, running: &str, extra: &[&str]) -> Result<()> {
    let (id, pid_floor, target) = (record.id.clone(), record.pid_floor, with_initrd(paths, settings, &record.target));
    let cmdline = |more: &[String]| {
        let extra: Vec<&str> = extra.iter().copied().chain(more.iter().map(String::as_str)).collect();
        let words = Ours { direction: Direction::There, id: &id, pid_floor, extra: &extra };
        kernel::cmdline::make(running, &target.image, &words)
    };
    let tell = |more: &[String]| Ok(kernel::kexec::load_and_tell(paths, &target, &cmdline(more)?)?);
    let loaded = cmdline(&[]).map_err(Into::into).and_then(|line| {
        if !ram::prepare(paths, settings, record, line.len(), tell)? {
            kernel::kexec::load(paths, &target, &line)?;
        }
        Ok(())
    });
    initrd::clear(paths)?;
    loaded
}

/// The target as it is loaded. The record goes on naming the distribution's initrd: it is what the boot loader has, and what
/// a way back uses.
fn with_initrd(paths: &Paths, settings: &Settings, target: &TargetKernel) -> TargetKernel {
    let mut target = target.clone();
    if settings.initrd == Initrd::Small && target.initrd.is_some() {
        match initrd::build(paths, &target.release) {
            Ok(Some(small)) => {
                tracing::info!("the target begins with an initrd for this machine alone");
                target.initrd = Some(small);
            }
            Ok(None) => {}
            Err(e) => tracing::warn!("the target begins with the distribution's initrd: {e:#}"),
        }
    }
    target
}

/// Recorded first: what the pin replaces must be known also when the machine goes down while it is made.
fn pin(paths: &Paths, record: &mut Record) -> Result<()> {
    let loader = boot::detect(paths)?;
    let old = record.old_kernel().to_owned();
    let pin = record.pin.insert(loader.plan(&old)?).clone();
    record.save(&paths.record())?;
    loader.pin(&pin, &old).with_context(|| format!("the boot loader cannot be pinned to kernel {old}"))
}

/// Every PID and thread id of now: the services' own are among them, and none of theirs may be given out again.
fn pids_in_use() -> Result<Vec<i32>> {
    let last: i32 = fs::read_to_string("/proc/sys/kernel/ns_last_pid")?.trim().parse()?;
    let mut used = vec![last];
    for entry in fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<i32>().ok()) else { continue };
        let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        used.extend(threads.filter_map(|t| t.file_name().to_str()?.parse::<i32>().ok()));
    }
    Ok(used)
}

/// Starts the shutdown that ends in the kexec, as an administrator would.
fn switch(paths: &Paths, systemd: &Systemd) -> Result<()> {
    let output = Command::new("systemctl").args(["--no-wall", "kexec"]).output().context("cannot start systemctl")?;
    if output.status.success() {
        return Ok(());
    }
    let reason = format!("systemctl kexec: {}", String::from_utf8_lossy(&output.stderr).trim());
    let _lock = Lock::wait(&paths.lock(), Lock::MOMENT)?;
    if let Some(mut record) = Record::load(&paths.record())?.filter(|r| r.state() == State::Armed) {
        undo::abort(paths, systemd, &mut record, &reason)?;
    }
    bail!(reason)
}

/// The units of a record by how they stand, for a log line.
pub fn summary(units: &BTreeMap<UnitName, UnitRecord>) -> String {
    let words: Vec<String> = units.iter().map(|(n, u)| format!("{n} {}", u.state.as_str())).collect();
    if words.is_empty() { "no unit is marked".into() } else { words.join(", ") }
}
