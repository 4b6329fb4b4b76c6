//! The distribution's initrd, with fewer drivers in it.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use nix::sys::statvfs::{FsFlags, statvfs};

use crate::command;
use crate::net::links::drivers;
use crate::paths::Paths;

/// Where initramfs-tools(7) is configured.
pub const CONFIGURED: &str = "/etc/initramfs-tools";
/// "dep": modules for the devices that sysfs names behind the root file system, see initramfs.conf(5).
const OURS: &str = "MODULES=dep\n";
/// How long mkinitramfs(8) may take, seconds: some on hardware; much less than kup-update.service has for all.
const LIMIT: &str = "240";

/// Has one made for kernel `release` as `image`, with a configuration of ours in `configuration`. Was it: are initramfs-tools
/// installed?
///
/// # Errors
/// What mkinitramfs(8) says, and where hooks and scripts of the administrator's would be left out.
pub fn build(paths: &Paths, release: &str, configuration: &Path, image: &Path) -> Result<bool> {
    let configured = paths.at(CONFIGURED);
    if !configured.join("initramfs.conf").exists() {
        return Ok(false);
    }
    let name = |path: &Path| path.display().to_string();
    command::run(Path::new("/usr/bin/cp"), &["-a", &name(&configured), &name(configuration)])?;
    if hook(paths).or_else(|| script(paths)).is_some() {
        runs_programs(configuration)?;
    }
    fs::create_dir_all(configuration.join("conf.d"))?;
    // Sourced behind all others.
    fs::write(configuration.join("conf.d/zz-kup"), OURS)?;
    // Services wait for their addresses, and those for a driver that else only udev would load.
    let mut modules = File::options().append(true).create(true).open(configuration.join("modules"))?;
    modules.write_all(
        drivers::of_all(paths).into_iter().map(|module| format!("\n{module}\n")).collect::<String>().as_bytes(),
    )?;
    let arguments = [LIMIT, "mkinitramfs", "-d", &name(configuration), "-o", &name(image), release];
    command::run(Path::new("/usr/bin/timeout"), &arguments)?;
    Ok(true)
}

/// A script of the administrator's, which is to be run in each boot.
pub fn script(paths: &Paths) -> Option<PathBuf> {
    let stages = fs::read_dir(paths.at(CONFIGURED).join("scripts")).into_iter().flatten().flatten();
    stages.filter_map(|stage| first(&stage.path())).next()
}

/// A hook of the administrator's, which is run when an initrd is made.
fn hook(paths: &Paths) -> Option<PathBuf> {
    first(&paths.at(CONFIGURED).join("hooks"))
}

fn first(dir: &Path) -> Option<PathBuf> {
    Some(fs::read_dir(dir).ok()?.flatten().next()?.path())
}

/// It takes hooks and scripts that are not executable for switched off: those on a file system without programs, too.
fn runs_programs(dir: &Path) -> Result<()> {
    let flags = statvfs(dir).with_context(|| format!("cannot look at {}", dir.display()))?.flags();
    ensure!(
        !flags.contains(FsFlags::ST_NOEXEC),
        "hooks and scripts of initramfs-tools do not run in {}",
        dir.display()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hooks_are_not_left_out() {
        runs_programs(Path::new("/usr")).unwrap();
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let without = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>()).find_map(|fields| {
            let on = Path::new(fields[1]);
            (fields[3].split(',').any(|option| option == "noexec") && on.is_dir()).then_some(on)
        });
        let Some(without) = without else { return eprintln!("SKIPPED: programs may run everywhere here") };
        assert!(runs_programs(without).unwrap_err().to_string().contains(without.to_str().unwrap()));
    }
}
