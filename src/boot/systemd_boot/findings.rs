//! What stands in the way of a pin in systemd-boot's menu.

use anyhow::Result;

use super::{Choice, SystemdBoot, efi};
use crate::boot::waits;
use crate::kernel;
use crate::preflight::Finding;

/// Asks everything.
pub fn ask(loader: &SystemdBoot) -> Vec<Finding> {
    let mut found: Vec<Finding> = efi::read_only(&loader.paths).into_iter().collect();
    let looked = running(loader, &mut found).and_then(|()| variables(loader, &mut found));
    if let Err(e) = looked {
        let message = format!("systemd-boot's menu cannot be read: {e:#}");
        found.push(Finding::blocker("boot.unreadable", message).fix("see bootctl status"));
    }
    found
}

/// Is there a way back to the running kernel?
fn running(loader: &SystemdBoot, found: &mut Vec<Finding>) -> Result<()> {
    let running = kernel::running(&loader.paths)?;
    let menu = loader.menu()?;
    let Some(entry) = loader.entry_of(&menu, &running)? else {
        let message = match menu.0.iter().find(|e| e.release.as_ref() == Some(&running) && !e.missing.is_empty()) {
            Some(e) => format!("{} needs {}, which is gone", e.file.display(), e.missing[0].display()),
            None => format!("systemd-boot's menu has no entry for the running kernel {running}"),
        };
        let fix = format!("kernel-install add {running} /boot/vmlinuz-{running}");
        found.push(Finding::blocker("boot.no-entry", format!("{message}: there is no way back to it")).fix(fix));
        return Ok(());
    };
    if !kernel::discover(&loader.paths)?.iter().any(|k| k.release == running) {
        let message = format!("the files of the running kernel {running} are gone from /boot or /lib/modules");
        let fix = "install the running kernel's package again, or reboot once";
        found.push(Finding::blocker("boot.no-entry", message).fix(fix));
    }
    if entry.unified && !loader.paths.at("/etc/kernel/cmdline").is_file() {
        let message =
            "kernel-install puts the running kernel's command line into unified kernel images, kup's words included";
        found.push(
            Finding::warning("boot.cmdline", message).fix("write the kernel command line to /etc/kernel/cmdline"),
        );
    }
    Ok(())
}

/// What else has a say in what is booted.
fn variables(loader: &SystemdBoot, found: &mut Vec<Finding>) -> Result<()> {
    let variable = |name| efi::loader(&loader.paths, name);
    if let Some(entry) = variable("LoaderEntryOneShot")? {
        let message = format!("systemd-boot is told to boot '{entry}' once, at the next boot, whatever the default is");
        found.push(Finding::blocker("boot.one-shot", message).fix("bootctl set-oneshot ''"));
    }
    let Choice { preferred, variable: default, config, .. } = loader.choice()?;
    if let Some(entry) = preferred.or(config.preferred) {
        let message = format!("systemd-boot boots the preferred entry '{entry}' whatever the default is");
        let fix = "bootctl set-preferred '', and remove 'preferred' from loader.conf";
        found.push(Finding::blocker("boot.overridden", message).fix(fix));
    }
    if [default, config.default].iter().flatten().any(|d| d == "@saved") {
        let message = "systemd-boot boots the entry that was booted last: after a fall back that is the old kernel's";
        found.push(
            Finding::warning("boot.savedefault", message).fix("bootctl set-default '', and no '@saved' in loader.conf"),
        );
    }
    let timeout = variable("LoaderConfigTimeout")?.or(config.timeout);
    // For one boot, "at once" means that somebody asked for the menu, and it stays.
    let once = variable("LoaderConfigTimeoutOneShot")?;
    let forever = |t: &str| t == "menu-force" || t.parse().is_ok_and(|t: u64| t >= u64::from(u32::MAX));
    if timeout.is_some_and(|t| forever(&t)) {
        found.push(waits("systemd-boot").fix("bootctl set-timeout 5"));
    } else if once.is_some_and(|t| forever(&t) || t == "menu-hidden" || t == "0") {
        found.push(waits("systemd-boot").fix("bootctl set-timeout-oneshot ''"));
    }
    Ok(())
}
