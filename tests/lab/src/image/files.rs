//! Files laid over the guest's root directory.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result};

/// One file of the guest.
pub struct File {
    /// Its place in the guest, without the leading slash.
    pub path: &'static str,
    /// What is in it.
    pub text: &'static str,
}

macro_rules! file {
    ($path:literal) => {
        File { path: $path, text: include_str!(concat!("../../image/files/", $path)) }
    };
}

/// All of them, except for the ssh key, which differs from image to image.
pub const ALL: &[File] = &[
    file!("etc/apt/sources.list"),
    file!("etc/default/grub.d/50-lab.cfg"),
    file!("etc/fstab"),
    file!("etc/hostname"),
    file!("etc/hosts"),
    file!("etc/systemd/network/10-lab.network"),
    File { path: "srv/kup-lab/setup-grub", text: include_str!("../../image/setup-grub") },
    File { path: "srv/kup-lab/setup-systemd-boot", text: include_str!("../../image/setup-systemd-boot") },
];

/// Writes them below `root`.
pub fn write(root: &Path) -> Result<()> {
    for file in ALL {
        put(root, file.path, file.text)?;
    }
    Ok(())
}

/// Writes one file below `root`, parents included.
pub fn put(root: &Path, path: &str, text: &str) -> Result<()> {
    let file = root.join(path);
    crate::paths::ensure(file.parent().unwrap_or(root))?;
    fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))
}

/// Writes a script that can be run.
pub fn put_script(root: &Path, path: &str, text: &str) -> Result<std::path::PathBuf> {
    put(root, path, text)?;
    let file = root.join(path);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755))?;
    Ok(file)
}
