//! The guest's disk: Debian 13 with GRUB, two kernels and a few stock servers, built once and cached; and the same with
//! UEFI and systemd-boot, made from it when it is asked for.

mod disk;
mod files;
mod rootfs;
mod uefi;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{paths, sh};
pub use rootfs::SUITE;
pub use uefi::{CODE as UEFI_CODE, ensure_host as ensure_uefi_host};

/// After that an image of another recipe is not worth its gigabyte.
const UNUSED: Duration = Duration::from_secs(14 * 24 * 3600);

/// A finished image in the cache.
#[derive(Debug, Clone)]
pub struct Image {
    /// Where its files are.
    pub dir: PathBuf,
    /// What is in it.
    pub about: About,
}

/// What an image holds; lies beside it as `image.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct About {
    /// Release of the installed kernel.
    pub old_kernel: String,
    /// Release of the kernel that waits in the guest's own repository.
    pub new_kernel: String,
    /// What it is booted by.
    #[serde(default)]
    pub firmware: Firmware,
}

/// What a machine is booted by.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Firmware {
    /// BIOS, and GRUB.
    #[default]
    Bios,
    /// UEFI, and systemd-boot.
    Uefi,
}

impl Image {
    /// The disk, never written to: machines run on overlays over it.
    pub fn disk(&self) -> PathBuf {
        self.dir.join("disk.qcow2")
    }

    /// The private key that the guest's root account accepts.
    pub fn key(&self) -> PathBuf {
        self.dir.join("id")
    }

    /// The firmware's variables as the machine begins with them; only UEFI has any.
    pub fn vars(&self) -> PathBuf {
        vars_of(&self.disk())
    }

    /// The installed kernel, outside of the disk.
    pub fn kernel(&self) -> PathBuf {
        self.dir.join("vmlinuz")
    }
}

/// Where the variables of a machine on `disk` are: QEMU saves them with the machine, so that both belong together.
pub fn vars_of(disk: &Path) -> PathBuf {
    disk.with_extension("vars.qcow2")
}

/// The image of this recipe: from the cache, or built now.
pub fn ensure(firmware: Firmware) -> Result<Image> {
    let images = paths::cache()?.join("images");
    paths::ensure(&images)?;
    let lock = fs::File::create(images.join("lock")).context("cannot write to the cache")?;
    lock.lock().context("cannot lock the cache")?;
    let bios = cached(&images, &hash(recipe()), "the guest's image (a few minutes", build)?;
    match firmware {
        Firmware::Bios => Ok(bios),
        Firmware::Uefi => {
            let name = hash(recipe().chain(uefi::recipe()));
            cached(&images, &name, "the image with systemd-boot (a minute", |dir| uefi::build(dir, &bios))
        }
    }
}

/// An image from the cache, or built now. The caller holds the lock.
fn cached(images: &Path, name: &str, what: &str, build: impl FnOnce(&Path) -> Result<()>) -> Result<Image> {
    let dir = images.join(name);
    if !dir.join("image.json").exists() {
        println!("lab: building {what}, once)");
        let unfinished = images.join(".unfinished");
        remove(&unfinished)?;
        paths::ensure(&unfinished)?;
        let built = build(&unfinished);
        if built.is_err() {
            // The chroot holds nothing of interest; what failed is in the error.
            remove(&unfinished.join("root")).ok();
        }
        built?;
        fs::rename(&unfinished, &dir).with_context(|| format!("cannot move the image to {}", dir.display()))?;
        prune(images)?;
    }
    // The time of last use decides what is pruned.
    fs::File::options().append(true).open(dir.join("image.json"))?.set_modified(SystemTime::now())?;
    let text = fs::read_to_string(dir.join("image.json")).context("cannot read the image's description")?;
    let about = serde_json::from_str(&text).context("the image's description is damaged")?;
    Ok(Image { dir, about })
}

/// Removes images of recipes that nobody has used for long.
fn prune(images: &Path) -> Result<()> {
    for dir in fs::read_dir(images).context("cannot list the cache")?.flatten().map(|entry| entry.path()) {
        let used = fs::metadata(dir.join("image.json")).and_then(|about| about.modified());
        if used.is_ok_and(|used| used.elapsed().is_ok_and(|age| age > UNUSED)) {
            remove(&dir)?;
        }
    }
    Ok(())
}

fn build(dir: &Path) -> Result<()> {
    sh::run(
        Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-C", "kup-lab", "-f"]).arg(dir.join("id")),
    )?;
    let about = rootfs::build(dir)?;
    disk::build(dir, &about)?;
    describe(dir, &about)
}

/// Notes what the image in `dir` holds: it is complete.
fn describe(dir: &Path, about: &About) -> Result<()> {
    fs::write(dir.join("image.json"), serde_json::to_vec_pretty(about)?).context("cannot describe the image")
}

/// Everything that the image is made from.
fn recipe() -> impl Iterator<Item = &'static str> {
    files::ALL.iter().flat_map(|file| [file.path, file.text]).chain(rootfs::recipe()).chain(disk::recipe())
}

fn hash(recipe: impl Iterator<Item = &'static str>) -> String {
    let mut hash = Sha256::new();
    for part in recipe {
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

fn remove(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", dir.display()))
        }
        _ => Ok(()),
    }
}
