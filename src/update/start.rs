//! Having systemd build the sandboxes of units that are to be restored, as early as they can be built.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::systemd::{Start, Systemd};
use crate::unit::UnitName;

const POLL: Duration = Duration::from_millis(50);
/// A unit that has waited so long has its turn soon.
const PATIENCE: Duration = Duration::from_secs(60);

/// AppArmor's profiles: a sandbox that is built before them is none.
const PROFILES: &str = "apparmor.service";
/// Makes and clears directories that all tasks share: sandboxes may be there before, tasks must not.
const DIRECTORIES: &str = "systemd-tmpfiles-setup.service";

/// Starts `units`. A unit need not be enabled: what ran before the switch runs after it. Those whose sandbox needs little
/// of the boot do not wait for their turn in it; where that comes to nothing they have it still. Returns when there is
/// nothing more to hasten, or nobody holds the other end of `wanted` any more.
pub fn start_all(systemd: &Systemd, units: &[UnitName], wanted: &Receiver<()>) {
    let deadline = Instant::now() + PATIENCE;
    let pause = || wanted.recv_timeout(POLL) == Err(RecvTimeoutError::Timeout) && Instant::now() < deadline;
    // Mostly the boot starts it by itself; to ask for it once more would have systemd go through all that it needs again.
    let queued = systemd.queued().unwrap_or_default();
    for unit in units.iter().filter(|u| !queued.contains(u.as_str())) {
        // In its turn, with all that it asks for: also what a unit that starts ahead does not wait for.
        if let Err(e) = systemd.start(unit.as_str()) {
            tracing::error!("{unit}: {e:#}");
        }
    }
    while is_awaited(systemd, PROFILES) {
        if !pause() {
            return;
        }
    }
    let mut ahead = Ahead { systemd, units, waiting: Vec::new() };
    let mut late: Vec<&UnitName> = units.iter().filter(|unit| ahead.add(unit).is_err()).collect();
    while !(ahead.waiting.is_empty() && late.is_empty()) && pause() {
        if !late.is_empty() && !is_awaited(systemd, DIRECTORIES) {
            // What was missing may be there now.
            for unit in late.drain(..) {
                if let Err(why) = ahead.add(unit) {
                    tracing::info!("{unit} starts in its turn: {why}");
                }
            }
        }
        ahead.hasten();
    }
}

/// Waits until what lies in directories that all tasks share is what this boot begins with.
///
/// # Errors
/// When that is not so by `deadline`.
pub fn wait_for_directories(systemd: &Systemd, deadline: Instant) -> Result<()> {
    while is_awaited(systemd, DIRECTORIES) {
        ensure!(Instant::now() < deadline, "{DIRECTORIES} was not done in time");
        std::thread::sleep(POLL);
    }
    Ok(())
}

/// Has this boot still to get to `unit`? Where PID 1 does not tell, it may.
fn is_awaited(systemd: &Systemd, unit: &str) -> bool {
    systemd.activity(unit).map_or(true, |(_, queued)| queued)
}

/// Units that start ahead of their turn, as soon as what each waits for is there.
struct Ahead<'a> {
    systemd: &'a Systemd,
    /// All that are to be restored.
    units: &'a [UnitName],
    waiting: Vec<(&'a UnitName, Vec<String>)>,
}

impl<'a> Ahead<'a> {
    /// Takes `unit` in, or says why it starts in its turn.
    fn add(&mut self, unit: &'a UnitName) -> Result<(), String> {
        let peers = |name: &str| self.units.iter().any(|u| u.as_str() == name);
        match self.systemd.earliest(unit.as_str(), peers) {
            Ok(Start::Ahead(waits_for)) => self.waiting.push((unit, waits_for)),
            Ok(Start::InItsTurn(why)) => return Err(why),
            Err(e) => return Err(format!("{e:#}")),
        }
        // Those before it may be ready meanwhile.
        self.hasten();
        Ok(())
    }

    /// Starts what has nothing to wait for any more, and keeps the rest.
    fn hasten(&mut self) {
        let queued = match self.systemd.queued() {
            Ok(queued) => queued,
            Err(e) => {
                tracing::warn!("units start in their turn: {e:#}");
                return self.waiting.clear();
            }
        };
        let systemd = self.systemd;
        self.waiting.retain_mut(|(unit, waits_for)| {
            waits_for.retain(|other| queued.contains(other));
            if !waits_for.is_empty() {
                // Without a job of its own it has had its turn.
                return queued.contains(unit.as_str());
            }
            if let Err(e) = systemd.start_alone(unit.as_str()) {
                tracing::warn!("{unit} starts in its turn: {e:#}");
            }
            false
        });
    }
}
