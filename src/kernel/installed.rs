//! The kernels that are installed, and the one that runs.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::compare_releases;
use crate::paths::Paths;
use crate::update::TargetKernel;

/// A kernel that could be loaded: image and modules are there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installed {
    /// As `uname -r` says it.
    pub release: String,
    /// The bootable image.
    pub image: PathBuf,
    /// Its initrd, where it has one.
    pub initrd: Option<PathBuf>,
}

impl From<Installed> for TargetKernel {
    fn from(k: Installed) -> Self {
        Self { release: k.release, image: k.image, initrd: k.initrd }
    }
}

/// The string is no kernel release.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a kernel release (1 to 64 letters, digits and '.+_~-', no dot in front)")]
pub struct BadRelease(pub String);

/// Whether `release` has the form of one; then it is also a safe part of a file name and of a GRUB entry id.
///
/// # Errors
/// [`BadRelease`].
pub fn check_release(release: &str) -> Result<(), BadRelease> {
    let valid = (1..=64).contains(&release.len())
        && !release.starts_with('.')
        && release.bytes().all(|b| b.is_ascii_alphanumeric() || b".+_~-".contains(&b));
    if valid { Ok(()) } else { Err(BadRelease(release.into())) }
}

/// Every kernel with an image in /boot and modules in /lib/modules, oldest first. An image without modules is one that
/// is being installed or removed, so it is left out.
///
/// # Errors
/// When /boot cannot be read.
pub fn discover(paths: &Paths) -> Result<Vec<Installed>> {
    let boot = paths.at("/boot");
    let context = || format!("cannot list the kernels in {}", boot.display());
    let mut found = Vec::new();
    for entry in fs::read_dir(&boot).with_context(context)? {
        let name = entry.with_context(context)?.file_name();
        let Some(release) = name.to_str().and_then(|n| n.strip_prefix("vmlinuz-")) else { continue };
        if check_release(release).is_err() || !paths.at("/lib/modules").join(release).is_dir() {
            continue;
        }
        let image = boot.join(&name);
        if fs::metadata(&image).is_ok_and(|m| m.is_file() && m.len() > 0) {
            found.push(Installed { release: release.into(), image, initrd: initrd(&boot, release) });
        }
    }
    found.sort_by(|a, b| compare_releases(&a.release, &b.release));
    Ok(found)
}

/// The name that initramfs-tools gives it, else dracut's.
fn initrd(boot: &Path, release: &str) -> Option<PathBuf> {
    [format!("initrd.img-{release}"), format!("initramfs-{release}.img")]
        .map(|name| boot.join(name))
        .into_iter()
        .find(|path| path.is_file())
}

/// Release of the running kernel.
///
/// # Errors
/// When /proc is not mounted.
pub fn running(paths: &Paths) -> Result<String> {
    let path = paths.at("/proc/sys/kernel/osrelease");
    read_line(&path).with_context(|| format!("cannot read the running kernel's release from {}", path.display()))
}

/// The id that the kernel gave to this boot.
///
/// # Errors
/// When /proc is not mounted.
pub fn boot_id(paths: &Paths) -> Result<String> {
    let path = paths.at("/proc/sys/kernel/random/boot_id");
    read_line(&path).with_context(|| format!("cannot read the boot id from {}", path.display()))
}

fn read_line(path: &Path) -> io::Result<String> {
    Ok(fs::read_to_string(path)?.trim_end().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_with_modules_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::below(dir.path());
        let file = |path: &str| {
            fs::create_dir_all(paths.at(path).parent().unwrap()).unwrap();
            fs::write(paths.at(path), "x").unwrap();
        };
        for name in ["6.12.107+deb13", "6.12.94+deb13", "6.1-dracut", "no-modules", "bad name", "7.0"] {
            file(&format!("/boot/vmlinuz-{name}"));
            if name != "no-modules" {
                fs::create_dir_all(paths.at("/lib/modules").join(name)).unwrap();
            }
        }
        fs::write(paths.at("/boot/vmlinuz-7.0"), "").unwrap(); // cut off while being unpacked
        file("/boot/initrd.img-6.12.94+deb13");
        file("/boot/initramfs-6.1-dracut.img");
        file("/boot/config-6.12.94+deb13");
        file("/proc/sys/kernel/osrelease");

        let found = discover(&paths).unwrap();
        let releases: Vec<_> = found.iter().map(|k| k.release.as_str()).collect();
        assert_eq!(releases, ["6.1-dracut", "6.12.94+deb13", "6.12.107+deb13"]);
        assert_eq!(found[0].initrd, Some(paths.at("/boot/initramfs-6.1-dracut.img")));
        assert_eq!(found[1].initrd, Some(paths.at("/boot/initrd.img-6.12.94+deb13")));
        assert_eq!(found[2].initrd, None);
        assert_eq!(running(&paths).unwrap(), "x");
        assert!(boot_id(&paths).unwrap_err().to_string().contains("boot_id"));
    }

    #[test]
    fn release_names() {
        for good in ["6.12.94+deb13-cloud-amd64", "7.3.4", "6.12~rc1_x"] {
            assert!(check_release(good).is_ok(), "{good}");
        }
        let long = "6".repeat(65);
        for bad in ["", ".6", "../6", "6 1", "6/1", "6'1", "6>1", long.as_str()] {
            assert!(check_release(bad).is_err(), "{bad}");
        }
    }
}
