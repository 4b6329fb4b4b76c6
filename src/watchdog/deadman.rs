//! The timer over the switch: planned, prepared, started, stopped.

use std::io;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::choice::choose;
use super::device::{self, Device, devices, driven_by};
use super::driver::{self, Probe};
use super::modules;
use super::pid1::{self, Pid1, Setting};
use super::timer;
use crate::paths::Paths;
use crate::sys::watchdog::Watchdog;

/// A device is there a moment after its module was loaded.
const DEVICE_COMES_WITHIN: Duration = Duration::from_secs(5);

/// The watchdog of one update, and what was in force before. It goes into the record before [`Deadman::prepare`], so that
/// any process can put everything back.
///
/// The timer is our own, started at the end of the checkpoint, and `KExecWatchdogSec=` is off meanwhile. systemd could do it,
/// too: PID 1 would start the timer at the end of the shutdown, and systemd-shutdown ping it up to the kexec. But it only logs
/// when that fails, and stops the timer then (watchdog_open()); it takes its own device, which need not be one that is known
/// here; and it begins when services are down already, so that a shutdown that hangs would leave the machine dead. Ours is seen
/// to run before anything is lost, and with systemd's settings at 0 neither PID 1 nor systemd-shutdown touches it
/// (watchdog_setup(0) closes what they have open, which is nothing). The price: the shutdown counts, too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deadman {
    /// The device when it was planned, such as `watchdog0`, for people. It is found again by its driver.
    pub device: String,
    /// Its driver's module.
    pub driver: String,
    /// What the timer is set to, in seconds.
    pub timeout: u32,
    /// When the machine is reset: so many seconds after [`Deadman::start`], unless the new kernel is blessed by then.
    pub fires_after: u32,
    /// Drivers that are loaded anew with the core, so that the kexec does not stop the timer; empty where none has to be.
    pub reload: Vec<String>,
    /// The core's `stop_on_reboot` before that.
    pub stop_on_reboot: i32,
    /// `RuntimeWatchdogUSec` of systemd, if it is this device that it has open; else 0.
    pub runtime_usec: u64,
    /// `KExecWatchdogUSec` of systemd.
    pub kexec_usec: u64,
    /// Words for the target's command line.
    pub words: Vec<String>,
}

impl Deadman {
    /// Looks for a watchdog that can reset the machine `seconds` (`DeadmanSec`) after it was started and be stopped by the
    /// kernel `target`. Touches nothing; `None` where `seconds` is 0.
    ///
    /// # Errors
    /// [`super::Unavailable`], which is no reason to give an update up, or systemd does not answer.
    pub fn plan(paths: &Paths, pid1: &dyn Pid1, seconds: u32, target: &str) -> Result<Option<Self>> {
        if seconds == 0 {
            return Ok(None);
        }
        let choice = choose(paths, seconds, Some(target))?;
        let is_pid1s = device::holder(paths, &choice.device.name).is_some_and(|h| h.pid == 1);
        Ok(Some(Self {
            device: choice.device.name,
            driver: choice.driver.module.into(),
            timeout: choice.timeout,
            fires_after: choice.fires_after,
            reload: choice.reload,
            stop_on_reboot: modules::stop_on_reboot(paths).unwrap_or(-1),
            runtime_usec: if is_pid1s { pid1.get(Setting::Runtime)? } else { 0 },
            kexec_usec: pid1.get(Setting::KExec)?,
            words: choice.driver.words(),
        }))
    }

    /// Makes the timer one that runs on over a kexec. systemd goes on pinging the device until [`Deadman::start`].
    ///
    /// # Errors
    /// When modules cannot be loaded anew; everything is then as before, as far as the error does not say otherwise.
    pub fn prepare(&self, paths: &Paths, pid1: &dyn Pid1) -> Result<()> {
        if self.reload.is_empty() || modules::stop_on_reboot(paths) == Some(0) {
            return Ok(());
        }
        let done = self.without_pid1(pid1, || modules::reload(paths, &self.reload, 0)).and_then(|()| self.wait(paths));
        done.map(drop).map_err(|e| {
            let e = e.context(format!("{} cannot be made to run on over a kexec", self.device));
            match self.undo(paths, pid1) {
                Ok(()) => e,
                Err(also) => e.context(format!("{also:#}")),
            }
        })
    }

