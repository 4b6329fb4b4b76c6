//! Having systemd build the sandboxes of units that are to be restored, as early as they can be built.

use std::collections::{HashMap, HashSet};
use std::fs::DirBuilder;
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::systemd::{Start, Systemd, USERS};
use crate::unit::UnitName;

const POLL: Duration = Duration::from_millis(50);
/// A boot that has taken so long is asked less often.
const PATIENCE: Duration = Duration::from_secs(30);
const SELDOM: Duration = Duration::from_secs(1);

/// What all sandboxes are made of: profiles of AppArmor, without which they are none, a root file system as it will be, the
/// kernel's settings; and what would be open for writing in a sandbox that is to have /proc/sys read-only, if it were mounted
/// later.
const FOR_SANDBOXES: [&str; 4] =
    ["apparmor.service", "systemd-remount-fs.service", "systemd-sysctl.service", "proc-sys-fs-binfmt_misc.mount"];
/// Makes and clears directories that all tasks share: sandboxes may be there before, tasks must not.
const DIRECTORIES: &str = "systemd-tmpfiles-setup.service";
/// What tasks rely on besides: devices are there by then, and packets from peers do not meet closed ports.
const FOR_TASKS: [&str; 3] = [DIRECTORIES, "local-fs.target", "kup-netlock.service"];

/// When the sandbox of `unit` may be built in the new boot. Asked for before, as PID 1 has all of the boot to do when it is
/// needed.
pub fn earliest(systemd: &Systemd, unit: &UnitName, targets: &mut HashMap<String, Vec<String>>) -> Option<Start> {
    let start = systemd.earliest(unit.as_str(), targets);
    start.inspect_err(|e| tracing::warn!("{unit} will start in its turn: {e:#}")).ok()
}

/// Starts `units`. A unit need not be enabled: what ran before the switch runs after it. Those whose sandbox needs little
/// of the boot do not wait for their turn in it; where that comes to nothing they have it still. Returns when there is
/// nothing more to hasten, or nobody holds the other end of `wanted` any more.
pub fn start_all(systemd: &Systemd, units: &[(UnitName, Option<Start>)], wanted: &Receiver<()>) {
    let begun = Instant::now();
    let poll = || if begun.elapsed() < PATIENCE { POLL } else { SELDOM };
    let pause = || wanted.recv_timeout(poll()) == Err(RecvTimeoutError::Timeout);
    // As tmpfiles does when its turn comes: a sandbox that has none yet would not hide what will be in it.
    match DirBuilder::new().mode(0o755).create(USERS) {
        Err(e) if e.kind() != ErrorKind::AlreadyExists => tracing::warn!("{USERS}: {e}"),
        _ => {}
    }
    // Mostly the boot starts it by itself; to ask for it once more would have systemd go through all that it needs again.
    let queued = systemd.queued().unwrap_or_default();
    for (unit, _) in units.iter().filter(|(unit, _)| !queued.contains(unit.as_str())) {
        // In its turn, with all that it asks for: also what a unit that starts ahead does not wait for.
        if let Err(e) = systemd.start(unit.as_str()) {
            tracing::error!("{unit}: {e:#}");
        }
    }
    let names: HashSet<String> = units.iter().map(|(unit, _)| unit.as_str().to_owned()).collect();
    let mut ahead = Ahead { systemd, held: names, all_held: false, waiting: Vec::new() };
    let mut late: Vec<_> = units.iter().filter(|(unit, start)| ahead.add(unit, start.as_ref()).is_err()).collect();
    ahead.hasten();
    while !(ahead.waiting.is_empty() && late.is_empty()) && pause() {
        if !late.is_empty() && !is_any_awaited(systemd, &[DIRECTORIES]) {
            // What was missing may be there now.
            for (unit, start) in late.drain(..) {
                if let Err(why) = ahead.add(unit, start.as_ref()) {
                    tracing::info!("{unit} starts in its turn: {why}");
                    ahead.add_in_its_turn(unit);
                }
            }
        }
        ahead.hasten();
    }
}

