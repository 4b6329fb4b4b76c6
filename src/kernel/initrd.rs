//! A small initrd for the target, with what this very machine needs to find its root file system. The distribution's holds
//! drivers for every machine, which takes time to check, unpack and search through while services stand still; a kexec goes
//! to the machine that it comes from. The boot loader keeps the distribution's.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::command;
use crate::net::links::drivers;
use crate::paths::Paths;

/// Where initramfs-tools(7) is configured.
const CONFIGURED: &str = "/etc/initramfs-tools";
/// "dep": modules for the devices that sysfs names behind the root file system, see initramfs.conf(5).
const OURS: &str = "MODULES=dep\n";
/// How long mkinitramfs(8) may take, seconds: some on hardware; much less than kup-update.service has for all.
const LIMIT: &str = "240";

/// Builds one for kernel `release`; `None` where no initramfs-tools are installed. [`clear`] removes it.
///
/// # Errors
/// What mkinitramfs(8) says, such as a root file system whose device it cannot tell.
pub fn build(paths: &Paths, release: &str) -> Result<Option<PathBuf>> {
    let configured = paths.at(CONFIGURED);
    if !configured.join("initramfs.conf").exists() {
        return Ok(None);
    }
    clear(paths)?;
    let dir = dir(paths);
    let (configuration, image) = (dir.join("conf"), dir.join("initrd.img"));
    fs::create_dir_all(&dir)?;
    let name = |path: &Path| path.display().to_string();
    command::run(Path::new("/usr/bin/cp"), &["-a", &name(&configured), &name(&configuration)])?;
    fs::create_dir_all(configuration.join("conf.d"))?;
    // Sourced behind all others.
    fs::write(configuration.join("conf.d/zz-kup"), OURS)?;
    // Services wait for their addresses, and those for a driver that else only udev would load.
    let mut modules = File::options().append(true).create(true).open(configuration.join("modules"))?;
    modules.write_all(
        drivers::of_all(paths).into_iter().map(|module| format!("\n{module}\n")).collect::<String>().as_bytes(),
    )?;
    let arguments = [LIMIT, "mkinitramfs", "-d", &name(&configuration), "-o", &name(&image), release];
    command::run(Path::new("/usr/bin/timeout"), &arguments)?;
    Ok(Some(image))
}

/// Removes it: once it is loaded, the kernel has its own copy.
///
/// # Errors
/// When something stays.
pub fn clear(paths: &Paths) -> Result<()> {
    let dir = dir(paths);
    match fs::remove_dir_all(&dir) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(e).with_context(|| format!("cannot remove {}", dir.display()))
        }
        _ => Ok(()),
    }
}

fn dir(paths: &Paths) -> PathBuf {
    paths.run_dir().join("initrd")
}
