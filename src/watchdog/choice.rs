//! Which of the machine's watchdogs can watch over an update. Looks only.

use std::fmt;

use super::device::{self, Device};
use super::driver::{self, Driver, Probe};
use super::modules;
use crate::kernel::modules::{Shipped, shipped};
use crate::paths::Paths;

/// A watchdog that can, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// The device.
    pub device: Device,
    /// Its driver.
    pub driver: &'static Driver,
    /// What its timer is set to, in seconds.
    pub timeout: u32,
    /// When the machine is reset, in seconds from the start.
    pub fires_after: u32,
    /// The drivers that have to be loaded anew, so that the timer is not stopped by the kexec; empty where none has to.
    pub reload: Vec<String>,
}

/// Why a watchdog cannot watch over an update.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// The driver is none that could.
    Driver(String),
    /// It would stop at the kexec, and that can be changed only by a reboot.
    StopsOnReboot,
    /// The timer cannot count so far: to how many seconds it can.
    Timeout(u32),
    /// Somebody else uses it, or another watchdog that would have to be loaded anew with it.
    Busy(String),
}

/// A watchdog that cannot watch over an update.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unusable {
    /// The device.
    pub device: Device,
    /// Why.
    pub why: Why,
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}) ", self.device.name, self.device.identity)?;
        match &self.why {
            Why::Driver(why) => write!(f, "cannot be used: {why}"),
            Why::StopsOnReboot => f.write_str("would be stopped by the running kernel as it hands over to the new one"),
            Why::Timeout(most) => write!(f, "can count to {most} s at most, which is less than DeadmanSec"),
            Why::Busy(by) => write!(f, "is in use: {by}"),
        }
    }
}

impl Unusable {
    /// What can be done about it.
    pub fn fix(&self) -> String {
        match &self.why {
            Why::Driver(_) => {
                "load the driver of a hardware watchdog that kup knows, or set DeadmanSec = 0 in kup.toml to do without".into()
            }
            Why::StopsOnReboot => {
                "add watchdog.stop_on_reboot=0 to GRUB_CMDLINE_LINUX in /etc/default/grub, run update-grub, and reboot once"
                    .into()
            }
            Why::Timeout(most) => format!("set DeadmanSec = {most} in kup.toml, if a boot takes less"),
            Why::Busy(_) => "let systemd ping it instead (RuntimeWatchdogSec= in systemd-system.conf(5))".into(),
        }
    }
}

/// No watchdog of this machine can watch over an update.
#[derive(Debug, Clone, Default, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.text())]
pub struct Unavailable(
    /// Every watchdog; none where the machine has none.
    pub Vec<Unusable>,
);

impl Unavailable {
    fn text(&self) -> String {
        let all: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        if all.is_empty() { "the machine has no hardware watchdog".into() } else { all.join("; ") }
    }
}

/// The first watchdog that can reset the machine `seconds` after it was started, also in the kernel `target`. Where the
/// target is not known yet, it is taken to have the same drivers.
///
/// # Errors
/// What is wrong with each.
pub fn choose(paths: &Paths, seconds: u32, target: Option<&str>) -> Result<Choice, Unavailable> {
    // An unreadable class directory leaves us without a watchdog as much as an empty one.
    let devices = device::devices(paths).unwrap_or_default();
    let mut unusable = Vec::new();
    for device in devices {
        match judge(paths, &device, seconds, target) {
            Ok(choice) => return Ok(choice),
            Err(why) => unusable.push(Unusable { device, why }),
        }
    }
    if unusable.is_empty() {
        unusable.extend(ipmi(paths));
    }
    Err(Unavailable(unusable))
}