/// Waits until tasks may run: what lies in directories that all share is what this boot begins with, and nobody is told that
/// a connection is gone.
///
/// # Errors
/// When that is not so by `deadline`.
pub fn wait_for_tasks(systemd: &Systemd, deadline: Instant) -> Result<()> {
    while is_any_awaited(systemd, &FOR_TASKS) {
        ensure!(Instant::now() < deadline, "{} were not done in time", FOR_TASKS.join(", "));
        std::thread::sleep(POLL);
    }
    Ok(())
}

/// Has this boot still to get to one of `units`? Where PID 1 does not tell, it may.
fn is_any_awaited(systemd: &Systemd, units: &[&str]) -> bool {
    systemd.queued_of(&units.iter().copied().collect()).map_or(true, |queued| !queued.is_empty())
}

/// Units that start ahead of their turn, as soon as what each waits for is there.
struct Ahead<'a> {
    systemd: &'a Systemd,
    /// All that are to be restored, and what waits for them: whoever waits for one of those waits for ever, as all units
    /// are handed over together.
    held: HashSet<String>,
    /// Is that known? PID 1 takes its time to tell, and few wait for others.
    all_held: bool,
    waiting: Vec<(&'a UnitName, Vec<String>)>,
}

impl<'a> Ahead<'a> {
    /// Takes `unit` in, or says why it starts in its turn.
    fn add(&mut self, unit: &'a UnitName, start: Option<&Start>) -> Result<(), String> {
        let (after, paths) = match start {
            Some(Start::Ahead { after, paths }) => (after, paths),
            Some(Start::InItsTurn(why)) => return Err(why.clone()),
            None => return Err("the checkpoint could not tell what its sandbox needs".into()),
        };
        if let Some(path) = paths.iter().find(|path| !Path::new(path).exists()) {
            return Err(format!("its sandbox is to have {path}, which is not there"));
        }
        let waits_for = after.iter().filter(|other| !self.held.contains(*other)).cloned();
        self.waiting.push((unit, waits_for.chain(FOR_SANDBOXES.map(str::to_owned)).collect()));
        Ok(())
    }

    /// Finds out what is held beside the units themselves.
    fn hold(&mut self) {
        self.all_held = true;
        match self.systemd.held_by(self.held.iter().map(String::as_str)) {
            Ok(held) => {
                self.waiting.iter_mut().for_each(|(_, waits_for)| waits_for.retain(|other| !held.contains(other)));
                self.held = held;
            }
            Err(e) => tracing::warn!("what waits for units that are restored may be waited for: {e:#}"),
        }
    }

    /// Sees to a unit whose turn never comes, because systemd has it wait for something that is held.
    fn add_in_its_turn(&mut self, unit: &'a UnitName) {
        if !self.all_held {
            self.hold();
        }
        match self.systemd.after(unit.as_str()) {
            Ok(after) if after.iter().any(|other| self.held.contains(other)) => {
                let waits_for = after.into_iter().filter(|other| !self.held.contains(other)).collect();
                self.waiting.push((unit, waits_for));
            }
            Ok(_) => {}
            Err(e) => tracing::warn!("{unit}: {e:#}"),
        }
    }

    /// Starts what has nothing to wait for any more, and keeps the rest.
    fn hasten(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        let others = self.waiting.iter().flat_map(|(_, waits_for)| waits_for).map(String::as_str);
        let names = self.waiting.iter().map(|(unit, _)| unit.as_str()).chain(others).collect();
        let queued = match self.systemd.queued_of(&names) {
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
        let for_all = |other: &String| FOR_SANDBOXES.contains(&other.as_str());
        if !self.all_held && self.waiting.iter().any(|(_, waits_for)| !waits_for.iter().all(for_all)) {
            self.hold();
        }
    }
}
