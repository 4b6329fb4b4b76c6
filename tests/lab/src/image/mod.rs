//! The guest's disk: Debian 13 with GRUB, two kernels and a few stock servers, built once and cached.

mod disk;
mod files;
mod rootfs;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{paths, sh};

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

    /// The installed kernel, outside of the disk.
    pub fn kernel(&self) -> PathBuf {
        self.dir.join("vmlinuz")
    }
}

/// The image of this recipe: from the cache, or built now.
pub fn ensure() -> Result<Image> {
    let images = paths::cache()?.join("images");
    let dir = images.join(recipe_hash());
    paths::ensure(&images)?;
    let lock = fs::File::create(images.join("lock")).context("cannot write to the cache")?;
    lock.lock().context("cannot lock the cache")?;
    if !dir.join("image.json").exists() {
        println!("lab: building the guest's image (a few minutes, once)");
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
        prune(&images)?;
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
    fs::write(dir.join("image.json"), serde_json::to_vec_pretty(&about)?).context("cannot describe the image")
}

/// Changes whenever anything that the image is made from does.
fn recipe_hash() -> String {
    let mut hash = Sha256::new();
    for part in files::ALL.iter().flat_map(|file| [file.path, file.text]).chain(rootfs::recipe()).chain(disk::recipe())
    {
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