fn judge(paths: &Paths, device: &Device, seconds: u32, target: Option<&str>) -> Result<Choice, Why> {
    let module = device.driver.as_deref().ok_or_else(|| Why::Driver("its driver cannot be told".into()))?;
    let driver = driver::find(module).map_err(|why| Why::Driver(format!("the driver {module} {why}")))?;
    if device.nowayout {
        return Err(Why::Driver(format!("{module} was loaded with nowayout=1, so it could not be stopped again")));
    }
    if let Some(target) = target {
        can_target_stop_it(paths, module, target)?;
    }
    let most = driver.longest(device.max_timeout).unwrap_or(0);
    if most < seconds {
        return Err(Why::Timeout(most));
    }
    match device::holder(paths, &device.name) {
        Some(holder) if holder.pid != 1 => {
            return Err(Why::Busy(format!("{} ({}) has it open", holder.name, holder.pid)));
        }
        None if device.active => return Err(Why::Busy("it was left running by whoever has used it".into())),
        _ => {}
    }
    let timeout = driver.round(seconds);
    let fires_after = timeout.saturating_mul(driver.rounds);
    Ok(Choice { reload: to_reload(paths, driver)?, device: device.clone(), driver, timeout, fires_after })
}

/// The target must not touch the timer by itself, and yet be able to stop it.
fn can_target_stop_it(paths: &Paths, module: &str, target: &str) -> Result<(), Why> {
    let what = match shipped(paths, target, module) {
        Ok(Shipped::Module) => return Ok(()),
        Ok(Shipped::BuiltIn) => format!("kernel {target} has {module} built in and would stop or ping it by itself"),
        Ok(Shipped::Missing) => format!("kernel {target} has no driver {module} to stop it with after a good boot"),
        Err(e) => format!("it cannot be told whether kernel {target} has the driver {module}: {e}"),
    };
    Err(Why::Driver(what))
}

/// What has to be loaded anew, so that a kexec does not stop the timer.
fn to_reload(paths: &Paths, driver: &Driver) -> Result<Vec<String>, Why> {
    if !driver.stops_on_reboot || modules::stop_on_reboot(paths) == Some(0) {
        return Ok(Vec::new());
    }
    let drivers = modules::on_core(paths).filter(|d| d.iter().any(|d| d == driver.module)).ok_or(Why::StopsOnReboot)?;
    // Our own may be in use by PID 1, which lets go of it.
    match drivers.iter().find(|d| *d != driver.module && is_in_use(paths, d)) {
        Some(other) => Err(Why::Busy(format!("{other}, which has to be loaded anew with it, is in use"))),
        None => Ok(drivers),
    }
}

/// A driver whose timer only the kernel pings can be unloaded once that is stopped.
fn is_in_use(paths: &Paths, module: &str) -> bool {
    let is_used = modules::use_count(paths, module).is_none_or(|users| users > 0);
    let is_adopted = || driver::find(module).is_ok_and(|d| d.probe == Probe::Adopts);
    let is_held = || match device::driven_by(paths, module) {
        Ok(Some(device)) => device.active || device::holder(paths, &device.name).is_some(),
        _ => true,
    };
    is_used && (!is_adopted() || is_held())
}

/// The management controller's watchdog is no device of the class.
fn ipmi(paths: &Paths) -> Option<Unusable> {
    let module = "ipmi_watchdog";
    let why = driver::find(module).err().filter(|_| paths.at("/sys/module").join(module).exists())?;
    let device = Device { name: "watchdog".into(), identity: "IPMI".into(), ..Device::default() };
    Some(Unusable { device, why: Why::Driver(format!("the driver {module} {why}")) })
}

#[cfg(test)]
mod tests {
    use super::super::tree::Tree;
    use super::*;

    const TARGET: Option<&str> = Some("6.12.2");

    fn why(tree: &Tree, seconds: u32) -> Why {
        let mut all = choose(&tree.paths, seconds, TARGET).unwrap_err().0;
        assert_eq!(all.len(), 1, "{all:?}");
        all.remove(0).why
    }

    fn machine(module: &str) -> Tree {
        let tree = Tree::new();
        tree.watchdog(0, if module == "i6300esb" { "i6300ESB timer" } else { "timer" }, Some(module));
        tree.kernel("6.12.2", module);
        tree
    }

    #[test]
    fn a_good_one() {
        let choice = choose(&machine("i6300esb").paths, 300, TARGET).unwrap();
        assert_eq!((choice.timeout, choice.fires_after), (300, 300));
        assert_eq!(choice.reload, ["i6300esb"]);
        let tco = machine("iTCO_wdt");
        tco.put("/sys/module/watchdog/parameters/stop_on_reboot", "0\n");
        let choice = choose(&tco.paths, 301, TARGET).unwrap();
        assert_eq!((choice.timeout, choice.fires_after, choice.reload.len()), (151, 302, 0));
    }

