//! All units brought back under one barrier: restored frozen, written down as resumed, then released together.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::hurry::Hurry;
use super::meeting::{Chair, Seat};
use super::network::Network;
use super::restore_unit::Placeholder;
use super::{Record, UnitRecord, UnitState, affinity, memory, now_usec, oom, start, timers};
use crate::config::Settings;
use crate::faults;
use crate::paths::Paths;
use crate::sys::freezer::{self, Freezer};
use crate::systemd::Systemd;
use crate::unit::{Fallback, UnitName};

/// A unit whose tasks run again.
pub struct Resumed {
    /// Which.
    pub unit: UnitName,
    /// What stood in its place until now.
    pub placeholder: Placeholder,
    /// Its main process.
    pub pid: i32,
}

/// The restore of every unit whose image may be resumed.
pub struct RestoreAll<'a> {
    paths: &'a Paths,
    systemd: &'a Systemd,
    timeout: Duration,
    network: &'a Network,
    hurry: &'a Hurry<'a>,
    /// Is this the last chance of the images?
    last_chance: bool,
}

impl<'a> RestoreAll<'a> {
    /// Somebody has to watch `network`. With `last_chance`, a unit that cannot be restored starts cold.
    pub fn new(
        paths: &'a Paths,
        systemd: &'a Systemd,
        settings: &Settings,
        network: &'a Network,
        hurry: &'a Hurry<'a>,
        last_chance: bool,
    ) -> Self {
        let seconds = settings.address_timeout_sec + settings.restore_timeout_sec;
        Self { paths, systemd, timeout: Duration::from_secs(seconds), network, hurry, last_chance }
    }

    /// Restores all units at the same time, up to the point before their tasks run; then writes down that they run, and
    /// lets them.
    ///
    /// # Errors
    /// When that cannot be written, or a unit cannot be restored that has another chance. No unit was resumed then.
    pub fn run(&self, record: &mut Record) -> Result<Vec<Resumed>> {
        let units: Vec<(UnitName, UnitRecord)> =
            record.units.iter().filter(|(_, u)| u.state.may_resume()).map(|(n, u)| (n.clone(), u.clone())).collect();
        let (chair, seats) = Chair::call(units.iter().map(|(n, _)| n.clone()));
        let deadline = Instant::now() + self.timeout;
        let images = self.paths.images(record.id.as_str());
        let resumed = thread::scope(|scope| {
            let threads: Vec<_> = units
                .iter()
                .zip(seats)
                .map(|((name, unit), seat)| {
                    let images = images.join(name.as_str());
                    scope.spawn(move || self.restore_one(name, unit, &images, seat, deadline))
                })
                .collect();
            let failures = self.hear(&chair, &units, deadline);
            let verdict = self.commit(record, &units, failures);
            let go = verdict.is_ok();
            if go {
                let _ = faults::at("restore.resumed");
            }
            chair.decide(|_| go);
            let resumed = threads.into_iter().filter_map(|t| t.join().ok().flatten()).collect::<Vec<_>>();
            verdict.map(|()| resumed)
        })?;
        release(&resumed, &units);
        self.note_losses(record, &units, &resumed)?;
        Ok(resumed)
    }

    /// Hears every unit. One that is not there in time is ended, CRIU included: both live in its control group.
    fn hear(&self, chair: &Chair<()>, units: &[(UnitName, UnitRecord)], deadline: Instant) -> Vec<(UnitName, String)> {
        let (mut reports, silent) = chair.hear_until(deadline);
        for name in silent {
            end_tasks(self.systemd, &name);
            let reason = format!("it was not restored within {} s", self.timeout.as_secs());
            reports.push(super::meeting::Report { unit: name, word: Err(reason) });
        }
        debug_assert_eq!(reports.len(), units.len());
        // A pager that has given up meanwhile has ended its unit.
        for report in reports.iter_mut().filter(|r| r.word.is_ok() && memory::is_lost(self.systemd, &r.unit)) {
            report.word = Err("its memory was lost".into());
        }
        reports.into_iter().filter_map(|r| Some((r.unit, r.word.err()?))).collect()
    }

    /// From its end on no image may be used again: this is written, and synced, before a single task runs.
    fn commit(
        &self,
        record: &mut Record,
        units: &[(UnitName, UnitRecord)],
        failures: Vec<(UnitName, String)>,
    ) -> Result<()> {
        let another_chance = |name: &UnitName| record.units.get(name).is_some_and(|u| u.fallback == Fallback::Disk);
        let to_go_back_for = failures.iter().filter(|(name, _)| !self.last_chance && another_chance(name));
        let reasons: Vec<String> =
            to_go_back_for.map(|(name, why)| format!("{name} cannot be restored: {why}")).collect();
        if !reasons.is_empty() {
            record.reason = Some(reasons.join("; "));
            record.save(&self.paths.record())?;
            bail!(reasons.join("; "));
        }
        faults::at("restore.frozen")?;
        for (name, _) in units {
            let Some(unit) = record.units.get_mut(name) else { continue };
            unit.state = match failures.iter().find(|(failed, _)| failed == name) {
                None => UnitState::Resumed,
                Some((_, reason)) => {
                    tracing::error!("{name} cannot be restored and starts cold: {reason}");
                    UnitState::Cold { reason: reason.clone() }
                }
            };
        }
        let written = record.save(&self.paths.record());
        if written.is_err() {
            // What the disk says now is not known: these images are not used here. A boot that finds them unused may.
            for (name, unit) in units {
                record.units.insert(name.clone(), unit.clone());
            }
        }
        written.context("no unit was resumed, because that could not be written down")
    }

