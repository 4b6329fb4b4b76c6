//! Stopping a timer that nobody uses any more.

use anyhow::{Context, Result, bail};
use nix::errno::Errno;

use super::device::{driven_by, holder};
use crate::paths::Paths;
use crate::sys::watchdog::Watchdog;

/// Stops the timer of the device of `driver`, by opening it and closing it as one does. This stops what was left running as
/// well as what the kernel pings; the latter keeps the module from being unloaded. No device, or one that somebody has open,
/// is left alone.
///
/// # Errors
/// When the device cannot be opened, or its timer runs on.
pub fn stop(paths: &Paths, driver: &str) -> Result<()> {
    let Some(device) = driven_by(paths, driver)?.filter(|d| holder(paths, &d.name).is_none()) else { return Ok(()) };
    let node = device.node(paths);
    match Watchdog::open(&node) {
        Ok(timer) => timer.stop().with_context(|| format!("cannot stop {}", node.display()))?,
        // Whoever was faster pings it.
        Err(e) if e.raw_os_error() == Some(Errno::EBUSY as i32) => return Ok(()),
        Err(e) => return Err(e).with_context(|| format!("cannot open {}", node.display())),
    }
    match driven_by(paths, driver)? {
        Some(now) if now.active && holder(paths, &now.name).is_none() => bail!("{} cannot be stopped", now.name),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tree::Tree;
    use super::*;

    #[test]
    fn only_what_nobody_has() {
        let tree = Tree::new();
        stop(&tree.paths, "iTCO_wdt").unwrap();
        tree.watchdog(0, "iTCO_wdt", Some("iTCO_wdt"));
        assert!(stop(&tree.paths, "iTCO_wdt").unwrap_err().to_string().contains("cannot open"));
        tree.put("/dev/watchdog0", "");
        tree.link("/proc/7/fd/3", "/dev/watchdog0");
        stop(&tree.paths, "iTCO_wdt").unwrap();
        let written = || std::fs::read_to_string(tree.paths.at("/dev/watchdog0")).unwrap();
        assert_eq!(written(), "");
        std::fs::remove_file(tree.paths.at("/proc/7/fd/3")).unwrap();
        stop(&tree.paths, "iTCO_wdt").unwrap();
        assert_eq!(written(), "V");
    }
}