    /// Starts the timer and leaves it alone: from here on the machine is reset in [`Deadman::fires_after`] seconds, unless
    /// [`Deadman::disarm`] is called in the new boot, or [`Deadman::undo`] in this one.
    ///
    /// # Errors
    /// When it does not run for certain; it is stopped then, and systemd has its device back.
    pub fn start(&self, paths: &Paths, pid1: &dyn Pid1) -> Result<()> {
        self.try_start(paths, pid1).map_err(|e| match self.stop(paths).and_then(|()| self.hand_back(pid1)) {
            Ok(()) => e.context("no watchdog runs over the switch"),
            Err(also) => e.context(format!("a watchdog may have been left running: {also:#}")),
        })
    }

    fn try_start(&self, paths: &Paths, pid1: &dyn Pid1) -> Result<()> {
        pid1::turn_off(pid1, Setting::KExec)?;
        self.release(pid1)?;
        let device = self.wait(paths)?;
        let node = device.node(paths);
        let mut timer = Watchdog::open(&node).with_context(|| format!("cannot open {}", node.display()))?;
        match timer.set_timeout(self.timeout).and_then(|set| timer.ping().map(|()| set)) {
            Ok(set) if set == self.timeout => drop(timer),
            other => {
                timer.stop()?;
                other.with_context(|| format!("{} cannot be set to {} s", self.device, self.timeout))?;
                bail!("{} takes {} s for something else", self.device, self.timeout);
            }
        }
        let now = self.wait(paths)?;
        if !now.active || now.timeout != self.timeout {
            let state = if now.active { "runs" } else { "does not run" };
            bail!("{} {state} (set to {} s) after it was started with {} s", now.name, now.timeout, self.timeout);
        }
        Ok(())
    }

    /// Puts everything back in the boot in which it was planned: timer stopped, modules as before, systemd's settings.
    /// Harmless where nothing was done, or twice.
    ///
    /// # Errors
    /// What could not be put back; the rest is.
    pub fn undo(&self, paths: &Paths, pid1: &dyn Pid1) -> Result<()> {
        let stopped = self.stop(paths);
        let reloaded = if self.reload.is_empty() || modules::stop_on_reboot(paths) == Some(self.stop_on_reboot) {
            Ok(())
        } else {
            self.without_pid1(pid1, || modules::reload(paths, &self.reload, self.stop_on_reboot))
        };
        let back = self.hand_back(pid1);
        stopped.and(reloaded).and(back)
    }

    /// Stops the timer in the boot after the switch, or of the old kernel after a fallback, where systemd's settings are those
    /// of a fresh boot. The driver is left loaded. Harmless where the timer does not run, or twice.
    ///
    /// # Errors
    /// When the timer cannot be stopped; systemd was asked to ping it from now on if it is known to run.
    pub fn disarm(&self, paths: &Paths, pid1: &dyn Pid1) -> Result<()> {
        modules::load(&self.driver)?;
        let device = self.wait(paths)?;
        // Where systemd uses the device (it takes it as soon as it is there), it is pinged, and all is well.
        if device::holder(paths, &device.name).is_some() {
            return Ok(());
        }
        let stopped_by_loading = driver::find(&self.driver).is_ok_and(|d| d.probe == Probe::Stops);
        if !device.active && stopped_by_loading {
            return Ok(());
        }
        timer::stop(paths, &self.driver).or_else(|e| {
            let usec = u64::from(self.timeout) * 1_000_000;
            pid1.set(Setting::Runtime, usec).with_context(|| format!("{e:#}, and systemd does not ping it"))?;
            Err(e.context("systemd pings it from now on"))
        })
    }

    /// Stops the timer if it is ours: it runs, and nobody has the device open.
    fn stop(&self, paths: &Paths) -> Result<()> {
        let runs = driven_by(paths, &self.driver)?.is_some_and(|d| d.active);
        if runs { timer::stop(paths, &self.driver) } else { Ok(()) }
    }

    /// The device, once it is there.
    fn wait(&self, paths: &Paths) -> Result<Device> {
        let deadline = Instant::now() + DEVICE_COMES_WITHIN;
        loop {
            match driven_by(paths, &self.driver)? {
                Some(device) if device.node(paths).exists() => return Ok(device),
                _ if Instant::now() > deadline => bail!("there is no watchdog of the driver {}", self.driver),
                _ => std::thread::sleep(Duration::from_millis(50)),
            }
        }
    }

    /// Runs `action` while systemd leaves the device alone.
    fn without_pid1(&self, pid1: &dyn Pid1, action: impl FnOnce() -> Result<()>) -> Result<()> {
        self.release(pid1)?;
        let done = action();
        let back = self.hand_back_runtime(pid1);
        done.and(back)
    }

