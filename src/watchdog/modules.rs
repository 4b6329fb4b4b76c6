//! Watchdog modules: what is loaded, what another kernel has, and loading the core anew with another `stop_on_reboot`.

use std::fs;
use std::io;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::timer;
use crate::paths::Paths;

/// The core's module; every driver's module holds on to it.
const CORE: &str = "/sys/module/watchdog";

/// How a kernel comes with a driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shipped {
    /// As a module.
    Module,
    /// Built in, so that nothing keeps it from being used.
    BuiltIn,
    /// Not at all.
    Missing,
}

/// How the kernel `release` comes with `module`.
///
/// # Errors
/// When its list of modules cannot be read.
pub fn shipped(paths: &Paths, release: &str, module: &str) -> io::Result<Shipped> {
    let list = |file: &str| fs::read_to_string(paths.at("/lib/modules").join(release).join(file));
    let is_it = |path: &str| {
        let file = path.rsplit('/').next().unwrap_or(path);
        file.split_once(".ko").is_some_and(|(name, _)| name.replace('-', "_") == module)
    };
    if list("modules.dep")?.lines().filter_map(|l| l.split(':').next()).any(is_it) {
        return Ok(Shipped::Module);
    }
    let built_in = list("modules.builtin").unwrap_or_default().lines().any(is_it);
    Ok(if built_in { Shipped::BuiltIn } else { Shipped::Missing })
}

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

fn modprobe(arguments: &[&str]) -> Result<()> {
    let line = format!("modprobe {}", arguments.join(" "));
    let output = Command::new("modprobe")
        .args(arguments)
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run '{line}'"))?;
    if !output.status.success() {
        bail!("'{line}' failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::tree::Tree;
    use super::*;

    #[test]
    fn what_a_kernel_ships() {
        let tree = Tree::new();
        tree.kernel("6.12.1", "sp5100-tco");
        let ask = |module| shipped(&tree.paths, "6.12.1", module).unwrap();
        assert_eq!(ask("sp5100_tco"), Shipped::Module);
        assert_eq!(ask("watchdog"), Shipped::Missing, "what is only needed does not count");
        assert_eq!(ask("softdog"), Shipped::BuiltIn);
        assert!(shipped(&tree.paths, "6.12.2", "softdog").is_err());
    }

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
