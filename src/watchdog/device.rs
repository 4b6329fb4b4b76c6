//! What the kernel says of the machine's watchdogs: /sys/class/watchdog, as in Documentation/ABI/testing/sysfs-class-watchdog.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::paths::Paths;

const CLASS: &str = "/sys/class/watchdog";
/// WDIOF_CARDRESET of linux/watchdog.h.
const CARD_RESET: u32 = 0x20;
/// Drivers that register their device without a parent, so that only its identity tells them.
const ORPHANS: [(&str, &str); 3] =
    [("i6300ESB timer", "i6300esb"), ("wdat_wdt", "wdat_wdt"), ("Software Watchdog", "softdog")];

/// One watchdog.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Device {
    /// `watchdog0`.
    pub name: String,
    /// What the driver calls it, such as `i6300ESB timer`.
    pub identity: String,
    /// The driver's module; `None` where it cannot be told.
    pub driver: Option<String>,
    /// Whether it was opened and not stopped since. A timer that only the kernel pings counts as not active.
    pub active: bool,
    /// The time that is set, in seconds.
    pub timeout: u32,
    /// The longest time that can be set, in seconds; `None` where the driver does not say.
    pub max_timeout: Option<u32>,
    /// Once started it cannot be stopped.
    pub nowayout: bool,
    /// It was the one that reset the machine before this boot. Not every driver can tell.
    pub has_fired: bool,
}

impl Device {
    /// Its character device.
    pub fn node(&self, paths: &Paths) -> PathBuf {
        paths.at("/dev").join(&self.name)
    }
}

/// All watchdogs, by number. Those that the kernel tells nothing about (it was built without CONFIG_WATCHDOG_SYSFS) are
/// left out: nothing of what kup does with one could be seen to work.
///
/// # Errors
/// When the directory is there and cannot be read.
pub fn devices(paths: &Paths) -> io::Result<Vec<Device>> {
    let entries = match fs::read_dir(paths.at(CLASS)) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?.collect::<io::Result<Vec<_>>>()?,
    };
    let mut devices: Vec<Device> = entries.iter().filter_map(|e| read(&e.path())).collect();
    devices.sort_by(|a, b| (a.name.len(), &a.name).cmp(&(b.name.len(), &b.name)));
    Ok(devices)
}

/// The first watchdog that `driver` drives.
///
/// # Errors
/// As [`devices`].
pub fn driven_by(paths: &Paths, driver: &str) -> io::Result<Option<Device>> {
    Ok(devices(paths)?.into_iter().find(|d| d.driver.as_deref() == Some(driver)))
}

fn read(dir: &Path) -> Option<Device> {
    let text = |file: &str| fs::read_to_string(dir.join(file)).ok().map(|t| t.trim().to_string());
    let number = |file: &str| text(file).and_then(|t| t.parse::<u32>().ok()).unwrap_or(0);
    let identity = text("identity")?;
    Some(Device {
        name: dir.file_name()?.to_str()?.to_string(),
        driver: driver(dir, &identity),
        identity,
        active: text("state")? == "active",
        timeout: number("timeout"),
        max_timeout: Some(number("max_timeout")).filter(|max| *max > 0),
        nowayout: number("nowayout") != 0,
        has_fired: number("bootstatus") & CARD_RESET != 0,
    })
}

/// The module, by the parent device's driver, whose own name may be another one (`sp5100-tco`); else by the identity.
fn driver(dir: &Path, identity: &str) -> Option<String> {
    let module = fs::read_link(dir.join("device/driver/module")).ok();
    let module = module.and_then(|m| Some(m.file_name()?.to_str()?.to_string()));
    module.or_else(|| ORPHANS.iter().find(|(name, _)| *name == identity).map(|(_, module)| (*module).into()))
}

/// A process that has a watchdog open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Its PID; 1 is systemd with `RuntimeWatchdogSec=`.
    pub pid: i32,
    /// Its name.
    pub name: String,
}

/// Who has `device` open. The kernel lets only one process in.
pub fn holder(paths: &Paths, device: &str) -> Option<Holder> {
    let nodes = [format!("/dev/{device}"), "/dev/watchdog".into()];
    // The old name is another way to the first watchdog only.
    let nodes = if device == "watchdog0" { &nodes[..] } else { &nodes[..1] };
    let has_it = |pid: &i32| {
        let fds = fs::read_dir(paths.at(format!("/proc/{pid}/fd"))).into_iter().flatten().flatten();
        fds.filter_map(|fd| fs::read_link(fd.path()).ok()).any(|to| nodes.iter().any(|n| to == Path::new(n)))
    };
    let processes = fs::read_dir(paths.at("/proc")).into_iter().flatten().flatten();
    let pid = processes.filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok()).find(has_it)?;
    let name = fs::read_to_string(paths.at(format!("/proc/{pid}/comm"))).unwrap_or_default();
    Some(Holder { pid, name: name.trim().to_string() })
}

#[cfg(test)]
mod tests {
    use super::super::tree::Tree;
    use super::*;

    #[test]
    fn none_one_and_many() {
        let tree = Tree::new();
        assert!(devices(&tree.paths).unwrap().is_empty());
        tree.watchdog(10, "Software Watchdog", None);
        tree.watchdog(2, "i6300ESB timer", Some("i6300esb"));
        tree.put("/sys/class/watchdog/watchdog2/state", "active\n");
        tree.put("/sys/class/watchdog/watchdog2/bootstatus", "32\n");
        tree.put("/sys/class/watchdog/watchdog3/dev", "");
        tree.watchdog(4, "SP5100 TCO timer", Some("sp5100_tco"));
        tree.watchdog(5, "made up", None);
        let found = devices(&tree.paths).unwrap();
        let want = Device {
            name: "watchdog2".into(),
            identity: "i6300ESB timer".into(),
            driver: Some("i6300esb".into()),
            active: true,
            timeout: 30,
            max_timeout: Some(2046),
            nowayout: false,
            has_fired: true,
        };
        assert_eq!(found[0], want);
        let drivers: Vec<_> = found.iter().map(|d| (d.name.as_str(), d.driver.as_deref())).skip(1).collect();
        assert_eq!(drivers, [("watchdog4", Some("sp5100_tco")), ("watchdog5", None), ("watchdog10", Some("softdog"))]);
        assert_eq!(driven_by(&tree.paths, "i6300esb").unwrap(), Some(want));
        assert_eq!(driven_by(&tree.paths, "iTCO_wdt").unwrap(), None);
    }

    #[test]
    fn who_has_it_open() {
        let tree = Tree::new();
        assert_eq!(holder(&tree.paths, "watchdog0"), None);
        tree.link("/proc/345/fd/3", "/dev/watchdog");
        tree.put("/proc/345/comm", "watchdogd\n");
        tree.link("/proc/1/fd/9", "/dev/watchdog1");
        tree.put("/proc/1/comm", "systemd\n");
        assert_eq!(holder(&tree.paths, "watchdog0"), Some(Holder { pid: 345, name: "watchdogd".into() }));
        assert_eq!(holder(&tree.paths, "watchdog1"), Some(Holder { pid: 1, name: "systemd".into() }));
        assert_eq!(holder(&tree.paths, "watchdog2"), None);
    }
}