    fn release(&self, pid1: &dyn Pid1) -> Result<()> {
        if self.runtime_usec == 0 { Ok(()) } else { pid1::turn_off(pid1, Setting::Runtime) }
    }

    fn hand_back(&self, pid1: &dyn Pid1) -> Result<()> {
        self.hand_back_runtime(pid1).and(pid1::put_back(pid1, Setting::KExec, self.kexec_usec))
    }

    fn hand_back_runtime(&self, pid1: &dyn Pid1) -> Result<()> {
        if self.runtime_usec == 0 { Ok(()) } else { pid1::put_back(pid1, Setting::Runtime, self.runtime_usec) }
    }
}

/// Whether it was a watchdog that reset the machine before this boot, as far as a driver tells (iTCO_wdt does not).
///
/// # Errors
/// When the watchdogs cannot be looked at.
pub fn has_fired(paths: &Paths) -> io::Result<bool> {
    Ok(devices(paths)?.iter().any(|d| d.has_fired))
}

#[cfg(test)]
mod tests {
    use super::super::pid1::fake::Fake;
    use super::super::tree::Tree;
    use super::*;

    /// A machine whose timer need not be made to run on, so that no module is touched.
    fn machine() -> Tree {
        let tree = Tree::new();
        tree.kernel("6.12.2", "i6300esb");
        tree.watchdog(0, "i6300ESB timer", Some("i6300esb"));
        tree.put("/sys/module/watchdog/parameters/stop_on_reboot", "0\n");
        tree.put("/dev/watchdog0", "");
        tree
    }

    fn with_systemd(tree: &Tree) -> Fake {
        tree.link("/proc/1/fd/9", "/dev/watchdog0");
        Fake { configured: [20_000_000, 7], ..Fake::default() }
    }

    #[test]
    fn planned_and_recorded() {
        let tree = machine();
        let plan = |seconds| Deadman::plan(&tree.paths, &Fake::default(), seconds, "6.12.2");
        assert_eq!(plan(0).unwrap(), None);
        assert!(plan(5000).unwrap_err().to_string().contains("2046 s"));
        let deadman = plan(300).unwrap().unwrap();
        assert_eq!((deadman.runtime_usec, deadman.stop_on_reboot), (0, 0));
        let text = serde_json::to_string(&deadman).unwrap();
        assert_eq!(serde_json::from_str::<Deadman>(&text).unwrap(), deadman);
        assert!(serde_json::from_str::<Deadman>(&text.replace("words", "phrases")).is_err());
        let fake = with_systemd(&tree);
        let deadman = Deadman::plan(&tree.paths, &fake, 300, "6.12.2").unwrap().unwrap();
        assert_eq!((deadman.runtime_usec, deadman.kexec_usec), (20_000_000, 7));
    }

    #[test]
    fn what_does_not_start_is_handed_back() {
        let tree = machine();
        let fake = with_systemd(&tree);
        let deadman = Deadman::plan(&tree.paths, &fake, 300, "6.12.2").unwrap().unwrap();
        deadman.prepare(&tree.paths, &fake).unwrap();
        assert!(fake.calls.borrow().is_empty(), "nothing had to be done");
        // An ordinary file takes no timeout.
        let error = format!("{:#}", deadman.start(&tree.paths, &fake).unwrap_err());
        assert!(error.contains("no watchdog runs over the switch") && error.contains("300 s"), "{error}");
        assert_eq!(*fake.overridden.borrow(), [None, None]);
        assert_eq!(std::fs::read_to_string(tree.paths.at("/dev/watchdog0")).unwrap(), "V", "stopped");
    }

    #[test]
    fn undo_puts_back_whatever_was_done() {
        let tree = machine();
        let fake = with_systemd(&tree);
        let deadman = Deadman::plan(&tree.paths, &fake, 300, "6.12.2").unwrap().unwrap();
        deadman.undo(&tree.paths, &fake).unwrap();
        assert!(fake.calls.borrow().is_empty(), "nothing was done");
        for setting in [Setting::Runtime, Setting::KExec] {
            fake.set(setting, 0).unwrap();
        }
        std::fs::remove_file(tree.paths.at("/proc/1/fd/9")).unwrap();
        tree.put("/sys/class/watchdog/watchdog0/state", "active\n");
        let error = deadman.undo(&tree.paths, &fake).unwrap_err().to_string();
        assert!(error.contains("watchdog0 cannot be stopped"), "a file's state does not change: {error}");
        assert_eq!(*fake.overridden.borrow(), [None, None], "the rest is put back");
        assert_eq!(std::fs::read_to_string(tree.paths.at("/dev/watchdog0")).unwrap(), "V");
    }
}
