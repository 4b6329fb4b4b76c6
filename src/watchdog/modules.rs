//! Watchdog modules: what is loaded, and loading the core anew with another `stop_on_reboot`.

use std::fs;

use anyhow::{Result, bail};

use super::timer;
use crate::kernel::modules::modprobe;
use crate::paths::Paths;

/// The core's module; every driver's module holds on to it.
const CORE: &str = "/sys/module/watchdog";

/// Whether the core stops timers at a restart: 0 no, 1 yes, -1 as each driver wants it. `None` where it cannot be told.
pub fn stop_on_reboot(paths: &Paths) -> Option<i32> {
    fs::read_to_string(paths.at(CORE).join("parameters/stop_on_reboot")).ok()?.trim().parse().ok()
}

/// The drivers that hold on to the core, all of which have to be loaded anew with it; `None` where it is built in.
pub fn on_core(paths: &Paths) -> Option<Vec<String>> {
    use_count(paths, "watchdog")?;
    let entries = fs::read_dir(paths.at(CORE).join("holders")).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.filter_map(|e| e.file_name().into_string().ok()).collect();
    names.sort();
    Some(names)
}

/// How many use a loaded `module`; `None` where it is not loaded, or built in.
pub fn use_count(paths: &Paths, module: &str) -> Option<u32> {
    fs::read_to_string(paths.at("/sys/module").join(module).join("refcnt")).ok()?.trim().parse().ok()
}

/// Loads `module`, if it is not yet.
///
/// # Errors
/// What modprobe says.
pub fn load(module: &str) -> Result<()> {
    modprobe(&[module])
}

/// Loads the core anew with this value of `stop_on_reboot`, and `drivers` after it.
///
/// # Errors
/// When something uses one of them or the value did not come to be in force; the drivers are loaded all the same.
pub fn reload(paths: &Paths, drivers: &[String], stop_on_reboot: i32) -> Result<()> {
    let result = unload(paths, drivers).and_then(|()| {
        let value = format!("stop_on_reboot={stop_on_reboot}");
        modprobe(&["watchdog", &value])
    });
    let loaded: Vec<_> = drivers.iter().map(|d| load(d)).collect();
    result?;
    loaded.into_iter().collect::<Result<Vec<_>>>()?;
    match self::stop_on_reboot(paths) {
        Some(now) if now == stop_on_reboot => Ok(()),
        now => bail!("watchdog.stop_on_reboot is {now:?} after the module was loaded with {stop_on_reboot}"),
    }
}

fn unload(paths: &Paths, drivers: &[String]) -> Result<()> {
    for driver in drivers {
        // A timer that runs since the machine was switched on is pinged by the kernel, which counts as a use.
        if use_count(paths, driver).is_some_and(|users| users > 0) {
            timer::stop(paths, driver)?;
        }
        modprobe(&["-r", driver])?;
    }
    // It may have gone along with the last driver: modprobe removes what is not needed any more.
    modprobe(&["-r", "watchdog"])
}

#[cfg(test)]
mod tests {
    use super::super::tree::Tree;
    use super::*;

    #[test]
    fn what_is_loaded() {
        let tree = Tree::new();
        assert_eq!((stop_on_reboot(&tree.paths), on_core(&tree.paths)), (None, None));
        tree.watchdog(0, "i6300ESB timer", Some("i6300esb"));
        tree.watchdog(1, "iTCO_wdt", Some("iTCO_wdt"));
        assert_eq!(stop_on_reboot(&tree.paths), Some(-1));
        assert_eq!(on_core(&tree.paths), Some(vec!["i6300esb".into(), "iTCO_wdt".into()]));
        assert_eq!((use_count(&tree.paths, "iTCO_wdt"), use_count(&tree.paths, "hpwdt")), (Some(0), None));
    }
}