    #[test]
    fn none() {
        let tree = Tree::new();
        assert_eq!(choose(&tree.paths, 300, TARGET), Err(Unavailable::default()));
        tree.put("/sys/module/ipmi_watchdog/refcnt", "0");
        assert!(choose(&tree.paths, 300, TARGET).unwrap_err().to_string().contains("ipmi_watchdog is not supported"));
    }

    #[test]
    fn softdog_is_passed_over() {
        let tree = machine("i6300esb");
        tree.watchdog(1, "Software Watchdog", None);
        assert!(choose(&tree.paths, 300, TARGET).is_ok());
        let tree = Tree::new();
        tree.watchdog(0, "Software Watchdog", None);
        assert!(matches!(why(&tree, 300), Why::Driver(w) if w.contains("softdog counts in the running kernel")));
    }

    #[test]
    fn limits_and_users() {
        let tree = machine("i6300esb");
        assert_eq!(why(&tree, 2047), Why::Timeout(2046));
        tree.link("/proc/1/fd/9", "/dev/watchdog0");
        tree.put("/sys/module/i6300esb/refcnt", "1\n");
        tree.put("/sys/class/watchdog/watchdog0/state", "active\n");
        assert!(choose(&tree.paths, 300, TARGET).is_ok(), "systemd lets go of it");
        std::fs::remove_file(tree.paths.at("/proc/1/fd/9")).unwrap();
        assert!(matches!(why(&tree, 300), Why::Busy(w) if w.contains("left running")));
        tree.link("/proc/77/fd/3", "/dev/watchdog0");
        tree.put("/proc/77/comm", "sbd\n");
        assert!(matches!(why(&tree, 300), Why::Busy(w) if w.contains("sbd (77)")));
    }

    #[test]
    fn another_driver_on_the_core() {
        let tree = machine("i6300esb");
        tree.watchdog(1, "mei", Some("mei_wdt"));
        assert_eq!(choose(&tree.paths, 300, TARGET).unwrap().reload, ["i6300esb", "mei_wdt"]);
        tree.put("/sys/module/mei_wdt/refcnt", "1\n");
        let all = choose(&tree.paths, 300, TARGET).unwrap_err().0;
        assert!(matches!(&all[0].why, Why::Busy(w) if w.contains("mei_wdt")), "{all:?}");
        tree.put("/sys/module/watchdog/parameters/stop_on_reboot", "0\n");
        assert!(choose(&tree.paths, 300, TARGET).unwrap().reload.is_empty());
    }

    #[test]
    fn what_only_the_kernel_pings_is_not_in_use() {
        let tree = machine("i6300esb");
        tree.watchdog(1, "iTCO_wdt", Some("iTCO_wdt"));
        tree.put("/sys/module/iTCO_wdt/refcnt", "1\n");
        assert_eq!(choose(&tree.paths, 300, TARGET).unwrap().reload, ["i6300esb", "iTCO_wdt"]);
        tree.link("/proc/8/fd/3", "/dev/watchdog1");
        assert!(choose(&tree.paths, 300, TARGET).unwrap_err().to_string().contains("iTCO_wdt, which has to be"));
    }

    #[test]
    fn built_in_or_missing() {
        let tree = machine("i6300esb");
        std::fs::remove_file(tree.paths.at("/sys/module/watchdog/refcnt")).unwrap();
        assert_eq!(why(&tree, 300), Why::StopsOnReboot);
        let target = "/lib/modules/6.12.2/modules";
        tree.put(&format!("{target}.dep"), "");
        assert!(matches!(why(&tree, 300), Why::Driver(w) if w.contains("6.12.2 has no driver i6300esb")));
        tree.put(&format!("{target}.builtin"), "kernel/drivers/watchdog/i6300esb.ko\n");
        assert!(matches!(why(&tree, 300), Why::Driver(w) if w.contains("built in")));
        let tree = machine("i6300esb");
        tree.put("/sys/class/watchdog/watchdog0/nowayout", "1\n");
        assert!(matches!(why(&tree, 300), Why::Driver(w) if w.contains("nowayout")));
    }
}
