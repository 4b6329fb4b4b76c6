//! The distribution's initrd, with fewer drivers in it.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use anyhow::Result;

use crate::command;
use crate::net::links::drivers;
use crate::paths::Paths;

/// Where initramfs-tools(7) is configured.
pub const CONFIGURED: &str = "/etc/initramfs-tools";
/// "dep": modules for the devices that sysfs names behind the root file system, see initramfs.conf(5).
const OURS: &str = "MODULES=dep\n";
/// How long mkinitramfs(8) may take, seconds: some on hardware; much less than kup-update.service has for all.
const LIMIT: &str = "240";

/// Has one made for kernel `release` as `image`, by way of `dir`. Was it: are initramfs-tools installed?
///
/// # Errors
/// What mkinitramfs(8) says.
pub fn build(paths: &Paths, release: &str, dir: &Path, image: &Path) -> Result<bool> {
    let configured = paths.at(CONFIGURED);
    if !configured.join("initramfs.conf").exists() {
        return Ok(false);
    }
    let configuration = dir.join("conf");
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
    let arguments = [LIMIT, "mkinitramfs", "-d", &name(&configuration), "-o", &name(image), release];
    command::run(Path::new("/usr/bin/timeout"), &arguments)?;
    Ok(true)
}
