//! A small initrd for the target, with what this very machine needs to find its root file system. The distribution's holds
//! drivers for every machine, which takes time to check, unpack and search through while services stand still; a kexec goes
//! to the machine that it comes from. The boot loader keeps the distribution's.

mod archive;
mod depends;
pub mod init;
mod mkinitramfs;
mod ours;
mod plan;
mod root;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::paths::Paths;

/// Builds one for kernel `release`: ours, where the root file system is found without more ado, or that of
/// initramfs-tools(7); `None` where neither can be. [`clear`] removes it.
///
/// # Errors
/// What mkinitramfs(8) says, such as a root file system whose device it cannot tell.
pub fn build(paths: &Paths, release: &str) -> Result<Option<PathBuf>> {
    clear(paths)?;
    let dir = dir(paths);
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let image = dir.join("initrd.img");
    match ours::build(paths, release, &image) {
        Ok(()) => Ok(Some(image)),
        Err(why) => {
            tracing::info!("the target needs more than kup's own initrd: {why:#}");
            let made = mkinitramfs::build(paths, release, &configuration(paths), &image);
            remove(&configuration(paths))?;
            Ok(made?.then_some(image))
        }
    }
}

/// Removes it: once it is loaded, the kernel has its own copy.
///
/// # Errors
/// When something stays.
pub fn clear(paths: &Paths) -> Result<()> {
    remove(&dir(paths))?;
    remove(&configuration(paths))
}

fn remove(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(e).with_context(|| format!("cannot remove {}", dir.display()))
        }
        _ => Ok(()),
    }
}

fn dir(paths: &Paths) -> PathBuf {
    paths.run_dir().join("initrd")
}

/// Where mkinitramfs(8) is configured for us. Programs are run from there, which /run is not for.
fn configuration(paths: &Paths) -> PathBuf {
    paths.state_dir().join("initramfs-tools")
}