    /// Restores one unit up to the verdict; `None` where it came to nothing.
    fn restore_one(
        &self,
        name: &UnitName,
        unit: &UnitRecord,
        images: &std::path::Path,
        mut seat: Seat<()>,
        deadline: Instant,
    ) -> Option<Resumed> {
        let result = (|| {
            let before = Freezer::of(&unit.cgroup);
            let placeholder = Placeholder::wait(self.systemd, name, &before, self.hurry, deadline)?;
            let begun = now_usec();
            start::wait_for_tasks(self.systemd, deadline)?;
            memory::listen(self.systemd, name, self.timeout)?;
            if unit.inet {
                self.network.pass();
            }
            let pid = placeholder.restore(unit, images, |criu| {
                let ready = prepare(unit, &placeholder, criu);
                let go = match ready {
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
            });
            if pid.is_err()
                && let Err(e) = placeholder.freezer().thaw()
            {
                tracing::error!("{name}: {e}");
            }
            let pid = pid?;
            tracing::info!("{name} is there as {pid}, {} ms after its sandbox was", (now_usec() - begun) / 1000);
            Ok::<_, anyhow::Error>(Resumed { unit: name.clone(), placeholder, pid })
        })();
        let report = |e: &anyhow::Error| {
            memory::stop(self.systemd, name);
            seat.fail(format!("{e:#}"));
        };
        result.inspect_err(report).ok()
    }

    /// Units whose tasks died between the commit and their first step.
    fn note_losses(&self, record: &mut Record, units: &[(UnitName, UnitRecord)], resumed: &[Resumed]) -> Result<()> {
        let lost = units.iter().map(|(n, _)| n).filter(|n| !resumed.iter().any(|r| r.unit == **n));
        for name in lost {
            if let Some(unit) = record.units.get_mut(name).filter(|u| u.state == UnitState::Resumed) {
                unit.state = UnitState::Cold { reason: "its tasks died as they were resumed".into() };
            }
        }
        Ok(record.save(&self.paths.record())?)
    }
}

/// Ends everything in the unit's control group: placeholder, CRIU, tasks that are restored half-way.
pub fn end_tasks(systemd: &Systemd, name: &UnitName) {
    let status = systemd.status(name.as_str());
    if let Err(e) = status.and_then(|s| Ok(Freezer::of(&s.cgroup).kill()?)) {
        tracing::error!("{name}: {e:#}");
    }
}

/// Releases units that are written down as resumed, and that whoever restored them has left frozen. A unit whose tasks
/// are gone is cold.
pub fn found(systemd: &Systemd, record: &mut Record) -> Vec<Resumed> {
    let units: Vec<(UnitName, UnitRecord)> = record.units.iter().map(|(n, u)| (n.clone(), u.clone())).collect();
    let mut resumed = Vec::new();
    for (name, unit) in units.iter().filter(|(_, u)| u.state == UnitState::Resumed) {
        let Ok(status) = systemd.status(name.as_str()) else {
            // It cannot be handed over, but need not stand still for that.
            if let Err(e) = Freezer::of(&unit.cgroup).thaw() {
                tracing::error!("{name} stays frozen: {e}");
            }
            continue;
        };
        if status.main_pid == unit.main_pid {
            continue;
        }
        let placeholder = Placeholder::of(&status).ok().flatten();
        match placeholder.filter(|p| p.has(unit.main_pid)) {
            Some(placeholder) => resumed.push(Resumed { unit: name.clone(), placeholder, pid: unit.main_pid }),
            None => {
                let reason = "its tasks died as they were resumed".into();
                record.units.entry(name.clone()).or_default().state = UnitState::Cold { reason };
            }
        }
    }
    release(&resumed, &units);
    resumed
}

/// What has to be done to tasks that CRIU has restored and still holds. They are frozen first: were kup to die now, CRIU
/// would let go of tasks whose image still counts as unused. CRIU itself, which was started in their control group, is not to
/// stand still with them.
fn prepare(unit: &UnitRecord, placeholder: &Placeholder, criu: i32) -> Result<()> {
    freezer::join_ours(criu).context("CRIU cannot leave the unit's control group")?;
    placeholder.freezer().freeze().context("its control group cannot be frozen")?;
    affinity::restore(&unit.cpus);
    oom::restore(&unit.pids, &unit.oom);
    timers::rearm(&unit.timers)
}

/// Lets all restored units run, one right after the other.
fn release(resumed: &[Resumed], units: &[(UnitName, UnitRecord)]) {
    for r in resumed {
        if let Err(e) = r.placeholder.freezer().thaw() {
            tracing::error!("{} stays frozen: {e}", r.unit);
        }
    }
    for r in resumed {
        if let Some((name, unit)) = units.iter().find(|(name, unit)| *name == r.unit && unit.mdwe) {
            deny_write_execute(name, unit);
        }
    }
}

/// MemoryDenyWriteExecute= is the one restriction that CRIU does not bring back. The task itself has to ask for it, so it
/// runs by then.
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
